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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from apps.common.language_model import LanguageModel
from apps.common.training.averages import named_as
from apps.common.training.checkpoint_files import newest_first
from apps.common.training.init_from import initial_run
from apps.common.training.losses import TokenLoss
from apps.common.training.progress import verbosity
from apps.common.training.runs import load_model, read_config, warm_up_and_decay
from apps.sentiment_classification.config import Config
from apps.sentiment_classification.model import fine_tuned_classifier
from data_pipelines.passages import encode_passages
from data_pipelines.prepared import Prepared
from data_pipelines.remote import mirror
from data_pipelines.sources import DataError
from data_pipelines.token_streams import MemoryText, token_streams
from data_pipelines.vocabulary import Vocabulary

SMALL = 1.0  # the norm of d
FINE_TUNING = ("virtual_adversary", "adapt_epochs", "level_decay", "unfreeze_epochs", "weight_dropout")
UNUSED = ("tokenizer", "vocabulary_size", "min_count", "pooling", "embeddings", "baseline")  # flags of other classifiers


def check_flags(config: Config) -> None:
    """Refuse flags that a classifier from a language model, or another one, does not have; and a run that is none.

    Raises:
        DataError: there is one.
    """
    if not config.init_from:
        for name in FINE_TUNING:
            if getattr(config, name) != getattr(Config, name):
                raise DataError(f"--{name.replace('_', '-')}: is for a classifier from a language model. Pass --init-from, too.")
        return
    initial_run("language_model", config)
    for name in UNUSED:
        if getattr(config, name) != getattr(Config, name):
            raise DataError(f"--{name.replace('_', '-')}: has no meaning with --init-from. Leave one of the two out.")


def check_prepared(config: Config, prepared: Prepared) -> None:
    """Refuse flags that prepared data do not go with: other flags than they have, and what reads the training texts.

    Raises:
        DataError: there is one.
    """
    prepared.check_flags(config, mirror(config.init_from) if config.init_from else None)
    for name, needs_texts in (("adapt_epochs", bool(config.init_from)), ("virtual_adversary", True)):
        if needs_texts and getattr(config, name):
            flag = f"--{name.replace('_', '-')}"
            raise DataError(
                f"{flag} {getattr(config, name)}: reads the training texts, and {prepared.folder} holds token ids. "
                f"Pass {flag} 0, or --data with the texts."
            )


def start_from_language_model(
    config: Config, folder: Path, texts: Sequence[str], vocabulary: Vocabulary, classes: int
) -> keras.Model:
    """A classifier with the vectors and levels of the run `config.init_from`, adapted to the texts first.

    Args:
        folder: of the run; one that is resumed was adapted already.

    Raises:
        DataError: that run is no language model.
    """
    language_model = load_model(mirror(config.init_from or ""))
    if not isinstance(language_model, LanguageModel):
        raise DataError(f"--init-from {config.init_from}: is no language model. Pass a run of apps.language_model.")
    if config.adapt_epochs and not newest_first(folder / "checkpoints"):
        adapt(language_model, texts, vocabulary, config)
    return fine_tuned_classifier(
        language_model,
        classes,
        dropout=config.dropout,
        level_dropout=config.embedding_dropout,
        embedding_dropout=config.word_dropout,
        weight_dropout=config.weight_dropout,
    )


def adapt(model: LanguageModel, texts: Sequence[str], vocabulary: Vocabulary, config: Config) -> None:
    """Train a language model in place on the texts of a task, with a quarter of the learning rate of its run."""
    its = read_config(mirror(config.init_from or ""))
    streams = token_streams(
        MemoryText(encode_passages(texts, vocabulary)),
        batch_size=its.batch_size,
        steps=its.bptt_steps,
        epochs=config.adapt_epochs,
        seed=config.seed,
        reverse=len(model.stacks) == 2,
    )
    schedule = warm_up_and_decay(its.learning_rate / 4, config.adapt_epochs * streams.steps_per_epoch)
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=its.clip_norm), TokenLoss())
    print(f"adapting the language model to {len(texts):,} texts")
    model.fit(
        streams.dataset,
        epochs=config.adapt_epochs,
        steps_per_epoch=streams.steps_per_epoch,
        shuffle=False,
        verbose=verbosity(),
    )


def by_level(kind: type[keras.Optimizer], classifier: keras.Model, decay: float, unfreeze: int) -> type[keras.Optimizer]:
    """The optimizer class with a learning rate for each level: layers named `level_l`, word vectors the lowest, and the rest on
    top.

    Args:
        classifier: from `fine_tuned_classifier`.
        decay: by what the learning rate falls from a level to the one below.
        unfreeze: steps from a level's start to that of the one below.
    """
    top = classifier.get_layer("encoder").settings["num_layers"] + 1

    class ByLevel(kind):  # type: ignore[misc,valid-type]
        def build(self, variables: Any) -> None:
            super().build(variables)
            levels = [re.search(r"level_(\d+)", variable.path) for variable in variables]
            self.below_top = [top - int(level[1]) if level else 0 for level in levels]

        def level_rate(self, variable: Any, learning_rate: Any) -> Any:
            below = self.below_top[self._get_variable_index(variable)]
            unfrozen = ops.cast(self.iterations >= below * unfreeze, learning_rate.dtype)
            return learning_rate * unfrozen / decay**below

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient, variable, self.level_rate(variable, learning_rate))

        def _apply_weight_decay(self, variables: Any) -> None:
            for variable in variables:
                if self.weight_decay is not None and self._use_weight_decay(variable):
                    rate = self.level_rate(variable, ops.cast(self.learning_rate, variable.dtype))
                    variable.assign(variable * (1 - rate * self.weight_decay))

    return named_as(ByLevel, kind)


class VirtualAdversary(keras.Model):
    """A classifier whose loss has the virtual adversarial term.

    Args:
        classifier: from `fine_tuned_classifier`.
        ids: of the training texts, ragged.
        epsilon: the norm of r over a whole text.
    """

    def __init__(self, classifier: keras.Model, ids: tf.RaggedTensor, epsilon: float) -> None:
        super().__init__(classifier.input, classifier.output["logits"])
        self.epsilon, self.seed_generator = epsilon, keras.random.SeedGenerator()
        self.encoder = classifier.get_layer("encoder")
        counts = np.bincount(ids.flat_values.numpy(), minlength=self.encoder.settings["vocabulary_size"])
        self.shares = tf.constant(counts / counts.sum(), tf.float32)[:, None]
        names = [layer.name for layer in classifier.layers]
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
        vectors = tf.cast(self.encoder.embed(marked, training=True), tf.float32)
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
