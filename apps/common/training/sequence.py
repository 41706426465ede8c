"""Training for the metric: the model learns from what it generates itself, by the reward that this gets.

Of each example k sequences y_1 … y_k are sampled. With r_i the reward of y_i, from 0 upwards,

    q_i  = p(y_i)^a / sum_j p(y_j)^a
    risk = -sum_i q_i r_i

is minimum risk training (Shen et al. 2016, https://aclanthology.org/P16-1159). Its gradient, divided by a, is

    -sum_i q_i (r_i - sum_j q_j r_j) d log p(y_i)

and for a -> 0, where all q_i are 1 / k, that of self-critical training (Rennie et al. 2017, https://arxiv.org/abs/1612.00563)
with the other samples as baseline (Luo 2020, https://arxiv.org/abs/2003.09971). Both are this weighted log-likelihood, over the
tokens of the references, and a part of the cross entropy of these, that what is generated stays a sentence.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from apps.common.decoding.search import sample
from apps.common.decoding.sequences import Sequences, forbid
from apps.common.training.sharding import count_tokens
from data_pipelines.batching import shift_right
from data_pipelines.vocabulary import BOS, EOS

PARTS = 4  # of a batch of samples, by their lengths
Reward = Callable[[np.ndarray, Any], np.ndarray]


def risk_weights(rewards: tf.Tensor, log_probabilities: tf.Tensor, sharpness: float) -> tf.Tensor:
    """q_i (r_i - sum_j q_j r_j), of rewards and log-probabilities (n, k).

    >>> risk_weights(tf.constant([[1.0, 0.0]]), tf.constant([[-5.0, -9.0]]), 0.0).numpy().tolist()
    [[0.25, -0.25]]
    """
    q = tf.nn.softmax(sharpness * log_probabilities)
    return q * (rewards - tf.reduce_sum(q * rewards, axis=1, keepdims=True))


def sequence_log_probabilities(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """(rows,) of targets (rows, time), padded with 0."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
    return -tf.reduce_sum(losses * tf.cast(targets != 0, tf.float32), axis=1)


@keras.saving.register_keras_serializable(package="unfold")
class SequenceTrainer(keras.Model):
    """Trains a model for a reward. Batches are `(inputs, targets)`, with the number of each example as the input `example`. `fit`
    logs the loss, the mean `reward`, and `distinct`, the share of the samples of an example that differ.

    Args:
        model: built; of its methods are used `encode(x, training=True)`, `sample_logits(encoded, decoder inputs, k)`,
            `prepare_decoder(x)` and `step(tokens, state, memory)`, with x what is encoded.
        encoded: the name of this input.
        detokenize: `Sequences` -> texts (rows, 1).
        reward: (numbers of examples (n,), texts (n, k)) -> (n, k).
        seed: of the samples.
        max_length: of a sample, EOS counted.
        samples: k.
        temperature: divides the logits, whose distribution p is. Below 1: label smoothing leaves every token a share of the
            probability, and of fifteen sampled tokens one or two would be any.
        sharpness: a.
        likelihood: the part of the reference's cross entropy, from 0 to 1.
    """

    def __init__(
        self,
        model: Any,
        encoded: str,
        detokenize: Callable[[Sequences], tf.Tensor],
        reward: Reward,
        *,
        seed: int,
        max_length: int,
        samples: int,
        temperature: float,
        sharpness: float,
        likelihood: float,
    ) -> None:
        super().__init__()
        self.model, self.encoded, self.max_length = model, encoded, max_length
        self.detokenize, self.reward = detokenize, reward
        self.samples, self.temperature, self.sharpness, self.likelihood = samples, temperature, sharpness, likelihood
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.means = {name: keras.metrics.Mean(name=name) for name in ("reward", "distinct")}
        self.built = True

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return self.model(inputs, training=training)

    def sample(self, inputs: dict[str, tf.Tensor], longest: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
        """k samples of each example (n k, time), of at most `longest` tokens, EOS counted, and their rewards (n, k). An EOS at
        the last place is left out: it was not sampled, as nothing else could follow."""
        memory, state = self.model.prepare_decoder(inputs[self.encoded])

        def step(tokens: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, None]:
            logits, new, _ = self.model.step(self._grouped(tokens), self._grouped(state), memory)
            return _flat(logits), _flat(new), None

        seed = keras.random.randint((), 0, 2**31 - 1, dtype="int32", seed=self.seed_generator)
        count = self.samples * tf.shape(inputs["example"])[0]
        longest = tf.minimum(longest, self.max_length)
        settings = {"start": BOS, "end": EOS, "max_length": longest}
        found = sample(
            step, tf.repeat(state, self.samples, axis=0), batch_size=count, **settings, seed=seed, temperature=self.temperature
        )
        tokens, lengths = found.tokens[:, 0], found.lengths
        ends = (tf.range(longest) == lengths) & (lengths < longest - 1)
        targets = tf.where(ends, EOS, tokens)[:, : tf.reduce_max(lengths) + 1]
        texts = tf.reshape(self.detokenize(found), [-1, self.samples])
        rewards, distinct = tf.numpy_function(self._rewards, [inputs["example"], texts], (tf.float32, tf.float32))
        rewards = tf.ensure_shape(rewards, [None, self.samples])
        self.means["reward"].update_state(rewards)
        self.means["distinct"].update_state(tf.ensure_shape(distinct, [None]))
        return targets, rewards

    def _grouped(self, x: tf.Tensor) -> tf.Tensor:
        """(n k, 1, …) -> (n, k, …)."""
        return tf.reshape(x, [-1, self.samples, *x.shape[2:]])

    def _rewards(self, examples: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        decoded = [[text.decode("utf-8", "replace") for text in row] for row in texts]
        distinct = np.array([len(set(row)) / self.samples for row in decoded], np.float32)
        return self.reward(examples, decoded).astype(np.float32), distinct

    def log_probabilities(self, encoded: Any, samples: tf.Tensor) -> tf.Tensor:
        """Of samples (n k, time), in training, (n, k). The examples with short samples come first, a part of the batch at a time:
        with all in one half of the places would be padding."""
        samples = tf.reshape(samples, [-1, self.samples, tf.shape(samples)[1]])
        longest = tf.reduce_max(tf.math.count_nonzero(samples, axis=2, dtype=tf.int32), axis=1)
        order = tf.argsort(longest)

        @tf.function(autograph=False)  # traced once for all parts
        def of_part(part: tf.Tensor) -> tf.Tensor:
            time = tf.reduce_max(tf.concat([[1], tf.gather(longest, part)], axis=0))  # of none: 1
            targets = tf.reshape(tf.gather(samples, part)[:, :, :time], [-1, time])
            some = tf.nest.map_structure(lambda x: None if x is None else tf.gather(x, part), encoded)
            logits = self.model.sample_logits(some, shift_right(targets), self.samples)
            logits = tf.cast(logits, tf.float32) / self.temperature + forbid(0, vocabulary_size=logits.shape[-1])
            return tf.reshape(sequence_log_probabilities(targets, logits), [-1, self.samples])

        bounds = [n * tf.size(order) // PARTS for n in range(PARTS + 1)]
        found = tf.concat([of_part(order[start:end]) for start, end in pairwise(bounds)], axis=0)
        return tf.gather(found, tf.argsort(order))

    def risk(self, log_probabilities: tf.Tensor, rewards: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """The weighted negative log-likelihood of the samples over `count`, the tokens of the references, as in their cross
        entropy. Its gradient is that of the risk."""
        weights = tf.stop_gradient(risk_weights(rewards, log_probabilities, self.sharpness))
        return -tf.reduce_sum(weights * log_probabilities) / tf.maximum(tf.cast(count, tf.float32), 1.0)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        inputs, targets, weight = keras.utils.unpack_x_y_sample_weight(data)
        samples, rewards = self.sample(inputs, 2 * tf.shape(targets)[1])
        with tf.GradientTape() as tape:
            log_probabilities = self.log_probabilities(self.model.encode(inputs[self.encoded], training=True), samples)
            loss = (1 - self.likelihood) * self.risk(log_probabilities, rewards, count_tokens(targets))
            if weight is not None:  # of several workers
                loss *= tf.reduce_mean(tf.cast(weight, loss.dtype))
            if self.likelihood:
                logits = self.model(inputs, training=True)
                loss += self.likelihood * self.compute_loss(inputs, targets, logits, weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
        self.optimizer.apply(tape.gradient(scaled, self.trainable_variables), self.trainable_variables)
        self._loss_tracker.update_state(loss)
        return {"loss": self._loss_tracker.result(), **{name: mean.result() for name, mean in self.means.items()}}


def _flat(x: tf.Tensor) -> tf.Tensor:
    """(n, k, …) -> (n k, 1, …)."""
    return tf.reshape(x, [-1, 1, *x.shape[2:]])
