"""Converts decoding options to arguments of transformers' ``generate``, and rejects unsupported ones.

Shapes: B images, n captions per image, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from captionbeam.capmodel.generation.choices import draw, uniforms
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.schemas.errors import RequestError, flag

SUPPORTED = {"method", "beam", "n_best", "temperature", "temperature_convention", "top_k", "top_p", "seed",
             "max_length", "prefix", "length_penalty", "no_repeat_ngram"}  # fmt: skip
PREFIXED = ("blip", "git", "vision-encoder-decoder")


def check_options(options: DecodeOptions, model_type: str) -> None:
    """Raises RequestError for an option that ``generate`` or this kind of model does not support."""
    defaults = DecodeOptions()
    for name in DecodeOptions.__dataclass_fields__:
        value = getattr(options, name)
        if name not in SUPPORTED and value != getattr(defaults, name):
            raise RequestError(
                f"{flag(name)} is {value!r}, which captioners of Hugging Face do not have; expected to leave it out"
            )
    if options.prefix and model_type not in PREFIXED:
        raise RequestError(
            f"prefix is {options.prefix!r}, which {model_type} models cannot start with here; expected none, or a "
            f"model of {', '.join(PREFIXED)}"
        )


def check_text(options: DecodeOptions, config: Any, tokenizer: Any) -> None:
    """Raises RequestError for a maximum length that is too long, and for a prefix with unknown words."""
    most = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if isinstance(most, int) and 0 < most < (options.max_length or 0):
        raise RequestError(
            f"max-length is {options.max_length}; expected at most {most}, the positions of the model's decoder"
        )
    if (
        options.prefix
        and tokenizer.unk_token_id in tokenizer(options.prefix, add_special_tokens=False)["input_ids"]
    ):
        raise RequestError(
            f"prefix {options.prefix!r} has a word that the model does not know; expected others"
        )


def generate_arguments(options: DecodeOptions, prefix_tokens: int) -> dict[str, Any]:
    """Returns the arguments of ``generate`` for ``options``; options at their defaults keep the model's own values."""
    chosen: dict[str, Any] = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
    if options.method == "beam":
        chosen |= {"num_beams": options.beam, "num_return_sequences": options.n_best}
        if options.length_penalty:
            chosen["length_penalty"] = options.length_penalty
    if options.no_repeat_ngram:
        chosen["no_repeat_ngram_size"] = options.no_repeat_ngram
    if options.max_length is not None:
        chosen["max_new_tokens"] = _room(options, prefix_tokens)
    return chosen


def _room(options: DecodeOptions, prefix_tokens: int) -> int:
    most = (options.max_length or 0) - 2
    if prefix_tokens > most:
        raise RequestError(
            f"prefix {options.prefix!r} has {prefix_tokens} tokens; expected at most {most}, with START and END "
            f"{options.max_length}"
        )
    return most + 1 - prefix_tokens


def prompt(options: DecodeOptions, config: Any, tokenizer: Any) -> tuple[dict[str, list[int]], int]:
    """Returns the ids that every caption starts with, by argument of ``generate``, and the number of prefix tokens."""
    if not options.prefix:
        return {}, 0
    ids = tokenizer(options.prefix, add_special_tokens=False)["input_ids"]
    if config.model_type == "blip":  # blip replaces the first id with its START and drops the last
        return {"input_ids": [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]}, len(ids)
    if config.model_type == "git":
        return {"input_ids": [tokenizer.cls_token_id, *ids]}, len(ids)
    start = config.decoder_start_token_id
    if start is None:
        start = config.decoder.decoder_start_token_id or config.decoder.bos_token_id
    return {"decoder_input_ids": [start, *ids]}, len(ids)


class SeededSampling(LogitsProcessor):
    """Deterministic sampling: sample i of an image depends only on (seed, image_id, i).

    transformers draws from one generator for the whole batch. This processor leaves each caption one possible word, the
    drawn one, which greedy search then takes.
    """

    def __init__(self, options: DecodeOptions, image_ids: Sequence[str]) -> None:
        self.options, self.image_ids, self.step = options, image_ids, 0
        self.numbers = torch.empty(len(image_ids), options.n_best, 0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Sets ``scores`` ``[B * n, V]`` to minus infinity except for the drawn words."""
        logprobs = torch.log_softmax(scores.float(), -1).view(len(self.image_ids), self.options.n_best, -1)
        tokens = draw(logprobs, self._next().to(scores.device), self.options)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens.view(-1, 1), 0.0)

    def _next(self) -> Tensor:
        if self.step == self.numbers.shape[-1]:
            more = max(32, 2 * self.step)
            options = self.options
            self.numbers = torch.from_numpy(uniforms(options.seed, self.image_ids, options.n_best, more))
        self.step += 1
        return self.numbers[..., self.step - 1]


def run_generate(
    model: Any,
    inputs: Mapping[str, Tensor],
    options: DecodeOptions,
    image_ids: Sequence[str],
    arguments: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs ``generate`` on a batch, without gradients.

    ``inputs`` ``[B, ...]`` by name. Returns token ids int64 ``[B * n, T]``, as ``generate`` does; the generated ones,
    which are the last, int64 ``[B * n, T']``; and their log-probabilities by the model itself, before temperature and
    penalties, float32 of the same shape.
    """
    if options.method == "sample":
        inputs = {name: value.repeat_interleave(options.n_best, 0) for name, value in inputs.items()}
        arguments = {
            **arguments,
            "logits_processor": LogitsProcessorList([SeededSampling(options, image_ids)]),
        }
    with torch.no_grad():
        out = model.generate(**inputs, **arguments, return_dict_in_generate=True, output_logits=True)
    logits = tuple(step.float() for step in out.logits)
    logprobs = model.compute_transition_scores(
        out.sequences, logits, getattr(out, "beam_indices", None), normalize_logits=True
    )
    return out.sequences, out.sequences[:, -logprobs.shape[1] :], logprobs


def until_eos(tokens: Tensor, ends: Sequence[int]) -> Tensor:
    """Returns bool ``[..., T]``: True up to and including the first of ``ends``."""
    found = torch.isin(tokens, torch.tensor(sorted(ends), device=tokens.device)).long()
    return found.cumsum(-1) - found == 0
