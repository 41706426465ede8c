"""An export of a translator against CTranslate2, which runs a Transformer with about as many weights, both in one run.

    pip install -e '.[benchmarks]'
    python -m benchmarks.ctranslate2 saved_models/translation [--threads 1] [--save benchmarks/results/ctranslate2]

CTranslate2 has no recurrent models, so this compares what a practitioner chooses between. The Transformer has two layers on each
side, 256 units, 512 in its feed-forward networks, a tied softmax over as many tokens as the export has, and random weights: its
time follows from sizes and lengths. It is held to the length of our translation. Ours starts from texts and
returns texts (`serving_default` alternatives and attention, too); CTranslate2 starts from tokens and returns tokens. Calls don't
alternate: the threads of both keep spinning for a while, so that on two cores whoever comes second waits for the first.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from apps.common import cli
from apps.common.cli import table
from apps.common.export.saved_model import find_version, load_export
from benchmarks.answers import SENTENCE
from benchmarks.saving import save
from benchmarks.timing import milliseconds
from data_pipelines.translations import Vocabularies

LAYERS, UNITS, HIDDEN, HEADS, LONGEST = 2, 256, 512, 4, 256


def transformer(folder: Path, vocabulary: int) -> int:
    """Writes the model; the number of its weights."""
    from ctranslate2.specs import TransformerSpec

    generator, total = np.random.default_rng(0), 0

    def weights(*shape: int) -> np.ndarray:
        nonlocal total
        total += int(np.prod(shape))
        return generator.normal(0, shape[-1] ** -0.5, shape).astype("float32")

    def fill_linear(linear: Any, outputs: int, inputs: int) -> None:
        linear.weight, linear.bias = weights(outputs, inputs), weights(outputs)

    def fill_norm(norm: Any) -> None:
        norm.gamma, norm.beta = np.ones(UNITS, "float32"), np.zeros(UNITS, "float32")

    spec = TransformerSpec.from_config(LAYERS, HEADS)
    embedding = weights(vocabulary, UNITS)
    spec.encoder.embeddings[0].weight = spec.decoder.embeddings.weight = spec.decoder.projection.weight = embedding
    spec.decoder.projection.bias = np.zeros(vocabulary, "float32")
    for side in (spec.encoder, spec.decoder):
        side.position_encodings.encodings = generator.normal(0, 1, (LONGEST, UNITS)).astype("float32")
        fill_norm(side.layer_norm)
        for layer in side.layer:
            attentions = {"self_attention": (3, 1), "attention": (1, 2, 1)}  # queries, keys and values; the output
            for name, parts in attentions.items():
                if (attention := getattr(layer, name, None)) is not None:
                    fill_norm(attention.layer_norm)
                    for linear, part in zip(attention.linear, parts, strict=True):
                        fill_linear(linear, part * UNITS, UNITS)
            fill_norm(layer.ffn.layer_norm)
            fill_linear(layer.ffn.linear_0, HIDDEN, UNITS)
            fill_linear(layer.ffn.linear_1, UNITS, HIDDEN)
    tokens = ["<blank>", "<unk>", "<s>", "</s>", *map(str, range(vocabulary - 4))]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.validate()
    spec.optimize()
    spec.save(str(folder))
    return total


def ours(served: Any, size: int, signature: str) -> Callable[[], Any]:
    texts = tf.constant([SENTENCE] * size)
    return lambda: list(served.signatures[signature](text=texts).values())


def theirs(engine: Any, size: int, beam: int, source: int, steps: int) -> Callable[[], Any]:
    tokens = [[str(n) for n in range(source)]] * size
    lengths = {"min_decoding_length": steps, "max_decoding_length": steps}
    return lambda: engine.translate_batch(tokens, beam_size=beam, num_hypotheses=beam, **lengths)[0].hypotheses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="of a translator")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=41)
    parser.add_argument("--save")
    options = parser.parse_args()
    from ctranslate2 import Translator

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    served = load_export(options.export, "translation")
    vocabularies = Vocabularies.load(find_version(options.export))
    whole = served.signatures["serving_default"](text=tf.constant([SENTENCE]))
    source, steps = whole["source_tokens"].shape[1], whole["target_tokens"].shape[1] + 1
    requests = [(f"beam {(beam := whole['alternatives'].shape[1])}", "serving_default", beam), ("greedy", "serving_greedy", 1)]
    cases = [(name, size, signature, beam) for name, signature, beam in requests for size in (1, 32)]

    def times(way: Callable[..., Callable[[], Any]]) -> list[float]:
        return [milliseconds({"": way(*case)}, options.repeats)[""] for case in cases]

    columns = {"ours, ms": times(lambda name, size, signature, beam: ours(served, size, signature))}
    with tempfile.TemporaryDirectory() as folder:
        count = transformer(Path(folder), vocabularies.target.size)
        for kind in ("float32", "int8"):
            engine = Translator(folder, compute_type=kind, inter_threads=1, intra_threads=options.threads)
            columns[f"CTranslate2, {kind}, ms"] = times(
                lambda name, size, signature, beam: theirs(engine, size, beam, source, steps)  # noqa: B023
            )
    print(f"{source} source tokens, {steps} steps, {options.threads} threads; the Transformer has {count:,} weights")
    header = ["request", "rows", *columns]
    rows = [[*case[:2], *(f"{ms:.1f}" for ms in row)] for case, row in zip(cases, zip(*columns.values()))]
    save(options.save, table(rows, header), [dict(zip(header, row)) for row in rows])


if __name__ == "__main__":
    cli.run(main)
