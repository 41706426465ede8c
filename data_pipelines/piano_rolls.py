"""Piano rolls: which keys sound in each frame; from any source to the streams that a model trains on."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_pipelines import batching, musicxml
from data_pipelines.batching import Batches
from data_pipelines.corpus import Corpus, Skipped
from data_pipelines.remote import local
from data_pipelines.sources import DataError, check_zip, find_splits, split_off
from data_pipelines.tunes import Streams

MAX_FRAMES = 1_000_000  # of one piece
SCORES = (".mid", ".midi", *musicxml.SUFFIXES)
KEYS, LOWEST = 88, 21  # a piano's keys; the MIDI note of the first


class Rolls(Corpus[np.ndarray]):
    """Pieces by split, each (frames, 88) uint8, and the files that were skipped."""

    def counts(self, examples: Sequence[np.ndarray]) -> dict[str, int]:
        return {"pieces": len(examples), "frames": sum(map(len, examples))}

    def fields(self, example: np.ndarray) -> tuple[str]:
        return (example.tobytes().hex(),)


def load_rolls(source: str, frame_beats: float = 0.25, whole: bool = False) -> Rolls:
    """Piano rolls from `embedded` (Bach chorales) or a path.

    Args:
        source: a path is a folder with `train.npz` and, if they exist, `valid.npz` and `test.npz`, each with `frames` (sum of
            lengths, 88) and `lengths` (n,); a folder with `.mid`, `.musicxml` or `.mxl` files, in `train/`, `valid/`, `test/` or
            all together; or one such file. Without a validation split it is cut off the training split, the same in every run.
        whole: for evaluation: nothing is cut off, and there need be no training split.
        frame_beats: of MIDI, MusicXML and chorales: how long a frame is, in quarter notes.

    Raises:
        DataError: no file, arrays of the wrong shape, no pieces.
    """
    source = local(source)
    skipped: list[Skipped] = []
    path = Path(source)
    if source == "embedded":
        splits = {"train": embedded_chorales(frame_beats)}
    elif path.suffix == ".npz" or any(path.glob("*.npz" if whole else "train.npz")):
        files = find_splits(path, (".npz",), whole) if path.is_dir() else {"train": path}
        splits = {split: _from_npz(file) for split, file in files.items()}
    else:
        splits = {}
        for split, file in _scores(path):
            read = read_score if file.suffix.lower() in musicxml.SUFFIXES else read_midi
            try:
                splits.setdefault(split, []).append(read(file, frame_beats))
            except ValueError as error:
                skipped.append(Skipped(split, str(file), str(error)))
    alone = not (path.is_dir() and len(splits) > 1) and not any(path.glob("train.npz"))
    splits = split_off(splits if whole else {"train": [], **splits}, alone, whole)
    return Rolls(splits, skipped=skipped).check_not_empty(
        source, "Add .mid or .musicxml files, or an .npz with frames and lengths."
    )


def _from_npz(path: Path) -> list[np.ndarray]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_zip(archive, path)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            frames, lengths = file["frames"], file["lengths"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the path.") from None
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}. Save arrays named frames (sum of lengths, 88) and lengths (n,).") from None
    except DataError:
        raise
    except Exception as error:  # zipfile, NumPy
        raise DataError(f"{path}: not a readable .npz file ({error}). Save it anew.") from None
    numbers = frames.dtype.kind in "biuf" and lengths.dtype.kind in "iu" and (lengths >= 0).all()
    shaped = frames.ndim == 2 and frames.shape[1] == KEYS and lengths.ndim == 1
    if not numbers or not shaped or lengths.sum() != len(frames):
        raise DataError(
            f"{path}: frames {frames.shape} of {frames.dtype}, lengths {lengths.shape} of {lengths.dtype}; expected frames (sum "
            f"of lengths, {KEYS}) and lengths (n,), counts that sum up to the frames. Save one frame a row."
        )
    return [piece.astype(np.uint8) for piece in np.split(frames != 0, np.cumsum(lengths)[:-1]) if len(piece)]


def _scores(path: Path) -> list[tuple[str, Path]]:
    if path.is_file():
        return [("train", path)]
    known = {"train": "train", "valid": "validation", "val": "validation", "dev": "validation", "validation": "validation"}
    known["test"] = "test"
    files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SCORES]
    if not files:
        raise DataError(f"{path}: no .npz, .mid or .musicxml files. Pass a folder that holds some, or the path of one file.")
    return [(known.get(file.relative_to(path).parts[0], "train"), file) for file in files]


def read_midi(path: Path, frame_beats: float) -> np.ndarray:
    """The notes of a MIDI file, without drums, as frames of so many quarter notes.

    Raises:
        ValueError: not MIDI, no notes on a piano's keys, or the file counts in seconds instead of beats.
    """
    import mido

    try:
        file = mido.MidiFile(path)
    except Exception as error:  # mido raises many kinds
        raise ValueError(f"not a readable MIDI file ({error})") from None
    if file.type == 2 or file.ticks_per_beat <= 0 or file.ticks_per_beat >= 0x8000:
        raise ValueError("its time isn't in beats")
    notes = []
    for track in file.tracks:
        now, sounding = 0, dict[tuple[int, int], int]()
        for message in track:
            now += message.time
            if message.type in ("note_on", "note_off") and message.channel != 9:
                key = (message.channel, message.note)
                if key in sounding:
                    notes.append((sounding.pop(key), now, message.note))
                if message.type == "note_on" and message.velocity:
                    sounding[key] = now
    ticks = file.ticks_per_beat * frame_beats
    cells = [(round(a / ticks), max(round(b / ticks), round(a / ticks) + 1), note) for a, b, note in notes]
    return _roll([cell for cell in cells if LOWEST <= cell[2] < LOWEST + KEYS])


def read_score(path: Path, frame_beats: float) -> np.ndarray:
    """The notes of a MusicXML file as frames of so many quarter notes.

    Raises:
        ValueError: not MusicXML, or no notes on a piano's keys.
    """
    return _roll(_cells(musicxml.read_musicxml(path), frame_beats))


def _cells(notes: Sequence[musicxml.SoundingNote], frame_beats: float) -> list[tuple[int, int, int]]:
    cells = [(round(n.onset / frame_beats), round(n.end / frame_beats), n.pitch) for n in notes]
    return [(a, max(b, a + 1), pitch) for a, b, pitch in cells if LOWEST <= pitch < LOWEST + KEYS]


def _roll(cells: list[tuple[int, int, int]]) -> np.ndarray:
    """(first frame, frame after the last, MIDI note) -> frames, from the first note on."""
    if not cells:
        raise ValueError("no notes on the keys of a piano")
    first, last = min(a for a, _, _ in cells), max(b for _, b, _ in cells)
    if last - first > MAX_FRAMES:
        raise ValueError(f"{last - first:,} frames, more than the limit of {MAX_FRAMES:,}")
    sounding = sum(b - a for a, b, _ in cells)
    if sounding > KEYS * MAX_FRAMES:  # many tracks that play the same
        raise ValueError(f"notes of {sounding:,} frames in all, more than the limit of {KEYS * MAX_FRAMES:,}")
    frames = np.zeros((last - first, KEYS), np.uint8)
    for a, b, note in cells:
        frames[a - first : b - first, note - LOWEST] = 1
    return frames


def midi_bytes(frames: np.ndarray, frame_beats: float = 0.25, beats_per_minute: float = 100.0) -> bytes:
    """Frames as a MIDI file; a key that sounds in frames that follow each other is one note."""
    import mido

    file = mido.MidiFile(ticks_per_beat=480)
    track = mido.MidiTrack()
    file.tracks.append(track)
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(beats_per_minute)))
    padded = np.pad(np.asarray(frames, np.int8), ((1, 1), (0, 0)))
    changes = np.diff(padded, axis=0)
    now = 0
    for t, key in zip(*np.nonzero(changes)):
        at = round(int(t) * frame_beats * 480)
        kind = "note_on" if changes[t, key] > 0 else "note_off"
        track.append(mido.Message(kind, note=int(key) + LOWEST, velocity=72, time=at - now))
        now = at
    content = io.BytesIO()
    file.save(file=content)
    return content.getvalue()


def embedded_chorales(frame_beats: float = 0.25) -> list[np.ndarray]:
    """The chorales of Bach that music21 carries: in the public domain."""
    from music21 import corpus

    return [_roll(_cells(musicxml.notes_of(chorale), frame_beats)) for chorale in corpus.chorales.Iterator()]


def roll_streams(
    pieces: Sequence[np.ndarray],
    *,
    batch_size: int,
    steps: int,
    epochs: int,
    seed: int,
    start_step: int = 0,
    transpose_prob: float = 0.0,
) -> Batches:
    """`({"frames", "targets", "is_continuation"}, targets)`: the frame before each, and the frames; -1 where there is none.

    Args:
        batch_size, steps, seed: see `data_pipelines.tunes.Streams`.
        epochs: of the whole training; the first `start_step` batches are skipped.
        transpose_prob: probability of transposing a piece by up to six keys, as far as the piano goes, anew in each epoch.
    """
    lengths = np.array([len(piece) for piece in pieces])
    streams = Streams(lengths, batch_size, steps, seed)
    plan = streams.plan(epochs * streams.steps_per_epoch)
    flat = tf.constant(np.concatenate(pieces).astype(np.int8))
    starts = np.cumsum(lengths) - lengths
    generator = np.random.default_rng([seed, 1])
    rounds = int(plan[..., 2].max()) + 1  # of all examples
    used = [np.flatnonzero(piece.any(axis=0)) for piece in pieces]
    lowest = np.array([-min(6, keys[0]) if len(keys) else 0 for keys in used])
    highest = np.array([min(5, KEYS - 1 - keys[-1]) if len(keys) else 0 for keys in used])
    shift = generator.integers(lowest, highest + 1, (rounds, len(pieces)))
    shift = np.where(generator.random(shift.shape) < transpose_prob, shift, 0)[plan[..., 2], plan[..., 0]]
    begin = starts[plan[..., 0]] + plan[..., 1].astype(np.int64) * steps
    end = (starts + lengths)[plan[..., 0]]
    dataset = tf.data.Dataset.from_tensor_slices((begin, end, shift.astype(np.int32), plan[..., 1] > 0)).skip(start_step)

    def cut(
        begin: tf.Tensor, end: tf.Tensor, shift: tf.Tensor, is_continuation: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        places = begin[:, None] + tf.range(-1, steps, dtype=tf.int64)
        there = (places < end[:, None]) & (is_continuation[:, None] | (places >= begin[:, None]))
        frames = tf.gather(flat, tf.where(there, places, 0))  # (batch_size, steps + 1, keys)
        frames = tf.where(there[..., None], frames, 0)
        frames = tf.gather(tf.pad(frames, [[0, 0], [0, 0], [6, 6]]), tf.range(KEYS) + 6 - shift[:, None], axis=2, batch_dims=1)
        targets = tf.where(there[:, 1:, None], frames[:, 1:], -1)
        inputs = {
            "frames": frames[:, :-1],
            "targets": tf.maximum(targets, 0),
            "is_continuation": tf.cast(is_continuation, tf.float32),
        }
        return inputs, targets

    return Batches(dataset.map(cut, num_parallel_calls=2).prefetch(2), streams.steps_per_epoch)


def whole_rolls(pieces: Sequence[np.ndarray], batch_size: int = 16) -> tf.data.Dataset:
    """Batches of whole pieces in the form of `roll_streams`, the shortest first; for validation."""

    def batches():
        for targets in batching.padded_batches([piece.astype(np.int8) for piece in pieces], batch_size, padding=-1):
            frames = np.maximum(targets, 0)
            yield {"frames": np.pad(frames[:, :-1], ((0, 0), (1, 0), (0, 0))), "targets": frames}, targets

    spec = tf.TensorSpec((None, None, KEYS), tf.int8)
    return tf.data.Dataset.from_generator(batches, output_signature=({"frames": spec, "targets": spec}, spec))
