"""The steps of every schedule: captionbeam commands, run one after the other.

A step has the arguments of ``captionbeam``. Each step may run late, twice at the same time, or again.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from captionbeam.jobs.options.shared import require
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files

Steps = Mapping[str, list[str]]
CRON_RANGES = {
    "minute": (0, 59),
    "hour": (0, 23),
    "day of the month": (1, 31),
    "month": (1, 12),
    "day of the week": (0, 6),
}
IN_OPTIONS = ("weights", "reduce", "inventory", "image_root")
TEMPLATE = "{{"  # Airflow's template mark, expanded when a task runs


@dataclass(frozen=True)
class Night:
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


def night_of(options: argparse.Namespace) -> Night:
    """Returns the stores of the options, with absolute local paths. Raises RequestError."""
    return Night(
        sources=tuple(map(absolute, options.sources)),
        features=options.features and absolute(options.features),
        features_options=_words("--features-options", options.features_options),
        captions=options.captions and absolute(options.captions),
        bundle=options.bundle and absolute(options.bundle),
        captions_options=_words("--captions-options", options.captions_options),
        promote=options.promote,
        verify_nightly=options.verify == "nightly",
        storage=_storage(options.storage_options),
        keep=options.keep,
    )


def absolute(url: str) -> str:
    """Returns ``files.absolute(url)``, or ``url`` unchanged if it has an Airflow template."""
    return url if TEMPLATE in url else files.absolute(url)


def nightly_steps(night: Night, snapshot: str | None = None) -> dict[str, list[str]]:
    """Returns the steps refresh, verify and promote. ``snapshot``: what to promote, or None for the newest."""
    steps = refresh_steps(night)
    last = night.stores[-1]
    if night.verify_nightly:
        steps["verify"] = ["store", "verify", last, *night.storage]
    if night.promote:
        number = [snapshot] if snapshot else []
        steps["promote"] = ["store", "promote", last, night.promote, *number, "--forward", *night.storage]
    return steps


def refresh_steps(night: Night) -> dict[str, list[str]]:
    """Returns the refresh step of each store."""
    steps = {}
    if night.features:
        made = [
            "refresh",
            *night.sources,
            "--output",
            night.features,
            *night.features_options,
            *night.storage,
        ]
        steps["features"] = made
    if night.captions:
        what = ["--features", night.features] if night.features else list(night.sources)
        steps["captions"] = ["refresh", *what, "--output", night.captions, "--bundle", str(night.bundle),
                             *night.captions_options, *night.storage]  # fmt: skip
    return steps


def upkeep_steps(night: Night) -> dict[str, list[str]]:
    """Returns the weekly steps: vacuum all stores, then verify them."""
    kinds = {night.features: "features", night.captions: "captions"}
    steps = {}
    for store in night.stores:
        steps[f"vacuum_{kinds[store]}"] = [
            "store",
            "vacuum",
            store,
            "--keep",
            str(night.keep),
            *night.storage,
        ]
    for store in night.stores:
        steps[f"verify_{kinds[store]}"] = ["store", "verify", store, *night.storage]
    return steps


def bulk_steps(night: Night, output: str) -> dict[str, list[str]]:
    """Returns the steps that caption given images into a store ``output``; empty without a bundle."""
    if not night.bundle:
        return {}
    captions = [
        "caption",
        "--output",
        output,
        "--bundle",
        night.bundle,
        *night.captions_options,
        *night.storage,
    ]
    return {"captions": captions, "verify": ["store", "verify", output, *night.storage]}


def places(night: Night) -> Iterator[str]:
    """Yields all locations that the steps read or write, including those in their options: URLs or paths."""
    yield from (*night.sources, *night.stores, *([night.bundle] if night.bundle else []))
    for arguments in refresh_steps(night).values():
        options = parsed(arguments)
        for name in IN_OPTIONS:
            found = getattr(options, name, None) or []
            named = [found] if isinstance(found, str) else found
            yield from (
                each for each in named if "/" in each or "." in each
            )  # weights may be a published name
        given = options.storage_options or "{"
        if not given.lstrip().startswith("{"):
            yield given


def refuse_words(night: Night, unwanted: str, why: str) -> None:
    """Raises RequestError if an argument of a step contains ``unwanted``."""
    for arguments in (*refresh_steps(night).values(), *upkeep_steps(night).values()):
        for word in arguments:
            require(unwanted not in word, f"{word!r} holds {unwanted}, {why}; expected a word without it")


def check_night(night: Night) -> None:
    """Raises RequestError for anything that the jobs' parsers reject or a schedule cannot do."""
    from captionbeam.jobs.refresh import check_options

    _check_stores(night)
    _check_storage(night)
    for arguments in refresh_steps(night).values():
        options = parsed(arguments)
        check_options(options)
        require(
            not (options.plan or options.canary or options.dry_run),
            "--plan, --canary and --dry-run publish nothing; expected none of them in what a schedule runs",
        )
    for arguments in [*nightly_steps(night).values(), *upkeep_steps(night).values()]:
        parsed(arguments)
    if night.promote:
        from captionbeam.schemas.store.tags import check_name

        check_name(night.promote)


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Returns the parsed step. Raises RequestError."""
    from captionbeam.jobs.cli import parse

    try:
        return parse(arguments)[0]
    except RequestError as err:
        raise RequestError(f"`captionbeam {shlex.join(arguments)}` is refused: {err}") from err


def _check_storage(night: Night) -> None:
    from captionbeam.jobs.options.storage import parsed as parse_storage

    for text in night.storage[1:]:
        if text.lstrip().startswith("{") and TEMPLATE not in text:  # a file need not be on this machine
            parse_storage(text)


def _check_stores(night: Night) -> None:
    wrong = None
    if not night.stores:
        wrong = "no store is named; expected --features, --captions or both"
    elif not night.sources:
        wrong = "no source is named; expected one SOURCE or more"
    elif bool(night.captions) != bool(night.bundle):
        wrong = "--captions and --bundle need each other; expected both or neither"
    elif night.features_options and not night.features:
        wrong = "--features-options would do nothing without --features; expected to leave it out"
    elif night.captions_options and not night.captions:
        wrong = "--captions-options would do nothing without --captions; expected to leave it out"
    if wrong:
        raise RequestError(wrong)


def _storage(given: str | None) -> tuple[str, ...]:
    """Returns --storage-options for every step, with an absolute file name."""
    if not given:
        return ()
    return ("--storage-options", given if given.lstrip().startswith("{") else absolute(given))


def _words(option: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as err:
        raise RequestError(f"{option} {text!r} is no command line: {err}") from err


def check_cron(text: str) -> str:
    """Returns ``text`` if it is a portable cron expression of five fields. Raises ArgumentTypeError."""
    fields = text.split(" ")
    if len(fields) != len(CRON_RANGES):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no cron expression; expected five fields, as '0 2 * * *'"
        )
    for field, (name, (low, high)) in zip(fields, CRON_RANGES.items(), strict=True):
        if not all(_is_cron_part(part, low, high) for part in field.split(",")):
            raise argparse.ArgumentTypeError(
                f"{text!r} has {field!r} for the {name}; expected *, or numbers from {low} to {high}, as 1,3 or 0-9/2"
            )
    return text


def _is_cron_part(part: str, low: int, high: int) -> bool:
    found = re.fullmatch(r"(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(/\d{1,2})?", part, re.ASCII)
    if not found:
        return False
    first, last, step = found.groups()
    if step and not 1 <= int(step[1:]) <= high:
        return False
    if first is None:
        return True
    if step and last is None:  # schedulers interpret 5/10 differently
        return False
    return low <= int(first) <= int(last or first) <= high
