"""Folders written by ``save_pretrained``: found, identified by content, copied to a store. Does not import torch.

All files of a folder are included except hidden files, cards (``.md``), code (never run: no ``trust_remote_code``)
and weights in formats other than safetensors (never read: most are pickles).
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from captionbeam.capmodel.bundles.contents import FORMAT
from captionbeam.schemas.errors import FingerprintError, RequestError
from captionbeam.schemas.fingerprint import sha256_bytes, sha256_file
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import models

CONFIG, MANIFEST, WEIGHTS = "config.json", "captionbeam.json", ".safetensors"
LEFT_OUT = (".md", ".py", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".onnx", ".gguf", ".ot",
            ".tflite")  # fmt: skip
ON_THE_HUB = re.compile(r"(?P<name>[\w-][\w.-]*(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder at ``url``, and the SHA-256 of each included file."""

    url: str
    files: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """The hash of all names and contents, under which the folder is stored."""
        return sha256_bytes(json.dumps(dict(self.files), sort_keys=True, separators=(",", ":")).encode())

    def store(self, models_url: str) -> str:
        """Copies the folder below a store's ``models/`` under its hash, unless it is there; returns its URL.

        Raises FingerprintError for a file that has changed.
        """
        target = files.join(models_url, self.sha256)
        for name, sha256 in self.files.items():
            models.keep_file(files.join(self.url, name), files.join(target, name), sha256)
        manifest = files.json_bytes({"files": dict(self.files)})
        models.keep_bytes(manifest, files.join(target, MANIFEST), sha256_bytes(manifest))
        return target

    @contextmanager
    def local_copy(self, weights: bool = True) -> Iterator[str]:
        """Yields a local path with all files verified; a remote folder is copied to a temporary one.

        Without ``weights``, weight files are neither copied nor verified. Raises FingerprintError for a file that has
        changed.
        """
        fs, path = files.split(self.url)
        names = [name for name in self.files if weights or not name.endswith(WEIGHTS)]
        with tempfile.TemporaryDirectory(prefix="captionbeam-") as scratch:
            if not files.is_local(fs):
                path = scratch
                for name in names:
                    files.copy_file(files.join(self.url, name), files.join(scratch, name))
            for name in names:
                self._check(name, sha256_file(files.join(path, name)))
            yield path

    def _check(self, name: str, found: str) -> None:
        if found != self.files[name]:
            raise FingerprintError(f"{name} in {self.url!r} has SHA-256 {found}; expected {self.files[name]}")


def open_folder(name: str) -> ModelFolder:
    """Opens a folder, fsspec URL or hub name (``ORG/NAME``, ``ORG/NAME@REVISION``). Raises RequestError."""
    url = files.absolute(name)
    if not files.exists(files.join(url, CONFIG)):
        url = _from_hub(name)
    _refuse_bundle(name, _config(name, files.join(url, CONFIG)))
    found = {name: sha256_file(files.join(url, name)) for name in _names(url)}
    if not any(name.endswith(WEIGHTS) for name in found):
        raise RequestError(
            f"the model {name!r} has no {WEIGHTS} file; expected one that save_pretrained wrote, as pickled weights "
            "are never loaded"
        )
    return ModelFolder(url, found)


def _config(name: str, url: str) -> Any:
    try:
        return files.read_json(url)
    except json.JSONDecodeError as err:
        raise RequestError(
            f"the {CONFIG} of {name!r} is not JSON ({err}); expected a folder that save_pretrained wrote"
        ) from err


def _refuse_bundle(name: str, config: Any) -> None:
    if isinstance(config, Mapping) and config.get("format") == FORMAT:
        raise RequestError(f"{name!r} is a bundle of captionbeam; expected --bundle {name}")


def stored_folder(url: str) -> ModelFolder:
    """Returns the folder that ``store`` wrote at ``url``."""
    return ModelFolder(url, files.read_json(files.join(url, MANIFEST))["files"])


@contextmanager
def fetched_folder(folder: ModelFolder | str) -> Iterator[ModelFolder]:
    """Yields a folder, or the one that ``store`` wrote at a URL, on this machine, to be loaded several times.

    Its files are checked once, here. Raises FingerprintError.
    """
    whole = folder if isinstance(folder, ModelFolder) else stored_folder(folder)
    with whole.local_copy() as path:
        yield ModelFolder(path, {})


def _names(url: str) -> list[str]:
    fs, root = files.split(url)
    inside = [path[len(root) :].strip("/") for path in fs.find(root)]
    return sorted(name for name in inside if _counts(PurePosixPath(name)))


def _counts(name: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") for part in name.parts)
    return not hidden and name.suffix not in LEFT_OUT and name.name != MANIFEST


def _from_hub(name: str) -> str:
    """Downloads the hub's model to its local cache; returns the path. Runs on the launcher."""
    matched = ON_THE_HUB.fullmatch(name)
    if matched is None:
        raise RequestError(f"{name!r} has no {CONFIG}; expected a folder that save_pretrained wrote")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    ignored = [f"*{suffix}" for suffix in LEFT_OUT]
    try:
        return snapshot_download(matched["name"], revision=matched["revision"], ignore_patterns=ignored)
    except (HfHubHTTPError, OSError, ValueError) as err:
        reason = (str(err).strip() or type(err).__name__).splitlines()[0]
        raise RequestError(
            f"{name!r} is no folder with a {CONFIG}, and the hub does not give it ({reason}); expected a folder that "
            "save_pretrained wrote, or a model's name on a hub that can be reached"
        ) from err
