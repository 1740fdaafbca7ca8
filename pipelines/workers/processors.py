"""Worker jobs: what a worker loads, as picklable values; and how a launcher makes them.

The only module in pipelines that uses models.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from captionbeam.pipelines.workers.batches import Processor, WorkerJob
from captionbeam.pipelines.workers.replicas import Replicas
from captionbeam.schemas.errors import RequestError, SystemicError, not_installed
from captionbeam.schemas.fingerprint import fingerprint, spec_of
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import models

if TYPE_CHECKING:
    from captionbeam.capmodel.captioners.huggingface.folders import ModelFolder
    from captionbeam.capmodel.encoders.feature_plan import FeaturePlan
    from captionbeam.capmodel.generation.options import DecodeOptions
    from captionbeam.capmodel.specs import ChatSpec
    from captionbeam.schemas.store.reading import Store


@dataclass(frozen=True, kw_only=True)
class ModelJob:
    """A worker job with a model: where and how it computes.

    ``batch_size``: images per forward pass, None for the device's default. ``device``: auto, cpu, cuda (all GPUs),
    cuda:N, or several names with commas.
    """

    batch_size: int | None = None
    device: str = "auto"

    def load(self, threads: int, processes: int = 1) -> Processor:
        """Loads a model on each device of this process (``DeviceShare``); torch computes with ``threads`` threads.

        Raises SystemicError if this worker lacks a device, since no image could be processed.
        """
        from captionbeam.capmodel.runtime.device import pick_devices, use_threads
        from captionbeam.capmodel.runtime.device_share import DeviceShare

        try:
            devices = pick_devices(self.device)
        except RequestError as err:
            raise SystemicError(
                f"a worker cannot compute: {err}; expected workers with it, and a driver that suits their torch"
            ) from err
        share = DeviceShare(devices, processes)
        on_cpu = sum(device.type == "cpu" for device in share.devices)
        use_threads(max(1, threads // (on_cpu or 1)))
        with self._fetched() as job:
            models = {
                name: job._model(str(device)) for name, device in zip(share.names, share.devices, strict=True)
            }
        return self._processor(Replicas(models, share))

    @contextmanager
    def _fetched(self) -> Iterator[ModelJob]:
        """Yields this job, for a large model with files on this machine, since each device reads them."""
        yield self

    def _model(self, device: str) -> Processor:
        """Loads a model on one device."""
        raise NotImplementedError

    def _processor(self, replicas: Replicas) -> Processor:
        """Returns the processor that runs the models."""
        return replicas


@dataclass(frozen=True, kw_only=True)
class EncoderJob(ModelJob):
    """Images to features of ``spec``. ``weights``, ``components``: URLs in the store's ``models/``.

    ``as_read``: give int8 features as a reader of the store gets them, not as they are written.
    """

    spec: Mapping[str, Any]
    weights: str
    components: str | None = None
    as_read: bool = False

    def _model(self, device: str) -> Processor:
        from captionbeam.capmodel.encoders.reduction import FeatureEncoder

        return FeatureEncoder.load(
            self.spec, self.weights, self.components, self.batch_size, device, self.as_read
        )


@dataclass(frozen=True, kw_only=True)
class ReducerJob(ModelJob):
    """Rows of a features store to features of ``spec``. ``column``, ``shape``: of the rows that are read."""

    spec: Mapping[str, Any]
    column: str
    shape: tuple[int, ...]
    components: str | None = None

    def _model(self, device: str) -> Processor:
        from captionbeam.capmodel.encoders.reduction import FeatureReducer

        return FeatureReducer.load(
            self.spec, self.column, self.shape, self.components, self.batch_size, device
        )


@dataclass(frozen=True, kw_only=True)
class CaptionerJob(ModelJob):
    """Images, or rows of features, to captions by the ``bundle`` in the store's ``models/``."""

    bundle: str
    decode: DecodeOptions
    from_features: bool = False
    precision: str | None = None

    def _model(self, device: str) -> Processor:
        from captionbeam.capmodel.captioners.captioner import Captioner

        return Captioner.load(
            self.bundle,
            self.decode,
            from_features=self.from_features,
            batch_size=self.batch_size,
            precision=self.precision,
            device=device,
        )


@dataclass(frozen=True, kw_only=True)
class FolderJob(ModelJob):
    """A job with a Hugging Face transformers model, whose ``folder`` is in the store's ``models/``."""

    folder: str | ModelFolder

    @contextmanager
    def _fetched(self) -> Iterator[ModelJob]:
        from captionbeam.capmodel.captioners.huggingface.folders import fetched_folder

        try:
            import captionbeam.capmodel.captioners.huggingface.loading  # noqa: F401
        except ImportError as err:
            raise SystemicError(
                f"on a worker ({err}): {not_installed('transformers', 'huggingface')}"
            ) from err
        with fetched_folder(self.folder) as folder:
            yield replace(self, folder=folder)


@dataclass(frozen=True, kw_only=True)
class TransformersJob(FolderJob):
    """Images to captions by a model of transformers."""

    spec: Mapping[str, Any]

    def _model(self, device: str) -> Processor:
        from captionbeam.capmodel.captioners.huggingface.captioner import HuggingFaceCaptioner
        from captionbeam.capmodel.generation.options import DecodeOptions

        decode = DecodeOptions.from_dict(self.spec.get("decode", {}))
        return HuggingFaceCaptioner.load(self.folder, decode, self.spec, self.batch_size, device)


@dataclass(frozen=True, kw_only=True)
class ChatJob(FolderJob):
    """Images to answers of a chat model of transformers."""

    spec: ChatSpec

    def _model(self, device: str) -> Any:
        from captionbeam.capmodel.captioners.huggingface.chat import ChatCaptioner

        schema, parsers = columns_of(self.spec), parsers_of(self.spec)
        try:
            return ChatCaptioner.load(self.folder, self.spec, schema, parsers, self.batch_size, device)
        except RequestError as err:
            raise SystemicError(f"on a worker: {err}") from err

    def _processor(self, replicas: Any) -> Processor:
        from captionbeam.pipelines.workers.chat_shards import ChatProcessor

        return ChatProcessor(replicas)


@dataclass(frozen=True, kw_only=True)
class ScoringJob(FolderJob):
    """Captions of the job ``captioner``, with scores by a CLIP or SigLIP model.

    ``columns``: the captioner's. ``used``, ``rerank``, ``lazily``: as of ``ScoringProcessor``.
    """

    captioner: WorkerJob
    columns: pa.Schema
    used: tuple[str, ...] = ()
    rerank: bool = False
    lazily: bool = False

    def load(self, threads: int, processes: int = 1) -> Processor:
        """Loads the scorer, and the captioner unless ``lazily``. Raises SystemicError."""
        from captionbeam.pipelines.workers.scoring_shards import ScoringProcessor

        scorer: Any = super().load(threads, processes)
        job = self.captioner
        job = replace(job, device=self.device) if isinstance(job, ModelJob) else job
        load = partial(job.load, threads, processes)
        return ScoringProcessor(scorer, load, self.columns, self.used, self.rerank, self.lazily)

    def _model(self, device: str) -> Any:
        from captionbeam.capmodel.captioners.huggingface.scorer import Scorer

        return Scorer.load(self.folder, self.batch_size, device)


def columns_of(spec: ChatSpec) -> pa.Schema:
    """Returns the column of each prompt."""
    from captionbeam.pipelines.endpoints.prompts import prompts_of

    return pa.schema([prompt.field for prompt in prompts_of(spec)])


def parsers_of(spec: ChatSpec) -> dict[str, Callable[[str], Any]]:
    """Returns what parses the answers of each prompt with a schema, by column."""
    from captionbeam.pipelines.endpoints.json_schema import parsed
    from captionbeam.pipelines.endpoints.prompts import prompts_of

    found = {prompt.column: prompt.schema for prompt in prompts_of(spec)}
    return {column: partial(parsed, schema=schema) for column, schema in found.items() if schema is not None}


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


def prepare_alone(preparers: ThreadPoolExecutor, count: int) -> None:
    """Limits each of the ``count`` threads that prepare images to itself.

    By default, torch would start as many helper threads for each of them as for the model, most of them idle.
    """
    from captionbeam.capmodel.runtime.streams import share_threads

    share_threads(preparers, count, 1)
