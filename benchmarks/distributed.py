"""Two workers against one process: seconds of an epoch.

    python -m benchmarks.distributed [--save benchmarks/results/distributed] [-- FLAG ...]

Trains the translator on the embedded data for three epochs and takes the time of the last. Each worker has a core of its own, so
that two workers are to one process on one core what two machines are to one; the third line is one process on both cores.
FLAGs are those of `apps.translation.train`. Linux only.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from apps.common.cli import table
from apps.common.cluster import loopback_cluster
from benchmarks.saving import save

TRAIN = ["apps.translation.train", "--quick", "--epochs", "3"]


def seconds_of_last_epoch(cores: list[set[int]], flags: list[str], folder: Path) -> float:
    """Train with one process for each set of cores."""
    processes: list[subprocess.Popen] = []
    for config, own in zip(loopback_cluster(len(cores)), cores):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_CONFIG": config}
        line = [sys.executable, "-m", *TRAIN, "--run", str(folder / "run"), "--export-to", str(folder / "export"), *flags]
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
    steps, milliseconds = re.findall(r"(\d+)/\d+ - .*? - (\d+)ms/step", out)[-1]
    return int(steps) * int(milliseconds) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save")
    parser.add_argument("flags", nargs="*")
    options = parser.parse_args()
    first, second = sorted(os.sched_getaffinity(0))[:2]
    setups = {
        "one process, one core": [{first}],
        "two workers, a core each": [{first}, {second}],
        "one process, two cores": [{first, second}],
    }
    found = {}
    for name, cores in setups.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = seconds_of_last_epoch(cores, options.flags, Path(folder))
    base = next(iter(found.values()))
    report = table(
        [[name, f"{s:.1f}", f"{base / s:.2f}"] for name, s in found.items()], ["", "seconds an epoch", "times as fast"]
    )
    save(options.save, report, found)


if __name__ == "__main__":
    main()
