"""Captions: images with several captions each, from any source, and the batches that a captioner trains on."""

import hashlib
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from data_pipelines import batching
from data_pipelines.batching import Batches
from data_pipelines.caption_files import find_caption_files, read_captions
from data_pipelines.corpus import Corpus, Skipped
from data_pipelines.embedded.scenes import embedded_scenes
from data_pipelines.files import replacing
from data_pipelines.image_store import ImageFile, ImageStore
from data_pipelines.images import augment_images
from data_pipelines.remote import local
from data_pipelines.sources import DataError, check_zip, load_tfds, split_off
from data_pipelines.tables import Column
from data_pipelines.vocabulary import EOS, Vocabulary

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")
OTHERS = (".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jfif")  # pictures that are refused by what they hold
REMEDY = "Check the names in the table."


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
        return Captions(splits, skipped=[*self.skipped, *bad]).check_not_empty("images", REMEDY)

    @property
    def images(self) -> list[ImageFile]:
        """Those of all splits."""
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
            - Flickr8k's `Flickr8k.token.txt`, with its lists of the images of each split if they lie beside it;
            - COCO's `captions_train2017.json` and `captions_val2017.json`, in `annotations/` too.
            The images lie in `<split>_images/`, `images/`, `Images/`, `train2017/` for COCO, `Flicker8k_Dataset/`, a `.zip` of
            such a name, or in the table's folder. Without a validation split it is cut off, the same in every run.
        whole: for evaluation: nothing is cut off, and there need be no training split.
        download_folder: where the images of a TFDS set are written as files.
        columns: the names of the two columns of a table where they are others than the usual ones.

    Raises:
        DataError: a file, column or split that can't be used.
    """
    source = local(source)
    if source == "embedded":
        scenes = embedded_scenes()
        return Captions(
            {name: [Example(ImageFile(s.name, data=s.png()), s.captions) for s in part] for name, part in scenes.items()}
        )
    if source.startswith("tfds:"):
        name = source.removeprefix("tfds:")
        splits, skipped = _from_tfds(name, download_folder / name, whole), list[Skipped]()
    else:
        of_table = [
            Column("--image-column", ("image", "file_name", "filename"), columns[0]),
            Column("--caption-column", ("caption", "text"), columns[1]),
        ]
        splits, skipped = _from_files(source, whole, of_table)
    splits = split_off(splits, not Path(source).is_dir() or len(splits) == 1, whole)
    return Captions(splits, skipped=skipped).check_not_empty(source, REMEDY)


def _from_files(source: str, whole: bool, columns: Sequence[Column]) -> tuple[dict[str, list[Example]], list[Skipped]]:
    splits: dict[str, list[Example]] = {}
    skipped: list[Skipped] = []
    pools: dict[Path, dict[str, ImageFile]] = {}
    spare: dict[Path, dict[str, str]] = {}  # images without caption: name -> split; several files may share a folder
    read: dict[Path, list[tuple[str, str]]] = {}
    for name, (path, place, names) in find_caption_files(Path(source), whole).items():
        if path not in read:
            read[path] = list(read_captions(path, columns))
        grouped: dict[str, list[str]] = {}
        for image, caption in read[path]:
            if names is None or image in names:
                grouped.setdefault(image.strip(), []).extend([caption.strip()] if caption.strip() else [])
        if place not in pools:
            pools[place] = _list_images(place)
            spare[place] = dict.fromkeys(pools[place], name)
        pool = pools[place]
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
    numbered: bool = False,
) -> Batches:
    """A tf.data of `({"image": (n, rows, columns, channels), "caption": (n, t)}, targets (n, t))`, a row for each caption.

    The caption of the inputs is the targets shifted right, after BOS. Padding is 0.

    Args:
        examples: with arrays in the store.
        store: arrays of the images.
        vocabulary: words or subwords, with BOS and EOS.
        batch_size: captions a batch.
        boundaries: the few lengths that batches have; a longer caption is cut.
        augment: shift pixels and change brightness and contrast, in another way each time.
        flip: mirror every second image.
        shuffle_seed, start_step, service: see `batching.bucketed_batches`.
        numbered: the inputs have `example` (n,), too: which of the examples it is.
    """
    rows = [(store.paths[e.image], n, caption) for n, e in enumerate(examples) for caption in e.captions]
    ids = vocabulary.encode(tf.constant([caption for _, _, caption in rows]))[:, : boundaries[-1] - 1]
    ids = tf.concat([ids, tf.fill([len(rows), 1], EOS)], axis=1)

    def load(step: tf.Tensor, batch: tuple[tf.Tensor, ...]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        paths, numbers, targets = batch
        images = tf.map_fn(store.load, paths, fn_output_signature=tf.TensorSpec(store.shape, tf.as_dtype(store.dtype)))
        seeds = tf.stack([tf.constant(shuffle_seed or 0, tf.int64), step])
        inputs = {"image": augment_images(images, seeds, augment, flip), "caption": batching.shift_right(targets)}
        return inputs | ({"example": numbers} if numbered else {}), targets

    def transform(dataset: tf.data.Dataset) -> tf.data.Dataset:
        if service:  # steps have no index there
            dataset = dataset.map(lambda *batch: (tf.strings.to_hash_bucket_fast(tf.strings.reduce_join(batch[0]), 2**31), batch))
        else:
            dataset = tf.data.Dataset.zip(tf.data.Dataset.counter(start_step), dataset)
        return dataset.map(load, num_parallel_calls=2, deterministic=True)

    columns = (tf.constant([path for path, _, _ in rows]), tf.constant([n for _, n, _ in rows], tf.int32), ids)
    sizes = [batch_size] * len(boundaries)
    return batching.bucketed_batches(columns, boundaries, sizes, shuffle_seed, start_step, service, transform)
