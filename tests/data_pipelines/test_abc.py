"""ABC notation: what is read, what is refused, bars, keys."""

import re
from fractions import Fraction

import pytest

from data_pipelines.abc import ABCError, Tune, bars, bars_fit, read_tune, read_tunes, tonics, transpose

HEADER = "X:1\nT:A tune\nM:4/4\nL:1/8\nK:D Major\n"

# each interval from the tonic of D, in C
SCALE = "DEFGABcd|"


def tune(body, metre="C", unit="1/8", key="Dmaj"):
    return read_tune(f"X:1\nM:{metre}\nL:{unit}\nK:{key}\n{body}")


def semitones(body, key):
    """MIDI-like numbers of the notes, by a second way: signature by the circle of fifths."""
    sharps = "FCGDAEB"
    fifths = sharps.index(key[0]) - 1 + 7 * key.count("#") - 7 * key[1:].count("b")
    altered = {}
    for i, letter in enumerate(sharps):
        altered[letter] = (fifths - 1 - i) // 7 + 1 if fifths > 0 else -((-fifths - 1 - (6 - i)) // 7 + 1) if fifths < 0 else 0

    numbers = []
    for sign, letter, octave in re.findall(r"(\^\^|\^|__|_|=)?([A-Ga-g])([,']*)", body):
        alteration = {"^^": 2, "^": 1, "=": 0, "_": -1, "__": -2}[sign] if sign else altered[letter.upper()]
        base = dict(zip("CDEFGAB", (0, 2, 4, 5, 7, 9, 11)))[letter.upper()]
        numbers.append(base + alteration + 12 * (letter.islower() + octave.count("'") - octave.count(",")))
    return numbers


def test_what_takes_no_time_is_dropped():
    read = read_tune(
        HEADER + '"D"~d2 {ef}[A2f2] !trill!e>d | (3(abc) vuTd2 % a comment\nw: la la\n'
        '"^slow"[K:G] .g2 z2 (ab) c2- |!\nC4 \\\nd4:|\n\nno more'
    )
    assert read.text == "M:C\nL:1/8\nK:Dmaj\nd2 [A2f2] e>d | (3abc d2\n[K:Gmaj] g2 z2 ab c2- |\nC4\nd4:|\n"


def test_comments_and_notes_before_a_repeat_sign_lose_no_music():
    read = read_tune(HEADER + "abcd|\n% a comment\n  %%staffsep 50\nefga|\nd:|\nB: a book\nG::\nd8|\n \nno more")
    assert read.body == "abcd|\nefga|\nd:|\nG::\nd8|\n"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("X:1\nM:C\nABc|", "no key"),
        ("X:1\nK:D\nABc|", "no metre"),
        ("X:1\nM:seven\nK:D\nABc|", "metre M:seven"),
        ("X:1\nM:0/4\nK:D\nABc|", "metre M:0/4"),
        ("X:1\nM:C\nL:1/7\nK:D\nABc|", "unit length L:1/7"),
        ("X:1\nM:C\nK:H\nABc|", "key K:H"),
        ("X:1\nM:C\nK:D\nz4|", "no notes"),
        ("X:1\nM:C\nK:D\nV:1\nABc|\nV:2 clef=bass\nA,3|", "2 voices (V:), but a tune has one here"),
        ("X:1\nM:C\nV:1\nV:2\nK:D\n[V:1]ABc|\n[V:2 clef=bass]A,3|", "2 voices (V:), but a tune has one here"),
        ("X:1\nM:C\nK:D\n[V:a]ABc|[V:b]A,3|", "2 voices (V:), but a tune has one here"),
        ("X:1\nM:C\nK:D\nAB&c|", "'&c|' isn't ABC"),
    ],
)
def test_what_cannot_be_read_is_named(text, reason):
    with pytest.raises(ABCError, match=re.escape(reason)):
        read_tune(text)
    tunes, problems = read_tunes(f"%abc\n\nX:7\nM:C\nK:D\nABc|\n\n{text}\n\nX:3\nM:C\nK:G\nd|\n")
    assert [t.number for t in tunes] == [1, 3] and problems[0][0] == 2 and reason in problems[0][1]


@pytest.mark.parametrize(
    "text", ["V:1 clef=treble\nABc|\ndef|", "[V:1]ABc|\n[V:1] def|", "%%score (1 2)\nV:2\nV:1\nABc|\n% \nV:1\n[V:1]def|"]
)
def test_one_voice_is_read_whatever_it_is_called(text):
    assert read_tune(f"X:1\nM:3/8\nL:1/8\nV:1\nV:2 clef=bass\nK:D\n{text}").body.replace(" ", "") == "ABc|\ndef|\n"


@pytest.mark.parametrize(
    "body, lengths",
    [
        ("A2B/c/ d3/2e// z|", ["23/4"]),
        ("(3abc (3:2:2a2b c>d e<<f|", ["8"]),
        ("[CE2]G [^c'/e]G|", ["7/2"]),  # the first note's length
        ("[ac]2 [a2c2]|[M:6/8] abc def|", ["4", "6"]),
        ("(6abcabc|", ["2"]),
    ],
)
def test_bars_are_measured(body, lengths):
    measured = [str(length / Fraction(1, 8)) for length, _, _ in bars(tune(body)) if length]
    assert measured == lengths


@pytest.mark.parametrize(
    "body, fit",
    [
        ("abcd abcd|abcd abcd|", True),
        ("abcd abcd|abcd abc|abcd abcd|", False),
        ("abcd abcd|abcd abcde|", False),
        ("ab|abcd abcd|abcd ab:|", True),
        ("ab|abcd abcd|abcd abc:|", False),
        ("ab|abcd abcd|abcd ab:|\ncd|abcd abcd|abcd ab|]", True),
        ("abcd abcd:|\nab|abcd abcd|abcd ab|]", True),
        ("abcd abcd|1 abcd ab:|2 abcd abcd|]", False),
        ("[M:3/4]abc def|abc def|", True),
    ],
)
def test_which_bars_fit(body, fit):
    assert bars_fit(tune(body)) is fit


@pytest.mark.parametrize("shift", range(-6, 6))
@pytest.mark.parametrize("key", ["Dmaj", "Ador", "Emin", "Dmix", "Bbmaj", "F#min"])
def test_a_transposed_tune_sounds_so_much_higher(key, shift):
    original = tune("D^Ec=f _B,G2 __a'b''|^^C,D [Fac']2|", key=key)
    moved = transpose(original, shift)
    assert len(set(tonics("maj"))) == 12

    def major(key):  # the major key with the same signature
        steps = {"maj": 0, "dor": 10, "min": 3, "mix": 5}[key[-3:]]
        sharps = "FCGDAEB"
        fifths = sharps.index(key[0]) - 1 + 7 * key[:-3].count("#") - 7 * key[1:-3].count("b")
        fifths += {0: 0, 10: -2, 3: -3, 5: -1}[steps]
        letter, sign = sharps[(fifths + 1) % 7], (fifths + 1) // 7
        return letter + "#" * max(0, sign) + "b" * max(0, -sign)

    before, after = semitones(original.body, major(original.key)), semitones(moved.body, major(moved.key))
    double = sum(abs(a + shift - b) > 0 for a, b in zip(before, after))
    assert double <= 2  # a triple sharp or flat can't be written
    assert semitones(transpose(tune(SCALE, key=key), shift).body, major(moved.key)) == [
        n + shift for n in semitones(SCALE, major(key))
    ]
    assert [length for length, _, _ in bars(moved)] == [length for length, _, _ in bars(original)]


def test_the_plain_form_is_read_as_it_is():
    first = tune("d2 (3abc|[1 d>e=f^c':|[2 z4|]", "6/8", "1/16", "F#min")
    assert read_tune("X:1\n" + first.text) == Tune("6/8", "1/16", "F#min", first.body)
