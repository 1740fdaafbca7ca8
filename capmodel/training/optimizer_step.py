"""The optimizer step and its state: Adam's moments and the averaged weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from captionbeam.capmodel.training.checkpoints import Tensors
from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.capmodel.training.optimizer import full_state, load_state, make_optimizer, with_prefix


class Average:
    """An exponential moving average of a model's parameters (Polyak and Juditsky 1992), float32.

    The decay is ``min(decay, (1 + n) / (10 + n))`` after n steps, as in TensorFlow's ExponentialMovingAverage: it is
    small at first, so the random initial weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self._names = [name for name, _ in model.named_parameters()]
        self.restart()

    def restart(self) -> None:
        """Restarts the average from the model's current parameters."""
        self._values = [value.detach().clone() for value in self._parameters()]

    @torch.no_grad()
    def follow(self, taken: int) -> None:
        """Updates the average after a step that ``taken`` steps preceded."""
        decay = min(self._decay, (1 + taken) / (10 + taken))
        torch._foreach_lerp_(self._values, self._parameters(), 1 - decay)

    def exchange(self) -> None:
        """Swaps average and parameters; a second call swaps them back."""
        for value, mean in zip(self._model.parameters(), self._values, strict=True):
            value.data, mean.data = mean.data, value.data

    def state(self) -> dict[str, np.ndarray]:
        """Returns the average as ``ema.NAME``."""
        pairs = zip(self._names, self._values, strict=True)
        return {f"ema.{name}": value.cpu().numpy() for name, value in pairs}

    def load(self, tensors: Tensors) -> None:
        """Loads the result of ``state``."""
        found = with_prefix("ema.", tensors)
        for name, value in zip(self._names, self._values, strict=True):
            value.copy_(torch.from_numpy(found[name]))

    def _parameters(self) -> list[Tensor]:
        return [value.detach() for value in self._model.parameters()]


class ModelOptimizer:
    """Updates ``model``: gradient clipping, Adam, and an optional moving average of the weights."""

    def __init__(self, model: nn.Module, options: TrainOptions) -> None:
        self.model, self.clip = model, options.clip
        self.optimizer = make_optimizer(model, options.learning_rate, options.weight_decay)
        self.average = Average(model, options.ema) if options.ema else None

    def step(self, rate: float, taken: int) -> None:
        """Applies the gradients at the learning rate ``rate`` and clears them; ``taken`` steps preceded."""
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.follow(taken)

    def restart(self) -> None:
        """Resets Adam's state and the average to the current parameters."""
        self.optimizer.state.clear()
        if self.average:
            self.average.restart()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Uses the averaged weights, if any, inside this context."""
        if self.average:
            self.average.exchange()
        try:
            yield
        finally:
            if self.average:
                self.average.exchange()

    def state(self) -> dict[str, np.ndarray]:
        """Returns the whole state as arrays, including the parameters."""
        return full_state(self.model, self.optimizer) | (self.average.state() if self.average else {})

    def load(self, tensors: Tensors) -> None:
        """Loads the result of ``state``. Raises RequestError if names or shapes differ."""
        load_state(self.model, self.optimizer, tensors)
        if self.average:
            self.average.load(tensors)
