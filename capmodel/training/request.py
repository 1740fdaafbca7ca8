"""Validates a training request before any process starts. Does not import torch, so it is fast."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from captionbeam.capmodel.bundles.contents import (
    CARD,
    CONFIG,
    HISTORY,
    MODEL,
    TOKENIZER,
    Manifest,
    is_foreign_config,
    read_checked,
    read_manifest,
)
from captionbeam.capmodel.data.pairing import identity_of, pair
from captionbeam.capmodel.decoders import DecoderConfig
from captionbeam.capmodel.decoders.word_vectors import vectors_width
from captionbeam.capmodel.tokenizers import load_tokenizer
from captionbeam.capmodel.training.checkpoints import Checkpoints
from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.capmodel.training.warm_start import check_start, identity_of_start
from captionbeam.schemas import fingerprint
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import sha256_file
from captionbeam.schemas.formats.tokens import TABLE, TokenTable
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.layout import newest_snapshot
from captionbeam.schemas.store.reading import Store

OTHERS = (MODEL, TOKENIZER, HISTORY, CARD)  # files that every bundle has, besides CONFIG
WRITTEN = ("output", "checkpoints", "logs", "cache")


def resolve_options(
    wanted: Mapping[str, Any], workers: int, written: Sequence[str] = WRITTEN
) -> tuple[TrainOptions, bool]:
    """Returns the options with absolute locations and a pinned snapshot, and whether there is anything to do.

    ``wanted`` has TrainOptions' fields; ``snapshot``, ``checkpoints``, ``logs`` and ``embed_dim`` may be None.
    ``workers``: of all machines. ``written``: locations that are tested for write access. Raises RequestError,
    StoreError, BundleError.
    """
    store = Store.open(wanted["features"], wanted["snapshot"])
    wanted = {**wanted, "features": store.url, "snapshot": store.snapshot_id}  # STORE@prod may change later
    options = TrainOptions(**{**wanted, **_places(wanted), **_embeddings(wanted)})
    table = TokenTable.open(options.tokens)
    pair(store, table, options.max_missing)  # raises RequestError where too many images lack a half
    tokenizer = load_tokenizer(table.tokenizer_url)
    config = DecoderConfig.fit(options, store.shape, tokenizer)
    for name in ("output", "checkpoints"):
        _check_no_other(name, getattr(options, name))
    _check_output(options)
    if options.init is not None:
        _check_init(options, check_start(options.init, store.fingerprint, tokenizer, config))
    if _is_done(options, store, table, workers, config):
        return options, False
    for name in written:
        if (place := getattr(options, name)) is not None:
            files.check_writable(place)
    return options, True


def delete_run(options: TrainOptions) -> None:
    """Deletes the finished bundle, ``config.json`` first, and the checkpoints, so that the next run starts over."""
    for name in (CONFIG, *OTHERS):
        with suppress(FileNotFoundError):
            files.remove(files.join(options.output, name))
    Checkpoints(options.checkpoints, {}).clear()


def _check_no_other(name: str, url: str) -> None:
    if newest := newest_snapshot(url):
        raise RequestError(f"{name} is {url!r}, a store of {newest.kind}; expected another folder")
    if files.exists(files.join(url, TABLE)):
        raise RequestError(f"{name} is {url!r}, a token table; expected another folder")


def _check_output(options: TrainOptions) -> None:
    """Raises RequestError, BundleError if the output would overwrite files that are not of a known run."""
    if options.checkpoints == options.output:
        raise RequestError(f"checkpoints is {options.checkpoints!r}, the output; expected another folder")
    config = files.join(options.output, CONFIG)
    if files.exists(config):
        if is_foreign_config(files.read_bytes(config)):
            raise RequestError(
                f"output is {options.output!r}, whose {CONFIG} is not a bundle's; expected another folder"
            )
        return
    there = [name for name in OTHERS if files.exists(files.join(options.output, name))]
    if there and Checkpoints(options.checkpoints, {}).record() is None:
        raise RequestError(
            f"output is {options.output!r}, where {there[0]} is of no run that is known; expected another folder, or "
            "an empty one"
        )


def _check_init(options: TrainOptions, manifest: Manifest) -> None:
    """Raises BundleError if its weights are incomplete, RequestError if --restart would delete them."""
    assert options.init is not None
    (ours, output), (theirs, init) = files.split(options.output), files.split(options.init)
    same = type(ours) is type(theirs) and os.path.realpath(output) == os.path.realpath(init)
    if options.restart and same:
        raise RequestError(
            f"init is {options.init!r}, the output, which --restart takes away; expected another --output"
        )
    read_checked(options.init, manifest, MODEL)


def _places(wanted: Mapping[str, Any]) -> dict[str, str]:
    """Returns absolute folders; the default ones are beside the bundle."""
    output = files.absolute(wanted["output"])
    checkpoints = files.absolute(wanted["checkpoints"] or f"{output}-checkpoints")
    local = files.is_local(files.split(checkpoints)[0])
    beside = files.join(checkpoints, "logs") if local else f"{output.rsplit('/', 1)[-1]}-logs"
    logs = files.absolute(wanted["logs"] or beside)
    if not files.is_local(files.split(logs)[0]):
        raise RequestError(f"logs is {logs!r}; expected a local folder (TensorBoard appends to its files)")
    given = ("features", "tokens", *(name for name in ("init", "cache") if wanted.get(name)))
    read = {name: files.absolute(wanted[name]) for name in given}
    return {**read, "output": output, "checkpoints": checkpoints, "logs": logs}


def _embeddings(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the absolute URL of the word vectors and their number of channels. Raises RequestError."""
    if wanted.get("embeddings") is None:
        return {"embed_dim": wanted["embed_dim"] or TrainOptions.embed_dim}
    url, width = files.absolute(wanted["embeddings"]), vectors_width(wanted["embeddings"])
    if wanted["embed_dim"] not in (None, width):
        raise RequestError(
            f"embed-dim is {wanted['embed_dim']}, but the vectors in {url} have {width} channels; "
            "expected to leave it out"
        )
    return {"embeddings": url, "embed_dim": width}


def _is_done(
    options: TrainOptions, store: Store, table: TokenTable, workers: int, config: DecoderConfig
) -> bool:
    """Whether the bundle exists. Raises RequestError if it is another run's."""
    if options.restart or not files.exists(files.join(options.output, CONFIG)):
        return False
    manifest = read_manifest(options.output)
    checkpoints = Checkpoints(options.checkpoints, _identity(options, store, table, workers))
    record = checkpoints.record()
    if record is None or record["bundle"] not in (None, manifest.sha256):
        _check_bundle(options, store, table, manifest, config)
        return True
    checkpoints.check_same(record)
    return record["bundle"] is not None


def _identity(options: TrainOptions, store: Store, table: TokenTable, workers: int) -> dict[str, Any]:
    """Returns the part of a run's identity that is known before it starts."""
    precision = {} if options.precision == "auto" else {"precision": options.precision}
    steps, start = options.step_identity(workers), identity_of_start(options.init)
    vectors = {"embeddings": options.embeddings and sha256_file(options.embeddings)}
    return {**options.identity(), **identity_of(store, table), **start, **steps, **precision, **vectors}


def _check_bundle(
    options: TrainOptions, store: Store, table: TokenTable, manifest: Manifest, config: DecoderConfig
) -> None:
    """Raises RequestError if a bundle without checkpoints differs from this run, as far as its files show."""
    theirs = load_tokenizer(files.join(options.output, TOKENIZER)).fingerprint
    ours = load_tokenizer(table.tokenizer_url).fingerprint
    odd = fingerprint.difference(
        {
            "features": manifest.features,
            "tokenizer": theirs,
            **vars(DecoderConfig.from_dict(manifest.decoder)),
        },
        {"features": store.fingerprint, "tokenizer": ours, **vars(config)},
        most=1,
    )
    if odd:
        raise RequestError(
            f"{options.output} holds a bundle with {odd}; expected another --output (--restart writes over it)"
        )
