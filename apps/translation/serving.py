"""The translator in use: search, from sentences to sentences."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from apps.common import decoding
from apps.common.decoding import Sequences, texts
from apps.common.metrics import translation_metrics
from apps.translation.model import Translator
from data_pipelines.translations import Pair, Vocabularies
from data_pipelines.vocabulary import END, PADDING, START

BYTES_PER_TOKEN = 64  # more than any token has


def search(model: Translator, source: tf.Tensor, **settings: Any) -> Sequences:
    """Translate ids (batch, time): a target is at most ten tokens longer than twice its source. `settings` are those of
    `apps.common.decoding.find`."""
    memory, state = model.encode(source)

    def step(tokens: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any, tf.Tensor | None]:
        return model.step(tokens, state, memory)

    return decoding.find(
        step,
        state,
        batch_size=tf.shape(source)[0],
        start=START,
        end=END,
        max_length=2 * tf.reduce_sum(tf.cast(source != PADDING, tf.int32), axis=1) + 10,
        source_mask=memory.mask,
        **settings,
    )


def search_translations(
    model: Translator, vocabularies: Vocabularies, pairs: Sequence[Pair], width: int, tokenizer: str, batch_size: int = 64
) -> Callable[[], dict[str, float]]:
    """A function that translates the pairs by search with the model as it is then, and returns their BLEU and chrF."""
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].source))  # texts of one length pad least
    blocks = [[pairs[i] for i in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]

    @tf.function(reduce_retracing=True, autograph=False)
    def translate(text: tf.Tensor) -> tf.Tensor:
        source = vocabularies.source.ids(vocabularies.source.tokenize(text)).to_tensor(PADDING)
        return texts(vocabularies.target, search(model, source, width=width, length_penalty=1.0))[:, 0]

    def measure() -> dict[str, float]:
        outputs = [t.decode() for block in blocks for t in translate(tf.constant([pair.source for pair in block])).numpy()]
        metrics = translation_metrics(outputs, [pair.target for block in blocks for pair in block], tokenizer)
        return {name: float(metrics[name]) for name in ("bleu", "chrf")}

    return measure


def serving_signatures(
    model: Translator, vocabularies: Vocabularies, max_length_tokens: int, **settings: Any
) -> dict[str, tuple[Any, list[tf.TensorSpec]]]:
    """Sentences in, sentences out: `translation` and `score`; `alternatives` with their scores, best first; the tokens of
    both sides, and how much each target token `attention` paid to each source token. `serving_fast` searches greedily, and gives
    the first two."""

    def read(text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        text = tf.strings.substr(text, 0, BYTES_PER_TOKEN * max_length_tokens)  # no need to tokenize what is cut off
        pieces = vocabularies.source.tokenize(text)[:, :max_length_tokens]
        source = vocabularies.source.ids(pieces).to_tensor(PADDING)
        missing = tf.maximum(0, 1 - tf.shape(source)[1])  # a batch of empty texts still has one column
        return tf.pad(pieces.to_tensor(""), [[0, 0], [0, missing]]), tf.pad(source, [[0, 0], [0, missing]])

    def find(source: tf.Tensor, **settings: Any) -> tuple[Sequences, tf.Tensor]:
        found = search(model, source, **settings)
        found = found._replace(lengths=tf.where(tf.reduce_any(source != PADDING, axis=1)[:, None], found.lengths, 0))
        return found, texts(vocabularies.target, found)

    def translate_fast(text: tf.Tensor) -> dict[str, tf.Tensor]:
        found, strings = find(read(text)[1], width=1)
        return {"translation": strings[:, 0], "score": found.scores[:, 0]}

    def translate(text: tf.Tensor) -> dict[str, tf.Tensor]:
        pieces, source = read(text)
        found, strings = find(source, **settings)
        longest = tf.maximum(1, tf.reduce_max(found.lengths[:, 0]))
        best = tf.where(tf.range(longest) < found.lengths[:, :1], found.tokens[:, 0, :longest], PADDING)
        so_far = tf.concat([tf.fill([tf.shape(best)[0], 1], START), best[:, :-1]], axis=1)
        _, attention = model.decode(so_far, model.read(source))
        if attention is None:
            attention = tf.zeros([tf.shape(best)[0], longest, 0])
        return {
            "translation": strings[:, 0],
            "score": found.scores[:, 0],
            "alternatives": strings,
            "alternative_scores": found.scores,
            "source_tokens": pieces,
            "target_tokens": tf.where(best != PADDING, vocabularies.target.pieces(best), ""),
            "attention": tf.where((best != PADDING)[:, :, None], tf.cast(attention, tf.float32), 0.0),
        }

    specs = [tf.TensorSpec((None,), tf.string, name="text")]
    return {"serving_default": (translate, specs), "serving_fast": (translate_fast, specs)}
