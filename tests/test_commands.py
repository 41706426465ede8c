"""The commands of the documents: the real parsers take them all; those of the applications' READMEs run, on small data."""

import argparse
import gzip
import io
import json
import re
import runpy
import shlex
import subprocess
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from apps.music_generation.shared import kind_of_data
from data_pipelines.embedded.scenes import embedded_scenes
from data_pipelines.piano_rolls import midi_bytes
from tests.apps import helpers
from tests.test_readmes import DOCUMENTS, text_of

# A command ends at a redirection, a substitution or what encloses it. Where a flag is in brackets it stands for many commands.
COMMAND = re.compile(r"python -m ((?:apps|data_pipelines)\.[\w.]+)((?:\"[^\"\n]*\"|'[^'\n]*'|[^`#;)\n\"'$<>])*)(<\s*\S+)?")
RUN = [document for document in DOCUMENTS if document == "README.md" or re.match(r"apps/\w+/", document)]
PAIRS = "".join(f"A dog sees {n} cats.\\tEin Hund sieht {n} Katzen.\\n" for n in range(40))

SMALL = {
    "sentiment_classification": "--epochs 1 --units 8 --embedding-size 8",
    "translation": "--epochs 1 --units 8 --embedding-size 8 --vocabulary-size 80 --max-length 40",
    "image_captioning": "--quick --units 16 --embedding-size 16 --memory-size 16 --backbone small-cnn --image-size 32 "
    "--batch-size 16 --learning-rate 0.01",  # until a caption isn't empty, so that its attention can be plotted
    "tunes": "--epochs 1 --units 8 --num-layers 1 --num-samples 0 --max-length 80 --bptt-steps 16",
    "language_model": "--epochs 1 --units 8 --embedding-size 8 --num-layers 1 --max-length 20",
    "rolls": "--epochs 1 --units 8 --num-layers 1 --bptt-steps 16",
}


def commands(text):
    """(module, arguments, file of the standard input) of each command, in order; without arguments it is but named."""
    for module, rest, source in COMMAND.findall(text.replace("…", "")):
        if rest.strip() and "[--" not in rest:
            yield module, shlex.split(rest), source.strip("< ")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """What the documents call by these names, with little in it."""
    folder = tmp_path_factory.mktemp("data")
    reviews = [f"a {('good', 'bad')[n % 2]} film of {n} minutes\t{('positive', 'negative')[n % 2]}" for n in range(60)]
    table = "\n".join(["text\tlabel", *reviews]) + "\n"
    places = "sst2 imdb folder multi30k photographs/images holiday irish_abc midi rolls nottingham jsb_chorales texts imdb_texts"
    for name in places.split():
        (folder / name).mkdir(parents=True)
    (folder / "reviews.csv").write_text(table.replace("\t", ","))
    for name in ("train", "dev"):
        (folder / "sst2" / f"{name}.tsv").write_text(table)
    (folder / "imdb/train.tsv.gz").write_bytes(gzip.compress(table.encode()))
    (folder / "imdb/valid_rows.txt").write_text("\n".join(map(str, range(20))))
    (folder / "irish_abc/train.abc").write_text(helpers.some_tunes())
    (folder / "irish_abc/valid_tunes.txt").write_text("0\n1\n2\n3\n")
    for name in ("tunes", "more"):
        (folder / f"{name}.abc").write_text(helpers.some_tunes())
    rows = [row.split("\t") for row in reviews]
    (folder / "IMDB Dataset.csv").write_text("\n".join(["review,sentiment", *map(",".join, rows)]) + "\n")
    (folder / "tweets.jsonl").write_text("".join(json.dumps({"tweet": text, "mood": label}) + "\n" for text, label in rows))
    for name in ("new", "english"):
        (folder / f"{name}.csv").write_text("id,text\n1,A dog.\n2,A cat.\n")
    passages = "".join(f"{text} . it was {label} , they say .\n" for text, label in rows) * 3
    (folder / "novels.txt").write_text(passages)
    for name in ("texts", "imdb_texts"):
        for part in ("train", "valid"):
            (folder / name / f"{part}.txt").write_text(passages)
    (folder / "more.tsv").write_text("en\tde\n" + PAIRS.replace("\\t", "\t").replace("\\n", "\n"))
    sentences = [line.split("\\t") for line in PAIRS.split("\\n")[:-1]]
    for place in ("folder", "multi30k"):
        for part in ("train", "val", "test"):
            for language, lines in zip(("en", "de"), zip(*sentences)):
                (folder / place / f"{part}.{language}").write_text("\n".join(lines) + "\n")
    (folder / "sentences.txt").write_text("A dog.\nA cat.\n")
    rows = ["image\tcaption"]
    scenes = embedded_scenes()["train"][:120]
    for scene in scenes:
        (folder / "photographs/images" / scene.name).write_bytes(scene.png())
        rows += [f"{scene.name}\t{caption}" for caption in scene.captions]
    (folder / "photographs/captions.tsv").write_text("\n".join(rows) + "\n")
    for name in ("flickr8k", "more"):
        (folder / name).symlink_to("photographs")
    for picture in ("new.jpg", "holiday/beach.jpg"):
        Image.open(io.BytesIO(scenes[0].png())).convert("RGB").save(folder / picture)
    pieces = np.random.default_rng(0).integers(0, 2, (8, 24, 88)).astype("uint8")
    for n, piece in enumerate(pieces):
        (folder / f"midi/{n}.mid").write_bytes(midi_bytes(piece))
    for name in ("rolls", "nottingham", "jsb_chorales"):
        for part in ("train", "valid"):
            np.savez(folder / name / f"{part}.npz", frames=pieces.reshape(-1, 88), lengths=[24] * 8)
    return folder


class Parsed(Exception):
    """The arguments were taken."""


def parse_and_stop(parse):
    def stop(self, *arguments):
        raise Parsed(parse(self, *arguments))

    return stop


@pytest.mark.filterwarnings("ignore:'.*' found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_parsers_take_every_command(document, data, monkeypatch):
    monkeypatch.chdir(data)  # whether tunes or rolls, which have other flags, is seen from the data
    names = ("parse_args", "parse_intermixed_args")
    parse_only = {name: parse_and_stop(getattr(argparse.ArgumentParser, name)) for name in names}
    for module, arguments, _ in commands(text_of(document)):
        try:
            if module.endswith(".train"):
                if "--resume" in arguments:
                    arguments = [*arguments, "--no-resume"]  # there is no run yet
                helpers.parsed(module.split(".")[1], *arguments)
                continue
            with mock.patch("sys.argv", [module, *arguments]), mock.patch.multiple(argparse.ArgumentParser, **parse_only):
                runpy.run_module(module, run_name="__main__", alter_sys=False)
            raise AssertionError(f"{module} parses nothing")
        except Parsed:
            pass
        except SystemExit as error:
            raise AssertionError(f"{document}: python -m {module} {shlex.join(arguments)}") from error


def newest(folder, application, argument):
    """`runs/<application>/NAME`, or `RUN`, as the newest such run; other arguments as they are."""
    place = folder / "runs" / application if argument == "RUN" else folder / argument[:-5] if argument.endswith("/NAME") else None
    return argument if place is None else str(max(place.iterdir()))


@pytest.mark.parametrize("document", RUN)
def test_the_commands_run_one_after_the_other(document, data, tmp_path):
    for path in data.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for block in re.findall(r"(?:^(?: {4}.*)?\n)+", text_of(document), re.MULTILINE):
        for line in re.findall(r"^ {4}printf .*", block, re.MULTILINE):
            subprocess.run(["bash", "-ec", line.replace("…", PAIRS)], cwd=tmp_path, check=True)
        for module, arguments, source in commands(block):
            _, application, command = module.split(".")
            arguments = [newest(tmp_path, application, argument) for argument in arguments]
            if command == "train" and "--resume" not in arguments:
                kind = kind_of_data(tmp_path / arguments[arguments.index("--data") + 1]) if "--data" in arguments else ""
                small = SMALL[kind if application == "music_generation" else application]
                arguments += ["--epochs", "1"] if "--init-from" in arguments else small.split()
            text = (tmp_path / source).read_text() if source else ""
            result = helpers.command(application, command, *arguments, cwd=tmp_path, input=text)
            assert result.returncode == 0, f"{module} {shlex.join(arguments)}: {result.stderr[-2000:]}"


def test_commands_are_found_as_a_shell_finds_them():
    text = 'x `python -m apps.a.predict m "d|e, `` #" --n 3` y\n    A=1 python -m apps.a.train --data f/   # one, "or\n'
    text += "    python -m apps.a.predict m - < in.txt > out.txt\n    python -m apps.a.train [--data SOURCE]\n"
    assert list(commands(text)) == [
        ("apps.a.predict", ["m", "d|e, `` #", "--n", "3"], ""),
        ("apps.a.train", ["--data", "f/"], ""),
        ("apps.a.predict", ["m", "-"], "in.txt"),
    ]
