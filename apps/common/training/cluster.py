"""Which processes train together: the cluster that the environment variable TF_CONFIG describes, or one on this machine."""

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NoReturn

import tensorflow as tf

from apps.common.training.pipes import Pipes
from data_pipelines.service import check_dispatcher, connect
from data_pipelines.sources import DataError

STARTED = "UNFOLD_WORKER"  # index, count and pipe of a worker that another one started
LOST_WORKER = 3  # exit code


def loopback_ports(count: int) -> list[int]:
    """Ports of this machine that are free at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [free.getsockname()[1] for free in sockets]


def loopback_cluster(count: int) -> list[str]:
    """The TF_CONFIG of each of `count` workers on free ports of this machine."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in loopback_ports(count)]}
    return [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(count)]


def read_tf_config(config: str | None) -> tuple[int, int, dict[str, list[str]]]:
    """The number of this worker, how many there are, and the cluster, from TF_CONFIG. A chief comes before the workers.

    >>> read_tf_config('{"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "task": {"type": "worker", "index": 1}}')[:2]
    (2, 3)
    """
    remedy = 'It is like {"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}.'
    if not config:
        raise DataError(f"--strategy multiworker: the environment variable TF_CONFIG is not set. {remedy}")
    try:
        found = json.loads(config)
        jobs, kind, index = found["cluster"], found["task"]["type"], int(found["task"]["index"])
        sizes = {name: len(jobs.get(name, [])) for name in ("chief", "worker")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"TF_CONFIG: {config!r} can't be read ({type(error).__name__}: {error}). {remedy}") from error
    if kind not in sizes or not 0 <= index < sizes[kind]:
        raise DataError(f"TF_CONFIG: task {kind} {index} is no chief or worker of the cluster {jobs}. {remedy}")
    return index + (sizes["chief"] if kind == "worker" else 0), sum(sizes.values()), jobs


def use_one_gpu(index: int | None) -> None:
    """One GPU for this process: that of the index, or the only one it sees."""
    gpus = tf.config.list_physical_devices("GPU")
    if index is not None and gpus:
        tf.config.set_visible_devices(gpus[index % len(gpus)], "GPU")
    elif len(gpus) > 1:
        raise DataError(
            f"--strategy multiworker: this process sees {len(gpus)} GPUs, a worker has one. Start one worker for each, with "
            "CUDA_VISIBLE_DEVICES."
        )


LOST = (
    "error: another worker of this run ended. Nothing is lost but the steps since the last checkpoint: start all workers again "
    "with --resume."
)


def exit_as_lost_worker() -> NoReturn:
    """End this process, from whatever thread, as another one has ended."""
    print(LOST, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(LOST_WORKER)


def exit_when_unreachable(address: str, patience: float = 60.0, every: float = 5.0) -> None:
    """End this process, as a lost worker does, when nothing has answered at `address` for `patience` seconds.

    TensorFlow's client of a data service waits silently for a lost dispatcher, and no signal is handled in the meantime.

    Raises:
        DataError: nothing answers there now.
    """
    check_dispatcher(address)

    def ask() -> None:
        answered = time.monotonic()
        while time.monotonic() - answered < patience:
            time.sleep(every)
            with contextlib.suppress(OSError):
                connect(address, every)
                answered = time.monotonic()
        print(
            f"error: --data-service {address}: its dispatcher does not answer any more. Nothing is lost but the steps since the "
            "last checkpoint: start the service again, and this run with --resume.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(LOST_WORKER)

    threading.Thread(target=ask, daemon=True).start()


class LocalWorkers:
    """The workers after the first of `--strategy mirrored`: this command, started again for each; they end with this process.

    Args:
        count: workers in all; 0 counts as 1.
    """

    def __init__(self, count: int) -> None:
        self.count = max(1, count)
        module = sys.modules["__main__"].__spec__
        command = [sys.executable, *(["-m", module.name] if module else [sys.argv[0]]), *sys.argv[1:]]
        self._started: list[tuple[subprocess.Popen, Any]] = []
        sockets = []
        for index in range(1, self.count):
            log = tempfile.TemporaryFile()  # noqa: SIM115  closed when the worker has ended
            own, other = socket.socketpair()
            sockets.append(own)
            place = json.dumps({"index": index, "count": self.count, "socket": other.fileno()})
            options: dict[str, Any] = {"stdout": log, "stderr": log, "start_new_session": True}  # Ctrl-C is for the first
            environment = {**os.environ, STARTED: place}
            process = subprocess.Popen(command, env=environment, pass_fds=[other.fileno()], **options)
            other.close()  # so that its end is noticed
            self._started.append((process, log))
        self.pipes = Pipes(sockets, is_first=True)
        atexit.register(self._end)

    def _end(self) -> None:
        for other in self.pipes.sockets:
            other.close()
        for process, log in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            if process.poll() not in (None, 0, LOST_WORKER):
                log.seek(0)
                last = log.read().decode(errors="replace").strip().rpartition("\n")[2]
                print(f"a worker ended with exit code {process.returncode}; its last line: {last or 'none'}", file=sys.stderr)
            process.kill()
            log.close()


def started_worker(text: str) -> tuple[int, int, Pipes]:
    """The number of this worker, how many there are, and its pipe, from `LocalWorkers`."""
    place = json.loads(text)
    return place["index"], place["count"], Pipes([socket.socket(fileno=place["socket"])], is_first=False)
