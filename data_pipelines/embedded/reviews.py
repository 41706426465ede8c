"""Reviews made by a seeded generator in which word order decides.

Each review says one good and one bad word about each thing, and only their order and the little words around them tell
the opinion: "the food was good, not bad at all" against "the food was bad, not good at all". Every sentence has a twin
of the opposite label with exactly the same words, so a bag of words can't tell them apart.
"""

import random

THINGS = (
    "food service room staff music view coffee breakfast price bed story acting camera ending cast film plot dialogue "
    "soundtrack picture screen battery keyboard sound design delivery support manual software hotel location garden pool "
    "kitchen soup dessert wine menu bar terrace lobby shower heating parking train driver seat ticket tour guide museum "
    "exhibition concert orchestra singer stage play book chapter translation cover"
).split()
GOOD = (
    "good great excellent wonderful lovely superb brilliant pleasant charming perfect delightful impressive fantastic "
    "enjoyable splendid"
).split()
BAD = (
    "bad awful terrible poor dreadful horrible boring disappointing mediocre unpleasant ugly annoying dull shoddy dismal"
).split()
OPENINGS = (
    "",
    "we came on a rainy tuesday .",
    "i had read about it before .",
    "my sister chose it for us .",
    "it was our second visit .",
    "let me be brief .",
    "i bought it last month .",
    "we stayed for three days .",
)
CLOSINGS = (
    "",
    "that is all there is to say .",
    "make of it what you will .",
    "we went home at nine .",
    "the rest you can read elsewhere .",
    "i wrote this on the way back .",
)
# {a} is what the writer means, {b} what it is not; swapping the two swaps the opinion.
PATTERNS = (
    "the {thing} was {a} , not {b} at all .",
    "the {thing} was not {b} , it was {a} .",
    "people say the {thing} is {b} , but in truth it was {a} .",
    "i expected the {thing} to be {b} and , to my surprise , it turned out {a} .",
    "nobody who has seen it , whatever the papers wrote , would call the {thing} {b} ; {a} is the word .",
    "the {thing} , which used to be {b} , is now {a} .",
    "far from being {b} , as my neighbour keeps telling everyone , the {thing} was {a} .",
    "they promised a {b} {thing} and we got a {a} one .",
    "at first the {thing} seemed {b} . by the end we all agreed that it was {a} .",
    "how could anyone find the {thing} {b} ? to us it was simply {a} .",
)


def make_reviews(count: int, seed: int) -> list[tuple[str, str]]:
    """`count` pairs `(text, label)` with labels `negative` and `positive`, half each.

    >>> (one, negative), (other, positive) = make_reviews(2, seed=5)
    >>> one[26:60]
    'at first the service seemed enjoya'
    >>> sorted(one.split()) == sorted(other.split()), negative, positive
    (True, 'negative', 'positive')
    """
    rng = random.Random(seed)
    reviews: list[tuple[str, str]] = []
    while len(reviews) < count:
        opening, closing = rng.choice(OPENINGS), rng.choice(CLOSINGS)
        sentences = [
            (rng.choice(PATTERNS), rng.choice(THINGS), rng.choice(GOOD), rng.choice(BAD)) for _ in range(rng.choice((1, 1, 2)))
        ]
        for label in ("negative", "positive"):
            body = [
                pattern.format(thing=thing, a=good if label == "positive" else bad, b=bad if label == "positive" else good)
                for pattern, thing, good, bad in sentences
            ]
            reviews.append((" ".join(part for part in (opening, *body, closing) if part), label))
    return reviews[:count]


def embedded_reviews() -> dict[str, list[tuple[str, str]]]:
    """The offline default: 4,000 reviews for training, 500 each for validation and test, without overlap."""
    made = list(dict.fromkeys(make_reviews(8000, seed=20)))
    twins = [made[i : i + 2] for i in range(0, len(made), 2)]
    flat = [review for pair in twins for review in pair]
    return {"train": flat[:4000], "validation": flat[4000:4500], "test": flat[4500:5000]}
