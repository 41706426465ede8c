"""Training of a captioner for CIDEr-D or BLEU: see `apps.common.training.sequence`."""

from collections.abc import Sequence

from apps.common.decoding.search import detokenize
from apps.common.training.rewards import BleuReward, CiderReward
from apps.common.training.sequence import Reward, SequenceTrainer
from apps.image_captioning.config import Config
from apps.image_captioning.model import Captioner
from data_pipelines.captions import Example
from data_pipelines.vocabulary import Vocabulary


def sequence_reward(examples: Sequence[Example], config: Config) -> Reward | None:
    """What `--optimize` names, against all captions of an example; None: without `--sequence-epochs` there is none.

    Raises:
        DataError: there is one example, and CIDEr needs others.
    """
    if not config.sequence_epochs:
        return None
    references = [example.captions for example in examples]
    return CiderReward(references) if config.optimize == "cider" else BleuReward(references)


def sequence_trainer(model: Captioner, vocabulary: Vocabulary, reward: Reward, seed: int, config: Config) -> SequenceTrainer:
    """Self-critical training. `seed` is of the samples."""
    return SequenceTrainer(
        model,
        "image",
        lambda found: detokenize(vocabulary, found),
        reward,
        seed=seed,
        max_length=config.max_length,
        samples=config.sequence_samples,
        temperature=config.sequence_temperature,
        sharpness=0.0,
        likelihood=config.sequence_likelihood,
    )
