"""Measure an export on text. The last line printed is one JSON object.

python -m apps.language_model.evaluate saved_models/language_model --data novels.txt --split test
"""

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from apps.common import cli
from apps.common.evaluation import SPLIT_HELP, choose_split, warn_of_training_rows
from apps.common.export.saved_model import find_version, load_export
from apps.common.ngram import MOST_TOKENS, NgramModel, best_order
from apps.language_model.serving import LARGEST_REQUEST
from data_pipelines.files import write_whole
from data_pipelines.passages import Passages, encode_passages, load_passages
from data_pipelines.sources import DataError
from data_pipelines.vocabulary import Vocabulary, load_vocabulary

STREAMS = 32
LONGEST_ORDER = 5  # of the n-gram model to compare with


def evaluate_export(served: Any, texts: Sequence[str]) -> dict[str, float]:
    """Metrics of texts that follow one another, through the export's own signature.

    `perplexity` is that of a token, the end of each passage among them; `perplexity_per_word` takes what stands between spaces
    for words; `bits_per_byte` counts a byte for each end. They count what an unknown token costs, not the word behind it, so they
    compare only where `unknown`, the share of such tokens, is 0 or the same.
    """
    signature = served.signatures["score_step"]
    rows = min(STREAMS, len(texts))
    length = -(-len(texts) // rows)
    parts = [texts[i * length : (i + 1) * length] for i in range(rows)]
    state = np.zeros([rows, signature.structured_input_signature[1]["state"].shape[1]], np.float32)
    nats = tokens = unknown = 0.0
    for column in range(length):
        there = [column < len(part) for part in parts]
        now = [part[column] if column < len(part) else "" for part in parts]
        outputs = _score(signature, now, state)
        nats -= float(outputs["log_probabilities"][there].sum())
        tokens += float(outputs["count"][there].sum())
        unknown += float(outputs["unknown"][there].sum())
        state = outputs["state"]
    words = sum(len(text.split()) + 1 for text in texts)
    size = sum(len(text.encode()) + 1 for text in texts)
    return {
        "perplexity": math.exp(min(nats / tokens, 50)),
        "perplexity_per_word": math.exp(min(nats / words, 50)),
        "bits_per_byte": nats / size / math.log(2),
        "unknown": unknown / tokens,
    }


def check_lengths(splits: dict[str, tf.RaggedTensor]) -> None:
    """Refuse what an export can't score, before anything is trained.

    Args:
        splits: the ids of the passages, each with EOS.

    Raises:
        DataError: a passage is too long.
    """
    for name, ids in splits.items():
        longest = int(tf.reduce_max(ids.row_lengths())) - 1
        if longest > LARGEST_REQUEST:
            raise DataError(
                f"the {name} split has a passage of {longest:,} tokens; at most {LARGEST_REQUEST:,} can be scored. "
                "Cut it into lines."
            )


def _score(signature: Any, texts: Sequence[str], state: np.ndarray) -> dict[str, np.ndarray]:
    """The sums over each text, and the state after it; of few texts at a time where one is long: a request has a largest size."""
    try:
        outputs = {name: value.numpy() for name, value in signature(text=tf.constant(texts), state=tf.constant(state)).items()}
        sums = {name: outputs[name].reshape(len(texts), -1).sum(axis=1) for name in ("log_probabilities", "count", "unknown")}
        return {**sums, "state": outputs["state"]}
    except tf.errors.InvalidArgumentError:
        if len(texts) == 1:
            raise DataError(
                f"a passage of {len(texts[0]):,} characters ({texts[0][:40]!r}…) has more than {LARGEST_REQUEST:,} tokens. "
                "Cut it into lines."
            ) from None
    half = len(texts) // 2
    parts = [_score(signature, texts[part], state[part]) for part in (slice(half), slice(half, None))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def compare_with_ngrams(
    metrics: dict[str, dict[str, float]], passages: Passages, vocabulary: Vocabulary
) -> dict[str, dict[str, float]]:
    """The metrics of splits with those of an n-gram model of the same tokens, if there is a training split to count in.

    `gain_over_ngram` is 1 - perplexity / ngram_perplexity.
    """
    if passages.prepared:
        train, tokens = passages.prepared.text.first_passages(MOST_TOKENS), int(passages.prepared.text.tokens.sum())
    elif "train" in passages.splits:
        train = _sequences(passages.splits["train"], vocabulary)
        tokens = sum(map(len, train))
    else:
        return metrics
    counted = NgramModel(train, LONGEST_ORDER, vocabulary.size)
    if counted.tokens < tokens:
        print(f"n-grams are counted in the first {counted.tokens:,} tokens; the limit is {MOST_TOKENS:,}")
    joined = {}
    for split, of_split in metrics.items():
        order, bits = best_order(counted, _sequences(passages.splits[split], vocabulary))
        joined[split] = of_split | {"ngram_perplexity": 2**bits, "ngram_order": order}
        joined[split]["gain_over_ngram"] = 1 - of_split["perplexity"] / 2**bits
    return joined


def _sequences(texts: Sequence[str], vocabulary: Vocabulary) -> list[np.ndarray]:
    ids = encode_passages(texts, vocabulary)
    return np.split(ids.flat_values.numpy(), ids.row_splits.numpy()[1:-1])


def report(served: Any, passages: Passages, vocabulary: Vocabulary, folder: Path) -> dict[str, dict[str, float]]:
    """Measure an export on all splits but the training split; print and write the metrics."""
    metrics = {split: evaluate_export(served, texts) for split, texts in passages.splits.items() if split != "train"}
    metrics = compare_with_ngrams(metrics, passages, vocabulary)
    write_whole(folder / "metrics.json", cli.as_json(metrics))
    rows = [[name, *(metrics[split][name] for split in metrics)] for name in metrics["validation"]]
    print("\n" + cli.table(rows, ["metric", *metrics]))
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.language_model.evaluate", allow_abbrev=False)
    parser.add_argument("export", help="a version folder, or the folder above it for the newest version")
    parser.add_argument("--data", required=True, help="as in training")
    parser.add_argument("--text-column", default=None, help="as in training")
    parser.add_argument("--split", default=None, help=SPLIT_HELP)
    arguments = parser.parse_args()
    load = partial(load_passages, arguments.data, text_column=arguments.text_column)
    passages, split = choose_split(load, arguments.data, arguments.split)
    served = load_export(arguments.export, "language_model")
    warn_of_training_rows(arguments.export, passages.rows(split), split)
    measured = {split: evaluate_export(served, passages.splits[split])}
    metrics = compare_with_ngrams(measured, passages, load_vocabulary(find_version(arguments.export)))[split]
    print(cli.table([[name, value] for name, value in metrics.items()], ["metric", split]))
    print(cli.as_json({"split": split, **metrics}))


if __name__ == "__main__":
    cli.run(main)
