"""A command line from a frozen dataclass, and errors as one line."""

import argparse
import dataclasses
import errno
import json
import math
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tensorflow as tf

from apps.common.files import newest_run
from apps.common.training.cluster import LOST, LOST_WORKER
from data_pipelines import remote
from data_pipelines.prepared import prepared_flags
from data_pipelines.sources import DataError, visible

Config = TypeVar("Config")


def parse_config(
    config_class: type[Config],
    program: str,
    preset: Callable[[Config], dict[str, Any]] = lambda config: {},
    arguments: Sequence[str] | None = None,
) -> Config:
    """Fill a dataclass from flags: `max_length` is `--max-length`. Unknown flags fail with exit code 2.

    Fields are `name: Annotated[type, "help", "range"] = default`; a type is int, float, str, bool, a `Literal` of choices, or one
    of these `| None`. A bool is a switch, `--name` or `--no-name`. The range may be missing. `--help` shows the flags in groups:
    those that `config_class.first` names, then each dataclass from which it is derived, under its docstring.

    `--config FILE` reads flags from JSON, `config.json` of a run too, and `--resume` those of the run that continues,
    `--init-from` those of a model, `--data` those of a folder that `data_pipelines.prepare` wrote. What is typed wins, and what a
    typed `--quick` stands for; then the file, then a preset.

    Args:
        config_class: the dataclass; its `application` says where the runs are, `kept` which flags `--init-from` reads.
        program: the command, for `--help`.
        preset: from the config, the values of flags that were not given.
        arguments: of the command line.

    Raises:
        DataError: a value outside its range; a file that is not JSON with flags.

    >>> from typing import Annotated
    >>> @dataclasses.dataclass(frozen=True)
    ... class Example:
    ...     epochs: Annotated[int, "passes over the data", "[1, inf)"] = 3
    ...     units: Annotated[int, "of the state", "[1, inf)"] = 64
    >>> parse_config(Example, "example", lambda config: {"epochs": 1, "units": 8}, ["--epochs", "3"])
    Example(epochs=3, units=8)
    >>> parse_config(Example, "example", arguments=["--epochs", "0"])
    Traceback (most recent call last):
        ...
    data_pipelines.sources.DataError: --epochs 0: expected a number in [1, inf). Leave it out for the default, 3.
    """
    parser = argparse.ArgumentParser(program, f"{program} [flags]", allow_abbrev=False, argument_default=argparse.SUPPRESS)
    all_hints = typing.get_type_hints(config_class, include_extras=True)
    hints = {item.name: all_hints[item.name] for item in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    groups = {title: parser.add_argument_group(title) for title in dict.fromkeys(_flag_groups(config_class).values())}
    for name, title in _flag_groups(config_class).items():
        _add_flag(groups[title], name, hints[name], getattr(config_class, name))
    parser.add_argument("--config", metavar="FILE", help="JSON with flags, or config.json of a run; typed flags win")
    typed = vars(parser.parse_args(arguments))
    path = typed.pop("config", None)
    resumed = run_flags(config_class.application, typed) if typed.get("resume") else {}  # type: ignore[attr-defined]
    resumed = {name: value for name, value in resumed.items() if name in hints}  # `open_run` refuses those of another version
    begun = _flags_to_begin_with(config_class, typed["init_from"]) if typed.get("init_from") and not resumed else {}
    prepared = prepared_flags(typed["data"], config_class.application) if typed.get("data") else {}  # type: ignore[attr-defined]
    begun |= {name: value for name, value in prepared.items() if name in hints and not resumed}
    given = resumed | begun | ({} if path is None else _known(path, read_flags(path), hints))
    presets, of_file = preset(config_class(**{**given, **typed})), preset(config_class(**given))
    presets = {name: value for name, value in presets.items() if name not in begun}
    asked = {name: value for name, value in presets.items() if of_file.get(name, ...) != value}  # by a typed --quick, say
    config = config_class(**{**presets, **given, **asked, **typed})
    check_ranges(config)
    return config


def _add_flag(group: Any, name: str, hint: Any, default: Any) -> None:
    kind, description, *_ = typing.get_args(hint)
    options = [t for t in typing.get_args(kind) if t is not type(None)]
    kwargs: dict[str, Any] = {"help": description if default is None else f"{description} (default: {default})"}
    if bool in (kind, *options):
        kwargs["action"] = argparse.BooleanOptionalAction
    elif typing.get_origin(kind) is typing.Literal:
        kwargs |= {"choices": options, "type": type(options[0])}
    else:
        kwargs |= {"type": options[0] if options else kind, "metavar": (options or [kind])[0].__name__.upper()}
    group.add_argument("--" + name.replace("_", "-"), **kwargs)


def add_flags(group: Any, config_class: type, names: Sequence[str], default: str) -> None:
    """Add flags of a dataclass to a parser; those that are not typed are missing.

    Args:
        default: what holds then, for `--help`.
    """
    hints = typing.get_type_hints(config_class, include_extras=True)
    group.argument_default = argparse.SUPPRESS
    for name in names:
        _add_flag(group, name, hints[name], default)


def _flag_groups(config_class: type) -> dict[str, str]:
    """The group of each flag, in the order of `--help`: that of the class that defines the flag.

    >>> @dataclasses.dataclass
    ... class Fit:
    ...     "training"
    ...     epochs: int = 3
    ...     seed: int = 0
    >>> @dataclasses.dataclass
    ... class Example(Fit):
    ...     first: typing.ClassVar = ("data", "epochs")
    ...     data: str = "file"
    >>> _flag_groups(Example)
    {'data': 'the flags that matter first', 'epochs': 'the flags that matter first', 'seed': 'training'}
    """
    titles = dict.fromkeys(getattr(config_class, "first", ()), "the flags that matter first")
    groups = [group for group in config_class.__mro__ if dataclasses.is_dataclass(group)]
    for group in reversed(groups):
        for item in dataclasses.fields(group):
            titles.setdefault(item.name, (group.__doc__ or "").splitlines()[0])
    names = [name for group in groups for name in vars(group).get("__annotations__", {}) if name in titles]
    order = list(dict.fromkeys(titles[name] for name in reversed(names)))[::-1]  # a title stands where it comes last
    names = [*getattr(config_class, "first", ()), *sorted(names, key=lambda name: order.index(titles[name]))]
    return {name: titles[name] for name in names}


def read_flags(path: str) -> dict[str, Any]:
    """Flags from a file of `--config`.

    Raises:
        DataError: it is no JSON of flags.
    """
    try:
        flags = json.loads(Path(remote.local(path)).read_text("utf-8-sig"))
        if "config" in flags:  # of a run: its flags for a new run
            flags = {name: value for name, value in flags["config"].items() if name not in ("run_dir", "resume")}
        return {name.replace("-", "_"): value for name, value in flags.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f'--config {path}: can\'t be read as flags ({error}). Write {{"epochs": 3}}, say, or name config.json of a run.'
        ) from None


def run_flags(application: str, typed: dict[str, Any]) -> dict[str, Any]:
    """The flags of the run that `--resume` continues: that of `--run-dir`, or the one that was started last.

    Several machines need not share the folder of the run: without `--run-dir`, all flags of `--strategy multiworker` are typed.

    Raises:
        DataError: there is no such run.
    """
    several = typed.get("strategy") == "multiworker"
    if several and not typed.get("run_dir"):
        return {}
    folder = remote.run_folder(typed["run_dir"]) if typed.get("run_dir") else newest_run(application)
    if folder is None or not (folder / "config.json").is_file():
        place = typed.get("run_dir") or f"runs/{application}"
        raise DataError(f"{place}: no run to resume. Leave out --resume, or name its folder with --run-dir.")
    flags = {**read_flags(str(folder / "config.json")), "run_dir": remote.shown(folder)}
    if "strategy" in typed:  # these go with the strategy of the run only
        flags = {name: value for name, value in flags.items() if name not in ("workers", "data_service")}
    return flags


def _flags_to_begin_with(config_class: Any, run: str) -> dict[str, Any]:
    """The flags that the weights of the run of `--init-from` depend on, which `config_class.kept` names."""
    file = Path(remote.local(run)) / "config.json"
    flags = read_flags(str(file)) if file.is_file() else {}  # `initial_run` says what is wrong with it
    return {name: value for name, value in flags.items() if name in config_class.kept}


def _known(path: str, flags: dict[str, Any], hints: dict[str, Any]) -> dict[str, Any]:
    """The flags of a file, if there are such flags, and if each value is of its type."""
    for name, value in flags.items():
        if name not in hints:
            raise DataError(f"--config {path}: no flag {name!r}. --help lists them.")
        kind = typing.get_args(hints[name])[0]
        if not _accepts(kind, value):
            expected = " or ".join(getattr(k, "__name__", str(k)) for k in typing.get_args(kind) or [kind])
            raise DataError(f"--config {path}: {name} is {value!r}; expected {expected}.")
    return flags


def _accepts(kind: Any, value: Any) -> bool:
    """
    >>> [_accepts(int | None, value) for value in (3, None, 2.5, True)], _accepts(float, 3), _accepts(typing.Literal["a"], "b")
    ([True, True, False, False], True, False)
    """
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    if typing.get_args(kind):
        return any(_accepts(k, value) for k in typing.get_args(kind))
    return type(value) is kind or (kind is float and type(value) is int)


def flags_of(config: Any, group: type) -> dict[str, Any]:
    """The values of one group of flags.

    >>> @dataclasses.dataclass
    ... class Model:
    ...     units: int = 8
    >>> @dataclasses.dataclass
    ... class Example(Model):
    ...     seed: int = 0
    >>> flags_of(Example(units=3), Model)
    {'units': 3}
    """
    return {item.name: getattr(config, item.name) for item in dataclasses.fields(group)}


def check_ranges(config: Any) -> None:
    """Refuse a config with a value outside the range of its field.

    Raises:
        DataError: the first one.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for item in dataclasses.fields(config):
        _, _, *ranges = typing.get_args(hints[item.name])
        value = getattr(config, item.name)
        if ranges and value is not None and not _is_in(value, ranges[0]):
            flag = "--" + item.name.replace("_", "-")
            raise DataError(f"{flag} {value}: expected a number in {ranges[0]}. Leave it out for the default, {item.default}.")


def _is_in(value: float, interval: str) -> bool:
    """Whether a number is in an interval, `[` and `]` with the end, `(` and `)` without.

    >>> [_is_in(value, "[0, 1)") for value in (-0.1, 0, 0.5, 1, float("nan"))]
    [False, True, True, False, False]
    """
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def number_type(kind: type, interval: str) -> Callable[[str], Any]:
    """The `type` of an argument that must lie in an interval.

    >>> number_type(int, "[0, inf)")("3")
    3
    """

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not _is_in(value, interval):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text}: expected {what} in {interval}. Leave it out for the default.")
        return value

    return read


def as_json(values: Any) -> str:
    """JSON as the standard has it: NaN and infinities become null.

    >>> as_json({"roc_auc": float("nan"), "accuracy": [0.5, float("inf")]})
    '{"roc_auc": null, "accuracy": [0.5, null]}'
    """

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: finite(one) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(values), ensure_ascii=False, allow_nan=False)


def refusal(error: tf.errors.InvalidArgumentError) -> str:
    """What an export asserts of a request; "" if the error is another.

    >>> refusal(tf.errors.InvalidArgumentError(None, None, "assertion failed: [text: 9 rows; expected at most 2.] [[Op]]"))
    'text: 9 rows; expected at most 2.'
    """
    found = re.search(r"assertion failed: \[(.*?)\](?:\n| \[\[|$)", error.message)
    return re.sub(r"\\(.)", r"\1", found[1]) if found else ""


def run(main: Callable[[], None]) -> None:
    """Call `main`; wrong input prints one line and exits with 2, a lost worker with 3, Ctrl-C with 130, SIGTERM with 143."""
    try:
        main()
    except DataError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(2)
    except tf.errors.InvalidArgumentError as error:  # tf.data wraps what a generator raises
        found = re.search(r"(?:^|\}\} )DataError: ([^\n]*)", error.message)
        message = found[1] if found else refusal(error)
        if not found and " in a request." not in message:  # no assertion of ours
            raise
        print(f"error: {visible(message)}", file=sys.stderr)
        sys.exit(2)
    except tf.errors.UnavailableError:
        print(LOST, file=sys.stderr)
        sys.exit(LOST_WORKER)
    except (OSError, tf.errors.OpError) as error:
        where = _full_disk(error)
        if where is None:
            raise
        print(f"error: {visible(where)}the disk is full. Free some space; a run resumes with --resume.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as error:
        print(str(error) or "stopped", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 130))


def _full_disk(error: OSError | tf.errors.OpError) -> str | None:
    """The file that a full disk or quota cut off, with a colon, or "" if it isn't known; None: the error is another.

    >>> _full_disk(tf.errors.ResourceExhaustedError(None, None, "{{function_node SaveV2}} a b/c; No space left on device"))
    'a b/c: '
    """
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return (f"{error.filename}: " if error.filename else "") if error.errno in full else None
    texts = "|".join(map(os.strerror, full))  # TensorFlow keeps the text of the error, not its number
    found = re.search(rf"([^\n{{}}]*); (?:{texts})", error.message)
    return f"{found[1].strip()}: " if found else None


def read_inputs(inputs: Sequence[str]) -> list[str]:
    """The inputs of a `predict` command; `-` stands for standard input, one a line.

    Raises:
        DataError: one is not UTF-8.
    """
    texts: list[str] = []
    try:
        for text in inputs:
            texts += [line.rstrip("\n") for line in sys.stdin] if text == "-" else [text]
        "".join(texts).encode()
    except UnicodeError as error:
        assert isinstance(error, UnicodeDecodeError | UnicodeEncodeError)
        wrong = error.object[error.start]
        byte = wrong if isinstance(wrong, int) else ord(wrong) & 0xFF  # Python keeps such a byte of an argument so
        remedy = "Convert it: iconv -f latin1 -t utf-8 FILE | … -"
        raise DataError(f"the input: not UTF-8 (byte 0x{byte:02x}). {remedy}") from None
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
