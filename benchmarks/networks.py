"""What 8 bits cost a translator: greedy BLEU, bytes and time of its network as LiteRT and ONNX.

    python -m apps.translation.export RUN --format onnx          # and with --int8; and --format litert
    python -m benchmarks.networks RUN --data multi30k/

A network maps source and target so far to logits, so each new token costs a run over all before it: fit to compare formats, not
to serve.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from apps.common import cli
from apps.common.metrics import bleu_tokenizer, translation_metrics
from apps.common.training.runs import read_config, read_run
from data_pipelines.sources import DataError
from data_pipelines.translations import Vocabularies, encode, load_translations
from data_pipelines.vocabulary import BOS, EOS, PADDING

Network = Callable[[np.ndarray, np.ndarray], np.ndarray]  # source (n, s), target so far (n, t) -> logits (n, t, vocabulary)


def load(path: Path) -> Network:
    if path.suffix == ".tflite":
        run = tf.lite.Interpreter(str(path), num_threads=2).get_signature_runner()
        return lambda source, target: next(iter(run(source=source, target=target).values()))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(path), options)
    return lambda source, target: session.run(None, {"source": source, "target": target})[0]


def greedy(network: Network, source: np.ndarray, longest: int) -> list[list[int]]:
    """The most probable token at each step, until all rows have ended."""
    target, done = np.full((len(source), 1), BOS, np.int32), np.zeros(len(source), bool)
    for _ in range(longest):
        logits = network(source, target)[:, -1]
        logits[:, PADDING] = -np.inf
        token = np.where(done, EOS, logits.argmax(-1)).astype(np.int32)
        target, done = np.concatenate([target, token[:, None]], axis=1), done | (token == EOS)
        if done.all():
            break
    return [row[: row.index(EOS)] if EOS in row else row for row in target[:, 1:].tolist()]


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.networks", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="with its networks in it")
    parser.add_argument("--data", required=True, help="as in training")
    parser.add_argument("--rows", type=int, default=10_000, help="of the validation split")
    arguments = parser.parse_args()
    config = read_config(arguments.run)
    if (of := read_run(arguments.run)["application"]) != "translation":
        raise DataError(f"{arguments.run}: is a run of {of}, not of translation. Name one of that.")
    vocabularies = Vocabularies.load(arguments.run)
    columns = (config.source_column, config.target_column)
    data = load_translations(arguments.data, config.source_lang, config.target_lang, columns=columns)
    pairs = sorted(data.splits["validation"][: arguments.rows], key=lambda pair: len(pair.source))
    sources = encode(pairs, vocabularies, 10_000).source
    tokenizer = bleu_tokenizer(config.bleu_tokenize, config.target_lang)
    paths = sorted([*arguments.run.glob("network*.onnx"), *arguments.run.glob("network*.tflite")])
    if not paths:
        raise DataError(
            f"{arguments.run}: has no networks. Write one: python -m apps.translation.export {arguments.run} --format onnx"
        )
    for path in paths:
        network, found, begun = load(path), [], time.process_time()
        size = 1 if path.suffix == ".tflite" else 32
        for first in range(0, len(pairs), size):
            rows = sources[first : first + size].to_tensor().numpy()
            found += greedy(network, rows, min(config.max_length, 2 * rows.shape[1] + 10))
        seconds = time.process_time() - begun
        texts = [text.decode() for text in vocabularies.target.detokenize(tf.ragged.constant(found, dtype=tf.int32)).numpy()]
        bleu = translation_metrics(texts, [pair.target for pair in pairs], tokenizer)["bleu"]
        print(
            f"{path.name:22} {path.stat().st_size / 1e6:5.1f} MB  BLEU {bleu:.2f}  {1e3 * seconds / len(pairs):.0f} ms a sentence"
        )


if __name__ == "__main__":
    cli.run(main)
