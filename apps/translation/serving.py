"""Beam search with a translator, and the signatures of the export: texts in, texts out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from apps.common.decoding.ensemble import Ensemble
from apps.common.decoding.search import decode, detokenize
from apps.common.decoding.sequences import NEG_INF, Sequences, check_request_size, check_text_size
from apps.common.metrics import translation_metrics
from apps.translation.model import Translator
from data_pipelines.languages import UNSPACED, language_code
from data_pipelines.sentences import MOST_SENTENCES, split_sentences
from data_pipelines.translations import Pair, Vocabularies
from data_pipelines.vocabulary import BOS, EOS, PADDING
from layers.loops import flatten, pack

BYTES_PER_TOKEN = 64  # more than a token has, spaces and runs of unknown characters apart
LARGEST_REQUEST = 2**15  # tokens, padding counted; but one text is never too large
LEAST_ROW = 64  # a shorter sentence counts as so many: each hypothesis of its beam has the logits of the whole vocabulary
LARGEST_ATTENTION = 2**24  # numbers
BLOCK = 2**19  # weights of attention computed at once: each is a sum over all units


def search(model: Translator | Ensemble, source: tf.Tensor, prepared: Any = None, **settings: Any) -> Sequences:
    """Translate ids (batch, time): a target is at most ten tokens longer than twice its source. `prepared` is what the model's
    `prepare_decoder` made of them, if that is there; `settings` are those of `apps.common.decoding.search.decode`."""
    memory, state = prepared or model.prepare_decoder(source)

    def step(tokens: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any, tf.Tensor | None]:
        return model.step(tokens, state, memory)

    return decode(
        step,
        state,
        batch_size=tf.shape(source)[0],
        start=BOS,
        end=EOS,
        max_length=2 * tf.reduce_sum(tf.cast(source != PADDING, tf.int32), axis=1) + 10,
        source_mask=memory.mask,
        **settings,
    )


def search_translations(
    model: Translator, vocabularies: Vocabularies, pairs: Sequence[Pair], beam_size: int, tokenizer: str, batch_size: int = 64
) -> Callable[[], dict[str, float]]:
    """A function that translates the pairs by search with the current weights, and returns BLEU and chrF."""
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].source))  # texts of one length pad least
    blocks = [[pairs[i] for i in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]

    @tf.function(reduce_retracing=True, autograph=False)
    def translate(text: tf.Tensor) -> tf.Tensor:
        source = vocabularies.source.encode(text).to_tensor(PADDING)
        return detokenize(vocabularies.target, search(model, source, beam_size=beam_size, length_penalty=1.0))[:, 0]

    def measure() -> dict[str, float]:
        outputs = [t.decode() for block in blocks for t in translate(tf.constant([pair.source for pair in block])).numpy()]
        metrics = translation_metrics(outputs, [pair.target for block in blocks for pair in block], tokenizer)
        return {name: float(metrics[name]) for name in ("bleu", "chrf")}

    return measure


class Sentences(NamedTuple):
    """The sentences of texts, one after the other: what each is made of, and where it came from."""

    whole: tf.RaggedTensor  # (sentences, pieces)
    pieces: tf.RaggedTensor  # the same up to the limit of the training
    source: tf.Tensor  # (sentences, time) ids
    text: tf.Tensor  # (sentences,), the place of its text
    texts: tf.Tensor  # how many there are

    @property
    def is_empty(self) -> tf.Tensor:
        return self.pieces.row_lengths() == 0

    def rows(self, sentences: tf.RaggedTensor) -> tf.RaggedTensor:
        """What the sentences have, (sentences, …), for each text in a row (texts, …)."""
        by_text = tf.RaggedTensor.from_value_rowids(sentences, self.text, tf.cast(self.texts, tf.int64), validate=False)
        return by_text.merge_dims(1, 2)

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """The mean over the sentences of each text."""
        return tf.math.unsorted_segment_mean(values, self.text, self.texts)

    def joined(self, strings: tf.Tensor, separator: str) -> tf.Tensor:
        """Strings (sentences, n) to (texts, n)."""
        return tf.strings.unsorted_segment_join(strings, self.text, self.texts, separator)


def serving_signatures(
    model: Translator | Ensemble,
    vocabularies: Vocabularies,
    max_length: int,
    languages: tuple[str, str],
    split: bool = True,
    **settings: Any,
) -> dict[str, tuple[Any, list[tf.TensorSpec]]]:
    """Texts in, texts out, translated sentence by sentence: `translation` and `score`; `alternatives` with their scores, best
    first; the tokens of both sides, the `attention` of each target token to each source token, and which source tokens are
    `unknown`. `serving_greedy` searches with a beam of 1, and returns the first two.

    Every score is that of `beam_search`, `log p / ((5 + length) / 6)^length_penalty` and the coverage; of a text, the mean over
    its sentences.

    Args:
        languages: of the source and the target.
        split: cut texts into sentences; else each text is taken for one.
        settings: of `search`.
    """
    limit = max(LARGEST_REQUEST, MOST_SENTENCES * max(LEAST_ROW, max_length))
    separator = "" if language_code(languages[1]) in UNSPACED else " "

    def split_and_tokenize(text: tf.Tensor) -> Sentences:
        text = check_text_size(text)
        sentences = split_sentences(text, languages[0]) if split else tf.RaggedTensor.from_tensor(text[:, None])
        each = tf.strings.regex_replace(sentences.flat_values, r"\s+", " ")
        each = tf.strings.substr(each, 0, BYTES_PER_TOKEN * max_length)  # more would be cut off below
        whole = vocabularies.source.tokenize(each)
        pieces = check_request_size(whole[:, :max_length], limit, least=LEAST_ROW)
        source = vocabularies.source.tokens_to_ids(pieces).to_tensor(PADDING)
        missing = tf.maximum(0, 1 - tf.shape(source)[1])  # a batch of empty texts still has one column
        return Sentences(whole, pieces, tf.pad(source, [[0, 0], [0, missing]]), sentences.value_rowids(), tf.shape(text)[0])

    def decode(sentences: Sentences, **changed: Any) -> tuple[Sequences, tf.Tensor]:
        found = search(model, sentences.source, **{**settings, **changed})
        found = found._replace(lengths=tf.where(sentences.is_empty[:, None], 0, found.lengths))
        return found, detokenize(vocabularies.target, found)

    def translate_greedily(text: tf.Tensor) -> dict[str, tf.Tensor]:
        sentences = split_and_tokenize(text)
        found, strings = decode(sentences, beam_size=1, n_best=1)
        return {
            "translation": sentences.joined(strings, separator)[:, 0],
            "score": sentences.mean(found.scores)[:, 0],
        }

    def translate(text: tf.Tensor) -> dict[str, tf.Tensor]:
        sentences = split_and_tokenize(text)
        prepared = model.prepare_decoder(sentences.source)
        found, strings = decode(sentences, prepared=prepared)
        is_found = found.scores > NEG_INF / 2  # a search may find fewer than it was asked for: then its best stands in
        alternatives = sentences.joined(tf.where(is_found, strings, strings[:, :1]), separator)
        scores = sentences.mean(tf.where(is_found, found.scores, found.scores[:, :1]))
        scores = tf.where(
            tf.math.unsorted_segment_max(tf.cast(is_found, tf.int32), sentences.text, sentences.texts) > 0, scores, NEG_INF
        )

        best = tf.RaggedTensor.from_tensor(found.tokens[:, 0], lengths=found.lengths[:, 0])
        target = best.to_tensor(PADDING, shape=[None, None])
        target = tf.pad(target, [[0, 0], [0, tf.maximum(0, 1 - tf.shape(target)[1])]])
        decoder_inputs = tf.concat([tf.fill([tf.shape(target)[0], 1], BOS), target[:, :-1]], axis=1)
        target_tokens = sentences.rows(best.with_flat_values(vocabularies.target.ids_to_tokens(best.flat_values)))
        return {
            "translation": alternatives[:, 0],
            "score": scores[:, 0],
            "alternatives": alternatives,
            "alternative_scores": scores,
            "source_tokens": _dense(sentences.rows(sentences.pieces), ""),
            "target_tokens": _dense(target_tokens, ""),
            "attention": _attention(sentences, best.row_lengths(), model, decoder_inputs, prepared),
            "unknown": _dense(sentences.rows(vocabularies.unknown(sentences.whole)[:, :max_length]), False),
        }

    specs = [tf.TensorSpec((None,), tf.string, name="text")]
    return {"serving_default": (translate, specs), "serving_greedy": (translate_greedily, specs)}


def _dense(rows: tf.RaggedTensor, padding: Any) -> tf.Tensor:
    """A tensor (texts, longest) with at least one column."""
    dense = rows.to_tensor(padding)
    return tf.pad(dense, [[0, 0], [0, tf.maximum(0, 1 - tf.shape(dense)[1])]], constant_values=padding)


def _attention_in_blocks(
    model: Translator | Ensemble, target: tf.Tensor, source_time: tf.Tensor, prepared: Any
) -> tf.Tensor | None:
    """The attention (n, t, s) of some rows after others, from what `prepare_decoder` gave; None of a model without."""
    if not model.has_attention:
        return None
    count, size = tf.shape(target)[0], tf.shape(target)[1] * source_time
    rows = tf.clip_by_value(BLOCK // size, 1, tf.maximum(1, count))
    blocks = tf.maximum(1, -(-count // rows))

    def in_blocks(x: tf.Tensor) -> tf.Tensor:
        shape = tf.concat([[blocks, rows], tf.shape(x)[1:]], axis=0)
        padded = tf.reshape(tf.pad(x, [[0, blocks * rows - count], *[[0, 0]] * (x.shape.rank - 1)]), shape)
        return tf.ensure_shape(padded, [None, None, *x.shape[1:]])

    def attend(block: tuple[tf.Tensor, list[tf.Tensor]]) -> tf.Tensor:
        return tf.cast(model.attention_weights(block[0], *pack(prepared, block[1])), tf.float32)

    spec = tf.TensorSpec([None, None, None], tf.float32)
    given = in_blocks(target), [in_blocks(x) for x in flatten(prepared)]
    found = tf.map_fn(attend, given, fn_output_signature=spec, parallel_iterations=1)
    return tf.reshape(found, [-1, tf.shape(target)[1], source_time])[:count]


def _attention(
    sentences: Sentences, lengths: tf.Tensor, model: Translator | Ensemble, target: tf.Tensor, prepared: Any
) -> tf.Tensor:
    """From target to source tokens, (sentences, t, s), to (texts, t, s): each sentence attends to its own source.

    Mostly zeros, its size grows with the square of the longest text: beyond `LARGEST_ATTENTION` numbers it is (texts, t, 0).
    """
    sides = (lengths, sentences.pieces.row_lengths())
    longest = [tf.maximum(tf.reduce_max(_total(length, sentences)), 1) for length in sides]
    shape = tf.stack([tf.cast(sentences.texts, tf.int64), *longest])
    fits = tf.reduce_prod(shape) <= LARGEST_ATTENTION
    count = tf.where(fits, tf.shape(target)[0], 0)  # else it isn't computed
    of_some = pack(prepared, [x[:count] for x in flatten(prepared)])
    attention = _attention_in_blocks(model, target[:count], tf.shape(sentences.source)[1], of_some)
    if attention is None:
        return tf.zeros([sentences.texts, tf.cast(longest[0], tf.int32), 0])
    inside = (tf.sequence_mask(length[:count], tf.shape(attention)[1 + axis]) for axis, length in enumerate(sides))
    place = tf.where(tf.einsum("bt,bs->bts", *(tf.cast(mask, tf.float32) for mask in inside)) > 0)
    sentence, text = place[:, 0], tf.gather(sentences.text, place[:, 0])
    columns = [text]
    for axis, length in enumerate(sides):
        before = tf.cumsum(length, exclusive=True)  # of all texts; less those of the texts before
        first = tf.gather(before, tf.searchsorted(sentences.text, sentences.text))
        columns.append(place[:, 1 + axis] + tf.gather(before - first, sentence))
    values = tf.cast(tf.gather_nd(attention, place), tf.float32)
    return tf.scatter_nd(tf.stack(columns, axis=1), values, tf.where(fits, shape, shape * [1, 1, 0]))


def _total(lengths: tf.Tensor, sentences: Sentences) -> tf.Tensor:
    return tf.concat([[0], tf.math.unsorted_segment_sum(lengths, sentences.text, sentences.texts)], axis=0)
