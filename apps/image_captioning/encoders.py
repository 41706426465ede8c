"""Image encoders: a frozen backbone, whose features are computed once for each image and kept, and a trainable top.

A network with ImageNet weights is all frozen; with `fine_tune_blocks` its last blocks are the trainable top. One that is trained
from scratch is all trainable, and reads the pixels.
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras import ops

from apps.common.training.runs import is_run, load_model, read_config, read_run
from apps.image_captioning.small_cnn import SmallCNN
from data_pipelines.image_store import weights_key
from data_pipelines.remote import mirror
from data_pipelines.sources import DataError

Tensor = Any

# name -> what ends a block, in the names of its layers
BLOCK_ENDS = {
    "mobilenet": r"conv_pw_\d+_relu",
    "mobilenet_v2": r"(block_\d+)_(?:add|project_BN)|out_relu",
    "efficientnet_b0": r"(block\d\w)_(?:add|project_bn)|top_activation",
}


class ImageEncoder(NamedTuple):
    """The two parts, and a key that names the frozen part's features; a part that does nothing is None."""

    frozen_backbone: keras.Model | None
    trainable_top: keras.layers.Layer | None
    key: str
    is_pretrained: bool

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels (n, size, size, 3), uint8, to the input of the captioner: features as float16, or the same pixels."""
        if self.frozen_backbone is None:
            return pixels
        return ops.cast(self.frozen_backbone(ops.cast(pixels, "float32"), training=False), "float16")

    @property
    def frozen_backbones(self) -> list[keras.Model]:
        return [] if self.frozen_backbone is None else [self.frozen_backbone]


class ImageEncoders(NamedTuple):
    """Those of several captioners; what has one key is computed once."""

    each: tuple[ImageEncoder, ...]

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Pixels (n, size, size, 3), uint8, to the input of each captioner."""
        features = {key: encoder.encode_image(pixels) for key, encoder in self.different.items()}
        return tuple(features[encoder.key] for encoder in self.each)

    @property
    def different(self) -> dict[str, ImageEncoder]:
        return {encoder.key: encoder for encoder in self.each}

    @property
    def frozen_backbones(self) -> list[keras.Model]:
        return [backbone for encoder in self.different.values() for backbone in encoder.frozen_backbones]


def run_encoder(run: Path) -> ImageEncoder:
    """The encoder of a finished run; its trainable top, if it has one, is in the model."""
    path, config = run / "frozen_backbone.keras", read_config(run)
    if not path.exists():
        return ImageEncoder(None, None, "pixels", False)
    backbone = keras.saving.load_model(path)
    key = f"{config.backbone}-{backbone.output_shape}-{config.precision}-{weights_key(backbone)}"
    return ImageEncoder(backbone, None, key, True)


def trainable_blocks(config: Any, initial: Path | None) -> int:
    """How many of the last blocks belong to the model, not to the frozen backbone: those that this run trains, or that were
    trained in the run that it begins with."""
    own = mirror(config.run_dir or "")
    if config.fine_tune_epochs:
        return config.fine_tune_blocks
    if config.resume and is_run(own):
        return read_run(own).get("trainable_blocks", 0)
    if initial and (initial / "frozen_backbone.keras").exists() and load_model(initial).encoder is not None:
        return read_run(initial).get("trainable_blocks", read_config(initial).fine_tune_blocks)
    return 0


def image_encoder(
    name: str, size: int, weights: str, alpha: float = 1.0, layer: str = "", trainable_blocks: int = 0
) -> ImageEncoder:
    """Build an encoder.

    Args:
        name: `small-cnn`, or a key of `BLOCK_ENDS`: a network of `keras.applications`.
        size: of the pictures, in pixels.
        weights: `imagenet`, `none`, or a path of weights that Keras saved.
        alpha: width of the MobileNets.
        layer: take the output of this layer; "": of the last block.
        trainable_blocks: how many of the last blocks may be trained.

    Raises:
        DataError: weights that can't be had, a layer that isn't there.
    """
    if name == "small-cnn":
        if weights not in ("imagenet", "none"):
            raise DataError(f"--backbone-weights is {weights!r}; small-cnn is always trained from scratch. Leave the flag out.")
        return ImageEncoder(None, SmallCNN(size), "pixels", False)
    base = _application(name, size, alpha, "imagenet" if weights == "imagenet" else None)
    ends = _block_ends(name, base, layer)
    whole = keras.Model(base.input, base.get_layer(ends[-1]).output, name=name)
    if weights not in ("imagenet", "none"):
        _load_weights(whole, base, weights)
    if weights == "none":
        return ImageEncoder(None, _with_scaling(whole, name), "pixels", False)
    if trainable_blocks >= len(ends):
        raise DataError(f"--fine-tune-blocks is {trainable_blocks}; {name} has {len(ends)} blocks. Pass a smaller number.")
    cut = base.get_layer(ends[-1 - trainable_blocks]).output
    frozen_backbone = _with_scaling(keras.Model(base.input, cut), name)
    frozen_backbone.trainable = False
    trainable_top = keras.Model(cut, whole.output, name="trainable_top") if trainable_blocks else None
    key = f"{name}-{ends[-1 - trainable_blocks]}-{weights_key(frozen_backbone)}-{cut.dtype}"
    return ImageEncoder(frozen_backbone, trainable_top, key, True)


def _application(name: str, size: int, alpha: float, weights: str | None) -> keras.Model:
    options: dict[str, Any] = {"input_shape": (size, size, 3), "include_top": False, "weights": weights}
    try:
        if name == "mobilenet":
            return keras.applications.MobileNet(alpha=alpha, **options)
        if name == "mobilenet_v2":
            return keras.applications.MobileNetV2(alpha=alpha, **options)
        return keras.applications.EfficientNetB0(**options)
    except ValueError as error:
        raise DataError(f"{name}: {str(error).strip().splitlines()[0]}") from None
    except Exception as error:  # keras.utils.get_file raises a plain Exception
        raise DataError(
            f"{name}: the ImageNet weights can't be had ({error}). Put the file into "
            f"{os.environ.get('KERAS_HOME', '~/.keras')}/models, or pass --backbone-weights PATH or none."
        ) from None


def _block_ends(name: str, base: keras.Model, layer: str) -> list[str]:
    """The last layer of each block, in order, up to `layer`."""
    ends: dict[str, str] = {}
    for candidate in base.layers:
        match = re.fullmatch(BLOCK_ENDS[name], candidate.name)
        if match:
            ends[(match.lastindex and match[1]) or candidate.name] = candidate.name  # an addition comes after its projection
    names = list(ends.values())
    if not layer:
        return names
    if layer not in names:
        raise DataError(f"--backbone-layer is {layer!r}; {name} has the block ends {', '.join(names)}. Name one of them.")
    return names[: names.index(layer) + 1]


def _load_weights(whole: keras.Model, base: keras.Model, path: str) -> None:
    """The file may hold the weights up to the chosen layer, or of the complete network without its top."""
    if not Path(path).is_file():
        raise DataError(
            f"--backbone-weights is {path!r}; there is no such file. Pass imagenet, none or the path of a weights file."
        )
    problems = []
    for model in (whole, base):
        try:
            model.load_weights(path)
            return
        except Exception as error:  # h5py and Keras raise many kinds
            problems.append(str(error).strip().splitlines()[0])
    raise DataError(
        f"{path}: doesn't fit ({problems[0]}). Check --backbone, --alpha and --backbone-layer: the file must hold the network "
        "without its top, or all up to that layer."
    )


def _with_scaling(model: keras.Model, name: str) -> keras.Model:
    """Take pixels from 0 to 255; EfficientNet scales them itself."""
    if name == "efficientnet_b0":
        return model
    pixels = keras.Input(model.input_shape[1:], name="pixels")
    return keras.Model(pixels, model(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)), name=f"{model.name}_of_pixels")
