"""The translator in use: search, from sentences to sentences."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from apps.common.decoding import Sequences, beam_search, greedy_search
from apps.common.metrics import translation_metrics
from apps.translation.model import Translator
from data_pipelines.translations import Pair, Vocabularies
from data_pipelines.vocabulary import END, PADDING, START


def search(
    model: Translator,
    source: tf.Tensor,
    *,
    width: int,
    best: int = 1,
    length_penalty: float = 1.0,
    coverage_penalty: float = 0.0,
    block_ngrams: int = 0,
) -> Sequences:
    """Translate ids (batch, time): a target is at most ten tokens longer than twice its source."""
    memory, state = model.encode(source)
    settings: dict[str, Any] = {"batch_size": tf.shape(source)[0], "start": START, "end": END}
    settings["max_length"] = 2 * tf.reduce_sum(tf.cast(source != PADDING, tf.int32), axis=1) + 10

    def step(tokens: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any, tf.Tensor | None]:
        return model.step(tokens, state, memory)

    if width == 1 and best == 1 and not block_ngrams:
        return greedy_search(step, state, **settings)
    return beam_search(
        step,
        state,
        width=width,
        best=best,
        length_penalty=length_penalty,
        coverage_penalty=coverage_penalty,
        source_mask=memory.mask,
        block_ngrams=block_ngrams,
        **settings,
    )


def texts(vocabularies: Vocabularies, found: Sequences) -> tf.Tensor:
    """What a search found as strings (batch, n)."""
    batch, n = tf.unstack(tf.shape(found.lengths))
    ragged = tf.RaggedTensor.from_tensor(tf.reshape(found.tokens, [batch * n, -1]), lengths=tf.reshape(found.lengths, [-1]))
    return tf.reshape(vocabularies.target.join(ragged), [batch, n])


def search_translations(
    model: Translator, vocabularies: Vocabularies, pairs: Sequence[Pair], width: int, batch_size: int = 64
) -> Callable[[], dict[str, float]]:
    """A function that translates the pairs by search with the model as it is then, and returns their BLEU."""
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].source))  # texts of one length pad least
    blocks = [[pairs[i] for i in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]

    @tf.function(reduce_retracing=True, autograph=False)
    def translate(text: tf.Tensor) -> tf.Tensor:
        source = vocabularies.source.ids(vocabularies.source.tokenize(text)).to_tensor(PADDING)
        return texts(vocabularies, search(model, source, width=width))[:, 0]

    def measure() -> dict[str, float]:
        outputs = [t.decode() for block in blocks for t in translate(tf.constant([pair.source for pair in block])).numpy()]
        metrics = translation_metrics(outputs, [pair.target for block in blocks for pair in block])
        return {"bleu": float(metrics["bleu"])}

    return measure


def serving_signatures(
    model: Translator, vocabularies: Vocabularies, max_length_tokens: int, **settings: Any
) -> dict[str, tuple[Any, list[tf.TensorSpec]]]:
    """Sentences in, sentences out: `translation` and `score`; `alternatives` with their scores, best first; the tokens of
    both sides, and how much each target token `attention` paid to each source token."""

    def translate(text: tf.Tensor) -> dict[str, tf.Tensor]:
        pieces = vocabularies.source.tokenize(text)[:, :max_length_tokens]
        source = vocabularies.source.ids(pieces).to_tensor(PADDING)
        missing = tf.maximum(0, 1 - tf.shape(source)[1])  # a batch of empty texts still has one column
        source = tf.pad(source, [[0, 0], [0, missing]])
        found = search(model, source, **settings)
        found = found._replace(lengths=tf.where(tf.reduce_any(source != PADDING, axis=1)[:, None], found.lengths, 0))
        strings = texts(vocabularies, found)
        longest = tf.maximum(1, tf.reduce_max(found.lengths[:, 0]))
        best = tf.where(tf.range(longest) < found.lengths[:, :1], found.tokens[:, 0, :longest], PADDING)
        so_far = tf.concat([tf.fill([tf.shape(best)[0], 1], START), best[:, :-1]], axis=1)
        _, attention = model.write(so_far, model.read(source))
        if attention is None:
            attention = tf.zeros([tf.shape(best)[0], longest, 0])
        return {
            "translation": strings[:, 0],
            "score": found.scores[:, 0],
            "alternatives": strings,
            "alternative_scores": found.scores,
            "source_tokens": tf.pad(pieces.to_tensor(""), [[0, 0], [0, missing]]),
            "target_tokens": tf.where(best != PADDING, vocabularies.target.pieces(best), ""),
            "attention": tf.where((best != PADDING)[:, :, None], tf.cast(attention, tf.float32), 0.0),
        }

    return {"serving_default": (translate, [tf.TensorSpec((None,), tf.string, name="text")])}
