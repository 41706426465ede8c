"""The model card of an export: intended use, training data, metrics."""

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apps.common.export.saved_model import load_export, run_warm_up
from apps.common.training.runs import read_run, versions
from data_pipelines.embedded import EMBEDDED


def write_card(
    folder: Path,
    run: Path,
    application: str,
    description: str,
    others: Sequence[Path] = (),
    search: Mapping[str, Any] | None = None,
) -> str:
    """Load an export as a server would, write its `model_card.md`, and return its size and start-up time as a sentence.

    Args:
        folder: of a `Version`, with the SavedModel in it.
        run: of the training; what `open_run` wrote there and, if it exists, `metrics.json`.
        application: its name.
        description: what goes in, what comes out, and what it is not for.
        others: runs that are averaged with it.
        search: flags of the search that are not those of the run; its metrics are not those of the export then.
    """
    begun = time.monotonic()
    served = load_export(folder)
    run_warm_up(folder, served)
    seconds = time.monotonic() - begun
    megabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    runs = [run, *others]
    each = [dict(_training_facts(read_run(run), application)) for run in runs]
    joint = [(name, "; ".join(dict.fromkeys(facts[name] for facts in each))) for name in each[0]]
    average = [("ensemble", f"the mean of the probabilities of {len(runs)} models, of these runs")] if others else []
    facts = [
        *joint,
        *average,
        *([("search", " ".join(_typed(name, value) for name, value in search.items()))] if search else []),
        ("run", "; ".join(f"`{run.name}`, {run_id(run)}" for run in runs)),
        ("exported", time.strftime("%Y-%m-%d %H:%M %z")),
        ("exported with", _comma_separated(versions())),
        ("size", f"{megabytes:.1f} MB"),
        ("start", f"{seconds:.1f} s to load and to answer the first request, {os.cpu_count()} processor cores"),
    ]
    measured = not others and not search and (run / "metrics.json").exists()  # those of one run are not those of an ensemble
    metrics = json.loads((run / "metrics.json").read_text()) if measured else {}
    lines = [f"# {application}", "", description, "", *_markdown_table(facts, ("", "")), ""]
    lines += ["## Metrics", "", *_metrics_table(metrics), "", "## Signatures", "", *_signature_tables(served)]
    (folder / "model_card.md").write_text("\n".join(lines).rstrip() + "\n")
    return f"{megabytes:.1f} MB, loads and answers in {seconds:.1f} s"


def run_id(run: Path) -> str:
    """What tells a run from all others: a hash of its `config.json`."""
    return hashlib.sha256((run / "config.json").read_bytes()).hexdigest()[:12]


def card_summary(card: str) -> str:
    """Purpose and training data of a model, from its card."""
    data = re.search(r"^\| training data \| (.*) \|$", card, re.MULTILINE)
    return card.split("\n\n")[1] + (" It was trained on " + data[1].replace("\\|", "|") + "." if data else "")


def card_facts(card: str) -> dict[str, str]:
    """The first table of a card.

    >>> card_facts("# name\\n\\nPurpose.\\n\\n| size | 4.9 MB |\\n\\n## Metrics\\n\\n| bleu | 97.7 |")
    {'size': '4.9 MB'}
    """
    return dict(re.findall(r"^\| (\w.*?) \| (.*) \|$", card.partition("\n## ")[0], re.MULTILINE))


def _training_facts(run: dict[str, Any], application: str) -> list[tuple[str, str]]:
    data = "; ".join(f"{name}: {_comma_separated(part)}" for name, part in run["data"].items())
    config, examples = run["config"], run["data"]["train"]
    source = " ".join(str(config["data"]).split())
    kind = "piano_rolls" if config.get("music") == "rolls" else application
    if source == "embedded" and kind in EMBEDDED:
        text = EMBEDDED[kind]
    else:
        text = (f"{examples['examples']:,} examples" if "examples" in examples else "the training part") + f" of `{source}`"
    if config.get("backbone_weights") == "imagenet" and config.get("backbone") != "small-cnn":
        text += "; the encoder was pre-trained on ImageNet"
    return [
        ("training data", text),
        ("command", f"`{run['command']}`"),
        ("data source", f"`{source}`; {data}"),
        ("versions", _comma_separated(run["versions"])),
    ]


def _typed(name: str, value: Any) -> str:
    """A flag as it is typed.

    >>> _typed("split_sentences", False), _typed("beam_size", 3)
    ('--no-split-sentences', '--beam-size 3')
    """
    flag = name.replace("_", "-")
    return f"--{flag}" if value is True else f"--no-{flag}" if value is False else f"--{flag} {value}"


def _comma_separated(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _metrics_table(metrics: dict[str, Any]) -> list[str]:
    if not metrics:
        return ["None were measured."]
    names = dict.fromkeys(name for values in metrics.values() for name in values)
    rows = [(name, *(_format_number(values.get(name, "")) for values in metrics.values())) for name in names]
    table = _markdown_table(rows, ("", *metrics))
    return ["Measured through this export's signatures, or those of the run's first export.", "", *table]


def _format_number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def _signature_tables(served: Any) -> list[str]:
    lines = []
    for name in sorted(served.signatures, key=lambda name: (not name.startswith("serving"), name)):
        inputs, outputs = served.signatures[name].structured_input_signature[1], served.signatures[name].structured_outputs
        rows = [(side, n, s.dtype.name, s.shape) for side, specs in (("in", inputs), ("out", outputs)) for n, s in specs.items()]
        lines += [f"### {name}", "", *_markdown_table(rows, ("", "name", "type", "shape")), ""]
    return lines


def _markdown_table(rows: list, header: tuple) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in line) + " |" for line in lines]
