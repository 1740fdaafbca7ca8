"""Names of the encoders, by family. Does not import torch, so that a command's help is fast."""

from __future__ import annotations

from collections.abc import Mapping

INCEPTION_V3, EFFICIENTNET_LITE0, GOOGLENET = "inception_v3", "efficientnet_lite0", "googlenet"
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")
EFFICIENTNETS = (
    *(f"efficientnet_b{number}" for number in range(8)),
    *(f"efficientnet_v2_{size}" for size in "sml"),
)
CONVNEXTS = tuple(f"convnext_{size}" for size in ("tiny", "small", "base", "large"))
VITS = ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "inception_v3": (INCEPTION_V3,),
    "resnet": RESNETS,
    "densenet": DENSENETS,
    "googlenet": (GOOGLENET,),
    "efficientnet": (EFFICIENTNET_LITE0, *EFFICIENTNETS),
    "convnext": CONVNEXTS,
    "vit": VITS,
}
ENCODERS = tuple(name for names in FAMILIES.values() for name in names)
TIMM = "timm:"  # prefix of timm model names
HUGGING_FACE = "hf:"  # prefix of folders of transformers
OUTPUTS = ("grid", "pooled", "logits")


def encoder_choices() -> str:
    """Returns all names as a phrase for messages."""
    own = f"{TIMM}NAME for any model of timm's, or {HUGGING_FACE}PATH for the image tower of a CLIP, SigLIP or DINOv2"
    return f"{', '.join(ENCODERS)}, {own}"
