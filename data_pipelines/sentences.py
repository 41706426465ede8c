"""Texts to sentences inside the graph: a translator learned from pairs of sentences, people send texts."""

import tensorflow as tf

MOST_SENTENCES = 64  # of a text; what follows joins the last

# Languages that write ordinal numbers with a period, as in German "3. März".
ORDINALS = frozenset("bs cs da de deu deutsch et fi fo ger german hr hu is lb lv me mk nb nn no pl sk sl sr tr".split())

_BREAK, _SPACE = "\u2029", "\u2028"  # a boundary, and a space that is none, for a while
_ABBREVIATIONS = (  # without "I", which ends sentences
    (
        "Mr Mrs Ms Messrs Dr Prof St Sr Jr Gen Col Lt Sgt Capt Rev Hon Gov Sen Rep Mt Ft No Nos Vol Fig Figs Eq Sec pp vs cf ca "
        "approx Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec Inc Ltd Co Corp e\\.g i\\.e "  # English
        "Hr Fr Nr Bd Abb Str bzw evtl ggf inkl usw z\\.B d\\.h u\\.a o\\.ä s\\.o Mio Mrd Tsd "  # German
        "Mme Mlle MM Mgr Me av bd env p\\.ex Sra Srta Ud Uds Dra Sig Dott Ing [A-HJ-Zdosuz]"  # Romance languages; initials
    ).split()
)
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
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
    texts = replace(replace(texts, f"[{_BREAK}{_SPACE}\r]", "\n"), r"[ \t]*\n[ \t]*\n\s*", _BREAK)
    texts = replace(texts, r"\s+", " ")
    texts = replace(texts, r"([。！？｡]+[」』”’）]*|[।॥]) ?", rf"\1{_BREAK}")
    texts = replace(texts, rf"\b({'|'.join(_ABBREVIATIONS)})\. ", rf"\1.{_SPACE}")
    if language.lower().replace("_", "-").split("-")[0] in ORDINALS:
        texts = replace(texts, r"\b(\d{1,2})\. ", rf"\1.{_SPACE}")
    cased, uncased = (
        replace(texts, rf"([.!?…؟۔]+[{_CLOSING}]*) ([{_OPENING}]*[{letters}\p{{Lo}}\d])", rf"\1{_BREAK}\2")
        for letters in (r"\p{Lu}\p{Lt}", r"\p{L}")
    )
    has_capitals = tf.strings.regex_full_match(texts, r"(?s).*[\p{Lu}\p{Lt}].*")
    texts = replace(tf.where(has_capitals, cased, uncased), _SPACE, " ")
    texts = replace(texts, rf"^[{_BREAK} ]+|[{_BREAK} ]+$", "")
    sentences = tf.strings.split(replace(texts, rf" *{_BREAK}[{_BREAK} ]*", _BREAK), _BREAK, maxsplit=MOST_SENTENCES - 1)
    return tf.ragged.map_flat_values(replace, sentences, _BREAK, " ")
