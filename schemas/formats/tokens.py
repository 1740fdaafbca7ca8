"""The token table: one Arrow file with the captions of every image as text and token ids, stored with its tokenizer.

    TOKENS/tokenizer/   the tokenizer's folder
    TOKENS/tokens.arrow one row per image, sorted by image_id
    TOKENS/record.json  options, counts, SHA-256 of tokens.arrow; written last, it marks the table as complete

``image_id`` is the caption file's file name for the image, as in folders and zips of images, or else its id for it.
``captionbeam.schemas.match_ids.match_images`` matches these ids with those of a store. ``coco_id`` is the caption
file's own id (a COCO number as text), null if there is none. It need not be unique, since each COCO file may count
from zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.schemas import versions
from captionbeam.schemas.errors import StoreError
from captionbeam.schemas.formats.arrow import FINGERPRINT_KEY, SCHEMA_VERSION, check_version, stamp
from captionbeam.schemas.storage import files

TABLE, RECORD, TOKENIZER, LAUNCH = "tokens.arrow", "record.json", "tokenizer", "launch.json"
SPLITS = ("train", "val", "test")
ROWS_PER_BATCH = 16_384

TOKENS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("file_name", pa.string()),
        pa.field("coco_id", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("tokens", pa.list_(pa.list_(pa.int32())), nullable=False),
    ]
)


def table_bytes(rows: Sequence[Mapping[str, Any]], fingerprint: str) -> bytes:
    """Returns ``rows`` as an Arrow IPC file, sorted by image_id. ``fingerprint`` is the tokenizer's."""
    ordered = sorted(rows, key=lambda row: row["image_id"])
    schema = stamp(TOKENS, "tokens", fingerprint)
    target = pa.BufferOutputStream()
    with pa.ipc.new_file(target, schema) as writer:
        for start in range(0, len(ordered), ROWS_PER_BATCH):
            writer.write_batch(pa.RecordBatch.from_pylist(ordered[start : start + ROWS_PER_BATCH], schema))
    return bytes(target.getvalue())


@dataclass(frozen=True)
class TokenTable:
    """A token table opened for reading.

    ``table`` has the columns of TOKENS (``tokens``: START..END, unpadded), memory-mapped if local. ``record`` is the
    content of ``record.json``.
    """

    url: str
    record: Mapping[str, Any]
    table: pa.Table

    @classmethod
    def open(cls, url: str) -> TokenTable:
        """Opens the token table in the folder ``url``. Raises StoreError if it is missing or damaged."""
        record = read_record(url)
        if record is None:
            raise StoreError(
                f"{url!r} holds no token table; expected a folder that captionbeam tokenize wrote"
            )
        try:
            table = _read_table(files.join(url, TABLE))
        except (FileNotFoundError, pa.ArrowInvalid) as err:
            raise StoreError(
                f"{TABLE} in {url!r} cannot be read ({err}); tokenize again with --overwrite"
            ) from err
        check_version(table.schema.metadata, files.join(url, TABLE))
        if table.schema.metadata[FINGERPRINT_KEY].decode() != record["tokenizer"]["fingerprint"]:
            raise StoreError(f"{TABLE} in {url!r} was made with another tokenizer than {RECORD} says")
        return cls(url, record, table)

    @property
    def tokenizer_url(self) -> str:
        """URL of the tokenizer's folder."""
        return files.join(self.url, TOKENIZER)

    @property
    def sha256(self) -> str:
        """SHA-256 of the table file, which identifies its content."""
        return str(self.record["sha256"])

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row numbers in ``table`` by image id."""
        return {image_id: row for row, image_id in enumerate(self.table["image_id"].to_pylist())}

    def image_ids(self, split: str) -> list[str]:
        """Returns the sorted image ids of one split: ``train``, ``val`` or ``test``."""
        ids = self.table.filter(pc.equal(self.table["split"], split))["image_id"].to_pylist()
        return cast(list[str], ids)


def read_record(url: str) -> dict[str, Any] | None:
    """Returns the ``record.json`` of the token table at ``url``; None without a complete table. Raises StoreError."""
    try:
        record: dict[str, Any] = files.read_json(files.join(url, RECORD))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as err:
        raise StoreError(f"{RECORD} in {url!r} is not JSON: {err}") from err
    versions.check_version(record.get("version"), SCHEMA_VERSION, f"the token table {url!r}")
    return record


def _read_table(url: str) -> pa.Table:
    fs, path = files.split(url)
    source = pa.memory_map(path) if files.is_local(fs) else pa.BufferReader(fs.cat_file(path))
    return pa.ipc.open_file(source).read_all()
