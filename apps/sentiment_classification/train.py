"""Train a sentiment classifier on labelled texts, measure it, and export it.

    python -m apps.sentiment_classification.train --data reviews.csv

Read `train` from top to bottom: data, model, training, metrics, export, predictions.
"""

from functools import partial
from typing import Any

import keras

from apps.common import cli
from apps.common.embeddings import check_embeddings, start_from_vectors
from apps.common.evaluation import write_training_rows
from apps.common.export.model_card import write_card
from apps.common.export.saved_model import load_export, new_version
from apps.common.training import runs
from apps.common.training.checkpoints import Checkpoint
from apps.common.training.losses import BalancedCrossEntropy
from apps.common.training.validation import constant_class
from apps.common.training.workers import Workers
from apps.sentiment_classification.config import APPLICATION, Config, ModelFlags, preset
from apps.sentiment_classification.evaluate import report
from apps.sentiment_classification.export import DESCRIPTION, write
from apps.sentiment_classification.finetune import (
    VirtualAdversary,
    by_level,
    check_flags,
    check_prepared,
    start_from_language_model,
)
from apps.sentiment_classification.model import bag_of_words_classifier, recurrent_classifier
from apps.sentiment_classification.predict import explain
from data_pipelines.batching import bucket_boundaries
from data_pipelines.remote import mirror
from data_pipelines.reviews import encode, encode_reviews, load_reviews, review_batches, training_reviews
from data_pipelines.sources import DataError
from data_pipelines.vocabulary import load_or_train, load_vocabulary, train_vocabulary


def main() -> None:
    train(cli.parse_config(Config, f"python -m apps.{APPLICATION}.train", preset))


def train(config: Config) -> dict[str, float]:
    """Train, evaluate and export; return the validation metrics of the export."""
    workers = Workers(config.strategy, config.workers, config.data_service)
    runs.prepare_device(config)

    check_embeddings(config)
    if config.embeddings and config.baseline != "none":
        raise DataError("--embeddings: the bag of words has no word vectors. Leave out --embeddings, or --baseline.")
    check_flags(config)

    # -- data
    columns = (config.text_column, config.label_column)
    reviews = load_reviews(config.data, config.validation_rows, columns=columns)
    if reviews.prepared:
        check_prepared(config, reviews.prepared)
    folder = runs.open_run(APPLICATION, config, {"data": reviews.describe(), "labels": reviews.labels}, workers)
    texts = [review.text for review in reviews.splits.get("train", [])]
    begin_from = reviews.prepared.folder if reviews.prepared else config.init_from and mirror(config.init_from)
    vocabulary = load_or_train(
        folder,
        load_vocabulary,
        lambda: (
            load_vocabulary(begin_from)
            if begin_from
            else train_vocabulary(config.tokenizer, texts, config.vocabulary_size, config.min_count)
        ),
    )
    training = training_reviews(reviews, vocabulary, config.max_length)
    lengths, counts = [*range(len(training.counts)), config.max_length], [*training.counts, 1]
    options: dict[str, Any] = {
        "boundaries": bucket_boundaries(lengths, config.max_length, counts=counts),
        "batch_size": config.batch_size,
    }
    order: dict[str, Any] = {"shuffle_seed": config.seed, "service": config.data_service}
    batches = partial(review_batches, training.rows, **options, **order)
    held_out = encode_reviews(reviews.splits["validation"], reviews.labels, vocabulary, config.max_length)
    validation = review_batches(held_out, **options)

    # -- model
    classes, kind = len(reviews.labels), keras.optimizers.Adam
    steps_per_epoch = batches().steps_per_epoch
    if config.baseline == "bag-of-words":
        model = bag_of_words_classifier(vocabulary.size, classes)
    elif config.init_from:
        model = start_from_language_model(config, folder, texts, vocabulary, classes)
        kind = by_level(kind, model, config.level_decay, round(config.unfreeze_epochs * steps_per_epoch))
    else:
        model = recurrent_classifier(vocabulary.size, classes, **cli.flags_of(config, ModelFlags))
    if config.virtual_adversary:
        trainer = VirtualAdversary(model, encode(texts, vocabulary, config.max_length), config.virtual_adversary)
    else:
        trainer = keras.Model(model.input, model.output["logits"])
    trainer.compile(
        optimizer=workers.optimizer(kind)(**runs.optimizer_options(config, config.epochs * steps_per_epoch)),
        loss=BalancedCrossEntropy(reviews.label_counts("train"))
        if config.balance
        else keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=workers.jit_compile,
    )

    # -- training
    checkpoint = Checkpoint(folder / "checkpoints", f"val_{config.monitor}", config.patience)
    restored = checkpoint.restore(trainer, validation.dataset) if config.resume else None
    facts = {**reviews.summary(), "vocabulary": f"{vocabulary.size:,} {vocabulary.kind}"}
    runs.log_summary(config, model, folder, facts | workers.summary(config.batch_size, "texts"))
    if config.embeddings and restored is None and workers.is_chief:
        start_from_vectors(config.embeddings, model.get_layer("embedding"), vocabulary)
    start_step = workers.broadcast_state(trainer, checkpoint, restored)
    measured = {"validation_data": validation.dataset, "validation_steps": validation.steps_per_epoch}
    runs.fit(
        trainer,
        batches,
        start_step,
        config.epochs,
        workers=workers,
        checkpoint=checkpoint,
        folder=folder,
        plot=["loss", "accuracy"],
        **(measured if workers.is_chief else {}),
    )
    if not workers.is_chief:
        return workers.wait_for_chief()
    checkpoint.restore_best()
    runs.save_model(model, folder / "model.keras")

    # -- export, and the metrics of what was exported
    if not config.force_export:
        shares = constant_class(reviews.label_counts("train"), reviews.label_counts("validation"), config.balance)
        checkpoint.selection.refuse_worse_than(shares)
    with new_version(config.export_dir, config.export) as version:
        write(version.folder, folder, model)
        write_training_rows(version.folder, folder, reviews.training_hashes())
        served = load_export(version.folder)
        metrics = report(served, reviews, folder)
        size = write_card(version.folder, folder, APPLICATION, DESCRIPTION)
    print("\nThree validation texts:")
    print("\n".join(explain(served, [review.text for review in reviews.splits["validation"][:3]])))
    print(f"\nrun     {runs.finish(folder)}\nexport  {version}  {size}")
    return metrics["validation"]


if __name__ == "__main__":
    cli.run(main)
