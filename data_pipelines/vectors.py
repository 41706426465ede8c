"""Pre-trained word vectors: GloVe's `.txt`, word2vec's and fastText's `.vec` (gzip too), or an `.npz` of ours."""

import gzip
import itertools
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.remote import local
from data_pipelines.sources import DataError, check_zip


def vector_size(path: Path) -> int:
    """The length of the vectors of a file, by its beginning.

    Raises:
        DataError: it can't be read as vectors.
    """
    if path.suffix == ".npz":
        return _arrays(path)[1].shape[1]
    with _Lines(path) as lines:
        return lines.size


def check_vectors(path: str | None, embedding_size: int) -> None:
    """Refuse vectors of another size than the embedding, before anything is written.

    Raises:
        DataError: they are, or can't be read.
    """
    if path is not None and (size := vector_size(Path(local(path)))) != embedding_size:
        raise DataError(f"{path}: vectors of {size}; --embedding-size is {embedding_size}. Pass --embedding-size {size}.")


def fill_vectors(path: str, words: Sequence[str], embeddings: np.ndarray) -> tuple[np.ndarray, int]:
    """Embeddings with the vectors of the words that a file has; of other words they stay as they are.

    A word that the file has in another letter case only gets the first of these. Of a word that occurs twice the first counts.

    Args:
        path: of the vectors.
        words: of each row, "" where there is none.
        embeddings: (words, size).

    Returns:
        Embeddings, and how many words were found.

    Raises:
        DataError: the file or a line of it can't be read; vectors of another size.
    """
    check_vectors(path, embeddings.shape[1])
    places = {word: place for place, word in enumerate(words) if word}
    rank = np.zeros(len(words), int)  # 2: found as it is, 1: in another letter case
    embeddings = embeddings.copy()
    for word, vector in _vectors(Path(local(path)), places):
        exact = word in places
        place = places[word if exact else word.lower()]
        if rank[place] < 1 + exact:
            rank[place], embeddings[place] = 1 + exact, vector
    return embeddings, int((rank > 0).sum())


def _vectors(path: Path, places: dict[str, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Of the words that are among `places` as they are or in lower case."""
    if path.suffix == ".npz":
        words, vectors = _arrays(path)
        for i, word in enumerate(words.tolist()):
            if word in places or word.lower() in places:
                yield word, vectors[i]
        return
    with _Lines(path) as lines:
        for number, line in lines:
            token, numbers = lines.cut(number, line)
            word = token.decode("utf-8", "replace")
            if word in places or word.lower() in places:
                yield word, lines.parse(number, numbers)


class _Lines:
    """The lines of a text of vectors, one by one: such files have gigabytes.

    A line is a token and its numbers, separated by spaces. The token may hold spaces itself, as some of glove.840B do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115
        except FileNotFoundError:
            raise DataError(f"{path}: no such file. Check the path given to --embeddings.") from None
        except IsADirectoryError:
            raise DataError(f"{path}: is a folder. Pass a file of vectors, glove.6B.100d.txt say.") from None

    def __enter__(self) -> "_Lines":
        self.number = 1
        first = self._read()
        header = first.split()
        if len(header) == 2 and all(part.isdigit() for part in header):
            self.size, self.first = int(header[1]), []
            self.number = 2
        else:
            self.size, self.first = len(header) - 1, [first]
        if not 0 < self.size <= 100_000 or first.startswith((b"PK\x03\x04", b"\x1f\x8b")):
            self.file.close()
            raise self.error(
                1, "neither a word with its numbers nor the header of a .vec. Pass a text of vectors, unpacked or .gz, or an .npz"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def error(self, number: int, what: str) -> DataError:
        return DataError(f"{self.path}: row {number}: {what}.")

    def _read(self) -> bytes:
        try:
            return self.file.readline(10_000_000)
        except (OSError, EOFError, zlib.error) as error:
            self.file.close()
            raise self.error(self.number, f"not readable ({error}). Download the file again") from None

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        lines = itertools.chain(self.first, iter(self._read, b""))
        for number, line in enumerate(lines, start=self.number):
            self.number = number + 1
            if line := line.rstrip(b" \r\n"):
                yield number, line

    def cut(self, number: int, line: bytes) -> tuple[bytes, list[bytes]]:
        token, *numbers = line.rsplit(b" ", self.size)
        try:  # a number at the end of a token that holds spaces is one too many
            too_many = b"." in (last := token.rpartition(b" ")[2]) and last != token and float(last) == float(last)
        except ValueError:
            too_many = False
        if len(numbers) != self.size or too_many:
            count = len(line.split(b" ")) - 1
            raise self.error(
                number,
                f"{count} numbers after the word; the first row says {self.size}. Mend the row, or download the file again",
            )
        return token, numbers

    def parse(self, number: int, numbers: list[bytes]) -> np.ndarray:
        try:
            vector = np.array(numbers).astype(np.float32)
        except ValueError:
            vector = np.full(self.size, np.nan, np.float32)
        if not np.isfinite(vector).all():
            raise self.error(number, f"not {self.size} finite numbers after the word. Mend the row, or download the file again")
        return vector


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    remedy = 'Save it by np.savez(path, words=np.array(["the", …]), vectors=…), (words, size).'
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip(archive, path)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            words, vectors = file["words"], file["vectors"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the path given to --embeddings.") from None
    except DataError:
        raise
    except Exception as error:  # zipfile, NumPy
        raise DataError(f"{path}: not an .npz of words and vectors ({error}). {remedy}") from None
    if words.dtype.kind != "U" or vectors.dtype.kind != "f" or words.ndim != 1 or vectors.shape[:1] != words.shape:
        raise DataError(f"{path}: words {words.shape} of {words.dtype}, vectors {vectors.shape} of {vectors.dtype}. {remedy}")
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise DataError(f"{path}: the vectors {vectors.shape} are no finite rows. {remedy}")
    return words, vectors.astype(np.float32)
