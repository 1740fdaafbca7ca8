"""HashContents: the content of every image that is to be done, read ahead, so that copies are planned together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import apache_beam as beam

from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.pipelines.workers.shards import WINDOW, Fetch, windows
from captionbeam.schemas.records import CONTENT_MARK, ImageRef


class HashContents(beam.PTransform):
    """References in, the same with the SHA-256 of their content as ``digest`` out.

    Everything is read once more for it. An image that cannot be read stays as it is: its shard says why.
    """

    def __init__(self, fetch: Fetch) -> None:
        super().__init__()
        self._fetch = fetch

    def expand(self, refs: beam.PCollection) -> beam.PCollection:
        return (
            refs
            | "BatchRefs" >> beam.BatchElements(min_batch_size=WINDOW, max_batch_size=WINDOW)
            | "Hash"
            >> beam.FlatMap(across_workers(hash_contents), fetch=self._fetch).with_output_types(ImageRef)
        )


def hash_contents(refs: Sequence[ImageRef], fetch: Fetch) -> Iterator[ImageRef]:
    """References with their contents' digests, read a window at a time."""
    for window in windows(refs):
        for ref, item in zip(window, fetch(window), strict=True):
            known = isinstance(item, bytes) and CONTENT_MARK + hashlib.sha256(item).hexdigest()
            yield ref._replace(digest=known) if known else ref
