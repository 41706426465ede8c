"""Tunes whose bars are all as long as the metre says: an automaton that knows which characters may come next.

It processes a tune character by character and tracks what is left of the bar, so that nothing begins that can't end in
time. Bars open and close full: no upbeats. It knows notes and rests with the usual lengths, triplets, broken rhythms, ties,
bar lines, repeats and endings; what it doesn't know, chords for instance, it doesn't let pass.
"""

import gc
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from data_pipelines.abc import note_length

TICKS = 12  # of a unit length
LENGTHS = ("", "/", "/2", "3/2", "2", "3", "4", "6", "8")
BARS = ("|", "||", "|]", ":|", "|:", "::", ":|:", "|1", "|2", ":|2", "[1", "[2", "|[1", "|[2", ":|[2")
LENGTHS_FROM = {  # by what they begin with
    length[:end]: [other for other in LENGTHS if other.startswith(length[:end])]
    for length in LENGTHS
    for end in range(len(length) + 1)
}
BAR_BEGINNINGS = {bar[:end] for bar in BARS for end in range(1, len(bar) + 1)}
PITCHES = frozenset("ABCDEFGabcdefg")
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
        return State(FREE, self.bar)

    def accepts(self, text: str) -> bool:
        """Is the text a sequence of full bars?"""
        state: State | None = self.start
        for character in text:
            state = self.after(state, character) if state else None
        return state is not None and self.may_end(state)

    def may_end(self, state: State) -> bool:
        return state.mode in (BAR, LINE) and state.written in ("|", "||", "|]", ":|")

    def after(self, state: State, character: str) -> State | None:
        """The state after one more character; None if it may not come."""
        mode = state.mode
        if mode == BAR:
            return self._after_bar(state, character)
        if mode == LINE:
            return State(BAR, 0, character) if character in "|:[" else self._begin(State(FREE, self.bar), character)
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
            return state._replace(space=True) if state.left != self.bar or state.tuplet else None
        if character in "|:[":
            return None if state.left != self.bar and state.left else self._begin_bar(state, character)
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
        if longer in BAR_BEGINNINGS:
            return state._replace(written=longer)
        if state.written not in BARS:
            return None
        if character == "\n":
            return State(LINE, 0, state.written)
        if character == " ":
            return State(FREE, self.bar, space=True)
        if state.written == "|]" or character in "|:[":
            return None
        return self._begin(State(FREE, self.bar), character)

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
    """An automaton over a vocabulary: `after[state, token]` is the next state, -1 if that token may not come.

    starts: bar length in ticks -> the state that begins a tune's body.
    may_end: of each state.
    """

    after: np.ndarray
    starts: dict[int, int]
    may_end: np.ndarray


def make_table(tokens: Sequence[str], bars: Iterable[int]) -> Table:
    """The automata for bars of these lengths, without the states from which no bar can be completed."""
    rows: list[list[int]] = []
    starts: dict[int, int] = {}
    ends: list[bool] = []
    collects = gc.isenabled()
    gc.disable()  # a million small tuples, none in a circle: the search for garbage would take two thirds of the time
    try:
        for bar in sorted(set(bars)):
            grammar = Grammar(bar)
            first = len(rows)
            numbers = {grammar.start: first}
            starts[bar] = first
            for state, targets in _transitions(grammar, tokens, numbers):
                rows.append(targets)
                ends.append(grammar.may_end(state))
    finally:
        if collects:
            gc.enable()
    after = np.array(rows, np.int32)
    may_end = np.array(ends)
    return Table(_without_dead_ends(after, may_end), starts, may_end)


def _transitions(grammar: Grammar, tokens: Sequence[str], numbers: dict[State, int]) -> Iterator[tuple[State, list[int]]]:
    step = lru_cache(maxsize=None)(grammar.after)
    queue = list(numbers)
    first = len(numbers) - 1 + min(numbers.values())
    for state in queue:
        targets = []
        for token in tokens:
            after: State | None = state
            for character in token:  # all pitches are alike
                after = step(after, "A" if character in PITCHES else character) if after is not None else None
            if not token or after is None:
                targets.append(-1)
                continue
            if after not in numbers:
                numbers[after] = first + len(numbers)
                queue.append(after)
            targets.append(numbers[after])
        yield state, targets


def _without_dead_ends(after: np.ndarray, may_end: np.ndarray) -> np.ndarray:
    """Forbid what leads to a state from which no end can be reached."""
    alive = may_end.copy()
    while True:
        reaches = alive | (alive[after] & (after >= 0)).any(axis=1)
        if (reaches == alive).all():
            return np.where((after >= 0) & alive[after], after, -1)
        alive = reaches
