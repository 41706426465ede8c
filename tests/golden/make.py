"""What this version writes, kept for the versions to come: a model, a checkpoint, an export of each application.

    python -m tests.golden.make [APPLICATION…]      only for a new one, or where a format has to change: see CONTRIBUTING.md

An archive holds `model.keras`, `checkpoints/`, `export/`, and in `expected.npz` what they gave when they were written:
`model/…` and `restored/…`, the outputs for `batch`, and `answer/…`, the export's, for `REQUESTS`.
"""

import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from apps.common.export.saved_model import load_export
from apps.common.training.averages import moving_average
from apps.common.training.checkpoints import Checkpoint
from apps.common.training.losses import TokenLoss
from apps.music_generation.rolls.loss import FrameLoss
from tests.serving.small import WRITERS, make_export

FOLDER = Path(__file__).parent
PIXELS = np.random.default_rng(1).integers(0, 256, (40, 32, 3)).astype(np.uint8)
REQUESTS = {
    "sentiment_classification": ("serving_default", {"text": ["the food wasn't good", ""]}),
    "translation": ("serving_default", {"text": ["a small dog runs", "two men sit on a wall"]}),
    "image_captioning": ("serving_default", {"image_bytes": [tf.io.encode_png(PIXELS).numpy(), b"none"]}),
    "music_generation": ("serving_greedy", {"prompt": ["M:6/8\nL:1/8\nK:D\nd2e f", ""], "max_new_tokens": 12}),
    "language_model": ("serving_greedy", {"prompt": ["a small", ""], "max_new_tokens": 12}),
    "piano_rolls": ("serving_greedy", {"frames": np.eye(3, 88, 40, dtype=np.uint8)[None], "new_frames": 6}),
}


def batch(application):
    """The inputs and targets of a training step."""
    generator = np.random.default_rng(0)
    ids = generator.integers(4, 12, (2, 6)).astype(np.int32)
    ids[1, 4:] = 0
    image = generator.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    frames = generator.integers(0, 2, (2, 7, 88)).astype(np.int8)
    first = np.zeros(2, np.float32)
    return {
        "sentiment_classification": lambda: (ids, np.array([0, 1])),
        "translation": lambda: ({"source": ids, "target": ids}, ids),
        "image_captioning": lambda: ({"image": image, "caption": ids}, ids),
        "music_generation": lambda: ({"tokens": ids, "is_continuation": first}, ids),
        "language_model": lambda: ({"tokens": ids, "is_continuation": first}, ids),
        "piano_rolls": lambda: (
            {"frames": frames[:, :-1], "targets": frames[:, 1:], "is_continuation": first}, frames[:, 1:]
        ),
    }[application]()  # fmt: skip


def trainer(application, model):
    """The model, compiled about as training does."""
    loss = {"sentiment_classification": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "piano_rolls": FrameLoss()}
    if application == "sentiment_classification":
        model = keras.Model(model.input, model.output["logits"])
    optimizer = moving_average(keras.optimizers.Adam)(0.01, global_clipnorm=1.0, use_ema=True, ema_momentum=0.9)
    model.compile(optimizer, loss.get(application, TokenLoss()), jit_compile=False)
    return model


def outputs(application, model):
    """What a model gives for `batch`, by name."""
    found = model(batch(application)[0])
    return {name: np.asarray(value) for name, value in (found if isinstance(found, dict) else {"logits": found}).items()}


def answer(application, served):
    """What an export gives for its request, by name."""
    signature, request = REQUESTS[application]
    function = served.signatures[signature]
    specs = function.structured_input_signature[1]
    found = function(**{name: tf.constant(value, specs[name].dtype) for name, value in request.items()})
    return {name: np.array(value.numpy().tolist()) for name, value in found.items()}  # strings without Python objects


def make(application, folder):
    """Write all of an application into a folder."""
    version = make_export(application, folder / "made")
    (folder / "made" / "runs" / application / "model.keras").rename(folder / "model.keras")
    version.rename(folder / "export")
    shutil.rmtree(folder / "made")
    expected = {f"answer/{name}": value for name, value in answer(application, load_export(folder / "export")).items()}
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    expected |= {f"model/{name}": value for name, value in outputs(application, model).items()}
    compiled = trainer(application, model)
    data = tf.data.Dataset.from_tensors(batch(application)).repeat(2)
    compiled.fit(data, shuffle=False, verbose=0, callbacks=[Checkpoint(folder / "checkpoints", monitor="loss")])
    expected |= {f"restored/{name}": value for name, value in outputs(application, model).items()}
    np.savez(folder / "expected.npz", **expected)


def main():
    for application in sys.argv[1:] or WRITERS:
        with tempfile.TemporaryDirectory() as folder:
            make(application, Path(folder))
            path = FOLDER / f"{application}.tar.xz"
            with tarfile.open(path, "w:xz") as archive:
                archive.add(folder, application)
        print(f"{path}  {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
