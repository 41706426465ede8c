"""The benchmark for a GPU, on a processor: the same steps, small."""

import json
import subprocess

import numpy as np
import pytest

from benchmarks import gpu


@pytest.fixture
def here(monkeypatch):
    """What would run in a process of its own runs in this one."""
    monkeypatch.setattr(gpu, "on", lambda device, function, *arguments: function(*arguments))


def test_without_a_gpu_it_runs_small_and_writes_its_table(here, tmp_path, monkeypatch):
    trained = {"application": "translation", "minutes": 0.5, "epoch_seconds": 7, "peak_bytes": 2**30, "difference": 0.0}
    monkeypatch.setattr(gpu, "train", lambda application, *_: {**trained, "application": application})
    line = ["gpu", "--layers", "LSTM", "--types", "float32", "--repeats", "1", "--save", str(tmp_path / "gpu")]
    monkeypatch.setattr("sys.argv", line)
    gpu.main()
    found, text = json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()
    assert found["device"] == "processor" and found["equality"] == 0
    assert [(row["masked"], row["what"], row["ms"].keys() >= {"ours", "keras"}) for row in found["layers"]] == [
        (masked, what, True) for masked in (False, True) for what in ("training", "inference")
    ]
    assert "| sentiment_classification | 7 | 0.5 | 1,024 | equal: by 0.0e+00, allowed 1e-04 |" in text
    assert "| LSTM | 4, 6, 5, 8, masked | float32 | training |" in text


def test_an_answer_that_differs_is_told(here, exports, tmp_path, monkeypatch):
    answers = gpu.answers("sentiment_classification", str(exports["sentiment_classification"]))
    assert {"label 0", "probability 1"} <= answers.keys()
    changed = {name: value + 0.1 if value.dtype.kind == "f" else value for name, value in answers.items()}
    several = iter([answers, answers, changed, answers])
    monkeypatch.setattr(gpu, "answers", lambda *_: next(several))
    ended = lambda line, **_: subprocess.CompletedProcess(line, 0, "epoch 1 of 1  loss 0.5  (3 s)\n\npeak 5\n", "")  # noqa: E731
    monkeypatch.setattr(gpu.subprocess, "run", ended)
    equal, other = (gpu.train("sentiment_classification", tmp_path, [], 60) for _ in range(2))
    assert equal["difference"] == 0 and equal["epoch_seconds"] == 3 and equal["peak_bytes"] == 5
    assert gpu.verdict(other["difference"]).startswith("DIFFERS: by")
    texts = {name: np.array([b"other"]) if value.dtype.kind == "S" else value for name, value in answers.items()}
    assert gpu.difference(texts, answers) == float("inf")


def test_a_training_that_fails_is_told(tmp_path, monkeypatch):
    ended = lambda line, **_: subprocess.CompletedProcess(line, 1, "", "Traceback\nerror: out of memory\n")  # noqa: E731
    monkeypatch.setattr(gpu.subprocess, "run", ended)
    assert gpu.train("translation", tmp_path, [], 60) == {"application": "translation", "error": "error: out of memory"}


def test_a_comparison_that_fails_is_told_and_ends_nothing(monkeypatch, capsys):
    monkeypatch.setattr(gpu.sys, "executable", "false")
    assert gpu.compare(gpu.layer_values, ("LSTM",)) == float("inf")
    assert "layer_values(('LSTM',),) fails: " in capsys.readouterr().out and gpu.verdict(float("inf")).startswith("DIFFERS")
