"""Captioners: ``resolve_captioner`` runs on the launcher, ``Captioner`` on workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.capmodel.bundles.contents import store_bundle
from captionbeam.capmodel.generation.generate import Caption, DecodeOptions, check_options, generate
from captionbeam.capmodel.generation.options import check_ngram
from captionbeam.capmodel.generation.predictions import Prediction, predict_words
from captionbeam.capmodel.runtime.device import device_errors, pick_device, resolve_precision
from captionbeam.capmodel.runtime.streams import Streams
from captionbeam.schemas.errors import BundleError, FingerprintError, ImageError
from captionbeam.schemas.fingerprint import difference, fingerprint
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.store.reading import Store

if TYPE_CHECKING:
    from captionbeam.capmodel.encoders.reduction import FeatureEncoder

BATCH = {"cpu": 16, "cuda": 256}


@dataclass(frozen=True)
class CaptionPlan:
    """Everything that determines a row of captions besides the image; ``fingerprint`` is that of the captions."""

    url: str
    options: DecodeOptions
    spec: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """The captions' fingerprint: 32 hexadecimal digits."""
        return fingerprint(self.spec)

    @property
    def field(self) -> pa.Field:
        """The output column."""
        return arrow.captions_field(self.options.keep_attention)

    def store_bundle(self, models_url: str) -> str:
        """Copies the bundle below a store's ``models/`` under its hash, unless it is there; returns its URL."""
        return store_bundle(self.url, models_url)


def resolve_captioner(
    url: str,
    options: DecodeOptions,
    features: Store | None = None,
    precision: str | None = None,
    device: str = "auto",
) -> CaptionPlan:
    """Returns the plan for captions of images, or of the rows of ``features``. Runs on the launcher.

    ``precision``: ``fp32``, ``bf16``, ``auto`` (decided by ``device``), or None: that of the features.

    Raises BundleError, FingerprintError for features that the bundle was not trained on, RequestError.
    """
    bundle = Bundle.load(url)
    check_options(options, bundle.config, bundle.tokenizer)
    check_ngram(options, options.max_length or bundle.config.max_length)
    if features is not None:
        _check_features(bundle, features)
    return _plan(url, bundle, options, features is not None, precision, device)


def _plan(
    url: str, bundle: Bundle, options: DecodeOptions, from_features: bool, precision: str | None, device: str
) -> CaptionPlan:
    trained = bundle.encoder_spec or {}
    settled = resolve_precision(precision or trained.get("precision", "fp32"), device)
    encoder = None if from_features else _encoder_spec(url, bundle, settled)
    spec = {
        "bundle": bundle.sha256,
        "encoder": encoder,
        "features": fingerprint(encoder) if encoder else bundle.features_fingerprint,
        "decode": options.to_dict(),
        "precision": settled,
    }
    return CaptionPlan(url, options, spec)


def _encoder_spec(url: str, bundle: Bundle, precision: str) -> dict[str, Any]:
    if imported := (bundle.encoder_spec or {}).get("imported"):
        raise BundleError(
            f"the bundle {url!r} was trained on features imported as {imported!r}: there is no encoder for them here; "
            "expected --features with features that were imported under that name"
        )
    if bundle.encoder_spec is None or bundle.encoder_weights is None:
        raise BundleError(f"the bundle {url!r} holds no encoder; expected --features, or a bundle with one")
    if "reduction" in bundle.encoder_spec and bundle.components is None:
        raise BundleError(f"the bundle {url!r} lacks the components of its features; expected --features")
    return {**bundle.encoder_spec, "precision": precision}


def _check_features(bundle: Bundle, features: Store) -> None:
    if features.fingerprint == bundle.features_fingerprint:
        return
    known = difference(features.spec, bundle.encoder_spec or {})
    said = known or f"fingerprint {features.fingerprint[:12]}, not {bundle.features_fingerprint[:12]}"
    raise FingerprintError(
        f"the features {features.url!r} were made with {said}; expected those that the bundle was trained on"
    )


class Captioner:
    """A processor that maps images, or rows of a features snapshot, to ``captions``, best first.

    Batches are padded to ``batch_size``, so on one device a row does not depend on the rest of its batch. Images pass
    through float16 features, as a features snapshot stores them, so both inputs give the same captions. Threads may
    share a captioner; it computes ``streams`` batches at a time.
    """

    def __init__(
        self,
        bundle: Bundle,
        plan: CaptionPlan,
        encoder: FeatureEncoder | None,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.batch_size, self.device = batch_size, device
        self.spec, self.fingerprint, self.schema = plan.spec, plan.fingerprint, pa.schema([plan.field])
        self._options, self._encoder = plan.options, encoder
        self._streams = Streams(batch_size, device.type)
        self.streams = self._streams.count
        self._decoder, self._tokenizer = bundle.decoder.to(device).eval(), bundle.tokenizer

    @classmethod
    def load(
        cls,
        bundle_url: str,
        options: DecodeOptions,
        from_features: bool = False,
        batch_size: int | None = None,
        precision: str | None = None,
        device: str = "auto",
    ) -> Captioner:
        """Loads the captioner of a bundle. ``precision`` as in ``resolve_captioner``.

        Raises BundleError, FingerprintError, RequestError.
        """
        bundle, target = Bundle.load(bundle_url), pick_device(device)
        check_options(options, bundle.config, bundle.tokenizer)
        plan = _plan(bundle_url, bundle, options, from_features, precision, device)
        encoder = None if from_features else _load_encoder(bundle, plan, batch_size, device)
        return cls(bundle, plan, encoder, batch_size or BATCH[target.type], target)

    def prepare(self, item: Any) -> Any:
        """Prepares an image's bytes, or float16 features ``[H, W, C]`` or ``[C]``. Raises ImageError."""
        if self._encoder is not None:
            return self._encoder.prepare(item)
        expected = self._decoder.config.feature_shape
        if item.shape != expected:
            raise ImageError("model", "model", f"features have shape {item.shape}; expected {expected}")
        if not np.isfinite(item).all():
            raise ImageError("model", "model", "features are not finite; expected numbers")
        return item

    def run(self, batch: Sequence[Any], image_ids: Sequence[str]) -> dict[str, pa.Array]:
        """Returns ``{"captions": list<struct<text, logprob, tokens[, attention]>>}``, one list per image.

        Raises ImageError if the model's output is not finite, OutOfMemory, SystemicError.
        """
        features = self._features(batch, image_ids)
        names = [*image_ids, *[""] * (self.batch_size - len(batch))]
        found = self._streams.run(lambda: self._written(features, names))
        silent = [name for name, captions in zip(image_ids, found, strict=False) if not captions]
        if silent:
            raise ImageError("model", "model", f"the model's output for {silent[0]!r} is not finite")
        return {"captions": captions_array(found[: len(batch)], self.schema.field(0).type)}

    def predictions(
        self, item: Any, image_id: str, captions: Sequence[str], top: int
    ) -> list[list[Prediction]]:
        """Returns the model's predictions at each word of ``captions`` of a prepared ``item``, with the ``top`` words.

        Captions longer than the model's maximum are cut, as in training. Raises the errors of ``run``.
        """
        features = self._features([item], [image_id])[:1].to(self.device)
        ids = [self._tokenizer.encode(caption) for caption in captions]
        with device_errors(), self._precision():
            return predict_words(self._decoder, features, ids, self._tokenizer, top)

    def _written(self, features: Tensor, names: Sequence[str]) -> list[list[Caption]]:
        with device_errors(), self._precision():
            return generate(self._decoder, features.to(self.device), self._options, names, self._tokenizer)

    def _features(self, batch: Sequence[Any], image_ids: Sequence[str]) -> Tensor:
        """Returns float16 ``[batch_size, *shape]``, padded with copies of the first row."""
        rows = batch if self._encoder is None else self._encoded(self._encoder, batch, image_ids)
        features = np.empty((self.batch_size, *self._decoder.config.feature_shape), np.float16)
        features[: len(batch)] = rows
        features[len(batch) :] = features[0]
        return torch.from_numpy(features)

    def _encoded(self, encoder: FeatureEncoder, batch: Sequence[Any], image_ids: Sequence[str]) -> np.ndarray:
        encoder.batch_size = self.batch_size
        return encoder.run(batch, image_ids)[encoder.column]

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec["precision"] == "bf16")


def _load_encoder(bundle: Bundle, plan: CaptionPlan, batch_size: int | None, device: str) -> FeatureEncoder:
    """Loads the encoder; imported here because captioning features needs no encoder libraries."""
    from captionbeam.capmodel.encoders.reduction import FeatureEncoder

    spec, weights = plan.spec["encoder"], str(bundle.encoder_weights)
    return FeatureEncoder.load(spec, weights, bundle.components, batch_size, device, as_stored=True)


def captions_array(found: Sequence[Sequence[Caption]], kind: pa.DataType) -> pa.Array:
    """Returns captions as a column of ``captionbeam.schemas.formats.arrow.captions_field``'s type."""
    return pa.array([[_struct(caption) for caption in captions] for captions in found], kind)


def _struct(caption: Caption) -> dict[str, Any]:
    kept = {} if caption.attention is None else {"attention": list(caption.attention)}
    return {"text": caption.text, "logprob": caption.logprob, "tokens": caption.tokens, **kept}
