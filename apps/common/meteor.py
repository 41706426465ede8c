"""METEOR 1.5 for English (Denkowski and Lavie 2014, https://aclanthology.org/W14-3348), without Java.

A text is aligned to a reference, word by word and phrase by phrase: what is equal, has one stem, is a synonym (WordNet), or is a
paraphrase. Each side's matched words count by how they match (w) and whether they are content (m) or function words (f):

    P = sum_i w_i (d m_i + (1 - d) f_i) / (d content + (1 - d) function)      R is the same of the reference
    score = P R / (a P + (1 - a) R) (1 - c (chunks / matches)^b)

where a chunk is a run of matches in one order on both sides. The tables are those of the authors' program, which pycocoevalcap
installs; the search is that program's, with its rounding, so that the scores are its scores.
"""

import functools
import gzip
import importlib.util
import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from apps.common.porter2 import stem

ALPHA, BETA, GAMMA = 0.85, 0.2, 0.6  # of the task `rank`, the program's default for English
CONTENT = 0.75, 0.25  # weights of content and of function words
MODULES = EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
WEIGHTS = 1.0, 0.6, 0.8, 0.6
BEAM_SIZE = 40
LONGEST_PHRASE = 7  # words of a paraphrase in the table

LETTERS = "A-Za-zŠŽšžŸÀ-ÖØ-öø-žЀ-ӿԀ-ԧꙀ-ꙮ꙾-ꚗᴀ-ᵿ"
APART = [  # the marks inside words that make words of their own, in this order
    (re.compile(rf"([^0-9{LETTERS}\s.'`,\-‘’])"), r" \1 "),
    (re.compile("[`‘’]"), "'"),
    (re.compile(f"([^{LETTERS}])'([^{LETTERS}])"), r"\1 ' \2"),
    (re.compile(f"([^{LETTERS}0-9])'([{LETTERS}])"), r"\1 ' \2"),
    (re.compile(f"([{LETTERS}])'([^{LETTERS}])"), r"\1 ' \2"),
    (re.compile(f"([{LETTERS}])'([{LETTERS}])"), r"\1 '\2"),
]
DETACHMENTS = [  # WordNet's rules for the base of a word
    rule.split(":")
    for rule in (
        "s: ses:s xes:x zes:z ches:ch shes:sh men:man ies:y s: ies:y es:e es: ed:e ed: ing:e ing: er: est: er:e est:e".split()
    )
]


class Match(NamedTuple):
    """`length` words of the reference from `start` on are `from_length` words of the text from `from_start` on."""

    module: int
    start: int
    length: int
    from_start: int
    from_length: int


class Alignment(NamedTuple):
    """Matches of the words of a reference up to some place."""

    matched: tuple[int, int] = (0, 0)  # words of the reference and of the text; those that are not equal count half, rounded down
    chunks: int = 0
    distance: int = 0
    place: int = 0  # after the last match, in the reference
    last: int | None = None  # after the last match, in the text, while a chunk is open
    used: int = 0  # a bit for each word of the text
    matches: tuple[Match, ...] = ()

    @property
    def rank(self) -> tuple[int, int, int]:
        return -sum(self.matched), self.chunks, self.distance

    def plus(self, match: Match) -> "Alignment":
        share = 1.0 if match.module == EXACT else 0.5
        return Alignment(
            (int(self.matched[0] + share * match.length), int(self.matched[1] + share * match.from_length)),
            self.chunks + (self.last not in (None, match.from_start)),
            self.distance,
            match.start + match.length,
            match.from_start + match.from_length,
            self.used | _bits(match),
            (*self.matches, match),
        )

    def closed(self) -> "Alignment":
        """One word further without a match, which ends a chunk."""
        return self._replace(chunks=self.chunks + (self.last is not None), last=None, place=self.place + 1)


def _bits(match: Match) -> int:
    return ((1 << match.from_length) - 1) << match.from_start


def meteor_scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """METEOR 1.5 of all texts together, from the sums of their counts, and of each: 0 to 1, by the reference that gives most.

    Args:
        texts: words with spaces between; without punctuation, as COCO's evaluation takes them.
        references: of each text, one at least.

    >>> together, each = meteor_scores(["a dog runs home", "two kittens"], [["a dog runs home"], ["two cats sleep"]])
    >>> print([round(score, 4) for score in each], round(together, 4))
    [1.0, 0.0611] 0.3756
    """
    sides = [(_words(text), [_words(reference) for reference in group]) for text, group in zip(texts, references, strict=True)]
    phrases = _paraphrases(frozenset(g for words, group in sides for side in (words, *group) for g, _ in _phrases(side)))
    best = [max((_counts(words, side, phrases) for side in group), key=_score) for words, group in sides]
    return _score(np.sum(best, axis=0)), [_score(counts) for counts in best]


def _score(counts: np.ndarray) -> float:
    """Of the counts of `_counts`; added up in the program's order, as the last bit may decide between references."""
    matches, lengths, chunks = counts[:-5].reshape(2, 2, len(MODULES)).tolist(), counts[-5:-1].reshape(2, 2).tolist(), counts[-1]
    matched = sum(sum(kind) for side in matches for kind in side)
    if not matched:
        return 0.0
    precision, recall = (
        sum(count * weight * share for kind, share in zip(side, CONTENT) for count, weight in zip(kind, WEIGHTS))
        / sum(share * count for share, count in zip(CONTENT, length))
        for side, length in zip(matches, lengths)
    )
    mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
    return float(mean * (1 - GAMMA * (chunks / (matched / 2)) ** BETA))


def _counts(words: list[str], reference: list[str], phrases: dict[str, list[str]]) -> np.ndarray:
    """Matches (text and reference, content and function words, modules), words (text and reference, content and function words)
    and chunks, in a row. One chunk of all words of both sides counts as none."""
    matches, lengths = np.zeros([2, 2, len(MODULES)]), np.zeros([2, 2])
    best = _align(words, reference, phrases)
    is_function = [[word in _tables().function_words for word in side] for side in (words, reference)]
    for match in best.matches:
        spans = (match.from_start, match.from_length), (match.start, match.length)
        for side, (start, length) in enumerate(spans):
            for place in range(start, start + length):
                matches[side, int(is_function[side][place]), match.module] += 1
    for side, functions in enumerate(is_function):
        lengths[side] = len(functions) - sum(functions), sum(functions)
    is_whole = best.chunks == 1 and (matches.sum(axis=(1, 2)) == lengths.sum(axis=1)).all()
    return np.concatenate([matches.ravel(), lengths.ravel(), [0 if is_whole else best.chunks]])


def _align(words: list[str], reference: list[str], phrases: dict[str, list[str]]) -> Alignment:
    """The alignment with most matches, then fewest chunks, then the shortest distances, by a beam search along the reference."""
    options: list[list[Match]] = [[] for _ in reference]
    covered = [0] * len(words), [0] * len(reference)
    for match in _find_matches(words, reference, phrases):
        options[match.start].append(match)
        for side, start, length in ((0, match.from_start, match.from_length), (1, match.start, match.length)):
            for place in range(start, start + length):
                covered[side][place] += 1

    def is_certain(match: Match) -> bool:
        spans = covered[0][match.from_start : match.from_start + match.from_length], covered[1][match.start :][: match.length]
        return all(count == 1 for span in spans for count in span)

    paths = [Alignment()]
    for place, matches in enumerate(options):
        certain = len(matches) == 1 and is_certain(matches[0])
        paths = [new for path in _best(paths) for new in _extend(path, place, matches, certain)]
    return min((path.closed() for path in _best(paths)), key=lambda path: path.rank)


def _best(paths: list[Alignment]) -> list[Alignment]:
    return sorted(paths, key=lambda path: path.rank)[:BEAM_SIZE]


def _extend(path: Alignment, place: int, matches: list[Match], certain: bool) -> Iterator[Alignment]:
    if place < path.place:  # inside a match
        yield path
    elif certain:
        match = matches[0]
        yield path._replace(distance=path.distance + abs(match.start - match.from_start)).plus(match)
    else:
        for match in matches:
            if not path.used & _bits(match):
                yield path.plus(match)
                # as in the program: the distance of a match counts for the alignments without it, too
                path = path._replace(distance=path.distance + abs(match.start - match.from_start))
        yield path.closed()


def _find_matches(words: list[str], reference: list[str], phrases: dict[str, list[str]]) -> Iterator[Match]:
    """All of them, in the program's order, which decides between equal alignments."""
    stages = [(EXACT, words, reference)]
    if words != reference:  # else an alignment to what is equal is the best
        stages.append((STEM, [stem(word) for word in words], [stem(word) for word in reference]))
    for module, left, right in stages:
        for j, i in np.argwhere(np.array(right)[:, None] == np.array(left)[None]) if words and reference else ():
            if module == EXACT or words[i] != reference[j]:
                yield Match(module, int(j), 1, int(i), 1)
    if words == reference:
        return
    meanings = [_synsets(word) for word in words]
    for j, word in enumerate(reference):
        for i, found in enumerate(meanings):
            if words[i] != word and found & _synsets(word):
                yield Match(SYNONYM, j, 1, i, 1)
    places = _places(words)
    for phrase, j in _phrases(reference):
        for other in phrases.get(phrase, ()):
            for i in places.get(other, ()):
                yield Match(PARAPHRASE, j, phrase.count(" ") + 1, i, other.count(" ") + 1)
    places = _places(reference)
    for phrase, i in _phrases(words):
        for other in phrases.get(phrase, ()):
            for j in places.get(other, ()):
                yield Match(PARAPHRASE, j, other.count(" ") + 1, i, phrase.count(" ") + 1)


def _words(text: str) -> list[str]:
    text = f" {text} "
    for pattern, replacement in APART:
        text = pattern.sub(replacement, text)
    return text.lower().split()


def _phrases(words: Sequence[str]) -> Iterator[tuple[str, int]]:
    """All phrases and where they begin."""
    for start in range(len(words)):
        for end in range(start + 1, min(len(words), start + LONGEST_PHRASE) + 1):
            yield " ".join(words[start:end]), start


def _places(words: Sequence[str]) -> dict[str, list[int]]:
    places = defaultdict(list)
    for phrase, start in _phrases(words):
        places[phrase].append(start)
    return places


class Tables(NamedTuple):
    function_words: frozenset[str]
    synsets: dict[str, str]  # of each word, numbers with spaces between
    bases: dict[str, list[str]]  # of irregular forms


def _folder() -> Path:
    spec = importlib.util.find_spec("pycocoevalcap")
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "meteor"


@functools.cache
def _tables() -> Tables:
    with zipfile.ZipFile(_folder() / "meteor-1.5.jar") as jar:
        function_words = jar.read("function/english.words").decode().split("\n")
        synsets = jar.read("synonym/english.synsets").decode().split("\n")
        exceptions = jar.read("synonym/english.exceptions").decode().split("\n")
    bases = defaultdict(list)
    for base, forms in zip(exceptions[::2], exceptions[1::2]):
        for form in forms.split():
            bases[form].append(base)
    return Tables(frozenset(function_words), dict(zip(synsets[::2], synsets[1::2])), dict(bases))


@functools.lru_cache(maxsize=2**16)
def _synsets(word: str) -> frozenset[str]:
    """The sets of synonyms of a word and of its bases."""
    tables = _tables()
    bases = tables.bases.get(word)
    if bases is None and len(word) > 2 and not word.endswith("ss"):
        found = (word.removesuffix(suffix) + end for suffix, end in DETACHMENTS if word.endswith(suffix))
        bases = [base for base in found if base in tables.synsets][:1]
    return frozenset(number for base in (word, *(bases or ())) for number in tables.synsets.get(base, "").split())


def _paraphrases(phrases: Iterable[str]) -> dict[str, list[str]]:
    """The paraphrases among these phrases: all five million would need a gigabyte."""
    lines = {f"{phrase}\n".encode() for phrase in phrases}
    found = defaultdict(list)
    with gzip.open(_folder() / "data" / "paraphrase-en.gz") as file:
        table = io.BufferedReader(file, 2**20)  # type: ignore[arg-type]
        for _, phrase, other in zip(table, table, table):  # a probability, and the pair
            if phrase in lines and other in lines:
                found[phrase.decode().rstrip()].append(other.decode().rstrip())
    return found
