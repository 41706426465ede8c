"""Passages of plain text, and their ids."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from data_pipelines.corpus import Corpus
from data_pipelines.embedded.reviews import embedded_reviews
from data_pipelines.prepared import Prepared, is_prepared
from data_pipelines.remote import local
from data_pipelines.sources import DataError, load_tfds, split_off
from data_pipelines.text_files import passage_files
from data_pipelines.vocabulary import EOS, Vocabulary


class Passages(Corpus[str]):
    """Passages by split: a passage is a line of a text file, or a row of a table."""

    def counts(self, examples: Sequence[str]) -> dict[str, int]:
        return {"passages": len(examples), "bytes": sum(len(text.encode()) for text in examples)}

    def fields(self, example: str) -> tuple[str]:
        return (example,)


def load_passages(source: str, whole: bool = False, text_column: str | None = None) -> Passages:
    """Passages from `embedded`, `tfds:NAME[/config]` or a path.

    Args:
        source: a path is a text file (`.txt`) with a passage a line, a table with a column of texts, gzip too, or a folder with
            `train.*` and, if they exist, `dev.*`/`val.*`/`valid.*` and `test.*`. Without a validation file 10% of the training
            passages are split off, the same ones in every run; a lone file also gives 10% for the test. Empty lines are left
            out.
        whole: for evaluation: nothing is split off, and there need be no training split.
        text_column: name of the column; default: `text`, `review` or `sentence`.

    Raises:
        DataError: no file, no such column, no passages.
    """
    source = local(source)
    prepared = None
    if is_prepared(source):
        prepared = Prepared.open(source, "language_model")
        files = passage_files(prepared.folder, None, whole=True) if any(prepared.folder.glob("*.jsonl")) else {}
        splits = {name: [text for (text,) in file.read()] for name, file in files.items()}
    elif source == "embedded":
        splits = {name: [text for text, _ in pairs] for name, pairs in embedded_reviews().items()}
    elif source.startswith("tfds:"):
        splits = load_tfds(source.removeprefix("tfds:"), _from_tfds, whole)
    else:
        files = passage_files(Path(source), text_column, whole)
        splits = {name: [text for (text,) in file.read()] for name, file in files.items()}
    splits = {name: [text for text in texts if text.strip()] for name, texts in splits.items()}
    passages = Passages(split_off(splits, not Path(source).is_dir(), whole), prepared=prepared)
    return passages.check_not_empty(source, "Write a passage a line, or give a larger file.")


def _from_tfds(row: dict[str, Any], _: Any) -> str:
    if "text" not in row:
        raise DataError(f"tfds: no feature 'text'; the data set has {sorted(row)}. Choose one with texts.")
    return row["text"].decode("utf-8", "replace")


def encode_passages(texts: Sequence[str], vocabulary: Vocabulary) -> tf.RaggedTensor:
    """The ids of each passage and EOS, (passages, tokens), in blocks that bound the memory."""
    blocks = []
    for start in range(0, len(texts), 1024):
        ids = vocabulary.encode(tf.constant(texts[start : start + 1024]))
        blocks.append(tf.concat([ids, tf.fill([ids.nrows(), 1], EOS)], axis=1))
    return tf.concat(blocks, axis=0)
