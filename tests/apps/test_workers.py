"""Several real processes on the loopback train as one process does."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common.training.cluster import loopback_cluster
from apps.common.training.pipes import LostWorkerError, Pipes
from apps.common.training.sharding import count_tokens
from apps.common.training.workers import Workers
from apps.music_generation.tunes.model import TuneModel
from data_pipelines.sources import DataError
from tests import forked
from tests.apps.helpers import ENVIRONMENT, ROOT
from tests.apps.ten_steps import APPLICATIONS


def start(config, *line):
    return forked.Forked(line[0], line[1:], cwd=ROOT, environment={"TF_CONFIG": config})


def two(*line):
    return [start(config, *line) for config in loopback_cluster(2)]


def end(process, code=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err[-3000:]
    return out, err


def test_ten_steps_of_two_workers_are_those_of_one_process(tmp_path):
    for name in ("alone", "shared"):
        (tmp_path / name).mkdir()
    for folder, strategy in (("alone", "none"), ("shared", "mirrored")):  # which starts the second worker itself
        run, ports = start("", "tests.apps.ten_steps", tmp_path / folder, strategy), set()
        while run.poll() is None:
            ports |= listening(run)
            time.sleep(0.2)
        end(run)
        assert not ports  # whoever connected to one could run any graph
    for application in APPLICATIONS:
        with (
            np.load(tmp_path / "alone" / f"{application.__name__}.npz") as wanted,
            np.load(tmp_path / "shared" / f"{application.__name__}.npz") as found,
        ):
            assert wanted.files == found.files
            for name in wanted.files:
                if name != "loss" and "seed_generator" not in name:
                    np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-5, err_msg=f"{application} {name}")
            np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=0.01)


def test_a_lost_worker_is_told_and_a_resumed_run_goes_on_from_the_last_checkpoint(tmp_path):
    rows = [("good fine splendid", "yes"), ("bad dull awful", "no")] * 200
    (tmp_path / "rows.tsv").write_text(
        "text\tlabel\n" + "".join(f"{text} {i}\t{label}\n" for i, (text, label) in enumerate(rows))
    )
    run = tmp_path / "run"
    flags = ["--data", tmp_path / "rows.tsv", "--run-dir", run, "--export-dir", tmp_path / "export", "--quick", "--batch-size", 8]
    line = ["apps.sentiment_classification.train", "--strategy", "multiworker", *flags, "--epochs"]

    workers = two(*line, 5000, "--learning-rate", "0.001", "--patience", "5000")
    deadline = time.monotonic() + 180
    while not any(run.glob("checkpoints/step-*.npz")):
        assert all(worker.poll() is None for worker in workers) and time.monotonic() < deadline
        time.sleep(0.1)
    assert all(map(listening, workers))  # between machines there is no other way, and `listening` finds it
    workers[1].send_signal(signal.SIGKILL)
    end(workers[1], -signal.SIGKILL)
    out, err = end(workers[0], 3)
    assert "another worker of this run ended" in err and "--resume" in err and "Traceback" not in err
    assert "2; a global batch of 8 texts" in out
    kept = sorted(run.glob("checkpoints/step-*.npz"))[-1]
    step = int(kept.stem.removeprefix("step-"))

    # one process can go on, too; so can two, and only the first of them writes
    epochs = step // 45 + 3
    workers = two(*line, epochs, "--learning-rate", "0.001", "--patience", "5000", "--resume")
    out, _ = end(workers[0])
    assert f"continued at step {step:,}" in out
    end(workers[1])
    assert len((run / "metrics.jsonl").read_text().splitlines()) == epochs
    assert [path.name for path in (tmp_path / "export").iterdir() if path.is_dir()] == ["1"]


def test_two_workers_share_all_rows_and_weigh_them_by_tokens():
    x = tf.reshape(tf.range(10), (5, 2))
    y = tf.constant([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0]])
    found = []
    for index in range(2):
        workers = Workers()
        workers.index, workers.count = index, 2
        found += list(workers.shard(tf.data.Dataset.from_tensors((x, y)), count_tokens).as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate([part for part, _, _ in found]), x)
    np.testing.assert_allclose(found[0][2], np.full(2, 2 * 3 / 8), rtol=1e-6)
    np.testing.assert_allclose(found[1][2], np.full(3, 2 * 5 / 8), rtol=1e-6)


def test_a_worker_without_rows_takes_one_that_weighs_nothing():
    workers = Workers()
    workers.index, workers.count = 0, 2
    ((x, _, weight),) = workers.shard(tf.data.Dataset.from_tensors((tf.ones((1, 3)), tf.ones(1)))).as_numpy_iterator()
    assert x.shape == (1, 3) and weight.tolist() == [0.0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "TF_CONFIG is not set"),
        ("{", "can't be read"),
        ('{"cluster": {"worker": ["a:1"]}}', "can't be read"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "worker 1 is no chief or worker"),
        ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "ps 0 is no chief or worker"),
    ],
)
def test_a_wrong_cluster_is_told(config, message, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config:
        monkeypatch.setitem(os.environ, "TF_CONFIG", config)
    with pytest.raises(DataError, match=message):
        Workers("multiworker")


def test_what_workers_cannot_share_is_told():
    workers = Workers()
    workers.count = 3
    model = TuneModel(20, 8, batch_size=32, units=8)
    with pytest.raises(DataError, match="--batch-size 32: can't be shared by 3 workers"):
        model.set_workers(workers)
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(DataError, match="mixed_bfloat16"):
            workers.optimizer(keras.optimizers.Adam)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    with pytest.raises(DataError, match="--workers 2: goes with --strategy mirrored"):
        Workers("none", 2)


def test_a_run_ends_when_its_data_service_does():
    with socket.create_server(("127.0.0.1", 0)) as dispatcher:
        address = f"127.0.0.1:{dispatcher.getsockname()[1]}"
        code = "import time; from apps.common.training.cluster import exit_when_unreachable as watch; "
        code += f"watch('{address}', 1.0, 0.1); "
        code += "print('on', flush=True); "
        line = [sys.executable, "-c", code + "time.sleep(60)"]
        run = subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert run.stdout.readline() == "on\n"
        time.sleep(3)
        assert run.poll() is None
    _, err = end(run, 3)
    assert f"--data-service {address}: its dispatcher does not answer any more" in err and "--resume" in err


def test_sums_of_one_machine_are_exact_and_a_lost_worker_is_noticed():
    pairs = [socket.socketpair() for _ in range(2)]
    first = Pipes([own for own, _ in pairs], is_first=True)
    others = [Pipes([other], is_first=False) for _, other in pairs]
    arrays = [[np.full((3, 2), 10.0**i, np.float32), np.array(i, np.int64), np.zeros((0, 4), np.float32)] for i in range(3)]
    with ThreadPoolExecutor(2) as pool:
        told = [pool.submit(other.sum, *own) for other, own in zip(others, arrays[1:])]
        for found in (first.sum(*arrays[0]), *(one.result() for one in told)):
            for value, wanted in zip(found, (np.full((3, 2), 111.0), 3, np.zeros((0, 4)))):
                np.testing.assert_array_equal(value, wanted)
        told = pool.submit(others[0].sum, np.zeros(3))  # another array than the first process has
        with pytest.raises(LostWorkerError, match="something else"):
            first.sum(np.zeros((2, 2)))
        for own, _ in pairs:
            own.close()
        with pytest.raises(LostWorkerError):
            told.result(timeout=10)
    for _, other in pairs:
        other.close()


def listening(process):
    """Addresses on which a process and its children listen."""
    inodes = {name for pid in (process.process.pid, *children(process.process.pid)) for name in sockets_of(pid)}
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {fields[1] for fields in lines if fields[3] == "0A" and fields[9] in inodes}


def children(pid):
    return [child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def sockets_of(pid):
    found = []
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            target = os.readlink(link)
            if target.startswith("socket:["):
                found.append(target[8:-1])
    return found
