"""Pictures of the page for its README, and the first one of the main README.

python -m tests.browser.screenshots saved_models apps/demo
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import Page
from tests.browser.test_page import SCENE, classify, complete, compose, describe, translate


def main():
    parser = argparse.ArgumentParser("python -m tests.browser.screenshots")
    parser.add_argument("models", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    server = Page(arguments.models.resolve())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 860, "height": 700})
        page.set_default_timeout(60_000)
        page.goto(server.url)
        for name, act, done in (
            ("sentiment", lambda: classify(page, "the food was good , not bad at all ."), "#words .word"),
            ("translation", lambda: translate(page, "The town has 12,345 inhabitants."), "#attention table"),
            ("captions", lambda: describe(page, SCENE), "#attention-maps figure"),
            ("music", lambda: compose(page), "#sound audio"),
            ("language", lambda: complete(page, "the food was good , not"), "#surprise .word"),
        ):
            act()
            page.locator(done).first.wait_for()
            page.wait_for_timeout(1_000)
            page.screenshot(path=arguments.out / f"{name}.png", full_page=True)
            if name == "translation":
                page.locator("#attention table").screenshot(path=arguments.out / "attention.png")
        browser.close()
    server.close()


if __name__ == "__main__":
    main()
