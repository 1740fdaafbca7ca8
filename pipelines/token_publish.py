"""The end of a tokenizing run: counts, the token table, its record; and whether there is anything to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.output import storage_error
from pipelines.run import now, versions
from schemas import files
from schemas.errors import RequestError
from schemas.fingerprint import sha256_bytes
from schemas.tokens import RECORD, SPLITS, TABLE, TOKENIZER, read_record, table_bytes

UNKNOWN = 1


def check_output(url: str, spec: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether ``url`` lacks the token table that ``spec`` describes.

    With ``overwrite`` one that is there is removed, its record first, so that a killed run leaves none.
    Raises RequestError where another one is there.
    """
    record = read_record(url)
    if overwrite:
        _remove(url)
        return True
    if record is None:
        return True
    if record["spec"] != spec:
        raise RequestError(
            f"{url!r} holds another token table ({_difference(record['spec'], spec)}); "
            "expected the same request, a new --output or --overwrite"
        )
    return False


def publish(
    url: str, rows: Sequence[Mapping[str, Any]], tokenizer: Mapping[str, bytes], record: dict[str, Any]
) -> None:
    """Write the tokenizer's files, the table and, last, the record. Raises SystemicError."""
    data = table_bytes(rows, record["tokenizer"]["fingerprint"])
    record = {**record, "sha256": sha256_bytes(data), "bytes": len(data)}
    try:
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
    """Everything that ``record.json`` says except the table's hash."""
    return {
        "format": "captionbeam tokens",
        "spec": dict(spec),
        "versions": versions(),
        "finished": now(),
        "tokenizer": dict(tokenizer),
        "splits": {split: count_split(row for row in rows if row["split"] == split) for split in SPLITS},
        "left_out": dict(left_out),
    }


def count_split(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Images, captions, tokens (START and END not counted), the longest, those cut, the share of UNK."""
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


def _remove(url: str) -> None:
    for name in (RECORD, TABLE, TOKENIZER):
        fs, path = files.split(files.join(url, name))
        if fs.exists(path):
            fs.rm(path, recursive=True)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What the table that is there was made with, where that differs."""
    options = {name: value for name, value in old["options"].items() if new["options"].get(name) != value}
    said = [f"{name.replace('_', ' ')} {value}" for name, value in options.items()]
    return ", ".join(said + ["other captions"] * (old["captions"] != new["captions"]))
