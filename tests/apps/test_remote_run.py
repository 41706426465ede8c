"""A run and its export at a URL, from the command line, on machines that share nothing else."""

import json

from tests.apps import helpers
from tests.apps.test_sentiment import SMALL, reviews  # noqa: F401


def test_a_run_at_a_url_goes_on_on_another_machine_and_its_export_predicts_on_a_third(reviews, tmp_path):  # noqa: F811
    store = tmp_path / "store"
    run, export, data = store / "run", store / "saved_models/sentiment_classification", store / "reviews"
    data.mkdir(parents=True)
    for path in reviews.iterdir():
        (data / path.name).write_bytes(path.read_bytes())

    def command(machine, module, *arguments):
        (tmp_path / machine).mkdir(exist_ok=True)
        result = helpers.command("sentiment_classification", module, *arguments, cwd=tmp_path / machine)
        assert result.returncode == 0, result.stderr[-3000:]
        return result

    places = ["--run-dir", f"file://{run}", "--export-dir", f"file://{export}", "--data", f"file://{data}"]
    first = command("one", "train", *places, "--epochs", "2", *SMALL)
    assert (
        f"run     file://{run}\nexport  file://{export}/1  " in first.stdout
        and f"fetched     file://{data}: 3 files" in first.stderr
    )
    mirror = tmp_path / "one/runs/.remote/file/_" / run.relative_to("/")
    assert {path.name for path in run.iterdir()} == {path.name for path in mirror.iterdir() if path.name[0] != "."}
    wanted = helpers.checkpoint_arrays(run)

    *_, newest = sorted((run / "checkpoints").iterdir())  # as if the first machine had gone before the last epoch
    for path in (newest, run / "model.keras", run / "metrics.json"):
        path.unlink()
    second = command("two", "train", "--resume", "--run-dir", f"file://{run}")
    assert "continued at step" in second.stdout and f"export  file://{export}/2  " in second.stdout
    found = helpers.checkpoint_arrays(run)
    assert newest.is_file() and found.keys() == wanted.keys() and all((found[name] == wanted[name]).all() for name in wanted)
    assert f'base_path: "/models/{export.name}"' in (export.parent / "models.config").read_text()

    predicted = [command("three", "predict", f"file://{place}", "--json", "good food").stdout for place in (export, export / "1")]
    assert predicted[0] == predicted[1] and json.loads(predicted[0])["text"] == "good food"
    again = command("three", "export", f"file://{run}", "--export-dir", f"file://{store}/again/model")
    assert again.stdout.splitlines()[-1].startswith(f"export  file://{store}/again/model/1  ")
    evaluated = command("three", "evaluate", f"file://{export}", "--data", f"file://{data}", "--split", "test")
    assert (
        json.loads(evaluated.stdout.splitlines()[-1])["accuracy"]
        == json.loads((run / "metrics.json").read_text())["test"]["accuracy"]
    )
