"""Train a translator on pairs of sentences, measure it by beam search, and export it.

    python -m apps.translation.train --data folder/ --source-lang en --target-lang de

Read `train` from top to bottom: data, model, training, export, metrics, translations.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import keras

from apps.common import cli
from apps.common.embeddings import check_embeddings, start_from_vectors
from apps.common.evaluation import write_training_rows
from apps.common.export.model_card import write_card
from apps.common.export.saved_model import load_export, new_version
from apps.common.files import RUNS
from apps.common.metrics import bleu_tokenizer
from apps.common.training import runs
from apps.common.training.init_from import begin_with, init_facts, initial_run
from apps.common.training.losses import TokenLoss, token_cross_entropy
from apps.common.training.phases import Phase, fit_phases, phases_to_train
from apps.common.training.validation import Validation, constant_loss, perplexity
from apps.common.training.workers import Workers
from apps.translation.config import APPLICATION, CACHED, Config, ModelFlags, check_model_flags, preset
from apps.translation.evaluate import report
from apps.translation.export import DESCRIPTION, write
from apps.translation.model import Translator
from apps.translation.predict import explain, plot_attention
from apps.translation.sequence import check_sequence_flags, sequence_trainer
from apps.translation.serving import search_translations
from data_pipelines.batching import Batches, bucket_boundaries
from data_pipelines.cache import cache_folder, cached_files
from data_pipelines.sources import DataError
from data_pipelines.translations import Vocabularies, encode, load_translations, training_pairs, translation_batches
from data_pipelines.vocabulary import load_or_train


def main() -> None:
    train(cli.parse_config(Config, f"python -m apps.{APPLICATION}.train", preset))


def train(config: Config) -> dict[str, float | str]:
    """Train, export and evaluate; return the validation metrics of the export."""
    workers = Workers(config.strategy, config.workers, config.data_service)
    runs.prepare_device(config)
    bleu = bleu_tokenizer(config.bleu_tokenize, config.target_lang)

    check_embeddings(config)
    check_sequence_flags(config)
    phases = phases_to_train(
        [
            Phase("checkpoints", config.seed, config.epochs, config.learning_rate),
            Phase("sequence", config.seed + 1, config.sequence_epochs, config.sequence_learning_rate),
        ],
        config.init_from,
    )

    # -- data
    initial = initial_run(APPLICATION, config)
    check_model_flags(config)
    columns = (config.source_column, config.target_column)
    data = load_translations(config.data, config.source_lang, config.target_lang, columns=columns)
    if data.prepared:
        data.prepared.check_flags(config, initial)
    described = data.describe()
    folder = runs.open_run(APPLICATION, config, {"data": described}, workers)
    pairs, held_out = data.splits.get("train", []), data.splits["validation"]
    joint = config.vocabulary == "joint"
    key = {"data": described["train"]["sha256"], **{name: getattr(config, name) for name in CACHED}, **runs.versions()}
    cache = None if initial else cache_folder(RUNS / APPLICATION / ".cache", len(pairs), key)

    def train_vocabularies() -> Vocabularies:
        return Vocabularies.train(pairs, config.tokenizer, config.vocabulary_size, joint)

    def make_vocabularies() -> Vocabularies:
        if data.prepared:
            return Vocabularies.load(data.prepared.folder)
        if initial:
            return Vocabularies.load(initial).with_words_of(pairs)
        if cache:
            return cached_files(cache / "vocabulary.npz", lambda place: train_vocabularies().save(place), Vocabularies.load)
        return train_vocabularies()

    vocabularies = load_or_train(folder, Vocabularies.load, make_vocabularies)
    training = training_pairs(data, vocabularies, config.max_length, cache)
    lengths, counts = range(len(training.counts)), training.counts
    boundaries = bucket_boundaries(lengths, config.max_length, config.buckets, multiple=4, counts=counts)
    batches = partial(
        translation_batches,
        training.rows,
        max_tokens=config.max_tokens,
        boundaries=boundaries,
        service=config.data_service,
    )
    encoded_held_out = encode(held_out, vocabularies, config.max_length)
    if not encoded_held_out.lengths:
        raise DataError(f"validation: no pair has at most {config.max_length} tokens. Pass a larger --max-length, or other data.")
    validation = translation_batches(encoded_held_out, max_tokens=4_096, boundaries=[*boundaries, config.max_length]).dataset

    # -- model
    sizes = (vocabularies.source.size, vocabularies.target.size)
    model = Translator(*sizes, joint=vocabularies.joint, **cli.flags_of(config, ModelFlags))
    model(next(iter(validation))[0])
    begin_with(model, initial)

    # -- training
    search = search_translations(model, vocabularies, held_out, config.validation_beam_size, bleu)
    measure = Validation(validation, token_cross_entropy, lambda loss: {"perplexity": perplexity(loss), **search()})
    size = " and ".join(f"{size:,}" for size in (sizes[:1] if joint else sizes))
    facts = {**data.summary(), "languages": f"{config.source_lang} to {config.target_lang}"}
    facts |= {
        "vocabulary": f"{size} {config.tokenizer}, {config.vocabulary}",
        **init_facts(initial, training.unknown, config.embeddings),
    }
    too_long = {"training pair(s)": training.too_long, "validation pair(s)": len(encoded_held_out.skipped)}
    if any(too_long.values()):
        told = " and ".join(f"{count:,} {what}" for what, count in too_long.items() if count)
        facts["too long"] = f"{told} beyond {config.max_length} tokens, skipped"
    runs.log_summary(config, model, folder, facts | workers.summary(config.max_tokens, "tokens"))
    steps = batches(shuffle_seed=config.seed).steps_per_epoch

    def compiled(phase: Phase) -> tuple[keras.Model, Callable[..., Batches]]:
        by_reward = phase.by_reward
        trainer = sequence_trainer(model, vocabularies, training.targets(pairs), bleu, phase.seed, config) if by_reward else model
        options = runs.optimizer_options(dataclasses.replace(config, learning_rate=phase.learning_rate), phase.epochs * steps)
        if config.optimizer == "adam":
            optimizer = workers.optimizer(keras.optimizers.Adam)(beta_2=0.98, **options)
        else:
            optimizer = workers.optimizer(keras.optimizers.SGD)(**options)
        trainer.compile(optimizer, TokenLoss(config.label_smoothing), jit_compile=not by_reward and workers.jit_compile)
        return trainer, partial(batches, shuffle_seed=phase.seed, numbered=by_reward)

    checkpoint = fit_phases(
        phases,
        compiled,
        partial(start_from_vectors, config.embeddings, model.source_embedding, vocabularies.source)
        if config.embeddings
        else None,
        config=config,
        initial=initial,
        measure=measure,
        validation=validation,
        workers=workers,
        folder=folder,
        plot=["loss", "bleu", "chrf"],
    )
    if not workers.is_chief:
        return workers.wait_for_chief()
    runs.save_model(model, folder / "model.keras")

    # -- export, and the metrics of what was exported
    if not config.force_export:
        checkpoint.selection.refuse_worse_than({"val_loss": constant_loss(validation)})
    with new_version(config.export_dir, config.export) as version:
        write(version.folder, folder, model)
        write_training_rows(version.folder, folder, data.training_hashes())
        served = load_export(version.folder)
        metrics = report(served, data, folder, bleu)
        size = write_card(version.folder, folder, APPLICATION, DESCRIPTION)
    print("\n".join(explain(served, [pair.source for pair in held_out[:3]])))
    for n, pair in enumerate(held_out[:3], start=1):
        plot_attention(served, pair.source, folder / f"attention_{n}.png")
    print(f"\nrun     {runs.finish(folder)}\nexport  {version}  {size}")
    return metrics["validation"]


if __name__ == "__main__":
    cli.run(main)
