"""Pictures of what a captioner does: what each word attended to, and its best and worst captions."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from apps.common.metrics import cider_scores
from apps.common.training.plots import new_figure, save_figure
from data_pipelines.captions import Example
from data_pipelines.sources import DataError


def open_image(data: bytes) -> Any:
    """A picture for drawing, upright and in RGB."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image.thumbnail((448, 448))
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def darkened(image: Any, weights: np.ndarray) -> np.ndarray:
    """A picture, darker where there is less attention.

    Args:
        image: of Pillow, (height, width).
        weights: (rows, columns), over the picture.

    Returns:
        (height, width, 3), bytes.
    """
    from PIL import Image

    light = np.asarray(Image.fromarray(weights.astype("float32")).resize(image.size, Image.Resampling.BICUBIC))
    light = (light - light.min()) / max(float(np.ptp(light)), 1e-9)
    return (np.asarray(image) * (0.15 + 0.85 * light[..., None])).astype("uint8")


def draw_attention(served: Any, data: bytes, path: Path) -> None:
    """The picture, and for each word of its caption what it attended to.

    Raises:
        DataError: the picture has no caption, or the model no attention.
    """
    outputs = served.signatures["serving_default"](image_bytes=tf.constant([data], tf.string))
    outputs = {name: value.numpy()[0] for name, value in outputs.items()}
    words = [word.decode("utf-8", "replace").replace("▁", " ") for word in outputs["words"] if word]
    if not words:
        raise DataError(f"attention: no caption to plot ({outputs['error'].decode() or 'it is empty'}). Give another image.")
    if "attention" not in outputs:
        raise DataError("attention: the model has none. Train one with --attention additive or dot.")
    image = open_image(data)
    columns = min(6, len(words) + 1)
    rows = -(-(len(words) + 1) // columns)
    figure, axes = new_figure(rows, columns, width=2.0, height=2.0 * image.height / image.width + 0.3)
    axes = np.atleast_1d(axes).ravel()
    for axis in axes:
        axis.axis("off")
    axes[0].imshow(image)
    caption = outputs["caption"].decode("utf-8", "replace")
    for axis, word, weights in zip(axes[1:], words, outputs["attention"]):
        axis.imshow(darkened(image, weights))
        axis.set_title(word, fontsize=10)
    figure.suptitle("\n".join(textwrap.wrap(caption, 30 * columns)), fontsize=11)
    save_figure(figure, path)


def contact_sheet(examples: Sequence[Example], captions: Sequence[str], path: Path, count: int = 8) -> None:
    """The captions with the highest and the lowest CIDEr, each under its picture with one reference."""
    scores = cider_scores(captions, [example.captions for example in examples])
    order = np.argsort(-scores, kind="stable")
    count = max(1, min(count, len(order) // 2))
    columns = min(4, count)
    rows = 2 * -(-count // columns)
    figure, axes = new_figure(rows, columns, width=2.8, height=3.9)
    axes = np.reshape(axes, (rows, columns))
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    halves = (("best", order[:count], axes[: rows // 2]), ("worst", order[::-1][:count], axes[rows // 2 :]))
    for title, places, part in halves:
        for axis, place in zip(part.ravel(), places):
            axis.imshow(open_image(examples[place].image.read()))
            text = textwrap.fill(captions[place] or "(no caption)", 34)
            reference = textwrap.fill(f"reference: {examples[place].captions[0]}", 40)
            axis.set_title(f"{title}, CIDEr {scores[place]:.2f}\n{text}", fontsize=8)
            axis.set_xlabel(reference, fontsize=7, color="dimgrey")
    save_figure(figure, path)
