"""The page with small models that were trained for it, and a browser that notes what it should not see.

The models are trained in about four minutes; UNFOLD_MODELS names a folder of exports to be used instead.
"""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

import apps
from apps.common.training.cluster import loopback_ports
from tests.apps.helpers import some_tunes

expect.set_options(timeout=60_000)

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
TRAININGS = [  # two at a time; as short as a right answer allows
    [["image_captioning", "--epochs", "3"]],
    [
        ["translation", "--epochs", "8"],
        ["sentiment_classification"],
        ["language_model", "--epochs", "1"],
        ["music_generation", "--data", "tunes.abc", "--num-samples", "0", "--units", "192", "--epochs", "10"],
    ],
]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    if "UNFOLD_MODELS" in os.environ:
        return Path(os.environ["UNFOLD_MODELS"])
    folder = tmp_path_factory.mktemp("models")
    (folder / "tunes.abc").write_text(some_tunes(60))
    scripts = []
    for n, queue in enumerate(TRAININGS):
        lines = []
        for application, *flags in queue:
            where = ["--run-dir", f"runs/{application}", "--export-dir", f"saved_models/{application}"]
            lines.append(
                " ".join([sys.executable, "-m", f"apps.{application}.train", "--quick", "--force-export", *flags, *where])
            )
        log = open(folder / f"log_{n}", "w")  # noqa: SIM115
        environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
        scripts.append(
            (subprocess.Popen(["bash", "-ec", "\n".join(lines)], cwd=folder, env=environment, stdout=log, stderr=log), log)
        )
    for process, log in scripts:
        assert process.wait() == 0, Path(log.name).read_text()[-3000:]
        log.close()
    return folder / "saved_models"


class Page:
    """A server of the page."""

    def __init__(self, models):
        (self.port,) = loopback_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        line = [sys.executable, "-m", "apps.demo", "--models", str(models), "--port", str(self.port)]
        self.process = subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, self.process.stderr.read().decode()[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.2)

    def close(self):
        self.process.terminate()
        self.process.communicate()


@pytest.fixture(scope="session")
def label(models):
    """What the model says of a text, right or wrong: the page must say the same."""
    classify = apps.load(models / "sentiment_classification")
    return lambda text: classify([text])[0]["label"]


@pytest.fixture(scope="session")
def server(models):
    page = Page(models)
    yield page.url
    page.close()


@pytest.fixture(scope="session")
def empty_server(tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("none"))
    yield page.url
    page.close()


@pytest.fixture(scope="session")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("no Chromium on the path. On Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a page; at the end of the test nothing may have gone wrong, and nothing may have been asked of another host."""
    contexts, problems = [], []

    def open_page(url, width=1100, height=900):
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: problems.append(message.text) if is_error(message) else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: problems.append(request.url) if not is_local(request.url, url) else None)
        page.goto(url)
        page.get_by_role("tab", name="Sentiment").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def is_error(message):
    """What the console shows as an error; but Gradio loses the progress of an upload that it refuses, and says so."""
    return message.type == "error" and "/upload_progress?" not in message.location["url"]


def is_local(asked, url):
    return asked.startswith((url, "data:", "blob:", "ws://" + url.removeprefix("http://")))
