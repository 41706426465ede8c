"""The flags of training, and values of flags that belong together."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal


@dataclass(frozen=True)
class MusicConfig:
    """Flags of both models; the defaults are those of tunes."""

    data: Annotated[str, "embedded, an .abc file, .mid files, a folder of them, or one with train.npz"] = "embedded"
    music: Annotated[
        Literal["auto", "tunes", "rolls"],
        "auto: rolls for .mid and .npz files, else tunes. Flags of tunes alone: --validation-tunes, --tokenizer, "
        "--embedding-size, --num-samples, --temperature, --top-p, --top-k; of rolls alone: --frame-beats, --frame, --hidden. "
        "Their defaults differ, too: see --music rolls --help",
    ] = "auto"
    run_dir: Annotated[str | None, "folder of the run; default runs/music_generation/<time>"] = None
    resume: Annotated[bool, "continue the run in --run-dir, or the newest one"] = False
    export_dir: Annotated[str, "folder that gets the export as <version>/"] = "saved_models/music_generation"
    export: Annotated[bool, "let the server have the export; else it is measured only"] = True
    force_export: Annotated[bool, "export a model that is worse than a constant guess, too"] = False
    quick: Annotated[bool, "a small model and few epochs, to see that all works"] = False
    seed: Annotated[int, "decides initial weights, dropout and the order of the data", "[0, 4294967296)"] = 0
    precision: Annotated[Literal["float32", "mixed_bfloat16", "mixed_float16"], "of the computation"] = "float32"
    strategy: Annotated[Literal["none", "mirrored", "multiworker"], "workers: this one; a GPU each; those of TF_CONFIG"] = "none"
    workers: Annotated[int | None, "of mirrored; default: one for each GPU", "[1, inf)"] = None
    # data
    transpose_prob: Annotated[float, "share of the tunes or pieces that each epoch moves to another key", "[0, 1]"] = 0.5
    # model
    cell: Annotated[Literal["simple_rnn", "gated_rnn", "gru", "lstm"], "recurrent cell"] = "lstm"
    irnn: Annotated[bool, "simple_rnn with ReLU, its recurrent weights the identity at first"] = False
    units: Annotated[int, "size of the states", "[1, inf)"] = 512
    num_layers: Annotated[int, "recurrent layers", "[1, inf)"] = 2
    dropout: Annotated[float, "between layers", "[0, 1)"] = 0.5
    recurrent_dropout: Annotated[float, "of the states", "[0, 1)"] = 0.0
    # training
    epochs: Annotated[int, "passes over the training split", "[1, inf)"] = 40
    batch_size: Annotated[int, "streams side by side", "[1, inf)"] = 32
    bptt_steps: Annotated[int, "steps that a gradient flows back; the state is carried on", "[1, inf)"] = 64
    learning_rate: Annotated[float, "peak of the schedule: warm-up over 10%%, then cosine decay", "(0, inf)"] = 3e-3
    clip_norm: Annotated[float, "limit of the gradient's global norm", "(0, inf)"] = 1.0
    ema_momentum: Annotated[float, "momentum of the weights' moving average, which is what is kept; 0: none", "[0, 1)"] = 0.99
    patience: Annotated[int, "epochs without a better one before stopping", "[1, inf)"] = 12
    # generation
    max_length: Annotated[int, "tokens or frames that the export generates, at most", "[1, inf)"] = 800

    def stack(self) -> dict[str, Any]:
        """The arguments of `StatefulStack`."""
        names = "batch_size units num_layers cell dropout recurrent_dropout irnn".split()
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class TuneConfig(MusicConfig):
    """Flags of the model of tunes."""

    validation_tunes: Annotated[str | None, "file with the places of the tunes for validation, 0 the first"] = None
    tokenizer: Annotated[Literal["characters", "musical"], "musical: a pitch, a duration, a bar line or a field is one"] = (
        "characters"
    )
    embedding_size: Annotated[int, "size of a token's vector", "[1, inf)"] = 64
    num_samples: Annotated[int, "tunes sampled after training to judge them; 0: none", "[0, inf)"] = 200
    temperature: Annotated[float, "of these", "(0, inf)"] = 0.8
    top_p: Annotated[float, "of these", "(0, 1]"] = 0.95
    top_k: Annotated[int, "of the export; 0: all tokens", "[0, inf)"] = 0


@dataclass(frozen=True)
class RollConfig(MusicConfig):
    """Flags of the model of piano rolls, and its own defaults of shared ones."""

    frame_beats: Annotated[float, "of MIDI files: how long a frame is, in quarter notes", "(0, inf)"] = 0.25
    frame: Annotated[Literal["nade", "independent"], "the keys of a frame: one by one, or apart"] = "nade"
    hidden: Annotated[int, "of the keys one by one", "[1, inf)"] = 64

    transpose_prob: Annotated[float, "share of the pieces that each epoch moves to another key", "[0, 1]"] = 0.8
    units: Annotated[int, "size of the states", "[1, inf)"] = 256
    num_layers: Annotated[int, "recurrent layers", "[1, inf)"] = 1
    dropout: Annotated[float, "between layers", "[0, 1)"] = 0.2
    epochs: Annotated[int, "passes over the training split", "[1, inf)"] = 100
    batch_size: Annotated[int, "streams side by side", "[1, inf)"] = 16
    bptt_steps: Annotated[int, "steps that a gradient flows back; the state is carried on", "[1, inf)"] = 32
    max_length: Annotated[int, "frames that the export generates, at most", "[1, inf)"] = 200


CONFIGS: dict[str, type[MusicConfig]] = {"tunes": TuneConfig, "rolls": RollConfig}

QUICK = {"units": 128, "epochs": 3, "dropout": 0.1}


def preset(config: MusicConfig) -> dict[str, Any]:
    """The values that --quick gives to flags that were not typed."""
    if not config.quick:
        return {}
    return {**QUICK, "num_samples": 8} if isinstance(config, TuneConfig) else QUICK
