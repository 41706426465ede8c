"""Text to ids and back, inside the graph: what is learned here travels in the export.

A vocabulary has `tokenize(texts)`, which gives the tokens as a ragged tensor of strings, and `ids(tokens)`. Id 0 is
padding, id 1 an unknown token; where a decoder writes, id 2 opens a sequence and id 3 ends it.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from data_pipelines.files import write_whole
from data_pipelines.sources import DataError

PADDING, UNKNOWN, START, END = 0, 1, 2, 3

_SPACE = r"<[^<>]{1,40}>|[\p{Z}\p{C}]"  # HTML tags, odd spaces and control characters
_TOKEN = r"\p{L}[\p{L}\p{M}]*(?:['’]\p{L}+)*|\p{N}+|[^\s\p{L}\p{N}]"


def split_words(texts: tf.Tensor) -> tf.RaggedTensor:
    """Lower-case words (with their apostrophes), numbers and single punctuation marks; HTML tags are dropped.

    >>> split_words(tf.constant(["It's good,<br />isn't it?"]))
    <tf.RaggedTensor [[b"it's", b'good', b',', b"isn't", b'it', b'?']]>
    """
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")  # broken bytes become U+FFFD
    texts = tf.strings.lower(tf.strings.regex_replace(texts, _SPACE, " "), encoding="utf-8")
    return tf.strings.split(tf.strings.regex_replace(texts, f"({_TOKEN})", r"\1 "))


class WordVocabulary(tf.Module):
    """The most frequent words of the training split.

    Args:
        words: the most frequent first.
        markers: have `START` and `END`.

    >>> vocabulary = WordVocabulary.learn(["good food", "good service"], size=4)
    >>> vocabulary.ids(vocabulary.tokenize(tf.constant(["good weather"])))
    <tf.RaggedTensor [[2, 1]]>
    """

    kind = "words"

    def __init__(self, words: list[str], markers: bool = False) -> None:
        super().__init__()
        self.words, self.markers = words, markers
        self.first = 4 if markers else 2
        keys = tf.constant(words or [""], tf.string)
        values = tf.range(self.first, self.first + max(1, len(words)), dtype=tf.int64)
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), UNKNOWN)
        self.strings = tf.constant(["", "[?]", "", ""][: self.first] + words)

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, min_count: int = 1, markers: bool = False) -> "WordVocabulary":
        """`size` counts padding, the unknown token and the markers. Ties go by spelling, so the order is always the same."""
        counts: Counter[bytes] = Counter()
        texts = list(texts)
        for start in range(0, len(texts), 1024):
            counts.update(split_words(tf.constant(texts[start : start + 1024])).flat_values.numpy().tolist())
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        most = size - (4 if markers else 2)
        return cls([word.decode() for word, count in ranked[:most] if count >= min_count], markers)

    @property
    def size(self) -> int:
        return len(self.words) + self.first

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return split_words(texts)

    def ids(self, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
        return tf.cast(tf.ragged.map_flat_values(self.table.lookup, tokens), tf.int32)

    def join(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """The texts of ragged ids, without markers; no space before punctuation.

        >>> vocabulary = WordVocabulary(["a", "dog", "."], markers=True)
        >>> print(vocabulary.join(tf.ragged.constant([[4, 5, 6]])).numpy())
        [b'a dog.']
        """
        words = tf.ragged.map_flat_values(self.pieces, ids)
        return tf.strings.regex_replace(tf.strings.reduce_join(words, axis=-1, separator=" "), r" ([.,;:!?])", r"\1")

    def pieces(self, ids: tf.Tensor) -> tf.Tensor:
        """The words of ids of any shape, as strings."""
        return tf.gather(self.strings, ids)

    def save(self, folder: Path, name: str = "vocabulary") -> None:
        saved = {"kind": self.kind, "words": self.words, "markers": self.markers}
        write_whole(folder / f"{name}.json", json.dumps(saved, ensure_ascii=False))


class SubwordVocabulary(tf.Module):
    """Pieces of text by sentencepiece (Kudo & Richardson 2018, https://arxiv.org/abs/1808.06226), that join to the text again.

    In the graph they are TensorFlow Text's `SentencepieceTokenizer`.
    """

    kind = "subwords"

    def __init__(self, model: bytes, drop_tags: bool = False) -> None:
        import tensorflow_text

        super().__init__()
        self.model, self.drop_tags = model, drop_tags
        self.tokenizer = tensorflow_text.SentencepieceTokenizer(model, out_type=tf.string)
        self.lookup = tensorflow_text.SentencepieceTokenizer(model, out_type=tf.int32)

    @classmethod
    def learn(
        cls,
        texts: Iterable[str],
        size: int,
        *,
        model_type: str = "unigram",
        lowercase: bool = False,
        markers: bool = False,
        drop_tags: bool = False,
    ) -> "SubwordVocabulary":
        """Learn the pieces of the texts.

        Args:
            texts: of the training split.
            size: counts padding, the unknown token and the markers; fewer pieces if the texts hold no more.
            model_type: `unigram`, `bpe`, `word` (parts between spaces) or `char`.
            lowercase: fold the case.
            markers: have `START` and `END`.
            drop_tags: leave out HTML tags.

        Raises:
            DataError: sentencepiece can't learn from these texts.
        """
        import io

        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(_lines(texts)),
                model_writer=model,
                model_type=model_type,
                vocab_size=size,
                hard_vocab_limit=False,
                character_coverage=1.0,
                split_digits=True,
                pad_id=PADDING,
                unk_id=UNKNOWN,
                bos_id=START if markers else -1,
                eos_id=END if markers else -1,
                normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
                minloglevel=2,
            )
        except RuntimeError as error:
            raise DataError(
                f"vocabulary: {size} {model_type} pieces can't be learned from these texts ({str(error).splitlines()[-1]}). "
                "Pass another --vocabulary-size, or more text."
            ) from None
        return cls(model.getvalue(), drop_tags)

    @property
    def size(self) -> int:
        return int(self.lookup.vocab_size())

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
        return self.tokenizer.tokenize(tf.strings.regex_replace(texts, _SPACE if self.drop_tags else r"\p{C}", " "))

    def ids(self, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
        return tf.ragged.map_flat_values(self.lookup.string_to_id, tokens)

    def join(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """The texts of ragged ids, without markers."""
        return self.lookup.detokenize(ids)

    def pieces(self, ids: tf.Tensor) -> tf.Tensor:
        """The pieces of ids of any shape, as strings."""
        return self.lookup.id_to_string(ids)

    def save(self, folder: Path, name: str = "vocabulary") -> None:
        write_whole(folder / f"{name}.model", self.model)
        write_whole(
            folder / f"{name}.json", json.dumps({"kind": self.kind, "drop_tags": self.drop_tags})
        )  # last: it's looked for


def _lines(texts: Iterable[str]) -> Iterable[str]:
    """sentencepiece leaves out lines of over 4,192 bytes: cut long texts at spaces."""
    for text in texts:
        words, line = text.replace("<br />", " ").split(), ""
        for word in words:
            if len(line) + len(word) > 1000:
                yield line
                line = ""
            line = f"{line} {word}".strip()
        if line:
            yield line


Vocabulary = WordVocabulary | SubwordVocabulary


def learn_vocabulary(kind: str, texts: Sequence[str], size: int, min_count: int = 1, markers: bool = False) -> Vocabulary:
    """A lower-cased vocabulary of `kind` (`words` or `subwords`) from the texts of the training split."""
    if kind == "words":
        return WordVocabulary.learn(texts, size, min_count, markers)
    return SubwordVocabulary.learn(texts, size, lowercase=True, drop_tags=True, markers=markers)


def load_vocabulary(folder: Path, name: str = "vocabulary") -> Any:
    """What `save` wrote."""
    saved = json.loads((folder / f"{name}.json").read_text())
    if saved["kind"] == "words":
        return WordVocabulary(saved["words"], saved["markers"])
    return SubwordVocabulary((folder / f"{name}.model").read_bytes(), saved["drop_tags"])
