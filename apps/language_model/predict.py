"""Complete texts with an export, or tell how probable their words are.

python -m apps.language_model.predict saved_models/language_model "The film was"
python -m apps.language_model.predict saved_models/language_model --score "The film was a delight."
python -m apps.language_model.predict saved_models/language_model --next 5 "The film was"
"""

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from apps.common import cli
from apps.common.export.saved_model import load_export
from apps.language_model.serving import LARGEST_REQUEST, LEAST_ROW


def predictions(
    served: Any,
    prompts: Sequence[str],
    max_new_tokens: int = 40,
    temperature: float = 0.8,
    top_p: float = 0.95,
    top_k: int = 0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """For each prompt its `text` with the `completion`, and whether that is `finished` or was cut off."""
    longest = max((len(prompt.encode("utf-8", "replace")) for prompt in prompts), default=0)  # a token has a byte or more
    rows, found = max(1, LARGEST_REQUEST // max(LEAST_ROW, longest + 1 + max_new_tokens)), []
    for start in range(0, len(prompts), rows):
        part = prompts[start : start + rows]
        outputs = served.signatures["serving_default"](
            prompt=tf.constant(list(part), tf.string),
            max_new_tokens=tf.constant(max_new_tokens),
            temperature=tf.constant(temperature, tf.float32),
            top_p=tf.constant(top_p, tf.float32),
            top_k=tf.constant(top_k),
            seed=tf.constant(range(seed + start, seed + start + len(part)), tf.int32),
        )
        columns = (outputs[name].numpy() for name in ("text", "completion", "finished"))
        found += [
            {
                "prompt": prompt,
                "text": text.decode("utf-8", "replace"),
                "completion": completion.decode("utf-8", "replace"),
                "finished": bool(finished),
            }
            for prompt, text, completion, finished in zip(part, *columns)
        ]
    return found


def score(served: Any, text: str) -> list[tuple[str, float]]:
    """Each token of a text with its information in bits; "" is the end."""
    outputs = {name: value.numpy()[0] for name, value in served.signatures["score"](text=tf.constant([text])).items()}
    pairs = zip(outputs["tokens"], outputs["log_probabilities"])
    return [(token.decode("utf-8", "replace"), -float(value) / math.log(2)) for token, value in pairs]


def next_tokens(served: Any, prompt: str, count: int) -> list[tuple[str, float]]:
    """The most probable next tokens with their probabilities; "" is the end of the text."""
    outputs = served.signatures["next_tokens"](prompt=tf.constant([prompt]), count=tf.constant(count))
    pairs = zip(outputs["tokens"][0].numpy(), outputs["probabilities"][0].numpy())
    return [(token.decode("utf-8", "replace"), float(value)) for token, value in pairs]


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.language_model.predict", allow_abbrev=False)
    parser.add_argument("export", help="a version folder, or the folder above it for the newest version")
    parser.add_argument("input", nargs="*", default=[""], help="texts to be completed; '-' reads standard input, one a line")
    parser.add_argument("--max-new-tokens", type=cli.number_type(int, "[0, inf)"), default=40)
    parser.add_argument("--temperature", type=cli.number_type(float, "[0, inf)"), default=0.8, help="0: the most probable token")
    parser.add_argument("--top-p", type=cli.number_type(float, "(0, 1]"), default=0.95, help="sample from the nucleus")
    parser.add_argument("--top-k", type=cli.number_type(int, "[0, inf)"), default=0, help="sample from so many tokens; 0: all")
    parser.add_argument("--seed", type=cli.number_type(int, "[0, 2147483647]"), default=0)
    parser.add_argument("--score", action="store_true", help="the information of each token, in bits, instead")
    parser.add_argument(
        "--next", type=cli.number_type(int, "[1, inf)"), metavar="N", help="the N most probable next tokens instead"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_intermixed_args()  # inputs may follow flags
    served = load_export(arguments.export, "language_model")
    texts = cli.read_inputs(arguments.input)
    if arguments.score or arguments.next:
        name = "bits" if arguments.score else "probability"
        for text in texts:
            pairs = score(served, text) if arguments.score else next_tokens(served, text, arguments.next)
            if arguments.json:
                print(json.dumps({"text": text, "tokens": [{"token": t, name: v} for t, v in pairs]}, ensure_ascii=False))
            else:
                print("\n".join(f"{value:8.3f}  {token or '(end)'}" for token, value in pairs))
        return
    options = (arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.top_k, arguments.seed)
    for prediction in predictions(served, texts, *options):
        print(json.dumps(prediction, ensure_ascii=False) if arguments.json else prediction["text"])


if __name__ == "__main__":
    cli.run(main)
