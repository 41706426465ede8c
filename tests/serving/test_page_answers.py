"""What the page shows for what a user gives, without a browser: over exports with random weights."""

import itertools
import re
import socket
import subprocess
import sys
from unittest import mock

import gradio as gr
import pytest

from apps.demo import answers, drawing
from apps.demo.models import About, Models
from apps.demo.page import SCENE, TABS, _ready, _show_errors
from data_pipelines.sources import DataError
from tests.apps.helpers import ENVIRONMENT, ROOT

ATTACK = '<img src=x onerror="alert(1)"> & more'


@pytest.fixture(scope="module")
def model(exports):
    return Models(exports["translation"].parents[1]).get


def test_a_review(model):
    labels, words = answers.sentiment(model("sentiment_classification"), "The food wasn't good , 1 < 2 " + ATTACK)
    assert labels.keys() == {"negative", "positive"} and sum(labels.values()) == pytest.approx(1)
    assert "<img" not in words and "&lt;" in words
    assert words.count('class="word"') > 5


def test_a_sentence(model):
    best, unknown, alternatives, attention = answers.translation(model("translation"), "a small dog " + ATTACK)
    assert best in re.sub("<.*?>", "", alternatives)
    assert alternatives.count("<tr>") == 4  # the header and a beam of three
    assert "<img" not in unknown + alternatives + attention and "<s>" in unknown
    assert answers.translation(model("translation"), "a small dog")[1] == ""
    assert attention.count("attends to") == (attention.count('scope="row"')) * (attention.count('scope="col"')) > 0


def test_a_picture(model, tmp_path):
    caption, maps = answers.caption(model("image_captioning"), str(SCENE))
    assert maps.count("<figure>") == 1 + len(caption.rstrip(".").split()) + caption.endswith(".")
    (tmp_path / "broken.jpg").write_bytes(SCENE.read_bytes()[:100])
    with pytest.raises(DataError, match=r"can't be read as a picture: .* Drop a JPEG or PNG"):
        answers.caption(model("image_captioning"), str(tmp_path / "broken.jpg"))
    with pytest.raises(DataError, match="no picture yet"):
        answers.caption(model("image_captioning"), None)


def test_a_tune(model):
    steps = list(answers.music(model("music_generation"), "M:6/8\nL:1/8\nK:Dmaj\nd2e fdA|", 0.8, 1, 60, True))
    assert [step for step, *_ in steps][:2] == ["1 of 3: generating the tune", "2 of 3: engraving it"]
    _, abc, pictures, sound = steps[-1]
    assert abc.startswith("X:1\nM:6/8\n") and "d2e fdA|" in abc
    if sound:
        assert 'class="sheet"' in pictures and 'class="roll"' in pictures and 'download="tune.mid"' in sound
    else:
        assert "can't be read as sheet music" in pictures


def test_a_piano_roll(model):
    *_, (step, abc, pictures, sound) = answers.music(model("piano_rolls"), "", 1.0, 1, 40, True)
    assert (step, abc) == ("", "")
    assert 'class="roll"' in pictures and 'class="sheet"' not in pictures
    assert "audio/wav" in sound and 'download="tune.mid"' in sound and "tune.abc" not in sound


def test_a_text_is_written_a_token_at_a_time(model):
    steps = list(answers.language(lambda: model("language_model"), "a small dog " + ATTACK, 1.0, 1, 6))
    texts = [text for text, _, _ in steps]
    assert 3 <= len(steps) <= 8 and all(after.startswith(before) for before, after in itertools.pairwise(texts))
    surprise, following = steps[0][1:]
    assert surprise.count('class="word"') >= 5 and surprise.count(' bits"') == surprise.count('class="word"')
    assert "<img" not in surprise and following.count("<tr>") == 9  # the header and eight words
    assert steps[-1][1].count('class="word"') > surprise.count('class="word"')
    again = list(answers.language(lambda: model("language_model"), "a small dog " + ATTACK, 1.0, 1, 6))
    other = list(answers.language(lambda: model("language_model"), "a small dog " + ATTACK, 1.0, 2, 6))
    assert again == steps != other
    ((text, surprise, _),) = {step for step in answers.language(lambda: model("language_model"), "", 1.0, 1, 0)}
    assert (text, surprise) == ("", "")
    with pytest.raises(DataError, match="at most 5,000"):
        next(answers.language(lambda: model("language_model"), "x" * 5_001, 1.0, 1, 6))


@pytest.mark.parametrize("text", ["", " \n", "x" * 5_001])
def test_no_text_and_too_much(model, text):
    for answer, application in ((answers.sentiment, "sentiment_classification"), (answers.translation, "translation")):
        with pytest.raises(DataError, match=r"Type some|at most 5,000"):
            answer(model(application), text)
    if len(text) > 5_000:
        with pytest.raises(DataError, match="at most 5,000"):
            next(answers.music(model("music_generation"), text, 1.0, 1, 40, True))


def test_the_page_says_what_a_model_is_and_fits_its_tab_to_it(exports, tmp_path):
    for application, kind in (("translation", "translation"), ("music_generation", "piano_rolls")):
        (tmp_path / application).mkdir()
        (tmp_path / application / "7").symlink_to(exports[kind])
    models = Models(tmp_path)
    about = models.about("translation")
    assert (about.kind, about.embedded, about.languages) == ("translation", True, ("en", "de"))
    assert "model translation · version 7 · languages en to de · data `embedded` · exported 20" in about.text
    assert models.about("music_generation").kind == "piano_rolls" and models.about("sentiment_classification") == About()

    (examples,) = TABS["translation"].fit(about._replace(languages=("fr", "en")))
    assert examples.raw_samples[0] == ["La ville compte 12 345 habitants."] and examples.visible
    for application in ("sentiment_classification", "translation", "image_captioning"):  # of the user's own data
        assert not TABS[application].fit(about._replace(embedded=False))[0].visible
    assert [update.visible for update in TABS["music_generation"].fit(About())] == [True] * 4
    assert [update.visible for update in TABS["music_generation"].fit(models.about("music_generation"))] == [False] * 4


def test_a_first_answer_says_that_it_waits_for_the_model(exports, tmp_path):
    (tmp_path / "sentiment_classification").mkdir()
    (tmp_path / "sentiment_classification/1").symlink_to(exports["sentiment_classification"])
    models = Models(tmp_path)
    with mock.patch.object(gr, "Info") as info:
        _ready(models, "sentiment_classification")
        assert "is being loaded" in info.call_args.args[0]
        _ready(models, "sentiment_classification")
        assert info.call_count == 1
        with pytest.raises(DataError, match="--quick"):
            _ready(models, "translation")
        assert info.call_count == 1


def test_an_error_clears_the_answer_before_it_is_shown():
    def fail(text):
        yield "half an answer"
        raise DataError(text)

    steps = _show_errors(fail, 2)("no such thing")
    assert [next(steps), next(steps)] == ["half an answer", (None, None)]
    with pytest.raises(gr.Error, match="no such thing"):
        next(steps)


def test_a_missing_model_names_its_command(tmp_path):
    with pytest.raises(DataError, match=r"about 2 minutes, by `python -m apps.translation.train --quick`"):
        Models(tmp_path).get("translation")


def test_drawings_of_nothing():
    assert drawing.highlighted_words([]) == '<p class="words"></p>'
    assert drawing.piano_roll([]) == drawing.surprising_words([]) == ""
    assert "<img" not in drawing.table(["a<img>"], [["<img src=x>", 0.5]])
    assert drawing.cell_style(-1) == drawing.cell_style(0) and drawing.cell_style(2) == drawing.cell_style(1)


def test_a_port_in_use_is_told_in_a_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = [sys.executable, "-m", "apps.demo", "--models", str(tmp_path), "--port", str(port)]
        result = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: --port {port} can't be opened") and "Traceback" not in result.stderr
