"""Reads word vectors in the text format of word2vec and fastText: one word and its numbers per line.

An optional header line has two numbers (words and channels). Files are streamed, and only the requested words are
kept. Compressed files (.gz) are unpacked. Does not import torch.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import IO

import fsspec
import numpy as np

from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import sha256_file
from captionbeam.schemas.storage.object_stores import as_os_errors

BUFFER = 1 << 20
HEADER_DIGITS = 18
"""Longer numbers count nothing, and Python refuses to read very long ones."""


@dataclass(frozen=True)
class WordVectors:
    """Vectors ``rows`` float32 [n, E] of the tokens ``ids`` int64 [n]; ``asked`` tokens were looked up.

    ``sha256`` is that of the file.
    """

    ids: np.ndarray
    rows: np.ndarray
    asked: int
    sha256: str


def vectors_width(url: str) -> int:
    """Returns the number of channels of the vectors in the file ``url``. Raises RequestError."""
    with _opened(url) as lines:
        return _begin(url, lines)[0]


def read_vectors(url: str, vocabulary: Mapping[str, int]) -> WordVectors:
    """Returns the file's vectors for the words of ``vocabulary`` (word -> id); the first one if a word repeats.

    Raises RequestError if the line of such a word is malformed, or if no word has a vector.
    """
    wanted = {word.encode(): token for word, token in vocabulary.items()}
    found: dict[int, np.ndarray] = {}
    with _opened(url) as lines:
        width, begun = _begin(url, lines)
        for number, line in enumerate(chain(begun, lines), start=1):
            token = wanted.get(line.partition(b" ")[0])
            if token is not None and token not in found:
                row = _numbers(url, number, line, width)
                if row is not None:
                    found[token] = row
    if not found:
        raise RequestError(
            f"none of the {len(wanted):,} tokens has a vector in {url!r}; expected vectors of the captions' words"
        )
    ids, rows = np.array([*found], np.int64), np.stack([*found.values()])
    return WordVectors(ids, rows, len(wanted), sha256_file(url))


@contextmanager
def _opened(url: str) -> Iterator[IO[bytes]]:
    """Yields the decompressed lines."""
    try:
        with as_os_errors(url), fsspec.open(url, "rb", compression="infer") as stream:
            yield stream
    except (FileNotFoundError, IsADirectoryError) as err:
        raise RequestError(f"embeddings is {url!r}, which is no file; expected one of word vectors") from err
    except (gzip.BadGzipFile, EOFError, zlib.error) as err:
        raise RequestError(f"embeddings {url!r} cannot be unpacked ({err}); expected gzip") from err


def _begin(url: str, lines: IO[bytes]) -> tuple[int, list[bytes]]:
    """Returns the number of channels and the lines already read; a header is returned as an empty line."""
    first = lines.readline(BUFFER)
    fields = first.split()
    header = len(fields) == 2 and all(field.isdigit() and len(field) <= HEADER_DIGITS for field in fields)
    width = int(fields[1]) if header else len(fields) - 1
    if width < 2:
        raise RequestError(
            f"the first line of {url!r} is {first[:60]!r}; expected a word and its numbers, as word2vec's text"
        )
    if not header:
        return width, [first]
    row = lines.readline(BUFFER)
    values = len([*takewhile(_is_number, reversed(row.split()[1:]))])
    if values != width:
        raise RequestError(
            f"the first line of {url!r} promises {width} numbers a word, but the first word has {values}; "
            "expected as many"
        )
    return width, [b"", row]


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _numbers(url: str, number: int, line: bytes, width: int) -> np.ndarray | None:
    """Returns the vector of a line; None if the word contains a blank, which gives extra fields before the numbers."""
    fields = line.split()[1:]
    if len(fields) > width:
        return None
    try:
        row = np.array([float(field) for field in fields], np.float32)
        if len(row) != width:
            raise ValueError(f"{len(row)} of them")
        if not np.isfinite(row).all():
            raise ValueError("one is not finite in float32")
    except ValueError as err:
        raise RequestError(
            f"line {number} of {url!r} does not have {width} numbers ({err}); expected as many as the first"
        ) from err
    return row
