"""Prompts and images as the inputs of a chat model of transformers, by the model's own processor and template.

Shapes: L tokens of a prompt with its image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from captionbeam.capmodel.captioners.huggingface.loading import LOAD_ERRORS, LOCAL, reason
from captionbeam.capmodel.encoders.images import decode_image, within
from captionbeam.capmodel.templates import columns_in, filled, question
from captionbeam.schemas.errors import ImageError, RequestError

INSTEAD = "--captioner vllm: or openai: if a server runs it"
IMAGE_ERRORS = (RuntimeError, ValueError, ArithmeticError, LookupError)  # such as for extreme proportions
FORMATS = {"florence2": "TEXT", "paligemma": "<image>TEXT"}  # of prompts of models without a chat template
NOT_INPUTS = {"labels"}
LENGTHS = (
    32  # prompts with values of columns are padded to a multiple of it, so that pictures can share a batch
)
PROBE = (64, 48)  # width and height of the picture that a processor is tried with


class ChatProcessor:
    """Configuration, processor and tokenizer from a local folder, for the ``prompts`` (texts by column).

    ``columns``: of the input, which the prompts name; ``largest_id``: of a prompt's tokens. ``name`` is used in errors.
    Raises RequestError if the model has no chat template, or one that leaves out the image, a prompt or the system
    message.
    """

    def __init__(
        self, path: str, name: str, prompts: Mapping[str, str], system: str, max_image_pixels: int
    ) -> None:
        try:
            self.config = AutoConfig.from_pretrained(path, **LOCAL)
            self._processor = AutoProcessor.from_pretrained(path, **LOCAL)
        except LOAD_ERRORS as err:
            raise RequestError(
                f"the model {name!r} cannot be opened ({reason(err)}); expected config.json, the processor's and the "
                f"tokenizer's files, of a model that transformers has itself, or {INSTEAD}"
            ) from err
        self._prompts, self._system, self._max_pixels = dict(prompts), system, max_image_pixels
        self._check_kind(name)
        self.tokenizer = self._processor.tokenizer
        self._check_words(name)
        self._positions = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        self.columns = sorted({column for text in self._prompts.values() for column in columns_in(text)})
        self.largest_id = 0
        for text in self._prompts.values():
            self._check_prompt(name, filled(text, {column: column for column in self.columns}))

    def _check_kind(self, name: str) -> None:
        kind = self.config.model_type
        if type(self.config) not in AutoModelForImageTextToText._model_mapping:
            raise RequestError(
                f"{name!r} is a model of {kind}; expected one that writes text about images, or {INSTEAD}"
            )
        parts = [part for part in ("tokenizer", "image_processor") if not hasattr(self._processor, part)]
        if parts:
            raise RequestError(
                f"{name!r} has no processor with {' and '.join(parts)}; expected the files that save_pretrained of "
                f"the model's processor wrote, or {INSTEAD}"
            )
        self._format = None if getattr(self._processor, "chat_template", None) else FORMATS.get(kind, "")
        if self._format and self._system:
            raise RequestError(
                f"{name!r} is a model of {kind}, which has no place for --system; expected none"
            )
        if self._format == "":
            raise RequestError(
                f"{name!r} is a model of {kind} without a chat template, which has no place for a --prompt; expected "
                f"none if it captions images by itself (blip, git), chat_template.jinja in its folder, or {INSTEAD}"
            )

    def _check_words(self, name: str) -> None:
        if set(self.tokenizer.get_vocab()) <= set(self.tokenizer.all_special_tokens):
            raise RequestError(
                f"the tokenizer of {name!r} knows no word, so that every answer would be empty; expected its files "
                "beside config.json: tokenizer.json, or vocab.json with merges.txt, ..."
            )

    def _check_prompt(self, name: str, text: str) -> None:
        image, mark = Image.new("RGB", PROBE), self._mark
        if mark and mark in text + self._system:
            raise RequestError(
                f"the prompt {text[:40]!r} or the system message has {mark!r}, which stands for the image in {name!r}; "
                "expected a text without it"
            )
        try:
            rendered = self._rendered(text, image)
            ids = self._tensors(text, image)["input_ids"]
        except (*LOAD_ERRORS, TemplateError) as err:
            raise RequestError(
                f"the chat template of {name!r} cannot be used ({reason(err)}); expected one that takes an image, a "
                f"text{' and a system message' if self._system else ''}, or {INSTEAD}"
            ) from err
        if self._positions and ids.shape[1] > self._positions:
            raise RequestError(
                f"the prompt {text[:40]!r} has {ids.shape[1]} tokens with its image, and {name!r} reads "
                f"{self._positions}; expected a shorter one"
            )
        for part in filter(None, (text.strip(), self._system.strip())):
            if part not in rendered:
                raise RequestError(
                    f"the chat template of {name!r} leaves out {part[:40]!r}; expected one that keeps it, or {INSTEAD}"
                )
        self.largest_id = max(self.largest_id, int(ids.max()))
        if not (ids == self._image_token()).any():
            raise RequestError(
                f"the chat template of {name!r} has no place for an image; expected one that has, or {INSTEAD}"
            )

    @property
    def _mark(self) -> str:
        """What stands for the image in a text; "" if nothing does."""
        token = self._image_token()
        return str(self.tokenizer.convert_ids_to_tokens(token)) if token >= 0 else ""

    def _image_token(self) -> int:
        found = (getattr(self.config, one, None) for one in ("image_token_id", "image_token_index"))
        return next((token for token in found if isinstance(token, int)), -1)

    def prepare(
        self, item: bytes, used: Mapping[str, str], known: Collection[str] = ()
    ) -> dict[str, dict[str, Tensor]]:
        """Returns the model's inputs for a file's bytes, by column of the prompt, without the columns ``known``.

        ``used``: the image's values in ``columns``. Tensors that do not depend on the prompt are shared. Raises
        ImageError.
        """
        asked = {column: text for column, text in self._prompts.items() if column not in known}
        if not asked:
            return {}
        image = within(Image.fromarray(decode_image(item, enough=self._max_pixels)), self._max_pixels)
        found: dict[str, dict[str, Tensor]] = {}
        for column, text in asked.items():
            said = question(column, text, used)
            if self._mark and self._mark in said:
                raise ImageError(
                    "model", "model", f"the prompt has {self._mark!r}, which stands for the image"
                )
            try:
                tensors = self._tensors(said, image)
                tensors = self._padded(tensors) if columns_in(text) else tensors
                self._check_length(tensors["input_ids"].shape[1])
            except IMAGE_ERRORS as err:
                raise ImageError("model", "model", f"the model's processor: {reason(err)}") from err
            first = next(iter(found.values()), {})
            found[column] = {
                name: first[name] if name in first and _equal(first[name], value) else value
                for name, value in tensors.items()
            }
        return found

    def _check_length(self, tokens: int) -> None:
        if self._positions and tokens > self._positions:
            raise ImageError(
                "model",
                "model",
                f"the prompt has {tokens} tokens with its image; the model reads {self._positions}",
            )

    def _tensors(self, text: str, image: Image.Image) -> dict[str, Tensor]:
        """Returns ``input_ids`` int64 ``[1, L]`` and all other inputs of one image; the first axis is the batch's."""
        if self._format:
            ready = self._processor(text=self._rendered(text, image), images=image, return_tensors="pt")
        else:
            ready = self._processor.apply_chat_template(
                self._conversation(text, image),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        named = ready.items()
        return {name: value for name, value in named if isinstance(value, Tensor) and name not in NOT_INPUTS}

    def _padded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the inputs with L a multiple of LENGTHS: padded on the left, for an encoder on the right.

        The length depends on the image alone, so its batch does not change its numbers.
        """
        ids = tensors["input_ids"]
        more = -ids.shape[1] % LENGTHS
        sides = (0, more) if self.config.is_encoder_decoder else (more, 0)
        masked = {"attention_mask": torch.ones_like(ids), **tensors}
        return {
            name: functional.pad(value, sides, value=self._pad if name == "input_ids" else 0)
            if value.shape == ids.shape
            else value
            for name, value in masked.items()
        }

    @property
    def _pad(self) -> int:
        """The id of padding, which the mask hides; any other id but the image's would do."""
        return int(self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0)

    def _rendered(self, text: str, image: Image.Image) -> str:
        if self._format:
            return self._format.replace("TEXT", text)
        rendered: str = self._processor.apply_chat_template(
            self._conversation(text, image), add_generation_prompt=True
        )
        return rendered

    def _conversation(self, text: str, image: Image.Image) -> list[dict[str, Any]]:
        user = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        system = [{"role": "system", "content": [{"type": "text", "text": self._system}]}]
        return [*(system if self._system else ()), {"role": "user", "content": user}]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
