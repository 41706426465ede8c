"""Data prepared on disk: what it holds, the batches it gives, and what is refused."""

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from apps.common import cli
from apps.common.training.sharding import count_tokens, shard
from data_pipelines.batching import bucket_boundaries
from data_pipelines.embedded.translations import embedded_translations
from data_pipelines.files import write_whole
from data_pipelines.pieces import Pieces
from data_pipelines.prepare import __main__ as command
from data_pipelines.prepare import encoding, job
from data_pipelines.prepare import folder as folders
from data_pipelines.prepared import MANIFEST, Prepared, shard_files, write_shard
from data_pipelines.sources import DataError
from data_pipelines.translations import Pair, Vocabularies, encode, load_translations, training_pairs, translation_batches
from data_pipelines.vocabulary import BOS, EOS, PADDING
from tests.apps import helpers

PAIRS = [*embedded_translations("en", "de")["train"][:400], ("", "leer"), ("odd \u200b\x07 ☃", "selt\xadsam ☃☃")]
PAIRS = [Pair(*pair) for pair in PAIRS]
SMALL = ["--vocabulary-size", "300", "--max-length", "30", "--workers", "1"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "pairs.tsv"
    path.write_text("en\tde\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS))
    return path


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    return prepare(table, tmp_path_factory.mktemp("prepared") / "one")


def prepare(table, to, *flags):
    command.main([str(table), "--to", str(to), *SMALL, *map(str, flags)])
    return to


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        prepare(*arguments)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2 and line.startswith("error: ")
    return line


def batches(data, seed=0, start_step=0, count=40):
    """As training makes them."""
    vocabularies = Vocabularies.load(data.prepared.folder)
    pairs = training_pairs(data, vocabularies, 30)
    boundaries = bucket_boundaries(range(len(pairs.counts)), 30, 3, multiple=4, counts=pairs.counts)
    options = {"max_tokens": 256, "boundaries": boundaries, "shuffle_seed": seed, "start_step": start_step}
    return [(inputs["source"].numpy(), targets.numpy()) for inputs, targets in made(pairs.rows, options).dataset.take(count)]


def made(rows, options):
    return translation_batches(rows, **options)


def test_pieces_are_those_of_tensorflow():
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code != 10]
    cleaned = tf.strings.regex_replace(tf.constant(every), r"\p{C}", " ")
    assert [character for character, other in zip(every, cleaned.numpy()) if Pieces.clean(character).encode() != other] == []
    texts = [text for pair in PAIRS for text in pair] + ["", " ", "<s> </s> <unk> ▁▁ x", "ﬁ ½ Ａ", "it's 12,345"]
    chinese = [
        Pair("你好 世界", "你好吗 和平"),
        Pair("世界和平", "和平"),
    ] * 30  # no letter of </s>, which is one unknown piece then
    for kind, pairs, size in (("bpe", PAIRS, 300), ("unigram", PAIRS, 300), ("bpe", chinese, 20)):
        vocabulary = Vocabularies.train(pairs, kind, size, True).source
        found = vocabulary.encode(tf.constant([*texts, "你好 </s> 世界", "<pad>", "<s>"]))
        assert found.to_list() == Pieces(vocabulary.model).encode([*texts, "你好 </s> 世界", "<pad>", "<s>"])
        assert not set(found.flat_values.numpy().tolist()) & {PADDING, BOS, EOS}


def test_the_batches_are_those_of_the_texts_from_any_step_on(table, folder):
    texts, prepared = load_translations(str(table), "en", "de"), load_translations(str(folder), "en", "de")
    assert {name: prepared.splits[name] for name in ("validation", "test")} == {
        name: texts.splits[name] for name in ("validation", "test")
    }
    vocabularies = Vocabularies.train(texts.splits["train"], "bpe", 300, True)
    assert (folder / "joint.model").read_bytes() == vocabularies.source.model
    encoded = encode(texts.splits["train"], vocabularies, 30)
    assert len(encoded.skipped) == prepared.prepared.manifest["left_out"]["too_long"] > 0
    assert training_pairs(texts, vocabularies, 30).unknown == pytest.approx(prepared.prepared.manifest["unknown"])
    boundaries = bucket_boundaries(encoded.lengths, 30, 3, multiple=4)
    options = {"max_tokens": 256, "boundaries": boundaries, "shuffle_seed": 0}
    wanted = [(inputs["source"].numpy(), targets.numpy()) for inputs, targets in made(encoded, options).dataset.take(40)]
    for start in (0, 29):
        for (a, b), (c, d) in zip(batches(prepared, start_step=start, count=40 - start), wanted[start:], strict=True):
            np.testing.assert_array_equal(a, c)
            np.testing.assert_array_equal(b, d)


def test_several_processes_and_shards_write_what_one_does(table, tmp_path):
    one, two = (prepare(table, tmp_path / str(n), "--shard-rows", "90", "--workers", n) for n in (1, 2))
    assert content(one) == content(two)
    assert len(json.loads((one / MANIFEST).read_text())["shards"]) == 5
    pairs, rows = load_translations(str(table), "en", "de").splits["train"], Prepared.open(str(one), "translation").rows
    encoded = encode(pairs, Vocabularies.load(one), 30)
    wanted = sorted(zip(encoded.source.to_list(), encoded.target.to_list()))
    found = zip(*rows.read(0, 30, np.arange(len(wanted))), strict=True)
    assert sorted(tuple(row[row > 0].tolist() for row in pair) for pair in found) == wanted


@pytest.mark.parametrize("count", [2, 7, 40])
def test_processes_read_their_own_parts_of_the_same_batches(folder, count):
    data = load_translations(str(folder), "en", "de")
    pairs = training_pairs(data, Vocabularies.load(folder), 30)
    options = {"max_tokens": 256, "boundaries": [12, 20, 30], "shuffle_seed": 3, "start_step": 9}
    batches = made(pairs.rows, options)
    parts = [list(batches.part(index, count).take(4)) for index in range(count)]
    for index in range(count):
        wanted = shard(batches.dataset.take(4), index, count, count_tokens)
        for part, other in zip(parts[index], wanted, strict=True):
            tf.nest.map_structure(np.testing.assert_array_equal, part, other)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}


def test_what_a_killed_command_finished_is_kept(table, tmp_path, monkeypatch, capsys):
    wanted = content(prepare(table, tmp_path / "whole", "--shard-rows", "90"))
    encode_shard, encoded = encoding.encode_shard, []

    def dying(shard, settings):
        if len(encoded) == 2:
            (tmp_path / "new.partial" / ".writing-1-x").touch()
            raise KeyboardInterrupt
        encoded.append(shard.name)
        return encode_shard(shard, settings)

    monkeypatch.setattr(encoding, "encode_shard", dying)
    with pytest.raises(SystemExit) as end:
        prepare(table, tmp_path / "new", "--shard-rows", "90")
    assert end.value.code == 130 and "the same command goes on" in capsys.readouterr().err
    with pytest.raises(DataError, match="is not prepared to its end"):
        load_translations(str(tmp_path / "new"), "en", "de")
    ids = shard_files(tmp_path / "new.partial", "train-00001")[0]
    ids.write_bytes(ids.read_bytes()[:-2])  # a shard that is not whole is written again
    again = []
    monkeypatch.setattr(encoding, "encode_shard", lambda shard, *rest: again.append(shard.name) or encode_shard(shard, *rest))
    assert content(prepare(table, tmp_path / "new", "--shard-rows", "90")) == wanted
    assert again == ["train-00001", "train-00002", "train-00003", "train-00004"]
    assert not (tmp_path / "new.partial").exists()


@pytest.mark.parametrize("point", ["manifest.json", "state.json", "replaced", "new", "words.json"])
def test_a_command_that_is_killed_while_it_replaces_a_folder_loses_nothing(point, table, folder, tmp_path, monkeypatch, capsys):
    new = tmp_path / "new"
    shutil.copytree(folder, new)

    def dying(function, place):  # after it has done its work on the file that is named `point`
        def wrapped(*arguments, **options):
            found = function(*arguments, **options)
            if Path(arguments[place]).name == point:
                raise KeyboardInterrupt
            return found

        return wrapped

    with monkeypatch.context() as patch:
        for module in (job, folders):
            patch.setattr(module, "write_whole", dying(write_whole, 0))
        patch.setattr(Path, "unlink", dying(Path.unlink, 0))
        patch.setattr(Path, "rename", dying(Path.rename, 1))
        if point == "words.json":  # what was replaced is half removed
            patch.setattr(shutil, "rmtree", lambda path, **options: path.exists() and (path / point).unlink())
        if point == "state.json":  # not when it is written first
            for module in (job, folders):
                patch.setattr(module, "write_whole", write_whole)
        with pytest.raises(SystemExit):
            prepare(table, new, "--overwrite", "--shard-rows", "300")
    prepared = Prepared.open(str(new if new.exists() else tmp_path / "new.partial" / "replaced"), "translation")
    assert len(prepared.manifest["shards"]) == 2 if point in ("new", "words.json") else 1  # the new one, or the old one
    monkeypatch.setattr(encoding, "encode_shard", None)  # nothing is done again
    prepare(table, new, "--shard-rows", "300", *["--overwrite"] * (point not in ("new", "words.json")))
    load_translations(str(new), "en", "de")
    monkeypatch.undo()
    prepare(table, new, "--overwrite", "--shard-rows", "150")
    assert len(Prepared.open(str(new), "translation").manifest["shards"]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["new"] and not (new / "replaced").exists()


def test_files_of_others_are_never_removed(table, folder, tmp_path, monkeypatch, capsys):
    for name in ("docs", "new.partial", "new"):
        shutil.copytree(folder, tmp_path / name) if name == "new" else (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("x")
    assert "docs: is there, and no prepared data" in fails(capsys, table, tmp_path / "docs", "--overwrite")
    assert "new: would be removed, but thesis.txt in it" in fails(capsys, table, tmp_path / "new", "--overwrite")
    (tmp_path / "new" / "thesis.txt").unlink()
    assert "new.partial: would be removed, but thesis.txt" in fails(capsys, table, tmp_path / "new", "--overwrite")
    assert (tmp_path / "docs" / "thesis.txt").is_file() and (tmp_path / "new.partial" / "thesis.txt").is_file()
    monkeypatch.chdir(tmp_path / "docs")
    assert "this is the working directory" in fails(capsys, table, ".")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    prepare(table, tmp_path / "link")
    prepare(table, tmp_path / "link", "--overwrite")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / MANIFEST).is_file()


def test_a_folder_of_texts_may_be_the_working_directory_and_have_a_manifest_of_another_program(table, tmp_path, monkeypatch):
    (tmp_path / "train.tsv").write_text(table.read_text())
    (tmp_path / MANIFEST).write_text('{"name": "x"}')
    monkeypatch.chdir(tmp_path)
    assert len(load_translations(".", "en", "de").splits["train"]) > 300
    assert helpers.parsed("translation", "--data", ".").vocabulary_size == 6_000


def test_a_full_disk_is_told_and_the_command_goes_on(table, tmp_path, monkeypatch, capsys):
    def full(file, array):
        file.write(b"\x93NUMPY")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        line = fails(capsys, table, tmp_path / "new")
    assert "train-00000.ids.npy: the disk is full. Free some space and repeat the command" in line
    assert not list((tmp_path / "new.partial").glob("*.npy")) and not (tmp_path / "new").exists()
    prepare(table, tmp_path / "new")
    assert "goes on" in capsys.readouterr().out


def test_two_at_once_on_one_folder_are_refused(table, tmp_path, capsys):
    (tmp_path / "new.partial").mkdir()
    script = "import sys; from data_pipelines.files import lock_folder; from pathlib import Path\n"
    script += "lock_folder(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "new.partial")], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        line = fails(capsys, table, tmp_path / "new")
        assert f"process {other.pid} on" in line and "prepares this folder. Wait for its end" in line
        other.stdin.close()
    prepare(table, tmp_path / "new")


def test_a_folder_that_is_there_is_kept(table, folder, tmp_path, capsys):
    before = content(folder)
    prepare(table, folder)
    assert "has all this already" in capsys.readouterr().out
    assert "holds data of another source or other flags" in fails(capsys, table, folder, "--max-length", "20")
    assert content(folder) == before
    (tmp_path / "mine").write_text("x")
    assert "is there, and no prepared data. Name a new folder" in fails(capsys, table, tmp_path)
    prepare(table, tmp_path / "new")
    prepare(table, tmp_path / "new", "--overwrite", "--max-length", "20")
    assert Prepared.open(str(tmp_path / "new"), "translation").manifest["flags"]["max_length"] == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "new"]


def test_a_source_that_changes_is_told(table, tmp_path, monkeypatch, capsys):
    own = tmp_path / "own.tsv"
    own.write_text(table.read_text())
    learn = job._vocabulary

    def meanwhile(*arguments):
        own.write_text(own.read_text().replace("the", "The"))
        return learn(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(job, "_vocabulary", meanwhile)
        assert "own.tsv: changed while it was read. Repeat the command" in fails(capsys, own, tmp_path / "new")
    prepare(own, tmp_path / "new")
    assert "was of another source or other flags" in capsys.readouterr().out  # nothing of the old source is kept
    own.touch()
    load_translations(str(tmp_path / "new"), "en", "de")  # the same content
    prepare(own, tmp_path / "new")
    assert "has all this already" in capsys.readouterr().out
    own.write_text(own.read_text() + "one more\teins mehr\n")
    refused(tmp_path / "new", "own.tsv: changed since", "Prepare it again with --overwrite; or move the file away")
    own.unlink()
    load_translations(str(tmp_path / "new"), "en", "de")


def refused(folder, *parts):
    with pytest.raises(DataError) as caught:
        load_translations(str(folder), "en", "de")
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_training_has_the_flags_of_the_data_and_refuses_others(folder, tmp_path):
    config = helpers.parsed("translation", "--data", folder, "--quick")
    assert (config.vocabulary_size, config.max_length, config.units) == (300, 30, 128)
    prepared = Prepared.open(str(folder), "translation")
    prepared.check_flags(config)
    for flags, message in (
        (["--max-length", "31"], f"--max-length 31: {folder} was prepared with 30. Leave the flag out"),
        (["--source-lang", "fr"], f"--source-lang fr: {folder} was prepared with en"),
        (["--sequence-epochs", "2"], f"--sequence-epochs 2: reads the references as texts, and {folder} holds token ids"),
        (["--data-service", "x:1"], f"--data-service x:1: {folder} is prepared already. Leave the flag out"),
    ):
        with pytest.raises(DataError) as caught:
            prepared.check_flags(helpers.parsed("translation", "--data", folder, *flags))
        assert message in str(caught.value)
    with pytest.raises(DataError, match="was prepared from en to de\\. Pass --source-lang en --target-lang de, or neither"):
        load_translations(str(folder), "en", "fr")
    prepared.check_flags(config, folder)  # as the folder of a run, which has the vocabulary, too
    (tmp_path / "joint.model").write_bytes(b"another")
    with pytest.raises(DataError, match=f"prepared with another vocabulary. Prepare the data with --vocabulary-from {tmp_path}"):
        prepared.check_flags(config, tmp_path)


def test_an_export_gets_the_hashes_of_the_rows_unless_they_are_too_many(folder, monkeypatch, capsys):
    prepared = Prepared.open(str(folder), "translation")
    assert len(prepared.hashes()) == prepared.manifest["rows"]
    monkeypatch.setattr("data_pipelines.prepared.MOST_HASHES", 10)
    assert not len(prepared.hashes()) and "evaluate can't warn" in capsys.readouterr().out


def test_a_folder_that_was_changed_is_refused(table, tmp_path, capfd):
    folder = prepare(table, tmp_path / "new")

    def changing(path, data, *parts):
        before = path.read_bytes()
        path.write_bytes(data(before)) if data else path.unlink()
        refused(folder, *parts)
        path.write_bytes(before)

    ids, offsets, _ = shard_files(folder, "train-00000")
    changing(ids, lambda old: old[:-2], f"{ids}: has ", "bytes, ", "were written. Prepare the data anew")
    changing(offsets, None, f"{offsets}: is missing")
    changing(folder / "joint.model", lambda old: old[:-1] + b"x", "joint.model: is not what was prepared: its SHA-256 differs")
    manifest = folder / MANIFEST
    changing(manifest, lambda old: old.replace(b'"format": 2', b'"format": 1'), "is of format 1; this version reads 2")
    changing(manifest, lambda old: old[:50], "manifest.json: can't be read")
    changing(manifest, lambda old: old.replace(b'"rows"', b'"lines"', 1), "manifest.json: contradicts itself")
    changing(manifest, lambda old: old.replace(b'"dtype"', b'"type"', 1), "manifest.json: contradicts itself")
    changing(manifest, lambda old: b'"tokens": 1'.join(old.rsplit(b'"tokens": ', 1)), "manifest.json: contradicts itself")
    double = json.loads(manifest.read_text())
    double["shards"] *= 2
    double |= {name: 2 * double[name] for name in ("rows", "tokens")}
    changing(manifest, lambda old: json.dumps(double).encode(), "manifest.json: contradicts itself")
    changing(manifest, lambda old: old.replace(b'"translation"', b'"weather"'), "was prepared for weather, not for translation")
    rows = load_translations(str(folder), "en", "de").prepared.rows
    ids.write_bytes(ids.read_bytes()[:200])
    with pytest.raises(DataError, match="was cut off while it was read"):
        rows.read(0, 30, np.arange(rows.counts().sum()))
    options = {"max_tokens": 256, "boundaries": [30], "shuffle_seed": 0}
    with pytest.raises(SystemExit) as end:  # inside tf.data, while training
        cli.run(lambda: list(made(rows, options).dataset.take(99)))
    assert end.value.code == 2
    assert (
        capfd.readouterr().err.strip().splitlines()[-1] == f"error: {ids}: was cut off while it was read. Prepare the data anew."
    )


def test_what_cannot_be_prepared_is_told(table, tmp_path, capsys):
    assert "none of the pairs has at most 2 tokens. Pass a larger --max-length" in fails(
        capsys, table, tmp_path / "new", "--max-length", "2"
    )
    (tmp_path / "three.tsv").write_text("en\tde\n" + "a\tb\n" * 3)
    assert "three.tsv: the test split has no pairs to use" in fails(capsys, tmp_path / "three.tsv", tmp_path / "other")
    (tmp_path / "config.json").write_text('{"config": {"units": 3}}')
    (tmp_path / "words.json").write_text("{}")
    line = fails(capsys, table, tmp_path / "other", "--vocabulary-from", tmp_path)
    assert "is neither a run of translation nor prepared data" in line
    (tmp_path / "words.json").unlink()
    assert "only files are prepared" in fails(capsys, "embedded", tmp_path / "other")
    assert "none.tsv: no such file" in fails(capsys, tmp_path / "none.tsv", tmp_path / "other")
    line = fails(capsys, table, tmp_path / "other", "--vocabulary-from", tmp_path)
    assert "holds no vocabulary. Pass the folder of a run" in line
    with pytest.raises(SystemExit):
        prepare(table, tmp_path / "other", "--workers", "0")
    assert "0: expected a whole number from 1" in capsys.readouterr().err


def test_the_vocabulary_of_a_sample_and_of_another_folder(table, folder, tmp_path, capsys):
    some = [prepare(table, tmp_path / name, "--vocabulary-sample", "100") for name in "ab"]
    count = int(re.search(r"from (\d+) of 402 pairs", capsys.readouterr().out)[1])
    assert 70 <= count <= 90  # a fifth of the rows is held out
    models = [(path / "joint.model").read_bytes() for path in some]
    assert models[0] == models[1] != (folder / "joint.model").read_bytes()
    taken = prepare(table, tmp_path / "c", "--vocabulary-from", some[0], "--vocabulary-size", "99")
    assert (taken / "joint.model").read_bytes() == models[0]
    assert Prepared.open(str(taken), "translation").manifest["flags"]["vocabulary_size"] == 300


def test_a_shard_of_more_tokens_than_its_offsets_can_count_is_refused(tmp_path):
    column = (np.empty(0, "uint16"), np.array([2**31, 2**31 - 1]))
    with pytest.raises(DataError, match=r"4,294,967,296 tokens.*--shard-rows"):
        write_shard(tmp_path, "train-00000", [column, (np.empty(0, "uint16"), np.array([1, 0]))], np.zeros(2), "uint16", 2)
    assert not list(tmp_path.iterdir())
