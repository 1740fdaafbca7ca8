"""The request that made a store, as its snapshots record it, and how a refresh repeats it.

A snapshot's ``request`` is ``{"job", "options", "sources"}``: the non-default options that determine rows and values,
and each listed source with the options of its listing. Options that affect only how the work is done (shards, batches,
devices, runners, gates, storage options) are not included. A refresh uses the request as defaults for the user's
options.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any

from captionbeam.capmodel.specs import complete_spec
from captionbeam.jobs.options.shared import dests, require
from captionbeam.jobs.options.sources import PER_SOURCE, add_fetch_options, add_source_options
from captionbeam.jobs.ui.terminal import note, visible
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.schemas.store.layout import Snapshot

JOBS = ("encode", "caption", "refresh")
# If the user names one option of a group, the recorded ones of that group are ignored.
EXCLUSIVE = (
    {"bundle", "captioner"},
    {"sources", "features"},
    {"pooled", "logits", "layers"},
    {"uri_column", "bytes_column"},
)
PART = ("sample", "limit", "seed")  # options that select a part of the sources
HOW = {"fetch_timeout", "fetch_tries", "dedup_content"}  # options in these groups that do not affect rows
ELSEWHERE = {"sources", "output", "format", "precision"}  # recorded in other places
PATHS = ("bundle", "features", "reduce", "image_root")


def request_of(options: argparse.Namespace, work: Work) -> dict[str, Any]:
    """Returns the request that repeats a run of ``work``; empty for jobs that cannot be repeated."""
    if options.job not in JOBS:
        return {}
    usual, listing = _deciding(), dests(add_source_options).keys()
    changed = {
        name: _absolute(name, getattr(options, name))
        for name, value in usual.items()
        if hasattr(options, name) and getattr(options, name) != value
    }
    if options.sample == 1 and not options.limit and getattr(options, "method", None) != "sample":
        changed.pop("seed", None)
    making = {name: value for name, value in changed.items() if name not in listing or options.features}
    precision = complete_spec(work.spec).get("precision")
    if precision is not None and (work.kind == "captions" or not options.features):
        making["precision"] = precision
    own = {name: value for name, value in changed.items() if name in listing}
    recorded = dict(getattr(options, "listings", None) or [])
    sources = [{"source": name, **own, **recorded.get(name, {})} for name in work.names]
    return {"job": options.job, "options": making, "sources": sources}


def _deciding() -> dict[str, Any]:
    """Returns the options that determine rows and values, with a refresh's defaults."""
    from captionbeam.jobs.encode import add_encoder_options
    from captionbeam.jobs.options.captioners import add_captioner_options
    from captionbeam.jobs.options.decoding import add_decoding_options
    from captionbeam.jobs.options.features import add_features_source

    groups: tuple[Callable[[Any], None], ...] = (
        add_captioner_options,
        add_features_source,
        add_encoder_options,
        add_decoding_options,
        add_source_options,
    )
    found = {name: value for add in groups for name, value in dests(add).items()}
    return {name: value for name, value in found.items() if name not in HOW | ELSEWHERE}


def _absolute(name: str, value: Any) -> Any:
    """Returns paths as absolute ones."""
    if name in PATHS and value:
        return files.absolute(value)
    if name == "inventory":
        return [files.absolute(one) for one in value]
    if name == "weights" and value and os.path.exists(os.path.expanduser(value.partition("#")[0])):
        return files.absolute(value)
    if name == "captioner" and value:
        scheme, _, path = value.partition(":")
        return f"{scheme}:{files.absolute(path)}" if os.path.isdir(os.path.expanduser(path)) else value
    return value


def settle_store(options: argparse.Namespace) -> None:
    """Handles ``refresh STORE`` as ``refresh --output STORE``. Raises RequestError if no store is named."""
    alone = options.sources[0] if options.output is None and len(options.sources) == 1 else None
    if alone is not None and layout.snapshot_ids(files.absolute(alone)):
        options.output, options.sources = alone, []
        options.named -= {"sources"}
    if options.output is None:
        said = "no store is named" if alone is None else f"{alone!r} is not a store with a published snapshot"
        raise RequestError(f"{said}; expected --output STORE, or captionbeam refresh STORE")


def repeat_request(options: argparse.Namespace, newest: Snapshot | None) -> None:
    """Sets options from the ``newest`` snapshot's request unless the user named them, and prints them.

    Raises RequestError if the sources were listed with incompatible options, or if a store without a record needs more
    options.
    """
    if newest is None or options.ignore_record:
        return
    if not newest.request:
        _require_named(options, newest)
        return
    request = _beside_store(newest.request, options)
    named, recorded = set(options.named), dict(request["options"])
    kept = dict(_not_replaced(recorded, named, options))
    for name, value in kept.items():
        setattr(options, name, value)
    entries = _entries(options, request["sources"])
    whole = {name: value for name, value in _agreed(entries, named).items() if name not in PER_SOURCE}
    for name, value in whole.items():
        setattr(options, name, value)
    gone = named | _excluded(named)
    options.listings = [
        (entry["source"], {name: entry[name] for name in PER_SOURCE if name in entry and name not in gone})
        for entry in entries
    ]
    repeated = [] if named & {"sources", "features"} else [entry["source"] for entry in entries]
    options.sources = [entry["source"] for entry in entries]
    flags = [*_flags({**kept, **whole}), *repeated]
    if flags:
        say(options, f"as in the record of {options.output}: {shlex.join(flags)}")


def _beside_store(request: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Returns ``request`` for a store that was moved or copied: what lay beside it is taken from beside it now.

    Prints a note for each path that is not there: it stays the recorded one.
    """
    from captionbeam.pipelines.bulk.run import name_before, url_before

    now, before = files.absolute(options.output), url_before(files.absolute(options.output))

    def found(name: str, value: Any) -> Any:
        if before in ("", now) or name not in (*PATHS, "source") or not isinstance(value, str):
            return value
        other = name_before(value, before, now)
        if other and files.exists(other):
            return other
        if not (name in options.named or (name == "source" and "sources" in options.named)):
            note(
                f"{now} was made at {before}; no copy of {value} is beside it: {value} is used",
                options.dry_run,
            )
        return value

    return {
        "options": {name: found(name, value) for name, value in request["options"].items()},
        "sources": [
            {name: found(name, value) for name, value in entry.items()} for entry in request["sources"]
        ],
    }


def say(options: argparse.Namespace, line: str) -> None:
    """Prints a line; in a dry run on standard error, because standard output is JSON."""
    print(visible(line), file=sys.stderr if options.dry_run else sys.stdout, flush=True)


def repeat_limits(options: argparse.Namespace, newest: Snapshot) -> None:
    """Sets the read limits that all sources were listed with, unless the user changed them."""
    usual = dests(add_fetch_options)
    for name in usual.keys() - HOW:
        recorded = {entry.get(name, usual[name]) for entry in newest.request.get("sources", ())}
        if len(recorded) == 1 and getattr(options, name) == usual[name]:
            setattr(options, name, recorded.pop())


def _require_named(options: argparse.Namespace, newest: Snapshot) -> None:
    made = "encode: --encoder NAME, ..." if newest.kind == "features" else "caption: --bundle BUNDLE, ..."
    if "imported" in newest.spec:
        raise RequestError(
            f"the rows of {options.output} were imported as {newest.spec['imported']!r}; expected captionbeam "
            "import-features again"
        )
    require(
        bool(options.named & {"encoder", "bundle", "captioner", "features"}),
        f"{options.output} has no record of what made it; expected SOURCE and the options of captionbeam {made}",
    )


def _not_replaced(
    recorded: Mapping[str, Any], named: Set[str], options: argparse.Namespace
) -> Iterator[tuple[str, Any]]:
    """Yields the recorded options that the user's options do not replace."""
    from captionbeam.capmodel.generation.options import ONLY_OF
    from captionbeam.jobs.encode import add_network_options

    gone = {*named, *_excluded(named)}
    network = {*dests(add_network_options), "precision"}
    if "encoder" in named and options.encoder != recorded.get("encoder"):
        gone |= {*network, "reduce", "reduce_dim"} - {"precision"}
    models = named & {"bundle", "captioner"}
    if any(_absolute(name, getattr(options, name)) != recorded.get(name) for name in models):
        gone |= {"precision"}  # that of another model
    if "features" in named and "encoder" in recorded:
        gone |= network
    if "sources" in named and "features" in recorded:
        gone |= {"features", *PART}
    if "method" in named:
        gone |= {name for names in ONLY_OF.values() for name in names}
    return ((name, value) for name, value in recorded.items() if name not in gone and hasattr(options, name))


def _excluded(named: Collection[str]) -> set[str]:
    return {name for group in EXCLUSIVE if group & set(named) for name in group}


def _entries(options: argparse.Namespace, recorded: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the sources to list, with the options of their listing; a named source is listed completely."""
    from captionbeam.pipelines.sources.spec import source_name

    known = {str(entry["source"]): dict(entry) for entry in recorded}
    if options.features:
        return [{"source": name} for name in options.sources]
    if "sources" not in options.named:
        retired = {source_name(name) for name in options.retire}
        return [entry for name, entry in known.items() if name not in retired]
    found = []
    for name in map(source_name, options.sources):
        entry = known.get(name, {"source": name})
        found.append({key: value for key, value in entry.items() if key not in (*PART, "inventory")})
    return found


def _agreed(entries: Iterable[Mapping[str, Any]], named: Collection[str]) -> dict[str, Any]:
    """Returns the options that apply to the whole run. Raises RequestError if the entries differ."""
    usual = dests(add_source_options)
    entries, found = list(entries), {}
    for name in {name for entry in entries for name in entry} - {"source", *PER_SOURCE, *named}:
        values = {repr(entry.get(name, usual[name])): entry["source"] for entry in entries}
        if len(values) > 1:
            said = " and ".join(f"{source} with {value}" for value, source in list(values.items())[:2])
            flag = f"--{name.replace('_', '-')}"
            raise RequestError(
                f"the sources were listed with different {flag}: {said}; expected {flag} to be named, or one SOURCE"
            )
        found[name] = entries[0][name]
    return found


def _flags(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            yield flag
        elif isinstance(value, list):
            parts = [",".join(value)] if name == "layers" else value
            yield from (word for one in parts for word in (flag, one))
        else:
            yield from (flag, str(value))
