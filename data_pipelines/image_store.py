"""Arrays of images on disk, computed once: one file an image, named by what the image holds and how it was computed.

A second run finds them; a changed image has another name and is computed anew; what does not fit into memory is read as it is
needed, inside the graph. A file is written whole or not at all.
"""

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from data_pipelines.files import replacing
from data_pipelines.images import decode_images

BATCH_SIZE = 32


MAX_BYTES = 100_000_000  # of a packed image


class ImageFile(NamedTuple):
    """An image that may be read: a file, a member of a zip, or bytes in memory."""

    name: str
    path: str = ""
    member: str = ""
    data: bytes = b""

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
        paths: where each array lies.
        problems: why an image has none.
        shape, dtype: of each array.
    """

    paths: dict[ImageFile, str]
    problems: dict[ImageFile, str]
    shape: tuple[int, ...]
    dtype: str

    def load(self, path: tf.Tensor) -> tf.Tensor:
        """The array of one file, in the graph."""
        return tf.reshape(tf.io.decode_raw(tf.io.read_file(path), tf.as_dtype(self.dtype)), self.shape)


def store_images(
    images: Sequence[ImageFile],
    folder: Path,
    key: str,
    compute: Callable[[tf.Tensor], tf.Tensor],
    *,
    size: int,
    max_pixels: int,
    progress: bool = False,
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
    """
    folder = folder / f"{key}-{size}"
    paths: dict[ImageFile, str] = {}
    problems: dict[ImageFile, str] = {}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def decoder(data: tf.Tensor) -> Any:
        with tf.device("CPU"):  # the same pixels on every machine
            return decode_images(data, size, max_pixels)

    computer = tf.function(compute, input_signature=[tf.TensorSpec([BATCH_SIZE, size, size, 3], tf.uint8)], autograph=False)
    kind = computer.get_concrete_function().structured_outputs
    bar = keras.utils.Progbar(len(images), unit_name="image") if progress else None
    for block in _missing_images(images, folder, paths, problems, bar):
        pixels, reasons = decoder(tf.constant([data for _, _, data in block]))
        arrays = computer(_padded(pixels))
        for (image, path, _), array, reason in zip(block, arrays.numpy(), reasons.numpy()):
            if reason:
                problems[image] = reason.decode()
            else:
                paths[image] = str(path)
                _write(path, array)
    return ImageStore(paths, problems, tuple(kind.shape[1:]), kind.dtype.name)


def _padded(pixels: tf.Tensor) -> tf.Tensor:
    """One batch size: an array must not depend on what else is in the batch."""
    return tf.pad(pixels, [[0, BATCH_SIZE - pixels.shape[0]], [0, 0], [0, 0], [0, 0]])


def _missing_images(images, folder, paths, problems, bar) -> Iterator[list[tuple[ImageFile, Path, bytes]]]:
    """Blocks of `(image, path, bytes)` of the images that have no array yet; note the others in `paths` and `problems`."""
    block: list[tuple[ImageFile, Path, bytes]] = []
    for number, image in enumerate(images, start=1):
        try:
            data = image.read()
        except OSError as error:
            problems[image] = f"can't be read: {error}"
            continue
        digest = hashlib.sha256(data).hexdigest()
        path = folder / digest[:2] / digest[2:]
        if path.exists():
            paths[image] = str(path)
        else:
            block.append((image, path, data))
        if len(block) == BATCH_SIZE:
            yield block
            block = []
        if bar and (number % BATCH_SIZE == 0 or number == len(images)):
            bar.update(number)
    if block:
        yield block


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
