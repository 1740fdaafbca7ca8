"""Image-to-text models of transformers as captioners of bulk jobs.

The launcher loads the weights once to check that they fit. Workers load them from the store's ``models/`` and never
access a hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from captionbeam.capmodel.captioners.base import BatchCaptioner, CaptionPlan
from captionbeam.capmodel.captioners.huggingface.folders import ModelFolder, open_folder, stored_folder
from captionbeam.capmodel.captioners.huggingface.generate import (
    check_options,
    check_text,
    generate_arguments,
    prompt,
    run_generate,
    until_eos,
)
from captionbeam.capmodel.captioners.huggingface.loading import LOAD_ERRORS, LOCAL, load_model, reason
from captionbeam.capmodel.encoders.images import decode_image
from captionbeam.capmodel.generation.captions import Caption
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.capmodel.runtime.device import (
    DTYPES,
    device_errors,
    exact_device,
    resolve_precision,
)
from captionbeam.capmodel.specs import TransformersSpec
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.fingerprint import spec_of


@dataclass(frozen=True)
class HuggingFacePlan(CaptionPlan):
    """The plan of the model in ``folder``."""

    folder: ModelFolder


class HuggingFaceProcessor:
    """Configuration, image processor and tokenizer from a local folder.

    Raises RequestError if the model does not caption an image without a prompt.
    """

    def __init__(self, path: str) -> None:
        try:
            self.config = AutoConfig.from_pretrained(path, **LOCAL)
            self.image_processor = AutoImageProcessor.from_pretrained(path, **LOCAL)
            self.tokenizer = AutoTokenizer.from_pretrained(path, **LOCAL)
        except LOAD_ERRORS as err:
            raise RequestError(
                f"the model {path!r} cannot be opened ({reason(err)}); expected config.json, the image "
                "processor's and the tokenizer's files, of a model that transformers has itself"
            ) from err
        self._check(path)

    def _check(self, path: str) -> None:
        if set(self.tokenizer.get_vocab()) <= set(self.tokenizer.all_special_tokens):
            raise RequestError(
                f"the tokenizer of {path!r} knows no word, so that every caption would be empty; expected its files "
                "beside config.json: tokenizer.json, or vocab.txt, or vocab.json with merges.txt, ..."
            )
        kind = self.config.model_type
        if type(self.config) not in AutoModelForImageTextToText._model_mapping:
            raise RequestError(f"{path!r} is a model of {kind}; expected one that writes text about images")
        if kind != "blip-2" and any(
            getattr(self.config, name, None) is not None for name in ("image_token_id", "image_token_index")
        ):
            raise RequestError(
                f"{path!r} is a model of {kind}, which answers prompts; expected --prompt, or a model that "
                "captions an image by itself, such as blip, blip-2, git or vision-encoder-decoder"
            )
        wide, high = (self.pixels(np.zeros(shape, np.uint8)) for shape in ((48, 64, 3), (64, 48, 3)))
        if {name: value.shape for name, value in wide.items()} != {n: v.shape for n, v in high.items()}:
            raise RequestError(
                f"the image processor of {path!r} gives pictures of several shapes; expected one of a fixed size"
            )

    def pixels(self, image: np.ndarray) -> dict[str, Tensor]:
        """Converts uint8 ``[H, W, 3]`` to the model's inputs for one image, by name."""
        ready = self.image_processor(images=Image.fromarray(image), return_tensors="pt")
        return {name: value[0] for name, value in ready.items() if isinstance(value, Tensor)}

    @property
    def eos_ids(self) -> set[int]:
        """The ids that end a caption: from the configuration, and the tokenizer's EOS and SEP."""
        text = self.config.get_text_config(decoder=True)
        said = (getattr(text, "eos_token_id", None), self.tokenizer.eos_token_id, self.tokenizer.sep_token_id)
        return {int(one) for several in said for one in _listed(several)}


def resolve_captioner(
    name: str, options: DecodeOptions, precision: str | None = None, device: str = "auto"
) -> HuggingFacePlan:
    """Returns the plan for captions of images. Runs on the launcher.

    The weights are loaded once and released, so that unsuitable ones are found before a run. ``precision``: ``fp32``
    (the default), ``bf16`` or ``auto`` (decided by ``device``). Raises RequestError.
    """
    folder = open_folder(name)
    settled = resolve_precision(precision or "fp32", device)
    with folder.local_copy(weights=False) as path:
        processor = HuggingFaceProcessor(path)
    check_options(options, processor.config.model_type)
    check_text(options, processor.config, processor.tokenizer)
    generate_arguments(options, prompt(options, processor.config, processor.tokenizer)[1])
    with folder.local_copy() as path:
        load_model(path, folder.url, "auto")
    spec = TransformersSpec(folder.sha256, processor.config.model_type, options.deciding(), settled)
    return HuggingFacePlan(spec_of(spec), folder)


class HuggingFaceCaptioner(BatchCaptioner):
    """A captioner of images by a model of transformers."""

    def __init__(
        self,
        plan: CaptionPlan,
        processor: HuggingFaceProcessor,
        model: Any,
        options: DecodeOptions,
        batch_size: int | None,
        device: torch.device,
    ) -> None:
        super().__init__(plan, batch_size, device)
        self._processor, self._options, self._model = processor, options, model.to(device).eval()
        self._prompt, count = prompt(options, processor.config, processor.tokenizer)
        self._arguments = generate_arguments(options, count)
        self._eos_ids = processor.eos_ids | {
            int(one) for one in _listed(model.generation_config.eos_token_id)
        }
        self._special = set(processor.tokenizer.all_special_ids)

    @classmethod
    def load(
        cls,
        folder: ModelFolder | str,
        options: DecodeOptions,
        spec: Mapping[str, Any],
        batch_size: int | None = None,
        device: str = "auto",
    ) -> HuggingFaceCaptioner:
        """Loads the captioner of ``spec`` from a folder, or from the URL where ``store`` wrote it.

        Raises FingerprintError, RequestError.
        """
        plan, target = CaptionPlan(spec), exact_device(device)
        whole = folder if isinstance(folder, ModelFolder) else stored_folder(folder)
        with whole.local_copy() as path:
            processor, dtype = HuggingFaceProcessor(path), DTYPES[plan.precision]
            model = load_model(path, whole.url, dtype)
        return cls(plan, processor, model, options, batch_size, target)

    def prepare(self, item: bytes) -> dict[str, Tensor]:
        """Returns a file's bytes as the model's inputs for one image. Raises ImageError."""
        return self._processor.pixels(decode_image(item))

    def _inputs(
        self, batch: Sequence[dict[str, Tensor]], image_ids: Sequence[str]
    ) -> Sequence[dict[str, Tensor]]:
        return [*batch, *[batch[0]] * (self.batch_size - len(batch))]

    def _captions(self, inputs: Sequence[dict[str, Tensor]], image_ids: Sequence[str]) -> list[list[Caption]]:
        with device_errors():
            given = {name: self._moved(torch.stack([row[name] for row in inputs])) for name in inputs[0]}
            for name, ids in self._prompt.items():
                given[name] = torch.tensor([ids] * len(inputs), device=self.device)
            sequences, tokens, logprobs = run_generate(
                self._model, given, self._options, image_ids, self._arguments
            )
            sums = torch.where(until_eos(tokens, sorted(self._eos_ids)), logprobs, 0.0).sum(1).tolist()
            sequences = sequences.cpu()
        return self._per_image(sequences, sums)

    def _moved(self, values: Tensor) -> Tensor:
        floats = values.is_floating_point()
        return values.to(self.device, self._model.dtype if floats else values.dtype)

    def _per_image(self, sequences: Tensor, sums: Sequence[float]) -> list[list[Caption]]:
        """Returns each image's captions, in ``generate``'s order; samples are sorted by log-probability."""
        words = self._processor.tokenizer
        texts = words.batch_decode(sequences, skip_special_tokens=True)
        ids = [[one for one in row if one not in self._special] for row in sequences.tolist()]
        all_of_them = [
            Caption(text.strip(), total, [str(words.convert_ids_to_tokens(one)) for one in own])
            for text, total, own in zip(texts, sums, ids, strict=True)
        ]
        each = self._options.n_best
        images = [all_of_them[start : start + each] for start in range(0, len(all_of_them), each)]
        if self._options.method != "sample":
            return images
        return [sorted(image, key=lambda caption: -caption.logprob) for image in images]


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
