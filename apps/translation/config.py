"""Flags of `apps.translation.train`, and presets of them."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from apps.common import config as shared
from apps.common.config import FitFlags, RunFlags, SearchFlags, SequenceFlags, Size
from data_pipelines.sources import DataError

APPLICATION = "translation"
HEADS = 4  # of self-attention
CACHED = ("tokenizer", "vocabulary", "vocabulary_size", "max_length")  # the flags that ids depend on


@dataclass(frozen=True)
class DataFlags:
    """data"""

    data: Annotated[
        str, "embedded, tfds:NAME[/config], a table (.tsv, .csv, .jsonl, .parquet), or a folder with <split>.<lang>[.gz]"
    ] = "embedded"
    source_lang: Annotated[str, "ending of the files, or name of the column, of the source"] = "en"
    target_lang: Annotated[str, "that of the target"] = "de"
    source_column: Annotated[str | None, "name of the column where it is another; its number if there is no header"] = None
    target_column: Annotated[str | None, "that of the target"] = None
    tokenizer: Annotated[Literal["bpe", "unigram", "words", "characters"], "unit of the vocabularies"] = "bpe"
    vocabulary: Annotated[Literal["joint", "separate"], "one for both languages, or one each"] = "joint"
    vocabulary_size: shared.VocabularySize = 6_000
    max_length: Annotated[int, "tokens; longer pairs are skipped in training, longer sources cut off in use", Size] = 80
    data_service: shared.DataService = None


@dataclass(frozen=True)
class ModelFlags:
    """model"""

    cell: shared.Cell = "gru"
    units: Annotated[int, "size of encoder and decoder states", Size] = 320
    embedding_size: shared.EmbeddingSize = 256
    encoder: Annotated[
        Literal["recurrent", "forward", "self-attention"], "both directions; one, whose final states start the decoder; none"
    ] = "recurrent"
    encoder_layers: Annotated[int, "layers of the encoder", Size] = 1
    decoder_layers: Annotated[int, "layers of the decoder", Size] = 2
    attention: Annotated[Literal["additive", "dot", "none"], "of the decoder"] = "additive"
    input_feeding: Annotated[bool, "feed the decoder's last output into its next step"] = False
    reverse_source: Annotated[bool, "encode the source backwards"] = False
    dropout: shared.Dropout = 0.3
    scheduled_sampling: Annotated[float, "rate of target tokens replaced by the model's own predictions", "[0, 1]"] = 0.0
    sampled_softmax: Annotated[int, "compare with so many sampled tokens, not with the vocabulary; 0: exact", "[0, inf)"] = 0


@dataclass(frozen=True)
class TrainingFlags(FitFlags):
    """training"""

    epochs: shared.EpochsOrNone = 22
    learning_rate: shared.LearningRate = 3e-3
    init_from: shared.InitFrom = None
    max_tokens: Annotated[int, "of a batch, on its longer side, padding counted", Size] = 1_536
    buckets: shared.Buckets = 6
    label_smoothing: shared.LabelSmoothing = 0.1
    optimizer: Annotated[Literal["adam", "sgd"], "adam, or plain gradient descent"] = "adam"
    embeddings: shared.Embeddings = None
    monitor: Annotated[Literal["bleu", "chrf", "loss", "perplexity"], "chooses the epoch to keep; ties by loss"] = "bleu"
    bleu_tokenize: Annotated[
        Literal["auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores200", "none"],
        "of sacreBLEU; auto: by the target language",
    ] = "auto"


@dataclass(frozen=True)
class TranslationSequenceFlags(SequenceFlags):
    """training for the metric"""

    optimize: Annotated[Literal["bleu"], "the reward of a translation in --sequence-epochs"] = "bleu"


@dataclass(frozen=True)
class TranslationSearchFlags(SearchFlags):
    """search"""

    split_sentences: Annotated[bool, "in the export: translate a text sentence by sentence"] = True
    coverage_penalty: Annotated[float, "above 0: favour what attends to all of the source", "[0, inf)"] = 0.0


@dataclass(frozen=True)
class Config(DataFlags, ModelFlags, TrainingFlags, TranslationSequenceFlags, TranslationSearchFlags, RunFlags):
    """the run"""

    application: ClassVar = APPLICATION
    kept: ClassVar[tuple[str, ...]] = tuple(
        "tokenizer vocabulary vocabulary_size cell units embedding_size encoder encoder_layers "
        "decoder_layers attention input_feeding reverse_source".split()
    )
    first: ClassVar[tuple[str, ...]] = tuple(
        "data source_lang target_lang run_dir resume quick epochs units vocabulary_size export_dir".split()
    )
    export_dir: shared.ExportDir = f"saved_models/{APPLICATION}"
    preset: Annotated[Literal["base", "sutskever"], "flags given with it win"] = "base"


def preset(config: Config) -> dict[str, Any]:
    """The values of flags that were not given."""
    return {**(QUICK if config.quick else {}), **(SUTSKEVER if config.preset == "sutskever" else {})}


def check_model_flags(config: Config) -> None:
    """Refuse a model that can't be built, or can't be exported with the search that is asked for.

    Raises:
        DataError: it is such a model.
    """
    if config.encoder == "recurrent" and config.units % 2:
        raise DataError(f"--units {config.units}: the encoder has half of them for each direction. Pass an even number.")
    if config.encoder == "self-attention" and config.units < HEADS:
        raise DataError(f"--units {config.units}: self-attention has {HEADS} heads. Pass {HEADS} or more.")
    if config.coverage_penalty and config.attention == "none":
        raise DataError(
            f"--coverage-penalty {config.coverage_penalty}: is about attention, and --attention is none. Leave one of them out."
        )


QUICK = {
    "units": 128,
    "embedding_size": 128,
    "vocabulary_size": 600,
    "epochs": 10,
    "learning_rate": 4e-3,
    "dropout": 0.1,
    "label_smoothing": 0.0,
    "ema_momentum": 0.98,
    "max_tokens": 1_024,
    "buckets": 3,
    "beam_size": 3,
}

# Sutskever et al. 2014, https://arxiv.org/abs/1409.3215: 160,000 source and 80,000 target words, beam 12 there
SUTSKEVER = {
    "cell": "lstm",
    "units": 1_000,
    "embedding_size": 1_000,
    "encoder": "forward",
    "encoder_layers": 4,
    "decoder_layers": 4,
    "attention": "none",
    "reverse_source": True,
    "tokenizer": "words",
    "vocabulary": "separate",
    "vocabulary_size": 80_000,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "optimizer": "sgd",
    "learning_rate": 0.7,
    "clip_norm": 5.0,
    "ema_momentum": 0.0,
    "epochs": 8,
    "beam_size": 12,
    "length_penalty": 0.0,
}
