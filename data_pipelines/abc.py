"""ABC notation (https://abcnotation.com/wiki/abc:standard:v2.1): read tunes, check their bars, transpose them.

A tune is read into one plain form, which is what models learn and write:

    M:6/8                 the metre
    L:1/8                 how long a note without a number is
    K:Ador                the key: tonic and three letters of the mode
    f|eAA fAA|gfg age|    notes, rests, chords, bars, tuplets, broken rhythms, ties and spaces

Titles, words, chord symbols, decorations, slurs and grace notes are dropped: they take no time.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

MODES = {"maj": 0, "ion": 0, "mix": -1, "dor": -2, "min": -3, "aeo": -3, "phr": -4, "loc": -5, "lyd": 1}  # fifths from major
LETTERS = "CDEFGAB"
_SEMITONES = dict(zip(LETTERS, (0, 2, 4, 5, 7, 9, 11)))
_FIFTHS = dict(zip("FCGDAEB", range(-1, 6)))
_ACCIDENTALS = {"^^": 2, "^": 1, "=": 0, "_": -1, "__": -2}
_SIGNS = {value: name for name, value in _ACCIDENTALS.items()}
TUPLETS = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}  # so many notes in the time of

NOTE = r"(?P<accidental>\^\^|\^|__|_|=)?(?P<letter>[A-Ga-g])(?P<octave>[,']*)"
LENGTH = r"(?P<length>\d*(?:/+\d*)?)"
BAR = r":*\|[|\]:]*(?:[ ]?\[?\d+(?:[,-]\d)*)?|::+|\[\|\]?|\|?\[\d+(?:[,-]\d)*"
_ELEMENT = re.compile(
    rf"(?P<field>^[MLK]:.*$\n?|\[[MLK]:[^\]\n]*\])|(?P<bar>{BAR})|(?P<tuplet>\((?P<p>[2-9])(?::(?P<q>\d?)(?::(?P<r>\d?))?)?)"
    rf"|(?P<note>{NOTE}{LENGTH})|(?P<rest>[zx](?P<rest_length>\d*(?:/+\d*)?))"
    rf"|(?P<chord>\[(?:(?:\^\^|\^|__|_|=)?[A-Ga-g][,']*\d*(?:/+\d*)?)+\](?P<chord_length>\d*(?:/+\d*)?))"
    r"|(?P<broken>>{1,3}|<{1,3})|(?P<tie>-)|(?P<space>[ \n]+)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Tune:
    """A tune in the plain form; `number` is its place in the file, from 1."""

    metre: str
    unit: str
    key: str
    body: str
    title: str = ""
    number: int = 0

    @property
    def text(self) -> str:
        return f"M:{self.metre}\nL:{self.unit}\nK:{self.key}\n{self.body}"


class ABCError(ValueError):
    """Why a tune can't be read."""


def read_tunes(text: str) -> tuple[list[Tune], list[tuple[int, str]]]:
    """The tunes of a file; and of those that can't be used, the place in the file and the reason.

    >>> tunes, problems = read_tunes("X:1\\nM:2/4\\nK:D Major\\nd2 fd|a4:|\\n\\nX:2\\nM:2/4\\nd2|\\n")
    >>> print(tunes[0].text, problems)
    M:2/4
    L:1/16
    K:Dmaj
    d2 fd|a4:|
     [(2, 'no key (K:)')]
    """
    tunes, problems = [], []
    parts = [
        part for part in re.split(r"^(?=X:)", text.replace("\r\n", "\n").replace("\r", "\n"), flags=re.M) if "X:" in part[:2]
    ]
    for number, part in enumerate(parts, 1):
        try:
            tunes.append(replace(read_tune(part), number=number))
        except ABCError as error:
            problems.append((number, str(error)))
    return tunes, problems


def read_tune(text: str) -> Tune:
    """One tune.

    Raises:
        ABCError: a field is missing or can't be read, notes of several voices, no notes, a character that isn't ABC.
    """
    fields: dict[str, str] = {}
    lines: list[str] = []
    voice, voices = "", set[str]()  # of the line, and of all notes
    for line in map(str.strip, text.splitlines()):
        if not line and "K" in fields:
            break  # an empty line ends a tune; a comment doesn't
        line = re.sub(r"(?<!\\)%.*", "", line).strip()
        match = re.match(r"([MLK]|[A-Za-z+](?=:[^|:]|:$)):(.*)", line)  # not the note before :| or ::
        if match is None:
            for place, part in enumerate(re.split(r"\[V:\s*([^\s\]]+)[^\]]*\]", line)):
                if place % 2:
                    voice = part
                elif part.strip() and "K" in fields:
                    voices.add(voice)
                    lines.append(part)
        elif match[1] == "V" and "K" in fields:
            voice = (match[2].split() or [""])[0]
        elif "K" not in fields:
            fields.setdefault(match[1], match[2].strip())
        elif match[1] in "MLK":
            lines.append(_plain_field(match[1], match[2]))
    if "K" not in fields:
        raise ABCError("no key (K:)")
    if "M" not in fields:
        raise ABCError("no metre (M:)")
    if len(voices) > 1:
        raise ABCError(f"{len(voices)} voices (V:), but a tune has one here: delete the lines of the others")
    metre = _plain_field("M", fields["M"])[2:]
    unit = _plain_field("L", fields.get("L", "") or ("1/16" if metre_length(metre) < Fraction(3, 4) else "1/8"))[2:]
    tune = Tune(metre, unit, _plain_field("K", fields["K"])[2:], _plain_body(lines), fields.get("T", ""))
    if not any(kind in ("note", "chord") for kind, _ in elements(tune.body)):
        raise ABCError("no notes")
    return tune


def _plain_body(lines: list[str]) -> str:
    body = "\n".join(line if re.match(r"[MLK]:", line) else _plain_line(line) for line in lines)
    body = re.sub(r" ?\n[ \n]*", "\n", body).strip() + "\n"
    list(elements(body))  # raises
    return body


def _plain_line(line: str) -> str:
    """Without what takes no time; `!` and `\\` at the end of a line say where it breaks on paper."""
    line = re.sub(r'"[^"]*"|\{[^}]*\}|![A-Za-z0-9<>()+.]{1,20}!|\+[a-z]{2,12}\+|[!\\`$*;]|\[[A-JN-Za-z]:[^\]]*\]', "", line)
    parts = re.split(r"(\[[MLK]:[^\]]*\])", line)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"[{_plain_field(part[1], part[3:-1])}]"
        else:
            parts[i] = re.sub(r"\((?![2-9])|\)|[.~H-WYh-wy]", "", part)  # slurs; decorations of one character
    return re.sub(r"\s+", " ", "".join(parts))


def _plain_field(name: str, value: str) -> str:
    """A field in its plain form."""
    value = value.strip()
    if name == "M":
        value = {"2/2": "C|", "4/4": "C"}.get(value, value)
        if not re.fullmatch(r"C\|?|\d{1,2}/(1|2|4|8|16)", value) or metre_length(value) == 0:
            raise ABCError(f"metre M:{value} can't be read")
    elif name == "L":
        if not re.fullmatch(r"1/(1|2|4|8|16|32)", value):
            raise ABCError(f"unit length L:{value} can't be read")
    else:
        match = re.match(r"([A-G])([#b]?)\s*([A-Za-z]*)", value)
        mode = match[3].lower()[:3] if match else ""
        mode = {"": "maj", "m": "min"}.get(mode, mode)
        if match is None or mode not in MODES or value[match.end() :].strip() or abs(_signature(match[1] + match[2] + mode)) > 7:
            raise ABCError(f"key K:{value} can't be read")
        value = match[1] + match[2] + mode
    return f"{name}:{value}"


def elements(body: str) -> Iterator[tuple[str, re.Match]]:
    """The elements of a plain body: field, bar, tuplet, note, rest, chord, broken, tie or space.

    Raises:
        ABCError: something else.
    """
    at = 0
    while at < len(body):
        match = _ELEMENT.match(body, at)
        if match is None or match.end() == at:
            raise ABCError(f"{body[at : at + 8].strip()!r} isn't ABC, or not a part of it that is read here")
        kind = next(name for name in ("field", "bar", "tuplet", "note", "rest", "chord", "broken", "tie", "space") if match[name])
        yield kind, match
        at = match.end()


# -- time


def metre_length(metre: str) -> Fraction:
    """In whole notes.

    >>> metre_length("6/8"), metre_length("C|")
    (Fraction(3, 4), Fraction(1, 1))
    """
    return Fraction(1) if metre.startswith("C") else Fraction(metre)


def note_length(written: str) -> Fraction:
    """In units of `L:`.

    >>> [str(note_length(written)) for written in ("", "3", "/", "3/2", "//")]
    ['1', '3', '1/2', '3/2', '1/4']
    """
    if len(written) > 8:
        raise ABCError(f"length {written[:12]!r} is too long; expected at most 8 characters")
    number, slashes, divisor = re.fullmatch(r"(\d*)(/*)(\d*)", written).groups()  # type: ignore[union-attr]
    below = int(divisor) if divisor else 2 ** len(slashes)
    if not below:
        raise ABCError(f"length {written!r} divides by zero")
    return Fraction(int(number or 1), below)


def bars(tune: Tune) -> Iterator[tuple[Fraction, Fraction, str]]:
    """For each bar its length and what the metre says, in whole notes, and the bar line that ends it ("" at the end)."""
    metre, unit = metre_length(tune.metre), Fraction(tune.unit)
    length, tuplet_left, tuplet_ratio, factor, last = Fraction(0), 0, Fraction(1), Fraction(1), Fraction(0)
    for kind, match in elements(tune.body):
        if kind in ("note", "rest", "chord"):
            written = match["length"] if kind == "note" else match["rest_length"] if kind == "rest" else match["chord_length"]
            last = note_length(written or "") * unit * factor
            if kind == "chord" and (inner := re.match(r"\[[_^=]*[A-Ga-g][,']*([\d/]+)", match["chord"])):
                last *= note_length(inner[1])
            if tuplet_left:
                last, tuplet_left = last * tuplet_ratio, tuplet_left - 1
            length, factor = length + last, Fraction(1)
        elif kind == "tuplet":
            p = int(match["p"])
            compound = tune.metre in ("6/8", "9/8", "12/8")
            q = int(match["q"] or TUPLETS.get(p, 3 if compound else 2))
            tuplet_left, tuplet_ratio = int(match["r"] or p), Fraction(q, p)
        elif kind == "broken":
            shorter = Fraction(1, 2 ** len(match["broken"]))
            first, factor = (2 - shorter, shorter) if match["broken"][0] == ">" else (shorter, 2 - shorter)
            length += last * (first - 1)
        elif kind == "bar":
            yield length, metre, match["bar"]
            length = Fraction(0)
        elif kind == "field":
            name, value = re.match(r"\[?([MLK]):([^\]\n]*)", match["field"]).groups()  # type: ignore[union-attr]
            if name == "M":
                metre = metre_length(value)
            elif name == "L":
                unit = Fraction(value)
    yield length, metre, ""


def bars_fit(tune: Tune) -> bool:
    """Is every bar as long as the metre says?

    A section may open with an upbeat; then its last bar, or the upbeat and that bar together, fill the metre, or that bar and the
    upbeat of the next section do.

    >>> header = "X:1\\nM:2/4\\nL:1/8\\nK:D\\n"
    >>> [bars_fit(read_tune(header + body)) for body in ("A|d2 fd|a3:|", "d2 fd|a3|d4|")]
    [True, False]
    """
    sections: list[list[tuple[Fraction, Fraction]]] = [[]]
    for length, metre, line in bars(tune):
        if length:
            sections[-1].append((length, metre))
        if _ends_section(line) and sections[-1]:
            sections.append([])
    sections = [section for section in sections if section]
    upbeats = [section[0][0] % section[0][1] if section[0][0] < section[0][1] else Fraction(0) for section in sections]
    for i, section in enumerate(sections):
        inner = section[1:] if upbeats[i] and len(section) > 1 else section
        if any(length != metre for length, metre in inner[:-1]):
            return False
        length, metre = inner[-1]
        missing = metre - length
        if missing and missing not in {upbeats[0], upbeats[i], *upbeats[i + 1 : i + 2]}:
            return False
    return bool(sections)


def _ends_section(line: str) -> bool:
    return line not in ("", "|")


# -- keys


def _signature(key: str) -> int:
    """Sharps, or minus flats."""
    return _FIFTHS[key[0]] + {"#": 7, "b": -7}.get(key[1], 0) + MODES[key[-3:]]


def _alterations(key: str) -> dict[str, int]:
    sharps = _signature(key)
    order = "FCGDAEB" if sharps >= 0 else "BEADGCF"
    counts = {letter: 0 for letter in LETTERS}
    for i in range(abs(sharps)):
        counts[order[i % 7]] += 1 if sharps > 0 else -1
    return counts


def tonics(mode: str) -> list[str]:
    """The twelve tonics of a mode, spelled with the fewest sharps or flats."""
    names = [letter + sign for letter in LETTERS for sign in ("", "#", "b")]
    best: dict[int, str] = {}
    for name in sorted(names, key=lambda name: (abs(_signature(name + mode)), name)):
        best.setdefault(_semitone(name), name)
    return [best[i] for i in range(12)]


def _semitone(tonic: str) -> int:
    return (_SEMITONES[tonic[0]] + {"#": 1, "b": -1}.get(tonic[1:], 0)) % 12


@lru_cache(maxsize=2**16)  # training moves each tune to the same twelve keys again and again
def transpose(tune: Tune, semitones: int) -> Tune:
    """The tune so many semitones higher; lower if negative.

    >>> transpose(read_tune("X:1\\nM:C\\nL:1/8\\nK:G\\nG2^c=f|"), 2).text
    'M:C\\nL:1/8\\nK:Amaj\\nA2^d=g|\\n'
    """
    if not semitones:
        return tune
    key, steps = _moved_key(tune.key, semitones)
    old, new = _alterations(tune.key), _alterations(key)
    parts = []
    for kind, match in elements(tune.body):
        text = match[0]
        if kind == "field" and "K:" in text:
            old_key = re.search(r"K:(\w[#b]?\w*)", text)[1]  # type: ignore[index]
            moved, steps = _moved_key(old_key, semitones)
            old, new = _alterations(old_key), _alterations(moved)
            text = text.replace(f"K:{old_key}", f"K:{moved}")
        elif kind in ("note", "chord"):
            text = re.sub(NOTE, lambda m, s=steps, o=old, n=new: _moved_note(m, s, o, n), text)  # type: ignore[misc]
        parts.append(text)
    return replace(tune, key=key, body="".join(parts))


def _moved_key(key: str, semitones: int) -> tuple[str, int]:
    """The key, and how many letters up."""
    tonic, mode = key[:-3], key[-3:]
    new = tonics(mode)[(_semitone(tonic) + semitones) % 12]
    steps = LETTERS.index(new[0]) - LETTERS.index(tonic[0])
    return new + mode, steps + 7 * round((semitones * 7 / 12 - steps) / 7)


def _moved_note(match: re.Match, steps: int, old: dict[str, int], new: dict[str, int]) -> str:
    letter = match["letter"]
    place = LETTERS.index(letter.upper()) + 7 * (letter.islower() + match["octave"].count("'") - match["octave"].count(","))
    octave, index = divmod(place + steps, 7)
    moved = LETTERS[index]
    accidental = ""
    if match["accidental"]:
        alteration = _ACCIDENTALS[match["accidental"]] - old[letter.upper()] + new[moved]
        accidental = _SIGNS[max(-2, min(2, alteration))]
    return accidental + (moved.lower() + "'" * (octave - 1) if octave >= 1 else moved + "," * -octave)
