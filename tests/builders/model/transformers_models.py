"""Tiny image-to-text models of Hugging Face transformers, random and saved to disk, their tokenizer made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = ("a", "dog", "runs", "on", "grass", "two", "cats", "sleep", "near", "water", "red", "ball")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PICTURE, PATCH = 16, 8


def save_model(folder: Path, kind: str = "blip", seed: int = 0) -> str:
    """The folder ``folder`` with a model of ``kind`` (blip, git, vision-encoder-decoder); gives its path."""
    torch.manual_seed(seed)
    model = {"blip": _blip, "git": _git, "vision-encoder-decoder": _encoder_decoder}[kind]()
    with torch.no_grad():  # far from uniform, so that captions of different pictures differ
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
            if parameter.shape == (len(SPECIAL) + len(WORDS),):  # of the words' logits
                parameter[: len(SPECIAL)] = torch.tensor([-20.0, -20.0, -20.0, 2.0, -20.0])
    model.save_pretrained(folder)
    _tokenizer(folder).save_pretrained(folder)
    _pictures().save_pretrained(folder)
    return str(folder)


def _tokenizer(folder: Path) -> Any:
    from transformers import BertTokenizerFast

    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    return BertTokenizerFast(vocab=str(folder / "vocab.txt"))


def _pictures() -> Any:
    from transformers import ViTImageProcessor

    return ViTImageProcessor(size={"height": PICTURE, "width": PICTURE})


def _text() -> dict[str, Any]:
    return {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }


def _vision() -> dict[str, Any]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return {**sizes, "image_size": PICTURE, "patch_size": PATCH}


def _blip() -> Any:
    from transformers import BlipConfig, BlipForConditionalGeneration

    text = {**_text(), "sep_token_id": 3, "encoder_hidden_size": 16}
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=_vision()))


def _git() -> Any:
    from transformers import GitConfig, GitForCausalLM

    return GitForCausalLM(GitConfig(vision_config=_vision(), **_text()))


def _encoder_decoder() -> Any:
    from transformers import BertConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    decoder = BertConfig(**_text(), is_decoder=True, add_cross_attention=True)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**_vision()), decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    return VisionEncoderDecoderModel(config=config)
