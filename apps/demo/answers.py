"""From user inputs to the HTML of the page, through the exported models. No state is kept between requests."""

import html
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from apps.demo import drawing
from apps.image_captioning.pictures import open_image
from apps.language_model.predict import next_tokens, score
from apps.music_generation.config import TOP_P
from apps.music_generation.rolls.predict import continue_roll
from apps.music_generation.shared import generates_tunes
from apps.music_generation.sound import notes_of, synthesize, to_wav
from apps.music_generation.tunes.engraver import engrave
from apps.music_generation.tunes.evaluate import sample_tunes
from apps.music_generation.tunes.scores import with_open_repeats
from apps.sentiment_classification.predict import predictions
from apps.translation.predict import attention_of, scored_alternatives, unknown_words
from data_pipelines.piano_rolls import KEYS, midi_bytes
from data_pipelines.sources import DataError

LONGEST_TEXT = 5_000  # characters
LARGEST_IMAGE = 10 * 2**20  # bytes


def _first(served: Any, signature: str, **inputs: Any) -> dict[str, Any]:
    """The outputs for a batch of one, without the batch."""
    outputs = served.signatures[signature](**{name: tf.constant([value]) for name, value in inputs.items()})
    return {name: value.numpy()[0] for name, value in outputs.items()}


def _strings(values: Any) -> list[str]:
    return [value.decode("utf-8", "replace") for value in values if value]


def _checked(text: str) -> str:
    if not text.strip():
        raise DataError("There is no text yet. Type some, or choose an example.")
    if len(text) > LONGEST_TEXT:
        raise DataError(f"The text has {len(text):,} characters; expected at most {LONGEST_TEXT:,}. Send a part of it.")
    return text


def sentiment(served: Any, text: str) -> tuple[dict[str, float], str]:
    """The classes with their probabilities; the words with their attention, or the unknown ones if the model has none."""
    classes = _first(served, "probabilities", text=_checked(text))
    labels = {label: float(p) for label, p in zip(_strings(classes["labels"]), classes["probabilities"])}
    prediction = predictions(served, [text])[0]
    if "weights" not in prediction:
        return labels, drawing.unknown_words(list(dict.fromkeys(prediction["unknown"])))
    return labels, drawing.highlighted_words(prediction["weights"], prediction["unknown"])


def translation(served: Any, text: str) -> tuple[str, str, str, str]:
    """The translation; the unknown words; the alternatives; what each token attended to."""
    outputs = _first(served, "serving_default", text=_checked(text))
    rows = scored_alternatives(outputs["alternatives"], outputs["alternative_scores"])
    source, target, weights = attention_of(outputs)
    attention = drawing.attention_table(source, target, weights) if weights.size else ""
    unknown = drawing.unknown_words(unknown_words(outputs["source_tokens"], outputs["unknown"]))
    return outputs["translation"].decode("utf-8", "replace"), unknown, drawing.table(["alternative", "score"], rows), attention


def caption(served: Any, path: str | None) -> tuple[str, str]:
    """The caption; what each of its words attended to, if the model has attention."""
    if path is None:
        raise DataError("There is no picture yet. Drop a JPEG or PNG, or choose the example.")
    data = Path(path).read_bytes()  # of at most LARGEST_IMAGE, or the page had refused it
    outputs = _first(served, "serving_default", image_bytes=data)
    if outputs["error"]:
        reason = outputs["error"].decode("utf-8", "replace").removeprefix("image_bytes[0]: ")
        raise DataError(f"This file can't be read as a picture: {reason} Drop a JPEG or PNG.")
    caption = outputs["caption"].decode("utf-8", "replace")
    if "attention" not in outputs:
        return caption, ""
    return caption, drawing.attention_maps(open_image(data), _strings(outputs["words"]), outputs["attention"])


def music(
    served: Any, prompt: str, temperature: float, seed: int, length: int, constrained: bool
) -> Iterator[tuple[str, str, str, str]]:
    """(what is done, the notation, pictures, the sound), each time with more of it.

    Args:
        length: at most so many tokens, or so many frames of a piano roll, which has no prompt and no bars.
    """
    if len(prompt) > LONGEST_TEXT:
        raise DataError(f"The beginning has {len(prompt):,} characters; expected at most {LONGEST_TEXT:,}. Send a shorter one.")
    return (
        _tune(served, prompt, temperature, seed, length, constrained)
        if generates_tunes(served)
        else _roll(served, temperature, seed, length)
    )


def _tune(
    served: Any, prompt: str, temperature: float, seed: int, max_new_tokens: int, constrained: bool
) -> Iterator[tuple[str, str, str, str]]:
    yield "1 of 3: generating the tune", "", "", ""
    abc = sample_tunes(served, 1, max_new_tokens, temperature, TOP_P, seed, constrained, prompt)[0]
    yield "2 of 3: engraving it", abc, "", ""
    score = engrave([with_open_repeats(abc)], files=True)[0]
    if score is None:
        message = "This tune can't be read as sheet music. Keep the bars full, lower the temperature, or take another seed."
        yield "", abc, f"<p>{html.escape(message)}</p>", ""
        return
    yield from _sounding(abc, drawing.sheet_music(score.pages), score.midi, "3 of 3: making the sound")


def _roll(served: Any, temperature: float, seed: int, new_frames: int) -> Iterator[tuple[str, str, str, str]]:
    yield "1 of 2: generating the piece", "", "", ""
    frames = continue_roll(served, np.zeros((0, KEYS), np.uint8), new_frames, temperature, seed)
    yield from _sounding("", "", midi_bytes(frames, 0.25), "2 of 2: making the sound")


def _sounding(abc: str, sheet: str, midi: bytes, step: str) -> Iterator[tuple[str, str, str, str]]:
    notes = notes_of(midi)
    pictures = sheet + drawing.piano_roll(notes)
    yield step, abc, pictures, ""
    files = drawing.download(midi, "audio/midi", "tune.mid")
    files += drawing.download(abc.encode(), "text/vnd.abc", "tune.abc") if abc else ""
    yield "", abc, pictures, drawing.audio_player(to_wav(synthesize(notes))) + files


def language(load: Callable[[], Any], text: str, temperature: float, seed: int, length: int) -> Iterator[tuple[str, str, str]]:
    """(the text, its words with their surprise, what may come next), each time with a token more."""
    if len(text) > LONGEST_TEXT:
        raise DataError(f"The text has {len(text):,} characters; expected at most {LONGEST_TEXT:,}. Send the end of it.")
    served = load()
    following = drawing.table(["most probable next", "probability"], [(_shown(t), p) for t, p in next_tokens(served, text, 8)])
    surprise = drawing.surprising_words(_measured(served, text)[:-1])
    yield text, surprise, following
    signature = served.signatures["decode_step"]
    state = np.zeros([1, signature.structured_input_signature[1]["state"].shape[1]], np.float32)
    written, unread, finished = text, text, False
    for step in range(length):
        numbers = {"temperature": tf.constant(temperature, tf.float32), "top_p": tf.constant(0.95), "top_k": tf.constant(0)}
        numbers |= {"seed": tf.constant((seed + 7919 * step) % 2**31)}
        outputs = signature(text=tf.constant([unread]), state=tf.constant(state), **numbers)
        state, unread, finished = outputs["state"].numpy(), "", bool(outputs["finished"][0])
        if finished:
            break
        written += outputs["token"].numpy()[0].decode("utf-8", "replace")
        yield written, surprise, following
    pairs = _measured(served, written)
    yield written, drawing.surprising_words(pairs if finished else pairs[:-1]), following


def _measured(served: Any, text: str) -> list[tuple[str, float]]:
    return [(_shown(token), bits) for token, bits in score(served, text)]


def _shown(token: str) -> str:
    return token.replace("▁", " ").strip() or ("␣" if token else "(end)")
