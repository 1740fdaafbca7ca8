"""Tiny CLIP and SigLIP models, random and saved to disk, with tokenizers made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

PICTURE, PATCH, TOKENS = 16, 8, 40
LETTERS = "abcdefghijklmnopqrstuvwxyz.,"
PROJECTIONS = ("visual_projection.weight", "text_projection.weight")
TOWARDS_ONE = ("vision_model.post_layernorm.bias", "text_model.final_layer_norm.bias")
"""Of CLIP: so that images and texts point to one side, and no score is 0."""
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "projection_size": 16,
}


def save_scorer(folder: Path, kind: str = "clip", seed: int = 0) -> str:
    """The folder ``folder`` with a model of ``kind`` (clip, siglip); gives its path. A text has 40 tokens at most."""
    torch.manual_seed(seed)
    tokenizer = {"clip": _clip_tokenizer, "siglip": _siglip_tokenizer}[kind]()
    model = {"clip": _clip, "siglip": _siglip}[kind](tokenizer)
    with torch.no_grad():  # large enough for scores that differ from picture to picture
        for name, parameter in model.named_parameters():
            if name not in ("logit_scale", "logit_bias"):
                parameter.copy_(torch.randn_like(parameter) * 0.5)
            if name in TOWARDS_ONE:
                parameter.fill_(1.0)
            if name in PROJECTIONS:
                parameter.copy_(torch.eye(16))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _pictures(kind).save_pretrained(folder)
    return str(folder)


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])


def _siglip_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -1.0) for letter in f"▁{LETTERS}")]
    own = Tokenizer(models.Unigram(pieces, unk_id=2))
    own.normalizer = normalizers.Lowercase()
    own.pre_tokenizer = pre_tokenizers.Metaspace()
    own.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TOKENS
    )


def _pictures(kind: str) -> Any:
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    if kind == "siglip":
        return SiglipImageProcessor(size={"height": PICTURE, "width": PICTURE})
    return CLIPImageProcessor(
        size={"shortest_edge": PICTURE}, crop_size={"height": PICTURE, "width": PICTURE}
    )


def _clip(tokenizer: Any) -> Any:
    from transformers import CLIPConfig, CLIPModel

    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": TOKENS, "projection_dim": 16}
    config = CLIPConfig(
        text_config={**_sizes(), **sizes, **ids, "pad_token_id": tokenizer.pad_token_id},
        vision_config={**_sizes(), "image_size": PICTURE, "patch_size": PATCH, "projection_dim": 16},
        projection_dim=16,
    )
    return CLIPModel(config).eval()


def _siglip(tokenizer: Any) -> Any:
    from transformers import SiglipConfig, SiglipModel

    config = SiglipConfig(
        text_config={**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS},
        vision_config={**_sizes(), "image_size": PICTURE, "patch_size": PATCH},
    )
    return SiglipModel(config).eval()


def _sizes() -> dict[str, int]:
    return {name: size for name, size in SIZES.items() if name != "projection_size"}
