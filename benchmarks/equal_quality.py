"""Seconds of training until a language model of tunes reaches a given validation loss: a fast layer that learns less is no gain.

    python -m benchmarks.equal_quality [--target 1.55] [--steps 800] [--save benchmarks/results/equal_quality]

Characters of the embedded tunes, windows of 128, batches of 32; embedding, one to three levels of 128 units, softmax; Adam, the
same batches in the same order for all. The candidates take turns, ten steps each, so that a slow moment hits all of them. The
loss, in nats per character, is that of 16,384 characters of the validation tunes, every 25 steps. Seconds are steps times the
median of a step: first calls, which compile, and validation are left out. Keras' layers run as a plain graph, faster than
XLA at this shape (`benchmarks.layers`).
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import layers
from benchmarks.saving import save
from data_pipelines.tunes import load_tunes

LENGTH, BATCH, UNITS, TURN, INTERVAL = 128, 32, 128, 10, 25
CANDIDATES = [
    *((name, 1) for name in ("Keras LSTM", "Keras GRU", "LSTM", "GRU")),
    *((name, levels) for name in ("MinGRU", "SSRU", "QRNN", "SRU") for levels in (1, 2, 3)),
]


def windows() -> tuple[np.ndarray, np.ndarray, int]:
    """(windows, LENGTH + 1) character numbers of both splits, and how many characters there are."""
    tunes = load_tunes("embedded")
    texts = ["\n\n".join(text for (text,) in tunes.rows(split)) for split in ("train", "validation")]
    numbers = {character: i for i, character in enumerate(sorted(set(texts[0] + texts[1])))}
    train, validation = (np.array([numbers[c] for c in text], np.int32) for text in texts)
    cut = [ids[: len(ids) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1) for ids in (train, validation)]
    return cut[0], cut[1][: 16_384 // LENGTH], len(numbers)


class Candidate:
    def __init__(self, name: str, levels: int, characters: int) -> None:
        keras.utils.set_random_seed(0)
        library = keras.layers if name.startswith("Keras") else layers
        make = getattr(library, name.split()[-1])
        recurrent = [make(UNITS, return_sequences=True) for _ in range(levels)]
        self.model = keras.Sequential([keras.layers.Embedding(characters, 64), *recurrent, keras.layers.Dense(characters)])
        self.model.build((BATCH, LENGTH))
        self.optimizer = keras.optimizers.Adam(3e-3, clipnorm=1.0)
        self.optimizer.build(self.model.trainable_variables)
        self.title, self.levels, self.ms, self.losses = name, levels, [], []
        self.step = tf.function(self._step, autograph=False)
        self.loss = tf.function(self._loss, autograph=False)
        self.reached: int | None = None

    def _loss(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        scores = self.model(ids[:, :-1], training=training)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(ids[:, 1:], scores))

    def _step(self, ids: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._loss(ids, training=True)
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    def turn(self, batches: list[np.ndarray], validation: tf.Tensor, target: float) -> None:
        for batch in batches:
            start = time.perf_counter()
            self.step(tf.constant(batch)).numpy()
            self.ms.append((time.perf_counter() - start) * 1e3)
            if len(self.ms) % INTERVAL == 0:
                self.losses.append(float(self.loss(validation)))
                if self.losses[-1] <= target:
                    self.reached = len(self.ms)
                    return

    def row(self) -> dict[str, Any]:
        ms = statistics.median(self.ms)
        seconds = None if self.reached is None else self.reached * ms / 1e3
        return {
            "layer": self.title,
            "levels": self.levels,
            "parameters": self.model.count_params(),
            "ms": ms,
            "steps": self.reached,
            "seconds": seconds,
            "losses": self.losses,
        }


def batches(train: np.ndarray) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    while True:
        order = generator.permutation(len(train))
        yield from (train[order[i : i + BATCH]] for i in range(0, len(order) - BATCH + 1, BATCH))


def report(rows: list[dict[str, Any]], target: float) -> str:
    base = next(row["seconds"] for row in rows if row["layer"] == "Keras LSTM")
    lines = [
        f"{os.cpu_count()} cores, load {os.getloadavg()[1]:.0f}; until {target} nats per character",
        "",
        "| layer | levels | parameters | ms a step | steps | seconds | times as fast as Keras' LSTM |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        end = f"| | at {min(row['losses']):.2f} | |"
        if row["steps"]:
            ratio = f"{base / row['seconds']:.1f}" if base else ""
            end = f"| {row['steps']} | {row['seconds']:.1f} | {ratio} |"
        lines.append(f"| {row['layer']} | {row['levels']} | {row['parameters']:,} | {row['ms']:.1f} {end}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.equal_quality", allow_abbrev=False)
    parser.add_argument("--target", type=float, default=1.55, help="nats per character")
    parser.add_argument("--steps", type=int, default=800, help="at most")
    parser.add_argument("--save", default="benchmarks/results/equal_quality", help="writes .json and .md")
    arguments = parser.parse_args()
    train, validation, characters = windows()
    candidates = [Candidate(*one, characters) for one in CANDIDATES]
    stream, whole = batches(train), tf.constant(validation)
    for done in range(0, arguments.steps, TURN):
        turn = [next(stream) for _ in range(TURN)]
        for candidate in candidates:
            if candidate.reached is None:
                candidate.turn(turn, whole, arguments.target)
        print(done, {f"{c.title} {c.levels}": round(c.losses[-1], 3) for c in candidates if c.losses}, flush=True)
    rows = [candidate.row() for candidate in candidates]
    save(arguments.save, report(rows, arguments.target), rows)


if __name__ == "__main__":
    main()
