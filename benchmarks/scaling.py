"""How the cost of a training step grows: with time steps, with units, and with the vocabulary; a picture.

    python -m benchmarks.scaling [--repeats 7] [--save benchmarks/results/scaling] [--picture benchmarks/scaling.png]

An LSTM, batch 32: (32, time, 128, 128) over the time steps and (32, 50, units, units) over the units, against `keras.layers`
as a graph and under XLA, the better one. The translator of `apps.translation` (units 256) on 64 pairs of 20 tokens over the
vocabulary: with the exact softmax, with a sampled one, and the same network of `keras.layers`.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import layers
from apps.common.training.losses import TokenLoss
from apps.common.training.plots import new_figure, save_figure
from apps.translation.model import Translator
from benchmarks import keras_networks
from benchmarks.layers import tensorflow_candidate
from benchmarks.saving import save
from benchmarks.timing import milliseconds

TIMES = [50, 100, 200, 400, 800, 1600]
UNITS = [64, 128, 256, 512, 1024]
VOCABULARIES = [2_000, 5_000, 10_000, 20_000, 50_000]
SAMPLED = 2_048
COLOURS = {"ours": "C0", "keras.layers": "C1", "ours, sampled": "C2"}


def recurrence(shape: tuple[int, ...], repeats: int) -> dict[str, float]:
    batch, time, features, units = shape
    x, d_y = tf.random.normal((batch, time, features)), tf.random.normal((batch, time, units))
    candidates = {"ours": tensorflow_candidate(layers.LSTM(units, return_sequences=True), x, d_y, None, True, False)}
    theirs = keras.layers.LSTM(units, return_sequences=True)
    candidates |= {f"keras {xla}": tensorflow_candidate(theirs, x, d_y, None, True, xla) for xla in (False, True)}
    ms = milliseconds(candidates, repeats)
    return {"ours": ms["ours"], "keras.layers": min(ms["keras False"], ms["keras True"])}


def translation(vocabulary: int, repeats: int) -> dict[str, float]:
    ids = np.random.default_rng(0).integers(4, vocabulary, (64, 20)).astype("int32")
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    models = {
        "ours": (Translator(vocabulary, vocabulary), TokenLoss()),
        "ours, sampled": (Translator(vocabulary, vocabulary, sampled_softmax=SAMPLED), TokenLoss()),
        "keras.layers": (keras_networks.translator(vocabulary, 256, 256, 0.0), keras_loss),
    }

    def step(model: keras.Model) -> Callable[[], Any]:
        return lambda: [np.float32(model.train_on_batch({"source": ids, "target": ids}, ids))]

    for model, loss in models.values():
        model.compile(keras.optimizers.Adam(), loss, jit_compile=False)
    return milliseconds({name: step(model) for name, (model, _) in models.items()}, repeats)


def plot(found: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    from matplotlib import ticker

    figure, axes = new_figure(1, len(found), width=4.2, height=3.6)
    for axis, (name, rows) in zip(axes.ravel(), found.items()):
        for who in next(iter(rows.values())):
            axis.plot(list(rows), [row[who] for row in rows.values()], marker="o", label=who, color=COLOURS[who])
        axis.set(xscale="log", yscale="log", xlabel=name, ylabel="ms a training step")
        axis.set_xticks(list(rows), [f"{size:,}" for size in rows])
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend()
    save_figure(figure, path)


def report(found: dict[str, dict[int, dict[str, float]]]) -> str:
    lines = [f"{os.cpu_count()} cores, TensorFlow {tf.__version__}, Keras {keras.__version__}; medians in ms"]
    for name, rows in found.items():
        who = list(next(iter(rows.values())))
        lines += ["", f"| {name} | {' | '.join(who)} | Keras over ours |", "|--:|" + "--:|" * (len(who) + 1)]
        for size, row in rows.items():
            cells = [f"{row[w]:.1f}" for w in who]
            lines.append(f"| {size:,} | {' | '.join(cells)} | {row['keras.layers'] / row['ours']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.scaling", allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--save", default="benchmarks/results/scaling", help="writes .json and .md")
    parser.add_argument("--picture", type=Path, default=Path("benchmarks/scaling.png"))
    arguments = parser.parse_args()
    found = {
        "time steps": {time: recurrence((32, time, 128, 128), arguments.repeats) for time in TIMES},
        "units": {units: recurrence((32, 50, units, units), arguments.repeats) for units in UNITS},
        "words in the vocabulary": {size: translation(size, arguments.repeats) for size in VOCABULARIES},
    }
    save(arguments.save, report(found), found)
    plot(found, arguments.picture)


if __name__ == "__main__":
    main()
