"""captionbeam: image captioning as a distributed batch data pipeline.

Each command is a class here: ``captionbeam.Encode(sources=["photos/"], output="features", encoder="resnet50").run()``.
``captionbeam.schemas`` reads stores, ``captionbeam.capmodel`` is the model, ``captionbeam.pipelines`` has the Beam
pipelines, ``captionbeam.jobs`` the commands.
"""

from typing import TYPE_CHECKING, Any

from captionbeam import jobs, schemas

if TYPE_CHECKING:
    from captionbeam.jobs import *  # noqa: F403
    from captionbeam.schemas import Store

__all__ = ["Store"]
__all__ += jobs.__all__


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("captionbeam")
    if name == "Store":
        return schemas.Store
    if name in jobs.__all__:
        return getattr(jobs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
