"""Tunes as files: ABC, MIDI, sheet music and sound."""

import re
from pathlib import Path

from apps.music_generation.sound import write_wav
from apps.music_generation.tunes.engraver import engrave
from data_pipelines.abc import elements
from data_pipelines.sources import DataError


def write_tune(abc: str, path: Path) -> list[Path]:
    """Write `path` with the endings .abc, .mid, .wav, .svg and .png; return them.

    Raises:
        DataError: verovio can't read the tune; the .abc file is written before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(path.name + ".abc")]
    files[0].write_text(abc)
    score = engrave([with_open_repeats(abc)], files=True)[0]
    if score is None:
        raise DataError(
            f"{files[0]}: written, but verovio can't read it as sheet music. Sample another tune, or use --constrained."
        )
    files.append(path.with_name(path.name + ".mid"))
    files[-1].write_bytes(score.midi)
    for number, svg in enumerate(score.pages, 1):
        name = path.name if len(score.pages) == 1 else f"{path.name}_{number}"
        files.append(path.with_name(f"{name}.svg"))
        files[-1].write_text(svg)
        files.append(_png(svg, path.with_name(f"{name}.png")))
    return [*files, write_wav(score.midi, path)]


def with_open_repeats(abc: str) -> str:
    """The tune with every `|:` that ABC lets a writer leave out: players of MIDI files need them. What isn't ABC is kept.

    >>> print(with_open_repeats("X:1\\nM:2/4\\nK:D\\nabcd:|\\nefga|b4:|\\n"))
    X:1
    M:2/4
    K:D
    |:abcd:|
    |:efga|b4:|
    <BLANKLINE>
    """
    fields = re.split(r"(?m)^(K:.*\n)", abc, maxsplit=1)
    try:
        head, key, body = fields
        found = list(elements(body))
    except ValueError:  # not ABC
        return abc
    parts: list[str] = []
    section, is_open = 0, False
    for kind, match in found:
        parts.append(match[0])
        if kind == "bar":
            line = match["bar"]
            if line.startswith(":") and not is_open:
                parts.insert(section, " |:" if parts[section - 1 : section] and parts[section - 1].endswith("|") else "|:")
            if not line[-1].isdecimal() and line != "|":  # an ending belongs to its section
                section, is_open = len(parts), line.endswith(":")
        elif kind == "space" and section == len(parts) - 1:
            section += 1
    return head + key + "".join(parts)


def _png(svg: str, path: Path) -> Path:
    import resvg_py

    path.write_bytes(bytes(resvg_py.svg_to_bytes(svg_string=svg, background="white", width=1800)))
    return path
