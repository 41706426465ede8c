"""Train a language model on tunes, or a model of piano rolls, measure it, and export it.

    python -m apps.music_generation.train --data tunes.abc

Read `train` from top to bottom: data, model, training, export, metrics, music.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import keras

from apps.common import cli
from apps.common.evaluation import write_training_rows
from apps.common.export import load_export, new_version
from apps.common.losses import TokenLoss, token_cross_entropy
from apps.common.model_card import write_card
from apps.common.training import runs
from apps.common.training.checkpoints import Checkpoint
from apps.common.training.progress import Progress
from apps.common.training.sharding import count_tokens
from apps.common.training.validation import constant_loss
from apps.common.training.workers import Workers
from apps.music_generation.evaluate import report
from apps.music_generation.export import DESCRIPTION, write
from apps.music_generation.likelihood import FrameLoss, LikelihoodValidation, constant_frame_loss, count_frames, frame_nats
from apps.music_generation.model import RollModel, TuneModel
from apps.music_generation.predict import write_example
from apps.music_generation.presets import QUICK, ROLLS
from apps.music_generation.tune_serving import tune_headers
from data_pipelines.files import write_whole
from data_pipelines.piano_rolls import load_rolls, roll_streams, whole_rolls
from data_pipelines.sources import DataError
from data_pipelines.tunes import load_tunes, train_tune_vocabulary, tune_streams, whole_tunes

APPLICATION = "music_generation"


@dataclass(frozen=True)
class Config:
    data: Annotated[str, "embedded, an .abc file, .mid files, a folder of them, or one with train.npz"] = "embedded"
    music: Annotated[Literal["auto", "tunes", "rolls"], "tunes in ABC, or piano rolls; auto: what the files are"] = "auto"
    run_dir: Annotated[str | None, "folder of the run; default runs/music_generation/<time>"] = None
    resume: Annotated[bool, "continue the run in --run-dir, or the newest one"] = False
    export_dir: Annotated[str, "folder that gets the export as <version>/"] = f"saved_models/{APPLICATION}"
    export: Annotated[bool, "let the server have the export; else it is measured only"] = True
    force_export: Annotated[bool, "export a model that is worse than a constant guess, too"] = False
    quick: Annotated[bool, "a small model and few epochs, to see that all works"] = False
    seed: Annotated[int, "decides initial weights, dropout and the order of the data", "[0, 4294967296)"] = 0
    precision: Annotated[Literal["float32", "mixed_bfloat16", "mixed_float16"], "of the computation"] = "float32"
    strategy: Annotated[Literal["none", "mirrored", "multiworker"], "workers: this one; a GPU each; those of TF_CONFIG"] = "none"
    workers: Annotated[int | None, "of mirrored; default: one for each GPU", "[1, inf)"] = None
    # data
    validation_tunes: Annotated[str | None, "file with the places of the tunes for validation, 0 the first"] = None
    tokenizer: Annotated[Literal["characters", "musical"], "musical: a pitch, a duration, a bar line or a field is one"] = (
        "characters"
    )
    transpose_prob: Annotated[float, "share of the tunes or pieces that each epoch moves to another key", "[0, 1]"] = 0.5
    frame_beats: Annotated[float, "of MIDI files: how long a frame is, in quarter notes", "(0, inf)"] = 0.25
    # model
    cell: Annotated[Literal["simple_rnn", "gated_rnn", "gru", "lstm"], "recurrent cell"] = "lstm"
    irnn: Annotated[bool, "simple_rnn with ReLU, its recurrent weights the identity at first"] = False
    units: Annotated[int, "size of the states", "[1, inf)"] = 512
    num_layers: Annotated[int, "recurrent layers", "[1, inf)"] = 2
    embedding_size: Annotated[int, "size of a token's vector", "[1, inf)"] = 64
    frame: Annotated[Literal["nade", "independent"], "the keys of a frame: one by one, or apart"] = "nade"
    hidden: Annotated[int, "of the keys one by one", "[1, inf)"] = 64
    dropout: Annotated[float, "between layers", "[0, 1)"] = 0.5
    recurrent_dropout: Annotated[float, "of the states", "[0, 1)"] = 0.0
    # training
    epochs: Annotated[int, "passes over the training split", "[1, inf)"] = 40
    batch_size: Annotated[int, "streams side by side", "[1, inf)"] = 32
    bptt_steps: Annotated[int, "steps that a gradient flows back; the state goes on", "[1, inf)"] = 64
    learning_rate: Annotated[float, "peak of the schedule: warm-up over 10%%, then cosine decay", "(0, inf)"] = 3e-3
    clip_norm: Annotated[float, "limit of the gradient's global norm", "(0, inf)"] = 1.0
    ema_momentum: Annotated[float, "momentum of the weights' moving average, which is what is kept; 0: none", "[0, 1)"] = 0.99
    patience: Annotated[int, "epochs without a better one before stopping", "[1, inf)"] = 12
    # generation
    num_samples: Annotated[int, "tunes drawn after training to measure what is written; 0: none", "[0, inf)"] = 200
    temperature: Annotated[float, "of these", "(0, inf)"] = 0.8
    top_p: Annotated[float, "of these", "(0, 1]"] = 0.95
    top_k: Annotated[int, "of the export; 0: all tokens", "[0, inf)"] = 0
    max_length: Annotated[int, "of a tune or piece that is written", "[1, inf)"] = 800


STACK_FLAGS = "batch_size units num_layers cell dropout recurrent_dropout irnn".split()


def main() -> None:
    config = cli.parse_config(Config, f"python -m apps.{APPLICATION}.train", preset)
    config = dataclasses.replace(config, music=what_music(config))
    if config.irnn and config.cell != "simple_rnn":
        raise DataError(f"--irnn is for --cell simple_rnn; the cell is {config.cell}. Pass that cell, or leave --irnn out.")
    train(config)


def preset(config: Config) -> dict[str, Any]:
    return {**(ROLLS if what_music(config) == "rolls" else {}), **(QUICK if config.quick else {})}


def what_music(config: Config) -> Literal["tunes", "rolls"]:
    """What --music says; auto: rolls where there are MIDI files or arrays, else tunes."""
    if config.music != "auto":
        return config.music
    path = Path(config.data)
    files = [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
    return "rolls" if any(file.suffix.lower() in (".mid", ".midi", ".npz") for file in files) else "tunes"


def train(config: Config) -> dict[str, float]:
    """Train, export and evaluate; return the validation metrics of the export."""
    workers = Workers(config.strategy, config.workers)
    device = runs.prepare_device(config.seed, config.precision)
    stack = {name: getattr(config, name) for name in STACK_FLAGS}
    order: dict[str, Any] = {
        "batch_size": config.batch_size,
        "steps": config.bptt_steps,
        "seed": config.seed,
        "transpose_prob": config.transpose_prob,
    }

    # -- data and model
    music: Any
    model: Any
    if config.music == "tunes":
        music = load_tunes(config.data, config.validation_tunes)
        vocabulary = train_tune_vocabulary(music.splits["train"], config.tokenizer, config.transpose_prob > 0)
        streams = partial(tune_streams, music.splits["train"], vocabulary, **order)
        held_out = whole_tunes(music.splits["validation"], vocabulary)
        model = TuneModel(vocabulary.size, config.embedding_size, **stack)
        loss: keras.losses.Loss = TokenLoss()
        count = count_tokens
        texts = [tune.text for tune in music.splits["validation"]]
        tokens = vocabulary.tokenize(texts).flat_values.shape[0] + len(texts)
        bits = tokens / (sum(map(len, texts)) + len(texts)) / math.log(2)
        validation = LikelihoodValidation(held_out, token_cross_entropy, "bits_per_character", bits)
    else:
        music = load_rolls(config.data, config.frame_beats)
        streams = partial(roll_streams, music.splits["train"], **order)
        held_out = whole_rolls(music.splits["validation"])
        model = RollModel(frame=config.frame, hidden=config.hidden, **stack)
        loss, count = FrameLoss(), count_frames
        validation = LikelihoodValidation(held_out, frame_nats, "nats_per_frame", 1.0)
    model.build()
    folder = runs.open_run(APPLICATION, config, {"data": music.describe()}, workers)
    music.write_skipped(folder / "skipped.tsv")
    if config.music == "tunes":
        vocabulary.save(folder)
        write_whole(folder / "headers.json", json.dumps(tune_headers(music.splits["train"])))

    # -- training
    _, steps = streams(batches=1)
    options = {"global_clipnorm": config.clip_norm, "use_ema": config.ema_momentum > 0, "ema_momentum": config.ema_momentum}
    schedule = runs.warm_up_and_decay(config.learning_rate, config.epochs * steps)
    model.compile(workers.optimizer(keras.optimizers.Adam)(schedule, **options), loss, jit_compile=workers.jit_compile)
    checkpoint = Checkpoint(folder / "checkpoints", f"val_{validation.name}", config.patience)
    restored = checkpoint.restore(model, streams(batches=1)[0]) if config.resume else None
    model.share_rows(workers)
    facts = {"device": f"{device}, {config.precision}", **music.summary(), "parameters": f"{model.count_params():,}"}
    facts |= workers.facts(config.batch_size, "rows")
    runs.log_summary({**facts, "run": str(folder)})
    start_step = workers.broadcast_state(model, checkpoint, restored)
    for first_step, arguments in checkpoint.parts(start_step, steps, config.epochs):
        model.fit(
            workers.shard(streams(batches=config.epochs * steps, start_batch=first_step)[0], count),
            shuffle=False,
            verbose=0,
            callbacks=workers.callbacks(
                validation,
                checkpoint,
                Progress(folder, checkpoint, ["loss", validation.name]),
                keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
            ),
            **arguments,
        )
    if not workers.is_chief:
        return workers.wait_for_chief()
    checkpoint.restore_best()
    runs.save_model(model, folder / "model.keras")

    # -- export, and the metrics of what was exported
    drawing = {name: getattr(config, name) for name in ("num_samples", "temperature", "top_p", "seed")}
    if not config.force_export:
        constant = constant_loss if config.music == "tunes" else constant_frame_loss
        checkpoint.selection.refuse_worse_than({"val_loss": constant(held_out)})
    with new_version(Path(config.export_dir), config.export) as version:
        write(version.folder, folder, model)
        write_training_rows(version.folder, music.rows("train"))
        served = load_export(version.folder)
        metrics = report(served, music, folder, length=config.max_length, **drawing)
        size = write_card(version.folder, folder, APPLICATION, DESCRIPTION)
    files = write_example(served, music, folder / "example", config.frame_beats)
    print(f"\nmusic   {', '.join(map(str, files))}\nrun     {folder}\nexport  {version}  {size}")
    return metrics["validation"]


if __name__ == "__main__":
    cli.run(main)
