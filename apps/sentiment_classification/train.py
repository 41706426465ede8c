"""Train a sentiment classifier on labelled texts, measure it, and export it.

    python -m apps.sentiment_classification.train --data reviews.csv

Read `main` from top to bottom: configuration, data, model, training, metrics, export, predictions.
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import keras

from apps.common import cli, runs
from apps.common.checkpoints import Checkpoint
from apps.common.evaluation import write_training_rows
from apps.common.export import load_export, new_version
from apps.common.model_card import write_card
from apps.common.workers import Workers
from apps.sentiment_classification.evaluate import report
from apps.sentiment_classification.export import DESCRIPTION, write
from apps.sentiment_classification.model import bag_of_words_classifier, recurrent_classifier
from apps.sentiment_classification.predict import explain
from apps.sentiment_classification.pretrain import pretrain
from data_pipelines.batching import Batches, bucket_boundaries
from data_pipelines.reviews import Review, Reviews, encode, load_reviews, load_texts, review_batches
from data_pipelines.vocabulary import learn_vocabulary, load_vocabulary

APPLICATION = "sentiment_classification"


@dataclass(frozen=True)
class Config:
    data: Annotated[str, "embedded, tfds:NAME[/config], or a .tsv/.csv file or folder with columns text and label"] = "embedded"
    validation_rows: Annotated[str | None, "file with the row numbers (0 = first) of the validation part"] = None
    run_dir: Annotated[str | None, "folder of the run; default runs/sentiment_classification/<time>"] = None
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
    baseline: Annotated[Literal["none", "bag-of-words"], "train the linear comparison instead"] = "none"
    # text
    tokenizer: Annotated[Literal["words", "subwords"], "unit of the vocabulary"] = "words"
    vocabulary_size: Annotated[int, "most frequent tokens of the training split", "[8, inf)"] = 30_000
    min_count: Annotated[int, "leave out rarer words", "[1, inf)"] = 2
    max_length: Annotated[int, "longer texts lose their middle", "[1, inf)"] = 400
    # model
    cell: Annotated[Literal["simple_rnn", "gated_rnn", "gru", "lstm"], "recurrent cell"] = "gru"
    units: Annotated[int, "size of the state, each direction", "[1, inf)"] = 96
    num_layers: Annotated[int, "bidirectional layers", "[1, inf)"] = 1
    embedding_size: Annotated[int, "size of a word vector", "[1, inf)"] = 128
    pooling: Annotated[Literal["attention", "last"], "how a sequence becomes one vector"] = "attention"
    dropout: Annotated[float, "between layers", "[0, 1)"] = 0.5
    embedding_dropout: Annotated[float, "share of the word vectors' channels", "[0, 1)"] = 0.3
    word_dropout: Annotated[float, "share of the words taken for unknown", "[0, 1)"] = 0.1
    # training
    pretrain_on: Annotated[str | None, "a .tsv/.csv file with a column text: first learn to predict its words"] = None
    pretrain_epochs: Annotated[int, "passes over these and the training texts", "[1, inf)"] = 1
    epochs: Annotated[int, "passes over the training split", "[1, inf)"] = 8
    batch_size: Annotated[int, "examples a step", "[1, inf)"] = 32
    learning_rate: Annotated[float, "peak of the schedule: warm-up over 10%%, then cosine decay", "(0, inf)"] = 1e-3
    clip_norm: Annotated[float, "limit of the gradient's global norm", "(0, inf)"] = 1.0
    monitor: Annotated[Literal["accuracy", "loss"], "chooses the epoch to keep; ties by loss"] = "accuracy"
    patience: Annotated[int, "epochs without a better one before stopping", "[1, inf)"] = 3


QUICK = {
    "units": 48,
    "embedding_size": 48,
    "epochs": 3,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "embedding_dropout": 0.1,
    "word_dropout": 0.1,
    "min_count": 1,
}


def main() -> None:
    train(cli.parse_config(Config, f"python -m apps.{APPLICATION}.train", lambda config: QUICK if config.quick else {}))


def train(config: Config) -> dict[str, float]:
    """Train, evaluate and export; return the validation metrics of the export."""
    workers = Workers(config.strategy, config.workers, config.data_service)
    device = runs.prepare_device(config.seed, config.precision)

    # -- data
    reviews = load_reviews(config.data, config.validation_rows)
    folder = runs.open_run(APPLICATION, config, {"data": reviews.describe(), "labels": reviews.labels}, workers)
    texts = [review.text for review in reviews.splits["train"]]
    if (folder / "vocabulary.json").exists():
        vocabulary = load_vocabulary(folder)
    else:
        vocabulary = learn_vocabulary(config.tokenizer, texts, config.vocabulary_size, config.min_count)
        vocabulary.save(folder)
    lengths = encode(texts, vocabulary, config.max_length).row_lengths().numpy().tolist()
    options: dict[str, Any] = {
        "max_length": config.max_length,
        "boundaries": bucket_boundaries([*lengths, config.max_length], config.max_length),
        "batch_size": config.batch_size,
    }
    validation = review_batches(reviews.splits["validation"], reviews.labels, vocabulary, **options)

    # -- model
    classes = len(reviews.labels)
    if config.baseline == "bag-of-words":
        model = bag_of_words_classifier(vocabulary.size, classes)
    else:
        names = ("cell", "units", "num_layers", "embedding_size", "pooling", "dropout", "embedding_dropout", "word_dropout")
        model = recurrent_classifier(vocabulary.size, classes, **{name: getattr(config, name) for name in names})
    trainer = keras.Model(model.input, model.output["logits"])

    def batches(start_step: int) -> Batches:
        order: dict[str, Any] = {"shuffle_seed": config.seed, "start_step": start_step, "service": config.data_service}
        return review_batches(reviews.splits["train"], reviews.labels, vocabulary, **options, **order)

    steps = batches(0).steps_per_epoch
    schedule = runs.warm_up_and_decay(config.learning_rate, config.epochs * steps)
    trainer.compile(
        optimizer=workers.optimizer(keras.optimizers.Adam)(schedule, global_clipnorm=config.clip_norm),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=workers.jit_compile,
    )

    # -- training
    checkpoint = Checkpoint(folder / "checkpoints", f"val_{config.monitor}", config.patience)
    restored = checkpoint.restore(trainer, validation.dataset) if config.resume else None
    facts = _facts(config, reviews, vocabulary.size, model, device, folder)
    runs.announce({**facts, **workers.facts(config.batch_size, "texts")})
    if config.pretrain_on and restored is None and workers.is_chief:
        unlabelled = [Review(text, reviews.labels[0]) for text in [*load_texts(config.pretrain_on), *texts]]
        language = review_batches(unlabelled, reviews.labels, vocabulary, **options, shuffle_seed=config.seed)
        print(f"pre-training on {len(unlabelled):,} texts")
        pretrain(model, language.dataset, config.pretrain_epochs * language.steps_per_epoch, clip_norm=config.clip_norm)
        checkpoint.begin(trainer)
    start_step = workers.begin(trainer, checkpoint, restored)
    for first_step, arguments in checkpoint.parts(start_step, steps, config.epochs):
        trainer.fit(
            workers.shard(batches(first_step).dataset),
            validation_data=validation.dataset if workers.is_chief else None,
            validation_steps=validation.steps_per_epoch if workers.is_chief else None,
            shuffle=False,
            verbose=0,
            callbacks=workers.callbacks(
                checkpoint,
                runs.Progress(folder, checkpoint, ["loss", "accuracy"]),
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
        checkpoint.refuse_worse_than(_constant_guess(reviews))
    with new_version(Path(config.export_dir), config.export) as version:
        write(version.folder, folder, model)
        write_training_rows(version.folder, reviews.rows("train"))
        served = load_export(version.folder)
        metrics = report(served, reviews, folder)
        size = write_card(version.folder, folder, APPLICATION, DESCRIPTION)
    print("\nThree validation texts:")
    print("\n".join(explain(served, [review.text for review in reviews.splits["validation"][:3]])))
    print(f"\nrun     {folder}\nexport  {version}  {size}")
    return metrics["validation"]


def _constant_guess(reviews: Reviews) -> dict[str, float]:
    """What the most frequent class, and the share of each class in the training split, reach on the validation split."""
    counts = Counter(review.label for review in reviews.splits["train"])
    labels = [review.label for review in reviews.splits["validation"]]
    loss = -sum(math.log(counts[label] / counts.total()) for label in labels) / len(labels)
    return {"val_accuracy": labels.count(counts.most_common(1)[0][0]) / len(labels), "val_loss": loss}


def _facts(config, reviews, vocabulary_size, model, device, folder) -> dict[str, str]:
    counts = ", ".join(f"{len(examples):,} {name}" for name, examples in reviews.splits.items())
    empty = ", ".join(f"{count:,} in {split}" for split, count in reviews.empty_texts.items() if count)
    return {
        "device": f"{device}, {config.precision}",
        "examples": f"{counts}; classes {', '.join(reviews.labels)}",
        **({"empty": f"texts: {empty}; kept, and predicted from no words"} if empty else {}),
        "vocabulary": f"{vocabulary_size:,} {config.tokenizer}",
        "parameters": f"{model.count_params():,}",
        "run": str(folder),
    }


if __name__ == "__main__":
    cli.run(main)
