"""Many clients at once: the exported models and the answers of the page under 1,000 requests each from 32 clients.

    python -m benchmarks.load [--saved-models saved_models] [--requests 1000] [--clients 32] [--save benchmarks/results/load]

Needs an export of each application, those of `make demo` for instance. Every answer is compared with that of a client alone;
memory is read after a first tenth of the requests and at the end. Linux only.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from apps.common.cli import table
from apps.demo import answers
from apps.demo.models import Models
from apps.demo.page import SCENE
from benchmarks.long_run import resident_mb
from benchmarks.saving import save

TEXTS = ["the food was good", "a dog runs", "not bad at all !", "two men sit on a wall and eat", "it is cold"]


def model_requests(model: Callable[[str], Any]) -> dict[str, list[Callable[[], Any]]]:
    """Name -> a few different requests to the signature that a server has for it."""
    picture = SCENE.read_bytes()
    inputs: dict[str, list[dict[str, Any]]] = {
        "sentiment_classification": [{"text": text} for text in TEXTS],
        "translation": [{"text": text} for text in TEXTS],
        "image_captioning": [{"image_bytes": picture[:-cut] if cut else picture} for cut in (0, 0, 5000)],
        "music_generation": [
            {"prime": "M:6/8\nL:1/8\nK:D\n", "length": 40, "temperature": 0.8, "top_p": 0.9, "seed": seed} for seed in range(5)
        ],
    }

    def request(application: str, values: dict[str, Any]) -> Callable[[], Any]:
        function = model(application).signatures["serving_default"]
        spec = function.structured_input_signature[1]
        tensors = {name: tf.constant([value], spec[name].dtype) for name, value in values.items()}
        return lambda: {name: value.numpy() for name, value in function(**tensors).items()}

    return {f"{application}": [request(application, one) for one in several] for application, several in inputs.items()}


def page_requests(model: Callable[[str], Any]) -> dict[str, list[Callable[[], Any]]]:
    """The same through what the page calls."""
    return {
        "page: sentiment": [lambda text=text: answers.sentiment(model("sentiment_classification"), text) for text in TEXTS],
        "page: translation": [lambda text=text: answers.translation(model("translation"), text) for text in TEXTS],
        "page: picture": [lambda: answers.caption(model("image_captioning"), str(SCENE))],
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, np.ndarray) and one.dtype.kind == "f":
        return one.shape == other.shape and bool(np.allclose(one, other, rtol=1e-5, atol=1e-6))
    if isinstance(one, float):
        return abs(one - other) < 1e-5
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else one == other


def load(requests: Sequence[Callable[[], Any]], count: int, clients: int) -> dict[str, float]:
    """Errors, answers that differ from those of a client alone, memory after a tenth and at the end, requests a second."""
    alone = [request() for request in requests]
    errors = different = 0

    def ask(number: int) -> tuple[int, int]:
        try:
            return 0, not same(requests[number % len(requests)](), alone[number % len(requests)])
        except Exception:  # each is one that a client would see
            return 1, 0

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(max(clients * 2, count // 10))))
        warm, begun = resident_mb(os.getpid()), time.perf_counter()
        for error, difference in pool.map(ask, range(count)):
            errors, different = errors + error, different + difference
        seconds = time.perf_counter() - begun
    memory = resident_mb(os.getpid())
    found = {"errors": errors, "different": different, "warm_mb": warm, "mb": memory, "growth": memory / warm - 1}
    return {**found, "per_second": count / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saved-models", type=Path, default=Path("saved_models"))
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--save")
    options = parser.parse_args()
    model = Models(options.saved_models).get
    rows, found = [], {}
    for name, requests in {**model_requests(model), **page_requests(model)}.items():
        found[name] = load(requests, options.requests, options.clients)
        one = found[name]
        memory = [f"{one['warm_mb']:,.0f}", f"{one['mb']:,.0f}", f"{100 * one['growth']:.1f}%"]
        rows.append([name, options.requests, one["errors"], one["different"], *memory, f"{one['per_second']:,.0f}"])
        print(name, "done", flush=True)
    report = table(rows, ["", "requests", "errors", "other answers", "MB warm", "MB at the end", "growth", "a second"])
    if options.save:
        save(options.save, report, found)
    else:
        print(report)


if __name__ == "__main__":
    main()
