"""Where a text is cut into sentences, and which of their words are new."""

import pytest
import tensorflow as tf

from data_pipelines.sentences import MOST_SENTENCES, split_sentences
from data_pipelines.translations import Pair, Vocabularies


def cut(text, language="en"):
    return [sentence.decode() for sentence in split_sentences(tf.constant([text]), language).to_list()[0]]


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["It begins on Friday, July 3, 2026 at 3:05 PM.", "The town has 12,345 inhabitants."]),
        ("en", ["Dr. J. R. Smith paid 3.50 EUR to No. 5, St. Paul's Road.", "Why?", "No one knows."]),
        ("en", ['He said "Stop!" and left.', '"Why?"', "(Really.)", "End…", "So do I.", "He left."]),
        ("en", ["i like it.", "it is good"]),  # no capitals at all
        ("en", ["Hello!!!", "1 more."]),
        ("de", ["Am 3. März kam er.", "Er blieb bis 1990.", "Dann z. B. am 12. Mai ging er."]),
        ("en", ["Take 3.", "Then rest."]),
        ("de", ["Es kostet 3,50.", "Er kam um 15:05.", "(3. Mai) Ja."]),
        ("en", ["It is Tom's.", "He left."]),
        ("pt", ["Ele disse que não.", "Ela saiu."]),
        ("fr", ["Ils sont arrivés.", "Puis ils mangent."]),
        ("pl", ["Tak było.", "Potem poszedł."]),
        ("en", ["mr. smith left.", "he slept."]),
        ("ru", ["Он ушёл.", "Она осталась."]),
        ("hi", ["पहला वाक्य।", "दूसरा वाक्य।"]),
    ],
)
def test_a_text_is_cut_where_sentences_end(language, sentences):
    assert cut(" ".join(sentences), language) == sentences


def test_lines_and_scripts_without_spaces():
    assert cut("a line\nthat goes on\n\nand a heading\n \nEnd") == ["a line that goes on", "and a heading", "End"]
    assert cut("A line\r\nthat goes on\r\n\r\nEnd\r\n") == ["A line that goes on", "End"]
    assert cut('他说:"走。"然后。', "zh") == ['他说:"走。"', "然后。"]
    assert cut("彼は来た。「行こう！」終わり", "ja") == ["彼は来た。", "「行こう！」", "終わり"]


def test_odd_texts():
    assert cut("") == cut("  ") == cut("\u2029\u2028\n\n\x01") == [""]
    assert cut(b"\xff\xfe. A b.") == ["\ufffd\ufffd.", "A b."]
    assert cut("One is. " * (MOST_SENTENCES + 2)) == ["One is."] * (MOST_SENTENCES - 1) + ["One is. One is. One is."]
    assert split_sentences(tf.constant([], tf.string), "en").shape[0] == 0


@pytest.mark.parametrize("joint", [True, False])
def test_unknown_pieces_are_those_of_words_that_were_never_read(joint, tmp_path):
    sources = ["A dog runs in the rain (and-so).", "It doesn't matter.", "I saw an old woman.", "cafe\u0301 \ufb01sh"]
    Vocabularies.train([Pair(source, source.upper()) for source in sources], "bpe", 70, joint).save(tmp_path)
    vocabularies = Vocabularies.load(tmp_path)

    def unknown(text):
        pieces = vocabularies.source.tokenize(tf.constant([text]))
        return "".join(
            piece.decode().replace("▁", " ") if new else "-" * len(piece.decode())
            for piece, new in zip(pieces.values.numpy(), vocabularies.unknown(pieces).values.numpy())
        )

    assert unknown("A dog doesn't matter.") == "-" * 22
    assert unknown("A mat in dog").replace(" ", "-") == "---mat-------"  # all its letters are known, the word isn't
    assert set(unknown("cafe\u0301 caf\u00e9 \ufb01sh fish")) == {"-"}  # of one form
    assert unknown("A dog-at").replace(" ", "-") == "-------at"  # its neighbour is known
    assert unknown("") == "" and "狗" in unknown("A 狗")
