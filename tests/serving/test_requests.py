"""Requests that no one should send get a defined answer or an error that says why; good ones beside them notice nothing."""

import time

import numpy as np
import pytest
import tensorflow as tf

from apps.common import cli
from apps.common.export.saved_model import load_export
from apps.image_captioning.serving import example_image
from apps.translation.evaluate import _batches, translate_all
from tests.serving.small import SENTENCES

DRAWING = {"max_new_tokens": 30, "temperature": 0.9, "top_p": 0.95, "seed": 7}
JPEG = tf.io.encode_jpeg(np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype("uint8")).numpy()
BAD_TEXTS = ["", b"\xff\xfe broken \xc3", "x" * 1_000_000, "word " * 200_000, "\x00\x01\n\t", "<b>" * 50, "🙂" * 30]
BAD_IMAGES = [b"", b"no picture", JPEG[:200], JPEG[:-40] + b"\x00" * 40, b"\xff\xd8" + b"\x00" * 1_000_000]


@pytest.fixture(scope="module")
def served(exports):
    """(application, signature) -> a function of plain values that returns plain values."""
    loaded = {application: load_export(folder) for application, folder in exports.items()}

    def call(application, signature="serving_default", **inputs):
        function = loaded[application].signatures[signature]
        specs = function.structured_input_signature[1]
        constants = {name: tf.constant(value, specs[name].dtype) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in function(**constants).items()}

    call.signatures = {application: list(model.signatures) for application, model in loaded.items()}
    call.function = lambda application, name: loaded[application].signatures[name]
    return call


def is_text(value):
    """All strings are UTF-8, as JSON wants it, and all numbers are numbers."""
    if value.dtype == object:
        [text.decode("utf-8") for text in value.ravel()]
    else:
        assert np.isfinite(value).all()
    return True


def test_every_signature_takes_an_empty_batch(served):
    for application, signatures in served.signatures.items():
        for signature in signatures:
            function = served.function(application, signature)
            inputs = {}
            for name, spec in function.structured_input_signature[1].items():
                shape = [size or 0 for size in spec.shape] if spec.shape.rank else []
                if spec.shape.rank is None:  # a number for all
                    shape = []
                inputs[name] = tf.zeros(shape, spec.dtype) if spec.dtype != tf.string else tf.zeros(shape, tf.string)
            for name, value in function(**inputs).items():
                assert value.shape[0] == 0, (application, signature, name)


@pytest.mark.parametrize("signature", ["serving_default", "serving_greedy"])
@pytest.mark.parametrize("application, good", [("sentiment_classification", "the food wasn't good"), ("translation", "two men")])
def test_bad_texts_get_answers_and_good_ones_beside_them_their_own(served, application, good, signature):
    begun = time.monotonic()
    mixed = served(application, signature, text=[BAD_TEXTS[0], good, *BAD_TEXTS[1:], good + " eat"])
    assert time.monotonic() - begun < 60
    assert all(is_text(value) for value in mixed.values())
    for place, text in ((1, good), (-1, good + " eat")):
        assert_same_row(mixed, place, served(application, signature, text=[text]))


def test_a_text_is_translated_as_its_sentences_are(served):
    sentences = ["A small dog runs.", "Two men sit on a wall!", "The food was good?"]
    alone = [served("translation", text=[sentence]) for sentence in sentences]
    texts = {" ".join(sentences[:2]): alone[:2], "": [], sentences[2]: alone[2:], " ".join(sentences): alone}
    found = served("translation", text=list(texts))
    for i, parts in enumerate(texts.values()):
        assert found["translation"][i] == b" ".join(part["translation"][0] for part in parts)
        if parts:
            np.testing.assert_allclose(found["score"][i], np.mean([part["score"][0] for part in parts]), rtol=1e-5)
        attention, row, column = np.zeros_like(found["attention"][i]), 0, 0
        for part in parts:
            rows, columns = (sum(map(bool, part[name][0])) for name in ("target_tokens", "source_tokens"))
            attention[row : row + rows, column : column + columns] = part["attention"][0][:rows, :columns]
            row, column = row + rows, column + columns
        np.testing.assert_allclose(found["attention"][i], attention, atol=1e-6)
        for name in ("target_tokens", "source_tokens"):
            assert [t for t in found[name][i] if t] == [t for part in parts for t in part[name][0] if t]
    fast = served("translation", "serving_greedy", text=list(texts))
    assert fast["translation"][0].count(b" ") >= 1 and fast["translation"][1] == b""


def test_long_texts_are_bounded(served):
    text = " ".join(["A small dog runs."] * 60)
    long = served("translation", text=[text])
    assert long["attention"].size > 0 and sum(map(bool, long["source_tokens"][0])) > 500
    skipped = served("translation", text=[text, *[""] * 90])  # most of the attention would be zeros
    assert skipped["attention"].shape[2] == 0 and skipped["translation"][0] == long["translation"][0]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"rows of up to .* at most 32,768 tokens, padding"):
        served("translation", "serving_greedy", text=[text] * 300)


def test_batches_of_a_command_are_below_the_limit_and_what_is_beyond_is_one_line(served, exports, capsys):
    lines = [" ".join(["A."] * 18)] * 31 + ["A small dog runs"]
    assert len(set(translate_all(load_export(exports["translation"]), lines)[:31])) == 1
    texts = ["a" * 30, *["A." + " It is." * 250] * 3, "b" * 40_000, *["c"] * 70]
    batches = list(_batches(texts))
    assert sorted(place for batch in batches for place in batch) == [*range(len(texts))]
    assert [len(batch) for batch in batches] == [32, 32, 9, 1, 1]
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: served("translation", text=["a"] * 513))
    message = "text: 513 rows of up to 64 tokens; expected at most 32,768 tokens, padding counted, in a request. Send several."
    assert end.value.code == 2 and capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(
    "application, signature, long, short",
    [("sentiment_classification", "serving_default", "good " * 60, 14_000), ("music_generation", "score", "A" * 60_000, 3)],
)
def test_one_long_row_beside_many_empty_ones_is_an_error(served, application, signature, long, short):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"rows of up to .* padding counted, in a request"):
        served(application, signature, text=[long] + [""] * short)
    assert len(next(iter(served(application, signature, text=[long, ""]).values()))) == 2


EMPTY_ROLLS = np.zeros((10**6, 0, 88), "uint8")


@pytest.mark.parametrize(
    "application, signature, inputs, message",
    [
        ("sentiment_classification", "probabilities", {"text": [""] * 32_769}, "at most 524,288 tokens"),
        ("translation", "serving_greedy", {"text": ["a"] * 513}, "at most 32,768 tokens"),
        ("image_captioning", "serving_greedy", {"image_bytes": ["x"] * 33}, "33 pictures; expected at most 32"),
        ("music_generation", "serving_greedy", {"prompt": ["a"] * 3_000, "max_new_tokens": 60}, "at most 131,072 tokens"),
        ("music_generation", "constrained", {"prompt": ["a" * 240] * 600, **DRAWING}, "at most 131,072 tokens"),
        ("music_generation", "score", {"text": [""] * 70_000}, "at most 131,072 tokens"),
        ("language_model", "serving_greedy", {"prompt": ["a"] * 513, "max_new_tokens": 1}, "at most 32,768 tokens"),
        ("language_model", "next_tokens", {"prompt": [""] * 513, "count": 3}, "at most 32,768 tokens"),
        ("language_model", "score", {"text": [""] * 32_769}, "at most 32,768 tokens"),
        ("piano_rolls", "serving_greedy", {"frames": EMPTY_ROLLS, "new_frames": 9}, "at most 131,072 frames"),
        ("piano_rolls", "score", {"frames": np.zeros((131_073, 1, 88)), "lengths": [1] * 131_073}, "at most 131,072 frames"),
        *(
            (application, "serving_greedy", {name: ["a" * 2**24, "a"], **more}, "16777217 bytes; expected at most 16,777,216")
            for application, name, more in (
                ("sentiment_classification", "text", {}),
                ("translation", "text", {}),
                ("music_generation", "prompt", {"max_new_tokens": 1}),
                ("language_model", "prompt", {"max_new_tokens": 1}),
            )
        ),
    ],
)
def test_what_would_take_too_much_is_an_error_in_little_time(served, application, signature, inputs, message):
    begun = time.monotonic()
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        served(application, signature, **inputs)
    assert time.monotonic() - begun < 10


def test_texts_read_step_by_step_are_bounded_together(served):
    size = served.function("music_generation", "decode_step").structured_input_signature[1]["state"].shape[1]
    numbers = {"temperature": 1.0, "top_p": 1.0, "seed": 1, "state": np.zeros((600, size))}
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 131,072 tokens"):
        served("music_generation", "decode_step", text=["a" * 240] + [""] * 599, **numbers)


def test_a_long_piece_is_scored_in_blocks_as_it_is_at_once(served):
    piece = np.random.default_rng(0).integers(0, 2, (2, 1_300, 88)).astype("uint8")
    together = served("piano_rolls", "score", frames=piece, lengths=[1_300, 1_300])["nats"]
    for row, nats in zip(piece, together):  # other blocks
        np.testing.assert_allclose(served("piano_rolls", "score", frames=row[None], lengths=[1_300])["nats"], [nats], rtol=1e-5)
    parts = [served("piano_rolls", "score", frames=piece[:1, :n], lengths=[n])["nats"][0] for n in (40, 1_000)]
    whole = [served("piano_rolls", "score", frames=piece[:1], lengths=[n])["nats"][0] for n in (40, 1_000)]
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


def test_unknown_words_are_told_up_to_the_limit_of_a_sentence(served):
    known = SENTENCES[0] + " " + SENTENCES[1]  # cut inside a word that was read in training
    assert not served("translation", text=[known])["unknown"].any()
    assert served("translation", text=["a small wug"])["unknown"].any()


def assert_same_row(batch, place, alone):
    """The row of a batch says what the request said alone; it may be padded more."""
    for name, value in batch.items():
        row, single = np.asarray(value[place]), np.asarray(alone[name][0])
        part = row[tuple(slice(size) for size in single.shape)]
        if value.dtype == object:
            np.testing.assert_array_equal(part, single, err_msg=name)
        else:
            np.testing.assert_allclose(part, single, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("signature", ["serving_default", "serving_greedy"])
def test_broken_images_get_an_error_each_and_good_ones_beside_them_their_caption(served, signature):
    good = [JPEG, example_image()]
    mixed = served("image_captioning", signature, image_bytes=[good[0], *BAD_IMAGES, good[1]])
    assert all(is_text(value) for value in mixed.values())
    for place, image in ((0, good[0]), (-1, good[1])):
        alone = served("image_captioning", signature, image_bytes=[image])
        assert alone["error"] == [b""] and alone["caption"][0]
        assert_same_row(mixed, place, alone)
    for place in (1, 2, 5):
        assert mixed["error"][place].startswith(b"image_bytes[%d]: " % place)
        assert mixed["caption"][place] == b""


@pytest.mark.parametrize("signature", ["serving_default", "constrained"])
def test_odd_prompts_and_numbers_get_tunes(served, signature):
    good, seeds = "M:6/8\nL:1/8\nK:D\nd2e", range(5, 5 + len(BAD_TEXTS) + 2)
    alone = served("music_generation", signature, prompt=[good], **{**DRAWING, "seed": [seeds[1]]})
    numbers = {
        "max_new_tokens": [30, 30, -5, 0, 2_000_000_000, 30, 30, 30, 30],
        "temperature": [1.0, 0.9, 0.0, -1.0, np.nan, np.inf, 1e30, 1e-30, 1.0],
        "top_p": [0.95, 0.95, 0.0, -1.0, 2.0, np.nan, 0.9, 0.9, 0.9],
    }
    mixed = served("music_generation", signature, prompt=[BAD_TEXTS[0], good, *BAD_TEXTS[1:], good], seed=list(seeds), **numbers)
    assert is_text(mixed["abc"])
    assert mixed["abc"][1] == alone["abc"][0]
    assert mixed["abc"][3].decode() == BAD_TEXTS[2]  # far too long: it comes back


def test_temperature_0_and_below_generate_the_most_probable_tune(served):
    tunes = [
        served("music_generation", prompt=[""], **{**DRAWING, "top_p": 1.0, "temperature": t, "seed": 3})["abc"][0]
        for t in (0.0, -1.0, np.nan)
    ]
    fast = served("music_generation", "serving_greedy", prompt=[""], max_new_tokens=30)["abc"][0]
    assert set(tunes) == {fast}
    assert served("music_generation", prompt=[""], **{**DRAWING, "temperature": 3.0})["abc"][0] != fast


def test_a_tune_is_as_long_as_the_limit_at_most(served):
    limit = 60  # of the small export
    longest = served(
        "music_generation", prompt=["M:6/8\nL:1/8\nK:D\n"], **{**DRAWING, "max_new_tokens": 10**9, "temperature": 1000.0}
    )
    assert len(longest["abc"][0]) <= limit + len("X:1\nM:6/8\nL:1/8\nK:Dmaj\n")


@pytest.mark.parametrize(
    "application, signature, inputs, named",
    [
        ("music_generation", "serving_default", {"prompt": ["", ""], **DRAWING, "temperature": [1.0, 1.0, 1.0]}, "temperature"),
        ("music_generation", "constrained", {"prompt": ["", ""], **DRAWING, "seed": []}, "seed"),
        ("music_generation", "serving_greedy", {"prompt": [""], "max_new_tokens": [1, 2]}, "max_new_tokens"),
        ("music_generation", "score", {"text": ["a" * 200_000]}, "text"),
        ("language_model", "serving_default", {"prompt": [""], "top_k": 0, **DRAWING, "seed": [1, 2]}, "seed"),
        ("language_model", "next_tokens", {"prompt": ["", ""], "count": [1, 2, 3]}, "count"),
        ("piano_rolls", "score", {"frames": np.zeros((1, 60_000, 88), "uint8"), "lengths": [60_000]}, "frames"),
    ],
)
def test_what_fits_no_row_is_an_error_that_names_the_input(served, application, signature, inputs, named):
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"\[{named} has \d+ .*\. .+\.\]"):
        served(application, signature, **inputs)


def test_what_fits_no_signature_is_an_error(served):
    for application, name in (("sentiment_classification", "text"), ("translation", "text"), ("image_captioning", "image_bytes")):
        function = served.function(application, "serving_default")
        with pytest.raises(tf.errors.InvalidArgumentError, match="expected to be a string tensor but is a float tensor"):
            function(**{name: tf.constant([1.0])})
        with pytest.raises(TypeError, match=name):
            function(other=tf.constant(["a"]))


def test_odd_rolls_get_frames(served):
    numbers = {"new_frames": 12, "temperature": 1.0, "seed": 1}
    piece = np.random.default_rng(0).integers(0, 2, (1, 5, 88)).astype("uint8")
    normal = served("piano_rolls", frames=piece, **numbers)["frames"]
    assert normal.shape == (1, 17, 88)
    np.testing.assert_array_equal(served("piano_rolls", frames=255 * piece, **numbers)["frames"], normal)  # loud is on
    for change in ({"temperature": 0.0}, {"temperature": -1.0}, {"temperature": np.nan}):
        np.testing.assert_array_equal(
            served("piano_rolls", frames=piece, **{**numbers, **change})["frames"],
            served("piano_rolls", "serving_greedy", frames=piece, new_frames=12)["frames"],
        )
    assert served("piano_rolls", frames=piece, **{**numbers, "new_frames": -3})["frames"].shape == (1, 5, 88)
    assert served("piano_rolls", frames=piece[:, :0], **{**numbers, "new_frames": 0})["frames"].shape == (1, 0, 88)
    assert served("piano_rolls", frames=piece, **{**numbers, "new_frames": 10**9})["frames"].shape == (1, 45, 88)


def test_a_roll_goes_on_frame_by_frame_as_it_does_at_once(served):
    piece = np.random.default_rng(0).integers(0, 2, (2, 5, 88)).astype("uint8")
    at_once = served("piano_rolls", "serving_greedy", frames=piece, new_frames=6)["frames"]
    assert (at_once[:, 5:] != at_once[:, 5:6]).any()  # they change
    size = served.function("piano_rolls", "decode_step").structured_input_signature[1]["state"].shape[1]
    state, frame = np.zeros((2, size), "float32"), np.zeros((2, 88), "uint8")
    for t in range(11):
        outputs = served("piano_rolls", "decode_step", frame=frame, state=state, temperature=0.0, seed=1)
        state, frame = outputs["state"], piece[:, t] if t < 5 else outputs["frame"]
        np.testing.assert_array_equal(frame, at_once[:, t])


def test_fast_signatures_say_what_a_greedy_search_finds(served):
    text = ["the food wasn't good at all !", "a small dog"]
    full, fast = (served("sentiment_classification", name, text=text) for name in ("serving_default", "serving_greedy"))
    assert set(fast) == {"label", "probability"}
    for name in fast:
        np.testing.assert_array_equal(fast[name], full[name])
    fast = served("translation", "serving_greedy", text=text)
    assert set(fast) == {"translation", "score"}
    best = served("translation", text=text)
    assert (best["score"] >= -1e8).all() and all(fast["translation"])
    fast = served("image_captioning", "serving_greedy", image_bytes=[JPEG])
    assert set(fast) == {"caption", "score", "error"} and fast["caption"][0]
