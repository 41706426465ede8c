"""A run: its device, its folder, and the loop that trains."""

import contextlib
import dataclasses
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import tensorflow as tf

from apps.common.cli import check_ranges
from apps.common.config import FitFlags, RunFlags
from apps.common.files import RUNS, lock_run, newest_run
from apps.common.training.averages import AveragedValidation
from apps.common.training.checkpoint_files import newest_first
from apps.common.training.checkpoints import Checkpoint
from apps.common.training.progress import Progress
from apps.common.training.workers import Workers
from data_pipelines import remote
from data_pipelines.batching import Batches
from data_pipelines.files import replacing, write_whole
from data_pipelines.sources import DataError, visible

PHASES = ("checkpoints", "fine_tuning", "sequence")  # the folders of their checkpoints


def prepare_device(config: RunFlags) -> None:
    """Fix seed, determinism and precision; let a GPU's memory grow."""
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # the device is in use already
            tf.config.experimental.set_memory_growth(gpu, True)
    keras.utils.set_random_seed(config.seed)
    if is_deterministic(config):
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_dtype_policy(config.precision)


def is_deterministic(config: RunFlags) -> bool:
    """What `--deterministic` says; without it, whether there is no GPU: there determinism makes a step slower, and keeps it out
    of XLA."""
    return not tf.config.list_physical_devices("GPU") if config.deterministic is None else config.deterministic


def log_summary(config: RunFlags, model: keras.Model, folder: Path, facts: dict[str, str]) -> None:
    """Print what a run is about to do, a line each: the device, `facts` of data and model, the folder."""
    gpus = tf.config.list_physical_devices("GPU")
    device = f"CPU ({os.cpu_count()} cores)"
    if gpus:
        device = (
            f"GPU ({tf.config.experimental.get_device_details(gpus[0]).get('device_name', 'unknown')})"
            + is_deterministic(config) * ", deterministic"
        )
    facts = {"device": f"{device}, {config.precision}", **facts, "parameters": f"{model.count_params():,}"}
    for name, fact in {**facts, "run": remote.shown(folder), "started": time.strftime("%H:%M:%S")}.items():
        print(f"{name:<12}{visible(str(fact))}", flush=True)


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__}


def open_run(application: str, config: Any, facts: dict[str, Any], workers: Workers) -> Path:
    """Make or find the folder of a run and write `config.json`: the application, the command, the flags, a description of the
    data, the versions. A worker that is not the chief gets a temporary folder.

    Raises:
        DataError: the folder holds a run and `resume` is not asked for; there is no run to resume; the run to be resumed
            had other flags or other data; the folder of the run or of the exports is a file.
    """
    check_ranges(config)
    if not workers.is_chief:
        return workers.scratch()
    folder = remote.run_folder(config.run_dir) if config.run_dir else _default_folder(application, config.resume)
    for flag, place in (("--run-dir", folder), ("--export-dir", remote.mirror(config.export_dir))):
        if file := next((part for part in (place, *place.parents) if part.is_file()), None):
            raise DataError(f"{flag} {remote.shown(place)}: {file} is a file; expected a folder. Name another.")
    path = folder / "config.json"
    command = shlex.join(["python", "-m", f"apps.{application}.train", *sys.argv[1:]])
    flags = {**dataclasses.asdict(config), "deterministic": is_deterministic(config)}  # --resume may be on another machine
    new = {"application": application, "command": command, "config": flags, **facts, "versions": versions()}
    new = json.loads(json.dumps(new))
    if config.resume:
        if not path.is_file():
            raise DataError(f"{remote.shown(folder)}: no run to resume. Leave out --resume, or name its folder with --run-dir.")
        lock_run(folder)
        _check_same(folder, read_run(folder), new)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    lock_run(folder)
    if path.exists():
        raise DataError(
            f"{remote.shown(folder)}: holds a run already. Continue it with --resume, or name another with --run-dir."
        )
    write_whole(path, json.dumps(new, indent=2))
    remote.push(folder)  # what can't be written is told before the training
    return folder


def _default_folder(application: str, resume: bool) -> Path:
    newest = newest_run(application) if resume else None
    return newest or RUNS / application / ("" if resume else time.strftime("%Y%m%d-%H%M%S"))


def _check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    free = set("resume run_dir epochs patience monitor bleu_tokenize export_dir export force_export".split())
    free |= {"strategy", "workers", "data_service"}
    if new["config"].get("sequence_epochs"):
        free -= {"bleu_tokenize"}  # of the reward, too
    later = [phase for phase in PHASES[1:] if newest_first(folder / phase)]
    if later and new["config"].get("epochs") != old["config"].get("epochs"):
        raise DataError(
            f"{folder}: has {later[0].replace('_', ' ')} epochs after {old['config']['epochs']} others; with --epochs "
            f"{new['config'].get('epochs')} they would begin elsewhere. Leave the flag out, or begin a run with --init-from."
        )
    for name, value in old["config"].items():
        if name not in new["config"]:
            raise DataError(f"{folder}: is a run of another version, which had a flag {name}. Start a new run.")
        if name not in free and new["config"].get(name) != value:
            raise DataError(
                f"{folder}: was started with {name} = {value!r}, now {new['config'].get(name)!r}. Leave your flags "
                "out: it has its own."
            )
    if old.get("data") != new.get("data"):
        raise DataError(f"{folder}: the data changed since the run was started. Start a new run.")


def save_model(model: keras.Model, path: Path) -> None:
    """Save a `.keras` file atomically."""
    with replacing(path) as temporary:
        model.save(temporary)
    remote.push_or_warn(path.parent)


def finish(folder: Path) -> str:
    """Push a run that is complete, if it has a URL; return its name."""
    remote.push(folder)
    return remote.shown(folder)


def is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def read_run(folder: Path) -> dict[str, Any]:
    """What `open_run` wrote.

    Raises:
        DataError: the file is missing, or another.
    """
    path = folder / "config.json"
    with contextlib.suppress(OSError, ValueError):
        run = json.loads(path.read_text())
        if isinstance(run, dict) and isinstance(run.get("config"), dict):
            return run
    raise DataError(f"{path}: is not there, or none of a run. Start a new run, or put back the file.")


def resume_command(folder: Path) -> str:
    """What to type to continue a run."""
    with contextlib.suppress(DataError, KeyError):
        return shlex.join(
            ["python", "-m", f"apps.{read_run(folder)['application']}.train", "--resume", "--run-dir", remote.shown(folder)]
        )
    return "the first worker's command, with --resume"  # another worker has no folder of a run


def read_config(run: Path, **changed: Any) -> SimpleNamespace:
    """The flags of a run, but those that are changed."""
    return SimpleNamespace(**read_run(run)["config"] | changed)


def load_model(run: Path) -> keras.Model:
    """The model of a finished run.

    Raises:
        DataError: the folder holds no finished run.
    """
    path = run / "model.keras"
    if not path.is_file():
        raise DataError(f"{run}: holds no finished run, as there is no {path.name}. Pass a folder below runs/.")
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise DataError(f"{path}: can't be read ({str(error).splitlines()[0]}). Train again.") from None


def warm_up_and_decay(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Rise to `peak` over the first tenth of the steps, then fall along a cosine to a fiftieth of it."""
    warm_up = steps // 10
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), alpha=0.02, warmup_target=peak, warmup_steps=warm_up
    )


def optimizer_options(config: FitFlags, steps: int) -> dict[str, Any]:
    """The arguments that every optimizer gets from the flags of training."""
    return {
        "learning_rate": warm_up_and_decay(config.learning_rate, steps),
        "global_clipnorm": config.clip_norm,
        "weight_decay": config.weight_decay or None,  # decoupled from the gradient (Loshchilov & Hutter 2019): Adam is AdamW
        "use_ema": config.ema_momentum > 0,
        "ema_momentum": config.ema_momentum,
    }


def fit(
    model: keras.Model,
    batches: Callable[..., Batches],
    start_step: int,
    epochs: int,
    *,
    workers: Workers,
    checkpoint: Checkpoint,
    folder: Path,
    plot: Sequence[str],
    size: Callable[[tf.Tensor], tf.Tensor] = tf.size,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **arguments: Any,
) -> None:
    """Train from `start_step` to the last epoch, or until early stopping.

    Args:
        model: compiled, and restored if the run is resumed.
        batches: called with `start_step=`, a step of the run; returns the batches from there on.
        size: of targets, what the loss is a mean over; how workers share batches.
        folder: of the run; it gets the log, the curves of the metrics `plot`, and events for TensorBoard.
        callbacks: before the checkpoint, which needs what they log.
        arguments: more of `fit`.
    """
    first = batches(start_step=start_step)
    if tf.config.list_physical_devices("GPU"):
        print(f"{'step':<12}{'compiled by XLA' if model.jit_compile else 'not compiled by XLA'}")
    checkpoint.resume_command = resume_command(folder)
    for step, part in checkpoint.parts(start_step, first.steps_per_epoch, epochs):
        model.fit(
            workers.part(first if step == start_step else batches(start_step=step), size),
            shuffle=False,
            verbose=0,
            callbacks=workers.callbacks(
                AveragedValidation(),
                *callbacks,
                checkpoint,
                Progress(folder, checkpoint, plot),
                keras.callbacks.TensorBoard(
                    folder / "tensorboard" / checkpoint.folder.name.removeprefix(PHASES[0]), write_graph=False
                ),
            ),
            **part,
            **arguments,
        )
