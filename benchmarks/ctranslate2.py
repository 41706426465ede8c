"""An export of a translator against CTranslate2, which runs a Transformer with about as many weights, in turn in one run.

    pip install -e '.[benchmarks]'
    python -m benchmarks.ctranslate2 saved_models/translation [--threads 1] [--save benchmarks/results/ctranslate2]

CTranslate2 has no recurrent models, so this compares what a practitioner chooses between. The Transformer has two layers on each
side, 256 units, 512 in its feed-forward networks, a tied softmax over as many tokens as the export has, and random weights: its
time follows from sizes and lengths. It is held to the length of our translation. Ours starts from texts and
returns texts (`serving_default` alternatives and attention, too); CTranslate2 starts from tokens and returns tokens.
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
from apps.common.export.saved_model import load_export
from benchmarks.answers import SENTENCE
from benchmarks.saving import save
from benchmarks.timing import milliseconds

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="of a translator")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocabulary-size", type=int, default=6_000, help="as in training")
    parser.add_argument("--beam-size", type=int, default=5, help="as in training")
    parser.add_argument("--repeats", type=int, default=41)
    parser.add_argument("--save")
    options = parser.parse_args()
    from ctranslate2 import Translator

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    served, rows = load_export(options.export), []
    with tempfile.TemporaryDirectory() as folder:
        count = transformer(Path(folder), options.vocabulary_size)
        engines = {
            f"CTranslate2, {kind}": Translator(folder, compute_type=kind, inter_threads=1, intra_threads=options.threads)
            for kind in ("float32", "int8")
        }
        whole = served.signatures["serving_default"](text=tf.constant([SENTENCE]))
        source, steps = whole["source_tokens"].shape[1], whole["target_tokens"].shape[1] + 1
        tokens = [str(n) for n in range(source)]
        for signature, beam in (("serving_default", options.beam_size), ("serving_greedy", 1)):
            for size in (1, 32):
                texts = tf.constant([SENTENCE] * size)
                ways: dict[str, Callable[[], Any]] = {
                    "ours": lambda signature=signature, texts=texts: list(served.signatures[signature](text=texts).values())
                }
                for name, engine in engines.items():
                    ways[name] = lambda engine=engine, size=size, beam=beam: (
                        engine.translate_batch(
                            [tokens] * size,
                            beam_size=beam,
                            num_hypotheses=beam,
                            min_decoding_length=steps,
                            max_decoding_length=steps,
                        )[0].hypotheses
                    )
                ms = milliseconds(ways, options.repeats)
                ratios = [f"{ms[name]:.1f} ({ms[name] / ms['ours']:.2f})" for name in engines]
                rows.append([signature, size, f"{ms['ours']:.1f}", *ratios])
    print(f"{source} source tokens, {steps} steps, {options.threads} threads; the Transformer has {count:,} weights")
    header = ["signature", "rows", "ours, ms", *(f"{name}, ms (over ours)" for name in engines)]
    save(options.save, table(rows, header), [dict(zip(header, row)) for row in rows])


if __name__ == "__main__":
    cli.run(main)
