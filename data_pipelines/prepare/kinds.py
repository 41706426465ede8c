"""What is prepared for each application: the flags, the files, the vocabulary, and the ids of a row."""

import abc
import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from data_pipelines.corpus import Skipped
from data_pipelines.pieces import Pieces
from data_pipelines.prepared import MANIFEST, sha256_of
from data_pipelines.sources import DataError, held_out_places

# What needs TensorFlow is imported where it is used: the processes that encode import this module, and start without it.

LABEL = "label "  # before the name of a class, among the counts of a block
UNKNOWN, EOS = 1, 3  # of `data_pipelines.vocabulary`
SHARD_ROWS = 100_000
Row = tuple[str, ...]


class Block(NamedTuple):
    """Some rows as ids.

    Attributes:
        rows: by what each row that is kept is known again, see `corpus.Corpus.rows`.
        columns: the ids of each row, for each column.
        counts: of the rows, what is added up over all blocks.
        images: SHA-256, path and member of each picture.
        skipped: what can't be used, and why.
    """

    rows: list[Row]
    columns: list[Sequence[Sequence[int]]]
    counts: dict[str, int]
    images: Sequence[tuple[str, str, str]] = ()
    skipped: Sequence[tuple[str, str]] = ()


class Encoder(NamedTuple):
    """Makes a `Block` of rows; `size`: ids are smaller."""

    encode: Callable[[Sequence[Row]], Block]
    size: int


class TextEncoder(NamedTuple):
    """Makes the ids of texts; `size`: they are smaller."""

    encode: Callable[[Sequence[str]], Sequence[Sequence[int]]]
    size: int


class Kind(abc.ABC):
    """What an application trains on.

    Attributes:
        unit: what a row of the source is.
        trained_on: what a training row is, if it is another.
        flags: of the command, those that the ids follow from; the ones that training has, too, are taken from the folder.
        columns: of a row.
        sequences: how many of them, the first ones, have a length of their own; the others hold one number.
        by_length: the rows of a shard are sorted by length, for batches of rows that are as long; else they keep their order.
        takes_words: the vocabulary of a run learns the words of these rows, too.
        in_parts: a row ends where the next one is not read yet, so that a process can begin in the midst of a file.
    """

    application: ClassVar[str]
    unit: ClassVar[str]
    trained_on: ClassVar[str] = ""
    flags: tuple[str, ...]
    columns: ClassVar[int] = 1
    sequences: ClassVar[int] = 1
    by_length: ClassVar[bool] = True
    takes_words: ClassVar[bool] = False
    in_parts: ClassVar[bool] = True

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    @staticmethod
    @abc.abstractmethod
    def add_flags(parser: argparse._ArgumentGroup) -> None:
        """Those of this kind alone."""

    @abc.abstractmethod
    def files(self, source: Path) -> tuple[dict[str, Any], bool]:
        """What has `files` and `read()` for each split, and whether it is one file."""

    @abc.abstractmethod
    def fields(self, row: Row) -> dict[str, Any]:
        """A row of another split, as it is written there."""

    @abc.abstractmethod
    def learn(self, sample: list[Row], folder: Path) -> None:
        """Learn the vocabulary and write it."""

    @abc.abstractmethod
    def take_vocabulary(self, run: Path, folder: Path, sample: list[Row]) -> None:
        """Write the vocabulary of a run, or of prepared data; with the words of a sample, if the kind `takes_words`."""

    @abc.abstractmethod
    def describe(self, folder: Path) -> tuple[str, dict[str, Any]]:
        """The vocabulary, for a person to read; and the other splits, as a run describes its data."""

    @abc.abstractmethod
    def facts(self, rows: int, counts: dict[str, int], empty: int) -> dict[str, Any]:
        """The training split, as a run describes its data.

        Args:
            rows: that are kept.
            counts: of the blocks, added up.
            empty: rows that are not complete.
        """

    @staticmethod
    @abc.abstractmethod
    def encoder(folder: Path, flags: dict[str, Any], groups: dict[str, int]) -> Encoder:
        """In a process that encodes."""

    def finish(self, folder: Path, skipped: list[Skipped]) -> dict[str, int]:
        """Write what else belongs there; what was left out of the training split beside empty rows and those too long.

        Args:
            folder: with the shards.
            skipped: by the processes that encode.
        """
        return {}

    def is_complete(self, row: Row) -> bool:
        """Whether there is something to train on in a row."""
        return True

    def group(self, row: Row) -> str:
        """Splits are cut off each group in the same way."""
        return ""

    def check_groups(self, groups: dict[str, int]) -> None:  # noqa: B027
        """Raise if these can't be the groups of the training split: most kinds have one."""

    def held_out(self, groups: dict[str, int], splits: Sequence[str], alone: bool) -> dict[str, Any]:
        """The rows of the training file that belong to other splits, each as (group, place in it), or as the row's number.

        Args:
            groups: how many rows each has.
            splits: that there are.
            alone: whether all is one file.
        """
        return held_out_places(groups, splits, alone)

    def vocabulary_flags(self, run: Path) -> None:
        """Take the flags with which the vocabulary of a run was made."""
        try:
            file, part = (MANIFEST, "flags") if (run / MANIFEST).is_file() else ("config.json", "config")
            of = json.loads((run / file).read_text())[part]
            for name in {"tokenizer", "vocabulary", "vocabulary_size", "min_count"} & {*self.flags}:
                setattr(self.options, name, of[name])
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(f"--vocabulary-from {run}: is neither a run of {self.application} nor prepared data.") from None

    def key(self, source: dict[str, Any], version: int) -> dict[str, Any]:
        """What the prepared data follow from."""
        models = None
        if self.options.vocabulary_from is not None:
            run = Path(self.options.vocabulary_from)
            models = (
                {path.name: sha256_of(path) for path in sorted(run.iterdir()) if path.name in VOCABULARIES}
                if run.is_dir()
                else {}
            )
            if not models:
                raise DataError(f"--vocabulary-from {run}: holds no vocabulary. Pass the folder of a run, or of prepared data.")
            self.vocabulary_flags(run)
        flags = {name: getattr(self.options, name) for name in self.flags}
        return {"format": version, "application": self.application, "flags": flags, "source": source, "vocabulary_from": models}


# Of these one is written last, with which the vocabulary is whole.
COMPLETE = ("words.json", "vocabulary.json")
VOCABULARIES = ["words.json"]
VOCABULARIES += [f"{name}.{kind}" for name in ("joint", "source", "target", "vocabulary") for kind in ("model", "json")]


def ids_of(folder: Path, name: str) -> TextEncoder:
    """By a vocabulary."""
    saved = json.loads((folder / f"{name}.json").read_text())
    if saved["kind"] == "subwords" and not saved["drop_tags"]:
        pieces = Pieces((folder / f"{name}.model").read_bytes())
        return TextEncoder(pieces.encode, pieces.size)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import tensorflow as tf

    from data_pipelines.vocabulary import load_vocabulary

    vocabulary = load_vocabulary(folder, name)

    def encode(texts: Sequence[str]) -> Any:
        blocks = [vocabulary.encode(tf.constant(texts[i : i + 1024])) for i in range(0, len(texts), 1024)]
        return [row for ids in blocks for row in np.split(ids.flat_values.numpy(), ids.row_splits.numpy()[1:-1])]

    return TextEncoder(encode, vocabulary.size)


class PairsKind(Kind):
    application, unit, columns, sequences, takes_words = "translation", "pairs", 2, 2, True
    flags = tuple(
        "source_lang target_lang source_column target_column tokenizer vocabulary vocabulary_size max_length vocabulary_sample "
        "shard_rows".split()
    )

    @staticmethod
    def add_flags(parser: argparse._ArgumentGroup) -> None:
        parser.add_argument(
            "--source-lang", default="en", help="ending of the files, or name of the column, of the source (default: %(default)s)"
        )
        parser.add_argument("--target-lang", default="de", help="that of the target (default: %(default)s)")
        parser.add_argument(
            "--source-column", default=None, help="name of the column where it is another; its number if there is no header"
        )
        parser.add_argument("--target-column", default=None, help="that of the target")
        parser.add_argument(
            "--tokenizer",
            default="bpe",
            choices=["bpe", "unigram", "words", "characters"],
            help="unit of the vocabulary (default: %(default)s)",
        )
        parser.add_argument(
            "--vocabulary",
            default="joint",
            choices=["joint", "separate"],
            help="one for both languages, or one each (default: %(default)s)",
        )
        parser.set_defaults(vocabulary_size=6_000, max_length=80)

    @property
    def languages(self) -> tuple[str, str]:
        return self.options.source_lang, self.options.target_lang

    def files(self, source: Path) -> tuple[dict[str, Any], bool]:
        from data_pipelines.text_files import translation_files

        return translation_files(source, *self.languages, columns=(self.options.source_column, self.options.target_column))

    def is_complete(self, row: Row) -> bool:
        return all(side.strip() for side in row)

    def fields(self, row: Row) -> dict[str, str]:
        return dict(zip(self.languages, row))

    def learn(self, sample: list[Row], folder: Path) -> None:
        from data_pipelines.translations import Pair, Vocabularies

        options, pairs = self.options, [Pair(*row) for row in sample]
        Vocabularies.train(pairs, options.tokenizer, options.vocabulary_size, options.vocabulary == "joint").save(folder)

    def take_vocabulary(self, run: Path, folder: Path, sample: list[Row]) -> None:
        from data_pipelines.translations import Pair, Vocabularies

        Vocabularies.load(run).with_words_of([Pair(*row) for row in sample]).save(folder)

    def describe(self, folder: Path) -> tuple[str, dict[str, Any]]:
        from data_pipelines.translations import Vocabularies, load_translations

        vocabularies = Vocabularies.load(folder)
        sizes = [vocabularies.source.size, vocabularies.target.size][vocabularies.joint :]
        text = f"{' and '.join(f'{size:,}' for size in sizes)} {self.options.tokenizer}, {self.options.vocabulary}"
        return text, load_translations(str(folder), *self.languages, whole=True).describe() if _has_texts(folder) else {}

    def facts(self, rows: int, counts: dict[str, int], empty: int) -> dict[str, Any]:
        return {"examples": rows + counts["too_long"], "empty_pairs": empty}

    @staticmethod
    def encoder(folder: Path, flags: dict[str, Any], groups: dict[str, int]) -> Encoder:
        names = ["joint"] * 2 if (folder / "joint.json").is_file() else ["source", "target"]
        source, target = (ids_of(folder, name) for name in names)
        longest = flags["max_length"]

        def encode(rows: Sequence[Row]) -> Block:
            encoded = zip(rows, source.encode([a for a, _ in rows]), target.encode([b for _, b in rows]))
            fitting = [(row[:1], a, [*b, EOS]) for row, a, b in encoded if len(a) <= longest and len(b) < longest]
            kept = [row for row, _, _ in fitting]
            columns: list[Sequence[Sequence[int]]] = [[a for _, a, _ in fitting], [b for _, _, b in fitting]]
            return Block(kept, columns, {"too_long": len(rows) - len(kept)})

        return Encoder(encode, max(source.size, target.size))


def _has_texts(folder: Path) -> bool:
    return any(folder.glob("*.jsonl"))


class TextKind(Kind):
    """One text a row, by one vocabulary, the first column."""

    has_bos_eos: ClassVar[bool]

    def texts(self, sample: list[Row]) -> list[str]:
        return [row[0] for row in sample]

    def learn(self, sample: list[Row], folder: Path) -> None:
        from data_pipelines.vocabulary import train_vocabulary

        options, texts = self.options, self.texts(sample)
        vocabulary = train_vocabulary(
            options.tokenizer, texts, options.vocabulary_size, options.min_count, has_bos_eos=self.has_bos_eos
        )
        vocabulary.save(folder)

    def take_vocabulary(self, run: Path, folder: Path, sample: list[Row]) -> None:
        from data_pipelines.vocabulary import load_vocabulary

        load_vocabulary(run).save(folder)

    def vocabulary_text(self, folder: Path) -> str:
        from data_pipelines.vocabulary import load_vocabulary

        return f"{load_vocabulary(folder).size:,} {self.options.tokenizer}"


class PassagesKind(TextKind):
    """Their order is kept: those of a book follow one another."""

    application, unit, by_length, has_bos_eos = "language_model", "passages", False, True
    flags = ("text_column", "tokenizer", "vocabulary_size", "min_count", "vocabulary_sample", "shard_rows")

    @staticmethod
    def add_flags(parser: argparse._ArgumentGroup) -> None:
        kinds = ["words", "spaces", "bpe", "unigram", "characters"]
        parser.add_argument("--text-column", default=None, help="name of the column (default: text, review or sentence)")
        parser.add_argument("--tokenizer", default="words", choices=kinds, help="unit of the vocabulary (default: %(default)s)")
        parser.add_argument("--min-count", type=int, default=1, help="rarer words are unknown (default: %(default)s)")
        parser.set_defaults(vocabulary_size=20_000)

    def files(self, source: Path) -> tuple[dict[str, Any], bool]:
        from data_pipelines.text_files import passage_files

        return passage_files(source, self.options.text_column), not source.is_dir()

    def fields(self, row: Row) -> dict[str, str]:
        return {"text": row[0]}

    def describe(self, folder: Path) -> tuple[str, dict[str, Any]]:
        from data_pipelines.passages import load_passages

        return self.vocabulary_text(folder), load_passages(str(folder), whole=True).describe() if _has_texts(folder) else {}

    def facts(self, rows: int, counts: dict[str, int], empty: int) -> dict[str, Any]:
        return {"passages": rows, "bytes": counts["bytes"]}

    @staticmethod
    def encoder(folder: Path, flags: dict[str, Any], groups: dict[str, int]) -> Encoder:
        vocabulary = ids_of(folder, "vocabulary")

        def encode(rows: Sequence[Row]) -> Block:
            texts = [text for (text,) in rows]
            ids = [[*row, EOS] for row in vocabulary.encode(texts)]
            return Block([*rows], [ids], {"bytes": sum(len(text.encode()) for text in texts)})

        return Encoder(encode, vocabulary.size)


class ReviewsKind(TextKind):
    """Ids and class of each text."""

    application, unit, columns, has_bos_eos = "sentiment_classification", "texts", 2, False
    flags = tuple(
        "text_column label_column validation_rows tokenizer vocabulary_size min_count max_length vocabulary_sample "
        "shard_rows".split()
    )

    @staticmethod
    def add_flags(parser: argparse._ArgumentGroup) -> None:
        parser.add_argument("--text-column", default=None, help="name of the column (default: text, review or sentence)")
        parser.add_argument("--label-column", default=None, help="name of the column (default: label, sentiment or class)")
        parser.add_argument(
            "--validation-rows", default=None, help="file with the row numbers (0 = first) of the validation part"
        )
        parser.add_argument(
            "--tokenizer", default="words", choices=["words", "subwords"], help="unit of the vocabulary (default: %(default)s)"
        )
        parser.add_argument("--min-count", type=int, default=2, help="rarer words are unknown (default: %(default)s)")
        parser.set_defaults(vocabulary_size=30_000, max_length=400)

    def files(self, source: Path) -> tuple[dict[str, Any], bool]:
        from data_pipelines.reviews import review_files

        return review_files(source, (self.options.text_column, self.options.label_column)), not source.is_dir()

    def fields(self, row: Row) -> dict[str, str]:
        return {"text": row[0], "label": row[1]}

    def group(self, row: Row) -> str:
        return row[1]

    def check_groups(self, groups: dict[str, int]) -> None:
        from data_pipelines.reviews import check_classes, check_labels, order_of_labels

        self.labels = order_of_labels(groups)
        check_labels(groups, sum(groups.values()), self.options.source)
        check_classes(self.options.source, {}, self.labels)

    def held_out(self, groups: dict[str, int], splits: Sequence[str], alone: bool) -> dict[str, Any]:
        if self.options.validation_rows is None:
            return super().held_out(groups, splits, alone)
        from data_pipelines.reviews import validation_rows

        return {"validation": validation_rows(Path(self.options.validation_rows), sum(groups.values()))}

    def vocabulary_flags(self, run: Path) -> None:
        """None: a classifier that starts from a language model has no such flags."""
        self.flags = tuple(name for name in self.flags if name not in ("tokenizer", "vocabulary_size", "min_count"))

    def describe(self, folder: Path) -> tuple[str, dict[str, Any]]:
        from data_pipelines.reviews import check_classes, load_reviews

        reviews = load_reviews(str(folder), whole=True)
        check_classes(self.options.source, {"validation": {review.label for review in reviews.splits["validation"]}}, self.labels)
        return self.vocabulary_text(folder), reviews.describe()

    def facts(self, rows: int, counts: dict[str, int], empty: int) -> dict[str, Any]:
        from data_pipelines.reviews import check_classes

        labels = {name.removeprefix(LABEL): count for name, count in sorted(counts.items()) if name.startswith(LABEL)}
        check_classes(self.options.source, {"train": labels}, self.labels)
        return {"examples": rows, "labels": labels, "empty_texts": counts["empty_texts"]}

    @staticmethod
    def encoder(folder: Path, flags: dict[str, Any], groups: dict[str, int]) -> Encoder:
        from data_pipelines.reviews import order_of_labels

        vocabulary, classes = ids_of(folder, "vocabulary"), {label: n for n, label in enumerate(order_of_labels(groups))}
        longest = flags["max_length"]
        head = longest // 2

        def encode(rows: Sequence[Row]) -> Block:
            ids = vocabulary.encode([text for text, _ in rows])
            ids = [row if len(row) <= longest else [*row[:head], *row[len(row) - longest + head :]] for row in ids]
            counts = Counter(f"{LABEL}{label}" for _, label in rows)
            counts["empty_texts"] = sum(not text.strip() for text, _ in rows)
            return Block([row[:1] for row in rows], [ids, [[classes[label]] for _, label in rows]], counts)

        return Encoder(encode, max(vocabulary.size, len(classes)))


class CaptionsKind(TextKind):
    """A row for each caption: its ids, and the SHA-256 of its picture, by which the store of images names the array.

    Of the source a row is an image: name, path, member, captions. It ends where the row of another image was read, so each
    process reads the table from its beginning.
    """

    in_parts = False

    application, unit, trained_on, columns, has_bos_eos = "image_captioning", "images", "captions", 2, True
    flags = tuple(
        "image_column caption_column max_pixels tokenizer vocabulary_size min_count max_length vocabulary_sample "
        "shard_rows".split()
    )

    @staticmethod
    def add_flags(parser: argparse._ArgumentGroup) -> None:
        parser.add_argument("--image-column", default=None, help="name of the column (default: image, file_name or filename)")
        parser.add_argument("--caption-column", default=None, help="name of the column (default: caption or text)")
        parser.add_argument(
            "--max-pixels", type=int, default=50_000_000, help="pictures with more are skipped (default: %(default)s)"
        )
        parser.add_argument(
            "--tokenizer", default="words", choices=["words", "subwords"], help="unit of the vocabulary (default: %(default)s)"
        )
        parser.add_argument("--min-count", type=int, default=4, help="rarer words are unknown (default: %(default)s)")
        parser.set_defaults(vocabulary_size=10_000, max_length=30, vocabulary_sample=200_000, shard_rows=20_000)

    def files(self, source: Path) -> tuple[dict[str, Any], bool]:
        from data_pipelines.captions import caption_sources

        self.sources = caption_sources(source, (self.options.image_column, self.options.caption_column))
        return self.sources, not source.is_dir() or len(self.sources) == 1

    def fields(self, row: Row) -> dict[str, Any]:
        return {"image": row[0], "path": row[1], "member": row[2], "captions": row[3:]}

    def texts(self, sample: list[Row]) -> list[str]:
        return [caption for row in sample for caption in row[3:]]

    def finish(self, folder: Path, skipped: list[Skipped]) -> dict[str, int]:
        from data_pipelines.captions import Captions

        skipped = [*(item for source in self.sources.values() for item in source.all_skipped()), *skipped]
        Captions({}, skipped=skipped).write_skipped(folder / "skipped.tsv")
        self.skipped = sum(item.split == "train" for item in skipped)
        return {"skipped": self.skipped}

    def describe(self, folder: Path) -> tuple[str, dict[str, Any]]:
        from data_pipelines.captions import prepared_captions

        return self.vocabulary_text(folder), prepared_captions(folder).describe()

    def facts(self, rows: int, counts: dict[str, int], empty: int) -> dict[str, Any]:
        return {"images": counts["images"], "captions": rows, "skipped": self.skipped}

    @staticmethod
    def encoder(folder: Path, flags: dict[str, Any], groups: dict[str, int]) -> Encoder:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
        from data_pipelines.image_store import ImageFile, image_checker

        vocabulary, check = ids_of(folder, "vocabulary"), image_checker(flags["max_pixels"])
        longest = flags["max_length"]

        def encode(rows: Sequence[Row]) -> Block:
            images = [ImageFile(name, path, member) for name, path, member, *_ in rows]
            checked = [(image, row[3:], *found) for image, row, found in zip(images, rows, check(images))]
            good = [(image, captions, digest) for image, captions, digest, problem in checked if not problem]
            ids = vocabulary.encode([caption for _, captions, _ in good for caption in captions])
            digests = [
                numbers
                for _, captions, digest in good
                for numbers in [np.frombuffer(bytes.fromhex(digest), "<u2").tolist()] * len(captions)
            ]
            return Block(
                [(image.name, *captions) for image, captions, _ in good for _ in captions],
                [[[*row[: longest - 1], EOS] for row in ids], digests],
                {"images": len(good)},
                [(digest, image.path, image.member) for image, _, digest in good],
                [(image.name, problem) for image, _, _, problem in checked if problem],
            )

        return Encoder(encode, max(vocabulary.size, 1 << 16))


KINDS: dict[str, type[Kind]] = {kind.application: kind for kind in (PairsKind, PassagesKind, ReviewsKind, CaptionsKind)}
