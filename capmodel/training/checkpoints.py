"""Where a training run stands, on any fsspec URL, so that it can go on after any end.

    CHECKPOINTS/
      state-0003-00000120.safetensors   all tensors after 120 steps of epoch 3: parameters and Adam's moments
      latest.json                       names the newest state; written after it, so never of a half one
      best.safetensors                  parameters of the best epoch so far
      epoch-0003.safetensors            parameters after epoch 3, on request

Once the bundle is saved, ``latest.json`` names it by its SHA-256, and the state and the best are gone.

Learning rate and random draws are functions of (seed, epoch, step, rank), so that there is nothing of them to
keep. Tensors are float arrays; nothing here is ever unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from captionbeam.capmodel.training.config import completed, difference
from captionbeam.schemas.errors import RequestError, SystemicError
from captionbeam.schemas.storage import files

LATEST, BEST, VERSION = "latest.json", "best.safetensors", 1
STATE = re.compile(r"state-\d+-\d+\.safetensors")
Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Position:
    """How far a run is: ``step`` steps into ``epoch`` (both from 0), and what has been found out so far.

    ``loss``, ``words``, ``images`` and ``measures`` (what an objective tells, by name) are the sums of this epoch's
    steps; ``history`` has one entry a finished epoch.
    The run's ``phase`` (from 0) began at ``first_epoch``, after ``first_step`` steps and ``first_image`` images.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    words: int = 0
    seconds: float = 0.0
    history: tuple[dict[str, Any], ...] = field(default=())
    phase: int = 0
    first_epoch: int = 0
    first_step: int = 0
    first_image: int = 0
    images: int = 0
    measures: dict[str, float] = field(default_factory=dict)

    def advanced(self, loss: float, words: int, images: int, measured: Mapping[str, float]) -> Position:
        """One step further, with what that step adds to the sums."""
        sums = {name: self.measures.get(name, 0.0) + value for name, value in measured.items()}
        return replace(
            self,
            step=self.step + 1,
            loss=self.loss + loss,
            words=self.words + words,
            images=self.images + images,
            measures=sums,
        )

    def next_epoch(self, history: tuple[dict[str, Any], ...]) -> Position:
        """At the beginning of the next epoch, its sums at nothing."""
        sums: dict[str, Any] = {"loss": 0.0, "words": 0, "seconds": 0.0, "images": 0, "measures": {}}
        return replace(self, epoch=self.epoch + 1, step=0, history=history, **sums)

    def next_phase(self, steps: int, images: int) -> Position:
        """At the beginning of the next phase, after so many ``steps`` and ``images`` of the whole run."""
        begun: dict[str, Any] = {"first_epoch": self.epoch, "first_step": steps, "first_image": images}
        return replace(self, phase=self.phase + 1, **begun)

    @property
    def age(self) -> int:
        """Epochs of the phase that are over."""
        return self.epoch - self.first_epoch


class Checkpoints:
    """The checkpoints of one run in the folder ``url``. ``identity`` is all that decides the run's result."""

    def __init__(self, url: str, identity: Mapping[str, Any]) -> None:
        self.url, self.identity = url, dict(identity)

    def load(self) -> tuple[Position, Tensors] | None:
        """Where to go on, or None. Raises RequestError where the folder is another run's, or broken."""
        record = self.record()
        if record is None or record["bundle"]:
            return None
        self.check_same(record)
        position = record["position"]
        return Position(**{**position, "history": tuple(position["history"])}), self._read(record["state"])

    def check_same(self, record: Mapping[str, Any]) -> None:
        """Raises RequestError where ``record`` is of another run, and names the first difference."""
        different = difference(self.identity, completed(record["identity"]))
        if different:
            raise RequestError(
                f"the checkpoints in {self.url} are of a run with {different}; expected one with the same "
                "options and data (--restart starts over, --checkpoints names another folder)"
            )

    def save(self, position: Position, tensors: Tensors) -> None:
        """Keep ``tensors`` as the newest state, then forget the older ones. Raises SystemicError."""
        name = f"state-{position.epoch:04d}-{position.step:08d}.safetensors"
        self._write(name, save(dict(tensors)))
        self._write(LATEST, self._record(state=name, position=asdict(position)))
        self._remove(other for other in files.names(self.url) if STATE.fullmatch(other) and other != name)

    def finish(self, bundle: str) -> None:
        """The run is over and its bundle, with that SHA-256, is saved."""
        self._write(LATEST, self._record(bundle=bundle))
        self._remove(name for name in files.names(self.url) if STATE.fullmatch(name) or name == BEST)

    def save_best(self, tensors: Tensors) -> None:
        """Keep the parameters of the best epoch so far."""
        self._write(BEST, save(dict(tensors)))

    def load_best(self) -> Tensors:
        """What ``save_best`` kept."""
        return self._read(BEST)

    def save_epoch(self, epoch: int, tensors: Tensors) -> None:
        """Keep the parameters of ``epoch`` (from 1) for whoever wants them."""
        self._write(f"epoch-{epoch:04d}.safetensors", save(dict(tensors)))

    def clear(self) -> None:
        """Forget the run in this folder; ``latest.json`` first, so that nothing names what is gone."""
        ours = re.compile(rf"{STATE.pattern}|epoch-\d+\.safetensors|{re.escape(BEST)}")
        names = files.names(self.url)
        self._remove(name for name in names if name == LATEST)
        self._remove(name for name in names if ours.fullmatch(name))

    def record(self) -> dict[str, Any] | None:
        """What ``latest.json`` says, or None. Raises RequestError where it is something else."""
        url = files.join(self.url, LATEST)
        try:
            record = files.read_json(url)
        except FileNotFoundError:
            return None
        except ValueError as err:
            raise RequestError(
                f"{url} is not a checkpoint: {err}; expected JSON (--restart starts over)"
            ) from err
        if not isinstance(record, dict) or record.get("version") != VERSION:
            raise RequestError(f"{url} is not a checkpoint of version {VERSION} (--restart starts over)")
        return record

    def _record(self, **facts: Any) -> bytes:
        blank = {"state": None, "position": None, "bundle": None}
        return files.json_bytes({"version": VERSION, "identity": self.identity, **blank, **facts})

    def _read(self, name: str) -> Tensors:
        url = files.join(self.url, name)
        try:
            return load(files.read_bytes(url))
        except (FileNotFoundError, SafetensorError) as err:
            raise RequestError(f"{url} cannot be read ({err}); expected a checkpoint's tensors") from err

    def _write(self, name: str, data: bytes) -> None:
        url = files.join(self.url, name)
        try:
            files.write_atomic(url, data)
        except OSError as err:
            raise SystemicError(
                f"{url} cannot be written ({err}); training stopped before its next step"
            ) from err

    def _remove(self, names: Any) -> None:
        fs, path = files.split(self.url)
        for name in names:
            fs.rm_file(files.join(path, name))
