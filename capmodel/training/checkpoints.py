"""Checkpoints of a training run, at any fsspec URL, from which it can be resumed.

    CHECKPOINTS/
      state-0003-00000120.safetensors   all tensors after 120 steps of epoch 3: parameters and Adam's moments
      latest.json                       names the newest state; written after it, so the state is complete
      best.safetensors                  parameters of the best epoch so far
      epoch-0003.safetensors            parameters after epoch 3, on request

Once the bundle is saved, ``latest.json`` has its SHA-256, and the state and the best parameters are deleted.

Learning rate and random draws are functions of (seed, epoch, step, rank) and need no checkpoint. Tensors are float
arrays; nothing is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from captionbeam.capmodel.training.config import difference
from captionbeam.schemas.errors import RequestError, SystemicError
from captionbeam.schemas.storage import files
from captionbeam.schemas.versions import check_version

LATEST, BEST, VERSION = "latest.json", "best.safetensors", 1
STATE = re.compile(r"state-\d+-\d+\.safetensors")
Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Position:
    """Progress of a run: ``step`` steps into ``epoch`` (both from 0), and the sums and history so far.

    ``loss``, ``words``, ``images`` and ``measures`` (reported by the objective, by name) are sums over this epoch's
    steps; ``history`` has one entry per finished epoch. The run's ``phase`` (from 0) began at ``first_epoch``, after
    ``first_step`` steps and ``first_image`` images.
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
        """Returns the position one step later, with the step's values added to the sums."""
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
        """Returns the position at the start of the next epoch, with the sums at 0."""
        sums: dict[str, Any] = {"loss": 0.0, "words": 0, "seconds": 0.0, "images": 0, "measures": {}}
        return replace(self, epoch=self.epoch + 1, step=0, history=history, **sums)

    def next_phase(self, steps: int, images: int) -> Position:
        """Returns the position at the start of the next phase, after ``steps`` and ``images`` of the whole run."""
        begun: dict[str, Any] = {"first_epoch": self.epoch, "first_step": steps, "first_image": images}
        return replace(self, phase=self.phase + 1, **begun)

    @property
    def age(self) -> int:
        """Number of finished epochs of the phase."""
        return self.epoch - self.first_epoch


class Checkpoints:
    """The checkpoints of one run in the folder ``url``. ``identity``: everything that determines the run's result."""

    def __init__(self, url: str, identity: Mapping[str, Any]) -> None:
        self.url, self.identity = url, dict(identity)

    def load(self) -> tuple[Position, Tensors] | None:
        """Returns the newest state, or None. Raises RequestError if the folder is another run's or is invalid."""
        record = self.record()
        if record is None or record["bundle"]:
            return None
        self.check_same(record)
        position = record["position"]
        return Position(**{**position, "history": tuple(position["history"])}), self._read(record["state"])

    def check_same(self, record: Mapping[str, Any]) -> None:
        """Raises RequestError if ``record`` is another run's, with the first difference."""
        different = difference(self.identity, record["identity"])
        if different:
            raise RequestError(
                f"the checkpoints in {self.url} are of a run with {different}; expected one with the same "
                "options and data (--restart starts over, --checkpoints names another folder)"
            )

    def save(self, position: Position, tensors: Tensors) -> None:
        """Saves ``tensors`` as the newest state, then deletes the older ones. Raises SystemicError."""
        name = f"state-{position.epoch:04d}-{position.step:08d}.safetensors"
        self._write(name, save(dict(tensors)))
        self._write(LATEST, self._record(state=name, position=asdict(position)))
        self._remove(other for other in files.names(self.url) if STATE.fullmatch(other) and other != name)

    def finish(self, bundle: str) -> None:
        """Records that the bundle with that SHA-256 is saved, and deletes the states."""
        self._write(LATEST, self._record(bundle=bundle))
        self._remove(name for name in files.names(self.url) if STATE.fullmatch(name) or name == BEST)

    def save_best(self, tensors: Tensors) -> None:
        """Saves the parameters of the best epoch so far."""
        self._write(BEST, save(dict(tensors)))

    def load_best(self) -> Tensors:
        """Returns the parameters that ``save_best`` saved."""
        return self._read(BEST)

    def save_epoch(self, epoch: int, tensors: Tensors) -> None:
        """Saves the parameters of ``epoch`` (from 1), for use outside the run."""
        self._write(f"epoch-{epoch:04d}.safetensors", save(dict(tensors)))

    def clear(self) -> None:
        """Deletes the run in this folder; ``latest.json`` first, so that it never names a missing file."""
        ours = re.compile(rf"{STATE.pattern}|epoch-\d+\.safetensors|{re.escape(BEST)}")
        names = files.names(self.url)
        self._remove(name for name in names if name == LATEST)
        self._remove(name for name in names if ours.fullmatch(name))

    def record(self) -> dict[str, Any] | None:
        """Returns the content of ``latest.json``, or None. Raises RequestError if it is invalid."""
        url = files.join(self.url, LATEST)
        try:
            record = files.read_json(url)
        except FileNotFoundError:
            return None
        except ValueError as err:
            raise RequestError(
                f"{url} is not a checkpoint: {err}; expected JSON (--restart starts over)"
            ) from err
        if not isinstance(record, dict):
            raise RequestError(f"{url} is not a checkpoint; expected a JSON object (--restart starts over)")
        check_version(record.get("version"), VERSION, url, RequestError)
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
