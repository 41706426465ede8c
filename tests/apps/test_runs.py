"""The table of all runs, and two of them side by side."""

import json
import os
import sys
from types import SimpleNamespace

import pytest

from apps import command_line, runs
from apps.common import cli
from apps.common.training import runs as training
from apps.common.training.checkpoints import Checkpoint
from apps.common.training.signals import Stopped
from apps.common.training.workers import Workers


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three runs of two applications, one of them under way; and what is no run."""
    monkeypatch.chdir(tmp_path)
    make("translation/first", 1, {"epochs": 3, "units": 8}, finished={"bleu": 20.0, "chrf": 41.5, "perplexity": 9.0})
    make("translation/second", 2, {"epochs": 3, "units": 16}, finished={"bleu": 30.0, "chrf": 40.5, "perplexity": 11.0})
    make(
        "sentiment_classification/third",
        3,
        {"epochs": 6, "fine_tune_epochs": 1, "sequence_epochs": 2},
        log=[{"epoch": 1, "val_accuracy": 0.75, "accuracy": 0.5}],
    )
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "config.json").write_text("[]")
    return tmp_path / "runs"


def make(name, started, flags, finished=None, log=()):
    folder = runs.RUNS / name
    folder.mkdir(parents=True)
    config = {"application": name.split("/")[0], "config": {"data": "own.tsv", **flags}}
    (folder / "config.json").write_text(json.dumps(config))
    os.utime(folder / "config.json", (started, started))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    if finished:
        (folder / "metrics.json").write_text(json.dumps({"validation": finished, "test": finished}))


def printed(capsys, monkeypatch, *line):
    monkeypatch.setattr(sys, "argv", ["runs", *line])
    runs.main()
    return capsys.readouterr().out


def test_the_newest_comes_first_and_the_best_when_asked(folder, capsys, monkeypatch):
    first, *lines = printed(capsys, monkeypatch).splitlines()
    assert first.startswith("runs/broken: left out, as it can't be read (runs/broken/config.json: is not there, or none")
    third, *translations = (line for line in lines if line.startswith("runs/"))
    assert third.split()[-4:-1] == ["1", "of", "9"] and "0.7500" in third and "0.5000" not in third
    assert [line.split()[0] for line in translations] == ["runs/translation/second", "runs/translation/first"]
    for metric, best in (("bleu", "second"), ("chrf", "first"), ("perplexity", "first")):
        lines = printed(capsys, monkeypatch, "--sort", metric).splitlines()
        assert next(line for line in lines if line.startswith("runs/translation/")).startswith(f"runs/translation/{best} ")
        assert metric in next(line for line in lines if line.startswith("translation"))
    assert "runs/translation/first" in printed(capsys, monkeypatch, "runs/translation")


def test_two_runs_side_by_side_show_what_differs(folder, capsys, monkeypatch):
    lines = printed(capsys, monkeypatch, "runs/translation/first", "runs/translation/second").splitlines()
    rows = {line.rsplit(maxsplit=2)[0]: line.split()[-2:] for line in lines[1:]}
    assert rows["--units"] == ["8", "16"] and "--epochs" not in rows
    assert rows["test bleu"] == ["20.0000", "30.0000"]


@pytest.mark.parametrize(
    "line, message",
    [
        (["--sort", "blue"], "--sort blue: no run has this validation metric. There are accuracy, bleu"),
        (["none"], "none: no runs there. Train one"),
        (["runs/translation/first", "none"], "none/config.json: is not there, or none of a run"),
        (["runs/translation/first", "runs/sentiment_classification/third"], "Compare two runs of one application"),
        (["a", "b", "c"], "3 folders; expected one with runs, or two runs"),
    ],
)
def test_wrong_use_is_a_line(line, message, folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["runs", *line])
    with pytest.raises(SystemExit) as end:
        cli.run(runs.main)
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and error.count("\n") == 1


def test_ctrl_c_prints_the_command_that_continues_a_run(folder):
    place = folder / "translation" / "first"
    checkpoint = Checkpoint(place / "checkpoints")
    nothing = SimpleNamespace(steps_per_epoch=1, dataset=None)
    training.fit(None, lambda start_step: nothing, 0, 0, workers=Workers(), checkpoint=checkpoint, folder=place, plot=[])
    command = f"python -m apps.translation.train --resume --run-dir {place}"
    assert (
        str(Stopped(2, 7, "is saved", checkpoint.resume_command)) == f"stopped at step 7, which is saved; continue by:\n{command}"
    )


@pytest.mark.filterwarnings("ignore:'apps.runs' found in sys.modules")
@pytest.mark.parametrize(
    "line, code, message",
    [
        (["runs", "none"], 2, "error: none: no runs there"),
        (["train", "weather"], 2, "usage: unfold {train,evaluate,predict,export} {sentiment_classification,"),
        (["--help"], 0, ""),
    ],
)
def test_unfold_runs_the_commands(line, code, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["unfold", *line])
    with pytest.raises(SystemExit) as end:
        command_line.main()
    assert end.value.code == code and capsys.readouterr().err.startswith(message)


def test_an_export_of_several_runs_is_that_of_none(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    number = runs.run_id(tmp_path / "run")
    for name, line in (
        ("1", f"| run | `run`, {number} |"),
        ("2", f"| ensemble | of 2 |\n| run | `run`, {number}; `other`, 12 |"),
    ):
        (tmp_path / "exports" / name).mkdir(parents=True)
        card = tmp_path / "exports" / name / "model_card.md"
        card.write_text(f"# translation\n{line}\n")
        os.utime(card, (int(name), int(name)))  # the second is newer
    assert runs._export(tmp_path / "run", tmp_path / "exports") == str(tmp_path / "exports" / "1")
