"""Captions images directly to standard output, one line per caption, without a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from heapq import nsmallest
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from captionbeam.jobs.options.captioners import captioner_now
from captionbeam.jobs.options.command import DONE, WARNED, Result
from captionbeam.jobs.options.sources import fetch_options
from captionbeam.jobs.ui.summary import empty_places_line
from captionbeam.jobs.ui.terminal import note, say, visible
from captionbeam.pipelines.bulk.duplicates import duplicates_line, refuse_duplicates, take_first
from captionbeam.pipelines.bulk.find import draw, is_sampled
from captionbeam.pipelines.bulk.listing_record import (
    Listing,
    check_columns,
    check_listed,
    ending,
    passed_over_line,
    seen_columns,
    sum_listings,
)
from captionbeam.pipelines.endpoints.links import fetch_links
from captionbeam.pipelines.sources.buckets.inventory import check_counts
from captionbeam.pipelines.sources.images import fetch
from captionbeam.pipelines.sources.listing import list_images
from captionbeam.pipelines.sources.spec import Counted, Ignored, SourceSpec
from captionbeam.pipelines.workers.batches import Prepared, Processor, ReadsColumns, prepare_image, run_batch
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.formats.kept import EMPTY, Types, empty_columns, empty_places, schema_of
from captionbeam.schemas.records import ImageRef

if TYPE_CHECKING:
    from captionbeam.jobs.caption import Caption

Captions = dict[str, list[dict[str, Any]]]
"""The captions of one image, best first, by column."""


def print_captions(options: Caption, sources: Sequence[SourceSpec]) -> Result:
    """Captions the images of the parsed ``sources``, sorted by id, and prints captions as they are ready.

    For a single image with one caption, the line is the caption alone; otherwise id, log-probability (unless the model
    is behind an endpoint), score (of a scorer), prompt (of several), and caption, separated by tabs. Failures go to
    standard error, and the status is then 3. The totals have the captions by id, and of several prompts by id and
    prompt.
    """
    captioner = captioner_now(options, options.batch_size or 1)
    used = captioner.columns if isinstance(captioner, ReadsColumns) else ()
    refs = _chosen(sources, options)
    names = captioner.schema.names
    alone, captions, failures = len(refs) == options.n_best == len(names) == 1, {}, {}
    read = fetch_links if options.by_url else partial(fetch, options=fetch_options(options))
    for batch in _batches(iter(refs), captioner.batch_size):
        for ref, result in _captioned(batch, read(batch), captioner):
            if isinstance(result, ImageError):
                failures[ref.image_id] = str(result)
            else:
                captions[ref.image_id] = result if len(names) > 1 else result[names[0]]
            _say(ref, result, alone)
    if empty := empty_places((ref.columns for ref in refs), used):
        note(empty_places_line(empty[EMPTY], empty_columns(empty)), to_error=True)
    return Result(WARNED if failures else DONE, {"captions": captions, "failures": failures})


def _chosen(sources: Sequence[SourceSpec], options: Caption) -> list[ImageRef]:
    """Returns the images that a captions store would get from the same options, sorted by id."""
    refs = [ref for ref in _listed(sources) if is_sampled(ref.image_id, options.sample, options.seed or 0)]
    if options.on_duplicate == "first":
        refs, others = take_first(refs, list(dict.fromkeys(source.name for source in sources)))
        if said := duplicates_line(others):
            say(f"captionbeam: note: {said}", to_error=True)
    if options.limit:
        refs = nsmallest(options.limit, refs, key=lambda ref: draw(ref.image_id, options.seed or 0))
    refs = sorted(refs, key=lambda ref: ref.image_id)
    for _, same in groupby(refs, key=lambda ref: ref.image_id):
        refuse_duplicates(list(same))
    return refs


def _listed(sources: Sequence[SourceSpec]) -> Iterator[ImageRef]:
    """Yields the images of all sources; reports skipped files on standard error.

    Raises SourceError if a source has no images, or if none has a column that a prompt uses.
    """
    counts, listings, columns = [], [], Types()
    for source in sources:
        images, passed_over = 0, Counter[str]()
        for found in list_images(source):
            if isinstance(found, ImageRef):
                images += 1
                yield found
            elif isinstance(found, Counted):
                counts.append(found)
            elif isinstance(found, Ignored):
                passed_over[ending(found.name)] += 1
            else:
                columns.add(schema_of(found.schema))
        listings.append(Listing(source.name, images, passed_over))
    check_counts(counts)
    if said := passed_over_line(listings):
        say(f"captionbeam: note: {said}", to_error=True)
    check_listed(sum_listings(listings), [source.name for source in sources])
    used = [name for source in sources for name in source.used]
    if used:
        check_columns(columns.schema(), used, used, seen_columns(sources))


def _batches(refs: Iterator[ImageRef], size: int) -> Iterator[list[ImageRef]]:
    while batch := list(islice(refs, size)):
        yield batch


def _captioned(
    refs: list[ImageRef], items: Sequence[bytes | ImageError], captioner: Processor
) -> Iterator[tuple[ImageRef, Captions | ImageError]]:
    prepared = []
    for ref, item in zip(refs, items, strict=True):
        try:
            if isinstance(item, ImageError):
                raise item
            prepared.append(Prepared(ref, "", prepare_image(captioner, item, ref)))
        except ImageError as err:
            yield ref, err
    for part, result in run_batch(prepared, captioner) if prepared else ():
        captions = [result] if isinstance(result, ImageError) else pa.table(result).to_pylist()
        yield from ((one.ref, found) for one, found in zip(part, captions, strict=True))


def _say(ref: ImageRef, result: Captions | ImageError, alone: bool) -> None:
    if isinstance(result, ImageError):
        say(f"captionbeam: {visible(ref.location)}: {visible(result)}", to_error=True)
        return
    for column, captions in result.items():
        for caption in captions:
            numbers = [f"{caption['logprob']:.3f}"] if "logprob" in caption else []
            numbers += [f"{caption['score']:.3f}"] if "score" in caption else []
            prompt = [column] if len(result) > 1 else []
            parts = [visible(ref.image_id), *numbers, *prompt, visible(caption["text"]) or "(empty caption)"]
            say(parts[-1] if alone else "\t".join(parts))
