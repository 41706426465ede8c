"""Metrics of an exported model of piano rolls: the likelihood of real pieces."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from apps.music_generation.rolls.serving import FRAMES_LIMIT, LARGEST_REQUEST
from data_pipelines.piano_rolls import Rolls
from data_pipelines.sources import DataError


def evaluate(served: Any, rolls: Rolls, splits: Sequence[str]) -> dict[str, dict[str, float]]:
    """Metrics by split.

    Raises:
        DataError: a piece is too long to be scored.
    """
    check_lengths(rolls, splits)
    return {split: {"nll_per_frame": nll_per_frame(served, rolls.splits[split])} for split in splits}


def check_lengths(rolls: Rolls, splits: Sequence[str]) -> None:
    """Refuse pieces that an export can't score; training does so before it begins.

    Raises:
        DataError: there is one.
    """
    for split in splits:
        longest = max(map(len, rolls.splits[split]))
        if longest > FRAMES_LIMIT:
            raise DataError(
                f"the {split} split has a piece of {longest:,} frames; expected at most {FRAMES_LIMIT:,}. Cut it in parts."
            )


def nll_per_frame(served: Any, pieces: Sequence[np.ndarray]) -> float:
    """In nats."""
    nats = 0.0
    ordered = sorted(pieces, key=len)  # pieces of one length pad least
    while ordered:
        rows = min(16, max(1, LARGEST_REQUEST // max(1, len(ordered[-1]))))  # of those that are left, the longest
        part, ordered = ordered[-rows:], ordered[:-rows]
        frames = np.zeros((len(part), max(map(len, part)), part[0].shape[1]), np.uint8)
        for row, piece in zip(frames, part):
            row[: len(piece)] = piece
        lengths = np.array(list(map(len, part)), np.int32)
        nats += float(np.sum(served.signatures["score"](frames=tf.constant(frames), lengths=tf.constant(lengths))["nats"]))
    return nats / sum(map(len, pieces))
