"""Builds a wheel of the running code for workers.

A wheel rather than a source archive: workers build nothing, and need no network if their image has the dependencies.
It is made from the imported files, of a checkout or of an installed wheel.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from captionbeam.schemas.errors import RequestError

NAME, EPOCH = "captionbeam", (1980, 1, 1, 0, 0, 0)  # a fixed date, so that the same files give the same bytes
PACKAGES = (NAME, *(f"{NAME}.{name}" for name in ("schemas", "capmodel", "pipelines", "jobs")))
SKIPPED = {"__pycache__", "toplevel"}  # a checkout has the top package captionbeam in jobs/toplevel
# name in a wheel -> name in a checkout
KEPT = {"METADATA": "PKG-INFO", "entry_points.txt": "", "top_level.txt": ""}
WHEEL = "Wheel-Version: 1.0\nGenerator: captionbeam\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel(folder: str) -> str:
    """Writes the wheel below ``folder`` and returns its path. Raises RequestError if captionbeam is not installed."""
    try:
        about = metadata.distribution(NAME)
    except metadata.PackageNotFoundError as err:
        raise RequestError(
            f"{NAME} is not installed here, so that it cannot be sent to workers; expected pip install . in "
            "a clone of it, or --setup_file"
        ) from err
    stem = f"{NAME}-{about.version}"
    target = Path(folder) / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        record = [_add(wheel, name, data) for name, data in _contents(about, f"{stem}.dist-info")]
        _add(wheel, f"{stem}.dist-info/RECORD", "".join([*record, f"{stem}.dist-info/RECORD,,\n"]).encode())
    return str(target)


def _contents(about: metadata.Distribution, info: str) -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        root = _folder(package)
        found = sorted(root.glob("*.py") if package == NAME else root.rglob("*"))
        wanted = [
            path for path in found if path.is_file() and not SKIPPED & set(path.relative_to(root).parts)
        ]
        if not wanted:
            raise RequestError(f"the package {package} in {root} is empty; expected a whole installation")
        for path in wanted:
            inside = path.relative_to(root).as_posix()
            yield f"{package.replace('.', '/')}/{inside}", path.read_bytes()
    for name, other in KEPT.items():
        yield (
            f"{info}/{name}",
            (about.read_text(name) or (about.read_text(other) if other else "") or "").encode(),
        )
    yield f"{info}/WHEEL", WHEEL.encode()


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RequestError(f"the package {package} of {NAME} is not here; expected a whole installation")
    return Path(next(iter(spec.submodule_search_locations)))


def _add(wheel: zipfile.ZipFile, name: str, data: bytes) -> str:
    """Writes one member; returns its line of RECORD."""
    member = zipfile.ZipInfo(name, EPOCH)
    member.external_attr, member.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
    wheel.writestr(member, data)
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}\n"
