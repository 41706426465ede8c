"""Metrics of an exported model of piano rolls: the likelihood of real pieces."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from data_pipelines.piano_rolls import Rolls


def evaluate(served: Any, rolls: Rolls, splits: Sequence[str]) -> dict[str, dict[str, float]]:
    """Metrics by split."""
    return {split: {"nll_per_frame": nll_per_frame(served, rolls.splits[split])} for split in splits}


def nll_per_frame(served: Any, pieces: Sequence[np.ndarray]) -> float:
    """In nats."""
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
