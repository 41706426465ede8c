"""Translate sentences with an export.

python -m apps.translation.predict saved_models/translation "A dog runs." [--n-best 3] [--attention out.png]
python -m apps.translation.predict saved_models/translation --data english.csv --output german.csv
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from apps.common import cli
from apps.common.export.saved_model import load_export
from apps.common.prediction import PLOTS, add_file_flags, check_flags, check_output, predict_file
from apps.common.training.plots import new_figure, save_figure
from apps.translation.evaluate import predict_batches
from data_pipelines.sources import DataError

LARGEST_PLOT = 120  # tokens of each side; of longer texts the beginning is shown


def predictions(served: Any, sentences: Sequence[str], n_best: int = 1, progress: bool = False) -> list[dict[str, Any]]:
    """For each sentence its `translation`, `score`, the `n_best` `alternatives` with their scores, best first, and the
    `unknown` words."""
    results: list[dict[str, Any]] = [{}] * len(sentences)
    for places, outputs in predict_batches(served, sentences, progress):
        for row, place in enumerate(places):
            alternatives = [
                {"translation": text, "score": round(score, 4)}
                for text, score in scored_alternatives(outputs["alternatives"][row], outputs["alternative_scores"][row])
            ]
            results[place] = {"text": sentences[place], **alternatives[0], "alternatives": alternatives[:n_best]}
            results[place]["unknown"] = unknown_words(outputs["source_tokens"][row], outputs["unknown"][row])
    return results


def columns(served: Any, sentences: Sequence[str]) -> list[dict[str, Any]]:
    """What a file of predictions gets for each sentence: `translation` and `score`."""
    return [{name: result[name] for name in ("translation", "score")} for result in predictions(served, sentences)]


def unknown_words(tokens: Sequence[bytes], unknown: Sequence[bool]) -> list[str]:
    """The words that the model has never seen: unknown tokens that follow each other, up to the next word."""
    pieces = [token.decode("utf-8", "replace") if new else "▁" for token, new in zip(tokens, unknown)]
    groups = "".join(pieces).replace("▁", " ").split()
    words = [re.sub(r"^\W+(?=\w)|(?<=\w)\W+$", "", group) for group in groups]
    return list(dict.fromkeys(words))


def scored_alternatives(texts: Sequence[bytes], scores: Sequence[float]) -> list[tuple[str, float]]:
    """The translations of a sentence with their scores; a search may find fewer than it was asked for."""
    return [(text.decode("utf-8", "replace"), float(score)) for text, score in zip(texts, scores) if score > -1e8]


def attention_of(outputs: dict[str, Any]) -> tuple[list[str], list[str], np.ndarray]:
    """The tokens of a source and of its translation, and the attention of these to those, from the outputs for one text."""
    source, target = (
        [token.decode("utf-8", "replace").replace("▁", " ") for token in outputs[f"{side}_tokens"] if token][:LARGEST_PLOT]
        for side in ("source", "target")
    )
    return source, target, outputs["attention"][: len(target), : len(source)]


def explain(served: Any, sentences: Sequence[str]) -> list[str]:
    """Two lines a sentence: the source, the translation with its score."""
    lines = []
    for prediction in predictions(served, sentences):
        unknown = f"  unknown: {', '.join(prediction['unknown'])}" if prediction["unknown"] else ""
        lines += [f"  {prediction['text']}", f"> {prediction['translation']}  ({prediction['score']:.2f}){unknown}"]
    return lines


def plot_attention(served: Any, sentence: str, path: Path) -> bool:
    """Plot the attention of each target token to each source token; False if there is none."""
    outputs = {k: v.numpy()[0] for k, v in served.signatures["serving_default"](text=tf.constant([sentence])).items()}
    source, target, weights = attention_of(outputs)
    if not weights.size:
        return False
    figure, axis = new_figure(1, 1, width=1.5 + 0.32 * len(source), height=1.5 + 0.28 * len(target))
    image = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(np.arange(len(source)), source, rotation=60, ha="right")
    axis.set_yticks(np.arange(len(target)), target)
    axis.set(xlabel="source", ylabel="translation")
    figure.colorbar(image, label="attention")
    save_figure(figure, path)
    return True


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.translation.predict", allow_abbrev=False)
    parser.add_argument("export", help="a version folder, or the folder above it for the newest version")
    parser.add_argument("input", nargs="*", help="sentences; '-' reads standard input, one a line")
    parser.add_argument("--n-best", type=int, default=1, help="translations a sentence, at most the beam size of the export")
    parser.add_argument("--attention", type=Path, help="plot the attention of the first sentence to this .png")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    add_file_flags(parser)
    arguments = parser.parse_intermixed_args()
    check_flags(arguments, parser, ("n_best", "attention", "json"))
    if arguments.n_best < 1:
        raise DataError(f"--n-best is {arguments.n_best}; expected 1 or more.")
    if arguments.attention:
        check_output("--attention", arguments.attention, overwrite=True, formats=PLOTS)
    served = load_export(arguments.export, "translation")
    if arguments.data:
        predict_file(arguments, lambda texts: columns(served, texts))
        return
    sentences = cli.read_inputs(arguments.input)
    results = predictions(served, sentences, arguments.n_best, progress=sys.stderr.isatty() and len(sentences) > 32)
    for number, result in enumerate(results, start=1):
        if arguments.json:
            print(json.dumps(result, ensure_ascii=False))
        elif arguments.n_best == 1:
            print(result["translation"])
        else:
            print("\n".join(f"{a['score']:8.3f}  {a['translation']}" for a in result["alternatives"]) + "\n")
        if result["unknown"] and not arguments.json:
            where = f"text {number}: " if len(results) > 1 else ""
            print(f"{where}unknown to the model: {', '.join(result['unknown'])}", file=sys.stderr)
    if arguments.attention and sentences and not plot_attention(served, sentences[0], arguments.attention):
        raise DataError(f"attention: none for {sentences[0]!r}. Give a sentence with words, and a model with attention.")


if __name__ == "__main__":
    cli.run(main)
