"""HashContents: hashes the content of all images to process, so that identical images are planned together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.pvalue import PCollection

from captionbeam.pipelines.workers.boundary import across_workers
from captionbeam.pipelines.workers.engine import WINDOW
from captionbeam.pipelines.workers.shards import Fetch, windows
from captionbeam.schemas.records import CONTENT_MARK, ImageRef


class HashContents(beam.PTransform[PCollection[ImageRef], PCollection[ImageRef]]):
    """Takes references, returns them with the SHA-256 of their content as ``digest``.

    This reads every image once more. A reference whose image cannot be read is unchanged; its shard reports the
    error.
    """

    def __init__(self, fetch: Fetch) -> None:
        super().__init__()
        self._fetch = fetch

    def expand(self, refs: PCollection[ImageRef]) -> PCollection[ImageRef]:
        return (
            refs
            | "BatchRefs" >> beam.BatchElements(min_batch_size=WINDOW, max_batch_size=WINDOW)
            | "Hash"
            >> beam.FlatMap(across_workers(hash_contents), fetch=self._fetch).with_output_types(ImageRef)
        )


def hash_contents(refs: Sequence[ImageRef], fetch: Fetch) -> Iterator[ImageRef]:
    """Yields references with the digests of their contents, reading one window at a time."""
    for window in windows(refs):
        for ref, item in zip(window, fetch(window), strict=True):
            known = isinstance(item, bytes) and CONTENT_MARK + hashlib.sha256(item).hexdigest()
            yield ref._replace(digest=known) if known else ref
