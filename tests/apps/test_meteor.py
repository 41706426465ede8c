"""METEOR without Java gives what the authors' program gives."""

import pytest

from apps.common import meteor
from apps.common.porter2 import stem

# the scores of meteor-1.5.jar (`-l en -norm`), all digits
SCORED = [
    ("a dog runs home", ["a dog runs home"], 1.0),
    ("the dog is shaking off water", ["a dog shakes off water", "a cat"], 0.46040286517361595),
    ("two kids are playing soccer on the lawn", ["two children play football on the grass", "kids at play"], 0.3524175652946834),
    (
        "a man takes a picture of the sea",
        ["a man is taking a photograph of the ocean", "a person by the sea"],
        0.8374674761491762,
    ),
    (
        "there are a lot of people in front of the store",
        ["many people stand before the shop", "a crowd at the shop"],
        0.2644537921230868,
    ),
    (
        "on the grass a dog , a dog and a dog the the a a",
        ["a dog on the grass and a dog and the dog a the a"],
        0.44547516770542445,
    ),
    (
        "the child's kite isn't flying",
        ["the children's kites don't fly", "it's o'clock"],
        0.31101303776631695,
    ),
    (
        "naïve café 犬 走る α'β 3½ o'n'b e\u0301a'b",
        ["the café is naïve 犬 β'α 3 ½ o'n'b a'b e\u0301"],
        0.421879407456536,
    ),
    (
        "geese and men saw ladies' bigger boxes",
        ["a goose and a man see a lady with the big box"],
        0.276931926511909,
    ),
    ("nothing here", ["wholly different words"], 0.0),
    (
        "in spite of the rain , they went on as soon as possible",
        ["despite the rain they continued at the earliest opportunity", "as soon as possible they continued in spite of rain"],
        0.4669839348137328,
    ),
]
TOGETHER = 0.38596752671447027


def test_scores_are_those_of_the_authors_program():
    texts, references, expected = zip(*SCORED, strict=True)
    together, each = meteor.meteor_scores(texts, references)
    assert each == list(expected) and together == TOGETHER


def test_an_empty_text_matches_nothing(monkeypatch):
    monkeypatch.setattr(meteor, "_paraphrases", lambda phrases: {})  # reading the table takes seconds
    together, each = meteor.meteor_scores(["", "a dog"], [["a dog"], ["a dog"]])
    assert each == [0.0, 1.0] and 0 < together < 1


@pytest.mark.parametrize(
    "words, stems",
    [
        ("skis dying only news inning", "ski die onli news inning"),
        ("ties cries caresses gas this kiwis focus", "tie cri caress gas this kiwi focus"),
        ("agreed feed luxuriated hopped hoping fizzed bled ebbing", "agre feed luxuri hop hope fizz bled eb"),
        ("happy by say youth boyish", "happi by say youth boyish"),
        ("generously communism arsenic relational conditional", "generous communism arsenic relat condit"),
        ("analogist apology gently vilely electriciti formative", "analogist apolog gentl vile electr format"),
        ("replacement adoption communion rate controll cease", "replac adopt communion rate control ceas"),
        ("'dog's dogs' it be", "dog dog it be"),
    ],
)
def test_stems_are_those_of_snowball_2(words, stems):
    assert " ".join(map(stem, words.split())) == stems
