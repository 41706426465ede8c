"""Describe pictures with an export.

python -m apps.image_captioning.predict saved_models/image_captioning photo.jpg folder/ [--json] [--attention out.png]
python -m apps.image_captioning.predict saved_models/image_captioning "holiday/*.jpg" --output captions.csv
"""

import argparse
import glob
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from apps.common import cli
from apps.common.export.saved_model import load_export
from apps.common.prediction import PLOTS, ROWS, add_output_flags, check_output, write_rows
from apps.image_captioning.evaluate import predict_batches
from apps.image_captioning.pictures import draw_attention
from data_pipelines.captions import SUFFIXES
from data_pipelines.image_store import ImageFile
from data_pipelines.sources import DataError


def find_images(inputs: Sequence[str]) -> list[ImageFile]:
    """The named files, all images of the named folders, and those that a pattern such as `a*/*.jpg` matches.

    Raises:
        DataError: there is no such file, or no image in a folder.
    """
    images: list[ImageFile] = []
    for name in inputs:
        path = Path(name)
        if path.is_file():
            images.append(ImageFile(name, name))
            continue
        is_folder = path.is_dir()
        paths = path.rglob("*") if is_folder else map(Path, glob.iglob(name, recursive=True))
        found = sorted(p for p in paths if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            if not is_folder and not glob.has_magic(name):
                raise DataError(f"{name}: no such file. Check the path.")
            raise DataError(f"{name}: no image there; expected {', '.join(SUFFIXES)}. Name the files.")
        images += [ImageFile(str(p), str(p)) for p in found]
    return images


def predictions(
    served: Any, images: Sequence[ImageFile | str | Path | bytes], n_best: int = 1, progress: bool = False
) -> list[dict[str, Any]]:
    """For each image, a file or its bytes, its `caption`, `score` and the `n_best` `alternatives`, best first; or an `error`."""
    files = [_image_file(image) for image in images]
    results: list[dict[str, Any]] = []
    for start, outputs in predict_batches(served, files, progress):
        for row, error in enumerate(outputs["error"]):
            name = files[start + row].name
            if error:
                results.append({"image": name, "error": error.decode().split(": ", 1)[1]})
                continue
            alternatives = [
                {"caption": text.decode("utf-8", "replace"), "score": round(float(score), 4)}
                for text, score in zip(outputs["alternatives"][row], outputs["alternative_scores"][row])
                if score > -1e8  # a search may find fewer than it was asked for
            ]
            results.append({"image": name, **alternatives[0], "alternatives": alternatives[:n_best]})
    return results


def _image_file(image: ImageFile | str | Path | bytes) -> ImageFile:
    if isinstance(image, ImageFile):
        return image
    return ImageFile("", data=image) if isinstance(image, bytes) else ImageFile(str(image), str(image))


def captioned(served: Any, images: Sequence[ImageFile]) -> Iterator[dict[str, Any]]:
    """The rows of a table of captions: `image`, `caption`, `score` and `error`."""
    for start in range(0, len(images), ROWS):
        for result in predictions(served, images[start : start + ROWS], progress=sys.stderr.isatty()):
            yield {name: result.get(name, "") for name in ("image", "caption", "score", "error")}


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.image_captioning.predict", allow_abbrev=False)
    parser.add_argument("export", help="a version folder, or the folder above it for the newest version")
    parser.add_argument("input", nargs="+", help="images, folders of images, or patterns; '-' reads names from standard input")
    parser.add_argument("--n-best", type=int, default=1, help="captions an image, at most the beam size of the export")
    parser.add_argument(
        "--attention", type=Path, help="plot the attention of each word over the first image with a caption to this .png"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    add_output_flags(parser, "captions")
    arguments = parser.parse_intermixed_args()
    if arguments.n_best < 1:
        raise DataError(f"--n-best is {arguments.n_best}; expected 1 or more.")
    if arguments.output:
        check_output("--output", arguments.output, arguments.overwrite)
    if arguments.attention:
        check_output("--attention", arguments.attention, overwrite=True, formats=PLOTS)
    images = find_images(cli.read_inputs(arguments.input))
    served = load_export(arguments.export, "image_captioning")
    if arguments.output:
        print(f"{write_rows(arguments.output, captioned(served, images)):,} images  {arguments.output}")
        return
    results = predictions(served, images, arguments.n_best, progress=sys.stderr.isatty() and len(images) > 32)
    for result in results:
        if arguments.json:
            print(json.dumps(result, ensure_ascii=False))
        elif "error" in result:
            print(f"{result['image']}  error: {result['error']}")
        else:
            print("\n".join(f"{result['image']}  {a['caption']}  ({a['score']:.2f})" for a in result["alternatives"]))
    if arguments.attention and results:
        first = next((i for i, result in enumerate(results) if "error" not in result), 0)
        draw_attention(served, images[first].read(), arguments.attention)


if __name__ == "__main__":
    cli.run(main)
