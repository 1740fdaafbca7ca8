"""Worker jobs: what a worker loads, as picklable values. The only module in pipelines that loads models."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captionbeam.pipelines.workers.batches import Processor
from captionbeam.schemas.errors import RequestError, SystemicError, not_installed

if TYPE_CHECKING:
    from captionbeam.capmodel.generation.options import DecodeOptions


@dataclass(frozen=True, kw_only=True)
class ModelJob:
    """A worker job with a model: where and how it computes.

    ``batch_size``: images per forward pass, None for the device's default. ``device``: auto, cpu, cuda or cuda:N.
    """

    batch_size: int | None = None
    device: str = "auto"

    def load(self, threads: int) -> Processor:
        """Loads the processor; torch computes with ``threads`` threads.

        Raises SystemicError if this worker lacks the device, since no image could be processed.
        """
        from captionbeam.capmodel.runtime.device import pick_device, use_threads

        try:
            pick_device(self.device)
        except RequestError as err:
            raise SystemicError(
                f"a worker cannot compute: {err}; expected workers with it, and a driver that suits their torch"
            ) from err
        use_threads(threads)
        return self._processor()

    def _processor(self) -> Processor:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class EncoderJob(ModelJob):
    """Images to features of ``spec``. ``weights``, ``components``: URLs in the store's ``models/``."""

    spec: Mapping[str, Any]
    weights: str
    components: str | None = None

    def _processor(self) -> Processor:
        from captionbeam.capmodel.encoders.reduction import FeatureEncoder

        return FeatureEncoder.load(self.spec, self.weights, self.components, self.batch_size, self.device)


@dataclass(frozen=True, kw_only=True)
class ReducerJob(ModelJob):
    """Rows of a features store to features of ``spec``. ``column``, ``shape``: of the rows that are read."""

    spec: Mapping[str, Any]
    column: str
    shape: tuple[int, ...]
    components: str | None = None

    def _processor(self) -> Processor:
        from captionbeam.capmodel.encoders.reduction import FeatureReducer

        return FeatureReducer.load(
            self.spec, self.column, self.shape, self.components, self.batch_size, self.device
        )


@dataclass(frozen=True, kw_only=True)
class CaptionerJob(ModelJob):
    """Images, or rows of features, to captions by the ``bundle`` in the store's ``models/``."""

    bundle: str
    decode: DecodeOptions
    from_features: bool = False
    precision: str | None = None

    def _processor(self) -> Processor:
        from captionbeam.capmodel.captioners.captioner import Captioner

        return Captioner.load(
            self.bundle,
            self.decode,
            from_features=self.from_features,
            batch_size=self.batch_size,
            precision=self.precision,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True)
class TransformersJob(ModelJob):
    """Images to captions by the Hugging Face transformers model whose ``folder`` is in the store's ``models/``."""

    folder: str
    spec: Mapping[str, Any]

    def _processor(self) -> Processor:
        from captionbeam.capmodel.generation.options import DecodeOptions

        try:
            from captionbeam.capmodel.captioners.huggingface.captioner import HuggingFaceCaptioner
        except ImportError as err:
            raise SystemicError(
                f"on a worker ({err}): {not_installed('transformers', 'huggingface')}"
            ) from err
        decode = DecodeOptions.from_dict(self.spec.get("decode", {}))
        return HuggingFaceCaptioner.load(self.folder, decode, self.spec, self.batch_size, self.device)


def prepare_alone(preparers: ThreadPoolExecutor, count: int) -> None:
    """Limits each of the ``count`` threads that prepare images to itself.

    By default, torch would start as many helper threads for each of them as for the model, most of them idle.
    """
    from captionbeam.capmodel.runtime.streams import share_threads

    share_threads(preparers, count, 1)
