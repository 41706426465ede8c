"""Flags of `apps.music_generation.train`, and presets of them."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from apps.common import config as shared
from apps.common.config import FitFlags, Rate, RunFlags, Size

APPLICATION = "music_generation"
TEMPERATURE, TOP_P = 1.0, 0.98  # of tunes: lower ones repeat far more bars than real tunes do
TransposeProb = Annotated[float, "probability of transposing a tune or piece to another key in an epoch", "[0, 1]"]
Units = Annotated[int, "size of the states", Size]
NumLayers = Annotated[int, "recurrent layers", Size]
BatchSize = Annotated[int, "streams side by side", Size]
BpttSteps = Annotated[int, "steps that a gradient flows back; the state is carried on", Size]
MaxLength = Annotated[int, "tokens or frames that the export generates, at most", Size]


@dataclass(frozen=True)
class StackFlags:
    """model"""

    cell: shared.Cell = "lstm"
    irnn: Annotated[bool, "simple_rnn with ReLU, its recurrent weights the identity at first"] = False
    units: Units = 512
    num_layers: NumLayers = 2
    dropout: shared.Dropout = 0.5
    locked_dropout: Annotated[bool, "drop the same units at all steps of a chunk"] = False
    recurrent_dropout: Annotated[float, "of the states", Rate] = 0.0
    weight_dropout: Annotated[float, "of recurrent weights", Rate] = 0.0
    batch_size: BatchSize = 32


@dataclass(frozen=True)
class TrainingFlags(FitFlags):
    """training"""

    epochs: shared.Epochs = 40
    init_from: shared.InitFrom = None
    bptt_steps: BpttSteps = 64
    transpose_prob: TransposeProb = 0.5
    learning_rate: shared.LearningRate = 3e-3
    ema_momentum: shared.EmaMomentum = 0.99
    patience: shared.Patience = 12


@dataclass(frozen=True)
class MusicConfig(StackFlags, TrainingFlags, RunFlags):
    """music"""

    application: ClassVar = APPLICATION
    first: ClassVar[tuple[str, ...]] = tuple("data music run_dir resume quick epochs cell units num_layers export_dir".split())
    data: Annotated[str, "embedded, an .abc file, .mid or .musicxml (.mxl) files, a folder of them, or one with train.npz"] = (
        "embedded"
    )
    music: Annotated[
        Literal["auto", "tunes", "rolls"],
        "auto: rolls for .mid, .musicxml and .npz files, else tunes. Flags and defaults differ: see --music rolls --help",
    ] = "auto"
    max_length: MaxLength = 800
    export_dir: shared.ExportDir = f"saved_models/{APPLICATION}"


@dataclass(frozen=True)
class TuneConfig(MusicConfig):
    """tunes"""

    kept: ClassVar[tuple[str, ...]] = tuple("music tokenizer embedding_size attention_length cell irnn units num_layers".split())
    validation_tunes: Annotated[str | None, "file with the places of the tunes for validation, 0 the first"] = None
    tokenizer: Annotated[Literal["characters", "musical"], "musical: a pitch, a duration, a bar line or a field is one"] = (
        "characters"
    )
    embedding_size: shared.EmbeddingSize = 64
    attention_length: Annotated[int, "tokens back that the attention reaches; 0: no attention", "[0, inf)"] = 192
    num_samples: Annotated[int, "tunes sampled after training to judge them; 0: none", "[0, inf)"] = 200
    temperature: Annotated[float, "of these", "(0, inf)"] = TEMPERATURE
    top_p: Annotated[float, "of these", "(0, 1]"] = TOP_P
    top_k: Annotated[int, "of the export; 0: all tokens", "[0, inf)"] = 0


@dataclass(frozen=True)
class RollConfig(MusicConfig):
    """piano rolls"""

    kept: ClassVar[tuple[str, ...]] = tuple("music frame_beats frame hidden cell irnn units num_layers".split())
    frame_beats: Annotated[float, "of MIDI and MusicXML: how long a frame is, in quarter notes", "(0, inf)"] = 0.25
    frame: Annotated[Literal["nade", "independent"], "the keys of a frame: one by one, or apart"] = "nade"
    hidden: Annotated[int, "of the keys one by one", Size] = 64
    units: Units = 256
    num_layers: NumLayers = 1
    dropout: shared.Dropout = 0.2
    batch_size: BatchSize = 16
    epochs: shared.Epochs = 100
    bptt_steps: BpttSteps = 32
    transpose_prob: TransposeProb = 0.8
    max_length: MaxLength = 200


CONFIGS: dict[str, type[MusicConfig]] = {"tunes": TuneConfig, "rolls": RollConfig}

QUICK = {"units": 128, "epochs": 3, "dropout": 0.1}


def preset(config: MusicConfig) -> dict[str, Any]:
    """The values of flags that were not given."""
    if not config.quick:
        return {}
    return {**QUICK, "num_samples": 8} if isinstance(config, TuneConfig) else QUICK
