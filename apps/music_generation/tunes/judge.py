"""Quality of generated tunes: do they parse, do their bars fit, do they repeat, are they copied?"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from apps.music_generation.tunes.engraver import engrave
from data_pipelines.abc import ABCError, Tune, bars, bars_fit, elements, read_tune, tonics, transpose


def tune_metrics(texts: Sequence[str], copies: "Copies | None") -> dict[str, float]:
    """Fractions and means over tunes in ABC notation.

    parse: can be read here and engraved by verovio.
    bars_fit: of all, those whose every bar is as long as the metre says (`bars_fit` of `data_pipelines.abc`).
    repeated_bars, even_sections, tonic_endings: see `form`.
    copied_mean, copied_max: the longest run of characters that occurs in a training tune too, in any key, as a fraction of the
        tune; not without training tunes.
    """
    tunes = [_read(text) for text in texts]
    parsed = [tune is not None and score is not None for tune, score in zip(tunes, engrave(texts))]
    fit = [ok and tune is not None and bars_fit(tune) for ok, tune in zip(parsed, tunes)]
    readable = [tune for tune in tunes if tune is not None]
    copied = [copies.longest_share(tune) for tune in readable] or [0.0] if copies else []
    return {
        "parse": float(np.mean(parsed)),
        "bars_fit": float(np.mean(fit)),
        **form(readable),
        **({"copied_mean": float(np.mean(copied)), "copied_max": float(np.max(copied))} if copied else {}),
        "characters": float(np.mean([len(text) for text in texts])),
        "tunes": len(texts),
    }


def _read(text: str) -> Tune | None:
    try:
        return read_tune(text)
    except ABCError:
        return None


def form(tunes: Sequence[Tune]) -> dict[str, float]:
    """What tunes have of a form.

    repeated_bars: mean fraction of bars that occur earlier in the tune.
    even_sections: fraction of the sections that have 8 or 16 full bars.
    tonic_endings: of these, those whose last note is the tonic.
    """
    even = [ends for tune in tunes for count, ends in sections(tune) if count in (8, 16)]
    return {
        "repeated_bars": float(np.mean([repeated_bars(tune) for tune in tunes] or [0.0])),
        "even_sections": len(even) / max(1, sum(len(sections(tune)) for tune in tunes)),
        "tonic_endings": sum(even) / max(1, len(even)),
    }


def sections(tune: Tune) -> list[tuple[int, bool]]:
    """Of each section its full bars, and whether its last note is the tonic; a second ending belongs to no section.

    >>> sections(read_tune("X:1\\nM:2/4\\nL:1/8\\nK:D\\nA|d2 fd|a3A:|d2 fd|1 a4:|2 d4|]"))
    [(2, False), (2, False)]
    """
    last = [""]  # note of each bar, or before it
    for kind, match in elements(tune.body):
        if kind == "note":
            last[-1] = (match["accidental"] or "") + match["letter"].upper()
        elif kind == "bar":
            last.append(last[-1])
    found, count, is_second = [], 0, False
    for (length, metre, line), note in zip(bars(tune), last):
        count += 2 * length > metre
        if line in ("", "||") or set(":]") & set(line):
            if count and not is_second:
                found.append((count, note == tune.key[0]))
            count, is_second = 0, "2" in line
    return found


def repeated_bars(tune: Tune) -> float:
    """The fraction of bars that occur earlier in the tune.

    >>> repeated_bars(read_tune("X:1\\nM:2/4\\nL:1/8\\nK:D\\nd2 fd|a4|d2 fd|a4|"))
    0.5
    """
    found, bar = [], ""
    for kind, match in elements(tune.body):
        if kind == "bar":
            found.append(bar)
            bar = ""
        elif kind != "space":
            bar += match[0]
    counts = Counter(bar for bar in [*found, bar] if bar)
    return 1 - len(counts) / counts.total() if counts else 0.0


class Copies:
    """Finds the longest run of a tune that occurs in the training tunes.

    All tunes are moved to one tonic, the training tunes in three octaves, so that a tune copied into another key is found too.
    """

    def __init__(self, training: Sequence[Tune]) -> None:
        bodies = [_without_spaces(in_c(tune, octave).body) for tune in training for octave in (-12, 0, 12)]
        self.text = "\n".join(bodies)

    def longest_share(self, tune: Tune) -> float:
        """The longest run, as a fraction of the tune's characters; spaces and ends of lines don't count.

        >>> tune = read_tune("X:1\\nM:2/4\\nL:1/8\\nK:D\\nd2 fd|a4|")
        >>> Copies([tune]).longest_share(read_tune("X:1\\nM:2/4\\nL:1/8\\nK:G\\ng2 bg|d'4|"))
        1.0
        """
        characters = _without_spaces(in_c(tune).body)
        start, longest = 0, 0
        for end in range(1, len(characters) + 1):
            if end - start > longest:
                if characters[start:end] in self.text:
                    longest = end - start
                else:
                    start += 1
        return longest / max(1, len(characters))


def _without_spaces(body: str) -> str:
    return "".join(body.split())


def in_c(tune: Tune, octave: int = 0) -> Tune:
    """The tune with the tonic C, at most six semitones away, and so many semitones more."""
    mode = tune.key[-3:]
    names = tonics(mode)
    own = next((i for i, name in enumerate(names) if name == tune.key[:-3]), None)
    if own is None:  # spelled otherwise, C# for Db: up and down an octave spells it as we do
        respelled = transpose(transpose(tune, 1), -1)
        return in_c(replace(respelled, number=tune.number), octave)
    shift = -own if own <= 6 else 12 - own
    return transpose(tune, shift + octave)
