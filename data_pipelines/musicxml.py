"""Scores in MusicXML (`.musicxml`, `.xml`, `.mxl`), by music21, as notes in time."""

import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.sources import DataError, check_zip

SUFFIXES = (".musicxml", ".xml", ".mxl")


class SoundingNote(NamedTuple):
    """Onset and end in quarter notes, and the MIDI note."""

    onset: float
    end: float
    pitch: int


def read_musicxml(path: Path) -> list[SoundingNote]:
    """The notes of a score as they sound, transposing instruments at their pitch; once each, whatever is repeated.

    Chord symbols, percussion and grace notes are left out: they have no pitch, or no time.

    Raises:
        ValueError: it is no MusicXML.
    """
    from music21.musicxml.xmlToM21 import MusicXMLImporter

    importer = MusicXMLImporter()
    try:
        importer.xmlText = _text(path)
        importer.parseXMLText()
        return notes_of(importer.stream.toSoundingPitch())
    except DataError:
        raise
    except Exception as error:  # music21 raises many kinds
        raise ValueError(f"not readable as MusicXML ({str(error) or type(error).__name__})") from None


def notes_of(score: Any) -> list[SoundingNote]:
    """The notes of a score of music21."""
    from music21 import chord, harmony, note

    found = []
    for item in score.flatten().notes:
        if isinstance(item, note.Note | chord.Chord) and not isinstance(item, harmony.Harmony) and not item.duration.isGrace:
            onset, end = float(item.offset), float(item.offset) + float(item.quarterLength)
            found += [SoundingNote(onset, end, pitch.midi) for pitch in item.pitches]
    return found


def _text(path: Path) -> str | bytes:
    """The XML; of an `.mxl`, which is a zip, that of the file which its container names."""
    if not zipfile.is_zipfile(path):
        data = path.read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            check_zip(archive, path)
            named = re.search(rb'full-path="([^"]+)"', archive.read("META-INF/container.xml"))
            data = archive.read(named[1].decode() if named else "score.xml")
    return data.decode("utf-16") if data[:2] in (b"\xff\xfe", b"\xfe\xff") else data.removeprefix(b"\xef\xbb\xbf")
