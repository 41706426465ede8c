"""Train a language model of tunes: data, model, training, export, metrics, an example."""

import json
import math
from functools import partial
from pathlib import Path

import keras

from apps.common import runs
from apps.common.checkpoints import Checkpoint
from apps.common.evaluation import write_training_rows
from apps.common.export import load_export, new_version
from apps.common.losses import TokenLoss, token_cross_entropy
from apps.common.model_card import write_card
from apps.common.validation import constant_loss
from apps.common.workers import Workers, count_tokens
from apps.music_generation.config import TuneConfig
from apps.music_generation.shared import DESCRIPTION, report
from apps.music_generation.tunes.evaluate import evaluate
from apps.music_generation.tunes.export import write
from apps.music_generation.tunes.model import TuneModel
from apps.music_generation.tunes.predict import write_example
from apps.music_generation.tunes.serving import tune_headers
from apps.music_generation.validation import LikelihoodValidation
from data_pipelines.abc import Tune
from data_pipelines.tunes import TuneVocabulary, learn_tune_vocabulary, load_tunes, tune_streams, whole_tunes


def train(config: TuneConfig) -> dict[str, float]:
    """Train, export and evaluate; return the validation metrics of the export."""
    workers = Workers(config.strategy, config.workers)
    device = runs.prepare_device(config.seed, config.precision)

    # -- data
    tunes = load_tunes(config.data, config.validation_tunes)
    vocabulary = learn_tune_vocabulary(tunes.splits["train"], config.tokenizer, config.transpose_prob > 0)
    streams = partial(
        tune_streams,
        tunes.splits["train"],
        vocabulary,
        rows=config.batch_size,
        steps=config.bptt_steps,
        seed=config.seed,
        transposed=config.transpose_prob,
    )
    _, steps = streams(batches=1)
    held_out = whole_tunes(tunes.splits["validation"], vocabulary)

    # -- model
    model = TuneModel(vocabulary.size, config.embedding_size, **config.stack())
    model.build()
    folder = runs.open_run("music_generation", config, {"data": tunes.describe()}, workers)
    tunes.write_left_out(folder / "left_out.tsv")
    vocabulary.save(folder)
    (folder / "headers.json").write_text(json.dumps(tune_headers(tunes.splits["train"])))

    # -- training
    options = {"global_clipnorm": config.clip_norm, "use_ema": config.ema_momentum > 0, "ema_momentum": config.ema_momentum}
    schedule = runs.warm_up_and_decay(config.learning_rate, config.epochs * steps)
    optimizer = workers.optimizer(keras.optimizers.Adam)(schedule, **options)
    model.compile(optimizer, TokenLoss(), jit_compile=workers.jit_compile)
    scale = bits_per_character(tunes.splits["validation"], vocabulary)
    validation = LikelihoodValidation(held_out, token_cross_entropy, "bits_per_character", scale)
    checkpoint = Checkpoint(folder / "checkpoints", f"val_{validation.name}", config.patience)
    restored = checkpoint.restore(model, streams(batches=1)[0]) if config.resume else None
    model.set_workers(workers)
    facts = {"device": f"{device}, {config.precision}", **tunes.summary(), "parameters": f"{model.count_params():,}"}
    facts |= workers.facts(config.batch_size, "rows")
    runs.announce({**facts, "run": str(folder)})
    start_step = workers.begin(model, checkpoint, restored)
    for first_step, arguments in checkpoint.parts(start_step, steps, config.epochs):
        model.fit(
            workers.shard(streams(batches=config.epochs * steps, start_batch=first_step)[0], count_tokens),
            shuffle=False,
            verbose=0,
            callbacks=workers.callbacks(
                validation,
                checkpoint,
                runs.Progress(folder, checkpoint, ["loss", validation.name]),
                keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
            ),
            **arguments,
        )
    if not workers.is_chief:
        return workers.wait_for_chief()
    checkpoint.restore_best()
    model.save(folder / "model.keras")

    # -- export, and the metrics of what was exported
    if not config.force_export:
        checkpoint.refuse_worse_than({"val_loss": constant_loss(held_out)})
    with new_version(Path(config.export_dir), config.export) as version:
        write(version.folder, folder, model)
        write_training_rows(version.folder, tunes.rows("train"))
        served = load_export(version.folder)
        metrics = evaluate(
            served,
            tunes,
            [split for split in tunes.splits if split != "train"],
            num_samples=config.num_samples,
            max_new_tokens=config.max_length,
            temperature=config.temperature,
            top_p=config.top_p,
            seed=config.seed,
        )
        report(metrics, folder)
        size = write_card(version.folder, folder, "music_generation", DESCRIPTION)
    files = write_example(served, folder / "example")
    print(f"\nmusic   {', '.join(map(str, files))}\nrun     {folder}\nexport  {version}  {size}")
    return metrics["validation"]


def bits_per_character(tunes: list[Tune], vocabulary: TuneVocabulary) -> float:
    """How many bits per character one nat per token is, the end of each tune counted as a token and a character."""
    texts = [tune.text for tune in tunes]
    tokens = vocabulary.tokenize(texts).flat_values.shape[0] + len(texts)
    return tokens / (sum(map(len, texts)) + len(texts)) / math.log(2)
