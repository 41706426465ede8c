"""Measure an exported model of music.

    python -m apps.music_generation.evaluate saved_models/music_generation --data tunes.abc

Tunes: bits per character, beside an order-n character model counted on the training split; and of tunes that the export writes,
what `apps.music_generation.judge` says. Piano rolls: nats a frame. The last line is one JSON object.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from apps.common import cli
from apps.common.evaluation import SPLIT_HELP, choose_split, warn_of_training_rows
from apps.common.export import load_export
from apps.music_generation.judge import Copies, tune_metrics
from apps.music_generation.ngram import NgramModel, best_order
from data_pipelines.abc import Tune
from data_pipelines.files import write_whole
from data_pipelines.piano_rolls import Rolls, load_rolls
from data_pipelines.tunes import Tunes, load_tunes

LONGEST_ORDER = 10  # of the character model that is counted beside


def writes_tunes(served: Any) -> bool:
    """Is the export a model of tunes?"""
    return "constrained" in served.signatures


def tune_likelihood(served: Any, tunes: Sequence[Tune]) -> float:
    """Bits per character."""
    texts = sorted((tune.text for tune in tunes), key=len)
    bits = characters = 0.0
    for start in range(0, len(texts), 32):
        outputs = served.signatures["score"](text=tf.constant(texts[start : start + 32]))
        bits, characters = bits + float(np.sum(outputs["bits"])), characters + float(np.sum(outputs["characters"]))
    return bits / characters


def roll_likelihood(served: Any, pieces: Sequence[np.ndarray]) -> float:
    """Nats a frame."""
    nats = 0.0
    ordered = sorted(pieces, key=len)
    for start in range(0, len(ordered), 16):
        part = ordered[start : start + 16]
        frames = np.zeros((len(part), max(map(len, part)), part[0].shape[1]), np.uint8)
        for row, piece in zip(frames, part):
            row[: len(piece)] = piece
        lengths = np.array(list(map(len, part)), np.int32)
        nats += float(np.sum(served.signatures["score"](frames=tf.constant(frames), lengths=tf.constant(lengths))["nats"]))
    return nats / sum(map(len, pieces))


def draw_tunes(
    served: Any, count: int, temperature: float, top_p: float, seed: int, length: int, constrained: bool, prompt: str = ""
) -> list[str]:
    """Tunes that the export writes."""
    signature = served.signatures["constrained" if constrained else "serving_default"]
    texts: list[str] = []
    for start in range(0, count, 100):
        rows = min(100, count - start)
        outputs = signature(
            prompt=tf.constant([prompt] * rows),
            length=tf.constant(length),
            temperature=tf.constant(temperature),
            top_p=tf.constant(top_p),
            seed=tf.constant(range(seed + start, seed + start + rows)),
        )
        texts += [text.decode("utf-8", "replace") for text in outputs["abc"].numpy()]
    return texts


def evaluate(
    served: Any,
    music: Tunes | Rolls,
    splits: Sequence[str],
    num_samples: int,
    temperature: float,
    top_p: float,
    length: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Metrics by split; and for tunes of what is written `free` and `constrained`."""
    metrics: dict[str, dict[str, float]] = {}
    counted: NgramModel | None = None
    for split in splits:
        if isinstance(music, Rolls):
            metrics[split] = {"nats_per_frame": roll_likelihood(served, music.splits[split])}
            continue
        metrics[split] = {"bits_per_character": (bits := tune_likelihood(served, music.splits[split]))}
        if "train" in music.splits and split != "train":
            counted = counted or NgramModel([tune.text for tune in music.splits["train"]], LONGEST_ORDER)
            order, simple = best_order(counted, [tune.text for tune in music.splits[split]])
            metrics[split] |= {f"bits_of_order_{order}": simple, "below_that": 1 - bits / simple}
    if isinstance(music, Tunes) and num_samples:
        copies = Copies(music.splits["train"]) if "train" in music.splits else None
        for name, constrained in (("free", False), ("constrained", True)):
            print(f"writing and judging {num_samples} tunes, {name.replace('_', ' ')}", flush=True)
            texts = draw_tunes(served, num_samples, temperature, top_p, seed, length, constrained)
            metrics[name] = tune_metrics(texts, copies)
    return metrics


def print_metrics(metrics: dict[str, dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    rows = [[name, *(values.get(name, "") for values in metrics.values())] for name in names]
    print("\n" + cli.table(rows, ["metric", *metrics]))


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.music_generation.evaluate", allow_abbrev=False)
    parser.add_argument("export", help="a version folder, or the folder above it for the newest version")
    parser.add_argument("--data", required=True, help="as for training")
    parser.add_argument("--validation-tunes", help="as for training")
    parser.add_argument("--frame-beats", type=cli.number(float, "(0, inf)"), default=0.25, help="as for training")
    parser.add_argument("--seed", type=int, default=0, help="of what is written")
    parser.add_argument("--split", default=None, help=SPLIT_HELP)
    parser.add_argument("--num-samples", type=cli.number(int, "[0, inf)"), default=200, help="tunes to write and judge; 0: none")
    parser.add_argument("--temperature", type=cli.number(float, "[0, 1000]"), default=0.8)
    parser.add_argument("--top-p", type=cli.number(float, "(0, 1]"), default=0.95)
    parser.add_argument("--length", type=cli.number(int, "[1, inf)"), default=800, help="tokens of a tune, at most")
    arguments = parser.parse_args()
    served = load_export(arguments.export, "music_generation")
    places = arguments.validation_tunes

    def load(whole: bool) -> Tunes | Rolls:
        if writes_tunes(served):
            return load_tunes(arguments.data, places, whole and places is None)
        return load_rolls(arguments.data, arguments.frame_beats, whole)

    music, split = choose_split(load, arguments.data, arguments.split)
    warn_of_training_rows(arguments.export, music.rows(split), split)
    drawing = {name: getattr(arguments, name) for name in ("num_samples", "temperature", "top_p", "length", "seed")}
    metrics = evaluate(served, music, [split], **drawing)
    print_metrics(metrics)
    print(cli.as_json({"split": split, **metrics.pop(split), **metrics}))


def report(served: Any, music: Tunes | Rolls, folder: Path, **drawing: Any) -> dict[str, dict[str, float]]:
    """Measure, print, and write `metrics.json`."""
    metrics = evaluate(served, music, [split for split in music.splits if split != "train"], **drawing)
    print_metrics(metrics)
    write_whole(folder / "metrics.json", cli.as_json(metrics))
    return metrics


if __name__ == "__main__":
    cli.run(main)
