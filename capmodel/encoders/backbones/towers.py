"""Vision towers of Hugging Face transformers (the extra ``huggingface``) as backbones: CLIP, SigLIP and DINOv2.

The user names a folder or a model on the hub, ``hf:PATH``. The backbone that comes of it has the name ``hf:TYPE``, and
its configuration is part of the features' specification, so that workers need the weights only.

The grid ``[n, C, H, W]`` is the model's ``last_hidden_state`` without its class token and registers. Pooled features
``[n, C]`` are what the model gives for an image: CLIP's projected class token (``get_image_features``), SigLIP's
attention pooling, DINOv2's class token after the last layer norm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from captionbeam.capmodel.encoders.backbones.base import Backbone
from captionbeam.capmodel.encoders.names import HUGGING_FACE
from captionbeam.capmodel.encoders.preprocess import Preprocess, scaling_of
from captionbeam.capmodel.encoders.weights import State
from captionbeam.schemas.errors import RequestError, not_installed

OWN = "FOLDER"  # the weights of the folder
KINDS = (
    "clip", "clip_vision_model", "siglip", "siglip_vision_model", "dinov2", "dinov2_with_registers",
)  # fmt: skip
PROJECTED = "CLIPVisionModelWithProjection"  # AutoModel would leave its projection out
EXPECTED = "a folder of CLIP, SigLIP or DINOv2 that save_pretrained wrote"
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which image processors have
# Of a configuration, what does not change an image's features, or is computed from the rest.
IGNORED = {
    "architectures", "dtype", "torch_dtype", "transformers_version", "model_type", "_name_or_path",
    "initializer_range", "initializer_factor", "stage_names", "out_features", "out_indices", "id2label", "label2id",
}  # fmt: skip


class Tower(Backbone):
    """The tower of ``kind``, a model type of transformers, with the values of its configuration that are not defaults.

    ``projection``: channels of CLIP's projection; 0 for a tower without one.
    """

    decode, colour = "exact", "stored"  # as transformers does

    def __init__(self, kind: str, config: Mapping[str, Any], projection: int) -> None:
        transformers = _transformers()
        self.name, self._kind, self._projection = f"{HUGGING_FACE}{kind}", kind, projection
        self._changed, self._config = dict(config), transformers.AutoConfig.for_model(kind, **config)
        pools = getattr(self._config, "vision_use_head", True)  # SigLIP's attention pooling
        self.outputs = ("grid", "pooled") if pools else ("grid",)

    @classmethod
    def of(cls, name: str) -> Tower:
        """Returns the tower of an ``identity``."""
        kind, _, config = name.removeprefix(HUGGING_FACE).partition("{")
        return cls(kind, **json.loads("{" + config))

    @property
    def identity(self) -> str:
        """The name and the configuration, from which ``of`` makes the tower again."""
        return self.name + self.config

    @property
    def config(self) -> str:
        """The configuration as JSON."""
        return json.dumps({"config": self._changed, "projection": self._projection}, sort_keys=True)

    def shape(self, size: int, output: str) -> tuple[int, ...]:
        patch, width = self._config.patch_size, self._config.hidden_size
        if size % patch and size != self._config.image_size:  # as SigLIP's 384 with patches of 14
            raise RequestError(
                f"image size {size} is no whole number of {self.name}'s patches; expected a multiple of {patch}"
            )
        side = size // patch
        return (side, side, width) if output == "grid" else (self._projection or width,)

    def build(self, size: int, output: str) -> nn.Module:
        """Builds on the CPU, not the meta device, because buffers that are not in the weights are computed."""
        vision = _vision(_transformers().AutoModel.from_config(self._config))
        projection = (
            nn.Linear(self._config.hidden_size, self._projection, bias=False) if self._projection else None
        )
        return Features(vision, projection, output, self._config, size)

    def fit(self, state: State, size: int, output: str) -> State:
        """Returns the weights without the projection, where the output is a grid."""
        return {
            key: value
            for key, value in state.items()
            if output == "pooled" or not key.startswith("projection.")
        }

    @cached_property
    def presets(self) -> Mapping[str, Preprocess]:
        raise RequestError(f"{self.name} has its preprocessing in its folder; expected {HUGGING_FACE}PATH")

    @property
    def default(self) -> str:
        return OWN

    def weights(self, wanted: str) -> State:
        if wanted != OWN:
            raise RequestError(f"{self.name} has the weights of its folder; expected no --weights")
        return self.published(wanted)


class OpenedTower(Tower):
    """The tower in a folder, with its weights, on the launcher. Raises RequestError if the folder has none."""

    def __init__(self, name: str) -> None:
        from captionbeam.capmodel.captioners.huggingface.folders import open_folder
        from captionbeam.capmodel.captioners.huggingface.loading import load_model, reason

        transformers = _transformers()
        path = name.removeprefix(HUGGING_FACE)
        with open_folder(path).local_copy() as folder:
            projects = PROJECTED in (_checked_config(path, folder).architectures or ())
            kind = getattr(transformers, PROJECTED if projects else "AutoModel")
            whole = load_model(folder, path, "auto", kind)
            try:
                self._processor = transformers.AutoImageProcessor.from_pretrained(
                    folder, local_files_only=True
                )
            except (OSError, ValueError, KeyError, ImportError) as err:
                raise RequestError(
                    f"{path!r} has no image processor ({reason(err)}); expected preprocessor_config.json beside "
                    f"config.json, of {EXPECTED}"
                ) from err
        projection = getattr(whole, "visual_projection", None)
        config = getattr(whole.config, "vision_config", whole.config)
        super().__init__(config.model_type, _changed(config), projection.out_features if projection else 0)
        self._path, self._state = path, Features(_vision(whole), projection, "grid", config, 0).state_dict()

    @cached_property
    def presets(self) -> Mapping[str, Preprocess]:
        return {OWN: _preset(self._path, self._processor)}

    def published(self, name: str) -> State:
        """Returns the folder's weights in float32."""
        return {key: value.float() for key, value in self._state.items()}


class Features(nn.Module):
    """A tower that returns ``output``: ``[n, C, H, W]`` or ``[n, C]``."""

    def __init__(
        self, vision: nn.Module, projection: nn.Module | None, output: str, config: Any, size: int
    ) -> None:
        super().__init__()
        self.vision, self.output = vision, output
        if projection is not None and (output == "pooled" or not size):
            self.projection = projection
        self._side = size // config.patch_size
        # DINOv2 interpolates its positions by itself.
        other_size = size != config.image_size and not config.model_type.startswith("dinov2")
        self._how = {"interpolate_pos_encoding": True} if other_size else {}

    def forward(self, x: Tensor) -> Tensor:
        found = self.vision(pixel_values=x, **self._how)
        if self.output == "grid":
            patches = found.last_hidden_state[:, -(self._side**2) :]
            return patches.transpose(1, 2).unflatten(2, (self._side, self._side))
        pooled: Tensor = found.pooler_output
        return self.projection(pooled) if hasattr(self, "projection") else pooled


def _checked_config(name: str, folder: str) -> Any:
    from captionbeam.capmodel.captioners.huggingface.loading import LOAD_ERRORS, LOCAL, reason

    try:
        config = _transformers().AutoConfig.from_pretrained(folder, **LOCAL)
    except LOAD_ERRORS as err:
        raise RequestError(
            f"the model {name!r} cannot be opened ({reason(err)}); expected {EXPECTED}"
        ) from err
    if config.model_type not in KINDS:
        raise RequestError(f"{name!r} is a model of {config.model_type}; expected {EXPECTED}")
    return config


def _vision(model: Any) -> nn.Module:
    """Returns the network between pixels and tokens, which versions of transformers wrap differently."""
    while hasattr(model, "vision_model"):
        model = model.vision_model
    found: nn.Module = model
    return found


def _changed(config: Any) -> dict[str, Any]:
    """Returns the values of a configuration that are not its type's defaults: later ones change no fingerprint."""
    defaults = type(config)().to_dict()
    values = config.to_dict().items()
    return {name: value for name, value in values if name not in IGNORED and defaults.get(name, ...) != value}


def _preset(name: str, processor: Any) -> Preprocess:
    """Preprocessing equal to that of an image processor of transformers. Raises RequestError if there is none."""
    size, crop = dict(processor.size or {}), dict(getattr(processor, "crop_size", None) or {})
    cropped = bool(getattr(processor, "do_center_crop", False))
    resize = size.get("shortest_edge") or size.get("height")
    side = crop.get("height") if cropped else resize
    square = size.get("width") in (None, resize) and (not cropped or crop.get("width") == side)
    whole = cropped or "shortest_edge" not in size or not size["shortest_edge"]
    interpolation = INTERPOLATIONS.get(int(processor.resample))
    scaled = processor.do_rescale and abs(processor.rescale_factor * 255 - 1) < 1e-6
    if not (processor.do_resize and resize and side and square and whole and interpolation and scaled):
        raise RequestError(
            f"the image processor of {name!r} wants size {size}, crop {crop}, resample {processor.resample} and "
            f"rescale_factor {processor.rescale_factor}; expected a square, bilinear or bicubic, of colours from 0 to 1"
        )
    mean, std = (
        (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    )
    kind = "resize-floor-crop" if size.get("shortest_edge") else "squash-crop"
    return Preprocess(side, resize, kind, interpolation, scaling=scaling_of(mean, std))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as err:
        raise RequestError(
            f"--encoder {HUGGING_FACE} {not_installed('transformers', 'huggingface')}"
        ) from err
    return transformers
