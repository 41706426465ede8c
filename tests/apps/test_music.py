"""Music generation from its command line to a server that knows nothing of this project."""

import dataclasses
import itertools
import json
import re
import time
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import apps
from apps.common.cells import CELLS
from apps.common.training.losses import TokenLoss
from apps.music_generation.config import RollConfig, TuneConfig
from apps.music_generation.predict import check_prompt
from apps.music_generation.rolls.evaluate import evaluate
from apps.music_generation.rolls.loss import FrameLoss
from apps.music_generation.rolls.model import RollModel
from apps.music_generation.rolls.pictures import write_roll
from apps.music_generation.rolls.serving import RollGenerator
from apps.music_generation.tunes.bar_attention import BLOCK, QUARTERS, BarAttention
from apps.music_generation.tunes.engraver import engrave
from apps.music_generation.tunes.evaluate import character_ids, sample_tunes
from apps.music_generation.tunes.grammar import TICKS, Grammar, make_table
from apps.music_generation.tunes.judge import Copies, tune_metrics
from apps.music_generation.tunes.model import TuneModel
from apps.music_generation.tunes.predict import predictions
from apps.music_generation.tunes.scores import with_open_repeats, write_tune
from apps.music_generation.tunes.serving import TuneGenerator, tune_headers
from data_pipelines.abc import ABCError, bars, bars_fit, note_length, read_tune, read_tunes, transpose
from data_pipelines.piano_rolls import midi_bytes
from data_pipelines.sources import DataError
from data_pipelines.tunes import TuneVocabulary
from tests import forked
from tests.apps import helpers
from tests.apps.contract import (  # noqa: F401
    Trained,
    test_a_killed_run_ends_as_one_not_killed,
    test_a_run_begins_with_the_weights_of_another,
    test_a_run_in_bfloat16_learns_and_is_exported,
    test_an_export_of_another_application_is_refused,
    test_evaluate_prints_json_that_equals_training,
    test_the_config_of_a_run_gives_its_flags_again,
    test_the_run_folder_is_complete_and_the_loss_falls,
    test_wrong_use_is_one_line_and_leaves_nothing,
)
from tests.serving.operations import check_graph

SMALL = "--units 16 --num-layers 1 --batch-size 4 --learning-rate 0.02 --num-samples 4 --max-length 80".split()
SMALL += "--transpose-prob 0.2 --bptt-steps 16 --attention-length 24".split()

command = partial(helpers.command, "music_generation")


@pytest.fixture(scope="module")
def tunes_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tunes") / "own.abc"
    path.write_text(helpers.some_tunes() + "X:99\nT:Broken\nM:C\nabc|\n")
    return path


@pytest.fixture(scope="module")
def trained(tunes_file, tmp_path_factory):
    wrong = [
        (["--data", helpers.ROOT / "README.md"], "no tunes to use"),
        (["--irnn"], "--irnn is for --cell simple_rnn"),
        (["--cell", "min_gru", "--recurrent-dropout", "0.2"], "--cell min_gru has no recurrent product"),
        (["--music", "rolls", "--tokenizer", "musical"], "unrecognized arguments: --tokenizer musical"),
        (["--frame", "nade"], "unrecognized arguments: --frame nade"),
        (["--music", "songs"], "invalid choice: 'songs'"),
    ]
    sampling = ["--num-samples", "4", "--max-new-tokens", "80"]
    kept = {"files": "skipped.tsv example.abc example.mid example.svg example.png", "evaluate": sampling, "wrong": wrong}
    return Trained("music_generation", tunes_file, SMALL, tmp_path_factory.mktemp("trained"), **kept)


def test_the_export_is_as_good_as_the_best_epoch_and_keeps_to_the_bars(trained):
    assert "skipped     1: tune 25 in train: no key (K:)\n" in trained.printed
    bits, metrics = [row["val_bits_per_character"] for row in helpers.log(trained.run)], trained.metrics()
    assert bits[1] < bits[0] and abs(metrics["validation"]["bits_per_character"] - min(bits)) < 1e-4
    assert metrics["constrained"]["bars_fit"] == 1.0 and metrics["constrained"]["parse"] == 1.0


def test_predict_continues_prompts_and_writes_files(trained, tmp_path):
    prompt = "X:7\\nT:My jig\\nL:1/8\\nM:6/8\\nK:D major\\nABc def|"
    line = [trained.export, prompt, "--constrained", "--out", tmp_path / "tune", "--seed", "3"]
    result = command("predict", *line, "--json")
    assert result.returncode == 0, result.stderr[-3000:]
    row = json.loads(result.stdout)
    assert row["abc"].startswith("X:7\nT:My jig\nM:6/8\nL:1/8\nK:Dmaj\nABc def|") and bars_fit(read_tune(row["abc"]))
    assert {path.suffix for path in tmp_path.iterdir()} >= {".abc", ".mid", ".svg", ".png"}
    again = command("predict", *line)
    assert again.stdout.startswith(row["abc"])
    several = command("predict", trained.export, prompt, "--constrained", "--seed", "2", "--count", "2", "--json")
    first, second = map(json.loads, several.stdout.splitlines())
    assert first["abc"] != row["abc"] == second["abc"] and [first["seed"], second["seed"]] == [2, 3]
    play = apps.load(trained.export)
    assert play([prompt.replace("\\n", "\n")], seed=2, constrained=True)[0]["abc"] == first["abc"]
    assert play(temperature=1, top_p=1) == play(temperature=1.0, top_p=1.0)
    (tmp_path / "tune.txt").touch()
    with pytest.raises(DataError, match=r"tune\.txt: is a file; this model continues .abc files"):
        check_prompt(str(tmp_path / "tune.txt"), (".abc",))


def test_the_export_plays_on_without_this_project(trained):
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        "served = tf.saved_model.load(sys.argv[1]).signatures\n"
        "def run(*prompts, name='serving_default', seed=5, length=60):\n"
        "    numbers = dict(max_new_tokens=tf.constant(length), temperature=tf.constant(1.0), top_p=tf.constant(1.0))\n"
        "    numbers |= dict(prompt=tf.constant(list(prompts), tf.string), seed=tf.constant(seed))\n"
        "    return list(served[name](**numbers)['abc'].numpy())\n"
        "header = 'M:C\\nL:1/8\\nK:G\\n'\n"
        "one = run(header, seed=[5])[0]\n"
        "assert one.startswith(b'X:1\\nM:C\\nL:1/8\\nK:Gmaj\\n')\n"
        "assert run(header)[0] == one == run('', header, header, seed=[1, 5, 6])[1]\n"  # a row alone or in a batch
        "assert run(header, header)[1] != one\n"
        "assert len(set(run(*[header] * 8))) > 4\n"
        "assert one.startswith(run(header, length=[7], seed=[5])[0])\n"
        "for text in run('', 'abc', header + 'ab', 'M:6/8\\n', name='constrained'):\n"
        "    assert b'K:' in text and text.endswith((b'|', b'|\\n', b']', b']\\n')), text\n"
        # token by token, the state outside
        "size = served['decode_step'].structured_input_signature[1]['state'].shape[1]\n"
        "state, text, tokens = np.zeros((1, size), np.float32), header.replace('K:G', 'K:Gmaj'), []\n"
        "numbers = dict(temperature=tf.constant(0.0), top_p=tf.constant(1.0), seed=tf.constant(0))\n"
        "for _ in range(12):\n"
        "    out = served['decode_step'](text=tf.constant([text]), state=tf.constant(state), **numbers)\n"
        "    if out['finished'][0]: break\n"
        "    state, text = out['state'].numpy(), out['token'][0].numpy().decode()\n"
        "    tokens.append(text)\n"
        "numbers |= dict(max_new_tokens=tf.constant(12))\n"
        "greedy = served['serving_default'](prompt=tf.constant([header]), **numbers)['abc'].numpy()[0].decode()\n"
        "assert greedy.endswith('K:Gmaj\\n' + ''.join(tokens)), (greedy, tokens)\n"
    )
    helpers.run_alone(script, trained.export / "1")


@pytest.mark.parametrize("frame", ["nade", "independent"])
def test_own_midi_files_train_and_play_on(frame, tmp_path):
    generator = np.random.default_rng(1)
    for i in range(14):
        roll = np.zeros((24, 88), np.uint8)
        for t in range(0, 24, 2):
            roll[t : t + 2, 30 + generator.choice(12, 3, replace=False)] = 1
        (tmp_path / f"{i}.mid").write_bytes(midi_bytes(roll))
    small = ["--units", "16", "--hidden", "8", "--batch-size", "2", "--epochs", "2", "--bptt-steps", "8", "--frame", frame]
    places = ["--run-dir", tmp_path / "run", "--export-dir", tmp_path / "export", "--max-length", "20"]
    result = command("train", "--data", tmp_path, *small, *places)
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    best = min(row["val_nll_per_frame"] for row in helpers.log(tmp_path / "run"))
    assert abs(metrics["validation"]["nll_per_frame"] - best) < 1e-3
    again = helpers.parsed("music_generation", "--config", tmp_path / "run" / "config.json", "--run-dir", tmp_path / "run")
    assert dataclasses.asdict(again) == json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    result = command("evaluate", tmp_path / "export", "--data", tmp_path, "--split", "test")
    assert json.loads(result.stdout.splitlines()[-1]) == {"split": "test", **metrics["test"]}
    out = ["--out", tmp_path / "new" / "piece", "--new-frames", "16", "--seed", "2"]
    result = command("predict", tmp_path / "export", tmp_path / "0.mid", *out, "--json")
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads(result.stdout)["frames"] == 40
    assert {"piece.mid", "piece.png"} <= {path.name for path in (tmp_path / "new").iterdir()}
    check_graph(tmp_path / "export" / "1")


def test_help_shows_the_flags_of_each_model_and_its_defaults():
    for kind, config in ((), TuneConfig()), (("--music", "rolls"), RollConfig()):
        shown = " ".join(command("train", *kind, "--help", alone=False).stdout.split())
        assert f"size of the states (default: {config.units})" in shown
        own = {field.name.replace("_", "-") for field in dataclasses.fields(config)}
        assert own == set(re.findall(r" --(?!no-|help|config )([\w-]+)", shown)), kind


@pytest.mark.parametrize(
    "module, arguments, flag",
    [
        ("predict", ["--new-frames", "3"], "--new-frames"),
        ("evaluate", ["--data", "embedded", "--frame-beats", "1"], "--frame-beats"),
    ],
)
def test_flags_of_the_other_model_are_refused(module, arguments, flag, trained):
    result = command(module, trained.export, *arguments)
    assert result.returncode == 2 and f"{flag}: has no meaning for this export, which is a model of tunes" in result.stderr


# -- the models

TUNE_VARIANTS = [
    {},
    {"cell": "gru", "dropout": 0.2, "recurrent_dropout": 0.2},
    {"cell": "simple_rnn", "irnn": True},
    {"cell": "gated_rnn", "num_layers": 3},
    {"attention_length": 5, "words": list("AB2|c(3/")},
]


@pytest.mark.parametrize("options", TUNE_VARIANTS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_moves_every_weight_and_the_model_reloads(options, jit_compile, tmp_path):
    model = TuneModel(12, 6, batch_size=3, **{"units": 8, "num_layers": 2, **options})
    model.build()
    tokens = np.random.default_rng(0).integers(2, 12, (3, 9)).astype("int32")
    inputs = {"tokens": tokens[:, :-1], "is_continuation": np.array([0 if "irnn" in options else 1, 0, 0], "float32")}
    before = model.get_weights()
    model.compile(keras.optimizers.Adam(0.002 if "irnn" in options else 0.02), TokenLoss(), jit_compile=jit_compile)
    data = tf.data.Dataset.from_tensors((inputs, tokens[:, 1:]))
    losses = model.fit(data, epochs=8, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for old, variable in zip(before, model.weights):
        if "seed" not in variable.path:
            assert (old != np.array(variable)).any(), variable.path
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(model(inputs), reloaded(inputs), atol=1e-6)


@pytest.mark.parametrize("kind", ["tunes", "attention", "rolls"])
def test_chunks_are_one_long_sequence_until_it_ends(kind):
    """The state is carried from chunk to chunk, and is forgotten where a sequence begins; without training nothing is carried."""
    generator = np.random.default_rng(0)
    if kind != "rolls":
        model = looking_back() if kind == "attention" else TuneModel(9, 4, batch_size=2, units=5, num_layers=2)
        x = {"tokens": generator.integers(1, 9, (2, 12))}
    else:
        model = RollModel(6, batch_size=2, units=5, num_layers=2, hidden=3)
        frames = (generator.random((2, 13, 6)) < 0.4).astype("float32")
        x = {"frames": frames[:, :-1], "targets": frames[:, 1:]}
    if not model.built:
        model.build()
    whole = model(x)

    def chunk(i, is_continuation):
        part = {name: value[:, 4 * i : 4 * i + 4] for name, value in x.items()}
        return model({**part, "is_continuation": np.array(is_continuation, "float32")}, training=True)

    chunk(1, [1, 1])  # leaves something behind
    parts = [chunk(0, [0, 0]), chunk(1, [1, 1]), chunk(2, [1, 0])]
    np.testing.assert_allclose(np.concatenate(parts, axis=1)[0], whole[0], atol=1e-5)
    np.testing.assert_allclose(np.concatenate(parts[:2], axis=1)[1], whole[1, :8], atol=1e-5)
    alone = model({name: value[1:, 8:] for name, value in x.items()})
    np.testing.assert_allclose(parts[2][1], alone[0], atol=1e-5)
    np.testing.assert_allclose(model(x), whole, atol=1e-6)


def looking_back(length=6, **settings):
    """A model with attention, whose weights are not small."""
    model = TuneModel(9, 4, batch_size=2, units=5, attention_length=length, words=list("AB2|c"), **settings)
    model.build()
    for i, weight in enumerate(model.trainable_variables):
        weight.assign(np.random.default_rng(i).normal(size=weight.shape) * 0.5)
    return model


@pytest.mark.parametrize("options", [{}, {"attention_length": 6}, *({"attention_length": 6, "cell": cell} for cell in CELLS)])
def test_one_step_at_a_time_equals_whole_sequences(options):
    """With the states packed and unpacked between the steps, as a client keeps them; the attention has more than one block."""
    settings = {"num_layers": 1 + (not options), **options}
    model = looking_back(settings.pop("attention_length", 0), **settings)
    tokens = np.random.default_rng(0).integers(1, 9, (2, BLOCK + 4))
    whole, states = model({"tokens": tokens}), model.get_initial_state(2)
    for t in range(tokens.shape[1]):
        logits, states = model.decode_step(tokens[:, t], model.unpack(model.pack(states)))
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-5)


def test_the_attention_sees_what_came_and_only_so_far_back():
    model = looking_back(num_layers=1)
    tokens = np.random.default_rng(0).integers(4, 9, (1, 40))
    later, earlier = tokens.copy(), tokens.copy()
    later[:, 20:] = 12 - later[:, 20:]
    np.testing.assert_array_equal(model({"tokens": later})[:, :20], model({"tokens": tokens})[:, :20])
    h = np.random.default_rng(1).normal(size=(1, 40, 5)).astype("float32")
    earlier[:, 3] = 4 + (earlier[:, 3] - 3) % 5  # where x_3 is seen: at its step and the N - 1 after it
    attention = looking_back(num_layers=1).attention
    attention.place.embeddings.assign(attention.place.embeddings * 0)
    attention.bar.embeddings.assign(attention.bar.embeddings * 0)
    attention.preference.assign(attention.preference * 0)  # only what was said, not where it is
    memory = [np.zeros((1, size), "float32") for size in attention.state_sizes]
    changed = np.any(attention(h, earlier, memory)[0] != attention(h, tokens, memory)[0], axis=(0, 2))
    np.testing.assert_array_equal(np.flatnonzero(changed), np.arange(3, 3 + attention.length))


def test_a_head_finds_what_came_next_at_the_same_place_its_bars_before():
    attention = BarAttention(12, ["", "", "", "", *"ABcd|"], embedding_size=3)
    attention.build((None, None, 12))
    attention.output_layer.kernel.assign(np.eye(12))  # y is what the heads found, one after the other
    for weight in (attention.key.kernel, attention.nothing.kernel, attention.place.embeddings, attention.bar.embeddings):
        weight.assign(weight * 0)
    attention.nothing.bias.assign([-1e3] * 4)
    attention.preference.assign([[1e2]] * 4)
    bars = np.concatenate([np.random.default_rng(0).integers(4, 8, (6, 4)), np.full((6, 1), 8)], axis=1)
    tokens = bars.reshape(1, 30)
    y, _ = attention(np.zeros((1, 30, 12), "float32"), tokens, [np.zeros((1, size), "float32") for size in attention.state_sizes])
    for head, bars_ago in enumerate((1, 2)):  # four bars are more than twelve tokens
        after = np.arange(5 * bars_ago, 30)
        expected = attention.value(tokens[0, after - 5 * bars_ago + 1])
        np.testing.assert_allclose(np.asarray(y)[0, after, 3 * head : 3 * head + 3], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["characters", "musical"])
def test_places_are_the_time_since_the_bar_line(kind):
    tune = read_tune("X:1\nM:C\nL:1/8\nK:Gm\nAG|F2FA (3GFE c/d/=e/4f/4g/|^d'3/2e/ dc B,4|a6|]\nb2|")
    vocabulary = TuneVocabulary.train_from_iterator([tune.text], kind)
    attention = BarAttention(3, ["", "", "", "", *vocabulary.words])
    tokens = vocabulary.encode(tf.constant([tune.text])).to_tensor()
    memory = [np.zeros((1, size), "float32") for size in attention.state_sizes]
    numbers, places = (np.asarray(x)[0] for x in attention.positions(tokens, memory))
    texts = [word.decode() for word in vocabulary.tokenize(tf.constant([tune.text]))[0].numpy()]
    ends = [i for i, text in enumerate(texts) if text[0] == "|"]
    assert [places[i - 1] / QUARTERS for i in ends] == [2, 8, 8, 6, 2] and [numbers[i] for i in ends] == [0, 1, 2, 3, 3]
    assert not places[ends].any()


@pytest.mark.parametrize("frame", ["nade", "independent"])
def test_the_probabilities_of_all_frames_add_up_to_one(frame):
    model = RollModel(4, frame=frame, hidden=3, units=5, num_layers=1)
    model.build()
    model.set_weights([np.random.default_rng(i).normal(size=w.shape) for i, w in enumerate(model.get_weights())])
    frames = np.array(list(itertools.product([0, 1], repeat=4)), "float32")[:, None]  # (16, 1, 4)
    past = np.repeat([[[1.0, 0, 1, 1]]], 16, axis=0)
    logits = model({"frames": past, "targets": frames})
    nats = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(frames, logits), axis=[1, 2])
    np.testing.assert_allclose(np.exp(-nats).sum(), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.mean(nats), FrameLoss()(frames, logits), rtol=1e-5)


def test_frames_are_sampled_as_often_as_they_are_probable():
    model = RollModel(88, hidden=4, units=4, num_layers=1, batch_size=1)
    model.build()
    model.set_weights([np.random.default_rng(i).normal(size=w.shape) * 0.5 for i, w in enumerate(model.get_weights())])
    sampled = RollGenerator(model, 1).generate(tf.zeros((4000, 0, 88), tf.uint8), 1, 1.0, 3)["frames"].numpy().astype("float32")
    logits = model({"frames": np.zeros_like(sampled), "targets": sampled})
    expected = np.mean(tf.sigmoid(logits), axis=(0, 1))  # of each key, given the lower ones as sampled
    np.testing.assert_allclose(sampled.mean(axis=(0, 1)), expected, atol=0.035)


# -- the grammar

TOKENS = ["", "", "", "", *"ABcd'^_=,2346/8z(|:[]1>< \n-"]


@pytest.fixture(scope="module")
def table():
    return make_table(TOKENS)


@pytest.mark.parametrize("metre, units", [("6/8", 6), ("C", 8), ("2/4", 4), ("9/8", 9), ("5/16", Fraction(5, 2))])
def test_what_the_grammar_lets_pass_has_full_bars(metre, units, table):
    """Walk the automaton at random: every end it allows is a tune whose bars fit, and there is always a way on."""
    start = table.start(table.ticks(Fraction(units)))
    generator = np.random.default_rng(0)
    seen = ""
    for _ in range(60):
        state, text = start, ""
        while True:
            moves = table.after[state]
            moves = np.where((moves < 0) & table.may_begin[state], table.after[start], moves)[table.columns]
            targets = np.flatnonzero(moves >= 0)
            assert len(targets) or table.may_end[state]
            if table.may_end[state] and (len(text) > 60 or not len(targets)):
                break
            token = generator.choice(targets)
            state, text = moves[token], text + TOKENS[token]
        seen += text
        tune = read_tune(f"X:1\nM:{metre}\nL:1/8\nK:D\n{text}")
        assert {length == full for length, full, _ in bars(tune) if length} <= {True}, text
        assert bars_fit(tune)
    assert set("(>|:[z/'^") <= set(seen)


@pytest.mark.parametrize(
    "text, reads",
    [
        ("ABc def|", True), ("ABc de|", False), ("(3ABc d2 ef|", True), ("A>B c2 ef:|", True), ("A4 (3Bcd|", True),
        ("ABc def", False), ("A2>B2 de||", True), ("ABc d3-|d6|]", True), ("A7|", False), ("ABcdef|\n[1 ABc def:|", True),
        ("ABc def| |ABc def|", False), ("|ABc def|", False),
    ],
)  # fmt: skip
def test_the_grammar_knows_bars_of_six(text, reads):
    assert Grammar(6 * TICKS).accepts(text) is reads


@pytest.mark.parametrize("kind", ["characters", "musical"])
def test_an_untrained_model_generates_full_bars(kind):
    tunes, _ = read_tunes(helpers.some_tunes())
    vocabulary = TuneVocabulary.train_from_iterator([t.text for t in tunes] + ["(3^a'2/:|[1[2z>"], kind)
    model = TuneModel(vocabulary.size, 4, batch_size=1, units=4, num_layers=1)
    model.build()
    generator = TuneGenerator(model, vocabulary, tune_headers(tunes), top_k=0, max_length=120)
    prompts = tf.constant(["", "X:3\nM:6/8\nL:1/8\nK:D\nABc d", "M:C\nL:1/8\nK:G\nAB|", "M:C\n"] * 5)
    generated = [0] * 4  # bars after each prompt
    texts = [t.decode() for t in generator.generate(prompts, 120, 1.0, 1.0, 1, constrained=True)["abc"].numpy()]
    for i, (prompt, text) in enumerate(zip(prompts.numpy(), texts)):
        tune = read_tune(text)
        lengths = [(length, metre) for length, metre, _ in bars(tune) if length][1 if b"AB|" in prompt else 0 :]
        assert all(length == metre for length, metre in lengths), text
        generated[i % 4] += len(lengths)
        if prompt.startswith(b"M:C"):
            assert tune.metre == "C"
    assert min(generated) > 5


# -- what is measured


def test_characters_of_tunes_are_numbered_with_their_end():
    (tune,), _ = read_tunes("X:1\nM:6/8\nL:1/8\nK:D\nABA|\n")
    assert character_ids([tune], ["A", "B"])[0].tolist()[-6:-3] == [2, 3, 2] and character_ids([tune], ["A"])[0][-1] == 0
    assert set(character_ids([tune], [])[0]) == {0, 1}


def test_copies_and_broken_tunes_show():
    tunes, _ = read_tunes(helpers.some_tunes())
    copied = tune_metrics(["X:1\n" + transpose(tunes[0], 5).text], Copies(tunes))
    assert copied["copied_max"] == 1.0 and copied["parse"] == 1.0 and copied["bars_fit"] == 1.0
    mixed = tune_metrics(["X:1\nM:6/8\nL:1/8\nK:D\nABc def|ABc|ABc def|]\n", "no tune", "X:1\n" + tunes[1].text], Copies(tunes))
    assert mixed["parse"] == pytest.approx(2 / 3) and mixed["bars_fit"] == pytest.approx(1 / 3)
    half = read_tune("X:1\nM:2/4\nL:1/8\nK:D\nabcd|efga|b2b2|^g4|")
    assert 0.5 < Copies([half]).longest_share(read_tune("X:1\nM:2/4\nL:1/8\nK:D\nabcd|efga|D8|")) < 0.9


def test_the_name_of_files_may_have_a_dot(tmp_path):
    tune = "X:1\nM:2/4\nL:1/8\nK:D\nd2 fd|a4|\n"
    files = [path.name for number in (1, 2) for path in write_tune(tune, tmp_path / f"v1.2_{number}")]
    assert files == [f"v1.2_{number}{ending}" for number in (1, 2) for ending in (".abc", ".mid", ".svg", ".png", ".wav")]
    rolls = [path.name for path in write_roll(np.eye(4, 88, 40, "uint8"), tmp_path / "roll.1", 0.25)]
    assert rolls == ["roll.1.mid", "roll.1.png", "roll.1.wav"] and {*files, *rolls} == {path.name for path in tmp_path.iterdir()}


def test_a_file_is_a_prompt_whatever_the_case_of_its_ending_and_seeds_wrap(tmp_path):
    (tmp_path / "TUNE.ABC").write_text("M:C\nK:D\n")

    def served(prompt, seed, **numbers):
        return {"abc": tf.strings.join([prompt, tf.strings.as_string(seed)])}

    export = SimpleNamespace(signatures={"serving_default": served})
    found = predictions(export, [str(tmp_path / "TUNE.ABC")], count=2, seed=2**31 - 1)
    assert [(row["abc"], row["seed"]) for row in found] == [("M:C\nK:D\n2147483647", 2**31 - 1), ("M:C\nK:D\n0", 0)]
    assert sample_tunes(export, 1, 9, 1.0, 1.0, 3_000_000_000, constrained=False) == ["852516352"]


def test_a_prompt_that_an_export_refuses_is_one_line():
    @tf.function
    def constrained(prompt, **numbers):
        tf.debugging.Assert(False, [tf.strings.format("prompt: its last bar, {}, can't be completed. End it.", prompt)])

    with pytest.raises(DataError, match=r"^prompt: its last bar, \[\"a3/4\"\], can't be completed\. End it\.$"):
        sample_tunes(SimpleNamespace(signatures={"constrained": constrained}), 1, 9, 1.0, 1.0, 0, True, "a3/4")


def test_pieces_too_long_to_be_scored_are_refused():
    rolls = SimpleNamespace(splits={"train": [np.zeros((60_000, 88))], "validation": [np.zeros((9, 88)), np.zeros((50_001, 88))]})
    with pytest.raises(DataError, match=r"the validation split has a piece of 50,001 frames; expected at most 50,000\. Cut it"):
        evaluate(None, rolls, ["validation"])


def test_a_row_of_rolls_does_not_depend_on_its_batch():
    model = RollModel(88, frame="independent", units=4, num_layers=1, batch_size=2)
    model.build()
    generator, frames = RollGenerator(model, 9), tf.zeros((3, 2, 88), tf.uint8)
    together = generator.generate(frames, 9, 1.0, [5, 6, 7])["frames"].numpy()
    alone = [generator.generate(frames[:1], 9, 1.0, seed)["frames"].numpy()[0] for seed in (5, 6, 7)]
    np.testing.assert_array_equal(together, alone)
    of_one_seed = generator.generate(frames, 9, 1.0, 5)["frames"].numpy()
    assert (of_one_seed[0] == alone[0]).all() and (of_one_seed[1] != alone[0]).any()
    state = tf.zeros((3, model.state_size))
    steps = generator.decode_step(frames[:, 0], state, 1.0, [5, 6, 7])["frame"].numpy()
    np.testing.assert_array_equal(steps[2:], generator.decode_step(frames[:1, 0], state[:1], 1.0, 7)["frame"])


def test_sheet_music_of_what_is_no_tune_is_refused(tmp_path):
    for text in ("X:1\nM:C\nL:1/8\nK:D\nno music at all <b>", "words", ""):
        assert with_open_repeats(text) == text
    with pytest.raises(DataError, match="verovio can't read it"):
        write_tune("X:1\nK:D\n", tmp_path / "tune")


def test_tunes_that_would_hang_the_engraver_are_skipped():
    tune = "X:1\nM:2/4\nL:1/8\nK:D\nd2 fd|a4|\n"
    begun = time.monotonic()
    found = engrave([tune, tune.replace("a4", "a9999999999999999999"), tune.replace("M:2/4", "M:1/999999999"), tune])
    assert [score is not None for score in found] == [True, False, False, True]
    assert time.monotonic() - begun < 15  # not by the limit of seconds
    with pytest.raises(ABCError, match="too long"):
        note_length("1" * 30)


def test_an_engraver_ends_with_its_parent(tmp_path):
    code = (
        "import subprocess, sys, os; from apps.music_generation.tunes import engraver as e; "
        "p = subprocess.Popen([sys.executable, e.__file__, str(os.getpid())], stdin=subprocess.PIPE, stdout=subprocess.PIPE); "
        "p.stdin.write(b'[\"X:1\\\\nM:2/4\\\\nL:1/8\\\\nK:D\\\\nd4|\\\\n\", false, true]\\n'); p.stdin.flush(); "
        "p.stdout.readline(); open('pid', 'w').write(str(p.pid)); os.kill(os.getpid(), 9)"
    )
    forked.run("-c", [], cwd=tmp_path, code=code)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
