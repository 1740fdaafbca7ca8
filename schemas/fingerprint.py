"""Specifications as records, their hashes and differences; hashes of files.

A specification is a frozen dataclass of everything that determines a result. Its record, and so its fingerprint,
leaves out each field whose value is the field's default, so a field that is added later changes no fingerprint. For
that, the default of such a field never changes (tests/capmodel/test_specs.py). A field without a constant default, or
with a ``default_factory``, is always in the record.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, TypeVar

import fsspec

from captionbeam.schemas.errors import RequestError

T = TypeVar("T")
OPTIONS = ("decode",)
"""Parts of specifications whose fields are options of the same names."""
UNNAMED = "captions"
"""The column of a prompt without a name."""
SHOWN = 60  # characters of a value in a difference


def spec_of(spec: Any) -> dict[str, Any]:
    """Returns the record of a dataclass: plain JSON values, without fields at their defaults, nested ones likewise."""
    values = {field.name: (getattr(spec, field.name), field.default) for field in dataclasses.fields(spec)}
    return {name: _plain(value) for name, (value, default) in values.items() if value != default}


def from_spec(cls: type[T], record: Mapping[str, Any]) -> T:
    """Returns the dataclass of a record that ``spec_of`` made.

    Raises RequestError for a field that ``cls`` does not have, or that the record lacks.
    """
    hints, fields = typing.get_type_hints(cls), dataclasses.fields(cls)  # type: ignore[arg-type]
    if unknown := sorted(record.keys() - {field.name for field in fields}):
        raise RequestError(
            f"{cls.__name__} has {', '.join(unknown)}, which this captionbeam does not know: upgrade it"
        )
    try:
        return cls(**{name: _read(hints[name], value) for name, value in record.items()})
    except TypeError as err:
        raise RequestError(f"{cls.__name__} is incomplete ({err}); expected it as written") from err


def complete(cls: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record of ``cls`` with the defaults of the fields that it leaves out, nested ones likewise."""
    hints, values = typing.get_type_hints(cls), dict(record)
    for field in dataclasses.fields(cls):
        if field.name not in values and field.default is not dataclasses.MISSING:
            values[field.name] = _plain(field.default)
        inner = _dataclass_of(hints[field.name])
        if inner is not None and isinstance(values.get(field.name), Mapping):
            values[field.name] = complete(inner, values[field.name])
    return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return spec_of(value)
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _read(hint: Any, value: Any) -> Any:
    inner = _dataclass_of(hint)
    if inner is not None and isinstance(value, Mapping):
        return from_spec(inner, value)
    return tuple(value) if isinstance(value, list) else value


def _dataclass_of(hint: Any) -> Any:
    """Returns the dataclass of a type ``D`` or ``D | None``; None for other types."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)


def fingerprint(spec: Mapping[str, Any]) -> str:
    """Returns 32 hexadecimal digits of the SHA-256 of ``spec`` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the differences of two specifications as (name, old, new), sorted by name.

    Nested names are joined with a dot (``a.b``), those of ``OPTIONS`` are flags, and prompts have their own; hashes are
    shortened, and texts in quotes.
    """
    before, after = dict(_flat(old)), dict(_flat(new))
    return [
        (_named(name), _shown(before.get(name), _is_text(name)), _shown(after.get(name), _is_text(name)))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any], most: int = 3) -> str | None:
    """Describes the first ``most`` differences, such as ``output pooled, not grid``; None if both are equal."""
    found = changes(theirs, ours)
    said = [f"{_in_words(name)} {old}, not {new}" for name, old, new in found[:most]]
    return "; ".join(said) + (f"; {len(found) - most} more" if len(found) > most > 1 else "") or None


def _named(name: str) -> str:
    group, _, inside = name.rpartition(".")
    if group in OPTIONS:
        return f"--{inside.replace('_', '-')}"
    if not _is_of_prompt(name):
        return name
    column = group.partition(".")[2]
    prompt = "the prompt" if column == UNNAMED else f"the prompt {column}"
    return prompt if inside == "text" else f"{inside} of {prompt}"


def _in_words(name: str) -> str:
    return name if " " in name else name.replace("_", " ")


def _is_of_prompt(name: str) -> bool:
    return name.startswith("prompts.") and name.count(".") == 2


def _is_text(name: str) -> bool:
    """Returns whether a part of a specification is what a model is told."""
    return name == "system" or (_is_of_prompt(name) and name.endswith(".text"))


def _flat(spec: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in spec.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _shown(value: Any, is_text: bool) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    text = "none" if value is None else str(value)
    is_hash = len(text) >= 32 and set(text) <= set("0123456789abcdef")
    if is_hash:
        return text[:12]
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return repr(shown) if is_text and value else shown


def sha256_bytes(data: bytes) -> str:
    """Returns the SHA-256 of ``data`` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_stream(stream: BinaryIO, block: int = 1 << 20) -> str:
    """Returns the SHA-256 of the rest of ``stream`` in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := stream.read(block):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_file(url: str) -> str:
    """Returns the SHA-256 of the file at a path or fsspec URL in hexadecimal."""
    with fsspec.open(url, "rb") as stream:
        return sha256_stream(stream)
