"""From pairs of sentences to batches, and what is wrong with files."""

import gzip

import numpy as np
import pytest
import tensorflow as tf

from data_pipelines.batching import bucket_boundaries
from data_pipelines.embedded.translations import LANGUAGES, TEMPLATES, embedded_translations
from data_pipelines.sources import DataError
from data_pipelines.translations import (
    MODEL_TYPES,
    Pair,
    Translations,
    Vocabularies,
    encode,
    load_translations,
    training_pairs,
    translation_batches,
)
from data_pipelines.vocabulary import BOS, EOS, PADDING, load_or_train

PAIRS = [Pair(*pair) for pair in embedded_translations("en", "de")["train"][:300]]


def write(folder, **files):
    for name, lines in files.items():
        text = "\n".join(lines) + "\n"
        path = folder / name.replace("_", ".")
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return folder


def fails(source, *parts, languages=("en", "de")):
    with pytest.raises(DataError) as caught:
        load_translations(str(source), *languages)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# -- sources


def test_parallel_files_by_line_and_gzip(tmp_path):
    write(tmp_path, train_en=["a b", "", "c"], train_de=["x y", "z", "w"], val_en_gz=["d"], val_de_gz=["v"])
    data = load_translations(str(tmp_path), "en", "de")
    assert data.splits == {"train": [Pair("a b", "x y"), Pair("c", "w")], "validation": [Pair("d", "v")]}
    assert data.empty_pairs == {"train": 1, "validation": 0}
    assert data.summary() == {"examples": "2 train, 1 validation", "empty pairs": "1 in train, skipped"}
    assert load_translations(str(tmp_path), "de", "en").splits["validation"] == [Pair("v", "d")]


def test_one_table_with_a_column_for_each_language(tmp_path):
    rows = [f"s{i}\tt{i}" for i in range(20)]
    write(tmp_path, pairs_tsv=["en\tfr", *rows])
    splits = load_translations(str(tmp_path / "pairs.tsv"), "fr", "en").splits
    assert {name: len(pairs) for name, pairs in splits.items()} == {"train": 16, "validation": 2, "test": 2}
    assert all(pair.source == pair.target.replace("s", "t") for pairs in splits.values() for pair in pairs)
    fails(tmp_path / "pairs.tsv", "row 1: no column 'de'", languages=("en", "de"))


def test_files_that_can_not_be_used(tmp_path):
    write(tmp_path, train_en=["a", "b"], train_de=["x", "y", "z"])
    fails(tmp_path, "train.en has 2 lines and train.de 3")
    write(tmp_path, train_de=["x", "y"], val_en=["c"])
    fails(tmp_path, "the validation split has no .de file")
    (tmp_path / "val.de").write_bytes(b"gr\xfc\xdf")
    fails(tmp_path, "val.de: row 1: not UTF-8")
    fails("embedded", "the language is 'pt'; expected one of", languages=("en", "pt"))
    fails(tmp_path / "none", "no such file")
    (tmp_path / "one.tsv").write_text("en\tde\na\tb\n")
    fails(tmp_path / "one.tsv", "the validation split has no examples to use. Add some; validation and test, where", "takes 10")
    write(tmp_path, train_en=["", ""], train_de=["x", "y"], val_en=["c"], val_de=["d"])
    fails(tmp_path, "the train split has no examples to use")


@pytest.mark.parametrize("name", ["", "Books.en-fr", "Books.en-fr.en", "Books.en-fr.fr.gz"])
def test_a_pair_of_files_of_any_name(tmp_path, name):
    (tmp_path / "README").write_text("OPUS")
    (tmp_path / "Books.en-fr.en").write_text("".join(f"s{i}\n" for i in range(20)))
    (tmp_path / "Books.en-fr.fr.gz").write_bytes(gzip.compress("".join(f"t{i}\n" for i in range(20)).encode()))
    splits = load_translations(str(tmp_path / name), "fr", "en").splits
    assert {split: len(pairs) for split, pairs in splits.items()} == {"train": 16, "validation": 2, "test": 2}
    assert all(pair.source == pair.target.replace("s", "t") for pairs in splits.values() for pair in pairs)
    assert len(load_translations(str(tmp_path / name), "en", "fr", whole=True).splits["all"]) == 20
    (tmp_path / "Books.en-fr.en").write_text("one\n")
    fails(tmp_path / name, "Books.en-fr.en has 1 lines and Books.en-fr.fr.gz 20", languages=("en", "fr"))


def test_several_pairs_of_files_are_not_chosen_between(tmp_path):
    for name in ("a.en", "a.de", "b.en", "b.de"):
        (tmp_path / name).write_text("x\n")
    fails(tmp_path, "several pairs of files: a, b. Pass one of them")
    assert load_translations(f"{tmp_path}/b", "en", "de", whole=True).splits == {"all": [Pair("x", "x")]}


def test_tatoebas_pairs_have_no_header(tmp_path):
    (tmp_path / "deu.txt").write_text("".join(f"s{i}\tt{i}\tCC-BY 2.0 (France)\n" for i in range(20)))
    splits = load_translations(str(tmp_path / "deu.txt"), "en", "de").splits
    assert sorted(splits["train"] + splits["validation"] + splits["test"]) == sorted(Pair(f"s{i}", f"t{i}") for i in range(20))
    back = load_translations(str(tmp_path / "deu.txt"), "de", "en", columns=("2", "1")).splits
    assert back["test"] == [Pair(*pair[::-1]) for pair in splits["test"]]


def test_rows_that_are_in_the_training_split_too_are_counted(tmp_path):
    (tmp_path / "p.tsv").write_text("en\tde\n" + "".join(f"s{i % 6}\tt{i % 6}\n" for i in range(60)))
    data = load_translations(str(tmp_path / "p.tsv"), "en", "de")
    counts = {name: len(set(data.splits[name])) for name in ("validation", "test")}
    assert data.seen_in_training() == {name: (count, count) for name, count in counts.items()}
    warning = f"{counts['validation']} of the {counts['validation']} different rows of 'validation' and {counts['test']} of"
    assert data.summary()["warning"].startswith(warning)
    assert load_translations("embedded", "en", "de").seen_in_training() == {}


def test_columns_of_other_names(tmp_path):
    (tmp_path / "p.csv").write_text("English words/sentences,French words/sentences\n" + "a,b\n" * 20)
    fails(tmp_path / "p.csv", "no column 'en' and 'fr'", "--source-column and --target-column", languages=("en", "fr"))
    columns = ("english words/sentences", "French words/sentences")
    assert set(load_translations(str(tmp_path / "p.csv"), "en", "fr", columns=columns).splits["train"]) == {Pair("a", "b")}
    (tmp_path / "q.jsonl").write_text('{"translation": {"en": "a", "fr": "b"}}\n' * 20)
    assert set(load_translations(str(tmp_path / "q.jsonl"), "fr", "en").splits["train"]) == {Pair("b", "a")}


def test_tfds_by_the_same_flag_offline(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict({"pt": tfds.features.Text(), "en": tfds.features.Text()})
    rows = [{"pt": f"p{i}", "en": f"e{i}"} for i in range(6)]
    split = {"train": rows[:4], "validation": rows[4:5], "test": rows[5:]}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="ted_pairs",
        version="1.0.0",
        features=features,
        split_datasets={name: tf.data.Dataset.from_generator(
            lambda part=part: iter(part), output_signature={k: tf.TensorSpec((), tf.string) for k in ("pt", "en")}
        ) for name, part in split.items()},
        config="pt_to_en",
        data_dir=tmp_path,
        disable_shuffling=True,
    )  # fmt: skip
    monkeypatch.setattr(tfds, "builder", lambda name: tfds.builder_from_directory(tmp_path / name / "1.0.0"))
    data = load_translations("tfds:ted_pairs/pt_to_en", "pt", "en")
    assert data.splits["train"] == [Pair(f"p{i}", f"e{i}") for i in range(4)]
    assert data.splits["test"] == [Pair("p5", "e5")]
    fails("tfds:ted_pairs/pt_to_en", "no language 'de'", languages=("en", "de"))


@pytest.mark.parametrize("languages", [("en", "de"), ("fr", "en")])
def test_embedded_pairs_are_many_distinct_and_the_same_each_time(languages):
    splits = embedded_translations(*languages)
    sources = [source for pairs in splits.values() for source, _ in pairs]
    assert len(sources) == len(set(sources)) == 6_000
    assert embedded_translations(*languages) == splits
    assert all(set(template) == set(LANGUAGES) for template in TEMPLATES)
    assert not any("{" in text or "\u202f" in text or "\xa0" in text for pairs in splits.values() for p in pairs for text in p)


def test_embedded_pairs_are_true():
    pairs = dict(pair for part in embedded_translations("en", "de", pairs=2_400).values() for pair in part)
    assert any("PM" in source and "PM" not in target for source, target in pairs.items())
    for source, target in pairs.items():
        if source.startswith("The town has "):
            number = source.split()[3]
            assert target == f"Die Stadt hat {number.replace(',', '.')} Einwohner."


# -- vocabularies


@pytest.mark.parametrize("tokens", MODEL_TYPES)
@pytest.mark.parametrize("joint", [False, True])
def test_texts_survive_the_way_to_ids_and_back(tokens, joint, tmp_path):
    size = {"words": 3000, "characters": 120}.get(tokens, 400)
    vocabularies = load_or_train(tmp_path, Vocabularies.load, lambda: Vocabularies.train(PAIRS, tokens, size, joint))
    assert vocabularies.joint is joint and vocabularies.target.size <= size
    texts = [pair.target for pair in PAIRS[:20]]
    ids = vocabularies.target.encode(tf.constant(texts))
    assert [text.decode() for text in vocabularies.target.detokenize(ids).numpy()] == texts
    assert int(tf.reduce_min(ids.flat_values)) > EOS
    again = load_or_train(tmp_path, Vocabularies.load, pytest.fail)
    assert again.joint is joint
    assert again.source.encode(tf.constant(["May 1"])).to_list() == vocabularies.source.encode(tf.constant(["May 1"])).to_list()


def test_a_vocabulary_that_can_not_be_learned_says_so():
    with pytest.raises(DataError, match="20 bpe pieces can't be learned"):
        Vocabularies.train(PAIRS, "bpe", 20, True)


# -- batches


@pytest.fixture(scope="module")
def encoded():
    vocabularies = Vocabularies.train(PAIRS, "bpe", 400, True)
    return encode(PAIRS, vocabularies, 30)


def rows(dataset):
    found = []
    for inputs, targets in dataset:
        for source, target, after in zip(inputs["source"].numpy(), inputs["target"].numpy(), targets.numpy()):
            assert len(source) == len(target) == len(after)
            found.append((source[source != PADDING].tolist(), target, after[after != PADDING].tolist()))
    return found


def test_long_pairs_are_skipped_and_counted(encoded):
    assert 0 < len(encoded.skipped) < 150
    assert int(encoded.source.nrows()) + len(encoded.skipped) == 300
    assert max(encoded.lengths) <= 30


def test_an_epoch_has_every_pair_once_with_its_target_shifted(encoded):
    boundaries = bucket_boundaries(encoded.lengths, 30, multiple=4)
    batches = translation_batches(encoded, max_tokens=256, boundaries=boundaries)
    found = rows(batches.dataset)
    assert len(list(batches.dataset)) == batches.steps_per_epoch
    wanted = list(zip(encoded.source.to_list(), encoded.target.to_list()))
    assert sorted((s, a) for s, _, a in found) == sorted(wanted)
    for _, target, after in found:
        assert target[0] == BOS and target[1 : len(after)].tolist() == after[:-1] and after[-1] == EOS


def test_training_batches_are_full_repeatable_and_can_be_continued(encoded):
    boundaries = bucket_boundaries(encoded.lengths, 30, multiple=4)

    def take(seed, start, count):
        options = {"max_tokens": 256, "boundaries": boundaries, "shuffle_seed": seed, "start_step": start}
        return [targets.numpy() for _, targets in translation_batches(encoded, **options).dataset.take(count)]

    widths = [next(boundary for boundary in boundaries if length <= boundary) for length in encoded.lengths]
    epoch = translation_batches(encoded, max_tokens=256, boundaries=boundaries, shuffle_seed=1).steps_per_epoch
    assert epoch == round(sum(1 / (256 // width) for width in widths))  # a row is that share of its batch
    first = take(1, 0, 40)
    assert {batch.shape for batch in first} <= {(256 // b, b) for b in boundaries}
    for a, b in zip(first[25:], take(1, 25, 15), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(first, take(2, 0, 40)))


def test_numbered_batches_tell_which_pair_each_row_is():
    pairs = [Pair(f"a dog sees {n}", f"ein hund sieht {n} " + "katzen " * (n % 7)) for n in range(40)]
    vocabularies = Vocabularies.train(pairs, "characters", 60, True)
    training = training_pairs(Translations({"train": pairs}, {"train": 0}), vocabularies, 50)
    references = training.targets(pairs)
    assert 0 < training.too_long == len(pairs) - len(references)
    batches = translation_batches(training.rows, max_tokens=200, boundaries=[20, 50], shuffle_seed=0, numbered=True)
    for inputs, targets in batches.dataset.take(20):
        for number, row in zip(inputs["example"].numpy(), targets.numpy()):
            ids = tf.ragged.constant([row[(row > 0) & (row != EOS)].tolist()])
            assert vocabularies.target.detokenize(ids).numpy()[0].decode().strip() == references[number].strip()
