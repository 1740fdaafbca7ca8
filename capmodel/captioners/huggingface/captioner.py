"""Image-to-text models of transformers as captioners of bulk jobs.

The launcher loads the weights once to check that they fit. Workers load them from the store's ``models/`` and never
access a hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from captionbeam.capmodel.captioners.captioner import BATCH, captions_array
from captionbeam.capmodel.captioners.huggingface.folders import ModelFolder, open_folder, stored_folder
from captionbeam.capmodel.captioners.huggingface.generate import (
    check_options,
    check_text,
    generate_arguments,
    prompt,
    until_end,
    write,
)
from captionbeam.capmodel.captioners.huggingface.loading import LOAD_ERRORS, LOCAL, load_model, reason
from captionbeam.capmodel.encoders.images import decode_image
from captionbeam.capmodel.generation.generate import Caption
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.capmodel.runtime.device import (
    DTYPES,
    device_errors,
    exact_kernels,
    pick_device,
    resolve_precision,
)
from captionbeam.capmodel.runtime.streams import Streams
from captionbeam.schemas.errors import ImageError, RequestError
from captionbeam.schemas.fingerprint import fingerprint
from captionbeam.schemas.formats import arrow


@dataclass(frozen=True)
class HuggingFacePlan:
    """Everything that determines a row of captions besides the image; ``fingerprint`` is that of the captions."""

    folder: ModelFolder
    spec: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """The captions' fingerprint: 32 hexadecimal digits."""
        return fingerprint(self.spec)

    @property
    def field(self) -> pa.Field:
        """The output column."""
        return arrow.captions_field(False)


class HuggingFaceProcessor:
    """Configuration, image processor and tokenizer from a local folder.

    Raises RequestError if the model does not caption an image without a prompt.
    """

    def __init__(self, path: str) -> None:
        try:
            self.config = AutoConfig.from_pretrained(path, **LOCAL)
            self.pictures = AutoImageProcessor.from_pretrained(path, **LOCAL)
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
                f"{path!r} is a model of {kind}, which answers prompts; expected one that captions an image by "
                "itself, such as blip, blip-2, git or vision-encoder-decoder"
            )
        wide, high = (self.pixels(np.zeros(shape, np.uint8)) for shape in ((48, 64, 3), (64, 48, 3)))
        if {name: value.shape for name, value in wide.items()} != {n: v.shape for n, v in high.items()}:
            raise RequestError(
                f"the image processor of {path!r} gives pictures of several shapes; expected one of a fixed size"
            )

    def pixels(self, image: np.ndarray) -> dict[str, Tensor]:
        """Converts uint8 ``[H, W, 3]`` to the model's inputs for one image, by name."""
        ready = self.pictures(images=Image.fromarray(image), return_tensors="pt")
        return {name: value[0] for name, value in ready.items() if isinstance(value, Tensor)}

    @property
    def ends(self) -> set[int]:
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
        parts = HuggingFaceProcessor(path)
    check_options(options, parts.config.model_type)
    check_text(options, parts.config, parts.tokenizer)
    generate_arguments(options, prompt(options, parts.config, parts.tokenizer)[1])
    with folder.local_copy() as path:
        load_model(path, folder.url, "auto")
    spec = {
        "transformers": folder.sha256,
        "model_type": parts.config.model_type,
        "decode": options.to_dict(),
        "precision": settled,
    }
    return HuggingFacePlan(folder, spec)


class HuggingFaceCaptioner:
    """A processor that maps images to ``captions``, best first.

    Batches are padded to ``batch_size``, so on one device a row does not depend on the rest of its batch. Threads may
    share a captioner; it computes ``streams`` batches at a time.
    """

    def __init__(
        self,
        plan_spec: Mapping[str, Any],
        parts: HuggingFaceProcessor,
        model: Any,
        options: DecodeOptions,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.batch_size, self.device, self.spec = batch_size, device, plan_spec
        self.fingerprint = fingerprint(plan_spec)
        self.schema = pa.schema([arrow.captions_field(False)])
        self._parts, self._options, self._model = parts, options, model.to(device).eval()
        self._streams = Streams(batch_size, device.type)
        self.streams = self._streams.count
        self._prompt, count = prompt(options, parts.config, parts.tokenizer)
        self._arguments = generate_arguments(options, count)
        self._ends = parts.ends | {int(one) for one in _listed(model.generation_config.eos_token_id)}
        self._special = set(parts.tokenizer.all_special_ids)

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
        target = pick_device(device)
        whole = folder if isinstance(folder, ModelFolder) else stored_folder(folder)
        with whole.local_copy() as path:
            parts, dtype = HuggingFaceProcessor(path), DTYPES[spec["precision"]]
            model = load_model(path, whole.url, dtype)
        return cls(spec, parts, model, options, batch_size or BATCH[target.type], target)

    def prepare(self, item: bytes) -> dict[str, Tensor]:
        """Returns a file's bytes as the model's inputs for one image. Raises ImageError."""
        return self._parts.pixels(decode_image(item))

    def run(self, batch: Sequence[dict[str, Tensor]], image_ids: Sequence[str]) -> dict[str, pa.Array]:
        """Returns ``{"captions": list<struct<text, logprob, tokens>>}``, one list per image.

        Raises ImageError if the model's output is not finite, OutOfMemory, SystemicError.
        """
        missing = self.batch_size - len(batch)
        rows = [*batch, *[batch[0]] * missing]
        names = [*image_ids, *[""] * missing]
        found = self._streams.run(lambda: self._written(rows, names))[: len(batch)]
        for name, captions in zip(image_ids, found, strict=True):
            if not all(np.isfinite(caption.logprob) for caption in captions):
                raise ImageError("model", "model", f"the model's output for {name!r} is not finite")
        return {"captions": captions_array(found, self.schema.field(0).type)}

    def _written(self, rows: Sequence[dict[str, Tensor]], names: Sequence[str]) -> list[list[Caption]]:
        with device_errors(), exact_kernels(self.device):
            inputs = {name: self._input(torch.stack([row[name] for row in rows])) for name in rows[0]}
            for name, ids in self._prompt.items():
                inputs[name] = torch.tensor([ids] * len(rows), device=self.device)
            sequences, tokens, gained = write(self._model, inputs, self._options, names, self._arguments)
            sums = torch.where(until_end(tokens, sorted(self._ends)), gained, 0.0).sum(1)
        return self._captions(sequences.cpu(), sums.tolist())

    def _input(self, values: Tensor) -> Tensor:
        floats = values.is_floating_point()
        return values.to(self.device, self._model.dtype if floats else values.dtype)

    def _captions(self, sequences: Tensor, sums: Sequence[float]) -> list[list[Caption]]:
        """Returns each image's captions, in ``generate``'s order; samples are sorted by log-probability."""
        words = self._parts.tokenizer
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
