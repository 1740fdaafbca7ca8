"""Watches a run from the launcher: committed shards, rate and failures, then the totals."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from captionbeam.jobs.options.command import DONE, WARNED, Result
from captionbeam.jobs.options.run import BulkCommand
from captionbeam.jobs.ui.progress import Progress, clock, watching
from captionbeam.jobs.ui.summary import cost_per_million, empty_places_line, print_table, size
from captionbeam.jobs.ui.terminal import note, say
from captionbeam.pipelines.bulk.changed_columns import RewrittenColumns, read_rewritten
from captionbeam.pipelines.bulk.compare import read_counts
from captionbeam.pipelines.bulk.duplicates import duplicates_line, read_duplicates
from captionbeam.pipelines.bulk.listing_record import passed_over_line, read_listing
from captionbeam.pipelines.bulk.plan import planned_shards
from captionbeam.pipelines.bulk.run import Run, adopted_manifest
from captionbeam.pipelines.workers import progress_counter
from captionbeam.schemas.counts import counted
from captionbeam.schemas.formats.kept import EMPTY, empty_columns
from captionbeam.schemas.records import Shard
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.layout import Commit, now
from captionbeam.schemas.store.reading import Store
from captionbeam.schemas.store.workers import read_workers, summary

SCORE_COUNTS = ("captions_scored", "texts_truncated", "captions_copied", "captions_unscored")
ENDPOINT_COUNTS = ("requests", "retries", "tokens_in", "tokens_out", "answers_kept", "answers_copied")
LOCAL_SECONDS, REMOTE_SECONDS = 1.0, 10.0


class Watch:
    """Reads a run's plan and commits in the background and shows progress. A context manager.

    It does not use the runner's metrics, which retries inflate.
    """

    def __init__(self, run: Run, description: str) -> None:
        self._run, self._start = run, time.monotonic()
        self._parts: list[str] = []
        self._shards: list[Shard] = []
        self._commits: dict[str, Commit] = {}
        self._earlier = layout.committed_shards(run.url)
        progress = Progress(description)
        progress.say("listing images")
        is_local = files.is_local(files.split(run.url)[0])
        self._watching = watching(progress, self._look, LOCAL_SECONDS if is_local else REMOTE_SECONDS)

    def __enter__(self) -> Self:
        self._watching.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._watching.__exit__(*error)
        self.seconds = time.monotonic() - self._start

    def _look(self, progress: Progress) -> None:
        parts = files.names(files.join(self._run.folder, "parts"))
        if parts != self._parts:
            self._parts, self._shards = parts, planned_shards(self._run)
        waiting = {shard.shard_id for shard in self._shards} - self._commits.keys() - self._earlier
        fresh = waiting & layout.committed_shards(self._run.url) if waiting else set()
        self._commits.update((commit.shard, commit) for commit in layout.load_commits(self._run.url, fresh))
        if self._shards:
            progress.update(
                max(
                    sum(self.images(commit) for commit in self._commits.values()),
                    progress_counter.count(self._run.run_id),
                ),
                self.planned,
                failures=sum(commit.failed for commit in self._commits.values()),
                shards_committed=f"{len(self._commits)}/{len(self._shards)}",
            )

    @staticmethod
    def images(commit: Commit) -> int:
        """Returns the number of images in a commit."""
        return commit.rows + commit.failed

    @property
    def planned(self) -> int:
        """Number of images in the plan."""
        return sum(shard.images for shard in self._shards)

    @property
    def commits(self) -> list[Commit]:
        """Commits that this run made, without those of concurrent runs."""
        return [commit for commit in self._commits.values() if commit.run == self._run.run_id]


def finish(run: Run, watch: Watch, options: BulkCommand) -> Result:
    """Writes and prints the run's totals. The status is 3 for many failures."""
    store = Store.open(run.url)
    totals = run_totals(run, watch, store, options.price_per_hour)
    prices = getattr(options, "price_per_million_tokens", ())
    if prices and "endpoint" in totals:
        tokens = totals["endpoint"]["tokens_in"], totals["endpoint"]["tokens_out"]
        totals["endpoint"]["cost"] = round(cost_of_tokens(tokens, prices), 6)
    files.write_atomic(files.join(run.folder, "totals.json"), files.json_bytes(totals))
    failed = store.totals["failed"]
    images = failed + store.totals["rows"]
    warned = bool(images) and failed / images > options.warn_failures
    if options.totals:
        files.write_in_place(options.totals, files.json_bytes({**totals, "warned": warned}))
    idle = not totals["images"] and store.snapshot_id == run.parent
    if not idle or totals["listing"]:
        print_table(f"{run.kind}: {run.url}", _rows(run, totals, prices))
    if idle:
        say(_nothing_to_do(run.url, store.totals["rows"], failed))
    if passed_over := passed_over_line(read_listing(run)):
        note(passed_over)
    if "empty_places" in totals:
        note(empty_places_line(totals["empty_places"], totals["empty_columns"]))
    if duplicates := duplicates_line(read_duplicates(run)):
        note(duplicates)
    if warned:
        limit = f"more than the share of {options.warn_failures:g} (--warn-failures)"
        say(f"warning: {failed:,} of {images:,} images failed, {limit}")
    return Result(WARNED if warned else DONE, {**totals, "warned": warned}, run.url)


def _nothing_to_do(url: str, rows: int, failed: int) -> str:
    if not failed:
        return f"nothing to do: all {counted(rows, 'image')} of {url} are done"
    said = f"{counted(rows, 'image')} of {url} are done and {failed:,} failed"
    return f"nothing to do: {said} (--retry-failures tries them again)"


def run_totals(run: Run, watch: Watch, store: Store, price_per_hour: float | None) -> dict[str, Any]:
    """Returns the run's totals, for its record."""
    images = sum(watch.images(commit) for commit in watch.commits)
    adopted = adopted_manifest(run)
    rate = images / max(watch.seconds, 1e-9)
    columns = read_rewritten(run) if run.keeps else []
    totals: dict[str, Any] = {
        "run": run.run_id,
        "finished": now(),
        "snapshot": store.snapshot_id,
        "images": images,
        "listing": read_counts(run),
        "sources": [one._asdict() for one in read_listing(run)],
        "duplicates_passed_over": read_duplicates(run).images,
        "rows": sum(commit.rows for commit in watch.commits),
        "copies": sum(commit.counts.get("copies", 0) for commit in watch.commits),
        "reused": sum(commit.counts.get("reused", 0) for commit in watch.commits),
        "failed": sum(commit.failed for commit in watch.commits),
        "failures_by_code": dict(_failures_by_code(watch.commits)),
        "shards": len(watch.commits),
        "bytes_written": sum(commit.bytes for commit in watch.commits) + sum(one.bytes for one in columns),
        "bytes_read": sum(commit.counts.get("bytes_read", 0) for commit in watch.commits),
        "seconds": round(watch.seconds, 3),
        "images_per_second": round(rate, 3),
        "adopted": {name: sum(row[name] for row in adopted) for name in ("rows", "failed")},
        "store": dict(store.totals),
        "workers": summary(read_workers(run.folder)),
    }
    if columns:
        totals["columns"] = _columns(columns, store)
    if any("requests" in commit.counts or "answers_copied" in commit.counts for commit in watch.commits):
        totals["endpoint"] = endpoint_totals(watch.commits)
    counts = sum((Counter(commit.counts) for commit in watch.commits), Counter[str]())
    if "scorer" in run.spec:
        totals["scores"] = {name: counts[name] for name in SCORE_COUNTS}
    if counts[EMPTY]:
        totals |= {"empty_places": counts[EMPTY], "empty_columns": empty_columns(counts)}
    if price_per_hour is not None and images:
        totals["cost_per_million_images"] = round(cost_per_million(rate, price_per_hour), 2)
    return totals


def _columns(rewritten: Sequence[RewrittenColumns], store: Store) -> dict[str, int]:
    """Returns how many images' columns were rewritten, in how many shards, and how many are left to the next run.

    Those are of shards that another run rewrote meanwhile.
    """
    published = {row["columns"] for row in store.shards}
    left = sum(one.images for one in rewritten if one.columns not in published)
    return {
        "images": sum(one.images for one in rewritten),
        "shards": len(rewritten),
        "bytes": sum(one.bytes for one in rewritten),
        "left": left,
    }


def endpoint_totals(commits: Iterable[Commit]) -> dict[str, int]:
    """Returns requests, tokens and answers that were there already, as the commits' counts have them."""
    counts = sum((Counter(commit.counts) for commit in commits), Counter[str]())
    return {name: counts[name] for name in ENDPOINT_COUNTS}


def endpoint_rows(found: Mapping[str, int], seconds: float, prices: Sequence[float]) -> dict[str, Any]:
    """Returns the rows of a table with requests, tokens and, by ``prices`` of a million tokens in and out, the cost."""
    asked = f"{found['requests']:,}, {found['retries']:,} of them repeated"
    rows = {"requests": asked} if found["requests"] else {}
    if there := {name: found[f"answers_{name}"] for name in ("kept", "copied") if found[f"answers_{name}"]}:
        rows["answers not asked again"] = ", ".join(f"{count:,} {name}" for name, count in there.items())
    tokens = found["tokens_in"], found["tokens_out"]
    if not any(tokens):
        return rows
    rate = sum(tokens) / max(seconds, 1e-9)
    rows["tokens"] = f"{tokens[0]:,} sent, {tokens[1]:,} generated, {rate:,.0f} a second"
    if prices:
        rows["cost of tokens"] = money(cost_of_tokens(tokens, prices))
    return rows


def cost_of_tokens(tokens: Sequence[float], prices: Sequence[float]) -> float:
    """Returns the cost of tokens sent and generated, by the ``prices`` of a million of each."""
    return sum(count * price for count, price in zip(tokens, prices, strict=True)) / 1e6


def money(amount: float) -> str:
    """Returns an amount with two decimals, or two significant digits if it is below 1."""
    return f"{amount:,.2f}" if amount >= 1 or amount == 0 else f"{amount:.2g}"


def _failures_by_code(commits: list[Commit]) -> Counter[str]:
    codes: Counter[str] = Counter()
    for commit in commits:
        failed = {name: count for name, count in commit.counts.items() if name.startswith("failed_")}
        codes.update({name.removeprefix("failed_"): count for name, count in failed.items() if count})
    return codes


def _rows(run: Run, totals: dict[str, Any], prices: Sequence[float]) -> dict[str, Any]:
    rows = {
        "images": f"{totals['images']:,} in {clock(totals['seconds'])}, {totals['images_per_second']:.1f} images/s",
        "rows": f"{totals['rows']:,} in {counted(totals['shards'], 'shard')}",
        "failures": ", ".join(f"{n:,} {code}" for code, n in totals["failures_by_code"].items()) or "none",
        "read": size(totals["bytes_read"]),
        "written": size(totals["bytes_written"]),
        "store now": f"{counted(totals['store']['rows'], 'row')}, {counted(totals['store']['failed'], 'failure')}",
        "snapshot": totals["snapshot"],
        "record": files.join(run.folder, "totals.json"),
    }
    if "endpoint" in totals:
        rows |= endpoint_rows(totals["endpoint"], totals["seconds"], prices)
    if "scores" in totals:
        rows["scores"] = _scores(totals["scores"])
    if totals["workers"]:
        rows["workers"] = _workers(totals["workers"])
    if totals["copies"]:
        rows["copies"] = (
            f"{counted(totals['copies'], 'row')} of images with the same bytes as another, computed once"
        )
    if totals["reused"]:
        rows["reused"] = (
            f"{counted(totals['reused'], 'row')} copied: same content as a row that the image had already"
        )
    if "columns" in totals:
        rows["columns"] = _rewritten(totals["columns"])
    if totals["listing"]:
        rows["listing"] = _listing(totals["listing"])
    if any(totals["adopted"].values()):
        said = f"{counted(totals['adopted']['rows'], 'row')} and {counted(totals['adopted']['failed'], 'failure')}"
        rows["adopted"] = f"{said} that an earlier run committed and did not publish"
    if "cost_per_million_images" in totals:
        rows["cost per million images"] = totals["cost_per_million_images"]
    return rows


def _rewritten(columns: Mapping[str, int]) -> str:
    """For example ``1,000 images rewritten in 4 shards (61.2 kB), none of them fetched``."""
    images, shards = counted(columns["images"], "image"), counted(columns["shards"], "shard")
    said = f"{images} rewritten in {shards} ({size(columns['bytes'])}), none of them fetched"
    if columns["left"]:
        said += (
            f"; {columns['left']:,} of them not published, as another run wrote the same shards: run it again"
        )
    return said


def _scores(found: Mapping[str, int]) -> str:
    """For example ``200 captions scored; captions of 100 images copied, of 1 image left without score``."""
    said = f"{counted(found['captions_scored'], 'caption')} scored"
    if found["texts_truncated"]:
        said += f", {found['texts_truncated']:,} of them truncated: longer than the scorer reads"
    parts = [
        f"{what} {counted(found[name], 'image')}{rest}"
        for name, what, rest in (
            ("captions_copied", "captions of", " copied"),
            ("captions_unscored", "those of", " left without score: it cannot be read, or has changed"),
        )
        if found[name]
    ]
    return "; ".join([said, *parts])


def _workers(held: dict[str, int]) -> str:
    """For example ``4 processes on 2 machines, 1 model and 6 threads each, 1.2 GB at most``."""
    processes, hosts, models = held["processes"], held["hosts"], held["models_each"]
    where = f" on {hosts} machines" if hosts > 1 else ""
    devices = f" on {held['devices_each']} devices" if held["devices_each"] > 1 else ""
    each = f"{counted(models, 'model')}{devices} and {counted(held['threads_each'], 'thread')}"
    each += " each" * (processes > 1)
    return f"{counted(processes, 'process')}{where}, {each}, {size(held['peak_rss_bytes'])} at most"


def _listing(counts: dict[str, int]) -> str:
    """A refresh's listing as text: ``3 new, 1 changed, 0 gone, 96 unchanged``, and other kinds."""
    named = [f"{counts[kind]:,} {kind}" for kind in ("new", "changed", "gone", "unchanged")]
    others = {
        "with changed columns": counts["columns"],
        "failures again": counts["again"],
        "under another name or source": counts["moved"],
    }
    return ", ".join([*named, *(f"{count:,} {name}" for name, count in others.items() if count)])
