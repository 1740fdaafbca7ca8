"""Previews a refresh: plans it (``--plan``), or tries it on a few images (``--canary N``)."""

from __future__ import annotations

import functools
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from captionbeam.capmodel.templates import columns_by_prompt, filled
from captionbeam.jobs.bulk.launch import Work, start, to_do
from captionbeam.jobs.bulk.watch import cost_of_tokens, endpoint_rows, endpoint_totals, money
from captionbeam.jobs.options.command import Result
from captionbeam.jobs.run_on.running import run_on
from captionbeam.jobs.run_on.target import RunTarget
from captionbeam.jobs.ui.progress import clock
from captionbeam.jobs.ui.summary import empty_places_line, print_table, size
from captionbeam.jobs.ui.terminal import note, say
from captionbeam.pipelines.bulk.compare import read_counts, read_gone
from captionbeam.pipelines.bulk.duplicates import duplicates_line, read_duplicates
from captionbeam.pipelines.bulk.find import LimitImages
from captionbeam.pipelines.bulk.gates import too_many_gone
from captionbeam.pipelines.bulk.listing_record import passed_over_line, read_listing
from captionbeam.pipelines.bulk.plan import PlanShards, planned_shards
from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.runners.runner import is_handed_over, runs_in_process, worker_processes
from captionbeam.pipelines.workers.transforms import ProcessShards
from captionbeam.schemas.counts import counted
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import UNNAMED
from captionbeam.schemas.formats.kept import EMPTY, empty_columns, empty_places, unpacked, used_values
from captionbeam.schemas.records import parse_address
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout

if TYPE_CHECKING:
    from captionbeam.jobs.refresh import Refresh

LATEST_RUNS = 50
LONGEST_PROMPT = 500  # characters shown of one


def try_out(
    work: Work, options: Refresh, target: RunTarget, retired: Sequence[str], tried: Work | None = None
) -> Result:
    """Plans the refresh, processes a few images with ``--canary``, and prints the cost of the whole.

    ``tried``: the canary's work, where it is less than that of the refresh: without prompts whose answers are copied.
    """
    tried = tried or work
    if not options.scratch and not runs_in_process(target.beam_args):
        raise RequestError(
            "the workers of this runner cannot reach this machine's temporary folder; expected --scratch with a URL"
        )
    if is_handed_over(target.beam_args):
        raise RequestError(
            "--plan and --canary need a pipeline that runs; expected no template or jar to be written"
        )
    with _scratch(options.scratch) as place:
        look = start(
            work,
            str(options.output),
            options,
            str(options.format),
            operation="refresh",
            place=place,
            retired=retired,
        )
        trial = (
            start(replace(tried, keep=()), files.join(place, "store"), options, str(options.format))
            if options.canary
            else None
        )
        build = functools.partial(
            _build,
            look=look,
            trial=trial,
            work=work,
            tried=tried,
            options=options,
            retired=retired,
            target=target,
        )
        run_on(target, build, options.name, look.run_id, look.url, look.folder)
        rows, counts = plan_rows(look), read_counts(look)
        left = to_be_done(look)
        asked = left - _shares(counts.get("answers_copied", 0), look)
        held_back = None if options.publish_anyway else would_be_held_back(look, counts, options.max_deletes)
        said = [
            passed_over_line(read_listing(look)),
            duplicates_line(read_duplicates(look)),
            planned_empty_line(look),
        ]
        if trial is None:
            rows |= _earlier_rows(look, asked, options)
        else:
            rows |= canary_rows(trial, asked, options.price_per_hour, options.price_per_million_tokens)
    print_table(f"{'canary' if trial else 'plan'}: {look.url}", rows)
    for line in filter(None, said):
        note(line)
    if not left:
        rest = ["deleting"] * bool(counts["gone"]) + ["rewriting kept columns"] * bool(counts["columns"])
        rest = rest or ["publishing"] * look.redo
        say(f"nothing to do but {' and '.join(rest)}" if rest else "nothing to do")
    if held_back:
        note(f"{held_back}: this refresh would not be published")
    return Result(totals=rows, output=options.output)


@contextmanager
def _scratch(url: str | None) -> Iterator[str]:
    """Yields a temporary folder, at ``url`` if given."""
    if url is None:
        with tempfile.TemporaryDirectory(prefix="captionbeam-") as folder:
            yield folder
        return
    place = files.join(files.absolute(url), f"captionbeam-{uuid.uuid4().hex[:12]}")
    try:
        yield place
    finally:
        if files.exists(place):
            files.remove(place)


def _build(
    pipeline: beam.Pipeline,
    look: Run,
    trial: Run | None,
    work: Work,
    tried: Work,
    options: Refresh,
    retired: Sequence[str],
    target: RunTarget,
) -> None:
    todo, _, _ = to_do(pipeline, look, work, options, retired)
    _ = todo | "PlanAll" >> PlanShards(look, options.shard_size)
    if trial is not None and options.canary is not None:
        job = target.with_device(tried.job(files.join(trial.url, "models")))
        sharing = options.threads, worker_processes(target.beam_args)
        few = todo | "Canary" >> LimitImages(options.canary, options.seed or 0)
        shards = few | "PlanCanary" >> PlanShards(trial, options.shard_size)
        _ = shards | ProcessShards(trial, job, tried.fetch, *sharing)


def _earlier_rows(look: Run, asked: float, options: Refresh) -> dict[str, Any]:
    """Returns time and cost by the store's largest recent run.

    ``asked``: the work, as a number of images of which all prompts are asked.
    """
    earlier = earlier_totals(look.url)
    if earlier is None:
        return {"time": "unknown: this store has no earlier run; --canary N measures one"}
    whose = "the rate of the largest of this store's latest runs"
    more = len(look.spec.get("prompts", ())) / len(earlier["prompts"]) if earlier["prompts"] else 1
    rate = earlier["images_per_second"] * earlier["computed"] / earlier["images"] / more
    rows = cost_rows(asked, rate, options.price_per_hour, whose)
    if (found := earlier.get("endpoint")) and found["tokens_in"]:
        rows |= token_rows(asked * more, found, earlier["computed"], options.price_per_million_tokens)
        if look.previous is not None:
            note("tokens and cost are those of all prompts; answers to unchanged ones are copied")
    return rows


def _shares(answers: int, look: Run) -> float:
    """Returns the number of images that have as many ``answers``, one to each prompt."""
    return answers / max(1, len(columns_by_prompt(look.spec)))


def plan_rows(look: Run) -> dict[str, Any]:
    """Returns the rows of a plan: numbers of images by kind of change, bytes, shards."""
    counts, shards = read_counts(look), planned_shards(look)
    rows = {name: f"{counts.get(name, 0):,}" for name in ("new", "changed", "gone", "unchanged")}
    if counts.get("columns"):
        rows["with changed columns"] = f"{counts['columns']:,}, whose columns alone are rewritten"
    if counts.get("again"):
        rows["failures retried"] = f"{counts['again']:,}"
    if counts.get("moved"):
        rows["under another name or source"] = f"{counts['moved']:,}"
    if values := counts.get("values", 0):
        same = counts.get("answers_copied", 0)
        rows["asked again"] = f"a value that a prompt uses changed: {counted(values, 'image')}" + (
            f"; {counted(same, 'answer')} to other prompts copied" if same else ""
        )
    if had := counts.get("changed", 0) + counts.get("moved", 0) - values:
        rows["reused"] = f"of these {had:,} images, those whose content is unchanged: their rows are copied"
    known, unknown = planned_bytes(look)
    rows["bytes to read"] = size(known) + (f", and {unknown:,} images of unknown size" if unknown else "")
    done = len({shard.shard_id for shard in shards} & layout.committed_shards(look.url))
    rows["shards"] = f"{len(shards):,}" + (f", {done:,} of them done already" if done else "")
    return rows | prompt_rows(look)


def prompt_rows(look: Run) -> dict[str, Any]:
    """Returns the prompts with the values of the first planned image, if they use columns."""
    first = min(_planned_columns(look), default=None)
    if first is None:
        return {}
    image_id, text = first
    values = unpacked(used_values(text, look.used_columns))
    asked = {name: filled(own["text"], values) for name, own in look.spec["prompts"].items()}
    lines = [("" if name == UNNAMED else f"{name}: ") + _shortened(text) for name, text in asked.items()]
    return {f"prompts of {image_id}": "\n".join(lines)}


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_PROMPT else f"{text[:LONGEST_PROMPT]}..."


def planned_empty_line(look: Run) -> str:
    """Returns how many planned images have no value in a column that a prompt uses; '' if all have."""
    counts = empty_places((text for _, text in _planned_columns(look)), look.used_columns)
    return empty_places_line(counts[EMPTY], empty_columns(counts)) if counts else ""


def _planned_columns(look: Run) -> Iterator[tuple[str, str]]:
    """Yields id and kept columns of the planned images, if prompts use some."""
    for table in _planned(look, ["image_id", "columns"]) if look.used_columns else ():
        yield from zip(*(column.to_pylist() for column in table.columns), strict=True)


def _planned(run: Run, columns: Sequence[str]) -> Iterator[pa.Table]:
    folder = files.join(run.folder, "parts")
    for name in files.names(folder):
        fs, path = files.split(files.join(folder, name))
        with fs.open(path, "rb") as stream:
            yield pq.read_table(stream, columns=list(columns))


def would_be_held_back(look: Run, counts: Mapping[str, int], limit: float) -> str | None:
    """Returns why publishing would be refused for deletions, assuming no new failures; None if it would not."""
    if look.parent is None:
        return None
    before = layout.load_snapshot(look.url, look.parent).totals["rows"]
    listed = sum(counts[kind] for kind in ("new", "changed", "again", "unchanged"))
    rows_gone = sum(not parse_address(place)[2] for place in read_gone(look))
    after = listed if look.redo else before - rows_gone + counts["new"]
    return too_many_gone(limit, before, after, counts["gone"], counts["known"])


def planned_bytes(run: Run) -> tuple[int, int]:
    """Returns the bytes of the planned images according to their listing, and the number of images of unknown size."""
    known = unknown = 0
    for table in _planned(run, ["kind", "length"]):
        # of Parquet cells and rows of features the length is not in bytes
        places = zip(*table.to_pydict().values(), strict=True)
        sizes = [n if kind in ("file", "zip", "tar") else -1 for kind, n in places]
        known += sum(n for n in sizes if n >= 0)
        unknown += sum(n < 0 for n in sizes)
    return known, unknown


def to_be_done(look: Run) -> int:
    """Returns the number of images in the plan's uncommitted shards."""
    committed = layout.committed_shards(look.url)
    return sum(shard.images for shard in planned_shards(look) if shard.shard_id not in committed)


def earlier_totals(url: str) -> dict[str, Any] | None:
    """Returns the totals of the store's largest recent run, where startup matters least; None if there is none.

    They have its ``prompts`` by column, and ``computed``: the images without copied rows and answers. One of whose
    answers half were copied is half an image.
    """
    largest, found, runs = 0.0, None, 0
    for run in reversed(files.names(files.join(url, "plans"))):
        try:
            totals = files.read_json(files.join(url, "plans", run, "totals.json"))
        except FileNotFoundError:  # the run was killed or is still running
            continue
        spec = files.read_json(files.join(url, "plans", run, "run.json"))["spec"]
        prompts = spec.get("prompts", {})
        copied = totals.get("endpoint", {}).get("answers_copied", 0) / max(1, len(prompts))
        computed = totals["images"] - totals.get("reused", 0) - copied
        if computed > largest:
            largest, found = computed, {**totals, "computed": computed, "prompts": prompts}
        runs += 1
        if runs == LATEST_RUNS:
            break
    return found


def token_rows(images: float, share: Mapping[str, int], of: float, prices: Sequence[float]) -> dict[str, Any]:
    """Returns tokens and their cost for ``images``, by the counts ``share`` for ``of`` images."""
    tokens = [share[name] * images / (of or 1) for name in ("tokens_in", "tokens_out")]
    rows = {"tokens of all": f"{tokens[0]:,.0f} sent, {tokens[1]:,.0f} generated"}
    if prices:
        rows["cost of all tokens"] = money(cost_of_tokens(tokens, prices))
    return rows


def cost_rows(images: float, rate: float, price_per_hour: float | None, whose: str) -> dict[str, Any]:
    """Returns time and cost of ``images`` at ``rate`` images per second, where known."""
    if not rate:
        return {}
    rows = {"time": f"{clock(images / rate)} at {rate:.1f} images/s, {whose}"}
    if price_per_hour is not None:
        rows["cost"] = f"{images / rate / 3600 * price_per_hour:,.2f}"
    return rows


def canary_rows(
    trial: Run,
    asked: float,
    price_per_hour: float | None,
    token_prices: Sequence[float] = (),
) -> dict[str, Any]:
    """Returns a canary's results: rate without model loading, failures by code, and a projection.

    ``asked``: the work, as a number of images of which all prompts are asked. ``token_prices``: of a million tokens
    sent and generated.
    """
    commits = layout.load_commits(trial.url, [shard.shard_id for shard in planned_shards(trial)])
    images = sum(commit.rows + commit.failed for commit in commits)
    counts = sum((Counter(commit.counts) for commit in commits), Counter())
    seconds = max(counts["shard_msecs"], 1) / 1000
    failed = {name.removeprefix("failed_"): n for name, n in counts.items() if name.startswith("failed_")}
    rows = {
        "canary": f"{images:,} images in {seconds:.1f} s of one worker, {images / seconds:.1f} images/s",
        "its failures": ", ".join(f"{n:,} {code}" for code, n in sorted(failed.items())) or "none",
    }
    if "requests" in counts:
        rows |= endpoint_rows(endpoint_totals(commits), seconds, token_prices)
        rows |= token_rows(asked, counts, images, token_prices)
    return rows | cost_rows(asked, images / seconds, price_per_hour, "of one worker like the canary's")
