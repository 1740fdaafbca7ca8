"""Publish gates: a snapshot that looks wrong beside its parent is held back with one sentence, its rows kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.run import Run
from schemas import files, parquet
from schemas.errors import HeldBack, TooManyFailures
from schemas.layout import Snapshot
from schemas.store import Dead, Store

FAILURES_RISE, FEWEST_FAILURES = 0.1, 3
SHORTER, UNKNOWN_RISE, EQUAL_RISE = 0.5, 0.1, 0.25
FEWEST_CAPTIONS, SAMPLED_SHARDS = 20, 16
UNKNOWN = "<unk>"
TEXTS = "captions.list.element.text"
AGAIN = "not published; the rows are kept, and the same command with {} publishes them"


@dataclass(frozen=True)
class Gates:
    """What a snapshot is held to.

    max_failures: failures at most, a share of the snapshot's images below 1, else a number; None: any.
    max_deletes:  images at most that may go: a share (of the listed sources' images where they left the listing,
                  of the parent's rows altogether), or a number; None: any.
    compared:     whether failures and captions are held against the parent's.
    anyway:       publish what ``max_deletes`` and ``compared`` would hold back.
    """

    max_failures: float | None = None
    max_deletes: float | None = None
    compared: bool = False
    anyway: bool = False


def check_gates(
    gates: Gates,
    run: Run,
    parent: Snapshot | None,
    snapshot: Snapshot,
    added: Sequence[dict[str, Any]],
    gone: Sequence[str],
    known: int,
) -> None:
    """Raise TooManyFailures or HeldBack where ``snapshot`` must not be published on top of ``parent``.

    ``added`` are its new shards' manifest rows, ``gone`` are those of ``known`` images of the run's sources that left
    their listing.
    """
    check_failures(gates.max_failures, run, snapshot, added)
    if parent is None or gates.anyway:
        return
    _check_deletes(gates.max_deletes, parent, snapshot, gone, known)
    if gates.compared:
        _check_jump(parent, snapshot)
        if run.kind == "captions":
            check_captions(parent_captions(run.url, parent), new_captions(run.url, added))


def check_failures(
    limit: float | None, run: Run, snapshot: Snapshot, added: Sequence[dict[str, Any]]
) -> None:
    """Raise TooManyFailures where more than ``limit`` of the snapshot's images, share or number, failed."""
    failed, images = snapshot.totals["failed"], snapshot.totals["failed"] + snapshot.totals["rows"]
    if limit is None or failed <= allowed(limit, images):
        return
    raise TooManyFailures(
        f"{failed} of {images} images failed ({_examples(run, added)}); expected at most {limit:g} "
        f"(--max-failures): not published; the rows are kept, and a run that allows more publishes them"
    )


def _examples(run: Run, added: Sequence[dict[str, Any]]) -> str:
    """The new failures by code, and one image of each."""
    failures = [
        failure
        for row in added
        if row["failed"]
        for failure in parquet.read_table(files.join(run.url, "failures", row["failures"])).to_pylist()
    ]
    counts = Counter(failure["code"] for failure in failures)
    first = {failure["code"]: failure["image_id"] for failure in reversed(failures)}
    return (
        ", ".join(f"{count} {code}, as {first[code]!r}" for code, count in counts.most_common()) or "none new"
    )


def allowed(limit: float, images: int) -> float:
    """How many of ``images`` a limit lets through: a share below 1, else a number."""
    return limit if limit >= 1 else limit * images


def _check_deletes(
    limit: float | None, parent: Snapshot, snapshot: Snapshot, gone: Sequence[str], known: int
) -> None:
    if limit is None:
        return
    before, after = parent.totals["rows"], snapshot.totals["rows"]
    said = ""
    if len(gone) > allowed(limit, known):
        named = ", ".join(map(repr, sorted(gone)[:3])) + (", ..." if len(gone) > 3 else "")
        said = f"{len(gone):,} of {known:,} images are gone from the listing ({named})"
    elif before - after > allowed(limit, before):
        said = f"the snapshot would have {after:,} rows, its parent has {before:,}"
    if said:
        raise HeldBack(
            f"{said}; expected at most {limit:g} to go (--max-deletes): "
            + AGAIN.format("a higher --max-deletes, or --publish-anyway,")
        )


def _check_jump(parent: Snapshot, snapshot: Snapshot) -> None:
    before, after = (_failed_share(one) for one in (parent, snapshot))
    more = snapshot.totals["failed"] - parent.totals["failed"]
    if after - before > FAILURES_RISE and more >= FEWEST_FAILURES:
        raise HeldBack(
            f"failures would rise from {before:.1%} of the images to {after:.1%} ({more:,} more); expected at most "
            f"{FAILURES_RISE:.0%} more: " + AGAIN.format("--publish-anyway")
        )


def _failed_share(snapshot: Snapshot) -> float:
    failed = snapshot.totals["failed"]
    return failed / max(1, failed + snapshot.totals["rows"])


@dataclass(frozen=True)
class CaptionFigures:
    """Of a sample of captions: words a caption, share of unknown words, share that another one equals."""

    words: float
    unknown: float
    equal: float


def caption_figures(texts: Sequence[str]) -> CaptionFigures:
    """The figures of ``texts``, one or more."""
    words = sum(len(text.split()) for text in texts)
    unknown = sum(text.count(UNKNOWN) for text in texts) / max(1, words)
    return CaptionFigures(words / len(texts), unknown, 1 - len(set(texts)) / len(texts))


def check_captions(before: Sequence[str], after: Sequence[str]) -> None:
    """Raise HeldBack where captions collapsed. Equally many of both are compared; under 20, none."""
    count = min(len(before), len(after))
    if count < FEWEST_CAPTIONS:
        return
    old, new = (caption_figures(_spread(texts, count)) for texts in (before, after))
    said = []
    if new.words < SHORTER * old.words:
        said.append(f"words a caption fell from {old.words:.1f} to {new.words:.1f}")
    if new.unknown - old.unknown > UNKNOWN_RISE:
        said.append(f"the share of {UNKNOWN} rose from {old.unknown:.1%} to {new.unknown:.1%}")
    if new.equal - old.equal > EQUAL_RISE:
        said.append(f"the share of equal captions rose from {old.equal:.1%} to {new.equal:.1%}")
    if said:
        raise HeldBack(
            f"captions collapsed against the parent's: {', '.join(said)} (of {count:,} of each); expected "
            "captions as varied as those: " + AGAIN.format("--publish-anyway")
        )


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """``count`` of ``texts``, evenly spaced: neighbours are often alike."""
    return [texts[number * len(texts) // count] for number in range(count)]


def parent_captions(url: str, parent: Snapshot) -> list[str]:
    """First captions of the live rows of a few of the parent's shards."""
    store = Store(url, parent)
    return _first_captions(url, store.manifest.to_pylist(), store.dead)


def new_captions(url: str, added: Sequence[dict[str, Any]]) -> list[str]:
    """First captions of a few of the new shards."""
    return _first_captions(url, added, {})


def _first_captions(url: str, shards: Sequence[dict[str, Any]], dead: Mapping[str, Dead]) -> list[str]:
    """Shards are named by a hash: the first ones by name are a sample of them."""
    sampled = sorted((row for row in shards if row["rows"]), key=lambda row: row["shard"])[:SAMPLED_SHARDS]
    found: list[str] = []
    for row in sampled:
        data = pa.BufferReader(files.read_bytes(files.join(url, "data", row["data"])))
        table = pq.ParquetFile(data).read(columns=[TEXTS])  # read_table knows no parts of lists
        gone = dead.get(row["shard"], Dead()).rows
        rows = enumerate(table.column("captions").to_pylist())
        found += [captions[0]["text"] for number, captions in rows if captions and number not in gone]
    return found
