"""Translations: pairs of sentences from any source, and the batches that a translator trains on."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from data_pipelines import batching
from data_pipelines.batching import Batches
from data_pipelines.cache import cached_arrays
from data_pipelines.corpus import Corpus
from data_pipelines.embedded.translations import embedded_translations
from data_pipelines.prepared import Prepared, PreparedRows, is_prepared
from data_pipelines.remote import local
from data_pipelines.sources import DataError, load_tfds, split_off
from data_pipelines.text_files import Pair, check_languages, translation_files
from data_pipelines.vocabulary import EOS, UNKNOWN, SubwordVocabulary, WordVocabulary, load_vocabulary

MODEL_TYPES = {"bpe": "bpe", "unigram": "unigram", "words": "word", "characters": "char"}
REMEDY = "Add some; validation and test, where they have no files, are cut off the training pairs, which takes 10 of these."
KNOWN_WORDS = 100_000  # of the source, the most frequent ones, so that an export can mark words that it has never seen


@dataclass(frozen=True)
class Translations(Corpus[Pair]):
    """Pairs of sentences by split; pairs with an empty side are counted, and skipped in the training split."""

    empty_pairs: dict[str, int]

    def rows(self, split: str) -> list[tuple[Any, ...]]:
        return [(pair.source,) for pair in self.splits[split]]

    def facts(self, split: str) -> dict[str, Any]:
        return {**super().facts(split), "empty_pairs": self.empty_pairs[split]}

    def summary(self) -> dict[str, str]:
        counts = [(f"{count:,} in {name}", name) for name, count in self.empty_pairs.items() if count]
        empty = ", ".join(f"{text}, {'skipped' if name == 'train' else 'kept'}" for text, name in counts)
        return {**super().summary(), **({"empty pairs": empty} if empty else {})}


def load_translations(
    source: str, source_lang: str, target_lang: str, whole: bool = False, columns: Sequence[str | None] = (None, None)
) -> Translations:
    """Pairs from `embedded`, `tfds:NAME[/config]` or a path.

    Args:
        source: a path is one of
            - a folder with `train.<lang>`, `val.<lang>` and `test.<lang>` (gzip too), where line n of each language belongs
              together, or with one such pair of files of any name, `Books.en-fr.en` and `Books.en-fr.fr` say;
            - what the names of such a pair have in common, `folder/Books.en-fr`;
            - a folder that `data_pipelines.prepare` wrote;
            - a table (see `data_pipelines.tables`) with a column for each language, or a folder with `train.*` and so on.
            A `.tsv` or `.txt` may lack the header: then the source is its first column, the target its second.
            Without a validation split it is cut off the training split, the same in every run.
        source_lang, target_lang: the endings of the files, or the names of the columns.
        whole: for evaluation: nothing is cut off, and there need be no training split.
        columns: the names of the two columns where they are others; their numbers (1, 2, …) where there is no header.

    Raises:
        DataError: a file, column, language or split that can't be used; files of different length.
    """
    source = local(source)
    if source_lang == target_lang:
        raise DataError(f"--source-lang and --target-lang are both {source_lang!r}. Name two columns or files of the data.")
    languages, alone, prepared = (source_lang, target_lang), True, None
    if is_prepared(source):
        prepared = Prepared.open(source, "translation")
        if languages != prepared.languages:
            flags = " ".join(f"--{side}-lang {lang}" for side, lang in zip(("source", "target"), prepared.languages))
            raise DataError(f"{source}: was prepared from {' to '.join(prepared.languages)}. Pass {flags}, or neither.")
        files, _ = translation_files(prepared.folder, *prepared.languages, whole=True)
        splits = {name: list(file.read()) for name, file in files.items()}
    elif source == "embedded":
        check_languages(*languages)
        try:
            embedded = embedded_translations(source_lang, target_lang)
        except ValueError as error:
            raise DataError(str(error)) from None
        splits = {name: [Pair(*pair) for pair in pairs] for name, pairs in embedded.items()}
    elif source.startswith("tfds:"):
        check_languages(*languages)
        splits = load_tfds(source.removeprefix("tfds:"), lambda row, _: _from_tfds(row, source_lang, target_lang), whole)
    else:
        files, alone = translation_files(Path(source), source_lang, target_lang, whole, columns)
        splits = {name: list(file.read()) for name, file in files.items()}
    splits = split_off(splits, alone, whole)
    empty = {name: sum(not pair.complete for pair in pairs) for name, pairs in splits.items()}
    if "train" in splits:
        splits["train"] = [pair for pair in splits["train"] if pair.complete]
    return Translations(splits, empty, prepared=prepared).check_not_empty(source, REMEDY)


def _from_tfds(row: dict[str, Any], *languages: str) -> Pair:
    missing = [language for language in languages if language not in row]
    if missing:
        raise DataError(f"tfds: no language {missing[0]!r}; the data set has {sorted(row)}. Pass --source-lang, --target-lang.")
    return Pair(*(row[language].decode("utf-8", "replace") for language in languages))


@dataclass(frozen=True)
class Vocabularies:
    """The vocabulary of each side; joint: one for both. `words` are those of the sources."""

    source: SubwordVocabulary
    target: SubwordVocabulary
    words: WordVocabulary

    @property
    def joint(self) -> bool:
        return self.source is self.target

    @classmethod
    def train(cls, pairs: Sequence[Pair], tokens: str, size: int, joint: bool) -> "Vocabularies":
        """From the training split; `tokens` is one of `MODEL_TYPES`; `size` is that of each vocabulary."""
        settings: dict[str, Any] = {"size": size, "model_type": MODEL_TYPES[tokens], "has_bos_eos": True}
        if joint:
            source = target = SubwordVocabulary.train([text for pair in pairs for text in pair], **settings)
        else:
            source, target = (SubwordVocabulary.train(side, **settings) for side in zip(*pairs))
        sources = [pair.source for pair in pairs]
        words = WordVocabulary.train(_as_pieces(sources, source), KNOWN_WORDS)
        return cls(source, target, words)

    def with_words_of(self, pairs: Sequence[Pair]) -> "Vocabularies":
        """The same tokens; the sources of these pairs are known, too."""
        new = WordVocabulary.train(_as_pieces([pair.source for pair in pairs], self.source), KNOWN_WORDS).words
        return Vocabularies(self.source, self.target, WordVocabulary(list(dict.fromkeys([*new, *self.words.words]))))

    @classmethod
    def load(cls, folder: Path) -> "Vocabularies":
        """What `save` wrote.

        Raises:
            FileNotFoundError: there is none.
        """
        words = load_vocabulary(folder, "words")
        if (folder / "joint.json").exists():
            both = load_vocabulary(folder, "joint")
            return cls(both, both, words)
        return cls(load_vocabulary(folder, "source"), load_vocabulary(folder, "target"), words)

    def save(self, folder: Path) -> None:
        self.source.save(folder, "joint" if self.joint else "source")
        if not self.joint:
            self.target.save(folder, "target")
        self.words.save(folder, "words")  # last: with it the vocabularies are complete

    def unknown(self, pieces: tf.RaggedTensor) -> tf.RaggedTensor:
        """Which pieces of a source are no tokens, or belong to a word that no training source has.

        Words are separated only in scripts with lower case: others may write no spaces between them.
        """
        flat, sentence = pieces.flat_values, pieces.value_rowids()
        apart = tf.strings.regex_full_match(flat, r"▁?[^\p{L}\p{M}'’]+")  # hyphens, brackets, numbers
        begins = tf.strings.regex_full_match(flat, "▁.*") | (sentence != tf.concat([[-1], sentence[:-1]], 0)) | apart
        begins |= tf.concat([[True], apart[:-1]], 0)[: tf.size(flat)]
        word = tf.cumsum(tf.cast(begins, tf.int32)) - 1
        count = tf.reduce_sum(tf.cast(begins, tf.int32))
        words = self.words.tokenize(tf.strings.unsorted_segment_join(tf.strings.regex_replace(flat, "▁", ""), word, count))
        new = (self.words.tokens_to_ids(words) == UNKNOWN) & tf.strings.regex_full_match(words, r".*\p{Ll}.*")
        is_new = tf.gather(tf.reduce_any(new, axis=1), word) & tf.strings.regex_full_match(flat, r".*\p{L}.*")
        return pieces.with_flat_values(is_new | (self.source.tokens_to_ids(pieces).flat_values == UNKNOWN))


def _as_pieces(texts: Sequence[str], vocabulary: SubwordVocabulary) -> Iterator[str]:
    """The texts as the pieces spell them, which is normalised."""
    for start in range(0, len(texts), 1024):
        pieces = vocabulary.tokenize(tf.constant(texts[start : start + 1024]))
        spelled = tf.strings.regex_replace(tf.strings.reduce_join(pieces, axis=1), "▁", " ")
        yield from (text.decode("utf-8", "replace") for text in spelled.numpy())


class Encoded(NamedTuple):
    """Pairs as ids: `source` as it is, `target` with EOS; and which pairs, by their place, were skipped: too long."""

    source: tf.RaggedTensor
    target: tf.RaggedTensor
    skipped: list[int]

    @property
    def lengths(self) -> list[int]:
        """Of the longer side of each pair."""
        return tf.maximum(self.source.row_lengths(), self.target.row_lengths()).numpy().tolist()


def encode(pairs: Sequence[Pair], vocabularies: Vocabularies, max_length: int) -> Encoded:
    """Ids of the pairs of which both sides, EOS included, have at most `max_length`."""
    source = vocabularies.source.encode(tf.constant([pair.source for pair in pairs]))
    target = vocabularies.target.encode(tf.constant([pair.target for pair in pairs]))
    target = tf.concat([target, tf.fill([len(pairs), 1], EOS)], axis=1)
    longest = tf.maximum(source.row_lengths(), target.row_lengths())
    fits = longest <= max_length
    skipped = np.flatnonzero(~fits.numpy()).tolist()
    return Encoded(tf.ragged.boolean_mask(source, fits), tf.ragged.boolean_mask(target, fits), skipped)


def _cached(make: Callable[[], Encoded], cache: Path | None, vocabularies: Vocabularies) -> Encoded:
    """What `make` gives, kept under the vocabularies' hash: a run that is resumed has its own, not those that are learned now."""
    models = hashlib.sha256(vocabularies.source.model + vocabularies.target.model).hexdigest()[:16]

    def arrays() -> dict[str, np.ndarray]:
        source, target, skipped = make()
        sides = {"source": source, "target": target}
        flat = {
            f"{name}.{part}": getattr(side, part).numpy() for name, side in sides.items() for part in ("values", "row_splits")
        }
        return {**flat, "skipped": np.array(skipped, np.int64)}

    found = cached_arrays(cache and cache / f"train-{models}.npz", arrays)
    source, target = (
        tf.RaggedTensor.from_row_splits(found[f"{name}.values"], found[f"{name}.row_splits"]) for name in ("source", "target")
    )
    return Encoded(source, target, found["skipped"].tolist())


class TrainingPairs(NamedTuple):
    """The training split as ids.

    Attributes:
        rows: in memory, or prepared on disk.
        counts: how many pairs have each length.
        too_long: pairs that were skipped now.
        unknown: the share of the source's tokens that are unknown.
    """

    rows: Encoded | PreparedRows
    counts: list[int]
    too_long: int
    unknown: float

    def targets(self, pairs: Sequence[Pair]) -> list[str]:
        """The targets of the rows in memory, by their number."""
        assert isinstance(self.rows, Encoded)
        skipped = {*self.rows.skipped}
        return [pair.target for i, pair in enumerate(pairs) if i not in skipped]


def training_pairs(data: Translations, vocabularies: Vocabularies, max_length: int, cache: Path | None = None) -> TrainingPairs:
    """Encode the training split, unless it is prepared, or in a `cache.cache_folder`."""
    if data.prepared:
        rows = data.prepared.rows
        return TrainingPairs(rows, rows.counts().tolist(), 0, data.prepared.manifest["unknown"])
    encoded = _cached(lambda: encode(data.splits["train"], vocabularies, max_length), cache, vocabularies)
    unknown = float(np.mean(encoded.source.flat_values.numpy() == UNKNOWN))
    return TrainingPairs(encoded, np.bincount(encoded.lengths).tolist(), len(encoded.skipped), unknown)


def translation_batches(
    encoded: Encoded | PreparedRows,
    *,
    max_tokens: int,
    boundaries: Sequence[int],
    shuffle_seed: int | None = None,
    start_step: int = 0,
    service: str | None = None,
    numbered: bool = False,
) -> Batches:
    """Batches of `({"source": (n, t), "target": (n, t)}, targets (n, t))`, bucketed by length.

    The target of the inputs is the targets shifted right, after BOS. Padding is 0.

    Args:
        encoded: what `encode` gave, or what was prepared, which is for training.
        max_tokens: a batch of rows of length t has `max_tokens // t` rows.
        boundaries: the few lengths that batches have.
        shuffle_seed, start_step, service: see `batching.bucketed_batches`.
        numbered: the inputs have `example` (n,), too: which row of what was encoded it is.
    """
    sizes = [max(1, max_tokens // boundary) for boundary in boundaries]

    def teacher_forcing(source: tf.Tensor, targets: tf.Tensor, *numbers: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        return {"source": source, "target": batching.shift_right(targets), **dict(zip(["example"], numbers))}, targets

    def make(batches: tf.data.Dataset) -> tf.data.Dataset:
        return batches.map(teacher_forcing)

    if isinstance(encoded, PreparedRows):
        return batching.prepared_batches(
            encoded, boundaries, sizes, shuffle_seed or 0, start_step, lambda place, *columns: teacher_forcing(*columns)
        )
    columns: tuple[Any, ...] = (encoded.source, encoded.target)
    columns += (tf.range(encoded.source.nrows(), dtype=tf.int32),) if numbered else ()
    return batching.bucketed_batches(columns, boundaries, sizes, shuffle_seed, start_step, service, make)
