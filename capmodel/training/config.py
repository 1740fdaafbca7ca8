"""Options of a training run. Does not import torch, so that a launcher validates a request quickly."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import inf
from typing import Any

from captionbeam.capmodel.decoders.options import DecoderOptions
from captionbeam.capmodel.generation.options import MOST_ROWS, DecodeOptions
from captionbeam.capmodel.self_critical.options import SelfCriticalOptions
from captionbeam.schemas import fingerprint
from captionbeam.schemas.errors import expect
from captionbeam.schemas.machine import cores

__all__ = ["TrainOptions", "cores", "difference"]

PRECISIONS = ("auto", "fp32", "bf16")
COUNTS = ("steps_per_epoch", "batch_size", "accumulate", "batch_growth_epochs", "batch_max", "mix",
          "captions_per_image", "val_images", "val_beam", "patience", "threads")  # fmt: skip
SCHEDULES = ("cosine", "constant")
MOST_THREADS = 1024
WORDS_ONLY = ("learning_rate", "label_smoothing", "consensus", "captions_per_image", "dropout", "embed_dropout",
              "state_dropout", "grid_dropout", "doubly_stochastic")  # fmt: skip
"""Options of cross-entropy alone: captions that a decoder draws itself are learned of without them."""
PLACES = ("features", "tokens", "output", "checkpoints", "logs", "embeddings")


@dataclass(frozen=True)
class TrainOptions(DecoderOptions, SelfCriticalOptions):
    """Options of one training run. Raises RequestError for an invalid value.

    features, snapshot:  the features store and its snapshot to read.
    tokens:              the token table's folder.
    output:              the bundle.
    checkpoints:         the folder from which a stopped run resumes.
    logs:                TensorBoard's folder.
    init:                the bundle whose weights training starts from; None: new weights.
    epochs:              passes over the training split, or, with ``steps_per_epoch``, sequences of that many steps,
    each
                         of which continues in the shuffled split where the previous one ended. 0 is valid only if
                         self-critical epochs follow from ``init``.
    batch_size:          images per forward pass on each worker; ``accumulate`` passes make a step.
    batch_growth:        factor by which the images of a step grow after every ``batch_growth_epochs`` epochs of a
    phase,
                         up to ``batch_max`` per forward pass (Smith et al. 2018, instead of a falling learning rate).
    captions_per_image:  number of each image's captions, drawn again each time the image occurs; None: all.
    bucket_by_length:    images of a step have captions of similar length.
    learning_rate:       Adam's maximum, reached after the first ``warmup`` share of all steps.
    schedule:            after warmup: half a cosine down to 0 (cosine), or constant.
    weight_decay:        of embeddings and matrices, per step: this times the learning rate (AdamW).
    ema:                 decay of the weights' moving average, which is validated and saved; 0: no average.
    patience:            epochs without a better CIDEr after which training ends; None: no early stop.
    consensus:           weights a caption's cross-entropy by its CIDEr-D against the image's other captions, to this
                         power, up to 10 (after Phan et al. 2017); 0: equal weights.
    clip:                maximum norm of the gradients.
    mix:                 row groups that are open at once, over all workers.
    val_images:          number of images of the val split that each epoch is scored on, always the same ones.
    val_beam:            beams of the scored captions; 1: greedy.
    val_length_penalty:  length penalty of those beams: ranks by log-probability / n^this for n tokens; 0: none.
    max_missing:         maximum share of the images without features or captions.
    checkpoint_minutes:  maximum time between checkpoints; each epoch also ends with one.
    keep_epochs:         keeps the weights of each epoch beside the checkpoint.
    cache:               a local folder for decoded grids, so that only the first pass decodes.
    threads:             per worker; None: the machine's cores divided by its workers.
    embeddings:          a file of word vectors that initialise the embeddings; freeze_embeddings: keeps them fixed.
    The others are those of captionbeam.capmodel.decoders.DecoderOptions and captionbeam.capmodel.self_critical.options.
    """

    features: str
    snapshot: int
    tokens: str
    output: str
    checkpoints: str
    logs: str
    init: str | None = None
    epochs: int = 8
    batch_size: int = 32
    steps_per_epoch: int | None = None
    accumulate: int = 1
    batch_growth: float = 1.0
    batch_growth_epochs: int = 1
    batch_max: int | None = None
    captions_per_image: int | None = None
    bucket_by_length: bool = False
    learning_rate: float = 1e-3
    warmup: float = 0.05
    schedule: str = "cosine"
    weight_decay: float = 0.0
    ema: float = 0.0
    patience: int | None = None
    label_smoothing: float = 0.0
    consensus: float = 0.0
    clip: float = 5.0
    seed: int = 0
    mix: int = 16
    val_images: int = 2000
    val_beam: int = 1
    val_length_penalty: float = 0.0
    max_missing: float = 0.01
    precision: str = "auto"
    device: str = "auto"
    cache: str | None = None
    threads: int | None = None
    checkpoint_minutes: float = 10.0
    embeddings: str | None = None
    freeze_embeddings: bool = False
    keep_epochs: bool = False
    restart: bool = False

    def __post_init__(self) -> None:
        self.check_decoder()
        self.check_self_critical()
        least = 0 if self.init and self.self_critical_epochs else 1
        expected = "1 or more" + ("" if least == 0 else " (0 takes --init and --self-critical-epochs)")
        expect(self.epochs >= least, "epochs", self.epochs, expected)
        for name in COUNTS:
            value = getattr(self, name)
            expect(value is None or value >= 1, name, value, "1 or more")
        for name in ("learning_rate", "clip"):
            expect(0 < getattr(self, name) < inf, name, getattr(self, name), "a number above 0")
        expect(0 <= self.consensus <= 10, "consensus", self.consensus, "from 0 (all captions alike) to 10")
        expect(self.val_beam <= MOST_ROWS, "val_beam", self.val_beam, f"at most {MOST_ROWS:,}")
        penalty = self.val_length_penalty
        expect(0 <= penalty <= 10, "val_length_penalty", penalty, "from 0 to 10")
        device = re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)
        expect(device is not None, "device", self.device, "auto, cpu, cuda or cuda:N")
        for name in ("warmup", "max_missing"):
            expect(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")
        for name in ("label_smoothing", "ema"):
            expect(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")
        expect(0 <= self.weight_decay < inf, "weight_decay", self.weight_decay, "0 or more")
        expect(self.schedule in SCHEDULES, "schedule", self.schedule, f"one of {', '.join(SCHEDULES)}")
        self._expect_sense()
        expect(self.checkpoint_minutes >= 0, "checkpoint_minutes", self.checkpoint_minutes, "0 or more")
        expect(0 <= self.seed < 2**63, "seed", self.seed, "0 or more, and below 2**63")
        expect((self.threads or 1) <= MOST_THREADS, "threads", self.threads, f"at most {MOST_THREADS}")
        here = self.cache is None or (self.cache != "" and "://" not in self.cache)
        expect(here, "cache", self.cache, "a folder of this machine")
        expect(self.precision in PRECISIONS, "precision", self.precision, f"one of {', '.join(PRECISIONS)}")

    def _expect_sense(self) -> None:
        """Raises RequestError for options without effect, given the others."""
        if self.patience is not None:
            most = max(self.epochs, self.self_critical_epochs)
            expected = f"fewer than the {most} epochs (more would never end a run)"
            expect(self.patience < most, "patience", self.patience, expected)
        penalty, beams = self.val_length_penalty, "0 without --val-beam 2 or more, as one beam ranks nothing"
        expect(not penalty or self.val_beam > 1, "val_length_penalty", penalty, beams)
        if self.self_critical_epochs:
            drawn = (
                "another one with --self-critical-epochs: without draws a hard choice of cells learns nothing"
            )
            expect(self.attention != "hard", "attention", self.attention, drawn)
        if self.self_critical_grid_dropout:
            expected = "a share above 0 with --self-critical-grid-dropout"
            expect(self.grid_dropout > 0, "grid_dropout", self.grid_dropout, expected)
        if self.epochs == 0:
            self._expect_no_words_only()
        if self.output_layer == "adaptive":
            smoothing = self.label_smoothing
            expect(not smoothing, "label_smoothing", smoothing, "0 where output-layer is adaptive")
        if self.embeddings is None:
            frozen = self.freeze_embeddings
            expect(not frozen, "freeze_embeddings", frozen, "none without --embeddings")
        elif self.init is not None:
            expect(False, "embeddings", self.embeddings, "none with --init, whose words come with it")
        self._expect_growth()

    def _expect_no_words_only(self) -> None:
        """Raises RequestError for options of cross-entropy in a run without cross-entropy epochs."""
        for name in WORDS_ONLY:
            value = getattr(self, name)
            heeded = draws_heed(name, vars(self)) or value == getattr(TrainOptions, name)
            expected = "to leave it out where epochs is 0: self-critical training does not heed it"
            expect(heeded, name, value, expected)

    def _expect_growth(self) -> None:
        """Raises RequestError for a batch that never grows or has no maximum."""
        expect(1 <= self.batch_growth < inf, "batch_growth", self.batch_growth, "1 (none) or more")
        if self.batch_growth == 1:
            expect(self.batch_max is None, "batch_max", self.batch_max, "none without --batch-growth")
            every = self.batch_growth_epochs
            expect(every == 1, "batch_growth_epochs", every, "none without --batch-growth")
            return
        most, least = self.batch_max, self.batch_size
        expect(most is not None and most > least, "batch_max", most, f"more than the batch-size of {least}")
        every, epochs = self.batch_growth_epochs, max(self.epochs, self.self_critical_epochs)
        expected = f"fewer than the {epochs} epochs (the batch would never grow)"
        expect(every < epochs, "batch_growth_epochs", every, expected)

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
            *PLACES,
            "batch_size",
            "batch_max",
            "accumulate",
            "cache",
            "threads",
            "device",
            "precision",
            "max_missing",
        }
        free |= {"snapshot", "checkpoint_minutes", "keep_epochs", "restart"}
        chosen = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in free}
        return {**chosen, "init": None}


def draws_heed(name: str, chosen: Mapping[str, Any]) -> bool:
    """Whether self-critical epochs alone use an option of WORDS_ONLY, given all options in ``chosen``."""
    # buckets depend on the selected captions
    buckets = name == "captions_per_image" and chosen["bucket_by_length"]
    dropped = name == "grid_dropout" and chosen["self_critical_grid_dropout"]
    return buckets or dropped or (name != "learning_rate" and chosen["self_critical_cross_entropy"] > 0)


def difference(ours: Mapping[str, Any], recorded: Mapping[str, Any]) -> str | None:
    """Returns for example ``epochs 8, not 4`` for the first difference of a run's identity; None if there is none.

    Options that ``recorded`` lacks have their defaults.
    """
    theirs = fingerprint.complete(TrainOptions, recorded)
    return fingerprint.difference({name: theirs.get(name) for name in ours}, ours, most=1)
