"""Strict reading of CSV and TSV: a wrong quote is an error instead of a value that swallows the following rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence

from captionbeam.pipelines.sources.spec import is_image_name

_EXPECTED = "expected a value that begins with a quote to end with one, and quotes inside it doubled"
_LINE_END = re.compile(r"\r\n|\r|\n")
# Characters of one value: above an image in base64, yet an unclosed quote does not fill the memory.
_LONGEST = 1 << 26
csv.field_size_limit(max(_LONGEST, csv.field_size_limit()))


def read_csv(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yields each non-blank row with the number of its first line, counted from 1.

    ``lines`` keep their line ends, since a quoted value may span several lines. Raises csv.Error with the first line
    of the row, also for a quoted value with a line that looks like a row of the first row's length.
    """
    reader = csv.reader(lines, delimiter=separator, strict=True)
    first, columns = 1, 0
    try:
        for values in reader:
            columns = columns or len(values)
            if reader.line_num > first and (swallowed := _swallowed(values, columns, separator)):
                raise csv.Error(f"its quoted value has the line {swallowed[:80]!r}, which looks like a row")
            if values:
                yield first, values
            first = reader.line_num + 1
    except csv.Error as err:
        raise csv.Error(f"line {first} begins a row that cannot be read ({err}); {_EXPECTED}") from err


def _swallowed(values: Sequence[str], columns: int, separator: str) -> str:
    """Returns a line in one of the quoted ``values`` that has an image where the whole row has one; else ''."""
    images = [i for i, value in enumerate(values) if _is_image(value)]
    images = [i for i in images if not _LINE_END.search(values[i])] or images
    for i, value in enumerate(values):
        lines = _LINE_END.split(value)
        for number, line in enumerate(lines):
            # the line's values outside this quoted value: those before its start, those after its end
            before = i if number == 0 else 0
            after = len(values) - i - 1 if number == len(lines) - 1 else 0
            cells = line.split(separator)
            if len(lines) > 1 < len(cells) and before + len(cells) + after == columns:
                inside = [cells[k - before] for k in images if before <= k < before + len(cells)]
                if any(map(_is_image, inside)):
                    return line
    return ""


def _is_image(value: str) -> bool:
    return "://" in value or is_image_name(value.strip())
