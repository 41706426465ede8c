"""Flags of `apps.image_captioning.train`, and presets of them."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from apps.common import config as shared
from apps.common.config import FitFlags, Rate, RunFlags, SearchFlags, SequenceFlags, Size

APPLICATION = "image_captioning"


@dataclass(frozen=True)
class DataFlags:
    """data"""

    data: Annotated[
        str, "embedded, tfds:NAME[/config], a table (image, caption), or a folder with tables, Flickr8k or COCO, and images"
    ] = "embedded"
    image_column: Annotated[str | None, "name of the column; default: image, file_name or filename"] = None
    caption_column: Annotated[str | None, "name of the column; default: caption or text"] = None
    image_size: Annotated[int, "pictures become squares of so many pixels a side", Size] = 224
    max_pixels: Annotated[int, "pictures with more are skipped, and refused by the export", Size] = 50_000_000
    strict: Annotated[bool, "stop if anything must be skipped"] = False
    cache_dir: Annotated[str, "folder where decoded pictures and features are kept for the next run"] = "runs/image_store"
    augment: Annotated[bool, "shift pictures and change their brightness; where the whole encoder learns"] = False
    flip: Annotated[bool, "mirror every second picture; not where captions say left or right"] = False
    tokenizer: Annotated[Literal["words", "subwords"], "unit of the vocabulary"] = "words"
    vocabulary_size: shared.VocabularySize = 10_000
    min_count: Annotated[int, "rarer words are unknown, and never generated", Size] = 4
    max_length: Annotated[int, "tokens; longer captions are cut in training; none longer is generated", Size] = 30
    data_service: shared.DataService = None


@dataclass(frozen=True)
class EncoderFlags:
    """encoder"""

    backbone: Annotated[
        Literal["auto", "small-cnn", "mobilenet", "mobilenet_v2", "efficientnet_b0"],
        "auto: small-cnn for the embedded scenes, else mobilenet",
    ] = "auto"
    backbone_weights: Annotated[str, "imagenet, none, or the path of a weights file"] = "imagenet"
    backbone_layer: Annotated[str, "take the output of this block end; default: of the last one"] = ""
    alpha: Annotated[float, "width of the MobileNets", "(0, inf)"] = 1.0
    fine_tune_epochs: Annotated[int, "after the others, in which the last blocks train too", "[0, inf)"] = 0
    fine_tune_blocks: Annotated[int, "how many blocks", Size] = 2
    fine_tune_learning_rate: Annotated[float, "peak of the schedule of these epochs", "(0, inf)"] = 2e-4


@dataclass(frozen=True)
class ModelFlags:
    """decoder"""

    cell: shared.Cell = "lstm"
    units: Annotated[int, "size of the decoder's states", Size] = 512
    embedding_size: shared.EmbeddingSize = 256
    memory_size: Annotated[int, "size of a region's vector", Size] = 512
    num_layers: Annotated[int, "recurrent layers", Size] = 2
    attention: Annotated[Literal["additive", "dot", "none"], "of the decoder"] = "additive"
    attention_penalty: Annotated[float, "doubly stochastic: every region should be attended to some time", "[0, inf)"] = 0.5
    dropout: shared.Dropout = 0.4
    word_dropout: Annotated[float, "rate of the decoder's input words replaced by the unknown token in training", Rate] = 0.0


@dataclass(frozen=True)
class TrainingFlags(FitFlags):
    """training"""

    epochs: shared.EpochsOrNone = 10
    init_from: shared.InitFrom = None
    batch_size: Annotated[int, "captions", Size] = 64
    buckets: shared.Buckets = 4
    label_smoothing: shared.LabelSmoothing = 0.1
    patience: shared.Patience = 4
    embeddings: shared.Embeddings = None
    monitor: Annotated[Literal["cider", "bleu_4", "loss", "perplexity"], "chooses the epoch to keep; ties by loss"] = "cider"


@dataclass(frozen=True)
class CaptionSequenceFlags(SequenceFlags):
    """training for the metric"""

    optimize: Annotated[Literal["cider", "bleu"], "the reward of a caption in --sequence-epochs"] = "cider"
    sequence_learning_rate: shared.SequenceLearningRate = 5e-4


@dataclass(frozen=True)
class CaptionSearchFlags(SearchFlags):
    """search"""

    length_penalty: shared.LengthPenalty = 1.3
    no_repeat_ngram_size: shared.NoRepeatNgramSize = 2


@dataclass(frozen=True)
class Config(DataFlags, EncoderFlags, ModelFlags, TrainingFlags, CaptionSequenceFlags, CaptionSearchFlags, RunFlags):
    """the run"""

    application: ClassVar = APPLICATION
    kept: ClassVar[tuple[str, ...]] = tuple(
        "tokenizer vocabulary_size min_count image_size backbone backbone_weights backbone_layer alpha "
        "cell units embedding_size memory_size num_layers attention".split()
    )
    first: ClassVar[tuple[str, ...]] = tuple(
        "data run_dir resume quick epochs batch_size backbone fine_tune_epochs units export_dir".split()
    )
    export_dir: shared.ExportDir = f"saved_models/{APPLICATION}"


def preset(config: Config) -> dict[str, Any]:
    """The values of flags that were not given."""
    return {**(SCENES if config.data == "embedded" else {}), **(QUICK if config.quick else {})}


QUICK = {
    "units": 128,
    "embedding_size": 64,
    "memory_size": 128,
    "epochs": 3,
    "learning_rate": 4e-3,
    "min_count": 1,
    "ema_momentum": 0.98,
    "buckets": 2,
    "beam_size": 3,
}

# for the embedded scenes
SCENES = {
    **QUICK,
    "backbone": "small-cnn",
    "image_size": 64,
    "epochs": 12,
    "batch_size": 32,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "attention_penalty": 0.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,  # "a large red" may well be said twice
}
