"""The request that made a store, as its snapshots record it, and how a refresh repeats it.

A snapshot's ``request`` is ``{"job", "options", "sources"}``: the options of the role ``rows`` that are not at their
defaults, and each listed source with the options of its listing. Options that affect only how the work is done (shards,
batches, devices, runners, gates, storage options) are not included. A refresh uses the request as defaults for the
user's options.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from captionbeam.capmodel.specs import complete_spec
from captionbeam.jobs.options.encoders import EncoderOptions
from captionbeam.jobs.options.prompts import is_endpoint, named_text
from captionbeam.jobs.options.run import BulkCommand
from captionbeam.jobs.options.sources import ReadingOptions, SourceOptions
from captionbeam.jobs.ui.terminal import note, say, visible
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import Option, Role, changed, flag_of, options_of
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.jobs.refresh import Refresh
    from captionbeam.schemas.store.layout import Snapshot

R = TypeVar("R", bound=ReadingOptions)
MODELS = ("captioner", "score", "rerank", "encoder")
"""Options whose values are a scheme and a location, such as ``hf:PATH``."""
LISTING: tuple[Role, ...] = ("listing", "source", "part")


def request_of(options: BulkCommand, work: Work) -> dict[str, Any]:
    """Returns the request that repeats a run of ``work``; empty for commands that cannot be repeated."""
    if not isinstance(options, SourceOptions):
        return {}
    all_options = dict(_options(type(options)))
    values = {
        name: _absolute(name, all_options[name], value)
        for name, value in changed(options, ("rows", *LISTING)).items()
        if name != "sources"
    }
    draws = (
        getattr(options, "method", None) == "sample"
        or bool(getattr(options, "temperature", None))
        or is_endpoint(getattr(options, "captioner", None))
    )
    if options.lists_all and not draws:
        values.pop("seed", None)
    own = {name: value for name, value in values.items() if all_options[name].role in LISTING}
    making = (
        values if options.features else {name: value for name, value in values.items() if name not in own}
    )
    if draws and "seed" in values:
        making["seed"] = values["seed"]
    precision = complete_spec(work.spec).get("precision")
    if precision is not None and (work.kind == "captions" or not options.features):
        making["precision"] = precision
    recorded = dict(options.listings)
    sources = [{"source": name, **own, **recorded.get(name, {})} for name in work.names]
    return {"job": options.name, "options": making, "sources": sources}


def _options(owner: type) -> Iterator[tuple[str, Option]]:
    return ((field.name, found) for field, found in options_of(owner))


def _absolute(name: str, found: Option, value: Any) -> Any:
    """Returns paths as absolute ones; ``weights`` and those of MODELS may be a published name instead."""
    if not found.location or not value:
        return value
    if isinstance(value, tuple):
        return [
            f"{name}={files.absolute(rest)}" if name else files.absolute(rest)
            for name, rest in map(named_text, value)
        ]
    if name == "weights":
        return files.absolute(value) if os.path.exists(os.path.expanduser(value.partition("#")[0])) else value
    return absolute_model(value) if name in MODELS else files.absolute(value)


def absolute_model(value: str) -> str:
    """Returns a scheme and a location with the path of a folder as an absolute one; other values as they are."""
    scheme, _, path = value.partition(":")
    is_folder = scheme != "timm" and os.path.isdir(os.path.expanduser(path))
    return f"{scheme}:{files.absolute(path)}" if is_folder else value


def with_store(options: Refresh) -> Refresh:
    """Handles ``refresh STORE`` as ``refresh --output STORE``. Raises RequestError if no store is named."""
    if options.output is not None:
        return options
    alone = options.sources[0] if len(options.sources) == 1 else None
    if alone is not None and layout.snapshot_ids(files.absolute(alone)):
        return replace(options, output=alone, sources=(), given=options.named - {"sources"})
    said = "no store is named" if alone is None else f"{alone!r} is not a store with a published snapshot"
    raise RequestError(f"{said}; expected --output STORE, or captionbeam refresh STORE")


def repeat_request(options: Refresh, newest: Snapshot | None) -> Refresh:
    """Returns the options with those of the ``newest`` snapshot's request where the user named none; prints them.

    Raises RequestError if the sources were listed with incompatible options, or if a store without a record needs more
    options.
    """
    if newest is None or options.ignore_record:
        return options
    if not newest.request:
        _require_named(options, newest)
        return options
    request, named = _beside_store(newest.request, options), options.named
    kept = dict(_not_replaced(request["options"], options))
    options = replace(options, **kept, given=named)
    entries = _entries(options, request["sources"])
    whole = dict(_agreed(entries, named))
    gone = named | _replaced(named)
    listings = [
        (
            entry["source"],
            {name: _value(entry[name]) for name in _per_source() if name in entry and name not in gone},
        )
        for entry in entries
    ]
    repeated = [] if named & {"sources", "features"} else [entry["source"] for entry in entries]
    shared = _shared([own for _, own in listings])
    said = [shlex.join([*_flags({**kept, **whole, **shared}), *repeated])]
    for source, own in listings:
        if flags := [*_flags({name: value for name, value in own.items() if name not in shared})]:
            said.append(f"{source} with {shlex.join(flags)}")
    if any(said):
        line = f"as in the record of {options.output}: {'; '.join(filter(None, said))}"
        say(visible(line), to_error=options.dry_run)
    sources = tuple(entry["source"] for entry in entries)
    others = "keep_columns" not in named and any(
        entry["source"] not in sources for entry in request["sources"]
    )
    return replace(options, **whole, sources=sources, listings=tuple(listings), others=others, given=named)


def repeat_limits(options: R, newest: Snapshot) -> R:
    """Returns the options with the read limits that all sources were listed with, unless the user changed them."""
    limits = {}
    for field, found in options_of(ReadingOptions):
        recorded = {entry.get(field.name, field.default) for entry in newest.request.get("sources", ())}
        if found.role == "listing" and len(recorded) == 1 and getattr(options, field.name) == field.default:
            limits[field.name] = recorded.pop()
    return replace(options, **limits)


def _shared(listings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the options that all of ``listings`` have with one value."""
    first, *others = listings or [{}]
    return {name: value for name, value in first.items() if all(own.get(name) == value for own in others)}


def source_flags(newest: Snapshot, source: str) -> list[str]:
    """Returns the recorded options that only the listing of ``source`` had, as words of a command line."""
    entries = [entry for entry in newest.request.get("sources", ()) if entry["source"] == source]
    own = {name: _value(entry[name]) for entry in entries for name in _per_source() if name in entry}
    return [*_flags(own)]


def _value(recorded: Any) -> Any:
    return tuple(recorded) if isinstance(recorded, list) else recorded


def _per_source() -> list[str]:
    return [name for name, found in _options(SourceOptions) if found.role == "source"]


def _beside_store(request: Mapping[str, Any], options: Refresh) -> dict[str, Any]:
    """Returns ``request`` for a store that was moved or copied: locations beside it are those beside it now.

    Prints a note for each location that is not there: the recorded one is used.
    """
    from captionbeam.pipelines.bulk.run import name_before, url_before

    now, before = files.absolute(str(options.output)), url_before(files.absolute(str(options.output)))
    movable = {name for name, found in _options(type(options)) if found.location and not found.repeated}
    movable = (movable | {"source"}) - {"weights", *MODELS}

    def found(name: str, value: Any) -> Any:
        if before in ("", now) or name not in movable or not isinstance(value, str):
            return value
        other = name_before(value, before, now)
        if other and files.exists(other):
            return other
        if not (name in options.named or (name == "source" and "sources" in options.named)):
            note(
                f"{now} was made at {before}; there is no copy of {value} beside it, so {value} is used",
                options.dry_run,
            )
        return value

    return {
        "options": {name: found(name, value) for name, value in request["options"].items()},
        "sources": [
            {name: found(name, value) for name, value in entry.items()} for entry in request["sources"]
        ],
    }


def _require_named(options: Refresh, newest: Snapshot) -> None:
    made = "encode: --encoder NAME, ..." if newest.kind == "features" else "caption: --bundle BUNDLE, ..."
    if "imported" in newest.spec:
        raise RequestError(
            f"the rows of {options.output} were imported as {newest.spec['imported']!r}; expected captionbeam "
            "import-features again"
        )
    if not options.named & {"encoder", "bundle", "captioner", "features"}:
        raise RequestError(
            f"{options.output} has no record of what made it; expected SOURCE and the options of captionbeam {made}"
        )


def _not_replaced(recorded: Mapping[str, Any], options: Refresh) -> Iterator[tuple[str, Any]]:
    """Yields the recorded options that the user's options do not replace."""
    from captionbeam.capmodel.generation.options import ONLY_OF

    named, all_options = options.named, dict(_options(type(options)))
    gone = {*named, *_replaced(named)}
    network = {name for name, _ in _options(EncoderOptions)}
    if "encoder" in named and options.encoder != recorded.get("encoder"):
        gone |= {*network, "reduce", "reduce_dim"}
    models = named & {"bundle", "captioner"}
    if any(
        _absolute(name, all_options[name], getattr(options, name)) != recorded.get(name) for name in models
    ):
        gone |= {"precision"}  # that of another model
    if "features" in named and "encoder" in recorded:
        gone |= {*network, "precision"}
    if "sources" in named and "features" in recorded:
        gone |= {"features", *(name for name, found in all_options.items() if found.role == "part")}
    if "method" in named:
        gone |= {name for names in ONLY_OF.values() for name in names}
    kept = {name: value for name, value in recorded.items() if name not in gone and name in all_options}
    if "schema" in kept and named & {"prompt", "prompt_file"}:
        asked = {named_text(given)[0] for given in (*options.prompt, *options.prompt_file)}
        kept["schema"] = [one for one in kept["schema"] if named_text(one)[0] in {None, *asked}]
    return ((name, _value(value)) for name, value in kept.items())


def _replaced(named: Collection[str]) -> set[str]:
    """Returns the options that the named ones replace, and those themselves."""
    from captionbeam.jobs.refresh import Refresh

    groups = [{name, *found.instead_of} for name, found in _options(Refresh) if found.instead_of]
    return {name for group in groups if group & set(named) for name in group}


def _entries(options: Refresh, recorded: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the sources to list, with the options of their listing; a named source is listed completely."""
    from captionbeam.pipelines.sources.spec import source_name

    known = {str(entry["source"]): dict(entry) for entry in recorded}
    if options.features:
        return [{"source": name} for name in options.sources]
    if "sources" not in options.named:
        retired = set(options.retired_names())
        return [entry for name, entry in known.items() if name not in retired]
    gone = {"inventory", *(name for name, found in _options(SourceOptions) if found.role == "part")}
    entries = [known.get(name, {"source": name}) for name in map(source_name, options.sources)]
    return [{name: value for name, value in entry.items() if name not in gone} for entry in entries]


def _agreed(entries: Iterable[Mapping[str, Any]], named: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yields the options that apply to the whole run. Raises RequestError if the entries differ."""
    entries, defaults = list(entries), {field.name: field.default for field, _ in options_of(SourceOptions)}
    for name in sorted({name for entry in entries for name in entry} - {"source", *_per_source(), *named}):
        values = {repr(entry.get(name, defaults[name])): entry["source"] for entry in entries}
        if len(values) > 1:
            said = " and ".join(f"{source} with {value}" for value, source in list(values.items())[:2])
            raise RequestError(
                f"the sources were listed with different {flag_of(name)}: {said}; expected {flag_of(name)} to be "
                "named, or one SOURCE"
            )
        yield name, _value(entries[0].get(name, defaults[name]))


def _flags(options: Mapping[str, Any]) -> Iterator[str]:
    from captionbeam.jobs.refresh import Refresh

    found = dict(_options(Refresh))
    for name, value in options.items():
        if value is True:
            yield flag_of(name)
        elif isinstance(value, tuple):
            parts = [",".join(value)] if found[name].split else value
            yield from (word for one in parts for word in (flag_of(name), one))
        else:
            yield from (flag_of(name), str(value))
