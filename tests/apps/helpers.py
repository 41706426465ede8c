"""What the tests of all applications share: run a command, kill it, load an export where this project is unknown."""

import contextlib
import importlib
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from unittest import mock

import keras
import numpy as np
from tensorflow.python.framework.config import disable_op_determinism

from tests import forked

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


def command(application, module, *arguments, cwd=ROOT, input="", alone=True):
    """`python -m apps.<application>.<module> ARGUMENTS`, from another folder too.

    It runs in a process of its own: results of training depend on the process, and TensorFlow gives back no memory of an
    export that it has loaded, 150 MB each. With `alone=False` it runs here, for what is only refused.
    """
    forced = ["--force-export"] if module == "train" and "--no-force-export" not in arguments else []  # tests train for seconds
    line = [f"apps.{application}.{module}", *map(str, arguments), *forced]
    if alone:
        return forked.run(line[0], line[1:], cwd=cwd, input=input)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.argv", line),
        mock.patch("sys.stdin", io.StringIO(input)),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "'apps.* found in sys.modules", RuntimeWarning)
        try:
            runpy.run_module(line[0], run_name="__main__", alter_sys=False)
        except SystemExit as end:
            code = end.code or 0
        finally:  # what `prepare_device` does for a whole process
            disable_op_determinism()
            keras.mixed_precision.set_dtype_policy("float32")
    return subprocess.CompletedProcess(line, code, out.getvalue(), err.getvalue())


def parsed(application, *arguments):
    """The config that training would get."""
    module = importlib.import_module(f"apps.{application}.train")
    mocks = {name: mock.Mock() for name in vars(module) if name.startswith("train")}
    with mock.patch.multiple(module, **mocks), mock.patch("sys.argv", ["train", *map(str, arguments)]):
        module.main()
    (call,) = (one.call_args for one in mocks.values() if one.called)
    return call.args[0]


def run_alone(script, *arguments):
    """Run a script in a process that can't import this project, with what pip installed; it must end by printing 'fine'."""
    packages = [path for path in sys.path if path.endswith("site-packages")]  # without the .pth file of this project
    before = f"import sys; sys.path += {packages!r}\n" + (
        "try:\n    import layers\n    sys.exit('the project can be imported')\nexcept ImportError:\n    pass\n"
    )
    line = [sys.executable, "-I", "-S", "-c", before + script + "\nprint('fine')", *map(str, arguments)]
    result = subprocess.run(line, cwd="/", env=ENVIRONMENT, capture_output=True, text=True)
    assert result.stdout.endswith("fine\n"), result.stderr[-3000:]


def some_tunes(count=24):
    """Tunes of random notes with full bars, in jig time and common time, as ABC."""
    generator = np.random.default_rng(0)
    text = ""
    for i in range(count):
        metre, length = [("6/8", 6), ("C", 8)][i % 2]
        body = "|".join("".join(generator.choice(list("DEFGABcde"), length)) for _ in range(4 + i % 3))
        text += f"X:{i + 1}\nT:Tune {i}\nM:{metre}\nL:1/8\nK:{'DG'[i % 2]}\n{body}:|\n\n"
    return text


def log(run):
    """The metrics of each epoch."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def checkpoint_arrays(run, folder="checkpoints"):
    """All that the last checkpoint of a run holds."""
    with np.load(max((run / folder).glob("step-*.npz"))) as file:
        return {name: file[name] for name in file.files if name != "state"}


KILLABLE = """
import functools
import apps.common.training.checkpoints as c
c.Checkpoint.__init__ = functools.partialmethod(c.Checkpoint.__init__, every_seconds=0.0, keep=100)  # save after every step
from apps.{application}.train import main
main()
"""


def kill_twice(application, run, *arguments, phase="checkpoints"):
    """Start a training run, kill it inside an epoch of a phase, continue it, and kill it again."""
    code, line = KILLABLE.format(application=application), [*map(str, arguments), "--force-export"]
    for checkpoints in (1, 2):
        process = forked.Forked("-c", line, cwd=ROOT, code=code)
        before = {path.name for path in run.glob(f"{phase}/step-*")}
        deadline = time.monotonic() + 180
        while len({path.name for path in run.glob(f"{phase}/step-*")} - before) < checkpoints:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        line = [argument for argument in line if argument != "--resume"] + ["--resume"]


def assert_same_end(run, wanted, phase="checkpoints"):
    """Two runs end with the same weights, optimizer and log, bit for bit."""
    arrays, other = checkpoint_arrays(wanted, phase), checkpoint_arrays(run, phase)
    assert arrays.keys() == other.keys()
    for name in arrays:
        np.testing.assert_array_equal(other[name], arrays[name], err_msg=name)
    assert (run / "metrics.jsonl").read_text() == (wanted / "metrics.jsonl").read_text()
