"""Write data for a student: the sources of the training split, each with what an export makes of it instead of its reference.

    python -m apps.translation.distil saved_models/translation --data multi30k/ --to distilled/
    python -m apps.translation.train --data distilled/ --init-from runs/translation/NAME

A model that is trained on the best translation of a beam search needs the beam less: its greedy translations come near it
(sequence-level distillation, Kim and Rush 2016, https://aclanthology.org/D16-1139). The student may also be smaller.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from apps.common import cli
from apps.common.export.saved_model import load_export
from apps.common.prediction import write_rows
from apps.translation.evaluate import add_data_flags, load_pairs, translate_all
from data_pipelines.sources import DataError
from data_pipelines.text_files import Pair


def student_pairs(served: Any, pairs: list[Pair], progress: bool = False) -> list[Pair]:
    """The sources with what the export makes of them; what it gives up, the empty translation, is left out."""
    translations = translate_all(served, [pair.source for pair in pairs], progress)
    return [Pair(pair.source, text) for pair, text in zip(pairs, translations, strict=True) if text.strip()]


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.translation.distil", allow_abbrev=False)
    parser.add_argument("export", help="the teacher: a version folder, or the folder above it for the newest version")
    add_data_flags(parser)
    parser.add_argument("--to", required=True, type=Path, help="a new folder, for --data of the student's training")
    flags = parser.parse_args()
    if flags.to.exists():
        raise DataError(f"--to {flags.to}: is there already. Name a new folder, or delete it.")
    served = load_export(flags.export, "translation")
    splits = load_pairs(flags).splits
    if "train" not in splits:
        raise DataError(f"--data {flags.data}: the pairs for training are prepared. Pass what they were prepared from.")
    students = student_pairs(served, splits["train"], progress=sys.stderr.isatty())
    changed = len({*students} - {*splits["train"]})
    flags.to.mkdir(parents=True)
    for name, pairs in reversed([*(splits | {"train": students}).items()]):  # without the training split it is refused
        rows = ({flags.source_lang: pair.source, flags.target_lang: pair.target} for pair in pairs)
        write_rows(flags.to / f"{name}.jsonl", rows)
    print(f"{len(students):,} pairs, {changed:,} that are not in {flags.data}\ndata  {flags.to}")


if __name__ == "__main__":
    cli.run(main)
