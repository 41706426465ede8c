"""Completion and scoring of texts, and the signatures of the export. Everything here runs in the graph."""

from typing import Any

import tensorflow as tf

from apps.common.decoding.sampling import random_numbers, sample_token
from apps.common.decoding.search import sample
from apps.common.decoding.sequences import NEG_INF, check_request_size, check_text_size, one_or_each
from apps.common.language_model import LanguageModel
from data_pipelines.vocabulary import BOS, EOS, PADDING, UNKNOWN, Vocabulary

LARGEST_REQUEST = 2**15  # tokens, padding and those to be generated counted
LEAST_ROW = 64  # tokens that a row counts as where each gets a distribution over the vocabulary
BLOCK = 512  # tokens that are scored at once: each takes a vector as long as the vocabulary


def language_signatures(generator: "TextGenerator") -> dict[str, tuple[Any, list[tf.TensorSpec]]]:
    """The signatures of the export; each number may be one for all rows or one for each."""
    text, prompt = (tf.TensorSpec([None], tf.string, name) for name in ("text", "prompt"))
    max_new_tokens = tf.TensorSpec(None, tf.int32, "max_new_tokens")
    sampling = [
        tf.TensorSpec(None, tf.float32, "temperature"),
        tf.TensorSpec(None, tf.float32, "top_p"),
        tf.TensorSpec(None, tf.int32, "top_k"),
        tf.TensorSpec(None, tf.int32, "seed"),
    ]
    state = tf.TensorSpec([None, generator.state_size], tf.float32, "state")

    def serving_default(prompt, max_new_tokens, temperature, top_p, top_k, seed):
        return generator.generate(prompt, max_new_tokens, temperature, top_p, top_k, seed)

    def serving_greedy(prompt, max_new_tokens):
        return generator.generate(prompt, max_new_tokens, 0.0, 1.0, 0, 0)

    return {
        "serving_default": (serving_default, [prompt, max_new_tokens, *sampling]),
        "serving_greedy": (serving_greedy, [prompt, max_new_tokens]),
        "score": (generator.score, [text]),
        "score_step": (generator.score_step, [text, state]),
        "decode_step": (generator.decode_step, [text, state, *sampling]),
        "next_tokens": (generator.next_tokens, [prompt, tf.TensorSpec(None, tf.int32, "count")]),
    }


class TextGenerator(tf.Module):
    """Completes and scores texts.

    A text begins where another one ended: the first token that the model gets is EOS. `state` (rows, state_size) holds all states
    of each row and the last output, from which the next token is predicted; zeros are the beginning of a text.

    Args:
        model, vocabulary: what was trained.
        max_length: tokens that are generated, at most.
    """

    def __init__(self, model: LanguageModel, vocabulary: Vocabulary, max_length: int) -> None:
        super().__init__()
        self.model, self.vocabulary, self.max_length = model, vocabulary, max_length
        self.state_size = model.stacks[0].state_size + model.settings["embedding_size"]

    def generate(
        self, prompt: tf.Tensor, max_new_tokens: Any, temperature: Any, top_p: Any, top_k: Any, seed: Any
    ) -> dict[str, tf.Tensor]:
        """Continue each prompt until its passage ends; `text` is the prompt with the `completion`."""
        max_new_tokens, temperature, top_p, top_k, seed = one_or_each(
            tf.size(prompt), max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
        )
        prompt = _decoded(prompt, "prompt")
        limit = tf.clip_by_value(tf.cast(max_new_tokens, tf.int32), 0, self.max_length)
        limit = tf.broadcast_to(limit, tf.shape(prompt))
        ids, new = self._with_start(self.vocabulary.encode(prompt)), tf.reduce_max(tf.concat([[0], limit], axis=0))
        largest = max(LARGEST_REQUEST, 2 * self.max_length)  # a row of this length always fits
        ids = check_request_size(ids, largest, "prompt", new=new, least=LEAST_ROW)
        count = tf.cast(ids.nrows(), tf.int32)  # of what was checked: nothing is allocated before
        _, states = self._encode(ids[:, :-1], self.model.get_initial_state(count))

        def step(tokens: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any, None]:
            logits, after = self.model.decode_step(tokens[:, 0], tf.nest.map_structure(lambda s: s[:, 0], state))
            return _allowed(logits)[:, None], tf.nest.map_structure(lambda s: s[:, None], after), None

        found = sample(
            step, states, batch_size=count, start=tf.gather(ids.flat_values, ids.row_limits() - 1), end=EOS,
            max_length=limit + 1, seed=seed, temperature=temperature, top_k=top_k, top_p=top_p,
        )  # fmt: skip
        lengths = found.lengths[:, 0]
        added = self.vocabulary.continuation(tf.RaggedTensor.from_tensor(found.tokens[:, 0], lengths=lengths))
        added = _after(prompt, added)
        return {"text": tf.strings.join([prompt, added]), "completion": added, "finished": lengths < limit}

    def decode_step(
        self, text: tf.Tensor, state: tf.Tensor, temperature: Any, top_p: Any, top_k: Any, seed: Any
    ) -> dict[str, tf.Tensor]:
        """Read more of each text, if there is any, and sample one more token, as it is written there; `state` is then."""
        temperature, top_p, top_k, seed = one_or_each(tf.size(text), temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
        text = _decoded(text, "text")
        output, states = self._read(self.vocabulary.encode(text), state)
        uniform = random_numbers(seed, tf.shape(output)[0], 1)[:, 0]
        token = sample_token(_allowed(self.model.logits(output)), uniform, temperature, top_k, top_p)
        added = self.vocabulary.continuation(tf.RaggedTensor.from_tensor(token[:, None]))
        added = tf.where(tf.reduce_all(state == 0, axis=1) | (text != ""), _after(text, added), added)
        output, states = self._encode(tf.RaggedTensor.from_tensor(token[:, None]), states)
        finished = token == EOS
        return {
            "token": tf.where(finished, "", added),
            "finished": finished,
            "state": self._pack(output[:, 0], states),
        }

    def next_tokens(self, prompt: tf.Tensor, count: tf.Tensor) -> dict[str, tf.Tensor]:
        """The `count` most probable next tokens, without padding and BOS, and their probabilities; "" is the end of the text."""
        (count,) = one_or_each(tf.size(prompt), count=count)
        count = tf.broadcast_to(tf.clip_by_value(count, 1, self.model.settings["vocabulary_size"] - 2), tf.shape(prompt))
        ids = self.vocabulary.encode(_decoded(prompt, "prompt"))
        output, _ = self._read(ids, tf.zeros([ids.nrows(), self.state_size]))
        most = tf.reduce_max(tf.concat([[1], count], axis=0))
        probabilities = tf.nn.softmax(self.model.logits(output))
        is_marker = tf.reduce_any(tf.range(probabilities.shape[-1]) == [[PADDING], [BOS]], axis=0)
        best = tf.math.top_k(tf.where(is_marker, -1.0, probabilities), most)
        there = tf.sequence_mask(count, most)
        return {
            "tokens": tf.where(there & (best.indices != EOS), self.vocabulary.ids_to_tokens(best.indices), ""),
            "probabilities": tf.where(there, best.values, 0.0),
        }

    def score(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """The log-probability of each token of each text, in nats, and of its end, the token ""."""
        scores = self.score_step(text, tf.zeros([tf.shape(text)[0], self.state_size]))
        del scores["state"]
        return scores

    def score_step(self, text: tf.Tensor, state: tf.Tensor) -> dict[str, tf.Tensor]:
        """The same for texts that follow others: `state` is that after them."""
        tokens = self.vocabulary.tokenize(check_text_size(text))
        ids = self.vocabulary.tokens_to_ids(tokens)
        ids = check_request_size(ids, LARGEST_REQUEST, least=1)
        outputs, states = self._encode(self._with_start(ids), self._unpack(state)[1])
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        targets = tf.concat([ids, tf.fill([ids.nrows(), 1], EOS)], axis=1).to_tensor()
        there = targets != PADDING
        found = self._log_probabilities(tf.boolean_mask(outputs, there), tf.boolean_mask(targets, there))
        return {
            "tokens": tf.concat([tokens, tf.fill([tokens.nrows(), 1], "")], axis=1).to_tensor(shape=[None, None]),
            "log_probabilities": tf.scatter_nd(tf.where(there), found, tf.cast(tf.shape(targets), tf.int64)),
            "unknown": targets == UNKNOWN,
            "count": lengths + 1,
            "state": self._pack(tf.gather(outputs, lengths, batch_dims=1), states),
        }

    def _log_probabilities(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """(n, embedding_size), ids (n,) -> (n,), a block at a time."""
        count = tf.shape(targets)[0]
        padding = -count % BLOCK
        outputs = tf.reshape(tf.pad(outputs, [[0, padding], [0, 0]]), [-1, BLOCK, outputs.shape[-1]])
        targets = tf.reshape(tf.pad(targets, [[0, padding]]), [-1, BLOCK])

        def block(both: Any) -> tf.Tensor:
            return -tf.nn.sparse_softmax_cross_entropy_with_logits(both[1], self.model.logits(both[0]))

        found = tf.map_fn(block, (outputs, targets), fn_output_signature=tf.float32, parallel_iterations=1)
        return tf.reshape(found, [-1])[:count]

    # -- ids and states

    @staticmethod
    def _with_start(ids: tf.RaggedTensor) -> tf.RaggedTensor:
        return tf.concat([tf.fill([ids.nrows(), 1], EOS), ids], axis=1)

    def _encode(self, ids: tf.RaggedTensor, states: Any) -> tuple[tf.Tensor, Any]:
        """The outputs (rows, tokens, embedding_size) of ragged ids, and the states after each row."""
        padded = ids.to_tensor()
        padded = tf.pad(padded, [[0, 0], [0, tf.maximum(0, 1 - tf.shape(padded)[1])]])
        return self.model.encode(padded, states, mask=tf.sequence_mask(ids.row_lengths(), tf.shape(padded)[1]))

    def _read(self, ids: tf.RaggedTensor, state: tf.Tensor) -> tuple[tf.Tensor, Any]:
        """The output after each row, and the states; a text that begins gets EOS first."""
        begins = tf.reduce_all(state == 0, axis=1)
        marked = tf.ragged.boolean_mask(self._with_start(ids), tf.concat([begins[:, None], tf.ones_like(ids, tf.bool)], axis=1))
        before, states = self._unpack(state)
        marked = check_request_size(marked, LARGEST_REQUEST, least=LEAST_ROW)
        outputs, states = self._encode(marked, states)
        last = tf.cast(marked.row_lengths(), tf.int32) - 1
        after = tf.gather(outputs, tf.maximum(last, 0), batch_dims=1)
        return tf.where(last[:, None] < 0, before, tf.cast(after, tf.float32)), states

    def _pack(self, output: tf.Tensor, states: Any) -> tf.Tensor:
        return tf.concat([self.model.stacks[0].pack(states), tf.cast(output, tf.float32)], axis=1)

    def _unpack(self, state: tf.Tensor) -> tuple[tf.Tensor, Any]:
        stack = self.model.stacks[0]
        return state[:, stack.state_size :], stack.unpack(state[:, : stack.state_size])


def _decoded(text: tf.Tensor, name: str) -> tf.Tensor:
    """Texts of a request: not too long together, and broken bytes as U+FFFD."""
    return tf.strings.unicode_transcode(check_text_size(text, name), "UTF-8", "UTF-8")


def _after(text: tf.Tensor, added: tf.Tensor) -> tf.Tensor:
    """What is added to a text: without a space at first where there is nothing, or a space, before."""
    no_space = tf.strings.regex_full_match(text, r"(?s)(?:.*\s)?")
    return tf.where(no_space, tf.strings.regex_replace(added, "^ ", ""), added)


def _allowed(logits: tf.Tensor) -> tf.Tensor:
    """Without padding, the unknown token and BOS."""
    forbidden = tf.reduce_any(tf.range(logits.shape[-1]) == [[PADDING], [UNKNOWN], [BOS]], axis=0)
    return tf.where(forbidden, NEG_INF, tf.cast(logits, tf.float32))
