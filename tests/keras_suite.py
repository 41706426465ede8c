"""Keras' own tests of the layers that we have too, run against ours: `python -m tests.keras_suite` (`make test-keras`).

The tests come from the source distribution of the installed Keras, which pip fetches once. In each, `layers` is Keras' own
module with the names of `OURS` replaced. None is excluded.
"""

import importlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import keras
import pytest

CACHE = Path(__file__).parents[1] / ".venv" / "keras_suite"
OURS = "LSTM LSTMCell GRU GRUCell SimpleRNN SimpleRNNCell RNN Bidirectional MultiHeadAttention".split()
FILES = [f"rnn/{name}_test.py" for name in "lstm gru simple_rnn rnn bidirectional stacked_rnn_cells time_distributed".split()]
FILES += ["attention/multi_head_attention_test.py"]


def fetch() -> Path:
    """The folder of Keras' test files.

    Raises:
        SystemExit: they are not here yet, and pip can't fetch them.
    """
    folder = CACHE / keras.__version__
    if folder.is_dir():
        return folder
    requirement = f"keras=={keras.__version__}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "keras", requirement]
    if subprocess.run([*pip, "--dest", str(CACHE)]).returncode:
        sys.exit(f"make test-keras: pip can't fetch the source distribution of {requirement}. Connect to a package index once.")
    with tarfile.open(CACHE / f"keras-{keras.__version__}.tar.gz") as archive:
        tests = {name: archive.extractfile(f"keras-{keras.__version__}/keras/src/layers/{name}").read() for name in FILES}
    new = folder.with_suffix(".new")
    new.mkdir(exist_ok=True)
    for name, text in tests.items():
        (new / Path(name).name).write_bytes(text)
    (new / "pytest.ini").write_text("[pytest]\nmarkers = requires_trainable_backend\n")
    return new.rename(folder)


def pytest_configure(config: pytest.Config) -> None:
    import layers

    for name in OURS:
        setattr(keras.src.layers, name, getattr(layers, name))
    keras.src.layers.rnn.__path__.insert(0, str(config.rootpath))


def pytest_pycollect_makemodule(module_path: Path) -> None:
    """Import a test under the name that it has in Keras: tests import from one another, and Keras loads classes by name."""
    sys.modules[module_path.stem] = importlib.import_module(f"keras.src.layers.rnn.{module_path.stem}")


def test_next() -> None:
    """Our layers' contract on the next minor version of Keras, if there is one. It may fail, but is shown."""
    major, minor = map(int, keras.__version__.split(".")[:2])
    folder, requirement = CACHE / "next", f"keras=={major}.{minor + 1}.*"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder), requirement]
    if subprocess.run(pip, capture_output=True).returncode:
        print(f"make test-keras: there is no {requirement} to be tested yet.")
        return
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    found = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/layers/test_contract.py"], env=environment)
    print(f"make test-keras: the contract {'fails (allowed)' if found.returncode else 'holds'} on {requirement}.")


if __name__ == "__main__":
    if sys.argv[1:] == ["--next"]:
        sys.exit(test_next())
    folder = fetch()
    line = ["-p", "tests.keras_suite", "-c", str(folder / "pytest.ini"), "--rootdir", str(folder), "-q", "-rs"]
    sys.exit(subprocess.run([sys.executable, "-m", "pytest", *line, *sys.argv[1:], str(folder)]).returncode)
