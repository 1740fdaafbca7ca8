"""Plans of rows with a model, made on the launcher: their specification, and the workers' job."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from captionbeam.pipelines.workers.processors.jobs import (
    CaptionerJob,
    ChatJob,
    EncoderJob,
    ModelJob,
    TransformersJob,
    columns_of,
)
from captionbeam.schemas.errors import RequestError, not_installed
from captionbeam.schemas.fingerprint import fingerprint, spec_of
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import models

if TYPE_CHECKING:
    from captionbeam.capmodel.encoders.feature_plan import FeaturePlan
    from captionbeam.capmodel.generation.options import DecodeOptions
    from captionbeam.schemas.store.reading import Store


@dataclass(frozen=True)
class ModelPlan:
    """Rows to be computed, as resolved on the launcher: their specification, its hash, and their column.

    ``job``: copies weights or a bundle to a store's ``models/``, whose URL it takes, and returns the workers' job.
    ``features``: the fingerprint of the features that a captioner reads or computes.
    """

    spec: Mapping[str, Any]
    fingerprint: str
    field: pa.Field
    job: Callable[[str], ModelJob]
    features: str | None = None


def plan_encoder(
    encoder: str,
    *,
    reduce: str | None = None,
    reduce_dim: int | None = None,
    dtype: str = "float16",
    batch_size: int | None = None,
    device: str = "auto",
    as_read: bool = False,
    **encoding: Any,
) -> ModelPlan:
    """Returns the plan for features of images. ``encoding``: further arguments of ``resolve_encoder``.

    ``reduce``, ``reduce_dim``, ``dtype``: as in ``resolve_features``. Raises RequestError, FingerprintError.
    """
    from captionbeam.capmodel.encoders.encoder import resolve_encoder, store_weights
    from captionbeam.capmodel.encoders.feature_plan import resolve_features

    spec, state = resolve_encoder(encoder, device=device, **encoding)
    plan = resolve_features(spec.to_dict(), spec.output, spec.shape, reduce, reduce_dim, dtype)

    def job(models_url: str) -> EncoderJob:
        return EncoderJob(
            spec=plan.spec,
            weights=store_weights(state, models_url),
            components=keep_components(plan, models_url),
            as_read=as_read,
            batch_size=batch_size,
            device=device,
        )

    return ModelPlan(plan.spec, plan.fingerprint, plan.field, job)


def keep_components(plan: FeaturePlan, models_url: str) -> str | None:
    """Copies the components below ``models_url`` under their hash; returns their URL, or None without components."""
    if plan.components is None:
        return None
    sha256 = plan.spec["reduction"]["sha256"]
    url = files.join(models_url, f"{sha256}.safetensors")
    models.keep_file(plan.components, url, sha256)
    return url


def plan_captioner(
    bundle: str,
    decode: DecodeOptions,
    *,
    features: Store | None = None,
    from_features: bool = False,
    precision: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
) -> ModelPlan:
    """Returns the plan for captions by a bundle: of images, of the rows of ``features``, or of features in general.

    Raises BundleError, FingerprintError for features that the bundle was not trained on, RequestError.
    """
    from captionbeam.capmodel.captioners.captioner import resolve_captioner

    from_features = from_features or features is not None
    plan = resolve_captioner(bundle, decode, features, precision, device, from_features)

    def job(models_url: str) -> CaptionerJob:
        return CaptionerJob(
            bundle=plan.store_bundle(models_url),
            decode=decode,
            from_features=from_features,
            precision=plan.precision,
            batch_size=batch_size,
            device=device,
        )

    return ModelPlan(plan.spec, plan.fingerprint, plan.field, job, plan.spec["features"])


def plan_transformers(
    model: str,
    decode: DecodeOptions,
    *,
    precision: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
) -> ModelPlan:
    """Returns the plan for captions by a Hugging Face transformers ``model``: a folder, or a name on the hub.

    Raises RequestError.
    """
    if importlib.util.find_spec("transformers") is None:
        raise RequestError(f"the captioner hf:{model}: {not_installed('transformers', 'huggingface')}")
    from captionbeam.capmodel.captioners.huggingface.captioner import resolve_captioner

    plan = resolve_captioner(model, decode, precision, device)

    def job(models_url: str) -> TransformersJob:
        folder = plan.folder.store(models_url)
        return TransformersJob(folder=folder, spec=dict(plan.spec), batch_size=batch_size, device=device)

    return ModelPlan(plan.spec, plan.fingerprint, plan.field, job)


def plan_chat(
    model: str,
    prompts: Mapping[str, Mapping[str, Any]],
    decode: DecodeOptions,
    *,
    batch_size: int | None = None,
    device: str = "auto",
    **asking: Any,
) -> ModelPlan:
    """Returns the plan for answers to ``prompts`` of a Hugging Face transformers ``model``: a folder, or a hub's name.

    ``asking``: further arguments of ``resolve_chat``. Raises RequestError.
    """
    from captionbeam.capmodel.captioners.huggingface.chat_plan import resolve_chat

    plan = resolve_chat(model, prompts, decode, device=device, **asking)

    def job(models_url: str) -> ChatJob:
        folder = plan.folder.store(models_url)
        return ChatJob(folder=folder, spec=plan.spec, batch_size=batch_size, device=device)

    spec = spec_of(plan.spec)
    return ModelPlan(spec, fingerprint(spec), columns_of(plan.spec).field(0), job)


def decode_options(given: Mapping[str, Any], bundle: str | None = None) -> DecodeOptions:
    """Returns the options ``given``; without beam and length penalty, those with which ``bundle`` was scored.

    Raises RequestError, BundleError.
    """
    from captionbeam.capmodel.bundles.contents import read_manifest
    from captionbeam.capmodel.generation.options import DecodeOptions

    own = DecodeOptions()
    if bundle is not None and given.get("method", own.method) == "beam":
        scored = DecodeOptions.from_dict(dict(read_manifest(bundle).writing))
        own = scored if scored.method == "beam" else own
    beam = given.get("beam", own.beam)
    penalty = own.length_penalty if beam > given.get("beam_groups", 1) else 0.0
    return DecodeOptions(**{"beam": beam, "length_penalty": penalty, **given})
