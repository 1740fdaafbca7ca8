"""Tiny chat models of several families of transformers, random and saved to disk, with tokenizers made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.builders.model.chat_models import ASKED, END, PAD, START, TEMPLATE, UNKNOWN, WORDS, save_chat_model

IMAGE, VIDEO = "<image>", "<video>"
IDEFICS = ("<fake_token_around_image>", "<end_of_utterance>", "<global-img>",
           *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)))  # fmt: skip
QWEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SPECIAL = (PAD, UNKNOWN, END, START, IMAGE, VIDEO, *IDEFICS, *QWEN)
JSON = ("true", "false")
VOCABULARY = {word: number for number, word in enumerate((*SPECIAL, *WORDS, *JSON, *ASKED))}
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXT = {**SIZES, "num_key_value_heads": 2, "vocab_size": len(VOCABULARY), "max_position_embeddings": 1024,
        "bos_token_id": None, "eos_token_id": VOCABULARY[END], "pad_token_id": VOCABULARY[PAD]}  # fmt: skip
SIDE = 16  # pixels of a tile
SEEDS = {
    "florence2": 0,
    "idefics3": 3,
    "internvl": 0,
    "smolvlm": 3,
}  # of weights whose answers differ from picture to picture


def save_chat_family(folder: Path, family: str) -> str:
    """Saves a model of ``family`` (a key of FAMILIES) to ``folder`` and returns its path.

    Its answers are 4 to about 10 of WORDS, and depend on the picture.
    """
    if family == "llava":
        return save_chat_model(folder)
    from transformers import GenerationConfig

    torch.manual_seed(SEEDS.get(family, 7))
    model, processor = FAMILIES[family]()
    with torch.no_grad():  # far from uniform, so that answers about different pictures differ
        for name, parameter in model.named_parameters():
            if model.config.is_encoder_decoder and parameter.ndim == 1:
                continue  # the many norms of its layers would hide the picture
            parameter.copy_(
                torch.randn_like(parameter) * (0.5 if "language" in name or "text" in name else 1.0)
            )
    spoken = {VOCABULARY[word] for word in (*WORDS, *JSON, END)}
    model.generation_config = GenerationConfig(
        eos_token_id=VOCABULARY[END],
        pad_token_id=VOCABULARY[PAD],
        suppress_tokens=sorted({*range(model.config.get_text_config().vocab_size)} - spoken),
        begin_suppress_tokens=[VOCABULARY[END]],
        decoder_start_token_id=VOCABULARY[END] if model.config.is_encoder_decoder else None,
        exponential_decay_length_penalty=(4, 2.0),  # the end becomes ever likelier after 4 tokens
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def _tokenizer(**names: Any) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel(VOCABULARY, unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    words.normalizer = Lowercase()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        padding_side="left",
        additional_special_tokens=[*SPECIAL[4:]],
        **names,
    )


def _template(image: str) -> str:
    return TEMPLATE.replace("[IMAGE]", image)


def _idefics() -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
        LlamaConfig,
    )

    config = Idefics3Config(
        vision_config={**SIZES, "image_size": SIDE, "patch_size": 4},
        text_config=LlamaConfig(**TEXT).to_dict(),
        image_token_id=VOCABULARY[IMAGE],
        scale_factor=2,
    )
    images = Idefics3ImageProcessor(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    processor = Idefics3Processor(images, _tokenizer(), image_seq_len=4, chat_template=_template(IMAGE))
    return Idefics3ForConditionalGeneration(config), processor


def _smolvlm() -> tuple[Any, Any]:
    from transformers import (
        LlamaConfig,
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    config = SmolVLMConfig(
        vision_config={**SIZES, "image_size": SIDE, "patch_size": 4},
        text_config=LlamaConfig(**TEXT).to_dict(),
        image_token_id=VOCABULARY[IMAGE],
        scale_factor=2,
    )
    images = SmolVLMImageProcessor(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    processor = SmolVLMProcessor(
        images, _tokenizer(), SmolVLMVideoProcessor(), image_seq_len=4, chat_template=_template(IMAGE)
    )
    return SmolVLMForConditionalGeneration(config), processor


def _qwen_processor(kind: Any) -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    images = Qwen2VLImageProcessor(
        patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 1024}
    )
    videos = Qwen2VLVideoProcessor(patch_size=4, merge_size=2)
    template = _template("<|vision_start|><|image_pad|><|vision_end|>")
    return kind(images, _tokenizer(), videos, chat_template=template)


QWEN_IDS = {
    "image_token_id": VOCABULARY["<|image_pad|>"],
    "video_token_id": VOCABULARY["<|video_pad|>"],
    "vision_start_token_id": VOCABULARY["<|vision_start|>"],
    "vision_end_token_id": VOCABULARY["<|vision_end|>"],
}
MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10_000.0}}


def _qwen2_vl() -> tuple[Any, Any]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 4, "mlp_ratio": 1}
    config = Qwen2VLConfig(vision_config=vision, text_config={**TEXT, **MROPE}, **QWEN_IDS)
    return Qwen2VLForConditionalGeneration(config), _qwen_processor(Qwen2VLProcessor)


def _qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    vision = {"depth": 2, "hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
              "patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1]}  # fmt: skip
    config = Qwen2_5_VLConfig(vision_config=vision, text_config={**TEXT, **MROPE}, **QWEN_IDS)
    return Qwen2_5_VLForConditionalGeneration(config), _qwen_processor(Qwen2_5_VLProcessor)


def _internvl() -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
        Qwen2Config,
    )

    config = InternVLConfig(
        vision_config={**SIZES, "image_size": SIDE, "patch_size": 4},
        text_config=Qwen2Config(**TEXT).to_dict(),
        image_token_id=VOCABULARY[IMAGE],
        image_seq_length=4,
    )
    square = {"height": SIDE, "width": SIDE}
    images = GotOcr2ImageProcessor(size=square, crop_to_patches=True, min_patches=1, max_patches=4)
    marks = {
        "start_image_token": QWEN[0],
        "end_image_token": QWEN[1],
        "context_image_token": IMAGE,
        "video_token": VIDEO,
    }
    words = _tokenizer(extra_special_tokens=marks)
    processor = InternVLProcessor(
        images, words, InternVLVideoProcessor(size=square), image_seq_length=4, chat_template=_template(IMAGE)
    )
    return InternVLForConditionalGeneration(config), processor


def _llava_onevision() -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        Qwen2Config,
        SiglipVisionConfig,
    )

    pinpoints = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            **SIZES, image_size=SIDE, patch_size=4, vision_use_head=False
        ).to_dict(),
        text_config=Qwen2Config(**TEXT).to_dict(),
        image_token_index=VOCABULARY[IMAGE],
        video_token_index=VOCABULARY[VIDEO],
        image_grid_pinpoints=pinpoints,
    )
    square = {"height": SIDE, "width": SIDE}
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=pinpoints),
        _tokenizer(),
        LlavaOnevisionVideoProcessor(size=square),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_template(IMAGE),
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def _paligemma() -> tuple[Any, Any]:
    from transformers import (
        GemmaConfig,
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
        SiglipVisionConfig,
    )

    images = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = 16
    words = _tokenizer(bos_token=START)
    processor = PaliGemmaProcessor(images, words)
    many = {**TEXT, "vocab_size": len(words)}
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(
            **SIZES, image_size=SIDE, patch_size=4, projection_dim=16, vision_use_head=False
        ).to_dict(),
        text_config=GemmaConfig(**many, head_dim=8).to_dict(),
        image_token_index=VOCABULARY[IMAGE],
        vocab_size=len(words),
        projection_dim=16,
        hidden_size=16,
    )
    return PaliGemmaForConditionalGeneration(config), processor


def _florence2() -> tuple[Any, Any]:
    from transformers import (
        BartConfig,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    images = CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    images.image_seq_length = 5
    words = _tokenizer(bos_token=START, extra_special_tokens={"image_token": IMAGE})
    text = BartConfig(
        vocab_size=len(VOCABULARY), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=128,
        bos_token_id=VOCABULARY[START], eos_token_id=VOCABULARY[END], pad_token_id=VOCABULARY[PAD],
        decoder_start_token_id=VOCABULARY[END], forced_eos_token_id=None,
    )  # fmt: skip
    vision = {"depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
              "patch_prenorm": [False, True], "embed_dim": [16, 16], "num_heads": [2, 2], "num_groups": [2, 2],
              "window_size": 2, "projection_dim": 16}  # fmt: skip
    config = Florence2Config(
        text_config=text.to_dict(), vision_config=vision, image_token_id=VOCABULARY[IMAGE]
    )
    return Florence2ForConditionalGeneration(config), Florence2Processor(images, words)


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": lambda: (None, None),
    "idefics3": _idefics,
    "smolvlm": _smolvlm,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "internvl": _internvl,
    "llava_onevision": _llava_onevision,
    "paligemma": _paligemma,
    "florence2": _florence2,
}
