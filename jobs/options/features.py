"""The work of encoding images, and of reducing or converting an existing features store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from captionbeam.capmodel.specs import complete_spec
from captionbeam.jobs.options.encoders import EncoderOptions, FeatureOptions
from captionbeam.jobs.options.run import ModelOptions
from captionbeam.jobs.options.sources import SourceOptions, listing, parsed_sources
from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import PRECISION, option
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout, models

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work


@dataclass(frozen=True, kw_only=True)
class EncodingOptions(EncoderOptions, FeatureOptions, SourceOptions, ModelOptions):
    """What ``encode`` and ``refresh`` share."""

    precision: str | None = option("auto", "auto, fp32 or bf16", PRECISION, common=True)


def check_encoding(options: EncodingOptions) -> None:
    """Raises RequestError unless either images and an encoder, or features and what to do with them, are given."""
    if options.pooled and options.logits:
        raise RequestError("--pooled and --logits exclude each other; expected one of them")
    if not options.features:
        if not options.sources:
            raise RequestError("no source is named; expected one SOURCE or more, or --features")
        if options.encoder is None:
            raise RequestError("no encoder is named; expected --encoder NAME, or --features")
        return
    if options.sources:
        raise RequestError("--features replaces SOURCE; expected one of them")
    if options.encoder:
        raise RequestError("--features are not encoded again; expected no --encoder, or SOURCE")
    if options.reduce is None and options.dtype == "float16":
        raise RequestError("--features alone would copy the store; expected --reduce, --dtype int8 or both")


def encoding(options: EncodingOptions, output: str) -> Work:
    """Returns the work of encoding or reducing. Raises RequestError, StoreError."""
    check_encoding(options)
    if options.features:
        return _reducing(options)
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.workers.processors import plan_encoder

    sources = parsed_sources(options, output)
    stored = _reading_of(output)
    plan = plan_encoder(
        str(options.encoder),
        weights=options.weights,
        preprocess=options.preprocess,
        output=options.feature_output,
        precision=options.precision or "auto",
        image_size=options.image_size,
        crop=options.crop,
        pool_padding=not options.exclude_pool_padding,
        resize=options.resize,
        interpolation=options.interpolation,
        channels=options.channels,
        layers=options.layers,
        decode=options.decode or stored.get("decode"),
        colour=options.colour or stored.get("colour"),
        reduce=options.reduce,
        reduce_dim=options.reduce_dim,
        dtype=options.dtype,
        batch_size=options.batch_size,
        device=options.device,
    )
    return Work(
        kind="features",
        spec=plan.spec,
        fingerprint=plan.fingerprint,
        field=plan.field,
        job=plan.job,
        dedup=options.dedup_content,
        **listing(options, sources),
    )


def _reading_of(output: str) -> Mapping[str, Any]:
    """Returns the preprocessing with which the store at ``output`` was made; nothing for a new store."""
    newest = layout.newest_snapshot(files.absolute(output))
    return complete_spec(newest.spec).get("preprocess", {}) if newest else {}


def _reducing(options: EncodingOptions) -> Work:
    from captionbeam.capmodel.encoders.feature_plan import resolve_features
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.workers.processors import ReducerJob, keep_components

    store = Store.open(str(options.features))
    _check_full(store)
    stored_as = options.reduce, options.reduce_dim, options.dtype
    plan = resolve_features(store.spec, store.column, store.shape, *stored_as)

    def job(models_url: str) -> ReducerJob:
        _keep_weights(store, models_url)
        return ReducerJob(
            spec=plan.spec,
            column=store.column,
            shape=store.shape,
            components=keep_components(plan, models_url),
            batch_size=options.batch_size,
            device=options.device,
        )

    return Work(
        kind="features",
        spec=plan.spec,
        fingerprint=plan.fingerprint,
        field=plan.field,
        job=job,
        **listing(_with_columns(options, store), (), store),
    )


def _with_columns(options: EncodingOptions, store: Store) -> EncodingOptions:
    """Returns the options with all kept columns of ``store`` kept, unless some are named: rows keep their columns."""
    from captionbeam.pipelines.sources.tables.keeper import ALL

    if options.keep_columns or not len(store.kept):
        return options
    return replace(options, keep_columns=(ALL,))


def _check_full(store: Store) -> None:
    """Raises RequestError unless the store has an encoder's full float16 features."""
    if store.kind != "features":
        raise RequestError(f"{store.url} is a store of {store.kind}; expected one of features")
    for name, said in (("reduction", "reduced"), ("dtype", "stored as int8")):
        if name in store.spec:
            raise RequestError(
                f"the features {store.url} are {said} already; expected the float16 features of an encoder"
            )


def _keep_weights(store: Store, models_url: str) -> None:
    """Copies the encoder's weights, so that bundles trained on the reduced features can include them."""
    sha256 = str(store.spec.get("weights_sha256"))
    source = files.join(store.models_url, f"{sha256}.safetensors")
    if files.exists(source):
        models.keep_file(source, files.join(models_url, f"{sha256}.safetensors"), sha256)
