"""Reads and verifies a bundle's folder without torch, so that launchers can do it quickly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from captionbeam.schemas.errors import BundleError, FingerprintError
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import models
from captionbeam.schemas.versions import check_version

FORMAT, VERSION = "captionbeam bundle", 1
MODEL_TYPE = "captionbeam"  # read by from_pretrained of Hugging Face transformers, which uses config.json too
OF_TRANSFORMERS = {"model_type": MODEL_TYPE, "architectures": ["BundleForCaptioning"]}
CONFIG, MODEL, TOKENIZER, ENCODER, COMPONENTS, HISTORY, CARD = (
    "config.json",
    "model.safetensors",
    "tokenizer",
    "encoder.safetensors",
    "components.safetensors",
    "history.json",
    "README.md",
)


@dataclass(frozen=True)
class Manifest:
    """The content of ``config.json``.

    sha256:   of everything that determines a caption.
    decoder:  ``DecoderConfig.to_dict()``.
    features: the fingerprint of the expected features.
    encoder:  the spec that produced them, or None.
    files:    name -> SHA-256, of all files except the card.
    trained_on: platform and workers (captionbeam.capmodel.training.worker); empty if not recorded.
    writing:  the decoding options of the captions that ``scores`` measure, ``DecodeOptions.to_dict()``; empty if not
              recorded.
    """

    sha256: str
    decoder: dict[str, Any]
    features: str
    encoder: dict[str, Any] | None
    scores: dict[str, float]
    files: dict[str, str]
    trained_on: dict[str, Any] = field(default_factory=dict)
    writing: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON values that ``read_manifest`` reads."""
        return {"format": FORMAT, "version": VERSION, **OF_TRANSFORMERS, **asdict(self)}

    def identity(self) -> str:
        """Returns the expected ``sha256``: of everything here except scores, history and location."""
        deciding = {name: value for name, value in self.files.items() if name != HISTORY}
        whole = {
            "decoder": self.decoder,
            "features": self.features,
            "encoder": self.encoder,
            "files": deciding,
        }
        return sha256_bytes(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode())


def read_manifest(url: str) -> Manifest:
    """Returns the manifest of the bundle in the folder ``url``. Raises BundleError."""
    try:
        values = files.read_json(files.join(url, CONFIG))
    except (FileNotFoundError, NotADirectoryError) as err:
        wrong = f"is not a bundle: it has no {CONFIG}" if files.exists(url) else "does not exist"
        raise BundleError(f"{url!r} {wrong}; expected a folder that captionbeam train wrote") from err
    except ValueError as err:
        raise BundleError(
            f"{CONFIG} of the bundle {url!r} is not JSON ({err}); expected it as saved"
        ) from err
    return _checked(url, values)


def is_foreign_config(data: bytes) -> bool:
    """Whether this ``config.json`` is complete JSON but not a bundle's."""
    try:
        values = json.loads(data)
    except ValueError:
        return False
    return not isinstance(values, Mapping) or values.get("format") != FORMAT


def read_checked(url: str, manifest: Manifest, name: str) -> bytes:
    """Returns the file ``name`` of the bundle ``url``. Raises BundleError if it differs from the saved one."""
    try:
        data = files.read_bytes(files.join(url, name))
    except FileNotFoundError as err:
        raise _missing_file(url, name) from err
    found, expected = sha256_bytes(data), manifest.files[name]
    if found != expected:
        raise BundleError(f"{name} of the bundle {url!r} has SHA-256 {found}; expected {expected}, as saved")
    return data


def store_bundle(url: str, models_url: str) -> str:
    """Copies a bundle below ``models_url`` under its content hash, unless a complete copy exists; returns its URL.

    Raises BundleError if a file is missing or differs from the saved one.
    """
    manifest = read_manifest(url)
    target = files.join(models_url, manifest.sha256)
    if not _is_complete(target, manifest.sha256):
        for name, sha256 in manifest.files.items():
            try:
                models.keep_file(files.join(url, name), files.join(target, name), sha256)
            except FileNotFoundError as err:
                raise _missing_file(url, name) from err
            except FingerprintError as err:
                raise BundleError(f"{name} of the bundle {err}, as saved") from err
        files.write_atomic(files.join(target, CONFIG), files.json_bytes(manifest.to_dict()))
    return target


def _is_complete(url: str, sha256: str) -> bool:
    """Whether a complete copy exists, by its own manifest: bundles that differ only in history share a location."""
    try:
        there = read_manifest(url)
    except BundleError:
        return False
    return there.sha256 == sha256 and all(
        models.has_sha256(files.join(url, name), expected) for name, expected in there.files.items()
    )


def _missing_file(url: str, name: str) -> BundleError:
    return BundleError(f"the bundle {url!r} lacks {name}; expected the files that were saved")


def _checked(url: str, values: Any) -> Manifest:
    if not isinstance(values, Mapping) or values.get("format") != FORMAT:
        raise BundleError(f"{CONFIG} in {url!r} is not a bundle's; expected format {FORMAT!r}")
    check_version(values.get("version"), VERSION, f"the bundle {url!r}", BundleError)
    try:
        others = ("format", "version", *OF_TRANSFORMERS)
        manifest = Manifest(**{key: value for key, value in values.items() if key not in others})
    except TypeError as err:
        raise BundleError(f"{CONFIG} of the bundle {url!r} lacks a field or has one too many: {err}") from err
    if manifest.identity() != manifest.sha256:
        raise BundleError(
            f"{CONFIG} of the bundle {url!r} was changed after it was saved: its SHA-256 differs"
        )
    return manifest
