"""Names that a package imports at their first use, so that importing the package itself stays fast."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_names(package: str, **modules: str) -> Callable[[str], Any]:
    """Returns the package's ``__getattr__`` (PEP 562). ``modules``: the names of each module, separated by spaces."""
    places = {name: f"{package}.{module}" for module, names in modules.items() for name in names.split()}

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(places[name]), name)

    return load
