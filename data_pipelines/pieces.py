"""SentencePiece without TensorFlow: the ids that `vocabulary.SubwordVocabulary` gives, from a process that starts at once."""

import re
from collections.abc import Sequence

# What RE2 calls \p{C}: control characters, marks of format, private use. Not the line feed: texts here are lines.
_OTHER = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u2064\u2066-\u206f\ue000-\uf8ff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f\U000f0000-\U000ffffd\U00100000-\U0010fffd]"
)


class Pieces:
    """A trained SentencePiece model.

    Args:
        model: of a `SubwordVocabulary`.
    """

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return self.processor.encode([self.clean(text) for text in texts], out_type=int, num_threads=1)

    @staticmethod
    def clean(text: str) -> str:
        return text if text.isascii() and text.isprintable() else _OTHER.sub(" ", text)

    @property
    def size(self) -> int:
        return self.processor.vocab_size()
