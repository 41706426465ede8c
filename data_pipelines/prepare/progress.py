"""What is said while data are prepared."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from data_pipelines.sources import visible

T = TypeVar("T")


def say(name: str, what: Any) -> None:
    print(f"{name:<12}{visible(str(what))}", flush=True)


def counted(name: str, items: Iterable[T], total: int | None = None) -> Iterator[T]:
    """The items; how many there were is shown each second on a terminal, else each minute."""
    live, began = sys.stderr.isatty(), time.monotonic()
    shown = began
    for number, item in enumerate(items, start=1):
        yield item
        if number % 1_000 == 0 and (now := time.monotonic()) - shown > (1 if live else 60):
            shown, rate = now, number / (now - began)
            rest = f", {number / total:.0%}, {(total - number) / rate:,.0f} s left" if total else ""
            line = f"{name:<12}{number:,}{rest}, {rate:,.0f} a second"
            print(f"\r{line:<79}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)
    if live and shown > began:
        print(f"\r{'':<79}\r", end="", file=sys.stderr, flush=True)
