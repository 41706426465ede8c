"""Metrics of an exported model of tunes: the likelihood of real tunes, and the quality of generated ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from apps.common.cli import refusal
from apps.common.ngram import NgramModel, best_order
from apps.music_generation.shared import seeds_from
from apps.music_generation.tunes.judge import Copies, form, tune_metrics
from apps.music_generation.tunes.serving import LARGEST_REQUEST
from data_pipelines.abc import Tune
from data_pipelines.sources import DataError
from data_pipelines.tunes import Tunes

LONGEST_HEADER = 100  # characters
LONGEST_ORDER = 10  # of the character model to compare with


def evaluate(
    served: Any,
    tunes: Tunes,
    splits: Sequence[str],
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Metrics by split; and of sampled tunes, `unconstrained` and `constrained`."""
    metrics: dict[str, dict[str, float]] = {}
    counted: NgramModel | None = None
    alphabet = sorted({character for tune in tunes.splits.get("train", []) for character in tune.text})
    for split in splits:
        bits = bits_per_character(served, tunes.splits[split])
        metrics[split] = {"bits_per_character": bits, **form(tunes.splits[split])}
        if "train" in tunes.splits and split != "train":
            counted = counted or NgramModel(character_ids(tunes.splits["train"], alphabet), LONGEST_ORDER, len(alphabet) + 2)
            order, ngram = best_order(counted, character_ids(tunes.splits[split], alphabet))
            metrics[split] |= {"ngram_bits_per_character": ngram, "ngram_order": order, "gain_over_ngram": 1 - bits / ngram}
    if num_samples:
        copies = Copies(tunes.splits["train"]) if "train" in tunes.splits else None
        for name, constrained in (("unconstrained", False), ("constrained", True)):
            print(f"sampling and judging {num_samples} tunes, {name}", flush=True)
            texts = sample_tunes(served, num_samples, max_new_tokens, temperature, top_p, seed, constrained)
            metrics[name] = tune_metrics(texts, copies)
    return metrics


def character_ids(tunes: Sequence[Tune], alphabet: Sequence[str]) -> list[np.ndarray]:
    """The characters of each tune as numbers from 2: 0 is its end, 1 a character that is not in the alphabet."""
    numbers = {character: number for number, character in enumerate(alphabet, start=2)}
    return [np.array([*(numbers.get(character, 1) for character in tune.text), 0]) for tune in tunes]


def bits_per_character(served: Any, tunes: Sequence[Tune]) -> float:
    texts = sorted((tune.text for tune in tunes), key=len)
    bits = characters = 0.0
    most = max(1, min(32, LARGEST_REQUEST // (len(texts[-1]) + 2)))
    for start in range(0, len(texts), most):
        outputs = served.signatures["score"](text=tf.constant(texts[start : start + most]))
        bits, characters = bits + float(np.sum(outputs["bits"])), characters + float(np.sum(outputs["characters"]))
    return bits / characters


def sample_tunes(
    served: Any,
    count: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    constrained: bool,
    prompt: str = "",
) -> list[str]:
    """Tunes that the export generates, in ABC notation.

    Raises:
        DataError: the export refuses the prompt.
    """
    signature = served.signatures["constrained" if constrained else "serving_default"]
    texts: list[str] = []
    most = max(1, min(100, LARGEST_REQUEST // (max_new_tokens + len(prompt) + LONGEST_HEADER)))
    for start in range(0, count, most):
        rows = min(most, count - start)
        try:
            outputs = signature(
                prompt=tf.constant([prompt] * rows),
                max_new_tokens=tf.constant(max_new_tokens),
                temperature=tf.constant(temperature, tf.float32),
                top_p=tf.constant(top_p, tf.float32),
                seed=tf.constant(seeds_from(seed + start, rows)),
            )
        except tf.errors.InvalidArgumentError as error:
            if message := refusal(error):
                raise DataError(message) from None
            raise
        texts += [text.decode("utf-8", "replace") for text in outputs["abc"].numpy()]
    return texts
