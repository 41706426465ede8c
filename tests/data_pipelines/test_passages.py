"""Passages of text, and the streams of tokens that a language model trains on."""

import gzip
import json

import numpy as np
import pytest
import tensorflow as tf

from apps.common.training.sharding import count_tokens, shard
from data_pipelines.passages import encode_passages, load_passages
from data_pipelines.sources import DataError
from data_pipelines.token_streams import MemoryText, TokenStreams, token_streams, whole_streams
from data_pipelines.vocabulary import EOS, PADDING, UNKNOWN, load_vocabulary, train_vocabulary
from tests.data_pipelines.helpers import prepare_tfds

ORDER = {"batch_size": 3, "steps": 8, "epochs": 3, "seed": 1}


def passages(count=20, seed=0):
    """Passages of a token each of which no other has, so that a place in a stream tells the place in the text."""
    lengths = np.random.default_rng(seed).integers(1, 9, count)
    ids = tf.RaggedTensor.from_row_lengths(4 + np.arange(lengths.sum(), dtype=np.int32), lengths)
    return tf.concat([ids, tf.fill([count, 1], EOS)], axis=1)


def epochs(batches):
    """The inputs and targets of each epoch, its chunks joined: (tokens, targets), each (rows, tokens)."""
    chunks, found = list(batches.dataset), []
    for start in range(0, len(chunks), batches.steps_per_epoch):
        part = chunks[start : start + batches.steps_per_epoch]
        assert [bool(inputs["is_continuation"][0]) for inputs, _ in part] == [False] + [True] * (len(part) - 1)
        found.append(tuple(np.concatenate(each, axis=1) for each in zip(*((i["tokens"], t) for i, t in part))))
    return found


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_each_token_is_a_target_once_an_epoch_and_streams_follow_one_another(shuffle, batch_size):
    ids = passages()
    made = epochs(token_streams(MemoryText(ids), **{**ORDER, "batch_size": batch_size}, shuffle=shuffle))
    assert len(made) == 3
    for tokens, targets in made:
        flat, before = targets[targets != PADDING], tokens[targets != PADDING]
        np.testing.assert_array_equal(before, [EOS, *flat[:-1]])  # a text begins where another one ended
        np.testing.assert_array_equal(np.sort(flat), np.sort(ids.flat_values))
        if not shuffle:
            np.testing.assert_array_equal(flat, ids.flat_values)
    assert shuffle != np.array_equal(made[0][1], made[1][1])


def test_shuffled_passages_stay_whole():
    ids = passages()
    rows = {tuple(row) for row in ids.to_list()}
    ((_, targets),) = epochs(token_streams(MemoryText(ids), batch_size=1, steps=8, epochs=1, seed=3))
    flat = targets[targets != PADDING]
    found = np.split(flat, np.flatnonzero(flat == EOS) + 1)
    assert {tuple(row) for row in found if len(row)} == rows and found[0].tolist() != ids[0].numpy().tolist()


def test_chunks_have_three_lengths_at_most_and_as_many_in_each_epoch():
    streams = TokenStreams(MemoryText(passages(400)), 2, 16, seed=0)
    lengths = [len(targets[0]) for _, targets, _ in streams.batches(0, 3, range(2), False)]
    orders = np.split(np.array(lengths), 3)
    assert {*map(int, np.concatenate(orders))} == {16, 12, 8} and not np.array_equal(orders[0], orders[1])
    assert {len(lengths) for lengths in orders} == {streams.steps_per_epoch} and len({lengths.sum() for lengths in orders}) == 1
    rest = orders[0].sum() - -(-streams.tokens // 2)
    assert 0 <= rest < 16 and len({lengths[-1] for lengths in orders}) == 1  # what is padded is the last


@pytest.mark.parametrize("start", [1, 7, 14])
def test_a_later_start_gives_what_the_run_would_have_seen(start):
    whole = token_streams(MemoryText(passages()), **ORDER)
    later = token_streams(MemoryText(passages()), **ORDER, start_step=start)
    assert whole.steps_per_epoch == later.steps_per_epoch > 5
    pairs = list(zip(whole.dataset.skip(start), later.dataset, strict=True))
    assert len(pairs) == 3 * whole.steps_per_epoch - start
    for (inputs, targets), (other, wanted) in pairs:
        np.testing.assert_array_equal(targets, wanted)
        for name in inputs:
            np.testing.assert_array_equal(inputs[name], other[name])


def test_reversed_streams_are_the_same_streams_from_their_ends():
    text = MemoryText(passages())
    forward = list(token_streams(text, **ORDER).dataset)
    both = list(token_streams(text, **ORDER, reverse=True).dataset)
    back, steps = [], len(forward) // 3
    for (inputs, targets), (more, wanted) in zip(forward, both, strict=True):
        size = targets.shape[1]
        np.testing.assert_array_equal(inputs["tokens"], more["tokens"])
        np.testing.assert_array_equal(targets, wanted[:, :size])
        read, after = more["reversed"][:, 1:].numpy(), wanted[:, size:-1].numpy()
        assert ((read == after) | (after == PADDING)).all()
        back.append(wanted[:, size:])
    tokens = np.concatenate([inputs["tokens"] for inputs, _ in forward[:steps]], axis=1)
    ends = np.concatenate([targets for _, targets in forward[:steps]], axis=1) != PADDING
    for row, read, there in zip(np.concatenate(back[:steps], axis=1), tokens, ends):
        np.testing.assert_array_equal(row[row != PADDING][::-1], read[there])


@pytest.mark.parametrize("rows, count", [(4, 20), (32, 3), (7, 1)])
def test_whole_streams_are_all_tokens_once(rows, count):
    ids = passages(count)
    flat = ids.flat_values.numpy()
    chunks = list(whole_streams(ids, rows=rows, steps=5))
    tokens, targets = (np.concatenate(each, axis=1) for each in zip(*((i["tokens"], t) for i, t in chunks)))
    np.testing.assert_array_equal(targets[targets != PADDING], flat)  # rows follow one another
    np.testing.assert_array_equal(tokens[targets != PADDING], np.concatenate([[EOS], flat[:-1]]))
    back = list(whole_streams(ids, rows=rows, steps=5, reverse=True))
    read, wanted = (
        np.concatenate(each, axis=1)
        for each in zip(*((i["reversed"], t[:, t.shape[1] // 2 :]) for i, t in back))
    )  # fmt: skip
    assert ((wanted != PADDING) <= (read != PADDING)).all()  # nothing is predicted from padding
    for row, first, after in zip(wanted, tokens[:, 0], targets):
        stream = np.array([first, *after[after != PADDING]])
        np.testing.assert_array_equal(row[row != PADDING], stream[:-1][::-1] if first else [])


class Shards:
    """Passages in several shards."""

    def __init__(self, ids, count):
        rows = np.array_split(np.arange(ids.nrows()), count)
        self.parts = [tf.gather(ids, part) for part in rows]
        self.tokens = np.array([len(part.flat_values) for part in self.parts])

    def offsets(self, shard):
        return self.parts[shard].row_splits.numpy()

    def read(self, shard, begin, end):
        return self.parts[shard].flat_values.numpy()[begin:end]


@pytest.mark.parametrize("shuffle", [False, True])
def test_shards_are_one_text(shuffle):
    ids = passages()
    made = epochs(token_streams(Shards(ids, 4), **ORDER, shuffle=shuffle))
    rows = {tuple(row) for row in ids.to_list()}
    for tokens, targets in made:
        flat = targets[targets != PADDING]
        np.testing.assert_array_equal(tokens[targets != PADDING], [EOS, *flat[:-1]])
        assert {tuple(row) for row in np.split(flat, np.flatnonzero(flat == EOS) + 1)} == rows | {()}
        if not shuffle:
            np.testing.assert_array_equal(flat, ids.flat_values)
    assert shuffle != np.array_equal(made[0][1], made[1][1])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_read_their_own_streams(count, reverse):
    batches = token_streams(MemoryText(passages()), **ORDER, reverse=reverse, start_step=3)
    for index in range(count):
        wanted = shard(batches.dataset, index, count, count_tokens)
        for part, other in zip(batches.part(index, count), wanted, strict=True):
            tf.nest.map_structure(np.testing.assert_array_equal, part, other)


def test_more_streams_than_tokens_are_refused():
    with pytest.raises(DataError, match=r"--batch-size 99: the text has \d+ tokens; expected at least one for each stream"):
        token_streams(MemoryText(passages(3)), batch_size=99, steps=8, epochs=1, seed=0)


def test_passages_that_are_encoded_in_blocks_each_end():
    vocabulary = train_vocabulary("words", ["a b c"], 9, has_bos_eos=True)
    ids = encode_passages(["a b"] * 1_500 + [""], vocabulary)
    assert ids[-2].numpy().tolist() == [4, 5, EOS] and ids[-1].numpy().tolist() == [EOS] and ids.nrows() == 1_501


# -- sources


LINES = [f"passage {i} , with\ttabs and “quotes”" for i in range(20)]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.tsv", "a.csv.gz", "A.CSV", "a.ndjson"])
def test_files_of_each_kind(name, tmp_path):
    lines = [line.replace("\t", " ") for line in LINES] if "tsv" in name else LINES
    content = "\n".join([*lines[:10], "", "  ", *lines[10:]]) + "\n"
    if ".tsv" in name:
        content = "label\ttext\n" + "".join(f"x\t{line}\n" for line in lines)
    elif ".ndjson" in name:
        content = "".join(json.dumps({"label": "x", "text": line}) + "\n" for line in lines)
    elif ".csv" in name.lower():
        content = "text,label\n" + "".join(f'"{line}",x\n' for line in lines)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    found = load_passages(str(path)).splits
    assert {split: len(part) for split, part in found.items()} == {"train": 16, "validation": 2, "test": 2}
    assert sorted(text for part in found.values() for text in part) == sorted(lines)
    assert load_passages(str(path), whole=True).splits == {"all": lines}
    assert load_passages(str(path)).splits == found  # the same cut


def test_a_folder_and_the_embedded_data(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{name} one\n\n{name} two\n")
    found = load_passages(str(tmp_path))
    assert found.splits["validation"] == ["valid one", "valid two"] and list(found.splits) == ["train", "validation", "test"]
    assert found.summary()["passages"] == "2 train (18 bytes), 2 validation (18 bytes), 2 test (16 bytes)"
    assert found.describe()["test"]["passages"] == 2 and found.rows("test") == [("test one",), ("test two",)]
    (tmp_path / "valid.txt").unlink()
    (tmp_path / "train.txt").unlink()
    assert list(load_passages(str(tmp_path), whole=True).splits) == ["test"]
    assert {name: len(part) for name, part in load_passages("embedded").splits.items()}["train"] == 24_000


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "", "split has no passages to use. Write a passage a line"),
        ("a.txt", "\n \n", "split has no passages to use"),
        ("a.txt", "one passage\n", "the validation split has no passages to use. Write a passage a line"),
        ("a.txt", None, "no such file"),
        ("a.txt.gz", "no gzip", "not a readable gzip file"),
        ("a.tsv", "label\nx\n", "no column 'text'"),
    ],
)
def test_passages_that_cannot_be_used(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_passages(str(tmp_path / name))


def test_tfds_needs_texts(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    rows = {"train": [{"text": f"passage {i}"} for i in range(10)], "test": [{"text": "Ünder"}]}
    prepare_tfds(tmp_path / "good", monkeypatch, {"text": tfds.features.Text()}, rows)
    found = load_passages("tfds:tiny").splits
    assert found["test"] == ["Ünder"] and len(found["train"]) == 9 and len(found["validation"]) == 1
    prepare_tfds(tmp_path / "bad", monkeypatch, {"line": tfds.features.Text()}, {"train": [{"line": "a"}]})
    with pytest.raises(DataError, match=r"no feature 'text'; the data set has \['line'\]"):
        load_passages("tfds:tiny")


# -- the vocabularies of a language model


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_pieces_are_learned_from_long_passages_without_spaces(kind):
    vocabulary = train_vocabulary(
        kind, ["你好世界和平"] * 50 + ["天地玄黄宇宙洪荒日月盈昃辰宿列张" * 200] * 20, 60, has_bos_eos=True
    )
    assert UNKNOWN not in vocabulary.encode(tf.constant(["天地玄黄宿列张"])).flat_values.numpy()


@pytest.mark.parametrize("kind, tokens", [("spaces", ["The", "U.S.", "<unk>", "—"]), ("characters", list("The U.S. <unk> —"))])
def test_texts_come_back_as_they_were(kind, tokens, tmp_path):
    text = "The U.S. <unk> —"
    vocabulary = train_vocabulary(kind, [text, "Zoë the"], 99, has_bos_eos=True)
    assert [token.decode() for token in vocabulary.tokenize(tf.constant([text])).to_list()[0]] == tokens
    ids = vocabulary.encode(tf.constant([text, "", "the Zoë", b"\xff"]))
    assert ids.flat_values[:-1].numpy().min() > EOS and ids[-1].numpy().tolist() == [1]
    texts = [value.decode() for value in vocabulary.detokenize(ids).numpy()]
    assert texts[:3] == [text, "", "the Zoë"]
    vocabulary.save(tmp_path)
    again = load_vocabulary(tmp_path)
    assert type(again) is type(vocabulary) and again.size == vocabulary.size
    assert again.encode(tf.constant([text])).to_list() == ids.to_list()[:1]
    for value in again.tokenize(tf.constant([b"caf\xe9 \xff"])).flat_values.numpy():
        value.decode("utf-8")


@pytest.mark.parametrize(
    "kind, before, added", [("words", "it is", " good."), ("spaces", "It is", " good ."), ("characters", "It i", "s good.")]
)
def test_a_continuation_goes_on_where_a_text_ended(kind, before, added):
    vocabulary = train_vocabulary(kind, ["It is good ." if kind == "spaces" else "It is good."], 99, has_bos_eos=True)
    assert vocabulary.continuation(vocabulary.encode(tf.constant([added, ""]))).numpy().tolist() == [added.encode(), b""]
    whole = vocabulary.detokenize(vocabulary.encode(tf.constant([before + added]))).numpy()[0].decode()
    assert whole == before + added
