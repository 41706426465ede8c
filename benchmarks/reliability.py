"""Runs that are killed at random moments and resumed, against uninterrupted runs.

    python -m benchmarks.reliability [--kills 20] [--applications ...] [--seed 0] [--save benchmarks/results/reliability]

Trains a small model of each application on the embedded data, once undisturbed and once with SIGKILL at random moments: while the
process starts, between steps, while it validates or writes a checkpoint. It is continued by `--resume` each time. Both must end
with the same weights, optimizer, dropout states and log, bit for bit. The killed run saves at every step, so that a kill
often meets a file that is being written.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from apps.common.cli import table
from benchmarks.saving import save

FLAGS = {
    "sentiment_classification": "--quick --units 8 --embedding-size 8 --epochs 20 --patience 20",
    "translation": "--quick --units 8 --embedding-size 8 --epochs 6",
    "image_captioning": "--quick --units 8 --embedding-size 8 --memory-size 8 --epochs 2",
    "music_generation": "--quick --units 16 --embedding-size 8 --epochs 8 --patience 8 --num-samples 0",
    "language_model": "--quick --units 8 --embedding-size 8 --epochs 2",
}
OFTEN = """
import functools
import apps.common.training.checkpoints as c
c.Checkpoint.__init__ = functools.partialmethod(c.Checkpoint.__init__, every_seconds=0.0)  # save after every step
from apps.{application}.train import main
main()
"""


def train(application: str, run: Path, *more: str) -> subprocess.Popen:
    export = run.parent / f"{run.name}_export"
    flags = [*FLAGS[application].split(), "--run-dir", str(run), "--export-dir", str(export), *more]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with (run.parent / f"{run.name}.log").open("a") as log:
        line = [sys.executable, "-c", OFTEN.format(application=application), *flags]
        return subprocess.Popen(line, env=environment, stdout=log, stderr=log)


def newest(run: Path) -> Path | None:
    return max(run.glob("checkpoints/step-*.npz"), default=None)


def moment(process: subprocess.Popen, run: Path, generator: random.Random) -> None:
    """Wait for a random moment: one in five while the process starts, else up to three seconds after its first new checkpoint."""
    if generator.random() < 0.2:
        time.sleep(generator.uniform(0, 10))
        return
    before = newest(run)
    while process.poll() is None and newest(run) == before:
        time.sleep(0.02)
    time.sleep(generator.uniform(0, 3))


def train_with_kills(application: str, run: Path, kills: int, generator: random.Random) -> tuple[int, int, int]:
    """Train with kills; return how many met a running process, how many while a file was written, and how many starts."""
    killed = writing = starts = 0
    while True:
        process = train(application, run, *(["--resume"] if (run / "config.json").exists() else []))
        starts += 1
        if killed < kills:
            moment(process, run, generator)
        else:
            process.wait()
        if process.poll() is not None:
            if process.returncode:
                raise SystemExit(f"{application}: ended with {process.returncode}; see {run.parent / (run.name + '.log')}")
            return killed, writing, starts
        process.kill()
        process.wait()
        killed += 1
        writing += any(run.glob(f"checkpoints/.writing-{process.pid}*"))


def differences(one: Path, other: Path) -> int:
    """How many of the arrays of the last checkpoint, and of the log's lines, differ."""
    first, second = newest(one), newest(other)
    if first is None or second is None or first.name != second.name:
        return -1
    with np.load(first) as expected, np.load(second) as found:
        names = sorted({*expected.files, *found.files} - {"state"})
        different = sum(not np.array_equal(expected[name], found[name]) for name in names)
    return different + ((one / "metrics.jsonl").read_bytes() != (other / "metrics.jsonl").read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--applications", nargs="+", choices=FLAGS, default=list(FLAGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="of the runs; default: a temporary one")
    parser.add_argument("--save")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="unfold-reliability-"))
    header = ["application", "steps", "kills", "while a file was written", "differences", "minutes"]
    rows = []
    for application in options.applications:
        begun = time.monotonic()
        one, other = folder / f"{application}_whole", folder / f"{application}_killed"
        for run in (one, other):
            run.parent.mkdir(parents=True, exist_ok=True)
        if train(application, one).wait():
            raise SystemExit(f"{application}: the undisturbed run failed; see {folder / (one.name + '.log')}")
        killed, writing, _ = train_with_kills(application, other, options.kills, random.Random(options.seed))
        last = newest(one)
        steps = int(last.stem.removeprefix("step-")) if last else 0
        minutes = f"{(time.monotonic() - begun) / 60:.0f}"
        rows.append([application, steps, killed, writing, differences(one, other), minutes])
        print(table(rows, header), flush=True)
    if options.save:
        save(options.save, table(rows, header), [dict(zip(header, row)) for row in rows])


if __name__ == "__main__":
    main()
