"""Beam search in the graph against the usual Python loop, and training against the same network of `keras.layers`.

    python -m benchmarks.decoding [--repeats 5] [--save benchmarks/results/decoding]

Search: batch 32, beam 4, 8,000 subwords, 30 steps, the translator of `apps.translation` with random weights that never ends
a sentence. The Python loop keeps the beam in NumPy and calls the decoder for one step at a time: by `model.predict`, as
tutorials do; directly, `model(inputs)`; and directly as a `tf.function`. Ours counts the EOS that it must put last when it
chooses the best of the beam, so the sequences may differ; how probable they are is printed.

Training: one step of the same network, once of our layers and our loss, once of `keras.layers` and Keras' loss, the latter
as a plain graph and under XLA; the better one counts.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from apps.common.training.losses import TokenLoss
from apps.translation.model import Translator
from apps.translation.serving import search
from benchmarks import keras_networks
from benchmarks.saving import save
from benchmarks.timing import milliseconds
from data_pipelines.vocabulary import BOS, EOS

BATCH, BEAM, VOCABULARY, STEPS, SOURCE = 32, 4, 8_000, 30, 10  # 2 x 10 source tokens + 10 = 30 steps
SIZE = 256
TRAINING_SHAPE = (102, 20)  # sentences, tokens: 2,040 tokens on either side


def translator() -> Translator:
    model = Translator(VOCABULARY, VOCABULARY, embedding_size=SIZE, units=SIZE, dropout=0.3)
    model.build()
    bias = np.zeros(VOCABULARY)
    bias[EOS] = bias[0] = -1e4
    model.bias.assign(bias)
    model.target_embedding.embeddings.assign(10 * model.target_embedding.embeddings)  # clear choices: no beam hangs on rounding
    return model


# -- search

LOOPS = ("model.predict", "model(inputs)", "tf.function")


def python_loop(model: Translator, how: str) -> Callable[[np.ndarray], np.ndarray]:
    """Beam search in NumPy that asks a Keras model for the logits of one step at a time."""
    ids = keras.Input((None,), dtype="int32")
    memory, state = model.prepare_decoder(ids)
    encoder = keras.Model(ids, [memory.values, memory.keys, *keras.tree.flatten(state)])
    structure = state
    token = keras.Input((1,), dtype="int32")
    values, keys = keras.Input((None, SIZE)), keras.Input((None, SIZE))
    states = [keras.Input((1, state.shape[-1])) for state in keras.tree.flatten(structure)]
    logits, after, _ = model.step(
        token, keras.tree.pack_sequence_as(structure, states), memory._replace(values=values, keys=keys, mask=None)
    )
    decoder = keras.Model([token, values, keys, *states], [logits, *keras.tree.flatten(after)])
    compiled = {m: tf.function(m, reduce_retracing=True) for m in (encoder, decoder)}

    def ask(part: keras.Model, inputs: Any) -> list[np.ndarray]:
        if how == "model.predict":
            return part.predict(inputs, batch_size=BATCH * BEAM, verbose=0)
        outputs = part(inputs) if how == "model(inputs)" else compiled[part](inputs)
        return [np.asarray(o) for o in outputs]

    def run(source: np.ndarray) -> np.ndarray:
        values, keys, *states = ask(encoder, source)
        values, keys = np.repeat(values, BEAM, axis=0), np.repeat(keys, BEAM, axis=0)
        states = [np.repeat(s, BEAM, axis=0)[:, None] for s in states]
        scores = np.tile([0.0] + [-1e9] * (BEAM - 1), (BATCH, 1))
        tokens = np.full((BATCH, BEAM, 1), BOS, "int32")
        for _ in range(STEPS - 1):
            logits, *states = ask(decoder, [tokens[:, :, -1].reshape(-1, 1), values, keys, *states])
            logits = logits.reshape(BATCH, BEAM, -1)
            largest = logits.max(-1, keepdims=True)
            logp = logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))
            total = (scores[:, :, None] + logp).reshape(BATCH, -1)
            best = np.argpartition(-total, BEAM, axis=1)[:, :BEAM]
            best = np.take_along_axis(best, np.argsort(-np.take_along_axis(total, best, 1), axis=1), 1)
            scores = np.take_along_axis(total, best, 1)
            parent, token = best // VOCABULARY, best % VOCABULARY
            tokens = np.concatenate([np.take_along_axis(tokens, parent[:, :, None], 1), token[:, :, None].astype("int32")], -1)
            rows = (np.arange(BATCH)[:, None] * BEAM + parent).reshape(-1)
            states = [s[rows] for s in states]
        return tokens[:, 0, 1:]

    return run


def measure_search(repeats: int) -> dict[str, Any]:
    model = translator()
    source = np.random.default_rng(0).integers(4, VOCABULARY, (BATCH, SOURCE)).astype("int32")
    graph = tf.function(lambda ids: search(model, ids, beam_size=BEAM, length_penalty=0.0).tokens[:, 0], autograph=False)
    loops = {how: python_loop(model, how) for how in LOOPS}
    candidates: dict[str, Callable[[], Any]] = {"ours": lambda: graph(tf.constant(source))}
    candidates |= {name: lambda run=run: run(source) for name, run in loops.items()}  # type: ignore[misc]
    found = {"ours": graph(tf.constant(source)).numpy()[:, : STEPS - 1], **{name: run(source) for name, run in loops.items()}}
    means = {name: log_probability(model, source, tokens) for name, tokens in found.items()}
    ms = milliseconds(candidates, repeats)
    return {"ms": ms, "over": {name: ms[name] / ms["ours"] for name in loops}, "log_probability": means}


def log_probability(model: Translator, source: np.ndarray, tokens: np.ndarray) -> float:
    """The mean over the sentences, of all tokens at once."""
    decoder_inputs = np.concatenate([np.full((BATCH, 1), BOS), tokens[:, :-1]], axis=1)
    scores = tf.nn.log_softmax(model({"source": tf.constant(source), "target": tf.constant(decoder_inputs)}))
    return float(tf.reduce_mean(tf.reduce_sum(tf.gather(scores, tokens, axis=2, batch_dims=2), axis=1)))


# -- training


def measure_training(repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    ids = rng.integers(4, VOCABULARY, TRAINING_SHAPE).astype("int32")
    ids[::3, 15:] = 0
    inputs, targets = {"source": tf.constant(ids), "target": tf.constant(ids)}, tf.constant(ids)
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    ours = Translator(VOCABULARY, VOCABULARY, embedding_size=SIZE, units=SIZE, dropout=0.3)
    models = {"ours": (ours, TokenLoss(), False)}
    for name, jit in (("keras", False), ("keras xla", True)):
        models[name] = (keras_networks.translator(VOCABULARY, SIZE, SIZE, 0.3), keras_loss, jit)
    candidates = {}
    for name, (model, loss, jit) in models.items():
        model.compile(keras.optimizers.Adam(global_clipnorm=1.0), loss, jit_compile=jit)
        candidates[name] = lambda model=model: [np.float32(model.train_on_batch(inputs, targets))]
    ms = milliseconds(candidates, repeats)
    parameters = {name: model.count_params() for name, (model, _, _) in models.items()}
    tokens = int(np.count_nonzero(ids))
    return {
        "ms": ms,
        "parameters": parameters,
        "tokens_per_second": {name: 1e3 * tokens / value for name, value in ms.items()},
        "over_keras": min(ms["keras"], ms["keras xla"]) / ms["ours"],
    }


def report(found: dict[str, Any], training: dict[str, Any]) -> str:
    lines = [f"{os.cpu_count()} cores, TensorFlow {tf.__version__}, Keras {keras.__version__}", ""]
    means = found["log_probability"]
    lines += ["| beam search, batch 32, beam 4, 8,000 subwords, 30 steps | ms | ours is faster by | mean log p found |"]
    lines += ["|---|--:|--:|--:|", f"| ours, one graph | {found['ms']['ours']:.0f} | | {means['ours']:.2f} |"]
    for name in LOOPS:
        lines.append(f"| Python loop, `{name}` | {found['ms'][name]:.0f} | {found['over'][name]:.1f} | {means[name]:.2f} |")
    lines += ["", "| training step, 2,040 tokens a side | ms | target tokens a second |", "|---|--:|--:|"]
    for name, label in (("ours", "ours"), ("keras", "`keras.layers`"), ("keras xla", "`keras.layers`, XLA")):
        lines.append(f"| {label} | {training['ms'][name]:.0f} | {training['tokens_per_second'][name]:,.0f} |")
    lines += ["", f"Training over Keras' best: {training['over_keras']:.2f}."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.decoding", allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", default="benchmarks/results/decoding", help="writes .json and .md")
    arguments = parser.parse_args()
    found, training = measure_search(arguments.repeats), measure_training(arguments.repeats)
    text = report(found, training)
    save(arguments.save, text, {"search": found, "training": training})


if __name__ == "__main__":
    main()
