"""Train a captioner on pictures with captions, measure it by beam search, and export it.

    python -m apps.image_captioning.train --data folder/

Read `train` from top to bottom: data, model, training, export, metrics, pictures.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from apps.common import cli
from apps.common.embeddings import check_embeddings, start_from_vectors
from apps.common.evaluation import write_training_rows
from apps.common.export.model_card import write_card
from apps.common.export.saved_model import load_export, new_version
from apps.common.training import runs
from apps.common.training.init_from import begin_with, init_facts, initial_run
from apps.common.training.losses import TokenLoss, token_cross_entropy
from apps.common.training.phases import Phase, fit_phases, phases_to_train
from apps.common.training.progress import verbosity
from apps.common.training.validation import Validation, constant_loss, perplexity
from apps.common.training.workers import Workers
from apps.image_captioning.config import APPLICATION, Config, ModelFlags, preset
from apps.image_captioning.encoders import image_encoder, trainable_blocks
from apps.image_captioning.evaluate import report
from apps.image_captioning.export import DESCRIPTION, write
from apps.image_captioning.model import Captioner
from apps.image_captioning.sequence import sequence_reward, sequence_trainer
from apps.image_captioning.serving import search_captions
from data_pipelines.batching import Batches, bucket_boundaries
from data_pipelines.captions import caption_batches, load_captions
from data_pipelines.image_store import store_images
from data_pipelines.sources import DataError
from data_pipelines.vocabulary import load_or_train, load_vocabulary, train_vocabulary


def main() -> None:
    config = cli.parse_config(Config, f"python -m apps.{APPLICATION}.train", preset)
    if config.backbone == "auto":
        config = dataclasses.replace(config, backbone="small-cnn" if config.data == "embedded" else "mobilenet")
    train(config)


def train(config: Config) -> dict[str, float]:
    """Train, export and evaluate; return the validation metrics of the export."""
    workers = Workers(config.strategy, config.workers, config.data_service)
    runs.prepare_device(config)

    check_embeddings(config)
    phases = phases_to_train(
        [
            Phase("checkpoints", config.seed, config.epochs, config.learning_rate),
            Phase("fine_tuning", config.seed + 1, config.fine_tune_epochs, config.fine_tune_learning_rate),
            Phase("sequence", config.seed + 2, config.sequence_epochs, config.sequence_learning_rate),
        ],
        config.init_from,
    )

    # -- data
    initial = initial_run(APPLICATION, config)
    data = load_captions(config.data, columns=(config.image_column, config.caption_column))
    if data.prepared:
        data.prepared.check_flags(config, initial)
    weights = (config.backbone_weights, config.alpha, config.backbone_layer)
    blocks = trainable_blocks(config, initial)
    encoder = image_encoder(config.backbone, config.image_size, *weights, blocks)
    options: dict[str, Any] = {"size": config.image_size, "max_pixels": config.max_pixels, "prepared": data.prepared}
    with workers.chief_first():
        store = store_images(
            data.images, Path(config.cache_dir), encoder.key, encoder.encode_image, **options, progress=verbosity() == 1
        )
    data = data.without(store.problems)
    if config.strict and data.skipped:
        raise DataError(f"--strict: {data.summary()['skipped']}. Mend the images or the table, or leave the flag out.")
    examples, held_out = data.splits.get("train", []), data.splits["validation"]
    reward = sequence_reward(examples, config)
    folder = runs.open_run(APPLICATION, config, {"data": data.describe(), "trainable_blocks": blocks}, workers)
    data.write_skipped(folder / "skipped.tsv")
    texts = [caption for example in examples for caption in example.captions]
    sizes = (config.vocabulary_size, config.min_count)
    trained = partial(train_vocabulary, config.tokenizer, texts, *sizes, has_bos_eos=True)
    begin_from = data.prepared.folder if data.prepared else initial
    vocabulary = load_or_train(folder, load_vocabulary, partial(load_vocabulary, begin_from) if begin_from else trained)
    if data.prepared:
        counts, unknown = data.prepared.rows.counts(), data.prepared.manifest["unknown"]
    else:
        unknown = vocabulary.encode(tf.constant(texts))
        counts = np.bincount(unknown.row_lengths() + 1)  # EOS
    lengths = range(len(counts))
    boundaries = bucket_boundaries(lengths, config.max_length, config.buckets, multiple=2, counts=counts.tolist())
    batches = partial(caption_batches, store=store, vocabulary=vocabulary, batch_size=config.batch_size, boundaries=boundaries)

    # -- model
    flags = cli.flags_of(config, ModelFlags)
    model = Captioner(vocabulary.size, store.shape, encoder.trainable_top, encoder.is_pretrained, **flags)
    model.build()
    begin_with(model, initial, encoder.trainable_top.weights if encoder.is_pretrained and encoder.trainable_top else ())
    model.set_workers(workers)
    facts = {**data.summary(), "encoder": f"{config.backbone}, {model.grid[0]} x {model.grid[1]} regions"}
    facts |= {"vocabulary": f"{vocabulary.size:,} {config.tokenizer}", **init_facts(initial, unknown, config.embeddings)}
    facts |= workers.summary(config.batch_size, "captions")
    runs.log_summary(config, model, folder, facts)

    # -- training
    search = search_captions(model, vocabulary, held_out, store, config.max_length, config.validation_beam_size)
    measure = Validation(
        batches(held_out).dataset, token_cross_entropy, lambda loss: {"perplexity": perplexity(loss), **search()}
    )
    training = partial(batches, data.prepared or examples, augment=config.augment, flip=config.flip, service=config.data_service)
    steps = training(shuffle_seed=config.seed).steps_per_epoch

    def compiled(phase: Phase) -> tuple[keras.Model, Callable[..., Batches]]:
        if encoder.is_pretrained and encoder.trainable_top:
            encoder.trainable_top.trainable = phase.name == "fine_tuning"
        by_reward = phase.by_reward
        trainer = sequence_trainer(model, vocabulary, reward, phase.seed, config) if reward and by_reward else model
        options = runs.optimizer_options(dataclasses.replace(config, learning_rate=phase.learning_rate), phase.epochs * steps)
        optimizer = workers.optimizer(keras.optimizers.Adam)(**options)
        trainer.compile(optimizer, TokenLoss(config.label_smoothing), jit_compile=not by_reward and workers.jit_compile)
        return trainer, partial(training, shuffle_seed=phase.seed, numbered=by_reward)

    checkpoint = fit_phases(
        phases,
        compiled,
        partial(start_from_vectors, config.embeddings, model.embedding, vocabulary) if config.embeddings else None,
        config=config,
        initial=initial,
        measure=measure,
        validation=batches(held_out).dataset,
        workers=workers,
        folder=folder,
        plot=["loss", "cider"],
    )
    if not workers.is_chief:
        return workers.wait_for_chief()
    runs.save_model(model, folder / "model.keras")
    if encoder.frozen_backbone:
        runs.save_model(encoder.frozen_backbone, folder / "frozen_backbone.keras")

    # -- export, and the metrics of what was exported
    if not config.force_export:
        checkpoint.selection.refuse_worse_than({"val_loss": constant_loss(batches(held_out).dataset)})
    with new_version(config.export_dir, config.export) as version:
        write(version.folder, folder, model)
        write_training_rows(version.folder, folder, data.training_hashes())
        metrics = report(load_export(version.folder), config.data, data, folder)
        size = write_card(version.folder, folder, APPLICATION, DESCRIPTION)
    print(f"\nrun     {runs.finish(folder)}\nexport  {version}  {size}")
    return metrics["validation"]


if __name__ == "__main__":
    cli.run(main)
