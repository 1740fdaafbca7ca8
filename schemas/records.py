"""The small records that are passed between steps and jobs.

They are NamedTuples of plain types, so Beam encodes them as rows: compact, and deterministic as keys.
"""

from typing import NamedTuple, Optional

from captionbeam.schemas.errors import is_transient

CONTENT_MARK = "sha256:"  # prefix of digests computed from the content itself


class ImageRef(NamedTuple):
    """Reference to one image: a few dozen bytes, without the image's content.

    ``kind`` determines how the image is read and what the coordinates mean:

    ======== ============================ =============================== =====================================
    kind     offset                       length                          method, size, column
    ======== ============================ =============================== =====================================
    file     row in its list from 1, or 0 bytes, or -1 if unknown         column: its list, of several in a source
    zip      of the local header, bytes   compressed bytes                method (0, 8), bytes
    tar      of the data, bytes           bytes                           -
    parquet  row group                    row within the row group        size: average bytes per row; column
    row      row in a features data file  -                               column: the image's own location
    array    row                          1                               column: dataset or member
    ======== ============================ =============================== =====================================

    ``digest``: content digest, if the listing has one. The planner uses it to put likely duplicates into one shard
    and does not store it. Duplicates are confirmed by comparing their bytes.

    ``replaces``: addresses of the store's rows that the image's new row supersedes, joined with commas.

    ``columns``: the values of the kept columns that stand beside the image in its source, as text
    (``captionbeam.schemas.formats.kept``); '' if there are none.
    """

    image_id: str
    uri: str
    source: str
    version: Optional[str]
    kind: str = "file"
    offset: int = 0
    length: int = -1
    method: int = 0
    size: int = -1
    column: str = ""
    replaces: str = ""
    digest: str = ""
    columns: str = ""

    @property
    def expected_bytes(self) -> int:
        """Expected size in memory after reading, in bytes, as far as the listing gives it."""
        return max(0, self.size, self.length if self.kind in ("file", "zip", "tar") else 0)

    @property
    def location(self) -> str:
        """One string that identifies the image, in fsspec's chained URL form where possible."""
        if self.kind in ("zip", "tar"):
            return f"{self.kind}://{self.image_id}::{self.uri}"
        if self.kind == "parquet":
            return f"{self.uri}#row_group={self.offset}&row={self.length}&column={self.column}"
        if self.kind == "array":
            return f"{self.uri}#{f'dataset={self.column}&' if self.column else ''}row={self.offset}"
        return self.column if self.kind == "row" else self.uri


class Shard(NamedTuple):
    """The unit of work. Its references are row group ``row_group`` of the plan file ``plan``.

    ``follows``: the shard continues in the same large row group of a source in which the previous shard ends.
    """

    shard_id: str
    plan: str
    row_group: int
    images: int
    follows: bool = False


class Failure(NamedTuple):
    """One image that could not be processed."""

    image_id: str
    uri: str
    version: Optional[str]
    source: str
    stage: str
    code: str
    message: str
    replaces: str = ""
    columns: str = ""


class ShardReport(NamedTuple):
    """Result of one shard. ``fresh`` is False if its commit already existed."""

    shard_id: str
    rows: int
    failures: int
    bytes_written: int
    fresh: bool


class WrittenFile(NamedTuple):
    """One finished file of an attempt: base name, size in bytes, SHA-256 in hexadecimal, rows."""

    name: str
    bytes: int
    sha256: str
    rows: int


def address(shard: str, row: int, failed: bool) -> str:
    """Returns the address of one row of a store: ``<shard>/12`` for a data row, ``<shard>/f3`` for a failure."""
    return f"{shard}/{'f' if failed else ''}{row}"


def parse_address(text: str) -> tuple[str, int, bool]:
    """Parses an ``address`` into shard, row, and whether it is a failure."""
    shard, row = text.split("/")
    return shard, int(row.removeprefix("f")), row.startswith("f")


def addresses_in(replaces: str) -> set[str]:
    """Returns the addresses in the ``replaces`` value of a reference or index row."""
    return {place for place in replaces.split(",") if place}


def superseded(code: str | None, replaces: set[str]) -> set[str]:
    """Returns the rows of ``replaces`` that a result supersedes.

    ``code`` is the result's failure code, or None for success. A transient failure supersedes earlier failures only.
    """
    if code is None or not is_transient(code):
        return replaces
    return {place for place in replaces if parse_address(place)[2]}
