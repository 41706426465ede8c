"""Measure an export on pictures with captions. The last line printed is one JSON object.

python -m apps.image_captioning.evaluate saved_models/image_captioning --data folder/ --split test
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from apps.common import cli
from apps.common.evaluation import SPLIT_HELP, choose_split, training_examples, warn_of_training_rows
from apps.common.export.saved_model import load_export
from apps.common.metrics import caption_metrics, cider_scores, diversity_metrics
from apps.common.prediction import check_output, write_rows
from apps.image_captioning.pictures import contact_sheet, draw_attention
from apps.image_captioning.serving import MOST_LARGEST
from data_pipelines.captions import Captions, Example, load_captions
from data_pipelines.corpus import Skipped
from data_pipelines.embedded.scenes import embedded_scenes, is_true
from data_pipelines.files import write_whole
from data_pipelines.image_store import ImageFile
from data_pipelines.sources import visible

BATCH_SIZE = MOST_LARGEST
ERROR_COLUMNS = ("image", "caption", "references", "cider")


def predict_batches(served: Any, images: Sequence[ImageFile], progress: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """The place of the first image of a batch and the export's outputs for the batch, as arrays."""
    for start in range(0, len(images), BATCH_SIZE):
        data = [image.read() for image in images[start : start + BATCH_SIZE]]
        outputs = served.signatures["serving_default"](image_bytes=tf.constant(data, tf.string))
        yield start, {name: value.numpy() for name, value in outputs.items()}
        if progress:
            print(f"\r{start + len(data):,} of {len(images):,}", end="", file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)


def caption_images(served: Any, examples: Sequence[Example], progress: bool = False) -> list[str]:
    """The best caption of each image; "" where it can't be decoded."""
    batches = predict_batches(served, [example.image for example in examples], progress)
    return [caption.decode("utf-8", "replace") for _, outputs in batches for caption in outputs["caption"]]


def without_unreadable(
    examples: Sequence[Example], served: Any, split: str, progress: bool = False
) -> tuple[list[Example], list[str], list[Skipped]]:
    """The examples whose picture can be read, their captions, and what is skipped, as in training."""
    outputs = [batch for _, batch in predict_batches(served, [example.image for example in examples], progress)]
    captions, problems = (
        [text.decode("utf-8", "replace") for batch in outputs for text in batch[n]] for n in ("caption", "error")
    )
    each = list(zip(examples, captions, problems, strict=True))
    skipped = [Skipped(split, example.image.name, problem.partition(": ")[2]) for example, _, problem in each if problem]
    return [e for e, _, problem in each if not problem], [c for _, c, problem in each if not problem], skipped


def measure(
    source: str, captions: Sequence[str], examples: Sequence[Example], training: Sequence[Example] | None
) -> dict[str, float]:
    """Metrics against the references, and of diversity; of embedded scenes also the fraction of captions that are true, for all
    scenes and for those with a pair of shapes that no training scene has.

    Args:
        training: what the export was trained on, if it is known.
    """
    metrics = caption_metrics(captions, [example.captions for example in examples])
    known = None if training is None else [caption for example in training for caption in example.captions]
    metrics |= diversity_metrics(captions, known)
    if source == "embedded":
        scenes = {scene.name: scene for part in embedded_scenes().values() for scene in part}
        correct = np.array([is_true(c, scenes[e.image.name]) for c, e in zip(captions, examples)])
        unseen = np.array([scenes[e.image.name].is_unseen for e in examples])
        metrics |= {"caption_accuracy": float(correct.mean())}
        if unseen.any():
            metrics |= {"caption_accuracy_unseen": float(correct[unseen].mean())}
    return metrics


def errors(captions: Sequence[str], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The captions that none of the references is, the lowest CIDEr-D first."""
    scores = cider_scores(captions, [example.captions for example in examples])
    found = [
        {"image": e.image.name, "caption": caption, "references": list(e.captions), "cider": round(float(score), 4)}
        for e, caption, score in zip(examples, captions, scores, strict=True)
        if caption not in e.captions
    ]
    return sorted(found, key=lambda row: row["cider"])


def report(served: Any, source: str, data: Captions, folder: Path) -> dict[str, dict[str, float]]:
    """Measure an export on all splits but the training split; print and write the metrics; plot contact sheets and attention."""
    metrics = {}
    for split, examples in data.splits.items():
        if split != "train":
            captions = caption_images(served, examples)
            metrics[split] = measure(source, captions, examples, data.splits.get("train"))
            contact_sheet(examples, captions, folder / f"contact_sheet_{split}.png")
    write_whole(folder / "metrics.json", cli.as_json(metrics))
    rows = [[name, *(metrics[split][name] for split in metrics)] for name in metrics["validation"]]
    print("\n" + cli.table(rows, ["metric", *metrics]) + "\n")
    few = data.splits["validation"][:3]
    for n, (example, caption) in enumerate(zip(few, caption_images(served, few)), start=1):
        print(f"{example.image.name}  {caption}")
        if caption and "attention" in served.signatures["serving_default"].structured_outputs:
            draw_attention(served, example.image.read(), folder / f"attention_{n}.png")
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.image_captioning.evaluate", allow_abbrev=False)
    parser.add_argument("export", help="a version folder, or the folder above it for the newest version")
    parser.add_argument("--data", required=True, help="as in training")
    parser.add_argument("--image-column", default=None, help="as in training")
    parser.add_argument("--caption-column", default=None, help="as in training")
    parser.add_argument("--split", default=None, help=SPLIT_HELP)
    parser.add_argument("--errors", type=Path, help="write the captions that no reference is to this .csv or .jsonl")
    arguments = parser.parse_args()
    if arguments.errors:
        check_output("--errors", arguments.errors, overwrite=True)
    load = partial(load_captions, arguments.data, columns=(arguments.image_column, arguments.caption_column))
    data, split = choose_split(load, arguments.data, arguments.split)
    served = load_export(arguments.export, "image_captioning")
    warn_of_training_rows(arguments.export, data.rows(split), split)
    examples, captions, skipped = without_unreadable(data.splits[split], served, split, progress=sys.stderr.isatty())
    read = Captions({split: examples}, skipped=[*(item for item in data.skipped if item.split == split), *skipped])
    if read.check_not_empty(arguments.data, "Check the pictures.").skipped:
        print(f"{'skipped':<12}{visible(read.summary()['skipped'])}")
    metrics = measure(arguments.data, captions, examples, training_examples(arguments.export, data))
    print(cli.table([[name, value] for name, value in metrics.items()], ["metric", split]))
    if arguments.errors:
        found = errors(captions, examples)
        write_rows(arguments.errors, found, ERROR_COLUMNS)
        print(f"\n{len(found):,} errors  {arguments.errors}")
    print(cli.as_json({"split": split, **metrics}))


if __name__ == "__main__":
    cli.run(main)
