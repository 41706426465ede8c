"""Split texts into sentences inside the graph: a translator is trained on sentences, clients send texts."""

import tensorflow as tf

from data_pipelines.languages import ORDINALS, language_code

MOST_SENTENCES = 256  # of a text; what follows joins the last

_BREAK, _SPACE = "\u2029", "\u2028"  # a boundary, and a space that is none, for a while
_WORDS = (
    "mr mrs ms messrs dr prof st sr jr gen col lt sgt capt rev hon gov sen rep mt ft nos vol fig figs eq sec vs cf approx jan "
    "feb mar apr jun jul aug sept oct nov dec inc ltd corp e\\.g i\\.e hr fr bd abb bzw evtl ggf inkl usw z\\.b d\\.h u\\.a "
    "o\\.ä s\\.o mio mrd tsd mme mlle mgr av bd env p\\.ex sra srta dra sig dott ing"
).split()
_ABBREVIATIONS = f"(?i:{'|'.join(_WORDS)})|No|Nr|Co|MM|Ud|Uds|pp|ca|[A-HJ-Zdosuz]"  # initials, but "I." ends sentences
_BEFORE = rf"(^|[\s{_SPACE}{_BREAK}(\[\"“‘„«.])"
_CLOSING, _OPENING = "\"'”’»)\\]", "\"'“‘„«(\\[¿¡"


def split_sentences(texts: tf.Tensor, language: str) -> tf.RaggedTensor:
    """The sentences of each text (n,) -> (n, sentences); an empty text is one empty sentence.

    A sentence ends with `.`, `!`, `?` or `…` before a space and a capital, a digit or a letter without case; with the stops of
    Chinese, Japanese and the languages of India without a space; and with an empty line. It doesn't end after a common
    abbreviation, an initial, or, in languages that write ordinals so, a number of one or two digits. A text without any
    capital is cut before small letters, too.

    >>> split_sentences(tf.constant(["Dr. Ng left at 3 p.m. Why? No one knows."]), "en")
    <tf.RaggedTensor [[b'Dr. Ng left at 3 p.m.', b'Why?', b'No one knows.']]>
    """
    replace = tf.strings.regex_replace
    texts = replace(tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8"), r"\r\n?", "\n")
    texts = replace(texts, r"[^\P{C}\n\t]", " ")  # control characters
    texts = replace(replace(texts, f"[{_BREAK}{_SPACE}]", "\n"), r"[ \t]*\n[ \t]*\n\s*", _BREAK)
    texts = replace(texts, r"\s+", " ")
    texts = replace(texts, r"""([。！？｡]+["'」』”’）]*|[।॥]) ?""", rf"\1{_BREAK}")
    for _ in range(2):  # what stands before an abbreviation may be the end of another one
        texts = replace(texts, rf"{_BEFORE}({_ABBREVIATIONS})\. ", rf"\1\2.{_SPACE}")
    if language_code(language) in ORDINALS:
        texts = replace(texts, rf"(^|[\s{_SPACE}{_BREAK}(])(\d{{1,2}})\. ", rf"\1\2.{_SPACE}")
    cased, uncased = (
        replace(texts, rf"([.!?…؟۔]+[{_CLOSING}]*) ([{_OPENING}]*[{letters}\p{{Lo}}\d])", rf"\1{_BREAK}\2")
        for letters in (r"\p{Lu}\p{Lt}", r"\p{L}")
    )
    has_capitals = tf.strings.regex_full_match(texts, r"(?s).*[\p{Lu}\p{Lt}].*")
    texts = replace(tf.where(has_capitals, cased, uncased), _SPACE, " ")
    texts = replace(texts, rf"^[{_BREAK} ]+|[{_BREAK} ]+$", "")
    sentences = tf.strings.split(replace(texts, rf" *{_BREAK}[{_BREAK} ]*", _BREAK), _BREAK, maxsplit=MOST_SENTENCES - 1)
    return tf.ragged.map_flat_values(replace, sentences, _BREAK, " ")
