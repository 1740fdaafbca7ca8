"""Reads a tokenizer's folder, and reports what is wrong with an invalid one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from captionbeam.capmodel.tokenizers.base import FORMAT, SPECIALS, VERSION, Tokenizer
from captionbeam.capmodel.tokenizers.bpe import BpeTokenizer
from captionbeam.capmodel.tokenizers.words import WORD_STYLES
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.storage import files
from captionbeam.schemas.versions import check_version

KINDS = ("bpe", "words", "whitespace")


def check_kind(kind: str) -> str:
    """Returns ``kind`` if it is a kind of tokenizer. Raises RequestError."""
    if kind not in KINDS:
        raise RequestError(f"no tokenizer is of kind {kind!r}; expected one of {', '.join(KINDS)}")
    return kind


def load_tokenizer(url: str) -> Tokenizer:
    """Loads the tokenizer in the folder ``url``, a path or fsspec URL. Raises RequestError if it is incomplete."""
    header = _read_header(url)
    contents = {"tokenizer.json": files.json_bytes(header)}
    for name in header["sha256"]:
        try:
            contents[name] = files.read_bytes(files.join(url, name))
        except FileNotFoundError as err:
            raise RequestError(f"the tokenizer {url!r} lacks its file {name!r}") from err
    return tokenizer_from_files(contents, url)


def tokenizer_from_files(contents: Mapping[str, bytes], name: str = "tokenizer") -> Tokenizer:
    """Builds the tokenizer from ``Tokenizer.to_files``; ``name`` is used in errors. Raises RequestError."""
    header = _check_header(json.loads(contents["tokenizer.json"]), name)
    for file_name, expected in header["sha256"].items():
        if sha256_bytes(contents[file_name]) != expected:
            raise RequestError(
                f"{file_name!r} of the tokenizer {name!r} is not the file that was saved: SHA-256 differs"
            )
    return _build(header, contents, name)


def _build(header: Mapping[str, Any], contents: Mapping[str, bytes], name: str) -> Tokenizer:
    vocab, kind = json.loads(contents["vocab.json"]), header["kind"]
    if tuple(vocab[: len(SPECIALS)]) != SPECIALS or len(vocab) != header["vocab_size"]:
        raise RequestError(
            f"the tokenizer {name!r} has a vocabulary of another layout; expected {SPECIALS} first"
        )
    if kind == "bpe":
        return BpeTokenizer(vocab, contents["codes.bpe"].decode(), header["max_length"], header["options"])
    return WORD_STYLES[kind](vocab, header["max_length"], header["options"])


def _read_header(url: str) -> dict[str, Any]:
    try:
        header = files.read_json(files.join(url, "tokenizer.json"))
    except FileNotFoundError as err:
        raise RequestError(f"{url!r} is not a tokenizer; expected a folder with tokenizer.json") from err
    except ValueError as err:
        raise RequestError(f"tokenizer.json in {url!r} is not JSON: {err}") from err
    return _check_header(header, url)


def _check_header(header: Any, name: str) -> dict[str, Any]:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise RequestError(f"tokenizer.json in {name!r} is not a tokenizer's; expected format {FORMAT!r}")
    check_version(header.get("version"), VERSION, f"the tokenizer {name!r}", RequestError)
    check_kind(header.get("kind", ""))
    if missing := {"max_length", "options", "vocab_size", "sha256"} - header.keys():
        raise RequestError(
            f"tokenizer.json in {name!r} lacks {', '.join(sorted(missing))}; expected it as saved"
        )
    needed = {"vocab.json", "codes.bpe"} if header["kind"] == "bpe" else {"vocab.json"}
    if set(header["sha256"]) != needed:
        raise RequestError(
            f"the tokenizer {name!r} names the files {sorted(header['sha256'])}; expected {sorted(needed)}"
        )
    return header
