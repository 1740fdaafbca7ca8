"""The steps of every schedule: captionbeam commands, run one after the other.

A step has the arguments of ``captionbeam``. Each step may run late, twice at the same time, or again.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from captionbeam.jobs.options.shared import require
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files

if TYPE_CHECKING:
    from captionbeam.jobs.refresh import Refresh
    from captionbeam.jobs.schedules.schedule import Schedule

S = TypeVar("S", bound="Schedule")
Steps = Mapping[str, list[str]]
IN_OPTIONS = ("weights", "reduce", "inventory", "image_root")
TEMPLATE = "{{"  # Airflow's template mark, expanded when a task runs


def resolve(options: S) -> S:
    """Returns the options with absolute local paths. Raises RequestError.

    Either ``features`` (with the encoder in ``features_options``) or ``captions`` (with ``bundle``, or --captioner in
    ``captions_options``) is named, or both: then a bundle's captions are made from the features.
    """
    require(bool(stores_of(options)), "no store is named; expected --features, --captions or both")
    require(bool(options.sources), "no source is named; expected one SOURCE or more")
    require(
        bool(options.captions) or not options.bundle,
        "--bundle needs --captions; expected a store for its captions",
    )
    places = {name: getattr(options, name) for name in ("features", "captions", "bundle")}
    given: dict[str, Any] = {name: absolute(place) for name, place in places.items() if place}
    return replace(options, sources=tuple(map(absolute, options.sources)), **given)


def stores_of(options: Schedule) -> list[str]:
    """Returns the stores, in the order of their steps."""
    return [store for store in (options.features, options.captions) if store]


def absolute(url: str) -> str:
    """Returns ``files.absolute(url)``, or ``url`` unchanged if it has an Airflow template."""
    return url if TEMPLATE in url else files.absolute(url)


def nightly_steps(plan: Schedule, snapshot: str | None = None) -> dict[str, list[str]]:
    """Returns the steps refresh, verify and promote. ``snapshot``: what to promote, or None for the newest."""
    steps = refresh_steps(plan)
    last = stores_of(plan)[-1]
    if plan.verify == "nightly":
        steps["verify"] = ["store", "verify", last, *_storage(plan)]
    if plan.promote:
        number = [snapshot] if snapshot else []
        steps["promote"] = ["store", "promote", last, plan.promote, *number, "--forward", *_storage(plan)]
    return steps


def refresh_steps(plan: Schedule) -> dict[str, list[str]]:
    """Returns the refresh step of each store."""
    steps = {}
    if plan.features:
        made = ["refresh", *plan.sources, "--output", plan.features]
        steps["features"] = [*made, *_words("--features-options", plan.features_options), *_storage(plan)]
    if plan.captions:
        what = ["--features", plan.features] if plan.features and plan.bundle else list(plan.sources)
        steps["captions"] = ["refresh", *what, "--output", plan.captions, *_captioner(plan), *_storage(plan)]
    return steps


def upkeep_steps(plan: Schedule) -> dict[str, list[str]]:
    """Returns the weekly steps: vacuum all stores, then verify them."""
    kinds = {plan.features: "features", plan.captions: "captions"}
    keep = ("--keep", str(plan.keep))
    vacuum = {
        f"vacuum_{kinds[one]}": ["store", "vacuum", one, *keep, *_storage(plan)] for one in stores_of(plan)
    }
    return vacuum | {
        f"verify_{kinds[one]}": ["store", "verify", one, *_storage(plan)] for one in stores_of(plan)
    }


def bulk_steps(plan: Schedule, output: str) -> dict[str, list[str]]:
    """Returns the steps that caption given images into a store ``output``; empty without captions."""
    if not plan.captions:
        return {}
    captions = ["caption", "--output", output, *_captioner(plan), *_storage(plan)]
    return {"captions": captions, "verify": ["store", "verify", output, *_storage(plan)]}


def places(plan: Schedule) -> Iterator[str]:
    """Yields all locations that the steps read or write, including those in their options: URLs or paths."""
    yield from (*plan.sources, *stores_of(plan), *([plan.bundle] if plan.bundle else []))
    for arguments in refresh_steps(plan).values():
        options = parsed_refresh(arguments)
        for name in IN_OPTIONS:
            found = getattr(options, name, None) or []
            named = [found] if isinstance(found, str) else found
            # weights may be a published name
            yield from (each for each in named if "/" in each or "." in each)
        given = str(options.storage_options or "{")
        if not given.lstrip().startswith("{"):
            yield given


def refuse_words(plan: Schedule, unwanted: str, why: str) -> None:
    """Raises RequestError if an argument of a step contains ``unwanted``."""
    for arguments in (*refresh_steps(plan).values(), *upkeep_steps(plan).values()):
        for word in arguments:
            require(unwanted not in word, f"{word!r} holds {unwanted}, {why}; expected a word without it")


def check_refresh(plan: Schedule) -> None:
    """Raises RequestError for anything that the jobs' parsers reject or a schedule cannot do."""
    from captionbeam.jobs.options.storage import parsed as parse_storage

    for text in _storage(plan)[1:]:
        if text.lstrip().startswith("{") and TEMPLATE not in text:  # a file need not be on this machine
            parse_storage(text)
    for arguments in refresh_steps(plan).values():
        options = parsed_refresh(arguments)
        options.check_request()
        require(
            not (options.plan or options.canary or options.dry_run),
            "--plan, --canary and --dry-run publish nothing; expected none of them in what a schedule runs",
        )
    for arguments in [*nightly_steps(plan).values(), *upkeep_steps(plan).values()]:
        check_step(arguments)
    if plan.promote:
        from captionbeam.schemas.store.tags import check_name

        check_name(plan.promote)


def check_step(arguments: list[str]) -> object:
    """Returns the command of a step. Raises RequestError."""
    from captionbeam.jobs.cli import parse

    try:
        return parse(arguments)
    except RequestError as err:
        raise RequestError(f"`captionbeam {shlex.join(arguments)}` is refused: {err}") from err


def parsed_refresh(arguments: list[str]) -> Refresh:
    """Returns a refresh step's command. Raises RequestError."""
    from captionbeam.jobs.refresh import Refresh

    command = check_step(arguments)
    assert isinstance(command, Refresh)
    return command


def _captioner(plan: Schedule) -> list[str]:
    """Returns the flags of the captions: the bundle, if there is one, and the user's own."""
    bundle = ["--bundle", plan.bundle] if plan.bundle else []
    return [*bundle, *_words("--captions-options", plan.captions_options)]


def _storage(plan: Schedule) -> tuple[str, ...]:
    """Returns --storage-options for every step, with an absolute file name."""
    given = str(plan.storage_options or "")
    if not given:
        return ()
    return ("--storage-options", given if given.lstrip().startswith("{") else absolute(given))


def _words(option: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as err:
        raise RequestError(f"{option} {text!r} is no command line: {err}") from err
