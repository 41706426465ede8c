"""Short reviews made by a seeded generator over a real lexicon, so that a stranger's sentence gets a sensible answer.

The words come from vaderSentiment's lexicon (Hutto & Gilbert 2014, https://ojs.aaai.org/index.php/ICWSM/article/view/14550),
which ten people rated word by word, and from the lists of `opinions`. What a review says follows from them by grammar: negation
reverses a word, `but` gives the last word to what comes after it, `although` to the main clause, `too` spoils. A part
are pairs of opposite labels with exactly the same words in a different order.
"""

import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from data_pipelines.embedded import opinions
from data_pipelines.embedded.opinions import BAD, GOOD, SPOILED, THINGS

ENDINGS = {
    "adverb": ("ly",),
    "noun": tuple("ness ment ments ion ions ity ities ers ism isms ence ance ship ships nesses or ors".split()),
    "adjective": tuple("ful less ous ive able ible ing ed ic al ant ent ish y some est".split()),
}

Words = dict[str, list[str]]


@cache
def _words() -> Words:
    """The lexicon's words by what they mean and, from their endings, by where they can stand: `positive adjective`, …"""
    import vaderSentiment

    lexicon = (Path(vaderSentiment.__file__).parent / "vader_lexicon.txt").read_text(encoding="utf-8")
    words: Words = {f"{label} {kind}": [] for label in ("positive", "negative") for kind in (*ENDINGS, "other")}
    for line in filter(None, lexicon.splitlines()):
        word, valence = line.split("\t")[:2]
        if abs(float(valence)) >= 1.0 and re.fullmatch("[a-z]{3,}", word) and word not in {*GOOD, *BAD}:
            kind = next((kind for kind, endings in ENDINGS.items() if word.endswith(endings)), "other")
            words[f"{'positive' if float(valence) > 0 else 'negative'} {kind}"].append(word)
    return words


class _Writer:
    """Sentences that mean well or not."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.words = _words()
        self.decks: Words = {name: [] for name in self.words}

    def pick(self, choices: list[str]) -> str:
        return self.random.choice(choices)

    def word(self, label: str) -> str:
        """What a thing can be: a word of the lists, or an adjective of the lexicon or what may be one."""
        if self.random.random() < 0.4:
            return self.pick(GOOD if label == "positive" else BAD)
        return self.deal(label, "adjective" if self.random.random() < 0.6 else "other")

    def deal(self, label: str, kind: str) -> str:
        """The lexicon's words of a kind, in turn."""
        name = f"{label} {kind}"
        if not self.decks[name]:
            self.decks[name] = self.random.sample(self.words[name], len(self.words[name]))
        return self.decks[name].pop()

    def very(self, label: str) -> str:
        return f"{self.pick(opinions.VERY)} {self.word(label)}".strip()

    def plain(self, label: str) -> str:
        thing, other = self.pick(THINGS), self.pick(THINGS)
        patterns: list[Callable[[], str]] = [
            lambda: f"the {thing} was {self.very(label)}",
            lambda: f"the {thing} is {self.very(label)} and {self.word(label)}",
            lambda: f"{self.word(label)} {thing}",
            lambda: f"a {self.word(label)} , {self.word(label)} {thing}",
            lambda: f"a {self.word(label)} and {self.word(label)} little {thing} that is {self.very(label)}",
            lambda: f"what a {self.word(label)} {thing}",
            lambda: f"it is {self.very(label)}",
            lambda: f"i was {self.very(label)}",
            lambda: f"we were {self.very(label)} with the {thing}",
            lambda: f"{self.word(label)} from beginning to end",
            lambda: f"the {thing} and the {other} were {self.very(label)}",
            lambda: f"it 's {self.word(label)} , {self.word(label)} and {self.word(label)}",
            lambda: f"an {self.word(label)} {thing} full of {self.word(label)}",
            lambda: f"with {self.word(label)} {other} and {self.word(label)} {thing}",
            lambda: (
                f"this {thing} {self.pick(['offers', 'has', 'is', 'delivers', 'remains', 'feels', 'looks'])} {self.very(label)}"
            ),
            lambda: f"{self.pick(['full of', 'nothing but', 'pure', 'a study in'])} {self.deal(label, 'noun')}",
            lambda: f"the {thing} is {self.deal(label, 'adverb')} {self.pick(['made', 'done', 'written', 'played', 'cooked'])}",
            lambda: f"{self.deal(label, 'adverb')} {self.word(label)}",
            lambda: f"one word : {self.deal(label, 'other')}",
            lambda: f"{self.pick(['best', 'finest'] if label == 'positive' else ['worst', 'poorest'])} {thing} of the year",
        ]
        return self.random.choice(patterns)()

    def verb(self, label: str) -> str:
        thing, what = self.pick(THINGS), self.pick(["it", "this", "this one", "the {}", "this {}", "it all"])
        what = what.format(thing)
        loves, hates = (opinions.LOVE, opinions.LOVED), (opinions.HATE, opinions.HATED)
        present, past = loves if label == "positive" else hates
        against = opinions.LOVE if label == "negative" else opinions.HATE
        someone = self.pick(["i", "we", "i", "my sister and i", "you will"])
        return self.random.choice(
            [
                lambda: f"{someone} {self.pick(['', 'really', 'just', 'absolutely'])} {self.pick(present)} {what}".replace(
                    "  ", " "
                ),
                lambda: f"{self.pick(['i', 'we', 'she', 'he', 'everybody', 'i really', 'we really'])} {self.pick(past)} {what}",
                lambda: f"{self.pick(['i', 'we'])} {self.pick(opinions.DO_NOT)} {self.pick(against)} {what}",
                lambda: f"i would {'not ' if label == 'negative' else ''}recommend {what} to {self.pick(['anyone', 'you'])}",
            ]
        )()

    def negated(self, label: str) -> str:
        other, thing = "negative" if label == "positive" else "positive", self.pick(THINGS)
        patterns: list[Callable[[], str]] = [
            lambda: f"the {thing} was {self.pick(opinions.NOT)} {self.word(other)}",
            lambda: f"the {thing} {self.pick(opinions.WAS_NOT)} {self.word(other)}",
            lambda: f"it {self.pick(opinions.WAS_NOT)} {self.word(other)}",
            lambda: f"{self.pick(opinions.NOT)} {self.word(other)}",
            lambda: f"not {self.word(other)} at all",
            lambda: f"without {self.pick(['any ', 'a trace of ', ''])}{self.word(other)}",
            lambda: f"no {self.word(other)} , no {self.word(other)}",
            lambda: f"there is nothing {self.word(other)} about {self.pick(['it', 'the ' + thing, 'this ' + thing])}",
            lambda: f"neither {self.word(other)} nor {self.word(other)}",
        ]
        if label == "negative":
            patterns += [
                lambda: f"the {thing} lacks {self.word(other)}",
                lambda: (
                    f"{self.pick(['too', 'far too', 'much too', 'all too'])} {self.pick(SPOILED)} and too {self.pick(SPOILED)}"
                ),
                lambda: f"the {thing} was {self.pick(['too', 'far too', 'way too'])} {self.pick(SPOILED)}",
                lambda: (
                    f"it {self.pick(['fails', 'never manages', 'wants but fails', 'tries too hard'])} to be {self.word(other)}"
                ),
                lambda: f"not as {self.word(other)} as it {self.pick(['thinks it is', 'should be', 'could have been'])}",
            ]
        return self.random.choice(patterns)()

    def contrast(self, label: str) -> str:
        other = "negative" if label == "positive" else "positive"
        first, last = self.simple(other), self.simple(label)
        return self.random.choice(
            [
                f"{first} , but {last}",
                f"{first} but {last}",
                f"although {first} , {last}",
                f"even though {first} , {last}",
                f"{last} , although {first}",
                f"despite the {self.word(other)} {self.pick(THINGS)} , {last}",
                f"{first} . still , {last}",
                f"{first} . however , {last}",
            ]
        )

    def reordered_pair(self, label: str) -> tuple[str, str]:
        """Two texts of the same words: the first means what `label` says, the second the opposite."""
        thing = self.pick(THINGS)
        a, b = self.word(label), self.word("negative" if label == "positive" else "positive")
        pattern = self.pick(
            [
                "the {thing} was {a} , not {b} at all .",
                "the {thing} was not {b} , it was {a} .",
                "people say the {thing} is {b} , but in truth it was {a} .",
                "i expected the {thing} to be {b} and , to my surprise , it turned out {a} .",
                "the {thing} , which used to be {b} , is now {a} .",
                "far from being {b} , the {thing} was {a} .",
                "they promised a {b} {thing} and we got a {a} one .",
                "at first the {thing} seemed {b} . by the end we all agreed that it was {a} .",
            ]
        )
        return pattern.format(thing=thing, a=a, b=b), pattern.format(thing=thing, a=b, b=a)

    def filler(self) -> str:
        pattern = self.pick(opinions.FILLERS)
        return pattern.format(*(self.pick(THINGS) for _ in range(pattern.count("{}"))))

    def tally(self, label: str) -> str:
        """Words strewn over what says nothing; most of them decide."""
        other = "negative" if label == "positive" else "positive"
        words = [self.word(label) for _ in range(self.random.choice((1, 2, 3)))]
        if len(words) > 1 and self.random.random() < 0.4:
            words.insert(self.random.randrange(len(words)), self.word(other))
        parts = [part for word in words for part in (self.pick([word, f"{word} {self.pick(THINGS)}"]), self.filler())]
        return " ".join(parts if self.random.random() < 0.5 else [self.filler(), *parts[:-1]])

    def simple(self, label: str) -> str:
        return self.random.choices([self.plain, self.verb, self.negated], [6, 1, 3])[0](label)

    def review(self, label: str) -> str:
        kind = self.random.random()
        if kind < 0.06:
            body = self.pick(opinions.FIXED[label])
        elif kind < 0.22:
            body = self.contrast(label)
        elif kind < 0.5:
            body = self.tally(label)
        else:
            body = self.simple(label)
            if self.random.random() < 0.3:
                body += f" {self.pick([',', '.', 'and', ';'])} {self.simple(label)}"
        opening, closing = self.pick(opinions.OPENINGS), self.pick(opinions.CLOSINGS)
        end = self.pick([" .", " !"] if closing else [" .", " .", " !", ""])
        return " ".join(part for part in (opening, body + end, closing) if part)


def make_reviews(count: int, seed: int) -> list[tuple[str, str]]:
    """`count` pairs `(text, label)` with labels `negative` and `positive`, half each; a fifth are pairs of the same words.

    >>> (one, negative), (other, positive) = make_reviews(2, seed=5)
    >>> negative, positive
    ('negative', 'positive')
    """
    writer = _Writer(seed)
    reviews: list[tuple[str, str]] = []
    while len(reviews) < count:
        if writer.random.random() < 0.2:
            negative, positive = writer.reordered_pair("negative")
        else:
            negative, positive = writer.review("negative"), writer.review("positive")
        reviews += [(negative, "negative"), (positive, "positive")]
    return [(re.sub(r"\ba (?=[aeiou])", "an ", text), label) for text, label in reviews[:count]]


def embedded_reviews() -> dict[str, list[tuple[str, str]]]:
    """The offline default: 24,000 reviews for training, 500 each for validation and test, without overlap."""
    made = list(dict.fromkeys(make_reviews(26_000, seed=20)))
    flat: list[tuple[str, str]] = []
    labels: dict[str, str] = {}
    for text, label in made:
        if labels.setdefault(text, label) == label:  # "not" of a word may mean either
            flat.append((text, label))
    return {"train": flat[1000:25_000], "validation": flat[:500], "test": flat[500:1000]}
