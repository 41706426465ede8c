"""Tunes and piano rolls: sources, and streams that continue from chunk to chunk."""

import numpy as np
import pytest
import tensorflow as tf

from data_pipelines.abc import read_tunes
from data_pipelines.piano_rolls import KEYS, load_rolls, midi_bytes, read_midi, roll_streams, whole_rolls
from data_pipelines.sources import DataError
from data_pipelines.tunes import Streams, TuneVocabulary, load_tunes, train_tune_vocabulary, tune_streams, whole_tunes
from data_pipelines.vocabulary import BOS, EOS
from tests.apps import helpers

TUNES = "\n".join(f"X:{i}\nT:{'AB'[i % 2]}{i // 4}\nM:2/4\nL:1/8\nK:{'DG'[i % 2]}\n{'abcd|' * (3 + i)}\n" for i in range(20))


@pytest.mark.parametrize("kind", ["characters", "musical"])
def test_a_vocabulary_loses_nothing(kind):
    tunes, _ = read_tunes(TUNES + "X:1\nM:C\nK:Bbmin\n^^c''3/2 [Ac]//>(3_d,e=f[1 a2:|[2 z|]\n")
    vocabulary = train_tune_vocabulary(tunes, kind, transposed=True)
    texts = tf.constant([tune.text for tune in tunes])
    ids = vocabulary.encode(texts)
    assert (vocabulary.detokenize(ids) == texts).numpy().all() and ids.flat_values.numpy().min() > 3


def test_a_field_in_a_line_is_a_musical_symbol():
    text = "K:Gmaj\nab|[K:D]de [M:6/8]f|\n"
    vocabulary = TuneVocabulary.train_from_iterator([text], "musical")
    tokens = ["K:Gmaj\n", "a", "b", "|", "[K:D]", "d", "e", " ", "[M:6/8]", "f", "|", "\n"]
    assert set(vocabulary.words) == set(tokens)
    assert [token.decode() for token in vocabulary.tokenize(tf.constant([text]))[0].numpy()] == tokens


def test_streams_hold_each_sequence_once_an_epoch_and_in_order():
    lengths = np.array([1, 5, 9, 12, 3, 4, 8])
    streams = Streams(lengths, batch_size=3, steps=4, seed=1)
    plan = streams.plan(40)
    seen = {}
    for row in range(3):
        before = None
        for sequence, chunk, epoch in plan[:, row]:
            if chunk:
                assert before == (sequence, chunk - 1, epoch)  # continues where the row was
            seen[(sequence, chunk, epoch)] = seen.get((sequence, chunk, epoch), 0) + 1
            before = (sequence, chunk, epoch)
    assert set(seen.values()) == {1}
    for epoch in range(2, 5):
        assert {(s, c) for s, c, e in seen if e == epoch} == {(s, c) for s in range(7) for c in range(-(-lengths[s] // 4))}
    assert streams.steps_per_epoch == 4
    orders = [[s for s, c, e in plan.reshape(-1, 3) if e == epoch and c == 0] for epoch in (0, 1)]
    assert orders[0] != orders[1]
    np.testing.assert_array_equal(streams.plan(15), plan[:15])


def test_tune_streams_spell_the_tunes():
    tunes, _ = read_tunes(TUNES)
    vocabulary = train_tune_vocabulary(tunes, "characters", transposed=True)
    order = {"batch_size": 2, "steps": 16, "epochs": 4, "seed": 0, "transpose_prob": 0.5}
    batches = tune_streams(tunes, vocabulary, **order)
    dataset = batches.dataset
    assert 10 < batches.steps_per_epoch == len(list(dataset)) / 4
    texts, open_text = [], ["", ""]
    for inputs, targets in dataset:
        for row in range(2):
            tokens, after = inputs["tokens"][row].numpy(), targets[row].numpy()
            if not inputs["is_continuation"][row]:
                assert tokens[0] == 2
                open_text[row] = ""
            there = after[after > 0]
            np.testing.assert_array_equal(tokens[1 : len(there)], there[:-1])
            open_text[row] += "".join(vocabulary.strings.numpy()[i].decode() for i in there if i > 3)
            if 3 in there:
                texts.append(open_text[row])
    originals = {tune.text for tune in tunes}
    assert len(texts) > 20 and 0.2 < np.mean([text in originals for text in texts]) < 0.8
    skipped = tune_streams(tunes, vocabulary, **order, start_step=7).dataset
    for (a, b), (c, d) in zip(dataset.skip(7), skipped):
        np.testing.assert_array_equal(a["tokens"], c["tokens"])
        np.testing.assert_array_equal(b, d)


def test_whole_tunes_are_all_tunes_and_their_inputs_the_targets_shifted():
    tunes, _ = read_tunes(TUNES)
    vocabulary = train_tune_vocabulary(tunes, "characters", transposed=False)
    texts = []
    for inputs, targets in whole_tunes(tunes, vocabulary, batch_size=8):
        assert targets.shape[1] % 64 == 0
        for tokens, after in zip(inputs["tokens"].numpy(), targets.numpy()):
            length = after.tolist().index(EOS) + 1
            assert tokens[0] == BOS and not after[length:].any()
            np.testing.assert_array_equal(tokens[1:length], after[: length - 1])
            texts.append("".join(vocabulary.strings.numpy()[i].decode() for i in after[: length - 1]))
    assert sorted(texts) == sorted(tune.text for tune in tunes)


def test_own_files_and_what_is_skipped(tmp_path):
    (tmp_path / "train.abc").write_text(TUNES + "X:99\nM:C\nABc\n")
    (tmp_path / "places.txt").write_text("0\n3\n")
    tunes = load_tunes(str(tmp_path), validation_tunes=str(tmp_path / "places.txt"))
    assert [tune.number for tune in tunes.splits["validation"]] == [1, 4] and len(tunes.splits["train"]) == 18
    assert tunes.skipped == [("train", "tune 21", "no key (K:)")]
    assert tunes.summary() == {"tunes": "18 train, 2 validation", "skipped": "1: tune 21 in train: no key (K:)"}
    (tmp_path / "places.txt").write_text("0\n20\n21\n")
    with pytest.raises(DataError, match=r"row 3: '21'; expected the place of a tune of the training file, 0 to 20\."):
        load_tunes(str(tmp_path), validation_tunes=str(tmp_path / "places.txt"))
    (tmp_path / "train.abc").write_text(TUNES + "X:99\nM:C\nABc\n\n" * 7)
    assert (
        load_tunes(str(tmp_path)).summary()["skipped"].endswith("tune 25 in train: no key (K:); and 2 more, all in skipped.tsv")
    )
    alone = load_tunes(str(tmp_path / "train.abc"))
    titles = {split: {tune.title for tune in part} for split, part in alone.splits.items()}
    assert set(titles) == {"train", "validation", "test"}
    assert not titles["train"] & titles["validation"] and not titles["train"] & titles["test"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.abc", "no tunes", "has no tunes to use"),
        ("a.abc", None, "no such file"),
        ("folder", "", "no .abc files"),
        ("a.abc", "".join(f"X:{i}\nT:t{i}\nM:C\nK:G\nab|\n\n" for i in range(3)), "3 tunes with 3 different titles are too few"),
        ("a.abc", "X:1\nT:t\nM:C\nK:G\nab|\n\n" * 39, "39 tunes with 1 different titles are too few .* --validation-tunes"),
    ],
)
def test_tunes_that_cannot_be_used(name, content, message, tmp_path):
    path = tmp_path / name
    if content == "":
        path.mkdir()
    elif content:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_tunes(str(path))


def pieces(count=12):
    generator = np.random.default_rng(0)
    return [(generator.random((5 + 3 * i, KEYS)) < 0.05).astype(np.uint8) for i in range(count)]


def test_roll_streams_give_past_and_following_frames():
    rolls = pieces()
    dataset = roll_streams(rolls, batch_size=2, steps=4, epochs=4, seed=0).dataset
    found, now = [], [[], []]
    for inputs, targets in dataset:
        for row in range(2):
            past, after = inputs["frames"][row].numpy(), targets[row].numpy()
            if not inputs["is_continuation"][row]:
                now[row] = []
            there = after[:, 0] >= 0
            before = np.stack([now[row][-1] if now[row] else np.zeros(KEYS), *after[:-1]])
            np.testing.assert_array_equal(past[there], before[there])
            assert (after[~there] == -1).all()
            now[row] += list(after[there])
            if any(len(now[row]) == len(roll) and (now[row] == roll).all() for roll in rolls):
                found.append(len(now[row]))
    assert sorted(set(found)) == [len(roll) for roll in rolls]


def test_whole_rolls_are_all_rolls_and_their_inputs_the_frames_before():
    found = []
    for inputs, targets in whole_rolls(pieces(), batch_size=5):
        for frames, given, after in zip(inputs["frames"].numpy(), inputs["targets"].numpy(), targets.numpy()):
            roll = after[after[:, 0] >= 0]
            assert (after[len(roll) :] == -1).all() and not given[len(roll) :].any() and not frames[0].any()
            np.testing.assert_array_equal(given[: len(roll)], roll)
            np.testing.assert_array_equal(frames[1 : len(roll)], roll[:-1])
            found.append(roll)
    for roll, wanted in zip(found, pieces(), strict=True):  # the shortest first
        np.testing.assert_array_equal(roll, wanted)


def test_rolls_are_moved_within_the_piano():
    low = np.zeros((8, KEYS), np.uint8)
    low[:, 1] = low[:, 50] = 1
    dataset = roll_streams([low], batch_size=1, steps=8, epochs=60, seed=0, transpose_prob=1.0).dataset
    keys = {tuple(np.flatnonzero(targets[0, 0])) for _, targets in dataset}
    assert keys == {(1 + shift, 50 + shift) for shift in range(-1, 6)}


def test_midi_comes_back_as_written(tmp_path):
    for i, roll in enumerate(pieces()):
        roll[0, 40] = 1
        roll[-1, 40] = 1
        (tmp_path / f"{i}.mid").write_bytes(midi_bytes(roll, frame_beats=0.25))
        np.testing.assert_array_equal(read_midi(tmp_path / f"{i}.mid", 0.25), roll)
    (tmp_path / "broken.mid").write_bytes(b"MThd no more")
    rolls = load_rolls(str(tmp_path))
    assert rolls.summary()["pieces"].startswith("10 train (") and rolls.describe()["train"]["skipped"] == 1
    assert len(rolls.skipped) == 1 and "not a readable MIDI file" in rolls.skipped[0][2]
    assert sum(map(len, rolls.splits.values())) == 12


def test_arrays_of_the_wrong_shape_are_named(tmp_path):
    np.savez(tmp_path / "train.npz", frames=np.zeros((5, 60)), lengths=np.array([5]))
    with pytest.raises(DataError, match=r"frames \(5, 60\).*expected frames \(sum of"):
        load_rolls(str(tmp_path))
    np.savez(tmp_path / "train.npz", frames=np.zeros((5, 88)))
    with pytest.raises(DataError, match="lengths"):
        load_rolls(str(tmp_path))


def test_unknown_characters_are_unknown():
    vocabulary = TuneVocabulary.train_from_iterator(["ab|"], "characters")
    assert vocabulary.encode(tf.constant(["a?"])).to_list() == [[4, 1]]


def test_a_folder_with_test_tunes_alone_is_evaluated_as_it_is(tmp_path):
    from apps.common.evaluation import choose_split

    (tmp_path / "test.abc").write_text(helpers.some_tunes(6))
    for split in (None, "test"):
        data, name = choose_split(lambda whole: load_tunes(str(tmp_path), whole=whole), str(tmp_path), split)
        assert name == "test" and len(data.splits["test"]) == 6
