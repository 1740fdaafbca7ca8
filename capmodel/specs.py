"""Specifications of stores: everything that determines a row besides the image's bytes.

The record of one (``schemas.fingerprint.spec_of``) is a store's ``spec``, and its hash the fingerprint. Does not import
torch: ``encoders.preprocess.Preprocess`` and ``encoders.encoder.EncoderSpec`` add what computes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.schemas.fingerprint import complete

_DECODE = DecodeOptions()
# increment whenever decoding or preprocessing gives other numbers for the same options
PREPROCESS_VERSION = 1


@dataclass(frozen=True)
class PreprocessSpec:
    """How pixels become an encoder's input.

    ``size``: S. ``crop``: ``resize-crop`` resizes the shorter side to ``resize`` and takes the central S x S, as
    torchvision does; ``resize-floor-crop`` differs by rounding the crop's corner down, as transformers does;
    ``square-crop`` takes the central square with a side of ``size / resize`` of the shorter side and
    resizes it to S x S, as EfficientNet does (``resize == size``: the whole shorter side); ``squash-crop`` resizes both
    sides to ``resize`` and takes the central S x S, as some of timm's weights require. ``scaling``: a value for
    ``encoders.preprocess.scaling_values``. ``channels``: the order in the tensor; each colour keeps its own mean in
    either order. ``decode``: ``exact`` decodes all pixels; ``scaled`` decodes a JPEG at 1/2, 1/4 or 1/8 of its
    sides where that leaves at least twice ``resize`` of the shorter one. ``colour``: ``stored`` keeps the numbers of
    the file; ``srgb`` converts those of a file with an RGB colour profile to sRGB.
    """

    size: int
    resize: int
    crop: str = "resize-crop"
    interpolation: str = "bilinear"
    channels: str = "rgb"
    scaling: str = "torch"
    decode: str = "exact"
    colour: str = "stored"
    version: int = field(default_factory=lambda: PREPROCESS_VERSION)


@dataclass(frozen=True)
class NetworkSpec:
    """What an encoder computes.

    name, output:   a name for ``get_backbone``; ``grid`` ``[H, W, C]``, ``pooled`` ``[C]`` (the input of the network's
                    own classifier: in most networks the grid's mean) or ``logits`` ``[1000]``.
    weights_sha256: of the weights as ``weights_bytes`` writes them, without those that the output does not need.
    precision:      ``fp32`` or ``bf16``: the dtype of the computation. Features are float16 either way.
    pool_padding:   whether InceptionV3's average pools count padding (torchvision) or not (TensorFlow).
    layers:         modules whose grids are concatenated, averaged down to the coarsest; () for the last grid.
    config:         of a tower of transformers: its configuration as JSON; "" for networks that their name decides.
    """

    name: str
    output: str
    weights_sha256: str
    preprocess: PreprocessSpec
    precision: str = "fp32"
    pool_padding: bool = True
    layers: tuple[str, ...] = ()
    config: str = ""


@dataclass(frozen=True)
class Reduction:
    """Components that reduce features: ``pca`` or ``svd``, how many of the file's, and the file's SHA-256."""

    method: str
    dim: int
    sha256: str


@dataclass(frozen=True)
class StoredAs:
    """How features are stored: reduced to components or whole, as ``float16`` or ``int8``."""

    reduction: Reduction | None = None
    dtype: str = "float16"


@dataclass(frozen=True)
class FeaturesSpec(StoredAs, NetworkSpec):
    """Features of an encoder."""


@dataclass(frozen=True)
class _Imported:
    imported: str
    output: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ImportedSpec(StoredAs, _Imported):
    """Features from arrays: the user's name for the model that made them, their column and a row's shape."""


@dataclass(frozen=True)
class ScorerSpec:
    """Scores of captions by a CLIP or SigLIP model of transformers; ``model``: the SHA-256 of its folder.

    ``rerank``: captions are ordered by score, best first.
    """

    model: str
    model_type: str
    rerank: bool = False


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Captions with scores of ``scorer``, if there is one."""

    scorer: ScorerSpec | None = None


@dataclass(frozen=True)
class CaptionsSpec(Scored):
    """Captions of a bundle.

    ``bundle``: its SHA-256. ``features``: the fingerprint of the features that it reads. ``encoder``: the spec of
    those features if the job computes them from images; None if it reads a store's rows.
    """

    bundle: str
    features: str
    encoder: FeaturesSpec | None = None
    decode: DecodeOptions = _DECODE
    precision: str = "fp32"


@dataclass(frozen=True)
class TransformersSpec(Scored):
    """Captions of a model of Hugging Face transformers; ``transformers``: the SHA-256 of its folder."""

    transformers: str
    model_type: str
    decode: DecodeOptions = _DECODE
    precision: str = "fp32"


@dataclass(frozen=True)
class ChatSpec(Scored):
    """Answers of a model of Hugging Face transformers to prompts; ``transformers``: the SHA-256 of its folder.

    prompts:          as of ``EndpointSpec``.
    decode:           greedy search, beam search or sampling.
    system:           the system message; "" for none.
    max_new_tokens:   a longer answer is a failure.
    max_image_pixels: larger pictures are scaled down to it before the model's own processor gets them.
    """

    transformers: str
    model_type: str
    prompts: Mapping[str, Mapping[str, Any]]
    decode: DecodeOptions = _DECODE
    system: str = ""
    max_new_tokens: int = 512
    max_image_pixels: int = 1_048_576
    precision: str = "fp32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", _with_texts(self.prompts))


@dataclass(frozen=True)
class EndpointSpec(Scored):
    """Captions of a model behind an endpoint of OpenAI's API, by prompts.

    endpoint:         the model's name; the address is not in the specification, since several servers may have it.
    prompts:          by column, ``{"text": ...}``, with ``"schema": ...`` for answers in JSON: a JSON Schema, kept as
                      JSON text, because models write properties in its order and records sort their keys.
    system:           the system message; "" for none.
    max_new_tokens, temperature, seed: as in the request; None leaves them to the server.
    n_best:           answers per image and prompt.
    max_image_pixels: larger pictures are scaled down to it. ``send_urls``: the server reads the image's URL itself.
    """

    endpoint: str
    prompts: Mapping[str, Mapping[str, Any]]
    system: str = ""
    max_new_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    n_best: int = 1
    max_image_pixels: int = 1_048_576
    send_urls: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", _with_texts(self.prompts))


def _with_texts(prompts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {column: _with_text(own) for column, own in prompts.items()}


def _with_text(prompt: Mapping[str, Any]) -> dict[str, Any]:
    schema = prompt.get("schema")
    return {**prompt, "schema": json.dumps(schema)} if isinstance(schema, Mapping) else dict(prompt)


_KINDS = {
    "weights_sha256": FeaturesSpec,
    "imported": ImportedSpec,
    "bundle": CaptionsSpec,
    "endpoint": EndpointSpec,
    "prompts": ChatSpec,
    "transformers": TransformersSpec,
}


def complete_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a store's ``spec`` with the defaults of the options that it leaves out."""
    kind = next((kind for name, kind in _KINDS.items() if name in spec), None)
    return dict(spec) if kind is None else complete(kind, spec)
