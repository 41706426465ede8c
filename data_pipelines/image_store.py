"""Arrays of images on disk, computed once: one file an image, named by what the image holds and how it was computed.

A second run finds them; a changed image has another name and is computed anew; what does not fit into memory is read as it is
needed, inside the graph. A file is written whole or not at all.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from data_pipelines.files import replacing
from data_pipelines.images import decode_images
from data_pipelines.prepared import Prepared
from data_pipelines.remote import fetch, url_of
from data_pipelines.sources import DataError

BATCH_SIZE = 32


MAX_BYTES = 100_000_000  # of a packed image


class ImageFile(NamedTuple):
    """An image that may be read: a file, a member of a zip, or bytes in memory."""

    name: str
    path: str = ""
    member: str = ""
    data: bytes = b""
    digest: str = ""  # SHA-256, if it is known

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            OSError: it can't be read, or is too large.
        """
        if self.data:
            return self.data
        try:
            with _open_zip(self.path).open(self.member) if self.member else Path(self.path).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError:
            raise
        except Exception as error:  # zipfile raises many kinds: encrypted, damaged, packed in an unknown way
            raise OSError(str(error)) from None
        if len(data) > MAX_BYTES:
            raise OSError(f"more than {MAX_BYTES:,} bytes")
        return data


@lru_cache(maxsize=8)
def _open_zip(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@dataclass(frozen=True)
class ImageStore:
    """Where the array of each image lies, and why some images have none.

    Attributes:
        folder: of all arrays.
        paths: where each array lies.
        problems: why an image has none.
        shape, dtype: of each array.
    """

    folder: Path
    paths: dict[ImageFile, str]
    problems: dict[ImageFile, str]
    shape: tuple[int, ...]
    dtype: str

    def load(self, path: tf.Tensor) -> tf.Tensor:
        """The array of one file, in the graph."""
        return tf.reshape(tf.io.decode_raw(tf.io.read_file(path), tf.as_dtype(self.dtype)), self.shape)


def array_path(folder: str | Path, digest: str) -> str:
    """Where the array of an image of such a SHA-256 lies."""
    return f"{folder}/{digest[:2]}/{digest[2:]}"


def store_images(
    images: Sequence[ImageFile],
    folder: Path,
    key: str,
    compute: Callable[[tf.Tensor], tf.Tensor],
    *,
    size: int,
    max_pixels: int,
    progress: bool = False,
    prepared: Prepared | None = None,
) -> ImageStore:
    """Decode all images and compute their arrays, where that is not done yet.

    Args:
        images: an image may occur twice.
        folder: of the store; it may be used by many data sets.
        key: names what `compute` does, with which weights; the size is added.
        compute: pixels (n, size, size, 3), uint8 -> arrays (n, …), kept in their own type.
        size: the square to which images are squeezed, in pixels.
        max_pixels: images with a larger width x height are not decoded.
        progress: show a progress bar.
        prepared: the images of its training split, too, one after another. A mark in the store tells that all are there: then
            none is looked for.

    Raises:
        DataError: one of the prepared images has vanished, or changed.
    """
    folder = folder / f"{key}-{size}"
    decoder = _decoder(size, max_pixels)
    computer = tf.function(compute, input_signature=[tf.TensorSpec([BATCH_SIZE, size, size, 3], tf.uint8)], autograph=False)
    kind = computer.get_concrete_function().structured_outputs

    def computed(block: list[tuple[ImageFile, str, bytes]]) -> Iterator[tuple[ImageFile, str, str]]:
        pixels, reasons = decoder(tf.constant([data for _, _, data in block]))
        for (image, path, _), array, reason in zip(block, computer(_padded(pixels)).numpy(), reasons.numpy()):
            if not reason:
                _write(Path(path), array)
            yield image, path, reason.decode()

    def stored(images: Iterable[ImageFile], total: int) -> Iterator[tuple[ImageFile, str, str]]:
        """Each image, where its array lies, and why there is none."""
        bar = keras.utils.Progbar(total, unit_name="image") if progress else None
        block: list[tuple[ImageFile, str, bytes]] = []
        for number, image in enumerate(images, start=1):
            path, data, problem = _find(image, folder)
            if data is None:
                yield image, path, problem
            else:
                block.append((image, path, data))
            if len(block) == BATCH_SIZE:
                yield from computed(block)
                block = []
            if bar and (number % BATCH_SIZE == 0 or number == total):
                bar.update(number)
        if block:
            yield from computed(block)

    found = [*stored(images, len(images))]
    paths = {image: path for image, path, problem in found if not problem}
    problems = {image: problem for image, _, problem in found if problem}
    if prepared:
        facts = prepared.manifest["data"]["train"]
        mark = folder / f"complete-{facts['sha256']}"
        if not mark.exists():
            for image, _, problem in stored(prepared_images(prepared), facts["images"]):
                if problem:
                    raise DataError(f"{image.name}: {problem}. Put the picture back, or prepare the data anew.")
            mark.touch()
    return ImageStore(folder, paths, problems, tuple(kind.shape[1:]), kind.dtype.name)


def prepared_images(prepared: Prepared) -> Iterator[ImageFile]:
    """Those of the training split."""
    for shard in prepared.manifest["shards"]:
        if (name := f"{shard['name']}.images.jsonl") in shard["files"]:
            if (url := url_of(prepared.folder)) and not (prepared.folder / name).is_file():
                fetch(url, prepared.folder, [name])
            with (prepared.folder / name).open(encoding="utf-8") as lines:
                for digest, path, member in map(json.loads, lines):
                    yield ImageFile(member or path, path, member, digest=digest)


def image_checker(max_pixels: int) -> Callable[[Sequence[ImageFile]], Iterator[tuple[str, str]]]:
    """Makes what gives of each image its SHA-256, and why it can't be decoded."""
    decoder = _decoder(8, max_pixels)

    def check(images: Sequence[ImageFile]) -> Iterator[tuple[str, str]]:
        for start in range(0, len(images), BATCH_SIZE):
            read = [_read(image) for image in images[start : start + BATCH_SIZE]]
            _, reasons = decoder(tf.constant([data for data, _ in read]))
            for (data, problem), reason in zip(read, reasons.numpy()):
                yield hashlib.sha256(data).hexdigest(), problem or reason.decode()

    return check


def _decoder(size: int, max_pixels: int) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def decoder(data: tf.Tensor) -> Any:
        with tf.device("CPU"):  # the same pixels on every machine
            return decode_images(data, size, max_pixels)

    return decoder


def _read(image: ImageFile) -> tuple[bytes, str]:
    """Its bytes, or why there are none."""
    try:
        return image.read(), ""
    except OSError as error:
        return b"", f"can't be read: {error}"


def _find(image: ImageFile, folder: Path) -> tuple[str, bytes | None, str]:
    """Where the array of an image belongs; the bytes of the image, if it has none yet; why it can't have one."""
    if image.digest and os.path.exists(path := array_path(folder, image.digest)):
        return path, None, ""
    data, problem = _read(image)
    digest = hashlib.sha256(data).hexdigest()
    if not problem and image.digest and image.digest != digest:
        problem = "changed since the data were prepared"
    path = array_path(folder, digest)
    return path, None if problem or os.path.exists(path) else data, problem


def _padded(pixels: tf.Tensor) -> tf.Tensor:
    """One batch size: an array must not depend on what else is in the batch."""
    return tf.pad(pixels, [[0, BATCH_SIZE - pixels.shape[0]], [0, 0], [0, 0], [0, 0]])


def _write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:  # without `fsync`: there are thousands, and they can be computed again
        temporary.write_bytes(array.tobytes())


def weights_key(model: Any) -> str:
    """Short digest of all weights of a model."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:16]
