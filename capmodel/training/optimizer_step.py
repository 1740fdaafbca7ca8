"""One step down the gradients, and all that it keeps between steps: Adam's moments, the averaged weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from captionbeam.capmodel.training.checkpoints import Tensors
from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.capmodel.training.optimizer import below, full_state, load_state, make_optimizer


class Average:
    """An exponential moving average of a model's parameters (Polyak and Juditsky 1992), float32.

    The share that stays of the old average is ``min(decay, (1 + n) / (10 + n))`` after n steps, as in
    TensorFlow's ExponentialMovingAverage: at first the average follows soon, and forgets the random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self._names = [name for name, _ in model.named_parameters()]
        self.restart()

    def restart(self) -> None:
        """Begin anew from the model's parameters as they are."""
        self._values = [value.detach().clone() for value in self._parameters()]

    @torch.no_grad()
    def follow(self, taken: int) -> None:
        """Take in the parameters after the step before which ``taken`` others were."""
        decay = min(self._decay, (1 + taken) / (10 + taken))
        torch._foreach_lerp_(self._values, self._parameters(), 1 - decay)

    def exchange(self) -> None:
        """Average and parameters change places; a second time they are back."""
        for value, mean in zip(self._model.parameters(), self._values, strict=True):
            value.data, mean.data = mean.data, value.data

    def state(self) -> dict[str, np.ndarray]:
        """The average as ``ema.NAME``."""
        pairs = zip(self._names, self._values, strict=True)
        return {f"ema.{name}": value.cpu().numpy() for name, value in pairs}

    def load(self, tensors: Tensors) -> None:
        """What ``state`` gave, back."""
        found = below("ema.", tensors)
        for name, value in zip(self._names, self._values, strict=True):
            value.copy_(torch.from_numpy(found[name]))

    def _parameters(self) -> list[Tensor]:
        return [value.detach() for value in self._model.parameters()]


class Descent:
    """How ``model`` moves: clipped gradients, Adam, and, if asked for, an average of where it has been."""

    def __init__(self, model: nn.Module, options: TrainOptions) -> None:
        self.model, self.clip = model, options.clip
        self.optimizer = make_optimizer(model, options.learning_rate, options.weight_decay)
        self.average = Average(model, options.ema) if options.ema else None

    def step(self, rate: float, taken: int) -> None:
        """Follow the gradients at that learning rate, and forget them; ``taken`` steps came before."""
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.follow(taken)

    def restart(self) -> None:
        """Go on from the parameters as they are, knowing nothing of the steps before."""
        self.optimizer.state.clear()
        if self.average:
            self.average.restart()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Meanwhile the model has the averaged weights, where there are such."""
        if self.average:
            self.average.exchange()
        try:
            yield
        finally:
            if self.average:
                self.average.exchange()

    def state(self) -> dict[str, np.ndarray]:
        """All of it as arrays, the parameters too."""
        return full_state(self.model, self.optimizer) | (self.average.state() if self.average else {})

    def load(self, tensors: Tensors) -> None:
        """What ``state`` gave, back. Raises RequestError where names or shapes differ."""
        load_state(self.model, self.optimizer, tensors)
        if self.average:
            self.average.load(tensors)
