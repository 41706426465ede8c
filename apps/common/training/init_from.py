"""Begin a run with the weights and the vocabulary of another one: `--init-from`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from apps.common.training.checkpoint_files import newest_first
from apps.common.training.runs import PHASES, load_model, read_run
from data_pipelines import remote
from data_pipelines.sources import DataError
from data_pipelines.vocabulary import UNKNOWN


def initial_run(application: str, config: Any) -> Path | None:
    """The folder of the run to begin with; None: there is none, or the run is resumed and has checkpoints of its own.

    Args:
        application: that it must be of.
        config: with `init_from`; its flags `kept` are those that the weights depend on.

    Raises:
        DataError: it is no finished run of this application, or such a flag differs.
    """
    own = remote.mirror(config.run_dir or "")
    if config.init_from is None or (config.resume and any(newest_first(own / phase) for phase in PHASES)):
        return None
    folder = Path(remote.local(config.init_from))
    if not (folder / "model.keras").is_file():
        raise DataError(f"--init-from {folder}: holds no finished run. Pass the folder of one, below runs/{application}/.")
    run = read_run(folder)
    if run.get("application", application) != application:
        raise DataError(f"--init-from {folder}: is a run of {run['application']}, not of {application}. Pass another.")
    for name in config.kept:
        value, wanted = getattr(config, name), run["config"].get(name)
        if value != wanted:
            raise DataError(
                f"--{name.replace('_', '-')} {value}: the weights of --init-from {folder} are for {wanted}. Leave the flag out."
            )
    return folder


def copy_weights(weights: Sequence[keras.Variable], other: Sequence[keras.Variable], run: Path) -> None:
    """Give variables the values of those of another model, in their order. States that a model carries from batch to batch are
    left as they are.

    Args:
        weights: of a model, or of a layer.
        other: of the model of a run.
        run: for the message.

    Raises:
        DataError: their shapes differ.
    """
    mine, its = ([weight for weight in side if weight.name != "carried"] for side in (weights, other))
    if [tuple(w.shape) for w in mine] != [tuple(w.shape) for w in its]:
        differing = next(
            (f"{a.path} {tuple(a.shape)}, there {tuple(b.shape)}" for a, b in zip(mine, its) if a.shape != b.shape), ""
        )
        raise DataError(
            f"--init-from {run}: its model is another ({len(mine)} weights, there {len(its)}{differing and '; ' + differing}). "
            f"Take the flags of its model: --config {run / 'config.json'}."
        )
    for weight, value in zip(mine, its):
        weight.assign(value)


def begin_with(model: keras.Model, run: Path | None, optional: Sequence[keras.Variable] = ()) -> None:
    """Give a built model the weights of a run, if there is one. The `optional` ones stay as they are if its model lacks them."""
    if run is not None:
        its, kept = load_model(run).weights, {id(weight) for weight in optional}
        without = [weight for weight in model.weights if id(weight) not in kept]
        copy_weights(without if len(its) == len(without) else model.weights, its, run)


def init_facts(run: Path | None, ids: tf.RaggedTensor | float, embeddings: str | None = None) -> dict[str, str]:
    """For the summary of a run: where it begins, and how many tokens of its training split, or which share, are unknown there."""
    if run is None:
        return {}
    share = ids if isinstance(ids, float) else tf.reduce_mean(tf.cast(ids.flat_values == UNKNOWN, tf.float32)).numpy()
    facts = {"begins with": f"{run}; its vocabulary does not know {share:.1%} of the training tokens"}
    return facts | ({"embeddings": f"those of {run}; {embeddings} is not read again"} if embeddings else {})
