"""Removes images and their captions physically from a token table."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from captionbeam.pipelines.tokens.publish import count_split
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.formats.tokens import RECORD, SPLITS, TABLE, TokenTable, table_bytes
from captionbeam.schemas.match_ids import match_images
from captionbeam.schemas.storage import files


def purge_tokens(url: str, ids: Collection[str]) -> set[str]:
    """Removes the images ``ids`` from the token table at ``url``. Returns the table's ids of the removed images.

    Ids are matched as in training: by id, else by unique base name. The table is replaced atomically, then its
    record; an interrupted purge can be run again. Words that occur only in the removed captions stay in the
    tokenizer. Raises StoreError.
    """
    table = TokenTable.open(url)
    gone = set(match_images(ids, table.rows).values())
    rows = [row for row in table.table.to_pylist() if row["image_id"] not in gone]
    data = table_bytes(rows, table.record["tokenizer"]["fingerprint"])
    if not gone and table.sha256 == sha256_bytes(data):
        return gone
    splits = {split: _counts(table, rows, split) for split in SPLITS}
    record = {**table.record, "splits": splits, "sha256": sha256_bytes(data), "bytes": len(data)}
    files.write_atomic(files.join(url, TABLE), data)
    files.write_atomic(files.join(url, RECORD), files.json_bytes(record))
    return gone


def _counts(table: TokenTable, rows: list[dict[str, Any]], split: str) -> dict[str, Any]:
    """Returns a split's counts. The number of cut captions is kept, because it cannot be determined from the table."""
    cut = table.record["splits"][split]["cut"]
    return {**count_split({**row, "cut": 0} for row in rows if row["split"] == split), "cut": cut}
