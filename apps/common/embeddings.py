"""`--embeddings`: an embedding starts from pre-trained vectors of words (Pennington et al. 2014,
https://aclanthology.org/D14-1162); words without one keep their random initial weights, and all are trained."""

from typing import Any

import numpy as np

from data_pipelines.sources import DataError, visible
from data_pipelines.vectors import check_vectors, fill_vectors
from data_pipelines.vocabulary import Vocabulary, WordVocabulary


def check_embeddings(config: Any) -> None:
    """Refuse vectors that don't fit the other flags, before anything is written. A resumed run has them in its checkpoint.

    Raises:
        DataError: the tokens are no words, or the vectors of another size; the file can't be read.
    """
    if config.embeddings is not None and not config.resume:
        if config.tokenizer != "words":
            raise DataError(f"--embeddings: holds vectors of words; --tokenizer is {config.tokenizer}. Pass --tokenizer words.")
        check_vectors(config.embeddings, config.embedding_size)


def start_from_vectors(path: str, layer: Any, vocabulary: Vocabulary) -> None:
    """Give an embedding the vectors of the words that a file has, and print how many it has.

    Raises:
        DataError: a line of the file can't be read, or it has none of the words.
    """
    words = words_by_id(vocabulary)
    embeddings, found = fill_vectors(path, words, np.asarray(layer.embeddings))
    total = sum(map(bool, words))
    if not found:
        raise DataError(f"{path}: has none of the {total:,} words of the vocabulary. Pass vectors of the language of the data.")
    layer.embeddings.assign(embeddings)
    print(f"{'embeddings':<12}{found:,} of {total:,} words are in {visible(path)}", flush=True)


def words_by_id(vocabulary: Vocabulary) -> list[str]:
    """The word of each id; "" where there is none.

    >>> words_by_id(WordVocabulary(["good"], has_bos_eos=True))
    ['', '', '', '', 'good']
    """
    if isinstance(vocabulary, WordVocabulary):
        return [""] * vocabulary.first + vocabulary.words
    pieces = [piece.decode() for piece in vocabulary.ids_to_tokens(np.arange(vocabulary.size, dtype=np.int32)).numpy()]
    return [piece.removeprefix("▁") if piece.startswith("▁") else "" for piece in pieces]
