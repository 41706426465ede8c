"""The command: see the package."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from data_pipelines.prepare.job import prepare
from data_pipelines.prepare.kinds import KINDS, SHARD_ROWS
from data_pipelines.prepare.progress import reason
from data_pipelines.sources import DataError, visible


def parser(application: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m data_pipelines.prepare", allow_abbrev=False)
    parser.add_argument("source", help="a file or a folder, as --data of training")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="that gets the shards; --data of training then")
    parser.add_argument("--for", choices=[*KINDS], default="translation", help="the application (default: translation)")
    parser.add_argument("--vocabulary-size", type=_number(8), help="tokens at most (default: %(default)s)")
    parser.add_argument(
        "--vocabulary-sample", type=_number(1), default=500_000, help="rows to learn it from (default: %(default)s)"
    )
    parser.add_argument("--vocabulary-from", default=None, metavar="FOLDER", help="of a run: its vocabulary, for --init-from")
    if "max_length" in KINDS[application].flags:
        parser.add_argument(
            "--max-length", type=_number(1), help="tokens; what is longer is treated as in training (default: %(default)s)"
        )
    parser.add_argument("--workers", type=_number(1), default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument(
        "--runner", help="of Apache Beam: `direct`, or `DataflowRunner`, `FlinkRunner`, … with flags of Beam (default: none)"
    )
    parser.add_argument("--shard-rows", type=_number(1), default=SHARD_ROWS, help="rows of a shard (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace prepared data that are there")
    KINDS[application].add_flags(parser.add_argument_group(f"of {application}"))
    return parser


def _number(lowest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text}: expected a whole number from {lowest}. Leave it out for the default.")
        return int(text)

    return read


def main(arguments: Sequence[str] | None = None) -> None:
    first = argparse.ArgumentParser("python -m data_pipelines.prepare", allow_abbrev=False, add_help=False)
    first.add_argument("--for", choices=[*KINDS], default="translation")
    first.add_argument("--runner")
    given = vars(first.parse_known_args(arguments)[0])
    application, command = given["for"], parser(given["for"])
    if given["runner"] in (None, "direct"):
        options, flags = command.parse_args(arguments), list[str]()
    else:
        options, flags = command.parse_known_args(arguments)
    options.runner_flags = flags
    try:
        prepare(KINDS[application](options))
    except DataError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if not (line := reason(error)):
            raise
        print(f"error: {visible(line)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
