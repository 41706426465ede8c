"""Ten steps of each application's model on seeded random batches, alone or as one of several workers.

python -m tests.apps.ten_steps OUT none|mirrored     the chief writes OUT/<application>.npz
"""

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from apps.common.training.checkpoints import Checkpoint
from apps.common.training.losses import TokenLoss
from apps.common.training.sharding import count_tokens
from apps.common.training.workers import Workers
from apps.image_captioning.encoders import image_encoder
from apps.image_captioning.model import Captioner
from apps.music_generation.rolls.loss import FrameLoss, count_frames
from apps.music_generation.rolls.model import RollModel
from apps.music_generation.tunes.model import TuneModel
from apps.sentiment_classification.model import recurrent_classifier
from apps.translation.model import Translator

ROWS, STEPS = 6, 10
SMALL = {"embedding_size": 8, "units": 8, "dropout": 0.0}


def ids(generator, high=20, rows=ROWS, time=7, low=3):
    """Rows of unequal length, padded with 0."""
    there = np.arange(time) < generator.integers(1, time + 1, (rows, 1))
    return np.where(there, generator.integers(low, high, (rows, time)), 0).astype(np.int32)


def sentiment_classification(generator):
    model = recurrent_classifier(
        20, 3, cell="gru", num_layers=1, pooling="attention", embedding_dropout=0.0, word_dropout=0.0, **SMALL
    )
    model = keras.Model(model.input, model.output["logits"])
    # five rows of the last batch can't be shared evenly
    batches = [(ids(generator, rows=ROWS - (i == 9)), generator.integers(0, 3, ROWS - (i == 9))) for i in range(STEPS)]
    return model, keras.losses.SparseCategoricalCrossentropy(from_logits=True), batches, tf.size


def translation(generator):
    model = Translator(20, 20, joint=False, **SMALL)
    batches = [({"source": ids(generator), "target": ids(generator)}, ids(generator)) for _ in range(STEPS)]
    model(batches[0][0])
    return model, TokenLoss(0.1), batches, count_tokens


def image_captioning(generator):
    encoder = image_encoder("small-cnn", 32, "none").trainable_top
    model = Captioner(20, (32, 32, 3), encoder, False, memory_size=8, num_layers=1, attention="additive", **SMALL)
    model.build()
    batches = []
    for i in range(STEPS):
        rows = ROWS - (i == 9)  # five rows of the last batch can't be shared evenly
        image = generator.integers(0, 255, (rows, 32, 32, 3)).astype(np.uint8)
        batches.append(({"image": image, "caption": ids(generator, rows=rows)}, ids(generator, rows=rows)))
    return model, TokenLoss(), batches, count_tokens


def music_generation(generator):
    model = TuneModel(20, 8, batch_size=ROWS, units=8, num_layers=2, attention_length=6, words=list("ABCDEFGabcd23/(|"))
    model.build()
    is_continuation = generator.integers(0, 2, (STEPS, ROWS)).astype(np.float32)
    return (
        model,
        TokenLoss(),
        [({"tokens": ids(generator), "is_continuation": on}, ids(generator)) for on in is_continuation],
        count_tokens,
    )


def piano_rolls(generator):
    model = RollModel(keys=5, hidden=4, batch_size=ROWS, units=8, num_layers=1)
    model.build()
    batches = []
    for _ in range(STEPS):
        following = np.where(ids(generator)[..., None] > 0, generator.integers(0, 2, (ROWS, 7, 5)), -1).astype(np.int8)
        frames = generator.integers(0, 2, (ROWS, 7, 5)).astype(np.int8)
        inputs = {"frames": frames, "targets": np.maximum(following, 0), "is_continuation": np.ones(ROWS, np.float32)}
        batches.append((inputs, following))
    return model, FrameLoss(), batches, count_frames


APPLICATIONS = [sentiment_classification, translation, image_captioning, music_generation, piano_rolls]


def train(application, workers, out):
    keras.utils.set_random_seed(workers.index)  # the chief's weights are everybody's
    model, loss, batches, count = application(np.random.default_rng(1))
    whole = iter([tf.data.Dataset.from_tensors(batch) for batch in batches])
    dataset = next(whole)
    for batch in whole:
        dataset = dataset.concatenate(batch)
    optimizer = workers.optimizer(keras.optimizers.Adam)(1e-3, global_clipnorm=1.0, use_ema=True, ema_momentum=0.9)
    model.compile(optimizer, loss, jit_compile=workers.jit_compile)
    checkpoint = Checkpoint(Path(tempfile.mkdtemp()), monitor="loss")
    if hasattr(model, "set_workers"):
        model.set_workers(workers)
    workers.broadcast_state(model, checkpoint, None)
    callbacks = workers.callbacks(checkpoint)
    history = model.fit(workers.shard(dataset, count), shuffle=False, verbose=0, callbacks=callbacks)
    assert any(checkpoint.folder.iterdir()) == workers.is_chief
    if workers.is_chief:
        arrays = {f"{i} {v.path}": np.asarray(v) for i, v in enumerate(model.weights)}
        np.savez(out / application.__name__, loss=history.history["loss"], **arrays)


def main():
    workers = Workers(sys.argv[2], 2 if sys.argv[2] == "mirrored" else None)
    tf.config.experimental.enable_op_determinism()

    for application in APPLICATIONS:
        train(application, workers, Path(sys.argv[1]))
    if not workers.is_chief:
        workers.wait_for_chief()


if __name__ == "__main__":
    main()
