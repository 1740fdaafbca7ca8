"""``store retry-failures``: processes failed images again, with the models that the store has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from captionbeam.capmodel.specs import StoredAs, complete_spec
from captionbeam.jobs.options import inputs
from captionbeam.jobs.options.command import Result
from captionbeam.jobs.options.prompts import RequestOptions, endpoint_of, is_endpoint
from captionbeam.jobs.options.run import BulkCommand, ModelOptions, RunOptions
from captionbeam.jobs.options.scorers import columns_of, scoring_job, with_scorer
from captionbeam.jobs.options.sources import ReadingOptions
from captionbeam.jobs.ui.terminal import note, say
from captionbeam.schemas import Store
from captionbeam.schemas.counts import counted
from captionbeam.schemas.errors import FingerprintError, StoreError
from captionbeam.schemas.fingerprint import fingerprint, from_spec
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.int8 import stored_columns
from captionbeam.schemas.formats.kept import schema_of
from captionbeam.schemas.options import STORE, like, option
from captionbeam.schemas.storage import files

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.endpoints.plan import EndpointJob
    from captionbeam.pipelines.workers.batches import WorkerJob
    from captionbeam.pipelines.workers.processors import ModelJob


@dataclass(frozen=True, kw_only=True)
class StoredModelOptions(ReadingOptions, ModelOptions, RequestOptions):
    """How the models that a store has, or its endpoint, process its images again."""


@dataclass(frozen=True, kw_only=True)
class RetryFailures(StoredModelOptions, BulkCommand):
    """Processes a store's failed images again and publishes the next snapshot."""

    HELP = """\
  captionbeam store retry-failures features
  captionbeam store retry-failures captions --all

Processes the images of STORE again whose failure is temporary (timeout, unavailable), or all failed ones, and publishes
the next snapshot. Sources are not listed again, and no other option is needed: the encoder or bundle is the one in the
store's models/, an endpoint has the recorded address, and the plan of the run that failed has each image's location.
Members of zips are looked up again.
Other flags are those of Beam's PipelineOptions.
"""
    name = "store retry-failures"

    store: str = option(..., "a folder or URL", STORE, positional=True, common=True, opens=inputs.store)
    retry_failures: bool = like(
        RunOptions, "retry_failures", help="also permanent failures, not only temporary ones", flag="--all"
    )

    def execute(self) -> Result:
        """Finds the failures, runs the pipeline on them, and reports."""
        from captionbeam.jobs.bulk.launch import launch
        from captionbeam.jobs.options.recorded import repeat_limits
        from captionbeam.jobs.run_on.target import resolve_target
        from captionbeam.jobs.store_commands.shared import whole_store
        from captionbeam.pipelines.maintenance.retry_failures import by_reading, failed_images, find_failed

        store = Store.open(whole_store(self.store))
        failures = failed_images(store, self.retry_failures)
        refs, lost = find_failed(store, failures)
        if lost:
            note(
                f"{counted(len(lost), 'failed image')} (such as {lost[0]!r}) are not retried: no plan has their "
                "location any more; a run that lists their source retries them"
            )
        if not refs:
            kind = "" if self.retry_failures else "temporary "
            say(
                f"nothing to do: {counted(len(failures), f'{kind}failure')} in snapshot {store.snapshot_id} "
                f"of {store.url}"
            )
            return Result(output=store.url)
        target, options = resolve_target(repeat_limits(self, store.snapshot), "store")
        works = [_work(store, alike, options) for alike in by_reading(refs)]
        done = []
        for work in works:
            self.begin()  # no totals of the work before, if this one fails
            done.append(launch(work, store.url, options, target, options.gates(), store.snapshot.format))
        return replace(done[-1], status=max(one.status for one in done))


def _work(store: Store, refs: list[Any], options: RetryFailures) -> Work:
    """Returns the work of the store's models on ``refs``, which are read in the same way.

    Raises StoreError, FingerprintError.
    """
    import apache_beam as beam

    from captionbeam.schemas.records import ImageRef

    rows = refs[0].kind == "row"
    if store.kind == "captions":
        field, job = stored_captioner(store, options)
        if "scorer" in store.spec:
            folder = _model(store, str(store.spec["scorer"]["model"]))
            how = {"batch_size": options.batch_size, "device": options.device}
            job = scoring_job(store.spec, field, job, folder, **how)
            field = arrow.with_scores(columns_of(store.spec, field)).field(0)
    else:
        field, made = (_reducer if rows else _encoder)(store)
        job = replace(made, batch_size=options.batch_size, device=options.device)
    find = beam.Create(refs, reshuffle=False).with_output_types(ImageRef)
    return store_work(store, store.spec, field, lambda models_url: job, find, options, rows)


def store_work(
    store: Store,
    spec: Mapping[str, Any],
    field: Any,
    job: Callable[[str], WorkerJob],
    find: Any,
    options: ReadingOptions,
    rows: bool = False,
) -> Work:
    """Returns the work of ``job`` on images that ``find`` finds in ``store`` itself. ``rows``: of features."""
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.jobs.options.sources import fetch_options
    from captionbeam.pipelines.endpoints.links import fetch_links
    from captionbeam.pipelines.features.rows import fetch_rows
    from captionbeam.pipelines.sources.images import fetch

    if fingerprint(store.spec) != store.fingerprint:
        raise FingerprintError(
            f"the specification of {store.url} has fingerprint {fingerprint(store.spec)}; expected {store.fingerprint}"
        )
    read: Any = fetch_rows if rows else functools.partial(fetch, options=fetch_options(options))
    return Work(
        kind=store.kind,
        spec=spec,
        fingerprint=fingerprint(spec),
        field=field,
        find=find,
        names=(),
        features=None,
        fetch=fetch_links if store.spec.get("send_urls") else read,
        job=job,
        keep=tuple(store.input_columns.names),
        kept=store.input_columns,
        exif=tuple(schema_of(store.snapshot.exif).names),
    )


def stored_captioner(store: Store, options: StoredModelOptions) -> tuple[Any, WorkerJob]:
    """Returns field and job of the captioner that the store has in ``models/``, or of its endpoint, without scores.

    Raises StoreError.
    """
    if "endpoint" in store.spec:
        return _endpoint(store, options)
    field, job = _captioner(store)
    return field, replace(job, batch_size=options.batch_size, device=options.device)


def _endpoint(store: Store, options: StoredModelOptions) -> tuple[Any, EndpointJob]:
    """Returns field and job for the prompts of ``store``, asked at the recorded address."""
    from captionbeam.capmodel.specs import EndpointSpec
    from captionbeam.pipelines.endpoints.plan import EndpointJob
    from captionbeam.pipelines.endpoints.prompts import prompts_of

    captioner = store.snapshot.request.get("options", {}).get("captioner")
    if not is_endpoint(captioner):
        raise StoreError(
            f"{store.url} has no record of where {store.spec['endpoint']!r} is asked; "
            "expected captionbeam caption again, with --retry-failures"
        )
    spec = from_spec(EndpointSpec, with_scorer(store.spec, None))
    return prompts_of(spec)[0].field, EndpointJob(spec, endpoint_of(captioner, options))


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
    from captionbeam.capmodel.specs import ChatSpec
    from captionbeam.pipelines.workers.processors import CaptionerJob, ChatJob, TransformersJob
    from captionbeam.pipelines.workers.processors import columns_of as prompt_columns

    own = with_scorer(store.spec, None)
    if "transformers" in own:
        folder = _model(store, str(own["transformers"]))
        if "prompts" in own:
            spec = from_spec(ChatSpec, own)
            return prompt_columns(spec).field(0), ChatJob(folder=folder, spec=spec)
        return arrow.captions_field(False), TransformersJob(folder=folder, spec=own)
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
