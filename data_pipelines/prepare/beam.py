"""The shards as a pipeline of Apache Beam, for more machines than one: each of them does what a process does here."""

import json
import logging
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_pipelines.prepare.encoding import Settings, finished_shard
from data_pipelines.prepare.progress import reason, say
from data_pipelines.prepare.rows import Shard
from data_pipelines.sources import DataError

DIRECT = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"  # Beam's `DirectRunner` may download another one
FAILED = "can't prepare: "  # and a line in JSON: how an error of a worker is found in what a runner says


def check_beam(runner: str) -> None:
    """Raise if Beam is missing, before anything is done.

    Raises:
        DataError: it is.
    """
    if find_spec("apache_beam") is None:
        raise DataError(f"--runner {runner}: Apache Beam is not installed. Run: pip install -e '.[beam]'")


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
    direct = runner == "direct"
    if direct:
        mode = "in_memory" if workers == 1 else "multi_processing"
        flags = ["--runner", DIRECT, "--direct_running_mode", mode, "--direct_num_workers", str(workers)]
    else:
        flags = ["--runner", runner, *flags]
        logging.basicConfig(level=logging.INFO)  # where the job can be watched
    say("encoding", f"{len(shards):,} shard(s) by Beam's {runner}")
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL if direct else disabled)  # what fails is told in a line
    try:
        _run(shards, settings, flags)
    except Exception as error:
        if found := re.search(FAILED + r'("(?:[^"\\]|\\.)*")', str(error)):
            raise DataError(json.loads(found[1])) from None
        if isinstance(error, ValueError):  # of flags
            raise DataError(f"--runner {runner}: {' '.join(str(error).split())} See Beam's documentation of it.") from None
        raise
    finally:
        logging.disable(disabled)
    files = [Path(settings.folder) / f"{shard.name}.json" for shard in shards]
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: a worker wrote it elsewhere. Name a folder that all machines share, with the same path.")
    return [json.loads(file.read_text()) for file in files]


def _run(shards: Sequence[Shard], settings: Settings, flags: Sequence[str]) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
        pipeline | beam.Create([json.dumps(shard) for shard in shards]) | beam.Map(_finish, json.dumps(settings))


def _finish(shard: str, settings: str) -> None:
    """What a worker does."""
    try:
        finished_shard(Shard.of_json(json.loads(shard)), Settings(*json.loads(settings)))
    except DataError as error:
        raise RuntimeError(FAILED + json.dumps(str(error))) from None
    except OSError as error:
        if line := reason(error):
            raise RuntimeError(FAILED + json.dumps(line)) from None
        raise
