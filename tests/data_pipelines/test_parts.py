"""Rows that are read from a place in the midst of their files: those of the whole files."""

import gzip
import itertools
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_pipelines.parts import noting, reading
from data_pipelines.text_files import passage_files, translation_files

TEXTS = [f"text {n} ☃" + " é" * (n % 5) for n in range(40)]
PAIRS = [(text, text.upper()) for text in TEXTS]
QUOTED = [(f'{a}\n "{a}"', b) for a, b in PAIRS]
TSV = "en\tde\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS)
JSONL = "".join("\n" * (n % 3) + json.dumps({"en": a, "de": b}) + "\n" for n, (a, b) in enumerate(PAIRS))
CSV = "de;en\r\n" + "".join('{};"{}"\r\n'.format(b, a.replace('"', '""')) for a, b in QUOTED)
LINES = "".join(f"{text}\x0b{text} again\u2028{text} a third time\n" for text in TEXTS)  # three passages a line


def parquet(path):
    table = pyarrow.table({"en": TEXTS, "de": [text.upper() for text in TEXTS]})
    pyarrow.parquet.write_table(table, path, row_group_size=7)


FILES = {
    "a.tsv": TSV.encode(),
    "mark.tsv": TSV.encode("utf-8-sig"),
    "ends.tsv": TSV.replace("\n", "\r\n").encode(),
    "none.tsv": TSV.partition("\n")[2].encode(),  # no header
    "blank.tsv": TSV.replace("\n", "\n\n\n").encode(),
    "wide.tsv": TSV.encode("utf-16"),
    "a.tsv.gz": gzip.compress(TSV.encode()),
    "a.csv": CSV.encode(),
    "returns.csv": CSV.replace("\r\n", "\r").encode(),
    "a.jsonl": JSONL.encode(),
    "a.json": json.dumps([{"en": a, "de": b} for a, b in PAIRS]).encode(),
    "a.txt": LINES.encode(),
    "a.parquet": parquet,
}


def check(split, places):
    """A part from each row on gives the rows from there."""
    with noting() as trail:
        rows, parts = [], []
        for row in split.read():
            parts.append(trail.parts(split.files))
            rows.append(row)
            trail.rows += 1
    assert len(rows) in (40, 120)
    assert sum(map(bool, parts)) == places
    for number, part in enumerate(parts):
        with reading(part) as missing:
            assert [*itertools.islice(split.read(), number - missing, number - missing + 9)] == rows[number : number + 9]
            assert missing >= 0
    assert [*split.read()] == rows


@pytest.mark.parametrize("name", FILES)
def test_a_part_of_a_file(name, tmp_path):
    path = tmp_path / name
    FILES[name](path) if callable(FILES[name]) else path.write_bytes(FILES[name])
    places = {"wide.tsv": 0, "a.json": 0, "a.txt": 117, "a.parquet": 40}.get(name, 39)
    if name == "a.txt":
        check(passage_files(path, None)["train"], places)
    else:
        check(translation_files(path, "en", "de")[0]["train"], places)


@pytest.mark.parametrize("packed", [True, False])
def test_parts_of_two_files(packed, tmp_path):
    (tmp_path / "a.en").write_text("".join(f"{a}\n" for a, _ in PAIRS))
    of = "".join(f"{b}\n" for _, b in PAIRS).encode()
    Path(f"{tmp_path}/a.de{'.gz' * packed}").write_bytes(gzip.compress(of) if packed else of)
    check(translation_files(tmp_path / "a", "en", "de")[0]["train"], 39)
    (tmp_path / "a.en").write_text("".join(f"{a}\n" for a, _ in PAIRS), encoding="utf-16")  # a part of one is none
    check(translation_files(tmp_path / "a", "en", "de")[0]["train"], 0)
