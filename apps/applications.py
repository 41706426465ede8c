"""The applications: what the page, the benchmarks and the tests go through."""

from typing import NamedTuple


class Application(NamedTuple):
    title: str  # of its tab on the page
    minutes: int  # that `train --quick` takes
    metrics: tuple[str, ...] = ()  # those that the table of `apps.runs` shows


APPLICATIONS = {
    "sentiment_classification": Application("Sentiment", 1, ("accuracy", "macro_f1")),
    "translation": Application("Translation", 2, ("bleu", "chrf")),
    "image_captioning": Application("Captions", 2, ("cider", "bleu_4")),
    "music_generation": Application("Music", 2, ("bits_per_character", "nll_per_frame")),
    "language_model": Application("Text", 1, ("perplexity", "bits_per_byte")),
}
