"""The stems of English words, by the Porter2 algorithm (https://snowballstem.org/algorithms/english/stemmer.html)."""

import functools
import re

VOWEL, CONSONANT = "[aeiouy]", "[^aeiouy]"  # a y that is a consonant is written Y
DOUBLE = re.compile(r"(bb|dd|ff|gg|mm|nn|pp|rr|tt)$")
SHORT_SYLLABLE = re.compile(f"(^{VOWEL}{CONSONANT}|{CONSONANT}{VOWEL}[^aeiouywxY])$")
REGION = re.compile(f"{VOWEL}{CONSONANT}")

WHOLE_WORDS = dict(
    pair.split(":")
    for pair in (
        "skis:ski skies:sky dying:die lying:lie tying:tie idly:idl gently:gentl ugly:ugli early:earli only:onli singly:singl "
        "sky:sky news:news howe:howe atlas:atlas cosmos:cosmos bias:bias andes:andes"
    ).split()
)
DONE_AFTER_STEP_1A = frozenset("inning outing canning herring earring proceed exceed succeed".split())
STEP_2 = (
    "ization:ize ational:ate fulness:ful ousness:ous iveness:ive tional:tion biliti:ble lessli:less entli:ent ation:ate alism:al "
    "aliti:al ousli:ous iviti:ive fulli:ful enci:ence anci:ance abli:able izer:ize ator:ate alli:al bli:ble"
)
STEP_3 = "ational:ate tional:tion alize:al icate:ic iciti:ic ical:ic ful: ness:"
STEP_4 = "ement ance ence able ible ment ant ent ism ate iti ous ive ize al er ic"


def _pairs(text: str) -> list[tuple[str, str]]:
    """Suffixes, the longest first, and what they become."""
    return [(suffix, new) for suffix, _, new in (pair.partition(":") for pair in text.split())]


STEPS_2_TO_4 = [_pairs(STEP_2), _pairs(STEP_3), _pairs(STEP_4)]


@functools.lru_cache(maxsize=2**16)
def stem(word: str) -> str:
    """The stem of a lower-case word, as Snowball 2 gives it. (Snowball 3 takes `-ologist` apart and keeps `ebb` whole.)

    >>> [stem(word) for word in ("playing", "played", "happily", "skies", "dog's")]
    ['play', 'play', 'happili', 'sky', 'dog']
    """
    if word in WHOLE_WORDS:
        return WHOLE_WORDS[word]
    if len(word) < 3:
        return word
    word = re.sub(f"(^|{VOWEL})y", r"\1Y", word.removeprefix("'"))
    r1, r2 = _regions(word)
    word = _step_1a(re.sub(r"'(s'?)?$", "", word))
    if word in DONE_AFTER_STEP_1A:
        return word
    word = re.sub(f"(?<=.)({CONSONANT})[yY]$", r"\1i", _step_1b(word, r1))
    return _step_5(_steps_2_to_4(word, r1, r2), r1, r2).replace("Y", "y")


def _regions(word: str) -> tuple[int, int]:
    """Where R1 begins, after the first consonant after a vowel, and R2, after the next."""
    prefix = re.match("gener|commun|arsen", word)
    ends = [prefix.end()] if prefix else []
    while len(ends) < 2:
        found = REGION.search(word, ends[-1] if ends else 0)
        ends.append(found.end() if found else len(word))
    return ends[0], ends[1]


def _step_1a(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and re.search(VOWEL, word[:-2]):
        return word[:-1]
    return word


def _step_1b(word: str, r1: int) -> str:
    found = re.search("(eedly|eed|ingly|edly|ing|ed)$", word)
    if not found:
        return word
    before, suffix = word[: found.start()], found[0]
    if suffix.startswith("eed"):
        return before + "ee" if found.start() >= r1 else word
    if not re.search(VOWEL, before):
        return word
    if before.endswith(("at", "bl", "iz")):
        return before + "e"
    if DOUBLE.search(before):
        return before[:-1]
    return before + "e" if r1 >= len(before) and SHORT_SYLLABLE.search(before) else before


def _steps_2_to_4(word: str, r1: int, r2: int) -> str:
    for step, pairs in enumerate(STEPS_2_TO_4, start=2):
        endings = {2: [("ogi", "og"), ("li", "")], 3: [("ative", "")], 4: [("ion", "")]}[step]
        for suffix, new in sorted([*pairs, *endings], key=lambda pair: -len(pair[0])):
            if word.endswith(suffix):
                start = len(word) - len(suffix)
                before = {"ogi": "l", "li": "cdeghkmnrt", "ion": "st"}.get(suffix)
                inside = start >= (r2 if step == 4 or suffix == "ative" else r1)
                if inside and (before is None or (start > 0 and word[start - 1] in before)):
                    word = word[:start] + new
                break
    return word


def _step_5(word: str, r1: int, r2: int) -> str:
    last = len(word) - 1
    if word.endswith("e") and (last >= r2 or (last >= r1 and not SHORT_SYLLABLE.search(word[:-1]))):
        return word[:-1]
    return word[:-1] if word.endswith("ll") and last >= r2 else word
