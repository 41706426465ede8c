"""MusicXML as piano rolls: voices, ties, transposing instruments, and what is no MusicXML."""

import zipfile

import numpy as np
import pytest

from data_pipelines.musicxml import read_musicxml
from data_pipelines.piano_rolls import LOWEST, load_rolls
from data_pipelines.sources import DataError

NOTE = "<note><pitch><step>{}</step><octave>{}</octave></pitch><duration>{}</duration><voice>{}</voice>{}</note>"
GRACE = "<note><grace/><pitch><step>B</step><octave>6</octave></pitch><voice>1</voice><type>eighth</type></note>"
CHORD_SYMBOL = "<harmony><root><root-step>A</root-step></root><kind>major</kind></harmony>"
TIME = "<attributes><divisions>2</divisions><time><beats>2</beats><beat-type>4</beat-type></time></attributes>"
CLARINET = (
    "<attributes><divisions>2</divisions><transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose></attributes>"
)


def tie(kind):
    return f'<tie type="{kind}"/>'


def score(*parts):
    names = "".join(f'<score-part id="P{i}"><part-name>P{i}</part-name></score-part>' for i in range(len(parts)))
    text = f"<score-partwise><part-list>{names}</part-list>"
    for i, part in enumerate(parts):
        text += (
            f'<part id="P{i}">' + "".join(f'<measure number="{n}">{bar}</measure>' for n, bar in enumerate(part, 1)) + "</part>"
        )
    return '<?xml version="1.0" encoding="UTF-8"?>' + text + "</score-partwise>"


SCORE = score(
    [
        TIME + CHORD_SYMBOL + NOTE.format("C", 5, 2, 1, "") + GRACE + NOTE.format("D", 5, 2, 1, tie("start"))
        + "<backup><duration>4</duration></backup>" + NOTE.format("E", 3, 4, 2, ""),
        NOTE.format("D", 5, 4, 1, tie("stop")),
    ],
    [CLARINET + NOTE.format("D", 4, 1, 1, "") + NOTE.format("A", 4, 3, 1, ""), NOTE.format("D", 4, 4, 1, "")],
)  # fmt: skip
NOTES = {(0, 1, 72), (1, 2, 74), (2, 4, 74), (0, 2, 52), (0, 0.5, 60), (0.5, 2, 67), (2, 4, 60)}


def test_the_notes_sound_when_and_as_they_should(tmp_path):
    (tmp_path / "a.musicxml").write_text(SCORE)
    (tmp_path / "b.xml").write_bytes(SCORE.replace("UTF-8", "UTF-16").encode("utf-16"))
    with zipfile.ZipFile(tmp_path / "c.mxl", "w") as archive:
        archive.writestr(
            "META-INF/container.xml", '<container><rootfiles><rootfile full-path="x/y.xml"/></rootfiles></container>'
        )
        archive.writestr("x/y.xml", SCORE)
    for name in ("a.musicxml", "b.xml", "c.mxl"):
        assert set(read_musicxml(tmp_path / name)) == NOTES, name
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.musicxml").write_text(SCORE)
    (tmp_path / "train" / "broken.musicxml").write_text(SCORE[:500])
    (tmp_path / "train" / "other.xml").write_text("<html/>")
    (tmp_path / "train" / "other.mxl").write_bytes(b"PK\5\6" + bytes(18))
    for name in ("a.musicxml", "b.xml", "c.mxl"):
        (tmp_path / name).unlink()
    rolls = load_rolls(str(tmp_path), frame_beats=0.5)
    frames = np.zeros((8, 88), np.uint8)
    for onset, end, pitch in NOTES:
        frames[int(2 * onset) : int(2 * end), pitch - LOWEST] = 1
    for split in ("train", "validation"):
        np.testing.assert_array_equal(rolls.splits[split], [frames])
    reasons = {item.name.rpartition("/")[2]: item.reason for item in rolls.skipped}
    assert set(reasons) == {"broken.musicxml", "other.xml", "other.mxl"}
    assert all(reason.startswith("not readable as MusicXML (") and "\n" not in reason for reason in reasons.values())


def test_an_mxl_that_unpacks_to_much_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.mxl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("META-INF/container.xml", "")
        archive.writestr("score.xml", b" " * 300_000_000)
    with pytest.raises(DataError, match="its members take 300,000,000 bytes"):
        load_rolls(str(tmp_path / "a.mxl"))
