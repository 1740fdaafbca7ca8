"""AdamW with a learning rate schedule, clipping and averaged weights, its state as plain arrays; fixed word vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from captionbeam.capmodel.decoders.word_vectors import WordVectors
from captionbeam.capmodel.training.checkpoints import Tensors
from captionbeam.capmodel.training.config import TrainOptions
from captionbeam.schemas.errors import RequestError

BETAS = (0.9, 0.98)


def learning_rate(step: int, steps: int, peak: float, warmup: float, schedule: str = "cosine") -> float:
    """Returns the learning rate: linear up to ``peak`` over the first ``warmup`` share of ``steps``, then the schedule.

    ``cosine``: falls along half a cosine (Loshchilov and Hutter 2017, without restarts). ``constant``: stays at
    ``peak``. A function of the step, unlike torch's schedulers, so checkpoints need no scheduler state.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    if schedule == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def make_optimizer(model: nn.Module, rate: float, weight_decay: float = 0.0) -> AdamW:
    """Returns AdamW (fused) over all parameters.

    ``weight_decay`` is decoupled from the gradients (Loshchilov and Hutter 2019) and applies to embeddings and matrices
    only, not to biases and norms.
    """
    groups = [
        {
            "params": [value for value in model.parameters() if (value.ndim > 1) is large],
            "weight_decay": decay,
        }
        for large, decay in ((True, weight_decay), (False, 0.0))
    ]
    return AdamW([group for group in groups if group["params"]], lr=rate, betas=BETAS, fused=True)


def parameters_of(model: nn.Module) -> dict[str, np.ndarray]:
    """Returns the model's parameters as arrays."""
    return {name: value.detach().cpu().numpy() for name, value in model.named_parameters()}


def load_parameters(model: nn.Module, tensors: Tensors) -> None:
    """Sets the parameters. Raises RequestError if names or shapes differ."""
    expected = {name: tuple(value.shape) for name, value in model.named_parameters()}
    found = {name: value.shape for name, value in tensors.items()}
    if found != expected:
        odd = min(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise RequestError(
            f"the weights kept differ from the model's in {odd!r}; expected the same names and shapes"
        )
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.from_numpy(tensors[name]))


def load_word_vectors(vectors: WordVectors, embed: nn.Embedding) -> None:
    """Copies the vectors into the embedding rows of their words; other rows are unchanged."""
    with torch.no_grad():
        embed.weight[torch.from_numpy(vectors.ids).to(embed.weight.device)] = torch.from_numpy(
            vectors.rows
        ).to(embed.weight)


def freeze_word_vectors(vectors: WordVectors, embed: nn.Embedding, optimizer: Optimizer) -> None:
    """Keeps the rows that have a vector fixed during training; the other rows are trained."""
    learns = torch.ones(len(embed.weight), 1, device=embed.weight.device)
    learns[torch.from_numpy(vectors.ids)] = 0.0
    embed.weight.register_hook(lambda gradient: gradient * learns)

    def restore(*_: Any) -> None:
        load_word_vectors(vectors, embed)  # weight decay also changes rows without a gradient

    optimizer.register_step_post_hook(restore)


class WeightAverage:
    """An exponential moving average of a model's parameters (Polyak and Juditsky 1992), float32.

    The decay is ``min(decay, (1 + n) / (10 + n))`` after n steps, as in TensorFlow's ExponentialMovingAverage: it is
    small at first, so the random initial weights are soon forgotten. (torch's AveragedModel has one decay, and copies
    the weights at its first update.)
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.restart()

    def restart(self) -> None:
        """Restarts the average from the model's current parameters."""
        self._values = [value.clone() for value in self._parameters()]

    @torch.no_grad()
    def update(self, taken: int) -> None:
        """Updates the average after a step that ``taken`` steps preceded."""
        decay = min(self._decay, (1 + taken) / (10 + taken))
        torch._foreach_lerp_(self._values, self._parameters(), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Swaps average and parameters; a second call swaps them back.

        Values are copied, since cuDNN needs the weights of an LSTM in one piece of memory.
        """
        for value, mean in zip(self._model.parameters(), self._values, strict=True):
            kept = value.clone()
            value.copy_(mean)
            mean.copy_(kept)

    def named_values(self) -> dict[str, Tensor]:
        """Returns the average of each parameter, by its name."""
        return {
            name: mean for (name, _), mean in zip(self._model.named_parameters(), self._values, strict=True)
        }

    def _parameters(self) -> list[Tensor]:
        return [value.detach() for value in self._model.parameters()]


class ModelOptimizer:
    """Updates ``model``: gradient clipping, AdamW, and an optional moving average of the weights."""

    def __init__(self, model: nn.Module, options: TrainOptions) -> None:
        self.model, self.clip = model, options.clip
        self.adam = make_optimizer(model, options.learning_rate, options.weight_decay)
        self.average = WeightAverage(model, options.ema) if options.ema else None

    def step(self, rate: float, taken: int) -> None:
        """Applies the gradients at the learning rate ``rate`` and clears them; ``taken`` steps preceded."""
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.adam.zero_grad()
        if self.average:
            self.average.update(taken)

    def restart(self) -> None:
        """Resets Adam's state and the average to the current parameters."""
        self.adam.state.clear()
        if self.average:
            self.average.restart()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Uses the averaged weights, if any, inside this context."""
        if not self.average:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    def state(self) -> dict[str, np.ndarray]:
        """Returns the whole state as arrays: ``model.NAME``, ``adam.KEY.NAME`` and ``ema.NAME``."""
        state = {f"model.{name}": value for name, value in parameters_of(self.model).items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.adam.state[parameter].items():
                state[f"adam.{key}.{name}"] = value.detach().cpu().numpy()
        means = self.average.named_values() if self.average else {}
        return state | {f"ema.{name}": value.cpu().numpy() for name, value in means.items()}

    def load(self, tensors: Tensors) -> None:
        """Loads the result of ``state``. Raises RequestError if names or shapes differ."""
        own = {name: value for name, value in tensors.items() if name.startswith("model.")}
        load_parameters(self.model, {name.removeprefix("model."): value for name, value in own.items()})
        for name, parameter in self.model.named_parameters():
            keys = [key for key in tensors if key.startswith("adam.") and key.split(".", 2)[2] == name]
            self.adam.state[parameter] = {
                key.split(".")[1]: torch.from_numpy(tensors[key]).to(parameter.device) for key in keys
            }
        if self.average:
            for name, mean in self.average.named_values().items():
                mean.copy_(torch.from_numpy(tensors[f"ema.{name}"]))
