"""Classify texts with an export.

python -m apps.sentiment_classification.predict saved_models/sentiment_classification "not bad at all"
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from apps.common import cli
from apps.common.export import load_export

BATCH_SIZE = 64


def predictions(served: Any, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """For each text its `label`, `probability` and `weights`: pairs of token and attention, in order."""
    for start in range(0, len(texts), BATCH_SIZE):
        batch = list(texts[start : start + BATCH_SIZE])
        outputs = {k: v.numpy() for k, v in served.signatures["serving_default"](text=tf.constant(batch)).items()}
        for i, text in enumerate(batch):
            tokens = [token.decode("utf-8", "replace") for token in outputs["tokens"][i] if token]
            yield {
                "text": text,
                "label": outputs["label"][i].decode(),
                "probability": float(outputs["probability"][i]),
                "weights": [[t, round(float(w), 4)] for t, w in zip(tokens, outputs["attention"][i])],
            }


def explain(served: Any, texts: Sequence[str], words: int = 4) -> list[str]:
    """One line a text: label, probability, the words that weighed most, the text."""
    lines = []
    for prediction in predictions(served, texts):
        top = sorted(prediction["weights"], key=lambda pair: -pair[1])[:words]
        weights = ", ".join(f"{token} {weight:.2f}" for token, weight in top)
        text = prediction["text"] if len(prediction["text"]) <= 80 else prediction["text"][:77] + "..."
        lines.append(f"{prediction['label']}  {prediction['probability']:.3f}  [{weights}]  {text}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.sentiment_classification.predict", allow_abbrev=False)
    parser.add_argument("export", help="a version folder, or the folder above it for the newest version")
    parser.add_argument("input", nargs="+", help="texts; '-' reads standard input, one a line")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    served = load_export(arguments.export)
    texts = cli.read_inputs(arguments.input)
    if arguments.json:
        for prediction in predictions(served, texts):
            print(json.dumps(prediction, ensure_ascii=False))
    else:
        print("\n".join(explain(served, texts)))


if __name__ == "__main__":
    cli.run(main)
