"""The command `unfold`: `unfold train translation …` is `python -m apps.translation.train …`."""

import runpy
import sys

from apps.applications import APPLICATIONS

STEPS, OTHERS = ("train", "evaluate", "predict", "export"), ("runs", "demo")
USAGE = f"""usage: unfold {{{",".join(STEPS)}}} {{{",".join(APPLICATIONS)}}} …
       unfold {{{",".join(OTHERS)}}} …
--help after these shows the flags of each."""


def module_of(words: list[str]) -> tuple[str, list[str]] | None:
    """The module that a command runs, and its arguments; None: there is no such command.

    >>> module_of(["train", "translation", "--quick"]), module_of(["runs"]), module_of(["train", "weather"])
    (('apps.translation.train', ['--quick']), ('apps.runs', []), None)
    """
    if words and words[0] in OTHERS:
        return f"apps.{words[0]}", words[1:]
    if len(words) > 1 and words[0] in STEPS and words[1] in APPLICATIONS:
        return f"apps.{words[1]}.{words[0]}", words[2:]
    return None


def main() -> None:
    found = module_of(sys.argv[1:])
    if found is None:
        asked = sys.argv[1:] and sys.argv[1] not in ("-h", "--help")
        print(USAGE, file=sys.stderr if asked else sys.stdout)
        sys.exit(2 if asked else 0)
    module, arguments = found
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
