"""Strict reading of CSV and TSV: an unclosed quote is an error instead of a value that swallows the following rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

_EXPECTED = "expected a value that begins with a quote to end with one, and quotes inside it doubled"


def read_csv(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yields each non-blank row with the number of its first line, counted from 1.

    ``lines`` keep their line ends, since a quoted value may span several lines. Raises csv.Error with the first line
    of the row.
    """
    reader = csv.reader(lines, delimiter=separator, strict=True)
    first = 1
    try:
        for values in reader:
            if values:
                yield first, values
            first = reader.line_num + 1
    except csv.Error as err:
        raise csv.Error(f"line {first} begins a row that cannot be read ({err}); {_EXPECTED}") from err
