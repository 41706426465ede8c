"""What is said while data are prepared."""

import errno
import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from data_pipelines.sources import visible

T = TypeVar("T")


def say(name: str, what: Any) -> None:
    print(f"{name:<12}{visible(str(what))}", flush=True)


def reason(error: OSError) -> str | None:
    """A line for what a user can mend."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}{error.strerror}. Name a folder that can be written, or a file that can be read."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full. Free some space and repeat the command: it goes on."
    return None


def counted(name: str, items: Iterable[T], total: int | None = None, rows: int = 1) -> Iterator[T]:
    """The items, of so many rows each; how many rows there were is shown each second on a terminal, else each minute."""
    live, began = sys.stderr.isatty(), time.monotonic()
    shown = began
    for number, item in zip(itertools.count(rows, rows), items):
        yield item
        if number % 1_000 < rows and (now := time.monotonic()) - shown > (1 if live else 60):
            shown, rate = now, number / (now - began)
            rest = f", {number / total:.0%}, {(total - number) / rate:,.0f} s left" if total else ""
            line = f"{name:<12}{number:,}{rest}, {rate:,.0f} a second"
            print(f"\r{line:<79}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)
    if live and shown > began:
        print(f"\r{'':<79}\r", end="", file=sys.stderr, flush=True)
