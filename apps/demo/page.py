"""The page: a tab an application over the exported models."""

import functools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import gradio as gr
from starlette.middleware import Middleware

from apps.applications import APPLICATIONS
from apps.demo import answers, drawing
from apps.demo.models import About, Models
from apps.demo.uploads import LARGEST_TOTAL, UploadLimit
from apps.music_generation.config import TEMPERATURE
from data_pipelines.sources import DataError

# Examples for the embedded pairs, by the language of the source.
TRANSLATIONS = {
    "en": ["The town has 12,345 inhabitants.", "We met on Friday, July 3, 2026. The ticket costs $12.50."],
    "de": ["Die Stadt hat 12.345 Einwohner.", "Die Fahrkarte kostet 12,50 €."],
    "fr": ["La ville compte 12 345 habitants.", "Le billet coûte 12,50 €."],
}

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
.preview { max-width: 100%; max-height: 16rem; border-radius: .3rem; }
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
        for application, entry in APPLICATIONS.items():
            with gr.Tab(entry.title):
                notice = gr.Markdown(elem_classes="problem", visible=False)
                about = gr.Markdown(elem_id=f"about-{application}")
                fitted = TABS[application].make(partial(_ready, models, application))
                load = partial(_fit, models, application)
                page.load(load, outputs=[notice, about, *fitted], show_progress="hidden", api_visibility="private")
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


def _fit(models: Models, application: str) -> list[Any]:
    """What is missing, what the model is, and what of its tab depends on that."""
    missing, about = models.how_to_train(application), models.about(application)
    return [gr.Markdown(missing, visible=bool(missing)), about.text, *TABS[application].fit(about)]


def _ready(models: Models, application: str) -> Any:
    """The model; the user is told if that takes a while."""
    if models.newest(application) and not models.is_loaded(application):
        gr.Info("The model is being loaded. This first answer takes some seconds longer.", title="Warming up")
    return models.get(application)


def _examples(component: Any, choose: Callable[[Any], Any] = lambda row: row[0]) -> gr.Dataset:
    """Examples for one component; which ones is for `fit`."""
    examples = gr.Dataset(components=[component], samples=[], label="Examples")
    examples.click(choose, examples, component, show_progress="hidden", api_visibility="private")
    return examples


def _samples(rows: Sequence[str]) -> gr.Dataset:
    return gr.Dataset(samples=[[row] for row in rows], visible=bool(rows))


def _sentiment(model: Callable[[], Any]) -> list[Any]:
    text = gr.Textbox(label="Review", lines=3, placeholder="Type a review", elem_id="review")
    button = gr.Button("Classify", variant="primary")
    label = gr.Label(label="Class", num_top_classes=10, elem_id="sentiment")
    words = gr.HTML(elem_id="words")
    examples = _examples(text)
    _connect(lambda text: answers.sentiment(model(), text), [text], [label, words], button, text.submit)
    return [examples]


def _fit_sentiment(about: About) -> list[Any]:
    rows = ["the food was good , not bad at all .", "the food was bad , not good at all ."]
    return [_samples(rows if about.embedded else [])]


def _translation(model: Callable[[], Any]) -> list[Any]:
    text = gr.Textbox(label="Text", lines=2, placeholder="Type a sentence or more", elem_id="sentence")
    button = gr.Button("Translate", variant="primary")
    best = gr.Textbox(label="Translation", interactive=False, elem_id="translation")
    unknown = gr.HTML(elem_id="unknown")
    others = gr.HTML(elem_id="alternatives")
    attention = gr.HTML(elem_id="attention")
    examples = _examples(text)
    _connect(lambda text: answers.translation(model(), text), [text], [best, unknown, others, attention], button, text.submit)
    return [examples]


def _fit_translation(about: About) -> list[Any]:
    source = about.languages[0] if about.languages else "en"
    return [_samples(TRANSLATIONS.get(source, []) if about.embedded else [])]


def _captions(model: Callable[[], Any]) -> list[Any]:
    limit = answers.LARGEST_IMAGE // 2**20
    file = gr.File(label=f"Picture: a JPEG or PNG of at most {limit} MB", file_types=[".jpg", ".jpeg", ".png"], elem_id="picture")
    preview = gr.HTML(elem_id="preview")
    button = gr.Button("Describe", variant="primary")
    best = gr.Textbox(label="Caption", interactive=False, elem_id="caption")
    maps = gr.HTML(elem_id="attention-maps")
    examples = _examples(file, lambda row: str(SCENE))
    _connect(lambda path: answers.caption(model(), path), [file], [best, maps], button)

    def show(path: str | None) -> Iterator[Any]:
        """Another picture, another answer, in this order."""
        yield drawing.preview(path), None, None
        if path:
            yield drawing.preview(path), *answers.caption(model(), path)

    file.change(_show_errors(show, 3), [file], [preview, best, maps], api_visibility="private")
    return [examples]


def _fit_captions(about: About) -> list[Any]:
    return [_samples([str(SCENE)] if about.embedded else [])]


def _music(model: Callable[[], Any]) -> list[Any]:
    prompt = gr.Textbox(label="Beginning in ABC notation, or nothing", lines=3, placeholder="M:6/8\nL:1/8\nK:D", elem_id="prompt")
    with gr.Row():
        temperature = gr.Slider(0.0, 1.5, TEMPERATURE, step=0.05, label="Temperature: higher is bolder")
        seed = gr.Number(1, label="Seed: another one gives another tune", precision=0, minimum=0, maximum=2**31 - 1)
        length = gr.Slider(20, 800, 400, step=10, label="Length, at most")
    constrained = gr.Checkbox(True, label="Keep every bar as long as the metre says")
    with gr.Row():
        button = gr.Button("Compose", variant="primary")
        stop = gr.Button("Stop")
    status = gr.Markdown(elem_id="status")
    sound = gr.HTML(elem_id="sound")
    pictures = gr.HTML(elem_id="pictures")
    notation = gr.Textbox(label="ABC notation", interactive=False, buttons=["copy"], elem_id="notation")
    examples = _examples(prompt)

    def compose(*inputs: Any, progress: gr.Progress = gr.Progress()) -> Iterator[tuple[str, ...]]:  # noqa: B008
        progress(0.0, "loading the model")
        served = model()
        for done, (step, *outputs) in enumerate(answers.music(served, *inputs), start=1):
            if step:
                progress(done / 4, step)
            yield step, *outputs

    running = button.click(
        _show_errors(compose, 4),
        [prompt, temperature, seed, length, constrained],
        [status, notation, pictures, sound],
        show_progress_on=status,
        api_visibility="private",
    )
    stopped = stop.click(None, cancels=[running], api_visibility="private")
    stopped.then(lambda: "Stopped.", outputs=status, api_visibility="private")  # after the last step has been shown

    return [prompt, constrained, notation, examples]


def _fit_music(about: About) -> list[Any]:
    tunes = about.kind != "piano_rolls"  # which have no notation
    rows = ["M:6/8\nL:1/8\nK:D\n", "M:4/4\nL:1/8\nK:G\nG2B2 d2"] if tunes else []
    return [*(kind(visible=tunes) for kind in (gr.Textbox, gr.Checkbox, gr.Textbox)), _samples(rows)]


def _language(model: Callable[[], Any]) -> list[Any]:
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
    examples = _examples(text)
    write = _show_errors(partial(answers.language, model), 3)
    outputs = [written, surprise, following]
    running = button.click(write, [text, temperature, seed, length], outputs, show_progress="minimal", api_visibility="private")
    stop.click(None, cancels=[running], api_visibility="private")
    return [examples]


def _fit_language(about: About) -> list[Any]:
    return [_samples(["the food was good , not", "i would not"] if about.embedded else [])]


class Tab(NamedTuple):
    """The tab of an application."""

    make: Callable[[Callable[[], Any]], list[Any]]  # from what gets the model; gives the components that depend on which it is
    fit: Callable[[About], list[Any]]  # the updates of these


TABS = {
    "sentiment_classification": Tab(_sentiment, _fit_sentiment),
    "translation": Tab(_translation, _fit_translation),
    "image_captioning": Tab(_captions, _fit_captions),
    "music_generation": Tab(_music, _fit_music),
    "language_model": Tab(_language, _fit_language),
}


def _show_errors(function: Callable[..., Iterator[Any]], outputs: int) -> Callable[..., Iterator[Any]]:
    """Show the errors of wrong input to the user, and take away the answer that was there before.

    Args:
        function: yields what is shown.
        outputs: how many components show it.
    """

    @functools.wraps(function)  # Gradio finds `progress` by the signature
    def call(*inputs: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from function(*inputs, **kwargs)
        except DataError as error:
            yield (None,) * outputs
            raise gr.Error(str(error), title="This can't be done", print_exception=False) from None

    return call


def _connect(function: Callable[..., Any], inputs: list, outputs: list, button: gr.Button, *triggers: Any) -> None:
    def answer(*inputs: Any) -> Iterator[Any]:
        yield function(*inputs)

    for trigger in (button.click, *triggers):
        trigger(_show_errors(answer, len(outputs)), inputs, outputs, api_visibility="private")
