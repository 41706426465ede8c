"""Train a translator on pairs of sentences, measure it by beam search, and export it.

    python -m apps.translation.train --data folder/ --source-lang en --target-lang de

Read `train` from top to bottom: data, model, training, export, metrics, translations.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import keras

from apps.common import cli, runs
from apps.common.checkpoints import Checkpoint
from apps.common.evaluation import write_training_rows
from apps.common.export import load_export, new_version
from apps.common.losses import TokenLoss
from apps.common.metrics import bleu_tokenizer
from apps.common.model_card import write_card
from apps.common.validation import SearchValidation, constant_loss
from apps.common.workers import Workers, count_tokens
from apps.translation.evaluate import report
from apps.translation.export import DESCRIPTION, write
from apps.translation.model import Translator
from apps.translation.predict import explain, plot_attention
from apps.translation.presets import QUICK, SUTSKEVER
from apps.translation.serving import search_translations
from data_pipelines.batching import Batches, bucket_boundaries
from data_pipelines.sources import DataError
from data_pipelines.translations import Vocabularies, encode, load_translations, translation_batches

APPLICATION = "translation"


@dataclass(frozen=True)
class Config:
    data: Annotated[str, "embedded, tfds:NAME[/config], a .tsv/.csv file, or a folder with <split>.<lang>[.gz]"] = "embedded"
    source_lang: Annotated[str, "ending of the files, or name of the column, of the source"] = "en"
    target_lang: Annotated[str, "that of the target"] = "de"
    run_dir: Annotated[str | None, "folder of the run; default runs/translation/<time>"] = None
    resume: Annotated[bool, "continue the run in --run-dir, or the newest one"] = False
    export_dir: Annotated[str, "folder that gets the export as <version>/"] = f"saved_models/{APPLICATION}"
    preset: Annotated[Literal["base", "sutskever"], "flags given beside it win"] = "base"
    export: Annotated[bool, "let the server have the export; else it is measured only"] = True
    force_export: Annotated[bool, "export a model that is worse than a constant guess, too"] = False
    quick: Annotated[bool, "a small model and few epochs, to see that all works"] = False
    seed: Annotated[int, "decides initial weights, dropout and the order of the data", "[0, 4294967296)"] = 0
    precision: Annotated[Literal["float32", "mixed_bfloat16", "mixed_float16"], "of the computation"] = "float32"
    strategy: Annotated[Literal["none", "mirrored", "multiworker"], "workers: this one; a GPU each; those of TF_CONFIG"] = "none"
    workers: Annotated[int | None, "of mirrored; default: one for each GPU", "[1, inf)"] = None
    data_service: Annotated[str | None, "HOST:PORT of a tf.data service that prepares the batches"] = None
    # text
    tokenizer: Annotated[Literal["bpe", "unigram", "words", "characters"], "unit of the vocabularies"] = "bpe"
    vocabulary: Annotated[Literal["joint", "separate"], "one for both languages, or one each"] = "joint"
    vocabulary_size: Annotated[int, "tokens of each vocabulary", "[8, inf)"] = 6_000
    max_length: Annotated[int, "longer pairs are left out of training; longer sources are cut off in use", "[1, inf)"] = 80
    # model
    cell: Annotated[Literal["simple_rnn", "gated_rnn", "gru", "lstm"], "recurrent cell"] = "gru"
    units: Annotated[int, "size of encoder and decoder states", "[1, inf)"] = 320
    embedding_size: Annotated[int, "size of a token's vector", "[1, inf)"] = 256
    encoder: Annotated[
        Literal["recurrent", "forward", "self-attention"], "both directions; one, whose final states start the decoder; none"
    ] = "recurrent"
    encoder_layers: Annotated[int, "recurrent or attention layers", "[1, inf)"] = 1
    decoder_layers: Annotated[int, "recurrent or attention layers", "[1, inf)"] = 2
    attention: Annotated[Literal["additive", "dot", "none"], "of the decoder"] = "additive"
    input_feeding: Annotated[bool, "let the decoder read its last output, step by step"] = False
    reverse_source: Annotated[bool, "read the source backwards"] = False
    dropout: Annotated[float, "between layers", "[0, 1)"] = 0.4
    # training
    label_smoothing: Annotated[float, "probability spread over the vocabulary", "[0, 1)"] = 0.1
    scheduled_sampling: Annotated[float, "share of target tokens replaced by the model's own", "[0, 1]"] = 0.0
    sampled_softmax: Annotated[int, "compare with so many drawn tokens, not with the vocabulary; 0: exact", "[0, inf)"] = 0
    epochs: Annotated[int, "passes over the training split", "[1, inf)"] = 22
    max_tokens: Annotated[int, "of the longer side, padding counted", "[1, inf)"] = 1_536
    buckets: Annotated[int, "lengths that batches may have; each is compiled once", "[1, inf)"] = 6
    optimizer: Annotated[Literal["adam", "sgd"], "adam, or plain gradient descent"] = "adam"
    learning_rate: Annotated[float, "peak of the schedule: warm-up over 10%%, then cosine decay", "(0, inf)"] = 2e-3
    clip_norm: Annotated[float, "limit of the gradient's global norm", "(0, inf)"] = 1.0
    ema_momentum: Annotated[float, "momentum of the weights' moving average, which is what is kept; 0: none", "[0, 1)"] = 0.998
    monitor: Annotated[
        Literal["bleu", "chrf", "loss", "perplexity"],
        "chooses the epoch to keep; ties by loss",
    ] = "bleu"
    bleu_tokenize: Annotated[
        Literal["auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores200", "none"],
        "of sacreBLEU; auto: by the target language",
    ] = "auto"
    patience: Annotated[int, "epochs without a better one before stopping", "[1, inf)"] = 5
    # search
    split_sentences: Annotated[bool, "in the export: translate a text sentence by sentence"] = True
    validation_beam_size: Annotated[int, "in training; 1 is greedy search", "[1, inf)"] = 1
    beam_size: Annotated[int, "in the export", "[1, inf)"] = 5
    length_penalty: Annotated[float, "0: probability decides, which favours short sentences; 1: nearly its mean", "[0, inf)"] = (
        1.0
    )
    coverage_penalty: Annotated[float, "above 0: favour what attends to all of the source", "[0, inf)"] = 0.0
    no_repeat_ngram_size: Annotated[int, "never repeat so many tokens in a row; 0: allow it", "[0, inf)"] = 0


MODEL_FLAGS = (
    "embedding_size units cell encoder encoder_layers decoder_layers attention input_feeding reverse_source dropout "
    "scheduled_sampling sampled_softmax"
).split()


def main() -> None:
    train(cli.parse_config(Config, f"python -m apps.{APPLICATION}.train", preset))


def preset(config: Config) -> dict[str, Any]:
    return {**(QUICK if config.quick else {}), **(SUTSKEVER if config.preset == "sutskever" else {})}


def train(config: Config) -> dict[str, float | str]:
    """Train, export and evaluate; return the validation metrics of the export."""
    workers = Workers(config.strategy, config.workers, config.data_service)
    device = runs.prepare_device(config.seed, config.precision)

    if config.source_lang == config.target_lang:
        raise DataError(
            f"--source-lang and --target-lang are both {config.source_lang!r}. Name two columns or files of the data."
        )
    tokenizer = bleu_tokenizer(config.bleu_tokenize, config.target_lang)

    # -- data
    data = load_translations(config.data, config.source_lang, config.target_lang)
    folder = runs.open_run(APPLICATION, config, {"data": data.describe()}, workers)
    pairs, held_out = data.splits["train"], data.splits["validation"]
    vocabularies = Vocabularies.load(folder) or Vocabularies.learn(
        pairs, config.tokenizer, config.vocabulary_size, config.vocabulary == "joint"
    )
    vocabularies.save(folder)
    encoded, encoded_held_out = (encode(p, vocabularies, config.max_length) for p in (pairs, held_out))
    boundaries = bucket_boundaries(encoded.lengths, config.max_length, config.buckets, multiple=4)

    def batches(start_step: int) -> Batches:
        order: dict[str, Any] = {"shuffle_seed": config.seed, "start_step": start_step, "service": config.data_service}
        return translation_batches(encoded, max_tokens=config.max_tokens, boundaries=boundaries, **order)

    steps = batches(0).steps_per_epoch
    validation = translation_batches(encoded_held_out, max_tokens=4_096, boundaries=[*boundaries, config.max_length])

    # -- model
    model = Translator(
        vocabularies.source.size,
        vocabularies.target.size,
        joint=vocabularies.joint,
        **{name: getattr(config, name) for name in MODEL_FLAGS},
    )
    schedule = runs.warm_up_and_decay(config.learning_rate, config.epochs * steps)
    options = {"global_clipnorm": config.clip_norm, "use_ema": config.ema_momentum > 0, "ema_momentum": config.ema_momentum}
    if config.optimizer == "adam":
        optimizer = workers.optimizer(keras.optimizers.Adam)(schedule, beta_2=0.98, **options)
    else:
        optimizer = workers.optimizer(keras.optimizers.SGD)(schedule, **options)
    model.compile(optimizer, TokenLoss(config.label_smoothing), jit_compile=workers.jit_compile)
    model(next(iter(validation.dataset))[0])

    # -- training
    measure = search_translations(model, vocabularies, held_out, config.validation_beam_size, tokenizer)
    checkpoint = Checkpoint(folder / "checkpoints", f"val_{config.monitor}", config.patience)
    restored = checkpoint.restore(model, validation.dataset) if config.resume else None
    facts = _facts(config, data, encoded.left_out, vocabularies, model, device, folder)
    runs.announce({**facts, **workers.facts(config.max_tokens, "tokens")})
    start_step = workers.begin(model, checkpoint, restored)
    for first_step, arguments in checkpoint.parts(start_step, steps, config.epochs):
        model.fit(
            workers.shard(batches(first_step).dataset, count_tokens),
            shuffle=False,
            verbose=0,
            callbacks=workers.callbacks(
                SearchValidation(validation.dataset, measure),
                checkpoint,
                runs.Progress(folder, checkpoint, ["loss", "bleu", "chrf"]),
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
        checkpoint.refuse_worse_than({"val_loss": constant_loss(validation.dataset)})
    with new_version(Path(config.export_dir), config.export) as version:
        write(version.folder, folder, model)
        write_training_rows(version.folder, data.rows("train"))
        served = load_export(version.folder)
        metrics = report(served, data, folder, tokenizer)
        size = write_card(version.folder, folder, APPLICATION, DESCRIPTION)
    print("\n".join(explain(served, [pair.source for pair in held_out[:3]])))
    for n, pair in enumerate(held_out[:3], start=1):
        plot_attention(served, pair.source, folder / f"attention_{n}.png")
    print(f"\nrun     {folder}\nexport  {version}  {size}")
    return metrics["validation"]


def _facts(config, data, left_out, vocabularies, model, device, folder) -> dict[str, str]:
    size = f"{vocabularies.source.size:,}" + ("" if vocabularies.joint else f" and {vocabularies.target.size:,}")
    return {
        "device": f"{device}, {config.precision}",
        **data.summary(len(left_out), config.max_length),
        "languages": f"{config.source_lang} to {config.target_lang}",
        "vocabulary": f"{size} {config.tokenizer}, {config.vocabulary}",
        "parameters": f"{model.count_params():,}",
        "run": str(folder),
    }


if __name__ == "__main__":
    cli.run(main)
