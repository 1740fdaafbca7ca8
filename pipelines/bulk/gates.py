"""Publish gates: an implausible snapshot, compared with its parent, is not published. Its rows are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captionbeam.pipelines.bulk.run import Run
from captionbeam.schemas.errors import HeldBack, TooManyFailures
from captionbeam.schemas.formats import parquet
from captionbeam.schemas.storage import files
from captionbeam.schemas.store.layout import Snapshot, value_columns
from captionbeam.schemas.store.reading import Dead, Store
from captionbeam.schemas.store.rows import ManifestRow

FAILURES_RISE, FEWEST_FAILURES = 0.1, 3
SHORTER, UNKNOWN_RISE, EQUAL_RISE = 0.5, 0.1, 0.25
SCORE_FALL = 0.2  # of the median of captions' scores
FEWEST_CAPTIONS, FEWEST_EQUAL, SAMPLED_SHARDS = 20, 100, 16
FEW_TOKENS = 5  # including start and end
UNKNOWN = "<unk>"
NONE_DEAD: Mapping[str, Dead] = {}
AGAIN = "not published; the rows are kept, and the same command with {} publishes them"


@dataclass(frozen=True)
class Gates:
    """Conditions for publishing a snapshot.

    max_failures: maximum failures, below 1 as a share of the snapshot's images, else as a number; None: no limit.
    max_deletes:  maximum deleted images, as a share or a number; None: no limit. The share is of the listed sources'
                  images for images gone from the listing, and of the parent's rows in total.
    compared:     compare failures and captions with the parent's; captions are also checked without a parent.
    anyway:       publish despite ``max_deletes`` and ``compared``.
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
    added: Sequence[ManifestRow],
    gone: Sequence[str],
    known: int,
) -> None:
    """Raises TooManyFailures or HeldBack if ``snapshot`` must not be published after ``parent``.

    ``added`` are the manifest rows of its new shards. ``gone`` are the images that left the listing, of ``known``
    images of the run's sources.
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
        _check_texts(run, parent, added)
        _check_scores(run, parent, added)


def _check_texts(run: Run, parent: Snapshot | None, added: Sequence[ManifestRow]) -> None:
    """Checks each column. Answers are compared with the parent's only if the prompt is the same and not for JSON."""
    decode = run.spec.get("decode", {})  # a fixed prefix, or very short captions, may be equal
    may_be_equal = bool(decode.get("prefix")) or 0 < (decode.get("max_length") or 0) <= FEW_TOKENS
    for column in value_columns(run.spec, run.column):
        prompt = _prompt(run.spec, column)
        is_json = prompt is not None and "schema" in prompt
        before: list[str] = []
        if parent is not None and not is_json and _prompt(parent.spec, column) == prompt:
            store = Store(run.url, parent)
            before = first_captions(run.url, store.shards, store.dead, column)
        what = "captions" if prompt is None else f"answers to the prompt of {column!r}"
        after = first_captions(run.url, added, column=column)
        check_captions(before, after, may_be_equal or is_json, what)


def _check_scores(run: Run, parent: Snapshot | None, added: Sequence[ManifestRow]) -> None:
    """Compares the scores of each column with the parent's, if the scorer is the same."""
    scorer = run.spec.get("scorer")
    if scorer is None or parent is None or parent.spec.get("scorer") != scorer:
        return
    store = Store(run.url, parent)
    for column in scored_columns(run.spec, run.column):
        if column in store.columns:
            before = first_values(run.url, store.shards, store.dead, column, "score")
            check_scores(before, first_values(run.url, added, NONE_DEAD, column, "score"), column)


def scored_columns(spec: Mapping[str, Any], column: str) -> list[str]:
    """Returns the columns of a specification with scores: not those of answers in JSON. ``column``: the first one."""
    columns = value_columns(spec, column) if "scorer" in spec else ()
    return [name for name in columns if "schema" not in (_prompt(spec, name) or {})]


def median_scores(store: Store) -> dict[str, float]:
    """Returns the median score of the first captions by column, of a sample of a large store; {} if it has none."""
    found = {
        name: first_values(store.url, store.shards, store.dead, name, "score")
        for name in scored_columns(store.spec, store.column)
    }
    return {name: median(scores) for name, scores in found.items() if scores}


def check_scores(before: Sequence[float], after: Sequence[float], column: str) -> None:
    """Raises HeldBack if the median score of captions fell by more than SCORE_FALL of it; 20 of each are needed."""
    if min(len(before), len(after)) < FEWEST_CAPTIONS:
        return
    old, new = median(before), median(after)
    if new < (1 - SCORE_FALL) * old:
        raise HeldBack(
            f"the median score of {column} fell from {old:.3g} to {new:.3g} (of {len(before):,} and {len(after):,}); "
            f"expected at most {SCORE_FALL:.0%} less: " + AGAIN.format("--publish-anyway")
        )


def _prompt(spec: Mapping[str, Any], column: str) -> Mapping[str, Any] | None:
    prompt: Mapping[str, Any] | None = spec.get("prompts", {}).get(column)
    return prompt


def check_failures(limit: float | None, run: Run, snapshot: Snapshot, added: Sequence[ManifestRow]) -> None:
    """Raises TooManyFailures if more than ``limit`` (share or number) of the snapshot's images failed."""
    failed, images = snapshot.totals["failed"], snapshot.totals["failed"] + snapshot.totals["rows"]
    if limit is None or failed <= allowed(limit, images):
        return
    raise TooManyFailures(
        f"{failed} of {images} images failed ({_examples(run, added)}); expected at most {limit:g} "
        f"(--max-failures): not published; the rows are kept, and a run that allows more publishes them"
    )


def _examples(run: Run, added: Sequence[ManifestRow]) -> str:
    """Returns the new failures by code, with one example each."""
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
    """Returns how many of ``images`` a limit permits: a share below 1, else a number."""
    return limit if limit >= 1 else limit * images


def too_many_gone(
    limit: float | None, before: int, after: int, gone: int, known: int, named: str = ""
) -> str | None:
    """Returns why a refresh would delete too much, or None. Used by publishing and by ``refresh --plan``.

    ``gone`` of ``known`` images of the run's sources left the listing; ``named`` lists some of them for the message.
    The parent has ``before`` rows, the next snapshot would have ``after``.
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
    """Statistics of a sample of captions: words per caption, share of unknown words, share of duplicate captions."""

    words: float
    unknown: float
    equal: float


def caption_figures(texts: Sequence[str]) -> CaptionFigures:
    """Returns the statistics of ``texts``, which must not be empty."""
    words = sum(len(text.split()) for text in texts)
    unknown = sum(text.count(UNKNOWN) for text in texts) / max(1, words)
    return CaptionFigures(words / len(texts), unknown, 1 - len(set(texts)) / len(texts))


def check_captions(
    before: Sequence[str], after: Sequence[str], may_be_equal: bool = False, what: str = "captions"
) -> None:
    """Raises HeldBack if captions collapsed. ``what`` names them in the message.

    Compares equally many captions of both snapshots. If either has fewer than 20, checks only that the new captions
    are not all empty and, unless they ``may_be_equal``, not all equal.
    """
    count = min(len(before), len(after))
    if count < FEWEST_CAPTIONS:
        _check_alone(after, may_be_equal, what)
        return
    old, new = (caption_figures(_spread(texts, count)) for texts in (before, after))
    said = []
    if new.words < SHORTER * old.words:
        said.append(f"words a caption fell from {old.words:.1f} to {new.words:.1f}")
    if new.unknown - old.unknown > UNKNOWN_RISE:
        said.append(f"the share of {UNKNOWN} rose from {old.unknown:.1%} to {new.unknown:.1%}")
    if new.equal - old.equal > EQUAL_RISE:
        said.append(f"the share of equal {what} rose from {old.equal:.1%} to {new.equal:.1%}")
    if said:
        raise HeldBack(
            f"{what} collapsed against the parent's: {', '.join(said)} (of {count:,} of each); expected "
            f"{what} as varied as those: " + AGAIN.format("--publish-anyway")
        )


def _check_alone(texts: Sequence[str], may_be_equal: bool, what: str) -> None:
    said = ""
    if len(texts) >= FEWEST_CAPTIONS and not any(text.strip() for text in texts):
        said = f"all {len(texts):,} {what} that were looked at are empty; expected words"
    elif len(texts) >= FEWEST_EQUAL and len(set(texts)) == 1 and not may_be_equal:
        said = f"all {len(texts):,} {what} that were looked at are {texts[0]!r}; expected {what} that differ"
    if said:
        raise HeldBack(f"{said}: " + AGAIN.format("--publish-anyway"))


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """Returns ``count`` of ``texts``, evenly spaced, since neighbours are often alike."""
    return [texts[number * len(texts) // count] for number in range(count)]


def first_captions(
    url: str, shards: Sequence[ManifestRow], dead: Mapping[str, Dead] = NONE_DEAD, column: str = "captions"
) -> list[str]:
    """Returns the texts of ``first_values``."""
    return first_values(url, shards, dead, column, "text")


def first_values(
    url: str, shards: Sequence[ManifestRow], dead: Mapping[str, Dead], column: str, field: str
) -> list[Any]:
    """Returns a field of the first captions, in ``column``, of the live rows of 16 of ``shards``, or of more
    if they are small. Empty ones are left out.

    Shard names are hashes, so the first by name are a random sample.
    """
    ordered = sorted((row for row in shards if row["rows"]), key=lambda row: row["shard"])
    found: list[Any] = []
    for number, row in enumerate(ordered):
        if number >= SAMPLED_SHARDS and len(found) >= FEWEST_EQUAL:
            break
        data = pa.BufferReader(files.read_bytes(files.join(url, "data", row["data"])))
        values = f"{column}.list.element.{field}"
        table = pq.ParquetFile(data).read(columns=[values])  # read_table cannot select parts of lists
        gone = dead.get(row["shard"], Dead()).rows
        rows = enumerate(table.column(column).to_pylist())
        first = [captions[0][field] for number, captions in rows if captions and number not in gone]
        found += [value for value in first if value is not None]
    return found
