"""The largest request that each signature of each export lets through, and the one just beyond: bytes, seconds, memory.

    python -m benchmarks.requests [--models saved_models] [--only translation] [--save benchmarks/results/requests]

Without `--models` the exports have the sizes of the applications' default settings and random weights, which seldom end a
sentence before its limit: no trained model works longer. Each request is sent in a process of its own, after a small one;
counted is what it takes beyond that. One that takes more than `SECONDS` or `MEGABYTES`, an error where an answer is due and an
answer where an error is due are failures. Linux only.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from PIL import Image

from apps.common import cli
from apps.common.decoding.sequences import LARGEST_TEXTS
from apps.common.export.saved_model import load_export
from apps.image_captioning import config as captioning_config
from apps.image_captioning import serving as captioning
from apps.language_model import serving as language
from apps.language_model.config import Config as LanguageConfig
from apps.music_generation.config import RollConfig, TuneConfig
from apps.music_generation.rolls import serving as rolls
from apps.music_generation.tunes import bar_attention
from apps.music_generation.tunes import serving as tunes
from apps.sentiment_classification import config as sentiment_config
from apps.sentiment_classification import serving as sentiment
from apps.translation import config as translation_config
from apps.translation import serving as translation
from benchmarks.memory import peak, reset_peak
from benchmarks.saving import save
from benchmarks.untrained import MAKERS, make_export, words
from data_pipelines.image_headers import MOST_BLOCKS
from data_pipelines.images import LARGEST_IN_PARALLEL

SECONDS, MEGABYTES = 60, 4096
START_SECONDS = 60  # to load TensorFlow and the export, on a busy machine
Inputs = dict[str, Any]


# -- requests: name -> signatures, inputs, whether an answer is due


def picture(form: str, pixels: int) -> bytes:
    """One of a single colour, which is the smallest file for its pixels."""
    side = int(pixels**0.5)
    if form == "PNG":  # 16 bits of four channels
        rows = zlib.compressobj(9)
        data = b"".join(rows.compress(bytes(1 + 8 * side)) for _ in range(side)) + rows.flush()
        chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
        whole = [struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks]
        return b"\x89PNG\r\n\x1a\n" + b"".join(whole)
    file = io.BytesIO()
    Image.new("L" if form == "GIF" else "CMYK", (side, side)).save(
        file, form, **({"progressive": True} if form == "JPEG" else {})
    )
    return file.getvalue()


def many_blocks() -> bytes:
    """A GIF with as many blocks as are read."""
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "GIF")
    data = file.getvalue()
    return data[:-1] + (MOST_BLOCKS // 3 - 9) * b"\x21\xfe\x01a\0" + data[-1:]


class Case(NamedTuple):
    """A request to some signatures of an application, and whether it is due an answer or an error."""

    application: str
    signatures: tuple[str, ...]
    name: str
    inputs: Callable[[], Inputs]
    answered: bool = True


def sentiment_cases() -> Iterator[Case]:
    length = sentiment_config.Config.max_length
    rows, most = sentiment.LARGEST_REQUEST // length, sentiment.LARGEST_REQUEST // sentiment.LEAST_ROW
    long = " ".join(words(length))
    case = partial(Case, "sentiment_classification", ("serving_default", "serving_greedy"))
    yield case("the longest text", lambda: {"text": ["a " * (LARGEST_TEXTS // 2)]})
    yield case("most long texts", lambda: {"text": [long] * rows})
    yield case("most empty texts", lambda: {"text": [""] * most})
    yield case("a byte more", lambda: {"text": ["a " * (LARGEST_TEXTS // 2) + "a"]}, False)
    yield case("a long text more", lambda: {"text": [long] * (rows + 1)}, False)
    yield case("an empty text more", lambda: {"text": [""] * (most + 1)}, False)


def translation_cases() -> Iterator[Case]:
    length = translation_config.Config.max_length
    rows, most = translation.LARGEST_REQUEST // length, translation.LARGEST_REQUEST // translation.LEAST_ROW
    long = "\u4e00 " * length  # of characters that the vocabulary has not
    case = partial(Case, "translation", ("serving_default", "serving_greedy"))
    yield case("the longest text", lambda: {"text": ["a. " * (LARGEST_TEXTS // 3)]})
    yield case("the longest word", lambda: {"text": ["a" * LARGEST_TEXTS]})
    yield case("most long texts", lambda: {"text": [long] * rows})
    yield case("most short texts", lambda: {"text": ["a"] * most})
    yield case("a byte more", lambda: {"text": ["a" * (LARGEST_TEXTS + 1)]}, False)
    yield case("a long text more", lambda: {"text": [long] * (rows + 1)}, False)
    yield case("a short text more", lambda: {"text": ["a"] * (most + 1)}, False)


def captioning_cases() -> Iterator[Case]:
    pixels, most = captioning_config.Config.max_pixels, captioning.MOST_PICTURES
    case = partial(Case, "image_captioning", ("serving_default", "serving_greedy"))
    for form in ("PNG", "JPEG", "GIF"):
        yield case(f"the largest {form}", lambda form=form: {"image_bytes": [picture(form, pixels)]})
    largest = captioning.MOST_LARGEST
    yield case("most of the largest PNGs", lambda: {"image_bytes": [picture("PNG", pixels)] * largest})
    yield case("most pictures", lambda: {"image_bytes": [picture("PNG", LARGEST_IN_PARALLEL)] * most})
    yield case("most of the GIFs of most blocks", lambda: {"image_bytes": [many_blocks()] * most})
    for form in ("PNG", "JPEG", "GIF"):
        yield case(f"a larger {form}", lambda form=form: {"image_bytes": [picture(form, 2 * pixels)]}, False)
    yield case("a largest PNG more", lambda: {"image_bytes": [picture("PNG", pixels)] * (largest + 1)}, False)
    yield case("a picture more", lambda: {"image_bytes": [captioning.example_image()] * (most + 1)}, False)


def tune_cases() -> Iterator[Case]:
    limit = TuneConfig.max_length
    prompt = tunes.PROMPT_LIMIT * limit
    numbers = {"max_new_tokens": 10**9, "temperature": 1.0, "top_p": 0.95, "seed": 1}
    header = "M:6/8\nL:1/8\nK:Dmaj\n"
    rows, most = tunes.LARGEST_REQUEST // (prompt + limit + 2), tunes.LARGEST_REQUEST // (len(header) + limit + 2)
    case = partial(Case, "music_generation", ("serving_default", "serving_greedy", "constrained"))

    def long(more: int = 0) -> str:
        return (header + "d2e fdA|" * prompt)[: prompt + more]

    yield case("the longest prompt", lambda: {"prompt": [long()], **numbers})
    yield case("most long prompts", lambda: {"prompt": [long()] * rows, **numbers})
    yield case("most short prompts", lambda: {"prompt": [header] * most, **numbers})
    yield case("a longer prompt, which comes back", lambda: {"prompt": ["a" * LARGEST_TEXTS], **numbers})
    yield case("a long prompt more", lambda: {"prompt": [long()] * (rows + 1), **numbers}, False)
    yield case("a short prompt more", lambda: {"prompt": [header] * (most + 1), **numbers}, False)
    size = TuneConfig.num_layers * 2 * TuneConfig.units + TuneConfig.attention_length * (bar_attention.SIZE + 3)
    case = partial(Case, "music_generation", ("decode_step",))
    parts = tunes.LARGEST_REQUEST // prompt

    def state(rows: int) -> Inputs:
        return {"state": np.ones((rows, size), np.float32), **numbers}

    yield case("most long texts", lambda: {"text": [long()] * parts, **state(parts)})
    yield case("a long text more", lambda: {"text": [long()] * (parts + 1), **state(parts + 1)}, False)
    yield case("a longer text", lambda: {"text": [long(1)], **state(1)}, False)
    case = partial(Case, "music_generation", ("score",))
    whole = tunes.LARGEST_REQUEST // (tunes.SCORE_LIMIT + 2)
    short = tunes.LARGEST_REQUEST // tunes.LEAST_ROW
    yield case("the longest tune", lambda: {"text": ["d" * tunes.SCORE_LIMIT] * whole})
    yield case("most empty tunes", lambda: {"text": [""] * short})
    yield case("a longer tune", lambda: {"text": ["d" * (tunes.SCORE_LIMIT + 1)]}, False)
    yield case("a tune more", lambda: {"text": ["d" * tunes.SCORE_LIMIT] * (whole + 1)}, False)
    yield case("an empty tune more", lambda: {"text": [""] * (short + 1)}, False)


def roll_cases() -> Iterator[Case]:
    new, most, longest = RollConfig.max_length, rolls.LARGEST_REQUEST, rolls.FRAMES_LIMIT
    numbers = {"new_frames": 10**9, "temperature": 1.0, "seed": 1}

    def roll(rows: int, time: int) -> Inputs:
        frames = np.ones((rows, time, rolls.KEYS), np.uint8)
        return {"frames": frames, "lengths": np.full(rows, time), **numbers}

    case = partial(Case, "piano_rolls", ("serving_default", "serving_greedy"))
    yield case("the longest piece", lambda: roll(1, longest))
    yield case("most empty pieces", lambda: roll(most // new, 0))
    yield case("a frame more", lambda: roll(1, longest + 1), False)
    yield case("an empty piece more", lambda: roll(most // new + 1, 0), False)
    yield case("a million empty pieces", lambda: roll(10**6, 0), False)
    case = partial(Case, "piano_rolls", ("score",))
    yield case("the longest piece", lambda: roll(1, longest))
    yield case("most short pieces", lambda: roll(most, 1))
    yield case("a frame more", lambda: roll(1, longest + 1), False)
    yield case("a short piece more", lambda: roll(most + 1, 1), False)


def language_cases() -> Iterator[Case]:
    limit, largest = LanguageConfig.max_length, language.LARGEST_REQUEST
    numbers = {"max_new_tokens": 10**9, "temperature": 1.0, "top_p": 0.95, "top_k": 0, "seed": 1}
    longest, rows = largest - limit - 1, largest // (limit + 2)  # a prompt begins with EOS
    case = partial(Case, "language_model", ("serving_default", "serving_greedy"))
    yield case("the longest prompt", lambda: {"prompt": ["a " * longest], **numbers})
    yield case("most short prompts", lambda: {"prompt": ["a"] * rows, **numbers})
    yield case("a longer prompt", lambda: {"prompt": ["a " * (longest + 1)], **numbers}, False)
    yield case("a short prompt more", lambda: {"prompt": ["a"] * (rows + 1), **numbers}, False)
    size = 2 * LanguageConfig.num_layers * LanguageConfig.units + LanguageConfig.embedding_size
    most = largest // language.LEAST_ROW

    def parts(rows: int, text: str = "a") -> Inputs:
        return {"text": [text] * rows, "prompt": [text] * rows, "count": 10**9, "state": np.ones((rows, size)), **numbers}

    case = partial(Case, "language_model", ("decode_step", "next_tokens"))
    yield case("most short texts", lambda: parts(most))
    yield case("a short text more", lambda: parts(most + 1), False)
    case = partial(Case, "language_model", ("score", "score_step"))
    yield case("the longest text", lambda: parts(1, "a " * largest))
    yield case("most empty texts", lambda: parts(largest, ""))
    yield case("a longer text", lambda: parts(1, "a " * (largest + 1)), False)
    yield case("an empty text more", lambda: parts(largest + 1, ""), False)


def cases() -> list[Case]:
    applications = (sentiment_cases, translation_cases, captioning_cases, tune_cases, roll_cases, language_cases)
    return [case for of_one in applications for case in of_one()]


SMALL: dict[str, Inputs] = {
    "text": ["a small dog"],
    "image_bytes": [captioning.example_image()],
    "prompt": [""],
    "max_new_tokens": 2,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "count": 2,
    "seed": 1,
    "frames": np.zeros((1, 1, rolls.KEYS)),
    "lengths": [1],
    "new_frames": 1,
}


# -- sending


def send(models: Path, signature: str, requests: list[Case]) -> list[dict[str, Any]]:
    """What became of each request, in this process."""
    function = load_export(models / requests[0].application).signatures[signature]
    specs = function.structured_input_signature[1]

    def ask(inputs: Inputs) -> tuple[int, Callable[[], dict[str, tf.Tensor]]]:
        values = {name: tf.constant(inputs[name], spec.dtype) for name, spec in specs.items()}
        sizes = [
            tf.reduce_sum(tf.strings.length(v)) if v.dtype == tf.string else v.dtype.size * tf.size(v) for v in values.values()
        ]
        return int(sum(int(size) for size in sizes)), lambda: function(**values)

    state = {name: np.zeros((1, spec.shape[1])) for name, spec in specs.items() if name == "state"}
    ask({**SMALL, **state})[1]()
    return [measured(*ask(case.inputs())) for case in requests]


def measured(size: int, request: Callable[[], dict[str, tf.Tensor]]) -> dict[str, Any]:
    before, begun, told = reset_peak(), time.monotonic(), "an answer"
    try:
        outputs = request()
        problems = [text for text in outputs["error"].numpy() if text] if "error" in outputs else []
        told = problems[0].decode() if problems else told
    except tf.errors.InvalidArgumentError as error:
        told = next(line for line in str(error).splitlines() if "expected" in line).strip()
    return {"bytes": size, "seconds": time.monotonic() - begun, "megabytes": peak() - before, "told": told}


def watched(line: list[str], count: int) -> list[dict[str, Any]]:
    """What `send` found in a process of its own, which is ended if it takes too long or too much."""
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        begun, largest, told = time.monotonic(), 0.0, ""
        while process.poll() is None:
            time.sleep(0.1)
            with contextlib.suppress(OSError, ValueError):
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                largest = max(largest, pages * resource.getpagesize() / 2**20)
            if largest > 2 * MEGABYTES or time.monotonic() - begun > START_SECONDS + 2 * SECONDS:
                process.kill()
                told = "nothing: it was ended"
        assert process.stdout and process.stderr
        out, err = process.communicate()
    if process.returncode:
        told = told or err.strip().splitlines()[-1][:200]
        return [{"bytes": 0, "seconds": time.monotonic() - begun, "megabytes": largest, "told": told}] * count
    return json.loads(out.splitlines()[-1])


def failure(case: Case, found: dict[str, Any]) -> str:
    if found["seconds"] > SECONDS:
        return "too long"
    if found["megabytes"] > MEGABYTES:
        return "too much memory"
    return "" if (found["told"] == "an answer") == case.answered else "not what is due"


def jobs(wanted: list[bool]) -> Iterator[tuple[str, str, list[int]]]:
    """Application, signature and numbers of the cases that share a process: those due an error do, at one signature."""
    errors: dict[tuple[str, str], list[int]] = {}
    for number, (case, is_wanted) in enumerate(zip(cases(), wanted)):
        if is_wanted and case.answered:
            yield from ((case.application, signature, [number]) for signature in case.signatures)
        elif is_wanted:
            errors.setdefault((case.application, case.signatures[0]), []).append(number)
    yield from ((application, signature, numbers) for (application, signature), numbers in errors.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="a folder of exports; default: made here")
    parser.add_argument("--only", choices=MAKERS, nargs="+", default=list(MAKERS))
    parser.add_argument("--save")
    parser.add_argument("--send", nargs="+", help=argparse.SUPPRESS)  # a signature and the numbers of cases
    options = parser.parse_args()
    if options.send:
        signature, *numbers = options.send
        print(json.dumps(send(options.models, signature, [cases()[int(number)] for number in numbers])))
        return
    with tempfile.TemporaryDirectory() as folder:
        models = options.models or Path(folder)
        for application in options.only:
            if not options.models:
                make_export(application, models)
        rows, all_found = [], []
        for application, signature, numbers in jobs([case.application in options.only for case in cases()]):
            line = [sys.executable, "-m", "benchmarks.requests", "--models", str(models), "--send", signature, *map(str, numbers)]
            for number, found in zip(numbers, watched(line, len(numbers))):
                case = cases()[number]
                wrong = failure(case, found)
                told = "answer" if found["told"] == "an answer" else "error"
                all_found.append(
                    {"application": application, "signature": signature, "request": case.name, **found, "failure": wrong}
                )
                row = [f"{found['bytes']:,}", f"{found['seconds']:.1f}", f"{found['megabytes']:,.0f}", wrong or told]
                rows.append([f"{application} {signature}: {case.name}", *row])
                print(*rows[-1], found["told"], sep="  ", flush=True)
    report = cli.table(rows, ["request", "bytes", "seconds", "MB", ""])
    save(options.save, f"{os.cpu_count()} cores, TensorFlow {tf.__version__}\n\n{report}", all_found)


if __name__ == "__main__":
    main()
