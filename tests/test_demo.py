"""The last command of `make demo` fails where a model is worse than docs/results.md says."""

import json

from tests import demo

GOOD = {
    "sentiment_classification": {"accuracy": 0.98},
    "translation": {"bleu": 99.0, "exact_match": 0.96},
    "image_captioning": {"caption_accuracy": 0.70},
    "music_generation": {"bits_per_character": 1.6},
    "language_model": {"perplexity": 10.0},
}


def written(runs, name, metrics, application):
    folder = runs / application / name
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"test": metrics}))


def test_each_number_must_be_as_good_as_documented(tmp_path, capsys):
    assert not demo.check(tmp_path)
    for application, metrics in GOOD.items():
        written(tmp_path, "20260101-000000", metrics, application)
    assert demo.check(tmp_path)
    assert "worse" not in capsys.readouterr().out.splitlines()[-1]
    for number, (application, metric, *_) in enumerate(demo.CLAIMS, start=1):  # the newest run counts
        worse = {"bits_per_character": 3.0, "perplexity": 12.0}.get(metric, 0.5)
        written(tmp_path, f"20260{number}02-000000", {**GOOD[application], metric: worse}, application)
        assert not demo.check(tmp_path)
        (line,) = (line for line in capsys.readouterr().out.splitlines() if "worse" in line)
        assert line.split()[:2] == [application, metric]
        written(tmp_path, f"20260{number}03-000000", GOOD[application], application)
    assert demo.check(tmp_path)
