"""The phases of a run: cross entropy, then fine-tuning, then training by reward."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from apps.common.training import runs
from apps.common.training.checkpoints import Checkpoint
from apps.common.training.sharding import count_tokens
from apps.common.training.validation import Validation
from apps.common.training.workers import Workers
from data_pipelines.batching import Batches
from data_pipelines.sources import DataError


class Phase(NamedTuple):
    """Epochs with an optimizer of their own.

    Attributes:
        name: of the folder of its checkpoints, one of `runs.PHASES`.
        seed: of the order of its batches.
        epochs: of this phase alone.
        learning_rate: the highest of its schedule.
    """

    name: str
    seed: int
    epochs: int
    learning_rate: float

    @property
    def by_reward(self) -> bool:
        return self.name == "sequence"


def phases_to_train(phases: Sequence[Phase], init_from: str | None) -> list[Phase]:
    """The phases that have epochs. The first is that which a run can't be without, unless it begins with the weights of another.

    Raises:
        DataError: there is nothing to train, or nothing to begin with.
    """
    found = [phase for phase in phases if phase.epochs]
    if not phases[0].epochs and (not found or init_from is None):
        raise DataError("--epochs 0: needs --init-from, and epochs that follow: --sequence-epochs, say. Pass both, or --epochs.")
    return found


def fit_phases(
    phases: Sequence[Phase],
    compiled: Callable[[Phase], tuple[keras.Model, Callable[..., Batches]]],
    start: Callable[[], object] | None,
    *,
    config: Any,
    initial: Path | None,
    measure: Validation,
    validation: tf.data.Dataset,
    workers: Workers,
    folder: Path,
    plot: Sequence[str],
) -> Checkpoint:
    """Train each phase from the best weights of all before it; the model ends with the best ones of all.

    Args:
        compiled: the model of a phase, compiled, and what gives its batches (see `runs.fit`).
        start: called once before the first step, unless the run begins with another's weights.
        initial: the run whose weights it begins with. Before phases that don't train by cross entropy from the start they are
            kept unless an epoch is better.
        measure, validation: the metrics of each epoch; a batch of it for the checkpoint.
        workers, folder, plot: see `runs.fit`.

    Returns:
        The checkpoint of the last phase.
    """
    before = None
    for phase in phases:
        model, batches = compiled(phase)
        checkpoint = Checkpoint(folder / phase.name, f"val_{config.monitor}", config.patience)
        checkpoint.continue_phase(before)
        restored = checkpoint.restore(model, validation) if config.resume else None
        if before is None and restored is None and workers.is_chief:
            if start and not initial:
                start()
            if initial and phase.name != runs.PHASES[0]:
                measure.set_model(model)
                checkpoint.keep_unless_better(model, measure.values())
        runs.fit(
            model,
            batches,
            workers.broadcast_state(model, checkpoint, restored),
            phase.epochs,
            workers=workers,
            checkpoint=checkpoint,
            folder=folder,
            plot=[*plot, *["reward", "distinct"] * phase.by_reward],
            size=count_tokens,
            callbacks=[measure],
        )
        checkpoint.restore_best()
        before = checkpoint
    return checkpoint
