"""What every application keeps to. A file of tests imports these; its fixture `trained` makes a `Trained`."""

import dataclasses
import json

import keras
import numpy as np

from apps import runs
from apps.applications import APPLICATIONS
from tests.apps import helpers

FILES = set("config.json metrics.jsonl metrics.json history.png model.keras checkpoints tensorboard".split())


class Trained:
    """An application with small flags, and its run of two epochs in `folder`.

    Args:
        data: as `--data` takes it.
        files: what the folder of the run holds, too.
        evaluate: flags with which `evaluate` measures as training did.
        wrong: [(flags of a training that must be refused, what it says)].
    """

    def __init__(self, application, data, flags, folder, *, files="", evaluate=(), wrong=()):
        self.application, self.data, self.flags, self.folder = application, data, flags, folder
        self.files, self.evaluate, self.wrong = FILES | set(files.split()), evaluate, wrong
        self.run, self.export = folder / "run", folder / "export"
        self.printed = self.train(folder)

    def command(self, module, *arguments, **options):
        return helpers.command(self.application, module, *arguments, **options)

    def line(self, folder, *arguments):
        places = ["--data", self.data, "--run-dir", folder / "run", "--export-dir", folder / "export"]
        return [*places, "--epochs", "2", *self.flags, *arguments]

    def train(self, folder, *arguments):
        """Train as in `folder/run`, with more flags; what it printed."""
        result = self.command("train", *self.line(folder, *arguments))
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    def metrics(self):
        return json.loads((self.run / "metrics.json").read_text())


def test_the_run_folder_is_complete_and_the_loss_falls(trained):
    assert trained.files <= {path.name for path in trained.run.iterdir()}
    assert {path.name for path in trained.export.iterdir()} == {"1"}
    assert keras.models.load_model(trained.run / "model.keras").built
    config = json.loads((trained.run / "config.json").read_text())
    assert all(len(part["sha256"]) == 64 for part in config["data"].values()) and config["data"].keys() >= {"train", "test"}
    first, last = helpers.log(trained.run)
    assert last["loss"] < first["loss"] and last["val_loss"] < first["val_loss"]
    run = runs.read(trained.run)
    assert run.application == trained.application and run.state == "finished" and run.minutes > 0
    assert run.export == str(trained.export / "1") and set(APPLICATIONS[run.application].metrics) & set(run.metrics["validation"])


def test_evaluate_prints_json_that_equals_training(trained):
    result = trained.command("evaluate", trained.export, "--data", trained.data, "--split", "test", *trained.evaluate)
    assert result.returncode == 0, result.stderr[-3000:]
    wanted = trained.metrics()
    assert wanted.pop("validation")
    assert json.loads(result.stdout.splitlines()[-1]) == {"split": "test", **wanted.pop("test"), **wanted}


def test_the_config_of_a_run_gives_its_flags_again(trained):
    path = trained.run / "config.json"
    config = helpers.parsed(trained.application, "--config", path, "--run-dir", trained.run)
    assert dataclasses.asdict(config) == json.loads(path.read_text())["config"]
    resumed = helpers.parsed(trained.application, "--resume", "--run-dir", trained.run)
    assert resumed == dataclasses.replace(config, resume=True)
    other = helpers.parsed(trained.application, "--config", path, "--seed", "9")
    assert other == dataclasses.replace(config, seed=9, run_dir=None)


def test_a_killed_run_ends_as_one_not_killed(trained, tmp_path):
    helpers.kill_twice(trained.application, tmp_path / "run", *trained.line(tmp_path))
    assert not (tmp_path / "export").exists()
    result = trained.command("train", "--run-dir", tmp_path / "run", "--resume")  # it knows its flags
    assert result.returncode == 0, result.stderr[-3000:]
    assert "continued at step" in result.stdout
    helpers.assert_same_end(tmp_path / "run", trained.run)


def test_a_run_begins_with_the_weights_of_another(trained, tmp_path):
    flags, config = [], json.loads((trained.run / "config.json").read_text())["config"]
    if "embeddings" in config and config["tokenizer"] == "words":  # the trained ones count, not those of a file
        (tmp_path / "vectors.txt").write_text("a" + " 9" * config["embedding_size"] + "\n")
        flags = ["--embeddings", tmp_path / "vectors.txt"]
    printed = trained.train(tmp_path, "--init-from", trained.run, "--epochs", "1", "--learning-rate", "1e-9", *flags)
    assert ("vectors.txt is not read again" in printed) == bool(flags)
    assert f"begins with {trained.run}; its vocabulary does not know 0.0% of the training tokens" in printed
    (found,), before = helpers.log(tmp_path / "run"), helpers.log(trained.run)
    assert found["val_loss"] < before[0]["val_loss"]
    models = [keras.saving.load_model(run / "model.keras", compile=False) for run in (tmp_path / "run", trained.run)]
    for mine, its in zip(*(model.trainable_weights for model in models), strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-6, err_msg=its.path)
    result = trained.command("train", *trained.line(tmp_path / "other", "--init-from", trained.run, "--units", "5"), alone=False)
    assert result.returncode == 2 and f"--units 5: the weights of --init-from {trained.run} are for 16" in result.stderr
    assert not (tmp_path / "other").exists()


def test_wrong_use_is_one_line_and_leaves_nothing(trained, tmp_path):
    for arguments, message in (
        (["--epochs", "0"], "--epochs 0: "),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--config", "none.json"], "--config none.json: can't be read as flags"),
        (["--data", "none.tsv"], "none.tsv: no such file"),
        (trained.line(tmp_path, "--resume"), f"{tmp_path}/run: no run to resume"),
        (trained.line(trained.folder), "holds a run already. Continue it with --resume"),
        (trained.line(trained.folder, "--resume", "--seed", "1"), "with seed = 0, now 1. Leave your flags out"),
        *trained.wrong,
    ):
        result = trained.command("train", *arguments, cwd=tmp_path, alone=False)
        assert result.returncode == 2, result.stderr[-2000:]
        assert message in result.stderr.strip().splitlines()[-1] and "Traceback" not in result.stderr
        assert not list(tmp_path.iterdir())


def test_an_export_of_another_application_is_refused(trained, tmp_path):
    (tmp_path / "saved_model.pb").touch()
    (tmp_path / "model_card.md").write_text("# weather\n")
    for module, arguments in (("predict", ["-"]), ("evaluate", ["--data", trained.data])):
        result = trained.command(module, tmp_path, *arguments)
        assert result.returncode == 2 and not result.stdout
        assert f"an export of weather, not of {trained.application}. Use apps.weather" in result.stderr


def test_a_run_in_bfloat16_learns_and_is_exported(trained, tmp_path):
    trained.train(tmp_path, "--precision", "mixed_bfloat16")
    (found, _), (wanted, _) = helpers.log(tmp_path / "run"), helpers.log(trained.run)
    np.testing.assert_allclose([found["loss"], found["val_loss"]], [wanted["loss"], wanted["val_loss"]], rtol=0.05)
    assert (tmp_path / "export" / "1" / "saved_model.pb").is_file()
