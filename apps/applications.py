"""The applications: what the page, the benchmarks and the tests go through."""

from typing import NamedTuple


class Application(NamedTuple):
    title: str  # of its tab on the page
    minutes: int  # that `train --quick` takes


APPLICATIONS = {
    "sentiment_classification": Application("Sentiment", 1),
    "translation": Application("Translation", 2),
    "image_captioning": Application("Captions", 6),
    "music_generation": Application("Music", 5),
    "language_model": Application("Text", 1),
}
