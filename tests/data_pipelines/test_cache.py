"""What a start keeps for the next one."""

import errno
import os

import numpy as np

from data_pipelines import cache
from data_pipelines.cache import cache_folder, cached_arrays, cached_files
from data_pipelines.embedded.translations import embedded_translations
from data_pipelines.translations import Pair, Translations, Vocabularies, training_pairs
from data_pipelines.vocabulary import WordVocabulary, load_vocabulary

MANY = cache.FEW_ROWS


def arrays(*numbers):
    return lambda: {"a": np.array(numbers)}


def never():
    raise AssertionError("computed again")


def test_a_second_start_finds_what_the_first_computed_and_a_broken_file_is_computed_again(tmp_path):
    path = cache_folder(tmp_path, MANY, {"text": "x"}) / "a.npz"
    assert cache_folder(tmp_path, MANY, {"text": "x"}) == path.parent != cache_folder(tmp_path, MANY, {"text": "y"})
    assert cached_arrays(path, arrays(1, 2))["a"].tolist() == cached_arrays(path, never)["a"].tolist() == [1, 2]
    whole = path.read_bytes()
    for broken in (
        whole[:-30],
        whole[:70] + b"\xff" + whole[71:],
        whole.replace(np.int64(2).tobytes(), np.int64(3).tobytes()),
        b"",
    ):
        assert broken != whole
        path.write_bytes(broken)
        assert cached_arrays(path, arrays(1, 2))["a"].tolist() == [1, 2] == cached_arrays(path, never)["a"].tolist()


def test_little_is_not_kept_and_old_caches_go(tmp_path):
    assert cache_folder(tmp_path / "none", MANY - 1, {}) is None and not (tmp_path / "none").exists()
    made = []
    for i in range(cache.KEPT + 3):
        made.append(cache_folder(tmp_path, MANY, {"text": i}))
        if made[i].exists():
            os.utime(made[i], (i, i))
        cache_folder(tmp_path, MANY, {"text": 0})  # used each time
    assert made[0].is_dir() and made[-1].is_dir() and not made[1].exists()
    assert len(list(tmp_path.iterdir())) <= cache.KEPT + 1


def test_a_full_disk_stops_nothing(tmp_path, monkeypatch, capsys):
    def full(*arguments, **arrays):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert cached_arrays(tmp_path / "a.npz", arrays(4))["a"].tolist() == [4]
    assert "not kept for the next start (No space left on device)" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    assert cache_folder(tmp_path / "file" / "below", MANY, {}) is None
    assert "nothing is kept there for the next start" in capsys.readouterr().out


def test_a_vocabulary_is_kept_and_a_damaged_one_learned_again(tmp_path):
    path, learned = tmp_path / "vocabulary.npz", WordVocabulary(["dog", "cat"])
    for _ in range(2):
        assert cached_files(path, learned.save, load_vocabulary).words == ["dog", "cat"]
        assert cached_files(path, lambda place: never(), load_vocabulary).words == ["dog", "cat"]
        path.write_bytes(path.read_bytes().replace(b"dog", b"dug"))


def test_another_version_of_sentencepiece_has_another_cache(tmp_path, monkeypatch):
    before = cache_folder(tmp_path, MANY, {})
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    assert cache_folder(tmp_path, MANY, {}) != before


def test_pairs_from_the_cache_are_those_that_were_encoded(tmp_path):
    pairs = [Pair(*pair) for pair in embedded_translations("en", "de")["train"][:100]]
    data, vocabularies = Translations({"train": pairs}, {"train": 0}), Vocabularies.train(pairs, "bpe", 200, True)
    first, again, other = (training_pairs(data, vocabularies, 30, folder) for folder in (tmp_path, tmp_path, None))
    for found in (first, again):
        assert (
            found.rows.source.to_list() == other.rows.source.to_list()
            and found.rows.target.to_list() == other.rows.target.to_list()
        )
        assert (
            found.rows.source.dtype == other.rows.source.dtype
            and found.rows.source.row_splits.dtype == other.rows.source.row_splits.dtype
        )
        assert found.rows.skipped == other.rows.skipped != [] and found[1:] == other[1:]
    another = Vocabularies.train(pairs, "bpe", 150, True)  # of a run that began with another one, and is resumed
    found, wanted = (training_pairs(data, another, 30, folder).rows.source.to_list() for folder in (tmp_path, None))
    assert found == wanted != first.rows.source.to_list()
    assert len(list(tmp_path.glob("train-*.npz"))) == 2
