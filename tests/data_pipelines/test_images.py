"""Images as bytes: every format as Pillow reads it, every orientation, and what can't be used."""

import io
import struct
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from data_pipelines import images
from data_pipelines.image_headers import read_header
from data_pipelines.image_store import BATCH_SIZE, ImageFile, store_images, weights_key
from data_pipelines.images import BROKEN, UNKNOWN_FORMAT, augment_images, decode_images

LIMIT = 10_000


def picture(height=24, width=32, seed=0):
    """Smooth blocks of random colours: no two corners are alike."""
    colours = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3))
    return Image.fromarray(np.kron(colours, np.ones((8, 8, 1))).astype("uint8"))


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def decoded(*data, size=16):
    pixels, problems = decode_images(tf.constant(data), size, LIMIT)
    return pixels.numpy().astype(int), [p.decode() for p in problems.numpy()]


def squeezed(image, size=16):
    return tf.image.resize(np.asarray(image, "float32"), [size, size], antialias=True).numpy()


@pytest.mark.parametrize(
    "form, mode",
    [("JPEG", mode) for mode in ("RGB", "L", "CMYK")]
    + [("PNG", mode) for mode in ("RGB", "L", "P", "1", "LA", "RGBA")]
    + [("GIF", mode) for mode in ("RGB", "L", "P", "1")],
)
def test_every_format_and_mode_as_pillow_shows_it(form, mode):
    image = picture().convert(mode)
    data = encoded(image, form, **({"quality": 95} if form == "JPEG" else {}))
    wanted = Image.open(io.BytesIO(data))
    pixels, problems = decoded(data)
    assert problems == [""]
    assert np.abs(pixels[0] - squeezed(wanted.convert("RGB"))).max() < 4


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_colours_are_opaque_unless_they_say_so(bits):
    image = picture().convert("P", palette=Image.Palette.ADAPTIVE, colors=2**bits)
    assert np.abs(decoded(encoded(image, "PNG", bits=bits))[0][0] - squeezed(image.convert("RGB"))).max() < 4
    assert (decoded(encoded(image, "PNG", bits=bits, transparency=bytes(2**bits)))[0] == 255).all()


def test_sixteen_bits_become_eight():
    grey = np.asarray(picture().convert("L")).astype("uint16")
    pixels, _ = decoded(encoded(Image.fromarray(grey * 257), "PNG"))
    assert np.abs(pixels[0] - squeezed(np.repeat(grey[..., None], 3, 2))).max() < 4


def test_what_is_transparent_is_white():
    image = picture().convert("RGBA")
    image.putalpha(0)
    assert (decoded(encoded(image, "PNG"))[0] == 255).all()
    palette = picture().convert("P")
    assert (decoded(encoded(palette, "PNG", transparency=bytes(256)))[0] == 255).all()


def test_the_first_frame_of_a_gif():
    frames = [picture(seed=n).convert("P") for n in range(3)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.abs(decoded(data)[0][0] - squeezed(frames[0].convert("RGB"))).max() < 4


def test_webp():
    """Without loss, with loss, transparent, turned; an animation is never decoded."""
    image, turned = picture(), Image.Exif()
    turned[0x0112] = 6
    clear = image.convert("RGBA")
    clear.putalpha(Image.new("L", image.size, 100))
    still = [encoded(i, "WEBP", lossless=lossless, quality=95) for i in (image, clear) for lossless in (False, True)]
    still += [encoded(image, "WEBP", lossless=True, exif=start + turned.tobytes()[6:]) for start in (b"", b"Exif\0\0")]
    assert {data[12:16] for data in still} == {b"VP8 ", b"VP8L", b"VP8X"}
    moving = [encoded(image, "WEBP", save_all=True, append_images=[clear], lossless=lossless) for lossless in (False, True)]
    pixels, problems = decoded(*still, *moving, b"RIFF\0\0\0\0WEBP", still[0][:60])
    assert problems == [""] * 6 + [UNKNOWN_FORMAT] * 2 + [BROKEN] * 2
    for got, data in zip(pixels, still):
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGBA")
        wanted = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
        assert np.abs(got - squeezed(wanted)).max() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", [b"II*\0", b"MM\0*"])
def test_the_orientation_is_obeyed(orientation, order):
    exif = Image.Exif()
    exif.endian = "<" if order[:1] == b"I" else ">"
    exif[0x010E], exif[0x0112], exif[0x0131] = "a description", orientation, "software"
    data = encoded(picture(), "JPEG", exif=exif, quality=95, comment=b"before the frame")
    assert b"Exif\0\0" + order in data
    assert int(read_header(tf.constant(data)).orientation) == orientation
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.abs(decoded(data)[0][0] - squeezed(upright)).max() < 4


def test_a_damaged_orientation_changes_nothing():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(), "JPEG", exif=exif, quality=95)
    place = data.index(b"Exif\0\0") + 6
    for damaged in (data[: place + 4] + b"\xff\xff\xff\x7f" + data[place + 8 :], data.replace(b"Exif\0\0", b"Exiv\0\0")):
        assert int(read_header(tf.constant(damaged)).orientation) == 1
        np.testing.assert_array_equal(decoded(damaged)[0], decoded(encoded(picture(), "JPEG", quality=95))[0])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP"])
@pytest.mark.parametrize("progressive", [False, True])
def test_headers_tell_the_size(form, progressive):
    options = {"progressive": progressive} if form == "JPEG" else {}
    header = read_header(tf.constant(encoded(picture(40, 24), form, **options)))
    assert (int(header.height), int(header.width)) == (40, 24)


def test_each_image_is_judged_alone():
    good, jpeg = encoded(picture(), "PNG"), encoded(picture(seed=1), "JPEG")
    large = encoded(Image.new("L", (101, 100)), "PNG")
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (2**31 - 1).to_bytes(4, "big") * 2 + bytes(20)
    data = [good, b"", b"no image", jpeg[: len(jpeg) // 2], large, bomb, b"\xff\xd8\xff", b"GIF89a", good[:40], jpeg]
    pixels, problems = decoded(*data)
    assert problems[0] == problems[-1] == ""
    assert problems[1] == problems[2] == UNKNOWN_FORMAT
    assert problems[3] == problems[8] == BROKEN
    assert problems[4] == "101 x 100 pixels, more than the limit of 10,000"
    assert problems[5].startswith("2147483647 x 2147483647 pixels")
    assert problems[6] == problems[7] == BROKEN
    np.testing.assert_array_equal(pixels[0], decoded(good)[0][0])
    np.testing.assert_array_equal(pixels[-1], decoded(jpeg)[0][0])
    assert not pixels[1:-1].any()
    assert decode_images(tf.constant([], tf.string), 16, LIMIT)[0].shape == (0, 16, 16, 3)


def test_large_images_are_decoded_one_at_a_time_to_the_same(monkeypatch):
    broken = encoded(picture(seed=2), "JPEG")[:300]
    data = [encoded(picture(), "PNG"), broken, encoded(picture(seed=1), "JPEG"), encoded(Image.new("L", (5, 5)), "GIF")]
    pixels, problems = decoded(*data)
    monkeypatch.setattr(images, "LARGEST_IN_PARALLEL", 100)
    again, problems_again = decoded(*data)
    assert problems == problems_again == ["", BROKEN, "", ""]
    np.testing.assert_array_equal(pixels, again)
    few, problems = decode_images(tf.constant(data), 16, LIMIT, 2 * 24 * 32)  # the broken one counts, the small one does not
    assert [bool(problem) for problem in problems.numpy()] == [False, True, True, False]
    assert problems[2].numpy() == b"more than 1,536 pixels together with those before it: send it alone"
    np.testing.assert_array_equal(few[::3], pixels[::3])


# -- the store


@pytest.fixture
def files(tmp_path):
    images = []
    for n in range(BATCH_SIZE + 3):
        path = tmp_path / f"{n}.png"
        path.write_bytes(encoded(picture(seed=n), "PNG"))
        images.append(ImageFile(path.name, str(path)))
    return images


def test_a_second_run_computes_only_what_changed(files, tmp_path):
    calls = []

    def compute(pixels):
        tf.py_function(lambda: calls.append(1), [], [])
        return tf.cast(tf.reduce_mean(tf.cast(pixels, tf.float32), axis=[1, 2])[:, None, None], tf.float16)

    def stored():
        calls.clear()
        return store_images(files, tmp_path / "store", "mean", compute, size=16, max_pixels=LIMIT)

    store = stored()
    assert len(calls) == 2 and not store.problems and (store.shape, store.dtype) == ((1, 1, 3), "float16")
    wanted = decoded((tmp_path / "5.png").read_bytes())[0].mean(axis=(1, 2))
    np.testing.assert_allclose(store.load(store.paths[files[5]]).numpy()[0], wanted, rtol=1e-3)
    assert store == stored() and not calls
    (tmp_path / "5.png").write_bytes(encoded(picture(seed=99), "PNG"))
    (tmp_path / "6.png").unlink()
    (tmp_path / "7.png").write_bytes(b"no image")
    changed = stored()
    assert len(calls) == 1
    assert changed.paths[files[5]] != store.paths[files[5]]
    assert "can't be read" in changed.problems[files[6]] and changed.problems[files[7]] == UNKNOWN_FORMAT
    assert set(files) == {*changed.paths, *changed.problems}
    assert not list((tmp_path / "store").rglob(".*"))


def test_pixels_are_kept_as_they_are(files, tmp_path):
    store = store_images(files, tmp_path / "store", "pixels", lambda pixels: pixels, size=16, max_pixels=LIMIT)
    wanted, _ = decoded(*[file.read() for file in files])
    np.testing.assert_array_equal([store.load(store.paths[file]) for file in files], wanted)


def test_the_key_follows_the_weights():
    import keras

    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    key = weights_key(layer)
    layer.kernel.assign_add(np.full((3, 2), 1e-6))
    assert weights_key(layer) != key


def test_pictures_vary_by_seed_only():
    images = np.stack([np.asarray(picture(32, 32, seed=n)) for n in range(6)])
    seed = tf.constant([1, 2], tf.int64)
    one, again = (augment_images(images, seed, augment=True, flip=True).numpy() for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert (one != augment_images(images, seed + 1, augment=True, flip=True)).numpy().any()
    assert one.shape == images.shape and one.dtype == images.dtype
    mirrored = [
        np.array_equal(a, b[:, ::-1]) for a, b in zip(augment_images(images, seed, augment=False, flip=True).numpy(), images)
    ]
    assert 0 < sum(mirrored) < 6
    np.testing.assert_array_equal(augment_images(images, seed, augment=False, flip=False), images)


def gif(frames, screen=(10, 10), more=b""):
    """A GIF of which only the descriptors are whole: screen, and (width, height) of its frames."""
    data = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(6)
    for width, height in frames:
        data += b"!\xf9\x04\0\0\0\0\0" + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0"
    return data + more + b";"


def problem(data, max_pixels=1_000_000):
    return decode_images(tf.constant([data]), 4, max_pixels)[1][0].numpy().decode()


def test_frames_of_a_gif_count_whatever_its_screen_says():
    assert "more than the limit of 1,000,000" in problem(gif([(12_000, 12_000)]))
    assert "more than the limit of 1,000,000" in problem(gif([(1_000, 900)] * 2, (1_000, 900)))
    assert problem(gif([(10, 10)], more=b"!\xfe" + b"\x01a" * 50_000 + b"\0")) == BROKEN
    file = io.BytesIO()
    stills = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green")]
    stills[0].save(file, "GIF", save_all=True, append_images=stills[1:])
    assert problem(file.getvalue()) == ""
    assert "limit" in problem(file.getvalue(), 40 * 30 * 2)


def jpeg_with(inserted, place=2, size=(40, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "JPEG")
    data = file.getvalue()
    return data[:place] + inserted + data[place:]


def test_the_walk_over_a_jpeg_is_that_of_libjpeg():
    """Fill bytes before a marker, markers without a length, and what looks like a frame inside a segment."""
    large = b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 16_000, 12_000) + b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    comment = b"\xff\xfe" + struct.pack(">H", len(large) + 2) + large
    for inserted in (b"", b"\xff" * 7, b"\xff\xff\xff" + comment, b"\xff\xd0\xff\x01", comment):
        data = jpeg_with(inserted)
        assert tuple(int(x) for x in read_header(tf.constant(data))[1:3]) == (30, 40), inserted
        assert problem(data) == ""
    # the frame that a wrong walk would take for a comment: libjpeg decodes it, so its size counts
    real = jpeg_with(b"", size=(1_200, 1_000))
    hidden = real[:2] + b"\xff\xff\xff\xff" + real[2:]
    assert Image.open(io.BytesIO(hidden)).size == (1_200, 1_000)
    assert problem(hidden) == "1200 x 1000 pixels, more than the limit of 1,000,000"
    assert problem(jpeg_with(b"\xff" * 2_000)) == BROKEN  # the walk is bounded


def test_many_exif_segments_cost_no_more_than_one():
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff\xff" + (b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0") * 100
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    first = exif.replace(b"\0\x06\0\0", b"\0\x03\0\0")
    data = jpeg_with(b"\xff\xe1" + struct.pack(">H", len(first) + 2) + first + segment * 300)
    begun = time.monotonic()
    assert int(read_header(tf.constant(data)).orientation) == 3
    assert time.monotonic() - begun < 10


def test_sizes_equal_pillows():
    """Images of every format and mode with markers and bytes put in: the size is Pillow's, or the image is refused."""
    generator = np.random.default_rng(0)
    header = tf.function(read_header, input_signature=[tf.TensorSpec((), tf.string)])
    compared = refused = 0
    for i in range(200):
        kind = ("JPEG", "PNG", "GIF", "WEBP")[i % 4]
        size = tuple(int(x) for x in generator.integers(1, 60, 2))
        file = io.BytesIO()
        Image.new("RGB", size, "red").save(file, kind)
        data = bytearray(file.getvalue())
        if kind == "JPEG":
            place = 2
            for _ in range(int(generator.integers(0, 4))):
                data[place:place] = [b"\xff" * int(generator.integers(1, 5)), b"\xff\xd3", b"\xff\xfe\0\x04ab"][
                    generator.integers(3)
                ]
        else:
            for _ in range(int(generator.integers(0, 3))):
                data[generator.integers(30, len(data))] ^= 1 << int(generator.integers(8))
        found = header(tf.constant(bytes(data)))
        pixels = int(found.pixels)
        try:
            wanted = Image.open(io.BytesIO(bytes(data))).size
        except Exception:
            continue
        refused += pixels == 0
        compared += pixels > 0
        if kind == "GIF":  # Pillow's size holds the first frame, the pixels are those of all
            assert pixels == 0 or pixels >= wanted[0] * wanted[1], i
        else:
            assert pixels == 0 or (int(found.width), int(found.height)) == wanted, (i, kind)
    assert compared > 100 and refused < 20
