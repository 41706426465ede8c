"""Memory of a training run over an hour: with validation, checkpoints and TensorBoard.

    python -m benchmarks.long_run [--minutes 60] [--save benchmarks/results/long_run] -- apps.translation.train [FLAG ...]

Starts the training, reads its resident memory every ten seconds, and ends it by SIGTERM, which saves. Linux only.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from apps.common.cli import table
from benchmarks.saving import save

SECONDS = 10.0


def resident_mb(process: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found.group(1)) / 1024 if found else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--save")
    parser.add_argument("command", nargs="+", help="module and flags of a training that takes longer")
    options = parser.parse_args()
    process = subprocess.Popen([sys.executable, "-m", *options.command], env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    samples: list[float] = []
    end = time.monotonic() + 60 * options.minutes
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the training ended after {len(samples) * SECONDS / 60:.0f} minutes; pass more --epochs")
        samples.append(resident_mb(process.pid))
        time.sleep(SECONDS)
    process.send_signal(signal.SIGTERM)
    process.wait()
    # medians of a minute each: a single reading may fall into a validation
    per_minute = [statistics.median(samples[i : i + 6]) for i in range(0, len(samples) - 5, 6)]
    picked = [minute for minute in (1, 5, 10, 20, 30, 40, 50, 60) if minute <= len(per_minute)]
    rows = [[minute, f"{per_minute[minute - 1]:,.0f}", f"{per_minute[minute - 1] / per_minute[9]:.3f}"] for minute in picked]
    report = table(rows, ["minute", "MB", "of minute 10"])
    save(options.save, report, {"command": options.command, "mb_per_minute": per_minute})


if __name__ == "__main__":
    main()
