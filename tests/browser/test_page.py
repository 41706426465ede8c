"""The page in a real browser: right answers, readable errors, a phone's width, the keyboard alone, several users at once."""

import contextlib
import http.server
import itertools
import re
import threading
import urllib.error
import urllib.request

import pytest
from playwright.sync_api import expect

from apps.applications import APPLICATIONS
from apps.demo.page import SCENE
from data_pipelines.embedded.scenes import embedded_scenes, is_true

TABS = [application.title for application in APPLICATIONS.values()]


def open_tab(page, name):
    """A narrow page has room for some tabs; the others are in a menu."""
    expect(page.get_by_role("tab").first).to_be_visible()
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()


def classify(page, text):
    open_tab(page, "Sentiment")
    page.locator("#review textarea").fill(text)
    page.get_by_role("button", name="Classify").click()


def translate(page, text):
    open_tab(page, "Translation")
    page.locator("#sentence textarea").fill(text)
    page.get_by_role("button", name="Translate").click()


def describe(page, path):
    open_tab(page, "Captions")
    page.locator("#picture input[type=file]").set_input_files(path)


def compose(page):
    open_tab(page, "Music")
    page.get_by_role("button", name="Compose").click()


def complete(page, text):
    open_tab(page, "Text")
    page.locator("#beginning textarea").fill(text)
    page.get_by_role("button", name="Complete").click()


def error(page):
    """The message a user sees."""
    return page.locator(".toast-body.error, .toast-wrap .error").first


# -- right answers


def test_a_review_gets_its_label_and_weighed_words(visit, server, label):
    page = visit(server)
    classify(page, "the food was good , not bad at all .")
    expect(page.locator("#sentiment h2")).to_have_text(label("the food was good , not bad at all ."))
    words = page.locator("#words .word")
    expect(words).to_have_count(10)
    assert len({words.nth(n).get_attribute("style") for n in range(10)}) > 1
    page.get_by_role("button", name="the food was bad , not good at all .").click()  # an example, which the server fills in
    expect(page.locator("#review textarea")).to_have_value("the food was bad , not good at all .")
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#sentiment h2")).to_have_text(label("the food was bad , not good at all ."))
    classify(page, "i love this great film .")
    expect(page.locator("#sentiment h2")).to_have_text("positive")


def test_a_sentence_gets_its_translation_alternatives_and_attention(visit, server):
    page = visit(server)
    translate(page, "The town has 12,345 inhabitants.")
    expect(page.locator("#about-translation")).to_contain_text("It was trained on 5,000 sentences from 16 patterns")
    expect(page.locator("#about-translation")).to_contain_text(
        re.compile(r"version \d+ · languages en to de · data embedded · exported 20")
    )
    expect(page.locator("#translation textarea")).to_have_value("Die Stadt hat 12.345 Einwohner.")
    expect(page.locator("#alternatives tr")).to_have_count(4)
    rows = page.locator("#attention tr")
    assert rows.count() > 5 and rows.nth(1).locator("td").count() > 5


def test_a_picture_gets_its_caption_and_what_each_word_attended_to(visit, server, tmp_path):
    scene = embedded_scenes()["test"][0]
    (tmp_path / "scene.png").write_bytes(scene.png())
    page = visit(server)
    describe(page, tmp_path / "scene.png")
    caption = page.locator("#caption textarea")
    expect(caption).to_have_value(re.compile("."))
    assert is_true(caption.input_value(), scene), caption.input_value()
    assert page.locator("#preview img").evaluate("image => image.complete && image.naturalWidth > 0")
    expect(page.locator("#attention-maps figure")).to_have_count(2 + caption.input_value().count(" ") + 1)
    assert page.locator("#attention-maps img").nth(1).evaluate("image => image.complete && image.naturalWidth > 0")


def test_a_text_is_completed_and_each_word_shows_its_surprise(visit, server):
    page, text = visit(server), "the food was good , not"
    complete(page, text)
    written, words = page.locator("#written textarea"), page.locator("#surprise .word")
    expect(written).to_have_value(re.compile(f"^{text}.{{2,}}"))
    expect(words.nth(6)).to_be_visible()  # those that were added, too
    assert words.first.get_attribute("title").endswith(" bits") and words.first.inner_text() == "the"
    assert len({words.nth(n).get_attribute("style") for n in range(7)}) > 1
    expect(page.locator("#next-tokens tr")).to_have_count(9)


def test_a_tune_gets_sheet_music_a_piano_roll_and_sound(visit, server):
    page = visit(server)
    compose(page)
    sound = page.locator("#sound audio")
    expect(sound).to_have_count(1)
    page.wait_for_function("document.querySelector('#sound audio').duration > 1")
    page.wait_for_function("document.querySelector('#sound audio').currentTime > 0")  # it plays
    for picture in ("#pictures .sheet", "#pictures .roll"):
        assert page.locator(picture).first.evaluate("image => image.naturalWidth > 100")
    first = page.locator("#notation textarea").input_value()
    assert first.startswith("X:1\nM:") and "|" in first
    page.get_by_label("Seed").fill("2")
    page.get_by_role("button", name="Compose").click()
    page.wait_for_function("text => ![text, ''].includes(document.querySelector('#notation textarea').value)", arg=first)
    expect(sound).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("link", name="tune.mid").click()
    assert download.value.path().read_bytes()[:4] == b"MThd"


def test_a_tune_shows_its_progress_and_can_be_stopped(visit, server):
    page = visit(server)
    compose(page)
    expect(page.locator("#status")).to_contain_text(r"of 3")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_contain_text("Stopped.")
    page.wait_for_timeout(4_000)
    expect(page.locator("#sound audio")).to_have_count(0)
    compose(page)  # and goes on afterwards
    expect(page.locator("#sound audio")).to_have_count(1)


# -- wrong input


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("notes.jpg", b"these are words", "can't be read as a picture"),
        ("half.png", SCENE.read_bytes()[:200], "can't be read as a picture"),
        ("empty.png", b"", "can't be read as a picture"),
        ("large.jpg", b"\xff\xd8" + bytes(11_000_000), "exceed the maximum allowed size of 10"),
        ("notes.txt", b"these are words", "Invalid file type"),
    ],
)
def test_a_bad_upload_gets_a_readable_message(visit, server, name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    page = visit(server)
    describe(page, tmp_path / name)
    expect(error(page)).to_contain_text(message)
    assert page.locator("#caption textarea").input_value() == ""


def test_an_error_takes_away_the_answer_before_it(visit, server):
    page = visit(server)
    translate(page, "The town has 12,345 inhabitants.")
    expect(page.locator("#alternatives tr")).to_have_count(4)
    translate(page, "")
    expect(error(page)).to_contain_text("There is no text yet")
    expect(page.locator("#alternatives tr")).to_have_count(0)
    expect(page.locator("#translation textarea")).to_have_value("")


@pytest.mark.parametrize("text, message", [("", "There is no text yet"), ("word " * 2_000, "expected at most 5,000")])
def test_too_little_and_too_much_text_get_a_readable_message(visit, server, text, message):
    page = visit(server)
    translate(page, text)
    expect(error(page)).to_contain_text(message)


def test_a_bad_beginning_of_a_tune_gets_a_tune_or_a_readable_message(visit, server):
    page = visit(server)
    open_tab(page, "Music")
    page.locator("#prompt textarea").fill("no music at all <b>")
    page.get_by_label("Keep every bar").uncheck()
    page.get_by_role("button", name="Compose").click()
    expect(page.locator("#sound audio, #pictures p").first).to_be_visible()


def test_what_a_user_types_is_text_never_code(visit, server):
    page = visit(server)
    attack = "<img src=x onerror=alert(1)><script>alert(2)</script> good"
    classify(page, attack)
    expect(page.locator("#words .word").first).to_be_visible()
    translate(page, attack)
    expect(page.locator("#attention table")).to_be_visible()
    assert page.locator("#words img, #words script, #attention img, #attention script, #alternatives img").count() == 0


def test_missing_models_are_offered_with_the_command_that_makes_them(visit, empty_server):
    page = visit(empty_server)
    for tab, application in zip(TABS, APPLICATIONS):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_text(f"python -m apps.{application}.train --quick").first).to_be_visible()
    classify(page, "good")
    expect(error(page)).to_contain_text("python -m apps.sentiment_classification.train --quick")


# -- everyone's page


def test_it_fits_a_phone(visit, server):
    page = visit(server, width=360, height=740)
    classify(page, "the food was good , not bad at all .")
    expect(page.locator("#words .word").first).to_be_visible()
    assert_fits(page)
    translate(page, "The meeting begins on Friday, July 3, 2026 at 3:05 PM.")
    expect(page.locator("#attention table")).to_be_visible()
    assert_fits(page)
    describe(page, SCENE)
    expect(page.locator("#attention-maps figure").first).to_be_visible()
    assert_fits(page)
    compose(page)
    expect(page.locator("#sound audio")).to_be_visible()
    assert_fits(page)


def assert_fits(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for button in page.get_by_role("button").all():
        box = button.bounding_box()
        if box and button.is_visible():
            assert box["x"] >= 0 and box["x"] + box["width"] <= 360, button.inner_text()


def test_the_keyboard_is_enough(visit, server, label):
    page = visit(server)

    def press_until(condition, key="Tab"):
        for _ in range(60):
            if page.evaluate(f"(() => {{ const e = document.activeElement; return {condition}; }})()"):
                return
            page.keyboard.press(key)
        raise AssertionError(condition)

    press_until("e.closest('#review') && e.tagName == 'TEXTAREA'")
    page.keyboard.type("the food was good , not bad at all .")
    press_until("e.innerText == 'Classify'")
    page.keyboard.press("Enter")
    expect(page.locator("#sentiment h2")).to_have_text(label("the food was good , not bad at all ."))
    press_until("e.getAttribute('role') == 'tab'", "Shift+Tab")
    press_until("e.getAttribute('role') == 'tab' && e.innerText == 'Translation'", "Shift+Tab")
    page.keyboard.press("Enter")
    press_until("e.closest('#sentence') && e.tagName == 'TEXTAREA'")
    page.keyboard.type("The town has 12,345 inhabitants.")
    page.keyboard.press("Shift+Enter")
    expect(page.locator("#translation textarea")).to_have_value("Die Stadt hat 12.345 Einwohner.")
    press_until("e.getAttribute('role') == 'tab' && e.innerText == 'Music'", "Shift+Tab")
    page.keyboard.press("Enter")
    press_until("e.innerText == 'Compose'")
    page.keyboard.press("Enter")
    expect(page.locator("#sound audio")).to_have_count(1)


def test_users_at_once_get_their_own_answers(visit, server, label):
    labels = {text: label(text) for text in ("i love this great film .", "i hate this awful film .")}
    texts = list(labels)
    assert len(set(labels.values())) == 2
    pages = [visit(server) for _ in range(4)]
    for turn in range(3):
        asked = [texts[(n + turn) % 2] for n in range(len(pages))]
        for page in pages:
            page.get_by_role("tab", name="Sentiment").click()
        for page, text in zip(pages, asked):
            page.locator("#review textarea").fill(text)
        for page in pages:
            page.get_by_role("button", name="Classify").click(no_wait_after=True)
        for page, text in zip(pages, asked):
            expect(page.locator("#sentiment h2")).to_have_text(labels[text])
            shown = page.locator("#words .word").all_inner_texts()
            assert " ".join(shown) == text
    tunes = []
    for page, seed in zip(pages, itertools.count(1)):
        page.get_by_role("tab", name="Music").click()
        page.get_by_label("Seed").fill(str(seed % 2))
    for page in pages:
        page.get_by_role("button", name="Compose").click(no_wait_after=True)
    for page in pages:
        expect(page.locator("#sound audio")).to_have_count(1)
        tunes.append(page.locator("#notation textarea").input_value())
    assert tunes[0] == tunes[2] != tunes[1] == tunes[3]


# -- other sites


def test_another_site_can_neither_upload_nor_read(browser, empty_server):
    """A page of another origin sends a form, as browsers let it, and asks for the page under a name of its own."""
    posted = []
    with other_site() as url:
        context = browser.new_context()
        page = context.new_page()
        page.on("response", lambda response: posted.append((response.url, response.status)))
        page.goto(url)
        upload = f"{empty_server}/gradio_api/upload"
        script = """async (url) => {
            const form = new FormData();
            form.append("files", new Blob(["x".repeat(1000)]), "x.txt");
            await fetch(url, {method: "POST", body: form, mode: "no-cors"});
        }"""
        page.evaluate(script, upload)
        assert (upload, 403) in posted
        context.close()
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(empty_server, headers=headers), timeout=30)
    assert urllib.request.urlopen(empty_server, timeout=30).status == 200


@contextlib.contextmanager
def other_site():
    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>another site</title>")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()
