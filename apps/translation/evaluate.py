"""Measure an export on pairs of sentences. The last line printed is one JSON object.

python -m apps.translation.evaluate saved_models/translation --data folder/ --split test
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from apps.common import cli
from apps.common.evaluation import SPLIT_HELP, choose_split, warn_of_training_rows
from apps.common.export.saved_model import find_version, load_export
from apps.common.metrics import BLEU_TOKENIZERS, bleu_tokenizer, sentence_scores, translation_metrics
from apps.common.prediction import check_output, write_rows
from apps.translation.serving import LARGEST_REQUEST, LEAST_ROW
from data_pipelines.files import write_whole
from data_pipelines.sentences import split_sentences
from data_pipelines.sources import DataError
from data_pipelines.translations import Pair, Translations, load_translations

BATCH_SIZE = 32
ERROR_COLUMNS = ("source", "reference", "translation", "bleu", "chrf")
CHARACTERS = 5_000  # of a batch; one of long texts takes long


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """The places of the texts of each batch, the shortest first, as texts of one length pad least.

    A batch of several texts is below the limit of an export, whether it splits texts or not: a token has at least one byte.
    """
    cut = split_sentences(tf.constant(texts, tf.string), "en")  # no other language has more sentences
    counts, longest = cut.row_lengths().numpy(), tf.reduce_max(tf.strings.length(cut), axis=1).numpy()
    batch: list[int] = []
    for place in sorted(range(len(texts)), key=lambda i: len(texts[i])):
        several = [*batch, place]
        size = max(
            counts[several].sum() * max(LEAST_ROW, longest[several].max() + 1),  # a tokenizer puts a space before
            len(several) * max(LEAST_ROW, len(texts[place].encode()) + 1),
        )
        if batch and (len(batch) == BATCH_SIZE or sum(len(texts[i]) for i in batch) >= CHARACTERS or size > LARGEST_REQUEST):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def languages_of(export: str, *given: str | None) -> tuple[str, str]:
    """Source and target: those of an export, where no others are given; a line tells of those that differ.

    Raises:
        DataError: there is no such export.
    """
    file = find_version(export) / "languages.txt"
    if not file.is_file():
        raise DataError(f"{file}: is missing; it says what the export translates. Export the run again.")
    own = file.read_text().split()
    source, target = (language or its for language, its in zip(given, own, strict=True))
    if [source, target] != own:
        print(f"{export} translates {' to '.join(own)}, and is measured as {source} to {target}.", file=sys.stderr)
    return source, target


def predict_batches(served: Any, sentences: Sequence[str], progress: bool = False) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """The places of the sentences of a batch and the export's outputs for them, as arrays; the shortest come first."""
    end = 0
    for places in _batches(sentences):
        end += len(places)
        outputs = served.signatures["serving_default"](text=tf.constant([sentences[i] for i in places]))
        yield places, {name: value.numpy() for name, value in outputs.items()}
        if progress:
            print(f"\r{end:,} of {len(sentences):,}", end="", file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)


def translate_all(served: Any, sentences: Sequence[str], progress: bool = False) -> list[str]:
    """The translations, in the order of the sentences."""
    translations = [""] * len(sentences)
    for places, outputs in predict_batches(served, sentences, progress):
        for place, translation in zip(places, outputs["translation"]):
            translations[place] = translation.decode("utf-8", "replace")
    return translations


def errors(pairs: Sequence[Pair], translations: Sequence[str], tokenizer: str) -> list[dict[str, Any]]:
    """What is not translated exactly as in the reference, the lowest chrF first."""
    scores = sentence_scores(translations, [pair.target for pair in pairs], tokenizer)
    found = [
        {"source": pair.source, "reference": pair.target, "translation": translation, **score}
        for pair, translation, score in zip(pairs, translations, scores, strict=True)
        if translation != pair.target
    ]
    return sorted(found, key=lambda row: row["chrf"])


def report(served: Any, data: Translations, folder: Path, tokenizer: str) -> dict[str, dict[str, float | str]]:
    """Measure an export on all splits but the training split; print and write the metrics."""
    metrics = {}
    for split in data.splits:
        if split != "train":
            outputs = translate_all(served, [pair.source for pair in data.splits[split]])
            metrics[split] = translation_metrics(outputs, [pair.target for pair in data.splits[split]], tokenizer)
    write_whole(folder / "metrics.json", cli.as_json(metrics))
    rows = [[name, *(metrics[split][name] for split in metrics)] for name in metrics["validation"] if name != "bleu_signature"]
    print("\n" + cli.table(rows, ["metric", *metrics]))
    print(f"BLEU signature {metrics['validation']['bleu_signature']}\n")
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.translation.evaluate", allow_abbrev=False)
    parser.add_argument("export", help="a version folder, or the folder above it for the newest version")
    parser.add_argument("--data", required=True, help="as in training")
    parser.add_argument("--source-lang", help="default: that of the export")
    parser.add_argument("--target-lang", help="default: that of the export")
    parser.add_argument("--source-column", default=None, help="as in training")
    parser.add_argument("--target-column", default=None, help="as in training")
    parser.add_argument("--split", default=None, help=SPLIT_HELP)
    parser.add_argument(
        "--bleu-tokenize", default="auto", choices=BLEU_TOKENIZERS, help="sacreBLEU's; auto: by the target language"
    )
    parser.add_argument("--errors", type=Path, help="write what isn't translated as in the reference to this .csv or .jsonl")
    arguments = parser.parse_args()
    if arguments.errors:
        check_output("--errors", arguments.errors, overwrite=True)
    served = load_export(arguments.export, "translation")
    languages = languages_of(arguments.export, arguments.source_lang, arguments.target_lang)
    tokenizer = bleu_tokenizer(arguments.bleu_tokenize, languages[1])
    columns = (arguments.source_column, arguments.target_column)
    load = partial(load_translations, arguments.data, *languages, columns=columns)
    data, split = choose_split(load, arguments.data, arguments.split)
    warn_of_training_rows(arguments.export, data.rows(split), split)
    pairs = data.splits[split]
    translations = translate_all(served, [pair.source for pair in pairs], progress=sys.stderr.isatty())
    metrics = translation_metrics(translations, [pair.target for pair in pairs], tokenizer)
    print(cli.table([[name, value] for name, value in metrics.items()], ["metric", split]))
    if arguments.errors:
        found = errors(pairs, translations, tokenizer)
        write_rows(arguments.errors, found, ERROR_COLUMNS)
        print(f"\n{len(found):,} errors  {arguments.errors}")
    print(cli.as_json({"split": split, **metrics}))


if __name__ == "__main__":
    cli.run(main)
