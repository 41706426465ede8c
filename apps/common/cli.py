"""A command line from a frozen dataclass, and errors as one line."""

import argparse
import dataclasses
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from apps.common.cluster import LOST_WORKER
from data_pipelines.sources import DataError

Config = TypeVar("Config")


def parse_config(config_class: type[Config], program: str, arguments: Sequence[str] | None = None) -> Config:
    """Fill a dataclass from flags: `max_length_tokens` is `--max-length-tokens`. Unknown flags fail with exit code 2.

    Fields are `name: Annotated[type, "help"] = default`; a type is int, float, str, bool, a `Literal` of choices, or one
    of these `| None`. A bool is a switch, `--name` or `--no-name`.

    >>> from typing import Annotated
    >>> @dataclasses.dataclass(frozen=True)
    ... class Example:
    ...     epochs: Annotated[int, "passes over the data"] = 3
    >>> parse_config(Example, "example", ["--epochs", "5"])
    Example(epochs=5)
    """
    parser = argparse.ArgumentParser(program, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    hints = typing.get_type_hints(config_class, include_extras=True)
    for item in dataclasses.fields(config_class):  # type: ignore[arg-type]
        kind, description = typing.get_args(hints[item.name])
        options = [t for t in typing.get_args(kind) if t is not type(None)]
        flag = "--" + item.name.replace("_", "-")
        kwargs: dict[str, Any] = {"default": item.default, "help": description}
        if kind is bool:
            kwargs["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is typing.Literal:
            kwargs |= {"choices": options, "type": type(options[0])}
        else:
            kwargs |= {"type": options[0] if options else kind, "metavar": (options or [kind])[0].__name__.upper()}
        parser.add_argument(flag, **kwargs)
    return config_class(**vars(parser.parse_args(arguments)))


def with_preset(config: Config, preset: dict[str, Any]) -> Config:
    """The config with the values of a preset, where no flag gave another than the default.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Example:
    ...     epochs: int = 3
    ...     units: int = 8
    >>> with_preset(Example(epochs=5), {"epochs": 1, "units": 2})
    Example(epochs=5, units=2)
    """
    defaults = {item.name: item.default for item in dataclasses.fields(config)}  # type: ignore[arg-type]
    changes = {name: value for name, value in preset.items() if getattr(config, name) == defaults[name]}
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def run(main: Callable[[], None]) -> None:
    """Call `main`; wrong input prints one line and exits with 2, a lost worker with 3, Ctrl-C with 130, SIGTERM with 143."""
    try:
        main()
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except tf.errors.UnavailableError:
        print(
            "error: another worker of this run ended. Nothing is lost but the steps since the last checkpoint: start all workers "
            "again with --resume.",
            file=sys.stderr,
        )
        sys.exit(LOST_WORKER)
    except KeyboardInterrupt as error:
        print(str(error) or "stopped", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 130))


def read_inputs(inputs: Sequence[str]) -> list[str]:
    """The inputs of a `predict` command; `-` stands for standard input, one a line."""
    texts: list[str] = []
    for text in inputs:
        texts += [line.rstrip("\n") for line in sys.stdin] if text == "-" else [text]
    return texts


def table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """Columns for a person to read.

    >>> print(table([["accuracy", 0.9731]], ["metric", "test"]))
    metric      test
    accuracy  0.9731
    """
    cells = [[f"{c:.4f}" if isinstance(c, float) else str(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join(
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))) for row in cells
    )
