"""The bundle whose weights a run starts from. No torch here, so that a launcher checks it in no time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safetensors.numpy import load

from captionbeam.capmodel.bundles.contents import MODEL, TOKENIZER, Manifest, read_checked, read_manifest
from captionbeam.capmodel.decoders import DecoderConfig
from captionbeam.capmodel.tokenizers import Tokenizer, load_tokenizer
from captionbeam.capmodel.training.checkpoints import Tensors
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files

NO_WEIGHTS = (
    "dropout",
    "embed_dropout",
    "state_dropout",
    "grid_dropout",
    "doubly_stochastic",
    "hard_temperature",
)


def identity_of_start(url: str | None) -> dict[str, str]:
    """What tells a run that starts from this bundle from others. Raises BundleError."""
    return {} if url is None else {"init": read_manifest(url).sha256}


def check_start(url: str, features: str, tokenizer: Tokenizer, config: DecoderConfig) -> Manifest:
    """The manifest of the bundle. Raises RequestError, BundleError where its weights are for others.

    ``features``: the fingerprint of those that are trained on. Options that only decide how a decoder is trained
    may differ from the bundle's.
    """
    manifest = read_manifest(url)
    if manifest.features != features:
        raise RequestError(
            f"init is {url!r}, a bundle for features {manifest.features}; expected one for {features}, as in the store"
        )
    theirs = load_tokenizer(files.join(url, TOKENIZER)).fingerprint
    if theirs != tokenizer.fingerprint:
        raise RequestError(
            f"init is {url!r}, a bundle with tokenizer {theirs}; expected {tokenizer.fingerprint}, as in the table"
        )
    _check_decoder(url, DecoderConfig.from_dict(manifest.decoder), config)
    return manifest


def _check_decoder(url: str, theirs: DecoderConfig, ours: DecoderConfig) -> None:
    for name, value in _of_weights(ours).items():
        found = _of_weights(theirs)[name]
        if found != value:
            raise RequestError(
                f"init is {url!r}, whose decoder has {name.replace('_', ' ')} {found!r}, not {value!r}; "
                f"expected the same options of the decoder"
            )


def _of_weights(config: DecoderConfig) -> Mapping[str, Any]:
    return {name: value for name, value in vars(config).items() if name not in NO_WEIGHTS}


def weights_of(url: str) -> Tensors:
    """The bundle's weights. Raises BundleError where they are not those that were saved."""
    return load(read_checked(url, read_manifest(url), MODEL))
