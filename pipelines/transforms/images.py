"""EncodeImages, CaptionImages, CaptionFeatures and PromptImages.

>>> import apache_beam as beam
>>> from captionbeam.pipelines.transforms import EncodeImages, FindImages
>>> with beam.Pipeline() as pipeline:                                            # doctest: +SKIP
...     images = pipeline | FindImages("photos/")
...     features, failures = images | EncodeImages("resnet50", models="gs://bucket/models")

Models are found and checked where the pipeline is built, and copied to ``models``, a folder or URL that all workers
reach. Without it they are copied to a temporary folder, for runners whose workers are on this machine.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import apache_beam as beam

from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.pipelines.endpoints.plan import Endpoint, EndpointPlan, checked_url
from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from captionbeam.pipelines.runners.runner import placing_args, worker_processes, workers_elsewhere
from captionbeam.pipelines.sources.images import DEFAULTS, fetch
from captionbeam.pipelines.transforms.elements import ImageCaptions, ImageFeatures, Outputs
from captionbeam.pipelines.transforms.process import FAILURES, ProcessImages
from captionbeam.pipelines.workers.processors import (
    ModelPlan,
    decode_options,
    plan_captioner,
    plan_encoder,
    plan_transformers,
)
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import UNNAMED
from captionbeam.schemas.records import Failure
from captionbeam.schemas.storage import files

HUGGING_FACE = "hf:"


class _Process(beam.PTransform[beam.PCollection[Any], Outputs]):
    """PCollection of images -> ``Outputs``: rows of type ``_row``, and failures."""

    _row: type
    _copies_models = True

    def __init__(
        self,
        models: str | os.PathLike[str] | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        threads: int | None = None,
        reading: FetchOptions = DEFAULTS,
    ) -> None:
        """``models``: where workers find models. ``batch_size``: images per forward pass (default: the device's).

        ``device``: auto, cpu, cuda or cuda:N of the workers. ``threads``: of each worker process (default: its share of
        the cores). ``reading``: limits for reading images.
        """
        super().__init__()
        self._models, self._batch_size, self._device = models, batch_size, device
        self._threads, self._reading = threads, reading

    def _plan(self) -> ModelPlan | EndpointPlan:
        raise NotImplementedError

    def expand(self, images: beam.PCollection[Any]) -> Outputs:
        """Copies the models to where workers find them. Raises RequestError, BundleError, FingerprintError."""
        placed = placing_args(images.pipeline)
        if self._copies_models and self._models is None and workers_elsewhere(placed):
            raise RequestError(
                "models is None, and the workers of this runner are on other machines; expected a URL that they can "
                "read and this process can write, such as gs://bucket/models"
            )
        plan = self._plan()
        job = plan.job(files.absolute(self._models) if self._models else _local_models())
        reading = functools.partial(fetch, options=self._reading)
        work = ProcessImages(
            job, plan.fingerprint, reading, plan.features, self._threads, worker_processes(placed)
        )
        done = images | "Process" >> beam.ParDo(work).with_outputs(FAILURES, main="rows")
        return Outputs(
            done.rows | "TypeRows" >> beam.Map(_same).with_output_types(self._row),
            done.failures | "TypeFailures" >> beam.Map(_same).with_output_types(Failure),
        )


class EncodeImages(_Process):
    """PCollection of ImageRef or ``(image_id, bytes)`` -> ``Outputs`` with ImageFeatures.

    ``encoder``: a name as of ``captionbeam encode --encoder``. ``encoding``: arguments of ``plan_encoder``, such as
    weights, output (grid, pooled or logits), image_size, precision, reduce.
    """

    _row = ImageFeatures

    def __init__(
        self,
        encoder: str,
        *,
        models: str | os.PathLike[str] | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        threads: int | None = None,
        reading: FetchOptions = DEFAULTS,
        **encoding: Any,
    ) -> None:
        super().__init__(models, batch_size, device, threads, reading)
        self._encoder, self._encoding = encoder, encoding

    def _plan(self) -> ModelPlan:
        return plan_encoder(
            self._encoder, batch_size=self._batch_size, device=self._device, as_read=True, **self._encoding
        )


class CaptionImages(_Process):
    """PCollection of ImageRef or ``(image_id, bytes)`` -> ``Outputs`` with ImageCaptions.

    ``bundle``: a trained captioner with its encoder; or ``hf:`` and a model of Hugging Face transformers, a folder or a
    name on the hub (extra: huggingface). ``precision``: fp32, bf16 or auto (default: as the bundle's features).
    ``decoding``: fields of ``DecodeOptions``, such as beam and n_best (default: as the bundle was scored).
    """

    _row, _from_features = ImageCaptions, False

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        precision: str | None = None,
        models: str | os.PathLike[str] | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        threads: int | None = None,
        reading: FetchOptions = DEFAULTS,
        **decoding: Any,
    ) -> None:
        super().__init__(models, batch_size, device, threads, reading)
        self._bundle, self._precision, self._decoding = os.fspath(bundle), precision, decoding

    def _plan(self) -> ModelPlan:
        how: dict[str, Any] = {
            "precision": self._precision,
            "batch_size": self._batch_size,
            "device": self._device,
        }
        if self._bundle.startswith(HUGGING_FACE):
            model = self._bundle.removeprefix(HUGGING_FACE)
            return plan_transformers(model, decode_options(self._decoding), **how)
        decode = decode_options(self._decoding, self._bundle)
        return plan_captioner(self._bundle, decode, from_features=self._from_features, **how)


class CaptionFeatures(CaptionImages):
    """PCollection of ImageFeatures -> ``Outputs`` with ImageCaptions, for features like those of the bundle.

    Arguments as of ``CaptionImages``. Raises FingerprintError, on workers, for features made in another way.
    """

    _from_features = True


class PromptImages(_Process):
    """PCollection of ImageRef or ``(image_id, bytes)`` -> ``Outputs`` with ImageCaptions by a model behind an endpoint.

    ``url``: of OpenAI's API; the key is ``OPENAI_API_KEY`` of the workers' environment. ``prompts``: a text, or texts
    by name; ``{name}`` in a text stands for the image's value in that column: of an ImageRef with kept columns
    (``FindImages`` with ``SourceOptions(keep_columns=...)``), or of ``(image_id, bytes, {name: value})``. The counter
    ``captionbeam/empty_places`` has the images without such a value. ``concurrency``: requests in flight of each worker
    process. The others: as of ``captionbeam caption``. Answers are not kept: a bundle that a runner repeats asks again.
    """

    _row, _copies_models = ImageCaptions, False

    def __init__(
        self,
        url: str,
        model: str,
        prompts: str | Mapping[str, str],
        *,
        concurrency: int = 32,
        system: str = "",
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        max_image_pixels: int = EndpointSpec.max_image_pixels,
        reading: FetchOptions = DEFAULTS,
    ) -> None:
        super().__init__(reading=reading)
        named = {UNNAMED: prompts} if isinstance(prompts, str) else prompts
        if not named or concurrency < 1:
            raise RequestError(
                f"{len(named)} prompts, concurrency {concurrency}; expected one or more of each"
            )
        spec = EndpointSpec(
            model,
            {name: {"text": text} for name, text in named.items()},
            system,
            max_new_tokens,
            temperature,
            max_image_pixels=max_image_pixels,
        )
        self._endpoint = EndpointPlan(spec, Endpoint(url=checked_url(url), concurrency=concurrency))

    def _plan(self) -> EndpointPlan:
        return self._endpoint


@functools.cache
def _models_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="captionbeam-models-")  # removed when this process ends


def _local_models() -> str:
    return _models_folder().name


def _same(element: Any) -> Any:
    return element
