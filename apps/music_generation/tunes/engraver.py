"""Sheet music by verovio, in a process of its own: what isn't ABC can crash its reader.

Read by `engrave`, which starts this file; nothing else of the project is imported here.
"""

import base64
import contextlib
import ctypes
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

_IMPLAUSIBLE = re.compile(r"^(?!X:).*\d{6}", re.MULTILINE)
SECONDS = 20  # for one tune
MEMORY = 4 * 2**30  # bytes


class Score(NamedTuple):
    """Sheet music: a MIDI file and pages as SVG; both empty if they weren't asked for."""

    midi: bytes
    pages: list[str]


def engrave(texts: Sequence[str], files: bool = False, repeats: bool = True) -> list[Score | None]:
    """The sheet music of tunes in ABC; None where verovio can't read one, finds no notes, or takes longer than `SECONDS`.

    Where playing the repeats is too much for verovio, the MIDI file has each section once.

    >>> [score is not None for score in engrave(["X:1\\nM:2/4\\nL:1/8\\nK:D\\nd2 fd|a4|\\n", "no tune"])]
    [True, False]
    """
    if any(_IMPLAUSIBLE.search(text) for text in texts):  # numbers on which the reader would spend its seconds
        good = iter(engrave([text for text in texts if not _IMPLAUSIBLE.search(text)], files, repeats))
        return [None if _IMPLAUSIBLE.search(text) else next(good) for text in texts]
    found: list[Score | None] = []
    while len(found) < len(texts):
        lines = "".join(json.dumps([text, files, repeats]) + "\n" for text in texts[len(found) :])
        result = subprocess.run([sys.executable, __file__, str(os.getpid())], input=lines, capture_output=True, text=True)
        rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]
        found += [Score(base64.b64decode(midi), pages) if is_read else None for is_read, midi, pages in rows]
        if result.returncode:
            again = files and repeats and len(found) < len(texts)
            found += engrave([texts[len(found)]], files, repeats=False) if again else [None]  # it crashed on this one
    return found[: len(texts)]


def _bounded(parent: int) -> None:
    """Never outlive the parent, nor take more memory than `MEMORY`."""
    with contextlib.suppress(OSError, AttributeError):  # Linux: a signal when the parent ends
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _serve() -> None:
    import verovio

    _bounded(int(sys.argv[1]))
    verovio.enableLog(verovio.LOG_OFF)
    for line in sys.stdin:
        signal.alarm(SECONDS)  # the default answer to it ends the process
        text, files, repeats = json.loads(line)
        toolkit = verovio.toolkit()
        toolkit.setOptions(
            {
                "inputFrom": "abc",
                "adjustPageHeight": True,
                "scale": 50,
                "footer": "none",
                "xmlIdSeed": 1,
                "expandNever": not repeats,
            }
        )
        is_read = toolkit.loadData(text) and toolkit.getPageCount() > 0 and "<note " in toolkit.getMEI()
        midi = toolkit.renderToMIDI() if is_read and files else ""
        pages = [toolkit.renderToSVG(page + 1) for page in range(toolkit.getPageCount())] if is_read and files else []
        print(json.dumps([bool(is_read), midi, pages]), flush=True)


if __name__ == "__main__":
    _serve()
