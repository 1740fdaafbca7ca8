"""Loads processors on workers, from settings of plain values. The only module in pipelines that loads models.

The engine adds ``threads``, this process's share, to the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from captionbeam.pipelines.workers.batches import Processor
from captionbeam.schemas.errors import RequestError, SystemicError, not_installed


def check_device(name: str) -> None:
    """Raises SystemicError if this worker lacks the device, since no image could be processed."""
    from captionbeam.capmodel.runtime.device import pick_device

    try:
        pick_device(name)
    except RequestError as err:
        raise SystemicError(
            f"a worker cannot compute: {err}; expected workers with it, and a driver that suits their torch"
        ) from err


def load_encoder(settings: Mapping[str, Any]) -> Processor:
    """Loads an encoder: ``spec``, ``weights`` and ``components`` in the store's ``models/``, and run options."""
    from captionbeam.capmodel.encoders.reduction import FeatureEncoder
    from captionbeam.capmodel.runtime.device import use_threads

    check_device(settings["device"])
    use_threads(settings["threads"])
    return FeatureEncoder.load(
        settings["spec"],
        settings["weights"],
        settings["components"],
        settings["batch_size"],
        settings["device"],
    )


def load_reducer(settings: Mapping[str, Any]) -> Processor:
    """Loads a reducer of feature rows: ``spec``, ``column`` and ``shape`` of the input, and ``components``."""
    from captionbeam.capmodel.encoders.reduction import FeatureReducer
    from captionbeam.capmodel.runtime.device import use_threads

    check_device(settings["device"])
    use_threads(settings["threads"])
    return FeatureReducer.load(
        settings["spec"],
        settings["column"],
        settings["shape"],
        settings["components"],
        settings["batch_size"],
        settings["device"],
    )


def load_captioner(settings: Mapping[str, Any]) -> Processor:
    """Loads a captioner: its ``bundle`` in the store's ``models/``, decoding options, and run options."""
    from captionbeam.capmodel.captioners.captioner import Captioner
    from captionbeam.capmodel.generation.generate import DecodeOptions
    from captionbeam.capmodel.runtime.device import use_threads

    check_device(settings["device"])
    use_threads(settings["threads"])
    return Captioner.load(
        settings["bundle"],
        DecodeOptions(**settings["decode"]),
        from_features=settings["from_features"],
        batch_size=settings["batch_size"],
        precision=settings["precision"],
        device=settings["device"],
    )


def load_transformers(settings: Mapping[str, Any]) -> Processor:
    """Loads a Hugging Face transformers model: ``folder`` in the store's ``models/``, ``spec``, and run options."""
    from captionbeam.capmodel.generation.options import DecodeOptions
    from captionbeam.capmodel.runtime.device import use_threads

    check_device(settings["device"])
    use_threads(settings["threads"])
    try:
        from captionbeam.capmodel.captioners.huggingface.captioner import HuggingFaceCaptioner
    except ImportError as err:
        raise SystemicError(f"on a worker ({err}): {not_installed('transformers', 'huggingface')}") from err
    return HuggingFaceCaptioner.load(
        settings["folder"],
        DecodeOptions(**settings["spec"]["decode"]),
        settings["spec"],
        settings["batch_size"],
        settings["device"],
    )


def prepare_alone(preparers: ThreadPoolExecutor, count: int) -> None:
    """Limits each of the ``count`` threads that prepare images to itself.

    By default, torch would start as many helper threads for each of them as for the model, most of them idle.
    """
    from captionbeam.capmodel.runtime.streams import share_threads

    share_threads(preparers, count, 1)
