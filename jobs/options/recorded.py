"""What made a store, as its snapshots remember it, and how a refresh repeats it.

A snapshot's ``request`` is ``{"job", "options", "sources"}``: the options that decide which rows and values there are,
where they differ from the defaults, and each source that a run listed, with the options of its listing. What says
only how the work is done (shards, batches, devices, runners, gates, storage options) is not in it. A refresh takes the
request as defaults below what its user names.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from captionbeam.jobs.options.shared import dests, require
from captionbeam.jobs.options.sources import PER_SOURCE, add_fetch_options, add_source_options
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.schemas.store.layout import Snapshot

JOBS = ("encode", "caption", "refresh")
# Of one group only what the user named counts, where anything of it was named.
EXCLUSIVE = (
    {"bundle", "captioner"},
    {"sources", "features"},
    {"pooled", "logits", "layers"},
    {"uri_column", "bytes_column"},
)
PART = ("sample", "limit", "seed")  # which part of the sources is listed
HOW = {"fetch_timeout", "fetch_tries", "dedup_content"}  # of the groups that decide rows, what does not
ELSEWHERE = {"sources", "output", "format", "precision"}  # recorded by other means
PATHS = ("bundle", "features", "reduce", "image_root")


def request_of(options: argparse.Namespace, work: Work) -> dict[str, Any]:
    """What a run of ``work`` is to be repeated by; empty for jobs that repeat nothing."""
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
    if "precision" in work.spec and (work.kind == "captions" or not options.features):
        making["precision"] = work.spec["precision"]
    own = {name: value for name, value in changed.items() if name in listing}
    recorded = dict(getattr(options, "listings", None) or [])
    sources = [{"source": name, **own, **recorded.get(name, {})} for name in work.names]
    return {"job": options.job, "options": making, "sources": sources}


def _deciding() -> dict[str, Any]:
    """The options that decide rows and values, with a refresh's defaults."""
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
    """Paths as they are found from any folder."""
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
    """``refresh STORE`` is ``refresh --output STORE``. Raises RequestError where no store is named."""
    alone = options.sources[0] if options.output is None and len(options.sources) == 1 else None
    if alone is not None and layout.snapshot_ids(files.absolute(alone)):
        options.output, options.sources = alone, []
        options.named -= {"sources"}
    require(
        options.output is not None,
        "no store is named; expected --output STORE, or captionbeam refresh STORE",
    )


def repeat_request(options: argparse.Namespace, newest: Snapshot | None) -> None:
    """Fill in what made the store's ``newest`` snapshot, where the user has named nothing else, and say so.

    Raises RequestError where the sources were listed in ways that do not go together, and where a store without a
    record needs more than was named.
    """
    if newest is None or options.ignore_record:
        return
    if not newest.request:
        _require_named(options, newest)
        return
    named, recorded = set(options.named), dict(newest.request["options"])
    kept = dict(_not_replaced(recorded, named, options))
    for name, value in kept.items():
        setattr(options, name, value)
    entries = _entries(options, newest.request["sources"])
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


def say(options: argparse.Namespace, line: str) -> None:
    """Print a line; on standard error in a dry run, whose standard output is JSON alone."""
    print(line, file=sys.stderr if options.dry_run else sys.stdout, flush=True)


def repeat_limits(options: argparse.Namespace, newest: Snapshot) -> None:
    """The limits of what is read, where the user has left the defaults: as all sources were listed."""
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
    recorded: Mapping[str, Any], named: Collection[str], options: argparse.Namespace
) -> Iterator[tuple[str, Any]]:
    """The recorded options that hold beside those that the user named."""
    from captionbeam.capmodel.generation.options import ONLY_OF
    from captionbeam.jobs.encode import add_network_options

    gone = {*named, *_excluded(named)}
    network = {*dests(add_network_options), "precision"}
    if "encoder" in named and options.encoder != recorded.get("encoder"):
        gone |= {*network, "reduce", "reduce_dim"} - {"precision"}
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
    """The sources that are listed, each with the options of its listing; a named one is listed whole, and itself."""
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
    """What all entries say of the options that one run has once. Raises RequestError where they differ."""
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
