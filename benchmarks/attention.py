"""Attention against Keras and PyTorch, side by side in one process; its memory in processes of its own.

    python -m benchmarks.attention [--repeats 11] [--save benchmarks/results/attention]

For every shape (batch, heads, time, size) a training step (gradients of queries, keys and values) and inference. Without
projections: our attention as the layers call it, with times that are known and times that are not (as in
`fit` on sequences of many lengths), `keras.ops.dot_product_attention`, and PyTorch's. With projections: our and Keras'
`MultiHeadAttention`. Keras and ours as a plain graph and under XLA, the better one counts. Memory is the peak of a process
that takes training steps at (2, 8, time, 64) over what it held before.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import layers
from benchmarks import memory
from benchmarks.saving import save
from benchmarks.timing import milliseconds
from layers.attention_blocks import Masks, attend

SHAPES = [(32, 8, 64, 32), (8, 8, 512, 64), (2, 8, 2048, 64)]
TIMES = [512, 1024, 2048, 4096]


def ours(q: Any, k: Any, v: Any) -> Any:
    return attend(q, k, v, Masks())


def with_weights(q: Any, k: Any, v: Any) -> Any:
    return layers.scaled_dot_product_attention(q, k, v)[0]


def keras_core(q: Any, k: Any, v: Any) -> Any:
    turned = [tf.transpose(x, (0, 2, 1, 3)) for x in (q, k, v)]  # it wants (batch, time, heads, size)
    return tf.transpose(keras.ops.dot_product_attention(*turned), (0, 2, 1, 3))


def candidate(function: Callable, inputs: list, training: bool, xla: bool, known: bool = True) -> Callable[[], Any]:
    def step(d_output: tf.Tensor, *inputs: tf.Tensor) -> Any:
        if not training:
            return function(*inputs)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = function(*inputs)
        return tape.gradient(output, inputs, d_output)

    d_output = inputs[0]
    specs = [tf.TensorSpec((*x.shape[:-2], x.shape[-2] if known else None, x.shape[-1])) for x in (d_output, *inputs)]
    run = tf.function(step, input_signature=specs, jit_compile=xla, autograph=False)
    return lambda: run(d_output, *inputs)


def torch_core(inputs: list, training: bool) -> Callable[[], Any]:
    import torch

    attention = torch.nn.functional.scaled_dot_product_attention
    tensors = [torch.tensor(x.numpy(), requires_grad=training) for x in inputs]
    d_output = torch.tensor(inputs[0].numpy())

    def step() -> Any:
        if not training:
            with torch.no_grad():
                return [attention(*tensors)]
        for x in tensors:
            x.grad = None
        attention(*tensors).backward(d_output)
        return [d_output]

    return step


def measure(shape: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    batch, heads, time, size = shape
    rng = np.random.default_rng(0)
    inputs = [tf.constant(rng.normal(size=shape), tf.float32) for _ in range(3)]
    x = [tf.constant(rng.normal(size=(batch, time, heads * size)), tf.float32)]
    mha = {"ours": layers.MultiHeadAttention(heads, size), "keras": keras.layers.MultiHeadAttention(heads, size)}
    for layer in mha.values():
        layer(x[0], x[0])
    rows = []
    for training in (True, False):
        core = {
            f"{name}{' xla' if xla else ''}": candidate(function, inputs, training, xla)
            for name, function in (("ours", ours), ("keras", keras_core))
            for xla in (False, True)
        }
        core["late"] = candidate(ours, inputs, training, False, known=False)
        core["torch"] = torch_core(inputs, training)
        layer = {
            f"{name}{' xla' if xla else ''}": candidate(lambda x, layer=layer: layer(x, x), x, training, xla)
            for name, layer in mha.items()
            for xla in (False, True)
        }
        what = "training" if training else "inference"
        row = {"shape": shape, "what": what, "core": milliseconds(core, repeats), "layer": milliseconds(layer, repeats)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def memory_here(who: str, time: int) -> float:
    """MB that training steps need, in this process."""
    x = [tf.random.normal((2, 8, time, 64)) for _ in range(3)]
    tf.matmul(tf.ones((512, 512)), tf.ones((512, 512))).numpy()
    before = memory.reset_peak()
    step = candidate({"blocks": ours, "at once": with_weights}[who], x, True, False)
    for _ in range(3):
        step()[0].numpy()
    return memory.peak() - before


def memory_of(who: str, time: int) -> float:
    line = [sys.executable, "-m", "benchmarks.attention", "--here", who, str(time)]
    return float(subprocess.run(line, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def report(rows: list[dict[str, Any]], peaks: dict[str, dict[int, float]]) -> str:
    lines = [
        f"{os.cpu_count()} cores, TensorFlow {tf.__version__}, Keras {keras.__version__}; medians in ms",
        "",
        "| shape | | ours | time known late | Keras | PyTorch | over the best | `MultiHeadAttention` | Keras' | over Keras |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        core, layer = row["core"], row["layer"]
        mine, theirs = (min(core[who], core[f"{who} xla"]) for who in ("ours", "keras"))
        mine_layer, their_layer = (min(layer[who], layer[f"{who} xla"]) for who in ("ours", "keras"))
        lines.append(
            f"| {', '.join(map(str, row['shape']))} | {row['what']} | {mine:.1f} | {core['late']:.1f} | {theirs:.1f} | "
            f"{core['torch']:.1f} | {min(theirs, core['torch']) / mine:.2f} | {mine_layer:.1f} | {their_layer:.1f} | "
            f"{their_layer / mine_layer:.2f} |"
        )
    lines += ["", f"| memory of a training step, MB, time | {' | '.join(map(str, TIMES))} |", "|---|" + "--:|" * len(TIMES)]
    for who, values in peaks.items():
        lines.append(f"| {who} | {' | '.join(f'{values[time]:.0f}' for time in TIMES)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.attention", allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--here", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--save", default="benchmarks/results/attention", help="writes .json and .md")
    arguments = parser.parse_args()
    if arguments.here:
        print(memory_here(arguments.here[0], int(arguments.here[1])))
        return
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    rows = [row for shape in SHAPES for row in measure(shape, arguments.repeats)]
    peaks = {who: {time: memory_of(who, time) for time in TIMES} for who in ("blocks", "at once")}
    text = report(rows, peaks)
    save(arguments.save, text, {"rows": rows, "memory": peaks})


if __name__ == "__main__":
    main()
