"""Fine-tuning of a classifier that starts from a language model.

* Each level learns more slowly than the one above it, and not before it (Howard and Ruder 2018,
  https://aclanthology.org/P18-1031): at step t level l below the top has the learning rate

      eta_l(t) = eta(t) / decay^l    from step l * unfreeze on; 0 before

* Virtual adversarial training (Miyato et al. 2017, https://arxiv.org/abs/1605.07725): a small change of the word vectors, in the
  direction that changes the prediction most, must not change it.

      r    = epsilon g / |g|,  g = the gradient of KL(p(e) || p(e + d)) at a small random d
      loss = cross entropy + KL(p(e) || p(e + r))

  The vectors e are measured in units of their standard deviation over the words of the training texts, so that larger vectors
  are no way out.
"""

import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

SMALL = 1.0  # the norm of d


def by_level(kind: type[keras.Optimizer], top: int, decay: float, unfreeze: int) -> type[keras.Optimizer]:
    """The optimizer class with a learning rate for each level: variables of a layer named `level_l`, the others at the top.

    Args:
        top: how many levels there are below the top.
        decay: by what the learning rate falls from a level to the one below.
        unfreeze: steps from a level's start to that of the one below.
    """

    class ByLevel(kind):  # type: ignore[misc,valid-type]
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            found = re.search(r"level_(\d+)", variable.path)
            below = top - int(found[1]) if found else 0
            thawed = ops.cast(self.iterations >= below * unfreeze, learning_rate.dtype)
            super().update_step(gradient, variable, learning_rate * thawed / decay**below)

    for name in ("__name__", "__qualname__", "__module__"):  # saved as what it is derived from
        setattr(ByLevel, name, getattr(kind, name))
    return ByLevel


class VirtualAdversary(keras.Model):
    """A classifier whose loss has the virtual adversarial term.

    Args:
        classifier: from `fine_tuned_classifier`.
        frequencies: of each id in the training texts, (vocabulary,).
        epsilon: the norm of r over a whole text.
    """

    def __init__(self, classifier: keras.Model, frequencies: np.ndarray, epsilon: float) -> None:
        super().__init__(classifier.input, classifier.output["logits"])
        self.epsilon, self.seed_generator = epsilon, keras.random.SeedGenerator()
        self.shares = tf.constant(frequencies / frequencies.sum(), tf.float32)[:, None]
        names = [layer.name for layer in classifier.layers]
        self.encoder = classifier.get_layer("encoder")
        self.head = [classifier.get_layer(name) for name in names[names.index("pooling") :]]

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return loss
        table = tf.stop_gradient(tf.convert_to_tensor(self.encoder.embedding.embeddings))
        mean = tf.reduce_sum(self.shares * table, axis=0)
        deviation = tf.sqrt(tf.reduce_sum(self.shares * (table - mean) ** 2, axis=0))
        marked, lengths = self.encoder.mark(x)
        vectors = self.encoder.embed(marked, training=True)
        target = tf.stop_gradient(y_pred)
        there = tf.cast(tf.range(tf.shape(marked)[1])[None] <= lengths, vectors.dtype)[..., None]

        def changed(change: Any) -> Any:
            """KL(p(e) || p(e + change)) of each text."""
            features, mask = self.encoder.encode(vectors + deviation * change, lengths, training=True)
            out = self.head[0](features, mask)
            for layer in self.head[1:]:
                out = layer(out, training=True) if isinstance(layer, keras.layers.Dropout) else layer(out)
            p = tf.nn.softmax(target)
            return tf.reduce_sum(p * (tf.nn.log_softmax(target) - tf.nn.log_softmax(out)), axis=-1)

        d = _of_norm(SMALL, keras.random.normal(tf.shape(vectors), seed=self.seed_generator) * there)
        with tf.GradientTape() as tape:
            tape.watch(d)
            divergence = tf.reduce_sum(changed(d))
        r = tf.stop_gradient(_of_norm(self.epsilon, tape.gradient(divergence, d) * there))
        return loss + tf.reduce_mean(changed(r))


def _of_norm(norm: float, x: tf.Tensor) -> tf.Tensor:
    """(batch, time, size) with this norm of each text."""
    x = x / (1e-12 + tf.reduce_max(tf.abs(x), axis=(1, 2), keepdims=True))
    return norm * x * tf.math.rsqrt(1e-12 + tf.reduce_sum(x**2, axis=(1, 2), keepdims=True))
