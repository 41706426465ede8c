"""The plain form of `data_pipelines.abc`, in the graph: what `read_tune` does to a tune, done to the prompts of clients.

A prompt may be a whole tune, or stop anywhere. Where `read_tune` can read it, the plain form is the same (a test holds the two
together); where it can't, the part that isn't understood stays unchanged.
"""

from typing import NamedTuple

import tensorflow as tf

from data_pipelines.abc import MODES

SPACE = r"[\t\x0b\x0c\x1c-\x1f \x{85}\p{Z}]"  # what Python's `strip` takes away, without ends of lines
ENDS = r"\r\n|[\r\x0b\x0c\x1c-\x1e\x{85}\x{2028}\x{2029}]"  # of lines, for Python's `splitlines`
FIELD = r"(?:[MLK]:.*|[A-Za-z+]:(?:[^|:\n].*)?)"
SHORT_METRE = r"M:0?(?:1/2|[12]/4|[1-5]/8|[1-9]/16)\n|M:1[01]/16\n"  # shorter than 3/4


class Prompt(NamedTuple):
    """Prompts in the plain form, each part (n,).

    heading: the fields that stand before the music and say nothing of it, as they are: X: and T:, say.
    metre, unit, key: the line of the field, "" if there is none. Only the last one may lack its end of line.
    body: the music.
    """

    heading: tf.Tensor
    metre: tf.Tensor
    unit: tf.Tensor
    key: tf.Tensor
    body: tf.Tensor


def plain_form(prompt: tf.Tensor) -> Prompt:
    """Prompts (n,), valid UTF-8, in the plain form.

    >>> prompt = plain_form(tf.constant(["X:1\\nT:A tune\\nM:4/4\\nK: D minor\\n(~d2 {e}f)  a|"]))
    >>> b"".join(part.numpy()[0] for part in prompt)
    b'X:1\\nT:A tune\\nM:C\\nK:Dmin\\nd2 f a|'
    """
    text = _replaced(prompt, ENDS, "\n")
    text = _replaced(text, rf"(?m)^{SPACE}*%.*\n?", "")
    text = _replaced(text, r"([^\\\n])%.*", r"\1")
    text = _replaced(text, rf"(?m)^{SPACE}+|{SPACE}+$", "")
    text = _plain_fields(text)
    has_key = tf.strings.regex_full_match(text, r"(?s)(?:.*\n)?K:.*")
    header = tf.where(
        has_key,
        _replaced(text, r"(?s)^((?:.*?\n)??K:[^\n]*\n?).*$", r"\1"),
        _replaced(text, rf"^((?:(?:{FIELD})?(?:\n|$))*)(?s:.*)$", r"\1"),
    )
    body = tf.strings.substr(text, tf.strings.length(header), tf.strings.length(text))
    heading = _replaced(header, rf"(?m)^({FIELD}\n?)|^.*\n?", r"\1")
    heading = _replaced(heading, r"(?m)^[MLK]:.*\n?", "")
    metre, unit, key = (_first_field(header, name) for name in "MLK")
    return Prompt(heading, metre, unit, key, _plain_body(body))


def default_unit(metre: tf.Tensor) -> tf.Tensor:
    """How long a note is where no field says it: it depends on the line of the metre."""
    return tf.where(tf.strings.regex_full_match(metre, SHORT_METRE), "L:1/16\n", "L:1/8\n")


def last_field(text: tf.Tensor, name: str) -> tf.Tensor:
    """The last metre or unit of a plain text, as the line of a field; it may stand in a line of music."""
    return _replaced(text, rf"(?s)^.*(?:^|\n|\[)({name}:[^\n\]]*).*$", "\\1\n")


def _replaced(text: tf.Tensor, pattern: str, rewrite: str) -> tf.Tensor:
    return tf.strings.regex_replace(text, pattern, rewrite)


def _plain_fields(text: tf.Tensor) -> tf.Tensor:
    """With the values of M:, L: and K: in their plain form, in a line of their own or in brackets."""
    text = _replaced(text, rf"(?m)(^|\[)([MLK]:){SPACE}*([^\]\n]*?){SPACE}*(\]|$)", r"\1\2\3\4")
    for value, plain in (("M:4/4", "M:C"), ("M:2/2", "M:C|"), ("K:([A-G][#b]?)", r"K:\2maj")):
        text = _replaced(text, rf"(?m)(^|\[){value}(\]|$)", rf"\1{plain}\{3 if 'K' in value else 2}")
    text = _replaced(text, rf"(?m)(^|\[)K:([A-G][#b]?){SPACE}*[mM](\]|$)", r"\1K:\2min\3")
    for mode in MODES:
        text = _replaced(text, rf"(?m)(^|\[)K:([A-G][#b]?){SPACE}*(?i:{mode})[A-Za-z]*(\]|$)", rf"\1K:\2{mode}\3")
    return text


def _first_field(header: tf.Tensor, name: str) -> tf.Tensor:
    line = _replaced(header, rf"(?s)^(?:.*?\n)??({name}:[^\n]*\n?).*$", r"\1")
    return tf.where(tf.strings.regex_full_match(header, rf"(?s)(?:.*\n)?{name}:.*"), line, "")


def _plain_body(body: tf.Tensor) -> tf.Tensor:
    """The music up to an empty line, without what takes no time."""
    body = _replaced(body, r"(?s)^((?:[^\n]+\n)*)\n.*$", r"\1")
    body = _replaced(body, rf"(?m)^([MLK]:.*\n?)|^{FIELD}(?:\n|$)", r"\1")
    timeless = r'"[^"\n]*"|\{[^}\n]*\}|![A-Za-z0-9<>()+.]{1,20}!|\+[a-z]{2,12}\+|[!\\`$*;]|\[[A-JN-Za-z]:[^\]\n]*\]'
    body = _replaced(body, rf"(?m)(^[MLK]:.*$)|{timeless}", r"\1")
    body = _replaced(body, r"(?m)(^[MLK]:.*$|\[[MLK]:[^\]\n]*\]|\([2-9])|[().~H-WYh-wy]", r"\1")  # slurs, decorations
    body = _replaced(body, rf"{SPACE}+", " ")
    return _replaced(_replaced(body, r" ?\n[ \n]*", "\n"), r"^[ \n]+| +$", "")
