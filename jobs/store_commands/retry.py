"""``store retry-failures``: processes failed images again, with the models that the store has."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from captionbeam.capmodel.specs import StoredAs, complete_spec
from captionbeam.schemas import Store
from captionbeam.schemas.errors import FingerprintError, StoreError
from captionbeam.schemas.fingerprint import fingerprint
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.int8 import stored_columns
from captionbeam.schemas.storage import files

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.workers.processors import ModelJob

HELP = """\
  captionbeam store retry-failures features
  captionbeam store retry-failures captions --all

Does the images of STORE again whose failure is transient (timeout, unavailable), or all failed ones, and publishes the
next snapshot. Sources are not listed again and nothing else is needed: the encoder or bundle is the one in the store's
models/, where each image is stands in the plan of the run that failed on it. Members of zips are looked up again.
Flags that are not below go to Beam's PipelineOptions.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``store retry-failures``."""
    from captionbeam.jobs.options.shared import add_run_options
    from captionbeam.jobs.options.sources import add_fetch_options
    from captionbeam.jobs.run_on.options import add_launch_options
    from captionbeam.jobs.store_commands.shared import add_store

    add_store(parser)
    parser.add_argument(
        "--all", action="store_true", dest="retry_failures", help="permanent failures too, not only transient"
    )
    add_run_options(parser, retry=False)
    add_fetch_options(parser.add_argument_group("reading"))
    add_launch_options(parser)
    parser.set_defaults(limit=None, sample=1.0, seed=0, totals=None)


def run(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Finds the failures, runs the pipeline on them, and reports."""
    from captionbeam.jobs.bulk.launch import gates_of, launch
    from captionbeam.jobs.options.recorded import repeat_limits
    from captionbeam.jobs.run_on.target import settle_job
    from captionbeam.jobs.store_commands.shared import whole_store
    from captionbeam.pipelines.maintenance.retry_failures import by_reading, failed_images, find_failed

    store = Store.open(whole_store(options.store))
    failures = failed_images(store, options.retry_failures)
    refs, lost = find_failed(store, failures)
    if lost:
        print(
            f"note: {len(lost):,} failed images (such as {lost[0]!r}) are left alone: where they are stands in no "
            "plan any more; a run that lists their source does them again"
        )
    if not refs:
        kind = "" if options.retry_failures else "transient "
        print(
            f"nothing to do: {len(failures):,} {kind}failures in snapshot {store.snapshot_id} of {store.url}"
        )
        return 0
    options.job = "retry-failures"
    repeat_limits(options, store.snapshot)
    target = settle_job(options, beam_args, "STORE")
    works = [_work(store, alike, options) for alike in by_reading(refs)]
    gates, kept = gates_of(options), store.snapshot.format
    return max(launch(work, store.url, options, target, gates, kept) for work in works)


def _work(store: Store, refs: list[Any], options: argparse.Namespace) -> Work:
    """Returns the work of the store's encoder, reduction or captioner on ``refs``, which are read in the same way.

    Raises StoreError, FingerprintError.
    """
    import apache_beam as beam

    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.jobs.options.sources import fetch_options
    from captionbeam.pipelines.features.rows import fetch_rows
    from captionbeam.pipelines.fetch.images import fetch
    from captionbeam.schemas.records import ImageRef

    if fingerprint(store.spec) != store.fingerprint:
        raise FingerprintError(
            f"the specification of {store.url} has fingerprint {fingerprint(store.spec)}; expected {store.fingerprint}"
        )
    rows = refs[0].kind == "row"
    make = _captioner if store.kind == "captions" else _reducer if rows else _encoder
    field, job = make(store)
    job = dataclasses.replace(job, batch_size=options.batch_size, device=options.device)
    return Work(
        kind=store.kind,
        spec=store.spec,
        fingerprint=store.fingerprint,
        field=field,
        find=beam.Create(refs, reshuffle=False).with_output_types(ImageRef),
        names=(),
        features=None,
        fetch=fetch_rows if rows else functools.partial(fetch, options=fetch_options(options)),
        job=lambda models_url: job,
    )


def _encoder(store: Store) -> tuple[Any, ModelJob]:
    from captionbeam.pipelines.workers.processors import EncoderJob

    if imported := store.spec.get("imported"):
        raise StoreError(
            f"the rows of {store.url} were imported as {imported!r}, out of arrays; "
            "expected captionbeam import-features again, with --retry-failures"
        )
    weights = _model(store, f"{store.spec.get('weights_sha256')}.safetensors")
    return _field(store), EncoderJob(spec=dict(store.spec), weights=weights, components=_components(store))


def _reducer(store: Store) -> tuple[Any, ModelJob]:
    """Returns field and job for rows of a full-features store, as in ``encode --features``."""
    from captionbeam.pipelines.workers.processors import ReducerJob
    from captionbeam.schemas.formats.components import read_components

    components, shape = _components(store), store.shape
    if components is not None:
        shape = (*shape[:-1], read_components(components).vectors.shape[1])
    spec = dict(store.spec)
    return _field(store), ReducerJob(spec=spec, column=store.column, shape=shape, components=components)


def _field(store: Store) -> Any:
    return stored_columns(store.column, store.shape, store.spec.get("dtype", StoredAs.dtype)).field(0)


def _components(store: Store) -> str | None:
    reduction = store.spec.get("reduction")
    return _model(store, f"{reduction['sha256']}.safetensors") if reduction else None


def _captioner(store: Store) -> tuple[Any, ModelJob]:
    from captionbeam.capmodel.generation.options import DecodeOptions
    from captionbeam.pipelines.workers.processors import CaptionerJob, TransformersJob

    if "transformers" in store.spec:
        folder = _model(store, str(store.spec["transformers"]))
        return arrow.captions_field(False), TransformersJob(folder=folder, spec=dict(store.spec))
    decode = DecodeOptions.from_dict(store.spec.get("decode", {}))
    return arrow.captions_field(decode.keep_attention), CaptionerJob(
        bundle=_model(store, str(store.spec.get("bundle"))),
        decode=decode,
        from_features=store.spec.get("encoder") is None,
        precision=complete_spec(store.spec).get("precision"),
    )


def _model(store: Store, name: str) -> str:
    url = files.join(store.models_url, name)
    if not files.exists(url):
        raise StoreError(f"{url} is not there; expected the weights or bundle that made {store.url}")
    return url
