"""The one place where pipelines touch the model: what a worker loads, from settings that travel as plain values.

``threads`` among the settings is what is due to this process; the engine puts it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from captionbeam.pipelines.workers.batches import Processor
from captionbeam.schemas.errors import RequestError, SystemicError, not_installed


def check_device(name: str) -> None:
    """Raises SystemicError where this worker has no such device: no image would fare better."""
    from captionbeam.capmodel.runtime.device import pick_device

    try:
        pick_device(name)
    except RequestError as err:
        raise SystemicError(
            f"a worker cannot compute: {err}; expected workers with it, and a driver that suits their torch"
        ) from err


def load_encoder(settings: Mapping[str, Any]) -> Processor:
    """The encoder of ``settings``: its ``spec``, ``weights`` and ``components`` in the store's ``models/``, and how to
    run it."""
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
    """What reduces rows of features: ``spec``, the ``column`` and ``shape`` that come in, and the ``components``."""
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
    """The captioner of ``settings``: its ``bundle`` in the store's ``models/``, decoding options, and how to run it."""
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
    """The model of Hugging Face transformers of ``settings``: its ``folder`` in the store's ``models/``, its ``spec``,
    and how to run it."""
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
    """Let each of the ``count`` threads that prepare images do so by itself: torch would give it as many helpers as
    the model has, 165 idle threads beside 11 that prepare."""
    from captionbeam.capmodel.runtime.streams import share_threads

    share_threads(preparers, count, 1)
