"""The command that exports a finished run again, several as one, or the network alone in another format."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from apps.common import cli
from apps.common.evaluation import join_training_rows
from apps.common.export.converters import ENDINGS, write_network
from apps.common.export.model_card import write_card
from apps.common.export.saved_model import new_version
from apps.common.training import runs
from data_pipelines import remote
from data_pipelines.sources import DataError


def main(
    application: str,
    description: str,
    write: Callable[..., None],
    network: Callable[[keras.Model], Any],
    average: Callable[[Sequence[Path], Sequence[keras.Model]], keras.Model] | None = None,
    search: type | None = None,
) -> None:
    """The command `python -m apps.<application>.export`.

    Args:
        application: its name.
        description: for the model card.
        write: (folder, run, model) writes the SavedModel; with other flags of `search`, if they are typed.
        network: the inputs of a model, as in `write_network`.
        average: the models of several runs as one; None: the application has no such model.
        search: the dataclass of its flags; None: it has none.
    """
    parser = argparse.ArgumentParser(f"python -m apps.{application}.export", allow_abbrev=False)
    parser.add_argument(
        "run",
        nargs="+" if average else 1,
        help="folder of a finished run" + ("; several are averaged" if average else ""),
    )
    parser.add_argument("--format", choices=["savedmodel", *ENDINGS], default="savedmodel")
    parser.add_argument("--int8", action="store_true", help="of litert and onnx: weights of 8 bits; measure what it costs")
    parser.add_argument("--export-dir", help="folder for <version>/, by default where the run exported to")
    fields = [item.name for item in dataclasses.fields(search) if item.name != "validation_beam_size"] if search else []
    if search:
        cli.add_flags(parser.add_argument_group("search"), search, fields, "as in training")
    arguments = parser.parse_args()
    typed = {name: getattr(arguments, name) for name in fields if hasattr(arguments, name)}
    if search:
        cli.check_ranges(search(**typed))
    folders = [Path(remote.local(run)) for run in arguments.run]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise DataError(f"{' '.join(arguments.run)}: a run is named twice; its mean with itself is itself. Name it once.")
    for folder in filter(runs.is_run, folders):  # what is none is told below
        if (of := runs.read_run(folder).get("application", application)) != application:
            raise DataError(f"{folder}: is a run of {of}, not of {application}. Use apps.{of}.export.")
    models = [runs.load_model(folder) for folder in folders]
    model = average(folders, models) if average and len(models) > 1 else models[0]
    run = folders[0]
    if arguments.format != "savedmodel":
        if typed:
            raise DataError(f"--{next(iter(typed)).replace('_', '-')}: a network has no search. Leave the flag out, or --format.")
        if arguments.export_dir:
            raise DataError("--export-dir is for savedmodel; a network is written into the run's folder. Leave the flag out.")
        name = ("network" if len(models) == 1 else "ensemble") + "-int8" * arguments.int8
        path = run / f"{name}{ENDINGS[arguments.format]}"
        difference = write_network(model, network(model), path, arguments.format, arguments.int8)
        remote.push(run)
        print(
            f"{remote.shown(path)}  {path.stat().st_size / 1e6:.1f} MB, differs from the model by {difference:.0e} on an example"
        )
        return
    if arguments.int8:
        raise DataError("--int8 is for --format litert or onnx: TensorFlow's own 8-bit products are slower. Leave it out.")
    with new_version(arguments.export_dir or runs.read_config(run).export_dir) as version:
        write(version.folder, run, model, **typed)
        join_training_rows(version.folder, folders)
        size = write_card(version.folder, run, application, description, folders[1:], typed)
    print(f"export  {version}  {size}")


def refuse_different(runs: Sequence[Path], **facts: Sequence[Any]) -> None:
    """Runs can be one model only where they agree.

    Args:
        runs: their folders.
        facts: name -> what must be equal, of each run.

    Raises:
        DataError: it differs.
    """
    for i, run in enumerate(runs):
        differing = [name for name, each in facts.items() if each[i] != each[0]]
        if differing:
            raise DataError(
                f"{run}: its {', '.join(differing)} differ from those of {runs[0]}. Average runs on the same data with other "
                "seeds, or that begin with one run."
            )
