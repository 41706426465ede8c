"""Training of a captioner for CIDEr-D or BLEU: see `apps.common.training.sequence`."""

from collections.abc import Sequence

from apps.common.decoding.search import detokenize
from apps.common.training.rewards import BleuReward, CiderReward
from apps.common.training.sequence import SequenceTrainer
from apps.image_captioning.config import Config
from apps.image_captioning.model import Captioner
from data_pipelines.captions import Example
from data_pipelines.vocabulary import Vocabulary


def sequence_trainer(
    model: Captioner, vocabulary: Vocabulary, examples: Sequence[Example], seed: int, config: Config
) -> SequenceTrainer:
    """Self-critical training: the references of an example are all its captions. `seed` is of the samples."""

    references = [example.captions for example in examples]
    return SequenceTrainer(
        model,
        "image",
        lambda found: detokenize(vocabulary, found),
        CiderReward(references) if config.optimize == "cider" else BleuReward(references),
        seed=seed,
        max_length=config.max_length,
        samples=config.sequence_samples,
        temperature=config.sequence_temperature,
        sharpness=0.0,
        likelihood=config.sequence_likelihood,
    )
