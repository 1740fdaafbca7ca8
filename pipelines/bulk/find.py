"""Finds the images of all sources as references. Containers are listed in parallel."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import AsList, PBegin, PCollection, TaggedOutput
from apache_beam.transforms import combiners

from captionbeam.pipelines.bulk.listing_record import Listing, ending
from captionbeam.pipelines.sources.buckets.inventory import check_counts
from captionbeam.pipelines.sources.listing import list_images, split_part, split_source
from captionbeam.pipelines.sources.parse import AS_FOUND, parse_sources
from captionbeam.pipelines.sources.spec import Columns, Counted, Ignored, SourceOptions, SourceSpec
from captionbeam.pipelines.workers.boundary import across_workers, worker_boundary
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import options as storage_options

Url = str | os.PathLike[str]
_HASH_BYTES = 8


def draw(image_id: str, seed: int) -> float:
    """Returns a uniformly distributed number in [0, 1) that depends only on ``seed`` and ``image_id``, by BLAKE2b."""
    digest = hashlib.blake2b(f"{seed}\0{image_id}".encode(), digest_size=_HASH_BYTES).digest()
    # A float has 53 bits of precision. With more bits, rounding could give 1.0.
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def is_sampled(image_id: str, rate: float, seed: int) -> bool:
    """Returns whether the image is in the sample. A sample with a lower rate is a subset of one with a higher rate."""
    return draw(image_id, seed) < rate


def _check_sample(sample: float) -> None:
    if not 0 < sample <= 1:
        raise RequestError(f"sample {sample!r} is no share of the images; expected above 0, at most 1")


class ListSources(beam.PTransform[PBegin, tuple[PCollection[ImageRef], PCollection[Listing]]]):
    """PBegin -> all images of ``sources``, or a sample of them, and a ``Listing`` of each container.

    Counters: ``find/images_listed`` (before sampling), ``find/files_ignored`` (not an image, by name). Images of an
    inventory report are emitted only after all its files are read and verified. Raises RequestError for a rate
    outside (0, 1].
    """

    def __init__(self, sources: Sequence[SourceSpec], sample: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        _check_sample(sample)
        self._sources = [source._replace(header=()) for source in sources]
        self._sample, self._seed = sample, seed

    def expand(self, begin: PBegin) -> Any:  # Beam takes no tuple as a hint
        listed = (
            begin
            | "NameSources" >> beam.Create(self._sources).with_output_types(SourceSpec)
            | "SplitSources" >> beam.FlatMap(across_workers(split_source)).with_output_types(SourceSpec)
            | "SpreadParts" >> beam.Reshuffle()
            | "SplitParts" >> beam.FlatMap(across_workers(split_part)).with_output_types(SourceSpec)
            | "SpreadContainers" >> beam.Reshuffle()
            | "ListImages"
            >> beam.ParDo(_ListImages())
            .with_output_types(ImageRef)
            .with_outputs("counted", "listings", main="images")
        )
        found = listed.images
        if any(source.report for source in self._sources):
            found = found | CheckReports(listed.counted)
        if self._sample < 1:
            found = found | "SampleImages" >> beam.Filter(ref_is_sampled, self._sample, self._seed)
        return found, listed.listings


class FindImages(beam.PTransform[PBegin, PCollection[ImageRef]]):
    """PBegin -> PCollection[ImageRef]: references to the images of ``sources``, or of a sample of them.

    ``sources``: one or several paths or URLs of folders, globs, zips, tars, Parquet files and lists, as for
    ``captionbeam encode``; or parsed SourceSpecs. ``options``: how lists and Parquet files are read. Raises SourceError
    and RequestError where the pipeline is built; on workers, raises SourceError for a container that is unreadable.
    """

    def __init__(
        self,
        sources: Url | Sequence[Url | SourceSpec],
        sample: float = 1.0,
        seed: int = 0,
        options: SourceOptions = AS_FOUND,
    ) -> None:
        super().__init__()
        _check_sample(sample)
        self._sources = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
        self._sample, self._seed, self._options = sample, seed, options

    def expand(self, begin: PBegin) -> PCollection[ImageRef]:
        urls = [os.fspath(source) for source in self._sources if isinstance(source, str | os.PathLike)]
        specs = [source for source in self._sources if isinstance(source, SourceSpec)]
        specs += parse_sources(urls, self._options) if urls else []
        return (begin | ListSources(specs, self._sample, self._seed))[0]


class CheckReports(beam.PTransform[PCollection[ImageRef], PCollection[ImageRef]]):
    """Passes images through once ``counted`` confirms that their inventory reports are complete."""

    def __init__(self, counted: PCollection[Counted]) -> None:
        super().__init__()
        self._counted = counted

    def expand(self, images: PCollection[ImageRef]) -> PCollection[ImageRef]:
        checked = (
            self._counted
            | "CollectCounts" >> combiners.ToList()
            | "CheckCounts" >> beam.Map(across_workers(check_counts))
        )
        held = beam.Map(lambda ref, _: ref, AsList(checked))
        return images | "AwaitCheck" >> held.with_output_types(ImageRef)


class LimitImages(beam.PTransform[PCollection[ImageRef], PCollection[ImageRef]]):
    """PCollection[ImageRef] -> the ``count`` images with the smallest draws, the same ones in every run.

    They pass through one worker's memory, about 1 KB each. Raises RequestError for a count below 1.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        super().__init__()
        if count < 1:
            raise RequestError(f"limit {count!r} leaves no image; expected 1 or more")
        self._count, self._seed = count, seed

    def expand(self, refs: PCollection[ImageRef]) -> PCollection[ImageRef]:
        seed = self._seed
        return (
            refs
            | "TakeSmallestDraws" >> combiners.Top.Smallest(self._count, key=lambda ref: _order(ref, seed))
            | "Unlist" >> beam.FlatMap(lambda smallest: smallest).with_output_types(ImageRef)
        )


_Count = TaggedOutput[Literal["counted"], Counted]
_Listing = TaggedOutput[Literal["listings"], Listing]


class _ListImages(beam.DoFn):
    def __init__(self) -> None:
        self._listed = Metrics.counter("find", "images_listed")
        self._ignored = Metrics.counter("find", "files_ignored")
        self._storage = storage_options.current()

    def process(self, spec: SourceSpec) -> Iterator[ImageRef | _Count | _Listing]:
        images, passed_over, columns = 0, Counter[str](), ""
        with worker_boundary(self._storage):
            for found in list_images(spec):
                if isinstance(found, Ignored):
                    self._ignored.inc()
                    passed_over[ending(found.name)] += 1
                elif isinstance(found, Counted):
                    yield _Count("counted", found)
                elif isinstance(found, Columns):
                    columns = found.schema
                else:
                    self._listed.inc()
                    images += 1
                    yield found
        yield _Listing("listings", Listing(spec.name, images, dict(passed_over), columns))


def ref_is_sampled(ref: ImageRef, rate: float, seed: int) -> bool:
    """Returns ``is_sampled`` for a reference."""
    return is_sampled(ref.image_id, rate, seed)


def _order(ref: ImageRef, seed: int) -> tuple[float, str, str]:
    return draw(ref.image_id, seed), ref.image_id, ref.source
