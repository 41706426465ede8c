"""Tables as the field has them: names of columns, separators, JSON, parquet; and what is said of those that can't be read."""

import builtins
import json

import pytest

from data_pipelines import tables
from data_pipelines.reviews import load_reviews
from data_pipelines.sources import DataError
from data_pipelines.tables import Column, read_table
from tests.data_pipelines.test_sources import fails, write

ROWS = [(f"text {i}", "yes" if i % 2 else "no") for i in range(40)]
TEXT, LABEL = Column("--text-column", ("text", "review")), Column("--label-column", ("label", "sentiment"))


def lines(header, separator):
    return "\n".join(separator.join(row) for row in [header, *ROWS])


def rows(path, *columns, **options):
    return [row for _, row in read_table(path, columns or (TEXT, LABEL), **options)]


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", lines(("review", "sentiment"), ",")),
        ("a.csv", lines(("Text", "Label"), ";")),
        ("a.csv.gz", lines(("text", "label"), "\t")),
        ("a.txt", lines(("text", "label"), ",")),
        ("a.txt", lines(("text", "label"), "\t")),
        ("a.tsv", ("\ufeff" + lines(("text", "label"), "\t")).encode("utf-16-le")),
        ("a.csv", lines(("text", "label"), ",").encode("utf-16")),
        ("a.jsonl", "\n".join(json.dumps({"id": 7, "review": text, "sentiment": label}) for text, label in ROWS)),
        ("a.json", json.dumps([{"text": text, "label": label} for text, label in ROWS])),
        ("a.json", "\n".join(json.dumps({"example": {"text": text, "label": label}}) for text, label in ROWS)),
    ],
)
def test_every_form_gives_the_same_rows(tmp_path, name, content):
    reviews = load_reviews(write(tmp_path, name, content), whole=True)
    assert reviews.splits["all"] == ROWS


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts, labels = zip(*ROWS)
    table = pyarrow.table({"sentence": texts, "label": [int(label == "yes") for label in labels], "idx": range(40)})
    parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    reviews = load_reviews(str(tmp_path))
    assert sorted(r.text for part in reviews.splits.values() for r in part) == sorted(texts) and reviews.labels == ["0", "1"]
    pairs = pyarrow.table({"translation": [{"en": "a", "de": "x"}, {"en": "b", "de": None}]})
    parquet.write_table(pairs, tmp_path / "pairs.parquet")
    assert rows(tmp_path / "pairs.parquet", Column("-s", ("en",)), Column("-t", ("de",))) == [["a", "x"], ["b", ""]]
    fails(tmp_path / "pairs.parquet", "row 1: no column 'text' and 'label' in the keys ['en', 'de', 'translation']")
    fails(write(tmp_path, "broken.parquet", b"PAR1 and no more PAR1"), "broken.parquet: not a readable parquet file")
    fails(write(tmp_path, "none.tsv", b"PAR1\0\0"), "is a parquet file. Name it .parquet")
    fails(tmp_path / "missing.parquet", "no such file")


def test_parquet_that_unpacks_to_much_more_is_refused(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(tables, "BOMB_BYTES", 1_000)
    parquet.write_table(pyarrow.table({"text": ["x" * 100_000] * 9, "label": ["a"] * 9}), tmp_path / "a.parquet")
    fails(tmp_path / "a.parquet", "unpacks to more than")


def test_without_pyarrow_the_remedy_is_to_install_it(tmp_path, monkeypatch):
    load = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    fails(write(tmp_path, "a.parquet", b"PAR1"), "pyarrow", "pip install -e '.[parquet]'")


def test_guessed_columns_are_said_and_named_ones_are_not(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("Review,stars,Sentiment\nfine,5,good\n")
    assert rows(path) == [["fine", "good"]]
    said = capsys.readouterr().err
    assert "'Review' is read as text, 'Sentiment' is read as label" in said and "--text-column" in said
    assert rows(path, TEXT._replace(given="Review"), LABEL._replace(given="stars")) == [["fine", "5"]]
    assert capsys.readouterr().err == ""
    assert rows(path, TEXT._replace(given="review"), LABEL) == [["fine", "good"]] and capsys.readouterr().err
    fails(path, "no column 'words'", "pass --text-column", columns=("words", None))
    path.write_text("Text,TEXT,label\na,b,c\n")
    fails(path, "'Text' and 'TEXT' may each be the column text", "Pass one as --text-column")
    path.write_text("text,label,sentiment\na,b,c\n")
    assert rows(path) == [["a", "b"]]


def test_long_fields_are_read_and_long_headers_cut_off(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f'text,label\n"{"word, " * 50_000}",good\n')
    assert len(rows(path)[0][0]) == 300_000
    path.write_text("words " * 50_000)
    with pytest.raises(DataError) as caught:
        rows(path)
    assert len(str(caught.value)) < 500


def test_bad_json(tmp_path):
    fails(write(tmp_path, "a.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"'), "a.jsonl: row 2: not JSON")
    fails(write(tmp_path, "b.jsonl", '{"text": "a", "label": "b"}\n\n{"text": "a"}'), "b.jsonl: row 3: 'label' is missing")
    fails(write(tmp_path, "c.jsonl", '{"text": ["a"], "label": "b"}'), "row 1: 'text' holds ['a']; expected a text or a number")
    fails(write(tmp_path, "d.jsonl", "3\n"), "row 1: 3; expected an object")
    fails(write(tmp_path, "e.json", "[{]"), "e.json: not JSON")
    fails(write(tmp_path, "f.jsonl", '{"text": "\\ud800", "label": "b"}'), "row 1: 'text' has half of a surrogate pair")
    fails(write(tmp_path, "g.jsonl", "[" * 100_000), "g.jsonl: not JSON")


def test_what_is_no_text_gets_the_remedy_of_what_it_is(tmp_path):
    fails(write(tmp_path, "a.csv", b"PK\3\4\0\0"), "is a zip archive or an Excel file")
    fails(write(tmp_path, "b.tsv", b"\x1f\x8b\x08\0"), "is packed by gzip. Let its name end with .gz")
    fails(write(tmp_path, "c.tsv", "text\tlabel\nä\tb\n".encode("utf-16-be")), "UTF-16 without", "iconv -f utf-16be")
    fails(write(tmp_path, "d.tsv", "\ufefftext\n".encode("utf-16-le")[:-1]), "d.tsv: row 1: not UTF-16")


def test_a_header_with_other_languages_is_no_row(tmp_path):
    path, columns = tmp_path / "pairs.tsv", [Column("--source-column", ("en",)), Column("--target-column", ("de",))]
    for header in ("German\tEnglish", "Deutsch\tEnglisch\tenglish", "id\tde-AT\teng", "source\ttarget"):
        path.write_text(f"{header}\n" + "\t".join("abc"[: header.count("\t") + 1]) + "\n")
        with pytest.raises(DataError, match=r"row 1: no column 'en'.* in the header .*pass --source-column"):
            rows(path, *columns, may_lack_header=True)
    path.write_text("German\tEnglish\nHallo.\tHello.\n")
    given = [column._replace(given=name) for column, name in zip(columns, ("English", "German"))]
    assert rows(path, *given, may_lack_header=True) == [["Hello.", "Hallo."]]


def test_quotes_around_each_text_of_a_tsv_are_said(tmp_path, capsys):
    (tmp_path / "a.tsv").write_text('en\tde\n"a"\tb c\n"d, e"\tf\n')
    columns = [Column("--source-column", ("en",)), Column("--target-column", ("de",))]
    assert rows(tmp_path / "a.tsv", *columns) == [['"a"', "b c"], ['"d, e"', "f"]]
    assert "a.tsv: each text of column 1 is in quotes, which are kept." in capsys.readouterr().err
    (tmp_path / "a.tsv").rename(tmp_path / "a.csv")
    assert rows(tmp_path / "a.csv", columns[0]) == [["a"], ["d, e"]]
    assert not capsys.readouterr().err


def test_an_empty_table_is_told(tmp_path):
    for name in ("a.tsv", "b.csv", "c.txt"):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=rf"{name}: row 1 is empty; expected a header or a row"):
            rows(tmp_path / name, Column("--source-column", ("en",)), may_lack_header=True)


def test_a_table_without_header_is_read_by_place_and_that_is_said(tmp_path, capsys):
    path, columns = tmp_path / "fra.txt", [Column("--source-column", ("en",)), Column("--target-column", ("fr",))]
    path.write_text("Go.\tVa !\tCC-BY 2.0\nHi.\tSalut.\tCC-BY 2.0\n")
    assert rows(path, *columns, may_lack_header=True) == [["Go.", "Va !"], ["Hi.", "Salut."]]
    said = capsys.readouterr().err
    assert "no header; column 1 ('Go.', …) is read as en, column 2 ('Va !', …) is read as fr" in said
    assert said.strip().endswith("--source-column 2 --target-column 1")
    swapped = [column._replace(given=number) for column, number in zip(columns, "21")]
    assert rows(path, *swapped, may_lack_header=True)[0] == ["Va !", "Go."]
    with pytest.raises(DataError, match="no column 4 of 3"):
        rows(path, columns[0], columns[1]._replace(given="4"), may_lack_header=True)
    with pytest.raises(DataError, match="row 1: no column 'en' and 'fr' in the header"):
        rows(path, *columns)
    path.write_text("1276\tGo.\t3\tVa !\n")
    with pytest.raises(DataError, match=r"column 1 holds numbers.*--source-column 2 --target-column 4"):
        rows(path, *columns, may_lack_header=True)
    numbered = [column._replace(given=number) for column, number in zip(columns, "24")]
    assert rows(path, *numbered, may_lack_header=True) == [["Go.", "Va !"]]
