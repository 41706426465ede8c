"""Sound of a MIDI file without a synthesizer or sound fonts: a plucked string for each note."""

import io
import wave
from pathlib import Path
from typing import NamedTuple

import mido
import numpy as np

RATE = 22_050  # samples a second
LONGEST_SECONDS = 180.0
HARMONICS = (1.0, 0.5, 0.35, 0.15, 0.1, 0.05)


class Note(NamedTuple):
    """A note; pitch is the number of MIDI, 60 the middle C."""

    start_seconds: float
    seconds: float
    pitch: int


def notes_of(midi: bytes) -> list[Note]:
    """The notes of a MIDI file, in order of their start."""
    now, notes = 0.0, []
    sounding: dict[tuple[int, int], float] = {}
    for message in mido.MidiFile(file=io.BytesIO(midi)):  # with the seconds since the message before
        now += message.time
        if message.type not in ("note_on", "note_off"):
            continue
        key = (message.channel, message.note)
        if key in sounding:
            begun = sounding.pop(key)
            notes.append(Note(begun, now - begun, message.note))
        if message.type == "note_on" and message.velocity:
            sounding[key] = now
    return sorted(notes)


def synthesize(notes: list[Note]) -> np.ndarray:
    """Samples from -1 to 1, `RATE` a second, of at most `LONGEST_SECONDS`.

    >>> samples = synthesize([Note(0.0, 0.5, 69)])
    >>> spectrum = np.abs(np.fft.rfft(samples))
    >>> round(float(np.argmax(spectrum)) * RATE / len(samples))  # the a' of orchestras
    440
    """
    notes = [note for note in notes if note.start_seconds < LONGEST_SECONDS]
    end = max((note.start_seconds + note.seconds for note in notes), default=0.0)
    samples = np.zeros(int((min(end, LONGEST_SECONDS) + 1.0) * RATE), np.float32)
    for start, seconds, pitch in notes:
        frequency = 440.0 * 2.0 ** ((pitch - 69) / 12)
        time = np.arange(int((min(seconds, 8.0) + 0.25) * RATE), dtype=np.float32) / RATE
        wave_form = np.zeros_like(time)
        for number, strength in enumerate(HARMONICS, start=1):
            if number * frequency < RATE / 2:
                wave_form += strength * np.exp(-time * (1.5 + 0.8 * number)) * np.sin(2 * np.pi * number * frequency * time)
        attack = np.minimum(1.0, time / 0.006)
        release = np.clip(1.0 - (time - seconds) / 0.2, 0.0, 1.0)
        first = int(start * RATE)
        part = samples[first : first + len(time)]
        part += (wave_form * attack * release)[: len(part)]
    return samples / max(1e-6, float(np.abs(samples).max())) * 0.9


def to_wav(samples: np.ndarray) -> bytes:
    """A WAV file: one channel, 16 bits."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def write_wav(midi: bytes, path: Path) -> Path:
    """Write the sound of a MIDI file to `path` with the ending .wav; return that."""
    file = path.with_name(path.name + ".wav")
    file.write_bytes(to_wav(synthesize(notes_of(midi))))
    return file
