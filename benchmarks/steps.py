"""The operations of one step of a decoding loop, by their time: where fusing can start.

    python -m benchmarks.steps [saved_models/translation] [--signatures serving_default serving_greedy] [--rows 1]

The export runs in a session of TensorFlow 1, as it does in TensorFlow Serving, with every operation traced; loops are taken
apart there, so that each operation of a step is seen. The times of kernels say which operations are the dearest; what a
request takes beyond them is scheduling, mostly.
"""

import argparse
import os
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tensorflow_text  # noqa: F401  # its operations

from apps.common.export.saved_model import find_version

TEXT = "The town has 12,345 inhabitants and a small station by the river."
FULL_TRACE = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)


def trace(folder: Path, signature: str, rows: int, repeats: int) -> tuple[Any, float]:
    """The statistics of one request, and its median seconds untraced."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        outputs = {name: info.name for name, info in loaded.signature_def[signature].outputs.items()}
        feed = {loaded.signature_def[signature].inputs["text"].name: [TEXT] * rows}
        seconds = []
        for _ in range(repeats + 3):
            begun = time.perf_counter()
            session.run(outputs, feed)
            seconds.append(time.perf_counter() - begun)
        metadata = tf.compat.v1.RunMetadata()
        session.run(outputs, feed, FULL_TRACE, metadata)
    return metadata.step_stats, statistics.median(seconds[3:])


def operations(stats: Any) -> tuple[int, dict[str, tuple[int, float]]]:
    """The steps of the outermost loop, that of the search, and of each kind of operation in it how many run in a step and how
    many microseconds they take, by the median of each."""
    times = defaultdict(list)
    for device in stats.dev_stats:
        for node in device.node_stats:
            kind = node.timeline_label.partition(" = ")[2].partition("(")[0]
            times[node.node_name, kind].append(node.op_end_rel_micros - node.op_start_rel_micros)
    loops = {
        name.partition("/next_iteration")[0]: len(found)
        for (name, kind), found in times.items()
        if kind == "NextIteration" and len(found) > 1
    }
    loop = min(loops, key=lambda name: name.count("/"))
    by_kind: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (name, kind), found in times.items():
        if name.startswith(f"{loop}/") and len(found) > 1:
            share = len(found) / loops[loop]
            by_kind[kind].append((share, share * statistics.median(found)))
    return loops[loop], {kind: (round(sum(n for n, _ in all)), sum(us for _, us in all)) for kind, all in by_kind.items()}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.steps", allow_abbrev=False)
    parser.add_argument("export", nargs="?", default="saved_models/translation", help="a version folder, or the folder above it")
    parser.add_argument("--signatures", nargs="+", default=["serving_default", "serving_greedy"])
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--kinds", type=int, default=15, help="how many kinds of operations to print")
    arguments = parser.parse_args()
    for signature in arguments.signatures:
        stats, seconds = trace(find_version(arguments.export), signature, arguments.rows, arguments.repeats)
        steps, found = operations(stats)
        count, total = (sum(values) for values in zip(*found.values()))
        print(f"\n{signature}: {1e3 * seconds:.1f} ms, {steps} steps; a step has {count} operations, {total:.0f} us of kernels")
        print("\n| operation | a step | us a step |\n|---|--:|--:|")
        ranked = sorted(found.items(), key=lambda item: -item[1][1])
        for kind, (number, microseconds) in ranked[: arguments.kinds]:
            print(f"| {kind} | {number} | {microseconds:.0f} |")


if __name__ == "__main__":
    main()
