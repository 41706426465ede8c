"""Train a language model of tunes: data, model, training, export, metrics, an example."""

import json
import math
from functools import partial

import keras
import tensorflow as tf

from apps.common import cli
from apps.common.evaluation import write_training_rows
from apps.common.export.model_card import write_card
from apps.common.export.saved_model import load_export, new_version
from apps.common.training import runs
from apps.common.training.checkpoints import Checkpoint
from apps.common.training.init_from import begin_with, init_facts, initial_run
from apps.common.training.losses import TokenLoss, token_cross_entropy
from apps.common.training.sharding import count_tokens
from apps.common.training.validation import Validation, constant_loss
from apps.common.training.workers import Workers
from apps.music_generation.config import APPLICATION, StackFlags, TuneConfig
from apps.music_generation.shared import DESCRIPTION, report
from apps.music_generation.tunes.evaluate import evaluate
from apps.music_generation.tunes.export import write
from apps.music_generation.tunes.model import TuneModel
from apps.music_generation.tunes.predict import write_example
from apps.music_generation.tunes.serving import tune_headers
from data_pipelines.abc import Tune
from data_pipelines.files import write_whole
from data_pipelines.remote import mirror
from data_pipelines.tunes import TuneVocabulary, load_tunes, train_tune_vocabulary, tune_streams, whole_tunes


def train(config: TuneConfig) -> dict[str, float]:
    """Train, export and evaluate; return the validation metrics of the export."""
    workers = Workers(config.strategy, config.workers)
    runs.prepare_device(config)

    # -- data
    initial = initial_run(APPLICATION, config)
    tunes = load_tunes(config.data, config.validation_tunes)
    if config.init_from:  # a resumed run has kept its vocabulary
        vocabulary = TuneVocabulary.load(initial or mirror(config.run_dir or ""))
    else:
        vocabulary = train_tune_vocabulary(tunes.splits["train"], config.tokenizer, config.transpose_prob > 0)
    streams = partial(
        tune_streams,
        tunes.splits["train"],
        vocabulary,
        batch_size=config.batch_size,
        steps=config.bptt_steps,
        epochs=config.epochs,
        seed=config.seed,
        transpose_prob=config.transpose_prob,
    )
    held_out = whole_tunes(tunes.splits["validation"], vocabulary)

    # -- model
    stack = cli.flags_of(config, StackFlags)
    model = TuneModel(
        vocabulary.size,
        config.embedding_size,
        attention_length=config.attention_length,
        words=vocabulary.words,
        **stack,
    )
    model.build()
    begin_with(model, initial)
    folder = runs.open_run(APPLICATION, config, {"data": tunes.describe()}, workers)
    tunes.write_skipped(folder / "skipped.tsv")
    vocabulary.save(folder)
    write_whole(folder / "headers.json", json.dumps(tune_headers(tunes.splits["train"])))

    # -- training
    optimizer = workers.optimizer(keras.optimizers.Adam)
    steps = config.epochs * streams().steps_per_epoch
    model.compile(optimizer(**runs.optimizer_options(config, steps)), TokenLoss(), jit_compile=workers.jit_compile)
    scale = bits_per_character(tunes.splits["validation"], vocabulary)
    measure = Validation(held_out, token_cross_entropy, lambda nats: {"bits_per_character": scale * nats})
    checkpoint = Checkpoint(folder / "checkpoints", "val_bits_per_character", config.patience)
    restored = checkpoint.restore(model, streams().dataset) if config.resume else None
    model.set_workers(workers)
    texts = tf.constant([tune.text for tune in tunes.splits["train"]])
    facts = tunes.summary() | init_facts(initial, vocabulary.encode(texts))
    runs.log_summary(config, model, folder, facts | workers.summary(config.batch_size, "streams"))
    start_step = workers.broadcast_state(model, checkpoint, restored)
    runs.fit(
        model,
        streams,
        start_step,
        config.epochs,
        workers=workers,
        checkpoint=checkpoint,
        folder=folder,
        plot=["loss", "bits_per_character"],
        size=count_tokens,
        callbacks=[measure],
    )
    if not workers.is_chief:
        return workers.wait_for_chief()
    checkpoint.restore_best()
    runs.save_model(model, folder / "model.keras")

    # -- export, and the metrics of what was exported
    if not config.force_export:
        checkpoint.selection.refuse_worse_than({"val_loss": constant_loss(held_out)})
    with new_version(config.export_dir, config.export) as version:
        write(version.folder, folder, model)
        write_training_rows(version.folder, folder, tunes.training_hashes())
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
        size = write_card(version.folder, folder, APPLICATION, DESCRIPTION)
    files = write_example(served, folder / "example")
    print(f"\nmusic   {', '.join(map(str, files))}\nrun     {runs.finish(folder)}\nexport  {version}  {size}")
    return metrics["validation"]


def bits_per_character(tunes: list[Tune], vocabulary: TuneVocabulary) -> float:
    """How many bits per character one nat per token is, the end of each tune counted as a token and a character."""
    texts = [tune.text for tune in tunes]
    tokens = vocabulary.tokenize(texts).flat_values.shape[0] + len(texts)
    return tokens / (sum(map(len, texts)) + len(texts)) / math.log(2)
