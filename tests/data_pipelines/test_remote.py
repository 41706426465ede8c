"""Folders of object stores: `ram://`, the file system that TensorFlow keeps in memory, and `file://` stand for them."""

import contextlib
import itertools
import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common import cli
from apps.common.export import saved_model
from apps.common.training import runs
from apps.common.training.checkpoint_files import newest_first, read_checkpoint, write_checkpoint
from apps.common.training.checkpoints import Checkpoint
from apps.demo import models
from data_pipelines import prepared, remote
from data_pipelines.files import lock_folder
from data_pipelines.passages import load_passages
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.prepared import Prepared, prepared_flags
from data_pipelines.sources import DataError
from data_pipelines.token_streams import token_streams
from data_pipelines.translations import load_translations
from tests.data_pipelines.test_prepare import PAIRS, SMALL, batches

gfile = tf.io.gfile
CALLS = ("makedirs", "copy", "rename", "remove")  # what a push does there
numbers = itertools.count()


@pytest.fixture
def url():
    """A folder that is not there yet."""
    return f"ram://store/{next(numbers)}/run"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Go to another machine, which has mirrors of its own."""

    def go(name):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)

    go("one")
    return go


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read(folder):
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {str(name): (folder / name).read_bytes() for name in names if not any(part[0] == "." for part in name.parts)}


def there(url):
    found = {}
    for folder, _, files in gfile.walk(url):
        for name in files:
            with gfile.GFile(f"{folder}/{name}", "rb") as file:
                found[f"{folder}/{name}".removeprefix(f"{url}/")] = file.read()
    return found


@pytest.fixture(autouse=True)
def _replacing(monkeypatch):
    """`ram://` appends to a file that is there; other file systems replace it."""
    copy = gfile.copy

    def call(source, to, overwrite=False):
        if to.startswith("ram://") and gfile.exists(to):
            gfile.remove(to)
        copy(source, to, overwrite)

    monkeypatch.setattr(gfile, "copy", call)


def put(url, text):
    gfile.makedirs(os.path.dirname(url))
    if gfile.exists(url):
        gfile.remove(url)
    with gfile.GFile(url, "w") as file:
        file.write(text)


def failing(monkeypatch, after, names=CALLS):
    """Let the calls of gfile fail, from the given one on; a copy that fails leaves half of the file. How many there were."""
    calls, remove = [], gfile.remove

    def wrapped(name):
        function = getattr(gfile, name)

        def call(*arguments, **options):
            calls.append((name, *arguments))
            if len(calls) > after:
                if name == "copy":
                    if gfile.exists(arguments[1]):
                        remove(arguments[1])
                    half = Path(arguments[0]).read_bytes()
                    with gfile.GFile(arguments[1], "wb") as file:
                        file.write(half[: len(half) // 2])
                raise tf.errors.UnavailableError(None, None, "the network is down")
            return function(*arguments, **options)

        return call

    for name in names:
        monkeypatch.setattr(gfile, name, wrapped(name))
    return calls


def test_what_is_new_is_pushed_and_fetched_and_what_was_removed_is_removed(machine, url):
    files = {"config.json": b"{}", "checkpoints/step-1.npz": b"one", "history.png": b"old"}
    folder = write(remote.run_folder(url), files)
    write(folder, {".lock": b"me"})
    remote.push(folder)
    assert there(url) == files
    machine("two")
    other = remote.run_folder(url)
    assert read(other) == files and not other.is_absolute() and remote.shown(other) == url
    machine("one")
    (folder / "checkpoints/step-1.npz").unlink()
    write(folder, {"checkpoints/step-22.npz": b"two", "history.png": b"newer"})
    remote.push(folder)
    assert there(url) == read(folder) and "checkpoints/step-1.npz" not in there(url)
    machine("two")
    remote.run_folder(url)
    assert read(other) == there(url)


def test_only_what_changed_moves(machine, url, monkeypatch, capsys):
    folder = write(remote.run_folder(url), {"a": b"1", "b": b"2"})
    remote.push(folder)
    calls = failing(monkeypatch, 99, ("copy", "rename", "remove"))
    remote.push(folder)
    remote.run_folder(url)
    assert not calls
    write(folder, {"b": b"333"})
    remote.push(folder)
    assert [call[0] for call in calls] == ["copy", "rename"] and calls[0][1].endswith("/b")
    assert capsys.readouterr().err == ""
    put(f"{url}/a", "4444")
    remote.run_folder(url)
    assert read(folder) == {"a": b"4444", "b": b"333"}
    assert f"{url}: 1 files, 4 bytes, to {folder}" in capsys.readouterr().err
    write(folder, {"b": b"55555"})
    remote.run_folder(url)
    assert f"{folder} has 1 files that are not at {url} yet, which are used: b" in capsys.readouterr().err


@pytest.mark.parametrize("killed", [False, True])
def test_a_push_that_is_cut_off_leaves_the_old_or_the_new_checkpoint(killed, machine, tmp_path):
    """At each call in turn. A kill writes no record of what was done, an error does."""

    def save(folder, step):
        arrays = {"model": [np.full(3, step)], "best": []}
        write_checkpoint(folder / "checkpoints", arrays, {"step": step}, keep=2)
        write(folder, {"metrics.jsonl": b"{}\n" * step})

    def newest(folder):
        arrays, state = read_checkpoint(newest_first(folder / "checkpoints")[0])
        assert (arrays["model"][0] == state["step"]).all()
        return state["step"]

    seen = []
    for k in itertools.count():
        machine(f"one{k}")
        url = f"ram://store/{next(numbers)}/run"
        folder = remote.run_folder(url)
        for step in (1, 2):
            save(folder, step)
            remote.push(folder)
        save(folder, 3)
        with pytest.MonkeyPatch.context() as patch:
            calls = failing(patch, k)
            if killed:
                living = partial(lambda write, calls, k, *a: len(calls) > k or write(*a), remote._write_record, calls, k)
                patch.setattr(remote, "_write_record", living)
            with contextlib.suppress(remote.RemoteError):
                remote.push(folder)
        machine(f"two{k}")
        seen.append(newest(remote.run_folder(url)))
        machine(f"one{k}")
        assert newest(remote.run_folder(url)) == 3 and not list(folder.glob(".aside*"))  # what is not there is kept here
        remote.push(folder)
        machine(f"two{k}")
        assert newest(remote.run_folder(url)) == 3 and read(folder) == read(tmp_path / f"one{k}" / folder)
        assert {name for name in there(url) if ".writing" not in name} == set(read(folder))
        if len(calls) <= k:
            break
    assert seen == sorted(seen) and set(seen) == {2, 3} and len(seen) == 8  # twice makedirs, copy, rename; remove; no failure


def test_the_files_of_a_checkpoint_go_in_the_order_they_were_written(machine, url, monkeypatch):
    folder = remote.run_folder(url)
    for time, name in enumerate(["vocabulary", "config", "step", "metrics"], start=1):
        write(folder, {name: name.encode()})
        os.utime(folder / name, (time, time))
    calls = failing(monkeypatch, 99, ("copy",))
    remote.push(folder)
    assert [Path(call[1]).name for call in calls] == ["vocabulary", "config", "step", "metrics"]


def test_a_training_outlives_a_failing_push_and_the_end_tells_where_all_is(machine, url, monkeypatch, capsys):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    folder = remote.run_folder(url)
    checkpoint = Checkpoint(folder / "checkpoints", monitor="val_loss")
    checkpoint.save_before_training(model)
    with monkeypatch.context() as patch:
        failing(patch, 0)
        checkpoint.step = 5
        checkpoint.save()
        with pytest.raises(remote.RemoteError, match=f"the network is down.*nothing is lost in {folder}"):
            runs.finish(folder)
    assert f"not pushed yet, the run goes on in {folder}: {url}/" in capsys.readouterr().out
    assert list(there(f"{url}/checkpoints")) == ["step-00000000.npz"]
    checkpoint.save()
    assert runs.finish(folder) == url and "step-00000005.npz" in there(f"{url}/checkpoints")


def test_what_another_machine_wrote_is_never_overwritten(machine, url, capsys):
    folder = write(remote.run_folder(url), {"log": b"1"})
    remote.push(folder)
    machine("two")
    write(remote.run_folder(url), {"log": b"22", "more": b"of two"})
    remote.push(folder)
    machine("one")
    write(folder, {"log": b"333", "mine": b"of one"})
    with pytest.raises(remote.RemoteError, match=f"{url}/log: was changed elsewhere"):
        remote.push(folder)
    assert there(url) == {"log": b"22", "more": b"of two"}
    remote.run_folder(url)
    assert read(folder) == there(url) and "was changed elsewhere" in capsys.readouterr().err
    (aside,) = folder.glob(".aside-*")
    assert read(aside) == {"log": b"333", "mine": b"of one"}
    gfile.remove(f"{url}/more")
    remote.run_folder(url)
    assert read(folder) == {"log": b"22"}


def test_a_run_that_is_written_is_not_fetched_into(machine, url):
    folder = write(remote.run_folder(url), {"log": b"1"})
    remote.push(folder)
    put(f"{url}/log", "22")
    assert lock_folder(folder) is None
    assert read(remote.run_folder(url)) == {"log": b"1"}


def test_a_mirror_in_a_mirror_keeps_to_itself(machine):
    url = f"ram://store/{next(numbers)}"
    folder = write(remote.run_folder(f"{url}/run"), {"log": b"1"})
    remote.push(folder)
    put(f"{url}/data.txt", "text")
    write(folder, {"log": b"333", "mine": b"of one"})
    assert remote.local(url) == str(folder.parent) and read(folder) == {"log": b"333", "mine": b"of one"}
    remote.push(folder)
    assert there(url) == {"run/log": b"333", "run/mine": b"of one", "data.txt": b"text"}


# -- exports


@pytest.fixture
def root():
    return f"ram://store/{next(numbers)}/saved_models/translation"


def export(root, content=b"a"):
    card = b"# translation\n\nPurpose.\n"
    with saved_model.new_version(root) as version:
        write(version.folder, {"saved_model.pb": content, "variables/variables.index": content, "model_card.md": card})
    return version


def test_versions_follow_those_that_are_there(machine, root, capsys):
    assert str(export(root)) == f"{root}/1"
    machine("two")
    put(f"{os.path.dirname(root)}/models.config", 'model_config_list { config { name: "other" base_path: "/models/other" } }\n')
    version = export(root, b"bb")
    assert str(version) == f"{root}/2" and not list(version.folder.parent.glob("1"))
    assert {name.split("/")[0] for name in there(root)} == {"1", "2"}
    config = there(os.path.dirname(root))["models.config"].decode()
    assert 'name: "other"' in config and 'base_path: "/models/translation"' in config
    with saved_model.new_version(root, publish=False):
        pass
    assert remote.versions(root) == [2, 1]


def test_the_newest_complete_version_is_fetched_once(machine, root, monkeypatch):
    export(root)
    machine("two")
    put(f"{root}/3/variables/variables.index", "not complete")
    found = saved_model.find_version(root)
    assert found.name == "1" and (found / "variables/variables.index").read_text() == "a"
    calls = failing(monkeypatch, 99, ("copy",))
    assert saved_model.find_version(f"{root}/1/") == found and saved_model.application_of(root) == "translation" and not calls
    put(f"{root}/3/saved_model.pb", "bb")
    assert saved_model.newest_version(root).name == "3" and len(calls) == 2
    with pytest.raises(DataError, match="no SavedModel there"):
        saved_model.find_version(f"{root}-of-another")


def test_the_page_looks_for_newer_versions_after_a_while(machine, root, monkeypatch):
    page = models.Models(os.path.dirname(root))
    assert page.newest("translation") is None and os.path.dirname(root) in page.how_to_train("translation")
    export(root)
    assert page.newest("translation") is None
    monkeypatch.setattr(models, "SECONDS", -1.0)
    assert page.newest("translation").name == "1" and page.about("translation").kind == "translation"


@pytest.mark.parametrize("store", ["ram", "file"])
def test_an_export_that_is_cut_off_is_no_version(store, machine, tmp_path, monkeypatch):
    """At each call in turn: a file system names the folder at the end, in an object store `saved_model.pb` comes last."""
    for k in itertools.count():
        root = f"ram://store/{next(numbers)}/translation" if store == "ram" else f"file://{tmp_path}/{k}/translation"
        with pytest.MonkeyPatch.context() as patch:
            calls = failing(patch, k, ("makedirs", "copy", "rename"))
            with contextlib.suppress(remote.RemoteError):
                export(root)
            failed = len(calls) > k
        complete = [number for number in remote.versions(root) if gfile.exists(f"{root}/{number}/saved_model.pb")]
        assert complete in ([], [1])
        if complete:
            assert len(there(f"{root}/1")) == 3
        else:
            left = remote.mirror(root) / "1"
            assert len(read(left)) == 3 and not (left / remote.RECORD).exists()  # it is here, and nothing says that it is there
        if not complete and store == "file":
            assert not gfile.exists(f"{root}/1") and (not gfile.exists(root) or not gfile.listdir(root))
        if not failed:
            break
        version = export(root, b"again")
        assert (
            saved_model.find_version(str(version)).name == version.folder.name
            and there(str(version))["saved_model.pb"] == b"again"
        )
    assert complete == [1] and k >= 9


# -- data


def test_raw_data_are_fetched_once_and_again_if_they_changed(machine, capsys):
    url = f"ram://store/{next(numbers)}"
    put(f"{url}/train.txt", "one\ntwo\n")
    put(f"{url}/validation.txt", "three\n")
    put(f"{url}/.hidden", "x")
    assert load_passages(url).splits == {"train": ["one", "two"], "validation": ["three"]}
    assert f"fetched     {url}: 2 files, 14 bytes" in capsys.readouterr().err
    assert load_passages(f"{url}/train.txt", whole=True).splits == {"all": ["one", "two"]}
    assert capsys.readouterr().err == ""
    put(f"{url}/train.txt", "one\n")
    assert load_passages(url).splits["train"] == ["one"] and "1 files, 4 bytes" in capsys.readouterr().err


def test_a_name_that_files_begin_with_stands_for_them(machine, tmp_path):
    url = f"file://{tmp_path}/there"
    for language in ("en", "de", "fr"):
        put(f"{url}/books.en-de.{language}", "a\n" * 20)
    put(f"{url}/other", "x")
    assert len(load_translations(f"{url}/books.en-de", "en", "de", whole=True).splits["all"]) == 20
    assert set(read(remote.mirror(url))) == {f"books.en-de.{language}" for language in ("en", "de", "fr")}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The same prepared data here and there."""
    table = tmp_path_factory.mktemp("source") / "pairs.tsv"
    table.write_text("en\tde\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS))
    folder = table.parent / "prepared"
    prepare.main([str(table), "--to", str(folder), *SMALL, "--shard-rows", "100"])
    url = f"ram://store/{next(numbers)}/prepared"
    gfile.makedirs(url)
    for path in folder.iterdir():
        gfile.copy(str(path), f"{url}/{path.name}")
    return folder, url


def test_shards_are_read_where_they_are_many_rows_at_once(machine, shards, monkeypatch):
    (folder, url), threads, read = shards, set(), remote.RemoteFile.read

    def noted(self, *arguments):
        threads.add(threading.current_thread().name)
        return read(self, *arguments)

    monkeypatch.setattr(remote.RemoteFile, "read", noted)
    here, data = (load_translations(str(path), "en", "de") for path in shards)
    assert data.prepared.folder == remote.mirror(url) and not list(data.prepared.folder.glob("train-*"))
    for wanted, found in zip(batches(here, start_step=3), batches(data, start_step=3), strict=True):
        for one, other in zip(wanted, found):
            np.testing.assert_array_equal(other, one)
    assert sum(name.startswith("ThreadPool") for name in threads) > 2  # each waits for the network
    np.testing.assert_array_equal(data.prepared.hashes(), here.prepared.hashes())
    assert prepared_flags(url, "translation") == prepared_flags(str(folder), "translation") != {}
    assert prepared_flags(f"{url}/lengths.npy", "translation") == {}
    assert prepared_flags(f"file://{folder}/lengths.npy", "translation") == {}


def test_passages_are_prepared_and_read_there(machine, shards, capsys):
    table, url = shards[0].parent / "pairs.tsv", f"ram://store/{next(numbers)}/passages"
    line = [str(table), "--for", "language_model", "--text-column", "en", "--shard-rows", "100", "--workers", "1", "--to"]
    for to in (table.parent / "passages", url):
        prepare.main([*line, str(to)])
    assert f"train by    python -m apps.language_model.train --data {url}" in capsys.readouterr().out
    here, there = (load_passages(str(path)).prepared for path in (table.parent / "passages", url))
    assert there.folder == remote.mirror(url) and not list(there.folder.glob("train-*"))
    some, other = (token_streams(one.text, batch_size=3, steps=8, epochs=1, seed=1).dataset for one in (here, there))
    for one, another in zip(some, other, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, another)
    prepare.main([*line, url])
    assert f"{url} has all this already" in capsys.readouterr().out


def test_several_threads_read_one_shard(machine, shards):
    folder, url = shards
    (path, *_) = prepared.shard_files(folder, "train-00000")
    whole, part = np.load(path), remote.RemoteFile(f"{url}/{path.name}")
    begin = path.stat().st_size - whole.nbytes
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: part.read(6, begin + 2 * i), range(400)))
    assert [np.frombuffer(data, whole.dtype).tolist() for data in found] == [whole[i : i + 3].tolist() for i in range(400)]


def test_a_shard_that_is_missing_there_is_told(machine, shards):
    url = f"ram://store/{next(numbers)}/prepared"
    gfile.makedirs(url)
    for path in shards[0].iterdir():
        gfile.copy(str(path), f"{url}/{path.name}")
    gfile.remove(f"{url}/train-00001.ids.npy")
    with pytest.raises(DataError, match=r"train-00001.ids.npy: is missing"):
        Prepared.open(remote.local(url), "translation")
    put(f"{url}/train-00001.ids.npy", "short")
    with pytest.raises(DataError, match=r"train-00001.ids.npy: has 5 bytes, .* were written"):
        Prepared.open(remote.local(url), "translation")


# -- what can't be used


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "s3://bucket/data.csv",
            r"s3://bucket/data.csv: File system scheme 's3' not implemented .* Install a tensorflow-io that goes",
        ),
        ("ram://store/nowhere", r"ram://store/nowhere: nothing is there. Check the name"),
        ("ram://store/../x", r"ram://store/../x: names no folder that can be mirrored. Write ram://bucket/folder, without '..'."),
        ("gs://", r"gs://: names no folder"),
    ],
)
def test_a_url_that_can_not_be_used_is_one_line(url, message, machine, capsys):
    for read in (load_passages, lambda path: load_translations(path, "en", "de"), runs_of):
        with pytest.raises(SystemExit) as end:
            cli.run(lambda read=read: read(url))
        lines = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and len(lines) == 1 and re.search(message, lines[0])
    assert not remote.MIRRORS.exists() or not any(path.is_file() for path in remote.MIRRORS.rglob("*"))


def runs_of(url):
    return runs.load_model(Path(remote.local(url)))


def test_where_nothing_can_be_written_a_run_does_not_start(machine, tmp_path, monkeypatch):
    """Rights are told before the training."""
    failing(monkeypatch, 0)
    from apps.common.training.workers import Workers
    from apps.sentiment_classification.config import Config

    with pytest.raises(remote.RemoteError, match=r"config.json: the network is down"):
        runs.open_run("sentiment_classification", Config(run_dir=f"ram://store/{next(numbers)}/run"), {}, Workers())


def test_a_run_is_not_begun_where_another_machine_has_one(machine, url):
    from apps.common.training.workers import Workers
    from apps.sentiment_classification.config import Config

    folder = runs.open_run("sentiment_classification", Config(run_dir=url), {}, Workers())
    assert json.loads(there(url)["config.json"])["config"]["run_dir"] == url and folder == remote.mirror(url)
    machine("two")
    with pytest.raises(DataError, match=f"{url}: holds a run already. Continue it with --resume"):
        runs.open_run("sentiment_classification", Config(run_dir=url), {}, Workers())
    assert cli.run_flags("sentiment_classification", {"run_dir": url})["run_dir"] == url
    assert f"--run-dir {url}" in runs.resume_command(folder)


def test_a_source_that_is_a_url_is_prepared(machine, shards, tmp_path):
    table = shards[0].parent / "pairs.tsv"
    prepare.main([f"file://{table}", "--to", str(tmp_path / "new"), *SMALL, "--shard-rows", "100"])
    for path in shards[0].glob("train-*"):
        assert (tmp_path / "new" / path.name).read_bytes() == path.read_bytes()
