"""How well a text describes an image, by a CLIP or SigLIP model of transformers.

The launcher loads the weights once to check that they fit. Workers load them from the store's ``models/`` and never
access a hub.
Shapes: N images or texts, D features, L tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from captionbeam.capmodel.captioners.huggingface.folders import ModelFolder, open_folder, stored_folder
from captionbeam.capmodel.captioners.huggingface.loading import LOAD_ERRORS, LOCAL, load_model, reason
from captionbeam.capmodel.encoders.images import decode_image
from captionbeam.capmodel.runtime.device import device_errors, exact_device
from captionbeam.capmodel.runtime.streams import Streams
from captionbeam.capmodel.specs import ScorerSpec
from captionbeam.schemas.errors import RequestError

BATCH = {"cpu": 16, "cuda": 256}
WEIGHT = 2.5  # of CLIPScore
PREFIX = {"clip": "A photo depicts ", "siglip": ""}
"""What a text starts with; of CLIP as in CLIPScore's own code."""
LENGTHS = 16  # texts of CLIP are padded to multiples of this many tokens


@dataclass(frozen=True)
class ScorerPlan:
    """``spec``: everything that determines a score besides image and text; ``folder``: of the model."""

    spec: ScorerSpec
    folder: ModelFolder


def resolve_scorer(name: str, rerank: bool = False) -> ScorerPlan:
    """Returns the plan for scores by the model ``name``: a folder, or a hub's name. Runs on the launcher.

    The weights are loaded once and released. Raises RequestError for a model that is neither CLIP nor SigLIP, or whose
    weights do not fit.
    """
    folder = open_folder(name)
    with folder.local_copy() as path:
        inputs = ScorerInputs(path, name)
        load_model(path, name, torch.float32, AutoModel)
    return ScorerPlan(ScorerSpec(folder.sha256, inputs.kind, rerank), folder)


class ScorerInputs:
    """Image processor and tokenizer of the model in the folder ``path``. Raises RequestError.

    ``kind``: ``clip`` or ``siglip``. ``longest``: tokens of a text at most.
    """

    def __init__(self, path: str, name: str) -> None:
        try:
            config = AutoConfig.from_pretrained(path, **LOCAL)
            kind = config.model_type
            if kind not in PREFIX:
                raise RequestError(
                    f"{name!r} is a model of {kind}, which does not score texts against images here; expected one of "
                    f"{' or '.join(PREFIX)}"
                )
            self._images = AutoImageProcessor.from_pretrained(path, **LOCAL)
            self._tokenizer = AutoTokenizer.from_pretrained(path, **LOCAL)
        except RequestError:
            raise
        except LOAD_ERRORS as err:
            raise RequestError(
                f"the model {name!r} cannot be opened ({reason(err)}); expected config.json, the image processor's "
                "and the tokenizer's files"
            ) from err
        if set(self._tokenizer.get_vocab()) <= set(self._tokenizer.all_special_tokens):
            raise RequestError(
                f"the tokenizer of {name!r} knows no word, so that its scores would mean nothing; expected its files "
                "beside config.json: tokenizer.json, or vocab.json with merges.txt, ..."
            )
        self.kind, self.longest = kind, config.text_config.max_position_embeddings
        wide, high = (self.pixels(np.zeros(shape, np.uint8)) for shape in ((48, 64, 3), (64, 48, 3)))
        if wide.shape != high.shape:
            raise RequestError(
                f"the image processor of {name!r} gives pictures of several shapes; expected one of a fixed size"
            )

    def pixels(self, image: np.ndarray) -> Tensor:
        """Converts uint8 ``[H, W, 3]`` to the model's input for one image."""
        ready: Tensor = self._images(images=Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
        return ready

    def tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Returns the ids of each text after the prefix, and whether it was too long and is truncated."""
        given = [PREFIX[self.kind] + text for text in texts]
        ids = self._tokenizer(given)["input_ids"]
        cut = [len(row) > self.longest for row in ids]
        for place in (place for place, is_cut in enumerate(cut) if is_cut):
            ids[place] = self._tokenizer(given[place], truncation=True, max_length=self.longest)["input_ids"]
        return ids, cut

    def padded_length(self, tokens: int) -> int:
        """Returns the length to which a text of so many tokens is padded: it depends on no other text."""
        return self.longest if self.kind == "siglip" else min(-(-tokens // LENGTHS) * LENGTHS, self.longest)

    def padded(self, ids: Sequence[Sequence[int]], length: int) -> dict[str, Tensor]:
        """Returns the model's inputs ``[N, L]`` by name. SigLIP was trained without an attention mask."""
        rows: Any = self._tokenizer.pad(
            {"input_ids": [list(row) for row in ids]},
            padding="max_length",
            max_length=length,
            return_tensors="pt",
        )
        names = ("input_ids",) if self.kind == "siglip" else ("input_ids", "attention_mask")
        return {name: rows[name] for name in names}


class Scorer:
    """Scores of texts against images, by a CLIP or SigLIP model in float32. Threads may share it.

    A processor of ``pipelines``, of ``(picture, texts)`` for each image. Batches have a fixed shape, so on one device a
    score does not depend on the other images and texts.
    """

    fingerprint, schema = "", pa.schema([])

    def __init__(
        self, inputs: ScorerInputs, model: Any, batch_size: int | None, device: torch.device
    ) -> None:
        self.inputs, self._model, self.device = inputs, model.to(device).eval(), device
        self.batch_size = batch_size or BATCH[device.type]
        self._streams = Streams(self.batch_size, device)
        self.streams = self._streams.count

    @classmethod
    def load(cls, folder: ModelFolder | str, batch_size: int | None = None, device: str = "auto") -> Scorer:
        """Loads the model of a folder, or of the URL where ``ModelFolder.store`` wrote it.

        Raises FingerprintError, RequestError.
        """
        target = exact_device(device)
        whole = folder if isinstance(folder, ModelFolder) else stored_folder(folder)
        with whole.local_copy() as path:
            inputs = ScorerInputs(path, whole.url)
            model = load_model(path, whole.url, torch.float32, AutoModel)
        return cls(inputs, model, batch_size, target)

    def prepare(self, item: bytes) -> Tensor:
        """Returns a file's bytes as the model's input for one image. Raises ImageError."""
        return self.inputs.pixels(decode_image(item))

    def run(self, batch: Sequence[tuple[Tensor, Sequence[str]]], image_ids: Sequence[str]) -> dict[str, Any]:
        """Returns ``scores``, of each text for its prepared image, and ``truncated``: how many texts were too long.

        Raises OutOfMemory, SystemicError.
        """
        texts = [text for _, own in batch for text in own]
        places = [place for place, (_, own) in enumerate(batch) for _ in own]
        features, truncated = self.text_features(texts)
        images = self.image_features([picture for picture, _ in batch])
        found = iter(self.scores(images[places], features).tolist())
        return {"scores": [[next(found) for _ in own] for _, own in batch], "truncated": truncated}

    def image_features(self, images: Sequence[Tensor]) -> Tensor:
        """Returns float32 ``[N, D]`` of length 1 on the CPU for prepared images. Raises OutOfMemory, SystemicError."""
        return self._in_batches(
            images,
            lambda part: self._model.get_image_features(pixel_values=torch.stack(part).to(self.device)),
        )

    def text_features(self, texts: Sequence[str]) -> tuple[Tensor, int]:
        """Returns float32 ``[N, D]`` of length 1 on the CPU, and how many of the texts were too long: truncated."""
        ids, cut = self.inputs.tokens(texts)
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(ids):
            by_length[self.inputs.padded_length(len(row))].append(place)
        found: list[Any] = [None] * len(texts)
        for length, places in sorted(by_length.items()):
            for place, row in zip(places, self._texts([ids[place] for place in places], length), strict=True):
                found[place] = row
        return torch.stack(found), sum(cut)

    def scores(self, images: Tensor, texts: Tensor) -> Tensor:
        """Returns ``[N]``, the score of each text for the image in the same place; both are features ``[N, D]``.

        CLIP: CLIPScore of Hessel et al. 2021, 2.5 * max(cosine, 0). SigLIP: the sigmoid of its logit.
        """
        cosine = (images * texts).sum(-1)
        if self.inputs.kind == "clip":
            return WEIGHT * cosine.clamp(min=0)
        scale, bias = (value.detach().cpu() for value in (self._model.logit_scale, self._model.logit_bias))
        return torch.sigmoid(cosine * scale.exp() + bias)

    def _texts(self, ids: Sequence[Sequence[int]], length: int) -> Tensor:
        def features(part: list[Any]) -> Any:
            padded = self.inputs.padded(part, length)
            return self._model.get_text_features(
                **{name: value.to(self.device) for name, value in padded.items()}
            )

        return self._in_batches(ids, features)

    def _in_batches(self, rows: Sequence[Any], features: Callable[[list[Any]], Any]) -> Tensor:
        """Runs ``features`` on batches of the fixed size, the last one filled up with copies of its first row."""
        size = self.batch_size

        def run(part: Sequence[Any]) -> Tensor:
            full = [*part, *[part[0]] * (size - len(part))]
            with device_errors(), torch.inference_mode():
                found = features(full)
                pooled: Tensor = getattr(found, "pooler_output", found)
                return torch.nn.functional.normalize(pooled, dim=-1)[: len(part)].cpu()

        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        return torch.cat([self._streams.run(partial(run, part)) for part in parts])
