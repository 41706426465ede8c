"""Damaged and hostile input: each format and each exported signature is given thousands of broken inputs.

    python -m benchmarks.fuzz [--inputs 20000] [--formats ...] [--seed 0] [--save benchmarks/results/fuzz]

An input is a valid file with bytes flipped, cut out, doubled, put in or taken from another place, or (for texts) lines and
columns moved. Allowed is that it is taken, and then everything in it is used or reported; or that it is refused by `DataError`
(by the `error` output of the captioning signature). Anything else is printed and counts as a failure: another exception, more
than ten seconds, more than 2 GB.
"""

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import resource
import signal
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from apps.applications import APPLICATIONS
from apps.common.cli import table
from apps.common.export.saved_model import load_export
from apps.common.training.checkpoint_files import read_checkpoint
from apps.common.training.checkpoints import Checkpoint
from benchmarks.saving import save
from data_pipelines.abc import read_tunes
from data_pipelines.captions import load_captions
from data_pipelines.embedded.scenes import embedded_scenes
from data_pipelines.images import decode_images
from data_pipelines.piano_rolls import load_rolls, midi_bytes
from data_pipelines.reviews import load_reviews
from data_pipelines.sources import DataError
from data_pipelines.translations import load_translations
from data_pipelines.tunes import load_tunes
from data_pipelines.vectors import fill_vectors

SECONDS, MEGABYTES = 10, 2048
Check = Callable[[bytes], str]  # "taken" or "refused"
HOSTILE = [b"\0", b"\xff", b"\xef\xbb\xbf", b"\x1b[2J", b"\t", b"\n", b"\r", b'"', b"%s{0}", b"../../x", b"\xe2\x80\xae"]
HOSTILE += [
    b"9" * 40,
    b"-1",
    b"\xff\xff\xff",
    b"\xff\xd0",
    b"!\xfe\x01a\0",
    b",\0\0\0\0\xff\x7f\xff\x7f\0",
    b"\xff\xe1\0\x0aExif\0\0",
]
PIXELS = 1_000_000


def corrupt(data: bytes, generator: random.Random) -> bytes:
    """A copy with one to four accidents."""
    out = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4))):
        at, length = generator.randrange(len(out) + 1), generator.choice((1, 1, 4, 64))
        kind = generator.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = out[at : at + length]
        elif kind == 3:
            out[at:at] = generator.choice(HOSTILE)
        elif kind == 4:
            out[at : at + length] = generator.randbytes(length)
        else:
            out = out[:at]
    return bytes(out)


class TooSlow(Exception):
    """An input took too long."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooSlow(f"more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- formats: (a valid input, what is done with a broken one)


def loaded(name: str, load: Callable[[str], Any], folder: Path) -> Check:
    def check(data: bytes) -> str:
        path = folder / name
        path.write_bytes(data)
        try:
            load(str(path))
        except DataError as error:
            assert "\n" not in str(error), f"more than one line: {error}"
            return "refused"
        return "taken"

    return check


def tsv(folder: Path) -> tuple[bytes, Check]:
    rows = [f"the {w} was {'good' if i % 2 else 'bad'}\t{'yes' if i % 2 else 'no'}" for i, w in enumerate(["food", "room"] * 12)]

    def load(path: str) -> None:
        reviews = load_reviews(path)
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")[1:]
        used = sum(map(len, reviews.splits.values()))
        assert used == sum(line.rstrip("\r") != "" for line in lines), "rows were lost"

    return "\n".join(["text\tlabel", *rows]).encode(), loaded("reviews.tsv", load, folder)


def csv_gz(folder: Path) -> tuple[bytes, Check]:
    text = "text,label\n" + "".join(f'"well, it was ""{i}""",{"ab"[i % 2]}\n' for i in range(30))
    return gzip.compress(text.encode()), loaded("reviews.csv.gz", load_reviews, folder)


def parallel(folder: Path) -> tuple[bytes, Check]:
    text = "source\ttarget\n" + "".join(f"a house {i}\tein Haus {i}\n" for i in range(30))
    return text.encode(), loaded("pairs.tsv", lambda path: load_translations(path, "source", "target"), folder)


def jsonl(folder: Path) -> tuple[bytes, Check]:
    text = "".join(f'{{"text": "it was \\u00e9 {i}", "label": "{"ab"[i % 2]}"}}\n' for i in range(30))
    return text.encode(), loaded("reviews.jsonl", load_reviews, folder)


def parquet(folder: Path) -> tuple[bytes, Check]:
    import pyarrow
    import pyarrow.parquet

    content = io.BytesIO()
    table = pyarrow.table({"text": [f"it was {i}" for i in range(30)], "label": ["a", "b"] * 15})
    pyarrow.parquet.write_table(table, content)
    return content.getvalue(), loaded("reviews.parquet", load_reviews, folder)


def coco(folder: Path) -> tuple[bytes, Check]:
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(12)]
    for item in images:
        (folder / str(item["file_name"])).write_bytes(b"")
    captions = [{"image_id": i, "caption": "a picture"} for i in range(12)]
    text = json.dumps({"images": images, "annotations": captions}, indent=0)
    return text.encode(), loaded("captions_train2017.json", load_captions, folder)


def image_zip(folder: Path) -> tuple[bytes, Check]:
    names, content = [f"image{i}.png" for i in range(12)], io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, scene in zip(names, embedded_scenes()["validation"]):
            archive.writestr(f"images/{name}", scene.png()[:400])
    (folder / "captions.tsv").write_text("image\tcaption\n" + "".join(f"{name}\ta picture\n" for name in names))

    def check(data: bytes) -> str:
        (folder / "images.zip").write_bytes(data)
        try:
            captions = load_captions(str(folder))
        except DataError:
            return "refused"
        used = {example.image.name for part in captions.splits.values() for example in part}
        reported = {item.name for item in captions.skipped}
        assert used | reported >= set(names), "images were lost"
        for part in captions.splits.values():
            for example in part:
                with contextlib.suppress(OSError):  # reported with its reason
                    example.image.read()
        return "taken"

    return content.getvalue(), check


def image(suffix: str) -> Callable[[Path], tuple[bytes, Check]]:
    def make(folder: Path) -> tuple[bytes, Check]:
        pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3)).astype(np.uint8)
        file = io.BytesIO()
        more = {"save_all": True, "append_images": [Image.fromarray(255 - pixels)]} if suffix == "gif" else {}
        Image.fromarray(pixels).save(file, suffix, **more)
        data = file.getvalue()
        decode = tf.function(
            lambda data: decode_images(data, 16, PIXELS), input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
        )

        def check(data: bytes) -> str:
            decoded, problems = decode(tf.constant([data]))
            assert decoded.shape == (1, 16, 16, 3)
            if problems.numpy()[0]:
                return "refused"
            with contextlib.suppress(Exception):  # what Pillow can't open has no size
                width, height = Image.open(io.BytesIO(data)).size
                assert width * height <= PIXELS, f"{width} x {height} pixels were decoded"
            return "taken"

        return data, check

    return make


def checkpoint(folder: Path) -> tuple[bytes, Check]:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    saved = Checkpoint(folder, "val_loss")
    saved.save_before_training(model)
    content = next(folder.glob("step-*.npz")).read_bytes()[:-32]

    def check(data: bytes) -> str:
        (folder / "broken.npz").write_bytes(data + hashlib.sha256(data).digest())  # its checksum is right
        try:
            read_checkpoint(folder / "broken.npz")
        except Exception:  # what `restore` passes over
            return "refused"
        return "taken"

    return content, check


def abc(folder: Path) -> tuple[bytes, Check]:
    bars = "|".join("d2e fdA" for _ in range(4))
    text = "".join(f"X:{i}\nT:Tune {i}\nM:6/8\nL:1/8\nK:D\n{bars}|\n\n" for i in range(1, 13))
    check = loaded("tunes.abc", load_tunes, folder)

    def counted(data: bytes) -> str:
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode()
            tunes, problems = read_tunes(text)
            starts = sum(line.startswith("X:") for line in text.splitlines())
            assert len(tunes) + len(problems) >= min(starts, 1), "tunes were lost"
        return check(data)

    return text.encode(), counted


def midi(folder: Path) -> tuple[bytes, Check]:
    frames = np.random.default_rng(0).integers(0, 8, (40, 88)) == 0
    for name in ("train/other.mid", "valid/other.mid", "test/other.mid"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(midi_bytes(frames[:8]))

    def check(data: bytes) -> str:
        (folder / "train" / "piece.mid").write_bytes(data)
        rolls = load_rolls(str(folder))
        assert len(rolls.splits["train"]) + len(rolls.skipped) == 2, "a piece was lost"
        return "refused" if rolls.skipped else "taken"

    return midi_bytes(frames), check


def musicxml(folder: Path) -> tuple[bytes, Check]:
    note = "<note><pitch><step>{}</step><octave>4</octave></pitch><duration>1</duration></note>"
    bar = "<measure><attributes><divisions>1</divisions></attributes>" + "".join(map(note.format, "CDEF")) + "</measure>"
    parts = '<part-list><score-part id="P"><part-name/></score-part></part-list>'
    content = f'<score-partwise>{parts}<part id="P">{bar}</part></score-partwise>'.encode()
    for name in ("train/other.musicxml", "valid/other.musicxml"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(content)

    def check(data: bytes) -> str:
        (folder / "train" / "piece.musicxml").write_bytes(data)
        rolls = load_rolls(str(folder))
        assert len(rolls.splits["train"]) + len(rolls.skipped) == 2, "a piece was lost"
        return "refused" if rolls.skipped else "taken"

    return content, check


def vectors(folder: Path) -> tuple[bytes, Check]:
    words = [f"word{i}" for i in range(20)]
    text = "".join(f"{word} 0.5 -1.25 1e-3\n" for word in words)
    return text.encode(), loaded("vectors.txt", lambda path: fill_vectors(path, words, np.zeros((20, 3))), folder)


def npz(folder: Path) -> tuple[bytes, Check]:
    content = io.BytesIO()
    np.savez_compressed(content, frames=np.ones((60, 88), np.uint8), lengths=np.full(20, 3))
    return content.getvalue(), loaded("rolls.npz", load_rolls, folder)


FORMATS = {
    "reviews .tsv": tsv,
    "reviews .csv.gz": csv_gz,
    "sentence pairs .tsv": parallel,
    "reviews .jsonl": jsonl,
    "reviews .parquet": parquet,
    "captions .json": coco,
    "images .zip": image_zip,
    "image .png": image("png"),
    "image .jpg": image("jpeg"),
    "image .gif": image("gif"),
    "image .webp": image("webp"),
    "checkpoint .npz": checkpoint,
    "tunes .abc": abc,
    "music .mid": midi,
    "music .musicxml": musicxml,
    "rolls .npz": npz,
    "vectors .txt": vectors,
}


def string_input(served: Any) -> tuple[str, bytes, Check]:
    """The string input of an exported signature, a valid value of it, and a check; numbers are what the README's client sends."""
    function = served.signatures["serving_default"]
    numbers = {"max_new_tokens": 12, "temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 1}
    specs = function.structured_input_signature[1]
    name = next(name for name, spec in specs.items() if spec.dtype == tf.string)
    seeds = {"text": b"the food was good , not bad at all .", "prompt": b"M:6/8\nL:1/8\nK:D\nd2e fdA|"}
    if name == "image_bytes":
        seeds[name] = image("png")(Path())[0]

    def check(data: bytes) -> str:
        inputs = {k: tf.fill([1], tf.cast(numbers[k], spec.dtype)) for k, spec in specs.items() if k in numbers}
        outputs = function(**{name: tf.constant([data]), **inputs})
        assert all(value.shape[0] == 1 for value in outputs.values())
        for key in ("probability", "score"):
            assert key not in outputs or np.isfinite(outputs[key].numpy()).all(), f"{key} is not finite"
        return "refused" if "error" in outputs and outputs["error"].numpy()[0] else "taken"

    return name, seeds[name], check


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(seed: bytes, check: Check, inputs: int, generator: random.Random) -> tuple[Counter, list[str]]:
    """What became of the inputs, and what went wrong."""
    outcomes: Counter = Counter()
    failures: list[str] = []
    before = peak_mb()  # of whatever this process did so far
    for _ in range(inputs):
        data = corrupt(seed, generator)
        try:
            with time_limit():
                outcomes[check(data)] += 1
        except Exception as error:  # this is what is looked for
            outcomes["failed"] += 1
            failures.append(f"{type(error).__name__}: {str(error)[:300]} <- {data[:120]!r}")
    if peak_mb() - before > MEGABYTES:
        failures.append(f"{peak_mb() - before:,.0f} MB of memory more than before")
    return outcomes, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--saved-models", type=Path, help="a folder of exports, the signatures of which are given broken input, too"
    )
    parser.add_argument("--save")
    options = parser.parse_args()
    rows, failed = [], []
    makers = {name: FORMATS[name] for name in options.formats}
    if options.saved_models:
        for application in APPLICATIONS:
            name, *maker = string_input(load_export(options.saved_models / application))
            makers[f"{application} {name}"] = lambda folder, maker=maker: maker
    for name, make in makers.items():
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            seed, check = make(Path(folder))
            assert check(seed) == "taken"
            outcomes, failures = fuzz(seed, check, options.inputs, random.Random(options.seed))
        failed += [f"{name}: {failure}" for failure in failures]
        rows.append([name, *(f"{outcomes[k]:,}" for k in ("taken", "refused", "failed")), f"{time.monotonic() - begun:.0f}"])
        print(*failures[:5], sep="\n")
    report = table(rows, ["format", "taken", "refused", "failed", "seconds"])
    save(options.save, report, {"rows": rows, "failures": failed})


if __name__ == "__main__":
    main()
