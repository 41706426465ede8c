"""All runs in a table, or two of them side by side.

python -m apps.runs                                       # below runs/, the newest first
python -m apps.runs --sort accuracy                       # the best first
python -m apps.runs runs/translation/ONE runs/translation/OTHER    # the flags that differ, and the metrics
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from apps.applications import APPLICATIONS
from apps.common import cli
from apps.common.export.model_card import run_id
from apps.common.files import RUNS
from apps.common.training.checkpoint_files import newest_first
from apps.common.training.runs import PHASES, read_run
from apps.common.training.selection import is_lower_better
from data_pipelines.remote import local, mirror, shown
from data_pipelines.sources import DataError, visible

PLACES = ("run_dir", "resume", "export_dir")  # flags that say nothing of a model


class Run(NamedTuple):
    """What the folder of a run says of it.

    metrics: by split; of a run that isn't finished, those of its last epoch.
    state: "finished", or how far it is.
    """

    folder: Path
    application: str
    started: float
    flags: dict[str, Any]
    data: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    state: str
    minutes: float
    export: str


def find_runs(root: Path) -> Iterator[Path]:
    """The folders of the runs below a folder."""
    for folder, names, files in os.walk(root):
        if "config.json" in files:
            names.clear()
            yield Path(folder)


def read(folder: Path) -> Run:
    """A run, finished or not.

    Raises:
        DataError: the folder holds none.
    """
    run = read_run(folder)
    log = _lines(folder / "metrics.jsonl")
    metrics = {"validation": {name.removeprefix("val_"): v for name, v in (log or [{}])[-1].items() if name.startswith("val_")}}
    epochs = sum(run["config"].get(name, 0) for name in ("epochs", "fine_tune_epochs", "sequence_epochs"))
    state = f"epoch {len(log)} of {epochs}"
    if (folder / "metrics.json").is_file():
        metrics, state = json.loads((folder / "metrics.json").read_text()), "finished"
    return Run(
        folder,
        run.get("application", folder.parent.name),
        (folder / "config.json").stat().st_mtime,
        run["config"],
        run.get("data", {}),
        metrics,
        state,
        sum(_seconds(folder / phase) for phase in PHASES) / 60,
        _export(folder, mirror(run["config"].get("export_dir", ""))),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _seconds(folder: Path) -> float:
    """How long a phase has trained, from its newest checkpoint."""
    for path in newest_first(folder)[:1]:
        with np.load(path, allow_pickle=False) as file:
            return json.loads(str(file["state"])).get("seconds", 0.0)
    return 0.0


def _export(run: Path, root: Path) -> str:
    """The newest version that was exported from a run, not with others as one, and is still there."""
    wanted = run_id(run)
    cards = sorted(root.glob("*/model_card.md"), key=lambda card: card.stat().st_mtime, reverse=True)
    found = (card.parent for card in cards if wanted in (text := card.read_text()) and "\n| ensemble |" not in text)
    return next(map(shown, found), "")


def overview(runs: Sequence[Run], sort: str | None = None) -> str:
    """A table for each application, the newest run first, or the best by `sort`.

    Raises:
        DataError: no run has this metric.
    """
    known = sorted({name for run in runs for name, value in run.metrics.get("validation", {}).items() if _is_number(value)})
    if sort and sort not in known:
        raise DataError(f"--sort {sort}: no run has this validation metric. There are {', '.join(known)}.")
    tables = []
    for application in sorted({run.application for run in runs}):
        chosen = sorted((run for run in runs if run.application == application), key=lambda run: -run.started)
        measured = dict.fromkeys(name for run in chosen for name in run.metrics.get("validation", {}))
        main = [name for name in APPLICATIONS[application].metrics if name in measured] if application in APPLICATIONS else []
        names = list(dict.fromkeys([*([sort] if sort in measured else []), *(main or list(measured)[:2])]))
        if sort:
            chosen.sort(key=lambda run: _rank(run.metrics.get("validation", {}).get(sort), sort))
        rows = [
            [
                visible(shown(run.folder)),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started)),
                visible(str(run.flags.get("data", ""))),
                *(run.metrics.get("validation", {}).get(name, "") for name in names),
                run.state,
                f"{run.minutes:.1f}",
                visible(run.export),
            ]
            for run in chosen
        ]
        tables.append(cli.table(rows, [application, "started", "data", *names, "state", "minutes", "export"]))
    return "\n\n".join(tables)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _rank(value: Any, name: str) -> float:
    """The smaller the better; runs without the metric come last."""
    return float("inf") if not _is_number(value) else value if is_lower_better(name) else -value


def comparison(one: Run, other: Run) -> str:
    """The flags of two runs that differ, and their metrics.

    Raises:
        DataError: they are of two applications.
    """
    if one.application != other.application:
        raise DataError(
            f"{one.folder} is of {one.application}, {other.folder} of {other.application}. Compare two runs of one application."
        )
    flags = [name for name in dict.fromkeys([*one.flags, *other.flags]) if name not in PLACES]
    rows = [[f"--{n.replace('_', '-')}", *(str(run.flags.get(n, "")) for run in (one, other))] for n in flags]
    rows = [row for row in rows if row[1] != row[2]]
    if one.data != other.data:
        rows.append(["training data", *(run.data.get("train", {}).get("sha256", "")[:12] for run in (one, other))])
    rows += [["state", one.state, other.state], ["minutes", f"{one.minutes:.1f}", f"{other.minutes:.1f}"]]
    for split in dict.fromkeys([*one.metrics, *other.metrics]):
        found = [run.metrics.get(split, {}) for run in (one, other)]
        rows += [[f"{split} {name}", *(side.get(name, "") for side in found)] for name in {**found[0], **found[1]}]
    return cli.table(
        [[visible(str(c)) if isinstance(c, str) else c for c in row] for row in rows], ["", *map(_name, (one, other))]
    )


def _name(run: Run) -> str:
    return visible(shown(run.folder))


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.runs", allow_abbrev=False)
    parser.add_argument("folder", nargs="*", help="where the runs are (default: runs/); or two runs to compare")
    parser.add_argument("--sort", metavar="METRIC", help="of validation, the best first; default: the newest first")
    arguments = parser.parse_args()
    folders = [Path(local(folder)) for folder in arguments.folder] or [RUNS]
    if len(folders) == 2 and not arguments.sort:
        print(comparison(*map(read, folders)))
        return
    if len(folders) > 1:
        raise DataError(f"{len(folders)} folders; expected one with runs, or two runs without --sort. Leave some out.")
    runs = []
    for folder in sorted(find_runs(folders[0])):
        try:
            runs.append(read(folder))
        except (DataError, OSError, ValueError, KeyError) as error:
            print(f"{folder}: left out, as it can't be read ({error})")
    if not runs:
        raise DataError(f"{folders[0]}: no runs there. Train one, or pass the folder that holds them.")
    print(overview(runs, arguments.sort))


if __name__ == "__main__":
    cli.run(main)
