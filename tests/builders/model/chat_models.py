"""A tiny chat model that sees pictures (LLaVA, random weights), saved to disk with a tokenizer made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

WORDS = ("a", "dog", "runs", "on", "grass", "two", "cats", "sleep", "near", "water", "red", "ball")
ASKED = ("describe", "the", "picture", "which", "colours", "user", "assistant")
PAD, UNKNOWN, START, END, IMAGE = SPECIAL = ("[PAD]", "[UNK]", "[START]", "[END]", "[IMAGE]")
JSON_WORDS = (*'{}":, []', *"0123456789", *"abcdefghijklmnopqrstuvwxyz", '"kind"', '"dog"', "true", "false")


def _vocabulary(words: Sequence[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate((*SPECIAL, *words, *ASKED))}


VOCABULARY = _vocabulary(WORDS)
SIDE, PATCH = 32, 8
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEMPLATE = """\
{%- for message in messages -%}
{{ message.role }}{{ ' ' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' %} [IMAGE] {% elif part.type == 'text' %}{{ part.text }}{% endif -%}
{%- endfor -%}
{%- endif -%}{{ ' ' }}
{%- endfor -%}
{%- if add_generation_prompt %}assistant {% endif -%}"""


def save_chat_model(
    folder: Path,
    seed: int = 0,
    words: Sequence[str] = WORDS,
    *,
    sizes: Mapping[str, int] = SIZES,
    side: int = SIDE,
    patch: int = PATCH,
    scale: float = 0.5,
) -> str:
    """Saves the model to ``folder`` and returns its path. Its answers are 4 to about 10 of ``words``.

    With JSON_WORDS, no spaces stand between them. ``sizes``: of both networks; ``scale``: of the random weights.
    """
    from transformers import GenerationConfig

    torch.manual_seed(seed)
    vocabulary = _vocabulary(words)
    model = _model(vocabulary, sizes, side, patch)
    with torch.no_grad():  # far from uniform, so that answers about different pictures differ
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * scale)
    special = [vocabulary[word] for word in (*SPECIAL, *ASKED) if word != END]
    model.generation_config = GenerationConfig(
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[PAD],
        suppress_tokens=special,
        begin_suppress_tokens=[vocabulary[END]],
        exponential_decay_length_penalty=(4, 2.0),  # the end becomes ever likelier after 4 tokens
        do_sample=False,
    )
    model.save_pretrained(folder)
    _processor(vocabulary, side, patch, fused=words is JSON_WORDS).save_pretrained(folder)
    return str(folder)


def _model(vocabulary: Mapping[str, int], sizes: Mapping[str, int], side: int, patch: int) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(**sizes, vocab_size=len(vocabulary), max_position_embeddings=512, bos_token_id=None)
    vision = CLIPVisionConfig(**sizes, image_size=side, patch_size=patch, projection_dim=16)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=vocabulary[IMAGE],
        vision_feature_layer=-1,
        image_seq_length=(side // patch) ** 2,
    )
    return LlavaForConditionalGeneration(config)


def _processor(vocabulary: Mapping[str, int], side: int, patch: int, fused: bool) -> Any:
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel(dict(vocabulary), unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    words.normalizer = Lowercase()
    if fused:
        words.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        extra_special_tokens={"image_token": IMAGE},
    )
    square = {"height": side, "width": side}
    return LlavaProcessor(
        CLIPImageProcessor(size=square, crop_size=square),
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
