"""What the first bytes of an image say, inside the graph: format, size, orientation; nothing is decoded.

An animated WebP is of no format: TensorFlow 2.21 writes beyond its memory when it decodes one.
"""

from typing import NamedTuple

import tensorflow as tf

FORMATS = ("JPEG", "PNG", "GIF", "WebP")
JPEG, PNG, GIF, WEBP = range(4)
_SIGNATURES = {JPEG: b"\xff\xd8\xff", PNG: b"\x89PNG\r\n\x1a\n", GIF: b"GIF8"}

MOST_SEGMENTS = 1_000  # of a JPEG before its frame, fill bytes among them
MOST_BLOCKS = 20_000  # of a GIF, sub-blocks of at most 255 bytes among them
MOST_CHUNKS = 1_000  # of a WebP before its EXIF


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
    is_format.append(_is_still_webp(octets))
    found = tf.where(tf.reduce_any(is_format), tf.argmax(is_format, output_type=tf.int32), -1)
    one = tf.ones([], tf.int64)
    branches = {
        JPEG: lambda: _jpeg_header(octets),
        PNG: lambda: (_number(octets, 20, 4), _number(octets, 16, 4), one),
        GIF: lambda: (_number(octets, 8, 2, True), _number(octets, 6, 2, True), one),
        WEBP: lambda: _webp_header(octets),
    }
    height, width, orientation = tf.switch_case(tf.maximum(found, 0), branches)
    pixels = height * width
    pixels = tf.cond(found == GIF, lambda: tf.where(pixels > 0, _gif_pixels(octets, pixels), 0), lambda: pixels)
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


def _is_still_webp(octets: tf.Tensor) -> tf.Tensor:
    """`RIFF`, a length, `WEBP`, and not the chunk `VP8X` with the flag of an animation."""
    is_webp = (_number(octets, 0, 4) == 0x52494646) & (_number(octets, 8, 4) == 0x57454250)
    return is_webp & ~((_number(octets, 12, 4) == 0x56503858) & (_number(octets, 20, 1) // 2 % 2 == 1))


def _webp_header(octets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Height, width, orientation by the first chunk: `VP8 `, `VP8L`, or `VP8X`, of which EXIF may follow in a later chunk.
    Zeros if it is another (https://developers.google.com/speed/webp/docs/riff_container)."""
    zero, one = tf.zeros([], tf.int64), tf.ones([], tf.int64)
    chunk, bits = _number(octets, 12, 4), _number(octets, 21, 4, True)
    sizes = tf.stack(
        [
            tf.stack([_number(octets, 28, 2, True) % 2**14, _number(octets, 26, 2, True) % 2**14]),
            tf.stack([bits // 2**14 % 2**14 + 1, bits % 2**14 + 1]),
            tf.stack([_number(octets, 27, 3, True) + 1, _number(octets, 24, 3, True) + 1]),
            tf.stack([zero, zero]),
        ]
    )
    kinds = tf.constant([0x56503820, 0x5650384C, 0x56503858], tf.int64)
    height, width = tf.unstack(sizes[tf.argmax(tf.concat([chunk == kinds, [True]], 0))])

    def after(count: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = _number(octets, place + 4, 4, True)
        return count + 1, place + 8 + size + size % 2

    def is_before(count: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        inside = place < tf.size(octets, tf.int64) - 1
        return inside & (_number(octets, place, 4) != 0x45584946) & (count < MOST_CHUNKS)

    def exif() -> tf.Tensor:
        _, place = tf.while_loop(is_before, after, (zero, 12 * one), parallel_iterations=1)
        start = place + 8 + tf.where(_number(octets, place + 8, 4) == 0x45786966, 6 * one, zero)  # some write "Exif\0\0"
        found = _number(octets, place, 4) == 0x45584946
        return tf.cond(found, lambda: _exif_orientation(octets, start), lambda: one)

    return height, width, tf.cond(chunk == kinds[2], exif, lambda: one)


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
