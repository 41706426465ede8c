"""Train a captioner on pictures with captions, measure it by beam search, and export it.

    python -m apps.image_captioning.train --data folder/

Read `train` from top to bottom: data, model, training, export, metrics, pictures.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import keras
import tensorflow as tf

from apps.common import cli, runs
from apps.common.checkpoints import Checkpoint
from apps.common.evaluation import write_training_rows
from apps.common.export import load_export, new_version
from apps.common.losses import TokenLoss
from apps.common.model_card import write_card
from apps.common.validation import SearchValidation, constant_loss
from apps.common.workers import Workers, count_tokens
from apps.image_captioning.encoders import image_encoder
from apps.image_captioning.evaluate import report
from apps.image_captioning.export import DESCRIPTION, write
from apps.image_captioning.model import Captioner
from apps.image_captioning.presets import QUICK, SCENES
from apps.image_captioning.serving import search_captions
from data_pipelines.batching import bucket_boundaries
from data_pipelines.captions import caption_batches, load_captions
from data_pipelines.image_store import store_images
from data_pipelines.sources import DataError
from data_pipelines.vocabulary import learn_vocabulary

APPLICATION = "image_captioning"


@dataclass(frozen=True)
class Config:
    data: Annotated[str, "embedded, tfds:NAME[/config], a table (image, caption), or a folder with tables and images"] = (
        "embedded"
    )
    run_dir: Annotated[str | None, "folder of the run; default runs/image_captioning/<time>"] = None
    resume: Annotated[bool, "continue the run in --run-dir, or the newest one"] = False
    export_dir: Annotated[str, "folder that gets the export as <version>/"] = f"saved_models/{APPLICATION}"
    export: Annotated[bool, "let the server have the export; else it is measured only"] = True
    force_export: Annotated[bool, "export a model that is worse than a constant guess, too"] = False
    quick: Annotated[bool, "a small model and few epochs, to see that all works"] = False
    seed: Annotated[int, "decides initial weights, dropout and the order of the data", "[0, 4294967296)"] = 0
    precision: Annotated[Literal["float32", "mixed_bfloat16", "mixed_float16"], "of the computation"] = "float32"
    strategy: Annotated[Literal["none", "mirrored", "multiworker"], "workers: this one; a GPU each; those of TF_CONFIG"] = "none"
    workers: Annotated[int | None, "of mirrored; default: one for each GPU", "[1, inf)"] = None
    data_service: Annotated[str | None, "HOST:PORT of a tf.data service that prepares the batches"] = None
    # pictures
    image_size: Annotated[int, "pictures become squares of so many pixels a side", "[1, inf)"] = 224
    max_pixels: Annotated[int, "pictures with more are left out, and refused by the export", "[1, inf)"] = 50_000_000
    strict: Annotated[bool, "stop if anything must be left out"] = False
    cache_dir: Annotated[str, "folder where decoded pictures and features are kept for the next run"] = "runs/image_store"
    augment: Annotated[bool, "shift pictures and change their brightness; where the whole encoder learns"] = False
    flip: Annotated[bool, "mirror every second picture; not where captions tell left from right"] = False
    # encoder
    backbone: Annotated[
        Literal["auto", "small-cnn", "mobilenet", "mobilenet_v2", "efficientnet_b0"],
        "auto: small-cnn for the embedded scenes, else mobilenet",
    ] = "auto"
    backbone_weights: Annotated[str, "imagenet, none, or the path of a weights file"] = "imagenet"
    backbone_layer: Annotated[str, "take the output of this block end; default: of the last one"] = ""
    alpha: Annotated[float, "width of the MobileNets", "(0, inf)"] = 1.0
    fine_tune_epochs: Annotated[int, "epochs, after the others, in which the last blocks train too", "[0, inf)"] = 0
    fine_tune_blocks: Annotated[int, "how many blocks", "[1, inf)"] = 2
    fine_tune_learning_rate: Annotated[float, "peak of the schedule of these epochs", "(0, inf)"] = 2e-4
    # text
    tokenizer: Annotated[Literal["words", "subwords"], "unit of the vocabulary"] = "words"
    vocabulary_size: Annotated[int, "tokens at most", "[8, inf)"] = 10_000
    min_count: Annotated[int, "rarer words are unknown, and never written", "[1, inf)"] = 4
    max_length: Annotated[int, "longer captions are cut in training; none longer is written", "[1, inf)"] = 30
    # decoder
    cell: Annotated[Literal["simple_rnn", "gated_rnn", "gru", "lstm"], "recurrent cell"] = "lstm"
    units: Annotated[int, "size of the decoder's states", "[1, inf)"] = 512
    embedding_size: Annotated[int, "size of a word's vector", "[1, inf)"] = 256
    memory_size: Annotated[int, "size of a region's vector", "[1, inf)"] = 512
    num_layers: Annotated[int, "recurrent layers", "[1, inf)"] = 2
    attention: Annotated[Literal["additive", "dot", "none"], "of the decoder"] = "additive"
    attention_penalty: Annotated[float, "doubly stochastic: every region should be attended to some time", "[0, inf)"] = 0.5
    dropout: Annotated[float, "between layers", "[0, 1)"] = 0.4
    word_dropout: Annotated[float, "share of the words read that training hides", "[0, 1)"] = 0.0
    # training
    label_smoothing: Annotated[float, "probability spread over the vocabulary", "[0, 1)"] = 0.1
    epochs: Annotated[int, "passes over the captions of the training split", "[1, inf)"] = 10
    batch_size: Annotated[int, "captions", "[1, inf)"] = 64
    buckets: Annotated[int, "lengths that batches may have; each is compiled once", "[1, inf)"] = 4
    learning_rate: Annotated[float, "peak of the schedule: warm-up over 10%%, then cosine decay", "(0, inf)"] = 2e-3
    clip_norm: Annotated[float, "limit of the gradient's global norm", "(0, inf)"] = 1.0
    ema_momentum: Annotated[float, "momentum of the weights' moving average, which is what is kept; 0: none", "[0, 1)"] = 0.998
    monitor: Annotated[
        Literal["cider", "bleu_4", "loss", "perplexity"],
        "chooses the epoch to keep; ties by loss",
    ] = "cider"
    patience: Annotated[int, "epochs without a better one before stopping", "[1, inf)"] = 4
    # search
    validation_beam_size: Annotated[int, "in training; 1 is greedy search", "[1, inf)"] = 1
    beam_size: Annotated[int, "in the export", "[1, inf)"] = 5
    length_penalty: Annotated[float, "0: probability decides, which favours short captions; 1: nearly its mean", "[0, inf)"] = 1.3
    no_repeat_ngram_size: Annotated[int, "never repeat so many words in a row; 0: allow it", "[0, inf)"] = 2


MODEL_FLAGS = "embedding_size units memory_size cell num_layers attention dropout word_dropout attention_penalty".split()


def main() -> None:
    config = cli.parse_config(Config, f"python -m apps.{APPLICATION}.train", preset)
    if config.backbone == "auto":
        config = dataclasses.replace(config, backbone="small-cnn" if config.data == "embedded" else "mobilenet")
    train(config)


def preset(config: Config) -> dict[str, Any]:
    return {**(SCENES if config.data == "embedded" else {}), **(QUICK if config.quick else {})}


def train(config: Config) -> dict[str, float]:
    """Train, export and evaluate; return the validation metrics of the export."""
    workers = Workers(config.strategy, config.workers, config.data_service)
    device = runs.prepare_device(config.seed, config.precision)

    # -- data
    data = load_captions(config.data)
    weights = (config.backbone_weights, config.alpha, config.backbone_layer)
    encoder = image_encoder(
        config.backbone, config.image_size, *weights, config.fine_tune_blocks if config.fine_tune_epochs else 0
    )
    options = {"size": config.image_size, "max_pixels": config.max_pixels}
    with workers.chief_first():
        store = store_images(
            data.images, Path(config.cache_dir), encoder.key, encoder.encode_image, **options, progress=runs.verbosity() == 1
        )
    data = data.without(store.problems)
    if config.strict and any(data.left_out.values()):
        raise DataError(f"--strict: {data.summary()['left out']}. Mend the images or the table, or leave the flag out.")
    folder = runs.open_run(APPLICATION, config, {"data": data.describe()}, workers)
    data.write_left_out(folder / "left_out.tsv")
    examples, held_out = data.splits["train"], data.splits["validation"]
    texts = [caption for example in examples for caption in example.captions]
    vocabulary = learn_vocabulary(config.tokenizer, texts, config.vocabulary_size, config.min_count, markers=True)
    vocabulary.save(folder)
    lengths = vocabulary.tokenize(tf.constant(texts)).row_lengths().numpy() + 1  # END
    boundaries = bucket_boundaries(lengths.tolist(), config.max_length, config.buckets, multiple=2)
    batches = partial(caption_batches, store=store, vocabulary=vocabulary, batch_size=config.batch_size, boundaries=boundaries)

    # -- model
    settings = {name: getattr(config, name) for name in MODEL_FLAGS}
    model = Captioner(vocabulary.size, store.shape, encoder.trainable_top, encoder.is_pretrained, **settings)
    model.build()
    model.share_rows(workers)
    facts = {"encoder": f"{config.backbone}, {model.grid[0]} x {model.grid[1]} regions"}
    facts |= {"vocabulary": f"{vocabulary.size:,} {config.tokenizer}", "parameters": f"{model.count_params():,}"}
    facts |= workers.facts(config.batch_size, "captions")
    runs.announce({"device": f"{device}, {config.precision}", **data.summary(), **facts, "run": str(folder)})

    # -- training
    score = search_captions(model, vocabulary, held_out, store, config.max_length, config.validation_beam_size)
    training = partial(batches, examples, augment=config.augment, flip=config.flip, service=config.data_service)
    steps = training(shuffle_seed=config.seed).steps_per_epoch
    phases = [("checkpoints", config.seed, config.epochs, config.learning_rate)]
    if config.fine_tune_epochs:
        phases.append(("fine_tuning", config.seed + 1, config.fine_tune_epochs, config.fine_tune_learning_rate))
    before = None
    for name, seed, epochs, learning_rate in phases:
        if encoder.is_pretrained and encoder.trainable_top:
            encoder.trainable_top.trainable = name == "fine_tuning"
        compile_model(model, config, learning_rate, epochs * steps, workers)
        checkpoint = Checkpoint(folder / name, f"val_{config.monitor}", config.patience)
        checkpoint.go_on_from(before)
        restored = checkpoint.restore(model, batches(held_out).dataset) if config.resume else None
        start_step = workers.begin(model, checkpoint, restored)
        for first_step, arguments in checkpoint.parts(start_step, steps, epochs):
            model.fit(
                workers.shard(training(shuffle_seed=seed, start_step=first_step).dataset, count_tokens),
                shuffle=False,
                verbose=0,
                callbacks=workers.callbacks(
                    SearchValidation(batches(held_out).dataset, score),
                    checkpoint,
                    runs.Progress(folder, checkpoint, ["loss", "cider"]),
                    keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
                ),
                **arguments,
            )
        checkpoint.restore_best()
        before = checkpoint
    if not workers.is_chief:
        return workers.wait_for_chief()
    model.save(folder / "model.keras")
    if encoder.frozen_backbone:
        encoder.frozen_backbone.save(folder / "frozen_backbone.keras")

    # -- export, and the metrics of what was exported
    if not config.force_export:
        checkpoint.refuse_worse_than({"val_loss": constant_loss(batches(held_out).dataset)})
    with new_version(Path(config.export_dir), config.export) as version:
        write(version.folder, folder, model)
        write_training_rows(version.folder, data.rows("train"))
        metrics = report(load_export(version.folder), config.data, data, folder)
        size = write_card(version.folder, folder, APPLICATION, DESCRIPTION)
    print(f"\nrun     {folder}\nexport  {version}  {size}")
    return metrics["validation"]


def compile_model(model: Captioner, config: Config, learning_rate: float, steps: int, workers: Workers) -> None:
    options = {"global_clipnorm": config.clip_norm, "use_ema": config.ema_momentum > 0, "ema_momentum": config.ema_momentum}
    optimizer = workers.optimizer(keras.optimizers.Adam)(runs.warm_up_and_decay(learning_rate, steps), **options)
    model.compile(optimizer, TokenLoss(config.label_smoothing), jit_compile=workers.jit_compile)


if __name__ == "__main__":
    cli.run(main)
