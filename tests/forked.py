"""Processes that begin where the imports have ended: forks of one server, which saves each of them the six seconds.

Nothing of TensorFlow but its modules exists in the server, so a fork is as good as a new process, but that
all have the hash seed of the server, and its backend.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

# The server imports before it takes over `sys.path`, and it inherits the environment.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.preloaded"])


class Forked:
    """`python -m MODULE ARGUMENTS`, or with `code` `python -c CODE ARGUMENTS`, with the methods of `subprocess.Popen`."""

    def __init__(self, module, arguments, *, cwd, environment=None, input="", code=None):
        self.args = [module, *map(str, arguments)]
        self.output = None
        self.folder = tempfile.TemporaryDirectory()
        Path(self.folder.name, "input").write_text(input)
        line = (self.args, code, str(cwd), {**os.environ, **(environment or {})}, self.folder.name)
        self.process = _server.Process(target=_run, args=line)
        self.process.start()

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        if self.output is None:
            self.output = tuple(Path(self.folder.name, name).read_text() for name in ("out", "err"))
            self.folder.cleanup()
        return self.returncode

    def send_signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout=None):
        self.wait(timeout)
        return self.output


def run(module, arguments, **options):
    """As `subprocess.run(…, capture_output=True, text=True)`."""
    process = Forked(module, arguments, **options)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.poll(), out, err)


def _run(line, code, cwd, environment, folder):
    for number, (name, mode) in enumerate([("input", "r"), ("out", "w"), ("err", "w")]):
        with open(Path(folder, name), mode) as file:
            os.dup2(file.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115 (as at a start)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = line
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)  # runpy's: they were imported before
    try:
        if code is None:
            runpy.run_module(line[0], run_name="__main__", alter_sys=True)
        else:
            exec(code, {"__name__": "__main__"})  # noqa: S102
    finally:  # as at the end of any process; a fork has no such end
        atexit._run_exitfuncs()
