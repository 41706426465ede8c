"""The plain form of `data_pipelines.abc`, in the graph: what `read_tune` does to a tune, done to the prompts of clients.

A prompt may be a whole tune, or stop anywhere. Where `read_tune` can read it, the plain form is the same (a test holds the two
together); where it can't, the part that isn't understood stays unchanged.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from data_pipelines.abc import BAR, MODES, TUPLETS, note_length

SPACE = r"[\t\x0b\x0c\x1c-\x1f \x{85}\p{Z}]"  # what Python's `strip` takes away, without ends of lines
ENDS = r"\r\n|[\r\x0b\x0c\x1c-\x1e\x{85}\x{2028}\x{2029}]"  # of lines, for Python's `splitlines`
FIELD = r"(?:[MLK]:.*|[A-Za-z+]:(?:[^|:\n].*)?)"
UNIT_CHANGES = "\x1d"  # no plain text has it
_PITCH = r"[_^=]*[A-Ga-g][,']*"
SOUND = rf"(?:\[{_PITCH}([\d/]*)(?:{_PITCH}[\d/]*)*\]|{_PITCH}|[zx])([\d/]*)"  # lengths: of a chord's first note; of what sounds
TUPLET = r"\([2-9](?::\d?){0,2}"
UNCOUNTED = rf"{UNIT_CHANGES}|\[(?:{_PITCH}[\d/]*)*[_^=]*$"  # a chord that is only begun
ELEMENT = rf"{SOUND}|{TUPLET}|>{{1,3}}|<{{1,3}}|{UNCOUNTED}"
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


def last_bar(text: tf.Tensor) -> tf.Tensor:
    """What stands after the last bar line of a plain text, without fields; U+001D is where the unit length changes within it.

    >>> last_bar(tf.constant(["M:C\\nL:1/8\\nK:Dmaj\\nabc|[M:C|]d[L:1/4]e"])).numpy()
    array([b'd\\x1de'], dtype=object)
    """
    body = _replaced(text, r"(?m)^L:.*\n?|\[L:[^\]\n]*\]", UNIT_CHANGES)
    body = _replaced(body, rf"(?m)^({UNIT_CHANGES}*)[MK]:.*\n?|\[[MK]:[^\]\n]*\]", r"\1")
    return _replaced(_replaced(body, rf"(?s)^.*(?:{BAR})", ""), rf"^[{UNIT_CHANGES} \n]+", "")


class BarTime(tf.Module):
    """How long the notes after a bar line are, in the graph, as `data_pipelines.abc.bars` counts.

    >>> units, is_whole, is_abc = BarTime()(tf.constant(["a>>b [c3/2e]2 (3abc", "(3ab", "no"]))
    >>> round(float(units[0]), 3), is_whole.numpy().tolist(), is_abc.numpy().tolist()
    (7.0, [True, False, True], [True, True, False])
    """

    def __init__(self) -> None:
        super().__init__()
        below = ["", "/", "//", "///", "////", *(f"/{divisor}" for divisor in (*range(1, 17), 32))]
        lengths = [f"{number}{part}" for number in ("", *range(1, 65)) for part in below]
        digits = range(1, 10)
        tuplets = {f"({p}": (p, q / p) for p, q in TUPLETS.items()}  # how many notes, times what
        tuplets |= {f"({p}:{q}{end}": (p, q / p) for p in digits for q in digits for end in ("", ":")}
        tuplets |= {f"({p}:{q}:{r}": (r, q / p) for p in digits for q in digits for r in digits}
        broken = {mark * count: 2.0**-count for mark in "<>" for count in (1, 2, 3)}
        self.length = _numbers({length: float(note_length(length)) for length in lengths})
        self.count = _numbers({text: count for text, (count, _) in tuplets.items()})
        self.ratio = _numbers({text: ratio for text, (_, ratio) in tuplets.items()})
        self.first = _numbers({mark: part if mark[0] == "<" else 2 - part for mark, part in broken.items()})

    def __call__(self, bar: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The time in unit lengths; is it known, and no tuplet or broken rhythm unfinished; is it ABC?"""
        rest = _replaced(_replaced(bar, ELEMENT, ""), "[- \n]", "")
        parts = tf.strings.split(_replaced(_replaced(bar, "[- \n]", ""), f"({ELEMENT})", "\x1f\\1\x1f"), "\x1f").to_tensor()

        def body(t: tf.Tensor, time: tf.Tensor, last: tf.Tensor, left: tf.Tensor, ratio: tf.Tensor, factor: tf.Tensor) -> Any:
            part = parts[:, t]
            is_note, is_tuplet = tf.strings.regex_full_match(part, SOUND), tf.strings.regex_full_match(part, TUPLET)
            first = self.first.lookup(part)
            is_broken = tf.strings.regex_full_match(part, "[<>]+")
            length = self.length.lookup(_replaced(part, SOUND, r"\1")) * self.length.lookup(_replaced(part, SOUND, r"\2"))
            last = tf.where(is_note, length * factor * tf.where(left > 0, ratio, 1.0), last)
            time += tf.where(is_note, last, tf.where(is_broken, last * (first - 1), 0.0))
            left = tf.where(is_tuplet, self.count.lookup(part), tf.where(is_note, tf.maximum(left - 1, 0.0), left))
            ratio = tf.where(is_tuplet, self.ratio.lookup(part), ratio)
            return t + 1, time, last, left, ratio, tf.where(is_broken, 2 - first, tf.where(is_note, 1.0, factor))

        zeros = tf.zeros(tf.shape(bar))
        first = (0, zeros, zeros, zeros, zeros + 1, zeros + 1)
        _, time, _, left, _, factor = tf.while_loop(lambda t, *_: t < tf.shape(parts)[1], body, first, parallel_iterations=1)
        is_counted = ~tf.strings.regex_full_match(bar, rf"(?s).*(?:{UNCOUNTED}).*") & (time == time)
        return time, is_counted & (left == 0) & (factor == 1), rest == ""


def _numbers(values: dict[str, float]) -> tf.lookup.StaticHashTable:
    """Those of some texts; of others NaN."""
    keys, numbers = tf.constant(list(values)), tf.constant(list(values.values()), tf.float32)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, numbers), float("nan"))


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
