"""What stands beside an exported model: what it is for, where it comes from, what it is worth."""

import json
import os
import time
from pathlib import Path
from typing import Any

from apps.common.export import load_export, run_warm_up
from apps.common.runs import versions


def write_card(folder: Path, run: Path, application: str, description: str) -> str:
    """Load an export as a server would, write its `model_card.md`, and return its size and start-up time as a sentence.

    Args:
        folder: of a `Version`, with the SavedModel in it.
        run: of the training; what `open_run` wrote there and, if it exists, `metrics.json`.
        application: its name.
        description: what goes in, what comes out, and what it is not for.
    """
    begun = time.monotonic()
    served = load_export(str(folder))
    run_warm_up(folder, served)
    seconds = time.monotonic() - begun
    megabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    facts = json.loads((run / "config.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text()) if (run / "metrics.json").exists() else {}
    data = [f"{name}: " + ", ".join(f"{k} {v}" for k, v in part.items()) for name, part in facts["data"].items()]
    lines = [
        f"# {application}",
        "",
        description,
        "",
        *_markdown_table(
            [
                ("trained by", f"`{facts['command']}`"),
                ("trained on", f"`{facts['config']['data']}`; " + "; ".join(data)),
                ("trained with", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
                ("exported", time.strftime("%Y-%m-%d %H:%M %z")),
                ("exported with", ", ".join(f"{name} {version}" for name, version in versions().items())),
                ("size", f"{megabytes:.1f} MB"),
                ("start", f"{seconds:.1f} s to load and to answer the first request, {os.cpu_count()} processor cores"),
            ],
            ("", ""),
        ),
        "",
        "## Metrics",
        "",
        *_metrics_table(metrics),
        "",
        "## Signatures",
        "",
        *_signature_tables(served),
    ]
    (folder / "model_card.md").write_text("\n".join(lines).rstrip() + "\n")
    return f"{megabytes:.1f} MB, loads and answers in {seconds:.1f} s"


def _metrics_table(metrics: dict[str, Any]) -> list[str]:
    if not metrics:
        return ["None were measured."]
    names = dict.fromkeys(name for values in metrics.values() for name in values)
    rows = [(name, *(_number(values.get(name, "")) for values in metrics.values())) for name in names]
    table = _markdown_table(rows, ("", *metrics))
    return ["Measured through this export's signatures, or those of the run's first export.", "", *table]


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _signature_tables(served: Any) -> list[str]:
    lines = []
    for name in sorted(served.signatures, key=lambda name: (not name.startswith("serving"), name)):
        inputs, outputs = served.signatures[name].structured_input_signature[1], served.signatures[name].structured_outputs
        rows = [(side, n, s.dtype.name, s.shape) for side, specs in (("in", inputs), ("out", outputs)) for n, s in specs.items()]
        lines += [f"### {name}", "", *_markdown_table(rows, ("", "name", "type", "shape")), ""]
    return lines


def _markdown_table(rows: list, header: tuple) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
