"""What the export makes of a prompt is what `read_tune` makes of it."""

import random
import re

import numpy as np
import pytest
import tensorflow as tf

from apps.music_generation.tunes.model import TuneModel
from apps.music_generation.tunes.prompts import default_unit, last_field, plain_form
from apps.music_generation.tunes.serving import TuneGenerator, tune_headers
from benchmarks.fuzz import corrupt
from data_pipelines.abc import ABCError, Tune, bars, read_tune
from data_pipelines.tunes import TuneVocabulary, embedded_tune_books

HEADER = (
    "X:1",
    "T: A tune % of mine",
    "M:6/8",
    "M: 4/4",
    "M:2/2 ",
    "M:2/4",
    "M:11/16",
    "M:12/16",
    "M:C|",
    "L:1/8",
    "L: 1/16",
    "w:",
)
KEYS = ("K:D", "K: Am", "K:AM", "K:Gmaj", "K:F#  minor % no", "K:Bb Mixolydian", "K:E dorian", "K:ALOCRIAN", "K:c", "K:C exp")
MUSIC = (
    *("abc", "d2", "^f/", "(3ABc", "(ab)", "~g", "Hz", "[ac]2", '"G7"', "{ef}", "!f!", "+fermata+", "a>b", "c-c", "y", "x4", "#"),
    *("[M:4/4]", "[K: Am]", "[L: 1/4 ]", "[r: no]", "|", ":|", "|:", "|1", "::", "[2", " ", "  ", "\t", "\u2003", "\x1f", "\\"),
    *("*", "!", "`", "$", "é", "% a comment\n", "\n%%staffsep 50\n", "\\%b", "\n", "\n", "\r\n", "\r", "\x0b", "\x85", "\u2028"),
    *("\n \n", "\nK:Em\n", "\nM: 3/4\n", "\nd:|", "\nG::", "\nw: la la\n", "\nP:A\n", "\n+:more\n", "\nL:1/4", "\nB:\n"),
)  # fmt: skip


def books():
    return [part for part in re.split(r"^(?=X:)", embedded_tune_books(), flags=re.M) if part.startswith("X:")]


def cut():
    """Every embedded tune, whole and up to a random place."""
    tunes, generator = books(), random.Random(0)
    return tunes + [tune[: generator.randrange(len(tune))] for tune in tunes]


def damaged():
    tunes, generator = books(), random.Random(1)
    return [corrupt(generator.choice(tunes)[:400].encode(), generator).decode(errors="replace") for _ in range(3_000)]


def composed():
    """Random sequences of all that a tune may hold, and of some that it may not."""
    generator = random.Random(2)
    texts = []
    for _ in range(6_000):
        header = [*generator.sample(HEADER, generator.randrange(1, 5)), generator.choice(KEYS)]
        music = "".join(generator.choices(MUSIC, k=generator.randrange(1, 12)))
        texts.append(generator.choice(("\n", "\r\n", " \n")).join(header) + "\n" + music)
    return texts


@pytest.mark.parametrize("texts, readable", [(cut, 4_500), (damaged, 500), (composed, 1_000)])
def test_the_graph_reads_tunes_as_read_tune_does(texts, readable):
    texts = texts()
    prompt = plain_form(tf.strings.unicode_transcode(tf.constant(texts), "UTF-8", "UTF-8"))
    unit = tf.where(prompt.unit == "", default_unit(prompt.metre), prompt.unit)
    found = tf.strings.join([prompt.metre, unit, prompt.key, prompt.body]).numpy()
    read = 0
    for text, plain in zip(texts, found):
        try:
            wanted = read_tune(text).text
        except ABCError:
            continue
        read += 1
        assert plain.decode().removesuffix("\n") + "\n" == wanted, text
    assert read > readable


@pytest.fixture(scope="module")
def generator():
    tunes = [Tune("6/8", "1/8", "Dmaj", "d2e fdA|\n")] * 2 + [Tune("C", "1/8", "Gmaj", "G2B2 d4|\n")]
    vocabulary = TuneVocabulary.train_from_iterator([tune.text for tune in tunes] + ["(3^a'2/:|[1[2z>"], "characters")
    model = TuneModel(vocabulary.size, 4, batch_size=1, units=4, num_layers=1)
    model.build()
    return TuneGenerator(model, vocabulary, tune_headers(tunes), top_k=0, max_length=150)


JIG, REEL = "M:6/8\nL:1/8\nK:Dmaj\n", "M:C\nL:1/8\nK:Gmaj\n"


@pytest.mark.parametrize(
    "prompt, unconstrained, constrained",
    [
        ("", "X:1\n", None),
        ("T:Mine\n", "X:1\nT:Mine\n", None),
        ("X:3\nM: 4/4\n", "X:3\nM:C\n", "X:3\n" + REEL),  # the model goes on with the header; the grammar needs one
        ("M:6", "X:1\nM:6", "X:1\n" + JIG),
        ("L:1/8\nM:C", "X:1\nM:C\nL:1/8\n", "X:1\n" + REEL),
        ("M:4/4\n(ab) ", "X:1\n" + REEL + "ab", "X:1\n" + REEL + "ab"),
        ("M:3/4\nL:1/4\nab|", None, None),  # no such header: its own metre and unit, a key of another
        ("X:2\nM:6/8\nT:Mine\nK:D\n~d2 e|\n", "X:2\nT:Mine\n" + JIG + "d2 e|\n", "X:2\nT:Mine\n" + JIG + "d2 e|\n"),
        ("M:2/4\nK:D", "X:1\nM:2/4\nL:1/16\nK:Dmaj\n", "X:1\nM:2/4\nL:1/16\nK:Dmaj\n"),
        ("K:D\nab", "X:1\nM:C\nL:1/8\nK:Dmaj\nab", "X:1\nM:C\nL:1/8\nK:Dmaj\nab"),
        ("K:D\nM:6/8\nab", "X:1\nM:C\nL:1/8\nK:Dmaj\nM:6/8\nab", None),
        ("M:C\nK:", "X:1\nM:C\n", "X:1\n" + REEL),
    ],
)
def test_a_prompt_gets_the_header_that_it_lacks(generator, prompt, unconstrained, constrained):
    for is_constrained, wanted in ((False, unconstrained), (True, constrained)):
        text = generator.generate(tf.constant([prompt]), 0, 1.0, 1.0, 1, is_constrained)["abc"].numpy()[0].decode()
        if wanted is not None:
            assert text == wanted
        elif "3/4" in prompt:
            assert re.fullmatch(r"X:1\nM:3/4\nL:1/4\nK:(Dmaj|Gmaj)\nab\|", text)
        else:
            assert text.removeprefix("X:1\n").removeprefix("T:Mine\n") in (JIG, REEL, "M:C\nL:1/8\nK:Dmaj\nM:6/8\nab")


def test_max_new_tokens_are_generated_and_no_more(generator):
    """With temperature 1,000 all tokens are about as probable, and so a tune hardly ends by itself."""
    lengths = {}
    for limit in (0, 1, 7):
        texts = generator.generate(tf.constant([JIG] * 20), limit, 1000.0, 1.0, 1, constrained=False)["abc"].numpy()
        lengths[limit] = [len(text.decode().removeprefix("X:1\n" + JIG)) for text in texts]
    assert {limit: max(found) for limit, found in lengths.items()} == {0: 0, 1: 1, 7: 7}


@pytest.fixture(scope="module")
def bars_of(generator):
    """A prompt -> what `constrained` makes of it in ten ways: the bars that it generates or completes."""
    generate = tf.function(lambda prompts: generator.generate(prompts, 150, 1.0, 1.0, tf.range(10), constrained=True)["abc"])

    def generated(prompt):
        for text in generate(tf.constant([prompt] * 10)).numpy():
            yield from [bar for bar in bars(read_tune(text.decode())) if bar[0] and bar[2]][prompt.count("|") :]

    return generated


@pytest.mark.parametrize("music", ["ab[M:C]|ab", "abc def|\nM:C\nab", "[ace]2 [df]", "ab c2|[K:G]d", "ab\ncd", "ab|[L:1/16]c"])
def test_the_grammar_continues_bars_of_changed_metres_chords_and_unknown_notes(bars_of, music):
    found = list(bars_of(JIG + music))
    assert found and all(length == metre for length, metre, _ in found)


def test_a_last_bar_is_as_long_as_its_notes_are(bars_of):
    unknown = "a5 a7/2 x2 a//b// (4abcd a/4b3/4 a2/ A6/2 [ace]5 [a2c2] [ac2]3/2 a5>b a>>b (2ab a'5 a10/4b3/2"
    unknown += " (3c/d/e/f5 (3:2:3a5/2b5/2c5/2 (3:2:1a3b"
    known = "ab z4 a1/2b1/2 (3ab a> a/ ^a a- (3abc a>b"
    for music in (unknown + " " + known).split():
        found = list(bars_of(REEL + music))
        assert found and all(length == metre for length, metre, _ in found), music


@pytest.mark.parametrize("music", ["a3/4b", "a5 (3ab", "a5>", "(5ab", "ab[L:1/16]c", "[ac", "a99"])
def test_a_last_bar_that_cannot_be_completed_is_refused(bars_of, music):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"prompt: its last bar, .*, can.*t be completed as .*M:C.* End it"):
        list(bars_of(REEL + music))


@pytest.mark.parametrize("music", ["abcdefgab", "a10", "<b>" * 50])
def test_a_last_bar_that_is_too_long_ends_at_once(generator, music):
    texts = generator.generate(tf.constant([REEL + music] * 10), 40, 1.0, 1.0, tf.range(10), constrained=True)["abc"].numpy()
    assert all(text.decode().removeprefix("X:1\n" + REEL + music).strip(" ")[0] in "|:" for text in texts)


@pytest.mark.parametrize("header", ["M:5/4\nL:1/8", "M:2/4\nL:1/16", "M:2/4", "M:12/8\nL:1/16", "M:C\nL:1/32", "M:3/16\nL:1/8"])
def test_bars_of_metres_that_the_training_lacks_are_full(bars_of, header):
    found = list(bars_of(header + "\nK:D\n"))
    assert found and all(length == metre for length, metre, _ in found)


def test_bars_that_the_grammar_does_not_know_are_refused(bars_of):
    for header in ("M:12/8\nL:1/32", "M:5/16\nL:1/1", "M:1/16\nL:1/4"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"M:.* with .*L:.*: expected bars .* Choose another L:"):
            list(bars_of(header + "\nK:D\nc"))


def test_tunes_of_bars_that_the_grammar_does_not_know_are_no_headers(generator):
    tunes = [Tune("12/8", "1/32", "Dmaj", "d48|\n")] * 9 + [Tune("6/8", "1/8", "Gmaj", "d6|\n")]
    other = TuneGenerator(generator.model, generator.vocabulary, tune_headers(tunes), top_k=0, max_length=40)
    for text in other.generate(tf.constant([""] * 9), 40, 1.0, 1.0, tf.range(9), constrained=True)["abc"].numpy():
        assert text.startswith(b"X:1\nM:6/8\nL:1/8\nK:Gmaj\n")


def test_the_unit_of_every_metre_is_that_of_read_tune():
    metres = ["C", "C|", *(f"{beats}/{unit}" for beats in (*range(1, 25), "03") for unit in (1, 2, 4, 8, 16))]
    found = default_unit(tf.constant([f"M:{metre}\n" for metre in metres])).numpy()
    wanted = [read_tune("M:" + metre + "\nK:C\nc").unit for metre in metres]
    assert [unit.decode() for unit in found] == [f"L:{unit}\n" for unit in wanted]


def test_the_last_field_counts():
    texts = tf.constant(["M:C\nL:1/8\nK:Dmaj\nab[M:6/8]c|\nM:2/4\nd", "M:C\nL:1/8\nK:Dmaj\nab[M:6/8]c"])
    np.testing.assert_array_equal(last_field(texts, "M").numpy(), [b"M:2/4\n", b"M:6/8\n"])
