"""Texts to tokens to ids and back, inside the graph: a vocabulary travels in the export.

`encode(texts)` is `tokens_to_ids(tokenize(texts))`, ragged; `detokenize(ids)` returns the texts. Id 0 is padding, id 1 an
unknown token; for decoders id 2 begins a sequence (BOS) and id 3 ends it (EOS). `encode` adds neither.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tensorflow as tf

from data_pipelines.files import write_whole
from data_pipelines.sources import DataError

PADDING, UNKNOWN, BOS, EOS = 0, 1, 2, 3

_SPACE = r"<[^<>]{1,40}>|[\p{Z}\p{C}]"  # HTML tags, odd spaces and control characters
_CONTRACTION = r" (n['’]t|['’](?:s|re|ve|ll|d|m))\b"  # of text that was split into tokens before: "do n't"
_TOKEN = r"\p{L}[\p{L}\p{M}]*(?:['’]\p{L}+)*|\p{N}+|[^\s\p{L}\p{N}]"


def split_words(texts: tf.Tensor) -> tf.RaggedTensor:
    """Lower-case words (with their apostrophes), numbers and single punctuation marks; HTML tags are dropped, and contractions
    that stand apart are joined.

    >>> split_words(tf.constant(["It's good,<br />isn't it?"]))
    <tf.RaggedTensor [[b"it's", b'good', b',', b"isn't", b'it', b'?']]>
    >>> split_words(tf.constant(["It is n't the dog 's"]))
    <tf.RaggedTensor [[b'it', b"isn't", b'the', b"dog's"]]>
    """
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")  # broken bytes become U+FFFD
    texts = tf.strings.lower(tf.strings.regex_replace(texts, _SPACE, " "), encoding="utf-8")
    texts = tf.strings.regex_replace(texts, _CONTRACTION, r"\1")
    return tf.strings.split(tf.strings.regex_replace(texts, f"({_TOKEN})", r"\1 "))


class WordVocabulary(tf.Module):
    """The most frequent words of the training split.

    Args:
        words: the most frequent first.
        has_bos_eos: ids 2 and 3 are `BOS` and `EOS`.

    >>> vocabulary = WordVocabulary.train(["good food", "good service"], size=4)
    >>> vocabulary.encode(tf.constant(["good weather"]))
    <tf.RaggedTensor [[2, 1]]>
    """

    kind = "words"
    split = staticmethod(split_words)

    def __init__(self, words: list[str], has_bos_eos: bool = False) -> None:
        super().__init__()
        self.words, self.has_bos_eos = words, has_bos_eos
        self.first = 4 if has_bos_eos else 2
        keys = tf.constant(words or [""], tf.string)
        values = tf.range(self.first, self.first + max(1, len(words)), dtype=tf.int64)
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), UNKNOWN)
        self.strings = tf.constant(["", "[?]", "", ""][: self.first] + words)

    @classmethod
    def train(cls, texts: Iterable[str], size: int, min_count: int = 1, has_bos_eos: bool = False) -> "WordVocabulary":
        """`size` counts padding, the unknown token, BOS and EOS. Ties go by spelling, so the order is always the same."""
        counts: Counter[bytes] = Counter()
        texts = list(texts)
        for start in range(0, len(texts), 1024):
            counts.update(cls.split(tf.constant(texts[start : start + 1024])).flat_values.numpy().tolist())
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        most = size - (4 if has_bos_eos else 2)
        return cls([word.decode("utf-8", "replace") for word, count in ranked[:most] if count >= min_count], has_bos_eos)

    @property
    def size(self) -> int:
        return len(self.words) + self.first

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return self.split(texts)

    def encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return self.tokens_to_ids(self.tokenize(texts))

    def tokens_to_ids(self, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
        return tf.cast(tf.ragged.map_flat_values(self.table.lookup, tokens), tf.int32)

    def detokenize(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """The texts of ragged ids, without BOS and EOS; no space before punctuation.

        >>> vocabulary = WordVocabulary(["a", "dog", "."], has_bos_eos=True)
        >>> print(vocabulary.detokenize(tf.ragged.constant([[4, 5, 6]])).numpy())
        [b'a dog.']
        """
        return tf.strings.regex_replace(self.continuation(ids), "^ ", "")

    def continuation(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """What ragged ids add to a text that is not empty."""
        words = tf.strings.reduce_join(tf.ragged.map_flat_values(self.ids_to_tokens, ids), axis=-1, separator=" ")
        return tf.strings.regex_replace(tf.where(words == "", "", " " + words), r" ([.,;:!?])", r"\1")

    def ids_to_tokens(self, ids: tf.Tensor) -> tf.Tensor:
        """The tokens of ids of any shape, as strings."""
        return tf.gather(self.strings, ids)

    def save(self, folder: Path, name: str = "vocabulary") -> None:
        saved = {"kind": self.kind, "words": self.words, "has_bos_eos": self.has_bos_eos}
        write_whole(folder / f"{name}.json", json.dumps(saved, ensure_ascii=False))


def split_at_spaces(texts: tf.Tensor) -> tf.RaggedTensor:
    return tf.strings.split(tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8"))  # broken bytes become U+FFFD


class SpaceVocabulary(WordVocabulary):
    """What stands between spaces, as it is: for text that is split into tokens already.

    >>> SpaceVocabulary.train(["a <unk> in the U.S."], size=9).tokenize(tf.constant(["the <unk> ."]))
    <tf.RaggedTensor [[b'the', b'<unk>', b'.']]>
    """

    kind = "spaces"
    split = staticmethod(split_at_spaces)

    def continuation(self, ids: tf.RaggedTensor) -> tf.Tensor:
        words = tf.strings.reduce_join(tf.ragged.map_flat_values(self.ids_to_tokens, ids), axis=-1, separator=" ")
        return tf.where(words == "", "", " " + words)


def split_characters(texts: tf.Tensor) -> tf.RaggedTensor:
    return tf.strings.unicode_split(texts, "UTF-8")  # broken bytes become U+FFFD


class CharacterVocabulary(WordVocabulary):
    """Characters.

    >>> CharacterVocabulary.train(["ab"], size=9).tokenize(tf.constant(["a b"]))
    <tf.RaggedTensor [[b'a', b' ', b'b']]>
    """

    kind = "characters"
    split = staticmethod(split_characters)

    def detokenize(self, ids: tf.RaggedTensor) -> tf.Tensor:
        return self.continuation(ids)

    def continuation(self, ids: tf.RaggedTensor) -> tf.Tensor:
        return tf.strings.reduce_join(tf.ragged.map_flat_values(self.ids_to_tokens, ids), axis=-1)


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
        names = self.lookup.id_to_string(tf.range(EOS + 1)).numpy().tolist()
        self.controls = [PADDING] + ([BOS, EOS] if names[BOS:] == [b"<s>", b"</s>"] else [])

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        size: int,
        *,
        model_type: str = "unigram",
        lowercase: bool = False,
        has_bos_eos: bool = False,
        drop_tags: bool = False,
    ) -> "SubwordVocabulary":
        """Train SentencePiece on texts.

        Args:
            texts: of the training split.
            size: counts padding, the unknown token, BOS and EOS; fewer pieces if the texts hold no more.
            model_type: `unigram`, `bpe`, `word` (parts between spaces) or `char`.
            lowercase: fold the case.
            has_bos_eos: ids 2 and 3 are `BOS` and `EOS`.
            drop_tags: replace HTML tags by spaces.

        Raises:
            DataError: sentencepiece can't be trained on these texts.
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
                bos_id=BOS if has_bos_eos else -1,
                eos_id=EOS if has_bos_eos else -1,
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

    def encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return self.tokens_to_ids(self.tokenize(texts))

    def tokens_to_ids(self, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
        """Ids; a text that says `</s>` has no end there: its unknown letters are the unknown token."""

        def lookup(tokens: tf.Tensor) -> tf.Tensor:
            ids = self.lookup.string_to_id(tokens)
            return tf.where(tf.reduce_any(ids[:, None] == self.controls, axis=1), UNKNOWN, ids)

        return tf.ragged.map_flat_values(lookup, tokens)

    def detokenize(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """The texts of ragged ids, without BOS and EOS."""
        return self.lookup.detokenize(ids)

    def continuation(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """What ragged ids add to a text that is not empty."""
        pieces = tf.strings.reduce_join(tf.ragged.map_flat_values(self.ids_to_tokens, ids), axis=-1)
        return tf.strings.regex_replace(pieces, "▁", " ")

    def ids_to_tokens(self, ids: tf.Tensor) -> tf.Tensor:
        """The tokens of ids of any shape, as strings."""
        return self.lookup.id_to_string(ids)

    def save(self, folder: Path, name: str = "vocabulary") -> None:
        write_whole(folder / f"{name}.model", self.model)
        write_whole(
            folder / f"{name}.json", json.dumps({"kind": self.kind, "drop_tags": self.drop_tags})
        )  # last: it's looked for


def _lines(texts: Iterable[str]) -> Iterable[str]:
    """sentencepiece skips lines of over 4,192 bytes: cut long texts at spaces, and what has none (Chinese, say) anywhere."""
    for text in texts:
        line = ""
        for word in text.replace("<br />", " ").split():
            for part in (word[i : i + 1000] for i in range(0, len(word), 1000)):
                if line and len(line) + len(part) > 1000:
                    yield line
                    line = ""
                line = f"{line} {part}".strip()
        if line:
            yield line


Vocabulary = WordVocabulary | SubwordVocabulary


def train_vocabulary(kind: str, texts: Sequence[str], size: int, min_count: int = 1, has_bos_eos: bool = False) -> Vocabulary:
    """A vocabulary from the texts of the training split: lower-cased `words` or `subwords`; or, as they are, `spaces`,
    `characters`, and pieces by `bpe` or `unigram`."""
    for words in (WordVocabulary, SpaceVocabulary, CharacterVocabulary):
        if kind == words.kind:
            return words.train(texts, size, min_count, has_bos_eos)
    if kind == "subwords":
        return SubwordVocabulary.train(texts, size, lowercase=True, drop_tags=True, has_bos_eos=has_bos_eos)
    return SubwordVocabulary.train(texts, size, model_type=kind, has_bos_eos=has_bos_eos)


def load_vocabulary(folder: Path, name: str = "vocabulary") -> Any:
    """What `save` wrote.

    Raises:
        FileNotFoundError: there is none.
    """
    saved = json.loads((folder / f"{name}.json").read_text())
    for kind in (WordVocabulary, SpaceVocabulary, CharacterVocabulary):
        if saved["kind"] == kind.kind:
            return kind(saved["words"], saved["has_bos_eos"])
    return SubwordVocabulary((folder / f"{name}.model").read_bytes(), saved["drop_tags"])


V = TypeVar("V", bound=Any)


def load_or_train(folder: Path, load: Callable[[Path], V], train: Callable[[], V]) -> V:
    """The vocabulary of a run: a run that resumes loads the one that it has, a new one trains and saves it.

    Args:
        folder: of the run.
        load: raises FileNotFoundError if the folder has none, as `load_vocabulary` does.
        train: makes it.
    """
    try:
        return load(folder)
    except FileNotFoundError:
        vocabulary = train()
        vocabulary.save(folder)
        return vocabulary
