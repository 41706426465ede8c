"""Text to ids and back, inside the graph: what is learned here travels in the export.

A vocabulary has `tokenize(texts)`, which gives the tokens as a ragged tensor of strings, and `ids(tokens)`. Id 0 is
padding, id 1 an unknown token.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf

PADDING, UNKNOWN = 0, 1

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

    >>> vocabulary = WordVocabulary.learn(["good food", "good service"], size=4)
    >>> vocabulary.ids(vocabulary.tokenize(tf.constant(["good weather"])))
    <tf.RaggedTensor [[2, 1]]>
    """

    kind = "words"

    def __init__(self, words: list[str]) -> None:
        super().__init__()
        self.words = words
        keys = tf.constant(words or [""], tf.string)
        values = tf.range(2, 2 + max(1, len(words)), dtype=tf.int64)
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), UNKNOWN)

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, min_count: int = 1) -> "WordVocabulary":
        """`size` counts padding and the unknown token. Ties go by spelling, so the order is always the same."""
        counts: Counter[bytes] = Counter()
        texts = list(texts)
        for start in range(0, len(texts), 1024):
            counts.update(split_words(tf.constant(texts[start : start + 1024])).flat_values.numpy().tolist())
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls([word.decode() for word, count in ranked[: size - 2] if count >= min_count])

    @property
    def size(self) -> int:
        return len(self.words) + 2

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return split_words(texts)

    def ids(self, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
        return tf.cast(tf.ragged.map_flat_values(self.table.lookup, tokens), tf.int32)

    def save(self, folder: Path) -> None:
        (folder / "vocabulary.json").write_text(json.dumps({"kind": self.kind, "words": self.words}, ensure_ascii=False))


class SubwordVocabulary(tf.Module):
    """Subwords by sentencepiece (Kudo & Richardson 2018, https://arxiv.org/abs/1808.06226), unigram model.

    In the graph they are TensorFlow Text's `SentencepieceTokenizer`.
    """

    kind = "subwords"

    def __init__(self, model: bytes) -> None:
        import tensorflow_text

        super().__init__()
        self.model = model
        self.tokenizer = tensorflow_text.SentencepieceTokenizer(model, out_type=tf.string)
        self.lookup = tensorflow_text.SentencepieceTokenizer(model, out_type=tf.int32)

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, min_count: int = 1) -> "SubwordVocabulary":
        """`size` counts padding and the unknown token; sentencepiece takes fewer pieces if the texts hold no more."""
        import io

        import sentencepiece

        del min_count  # sentencepiece ranks by likelihood
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_lines(texts)),
            model_writer=model,
            vocab_size=size,
            hard_vocab_limit=False,
            pad_id=PADDING,
            unk_id=UNKNOWN,
            bos_id=-1,
            eos_id=-1,
            normalization_rule_name="nmt_nfkc_cf",
            minloglevel=2,
        )
        return cls(model.getvalue())

    @property
    def size(self) -> int:
        return int(self.lookup.vocab_size())

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
        return self.tokenizer.tokenize(tf.strings.regex_replace(texts, _SPACE, " "))

    def ids(self, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
        return tf.ragged.map_flat_values(self.lookup.string_to_id, tokens)

    def save(self, folder: Path) -> None:
        (folder / "vocabulary.json").write_text(json.dumps({"kind": self.kind}))
        (folder / "vocabulary.model").write_bytes(self.model)


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


def learn_vocabulary(kind: str, texts: Iterable[str], size: int, min_count: int = 1) -> Vocabulary:
    """A vocabulary of `kind` (`words` or `subwords`) from the texts of the training split."""
    kinds: dict[str, Any] = {"words": WordVocabulary, "subwords": SubwordVocabulary}
    return kinds[kind].learn(texts, size, min_count)


def load_vocabulary(folder: Path) -> Vocabulary:
    """What `save` wrote."""
    saved = json.loads((folder / "vocabulary.json").read_text())
    if saved["kind"] == "words":
        return WordVocabulary(saved["words"])
    return SubwordVocabulary((folder / "vocabulary.model").read_bytes())
