"""The shards as a pipeline of Apache Beam, for more machines than one: each of them does what a process does here."""

import contextlib
import json
import logging
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_pipelines.prepare.encoding import Settings, finished_shard, killed_worker
from data_pipelines.prepare.progress import reason, say
from data_pipelines.prepare.rows import Shard
from data_pipelines.sources import DataError

FAILED = "can't prepare: "  # and a line in JSON: how an error of a worker is found in what a runner says


def check_beam(runner: str, flags: Sequence[str]) -> None:
    """Raise before anything is done if Beam is missing, has no such runner, or refuses its flags.

    Raises:
        DataError: so it is.
    """
    if find_spec("apache_beam") is None:
        raise DataError(f"--runner {runner}: Apache Beam is not installed. Run: pip install -e '.[beam]'")
    if runner != "direct":
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        try:
            beam.Pipeline(runner, PipelineOptions(flags))
        except (AttributeError, ImportError, ValueError) as error:  # the first two of a runner that isn't installed
            raise _refused(runner, error) from None


def _refused(runner: str, error: Exception) -> DataError:
    return DataError(f"--runner {runner}: {' '.join(str(error).split())} See Beam's documentation of it.")


def encode_by_beam(shards: Sequence[Shard], settings: Settings, runner: str, flags: Sequence[str], workers: int) -> list[Any]:
    """What was written of each shard, by the workers of a runner.

    Args:
        shards, settings: as `encoding.encode_shards`.
        runner: `direct`, processes of this machine; else one of Beam.
        flags: for Beam.
        workers: processes of `direct`.

    Raises:
        DataError: a flag that Beam refuses; what a worker raises; a shard that a worker wrote elsewhere.
    """
    say("encoding", f"{len(shards):,} shard(s) by Beam's {runner}")
    with _direct(workers) if runner == "direct" else contextlib.nullcontext(runner) as chosen:
        if runner == "direct":
            flags = ["--direct_num_workers", str(workers)]
        else:
            logging.basicConfig(level=logging.INFO)  # where the job can be watched
        try:
            _run(shards, settings, chosen, flags)
        except Exception as error:
            if found := re.search(FAILED + r'("(?:[^"\\]|\\.)*")', str(error)):
                raise DataError(json.loads(found[1])) from None
            if isinstance(error, ValueError):  # of flags that Beam reads only now
                raise _refused(runner, error) from None
            raise
    files = [Path(settings.folder) / f"{shard.name}.json" for shard in shards]
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: a worker wrote it elsewhere. Name a folder that all machines share, with the same path.")
    return [json.loads(file.read_text()) for file in files]


def _run(shards: Sequence[Shard], settings: Settings, runner: Any, flags: Sequence[str]) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    with beam.Pipeline(runner, PipelineOptions(flags)) as pipeline:
        pipeline | beam.Create([json.dumps(shard) for shard in shards]) | beam.Map(_finish, json.dumps(settings))


def _finish(shard: str, settings: str) -> None:
    """What a worker does."""
    try:
        finished_shard(Shard.of_json(json.loads(shard)), Settings(*json.loads(settings)))
    except DataError as error:
        raise RuntimeError(FAILED + json.dumps(str(error))) from None
    except OSError as error:
        line = reason(error) or f"{error.filename}: {error.strerror}. Workers need the source and the folder at the same paths."
        raise RuntimeError(FAILED + json.dumps(line)) from None


# -- processes of this machine


@contextlib.contextmanager
def _direct(workers: int) -> Iterator[Any]:
    """What Beam's `DirectRunner` is for such a pipeline, unless it downloads another one.

    Beam waits until its processes have done all, after Ctrl-C too, and for ever if one of them was killed. So they end with a
    file, and it is taken away in both cases.
    """
    logging.disable(logging.CRITICAL)  # what fails is told in a line
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    killed, hook, handler = threading.Event(), threading.excepthook, signal.getsignal(signal.SIGINT)
    with tempfile.TemporaryDirectory() as place:
        (file := Path(place, "go")).touch()

        def stop(*_: Any) -> None:
            file.unlink(missing_ok=True)
            raise KeyboardInterrupt

        def stop_if_killed(arguments: threading.ExceptHookArgs) -> None:
            if "Worker subprocess exited" not in str(arguments.exc_value):
                hook(arguments)
            elif file.exists():
                killed.set()
                os.kill(os.getpid(), signal.SIGINT)

        threading.excepthook = stop_if_killed
        signal.signal(signal.SIGINT, stop)
        command = f"exec {shlex.join([sys.executable, '-m', 'data_pipelines.prepare.beam', str(file)])} 2> /dev/null"
        try:
            yield FnApiRunner(SubprocessSDKEnvironment.from_command_string(command) if workers > 1 else None)
        except BaseException:
            if killed.is_set():
                raise killed_worker(workers) from None
            raise
        finally:
            threading.excepthook = hook
            signal.signal(signal.SIGINT, handler)
            logging.disable(logging.NOTSET)


def _end(parent: int, file: Path) -> None:
    while os.getppid() == parent and file.exists():
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":  # such a process
    from apache_beam.runners.worker import sdk_worker_main

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process
    threading.Thread(target=_end, args=[os.getppid(), Path(sys.argv[1])], daemon=True).start()
    sdk_worker_main.main(sys.argv)
