"""The steps of every schedule: captionbeam commands, run one after the other.

A step has the arguments of ``captionbeam``. Each step may run late, twice at the same time, or again.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from captionbeam.jobs.options.shared import require
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files

if TYPE_CHECKING:
    from captionbeam.jobs.refresh import Refresh
    from captionbeam.jobs.schedules.schedule import Schedule

Steps = Mapping[str, list[str]]
IN_OPTIONS = ("weights", "reduce", "inventory", "image_root")
TEMPLATE = "{{"  # Airflow's template mark, expanded when a task runs


@dataclass(frozen=True)
class NightlyRefresh:
    """The stores of a schedule, and how they are made.

    Either ``features`` (with the encoder in ``features_options``) or ``captions`` (with ``bundle``), or both: then the
    captions are made from the features.
    """

    sources: tuple[str, ...]
    features: str | None
    features_options: tuple[str, ...]
    captions: str | None
    bundle: str | None
    captions_options: tuple[str, ...]
    promote: str | None
    verify_nightly: bool
    storage: tuple[str, ...]
    keep: int

    @property
    def stores(self) -> list[str]:
        """The stores, in the order of their steps."""
        return [store for store in (self.features, self.captions) if store]


def nightly_refresh(options: Schedule) -> NightlyRefresh:
    """Returns the stores of the options, with absolute local paths. Raises RequestError."""
    return NightlyRefresh(
        sources=tuple(map(absolute, options.sources)),
        features=options.features and absolute(options.features),
        features_options=_words("--features-options", options.features_options),
        captions=options.captions and absolute(options.captions),
        bundle=options.bundle and absolute(options.bundle),
        captions_options=_words("--captions-options", options.captions_options),
        promote=options.promote,
        verify_nightly=options.verify == "nightly",
        storage=_storage(str(options.storage_options or "")),
        keep=options.keep,
    )


def absolute(url: str) -> str:
    """Returns ``files.absolute(url)``, or ``url`` unchanged if it has an Airflow template."""
    return url if TEMPLATE in url else files.absolute(url)


def nightly_steps(plan: NightlyRefresh, snapshot: str | None = None) -> dict[str, list[str]]:
    """Returns the steps refresh, verify and promote. ``snapshot``: what to promote, or None for the newest."""
    steps = refresh_steps(plan)
    last = plan.stores[-1]
    if plan.verify_nightly:
        steps["verify"] = ["store", "verify", last, *plan.storage]
    if plan.promote:
        number = [snapshot] if snapshot else []
        steps["promote"] = ["store", "promote", last, plan.promote, *number, "--forward", *plan.storage]
    return steps


def refresh_steps(plan: NightlyRefresh) -> dict[str, list[str]]:
    """Returns the refresh step of each store."""
    steps = {}
    if plan.features:
        made = ["refresh", *plan.sources, "--output", plan.features]
        steps["features"] = [*made, *plan.features_options, *plan.storage]
    if plan.captions:
        what = ["--features", plan.features] if plan.features else list(plan.sources)
        made = ["refresh", *what, "--output", plan.captions, "--bundle", str(plan.bundle)]
        steps["captions"] = [*made, *plan.captions_options, *plan.storage]
    return steps


def upkeep_steps(plan: NightlyRefresh) -> dict[str, list[str]]:
    """Returns the weekly steps: vacuum all stores, then verify them."""
    kinds = {plan.features: "features", plan.captions: "captions"}
    keep = ("--keep", str(plan.keep))
    vacuum = {f"vacuum_{kinds[one]}": ["store", "vacuum", one, *keep, *plan.storage] for one in plan.stores}
    return vacuum | {f"verify_{kinds[one]}": ["store", "verify", one, *plan.storage] for one in plan.stores}


def bulk_steps(plan: NightlyRefresh, output: str) -> dict[str, list[str]]:
    """Returns the steps that caption given images into a store ``output``; empty without a bundle."""
    if not plan.bundle:
        return {}
    made = ["caption", "--output", output, "--bundle", plan.bundle]
    captions = [*made, *plan.captions_options, *plan.storage]
    return {"captions": captions, "verify": ["store", "verify", output, *plan.storage]}


def places(plan: NightlyRefresh) -> Iterator[str]:
    """Yields all locations that the steps read or write, including those in their options: URLs or paths."""
    yield from (*plan.sources, *plan.stores, *([plan.bundle] if plan.bundle else []))
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


def refuse_words(plan: NightlyRefresh, unwanted: str, why: str) -> None:
    """Raises RequestError if an argument of a step contains ``unwanted``."""
    for arguments in (*refresh_steps(plan).values(), *upkeep_steps(plan).values()):
        for word in arguments:
            require(unwanted not in word, f"{word!r} holds {unwanted}, {why}; expected a word without it")


def check_refresh(plan: NightlyRefresh) -> None:
    """Raises RequestError for anything that the jobs' parsers reject or a schedule cannot do."""
    _check_stores(plan)
    _check_storage(plan)
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


def _check_storage(plan: NightlyRefresh) -> None:
    from captionbeam.jobs.options.storage import parsed as parse_storage

    for text in plan.storage[1:]:
        if text.lstrip().startswith("{") and TEMPLATE not in text:  # a file need not be on this machine
            parse_storage(text)


def _check_stores(plan: NightlyRefresh) -> None:
    require(bool(plan.stores), "no store is named; expected --features, --captions or both")
    require(bool(plan.sources), "no source is named; expected one SOURCE or more")
    both = bool(plan.captions) == bool(plan.bundle)
    require(both, "--captions and --bundle need each other; expected both or neither")


def _storage(given: str) -> tuple[str, ...]:
    """Returns --storage-options for every step, with an absolute file name."""
    if not given:
        return ()
    return ("--storage-options", given if given.lstrip().startswith("{") else absolute(given))


def _words(option: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as err:
        raise RequestError(f"{option} {text!r} is no command line: {err}") from err
