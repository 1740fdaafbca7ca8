"""Options of the encoder and of stored features."""

from __future__ import annotations

from dataclasses import dataclass, replace

from captionbeam.capmodel.encoders.names import ENCODERS, HUGGING_FACE, TIMM, encoder_choices
from captionbeam.jobs.options import inputs
from captionbeam.schemas.options import FILE, NAME, POSITIVE, SIDE, one_of, option, text

ENCODER = replace(
    text(
        "NAME",
        f"one of {encoder_choices()}",
        lambda name: name in ENCODERS or name.startswith((TIMM, HUGGING_FACE)),
    ),
    choices=ENCODERS,
)


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """The network, its weights and its preprocessing. Defaults that are None are the encoder's own."""

    GROUP = "encoder"

    encoder: str | None = option(
        None, encoder_choices(), ENCODER, common=True, role="rows", location=True, opens=inputs.encoder
    )
    weights: str | None = option(
        None,
        "a torchvision name (IMAGENET1K_V1), TIMM for timm's own, or a .safetensors or .pth file or URL, with "
        "#sha256=HEX after it to check it (default: the encoder's own)",
        text("WEIGHTS"),
        common=True,
        role="rows",
        location=True,
        opens=inputs.weights,
    )
    pooled: bool = option(
        False,
        "store one vector of each image instead of a grid: the input of the network's classifier (in most networks the "
        "grid's mean, in a vit the class token)",
        common=True,
        role="rows",
        instead_of=("logits", "layers"),
    )
    logits: bool = option(
        False,
        "store the output of the network's classifier instead of a grid (1,000 numbers for ImageNet weights, before "
        "the softmax)",
        role="rows",
        instead_of=("pooled", "layers"),
    )
    layers: tuple[str, ...] = option(
        (),
        "store the grids of these layers (modules of the network, by name) side by side, larger grids averaged to the "
        "smallest: Mixed_6e,Mixed_7b,Mixed_7c of inception_v3, layer3,layer4 of a resnet (default: the last)",
        text("NAME,..."),
        split=True,
        common=True,
        role="rows",
        instead_of=("pooled", "logits"),
    )
    preprocess: str | None = option(
        None,
        "normalisation that the weights were trained with: torch, tf, caffe, lite or clip, or mean and standard "
        "deviation of colours from 0 to 1 as R,G,B/R,G,B (default: the encoder's)",
        NAME,
        role="rows",
    )
    crop: str | None = option(
        None,
        "resize-crop (as torchvision), resize-floor-crop (as transformers), square-crop (crop before the resize) or "
        "squash-crop (resize to a square without keeping proportions) (default: the encoder's)",
        NAME,
        role="rows",
    )
    image_size: int | None = option(
        None, "side of the network's square input (default: the encoder's)", SIDE, common=True, role="rows"
    )
    resize: int | None = option(
        None,
        "shorter side to which images are resized before the crop (default: the encoder's)",
        SIDE,
        role="rows",
    )
    interpolation: str | None = option(
        None, "bilinear or bicubic (default: the encoder's)", one_of("bilinear", "bicubic"), role="rows"
    )
    channels: str | None = option(
        None, "rgb or bgr (default: as --preprocess)", one_of("rgb", "bgr", unit="ORDER"), role="rows"
    )
    decode: str | None = option(
        None,
        "scaled (JPEGs are decoded at 1/2, 1/4 or 1/8 of their sides, while that leaves twice the resized side) or "
        "exact (default: as the store has it; of new stores scaled, for hf: exact)",
        one_of("scaled", "exact"),
        role="rows",
    )
    colour: str | None = option(
        None,
        "srgb (pictures with a colour profile, such as Display P3, are converted to sRGB) or stored (default: as the "
        "store has it; of new stores srgb, for hf: stored)",
        one_of("srgb", "stored"),
        role="rows",
    )
    exclude_pool_padding: bool = option(
        False,
        "exclude padding from inception_v3's average pools, as for weights converted from TensorFlow",
        role="rows",
    )

    @property
    def feature_output(self) -> str:
        """``pooled``, ``logits`` or ``grid``."""
        return "pooled" if self.pooled else "logits" if self.logits else "grid"


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """How features are stored."""

    GROUP = "stored features"

    reduce: str | None = option(
        None,
        "store components of the features: a file that captionbeam svd fitted to features of the same encoder",
        FILE,
        common=True,
        role="rows",
        location=True,
        opens=inputs.components,
    )
    reduce_dim: int | None = option(
        None, "number of components, the first ones of the file (default: all)", POSITIVE, role="rows"
    )
    dtype: str = option(
        "float16",
        "float16, or int8 with a scale for each image and channel: half the bytes; readers get float16",
        one_of("float16", "int8"),
        common=True,
        role="rows",
    )
    dedup_content: bool = option(
        False,
        "read all images once in advance, so that images with equal bytes are computed once wherever they are "
        "(otherwise only where the listing shows it and they are neighbours)",
    )
