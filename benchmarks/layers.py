"""Our layers against `keras.layers` and `torch.nn`, side by side in one process.

    python -m benchmarks.layers [--repeats 15] [--cells LSTM GRU] [--precision float32] [--save benchmarks/results/layers]
    python -m benchmarks.layers --cells linear --save benchmarks/results/linear

For every shape (batch, time, features, units) and every candidate: a training step (all outputs, gradients of the inputs
and of all weights) and inference. The candidates take turns, so that a slow moment hits all of them; medians count. Keras
and ours are timed as a plain graph and under XLA, and the better one counts. The floor is the multiply-adds over the
rate of a large sgemm in the same run.

`--cells linear`: the layers without a recurrent product against the LSTM and GRU of as many units; ours in inference as a plain
graph alone, as an export holds it.

`--memory`: MB and ms of a training step of these layers and of our LSTM, each in a process of its own: the peak of its resident
memory from the second step on over what it held before the first; and over ever more steps.
"""

import argparse
import functools
import multiprocessing
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import torch

import layers
from benchmarks import memory
from benchmarks.saving import save
from benchmarks.timing import geometric_mean, milliseconds, sgemm_gflops

SHAPES = [(32, 100, 128, 128), (64, 50, 256, 256), (16, 400, 64, 64), (64, 200, 256, 512)]
MASKED = (32, 100, 128, 128)  # once more with half of every second row masked
ONE_ROW = (1, 50, 256, 256)  # inference only
LINEAR = ("MinGRU", "SSRU", "QRNN", "SRU")
MEMORY_SHAPES = [(64, 200, 256, 512), *((8, time, 128, 128) for time in (1000, 2500, 5000, 10000))]
GATES = {"SimpleRNN": 1, "GatedRNN": 2, "GRU": 3, "LSTM": 4, "Bidirectional GRU": 6, "Bidirectional LSTM": 8}


class KerasGatedRNNCell(keras.layers.Layer):
    """The minimal gated unit as a cell for `keras.layers.RNN`, as a user of Keras would write it."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape: tuple) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 2 * self.units), name="kernel")
        self.recurrent_kernel = self.add_weight(shape=(self.units, 2 * self.units), name="recurrent_kernel")
        self.bias = self.add_weight(shape=(2 * self.units,), initializer="zeros", name="bias")

    def call(self, inputs: Any, states: list) -> tuple[Any, list]:
        s = states[0]
        z = keras.ops.matmul(inputs, self.kernel) + keras.ops.matmul(s, self.recurrent_kernel) + self.bias
        z_g, z_s = keras.ops.split(z, 2, axis=-1)
        g = keras.ops.sigmoid(z_g)
        s = (1 - g) * s + g * keras.ops.tanh(z_s)
        return s, [s]


def ours(name: str, units: int) -> keras.layers.Layer:
    layer = getattr(layers, name.split()[-1])(units, return_sequences=True)
    return layers.Bidirectional(layer) if name.startswith("Bidirectional") else layer


def keras_counterpart(name: str, units: int) -> keras.layers.Layer:
    """What Keras offers: its own layer, or the cell in `keras.layers.RNN` (for SimpleRNN too, as a cell)."""
    if name.startswith("Bidirectional"):
        return keras.layers.Bidirectional(keras_counterpart(name.split()[-1], units))
    cells = {"SimpleRNN": keras.layers.SimpleRNNCell, "GatedRNN": KerasGatedRNNCell}
    if name in cells:
        return keras.layers.RNN(cells[name](units), return_sequences=True)
    return getattr(keras.layers, name)(units, return_sequences=True)


def tensorflow_candidate(layer: Any, x: tf.Tensor, d_y: tf.Tensor, mask: Any, training: bool, xla: bool) -> Callable[[], Any]:
    layer(x)
    weights = [w.value for w in layer.weights]

    def step() -> Any:
        if not training:
            return layer(x, mask=mask)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, mask=mask, training=True) * d_y)
        return tape.gradient(loss, [x, *weights])

    return tf.function(step, jit_compile=xla, autograph=False)


def torch_candidate(name: str, shape: tuple, x: tf.Tensor, d_y: tf.Tensor, training: bool) -> Callable[[], Any] | None:
    module = {"SimpleRNN": torch.nn.RNN, "GRU": torch.nn.GRU, "LSTM": torch.nn.LSTM}.get(name.split()[-1])
    if module is None:
        return None
    network = module(shape[2], shape[3], batch_first=True, bidirectional=name.startswith("Bidirectional"))
    inputs, upstream = torch.tensor(x.numpy(), requires_grad=training), torch.tensor(d_y.numpy())

    def step() -> Any:
        if not training:
            with torch.no_grad():
                return network(inputs)[0]
        network.zero_grad(set_to_none=True)
        inputs.grad = None
        (network(inputs)[0] * upstream).sum().backward()
        return inputs.grad

    return step


def measure(name: str, shape: tuple, masked: bool, repeats: int, gflops: float) -> list[dict[str, Any]]:
    batch, time_steps, features, units = shape
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(batch, time_steps, features)), tf.float32)
    width = units * (2 if name.startswith("Bidirectional") else 1)
    kind = keras.mixed_precision.dtype_policy().compute_dtype
    d_y = tf.constant(rng.normal(size=(batch, time_steps, width)), kind)
    mask = None
    if masked:
        lengths = np.where(np.arange(batch) % 2, time_steps // 2, time_steps)
        mask = tf.constant(np.arange(time_steps) < lengths[:, None])
    both = {"ours": ours(name, units), "keras": keras_counterpart(name, units)}
    rows = []
    for training in (False,) if shape == ONE_ROW else (True, False):
        candidates = {
            f"{who}{' xla' if xla else ''}": tensorflow_candidate(layer, x, d_y, mask, training, xla)
            for who, layer in both.items()
            for xla in (False, True)
        }
        torch_step = torch_candidate(name, shape, x, d_y, training) if kind == "float32" and not masked else None
        if torch_step is not None:
            candidates["torch"] = torch_step
        ms = milliseconds(candidates, max(5, repeats // 2) if units >= 512 else repeats)
        multiply_adds = batch * time_steps * (features + units) * units * GATES[name] * (3 if training else 1)
        best, best_keras = min(ms["ours"], ms["ours xla"]), min(ms["keras"], ms["keras xla"])
        rows.append(
            {
                "layer": name,
                "shape": list(shape),
                "masked": masked,
                "what": "training" if training else "inference",
                "ms": ms,
                "floor_ms": 2 * multiply_adds / gflops / 1e6,
                "over_keras": best_keras / best,
                "over_torch": ms["torch"] / best if "torch" in ms else None,
            }
        )
    return rows


def measure_linear(shape: tuple, masked: bool, repeats: int) -> list[dict[str, Any]]:
    batch, time_steps, features, units = shape
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(batch, time_steps, features)), tf.float32)
    d_y = tf.constant(rng.normal(size=(batch, time_steps, units)), tf.float32)
    lengths = np.where(np.arange(batch) % 2, time_steps // 2, time_steps)
    mask = tf.constant(np.arange(time_steps) < lengths[:, None]) if masked else None
    rows = []
    for training in (False,) if shape == ONE_ROW else (True, False):
        graph = functools.partial(tensorflow_candidate, x=x, d_y=d_y, mask=mask, training=training)
        candidates = {f"{name} graph": graph(ours(name, units), xla=False) for name in [*LINEAR, "LSTM"]}
        if training:
            candidates |= {f"{name} xla": graph(ours(name, units), xla=True) for name in LINEAR}
        for name in ("LSTM", "GRU"):
            theirs = keras_counterpart(name, units)
            candidates |= {f"Keras {name} {'xla' if xla else 'graph'}": graph(theirs, xla=xla) for xla in (False, True)}
            torch_step = None if masked else torch_candidate(name, shape, x, d_y, training)
            candidates |= {f"PyTorch {name} eager": torch_step} if torch_step else {}
        ms = milliseconds(candidates, max(5, repeats // 2) if units >= 512 else repeats)
        best: dict[str, float] = {}
        for candidate, value in ms.items():
            name = candidate.rpartition(" ")[0]
            best[name] = min(value, best.get(name, value))
        rows.append(
            {"shape": list(shape), "masked": masked, "what": "training" if training else "inference", "ms": ms, "best": best}
        )
    return rows


def report_linear(rows: list[dict[str, Any]]) -> str:
    others = ["LSTM", "Keras LSTM", "Keras GRU", "PyTorch LSTM", "PyTorch GRU"]
    lines = [
        f"{os.cpu_count()} cores, TensorFlow {tf.__version__}, Keras {keras.__version__}, PyTorch {torch.__version__}; "
        "medians in ms",
        "",
        f"| shape | | {' | '.join([*LINEAR, 'our LSTM', *others[1:]])} |",
        f"|---|---|{'--:|' * (len(LINEAR) + len(others))}",
    ]
    for row in rows:
        shape = ", ".join(map(str, row["shape"])) + (", masked" if row["masked"] else "")
        cells = [f"{row['best'][name]:.1f}" if name in row["best"] else "" for name in [*LINEAR, *others]]
        lines.append(f"| {shape} | {row['what']} | {' | '.join(cells)} |")
    lines += ["", "How many times as fast, geometric means (and the slowest shape):", ""]
    lines += [f"| | | {' | '.join(f'over {name}' for name in others[1:])} |", f"|---|---|{'--:|' * (len(others) - 1)}"]
    for name in LINEAR:
        for what in ("training", "inference"):
            chosen = [row["best"] for row in rows if row["what"] == what]
            cells = []
            for other in others[1:]:
                ratios = [best[other] / best[name] for best in chosen if other in best]
                cells.append(f"{geometric_mean(ratios):.1f} ({min(ratios):.1f})")
            lines.append(f"| {name} | {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost_here(name: str, shape: tuple) -> tuple[float, float]:
    """MB and ms of a training step, in this process."""
    batch, time_steps, features, units = shape
    x, d_y = tf.random.normal((batch, time_steps, features)), tf.random.normal((batch, time_steps, units))
    before = memory.reset_peak()
    step = tensorflow_candidate(ours(name, units), x, d_y, None, True, False)
    step()[0].numpy()
    memory.reset_peak()
    ms = milliseconds({name: step}, 2)[name]  # after three more
    print(name, shape, round(memory.peak() - before), round(ms), flush=True)
    return memory.peak() - before, ms


def costs() -> dict[str, list[tuple[float, float]]]:
    """Of each layer at each shape, each in a process that has computed nothing before."""
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        names = (*LINEAR, "LSTM")
        return {name: pool.starmap(cost_here, [(name, shape) for shape in MEMORY_SHAPES], chunksize=1) for name in names}


def report_memory(found: dict[str, list[tuple[float, float]]]) -> str:
    """A table in Markdown, a column a layer."""
    lines = [f"| shape | {' | '.join(found)} |", "|---|" + "--:|" * len(found)]
    for i, shape in enumerate(MEMORY_SHAPES):
        cells = [f"{values[i][0]:.0f} MB, {values[i][1]:.0f} ms" for values in found.values()]
        lines.append(f"| {', '.join(map(str, shape))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def report(rows: list[dict[str, Any]], gflops: float) -> str:
    """Two tables in Markdown: every shape, and the geometric means."""
    lines = [
        f"{os.cpu_count()} cores, sgemm {gflops:.0f} GFLOP/s, TensorFlow {tf.__version__}, Keras {keras.__version__}, "
        f"PyTorch {torch.__version__}; medians in ms",
        "",
        "| layer | shape | | ours | ours, XLA | Keras | Keras, XLA | PyTorch | floor | over Keras | over PyTorch |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ms = row["ms"]
        shape = ", ".join(map(str, row["shape"])) + (", masked" if row["masked"] else "")
        cells = [f"{ms[k]:.1f}" if k in ms else "" for k in ("ours", "ours xla", "keras", "keras xla", "torch")]
        torch_ratio = f"{row['over_torch']:.2f}" if row["over_torch"] else ""
        lines.append(
            f"| {row['layer']} | {shape} | {row['what']} | {' | '.join(cells)} | {row['floor_ms']:.1f} | "
            f"{row['over_keras']:.2f} | {torch_ratio} |"
        )
    lines += ["", "| geometric mean | over Keras | slowest shape | over PyTorch |", "|---|--:|--:|--:|"]
    for name in GATES:
        for what in ("training", "inference"):
            chosen = [row for row in rows if row["layer"] == name and row["what"] == what]
            if chosen:
                over_torch = [row["over_torch"] for row in chosen if row["over_torch"]]
                over_keras = [row["over_keras"] for row in chosen]
                torch_mean = f"{geometric_mean(over_torch):.2f}" if over_torch else ""
                lines.append(f"| {name}, {what} | {geometric_mean(over_keras):.2f} | {min(over_keras):.2f} | {torch_mean} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.layers", allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cells", nargs="+", default=list(GATES), choices=[*GATES, "linear"])
    parser.add_argument("--precision", default="float32", help="mixed_bfloat16, mixed_float16: without PyTorch")
    parser.add_argument("--save", default="benchmarks/results/layers", help="writes .json and .md")
    parser.add_argument("--memory", action="store_true", help="memory and time of a training step, over the steps, instead")
    arguments = parser.parse_args()
    if arguments.memory:
        found = costs()
        save(arguments.save, report_memory(found), found)
        return
    keras.mixed_precision.set_dtype_policy(arguments.precision)
    torch.set_num_threads(os.cpu_count() or 1)
    shapes = [*((shape, False) for shape in [*SHAPES, ONE_ROW]), (MASKED, True)]
    if arguments.cells == ["linear"]:
        rows = []
        for shape, masked in shapes:
            rows += measure_linear(shape, masked, arguments.repeats)
            print(rows[-1], flush=True)
        save(arguments.save, report_linear(rows), rows)
        return
    gflops = sgemm_gflops()
    rows = []
    for name in arguments.cells:
        for shape, masked in shapes:
            new = measure(name, shape, masked, arguments.repeats, gflops)
            print(name, shape, "masked" if masked else "", {r["what"]: round(r["over_keras"], 2) for r in new}, flush=True)
            rows += new
    text = report(rows, gflops)
    save(arguments.save, text, {"gflops": gflops, "rows": rows})


if __name__ == "__main__":
    main()
