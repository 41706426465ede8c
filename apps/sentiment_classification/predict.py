"""Classify texts with an export.

python -m apps.sentiment_classification.predict saved_models/sentiment_classification "not bad at all"
python -m apps.sentiment_classification.predict saved_models/sentiment_classification --data new.csv --output labelled.csv
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from apps.common import cli
from apps.common.export.saved_model import load_export
from apps.common.prediction import add_file_flags, check_flags, predict_file
from apps.sentiment_classification.evaluate import predict_batches, probabilities
from data_pipelines.sources import DataError


def predictions(served: Any, texts: Sequence[str], all_classes: bool = False) -> list[dict[str, Any]]:
    """For each text its `label`, `probability`, the `unknown` tokens and, if the model has attention, `weights`: pairs of token
    and attention, in order; with `all_classes` also the `probabilities` by class."""
    results: list[dict[str, Any]] = [{}] * len(texts)
    for places, outputs in predict_batches(served, texts, "serving_default"):
        for i, place in enumerate(places):
            tokens = [token.decode("utf-8", "replace") for token in outputs["tokens"][i] if token]
            results[place] = {
                "text": texts[place],
                "label": outputs["label"][i].decode(),
                "probability": float(outputs["probability"][i]),
                "unknown": [t for t, is_unknown in zip(tokens, outputs["unknown"][i]) if is_unknown],
            }
            if "attention" in outputs:
                results[place]["weights"] = [[t, round(float(w), 4)] for t, w in zip(tokens, outputs["attention"][i])]
    if all_classes:
        names, values = probabilities(served, texts)
        for result, row in zip(results, values):
            result["probabilities"] = dict(zip(names, map(float, row)))
    return results


def columns(served: Any, texts: Sequence[str], all_classes: bool = False) -> list[dict[str, Any]]:
    """What a file of predictions gets for each text: `predicted`, `probability`, and with `all_classes` one column a class."""
    names, values = probabilities(served, texts)
    return [
        {
            "predicted": names[row.argmax()],
            "probability": round(float(row.max()), 6),
            **({f"probability_{name}": round(float(p), 6) for name, p in zip(names, row)} if all_classes else {}),
        }
        for row in values
    ]


def explain(served: Any, texts: Sequence[str], words: int = 4) -> list[str]:
    """One line a text: label, probability, the phrases with most attention if the model has it, unknown words, the text."""
    lines = []
    for prediction in predictions(served, texts):
        weights = ""
        if "weights" in prediction:
            heaviest = phrases(prediction["weights"])[:words]
            weights = "  [" + ", ".join(f"{phrase} {weight:.2f}" for phrase, weight in heaviest) + "]"
        unknown = f"  unknown: {', '.join(dict.fromkeys(prediction['unknown']))}" if prediction["unknown"] else ""
        text = prediction["text"] if len(prediction["text"]) <= 80 else prediction["text"][:77] + "..."
        lines.append(f"{prediction['label']}  {prediction['probability']:.3f}{weights}{unknown}  {text}")
    return lines


def phrases(weights: Sequence[Sequence[Any]]) -> list[tuple[str, float]]:
    """Runs of tokens that weigh more than the mean, with what they weigh together; the heaviest first.

    >>> phrases([["it", 0.1], ["was", 0.0], ["very", 0.3], ["good", 0.5], [".", 0.1]])
    [('very good', 0.8)]
    """
    found: list[list[Any]] = []
    open_run = False
    for token, weight in weights:
        heavy = weight >= 1 / len(weights)
        if heavy and open_run:
            found[-1] = [f"{found[-1][0]} {token}", found[-1][1] + weight]
        elif heavy:
            found.append([token, weight])
        open_run = heavy
    return sorted(((phrase, round(weight, 4)) for phrase, weight in found), key=lambda pair: -pair[1])


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.sentiment_classification.predict", allow_abbrev=False)
    parser.add_argument("export", help="a version folder, or the folder above it for the newest version")
    parser.add_argument("input", nargs="*", help="texts; '-' reads standard input, one a line")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--all", action="store_true", help="the probabilities of all classes, in --json and --output")
    add_file_flags(parser)
    arguments = parser.parse_intermixed_args()
    check_flags(arguments, parser)
    if arguments.all and not (arguments.json or arguments.data):
        raise DataError("--all: goes with --json or --data. Pass one of them, too.")
    served = load_export(arguments.export, "sentiment_classification")
    if arguments.data:
        predict_file(arguments, lambda texts: columns(served, texts, arguments.all))
        return
    texts = cli.read_inputs(arguments.input)
    if arguments.json:
        for prediction in predictions(served, texts, arguments.all):
            print(json.dumps(prediction, ensure_ascii=False))
    else:
        for line in explain(served, texts):
            print(line)


if __name__ == "__main__":
    cli.run(main)
