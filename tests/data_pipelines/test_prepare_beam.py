"""Preparing by Apache Beam: the files that processes of this machine write, and errors in a line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipelines.embedded.reviews import embedded_reviews
from data_pipelines.embedded.translations import embedded_translations
from data_pipelines.prepare import __main__ as command
from data_pipelines.prepare import beam, encoding
from data_pipelines.prepared import MANIFEST
from data_pipelines.sources import DataError

SMALL = {
    "translation": ["--vocabulary-size", "300", "--max-length", "30", "--shard-rows", "90"],
    "language_model": ["--vocabulary-size", "200", "--tokenizer", "bpe", "--shard-rows", "90"],
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    pairs = [*embedded_translations("en", "de")["train"][:400], ("", "leer")]
    (folder / "pairs.tsv").write_text("en\tde\n" + "".join(f"{a}\t{b}\n" for a, b in pairs))
    texts = [text.replace("\n", " ") for text, _ in embedded_reviews()["train"][:300]]
    (folder / "texts.txt").write_text("".join(f"{text}\n\n" for text in texts))
    return {"translation": folder / "pairs.tsv", "language_model": folder / "texts.txt"}


def arguments(sources, to, application, *flags):
    return [str(sources[application]), "--to", str(to), "--for", application, *SMALL[application], *map(str, flags)]


def prepare(*given):
    command.main(arguments(*given))
    return given[1]


def content(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    return manifest, {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}


def fails(capsys, *given):
    with pytest.raises(SystemExit) as end:
        prepare(*given)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2 and line.startswith("error: ")
    return line


@pytest.mark.parametrize("application, workers", [("translation", 1), ("language_model", 1), ("translation", 2)])
def test_both_ways_write_equal_files(application, workers, sources, tmp_path, monkeypatch):
    here = prepare(sources, tmp_path / "here", application, "--workers", 1)
    monkeypatch.chdir(sources[application].parent)  # relative paths are those of all processes
    relative = {application: Path(sources[application].name)}
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(command.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    there = prepare(relative, tmp_path / "there", application, "--runner", "direct", "--workers", workers)
    assert content(here) == content(there)
    assert len(json.loads((here / MANIFEST).read_text())["shards"]) in (4, 5)


def test_an_error_of_a_worker_is_a_line_and_the_other_way_goes_on(sources, tmp_path, monkeypatch, capsys):
    encode_shard, encoded = encoding.encode_shard, []

    def failing(shard, settings):
        if len(encoded) == 2:
            raise errors.pop()
        encoded.append(shard.name)
        return encode_shard(shard, settings)

    monkeypatch.setattr(encoding, "encode_shard", failing)
    errors = [
        PermissionError(13, "Permission denied", "x.npy"),
        FileNotFoundError(2, "No such file", "a/x"),
        DataError('"ü": no'),
    ]
    given = sources, tmp_path / "new", "translation"
    direct = "--runner", "direct", "--workers", 1
    assert fails(capsys, *given, *direct) == 'error: "ü": no'
    line = fails(capsys, *given, *direct)
    assert line == "error: a/x: No such file. Workers need the source and the folder at the same paths."
    assert "x.npy: Permission denied. Name a folder that can be written" in fails(capsys, *given, *direct)
    again = []
    monkeypatch.setattr(encoding, "encode_shard", lambda shard, *rest: again.append(shard.name) or encode_shard(shard, *rest))
    prepare(*given, "--workers", 1)
    assert sorted(encoded + again) == [f"train-{number:05d}" for number in range(5)] and len(again) == 3


def test_a_process_of_beam_that_is_killed_is_told_and_the_command_goes_on(sources, tmp_path):
    flags = arguments(sources, tmp_path / "new", "translation", "--runner", "direct", "--workers", 2, "--shard-rows", 10)
    line = [sys.executable, "-m", "data_pipelines.prepare", *flags]
    with subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while not (tmp_path / "new.partial" / "train-00001.json").is_file() and process.poll() is None:
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        children += [
            one for task in Path(f"/proc/{process.pid}/task").iterdir() for one in (task / "children").read_text().split()
        ]
        os.kill(int(children[0]), signal.SIGKILL)
        message = process.communicate(timeout=60)[1].splitlines()[-1]
    assert process.returncode == 2 and message.startswith("error: a process that encodes was killed: memory ran out")
    time.sleep(1)
    assert not any(Path(f"/proc/{one}").exists() for one in children)  # the other one ended, too
    wanted = prepare(sources, tmp_path / "whole", "translation", "--workers", 1, "--shard-rows", 10)
    assert content(prepare(sources, tmp_path / "new", "translation", "--workers", 1, "--shard-rows", 10)) == content(wanted)


def test_flags_of_beam_and_their_errors(sources, tmp_path, monkeypatch, capsys):
    given = sources, tmp_path / "new", "translation", "--workers", 1
    for runner in ([], ["--runner", "direct"]):
        with pytest.raises(SystemExit):
            prepare(*given, *runner, "--project", "x")
        assert "unrecognized arguments: --project x" in capsys.readouterr().err
    for runner, line in (
        ("Nonesuch", "--runner Nonesuch: Unexpected pipeline runner: Nonesuch."),
        ("nowhere.Runner", "--runner nowhere.Runner: No module named 'nowhere'"),
        ("apache_beam.Runner", "--runner apache_beam.Runner: module 'apache_beam' has no attribute 'Runner'"),
    ):
        monkeypatch.setattr("data_pipelines.prepare.job.begin", lambda *_: pytest.fail("begun before the runner was checked"))
        assert line in fails(capsys, *given, "--runner", runner)
    monkeypatch.undo()
    seen = []
    monkeypatch.setattr(beam, "_run", lambda *all: seen.extend(all[2:]))
    line = fails(capsys, *given, "--runner", "FlinkRunner", "--flink_master", "host:1")
    assert seen == ["FlinkRunner", ["--flink_master", "host:1"]]
    assert "train-00000.json: a worker wrote it elsewhere. Name a folder that all machines share" in line
    monkeypatch.setattr(beam, "find_spec", lambda name: None)
    line = fails(capsys, *given, "--runner", "direct")
    assert line == "error: --runner direct: Apache Beam is not installed. Run: pip install -e '.[beam]'"
