"""The small records that travel between steps and jobs.

They are NamedTuples with plain types, so that Beam codes them as rows: deterministic as keys, and small.
"""

from typing import NamedTuple, Optional
from urllib.parse import quote, unquote

from captionbeam.schemas.errors import is_transient

CONTENT_MARK = "sha256:"  # before a digest that was had by reading the content


class ImageRef(NamedTuple):
    """Where one image lies: a few dozen bytes, never the image itself.

    ``kind`` says how to read it, and gives the coordinates their meaning:

    ======== ============================ =============================== =====================================
    kind     offset                       length                          method, size, column
    ======== ============================ =============================== =====================================
    file     0                            bytes, or -1 where unknown      -
    zip      of the local header, bytes   compressed bytes                method (0, 8), bytes
    tar      of the data, bytes           bytes                           -
    parquet  row group                    row within the row group        size: bytes a row on average; column
    row      row in a features data file  -                               column: the image's own location
    array    row                          1                               column: dataset or member
    ======== ============================ =============================== =====================================

    ``digest``: of the file's content, where the listing has one. It brings copies together in the plan, which does
    not keep it; that they are copies is decided by their bytes.

    ``former``: the id that stores from before may have the same image under; '' where it is the same. A row under it
    is replaced, and copied if its content is the image's still.
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
    former: str = ""

    @property
    def expected_bytes(self) -> int:
        """Bytes in memory once it is read, as far as the listing says."""
        return max(0, self.size, self.length if self.kind in ("file", "zip", "tar") else 0)

    @property
    def location(self) -> str:
        """One string that finds the image again, in fsspec's chained form where it has one."""
        if self.kind in ("zip", "tar"):
            return f"{self.kind}://{self.image_id}::{self.uri}"
        if self.kind == "parquet":
            return f"{self.uri}#row_group={self.offset}&row={self.length}&column={self.column}"
        if self.kind == "array":
            return f"{self.uri}#{f'dataset={self.column}&' if self.column else ''}row={self.offset}"
        return self.column if self.kind == "row" else self.uri


class Shard(NamedTuple):
    """The unit of work, by pointer: row group ``row_group`` of the plan file ``plan`` holds its references.

    ``follows``: it goes on in the large row group of a source that the shard before it ends in.
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


class ShardReport(NamedTuple):
    """What became of one shard. ``fresh`` is False where its commit was there already."""

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
    """Names one row of a store: ``<shard>/12`` for a row of data, ``<shard>/f3`` for a failure."""
    return f"{shard}/{'f' if failed else ''}{row}"


def parse_address(text: str) -> tuple[str, int, bool]:
    """Shard, row and whether it is a failure: what ``address`` put together."""
    shard, row = text.split("/")
    return shard, int(row.removeprefix("f")), row.startswith("f")


def named_place(place: str, former: str = "") -> str:
    """How ``replaces`` names a row: by its address, and by its id where that is not its successor's."""
    return f"{place}={quote(former)}" if former else place


def named_ids(replaces: str, image_id: str) -> dict[str, str]:
    """The addresses that a reference's, or an index row's, ``replaces`` names, with the ids of these rows."""
    parts = [place.partition("=") for place in replaces.split(",") if place]
    return {place: unquote(former) or image_id for place, _, former in parts}


def named_places(replaces: str) -> set[str]:
    """The addresses that ``replaces`` names."""
    return set(named_ids(replaces, ""))


def superseded(code: str | None, replaces: set[str]) -> set[str]:
    """Of the rows that an outcome replaces, those that are no longer live because of it.

    ``code`` is the outcome's failure code, or None. A transient failure ends earlier failures only.
    """
    if code is None or not is_transient(code):
        return replaces
    return {place for place in replaces if parse_address(place)[2]}
