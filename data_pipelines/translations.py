"""Translations: pairs of sentences from any source, and the batches that a translator trains on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from data_pipelines import batching
from data_pipelines.batching import Batches
from data_pipelines.embedded.translations import embedded_translations
from data_pipelines.service import served
from data_pipelines.sources import DataError, check_name, find_splits, fingerprint, load_tfds, read_table, read_text, split_off
from data_pipelines.vocabulary import END, START, UNKNOWN, SubwordVocabulary, WordVocabulary, load_vocabulary

MODEL_TYPES = {"bpe": "bpe", "unigram": "unigram", "words": "word", "characters": "char"}
KNOWN_WORDS = 100_000  # of the source, the most frequent ones, so that an export can say which words it has never read


class Pair(NamedTuple):
    source: str
    target: str


@dataclass(frozen=True)
class Translations:
    """Pairs of sentences by split; pairs with an empty side are left out of the training split and counted."""

    splits: dict[str, list[Pair]]
    empty_pairs: dict[str, int] = field(default_factory=dict)

    def rows(self, split: str) -> list[tuple[str]]:
        """What makes an example the same as another."""
        return [(pair.source,) for pair in self.splits[split]]

    def describe(self) -> dict[str, Any]:
        """What was loaded, counted and hashed, for the run's config."""
        return {
            name: {"examples": len(pairs), "empty_pairs": self.empty_pairs.get(name, 0), "sha256": fingerprint(pairs)}
            for name, pairs in self.splits.items()
        }

    def summary(self, too_long: int, max_length: int) -> dict[str, str]:
        """How many pairs there are, and what is left out, for a person to read."""
        out = [f"{count:,} pair(s) with an empty side in {name}" for name, count in self.empty_pairs.items() if count]
        if too_long:
            out.append(f"{too_long:,} training pair(s) beyond {max_length} tokens")
        counts = ", ".join(f"{len(pairs):,} {name}" for name, pairs in self.splits.items())
        return {"examples": counts, **({"left out": "; ".join(out)} if out else {})}


def load_translations(source: str, source_lang: str, target_lang: str, whole: bool = False) -> Translations:
    """Pairs from `embedded`, `tfds:NAME[/config]` or a path.

    Args:
        source: a path is a folder with `train.<lang>`, `val.<lang>` and `test.<lang>` (gzip too) where line n of each
            language belongs together, or a `.tsv` or `.csv` file with a column for each language, named by its header; a
            folder may hold such files too. Without a validation split it is cut off the training split, the same in every run.
        source_lang, target_lang: the endings of the files, or the names of the columns.
        whole: for evaluation: nothing is cut off, and there need be no training split.

    Raises:
        DataError: a file, column, language or split that can't be used; files of different length.
    """
    for language in (source_lang, target_lang):
        check_name(language, "language ")
    if source == "embedded":
        try:
            embedded = embedded_translations(source_lang, target_lang)
        except ValueError as error:
            raise DataError(str(error)) from None
        splits = {name: [Pair(*pair) for pair in pairs] for name, pairs in embedded.items()}
    elif source.startswith("tfds:"):
        splits = load_tfds(source.removeprefix("tfds:"), lambda row, _: _from_tfds(row, source_lang, target_lang))
    elif Path(source).is_dir():
        splits = _from_folder(Path(source), whole, source_lang, target_lang)
    else:
        splits = {"train": _from_table(Path(source), source_lang, target_lang)}
    if "train" not in splits and not whole:
        raise DataError(f"{source}: has no training split. Choose another data set or file.")
    splits = split_off(splits, not Path(source).is_dir(), whole)
    empty = {name: sum(not (p.source.strip() and p.target.strip()) for p in pairs) for name, pairs in splits.items()}
    if "train" in splits:
        splits["train"] = [p for p in splits["train"] if p.source.strip() and p.target.strip()]
    for name, pairs in splits.items():
        if not pairs:
            raise DataError(f"{source}: the {name} split has no pairs. Add some, or give a larger file.")
    return Translations(splits, empty)


def _from_tfds(row: dict[str, Any], *languages: str) -> Pair:
    missing = [language for language in languages if language not in row]
    if missing:
        raise DataError(f"tfds: no language {missing[0]!r}; the data set has {sorted(row)}. Pass --source-lang, --target-lang.")
    return Pair(*(row[language].decode("utf-8", "replace") for language in languages))


def _from_folder(folder: Path, whole: bool, *languages: str) -> dict[str, list[Pair]]:
    if any(folder.glob("train.[tc]sv*")) or (whole and any(folder.glob("*.[tc]sv*"))):
        return {name: _from_table(path, *languages) for name, path in find_splits(folder, (".tsv", ".csv"), whole).items()}
    files = [find_splits(folder, (f".{language}",), whole) for language in languages]
    splits = {}
    for name in files[0] | files[1]:
        lines = []
        for language, paths in zip(languages, files):
            if name not in paths:
                raise DataError(f"{folder}: the {name} split has no .{language} file. Add it, or remove the other language's.")
            lines.append(read_text(paths[name]).removesuffix("\n").split("\n"))
        if len(lines[0]) != len(lines[1]):
            raise DataError(
                f"{folder}: {files[0][name].name} has {len(lines[0])} lines and {files[1][name].name} {len(lines[1])}; line n "
                "of each must belong together. Align the files anew."
            )
        splits[name] = [Pair(a.strip(), b.strip()) for a, b in zip(*lines)]
    return splits


def _from_table(path: Path, *languages: str) -> list[Pair]:
    return [Pair(a.strip(), b.strip()) for _, (a, b) in read_table(path, languages)]


@dataclass(frozen=True)
class Vocabularies:
    """How each side becomes ids; joint: the same for both. `words` are those of the sources."""

    source: SubwordVocabulary
    target: SubwordVocabulary
    words: WordVocabulary

    @property
    def joint(self) -> bool:
        return self.source is self.target

    @classmethod
    def learn(cls, pairs: Sequence[Pair], tokens: str, size: int, joint: bool) -> "Vocabularies":
        """From the training split; `tokens` is one of `MODEL_TYPES`; `size` is that of each vocabulary."""
        settings: dict[str, Any] = {"size": size, "model_type": MODEL_TYPES[tokens], "markers": True}
        if joint:
            source = target = SubwordVocabulary.learn([text for pair in pairs for text in pair], **settings)
        else:
            source, target = (SubwordVocabulary.learn(side, **settings) for side in zip(*pairs))
        sources = [pair.source for pair in pairs]
        words = WordVocabulary.learn(_as_pieces(sources, source), KNOWN_WORDS)
        return cls(source, target, words)

    @classmethod
    def load(cls, folder: Path) -> "Vocabularies | None":
        """What `save` wrote; None if there is nothing."""
        if not (folder / "words.json").exists():
            return None
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

        Words are told apart in scripts with small letters: others may write no spaces between them.
        """
        flat, sentence = pieces.flat_values, pieces.value_rowids()
        apart = tf.strings.regex_full_match(flat, r"▁?[^\p{L}\p{M}'’]+")  # hyphens, brackets, numbers
        begins = tf.strings.regex_full_match(flat, "▁.*") | (sentence != tf.concat([[-1], sentence[:-1]], 0)) | apart
        begins |= tf.concat([[True], apart[:-1]], 0)[: tf.size(flat)]
        word = tf.cumsum(tf.cast(begins, tf.int32)) - 1
        count = tf.reduce_sum(tf.cast(begins, tf.int32))
        words = self.words.tokenize(tf.strings.unsorted_segment_join(tf.strings.regex_replace(flat, "▁", ""), word, count))
        new = (self.words.ids(words) == UNKNOWN) & tf.strings.regex_full_match(words, r".*\p{Ll}.*")
        is_new = tf.gather(tf.reduce_any(new, axis=1), word) & tf.strings.regex_full_match(flat, r".*\p{L}.*")
        return pieces.with_flat_values(is_new | (self.source.ids(pieces).flat_values == UNKNOWN))


def _as_pieces(texts: Sequence[str], vocabulary: SubwordVocabulary) -> Iterator[str]:
    """The texts as the pieces spell them, which is normalised."""
    for start in range(0, len(texts), 1024):
        pieces = vocabulary.tokenize(tf.constant(texts[start : start + 1024]))
        spelled = tf.strings.regex_replace(tf.strings.reduce_join(pieces, axis=1), "▁", " ")
        yield from (text.decode("utf-8", "replace") for text in spelled.numpy())


class Encoded(NamedTuple):
    """Pairs as ids: `source` without markers, `target` with END; and which pairs, by their place, were too long."""

    source: tf.RaggedTensor
    target: tf.RaggedTensor
    left_out: list[int]

    @property
    def lengths(self) -> list[int]:
        """Of the longer side of each pair."""
        return tf.maximum(self.source.row_lengths(), self.target.row_lengths()).numpy().tolist()


def encode(pairs: Sequence[Pair], vocabularies: Vocabularies, max_length: int) -> Encoded:
    """Ids of the pairs of which both sides, END included, have at most `max_length`."""
    source = vocabularies.source.ids(vocabularies.source.tokenize(tf.constant([pair.source for pair in pairs])))
    target = vocabularies.target.ids(vocabularies.target.tokenize(tf.constant([pair.target for pair in pairs])))
    target = tf.concat([target, tf.fill([len(pairs), 1], END)], axis=1)
    longest = tf.maximum(source.row_lengths(), target.row_lengths())
    fits = longest <= max_length
    left_out = np.flatnonzero(~fits.numpy()).tolist()
    return Encoded(tf.ragged.boolean_mask(source, fits), tf.ragged.boolean_mask(target, fits), left_out)


def translation_batches(
    encoded: Encoded,
    *,
    max_tokens: int,
    boundaries: Sequence[int],
    shuffle_seed: int | None = None,
    start_step: int = 0,
    service: str | None = None,
) -> Batches:
    """Cache, shuffle each epoch, bucket by length, pad, shift and prefetch.

    The inputs are the source and the target so far, which opens with START; what follows each token of it is to be
    predicted. Padding is 0 everywhere.

    Args:
        encoded: what `encode` gave.
        max_tokens: a batch of rows of length t has `max_tokens // t` rows.
        boundaries: the few lengths that batches have.
        shuffle_seed: repeat for ever, in a new order each epoch that the seed decides; batches are full, so one may join
            the rows of two epochs. None: once, in the given order, with smaller batches at the end.
        start_step: leave out the batches of a run that is continued.
        service: `HOST:PORT` of a tf.data service that prepares the batches, in no fixed order; see `data_pipelines.service`.
    """
    sizes = [max(1, max_tokens // boundary) for boundary in boundaries]
    columns = (encoded.source, encoded.target)
    dataset = batching.batches_of_rows(columns, boundaries, sizes, shuffle_seed, start_step, service).map(_teacher_forcing)
    places = np.searchsorted(boundaries, encoded.lengths)
    counts = np.bincount(places, minlength=len(boundaries)) / np.array(sizes)  # batches of each length
    per_epoch = float(counts.sum()) if shuffle_seed is not None else float(np.ceil(counts).sum())
    return Batches(served(dataset, service).prefetch(4), max(1, round(per_epoch)))


def _teacher_forcing(source: tf.Tensor, following: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    start = tf.fill([tf.shape(following)[0], 1], START)
    return {"source": source, "target": tf.concat([start, following[:, :-1]], axis=1)}, following
