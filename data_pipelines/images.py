"""Photographs as bytes to pixels, inside the graph: what training reads and what an export is sent go the same way.

JPEG (grey, colour, CMYK) and still WebP, both turned as their EXIF orientation says; PNG (any depth, palette); the first frame
of a GIF; transparency on white. Headers are read first: what is too large is never decoded.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from data_pipelines.image_headers import GIF, JPEG, PNG, WEBP, Header, read_header

LARGEST_IN_PARALLEL = 2**22  # pixels

UNKNOWN_FORMAT = "not a JPEG, PNG, GIF or still WebP image"
BROKEN = "broken: its pixels can't be decoded"


def header_problem(header: Header, max_pixels: int) -> tf.Tensor:
    """Why an image can't be used, according to its header; "" if it can."""
    frames = tf.where(header.pixels > header.height * header.width, tf.strings.format(", {} in all frames", header.pixels), "")
    size = (
        tf.strings.format("{} x {} pixels", [header.width, header.height]) + frames + f", more than the limit of {max_pixels:,}"
    )
    problem = tf.where(header.pixels > max_pixels, size, "")
    problem = tf.where(header.pixels == 0, BROKEN, problem)
    return tf.where(header.format < 0, UNKNOWN_FORMAT, problem)


def decode(data: tf.Tensor, header: Header, size: int) -> tf.Tensor:
    """The pixels (size, size, 3), uint8: nothing is cut off, the sides are squeezed to a square."""

    def squeezed(pixels: tf.Tensor) -> tf.Tensor:  # of small integers: a large picture as floats would take four times as much
        pixels = tf.ensure_shape(pixels, [None, None, 3])
        is_gif = header.format == GIF  # its first frame may be smaller than its screen
        same = tf.reduce_all(tf.shape(pixels, tf.int64)[:2] == tf.stack([header.height, header.width]))
        tf.debugging.assert_equal(same | is_gif, True, "the size is not that of the header")
        return tf.image.resize(pixels, [size, size], antialias=True)

    def on_white(colours: tf.Tensor, opacity: tf.Tensor) -> tf.Tensor:
        white, opacity = tf.constant(255, tf.uint16), tf.cast(opacity, tf.uint16)
        return squeezed(tf.cast(colours, tf.uint16) * opacity + white * (white - opacity)) / 255.0

    def webp() -> tf.Tensor:
        pixels = tf.ensure_shape(tf.io.decode_image(data, channels=0, expand_animations=False), [None, None, None])
        pixels = tf.concat([pixels, tf.fill([*tf.unstack(tf.shape(pixels)[:2]), 1], tf.constant(255, tf.uint8))], axis=2)
        return on_white(pixels[..., :3], pixels[..., 3:4])  # the fourth is its own opacity, or the one that was added

    def png() -> tf.Tensor:
        pixels = tf.io.decode_png(data, channels=4)
        depth = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 24, 1), tf.uint8)[0], tf.int32)
        largest = tf.pow(2, depth) - 1  # what TensorFlow fills in for opaque, where it should be 255
        filled = (depth < 8) & (tf.cast(tf.reduce_max(pixels[..., 3]), tf.int32) == largest)
        return on_white(pixels[..., :3], tf.where(filled, tf.constant(255, tf.uint8), pixels[..., 3:]))

    branches = {
        JPEG: lambda: squeezed(tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")),
        PNG: png,
        GIF: lambda: squeezed(tf.io.decode_image(data, channels=3, expand_animations=False)),
        WEBP: webp,
    }
    pixels = tf.ensure_shape(tf.switch_case(header.format, branches), [size, size, 3])
    turn = header.orientation
    pixels = tf.cond(turn >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    pixels = tf.cond(_among(turn, 2, 3, 6, 7), lambda: pixels[:, ::-1], lambda: pixels)
    pixels = tf.cond(_among(turn, 3, 4, 7, 8), lambda: pixels[::-1], lambda: pixels)
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0.0, 255.0), tf.uint8)


def _among(value: tf.Tensor, *choices: int) -> tf.Tensor:
    return tf.reduce_any(value == tf.constant(choices, tf.int64))


def decode_images(data: tf.Tensor, size: int, max_pixels: int, max_total: int = tf.int64.max) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode what can be decoded, and say what is wrong with the rest.

    Args:
        data: the bytes of images, strings (n,).
        size: of the square that all become, in pixels.
        max_pixels: the largest width x height that is decoded.
        max_total: the same of all images above `LARGEST_IN_PARALLEL` together; those after it are a problem.

    Returns:
        Pixels (n, size, size, 3), uint8, black where there is a problem; problems (n,), strings, "" where there is none.

    >>> pixels, problems = decode_images(tf.constant([b"no image"]), size=4, max_pixels=100)
    >>> print(problems[0].numpy().decode())
    not a JPEG, PNG, GIF or still WebP image
    """
    count = tf.shape(data)[0]
    black = tf.zeros([size, size, 3], tf.uint8)

    def read(place: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, Header, tf.Tensor]:
        header = read_header(data)
        return place, data, header, header_problem(header, max_pixels)

    def count_large(total: tf.Tensor, place: tf.Tensor, data: tf.Tensor, header: Header, problem: tf.Tensor) -> tuple[Any, ...]:
        is_large = (problem == "") & (header.pixels > LARGEST_IN_PARALLEL)
        fits = total + header.pixels <= max_total
        problem = tf.where(
            is_large & ~fits, f"more than {max_total:,} pixels together with those before it: send it alone", problem
        )
        return total + tf.where(is_large & fits, header.pixels, 0), (place, data, header, problem)

    def decode_small(place: tf.Tensor, data: tf.Tensor, header: Header, problem: tf.Tensor) -> tuple[Any, ...]:
        is_small = (problem == "") & (header.pixels <= LARGEST_IN_PARALLEL)
        return place, data, header, problem, tf.cond(is_small, lambda: decode(data, header, size), lambda: black)

    def decode_large(place: tf.Tensor, data: tf.Tensor, header: Header, problem: tf.Tensor, pixels: tf.Tensor) -> tuple[Any, ...]:
        is_large = (problem == "") & (header.pixels > LARGEST_IN_PARALLEL)
        return place, problem, tf.cond(is_large, lambda: decode(data, header, size), lambda: pixels)

    # an operation that fails would end the whole request; a dataset can leave it out
    rows = tf.data.Dataset.from_tensor_slices((tf.range(count), data))
    rows = rows.map(read, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    rows = rows.scan(tf.zeros([], tf.int64), lambda total, row: count_large(total, *row))
    rows = rows.map(decode_small, num_parallel_calls=tf.data.AUTOTUNE)
    rows = rows.ignore_errors().map(decode_large).ignore_errors()  # one at a time, each takes a gigabyte
    rows = rows.concatenate(tf.data.Dataset.from_tensors((count, tf.constant(""), black)))  # never empty
    places, problems, pixels = rows.batch(tf.cast(count, tf.int64) + 1).get_single_element()
    places = places[:, None]
    pixels = tf.scatter_nd(places, pixels, [count + 1, size, size, 3])[:-1]
    return pixels, tf.tensor_scatter_nd_update(tf.fill([count + 1], BROKEN), places, problems)[:-1]


def augment_images(
    images: tf.Tensor, seed: tf.Tensor, augment: bool, flip: bool, first: tf.Tensor | int = 0, total: tf.Tensor | None = None
) -> tf.Tensor:
    """Images (n, rows, columns, channels) as a seed alters them: shifted by up to an eighth, brighter or darker, mirrored.

    Those of a batch of `total` images from `first` on are altered as in the whole batch.
    """
    count = tf.shape(images, tf.int64)[0]
    rows, columns, channels = images.shape[1:]

    def draw(seed: tf.Tensor, shape: Sequence[int], *limits: Any) -> tf.Tensor:
        whole = count if total is None else total
        return tf.random.stateless_uniform([whole, *shape], seed, *limits)[first : first + count]

    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
    if flip:
        mirrored = draw(seeds[0], [1, 1, 1]) < 0.5
        images = tf.where(mirrored, tf.reverse(images, [2]), images)
    if augment:
        dtype, edge = images.dtype, rows // 8
        images = tf.pad(tf.cast(images, tf.float32), [[0, 0], [edge, edge], [edge, edge], [0, 0]], "SYMMETRIC")
        corners = draw(seeds[1], [2], 0, 2 * edge + 1, tf.int32)
        images = tf.map_fn(
            lambda pair: tf.slice(pair[0], [pair[1][0], pair[1][1], 0], [rows, columns, channels]),
            (images, corners),
            fn_output_signature=tf.TensorSpec([rows, columns, channels], tf.float32),
        )
        contrast = draw(seeds[2], [1, 1, 1], 0.8, 1.25)
        brightness = draw(seeds[3], [1, 1, 1], -25.0, 25.0)
        mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
        images = tf.cast(tf.clip_by_value((images - mean) * contrast + mean + brightness, 0.0, 255.0), dtype)
    return images
