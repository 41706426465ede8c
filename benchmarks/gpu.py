"""Our layers on a GPU: against `keras.layers` (cuDNN) and `torch.nn` (cuDNN), through the JAX backend.

    benchmarks/gpu.sh [--save benchmarks/results/gpu]

For every shape (batch, time, features, units), float32 and bfloat16: a training step (all outputs, gradients of the inputs
and of all weights) and inference; two shapes also with half of every second row masked. Candidates take turns, medians
count; all is waited for.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np
import torch
from keras import ops

import layers
from benchmarks.saving import save
from benchmarks.timing import milliseconds

SHAPES = [(32, 100, 128, 128), (64, 50, 256, 256), (16, 400, 64, 64), (64, 200, 256, 512), (128, 400, 512, 1024)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CELLS = ("LSTM", "GRU", "GatedRNN", "SimpleRNN")


def jax_candidate(layer: Any, x: Any, d_y: Any, mask: Any, training: bool) -> Callable[[], Any]:
    layer.build(x.shape)
    trainable, rest = [v.value for v in layer.trainable_variables], [v.value for v in layer.non_trainable_variables]

    def forward(trainable: list, x: Any) -> Any:
        return layer.stateless_call(trainable, rest, x, mask=mask, training=training)[0]

    if training:
        step = jax.jit(jax.grad(lambda w, x: (ops.cast(forward(w, x), "float32") * d_y).sum(), argnums=(0, 1)))
    else:
        step = jax.jit(forward)
    return lambda: jax.block_until_ready(step(trainable, x))


def torch_candidate(name: str, shape: tuple[int, ...], dtype: str, training: bool) -> Callable[[], Any] | None:
    module = {"SimpleRNN": torch.nn.RNN, "GRU": torch.nn.GRU, "LSTM": torch.nn.LSTM}.get(name)
    if module is None:
        return None
    batch, time_steps, features, units = shape
    kind = getattr(torch, dtype)
    network = module(features, units, batch_first=True).to(DEVICE, kind)
    x = torch.randn(batch, time_steps, features, device=DEVICE, dtype=kind, requires_grad=training)
    d_y = torch.randn(batch, time_steps, units, device=DEVICE, dtype=kind)

    def step() -> None:
        if training:
            network.zero_grad(set_to_none=True)
            x.grad = None
            network(x)[0].backward(d_y)
        else:
            with torch.no_grad():
                network(x)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return step


def runs(row: dict[str, Any], who: str, step: Callable[[], Any]) -> bool:
    """Whether a candidate runs at all: Keras 3.15's GRU fails in mixed precision on JAX, for one."""
    try:
        step()
    except TypeError as error:
        print(f"{row['layer']} {row['dtype']}: {who} fails: {str(error).splitlines()[0]}", flush=True)
        return False
    return True


def measure(name: str, shape: tuple[int, ...], dtype: str, masked: bool, repeats: int) -> list[dict[str, Any]]:
    batch, time_steps, features, units = shape
    keras.mixed_precision.set_dtype_policy("float32" if dtype == "float32" else "mixed_bfloat16")
    rng = np.random.default_rng(0)
    x = ops.cast(rng.normal(size=(batch, time_steps, features)).astype("float32"), dtype)
    d_y = ops.convert_to_tensor(rng.normal(size=(batch, time_steps, units)).astype("float32"))
    mask = None
    if masked:
        lengths = np.where(np.arange(batch) % 2, time_steps // 2, time_steps)
        mask = ops.convert_to_tensor(np.arange(time_steps) < lengths[:, None])
    rows = []
    for training in (True, False):
        candidates = {"ours": jax_candidate(getattr(layers, name)(units, return_sequences=True), x, d_y, mask, training)}
        theirs = getattr(keras.layers, name, None)
        if theirs is not None:
            candidates["keras"] = jax_candidate(theirs(units, return_sequences=True), x, d_y, mask, training)
        other = None if masked else torch_candidate(name, shape, dtype, training)
        if other is not None:
            candidates["torch"] = other
        what = "training" if training else "inference"
        row = {"layer": name, "shape": shape, "dtype": dtype, "masked": masked, "what": what}
        rows.append({**row, "ms": milliseconds({who: step for who, step in candidates.items() if runs(row, who, step)}, repeats)})
    return rows


def report(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, Keras {keras.__version__}, PyTorch {torch.__version__}; "
        "medians in ms",
        "",
        "| layer | shape | type | | ours | Keras | PyTorch | over Keras | over PyTorch |",
        "|---|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ms = row["ms"]
        cells = [f"{ms[who]:.2f}" if who in ms else "" for who in ("ours", "keras", "torch")]
        cells += [f"{ms[who] / ms['ours']:.2f}" if who in ms else "" for who in ("keras", "torch")]
        shape = ", ".join(map(str, row["shape"])) + (", masked" if row["masked"] else "")
        lines.append(f"| {row['layer']} | {shape} | {row['dtype']} | {row['what']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--layers", nargs="+", default=CELLS, choices=CELLS)
    parser.add_argument("--types", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--minutes", type=float, default=10, help="start no further measurement after these")
    parser.add_argument("--save", default="benchmarks/results/gpu", help="writes .json and .md")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    shapes = [*((shape, False) for shape in SHAPES), (SHAPES[0], True), (SHAPES[3], True)]
    rows = []
    for dtype, name, (shape, masked) in itertools.product(arguments.types, arguments.layers, shapes):
        if time.monotonic() > end:
            print(f"stopped after {arguments.minutes:g} minutes; --minutes sets them")
            break
        rows += measure(name, shape, dtype, masked, arguments.repeats)
        print(json.dumps(rows[-2:]), flush=True)
    save(arguments.save, report(rows), rows)


if __name__ == "__main__":
    main()
