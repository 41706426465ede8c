"""BPE dropout: in training, a text comes in other pieces each time, so that a model learns what rare words are made of.

A pair of adjacent pieces is merged only if a coin of probability 1 - p allows it, at each step anew (Provilkov et al. 2020,
https://aclanthology.org/2020.acl-main.170, algorithm 1). Here the merges of each token of the vocabulary are drawn once,
`VARIANTS` times, and a batch of ids takes one of them for each token: nothing but ids is needed, and pieces never cross the
borders of the tokens that the text has without dropout.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from data_pipelines.pieces import Pieces
from data_pipelines.vocabulary import PADDING, SubwordVocabulary

VARIANTS = 32
MULTIPLE = 8  # of which batches have a length: XLA compiles a step for each


def merge(text: str, scores: Mapping[str, float], rate: float, random: np.random.Generator) -> list[str]:
    """The pieces of a text by byte pair encoding, each merge left out with probability `rate`.

    Args:
        text: without spaces.
        scores: of all pieces; of two merges the one with the higher score is first.
        rate: 0: what SentencePiece gives.
        random: draws the merges that are left out.

    >>> merge("abc", {"ab": -1.0, "abc": -2.0}, 0.0, np.random.default_rng(0))
    ['abc']
    """
    parts = list(text)
    while len(parts) > 1:
        pairs = [(scores[pair], -i) for i in range(len(parts) - 1) if (pair := parts[i] + parts[i + 1]) in scores]
        kept = [pair for pair, coin in zip(pairs, random.random(len(pairs))) if coin >= rate]
        if not kept:
            break
        i = -max(kept)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


class SubwordDropout:
    """Splits tokens of batches of ids at random.

    Args:
        source, target: the vocabularies, by BPE.
        rate: at which merges are left out, above 0.
        seed: decides the variants, and with the step which are taken.
    """

    def __init__(self, source: SubwordVocabulary, target: SubwordVocabulary, rate: float, seed: int) -> None:
        self.seed = seed
        first = _variants(source, rate, seed)
        self.variants = [first, first if target is source else _variants(target, rate, seed)]

    def __call__(self, step: tf.Tensor, source: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Ids (n, t) of both sides, padded with 0 -> the same texts (n, t'), (n, t''), which may be longer."""
        seed = tf.random.experimental.stateless_fold_in(tf.constant([self.seed, 0], tf.int64), tf.cast(step, tf.int64))
        sides = []
        for n, (variants, ids) in enumerate(zip(self.variants, (source, targets))):
            chosen = tf.random.stateless_uniform(tf.shape(ids), seed + n, maxval=VARIANTS, dtype=tf.int32)
            found = tf.gather(variants, ids * VARIANTS + chosen).merge_dims(1, 2)
            width = -(-tf.reduce_max(found.row_lengths()) // MULTIPLE) * MULTIPLE
            sides.append(found.to_tensor(shape=tf.stack([found.nrows(), width])))
        return sides[0], sides[1]


def _variants(vocabulary: SubwordVocabulary, rate: float, seed: int) -> tf.RaggedTensor:
    """(size · VARIANTS, any number): the pieces of each id, so many times; none of padding."""
    spellings = [token.decode() for token in vocabulary.ids_to_tokens(tf.range(vocabulary.size)).numpy()]
    ids = {spelling: i for i, spelling in enumerate(spellings)}
    scores = Pieces(vocabulary.model).merges()
    random = np.random.default_rng([seed, vocabulary.size])
    found: list[list[int]] = []
    for i, spelling in enumerate(spellings):
        if i == PADDING:
            found += [[]] * VARIANTS
        elif spelling in scores:
            found += [[ids[piece] for piece in merge(spelling, scores, rate, random)] for _ in range(VARIANTS)]
        else:
            found += [[i]] * VARIANTS
    return tf.ragged.constant(found, dtype=tf.int32, row_splits_dtype=tf.int64)
