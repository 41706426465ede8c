"""Predictions for the rows of a file."""

import argparse
import csv
import gzip
import io
import json
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from apps.common import prediction
from data_pipelines.sources import DataError


def predict(data, output, *line, function=lambda texts: [{"length": len(text)} for text in texts]):
    parser = argparse.ArgumentParser()
    parser.add_argument("input", nargs="*")
    parser.add_argument("--json", action="store_true")
    prediction.add_file_flags(parser)
    arguments = parser.parse_args(["--data", str(data), "--output", str(output), *line])
    prediction.check_flags(arguments, parser)
    prediction.predict_file(arguments, function)


CONTENTS = {
    "in.csv": 'id,text,more\n1,"a ""b"",\nc",x\n2,,y\n3,ж,z\n',
    "in.tsv": 'text\tid\r\na "b",\t1\r\n\t2\r\nж\t3\r\n',
    "in.jsonl": '{"id": 1, "text": "a \\"b\\",\\nc"}\n\n{"id": 2, "text": ""}\n{"id": [3, null], "text": "ж"}',
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("output", ["out.csv", "out.jsonl"])
@pytest.mark.parametrize("zipped", [False, True])
def test_rows_keep_their_order_and_their_columns(name, output, zipped, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prediction, "ROWS", 2)
    data = ("\ufeff" + CONTENTS[name]).encode()
    path = tmp_path / (name + (".gz" if zipped else ""))
    path.write_bytes(gzip.compress(data) if zipped else data)
    predict(path, tmp_path / output)
    assert capsys.readouterr().out == f"3 rows  {tmp_path / output}\n"
    text = (tmp_path / output).read_text()
    rows = list(csv.DictReader(io.StringIO(text))) if output == "out.csv" else list(map(json.loads, text.splitlines()))
    first = 'a "b",' if name == "in.tsv" else 'a "b",\nc'
    assert [row["text"] for row in rows] == [first, "", "ж"]
    assert [str(row["length"]) for row in rows] == [str(len(first)), "0", "1"]
    third = [3, None] if (name, output) == ("in.jsonl", "out.jsonl") else "[3, null]" if name == "in.jsonl" else "3"
    assert rows[2]["id"] == third and (name != "in.csv" or rows[2]["more"] == "z")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, output])


WRONG = [
    ("in.csv", 'text\na\n"b', "in.csv: row 3: unexpected end of data. Mend the quotes"),
    ("in.csv", "text,id\na\n", "in.csv: row 2: 1 columns; the header has 2"),
    ("in.csv", "text,text\na,b\n", "in.csv: row 1: two columns have one name"),
    ("in.csv", "review\na\n", "in.csv: row 2: no column 'text' among ['review']. Pass --column NAME"),
    ("in.csv", "text\n", "in.csv: has no rows"),
    ("in.csv", "text,length\na,b\n", "in.csv: row 2: has a column 'length' already. Rename it"),
    ("in.csv", b"text\na\n\xff\n", "in.csv: row 3: not UTF-8 (byte 0xff)"),
    ("in.csv.gz", b"text", "in.csv.gz: not a readable gzip file"),
    ("in.jsonl", '{"text": "a"}\n{"text": 3}', "in.jsonl: row 2: 'text' is 3; expected a text"),
    ("in.jsonl", '{"text": "a"', "in.jsonl: row 1: not JSON"),
    ("in.jsonl", '{"text": "\\ud800"}', "in.jsonl: row 1: not JSON ('utf-8' codec can't encode"),
    ("in.jsonl", "[1]", 'in.jsonl: row 1: [1]; expected an object, {"text": …}'),
    ("in.jsonl", '{"text": "a"}\n{"text": "a", "b": 1}', "out.csv: row 2: has 'b', which the first row has not. Take out.jsonl"),
    ("in.xlsx", "", "in.xlsx: the format '.xlsx' is unknown; expected .csv, .tsv, .jsonl"),
    (None, "", "none.csv: can't be read (No such file or directory)"),
]


@pytest.mark.parametrize("name, content, message", WRONG)
def test_what_cannot_be_read_is_told_and_leaves_no_output(name, content, message, tmp_path):
    path = tmp_path / (name or "none.csv")
    if name:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        predict(path, tmp_path / "out.csv")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert [p for p in tmp_path.iterdir() if p != path] == []


def test_a_table_that_training_reads_is_read(tmp_path):
    """As spreadsheets write it: UTF-16, semicolons, a line break in quotes."""
    (tmp_path / "in.csv").write_bytes('Id;Text\r\n1;"gut, schön\r\noder"\r\n2;b\r\n'.encode("utf-16"))
    rows = [row for _, row in prediction.read_rows(tmp_path / "in.csv", "Text")]
    assert rows == [{"Id": "1", "Text": "gut, schön\r\noder"}, {"Id": "2", "Text": "b"}]
    for name, text in (("In.CSV", "text\na\n"), ("in.ndjson", '{"text": "a"}\n')):
        (tmp_path / name).write_text(text)
        assert [row for _, row in prediction.read_rows(tmp_path / name, "text")] == [{"text": "a"}]
    table = pyarrow.table({"id": [1, 2], "text": ["a", None]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    found = prediction.read_rows(tmp_path / "in.parquet", "text")
    assert next(found) == (1, {"id": 1, "text": "a"})
    with pytest.raises(DataError, match=r"in\.parquet: row 2: 'text' is None; expected a text"):
        next(found)


def test_an_output_is_not_replaced_unless_that_is_asked_for(tmp_path):
    (tmp_path / "in.csv").write_text("text\na\n")
    (tmp_path / "out.csv").write_text("mine")
    for output, message in (
        ("out.csv", "is there already. Pass --overwrite"),
        ("out.xlsx", "the format '.xlsx' is unknown; expected .csv or .jsonl"),
        ("none/out.csv", "nothing can be written into the folder"),
    ):
        with pytest.raises(DataError, match=message):
            predict(tmp_path / "in.csv", tmp_path / output)
    with pytest.raises(ZeroDivisionError):
        predict(tmp_path / "in.csv", tmp_path / "out.csv", "--overwrite", function=lambda texts: 1 / 0)
    assert (tmp_path / "out.csv").read_text() == "mine"
    predict(tmp_path / "in.csv", tmp_path / "out.csv", "--overwrite")
    assert (tmp_path / "out.csv").read_text() == "text,length\na,1\n"


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    def peak(count):
        with (tmp_path / "in.csv").open("w") as file:
            file.write("text\n" + f"{'word ' * 40}\n" * count)
        tracemalloc.start()
        predict(tmp_path / "in.csv", tmp_path / "out.csv", "--overwrite")
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(20_000) < 1.2 * peak(2_000)
    monkeypatch.setattr(prediction, "LONGEST_ROW", 1_000)
    predict(tmp_path / "in.csv", tmp_path / "out.csv", "--overwrite")  # of a row, not of the file
    (tmp_path / "in.csv").write_text('text\n"' + "a\n" * 2_000)  # a quote that never closes
    with pytest.raises(DataError, match="more than 1,000 bytes in a row"):
        predict(tmp_path / "in.csv", tmp_path / "out.csv", "--overwrite")
