"""Pre-train word vectors and the first recurrent layer on texts without labels, as a language model in both directions.

    p(w_{t+1} | w_1 … w_t)    from the forward state at t
    p(w_{t-1} | w_t … w_T)    from the backward state at t

The classifier then starts from weights that know which words go together (Dai & Le 2015,
https://arxiv.org/abs/1511.01432). The softmax over the vocabulary is sampled (Jean et al. 2015,
https://aclanthology.org/P15-1001) and shares the word vectors.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from apps.common.training.progress import verbosity
from apps.common.training.runs import warm_up_and_decay
from data_pipelines.vocabulary import PADDING, UNKNOWN


class NextWordLoss(keras.layers.Layer):
    """Mean cross entropy of the next and of the previous word: (states, ids) -> (batch,).

    Unknown words and padding are masked out. Ids must be in the order of falling frequency.
    """

    def __init__(self, embedding: keras.layers.Embedding, samples: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embedding, self.samples = embedding, samples
        self.ahead = keras.layers.Dense(embedding.output_dim, name="ahead")
        self.supports_masking = True
        self.back = keras.layers.Dense(embedding.output_dim, name="back")

    def build(self, states_shape: tuple, ids_shape: tuple) -> None:
        half = (*states_shape[:-1], states_shape[-1] // 2)
        self.ahead.build(half)
        self.back.build(half)
        self.bias = self.add_weight(shape=(self.embedding.input_dim,), initializer="zeros", name="bias")

    def call(self, states: Any, ids: Any) -> Any:
        forward, backward = ops.split(states, 2, axis=-1)
        ahead = self._cross_entropy(self.ahead(forward[:, :-1]), ids[:, :-1], ids[:, 1:])
        back = self._cross_entropy(self.back(backward[:, 1:]), ids[:, 1:], ids[:, :-1])
        return (ahead + back) / 2

    def _cross_entropy(self, predicted, at, words):
        loss = tf.nn.sampled_softmax_loss(
            weights=ops.cast(self.embedding.embeddings, predicted.dtype),
            biases=ops.cast(self.bias, predicted.dtype),
            labels=tf.cast(tf.reshape(words, (-1, 1)), tf.int64),
            inputs=tf.reshape(predicted, (-1, self.embedding.output_dim)),
            num_sampled=self.samples,
            num_classes=self.embedding.input_dim,
        )
        kept = ops.cast(ops.logical_and(at != PADDING, words > UNKNOWN), predicted.dtype)  # (batch, time - 1)
        return ops.sum(tf.reshape(loss, tf.shape(words)) * kept, axis=1) / ops.maximum(ops.sum(kept, axis=1), 1)

    def compute_mask(self, states: Any, ids: Any, mask: Any = None) -> Any:
        return None

    def compute_output_shape(self, states_shape: tuple, ids_shape: tuple) -> tuple:
        return (states_shape[0],)


def pretrain(
    classifier: keras.Model,
    batches: tf.data.Dataset,
    steps: int,
    *,
    learning_rate: float = 2e-3,
    clip_norm: float = 1.0,
    samples: int = 1024,
) -> None:
    """Train the classifier's `embedding` and `recurrent_1` in place, for `steps` batches of `(ids, _)`."""
    embedding = classifier.get_layer("embedding")
    states = classifier.get_layer("recurrent_1").output
    loss = NextWordLoss(embedding, min(samples, embedding.input_dim // 2), dtype="float32")(states, classifier.input)
    model = keras.Model(classifier.input, loss)
    schedule = warm_up_and_decay(learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=clip_norm), loss=_loss_is_the_output)
    model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=verbosity())


def _loss_is_the_output(_: Any, loss: Any) -> Any:
    return loss
