"""Publishes a tokenizing run: counts, token table and record. Also checks whether the table already exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from captionbeam.pipelines.bulk.run import versions
from captionbeam.pipelines.workers.output import storage_error
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.formats.arrow import SCHEMA_VERSION
from captionbeam.schemas.formats.tokens import (
    LAUNCH,
    RECORD,
    SPLITS,
    TABLE,
    TOKENIZER,
    read_record,
    table_bytes,
)
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.layout import now

UNKNOWN = 1


def check_output(url: str, spec: Mapping[str, Any], defaults: Mapping[str, Any], overwrite: bool) -> bool:
    """Returns whether ``url`` lacks the token table that ``spec`` describes.

    ``defaults`` are those of the spec's options. ``overwrite`` permits another table there, which stays until the new
    one is ready. Raises RequestError for another table without ``overwrite``, and for a folder with other content.
    """
    record = read_record(url)
    if record is None:
        _refuse_foreign(url)
        return True
    if overwrite:
        return True
    if record["spec"] != spec:
        raise RequestError(
            f"{url!r} holds another token table ({_difference(record['spec'], spec, defaults)}); "
            "expected the same request, a new --output or --overwrite"
        )
    return False


def publish(
    url: str, rows: Sequence[Mapping[str, Any]], tokenizer: Mapping[str, bytes], record: dict[str, Any]
) -> None:
    """Writes the tokenizer's files, the table and, last, the record. Raises SystemicError.

    Removes an earlier table's record first, so that an interrupted run never leaves an inconsistent table.
    """
    data = table_bytes(rows, record["tokenizer"]["fingerprint"])
    record = {**record, "sha256": sha256_bytes(data), "bytes": len(data)}
    try:
        _unpublish(url)
        for name, content in tokenizer.items():
            files.write_atomic(files.join(url, TOKENIZER, name), content)
        files.write_atomic(files.join(url, TABLE), data)
        files.write_atomic(files.join(url, RECORD), files.json_bytes(record))
    except OSError as err:
        raise storage_error(url, err) from err


def make_record(
    spec: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    left_out: Mapping[str, int],
) -> dict[str, Any]:
    """Returns the content of ``record.json``, except the table's hash and size."""
    return {
        "format": "captionbeam tokens",
        "version": SCHEMA_VERSION,
        "spec": dict(spec),
        "versions": versions(),
        "finished": now(),
        "tokenizer": dict(tokenizer),
        "splits": {split: count_split(row for row in rows if row["split"] == split) for split in SPLITS},
        "left_out": dict(left_out),
    }


def count_split(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns counts of images, captions, tokens (without START and END), cut captions and UNK."""
    images = captions = tokens = longest = unknown = cut = 0
    for row in rows:
        images += 1
        cut += row["cut"]
        for ids in row["tokens"]:
            captions += 1
            tokens += len(ids) - 2
            longest = max(longest, len(ids) - 2)
            unknown += ids.count(UNKNOWN)
    return {
        "images": images,
        "captions": captions,
        "tokens": tokens,
        "mean_tokens": round(tokens / captions, 3) if captions else 0.0,
        "longest": longest,
        "cut": cut,
        "unknown": unknown,
        "unknown_share": round(unknown / tokens, 6) if tokens else 0.0,
    }


def _unpublish(url: str) -> None:
    """Removes an earlier table's record, then its tokenizer, as another kind of tokenizer has other files."""
    if not files.exists(files.join(url, RECORD)):
        return
    for name in (RECORD, TOKENIZER):
        with suppress(FileNotFoundError):
            files.remove(files.join(url, name))


def _refuse_foreign(url: str) -> None:
    """Raises RequestError if the folder has other content (for example a bundle, which also contains a tokenizer)."""
    known = {TABLE, TOKENIZER, RECORD, LAUNCH}
    others = [name for name in files.names(url) if name not in known] if files.exists(url) else []
    if others:
        raise RequestError(f"{url!r} holds {others[0]!r}, and no token table; expected a new or empty folder")


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Describes the existing table's options that differ."""
    theirs, ours = ({**defaults, **spec["options"]} for spec in (old, new))
    options = {name: value for name, value in theirs.items() if value not in (None, ours.get(name))}
    texts = [f"{name.replace('_', ' ')} {value}" for name, value in options.items()]
    return ", ".join(texts + ["other captions"] * (old["captions"] != new["captions"]))
