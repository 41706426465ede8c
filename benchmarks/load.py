"""Many clients at once: the exported models and the page under 1,000 requests each from 32 clients.

    python -m benchmarks.load [--saved-models saved_models] [--requests 1000] [--clients 32] [--save benchmarks/results/load]

Needs an export of each application, those of `make demo` for instance. The models answer in this process; the page is
`apps.demo` in another one, asked over HTTP as the browser asks it. Every answer is compared with that of a client alone; memory
of the process that answers is read after a first tenth of the requests and at the end. Linux only.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import httpx
import numpy as np
import tensorflow as tf

from apps.common.cli import table
from apps.common.training.cluster import loopback_ports
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
            {"prompt": "M:6/8\nL:1/8\nK:D\n", "max_new_tokens": 40, "temperature": 0.8, "top_p": 0.9, "seed": seed}
            for seed in range(5)
        ],
        "language_model": [
            {"prompt": text, "max_new_tokens": 20, "temperature": 0.8, "top_p": 0.9, "top_k": 0, "seed": 1} for text in TEXTS
        ],
    }

    def request(application: str, values: dict[str, Any]) -> Callable[[], Any]:
        function = model(application).signatures["serving_default"]
        spec = function.structured_input_signature[1]
        tensors = {name: tf.constant([value], spec[name].dtype) for name, value in values.items()}
        return lambda: {name: value.numpy() for name, value in function(**tensors).items()}

    return {f"{application}": [request(application, one) for one in several] for application, several in inputs.items()}


class Page:
    """`apps.demo` in a process of its own, asked as a browser asks it: a request joins the queue, its answer is an event.

    Args:
        saved_models: the folder of the exports.
        clients: connections at a time.
    """

    def __init__(self, saved_models: Path, clients: int) -> None:
        (port,) = loopback_ports(1)
        line = [sys.executable, "-m", "apps.demo", "--models", str(saved_models), "--port", str(port)]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout
        url = self.process.stdout.readline().partition(" ")[0]
        if not url:
            raise RuntimeError(f"{' '.join(line)} ended with {self.process.wait()}")
        self._tab = threading.local()  # a client is a tab that stays open
        limits = httpx.Limits(max_connections=2 * clients)
        self._http = httpx.Client(base_url=url, timeout=600, limits=limits)
        config = self._http.get("config").json()
        names = {one["id"]: one["props"].get("elem_id") for one in config["components"]}
        self._functions = {
            names[one["outputs"][0]]: one["id"]
            for one in config["dependencies"]
            if one["outputs"] and any(event == "click" for _, event in one["targets"])
        }

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()
        self.process.kill()
        self.process.communicate()

    def ask(self, output: str, data: Sequence[Any]) -> Any:
        """Click the button whose answer appears in the component of this id.

        Raises:
            RuntimeError: the page shows an error instead.
        """
        session = self._tab.__dict__.setdefault("session", uuid.uuid4().hex)
        request = {"data": data, "fn_index": self._functions[output], "session_hash": session, "event_data": None}
        self._http.post("gradio_api/queue/join", json=request).raise_for_status()
        with self._http.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as events:
            for line in events.iter_lines():
                event = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if event.get("msg") == "process_completed":
                    if not event["success"]:
                        raise RuntimeError(event["output"].get("error"))
                    return event["output"]["data"]
        raise RuntimeError("no answer")

    def picture(self, path: Path) -> dict[str, Any]:
        """Upload a file; return the value of a file component that has it."""
        (there,) = self._http.post("gradio_api/upload", files={"files": (path.name, path.read_bytes())}).json()
        return {"path": there, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}

    def requests(self) -> dict[str, list[Callable[[], Any]]]:
        picture = self.picture(SCENE)
        return {
            "page: sentiment": [lambda text=text: self.ask("sentiment", [text]) for text in TEXTS],
            "page: translation": [lambda text=text: self.ask("translation", [text]) for text in TEXTS],
            "page: picture": [lambda: self.ask("caption", [picture])],
        }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, np.ndarray) and one.dtype.kind == "f":
        return one.shape == other.shape and bool(np.allclose(one, other, rtol=1e-5, atol=1e-6))
    if isinstance(one, float):
        return abs(one - other) < 1e-5
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else one == other


def load(requests: Sequence[Callable[[], Any]], count: int, clients: int, process: int) -> dict[str, float]:
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
        warm, begun = resident_mb(process), time.perf_counter()
        for error, difference in pool.map(ask, range(count)):
            errors, different = errors + error, different + difference
        seconds = time.perf_counter() - begun
    memory = resident_mb(process)
    found = {"errors": errors, "different": different, "warm_mb": warm, "mb": memory, "growth": memory / warm - 1}
    return {**found, "per_second": count / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saved-models", type=Path, default=Path("saved_models"))
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--save")
    options = parser.parse_args()
    found = {}
    with Page(options.saved_models, options.clients) as page:
        for name, requests in {**model_requests(Models(options.saved_models).get), **page.requests()}.items():
            process = page.process.pid if name.startswith("page") else os.getpid()
            found[name] = load(requests, options.requests, options.clients, process)
            print(name, "done", flush=True)
    rows = []
    for name, one in found.items():
        memory = [f"{one['warm_mb']:,.0f}", f"{one['mb']:,.0f}", f"{100 * one['growth']:.1f}%"]
        rows.append([name, options.requests, one["errors"], one["different"], *memory, f"{one['per_second']:,.0f}"])
    report = table(rows, ["", "requests", "errors", "other answers", "MB warm", "MB at the end", "growth", "a second"])
    save(options.save, report, found)


if __name__ == "__main__":
    main()
