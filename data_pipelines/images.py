"""Photographs as bytes to pixels, inside the graph: what training reads and what an export is sent go the same way.

JPEG (grey, colour, CMYK; turned as its EXIF orientation says), PNG (any depth, palette, transparency on white), the first
frame of a GIF. Headers are read first: what is too large is never decoded.
"""

from typing import Any, NamedTuple

import tensorflow as tf

FORMATS = ("JPEG", "PNG", "GIF")
_JPEG, _PNG, _GIF = range(3)
_SIGNATURES = {_JPEG: b"\xff\xd8\xff", _PNG: b"\x89PNG\r\n\x1a\n", _GIF: b"GIF8"}

LARGEST_IN_PARALLEL = 2**22  # pixels
MOST_SEGMENTS = 1_000  # of a JPEG before its frame, fill bytes among them
MOST_BLOCKS = 20_000  # of a GIF, sub-blocks of at most 255 bytes among them

UNKNOWN_FORMAT = "not a JPEG, PNG or GIF image"
BROKEN = "broken: its pixels can't be decoded"


class Header(NamedTuple):
    """What the first bytes of an image say; `format` is a place in `FORMATS`, or -1; `pixels` are all that
    decoding allocates; `orientation` is 1 to 8, as in EXIF."""

    format: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    pixels: tf.Tensor
    orientation: tf.Tensor


def read_header(data: tf.Tensor) -> Header:
    """Format, size in pixels and orientation of an image, from its bytes (a scalar string); nothing is decoded."""
    octets = tf.concat([tf.io.decode_raw(data, tf.uint8), tf.zeros([1], tf.uint8)], axis=0)
    is_format = [tf.strings.substr(data, 0, len(start)) == start for start in _SIGNATURES.values()]
    found = tf.where(tf.reduce_any(is_format), tf.argmax(is_format, output_type=tf.int32), -1)
    one = tf.ones([], tf.int64)
    branches = {
        _JPEG: lambda: _jpeg_header(octets),
        _PNG: lambda: (_number(octets, 20, 4), _number(octets, 16, 4), one),
        _GIF: lambda: (_number(octets, 8, 2, True), _number(octets, 6, 2, True), one),
    }
    height, width, orientation = tf.switch_case(tf.maximum(found, 0), branches)
    pixels = height * width
    pixels = tf.cond(found == _GIF, lambda: tf.where(pixels > 0, _gif_pixels(octets, pixels), 0), lambda: pixels)
    return Header(found, height, width, pixels, orientation)


def _number(octets: tf.Tensor, place: tf.Tensor | int, count: int, little: tf.Tensor | bool = False) -> tf.Tensor:
    """The unsigned number in `count` bytes from `place` on; beyond the end there are zeros."""
    last = tf.size(octets, tf.int64) - 1  # a zero
    digits = tf.gather(octets, tf.clip_by_value(place + tf.range(count, dtype=tf.int64), 0, last))
    worth = tf.constant([256**i for i in range(count)], tf.int64)
    return tf.reduce_sum(tf.cast(digits, tf.int64) * tf.where(little, worth, tf.reverse(worth, [0])))


def _jpeg_header(octets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Walk over the segments up to the frame header, as libjpeg does: height, width, orientation.

    A marker may stand after any number of FF; RST, SOI and TEM have no length. What libjpeg would skip as garbage ends the walk,
    and so do more than `MOST_SEGMENTS`: then the height is 0.
    """

    zero, one = tf.zeros([], tf.int64), tf.ones([], tf.int64)

    def body(count: tf.Tensor, place: tf.Tensor, height: tf.Tensor, width: tf.Tensor, exif: tf.Tensor) -> tuple[tf.Tensor, ...]:
        marker = _number(octets, place + 1, 1)
        is_fill = marker == 0xFF
        is_alone = ((marker >= 0xD0) & (marker <= 0xD8)) | (marker == 0x01)
        is_frame = (marker >= 0xC0) & (marker <= 0xCF) & (marker != 0xC4) & (marker != 0xC8) & (marker != 0xCC)
        is_exif = (marker == 0xE1) & (_number(octets, place + 4, 4) == 0x45786966)
        length = tf.where(is_fill, one, tf.where(is_alone, 2 * one, 2 + _number(octets, place + 2, 2)))
        return (
            count + 1,
            place + length,
            tf.where(is_frame, _number(octets, place + 5, 2), height),
            tf.where(is_frame, _number(octets, place + 7, 2), width),
            tf.where(is_exif & (exif == 0), place + 10, exif),  # the first one counts
        )

    def cond(count: tf.Tensor, place: tf.Tensor, height: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        marker = _number(octets, place + 1, 1)
        return (_number(octets, place, 1) == 0xFF) & (marker != 0xDA) & (marker != 0) & (height == 0) & (count < MOST_SEGMENTS)

    _, _, height, width, exif = tf.while_loop(cond, body, (zero, zero + 2, zero, zero, zero), parallel_iterations=1)
    orientation = tf.cond(exif > 0, lambda: _exif_orientation(octets, exif), lambda: one)
    return height, width, orientation


def _exif_orientation(octets: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Tag 0x0112 of the first directory of the TIFF structure at `start`; 1 if there is none."""
    little = _number(octets, start, 1) == 0x49
    directory = start + _number(octets, start + 4, 4, little)
    entries = tf.range(tf.minimum(_number(octets, directory, 2, little), 100), dtype=tf.int64)
    places = (directory + 2 + 12 * entries)[:, None]

    worth = tf.constant([1, 256], tf.int64)

    def two_bytes(at: int) -> tf.Tensor:
        pairs = tf.gather(
            octets, tf.clip_by_value(places + tf.constant([at, at + 1], tf.int64), 0, tf.size(octets, tf.int64) - 1)
        )
        return tf.reduce_sum(tf.cast(pairs, tf.int64) * tf.where(little, worth, worth[::-1]), axis=1)

    value = tf.reduce_max(tf.concat([tf.where(two_bytes(0) == 0x0112, two_bytes(8), 0), [0]], axis=0))
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _gif_pixels(octets: tf.Tensor, screen: tf.Tensor) -> tf.Tensor:
    """The pixels of all frames, which the decoder allocates, whatever the size of the screen; at least those of the screen.

    0 if there are more than `MOST_BLOCKS` blocks or what follows is no block.
    """
    zero, two, true = tf.zeros([], tf.int64), 2 * tf.ones([], tf.int64), tf.constant(True)
    tables = tf.constant([0] * 8 + [3 * 2**n for n in range(1, 9)], tf.int64)  # bytes of a table of colours

    def colours(place: int | tf.Tensor) -> tf.Tensor:
        flags = _number(octets, place, 1)
        return tf.gather(tables, flags // 128 * 8 + flags % 8)

    def body(count: tf.Tensor, place: tf.Tensor, inside: tf.Tensor, pixels: tf.Tensor, right: tf.Tensor) -> tuple[tf.Tensor, ...]:
        first = _number(octets, place, 1)
        is_frame = ~inside & (first == 0x2C)
        size = _number(octets, place + 5, 2, True) * _number(octets, place + 7, 2, True)
        begin = tf.where(is_frame, 11 + colours(place + 9), two)  # what stands before the sub-blocks
        return (
            count + 1,
            place + tf.where(inside, 1 + first, begin),
            tf.where(inside, first > 0, True),
            pixels + tf.where(is_frame, size, zero),
            right & (inside | is_frame | (first == 0x21)),
        )

    def cond(count: tf.Tensor, place: tf.Tensor, inside: tf.Tensor, pixels: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        at_end = ~inside & (_number(octets, place, 1) == 0x3B)
        return right & ~at_end & (place < tf.size(octets, tf.int64) - 1) & (count < MOST_BLOCKS)

    state = (zero, 13 + colours(10), ~true, zero, true)
    count, _, _, pixels, right = tf.while_loop(cond, body, state, parallel_iterations=1)
    return tf.where(right & (count < MOST_BLOCKS), tf.maximum(pixels, screen), zero)


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
        is_gif = header.format == _GIF  # its first frame may be smaller than its screen
        same = tf.reduce_all(tf.shape(pixels, tf.int64)[:2] == tf.stack([header.height, header.width]))
        tf.debugging.assert_equal(same | is_gif, True, "the size is not that of the header")
        return tf.image.resize(pixels, [size, size], antialias=True)

    def png() -> tf.Tensor:
        pixels = tf.io.decode_png(data, channels=4)
        depth = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 24, 1), tf.uint8)[0], tf.int32)
        largest = tf.pow(2, depth) - 1  # what TensorFlow fills in for opaque, where it should be 255
        filled = (depth < 8) & (tf.cast(tf.reduce_max(pixels[..., 3]), tf.int32) == largest)
        white = tf.constant(255, tf.uint16)
        opacity = tf.where(filled, white, tf.cast(pixels[..., 3:], tf.uint16))
        return squeezed(tf.cast(pixels[..., :3], tf.uint16) * opacity + white * (white - opacity)) / 255.0

    branches = {
        _JPEG: lambda: squeezed(tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")),
        _PNG: png,
        _GIF: lambda: squeezed(tf.io.decode_image(data, channels=3, expand_animations=False)),
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
    not a JPEG, PNG or GIF image
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


def augment_images(images: tf.Tensor, seed: tf.Tensor, augment: bool, flip: bool) -> tf.Tensor:
    """Images (n, rows, columns, channels) as a seed alters them: shifted by up to an eighth, brighter or darker, mirrored."""
    count = tf.shape(images)[0]
    rows, columns, channels = images.shape[1:]
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
    if flip:
        mirrored = tf.random.stateless_uniform([count, 1, 1, 1], seeds[0]) < 0.5
        images = tf.where(mirrored, tf.reverse(images, [2]), images)
    if augment:
        dtype, edge = images.dtype, rows // 8
        images = tf.pad(tf.cast(images, tf.float32), [[0, 0], [edge, edge], [edge, edge], [0, 0]], "SYMMETRIC")
        corners = tf.random.stateless_uniform([count, 2], seeds[1], 0, 2 * edge + 1, tf.int32)
        images = tf.map_fn(
            lambda pair: tf.slice(pair[0], [pair[1][0], pair[1][1], 0], [rows, columns, channels]),
            (images, corners),
            fn_output_signature=tf.TensorSpec([rows, columns, channels], tf.float32),
        )
        contrast = tf.random.stateless_uniform([count, 1, 1, 1], seeds[2], 0.8, 1.25)
        brightness = tf.random.stateless_uniform([count, 1, 1, 1], seeds[3], -25.0, 25.0)
        mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
        images = tf.cast(tf.clip_by_value((images - mean) * contrast + mean + brightness, 0.0, 255.0), dtype)
    return images
