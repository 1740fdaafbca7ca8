"""The work of encoding images, and of reducing or converting an existing features store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captionbeam.jobs.options.encoders import EncoderOptions, FeatureOptions
from captionbeam.jobs.options.run import ModelOptions
from captionbeam.jobs.options.sources import SourceOptions, listing, parsed_sources
from captionbeam.schemas import Store
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import PRECISION, option
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import models

if TYPE_CHECKING:
    from captionbeam.capmodel.encoders.feature_plan import FeaturePlan
    from captionbeam.jobs.bulk.launch import Work


@dataclass(frozen=True, kw_only=True)
class EncodingOptions(EncoderOptions, FeatureOptions, SourceOptions, ModelOptions):
    """What ``encode`` and ``refresh`` share."""

    precision: str | None = option("auto", "auto, fp32 or bf16", PRECISION, common=True)


def check_encoding(options: EncodingOptions) -> None:
    """Raises RequestError unless either images and an encoder, or features and what to do with them, are given."""
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
    from captionbeam.capmodel.encoders.encoder import resolve_encoder, store_weights
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.workers.processors import EncoderJob

    sources = parsed_sources(options, output)
    spec, state = resolve_encoder(
        str(options.encoder),
        options.weights,
        preprocess=options.preprocess,
        output=options.feature_output,
        precision=options.precision or "auto",
        image_size=options.image_size,
        crop=options.crop,
        pool_padding=not options.exclude_pool_padding,
        device=options.device,
        resize=options.resize,
        interpolation=options.interpolation,
        channels=options.channels,
        layers=options.layers,
    )
    plan = _plan(options, spec.to_dict(), spec.output, spec.shape)

    def job(models_url: str) -> EncoderJob:
        return EncoderJob(
            spec=plan.spec,
            weights=store_weights(state, models_url),
            components=_keep_components(plan, models_url),
            batch_size=options.batch_size,
            device=options.device,
        )

    return Work(
        kind="features",
        spec=plan.spec,
        fingerprint=plan.fingerprint,
        field=plan.field,
        job=job,
        dedup=options.dedup_content,
        **listing(options, sources),
    )


def _reducing(options: EncodingOptions) -> Work:
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.workers.processors import ReducerJob

    store = Store.open(str(options.features))
    _check_full(store)
    plan = _plan(options, store.spec, store.column, store.shape)

    def job(models_url: str) -> ReducerJob:
        _keep_weights(store, models_url)
        return ReducerJob(
            spec=plan.spec,
            column=store.column,
            shape=store.shape,
            components=_keep_components(plan, models_url),
            batch_size=options.batch_size,
            device=options.device,
        )

    return Work(
        kind="features",
        spec=plan.spec,
        fingerprint=plan.fingerprint,
        field=plan.field,
        job=job,
        **listing(options, (), store),
    )


def _plan(options: FeatureOptions, spec: Any, column: str, shape: tuple[int, ...]) -> FeaturePlan:
    from captionbeam.capmodel.encoders.feature_plan import resolve_features

    return resolve_features(spec, column, shape, options.reduce, options.reduce_dim, options.dtype)


def _keep_components(plan: FeaturePlan, models_url: str) -> str | None:
    """Copies the components below ``models_url`` under their hash; returns their URL, or None without components."""
    if plan.components is None:
        return None
    return _keep(plan.components, plan.spec["reduction"]["sha256"], models_url)


def _keep(source: str, sha256: str, models_url: str) -> str:
    target = files.join(models_url, f"{sha256}.safetensors")
    models.keep_file(source, target, sha256)
    return target


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
        _keep(source, sha256, models_url)
