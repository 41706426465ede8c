"""Two workers against one process: milliseconds of a training step.

    python -m benchmarks.distributed [--save benchmarks/results/distributed] [-- FLAG ...]
    python -m benchmarks.distributed --sums [--save benchmarks/results/sums]

Trains the translator on the embedded data for two epochs and takes the mean step of the second, without the validation, which is
the chief's alone. Each worker has a core of its own, so that two workers are to one process on one core what two machines are to
one; the third line is one process on both cores. FLAGs are those of `apps.translation.train`. Linux only.

`--sums`: what a sum over two processes takes, by `--strategy mirrored` (pairs of sockets) and by `multiworker` (TensorFlow's
collectives over gRPC on the loopback); the two take turns.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from apps.common.cli import table
from apps.common.training.cluster import loopback_cluster
from apps.common.training.workers import Workers
from apps.translation import train as translation
from benchmarks.saving import save

TRAIN = ["--quick", "--epochs", "2"]


class Steps(keras.callbacks.Callback):
    """Print the milliseconds of a step, of each epoch."""

    first = last = 0.0
    count = 1

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        now = time.perf_counter()
        self.first = now if batch == 0 else self.first
        self.last, self.count = now, batch

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        print(f"a step takes {1e3 * (self.last - self.first) / self.count:.3f} ms", flush=True)


def train() -> None:
    """`apps.translation.train` with its steps timed."""
    fit = keras.Model.fit

    def timed(model: keras.Model, *args: Any, callbacks: list, **kwargs: Any) -> Any:
        return fit(model, *args, callbacks=[Steps(), *callbacks], **kwargs)

    with mock.patch.object(keras.Model, "fit", timed):
        translation.main()


def milliseconds_of_a_step(cores: list[set[int]], flags: list[str], folder: Path) -> float:
    """Train with one process for each set of cores."""
    processes: list[subprocess.Popen] = []
    for config, own in zip(loopback_cluster(len(cores)), cores):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_CONFIG": config}
        line = [sys.executable, "-c", "from benchmarks.distributed import train; train()", *TRAIN, *flags]
        line += ["--run-dir", str(folder / "run"), "--export-dir", str(folder / "export")]
        line += ["--strategy", "multiworker"] if len(cores) > 1 else []
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, own)  # the process inherits it
        pipes = {"stdout": subprocess.DEVNULL if processes else subprocess.PIPE, "stderr": subprocess.DEVNULL}
        processes.append(subprocess.Popen(line, env=environment, text=True, **pipes))  # type: ignore[call-overload]
        os.sched_setaffinity(0, before)
    out = processes[0].communicate()[0]
    for process in processes:
        if process.wait():
            raise SystemExit(f"{' '.join(process.args)} ended with {process.returncode}")
    return float(re.findall(r"a step takes ([\d.]+) ms", out)[-1])


SUMS = {"one of 5,000,000 float32": [5_000_000], "100 of 1,000 float32": [1_000] * 100, "one of 1 float32": [1]}
ROUNDS, REPEATS = 2, 15


def time_sums(strategy: str) -> None:
    """As one of two processes: print the milliseconds of each sum."""
    workers = Workers(strategy, 2 if strategy == "mirrored" else None)
    found = {}
    for name, sizes in SUMS.items():
        tensors = [tf.random.stateless_uniform([size], [0, i]) for i, size in enumerate(sizes)]
        step = tf.function(lambda tensors=tensors: workers.sum(tensors), autograph=False)
        step()
        found[name] = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            step()[0].numpy()
            found[name].append(1e3 * (time.perf_counter() - begun))
    if workers.is_chief:
        print(json.dumps(found), flush=True)
    else:
        workers.wait_for_chief()


def run_sums(strategy: str) -> dict[str, list[float]]:
    line = [sys.executable, "-m", "benchmarks.distributed", "--sums", "--strategy", strategy]
    configs = loopback_cluster(2) if strategy == "multiworker" else [""]
    environments = [{**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_CONFIG": config} for config in configs]
    others = [subprocess.Popen(line, env=e, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for e in environments[1:]]
    chief = subprocess.run(line, env=environments[0], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    for other in others:
        other.wait()
    return json.loads(chief.stdout.splitlines()[-1])


def compare_sums(path: str | None) -> None:
    ways = {"mirrored": "pairs of sockets", "multiworker": "gRPC"}
    found: dict[str, dict[str, list[float]]] = {way: {name: [] for name in SUMS} for way in ways}
    for _ in range(ROUNDS):
        for way, times in found.items():
            for name, values in run_sums(way).items():
                times[name] += values
    rows = []
    for name in SUMS:
        quartiles = [np.percentile(found[way][name], (50, 25, 75)) for way in ways]
        cells = [f"{m:.1f} ({low:.1f} to {high:.1f})" for m, low, high in quartiles]
        rows.append([name, *cells, f"{quartiles[1][0] / quartiles[0][0]:.1f}"])
    save(path, table(rows, ["sum, ms (quartiles)", *ways.values(), "gRPC over sockets"]), found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save")
    parser.add_argument("--sums", action="store_true", help="time sums, not training")
    parser.add_argument("--strategy", choices=["mirrored", "multiworker"], help=argparse.SUPPRESS)  # of a process that sums
    parser.add_argument("flags", nargs="*")
    options = parser.parse_args()
    if options.sums:
        return time_sums(options.strategy) if options.strategy else compare_sums(options.save)
    first, second = sorted(os.sched_getaffinity(0))[:2]
    setups = {
        "one process, one core": [{first}],
        "two workers, a core each": [{first}, {second}],
        "one process, two cores": [{first, second}],
    }
    found = {}
    for name, cores in setups.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = milliseconds_of_a_step(cores, options.flags, Path(folder))
    base = next(iter(found.values()))
    report = table([[name, f"{s:.1f}", f"{base / s:.2f}"] for name, s in found.items()], ["", "ms a step", "times as fast"])
    save(options.save, report, found)


if __name__ == "__main__":
    main()
