"""Train a language model on text, measure it, and export it.

    python -m apps.language_model.train --data novels.txt

Read `train` from top to bottom: data, model, training, metrics, export, completions.
"""

from functools import partial

import keras

from apps.common import cli
from apps.common.cells import check_dropout
from apps.common.embeddings import check_embeddings, start_from_vectors
from apps.common.evaluation import write_training_rows
from apps.common.export.model_card import write_card
from apps.common.export.saved_model import load_export, new_version
from apps.common.language_model import LanguageModel
from apps.common.training import runs
from apps.common.training.checkpoints import Checkpoint
from apps.common.training.init_from import begin_with, init_facts, initial_run
from apps.common.training.losses import TokenLoss
from apps.common.training.sharding import count_tokens
from apps.common.training.validation import constant_loss
from apps.common.training.workers import Workers
from apps.language_model.config import APPLICATION, Config, ModelFlags, preset
from apps.language_model.evaluate import check_lengths, report
from apps.language_model.export import DESCRIPTION, write
from apps.language_model.predict import predictions
from apps.language_model.validation import StreamValidation
from data_pipelines.passages import encode_passages, load_passages
from data_pipelines.token_streams import MemoryText, token_streams, whole_streams
from data_pipelines.vocabulary import load_or_train, load_vocabulary, train_vocabulary


def main() -> None:
    config = cli.parse_config(Config, f"python -m apps.{APPLICATION}.train", preset)
    check_dropout(config)
    train(config)


def train(config: Config) -> dict[str, float]:
    """Train, evaluate and export; return the validation metrics of the export."""
    workers = Workers(config.strategy, config.workers)
    runs.prepare_device(config)
    check_embeddings(config)

    # -- data
    passages = load_passages(config.data, text_column=config.text_column)
    initial = initial_run(APPLICATION, config)
    if passages.prepared:
        passages.prepared.check_flags(config, initial)
    folder = runs.open_run(APPLICATION, config, {"data": passages.describe()}, workers)
    texts = passages.splits.get("train", [])
    begin_from = passages.prepared.folder if passages.prepared else initial
    vocabulary = load_or_train(
        folder,
        load_vocabulary,
        lambda: (
            load_vocabulary(begin_from)
            if begin_from
            else train_vocabulary(config.tokenizer, texts, config.vocabulary_size, config.min_count, has_bos_eos=True)
        ),
    )
    both = config.direction == "both"
    text = passages.prepared.text if passages.prepared else MemoryText(encode_passages(texts, vocabulary))
    streams = partial(
        token_streams,
        text,
        batch_size=config.batch_size,
        steps=config.bptt_steps,
        epochs=config.epochs,
        seed=config.seed,
        shuffle=config.shuffle,
        reverse=both,
    )
    encoded = {name: encode_passages(part, vocabulary) for name, part in passages.splits.items() if name != "train"}
    check_lengths(encoded)
    held_out = whole_streams(encoded["validation"], reverse=both)

    # -- model
    model = LanguageModel(vocabulary.size, batch_size=config.batch_size, **cli.flags_of(config, ModelFlags))
    model.build()
    begin_with(model, initial)
    optimizer = workers.optimizer(keras.optimizers.Adam)
    steps = config.epochs * streams().steps_per_epoch
    model.compile(optimizer(**runs.optimizer_options(config, steps)), TokenLoss(), jit_compile=workers.jit_compile)

    # -- training
    checkpoint = Checkpoint(folder / "checkpoints", "val_perplexity", config.patience)
    restored = checkpoint.restore(model, streams().dataset) if config.resume else None
    model.set_workers(workers)
    facts = {**passages.summary(), "vocabulary": f"{vocabulary.size:,} {config.tokenizer}"}
    facts |= init_facts(initial, text.unknown, config.embeddings)
    runs.log_summary(config, model, folder, facts | workers.summary(config.batch_size, "streams"))
    if config.embeddings and not initial and restored is None and workers.is_chief:
        start_from_vectors(config.embeddings, model.embedding, vocabulary)
    start_step = workers.broadcast_state(model, checkpoint, restored)
    runs.fit(
        model,
        streams,
        start_step,
        config.epochs,
        workers=workers,
        checkpoint=checkpoint,
        folder=folder,
        plot=["loss", "perplexity"],
        size=count_tokens,
        callbacks=[StreamValidation(held_out)],
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
        write_training_rows(version.folder, folder, passages.training_hashes())
        served = load_export(version.folder)
        metrics = report(served, passages, vocabulary, folder)
        size = write_card(version.folder, folder, APPLICATION, DESCRIPTION)
    print("\nCompletions:")
    prompts = ["", *(text[:30] for text in passages.splits["validation"][:2])]
    print("\n".join(prediction["text"] for prediction in predictions(served, prompts)))
    print(f"\nrun     {runs.finish(folder)}\nexport  {version}  {size}")
    return metrics["validation"]


if __name__ == "__main__":
    cli.run(main)
