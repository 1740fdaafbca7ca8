"""The workers' jobs: what loads a processor on each device of a process."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from captionbeam.capmodel.captioners.huggingface.folders import ModelFolder
    from captionbeam.capmodel.generation.options import DecodeOptions
    from captionbeam.capmodel.specs import ChatSpec


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
        from captionbeam.capmodel.runtime.allocator import keep_freed_memory
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
        keep_freed_memory()
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


def prepare_alone(preparers: ThreadPoolExecutor, count: int) -> None:
    """Limits each of the ``count`` threads that prepare images to itself.

    By default, torch would start as many helper threads for each of them as for the model, most of them idle.
    """
    from captionbeam.capmodel.runtime.streams import share_threads

    share_threads(preparers, count, 1)
