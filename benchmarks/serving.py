"""Latency and throughput of exported models, against calling the Keras model the usual way.

    python -m benchmarks.serving [--saved-models saved_models] [--runs runs] [--seconds 3] [--save benchmarks/results/serving]

Needs an export and a run of each application, those of `make demo` for instance. Each signature answers requests of 1, 8
and 32 rows from one client, and from four at once (threads, as a server has). Latency is that of a request, throughput
counts rows.

The usual way prepares the inputs in Python and calls `model.predict`; where a decoder writes, once for each token, on all
tokens so far (as keras.io's examples do), always taking the most probable one, for as many steps as the export took.
"""

import argparse
import importlib
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from apps.common.export.saved_model import load_export, newest_version
from apps.common.training.runs import load_model
from apps.image_captioning.encoders import ImageEncoder
from benchmarks.saving import save
from data_pipelines.captions import load_captions
from data_pipelines.images import decode_images
from data_pipelines.reviews import load_reviews
from data_pipelines.translations import Vocabularies, load_translations
from data_pipelines.tunes import TuneVocabulary
from data_pipelines.vocabulary import BOS, EOS, load_vocabulary

Request = Callable[[int], Any]
BATCHES, CLIENTS = (1, 8, 32), (1, 4)


def timed(request: Request, rows: int, clients: int, seconds: float) -> dict[str, float]:
    """p50 and p99 in ms, and rows a second, of clients that ask without pause."""
    request(rows)
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    def client() -> None:
        while time.perf_counter() < end:
            begun = time.perf_counter()
            request(rows)
            latencies.append(1e3 * (time.perf_counter() - begun))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begun
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "rows_per_second": len(latencies) * rows / elapsed, "requests": len(latencies)}


def signature(served: Any, name: str, inputs: Callable[[int], dict[str, Any]]) -> Request:
    function = served.signatures[name]
    specs = function.structured_input_signature[1]

    def request(rows: int) -> Any:
        outputs = function(**{name: value for name, value in inputs(rows).items() if name in specs})
        return {name: value.numpy() for name, value in outputs.items()}

    return request


def take(values: list, rows: int) -> list:
    return [values[i % len(values)] for i in range(rows)]


def write_with_predict(model: keras.Model, fixed: dict[str, np.ndarray], name: str, tokens: np.ndarray, steps: int) -> np.ndarray:
    """The most probable tokens, one `model.predict` each."""
    for _ in range(steps):
        logits = model.predict({**fixed, name: tokens}, batch_size=len(tokens), verbose=0)
        tokens = np.concatenate([tokens, logits[:, -1:].argmax(-1).astype("int32")], axis=1)
    return tokens


# -- one function an application: the inputs of a request of so many rows, and the usual way


def sentiment(served: Any, run: Path, model: keras.Model) -> tuple[Callable[[int], dict[str, Any]], Request]:
    texts = [review.text for review in load_reviews("embedded").splits["test"]]
    vocabulary = load_vocabulary(run)

    def usual(rows: int) -> Any:
        ids = vocabulary.encode(tf.constant(take(texts, rows))).to_tensor()
        return model.predict(ids.numpy(), batch_size=rows, verbose=0)

    return lambda rows: {"text": tf.constant(take(texts, rows))}, usual


def translation(served: Any, run: Path, model: keras.Model) -> tuple[Callable[[int], dict[str, Any]], Request]:
    texts = [pair.source for pair in load_translations("embedded", "en", "de").splits["test"]]
    vocabularies = Vocabularies.load(run)
    assert vocabularies is not None

    signature = served.signatures["serving_default"]
    steps = {rows: signature(text=tf.constant(take(texts, rows)))["target_tokens"].shape[1] + 1 for rows in BATCHES}

    def usual(rows: int) -> Any:
        source = vocabularies.source.encode(tf.constant(take(texts, rows))).to_tensor().numpy()
        tokens = np.full((rows, 1), BOS, "int32")
        return write_with_predict(model, {"source": source}, "target", tokens, steps[rows])

    return lambda rows: {"text": tf.constant(take(texts, rows))}, usual


def captioning(served: Any, run: Path, model: keras.Model) -> tuple[Callable[[int], dict[str, Any]], Request]:
    images = [example.image.read() for example in load_captions("embedded").splits["test"][:32]]
    config = json.loads((run / "config.json").read_text())["config"]
    backbone = keras.saving.load_model(run / "frozen_backbone.keras") if (run / "frozen_backbone.keras").exists() else None
    encoder = ImageEncoder(backbone, None, "", True)
    words = served.signatures["serving_default"](image_bytes=tf.constant(images))["words"].shape[1]

    def usual(rows: int) -> Any:
        pixels, _ = decode_images(tf.constant(take(images, rows)), config["image_size"], config["max_pixels"])
        tokens = np.full((rows, 1), BOS, "int32")
        return write_with_predict(model, {"image": encoder.encode_image(pixels).numpy()}, "caption", tokens, int(words) + 1)

    return lambda rows: {"image_bytes": tf.constant(take(images, rows))}, usual


def music(served: Any, run: Path, model: keras.Model) -> tuple[Callable[[int], dict[str, Any]], Request]:
    vocabulary, length = TuneVocabulary.load(run), 64
    prompt = "M:6/8\nL:1/8\nK:Dmaj\n"
    opening = vocabulary.encode(tf.constant([prompt])).to_tensor().numpy()

    def usual(rows: int) -> Any:
        tokens = np.repeat(np.concatenate([[[BOS]], opening], axis=1).astype("int32"), rows, axis=0)
        return write_with_predict(model, {}, "tokens", tokens, length)

    def inputs(rows: int) -> dict[str, Any]:
        sampling = {"temperature": tf.constant(1.0), "top_p": tf.constant(0.95), "seed": tf.constant(range(rows))}
        return {"prompt": tf.constant([prompt] * rows), "max_new_tokens": tf.constant(length), **sampling}

    return inputs, usual


def language(served: Any, run: Path, model: keras.Model) -> tuple[Callable[[int], dict[str, Any]], Request]:
    vocabulary, length, prompt = load_vocabulary(run), 32, "the food was"
    opening = vocabulary.encode(tf.constant([prompt])).to_tensor().numpy()

    def usual(rows: int) -> Any:
        tokens = np.repeat(np.concatenate([[[EOS]], opening], axis=1).astype("int32"), rows, axis=0)
        return write_with_predict(model, {}, "tokens", tokens, length)

    def inputs(rows: int) -> dict[str, Any]:
        sampling = {"temperature": tf.constant(1.0), "top_p": tf.constant(0.95), "top_k": tf.constant(0)}
        sampling |= {"seed": tf.constant(range(rows))}
        return {"prompt": tf.constant([prompt] * rows), "max_new_tokens": tf.constant(length), **sampling}

    return inputs, usual


APPLICATIONS = {
    "sentiment_classification": sentiment,
    "translation": translation,
    "image_captioning": captioning,
    "music_generation": music,
    "language_model": language,
}


def newest_run(folder: Path) -> Path:
    """The folder itself if it is a run, else the newest below it."""
    return folder if (folder / "model.keras").exists() else max(folder.glob("*/model.keras")).parent


def start_up(folder: Path, inputs: dict[str, Any]) -> dict[str, float]:
    newest = newest_version(folder)
    assert newest is not None
    begun = time.perf_counter()
    served = load_export(newest)
    loaded = time.perf_counter()
    served.signatures["serving_default"](**inputs)
    size = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
    return {"megabytes": size / 1e6, "load_s": loaded - begun, "first_answer_s": time.perf_counter() - loaded}


def measure(saved_models: Path, runs: Path, seconds: float) -> dict[str, Any]:
    results = {}
    for application, prepare in APPLICATIONS.items():
        export, run = saved_models / application, newest_run(runs / application)
        importlib.import_module(f"apps.{application}.export")  # registers what the file holds
        served, model = load_export(export), load_model(run)
        inputs, usual = prepare(served, run, model)
        ways = {name: signature(served, name, inputs) for name in ("serving_default", "serving_greedy")}
        found: dict[str, Any] = {"start": start_up(export, inputs(1))}
        for rows in BATCHES:
            for name, way in ways.items():
                for clients in CLIENTS:
                    found[f"{name}, {rows} rows, {clients} clients"] = timed(way, rows, clients, seconds)
            found[f"usual, {rows} rows, 1 clients"] = timed(usual, rows, 1, seconds)
        results[application] = found
        print(table({application: found}), flush=True)
    return results


def table(results: dict[str, Any]) -> str:
    lines = []
    for application, found in results.items():
        start = found["start"]
        lines += [
            f"**{application}**: {start['megabytes']:.1f} MB, loads in {start['load_s']:.1f} s, "
            f"first answer {start['first_answer_s']:.1f} s later",
            "",
            "| rows | way | p50 ms | p99 ms | rows/s | 4 clients: p50 | p99 | rows/s | p50 faster than the usual way by |",
            "|--:|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for rows in BATCHES:
            usual = found[f"usual, {rows} rows, 1 clients"]
            for name in ("serving_default", "serving_greedy"):
                one, four = (found[f"{name}, {rows} rows, {clients} clients"] for clients in CLIENTS)
                lines.append(f"| {rows} | `{name}` | {cells(one)} | {cells(four)} | {usual['p50'] / one['p50']:.1f} |")
            lines.append(f"| {rows} | usual | {cells(usual)} | | | | |")
        lines.append("")
    return "\n".join(lines)


def cells(found: dict[str, float]) -> str:
    return f"{found['p50']:.1f} | {found['p99']:.1f} | {found['rows_per_second']:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.serving", allow_abbrev=False)
    parser.add_argument("--saved-models", type=Path, default=Path("saved_models"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--save", default="benchmarks/results/serving", help="writes .json and .md")
    arguments = parser.parse_args()
    results = measure(arguments.saved_models, arguments.runs, arguments.seconds)
    ratios = [
        found[f"usual, {rows} rows, 1 clients"]["p50"] / found[f"serving_greedy, {rows} rows, 1 clients"]["p50"]
        for found in results.values()
        for rows in BATCHES
    ]
    text = f"{os.cpu_count()} cores, TensorFlow {tf.__version__}, Keras {keras.__version__}\n\n{table(results)}"
    print(f"serving_greedy over the usual way, median: {statistics.median(ratios):.1f}")
    save(arguments.save, text, results)


if __name__ == "__main__":
    main()
