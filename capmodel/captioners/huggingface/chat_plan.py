"""How a chat model of transformers is asked, settled on the launcher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captionbeam.capmodel.captioners.huggingface.chat_inputs import INSTEAD, ChatProcessor
from captionbeam.capmodel.captioners.huggingface.folders import ModelFolder, open_folder
from captionbeam.capmodel.captioners.huggingface.generate import check_options
from captionbeam.capmodel.captioners.huggingface.loading import load_model
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.capmodel.runtime.device import resolve_precision
from captionbeam.capmodel.specs import ChatSpec
from captionbeam.schemas.errors import RequestError, flag, not_installed

if TYPE_CHECKING:
    from captionbeam.capmodel.captioners.grammars import Grammars

PARTS = {
    "tokenizer.json": ("tokenizer", "vocab", "spiece", "sentencepiece"),
    "processor_config.json": ("processor_config", "preprocessor_config"),
}
"""How the files of a tokenizer and of an image processor start, by the one that is named where there is none."""
REFUSED = {"prefix": "these words at the end of --prompt", "max_length": "--max-new-tokens"}


@dataclass(frozen=True)
class ChatPlan:
    """``spec``: everything that determines the answers besides the image; ``folder``: of the model."""

    spec: ChatSpec
    folder: ModelFolder


def resolve_chat(
    name: str,
    prompts: Mapping[str, Mapping[str, Any]],
    decode: DecodeOptions,
    *,
    system: str = ChatSpec.system,
    max_new_tokens: int | None = None,
    max_image_pixels: int = ChatSpec.max_image_pixels,
    precision: str | None = None,
    device: str = "auto",
) -> ChatPlan:
    """Returns the plan for answers to ``prompts``, ``{"text": ...}`` by column. Runs on the launcher.

    The weights are loaded once and released, so that unsuitable ones are found before a run. ``name``: a folder or a
    hub's name; ``precision`` as in ``captioner.resolve_captioner``. Raises RequestError.
    """
    with _suggesting(INSTEAD):
        folder = open_folder(name)
        _check_files(name, folder)
    settled = resolve_precision(precision or "fp32", device)
    texts = {column: str(own["text"]) for column, own in prompts.items()}
    with folder.local_copy(weights=False) as path:
        processor = ChatProcessor(path, name, texts, system, max_image_pixels)
    kind = processor.config.model_type
    _check_options(decode, kind)
    with folder.local_copy() as path, _suggesting(INSTEAD):
        model = load_model(path, folder.url, "auto")
    _check_vocabulary(name, processor, model)
    spec = ChatSpec(
        transformers=folder.sha256,
        model_type=kind,
        prompts=dict(prompts),
        decode=decode.deciding(),
        system=system,
        max_new_tokens=max_new_tokens or ChatSpec.max_new_tokens,
        max_image_pixels=max_image_pixels,
        precision=settled,
    )
    grammars_of(spec, processor, model)
    return ChatPlan(spec, folder)


def _check_files(name: str, folder: ModelFolder) -> None:
    """Raises RequestError if a part of the model has no file at all."""
    for part, starts in PARTS.items():
        if not any(file.startswith(starts) for file in folder.files):
            raise RequestError(
                f"{name!r} has no {part}; expected a folder that save_pretrained of the processor wrote"
            )


def _check_vocabulary(name: str, processor: ChatProcessor, model: Any) -> None:
    known = model.get_input_embeddings().weight.shape[0]
    if processor.largest_id >= known:
        raise RequestError(
            f"the tokenizer of {name!r} gives the prompt's words ids up to {processor.largest_id}, but the model knows "
            f"those below {known}; expected the tokenizer of this very model"
        )


@contextmanager
def _suggesting(instead: str) -> Iterator[None]:
    """Adds what else can be done to the block's RequestError."""
    try:
        yield
    except RequestError as err:
        raise RequestError(f"{err}, or {instead}") from err


def grammars_of(spec: ChatSpec, processor: ChatProcessor, model: Any) -> Grammars | None:
    """Returns the grammars of the prompts with schemas, if there are any. Raises RequestError."""
    schemas = {column: own["schema"] for column, own in spec.prompts.items() if "schema" in own}
    if not schemas:
        return None
    try:
        from captionbeam.capmodel.captioners.grammars import Grammars
    except ImportError as err:
        raise RequestError(f"--schema: {not_installed('xgrammar', 'xgrammar')}") from err
    if spec.decode.method == "beam":
        raise RequestError(
            f"--schema goes without beam search; expected greedy search or --temperature, not --beam {spec.decode.beam}"
        )
    vocabulary = model.get_output_embeddings().weight.shape[0]
    return Grammars(processor.tokenizer, vocabulary, ends_of(model, processor), schemas)


def ends_of(model: Any, processor: ChatProcessor) -> list[int]:
    """Returns the ids that end an answer."""
    return _listed(model.generation_config.eos_token_id) or _listed(processor.tokenizer.eos_token_id)


def _check_options(decode: DecodeOptions, kind: str) -> None:
    for name, instead in REFUSED.items():
        if value := getattr(decode, name):
            raise RequestError(
                f"--{flag(name)} is {value!r}, which answers to prompts do not have; expected {instead}"
            )
    check_options(decode, kind)


def _listed(value: Any) -> list[int]:
    if value is None:
        return []
    return sorted(int(one) for one in value) if isinstance(value, list | tuple) else [int(value)]
