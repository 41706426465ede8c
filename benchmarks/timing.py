"""Timing side by side: candidates take turns in random order, medians count."""

import math
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras


def milliseconds(candidates: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Medians of calls that take turns."""
    for function in candidates.values():
        for _ in range(3):
            function()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    generator = random.Random(0)
    for _ in range(repeats):
        order = list(candidates)
        generator.shuffle(order)  # PyTorch's threads keep spinning for a while: no candidate shall always come after them
        for name in order:
            start = time.perf_counter()
            result = keras.tree.flatten(candidates[name]())[0]
            if hasattr(result, "numpy"):
                result.numpy()  # wait for it
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def sgemm_gflops(size: int = 2048) -> float:
    import tensorflow as tf

    a = tf.random.normal((size, size))
    best = min(milliseconds({"sgemm": lambda: tf.matmul(a, a)}, 9).values())
    return 2 * size**3 / best / 1e6


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
