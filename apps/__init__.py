"""Applications: each trains with one script, measures, predicts and exports."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What TensorFlow prints to the error stream on import, before it can be silenced; errors are not among it.
_STARTUP = r"^(WARNING: All log messages before absl|[IW][0-9]{4} .*\.cc:[0-9]+\]|To enable the following instructions)"


def _import_quietly(grep: str) -> None:
    """Import TensorFlow without its start-up lines. All other output passes through."""
    stream = os.dup(2)
    with subprocess.Popen([grep, "-avE", "--line-buffered", _STARTUP], stdin=subprocess.PIPE, stdout=stream) as sieve:
        assert sieve.stdin is not None
        os.dup2(sieve.stdin.fileno(), 2)
        sieve.stdin.close()
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(stream, 2)  # end of the sieve's input
            os.close(stream)


if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:  # set by the user: leave it
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if (_grep := shutil.which("grep")) and os.path.exists("/dev/fd/2"):
        _import_quietly(_grep)


def load(export: str | Path) -> Callable[..., list[dict[str, Any]]]:
    """An exported model as a function: from a list of inputs to a dictionary of plain values for each, in their order.

        translate = apps.load("saved_models/translation")
        translate(["A dog runs."])[0]["translation"]

    What goes in and what comes out is documented at the function `predictions` of `apps.<application>.predict`.

    Args:
        export: a version folder, or the folder above it for the newest version.

    Raises:
        DataError: there is no export.
    """
    import functools
    import importlib

    from apps.common.export.saved_model import application_of, load_export

    served = load_export(export)
    return functools.partial(importlib.import_module(f"apps.{application_of(export)}.predict").predictions, served)
