"""Captioners: ``resolve_captioner`` runs on the launcher, ``Captioner`` on workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.capmodel.bundles.contents import store_bundle
from captionbeam.capmodel.captioners.base import BatchCaptioner, CaptionPlan
from captionbeam.capmodel.generation.captions import Caption, DecodeOptions, check_options, generate
from captionbeam.capmodel.generation.predictions import Prediction, predict_words
from captionbeam.capmodel.runtime.device import autocast, device_errors, exact_device, resolve_precision
from captionbeam.capmodel.specs import CaptionsSpec, FeaturesSpec, NetworkSpec, complete_spec
from captionbeam.schemas.errors import BundleError, FingerprintError, ImageError
from captionbeam.schemas.fingerprint import difference, fingerprint, from_spec, spec_of
from captionbeam.schemas.store.reading import Store

if TYPE_CHECKING:
    from captionbeam.capmodel.encoders.reduction import FeatureEncoder


@dataclass(frozen=True)
class BundlePlan(CaptionPlan):
    """The plan of the bundle at ``url``, with the decoding ``options``."""

    url: str
    options: DecodeOptions

    def store_bundle(self, models_url: str) -> str:
        """Copies the bundle below a store's ``models/`` under its hash, unless it is there; returns its URL."""
        return store_bundle(self.url, models_url)


def resolve_captioner(
    url: str,
    options: DecodeOptions,
    features: Store | None = None,
    precision: str | None = None,
    device: str = "auto",
    from_features: bool = False,
) -> BundlePlan:
    """Returns the plan for captions of images, of the rows of ``features``, or of features. Runs on the launcher.

    ``precision``: ``fp32``, ``bf16``, ``auto`` (decided by ``device``), or None: that of the features.

    Raises BundleError, FingerprintError for features that the bundle was not trained on, RequestError.
    """
    bundle = Bundle.load(url)
    check_options(options, bundle.config, bundle.tokenizer)
    if features is not None:
        _check_features(bundle, features)
    return _plan(url, bundle, options, from_features or features is not None, precision, device)


def _plan(
    url: str, bundle: Bundle, options: DecodeOptions, from_features: bool, precision: str | None, device: str
) -> BundlePlan:
    trained = bundle.encoder_spec or {}
    settled = resolve_precision(precision or trained.get("precision", NetworkSpec.precision), device)
    encoder = None if from_features else _encoder_spec(url, bundle, settled)
    features = fingerprint(spec_of(encoder)) if encoder else bundle.features_fingerprint
    spec = CaptionsSpec(bundle.sha256, features, encoder, options.deciding(), settled)
    return BundlePlan(spec_of(spec), url, options)


def _encoder_spec(url: str, bundle: Bundle, precision: str) -> FeaturesSpec:
    if imported := (bundle.encoder_spec or {}).get("imported"):
        raise BundleError(
            f"the bundle {url!r} was trained on features imported as {imported!r}: there is no encoder for them here; "
            "expected --features with features that were imported under that name"
        )
    if bundle.encoder_spec is None or bundle.encoder_weights is None:
        raise BundleError(f"the bundle {url!r} holds no encoder; expected --features, or a bundle with one")
    if "reduction" in bundle.encoder_spec and bundle.components is None:
        raise BundleError(f"the bundle {url!r} lacks the components of its features; expected --features")
    return replace(from_spec(FeaturesSpec, bundle.encoder_spec), precision=precision)


def _check_features(bundle: Bundle, features: Store) -> None:
    if features.fingerprint == bundle.features_fingerprint:
        return
    known = difference(complete_spec(features.spec), complete_spec(bundle.encoder_spec or {}))
    said = known or f"fingerprint {features.fingerprint[:12]}, not {bundle.features_fingerprint[:12]}"
    raise FingerprintError(
        f"the features {features.url!r} were made with {said}; expected those that the bundle was trained on"
    )


class Captioner(BatchCaptioner):
    """A captioner of images, or of rows of a features snapshot, by a bundle.

    Images pass through float16 features, as a features snapshot stores them, so both inputs give the same captions.
    """

    def __init__(
        self,
        bundle: Bundle,
        plan: BundlePlan,
        encoder: FeatureEncoder | None,
        batch_size: int | None,
        device: torch.device,
    ) -> None:
        super().__init__(plan, batch_size, device)
        self._options, self._encoder = plan.options, encoder
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
        bundle, target = Bundle.load(bundle_url), exact_device(device)
        check_options(options, bundle.config, bundle.tokenizer)
        plan = _plan(bundle_url, bundle, options, from_features, precision, device)
        encoder = None if from_features else _load_encoder(bundle, plan, batch_size, device)
        return cls(bundle, plan, encoder, batch_size, target)

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

    def predictions(
        self, item: Any, image_id: str, captions: Sequence[str], top: int
    ) -> list[list[Prediction]]:
        """Returns the model's predictions at each word of ``captions`` of a prepared ``item``, with the ``top`` words.

        Captions longer than the model's maximum are cut, as in training. Raises the errors of ``run``.
        """
        features = self._inputs([item], [image_id])[:1].to(self.device)
        ids = [self._tokenizer.encode(caption) for caption in captions]
        with device_errors(), autocast(self.device, self._precision):
            return predict_words(self._decoder, features, ids, self._tokenizer, top)

    def _inputs(self, batch: Sequence[Any], image_ids: Sequence[str]) -> Tensor:
        """Returns float16 ``[batch_size, *shape]``, padded with copies of the first row."""
        rows = batch if self._encoder is None else self._encoded(self._encoder, batch, image_ids)
        features = np.empty((self.batch_size, *self._decoder.config.feature_shape), np.float16)
        features[: len(batch)] = rows
        features[len(batch) :] = features[0]
        return torch.from_numpy(features)

    def _captions(self, inputs: Tensor, image_ids: Sequence[str]) -> list[list[Caption]]:
        with device_errors(), autocast(self.device, self._precision):
            features = inputs.to(self.device)
            return generate(self._decoder, features, self._options, image_ids, self._tokenizer)

    def _encoded(self, encoder: FeatureEncoder, batch: Sequence[Any], image_ids: Sequence[str]) -> np.ndarray:
        encoder.batch_size = self.batch_size
        return encoder.run(batch, image_ids)[encoder.column]


def _load_encoder(bundle: Bundle, plan: BundlePlan, batch_size: int | None, device: str) -> FeatureEncoder:
    """Loads the encoder; imported here because captioning features needs no encoder libraries."""
    from captionbeam.capmodel.encoders.reduction import FeatureEncoder

    spec, weights = plan.spec["encoder"], str(bundle.encoder_weights)
    return FeatureEncoder.load(spec, weights, bundle.components, batch_size, device, as_stored=True)
