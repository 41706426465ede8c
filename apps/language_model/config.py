"""Flags of `apps.language_model.train`, and presets of them."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from apps.common import config as shared
from apps.common.config import FitFlags, Rate, RunFlags, Size

APPLICATION = "language_model"
Tokenizer = Literal["words", "spaces", "bpe", "unigram", "characters"]


@dataclass(frozen=True)
class DataFlags:
    """data"""

    data: Annotated[
        str, "embedded, tfds:NAME[/config], a .txt file with a passage a line, a table with a column text, or a folder"
    ] = "embedded"
    text_column: Annotated[str | None, "name of the column; default: text, review or sentence"] = None
    tokenizer: Annotated[Tokenizer, "words: lower-cased; spaces: what stands between spaces, as it is"] = "words"
    vocabulary_size: shared.VocabularySize = 20_000
    min_count: shared.MinCount = 1
    shuffle: Annotated[bool, "passages in another order in each epoch; --no-shuffle for a book"] = True


@dataclass(frozen=True)
class ModelFlags:
    """model"""

    direction: Annotated[Literal["forward", "both"], "both: another model reads from the end, for classifiers"] = "forward"
    cell: shared.Cell = "lstm"
    units: Annotated[int, "size of the states", Size] = 512
    num_layers: Annotated[int, "recurrent layers", Size] = 2
    embedding_size: shared.EmbeddingSize = 256
    dropout: Annotated[float, "of units, before and after each layer; the same at every step", Rate] = 0.3
    embedding_dropout: Annotated[float, "of whole words of the vocabulary", Rate] = 0.1
    weight_dropout: Annotated[float, "of recurrent weights", Rate] = 0.2
    activity_penalty: Annotated[float, "times the mean square of the last outputs; and of their changes", "[0, inf)"] = 0.0
    sampled_softmax: Annotated[int, "compare with so many sampled tokens, not with the vocabulary; 0: exact", "[0, inf)"] = 0


@dataclass(frozen=True)
class TrainingFlags(FitFlags):
    """training"""

    epochs: shared.Epochs = 10
    init_from: shared.InitFrom = None
    batch_size: Annotated[int, "streams side by side", Size] = 32
    bptt_steps: Annotated[int, "steps that a gradient flows back; the state is carried on", Size] = 70
    learning_rate: shared.LearningRate = 2e-3
    ema_momentum: shared.EmaMomentum = 0.998
    embeddings: shared.Embeddings = None


@dataclass(frozen=True)
class ExportFlags:
    """export"""

    max_length: Annotated[int, "tokens that the export generates, at most", Size] = 400


@dataclass(frozen=True)
class Config(DataFlags, ModelFlags, TrainingFlags, ExportFlags, RunFlags):
    """the run"""

    application: ClassVar = APPLICATION
    first: ClassVar[tuple[str, ...]] = tuple(
        "data run_dir resume quick epochs tokenizer direction cell units num_layers export_dir".split()
    )
    kept: ClassVar[tuple[str, ...]] = tuple(
        "tokenizer vocabulary_size min_count direction cell units num_layers embedding_size".split()
    )
    export_dir: shared.ExportDir = f"saved_models/{APPLICATION}"


QUICK = {"units": 128, "num_layers": 1, "embedding_size": 96, "epochs": 3, "learning_rate": 5e-3, "dropout": 0.1}


def preset(config: Config) -> dict[str, Any]:
    """The values of flags that were not given."""
    return QUICK if config.quick else {}
