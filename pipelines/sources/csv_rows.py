"""Rows of CSV and TSV, strictly: a quote that does not end is an error, and no value that holds the rows after it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

_EXPECTED = "expected a value that begins with a quote to end with one, and quotes inside it doubled"


def read_csv(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each row but blank ones, with the number of its first line, from 1.

    ``lines`` keep their ends: a quoted value may span several. Raises csv.Error, which names the row's first line.
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
