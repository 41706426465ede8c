"""Tunes whose bars are all as long as the metre says: an automaton that knows which characters may come next.

It processes a tune character by character and tracks what is left of the bar, so that nothing begins that can't end in
time. Bars open and close full: no upbeats. It knows notes and rests with the usual lengths, triplets, broken rhythms, ties,
bar lines, repeats and endings; what it doesn't know, chords for instance, it doesn't let pass.
"""

import gc
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.abc import note_length

TICKS = 12  # of a unit length
HALF = TICKS // 2  # what is left of a bar after whole elements is a multiple of it
LONGEST = 32 * TICKS  # bar
LENGTHS = ("", "/", "/2", "3/2", "2", "3", "4", "6", "8")
BARS = ("|", "||", "|]", ":|", "|:", "::", ":|:", "|1", "|2", ":|2", "[1", "[2", "|[1", "|[2", ":|[2")
LENGTHS_FROM = {  # by what they begin with
    length[:end]: [other for other in LENGTHS if other.startswith(length[:end])]
    for length in LENGTHS
    for end in range(len(length) + 1)
}
BAR_BEGINNINGS = {bar[:end] for bar in BARS for end in range(1, len(bar) + 1)}
PITCHES = frozenset("ABCDEFGabcdefg")
ALPHABET = PITCHES | frozenset("^_=z,'/0123456789(<>- \n|:[]")
FREE, ACCIDENTAL, NOTE, REST, TUPLET, BROKEN, BAR, LINE = range(8)


class State(NamedTuple):
    """What has been read: `mode`, and what that mode must know.

    left: ticks left in the bar, without the note that is being read.
    written: of the length or bar line that is being read; the accidental.
    factor: what its length is multiplied by, in sixths: a triplet's notes 4, broken rhythm's second 3 or 9.
    tuplet: notes that a triplet still wants.
    same: the length that the second note of a broken rhythm must have, "?" any.
    """

    mode: int
    left: int
    written: str = ""
    factor: int = 6
    tuplet: int = 0
    same: str = "?"
    space: bool = False


class Grammar:
    """The automaton for bars of so many ticks.

    >>> grammar = Grammar(6 * TICKS)
    >>> grammar.accepts("A2B cde|(3cde f4|"), grammar.accepts("A2B c2|"), grammar.accepts("A2B>c de:|")
    (True, False, True)
    """

    def __init__(self, bar: int) -> None:
        self.bar = bar

    @property
    def start(self) -> State:
        return State(FREE, self.bar, space=True)  # no space before the first note

    def accepts(self, text: str) -> bool:
        """Is the text a sequence of full bars?"""
        state: State | None = self.start
        for character in text:
            state = self.after(state, character) if state else None
        return state is not None and self.may_end(state)

    def may_end(self, state: State) -> bool:
        return state.mode in (BAR, LINE) and state.written in ("|", "||", "|]", ":|") and not state.space

    def may_begin(self, state: State) -> bool:
        """May the first note of a bar come?"""
        return state.mode == LINE or (state.mode == BAR and state.written in BARS and (state.space or state.written != "|]"))

    def after(self, state: State, character: str) -> State | None:
        """The state after one more character; None if it may not come."""
        within = self.within(state, character)
        return self.within(self.start, character) if within is None and self.may_begin(state) else within

    def within(self, state: State, character: str) -> State | None:
        """The same where the next bar may not begin: how long it is doesn't matter."""
        mode = state.mode
        if mode == BAR:
            return self._after_bar(state, character)
        if mode == LINE:
            return State(BAR, 0, character) if character in "|:[" else None
        if mode == ACCIDENTAL:
            if character == state.written and character in "^_":
                return None  # double accidentals are rare
            return state._replace(mode=NOTE, written="") if character in PITCHES else None
        if mode == TUPLET:
            return state._replace(mode=FREE, written="", factor=4, tuplet=3) if character == "3" else None
        if mode in (NOTE, REST):
            return self._after_note(state, character)
        return self._begin(state, character)

    def _begin(self, state: State, character: str) -> State | None:
        """Where an element begins."""
        if character == " " and not state.space and state.same == "?":
            return state._replace(space=True)
        if character in "|:[":
            return self._begin_bar(state, character)
        if not state.left:
            return None
        if character == "(":
            return state._replace(mode=TUPLET, space=False) if not state.tuplet and state.same == "?" else None
        if character in "^_=":
            return state._replace(mode=ACCIDENTAL, written=character, space=False)
        if character in PITCHES:
            return state._replace(mode=NOTE, written="", space=False)
        if character == "z":
            return state._replace(mode=REST, written="", space=False)
        return None

    def _begin_bar(self, state: State, character: str) -> State | None:
        if state.left or state.tuplet or state.same != "?" or character == "[":
            return None
        return State(BAR, 0, character) if character in BAR_BEGINNINGS else None

    def _after_note(self, state: State, character: str) -> State | None:
        if character in ",'" and state.mode == NOTE and state.written in ("", character):
            return state._replace(written=character) if not state.written else None
        written = state.written.strip(",'")
        longer = written + character
        if any(self._fits(state, length) for length in LENGTHS_FROM.get(longer, ())):
            return state._replace(written=longer)
        if written not in LENGTHS or not self._fits(state, written):
            return None
        ticks = self._ticks(state, written)
        if character in "<>":
            if state.tuplet or state.same != "?" or state.left < 2 * ticks or ticks % 2:
                return None
            first, second = (ticks * 3 // 2, 3) if character == ">" else (ticks // 2, 9)
            return State(FREE, state.left - first, factor=second, same=written)
        left, tuplet = state.left - ticks, max(0, state.tuplet - 1)
        done = State(FREE, left, factor=4 if tuplet else 6, tuplet=tuplet)
        if character == "-":
            return done if state.mode == NOTE and not tuplet else None
        return self._begin(done, character)

    def _after_bar(self, state: State, character: str) -> State | None:
        longer = state.written + character
        if state.space:
            return None
        if longer in BAR_BEGINNINGS:
            return state._replace(written=longer)
        if state.written not in BARS:
            return None
        return State(LINE, 0, state.written) if character == "\n" else state._replace(space=True) if character == " " else None

    def _ticks(self, state: State, length: str) -> int:
        return _ticks(length, state.factor)

    def _fits(self, state: State, length: str) -> bool:
        """May this note, with what must follow it, stand in the rest of the bar?"""
        return _fits(length, state.same, state.factor, state.tuplet, state.left)


@cache
def _ticks(length: str, factor: int) -> int:
    return int(note_length(length) * TICKS * factor / 6)


@cache
def _fits(length: str, same: str, factor: int, tuplet: int, left: int) -> bool:
    if same != "?" and length != same:
        return False
    exact = note_length(length) * TICKS * factor
    if exact.denominator != 1 or exact % 6 or (tuplet and length not in ("", "/", "2")):
        return False
    return _ticks(length, factor) * max(1, tuplet) <= left


class Table(NamedTuple):
    """The automaton of all bars up to `LONGEST`, over a vocabulary.

    Whatever the length of a bar, it is the same automaton: what comes counts down what is left. Only where a bar begins the
    length is asked for, and so the moves from such a state are its own and those from `start` of the next bar's length.

    after: `after[state, columns[token]]` is the next state, -1 if that token may not come.
    columns: of each token; tokens that differ in their pitch only share one.
    may_begin, may_end: of each state: may the next bar begin, may the tune end?
    """

    after: np.ndarray
    columns: np.ndarray
    may_begin: np.ndarray
    may_end: np.ndarray

    def ticks(self, units: Fraction) -> int:
        """Of a bar of so many unit lengths; 0 if the grammar can't fill it."""
        ticks = units * TICKS
        fits = ticks <= LONGEST and ticks % HALF == 0
        return int(ticks) if fits and (self.after[self.start(int(ticks))] >= 0).any() else 0

    @staticmethod
    def free(left: Any) -> Any:
        """The state in which an element may begin and so many ticks of the bar are left, a multiple of `HALF`."""
        return left // HALF * 2

    @staticmethod
    def start(bar: Any) -> Any:
        """The state in which a bar of so many ticks begins."""
        return bar // HALF * 2 + 1


def make_table(tokens: Sequence[str]) -> Table:
    """The automaton without the states from which no bar can be completed."""
    kinds = ["".join("A" if character in PITCHES else character for character in token) for token in tokens]
    kinds = [kind if kind and ALPHABET.issuperset(kind) else "" for kind in kinds]  # "" may never come
    distinct = sorted(set(kinds))
    grammar = Grammar(0)
    rows: list[list[int]] = []
    may_begin: list[bool] = []
    may_end: list[bool] = []
    collects = gc.isenabled()
    gc.disable()  # a million small tuples, none in a circle: the search for garbage would take two thirds of the time
    try:
        for state, targets in _transitions(grammar, distinct):
            rows.append(targets)
            may_begin.append(grammar.may_begin(state))
            may_end.append(grammar.may_end(state))
    finally:
        if collects:
            gc.enable()
    columns = np.array([distinct.index(kind) for kind in kinds], np.int32)
    begins, ends = np.array(may_begin), np.array(may_end)
    return Table(_without_dead_ends(np.array(rows, np.int32), begins, ends), columns, begins, ends)


def _transitions(grammar: Grammar, tokens: Sequence[str]) -> Iterator[tuple[State, list[int]]]:
    step = lru_cache(maxsize=None)(grammar.within)
    queue = [State(FREE, left, space=space) for left in range(0, LONGEST + 1, HALF) for space in (False, True)]  # see `Table`
    numbers = {state: number for number, state in enumerate(queue)}
    for state in queue:
        targets = []
        for token in tokens:
            after: State | None = state
            for character in token:
                after = step(after, character) if after is not None else None
            if not token or after is None:
                targets.append(-1)
                continue
            if after not in numbers:
                numbers[after] = len(numbers)
                queue.append(after)
            targets.append(numbers[after])
        yield state, targets


def _without_dead_ends(after: np.ndarray, may_begin: np.ndarray, may_end: np.ndarray) -> np.ndarray:
    """Forbid what leads to a state from which no end can be reached."""
    alive = may_end | may_begin
    while True:
        reaches = alive | (alive[after] & (after >= 0)).any(axis=1)
        if (reaches == alive).all():
            return np.where((after >= 0) & alive[after], after, -1)
        alive = reaches
