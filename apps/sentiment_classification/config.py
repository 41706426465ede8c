"""Flags of `apps.sentiment_classification.train`, and presets of them."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from apps.common import config as shared
from apps.common.config import FitFlags, Rate, RunFlags, Size

APPLICATION = "sentiment_classification"


@dataclass(frozen=True)
class DataFlags:
    """data"""

    data: Annotated[
        str, "embedded, tfds:NAME[/config], or a table (.tsv, .csv, .jsonl, .parquet) of text and label, or a folder of such"
    ] = "embedded"
    text_column: Annotated[str | None, "name of the column; default: text, review or sentence"] = None
    label_column: Annotated[str | None, "name of the column; default: label, sentiment or class"] = None
    validation_rows: Annotated[str | None, "file with the row numbers (0 = first) of the validation part"] = None
    tokenizer: Annotated[Literal["words", "subwords"], "unit of the vocabulary"] = "words"
    vocabulary_size: shared.VocabularySize = 30_000
    min_count: shared.MinCount = 2
    max_length: Annotated[int, "tokens; longer texts lose their middle", Size] = 400
    data_service: shared.DataService = None


@dataclass(frozen=True)
class ModelFlags:
    """model"""

    cell: shared.Cell = "gru"
    units: Annotated[int, "size of the state, each direction", Size] = 96
    num_layers: Annotated[int, "bidirectional layers", Size] = 1
    embedding_size: shared.EmbeddingSize = 128
    pooling: Annotated[Literal["attention", "last"], "how a sequence becomes one vector"] = "attention"
    dropout: shared.Dropout = 0.5
    embedding_dropout: Annotated[float, "rate for whole channels of the word vectors", Rate] = 0.3
    word_dropout: Annotated[float, "rate of words replaced by the unknown token", Rate] = 0.1


@dataclass(frozen=True)
class TrainingFlags(FitFlags):
    """training"""

    epochs: shared.Epochs = 8
    batch_size: Annotated[int, "texts", Size] = 32
    learning_rate: shared.LearningRate = 1e-3
    ema_momentum: shared.EmaMomentum = 0.0
    patience: shared.Patience = 3
    monitor: Annotated[Literal["accuracy", "loss"], "chooses the epoch to keep; ties by loss"] = "accuracy"
    balance: Annotated[bool, "weigh the classes so that rare ones count as much as frequent ones, in the loss"] = False
    embeddings: shared.Embeddings = None
    baseline: Annotated[Literal["none", "bag-of-words"], "train the linear comparison instead"] = "none"


@dataclass(frozen=True)
class FineTuningFlags:
    """starting from a language model"""

    init_from: Annotated[str | None, "a run of apps.language_model: its vocabulary, word vectors and recurrent layers"] = None
    adapt_epochs: Annotated[int, "first train it so long on the training texts, without their labels", "[0, inf)"] = 1
    level_decay: Annotated[float, "of the learning rate from a layer to the one below", "[1, inf)"] = 2.6
    unfreeze_epochs: Annotated[float, "from a layer's first step to that of the one below", "[0, inf)"] = 0.5
    weight_dropout: Annotated[float, "of recurrent weights", Rate] = 0.0
    virtual_adversary: Annotated[float, "norm of changes of the word vectors that must change nothing; 0: none", "[0, inf)"] = 0.0


@dataclass(frozen=True)
class Config(DataFlags, ModelFlags, TrainingFlags, FineTuningFlags, RunFlags):
    """the run"""

    application: ClassVar = APPLICATION
    kept: ClassVar[tuple[str, ...]] = tuple("cell units num_layers embedding_size".split())  # of a language model
    first: ClassVar[tuple[str, ...]] = tuple(
        "data run_dir resume quick epochs batch_size cell units init_from export_dir".split()
    )
    export_dir: shared.ExportDir = f"saved_models/{APPLICATION}"


QUICK = {
    "units": 48,
    "embedding_size": 48,
    "epochs": 3,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "embedding_dropout": 0.1,
    "word_dropout": 0.1,
    "min_count": 1,
}


def preset(config: Config) -> dict[str, Any]:
    """The values of flags that were not given."""
    quick = QUICK if config.quick else {}
    return {name: value for name, value in quick.items() if not (config.init_from and name == "min_count")}
