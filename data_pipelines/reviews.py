"""Reviews: labelled texts from any source, and the batches that a classifier trains on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from data_pipelines import batching
from data_pipelines.batching import Batches
from data_pipelines.corpus import Corpus
from data_pipelines.embedded.reviews import embedded_reviews
from data_pipelines.remote import local
from data_pipelines.sources import DataError, check_name, find_splits, load_tfds, read_text, split_off
from data_pipelines.tables import SUFFIXES, Column, read_table
from data_pipelines.vocabulary import Vocabulary

MAX_CLASSES = 1_000


class Review(NamedTuple):
    text: str
    label: str


@dataclass(frozen=True)
class Reviews(Corpus[Review]):
    """Labelled texts by split, with the names of the classes in the order of their ids; empty texts are kept and counted."""

    labels: list[str]
    empty_texts: dict[str, int]

    def rows(self, split: str) -> list[tuple[Any, ...]]:
        return [(review.text,) for review in self.splits[split]]

    def describe(self) -> dict[str, dict[str, Any]]:
        return {
            name: {
                **facts,
                "labels": dict(sorted(Counter(review.label for review in self.splits[name]).items())),
                "empty_texts": self.empty_texts[name],
            }
            for name, facts in super().describe().items()
        }

    def summary(self) -> dict[str, str]:
        empty = ", ".join(f"{count:,} in {name}" for name, count in self.empty_texts.items() if count)
        return {
            **super().summary(),
            "classes": ", ".join(self.labels),
            **({"empty texts": f"{empty}; kept, and predicted from no words"} if empty else {}),
        }


def load_reviews(
    source: str, validation_rows: str | None = None, whole: bool = False, columns: Sequence[str | None] = (None, None)
) -> Reviews:
    """Reviews from `embedded`, `tfds:NAME[/config]` or a path.

    Args:
        source: a path is a table (see `data_pipelines.tables`) with columns `text` and `label`, or a folder with `train.*` and,
            if they exist, `dev.*`/`val.*`/`valid.*` and `test.*`. Without a validation file 10% of the training rows are
            split off, the same ones in every run; one single file also gives 10% for the test.
        validation_rows: a file that names the rows of the training file (0 = first after the header) for validation.
        whole: for evaluation: nothing is split off, and there need be no training split.
        columns: the names of the two columns where they are others than the usual ones.

    Raises:
        DataError: a file, column, row, label or split that can't be used.
    """
    source = local(source)
    of_table = [_text(columns[0]), Column("--label-column", ("label", "sentiment", "class"), columns[1])]
    if source == "embedded":
        splits = {name: [Review(*pair) for pair in pairs] for name, pairs in embedded_reviews().items()}
    elif source.startswith("tfds:"):
        splits = load_tfds(source.removeprefix("tfds:"), partial(_from_tfds, [c.wanted for c in of_table]), whole)
    else:
        splits = _from_path(Path(source), whole, of_table)
    if validation_rows is not None:
        splits = _split_by_rows(splits, Path(local(validation_rows)))
    else:
        splits = split_off(splits, not Path(source).is_dir(), whole, group=lambda review: review.label)
    return _checked(source, splits, whole)


def _text(name: str | None) -> Column:
    return Column("--text-column", ("text", "review", "sentence"), name)


def _from_path(path: Path, whole: bool, columns: Sequence[Column]) -> dict[str, list[Review]]:
    files = find_splits(path, SUFFIXES, whole) if path.is_dir() else {"train": path}
    splits: dict[str, list[Review]] = {}
    known: set[str] = set()
    for name, file in files.items():
        rows = list(read_table(file, columns))
        for number, (_, label) in rows:
            if not label.strip():
                raise DataError(f"{file}: row {number}: the label is empty. Give it a class, or remove the row.")
            check_name(label.strip(), f"{file}: row {number}: the label ")
            if known and label.strip() not in known:
                raise DataError(
                    f"{file}: row {number}: unknown label {label!r}; the training split has {sorted(known)}. "
                    "Mend the label, or add examples of it to the training split."
                )
        if name == "train":
            known = {label.strip() for _, (_, label) in rows}
            if len(known) > MAX_CLASSES:
                raise DataError(
                    f"{file}: {len(known):,} different labels in {len(rows):,} rows; the limit is {MAX_CLASSES:,} classes. "
                    "Check that the column of labels holds classes; --label-column names another."
                )
        splits[name] = [Review(text, label.strip()) for _, (text, label) in rows]
    return splits


def _from_tfds(columns: Sequence[str], row: dict[str, Any], features: Any) -> Review:
    text, label = columns
    if text not in row or label not in row:
        raise DataError(
            f"tfds: the features are {sorted(row)}; expected {text} and {label}. Pass --text-column and --label-column, "
            "or choose another data set."
        )
    of = features[label]
    name = of.int2str(int(row[label])) if hasattr(of, "int2str") else str(row[label])
    return Review(row[text].decode("utf-8", "replace"), name)


def load_texts(path: str, text_column: str | None = None) -> list[str]:
    """Texts without labels: the `text` column of a table."""
    return [text for _, (text,) in read_table(Path(path), [_text(text_column)])]


def _split_by_rows(splits: dict[str, list[Review]], path: Path) -> dict[str, list[Review]]:
    train, chosen = splits["train"], set()
    for number, line in enumerate(read_text(path).split(), start=1):
        if not line.isdigit() or int(line) >= len(train):
            raise DataError(f"{path}: row {number}: {line!r}; expected a row of the training file, 0 to {len(train) - 1}.")
        chosen.add(int(line))
    return {
        **splits,
        "train": [review for i, review in enumerate(train) if i not in chosen],
        "validation": [train[i] for i in sorted(chosen)],
    }


def _checked(source: str, splits: dict[str, list[Review]], whole: bool) -> Reviews:
    of = [splits["train"]] if "train" in splits else splits.values()
    labels = sorted({review.label for reviews in of for review in reviews}, key=_numbers_first)
    empty = {name: sum(not review.text.strip() for review in reviews) for name, reviews in splits.items()}
    checked = Reviews(splits, labels, empty).check_not_empty(source, "Add rows, or give a larger file.")
    for name, reviews in splits.items():
        missing = set(labels) - {review.label for review in reviews}
        if name != "test" and missing and not whole:
            raise DataError(
                f"{source}: the {name} split has no example of the class {sorted(missing)[0]!r}. Add some, or remove the class."
            )
    if len(labels) < 2 and not whole:
        raise DataError(f"{source}: the only label is {labels[0]!r}. A classifier needs two or more classes.")
    return checked


def _numbers_first(label: str) -> tuple[int, int, str]:
    return (0, int(label), label) if label.isdigit() else (1, 0, label)


def review_batches(
    reviews: Sequence[Review],
    labels: Sequence[str],
    vocabulary: Vocabulary,
    *,
    max_length: int,
    boundaries: Sequence[int],
    batch_size: int,
    shuffle_seed: int | None = None,
    start_step: int = 0,
    service: str | None = None,
) -> Batches:
    """Batches of `(ids (n, t), classes (n,))`, bucketed by length.

    Args:
        reviews, labels: the examples and the names of the classes in the order of their ids.
        vocabulary: from the training split.
        max_length: longer texts lose their middle.
        boundaries: the few lengths that batches have.
        batch_size: examples a batch; the last of each bucket may be smaller.
        shuffle_seed, start_step, service: see `batching.bucketed_batches`.
    """
    ids = encode([review.text for review in reviews], vocabulary, max_length)
    classes = tf.constant([labels.index(review.label) for review in reviews], tf.int32)
    sizes = [batch_size] * len(boundaries)
    return batching.bucketed_batches((ids, classes), boundaries, sizes, shuffle_seed, start_step, service, full_batches=False)


def encode(texts: Sequence[str], vocabulary: Vocabulary, max_length: int) -> tf.RaggedTensor:
    """Ids of many texts as one ragged tensor, in blocks that bound the memory."""
    blocks = [
        vocabulary.tokens_to_ids(batching.truncate_middle(vocabulary.tokenize(tf.constant(texts[i : i + 1024])), max_length))
        for i in range(0, len(texts), 1024)
    ]
    return tf.concat(blocks, axis=0)
