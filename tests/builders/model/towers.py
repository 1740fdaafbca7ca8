"""Tiny vision towers of transformers with random weights, saved to disk with their image processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TOWERS = ("clip", "siglip", "dinov2", "dinov2_with_registers")
SIDE, PATCH = 32, 8
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PROJECTION = 12


def save_tower(folder: Path, kind: str, seed: int = 0) -> str:
    """Saves a model of ``kind``, of which CLIP and SigLIP read texts too, and returns its path."""
    torch.manual_seed(seed)
    model = _model(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    model.save_pretrained(folder)
    _processor(kind).save_pretrained(folder)
    return str(folder)


def _model(kind: str) -> Any:
    import transformers

    vision = {**SIZES, "image_size": SIDE, "patch_size": PATCH}
    if kind.startswith("dinov2"):
        more = {"num_register_tokens": 3} if kind == "dinov2_with_registers" else {}
        return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **vision, **more))
    text = {**SIZES, "intermediate_size": 16, "vocab_size": 30, "bos_token_id": 0, "eos_token_id": 1}
    towers = {"vision_config": {**vision, "intermediate_size": 16}, "text_config": text}
    more = {"projection_dim": PROJECTION} if kind == "clip" else {}
    return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **towers, **more))


def _processor(kind: str) -> Any:
    import transformers

    square = {"height": SIDE, "width": SIDE}
    if kind == "clip":
        return transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square)
    if kind == "siglip":
        return transformers.SiglipImageProcessor(size=square)
    return transformers.BitImageProcessor(size={"shortest_edge": 36}, crop_size=square)
