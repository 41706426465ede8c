"""The page: a tab an application over the exported models."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from starlette.middleware import Middleware

from apps.applications import APPLICATIONS
from apps.demo import answers
from apps.demo.models import Models
from apps.demo.uploads import LARGEST_TOTAL, UploadLimit
from data_pipelines.sources import DataError

SCENE = Path(__file__).parents[1] / "image_captioning" / "scene.png"

STYLE = """
.gradio-container { max-width: 60rem !important; width: 100% !important; margin: auto; }
.gradio-container main { width: 100%; }
@media (max-width: 30rem) {
  .gradio-container main { padding: .5rem !important; }
  .tab-container button { padding: .4rem .25rem !important; font-size: .82rem !important; }
}
.words { line-height: 2.1; font-size: 1.05rem; } .word { padding: .15rem .3rem; border-radius: .3rem; }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll table, .scroll tr, .scroll th, .scroll td { border: 0 !important; }
table.attention { border-collapse: collapse; width: auto; } table.attention caption { text-align: left; padding-bottom: .5rem; }
table.attention td { width: 1.6rem; height: 1.6rem; min-width: 1.2rem; padding: 0; border: 1px solid #ddd !important; }
table.attention tr:first-child td { border: 0 !important; }
table.attention th { font-weight: normal; padding: 0 .4rem; text-align: right; white-space: nowrap; }
table.attention th[scope=col] { vertical-align: bottom; padding: .2rem 0; }
table.attention th[scope=col] span { writing-mode: vertical-rl; transform: rotate(180deg); }
table.plain td, table.plain th { padding: .2rem .8rem .2rem 0; text-align: left; }
.attention-maps { display: flex; flex-wrap: wrap; gap: .6rem; } .attention-maps figure { margin: 0; width: 8.5rem; }
.attention-maps img { width: 100%; border-radius: .3rem; } .attention-maps figcaption { text-align: center; }
.sheet { background: white; width: 100%; } .roll { background: white; width: 100%; margin-top: .8rem; border: 1px solid #ddd; }
audio { width: 100%; margin-bottom: .5rem; } .download { margin-right: 1rem; }
.problem { border-left: .3rem solid #dc2626; padding: .4rem .8rem; }
:focus-visible { outline: 3px solid #2563eb !important; outline-offset: 1px; }
"""

# The page asks no other host for fonts, so these are what the reader's machine has.
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
    button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700"
)


def make_page(models: Models) -> gr.Blocks:
    """The page over the models of a folder; `launch` it."""
    with gr.Blocks(title="Unfold", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown("# Unfold\nSequence models, each as TensorFlow Serving would load it.")
        for application, (title, _) in APPLICATIONS.items():
            with gr.Tab(title):
                notice = gr.Markdown(elem_classes="problem", visible=False)
                about = gr.Markdown(elem_id=f"about-{application}")
                load = partial(_notice, models, application)
                page.load(load, outputs=[notice, about], show_progress="hidden", api_visibility="private")
                TABS[application](partial(models.get, application))
    page.queue(default_concurrency_limit=4, max_size=64)
    return page


class OwnHostOnly:
    """Answer 403 to requests for another host (DNS rebinding), and to what a page of another origin sends.

    Args:
        app: the application behind.
        hosts: names by which the page may be asked for; "*" allows all.
    """

    def __init__(self, app: Any, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, set(hosts)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            host = headers.get("host", "")
            name = urlsplit(f"//{host}").hostname or ""
            origin = headers.get("origin")
            foreign = origin is not None and urlsplit(origin).netloc != host
            if ("*" not in self.hosts and name not in self.hosts) or foreign:
                await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
                await send({"type": "http.response.body", "body": b"This page answers under its own address only.\n"})
                return
        await self.app(scope, receive, send)


def launch_options(host: str = "127.0.0.1") -> dict[str, Any]:
    """The arguments of `launch` that belong to the page.

    Args:
        host: the interface that it listens on; where that is not this machine's alone, any host name is allowed.
    """
    hosts = ["127.0.0.1", "localhost", "::1"] if host in ("127.0.0.1", "localhost", "::1") else ["*"]
    return {
        "app_kwargs": {"middleware": [Middleware(OwnHostOnly, hosts=hosts), Middleware(UploadLimit, limit=LARGEST_TOTAL)]},
        "theme": THEME,
        "css": STYLE,
        "max_file_size": answers.LARGEST_IMAGE,
        "footer_links": [],
        "allowed_paths": [str(SCENE)],
        "enable_monitoring": False,
        "state_session_capacity": 256,  # Gradio keeps the state of tabs in memory
    }


def _notice(models: Models, application: str) -> Any:
    missing = models.how_to_train(application)
    return gr.Markdown(missing, visible=bool(missing)), models.about(application)


def _show_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show the errors of wrong input to the user."""

    def call(*inputs: Any) -> Any:
        try:
            return function(*inputs)
        except DataError as error:
            raise gr.Error(str(error), title="This can't be done", print_exception=False) from None

    return call


def _sentiment(model: Callable[[], Any]) -> None:
    text = gr.Textbox(label="Review", lines=3, placeholder="Type a review", elem_id="review")
    button = gr.Button("Classify", variant="primary")
    label = gr.Label(label="Sentiment", elem_id="sentiment")
    words = gr.HTML(elem_id="words")
    gr.Examples(["the food was good , not bad at all .", "the food was bad , not good at all ."], text)
    _connect(lambda text: answers.sentiment(model(), text), [text], [label, words], button, text.submit)


def _translation(model: Callable[[], Any]) -> None:
    text = gr.Textbox(label="Text", lines=2, placeholder="Type a sentence or more", elem_id="sentence")
    button = gr.Button("Translate", variant="primary")
    best = gr.Textbox(label="Translation", interactive=False, elem_id="translation")
    unknown = gr.HTML(elem_id="unknown")
    others = gr.HTML(elem_id="alternatives")
    attention = gr.HTML(elem_id="attention")
    gr.Examples(["The town has 12,345 inhabitants.", "We met on Friday, July 3, 2026. The ticket costs $12.50."], text)
    _connect(lambda text: answers.translation(model(), text), [text], [best, unknown, others, attention], button, text.submit)


def _captions(model: Callable[[], Any]) -> None:
    limit = answers.LARGEST_IMAGE // 2**20
    file = gr.File(label=f"Picture: a JPEG or PNG of at most {limit} MB", file_types=[".jpg", ".jpeg", ".png"], elem_id="picture")
    button = gr.Button("Describe", variant="primary")
    best = gr.Textbox(label="Caption", interactive=False, elem_id="caption")
    maps = gr.HTML(elem_id="attention-maps")
    gr.Examples([str(SCENE)], file)
    _connect(lambda path: answers.caption(model(), path), [file], [best, maps], button, file.upload)


def _music(model: Callable[[], Any]) -> None:
    prompt = gr.Textbox(label="Beginning in ABC notation, or nothing", lines=3, placeholder="M:6/8\nL:1/8\nK:D", elem_id="prompt")
    with gr.Row():
        temperature = gr.Slider(0.0, 1.5, 0.8, step=0.05, label="Temperature: higher is bolder")
        seed = gr.Number(1, label="Seed: another one gives another tune", precision=0, minimum=0, maximum=2**31 - 1)
        length = gr.Slider(20, 800, 400, step=10, label="Length, at most")
    constrained = gr.Checkbox(True, label="Keep every bar as long as the metre says")
    with gr.Row():
        button = gr.Button("Play", variant="primary")
        stop = gr.Button("Stop")
    status = gr.Markdown(elem_id="status")
    sound = gr.HTML(elem_id="sound")
    pictures = gr.HTML(elem_id="pictures")
    notation = gr.Textbox(label="ABC notation", interactive=False, buttons=["copy"], elem_id="notation")
    gr.Examples([["M:6/8\nL:1/8\nK:D\n"], ["M:4/4\nL:1/8\nK:G\nG2B2 d2"]], [prompt])

    def play(*inputs: Any, progress: gr.Progress = gr.Progress()) -> Iterator[tuple[str, str, str, str]]:  # noqa: B008
        progress(0.0, "loading the model")
        served = model()
        for done, (step, *outputs) in enumerate(_steps(answers.music, served, *inputs), start=1):
            if step:
                progress(done / 4, step)
            yield step, *outputs

    running = button.click(
        play,
        [prompt, temperature, seed, length, constrained],
        [status, notation, pictures, sound],
        show_progress_on=status,
        api_visibility="private",
    )
    stop.click(lambda: "Stopped.", outputs=status, cancels=[running], api_visibility="private")


def _language(model: Callable[[], Any]) -> None:
    text = gr.Textbox(label="Beginning of a text, or nothing", lines=3, placeholder="The food was", elem_id="beginning")
    with gr.Row():
        temperature = gr.Slider(0.0, 1.5, 0.8, step=0.05, label="Temperature: 0 is the most probable text")
        seed = gr.Number(1, label="Variation: another number gives another text", precision=0, minimum=0, maximum=2**31 - 1)
        length = gr.Slider(0, 200, 40, step=1, label="New tokens, at most")
    with gr.Row():
        button = gr.Button("Complete", variant="primary")
        stop = gr.Button("Stop")
    written = gr.Textbox(label="Text", lines=3, interactive=False, buttons=["copy"], elem_id="written")
    surprise = gr.HTML(elem_id="surprise")
    following = gr.HTML(elem_id="next-tokens")
    gr.Examples(["the food was good , not", "i would not"], text)

    def write(*inputs: Any) -> Iterator[tuple[str, str, str]]:
        yield from _steps(answers.language, model, *inputs)

    outputs = [written, surprise, following]
    running = button.click(write, [text, temperature, seed, length], outputs, show_progress="minimal", api_visibility="private")
    stop.click(None, cancels=[running], api_visibility="private")


TABS = {
    "sentiment_classification": _sentiment,
    "translation": _translation,
    "image_captioning": _captions,
    "music_generation": _music,
    "language_model": _language,
}


def _steps(function: Callable[..., Iterator[Any]], *inputs: Any) -> Iterator[Any]:
    """The steps of a generator, its errors made readable."""
    steps = function(*inputs)
    targets = _show_errors(lambda: next(steps, None))
    while (step := targets()) is not None:
        yield step


def _connect(function: Callable[..., Any], inputs: list, outputs: list, button: gr.Button, *triggers: Any) -> None:
    for trigger in (button.click, *triggers):
        trigger(_show_errors(function), inputs, outputs, api_visibility="private")
