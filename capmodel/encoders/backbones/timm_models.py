"""Models of timm (the extra ``timm``) as backbones: ``timm:NAME``.

The grid is the output of ``forward_features`` without non-patch tokens. Pooled features come from the model's own
pooling (``forward_head`` before the classifier): the mean in most models, a token or attention pooling in some.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from captionbeam.capmodel.encoders.backbones.base import Backbone
from captionbeam.capmodel.encoders.names import OUTPUTS, TIMM
from captionbeam.capmodel.encoders.preprocess import INTERPOLATIONS, Preprocess, scaling_of
from captionbeam.capmodel.encoders.weights import State, load_into
from captionbeam.schemas.errors import RequestError, not_installed

OWN = "TIMM"  # timm's published weights of the model
CROPS = {"center": "resize-crop", "squash": "squash-crop"}
# Raised by timm's models for unsupported image sizes.
SIZE_ERRORS = (
    RuntimeError, AssertionError, ValueError, TypeError, IndexError, NotImplementedError, ZeroDivisionError,
)  # fmt: skip


class Timm(Backbone):
    """The timm model whose name follows ``timm:``, with an optional weights tag after a dot.

    Raises RequestError if timm is not installed or does not have the model.
    """

    outputs = OUTPUTS

    def __init__(self, name: str) -> None:
        timm = _timm()
        self.name, self.model_name = name, name.removeprefix(TIMM)
        if not timm.is_model(self.model_name):
            near = timm.list_models(f"*{self.model_name.partition('.')[0]}*")[:3]
            message = f"expected a name out of timm.list_models(), such as {', '.join(near or ['resnet18'])}"
            raise RequestError(f"timm {timm.__version__} has no model {self.model_name!r}; {message}")

    @cached_property
    def presets(self) -> Mapping[str, Preprocess]:
        from timm.data.config import resolve_data_config

        return {OWN: _preset(self.name, resolve_data_config(pretrained_cfg=self._config))}

    @property
    def default(self) -> str:
        return OWN

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        return _timm().get_pretrained_cfg(self.model_name).to_dict()

    @property
    def _size(self) -> int:
        """The image size that the model is built for."""
        return int(self._config["input_size"][-1])

    def shape(self, size: int, output: str) -> tuple[int, ...]:
        return _shape(self.name, size, output)

    def build(self, size: int, output: str) -> nn.Module:
        """Builds on the CPU, not the meta device, because buffers that are not in the weights are computed."""
        model = _created(self.model_name, output)
        return Features(_resized(self.name, model, size), self.name, output)

    def published(self, name: str) -> State:
        """Returns timm's weights of the model, downloaded once to its cache. Raises RequestError."""
        try:
            return dict(_timm().create_model(self.model_name, pretrained=True).state_dict())
        except (OSError, RuntimeError) as err:
            raise RequestError(
                f"timm's weights of {self.model_name} cannot be fetched ({str(err).splitlines()[0]}); "
                "expected a connection to its hub, or --weights FILE with a copy of them"
            ) from err

    def fit(self, state: State, size: int, output: str) -> State:
        """Resamples position embeddings of weights for the model's own image size, with timm's method."""
        model = _created(self.model_name, output)
        kept = self._kept(state, model)
        if size == self._size or not hasattr(model, "set_input_size"):
            return kept
        load_into(model, kept, self.name)
        return _resized(self.name, model, size).state_dict()

    def _kept(self, state: State, model: nn.Module) -> State:
        """Returns ``state`` without the classifier if ``model`` has none."""
        known, classifier = model.state_dict(), self._config["classifier"]
        ignored = tuple(
            f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier or ())
        )
        return {key: value for key, value in state.items() if key in known or not key.startswith(ignored)}


class Features(nn.Module):
    """A timm model that returns ``output``; its keys are those of the model."""

    def __init__(self, model: Any, name: str, output: str) -> None:
        super().__init__()
        self.model, self.name, self.output = model, name, output

    def forward(self, x: Tensor) -> Tensor:
        features = self.model.forward_features(x)
        if self.output != "grid":
            return self.model.forward_head(features, pre_logits=self.output == "pooled").flatten(1)
        return self._grid(features)

    def _grid(self, features: Any) -> Tensor:
        """Returns ``[n, C, H, W]`` from ``[n, C, H, W]``, ``[n, H, W, C]`` or tokens ``[n, L, C]``."""
        if isinstance(features, Tensor) and features.ndim == 4:
            return features.permute(0, 3, 1, 2) if self._channels_last(features) else features
        if isinstance(features, Tensor) and features.ndim == 3:
            patches = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
            side = math.isqrt(patches.shape[1])
            if side > 1 and side * side == patches.shape[1]:
                return patches.transpose(1, 2).unflatten(2, (side, side))
        raise RequestError(
            f"{self.name} gives no square grid of features; expected another model, or --pooled"
        )

    def _channels_last(self, features: Tensor) -> bool:
        told = getattr(self.model, "output_fmt", None)
        if told is not None:
            return str(told) == "NHWC"
        return features.shape[1] != self.model.num_features and features.shape[3] == self.model.num_features


@lru_cache(maxsize=64)
def _shape(name: str, size: int, output: str) -> tuple[int, ...]:
    """Returns the shape of one row, by a run on the meta device."""
    with torch.device("meta"), torch.inference_mode():
        model = _created(name.removeprefix(TIMM), output)
        network = Features(_resized(name, model, size), name, output).eval()
        try:
            row = tuple(network(torch.empty(1, 3, size, size)).shape[1:])
        except RequestError:
            raise
        except SIZE_ERRORS as err:
            raise _size_error(name, size, err) from err
    return (*row[1:], row[0]) if output == "grid" else row


def _created(model_name: str, output: str) -> Any:
    """Returns the model with random weights, with its classifier for logits only."""
    options = {} if output == "logits" else {"num_classes": 0}
    return _timm().create_model(model_name, pretrained=False, **options)


def _resized(name: str, model: Any, size: int) -> Any:
    """Sets the image size of ``model`` if it has ``set_input_size``; other models take the size of their input."""
    if hasattr(model, "set_input_size"):
        try:
            model.set_input_size(img_size=(size, size))
        except SIZE_ERRORS as err:
            raise _size_error(name, size, err) from err
    return model


def _size_error(name: str, size: int, err: Exception) -> RequestError:
    message = (str(err).strip() or type(err).__name__).splitlines()[0]
    return RequestError(f"{name} takes no images of size {size} ({message}); expected another --image-size")


def _preset(name: str, config: Mapping[str, Any]) -> Preprocess:
    """Preprocessing equal to ``timm.data.create_transform`` for inference. Raises RequestError if there is none."""
    _, height, width = config["input_size"]
    crop, interpolation = config["crop_mode"], config["interpolation"]
    known = height == width and crop in CROPS and interpolation in INTERPOLATIONS
    if not known:
        raise RequestError(
            f"{name} wants images of {height} x {width}, cropped as {crop!r}, resized as {interpolation!r}; "
            f"expected a square, {' or '.join(CROPS)}, {' or '.join(INTERPOLATIONS)}"
        )
    resize = max(height, math.floor(height / config["crop_pct"]))
    return Preprocess(
        height, resize, CROPS[crop], interpolation, scaling=scaling_of(config["mean"], config["std"])
    )


def _timm() -> Any:
    try:
        import timm
    except ImportError as err:
        raise RequestError(not_installed("timm", "timm")) from err
    return timm
