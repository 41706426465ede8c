"""Pre-trained vectors in every form, and what is said of those that can't be read."""

import gzip

import numpy as np
import pytest

from data_pipelines.sources import DataError
from data_pipelines.vectors import check_vectors, fill_vectors, vector_size

WORDS = ["", "", "the", "good", "paris", "unheard", "."]
GLOVE = "the 1 2 3\n. . . 7 8 9\ngood -0.5 1e-3 4\nParis 5 5 5\nparis 6 6 6\nGood 9 9 9\nthe 0 0 0\nat name@domain.com 1 1 1\n"
START = np.arange(21, dtype=np.float32).reshape(7, 3)
FILLED = START.copy()
FILLED[2], FILLED[3], FILLED[4] = (1, 2, 3), (-0.5, 1e-3, 4), (6, 6, 6)


def vectors(folder, name, content):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


@pytest.mark.parametrize(
    "name, content",
    [
        ("glove.txt", GLOVE),
        ("glove.txt.gz", GLOVE),
        ("wiki.vec", "8 3\n" + GLOVE.replace("\n", " \n")),  # fastText ends its lines with a space
        ("wiki.vec", ("8 3\r\n" + GLOVE.replace("\n", "\r\n"))),
    ],
)
def test_texts(tmp_path, name, content):
    path = vectors(tmp_path, name, content)
    filled, found = fill_vectors(path, WORDS, START)
    np.testing.assert_array_equal(filled, FILLED)
    assert found == 3 and START[2, 0] == 6  # the old array is as it was
    check_vectors(path, 3)
    with pytest.raises(DataError, match=r"vectors of 3; --embedding-size is 128\. Pass --embedding-size 3"):
        check_vectors(path, 128)
    check_vectors(None, 128)


def test_npz(tmp_path):
    words = np.array(["Paris", "paris", "the", "good"])
    np.savez(tmp_path / "a.npz", words=words, vectors=np.array([[5.0] * 3, [6] * 3, [1, 2, 3], [-0.5, 1e-3, 4]]))
    filled, found = fill_vectors(str(tmp_path / "a.npz"), WORDS, START)
    np.testing.assert_array_equal(filled, FILLED)
    assert found == 3 and vector_size(tmp_path / "a.npz") == 3


def test_another_letter_case_counts_only_where_the_word_itself_is_not_there(tmp_path):
    path = vectors(tmp_path, "a.txt", "GOOD 1 1\nGood 2 2\n")
    filled, found = fill_vectors(path, ["good"], np.zeros((1, 2)))
    assert filled.tolist() == [[1, 1]] and found == 1


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("a.txt", "the 1 2 3\ngood 1 2\n", "row 2: 2 numbers after the word; the first row says 3. Mend the row, or download"),
        ("a.txt", "the 1 2 3\ngood 0.1 0.2 0.3 0.4\n", "row 2: 4 numbers after the word; the first row says 3"),
        ("a.vec", "2 3\nthe 1 2 3\ngood 1 x 3\n", "row 3: not 3 finite numbers"),
        ("a.vec", "2 3\nthe 1 2 3\ngood 1 nan 3\n", "row 3: not 3 finite numbers"),
        ("a.txt", "", "row 1: neither a word with its numbers"),
        ("a.txt", b"PK\3\4 1 2 3", "row 1: neither a word with its numbers nor the header of a .vec. Pass a text"),
        ("a.npz", b"PK\3\4", "not an .npz of words and vectors"),
        ("a.vec.gz", None, "row 2: not readable"),
        ("none.txt", None, "no such file. Check the path given to --embeddings"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, content, reason):
    path = str(tmp_path / name)
    if content is not None:
        vectors(tmp_path, name, content)
    elif name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"the 1 2 3\n")[:-9])
    with pytest.raises(DataError) as caught:
        fill_vectors(path, WORDS, START)
    assert reason in str(caught.value) and "\n" not in str(caught.value) and name in str(caught.value)


def test_arrays_of_other_kinds(tmp_path):
    np.savez(tmp_path / "a.npz", words=np.array([1, 2]), vectors=np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"words \(2,\) of int64.*np.savez\(path, words="):
        vector_size(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", words=np.array(["a", "b"], object), vectors=np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"not an \.npz of words and vectors"):
        vector_size(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", words=np.array(["a"]), vectors=np.full((1, 3), np.inf))
    with pytest.raises(DataError, match="no finite rows"):
        vector_size(tmp_path / "c.npz")
