"""What the first training step of a layer costs: time until it is compiled and done, and the memory it needs.

    python -m benchmarks.first_step [--save benchmarks/results/first_step]

Each candidate runs in a process of its own: it imports everything, multiplies two matrices, and then takes steps as
`benchmarks.layers` does. Memory is the peak of the process over what it held before the first step. Keras and ours as a plain
graph and under XLA; the better one counts, for time and for memory apart.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from benchmarks import memory
from benchmarks.saving import save

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SHAPES = [(32, 100, 128, 128), (64, 200, 256, 512)]
CELLS = ("SimpleRNN", "GatedRNN", "GRU", "LSTM")


def measure_here(name: str, who: str, xla: bool, shape: tuple[int, ...]) -> dict[str, float]:
    """Take three steps in this process."""
    import numpy as np
    import tensorflow as tf

    import layers
    from benchmarks.layers import keras_counterpart, tensorflow_candidate

    batch, time_steps, features, units = shape
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(batch, time_steps, features)), tf.float32)
    d_y = tf.constant(rng.normal(size=(batch, time_steps, units)), tf.float32)
    tf.matmul(tf.ones((512, 512)), tf.ones((512, 512))).numpy()
    layer = getattr(layers, name)(units, return_sequences=True) if who == "ours" else keras_counterpart(name, units)
    layer.build(x.shape)
    before = memory.reset_peak()
    begun = time.perf_counter()
    step = tensorflow_candidate(layer, x, d_y, None, True, xla)
    step()[0].numpy()
    first = time.perf_counter() - begun
    for _ in range(2):
        step()[0].numpy()
    return {"first_s": first, "megabytes": memory.peak() - before}


def measure(name: str, who: str, xla: bool, shape: tuple[int, ...]) -> dict[str, float]:
    line = [sys.executable, "-m", "benchmarks.first_step", "--here", json.dumps([name, who, xla, shape])]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def report(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| layer | shape | first step, s: ours | Keras | Keras over ours | memory, MB: ours | Keras | ours over Keras |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        best = {
            who: {k: min(row[f"{who} {xla}"][k] for xla in (False, True)) for k in ("first_s", "megabytes")}
            for who in ("ours", "keras")
        }
        ours, theirs = best["ours"], best["keras"]
        lines.append(
            f"| {row['layer']} | {', '.join(map(str, row['shape']))} | {ours['first_s']:.2f} | {theirs['first_s']:.2f} | "
            f"{theirs['first_s'] / ours['first_s']:.2f} | {ours['megabytes']:.0f} | {theirs['megabytes']:.0f} | "
            f"{ours['megabytes'] / max(1.0, theirs['megabytes']):.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.first_step", allow_abbrev=False)
    parser.add_argument("--here", help=argparse.SUPPRESS)
    parser.add_argument("--save", default="benchmarks/results/first_step", help="writes .json and .md")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure_here(*json.loads(arguments.here))))
        return
    rows = []
    for name in CELLS:
        for shape in SHAPES:
            row: dict[str, Any] = {"layer": name, "shape": shape}
            for who in ("ours", "keras"):
                for xla in (False, True):
                    row[f"{who} {xla}"] = measure(name, who, xla, shape)
            rows.append(row)
            print(json.dumps(row), flush=True)
    text = report(rows)
    save(arguments.save, text, rows)


if __name__ == "__main__":
    main()
