"""The language model from its command line to a server that knows nothing of this project."""

import json
import math
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import apps
from apps.common.language_model import LanguageModel
from apps.common.training.losses import TokenLoss, token_cross_entropy
from apps.language_model.evaluate import check_lengths, evaluate_export
from apps.language_model.predict import predictions
from apps.language_model.serving import TextGenerator
from apps.language_model.validation import StreamValidation
from data_pipelines.embedded.reviews import embedded_reviews
from data_pipelines.sources import DataError
from data_pipelines.token_streams import whole_streams
from data_pipelines.vocabulary import EOS, UNKNOWN, train_vocabulary
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

SMALL = "--units 16 --embedding-size 8 --batch-size 8 --bptt-steps 16 --learning-rate 0.02 --max-length 30".split()
SMALL += "--weight-dropout 0.2 --embedding-dropout 0.1 --ema-momentum 0.5".split()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Own files: a part of the embedded reviews as plain text."""
    folder = tmp_path_factory.mktemp("texts")
    for name, pairs in embedded_reviews().items():
        (folder / f"{name}.txt").write_text("\n".join(text for text, _ in pairs[: 400 if name == "train" else 40]) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory):
    wrong = [
        (["--data", texts / "none"], "none: no such file"),
        (["--cell", "min_gru"], "--weight-dropout 0.2: --cell min_gru has no recurrent product. Pass another cell, or"),
        (["--init-from", texts], f"--init-from {texts}: holds no finished run"),
        (["--tokenizer", "letters"], "invalid choice: 'letters'"),
        (["--weight-dropout", "1"], "--weight-dropout 1.0: expected a number in [0, 1)"),
    ]
    return Trained("language_model", texts, SMALL, tmp_path_factory.mktemp("trained"), files="vocabulary.json", wrong=wrong)


def test_training_says_what_it_does_and_the_export_is_as_good_as_the_best_epoch(trained):
    for part in ("passages", "400 train (", "vocabulary", "words", "perplexity", "bits_per_byte", "Completions:"):
        assert part in trained.printed
    best = min(row["val_perplexity"] for row in helpers.log(trained.run))
    found = trained.metrics()["validation"]["perplexity"]
    assert found == pytest.approx(best, rel=0.1)  # of other streams, cut at passages


def test_predict_completes_scores_and_tells_what_comes_next(trained):
    line = [trained.export, "The food", "--max-new-tokens", "6"]
    result = trained.command("predict", *line, "-", "--json", "--seed", "3", input="was\n\n")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["prompt"] for row in rows] == ["The food", "was", ""]
    assert all(row["text"].startswith(row["prompt"]) for row in rows) and rows[0]["text"] != "The food"
    assert trained.command("predict", *line, "--seed", "3").stdout.strip() == rows[0]["text"]
    complete = apps.load(trained.export)
    assert complete(["The food"], temperature=1, top_p=1) == complete(["The food"], temperature=1.0, top_p=1.0)
    greedy = [trained.command("predict", *line, "--temperature", "0", "--seed", seed).stdout for seed in "12"]
    assert greedy[0] == greedy[1]
    (row,) = map(json.loads, trained.command("predict", trained.export, "--score", "--json", "The food").stdout.splitlines())
    assert [pair["token"] for pair in row["tokens"]] == ["the", "food", ""]
    assert all(pair["bits"] > 0 for pair in row["tokens"])
    assert trained.command("predict", trained.export, "--score", "The food").stdout.splitlines()[-1].endswith("(end)")
    (row,) = map(json.loads, trained.command("predict", trained.export, "--next", "3", "--json", "The").stdout.splitlines())
    shares = [pair["probability"] for pair in row["tokens"]]
    assert len(shares) == 3 and shares == sorted(shares, reverse=True) and sum(shares) <= 1


def test_the_export_completes_without_this_project(trained):
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        "served = tf.saved_model.load(sys.argv[1]).signatures\n"
        "numbers = dict(temperature=tf.constant(1.0), top_p=tf.constant(0.9), top_k=tf.constant(50))\n"
        "def run(*prompts, seed=5, length=12):\n"
        "    more = dict(prompt=tf.constant(list(prompts), tf.string), max_new_tokens=tf.constant(length))\n"
        "    return list(served['serving_default'](**more, seed=tf.constant(seed), **numbers)['text'].numpy())\n"
        "one = run('the food', seed=[5])[0]\n"
        "assert one.startswith(b'the food') and one == run('', 'the food', 'was', seed=[1, 5, 6])[1]\n"
        "assert len(set(run(*['the'] * 8))) > 2 and run() == []\n"
        "scores = served['score'](text=tf.constant(['the food', '']))\n"
        "assert scores['tokens'].numpy().tolist() == [[b'the', b'food', b''], [b'', b'', b'']]\n"
        "assert (scores['log_probabilities'].numpy() <= 0).all() and scores['count'].numpy().tolist() == [3, 1]\n"
    )
    helpers.run_alone(script, trained.export / "1")


def test_a_model_of_both_directions_and_pieces_trains_and_is_exported(trained, tmp_path):
    flags = "--direction both --tokenizer bpe --vocabulary-size 150 --activity-penalty 1 --epochs 1 --cell gru".split()
    trained.train(tmp_path, *flags)
    served = trained.command("predict", tmp_path / "export", "--next", "150", "--json", "The").stdout
    tokens = json.loads(served)["tokens"]
    assert 0.98 < sum(pair["probability"] for pair in tokens) < 1  # padding and BOS have the rest
    assert "" in {pair["token"] for pair in tokens} and "</s>" not in {pair["token"] for pair in tokens}
    check_graph(tmp_path / "export" / "1", text_ops=True)


# -- the model


TEXTS = ["a small dog runs over the green grass .", "two men sit on a wall , and eat", "the food wasn't good at all !"]


def small_model(vocabulary_size, seed=0, **settings):
    """Random weights of clear preferences."""
    keras.utils.set_random_seed(seed)
    sizes = {"batch_size": 2, "units": 6, "num_layers": 2} | settings
    model = LanguageModel(vocabulary_size, 8, **sizes)
    model.build()
    for variable in model.trainable_variables:
        if len(variable.shape) == 2:
            variable.assign(4 * np.asarray(variable))
    return model


@pytest.fixture(scope="module")
def generator():
    vocabulary = train_vocabulary("words", TEXTS, 40, has_bos_eos=True)
    return TextGenerator(small_model(vocabulary.size), vocabulary, max_length=30)


def plain_scores(generator, text):
    """log p of each token of a text and of its end, a step at a time."""
    model, found = generator.model, []
    states, before = model.get_initial_state(1), EOS
    for token in [*generator.vocabulary.encode(tf.constant([text])).to_list()[0], EOS]:
        logits, states = model.decode_step(np.array([before]), states)
        found.append(float(tf.nn.log_softmax(logits)[0, token]))
        before = token
    return found


def test_a_chunk_goes_on_where_the_chunk_before_ended_and_only_there():
    model = small_model(12)
    tokens = np.random.default_rng(0).integers(4, 12, (2, 9)).astype("int32")
    whole = model({"tokens": tokens})
    first = model({"tokens": tokens[:, :5], "is_continuation": np.zeros(2, "float32")}, training=True)
    second = model({"tokens": tokens[:, 5:], "is_continuation": np.array([1, 0], "float32")}, training=True)
    np.testing.assert_allclose(first, whole[:, :5], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(second[0], whole[0, 5:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(second[1], model({"tokens": tokens[1:, 5:]})[0], rtol=1e-4, atol=1e-5)


def test_the_backward_model_reads_from_the_end_with_the_same_embedding():
    model = small_model(12, direction="both")
    tokens = np.random.default_rng(0).integers(4, 12, (2, 5)).astype("int32")
    forward, backward = np.split(model({"tokens": tokens, "reversed": tokens[:, ::-1]}), 2, axis=1)
    assert not np.allclose(forward, backward[:, ::-1])
    for ours, theirs in zip(model.stacks[1].rnn_layers, model.stacks[0].rnn_layers):
        ours.set_weights(theirs.get_weights())
    model.outputs_of[1].set_weights(model.outputs_of[0].get_weights())
    np.testing.assert_allclose(model({"tokens": tokens, "reversed": tokens})[:, 5:], forward, rtol=1e-5, atol=1e-6)


def test_dropped_words_are_whole_words_of_the_vocabulary():
    model = small_model(50, embedding_dropout=0.5)
    tokens = np.tile(np.arange(4, 50, dtype="int32"), (3, 2))
    there = np.abs(np.asarray(model.embed(tokens, training=True))).sum(axis=-1) > 0
    np.testing.assert_array_equal(there[0], there[1])  # in each row
    np.testing.assert_array_equal(there[:, :46], there[:, 46:])  # wherever it stands
    assert 10 < there[0, :46].sum() < 36
    np.testing.assert_array_equal(model.embed(tokens), model.embedding(tokens))


def test_a_penalty_of_activities_and_their_changes_adds_to_the_loss():
    model = small_model(12, activity_penalty=0.5)
    tokens = np.random.default_rng(0).integers(4, 12, (2, 9)).astype("int32")
    h = np.asarray(model.stacks[0].unfold(model.embedding(tokens)))
    model({"tokens": tokens}, training=True)
    wanted = 0.5 * (np.mean(h**2) + np.mean((h[:, 1:] - h[:, :-1]) ** 2))
    np.testing.assert_allclose(sum(model.losses), wanted, rtol=1e-5)
    model({"tokens": tokens[:, :1]}, training=True)  # no change in a chunk of one step
    np.testing.assert_allclose(sum(model.losses), 0.5 * np.mean(h[:, :1] ** 2), rtol=1e-5)


def test_a_passage_that_cannot_be_scored_is_refused_before_the_training():
    check_lengths({"validation": tf.ragged.constant([[1] * (2**15 + 1), [1]])})  # the last is EOS
    with pytest.raises(DataError, match="split has a passage of 32,769 tokens; at most 32,768 can be scored"):
        check_lengths({"test": tf.ragged.constant([[1] * (2**15 + 2)])})


def test_many_prompts_are_several_requests(monkeypatch):
    sizes = []

    def complete(prompt, seed, **_):
        sizes.append(len(prompt))
        texts = tf.strings.as_string(seed)
        return {"text": tf.strings.join([prompt, texts]), "completion": texts, "finished": texts != ""}

    monkeypatch.setattr("apps.language_model.predict.LARGEST_REQUEST", 3 * 64)
    served = types.SimpleNamespace(signatures={"serving_default": complete})
    assert [row["text"] for row in predictions(served, ["a"] * 7, seed=5)] == [f"a{n}" for n in range(5, 12)]
    assert sizes == [3, 3, 1]


def test_validation_is_that_of_one_pass_over_all_streams():
    model = small_model(12)
    model.compile("sgd", TokenLoss())
    ids = tf.ragged.constant([[5, 6, 7, EOS], [4, EOS], [8, 9, 10, 11, 4, EOS]] * 3, tf.int32)
    callback = StreamValidation(whole_streams(ids, rows=4, steps=2))
    callback.set_model(model)
    logs = {}
    callback.on_epoch_end(0, logs)
    ((inputs, targets),) = whole_streams(ids, rows=4, steps=100)
    loss, count = token_cross_entropy(targets, model(inputs))
    assert logs["val_loss"] == pytest.approx(float(loss / count), rel=1e-5) and int(count) == 36
    assert logs["val_perplexity"] == pytest.approx(math.exp(logs["val_loss"]))


# -- what is served


NUMBERS = {"temperature": 20.0, "top_p": 0.9, "top_k": 20}


@pytest.mark.parametrize("cell", ["lstm", "qrnn"])
def test_a_score_is_that_of_a_plain_loop(cell):
    vocabulary = train_vocabulary("words", TEXTS, 40, has_bos_eos=True)
    generator = TextGenerator(small_model(vocabulary.size, cell=cell), vocabulary, 30)
    batch = [*TEXTS, "", "a wug", TEXTS[0] * 80]  # more than a block
    outputs = {name: value.numpy() for name, value in generator.score(tf.constant(batch)).items()}
    for row, text in enumerate(batch):
        wanted, count = plain_scores(generator, text), outputs["count"][row]
        assert len(wanted) == count
        np.testing.assert_allclose(outputs["log_probabilities"][row, :count], wanted, rtol=1e-4, atol=1e-4)
        assert not outputs["log_probabilities"][row, count:].any() and not outputs["unknown"][row, count:].any()
    assert outputs["tokens"][4, :3].tolist() == [b"a", b"wug", b""] and outputs["unknown"][4, :3].tolist() == [False, True, False]


def test_texts_scored_one_after_another_are_one_long_stream(generator):
    state, found = tf.zeros([2, generator.state_size]), [[], []]
    parts = [["a small dog", "two men", ""], ["the food", "", "a small wall eat"]]
    for column in zip(*parts):
        outputs = generator.score_step(tf.constant(column), state)
        state = outputs["state"]
        for row in range(2):
            found[row] += outputs["log_probabilities"][row, : int(outputs["count"][row])].numpy().tolist()
    for row, texts in enumerate(parts):
        model, ids = generator.model, []
        for text in texts:
            ids += [*generator.vocabulary.encode(tf.constant([text])).to_list()[0], EOS]
        logits = model({"tokens": np.array([[EOS, *ids[:-1]]])})[0]
        wanted = tf.gather(tf.nn.log_softmax(logits), ids, batch_dims=1)
        np.testing.assert_allclose(found[row], wanted, rtol=1e-4, atol=1e-4)


def test_evaluation_is_one_pass_over_each_stream(generator):
    class Step:
        structured_input_signature = ((), {"state": tf.TensorSpec([None, generator.state_size])})

        def __call__(self, text, state):
            return generator.score_step(text, state)

    served = types.SimpleNamespace(signatures={"score_step": Step()})
    texts = [*TEXTS, "a wug", "the dog"] * 13  # 65: streams of three texts, the last ones shorter
    texts[7] = "the dog and the man " * 400  # too much for one request of 22 rows
    found = evaluate_export(served, texts)
    ids = [generator.vocabulary.encode(tf.constant([text])).to_list()[0] + [EOS] for text in texts]
    nats = 0.0
    for start in range(0, len(texts), 3):
        stream = [token for row in ids[start : start + 3] for token in row]
        loss, _ = token_cross_entropy([stream], generator.model({"tokens": np.array([[EOS, *stream[:-1]]])}))
        nats += float(loss)
    tokens = sum(map(len, ids))
    assert found["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-3)
    assert found["perplexity_per_word"] == pytest.approx(math.exp(nats / sum(len(t.split()) + 1 for t in texts)), rel=1e-3)
    assert found["bits_per_byte"] == pytest.approx(nats / sum(len(t.encode()) + 1 for t in texts) / math.log(2), rel=1e-3)
    assert found["unknown"] == pytest.approx(sum(row.count(UNKNOWN) for row in ids) / tokens) and found["unknown"] > 0
    with pytest.raises(DataError, match=r"a passage of 132,000 characters .* has more than 32,768 tokens\. Cut it into lines"):
        evaluate_export(served, ["dog " * 33_000])


@pytest.mark.parametrize("tokenizer", ["words", "spaces", "characters", "bpe"])
@pytest.mark.parametrize("prompt", ["", "a small", "the food ", "two men sit on a wall"])
def test_token_by_token_is_what_a_greedy_search_completes(tokenizer, prompt):
    model = small_model(train_vocabulary(tokenizer, TEXTS, 60, has_bos_eos=True).size, seed=2)
    vocabulary = train_vocabulary(tokenizer, TEXTS, 60, has_bos_eos=True)  # a new seed ends the pieces' tokenizer
    generator = TextGenerator(model, vocabulary, 30)
    greedy = dict(zip(("temperature", "top_p", "top_k", "seed"), (0.0, 1.0, 0, 0)))
    wanted = generator.generate(tf.constant([prompt]), 12, **greedy)
    state, text, found, finished = tf.zeros([1, generator.state_size]), prompt, prompt, False
    for _ in range(12):
        outputs = generator.decode_step(tf.constant([text]), state, **greedy)
        state, text = outputs["state"], ""
        found += outputs["token"].numpy()[0].decode()
        finished = bool(outputs["finished"][0])
        if finished:
            break
    assert wanted["text"].numpy()[0].decode() == found
    assert wanted["text"].numpy()[0] == prompt.encode() + wanted["completion"].numpy()[0]
    assert bool(wanted["finished"][0]) == finished


def test_a_token_sampled_step_by_step_is_the_first_one_sampled_at_once(generator):
    prompts, seeds = tf.constant(["a small"] * 12), tf.range(12)
    once = generator.generate(prompts, 1, **NUMBERS, seed=seeds)["completion"].numpy()
    step = generator.decode_step(prompts, tf.zeros([12, generator.state_size]), **NUMBERS, seed=seeds)
    np.testing.assert_array_equal(step["token"].numpy(), once)
    assert len(set(once)) > 3


def test_the_answer_of_a_row_does_not_depend_on_its_batch(generator):
    prompts = ["", "a small", "a wug " * 40, "the food wasn't", "!"]
    lengths, seeds, temperatures = [0, 9, 3, 30, 12], [4, 5, 6, 7, 8], [1.0, 0.5, 1.5, 0.0, 1e9]
    numbers = {"top_p": [1.0, 0.9, 0.5, 0.9, 1.0], "top_k": [0, 3, 5, 0, 1]}
    together = generator.generate(tf.constant(prompts), lengths, temperatures, seed=seeds, **numbers)
    score, following = generator.score(tf.constant(prompts)), generator.next_tokens(tf.constant(prompts), [1, 2, 3, 4, 5])
    for i, prompt in enumerate(prompts):
        row = {name: [value[i]] for name, value in numbers.items()}
        alone = generator.generate(tf.constant([prompt]), lengths[i], [temperatures[i]], seed=[seeds[i]], **row)
        for name in together:
            assert together[name][i] == alone[name][0], (name, prompt)
        scored, count = generator.score(tf.constant([prompt])), int(score["count"][i])
        np.testing.assert_allclose(score["log_probabilities"][i, :count], scored["log_probabilities"][0], rtol=1e-4, atol=1e-5)
        single = generator.next_tokens(tf.constant([prompt]), i + 1)
        np.testing.assert_array_equal(following["tokens"][i, : i + 1], single["tokens"][0])
        np.testing.assert_allclose(following["probabilities"][i, : i + 1], single["probabilities"][0], rtol=1e-4, atol=1e-6)
        assert not following["probabilities"][i, i + 1 :].numpy().any()


def test_next_tokens_are_the_whole_distribution_if_all_are_asked_for(generator):
    size = generator.vocabulary.size
    found = generator.next_tokens(tf.constant(["a small", "", "wug"]), size + 5)
    assert found["tokens"].shape == (3, size - 2)  # without padding and BOS
    assert [row.tolist().count(b"") for row in found["tokens"].numpy()] == [1, 1, 1]  # the end
    total = tf.reduce_sum(found["probabilities"], axis=1)
    assert (total < 1).numpy().all() and (total > 1 - 3 / size).numpy().all() and (np.diff(found["probabilities"]) <= 0).all()
    text = "a small dog"
    log_probability = plain_scores(generator, text)[2]
    place = found["tokens"].numpy()[0].tolist().index(b"dog")
    assert math.log(float(found["probabilities"][0, place])) == pytest.approx(log_probability, rel=1e-4)
    assert generator.next_tokens(tf.constant([text]), 0)["tokens"].shape == (1, 1)


def test_what_is_written_is_never_unknown_nor_padding(generator):
    model = small_model(generator.vocabulary.size)
    model.bias.assign(tf.one_hot(UNKNOWN, generator.vocabulary.size) * 50)
    sure = TextGenerator(model, generator.vocabulary, 30)
    texts = sure.generate(tf.constant([""] * 8), 20, 2.0, 1.0, 0, tf.range(8))["text"].numpy()
    assert not any(b"[?]" in text for text in texts) and any(texts)
    assert sure.next_tokens(tf.constant([""]), 1)["tokens"].numpy().tolist() == [[b"[?]"]]


def test_odd_requests_get_answers(generator):
    texts = tf.constant(["", "wug xyzzy", b"\xff\xfe a", "\x00\n", "🙂"])
    for temperature in (0.0, -1.0, np.nan):
        found = generator.generate(texts, 8, temperature, np.nan, -3, 1)["text"].numpy()
        np.testing.assert_array_equal(found, generator.generate(texts, 8, 0.0, 1.0, 0, 1)["text"].numpy())
        [text.decode() for text in found]
    assert found[2].startswith("\ufffd\ufffd a".encode())
    np.testing.assert_array_equal(generator.generate(texts, -5, 1.0, 1.0, 0, 1)["completion"].numpy(), [b""] * 5)
    long = generator.generate(tf.constant(["a"]), 2**31 - 1, np.inf, 1.0, 0, 1)
    assert len(generator.vocabulary.encode(long["completion"]).flat_values) <= 30


def test_a_huge_request_is_refused_before_it_takes_memory(generator):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"prompt: 1 rows of up to 40032 tokens; expected at most 32,768"):
        generator.generate(tf.constant(["a " * 40_001]), 30, 1.0, 1.0, 0, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"text: 2 rows of up to 20000 tokens"):
        generator.score(tf.constant(["a " * 20_000, ""]))
    for call in (
        lambda text: generator.decode_step(text, tf.zeros([600, generator.state_size]), 1.0, 1.0, 0, 1),
        lambda text: generator.next_tokens(text, 3),
        lambda text: generator.generate(text, 1, 1.0, 1.0, 0, 1),
    ):  # each row takes a vector as long as the vocabulary
        with pytest.raises(tf.errors.InvalidArgumentError, match="600 rows of up to 64 tokens"):
            call(tf.constant(["a"] * 600))
    with pytest.raises(tf.errors.InvalidArgumentError, match="16777218 bytes"):
        generator.generate(tf.constant(["a" * (2**24 + 2)]), 1, 1.0, 1.0, 0, 1)
