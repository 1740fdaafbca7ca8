"""Chat models of transformers as captioners of bulk jobs: each prompt's answers fill a column of their own.

Only images whose prepared inputs have equal shapes share a batch. A batch is filled up with copies to a fixed size, so
on one device a row does not depend on the rest of its batch.
Shapes: B images, n answers per image, L tokens of a prompt, T generated tokens, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from captionbeam.capmodel.captioners.huggingface.chat_inputs import ChatProcessor
from captionbeam.capmodel.captioners.huggingface.chat_plan import ends_of, grammars_of
from captionbeam.capmodel.captioners.huggingface.folders import ModelFolder, stored_folder
from captionbeam.capmodel.captioners.huggingface.generate import (
    SeededSampling,
    generate_arguments,
    until_eos,
)
from captionbeam.capmodel.captioners.huggingface.loading import load_model
from captionbeam.capmodel.runtime.device import (
    DTYPES,
    device_errors,
    exact_device,
)
from captionbeam.capmodel.runtime.streams import Streams
from captionbeam.capmodel.specs import ChatSpec
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.fingerprint import fingerprint, spec_of

BATCH = {"cpu": 1, "cuda": 16}

NO_VALUES: Mapping[str, str] = {}

Answers = list[dict[str, Any]]
Inputs = dict[str, Tensor]
NO_ANSWERS: Mapping[str, Answers] = {}
Parsers = Mapping[str, Callable[[str], Any]]
NO_PARSERS: Parsers = {}


@dataclass(eq=False)
class Asked:
    """One image: the model's inputs by column of the prompt, and the answers or the error that a batch found.

    ``by_image``: earlier answers about images of the same content, by column and the image's id.
    """

    inputs: dict[str, Inputs]
    found: dict[str, Answers | ImageError] = field(default_factory=dict)
    by_image: Mapping[str, Mapping[str, Answers]] = field(default_factory=dict)


class ChatCaptioner:
    """A processor that asks a model of transformers every prompt about every image.

    Threads may share it; one batch is computed at a time, since some models keep state between the steps of
    ``generate`` (Qwen2-VL: ``rope_deltas``).
    """

    streams = 1

    def __init__(
        self,
        spec: ChatSpec,
        schema: pa.Schema,
        parsers: Parsers,
        processor: ChatProcessor,
        model: Any,
        batch_size: int | None,
        device: torch.device,
    ) -> None:
        self.options, self.schema = spec, schema
        self.spec = spec_of(spec)
        self.fingerprint = fingerprint(self.spec)
        self.columns = tuple(processor.columns)
        self.batch_size = batch_size or BATCH[device.type]
        self._device, self._processor = device, processor
        self._model = model.to(device).eval()
        self._turn = Streams(1, device)
        self._ends, self._parsers = ends_of(model, processor), parsers
        self._grammars = grammars_of(spec, processor, model)
        self._arguments = self._generate_arguments()

    @classmethod
    def load(
        cls,
        folder: ModelFolder | str,
        spec: ChatSpec,
        schema: pa.Schema,
        parsers: Parsers = NO_PARSERS,
        batch_size: int | None = None,
        device: str = "auto",
    ) -> ChatCaptioner:
        """Loads the captioner of ``spec`` from a folder, or from the URL where ``ModelFolder.store`` wrote it.

        ``schema``: the column of each prompt (``schemas.formats.arrow.answers_field``). ``parsers``: by column of the
        prompts with schemas, what returns the value of an answer, or raises ValueError. Raises FingerprintError,
        RequestError.
        """
        target = exact_device(device)
        whole = folder if isinstance(folder, ModelFolder) else stored_folder(folder)
        texts = {column: str(spec.prompts[column]["text"]) for column in schema.names}
        with whole.local_copy() as path:
            processor = ChatProcessor(path, whole.url, texts, spec.system, spec.max_image_pixels)
            model = load_model(path, whole.url, DTYPES[spec.precision])
        return cls(spec, schema, parsers, processor, model, batch_size, target)

    def _generate_arguments(self) -> dict[str, Any]:
        """Returns the arguments of ``generate``; the model's own values hold for all others."""
        pad = self._model.generation_config.pad_token_id
        if pad is None:
            pad = self._processor.tokenizer.pad_token_id
        return {
            **generate_arguments(self.options.decode, 0),
            "max_new_tokens": self.options.max_new_tokens,
            "eos_token_id": self._ends,
            "pad_token_id": self._ends[0] if pad is None and self._ends else pad,
        }

    def prepare(
        self,
        item: bytes,
        used: Mapping[str, str] = NO_VALUES,
        known: Mapping[str, Answers] = NO_ANSWERS,
    ) -> Asked:
        """Returns a file's bytes as the model's inputs for each prompt without ``known`` answers. Raises ImageError.

        ``used``: the image's values in ``columns``, which prompts name.
        """
        return Asked(self._processor.prepare(item, used, known), dict(known))

    def shape_of(self, asked: Asked) -> Hashable:
        """Returns what images of a batch have in common."""
        return tuple((column, _shapes(inputs)) for column, inputs in asked.inputs.items())

    def bytes_of(self, asked: Asked) -> int:
        """Returns the size of an image's inputs in memory; prompts share those of pixels."""
        tensors = {id(value): value for inputs in asked.inputs.values() for value in inputs.values()}
        return sum(value.nbytes for value in tensors.values())

    def run(self, batch: Sequence[Asked], image_ids: Sequence[str]) -> dict[str, pa.Array]:
        """Returns each image's answers, by column.

        Answers are kept with the images, so that a batch with an image that fails is not generated again when it is
        halved to find it. Raises ImageError, OutOfMemory, SystemicError.
        """
        for column in self.schema.names:
            for places in self._groups(batch, column):
                group = [batch[place] for place in places]
                self._ask(column, group, [image_ids[place] for place in places])
        return {
            column: pa.array(
                [self._checked(asked, column) for asked in batch], self.schema.field(column).type
            )
            for column in self.schema.names
        }

    def _ask(self, column: str, group: Sequence[Asked], image_ids: Sequence[str]) -> None:
        """Keeps the answers to one prompt with the images of a group."""
        rows = [asked.inputs[column] for asked in group]
        answers = self._turn.run(lambda: self._answers(column, rows, image_ids))
        for asked, found in zip(group, answers, strict=True):
            asked.found[column] = found

    def _groups(self, batch: Sequence[Asked], column: str) -> Iterator[list[int]]:
        """Yields places of the images without answers whose inputs have equal shapes, at most ``batch_size``."""
        groups: defaultdict[Hashable, list[int]] = defaultdict(list)
        for place, asked in enumerate(batch):
            if column not in asked.found:
                groups[_shapes(asked.inputs[column])].append(place)
        for places in groups.values():
            for start in range(0, len(places), self.batch_size):
                yield places[start : start + self.batch_size]

    def _checked(self, asked: Asked, column: str) -> Answers:
        found = asked.found[column]
        if isinstance(found, ImageError):
            which = f"prompt {column}: " if len(self.schema) > 1 else ""
            raise ImageError(found.code, found.stage, which + found.message)
        return found

    def _answers(
        self, column: str, rows: Sequence[Inputs], image_ids: Sequence[str]
    ) -> list[Answers | ImageError]:
        """Returns the answers to one prompt about the images of one group, or what is wrong with them."""
        padding = self.batch_size - len(rows)
        full, names = [*rows, *[rows[0]] * padding], [*image_ids, *[""] * padding]
        with device_errors():
            tokens, finite = self.generate(column, full, names)
            counts = until_eos(tokens, self._ends).sum(1).tolist()
            ended = torch.isin(tokens, torch.tensor(self._ends, device=tokens.device)).any(1).tolist()
        each = self.options.decode.n_best
        texts = self._processor.tokenizer.batch_decode(tokens.cpu(), skip_special_tokens=True)
        found: list[Answers | ImageError] = []
        for place in range(len(rows)):
            if not finite[place]:
                found.append(ImageError("model", "model", "the model's output is not a number"))
                continue
            own = range(place * each, (place + 1) * each)
            generated = [(texts[one].strip(), counts[one], ended[one]) for one in own]
            found.append(self._of_image(column, generated, _length(rows[place])))
        return found

    def _of_image(
        self, column: str, generated: Sequence[tuple[str, int, bool]], length: int
    ) -> Answers | ImageError:
        """Returns the usable ones of an image's ``generated`` texts with their tokens and whether they ended."""
        answers, invalid = [], ""
        for text in (text for text, _, ended in generated if ended and text):
            try:
                answers.append(self._answer(column, text))
            except ValueError as err:
                invalid = invalid or str(err)
        if answers:
            answers[0] |= {"tokens_in": length, "tokens_out": sum(count for _, count, _ in generated)}
            return answers
        if invalid:
            return ImageError("invalid_json", "model", invalid)
        if all(ended for _, _, ended in generated):
            return ImageError("no_answer", "model", "the answer is empty")
        limit = self.options.max_new_tokens
        return ImageError(
            "cut_off", "model", f"the answer does not end; expected it to end within --max-new-tokens {limit}"
        )

    def _answer(self, column: str, text: str) -> dict[str, Any]:
        """Returns one answer, of which another part has the tokens. Raises ValueError if its schema is broken."""
        model = self.options.model_type
        answer = {
            "text": text,
            "finish_reason": "stop",
            "tokens_in": None,
            "tokens_out": None,
            "model": model,
        }
        parse = self._parsers.get(column)
        return answer if parse is None else {**answer, "value": parse(text)}

    def generate(
        self, column: str, rows: Sequence[Inputs], image_ids: Sequence[str]
    ) -> tuple[Tensor, list[bool]]:
        """Returns generated ids int64 ``[B * n, T]``, and for each image whether all scores are numbers.

        ``column``: of the prompt; ``rows``: the inputs of images whose shapes are equal; ``image_ids`` determine random
        draws.
        """
        options, watched = self.options.decode, NotNumbers()
        processors: list[Any] = [watched, *(self._grammars.allowing(column) if self._grammars else ())]
        if options.method == "sample":
            rows = [row for row in rows for _ in range(options.n_best)]
            processors.append(SeededSampling(options, image_ids))
        given = {name: self._moved(torch.cat([row[name] for row in rows])) for name in rows[0]}
        with torch.no_grad():
            sequences = self._model.generate(
                **given, **self._arguments, logits_processor=LogitsProcessorList(processors)
            )
        start = 1 if self._model.config.is_encoder_decoder else given["input_ids"].shape[1]
        return sequences[:, start:], watched.finite(len(image_ids))

    def _moved(self, values: Tensor) -> Tensor:
        floats = values.is_floating_point()
        return values.to(self._device, self._model.dtype if floats else values.dtype)


class NotNumbers(LogitsProcessor):
    """Notes the sequences whose scores are not numbers, and changes nothing."""

    def __init__(self) -> None:
        self._found: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Examines ``scores`` ``[B * beams, V]``."""
        odd = torch.isnan(scores).any(-1)
        self._found = odd if self._found is None else self._found | odd
        return scores

    def finite(self, images: int) -> list[bool]:
        """Returns for each of ``images`` whether the scores of all its sequences are numbers."""
        if self._found is None:
            return [True] * images
        return [not odd for odd in self._found.view(images, -1).any(1).tolist()]


def _length(inputs: Inputs) -> int:
    """Returns the number of tokens of a prompt, without padding."""
    mask = inputs.get("attention_mask")
    return inputs["input_ids"].shape[1] if mask is None else int(mask.sum())


def _shapes(inputs: Inputs) -> Hashable:
    return tuple(sorted((name, tuple(value.shape)) for name, value in inputs.items()))
