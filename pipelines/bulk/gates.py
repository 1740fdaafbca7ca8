"""Publish gates: a snapshot that looks wrong beside its parent is held back with one sentence, its rows kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captionbeam.pipelines.bulk.run import Run
from captionbeam.schemas.errors import HeldBack, TooManyFailures
from captionbeam.schemas.formats import parquet
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.layout import Snapshot
from captionbeam.schemas.store.reading import Dead, Store

FAILURES_RISE, FEWEST_FAILURES = 0.1, 3
SHORTER, UNKNOWN_RISE, EQUAL_RISE = 0.5, 0.1, 0.25
FEWEST_CAPTIONS, FEWEST_EQUAL, SAMPLED_SHARDS = 20, 100, 16
FEW_TOKENS = 5  # start and end among them
UNKNOWN = "<unk>"
TEXTS = "captions.list.element.text"
AGAIN = "not published; the rows are kept, and the same command with {} publishes them"


@dataclass(frozen=True)
class Gates:
    """What a snapshot is held to.

    max_failures: failures at most, a share of the snapshot's images below 1, else a number; None: any.
    max_deletes:  images at most that may go: a share (of the listed sources' images where they left the listing,
                  of the parent's rows altogether), or a number; None: any.
    compared:     whether failures and captions are held against the parent's, captions without a parent to none.
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
    if gates.anyway:
        return
    if parent is not None:
        _check_deletes(gates.max_deletes, parent, snapshot, gone, known)
    if not gates.compared:
        return
    if parent is not None:
        _check_jump(parent, snapshot)
    if run.kind == "captions":
        before = parent_captions(run.url, parent) if parent is not None else []
        check_captions(before, new_captions(run.url, added), _may_be_equal(run.spec))


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


def too_many_gone(
    limit: float | None, before: int, after: int, gone: int, known: int, named: str = ""
) -> str | None:
    """Why a refresh would delete too much, or None; asked by publishing and by ``refresh --plan``.

    ``gone`` of ``known`` images of the run's sources left their listing (``named``: some of them, for the sentence);
    the parent has ``before`` rows, the next snapshot would have ``after``.
    """
    if limit is None:
        return None
    if gone > allowed(limit, known):
        said = f"{gone:,} of {known:,} images are gone from the listing{named}"
    elif before - after > allowed(limit, before):
        said = f"the snapshot would have {after:,} rows, its parent has {before:,}"
    else:
        return None
    return f"{said}; expected at most {limit:g} to go (--max-deletes)"


def _check_deletes(
    limit: float | None, parent: Snapshot, snapshot: Snapshot, gone: Sequence[str], known: int
) -> None:
    named = ", ".join(map(repr, sorted(gone)[:3])) + (", ..." if len(gone) > 3 else "")
    rows = parent.totals["rows"], snapshot.totals["rows"]
    said = too_many_gone(limit, *rows, len(gone), known, f" ({named})")
    if said:
        raise HeldBack(f"{said}: " + AGAIN.format("a higher --max-deletes, or --publish-anyway,"))


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


def _may_be_equal(spec: Mapping[str, Any]) -> bool:
    """Whether equal captions are what was asked for: with a beginning of their own, or of a few words."""
    decode = spec.get("decode", {})
    return bool(decode.get("prefix")) or 0 < (decode.get("max_length") or 0) <= FEW_TOKENS


def check_captions(before: Sequence[str], after: Sequence[str], may_be_equal: bool = False) -> None:
    """Raise HeldBack where captions collapsed.

    Equally many of both are compared. Where either has fewer than 20, the new ones are only held to be not all empty
    and, unless they ``may_be_equal``, not all equal.
    """
    count = min(len(before), len(after))
    if count < FEWEST_CAPTIONS:
        _check_alone(after, may_be_equal)
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


def _check_alone(texts: Sequence[str], may_be_equal: bool) -> None:
    said = ""
    if len(texts) >= FEWEST_CAPTIONS and not any(text.strip() for text in texts):
        said = f"all {len(texts):,} captions that were looked at are empty; expected words"
    elif len(texts) >= FEWEST_EQUAL and len(set(texts)) == 1 and not may_be_equal:
        said = (
            f"all {len(texts):,} captions that were looked at are {texts[0]!r}; expected captions that differ"
        )
    if said:
        raise HeldBack(f"{said}: " + AGAIN.format("--publish-anyway"))


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
    """Of 16 shards, more if they are small. Shards are named by a hash: the first by name are a sample of them."""
    ordered = sorted((row for row in shards if row["rows"]), key=lambda row: row["shard"])
    found: list[str] = []
    for number, row in enumerate(ordered):
        if number >= SAMPLED_SHARDS and len(found) >= FEWEST_EQUAL:
            break
        data = pa.BufferReader(files.read_bytes(files.join(url, "data", row["data"])))
        table = pq.ParquetFile(data).read(columns=[TEXTS])  # read_table knows no parts of lists
        gone = dead.get(row["shard"], Dead()).rows
        rows = enumerate(table.column("captions").to_pylist())
        found += [captions[0]["text"] for number, captions in rows if captions and number not in gone]
    return found
