"""Captions: images with several captions each, from any source, and the batches that a captioner trains on."""

import csv
import hashlib
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from data_pipelines import batching
from data_pipelines.batching import Batches
from data_pipelines.embedded.scenes import embedded_scenes
from data_pipelines.files import replacing
from data_pipelines.image_store import ImageFile, ImageStore
from data_pipelines.images import vary
from data_pipelines.service import served
from data_pipelines.sources import DataError, check_zip, find_splits, fingerprint, load_tfds, read_table, split_off
from data_pipelines.vocabulary import END, START, Vocabulary

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif")


class Example(NamedTuple):
    """An image and all its captions."""

    image: ImageFile
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Captions:
    """Examples by split, and what is left out of each: `(name of the image, reason)`."""

    splits: dict[str, list[Example]]
    left_out: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def without(self, problems: dict[ImageFile, str]) -> "Captions":
        """Leave out the images that turned out to be of no use.

        Raises:
            DataError: nothing is left of a split.
        """
        splits, left_out = {}, {}
        for name, examples in self.splits.items():
            splits[name] = [e for e in examples if e.image not in problems]
            bad = [(e.image.name, problems[e.image]) for e in examples if e.image in problems]
            left_out[name] = [*self.left_out.get(name, []), *bad]
        _check_not_empty("images", splits, left_out)
        return Captions(splits, left_out)

    @property
    def images(self) -> list[ImageFile]:
        """Those of all splits."""
        return [example.image for examples in self.splits.values() for example in examples]

    def rows(self, split: str) -> list[tuple[str, ...]]:
        """What makes an example the same as another."""
        return [(example.image.name, *example.captions) for example in self.splits[split]]

    def describe(self) -> dict[str, Any]:
        """What was loaded, counted and hashed, for the run's config."""
        return {
            name: {
                "images": len(examples),
                "captions": sum(len(e.captions) for e in examples),
                "left_out": len(self.left_out.get(name, [])),
                "sha256": fingerprint((e.image.name, *e.captions) for e in examples),
            }
            for name, examples in self.splits.items()
        }

    def summary(self) -> dict[str, str]:
        """How many examples there are, and what is left out, for a person to read."""
        counts = [
            f"{len(examples):,} {name} ({sum(len(e.captions) for e in examples):,} captions)"
            for name, examples in self.splits.items()
        ]
        facts = {"images": ", ".join(counts)}
        out = [item for items in self.left_out.values() for item in items]
        if out:
            some = "; ".join(f"{name}: {reason}" for name, reason in out[:5])
            facts["left out"] = f"{len(out):,}: {some}" + ("; …" if len(out) > 5 else "")
        return facts

    def write_left_out(self, path: Path) -> None:
        """All that is left out, as a table; no file if it is nothing."""
        rows = [(split, *item) for split, items in self.left_out.items() for item in items]
        if rows:
            with path.open("w", newline="") as file:
                csv.writer(file, delimiter="\t").writerows([("split", "image", "reason"), *rows])


def load_captions(source: str, whole: bool = False, download_folder: Path = Path("runs/image_files")) -> Captions:
    """Images with captions from `embedded`, `tfds:NAME[/config]` or a path.

    Args:
        source: a path is a table `.tsv` or `.csv` with the columns `image` and `caption`, several rows an image, or a folder
            that holds `captions.tsv`, or one such table a split: `train_captions.tsv`, `val_captions.tsv`,
            `test_captions.tsv`. The images lie in `<split>_images.zip`, `<split>_images/`, `images.zip`, `images/`, or beside
            the table. Without a validation split it is cut off the training split, the same in every run.
        whole: for evaluation: nothing is cut off, and there need be no training split.
        download_folder: where the images of a TFDS set are written as files.

    Raises:
        DataError: a file, column or split that can't be used.
    """
    if source == "embedded":
        scenes = embedded_scenes()
        return Captions(
            {name: [Example(ImageFile(s.name, data=s.png()), s.captions) for s in part] for name, part in scenes.items()}
        )
    if source.startswith("tfds:"):
        name = source.removeprefix("tfds:")
        splits, left_out = _from_tfds(name, download_folder / name), dict[str, list[tuple[str, str]]]()
    else:
        splits, left_out = _from_tables(source, whole)
    if "train" not in splits and not whole:
        raise DataError(f"{source}: has no training split. Choose another data set or file.")
    splits = split_off(splits, not Path(source).is_dir() or len(splits) == 1, whole)
    _check_not_empty(source, splits, left_out)
    return Captions(splits, left_out)


def _check_not_empty(source: str, splits: dict[str, list[Example]], left_out: dict[str, list[tuple[str, str]]]) -> None:
    for name, examples in splits.items():
        if not examples:
            some = "; ".join(f"{image}: {reason}" for image, reason in left_out.get(name, [])[:3]) or "there are no rows"
            raise DataError(f"{source}: the {name} split has no image to use ({some}). Check the names in the table.")


def _from_tables(source: str, whole: bool) -> tuple[dict[str, list[Example]], dict[str, list[tuple[str, str]]]]:
    path = Path(source)
    if path.is_dir():
        one_table = [path / f"captions{suffix}{gz}" for suffix in (".tsv", ".csv") for gz in ("", ".gz")]
        found = [p for p in one_table if p.is_file()]
        tables = {"train": found[0]} if found else find_splits(path, ("_captions.tsv", "_captions.csv"), whole)
    else:
        tables = {"train": path}
    splits: dict[str, list[Example]] = {}
    left_out: dict[str, list[tuple[str, str]]] = {}
    pools: dict[Path, dict[str, ImageFile]] = {}
    spare: dict[Path, dict[str, str]] = {}  # images without caption: name -> split; several tables may share a folder
    for name, table in tables.items():
        grouped: dict[str, list[str]] = {}
        for _, (image, caption) in read_table(table, ("image", "caption")):
            grouped.setdefault(image.strip(), []).extend([caption.strip()] if caption.strip() else [])
        place = _image_place(table, name)
        if place not in pools:
            pools[place] = _images_in(place)
            spare[place] = dict.fromkeys(pools[place], name)
        pool = pools[place]
        left_out[name] = [(image, "a caption without its image") for image in grouped if image not in pool]
        left_out[name] += [(image, "an empty caption") for image, captions in grouped.items() if image in pool and not captions]
        splits[name] = [
            Example(pool[image], tuple(captions)) for image, captions in grouped.items() if captions and image in pool
        ]
        for image in grouped:
            spare[place].pop(image, None)
    for images in spare.values():
        for image, name in images.items():
            left_out[name].append((image, "an image without caption"))
    return splits, left_out


def _image_place(table: Path, split: str) -> Path:
    """Where the images of a table are: beside it in a zip or a folder of the split, of all splits, or just there."""
    stem = table.name.split("_captions.")[0] if "_captions." in table.name else split
    for name in (f"{stem}_images.zip", f"{stem}_images", "images.zip", "images"):
        if (table.parent / name).exists():
            return table.parent / name
    return table.parent


def _images_in(place: Path) -> dict[str, ImageFile]:
    """The images of a folder, with all below, or of a zip, by name: their path inside it."""
    if place.is_dir():
        files = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        return {name: ImageFile(name, str(p)) for p in files for name in [p.relative_to(place).as_posix()]}
    try:
        with zipfile.ZipFile(place) as archive:
            check_zip(archive, place)
            members = [m for m in archive.namelist() if m.lower().endswith(SUFFIXES) and not m.startswith("__MACOSX/")]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise DataError(f"{place}: not a readable zip file ({error}). Pack it anew, or unpack it into a folder.") from None
    tops = {m.split("/")[0] for m in members if "/" in m}
    top = f"{tops.pop()}/" if len(tops) == 1 and all("/" in m for m in members) else ""  # most tools pack the folder, too
    return {m.removeprefix(top): ImageFile(m.removeprefix(top), str(place), m) for m in members}


def _from_tfds(name: str, folder: Path) -> dict[str, list[Example]]:
    """Rows with `image` and `captions`, as in `coco_captions`; images are written as files: a set may not fit into memory."""

    def to_example(row: dict[str, Any], features: Any) -> Example:
        if "captions" not in row or "image" not in row:
            raise DataError(f"tfds:{name}: has {sorted(row)}; expected 'image' and 'captions'. Choose another data set.")
        texts = row["captions"]["text"] if isinstance(row["captions"], dict) else row["captions"]
        digest = hashlib.sha256(row["image"]).hexdigest()
        path = folder / digest[:2] / digest[2:]
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(row["image"])
        filename = row.get("image/filename", digest.encode()).decode()
        return Example(ImageFile(filename, str(path)), tuple(text.decode("utf-8", "replace") for text in texts))

    return load_tfds(name, to_example, undecoded=("image",))


def caption_batches(
    examples: Sequence[Example],
    store: ImageStore,
    vocabulary: Vocabulary,
    *,
    batch_size: int,
    boundaries: Sequence[int],
    augment: bool = False,
    flip: bool = False,
    shuffle_seed: int | None = None,
    start_step: int = 0,
    service: str | None = None,
) -> Batches:
    """A tf.data of `({"image": (n, rows, columns, channels), "caption": (n, t)}, following (n, t))`, a row for each caption.

    The caption so far opens with START; what follows each of its tokens is to be predicted. Padding is 0.

    Args:
        examples: with arrays in the store.
        store: arrays of the images.
        vocabulary: words or subwords, with markers.
        batch_size: captions a batch.
        boundaries: the few lengths that batches have; a longer caption is cut.
        augment: shift pixels and change brightness and contrast, in another way each time.
        flip: mirror every second image.
        shuffle_seed: repeat for ever, in a new order each epoch that the seed decides; batches are full, so one may join
            the rows of two epochs. None: once, in the given order, with smaller batches at the end.
        start_step: leave out the batches of a run that is continued.
        service: `HOST:PORT` of a tf.data service that prepares the batches, in no fixed order; see `data_pipelines.service`.
    """
    rows = [(store.paths[e.image], caption) for e in examples for caption in e.captions]
    ids = vocabulary.ids(vocabulary.tokenize(tf.constant([caption for _, caption in rows])))[:, : boundaries[-1] - 1]
    ids = tf.concat([ids, tf.fill([len(rows), 1], END)], axis=1)
    columns, sizes = (tf.constant([path for path, _ in rows]), ids), [batch_size] * len(boundaries)
    dataset = batching.batches_of_rows(columns, boundaries, sizes, shuffle_seed, start_step, service)

    def load(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        paths, following = batch
        images = tf.map_fn(store.load, paths, fn_output_signature=tf.TensorSpec(store.shape, tf.as_dtype(store.dtype)))
        seeds = tf.stack([tf.constant(shuffle_seed or 0, tf.int64), step])
        images = vary(images, seeds, augment, flip)
        start = tf.fill([tf.shape(following)[0], 1], START)
        return {"image": images, "caption": tf.concat([start, following[:, :-1]], axis=1)}, following

    if service:  # a step has no number there
        dataset = dataset.map(lambda *batch: (tf.strings.to_hash_bucket_fast(tf.strings.reduce_join(batch[0]), 2**31), batch))
    else:
        dataset = tf.data.Dataset.zip(tf.data.Dataset.counter(start_step), dataset)
    dataset = dataset.map(load, num_parallel_calls=2, deterministic=True)
    counts = np.bincount(np.searchsorted(boundaries, ids.row_lengths().numpy()), minlength=len(boundaries)) / batch_size
    per_epoch = float(counts.sum()) if shuffle_seed is not None else float(np.ceil(counts).sum())
    return Batches(served(dataset, service).prefetch(4), max(1, round(per_epoch)))
