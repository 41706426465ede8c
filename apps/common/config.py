"""Flags that applications share, each with its help and its range once.

A config is a frozen dataclass put together from groups of flags, which are dataclasses, too: the docstring of a group is its
title in `--help`. An application states its own defaults:

    class Training(FitFlags):
        epochs: Epochs = 22
"""

from dataclasses import dataclass
from typing import Annotated, Literal

Cell = Annotated[Literal["simple_rnn", "gated_rnn", "gru", "lstm", "sru", "qrnn", "min_gru", "ssru"], "recurrent cell"]
Size = "[1, inf)"
Rate = "[0, 1)"

ExportDir = Annotated[str, "folder or URL that gets the export as <version>/"]
DataService = Annotated[str | None, "HOST:PORT of a tf.data service that prepares the batches"]
VocabularySize = Annotated[int, "tokens at most", "[8, inf)"]
MinCount = Annotated[int, "rarer words are unknown", Size]
EmbeddingSize = Annotated[int, "size of a token's vector", Size]
Embeddings = Annotated[str | None, "word vectors to start from, of --embedding-size: a .txt or .vec (gzip too), or an .npz"]
Dropout = Annotated[float, "between layers", Rate]
LabelSmoothing = Annotated[float, "probability spread over the vocabulary", Rate]
Buckets = Annotated[int, "lengths that batches may have; each is compiled once", Size]
Epochs = Annotated[int, "passes over the training split", Size]
EpochsOrNone = Annotated[int, "passes over the training split; 0 with --init-from: only those that follow", "[0, inf)"]
LearningRate = Annotated[float, "peak of the schedule: warm-up over 10%%, then cosine decay", "(0, inf)"]
SequenceLearningRate = Annotated[float, "peak of the schedule of these epochs", "(0, inf)"]
EmaMomentum = Annotated[float, "momentum of the weights' moving average, which is what is kept; 0: none", Rate]
InitFrom = Annotated[str | None, "folder of a finished run: begin with its weights and vocabulary, and its flags of the model"]
Patience = Annotated[int, "epochs without a better one before stopping", Size]
LengthPenalty = Annotated[float, "0: log probability decides, which favours short texts; 1: nearly its mean", "[0, inf)"]
NoRepeatNgramSize = Annotated[int, "never repeat so many tokens in a row; 0: allow it", "[0, inf)"]


@dataclass(frozen=True)
class RunFlags:
    """the run"""

    run_dir: Annotated[str | None, "folder or URL (gs://…) of the run; default: runs/<application>/<time>"] = None
    resume: Annotated[bool, "continue the run in --run-dir, or the newest one, with its flags"] = False
    export_dir: ExportDir = "saved_models"
    export: Annotated[bool, "let the server have the export; else it is measured only"] = True
    force_export: Annotated[bool, "export a model that is worse than a constant guess, too"] = False
    quick: Annotated[bool, "a small model and few epochs, to see that all works"] = False
    seed: Annotated[int, "decides initial weights, dropout and the order of the data", "[0, 4294967296)"] = 0
    deterministic: Annotated[bool | None, "the same seed gives the same weights, bit for bit; default: where there is no GPU"] = (
        None
    )
    precision: Annotated[Literal["float32", "mixed_bfloat16", "mixed_float16"], "of the computation"] = "float32"
    strategy: Annotated[Literal["none", "mirrored", "multiworker"], "workers: this one; a GPU each; those of TF_CONFIG"] = "none"
    workers: Annotated[int | None, "of mirrored; default: one for each GPU", Size] = None


@dataclass(frozen=True)
class FitFlags:
    """training"""

    epochs: Epochs = 10
    learning_rate: LearningRate = 2e-3
    clip_norm: Annotated[float, "limit of the gradient's global norm", "(0, inf)"] = 1.0
    weight_decay: Annotated[float, "of AdamW: of all weights, times the learning rate; 0: Adam", Rate] = 0.0
    ema_momentum: EmaMomentum = 0.998
    patience: Patience = 5


@dataclass(frozen=True)
class SequenceFlags:
    """training for the metric"""

    sequence_epochs: Annotated[int, "after the others: learn from the model's own samples, by their reward", "[0, inf)"] = 0
    sequence_samples: Annotated[int, "of each example", "[2, inf)"] = 5
    sequence_temperature: Annotated[float, "of the samples; below 1: more probable ones", "(0, inf)"] = 0.7
    sequence_learning_rate: SequenceLearningRate = 1e-4
    sequence_likelihood: Annotated[float, "part of the references' cross entropy in these epochs", "[0, 1]"] = 0.1


@dataclass(frozen=True)
class SearchFlags:
    """search"""

    validation_beam_size: Annotated[int, "in training; 1 is greedy search", Size] = 1
    beam_size: Annotated[int, "in the export", Size] = 5
    length_penalty: LengthPenalty = 1.0
    no_repeat_ngram_size: NoRepeatNgramSize = 0
