"""A bundle as a transformers model: ``from_pretrained`` and ``save_pretrained`` on the bundle's own folder.

    import captionbeam.capmodel.captioners.huggingface.modeling          # registers the model type
    model = AutoModelForImageTextToText.from_pretrained("bundle")
    captions = model.generate(images=[Path("one.jpg").read_bytes()])
    model.save_pretrained("copy")                 # a bundle again: captionbeam caption --bundle copy

No conversion is needed: a bundle's ``config.json`` has a ``model_type``, and its weights are safetensors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.capmodel.bundles.contents import MODEL_TYPE, Manifest
from captionbeam.capmodel.encoders.reduction import FeatureEncoder
from captionbeam.capmodel.generation.captions import Caption, generate
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.schemas.errors import BundleError, RequestError


class BundleConfig(PretrainedConfig):
    """A bundle's ``config.json``, in ``manifest`` (captionbeam.capmodel.bundles.contents.Manifest)."""

    model_type = MODEL_TYPE

    def __init__(self, **values: Any) -> None:
        own = {name: value for name, value in values.items() if name in MANIFEST}
        super().__init__(**{name: value for name, value in values.items() if name not in MANIFEST})
        self.manifest = {**own, **values.get("manifest", {})}


class BundleForCaptioning(PreTrainedModel):
    """A bundle's decoder as a trainable module, with its encoder for images."""

    config_class = BundleConfig
    main_input_name = "features"

    def __init__(self, config: BundleConfig, bundle: Bundle) -> None:
        super().__init__(config)
        self.bundle, self.decoder = bundle, bundle.decoder
        self._encoder: FeatureEncoder | None = None

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Self:
        """Returns the model of ``bundle``; both share the decoder."""
        return cls(BundleConfig(**bundle.manifest().to_dict()), bundle).eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **options: Any) -> Self:
        """Loads a bundle from a folder or fsspec URL and verifies its files. Raises BundleError, RequestError."""
        idle = [name for name, value in options.items() if value is not None and name not in IGNORED_OPTIONS]
        if args or idle:
            said = f"options {', '.join(idle)}" if idle else f"arguments {args!r}"
            raise RequestError(f"from_pretrained of a bundle has no {said}; expected a folder alone")
        return cls.from_bundle(Bundle.load(os.fspath(pretrained_model_name_or_path)))

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:  # type: ignore[override]
        """Writes the bundle, with the decoder's current weights, to a folder or fsspec URL."""
        self.bundle.save(os.fspath(save_directory))

    def forward(self, features: Tensor, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Teacher forcing, as in ``captionbeam.capmodel.decoders.base.Decoder.forward``."""
        return self.decoder(features, tokens, targets)

    def generate(
        self,
        images: Sequence[bytes] | None = None,
        features: Tensor | None = None,
        options: DecodeOptions | None = None,
        image_ids: Sequence[str] | None = None,
    ) -> list[list[Caption]]:
        """Returns ``n_best`` captions per image, best first, equal to those of a caption job with the same options.

        ``images``: bytes of image files; or ``features`` ``[B, ...]``. ``image_ids`` determine the random draws of
        sampling; the default is 0, 1, ... Raises BundleError, ImageError, RequestError.
        """
        if (images is None) == (features is None):
            raise RequestError("generate needs one of images and features; expected exactly one")
        found = self.encode(images or ()) if features is None else features
        names = image_ids if image_ids is not None else [str(place) for place in range(len(found))]
        where, precision = self.device, (self.bundle.encoder_spec or {}).get("precision")
        with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
            chosen = options or DecodeOptions()
            return generate(self.decoder, found.to(where), chosen, names, self.bundle.tokenizer)

    def encode(self, images: Sequence[bytes]) -> Tensor:
        """Returns float16 features ``[B, *shape]`` of image files on the CPU, as a features store holds them.

        Raises BundleError if the bundle has no encoder, ImageError for a file that is not an image.
        """
        if self._encoder is None:
            self._encoder = self._load_encoder()
        items = [self._encoder.prepare(image) for image in images]
        self._encoder.batch_size = len(items)
        names = [str(place) for place in range(len(items))]
        return torch.from_numpy(self._encoder.run(items, names)[self._encoder.column])

    def _load_encoder(self) -> FeatureEncoder:
        bundle = self.bundle
        if bundle.encoder_spec is None or bundle.encoder_weights is None:
            raise BundleError("the bundle holds no encoder; expected features, or a bundle with one")
        weights, device = bundle.encoder_weights, str(self.device)
        return FeatureEncoder.load(bundle.encoder_spec, weights, bundle.components, 1, device, as_stored=True)


MANIFEST = frozenset({"format", "version", *(field.name for field in fields(Manifest))})
IGNORED_OPTIONS = frozenset(
    ("config", "trust_remote_code", "local_files_only", "use_safetensors", "adapter_kwargs")
)
"""What the Auto classes pass on, and what asks for what is so anyway."""

AutoConfig.register(MODEL_TYPE, BundleConfig)
AutoModel.register(BundleConfig, BundleForCaptioning)
AutoModelForImageTextToText.register(BundleConfig, BundleForCaptioning)
