"""The bundle whose weights a run starts from. Does not import torch, so that launchers can check it quickly."""

from __future__ import annotations

from safetensors.numpy import load

from captionbeam.capmodel.bundles.contents import MODEL, TOKENIZER, Manifest, read_checked, read_manifest
from captionbeam.capmodel.decoders import DecoderConfig
from captionbeam.capmodel.tokenizers import Tokenizer, load_tokenizer
from captionbeam.capmodel.training.checkpoints import Tensors
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files

NO_WEIGHTS = (
    "dropout", "embed_dropout", "state_dropout", "grid_dropout", "doubly_stochastic", "hard_temperature",
)  # fmt: skip


def identity_of_start(url: str | None) -> dict[str, str]:
    """Returns the identity of the initial bundle. Raises BundleError."""
    return {} if url is None else {"init": read_manifest(url).sha256}


def check_start(url: str, features: str, tokenizer: Tokenizer, config: DecoderConfig) -> Manifest:
    """Returns the bundle's manifest. Raises RequestError, BundleError if its weights do not match.

    ``features``: the fingerprint of the training features. Options that affect only a decoder's training may differ
    from the bundle's.
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
    given = DecoderConfig.from_dict(manifest.decoder)
    for name, value in vars(config).items():
        found = getattr(given, name)
        if name not in NO_WEIGHTS and found != value:
            raise RequestError(
                f"init is {url!r}, whose decoder has {name.replace('_', ' ')} {found!r}, not {value!r}; "
                f"expected the same options of the decoder"
            )
    return manifest


def weights_of(url: str) -> Tensors:
    """Returns the bundle's weights. Raises BundleError if they differ from the saved ones."""
    return load(read_checked(url, read_manifest(url), MODEL))
