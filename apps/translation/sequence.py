"""Training of a translator for sentence BLEU: see `apps.common.training.sequence`."""

from collections.abc import Sequence

import sacrebleu

from apps.common.decoding.search import detokenize
from apps.common.training.rewards import BleuReward
from apps.common.training.sequence import SequenceTrainer
from apps.translation.config import Config
from apps.translation.model import Translator
from data_pipelines.sources import DataError
from data_pipelines.translations import Vocabularies

SHARPNESS = 5e-3  # of Shen et al. 2016


def check_sequence_flags(config: Config) -> None:
    """Refuse what doesn't go with `--sequence-epochs`.

    Raises:
        DataError: there is such a flag.
    """
    for name in ("sampled_softmax", "scheduled_sampling"):
        if config.sequence_epochs and getattr(config, name):
            raise DataError(
                f"--sequence-epochs {config.sequence_epochs}: needs the exact probabilities of whole sentences. Leave out "
                f"--{name.replace('_', '-')}; or train with it first, and begin another run with --init-from."
            )


def sequence_trainer(
    model: Translator, vocabularies: Vocabularies, references: Sequence[str], tokenizer: str, seed: int, config: Config
) -> SequenceTrainer:
    """Minimum risk training.

    Args:
        references: the targets of the training pairs, by their number.
        tokenizer: of sacreBLEU.
        seed: of the samples.
    """

    tokenize = sacrebleu.BLEU(tokenize=tokenizer).tokenizer

    def split(groups: Sequence[Sequence[str]]) -> list[list[list[str]]]:
        return [[tokenize(text.rstrip()).split() for text in group] for group in groups]

    return SequenceTrainer(
        model,
        "source",
        lambda found: detokenize(vocabularies.target, found),
        BleuReward([[reference] for reference in references], split),
        seed=seed,
        max_length=config.max_length,
        samples=config.sequence_samples,
        temperature=config.sequence_temperature,
        sharpness=SHARPNESS,
        likelihood=config.sequence_likelihood,
    )
