"""Data larger than memory: what preparing costs, and how soon and how fast prepared data are read.

    python -m benchmarks.data --pairs 1000000 [--save benchmarks/results/data]
    python -m benchmarks.data --passages 200000 [--save benchmarks/results/passages]
    python -m benchmarks.data --pictures 10000000

The corpus is made of invented words by Zipf's law, about 130 bytes a pair, in a temporary folder, and removed. Each part runs
in a process of its own: preparing by the command, with the peak of the memory of all its processes; the first batch at step 0 and
at step 123,456 of epoch 7; reading as fast as nothing else is done, by one process and by several; training steps of the
translator's default model, and which share of their time they wait for data. Reading single rows in random order from these
shards and from ArrayRecord, if that is installed. `--save` draws the tokens a second over the number of readers, too.

With `--passages`: documents of about 1,500 bytes for a language model, prepared, and read as streams.

`--pictures` prepares 1,000 drawn pictures under 20 names each, with five captions a name, and takes this shard, by hard links, as
often as makes so many pictures. Then, each in a process of its own: the order alone; the store, which looks at every picture, and
when a mark in it tells that all are there; the first batch at both steps.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.saving import save
from data_pipelines.prepared import sha256_of

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
EPOCH, STEP = 7, 123_456
ROWS = 200_000  # read one by one
MOST_RECORDS = 2_000_000  # that are written for the comparison


class InventedText:
    """Texts of invented words by Zipf's law."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        letters = np.array(list("etaoinshrdlucmfwypvbgk"))
        self.words = np.array(["".join(self.rng.choice(letters, n)) for n in 1 + self.rng.poisson(4.2, 30_000)])
        self.chances = np.cumsum(1 / np.arange(1, 30_001))

    def __call__(self, count: int, log_length: float, longest: int) -> list[str]:
        """So many texts; the logarithm of their lengths has this mean."""
        lengths = np.clip(self.rng.lognormal(log_length, 0.45, count), 1, longest).astype(int)
        drawn = self.words[np.searchsorted(self.chances, self.chances[-1] * self.rng.random(lengths.sum()))]
        return [" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]


def make_pairs(path: Path, pairs: int) -> None:
    """A table of sentences of 1 to 30 words, half of them up to 11."""
    texts = InventedText()
    with path.open("w") as file:
        file.write("en\tde\n")
        for start in range(0, pairs, 10_000):
            sentences = texts(2 * min(10_000, pairs - start), 2.4, 30)
            file.writelines(f"{a}\t{b}\n" for a, b in zip(sentences[::2], sentences[1::2]))


def make_passages(path: Path, passages: int) -> None:
    """A document a line, half of them up to 220 words."""
    texts = InventedText()
    with path.open("w") as file:
        for start in range(0, passages, 1_000):
            file.writelines(f"{text}\n" for text in texts(min(1_000, passages - start), 5.4, 4_000))


def resident(process: int) -> float:
    """Megabytes that a process holds now."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return 0.0


def children(process: int) -> list[int]:
    try:
        found = [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
    return found + [below for one in found for below in children(one)]


def prepare(source: Path, folder: Path, workers: int, *flags: str) -> dict[str, float]:
    """Prepare by the command; seconds, seconds of the processors, and the peak of the memory of its processes."""
    line = [sys.executable, "-m", "data_pipelines.prepare", str(source), "--to", str(folder), "--workers", str(workers), *flags]
    begun, before, peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN), [0.0, 0.0, 0.0]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            own, others = resident(process.pid), [resident(one) for one in children(process.pid)]
            peak = [max(a, b) for a, b in zip(peak, [own, max(others, default=0.0), own + sum(others)])]
            time.sleep(0.2)
    assert process.returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    names = ("first_process_mb", "largest_other_mb", "together_mb")
    return {"seconds": time.perf_counter() - begun, "cpu_seconds": cpu, **dict(zip(names, peak))}


def batches(folder: str, start_step: int) -> Any:
    from data_pipelines.batching import bucket_boundaries
    from data_pipelines.prepared import Prepared
    from data_pipelines.translations import translation_batches

    rows = Prepared.open(folder, "translation").rows
    counts = rows.counts().tolist()
    boundaries = bucket_boundaries(range(len(counts)), 80, 6, multiple=4, counts=counts)
    return translation_batches(rows, max_tokens=1_536, boundaries=boundaries, shuffle_seed=0, start_step=start_step)


def first_batch(folder: str, start: str) -> dict[str, float]:
    """From the modules imported to the first batch; `start` is `0` or `late`."""
    import data_pipelines.translations  # noqa: F401

    begun = time.perf_counter()
    step = EPOCH * batches(folder, 0).steps_per_epoch + STEP if start == "late" else 0
    next(iter(batches(folder, step).dataset))
    return {"seconds": time.perf_counter() - begun, "step": step}


def read(folder: str, seconds: str, seed: str) -> dict[str, float]:
    """Tokens a second, padding not counted, by a consumer that does nothing; and the memory after that."""
    tokens, begun, cpu = 0, time.perf_counter(), time.process_time()
    for count, (inputs, targets) in enumerate(batches(folder, int(seed) * 1_000).dataset):
        if count == 20:
            tokens, begun, cpu = 0, time.perf_counter(), time.process_time()
        tokens += int(np.count_nonzero(inputs["source"])) + int(np.count_nonzero(targets))
        if time.perf_counter() - begun > float(seconds) and count > 20:
            break
    rates = {
        "tokens_a_second": tokens / (time.perf_counter() - begun),
        "tokens_a_cpu_second": tokens / (time.process_time() - cpu),
    }
    return {**rates, "memory_mb": resident(os.getpid())}


def wait_for_data(folder: str, steps: str) -> dict[str, float]:
    """Steps of the translator's default model: tokens a second, and the share of the time that `next` takes."""
    import keras

    from apps.common import cli
    from apps.common.training.losses import TokenLoss
    from apps.translation.config import Config, ModelFlags
    from apps.translation.model import Translator

    model = Translator(6_000, 6_000, joint=True, **cli.flags_of(Config(), ModelFlags))
    model.compile(keras.optimizers.Adam(), TokenLoss(0.1), jit_compile=False)
    iterator, compiled = iter(batches(folder, 0).dataset), set()
    waited = worked = tokens = counted = 0.0
    while counted < int(steps):
        begun = time.perf_counter()
        inputs, targets = next(iterator)
        got = time.perf_counter()
        model.train_on_batch(inputs, targets)
        done = time.perf_counter()
        if targets.shape in compiled:
            waited, worked, counted = waited + got - begun, worked + done - got, counted + 1
            tokens += int(np.count_nonzero(inputs["source"])) + int(np.count_nonzero(targets))
        compiled.add(targets.shape)
    return {"share_waiting": waited / (waited + worked), "tokens_a_second": tokens / (waited + worked)}


def read_rows(folder: str) -> dict[str, float]:
    """Single rows in random order, from the shards and from ArrayRecord with the same ids; rows a second."""
    from data_pipelines.prepared import Prepared

    rows = Prepared.open(folder, "translation").rows
    total = int(rows.counts().sum())
    places = np.random.default_rng(0).integers(0, total, ROWS)
    found = {}

    def rate(name: str, take: Callable[[np.ndarray], Any]) -> None:
        begun, cpu = time.perf_counter(), time.process_time()
        for start in range(0, ROWS, 64):
            take(places[start : start + 64])
        found[f"{name}, rows a second in random order"] = ROWS / (time.perf_counter() - begun)
        found[f"{name}, rows a second of a processor"] = ROWS / (time.process_time() - cpu)

    rate("shards", lambda some: rows.read(0, 80, some))
    if total > MOST_RECORDS:
        return found
    try:
        from array_record.python import array_record_module
    except ImportError:
        return found
    path = Path(folder).parent / "rows.array_record"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for start in range(0, total, 1_000):
        for row in zip(*rows.read(0, 80, np.arange(start, min(start + 1_000, total)))):
            source, target = (side[side > 0].astype(np.uint16) for side in row)
            writer.write(np.uint16(len(source)).tobytes() + source.tobytes() + target.tobytes())
    writer.close()
    reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")
    rate(
        "ArrayRecord",
        lambda some: [np.frombuffer(one, np.uint16) for one in reader.read(some.tolist())],
    )
    found["ArrayRecord, MB"] = path.stat().st_size / 1e6
    path.unlink()
    return found


def streams(folder: str, start_step: int) -> Any:
    from data_pipelines.prepared import Prepared
    from data_pipelines.token_streams import token_streams

    text = Prepared.open(folder, "language_model").text
    return token_streams(text, batch_size=32, steps=70, epochs=1_000, seed=0, start_step=start_step)


def first_chunk(folder: str, start: str) -> dict[str, float]:
    """As `first_batch`; late is in the middle of epoch 7."""
    import data_pipelines.passages  # noqa: F401

    begun = time.perf_counter()
    step = int((EPOCH + 0.5) * streams(folder, 0).steps_per_epoch) if start == "late" else 0
    next(iter(streams(folder, step).dataset))
    return {"seconds": time.perf_counter() - begun, "step": step}


def read_streams(folder: str, seconds: str) -> dict[str, float]:
    """Tokens a second of the streams, by a consumer that does nothing; and the memory after that."""
    tokens, begun, cpu = 0, time.perf_counter(), time.process_time()
    for _, targets in streams(folder, 0).dataset:
        tokens += int(np.count_nonzero(targets))
        if time.perf_counter() - begun > float(seconds):
            break
    rates = {
        "tokens_a_second": tokens / (time.perf_counter() - begun),
        "tokens_a_cpu_second": tokens / (time.process_time() - cpu),
    }
    return {**rates, "memory_mb": resident(os.getpid())}


def make_pictures(folder: Path) -> None:
    """1,000 drawn scenes under 20 names each, with five captions a name."""
    from data_pipelines.embedded.scenes import embedded_scenes

    (folder / "images").mkdir(parents=True)
    with (folder / "captions.tsv").open("w") as table:
        table.write("image\tcaption\n")
        for scene in embedded_scenes(1, 1_000)["validation"]:
            (folder / "images" / scene.name).write_bytes(scene.png())
            for n in range(20):
                (folder / "images" / f"{n}-{scene.name}").hardlink_to(folder / "images" / scene.name)
                table.writelines(f"{n}-{scene.name}\t{caption}\n" for caption in (3 * scene.captions)[:5])


def repeat_shard(folder: Path, pictures: int) -> int:
    """Let a folder of one shard have it as often as makes at least so many pictures; how many these are."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (shard,), train = manifest["shards"], manifest["data"]["train"]
    times = -(-pictures // train["images"])
    names = [f"train-{n:05d}" for n in range(times)]
    for name in names[1:]:
        for file in shard["files"]:
            (folder / file.replace(shard["name"], name)).hardlink_to(folder / file)
    copies = [{**shard, "name": n, "files": {f.replace(shard["name"], n): of for f, of in shard["files"].items()}} for n in names]
    np.save(folder / "lengths.npy", np.repeat(np.load(folder / "lengths.npy"), times, axis=0))
    lengths = {"bytes": (folder / "lengths.npy").stat().st_size, "sha256": sha256_of(folder / "lengths.npy")}
    train |= {"images": times * train["images"], "captions": times * train["captions"]}
    manifest |= {"shards": copies, "rows": times * manifest["rows"], "files": {**manifest["files"], "lengths.npy": lengths}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return train["images"]


def peak_mb() -> float:
    """Megabytes that this process held at most; `getrusage` counts what the process held that started it."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1.024e-3


def caption_order(folder: str) -> dict[str, float]:
    """Without TensorFlow: the manifest read, the files looked at, and the places of the batches of both steps."""
    from data_pipelines.order import BatchOrder
    from data_pipelines.prepared import Prepared

    begun, before = time.perf_counter(), peak_mb()
    counts = Prepared.open(folder, "image_captioning").rows.counts()
    opened = time.perf_counter()
    order = BatchOrder(np.add.reduceat(counts, [0, 9, 13]).tolist(), [64] * 3, seed=0)
    next(order.steps(0))
    first = time.perf_counter()
    next(order.steps(EPOCH * order.steps_per_epoch + STEP))
    late = time.perf_counter() - first
    return {
        "captions": int(counts.sum()),
        "open": opened - begun,
        "seconds": first - opened,
        "late": late,
        "mb": peak_mb() - before,
    }


def captions_of(folder: str) -> Any:
    """The data, and what opens their store."""
    import tensorflow as tf

    from data_pipelines.captions import load_captions
    from data_pipelines.image_store import store_images

    data = load_captions(folder)
    place = Path(folder).parent / "store"
    return data, lambda prepared: store_images([], place, "pixels", tf.identity, size=16, max_pixels=10_000, prepared=prepared)


def caption_store(folder: str) -> dict[str, float]:
    """Until all training pictures are known to have an array; and the memory that takes beyond that of an empty store."""
    data, stored = captions_of(folder)
    stored(None)
    begun, before = time.perf_counter(), peak_mb()
    stored(data.prepared)
    return {"seconds": time.perf_counter() - begun, "mb": peak_mb() - before}


def caption_batch(folder: str, start: str) -> dict[str, float]:
    """From the modules imported to the first batch; `start` is `0` or `late`."""
    import data_pipelines.captions
    from data_pipelines.vocabulary import load_vocabulary

    begun = time.perf_counter()
    data, stored = captions_of(folder)
    store, vocabulary = stored(data.prepared), load_vocabulary(Path(folder))
    options: dict[str, Any] = {"batch_size": 64, "boundaries": [8, 12, 30], "shuffle_seed": 0}

    def batches(step: int) -> Any:
        return data_pipelines.captions.caption_batches(data.prepared, store, vocabulary, **options, start_step=step)

    step = EPOCH * batches(0).steps_per_epoch + STEP if start == "late" else 0
    iterator = iter(batches(step).dataset)
    next(iterator)
    seconds = time.perf_counter() - begun
    for _ in range(200):
        next(iterator)
    return {
        "seconds": seconds,
        "step": step,
        "captions_a_second": 200 * 64 / (time.perf_counter() - begun - seconds),
        "mb": peak_mb(),
    }


def measure_pictures(place: Path, pictures: int, workers: int) -> dict[str, Any]:
    make_pictures(place / "source")
    folder = str(place / "prepared")
    flags = ["--for", "image_captioning", "--min-count", "1"]
    found: dict[str, Any] = {"workers": workers, "prepare": prepare(place / "source", Path(folder), workers, *flags)}
    found |= {"pictures": repeat_shard(Path(folder), pictures), "order": alone("caption_order", folder)[0]}
    found["store"], found["marked"] = (alone("caption_store", folder)[0] for _ in range(2))
    found["first"], found["late"] = (alone("caption_batch", folder, start)[0] for start in ("0", "late"))
    return found


def report_pictures(found: dict[str, Any]) -> str:
    made, order = found["prepare"], found["order"]
    rows = {
        f"preparing 20,000 pictures, {found['workers']} processes that encode: seconds (of the processors)": (
            f"{made['seconds']:,.0f} ({made['cpu_seconds']:,.0f})"
        ),
        "peak memory of all together, MB": f"{made['together_mb']:,.0f}",
        "manifest read, files looked at, seconds": f"{order['open']:.2f}",
        "the order until the first batch, of step 0; of the late step": f"{order['seconds']:.2f}; {order['late']:.2f}",
        "memory of both, MB": f"{order['mb']:,.0f}",
        "the store: each picture looked for, seconds": f"{found['store']['seconds']:,.0f}",
        "with its mark": f"{found['marked']['seconds']:.3f}",
        "memory of that, MB": f"{found['store']['mb']:,.0f}; {found['marked']['mb']:,.0f}",
        "modules imported to the first batch of step 0, seconds": f"{found['first']['seconds']:.2f}",
        f"of step {found['late']['step']:,.0f}": f"{found['late']['seconds']:.2f}",
        "captions a second then": f"{found['first']['captions_a_second']:,.0f}",
        "peak memory of a process that reads, TensorFlow in it, MB": f"{found['first']['mb']:,.0f}; {found['late']['mb']:,.0f}",
    }
    size = f"{found['pictures']:,} pictures (1,000 different ones), {order['captions']:,} captions; {os.cpu_count()} cores."
    return "\n".join([size, "", "| what | measured |", "|---|--:|", *(f"| {a} | {b} |" for a, b in rows.items())])


PARTS = {
    part.__name__: part
    for part in (
        *(first_batch, read, wait_for_data, read_rows),
        *(first_chunk, read_streams),
        *(caption_order, caption_store, caption_batch),
    )
}


def alone(*words: str, count: int = 1) -> list[dict[str, float]]:
    """What a part gives in so many processes at once."""
    line = [sys.executable, "-m", "benchmarks.data", "--part", *words]
    places = [[str(i)] if words[0] == "read" else [] for i in range(count)]  # readers read other batches
    running = [subprocess.Popen([*line, *place], stdout=subprocess.PIPE, text=True) for place in places]
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]


def _prepared_rows(found: dict[str, Any], unit: str) -> dict[str, str]:
    made, count = found["prepare"], found[unit]
    return {
        f"preparing, {found['workers']} processes that encode: seconds": f"{made['seconds']:,.0f}",
        "of the processors": f"{made['cpu_seconds']:,.0f}",
        f"{unit} a second": f"{count / made['seconds']:,.0f}",
        f"{unit} a second of a processor": f"{count / made['cpu_seconds']:,.0f}",
        "MB of text a second of a processor": f"{found['megabytes'] / made['cpu_seconds']:.2f}",
        "peak memory of the first process, MB": f"{made['first_process_mb']:,.0f}",
        "of the largest other": f"{made['largest_other_mb']:,.0f}",
        "of all together": f"{made['together_mb']:,.0f}",
        "first batch of step 0, seconds": f"{found['first']['seconds']:.2f}",
        f"of step {found['late']['step']:,.0f}": f"{found['late']['seconds']:.2f}",
    }


def _table(found: dict[str, Any], unit: str, rows: dict[str, str]) -> str:
    sizes = f"{found[unit]:,} {unit}, {found['megabytes']:,.0f} MB of text, {found['shards_mb']:,.0f} MB of shards"
    lines = [f"| {a} | {b} |" for a, b in rows.items()]
    return "\n".join([f"{sizes}; {found['cores']} cores.", "", "| what | measured |", "|---|--:|", *lines])


def report(found: dict[str, Any]) -> str:
    readers = found["readers"]
    return _table(
        found,
        "pairs",
        {
            **_prepared_rows(found, "pairs"),
            **{f"tokens a second, {n} reader(s)": f"{_together(of):,.0f}" for n, of in readers.items()},
            "tokens a second of a processor": f"{readers['1'][0]['tokens_a_cpu_second']:,.0f}",
            "memory of a reader, TensorFlow in it, MB": f"{max(one['memory_mb'] for one in readers['1']):,.0f}",
            "training the default translator, tokens a second": f"{found['training']['tokens_a_second']:,.0f}",
            "its share of waiting for data": f"{found['training']['share_waiting']:.2%}",
            **{name: f"{number:,.0f}" for name, number in found["rows"].items()},
        },
    )


def report_passages(found: dict[str, Any]) -> str:
    read = found["read"]
    return _table(
        found,
        "passages",
        {
            **_prepared_rows(found, "passages"),
            "tokens a second, 1 reader": f"{read['tokens_a_second']:,.0f}",
            "tokens a second of a processor": f"{read['tokens_a_cpu_second']:,.0f}",
            "memory of a reader, TensorFlow in it, MB": f"{read['memory_mb']:,.0f}",
        },
    )


def _together(readers: Sequence[dict[str, float]]) -> float:
    return sum(one["tokens_a_second"] for one in readers)


def draw_readers(readers: dict[str, list[dict[str, float]]], training: float, path: Path) -> None:
    """Tokens a second over the number of readers, beside those that training takes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot([int(n) for n in readers], [_together(of) for of in readers.values()], marker="o", label="read")
    axes.axhline(training, linestyle="--", color="grey", label="taken by training the default translator")
    axes.set(xlabel="readers", ylabel="tokens a second", yscale="log", xticks=[int(n) for n in readers])
    axes.legend()
    figure.savefig(path, dpi=120)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All parts, one after another."""
    unit = "passages" if arguments.passages else "pairs"
    count = getattr(arguments, unit)
    found: dict[str, Any] = {unit: count, "cores": os.cpu_count(), "workers": arguments.workers}
    with tempfile.TemporaryDirectory(dir=arguments.place) as place:
        source, folder = Path(place, "pairs.tsv" if unit == "pairs" else "passages.txt"), str(Path(place, "prepared"))
        make_pairs(source, count) if unit == "pairs" else make_passages(source, count)
        found["megabytes"] = source.stat().st_size / 1e6
        if unit == "pairs":
            found["prepare"] = prepare(source, Path(folder), arguments.workers, "--vocabulary-sample", "200000")
        else:
            flags = "--for language_model --tokenizer bpe --vocabulary-sample 20000 --shard-rows 20000".split()
            found["prepare"] = prepare(source, Path(folder), arguments.workers, *flags)
        found["shards_mb"] = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
        first = "first_batch" if unit == "pairs" else "first_chunk"
        found["first"], found["late"] = (alone(first, folder, start)[0] for start in ("0", "late"))
        if unit == "passages":
            found["read"] = alone("read_streams", folder, "10")[0]
        else:
            found["readers"] = {str(n): alone("read", folder, "10", count=n) for n in (1, 2, 4)}
            found["training"] = alone("wait_for_data", folder, "60")[0]
            found["rows"] = alone("read_rows", folder)[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--passages", type=int, default=0, help="measure a language model's text instead")
    parser.add_argument("--pictures", type=int, help="so many pictures with captions instead")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--place", metavar="FOLDER", help="where the corpus is made; default: the system's temporary folder")
    parser.add_argument("--save", metavar="PATH", help="write PATH.md, PATH.json and, for pairs, PATH.png")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(PARTS[arguments.part[0]](*arguments.part[1:])))
        return
    if arguments.pictures:
        with tempfile.TemporaryDirectory(dir=arguments.place) as place:
            measured = measure_pictures(Path(place), arguments.pictures, arguments.workers)
        save(arguments.save, report_pictures(measured), measured)
        return
    found = measure(arguments)
    save(arguments.save, (report_passages if arguments.passages else report)(found), found)
    if arguments.save and not arguments.passages:
        draw_readers(found["readers"], found["training"]["tokens_a_second"], Path(f"{arguments.save}.png"))


if __name__ == "__main__":
    main()
