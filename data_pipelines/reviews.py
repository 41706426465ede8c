"""Reviews: labelled texts from any source, and the batches that a classifier trains on."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from data_pipelines import batching
from data_pipelines.batching import Batches
from data_pipelines.corpus import Corpus
from data_pipelines.embedded.reviews import embedded_reviews
from data_pipelines.prepared import Prepared, PreparedRows, is_prepared
from data_pipelines.remote import local
from data_pipelines.sources import DataError, check_name, find_splits, load_tfds, read_text, split_off
from data_pipelines.tables import SUFFIXES, Column, read_table
from data_pipelines.text_files import text_column
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

    def facts(self, split: str) -> dict[str, Any]:
        labels = dict(sorted(Counter(review.label for review in self.splits[split]).items()))
        return {**super().facts(split), "labels": labels, "empty_texts": self.empty_texts[split]}

    def label_counts(self, split: str) -> list[int]:
        """How many examples each class has."""
        counts = self.describe()[split]["labels"]
        return [counts.get(label, 0) for label in self.labels]

    def summary(self) -> dict[str, str]:
        empty = ", ".join(f"{count:,} in {name}" for name, count in self.empty_texts.items() if count)
        return {
            **super().summary(),
            "classes": ", ".join(self.labels),
            **({"empty texts": f"{empty}; kept, and predicted from no words"} if empty else {}),
        }


def load_reviews(
    source: str, validation: str | None = None, whole: bool = False, columns: Sequence[str | None] = (None, None)
) -> Reviews:
    """Reviews from `embedded`, `tfds:NAME[/config]` or a path.

    Args:
        source: a path is a table (see `data_pipelines.tables`) with columns `text` and `label`, or a folder with `train.*` and,
            if they exist, `dev.*`/`val.*`/`valid.*` and `test.*`. Without a validation file 10% of the training rows are
            split off, the same ones in every run; one single file also gives 10% for the test.
        validation: a file that names the rows of the training file (0 = first after the header) for validation.
        whole: for evaluation: nothing is split off, and there need be no training split.
        columns: the names of the two columns where they are others than the usual ones.

    Raises:
        DataError: a file, column, row, label or split that can't be used.
    """
    source = local(source)
    if is_prepared(source):
        return _from_prepared(Prepared.open(source, "sentiment_classification"))
    if source == "embedded":
        splits = {name: [Review(*pair) for pair in pairs] for name, pairs in embedded_reviews().items()}
    elif source.startswith("tfds:"):
        wanted = [column.wanted for column in _columns(columns)]
        splits = load_tfds(source.removeprefix("tfds:"), partial(_from_tfds, wanted), whole)
    else:
        splits = _from_path(Path(source), whole, columns)
    if validation is not None:
        chosen = validation_rows(Path(local(validation)), len(splits["train"]))
        splits |= {
            "train": [review for i, review in enumerate(splits["train"]) if i not in chosen],
            "validation": [splits["train"][i] for i in sorted(chosen)],
        }
    else:
        splits = split_off(splits, not Path(source).is_dir(), whole, group=lambda review: review.label)
    of = [splits["train"]] if "train" in splits else splits.values()
    labels = order_of_labels({review.label for reviews in of for review in reviews})
    checked = _checked(source, splits, labels)
    if not whole:
        check_classes(source, {name: {review.label for review in reviews} for name, reviews in splits.items()}, labels)
    return checked


def _from_prepared(prepared: Prepared) -> Reviews:
    labels = order_of_labels(prepared.manifest["groups"])  # as their numbers are in the shards
    files = review_files(prepared.folder, (None, None), whole=True)
    splits = {name: list(file._replace(known=labels).read()) for name, file in files.items()}
    return _checked(str(prepared.folder), splits, labels, prepared)


def _columns(names: Sequence[str | None]) -> list[Column]:
    return [text_column(names[0]), Column("--label-column", ("label", "sentiment", "class"), names[1])]


class ReviewFile(NamedTuple):
    """A table with a column of texts and one of labels."""

    path: Path
    columns: Sequence[Column]
    known: Collection[str] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self) -> Iterator[Review]:
        """The rows, some lines at a time; with labels that are `known`, if any are."""
        for number, (text, label) in read_table(self.path, self.columns):
            if not label.strip():
                raise DataError(f"{self.path}: row {number}: the label is empty. Give it a class, or remove the row.")
            check_name(label.strip(), f"{self.path}: row {number}: the label ")
            if self.known and label.strip() not in self.known:
                raise DataError(
                    f"{self.path}: row {number}: unknown label {label!r}; the training split has {sorted(self.known)}. "
                    "Mend the label, or add examples of it to the training split."
                )
            yield Review(text, label.strip())


def review_files(path: Path, columns: Sequence[str | None], whole: bool = False) -> dict[str, ReviewFile]:
    """The file of each split of a path; see `load_reviews`."""
    files = find_splits(path, SUFFIXES, whole) if path.is_dir() else {"train": path}
    return {name: ReviewFile(file, _columns(columns)) for name, file in files.items()}


def _from_path(path: Path, whole: bool, columns: Sequence[str | None]) -> dict[str, list[Review]]:
    splits: dict[str, list[Review]] = {}
    known: set[str] = set()
    for name, file in review_files(path, columns, whole).items():
        splits[name] = list(file._replace(known=known).read())
        if name == "train":
            known = {review.label for review in splits[name]}
            check_labels(known, len(splits[name]), str(file.path))
    return splits


def check_labels(labels: Collection[str], rows: int, source: str) -> None:
    """Raise if a column can't be one of classes: it has too many values.

    Raises:
        DataError: it has.
    """
    if len(labels) > MAX_CLASSES:
        raise DataError(
            f"{source}: {len(labels):,} different labels in {rows:,} rows; the limit is {MAX_CLASSES:,} classes. "
            "Check that the column of labels holds classes; --label-column names another."
        )


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


def validation_rows(path: Path, rows: int) -> set[int]:
    """The rows that a file names, of so many of the training file."""
    chosen = set()
    for number, line in enumerate(read_text(path).split(), start=1):
        if not line.isdecimal() or int(line) >= rows:
            raise DataError(f"{path}: row {number}: {line!r}; expected a row of the training file, 0 to {rows - 1}.")
        chosen.add(int(line))
    return chosen


def _checked(source: str, splits: dict[str, list[Review]], labels: list[str], prepared: Prepared | None = None) -> Reviews:
    empty = {name: sum(not review.text.strip() for review in reviews) for name, reviews in splits.items()}
    checked = Reviews(splits, labels, empty, prepared=prepared)
    return checked.check_not_empty(source, "Add rows, or give a larger file.")


def check_classes(source: str, counts: dict[str, Collection[str]], labels: Sequence[str]) -> None:
    """Raise if there is only one class, or if a split has no example of one, or of another one.

    Args:
        source: for the message.
        counts: the labels of each split.
        labels: of the training split.
    """
    for name, found in counts.items():
        missing = set(labels) - set(found)
        if name != "test" and missing:
            raise DataError(
                f"{source}: the {name} split has no example of the class {sorted(missing)[0]!r}. Add some, or remove the class."
            )
        unknown = set(found) - set(labels)
        if unknown:
            raise DataError(
                f"{source}: the {name} split has the class {sorted(unknown)[0]!r}, and the training split no example of it. Add "
                "some, or remove the class."
            )
    if len(labels) < 2:
        raise DataError(f"{source}: the only label is {labels[0]!r}. A classifier needs two or more classes.")


def order_of_labels(labels: Collection[str]) -> list[str]:
    """The order of the classes: numbers first."""
    return sorted(labels, key=_numbers_first)


def _numbers_first(label: str) -> tuple[int, int, str]:
    return (0, int(label), label) if label.isdecimal() else (1, 0, label)


class TrainingReviews(NamedTuple):
    """The training split as ids.

    Attributes:
        rows: in memory, ids (n, t) and classes (n,); or prepared on disk.
        counts: how many texts have each length.
    """

    rows: tuple[tf.RaggedTensor, tf.Tensor] | PreparedRows
    counts: list[int]


def training_reviews(reviews: Reviews, vocabulary: Vocabulary, max_length: int) -> TrainingReviews:
    """Encode the training split, unless it is prepared."""
    if reviews.prepared:
        rows = reviews.prepared.rows
        return TrainingReviews(rows, rows.counts().tolist())
    ids, classes = encode_reviews(reviews.splits["train"], reviews.labels, vocabulary, max_length)
    return TrainingReviews((ids, classes), np.bincount(ids.row_lengths().numpy()).tolist())


def encode_reviews(
    reviews: Sequence[Review], labels: Sequence[str], vocabulary: Vocabulary, max_length: int
) -> tuple[tf.RaggedTensor, tf.Tensor]:
    """Ids (n, t), of longer texts without their middle, and classes (n,)."""
    ids = encode([review.text for review in reviews], vocabulary, max_length)
    return ids, tf.constant([labels.index(review.label) for review in reviews], tf.int32)


def review_batches(
    rows: tuple[tf.RaggedTensor, tf.Tensor] | PreparedRows,
    *,
    boundaries: Sequence[int],
    batch_size: int,
    shuffle_seed: int | None = None,
    start_step: int = 0,
    service: str | None = None,
) -> Batches:
    """Batches of `(ids (n, t), classes (n,))`, bucketed by length.

    Args:
        rows: what `encode_reviews` gave, or what was prepared, which is for training.
        boundaries: the few lengths that batches have.
        batch_size: examples a batch; the last of each bucket may be smaller.
        shuffle_seed, start_step, service: see `batching.bucketed_batches`.
    """
    sizes = [batch_size] * len(boundaries)
    if isinstance(rows, PreparedRows):
        return batching.prepared_batches(rows, boundaries, sizes, shuffle_seed or 0, start_step, full_batches=False)
    return batching.bucketed_batches(rows, boundaries, sizes, shuffle_seed, start_step, service, full_batches=False)


def encode(texts: Sequence[str], vocabulary: Vocabulary, max_length: int) -> tf.RaggedTensor:
    """Ids of many texts as one ragged tensor, in blocks that bound the memory."""
    blocks = [
        vocabulary.tokens_to_ids(batching.truncate_middle(vocabulary.tokenize(tf.constant(texts[i : i + 1024])), max_length))
        for i in range(0, len(texts), 1024)
    ]
    return tf.concat(blocks, axis=0)
