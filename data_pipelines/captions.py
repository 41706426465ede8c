"""Captions: images with several captions each, from any source, and the batches that a captioner trains on."""

import array
import collections
import csv
import hashlib
import itertools
import json
import operator
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from data_pipelines import batching
from data_pipelines.batching import Batches
from data_pipelines.caption_files import CaptionFile, find_caption_files, name_inside, read_captions
from data_pipelines.corpus import Corpus, Skipped
from data_pipelines.embedded.scenes import embedded_scenes
from data_pipelines.files import replacing
from data_pipelines.image_store import ImageFile, ImageStore, array_path
from data_pipelines.images import augment_images
from data_pipelines.prepared import Prepared, PreparedRows, is_prepared, padded_rows
from data_pipelines.remote import local
from data_pipelines.sources import DataError, check_zip, load_tfds, read_lines, split_off
from data_pipelines.tables import Column
from data_pipelines.vocabulary import EOS, Vocabulary

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")
OTHERS = (".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jfif")  # pictures that are refused by what they hold
REMEDY = "Check the names in the table."
DIGEST_NUMBERS = 16  # below 2^16, in which prepared rows hold a SHA-256


class Example(NamedTuple):
    """An image and all its captions."""

    image: ImageFile
    captions: tuple[str, ...]


class Captions(Corpus[Example]):
    """Images with their captions by split, and the images that were skipped."""

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        return {"images": len(examples), "captions": sum(len(example.captions) for example in examples)}

    def fields(self, example: Example) -> tuple[str, ...]:
        return (example.image.name, *example.captions)

    def without(self, problems: dict[ImageFile, str]) -> "Captions":
        """Skip the images that can't be used.

        Raises:
            DataError: nothing is left of a split.
        """
        bad = [
            Skipped(name, example.image.name, problems[example.image])
            for name, examples in self.splits.items()
            for example in examples
            if example.image in problems
        ]
        splits = {name: [e for e in examples if e.image not in problems] for name, examples in self.splits.items()}
        return Captions(splits, skipped=[*self.skipped, *bad], prepared=self.prepared).check_not_empty("images", REMEDY)

    @property
    def images(self) -> list[ImageFile]:
        """Those of all splits in memory."""
        return [example.image for examples in self.splits.values() for example in examples]


def load_captions(
    source: str,
    whole: bool = False,
    download_folder: Path = Path("runs/image_files"),
    columns: Sequence[str | None] = (None, None),
) -> Captions:
    """Images with captions from `embedded`, `tfds:NAME[/config]` or a path.

    Args:
        source: a path is a file of captions, or a folder that holds one for all splits, or one a split:
            - a table (see `data_pipelines.tables`) with the columns `image` and `caption`, several rows an image: `captions.*`,
              or `train_captions.*`, `val_captions.*`, `test_captions.*`;
            - `metadata.*` as such a table, for all splits, or in the folders `train`, `validation` and `test`;
            - Flickr8k's `Flickr8k.token.txt`, with its lists of the images of each split if they lie beside it;
            - COCO's `captions_train2017.json` and `captions_val2017.json`, in `annotations/` too;
            or the folder that `data_pipelines.prepare` wrote.
            The images lie in `<split>_images/`, `images/`, `Images/`, `train2017/` for COCO, `Flicker8k_Dataset/`, a `.zip` of
            such a name, or in the table's folder. Without a validation split it is cut off, the same in every run.
        whole: for evaluation: nothing is cut off, and there need be no training split.
        download_folder: where the images of a TFDS set are written as files.
        columns: the names of the two columns of a table where they are others than the usual ones.

    Raises:
        DataError: a file, column or split that can't be used.
    """
    source = local(source)
    if is_prepared(source):
        prepared = Prepared.open(source, "image_captioning")
        data = prepared_captions(prepared.folder, prepared).check_not_empty(source, REMEDY)
        if missing := next((image.path for image in data.images if not os.path.isfile(image.path)), None):
            raise DataError(f"{missing}: is missing, of the pictures of {source}. Put it back, or prepare the data anew.")
        return data
    if source == "embedded":
        scenes = embedded_scenes()
        return Captions(
            {name: [Example(ImageFile(s.name, data=s.png()), s.captions) for s in part] for name, part in scenes.items()}
        )
    if source.startswith("tfds:"):
        name = source.removeprefix("tfds:")
        splits, skipped = _from_tfds(name, download_folder / name, whole), list[Skipped]()
    else:
        splits, skipped = _from_files(source, whole, _columns(columns))
    splits = split_off(splits, not Path(source).is_dir() or len(splits) == 1, whole)
    return Captions(splits, skipped=skipped).check_not_empty(source, REMEDY)


def _columns(names: Sequence[str | None]) -> list[Column]:
    return [
        Column("--image-column", ("image", "file_name", "filename"), names[0]),
        Column("--caption-column", ("caption", "text"), names[1]),
    ]


def _from_files(source: str, whole: bool, columns: Sequence[Column]) -> tuple[dict[str, list[Example]], list[Skipped]]:
    splits: dict[str, list[Example]] = {}
    skipped: list[Skipped] = []
    pools: dict[Path, dict[str, ImageFile]] = {}
    spare: dict[Path, dict[str, str]] = {}  # images without caption: name -> split; several files may share a folder
    read: dict[Path, list[tuple[str, str]]] = {}
    for name, (path, place, names) in find_caption_files(Path(source), whole).items():
        if path not in read:
            read[path] = list(read_captions(path, columns))
        if place not in pools:
            pools[place] = _list_images(place)
            spare[place] = dict.fromkeys(pools[place], name)
        pool = pools[place]
        grouped: dict[str, list[str]] = {}
        for image, caption in read[path]:
            if names is None or image in names:
                image, inside = image.strip(), name_inside(image.strip(), place)
                image = inside if image not in pool and inside in pool else image
                grouped.setdefault(image, []).extend([caption.strip()] if caption.strip() else [])
        skipped += [Skipped(name, image, "a caption without its image") for image in grouped if image not in pool]
        without = [image for image, captions in grouped.items() if image in pool and not captions]
        skipped += [Skipped(name, image, "an empty caption") for image in without]
        splits[name] = [
            Example(pool[image], tuple(captions)) for image, captions in grouped.items() if captions and image in pool
        ]
        for image in grouped:
            spare[place].pop(image, None)
    reason = "an image without caption" if names is None else "an image of no split"
    skipped += [Skipped(name, image, reason) for images in spare.values() for image, name in images.items()]
    return splits, skipped


class CaptionSource:
    """The captions of one split, image by image, for `prepare`. Only what can't be used is kept.

    Attributes:
        skipped: by the last `read`.
    """

    def __init__(self, split: str, file: CaptionFile, columns: Sequence[Column]) -> None:
        self.split, self.file, self.columns = split, file, columns
        self.files = (file.path,)
        self.skipped: list[Skipped] = []
        self.was_read = False

    def all_skipped(self) -> list[Skipped]:
        """The images that can't be used; for that the source is read once."""
        if not self.was_read:
            collections.deque(self.read(), maxlen=0)
        return self.skipped

    def read(self) -> Iterator[tuple[str, ...]]:
        """Name, path and member of each image that is there, and its captions.

        Raises:
            DataError: the captions of an image don't stand together; none can be used.
        """
        find, self.skipped, found, self.was_read = _finder(self.file.images), [], False, False
        for name, captions in self._grouped():
            image = find(name) or find(name_inside(name, self.file.images))
            if image and captions:
                found = True
                yield image.name, image.path, image.member, *captions
            else:
                self.skipped.append(Skipped(self.split, name, "an empty caption" if image else "a caption without its image"))
        if not found:
            Captions({self.split: []}, skipped=self.skipped).check_not_empty(str(self.file.path), REMEDY)
        self.was_read = True

    def _grouped(self) -> Iterator[tuple[str, list[str]]]:
        path, names = self.file.path, self.file.names
        pairs = (
            (image.strip(), caption.strip())
            for image, caption in read_captions(path, self.columns)
            if names is None or image in names
        )
        if path.name.lower().removesuffix(".gz").endswith(".json"):  # one document, in memory anyway; COCO's has no order
            found: dict[str, list[str]] = {}
            for image, caption in pairs:
                found.setdefault(image, []).extend([caption] if caption else [])
            yield from found.items()
            return
        seen = array.array("q")  # 8 bytes an image
        for image, group in itertools.groupby(pairs, key=operator.itemgetter(0)):
            seen.append(hash(image))
            yield image, [caption for _, caption in group if caption]
        hashes = np.sort(np.frombuffer(seen, np.int64))
        if (hashes[1:] == hashes[:-1]).any():
            raise DataError(f"{path}: the rows of an image don't stand together. Sort the table by image.")


def caption_sources(source: Path, columns: Sequence[str | None]) -> dict[str, CaptionSource]:
    """The captions of each split of a path; see `load_captions`."""
    files = find_caption_files(source, whole=False)
    return {split: CaptionSource(split, file, _columns(columns)) for split, file in files.items()}


def prepared_captions(folder: Path, prepared: Prepared | None = None) -> Captions:
    """What lies in a folder beside the training split, which is `prepared`."""
    splits = {}
    for name in ("validation", "test"):
        if (file := folder / f"{name}.jsonl").is_file():
            rows = map(json.loads, read_lines(file))
            splits[name] = [Example(ImageFile(r["image"], r["path"], r["member"]), tuple(r["captions"])) for r in rows]
    with (folder / "skipped.tsv").open(newline="", encoding="utf-8") as lines:
        skipped = [Skipped(*row) for row in csv.reader(lines, delimiter="\t")][1:]
    return Captions(splits, skipped=skipped, prepared=prepared)


def _finder(place: Path) -> Callable[[str], ImageFile | None]:
    """What finds an image by its name, as in `_list_images`; a folder is not listed: it may hold millions."""
    if not place.is_dir():
        return _list_images(place.absolute()).get
    folder = str(place.absolute())

    def find(name: str) -> ImageFile | None:
        inside = PurePosixPath(name)
        usual = inside.as_posix() == name and not inside.is_absolute() and ".." not in inside.parts
        is_image = usual and inside.suffix.lower() in SUFFIXES + OTHERS and os.path.isfile(f"{folder}/{name}")
        return ImageFile(name, f"{folder}/{name}") if is_image else None

    return find


def _list_images(place: Path) -> dict[str, ImageFile]:
    """The images of a folder, with all below, or of a zip, by name: their path inside it."""
    if place.is_dir():
        files = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES + OTHERS and p.is_file())
        return {name: ImageFile(name, str(p)) for p in files for name in [p.relative_to(place).as_posix()]}
    try:
        with zipfile.ZipFile(place) as archive:
            check_zip(archive, place)
            members = [m for m in archive.namelist() if m.lower().endswith(SUFFIXES + OTHERS) and not m.startswith("__MACOSX/")]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise DataError(f"{place}: not a readable zip file ({error}). Pack it anew, or unpack it into a folder.") from None
    tops = {m.split("/")[0] for m in members if "/" in m}
    top = f"{tops.pop()}/" if len(tops) == 1 and all("/" in m for m in members) else ""  # most tools pack the folder, too
    return {m.removeprefix(top): ImageFile(m.removeprefix(top), str(place), m) for m in members}


def _from_tfds(name: str, folder: Path, whole: bool) -> dict[str, list[Example]]:
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

    return load_tfds(name, to_example, whole, undecoded=("image",))


class CaptionRows:
    """Prepared captions, as `batching.PartRows`: where the array of the picture lies, and the ids of the caption."""

    kinds = ((1, tf.string), (2, tf.int32))

    def __init__(self, rows: PreparedRows, store: ImageStore) -> None:
        self.rows, self.store = rows, store

    def counts(self) -> np.ndarray:
        return self.rows.counts()

    def lengths_of(self, shortest: int, longest: int, places: np.ndarray) -> np.ndarray:
        return self.rows.lengths_of(shortest, longest, places)[:, :1]

    def read(self, shortest: int, longest: int, places: np.ndarray) -> tuple[np.ndarray, ...]:
        flat, bounds = self.rows.read_flat(shortest, longest, places)
        digests = flat[bounds[:, 1, None] + np.arange(DIGEST_NUMBERS)].astype("<u2")
        paths = [array_path(self.store.folder, digest.tobytes().hex()) for digest in digests]
        return np.array(paths, object), padded_rows(flat, bounds[:, 0], bounds[:, 1], longest)


def caption_batches(
    examples: Sequence[Example] | Prepared,
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
    numbered: bool = False,
) -> Batches:
    """A tf.data of `({"image": (n, rows, columns, channels), "caption": (n, t)}, targets (n, t))`, a row for each caption.

    The caption of the inputs is the targets shifted right, after BOS. Padding is 0.

    Args:
        examples: with arrays in the store; or prepared ones, which are for training, and encoded already.
        store: arrays of the images.
        vocabulary: words or subwords, with BOS and EOS.
        batch_size: captions a batch.
        boundaries: the few lengths that batches have; a longer caption is cut.
        augment: shift pixels and change brightness and contrast, in another way each time.
        flip: mirror every second image.
        shuffle_seed, start_step, service: see `batching.bucketed_batches`.
        numbered: the inputs have `example` (n,), too: which of the examples it is.
    """
    sizes = [batch_size] * len(boundaries)

    def load(place: tf.Tensor, paths: tf.Tensor, *rest: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        *numbers, targets = rest
        images = tf.map_fn(store.load, paths, fn_output_signature=tf.TensorSpec(store.shape, tf.as_dtype(store.dtype)))
        seeds = tf.stack([tf.constant(shuffle_seed or 0, tf.int64), place[0]])
        images = augment_images(images, seeds, augment, flip, place[1], place[2])
        return {"image": images, "caption": batching.shift_right(targets), **dict(zip(["example"], numbers))}, targets

    def load_at_hash(paths: tf.Tensor, *rest: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        step = tf.strings.to_hash_bucket_fast(tf.strings.reduce_join(paths), 2**31)  # of a service, where steps have no index
        return load(tf.stack([step, 0, tf.size(paths, tf.int64)]), paths, *rest)

    def transform(dataset: tf.data.Dataset) -> tf.data.Dataset:
        if service:
            return dataset.map(load_at_hash, num_parallel_calls=2, deterministic=True)
        return batching.with_places(dataset, start_step).map(load, num_parallel_calls=2, deterministic=True)

    if isinstance(examples, Prepared):
        prepared = CaptionRows(examples.rows, store)
        return batching.prepared_batches(prepared, boundaries, sizes, shuffle_seed or 0, start_step, load)
    rows = [(store.paths[e.image], n, caption) for n, e in enumerate(examples) for caption in e.captions]
    ids = vocabulary.encode(tf.constant([caption for _, _, caption in rows]))[:, : boundaries[-1] - 1]
    ids = tf.concat([ids, tf.fill([len(rows), 1], EOS)], axis=1)
    numbers = (tf.constant([n for _, n, _ in rows], tf.int32),) if numbered else ()
    columns = (tf.constant([path for path, _, _ in rows]), *numbers, ids)
    return batching.bucketed_batches(columns, boundaries, sizes, shuffle_seed, start_step, service, transform)
