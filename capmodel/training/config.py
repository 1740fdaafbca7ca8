"""Options of a training run. Does not import torch, so that a launcher validates a request quickly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from captionbeam.capmodel.decoders.options import DecoderOptions
from captionbeam.capmodel.generation.options import MOST_ROWS, DecodeOptions
from captionbeam.capmodel.self_critical.options import SelfCriticalOptions
from captionbeam.schemas import fingerprint
from captionbeam.schemas.errors import expect
from captionbeam.schemas.machine import cores
from captionbeam.schemas.options import (
    DEVICE,
    FILE,
    NATURAL,
    POSITIVE,
    PRECISION,
    SHARE,
    number,
    one_of,
    option,
    or_none,
    text,
)

__all__ = ["TrainOptions", "TrainingOptions", "cores", "difference"]

PLACES = ("features", "tokens", "output", "checkpoints", "logs", "embeddings")
PENALTY = number(0, 10, "from 0 to 10", "A")
RATE = number(0, above=True, unit="RATE")
BELOW_ONE = number(0, 1, "at least 0 and below 1", "SHARE", below=True)
FOLDER = text("DIR", "a folder of this machine", lambda place: place != "" and "://" not in place)


@dataclass(frozen=True, kw_only=True)
class WordVectorOptions:
    """Word vectors that initialise a decoder's embeddings."""

    GROUP = "decoder"

    embeddings: str | None = option(
        None,
        "file of word vectors that initialise the embeddings, in word2vec's or fastText's text format, .gz or not",
        FILE,
        common=True,
    )
    freeze_embeddings: bool = option(
        False, "keep the file's vectors as they are; only words that it lacks are trained"
    )


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """The processes of a training run."""

    GROUP = "processes"

    threads: int | None = option(
        None,
        "threads of each worker (default: the machine's cores divided by its workers)",
        number(1, 1024, whole=True),
    )
    cache: str | None = option(
        None,
        "local folder for decoded grids (256 KiB an image of 8 x 8 x 2048), read by later epochs and by later runs on "
        "the same snapshot",
        FOLDER,
        common=True,
    )
    precision: str = option(
        "auto",
        "auto, fp32 or bf16; auto is bf16 where the first worker computes in it",
        PRECISION,
        common=True,
    )
    device: str = option("auto", "auto, cpu or cuda; one GPU a worker", DEVICE, common=True)
    checkpoint_minutes: float = option(
        10.0, "longest time between checkpoints; each epoch also ends with one", number(0, unit="MINUTES")
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(DecoderOptions, WordVectorOptions, SelfCriticalOptions, ProcessOptions):
    """The user's choices for training, without locations."""

    GROUP = "training"

    epochs: int = option(
        8,
        "passes over the training split with human captions; 0 is allowed with --init and --self-critical-epochs",
        NATURAL,
        common=True,
    )
    steps_per_epoch: int | None = option(
        None,
        "steps of an epoch; each continues in the shuffled split where the previous one ended (default: a pass)",
        POSITIVE,
    )
    batch_size: int = option(32, "images in a forward pass of each worker", POSITIVE, common=True)
    accumulate: int = option(1, "forward passes in a step: N times the batch, in the memory of one", POSITIVE)
    batch_growth: float = option(
        1.0,
        "factor by which a step's images grow after every --batch-growth-epochs of a phase, in place of a falling "
        "learning rate (Smith et al. 2018)",
        number(1, unit="FACTOR"),
    )
    batch_growth_epochs: int = option(1, "epochs between two growths of the batch", POSITIVE)
    batch_max: int | None = option(
        None, "images in a forward pass at which the batch stops growing", POSITIVE
    )
    captions_per_image: int | None = option(
        None, "captions of an image, drawn again each time it occurs (default all)", or_none(POSITIVE, "all")
    )
    bucket_by_length: bool = option(False, "steps of captions of similar length, with less padding")
    learning_rate: float = option(1e-3, "Adam's maximum, reached after the warmup", RATE, common=True)
    warmup: float = option(0.05, "share of all steps in which the learning rate rises", SHARE)
    schedule: str = option(
        "cosine",
        "learning rate after the warmup: cosine (half a cosine down to 0) or constant",
        one_of("cosine", "constant"),
        common=True,
    )
    weight_decay: float = option(
        0.0,
        "AdamW's, of embeddings and matrices, per step and times the learning rate",
        number(0, unit="RATE"),
    )
    ema: float = option(
        0.0, "decay of the weights' moving average, which is scored and saved (0: no average)", BELOW_ONE
    )
    patience: int | None = option(
        None, "stop after so many epochs without a better CIDEr (default: never)", POSITIVE, common=True
    )
    label_smoothing: float = option(0.0, "share of each target spread over all words", BELOW_ONE, common=True)
    consensus: float = option(
        0.0,
        "weight of a caption in cross-entropy: its CIDEr-D against the image's other captions, to this power (after "
        "Phan et al. 2017); 0: equal weights",
        number(0, 10, "from 0 (all captions alike) to 10", "POWER"),
    )
    clip: float = option(5.0, "maximum norm of the gradients", number(0, above=True, unit="NORM"))
    seed: int = option(
        0,
        "seed of the first weights, the order of images and dropout",
        number(0, 2**63 - 1, "0 or more, and below 2**63", whole=True),
        common=True,
    )
    mix: int = option(
        16,
        "row groups (of about 8 MiB) that are open at once, over all workers; images are mixed among them",
        POSITIVE,
    )
    val_images: int = option(2000, "images of the val split that each epoch is scored on", POSITIVE)
    val_beam: int = option(
        1, "beams of the scored captions (1: greedy)", number(1, MOST_ROWS, whole=True), common=True
    )
    val_length_penalty: float = option(
        0.0, "A of those beams, which rank captions by log-probability / tokens^A", PENALTY
    )
    max_missing: float = option(0.01, "largest share of images without features or without captions", SHARE)
    keep_epochs: bool = option(False, "keep the weights of each epoch beside the checkpoint")
    init: str | None = option(
        None,
        "start from the weights of this bundle (same features, tokens and decoder)",
        text("BUNDLE"),
        common=True,
    )
    restart: bool = option(False, "delete the checkpoints and a finished bundle, and start over", common=True)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(TrainingOptions):
    """Options of one training run, with absolute locations. Raises RequestError for an invalid value.

    features, snapshot: the features store and its snapshot. tokens: the token table's folder. output: the bundle.
    checkpoints: the folder from which a stopped run resumes. logs: TensorBoard's folder.
    """

    features: str
    snapshot: int
    tokens: str
    output: str
    checkpoints: str
    logs: str

    def __post_init__(self) -> None:
        self.check_decoder()
        self.check_self_critical()
        from_weights = bool(self.init and self.self_critical_epochs)
        some = self.epochs > 0 or from_weights
        expect(some, "epochs", 0, "1 or more (0 takes --init and --self-critical-epochs)")
        if self.self_critical_epochs and self.architecture == "attentive":
            drawn = "another one with --self-critical-epochs: without samples a hard choice of cells learns nothing"
            expect(self.attention != "hard", "attention", self.attention, drawn)
        if self.output_layer == "adaptive":
            smoothing = self.label_smoothing
            expect(not smoothing, "label_smoothing", smoothing, "0 where output-layer is adaptive")
        if self.init is not None:
            vectors = self.embeddings
            expect(vectors is None, "embeddings", vectors, "none with --init, whose words come with it")
        if self.batch_growth > 1:
            most, least = self.batch_max, self.batch_size
            above = most is not None and most > least
            expect(above, "batch_max", most, f"more than the batch-size of {least}")

    def images_per_step(self, workers: int, age: int = 0) -> int:
        """Returns the images per step on all workers, in the phase's epoch of index ``age``."""
        each = workers * self.accumulate
        size, most = float(self.batch_size * each), (self.batch_max or self.batch_size) * each
        for _ in range(age // self.batch_growth_epochs if self.batch_growth > 1 else 0):
            size = min(size * self.batch_growth, most)
        return int(size)

    def step_identity(self, workers: int) -> dict[str, Any]:
        """Returns the step sizes that are part of the run's identity, independent of the number of workers."""
        most = self.batch_max and self.batch_max * workers * self.accumulate
        return {"images_per_step": self.images_per_step(workers), "images_per_step_at_most": most}

    @property
    def writing(self) -> DecodeOptions:
        """The decoding options of the scored captions."""
        if self.val_beam == 1:
            return DecodeOptions(method="greedy")
        return DecodeOptions(beam=self.val_beam, length_penalty=self.val_length_penalty)

    @property
    def all_epochs(self) -> int:
        """Number of epochs of the whole run."""
        return self.epochs + self.self_critical_epochs

    def to_json(self) -> str:
        """Returns all options as JSON, which ``from_json`` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrainOptions:
        """Returns the options that ``to_json`` wrote."""
        return cls(**json.loads(text))

    def identity(self) -> dict[str, Any]:
        """Returns the options that determine the result, without locations and options that only affect speed.

        ``init`` is identified by its content: see captionbeam.capmodel.training.warm_start.
        """
        free = {
            *PLACES, "batch_size", "batch_max", "accumulate", "cache", "threads", "device", "precision", "max_missing",
            "snapshot", "checkpoint_minutes", "keep_epochs", "restart",
        }  # fmt: skip
        chosen = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in free}
        return {**chosen, "init": None}


def difference(ours: Mapping[str, Any], recorded: Mapping[str, Any]) -> str | None:
    """Returns for example ``epochs 8, not 4`` for the first difference of a run's identity; None if there is none.

    Options that ``recorded`` lacks have their defaults.
    """
    theirs = fingerprint.complete(TrainOptions, recorded)
    return fingerprint.difference({name: theirs.get(name) for name in ours}, ours, most=1)
