"""Bundles: a trained captioner in one folder, local or at any fsspec URL. Contains no pickle.

config.json          written last: a folder without it is not a bundle; lists the other files with their SHA-256
model.safetensors    the decoder's parameters
tokenizer/           the tokenizer's folder
encoder.safetensors  the encoder's weights, for captioning images; optional
components.safetensors  the components that reduce features; present if the training features were reduced
history.json         one object per epoch
README.md            the model card, for people to complete: the only file that is not verified
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from captionbeam.capmodel.bundles.contents import (
    CARD,
    COMPONENTS,
    CONFIG,
    ENCODER,
    HISTORY,
    MODEL,
    TOKENIZER,
    Manifest,
    read_checked,
    read_manifest,
)
from captionbeam.capmodel.bundles.model_card import model_card
from captionbeam.capmodel.decoders import DecoderConfig, make_decoder
from captionbeam.capmodel.decoders.base import Decoder
from captionbeam.capmodel.tokenizers import Tokenizer, tokenizer_from_files
from captionbeam.schemas.errors import BundleError, FingerprintError, RequestError
from captionbeam.schemas.fingerprint import sha256_bytes, sha256_file
from captionbeam.schemas.storage import files


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained captioner and its metadata.

    features_fingerprint: of the features that it was trained on and expects.
    encoder_spec:         the spec of their encoder (``EncoderSpec.to_dict()``); None if unknown.
    encoder_weights:      URL of the encoder's safetensors; None if the bundle captions features only.
    components:           URL of the components that reduce its features; None if they are not reduced.
    scores:               of the selected epoch.
    history:              one mapping per epoch.
    trained_on:           platform, job, workers and device; empty if unknown.
    writing:              the decoding options of the scored captions (``DecodeOptions.to_dict()``), which
                          ``captionbeam caption`` uses by default; empty if unknown.
    sha256:               of everything that determines a caption: decoder, tokenizer, features and encoder, but not
                          scores, history or location.
    """

    decoder: Decoder
    tokenizer: Tokenizer
    features_fingerprint: str
    encoder_spec: Mapping[str, Any] | None = None
    encoder_weights: str | None = None
    components: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    writing: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def __post_init__(self) -> None:
        if not self.sha256:
            object.__setattr__(self, "sha256", self._manifest(self._contents()).sha256)

    @property
    def config(self) -> DecoderConfig:
        """The decoder's configuration."""
        return self.decoder.config

    def save(self, url: str) -> str:
        """Writes the folder ``url``, replacing a bundle that exists there, and returns ``url``."""
        fs, config = files.split(files.join(url, CONFIG))
        if fs.exists(config):
            fs.rm_file(config)
        contents = self._contents()
        manifest = self._manifest(contents)
        parameters = sum(value.numel() for value in self.decoder.parameters())
        card = model_card(manifest, self.config, parameters, self.tokenizer, files.absolute(url))
        for name, data in {**contents, CARD: card.encode()}.items():
            files.write_atomic(files.join(url, name), data)
        for name, source in self._copied().items():
            files.copy_file(source, files.join(url, name))
        files.write_atomic(files.join(url, CONFIG), files.json_bytes(manifest.to_dict()))
        return url

    @classmethod
    def load(cls, url: str) -> Bundle:
        """Loads the bundle in the folder ``url``, with its decoder on the CPU and in evaluation mode.

        The encoder's weights and components are not loaded; their loader verifies them against ``encoder_spec``. Raises
        BundleError if a file is missing or differs from the saved one, or if the bundle has a newer version.
        """
        manifest = read_manifest(url)
        named = (ENCODER, COMPONENTS)
        contents = {name: read_checked(url, manifest, name) for name in manifest.files if name not in named}
        return cls(
            decoder=_decoder(url, manifest, contents[MODEL]),
            tokenizer=_tokenizer(url, contents),
            features_fingerprint=manifest.features,
            encoder_spec=manifest.encoder,
            encoder_weights=files.join(url, ENCODER) if ENCODER in manifest.files else None,
            components=files.join(url, COMPONENTS) if COMPONENTS in manifest.files else None,
            scores=manifest.scores,
            history=json.loads(contents[HISTORY]),
            trained_on=manifest.trained_on,
            writing=manifest.writing,
            sha256=manifest.sha256,
        )

    def manifest(self) -> Manifest:
        """Returns the content of ``config.json`` for the bundle's current state."""
        return self._manifest(self._contents())

    def _contents(self) -> dict[str, bytes]:
        state = {name: value.detach().cpu().contiguous() for name, value in self.decoder.state_dict().items()}
        words = {f"{TOKENIZER}/{name}": data for name, data in self.tokenizer.to_files().items()}
        history = files.json_bytes([dict(epoch) for epoch in self.history])
        return {MODEL: safetensors.torch.save(state), **words, HISTORY: history}

    def _manifest(self, contents: Mapping[str, bytes]) -> Manifest:
        hashes = {name: sha256_bytes(data) for name, data in contents.items()}
        spec = self.encoder_spec or {}
        expected = {ENCODER: spec.get("weights_sha256"), COMPONENTS: spec.get("reduction", {}).get("sha256")}
        for name, source in self._copied().items():
            hashes[name] = _checked_hash(name, source, expected[name])
        manifest = Manifest(
            sha256="",
            decoder=self.config.to_dict(),
            features=self.features_fingerprint,
            encoder=dict(self.encoder_spec) if self.encoder_spec is not None else None,
            scores=dict(self.scores),
            files=hashes,
            trained_on=dict(self.trained_on),
            writing=dict(self.writing),
        )
        return replace(manifest, sha256=manifest.identity())

    def _copied(self) -> dict[str, str]:
        """Returns the source URLs of copied files, by their name in the bundle."""
        given = {ENCODER: self.encoder_weights, COMPONENTS: self.components}
        return {name: source for name, source in given.items() if source is not None}


def _checked_hash(name: str, source: str, expected: str | None) -> str:
    found = sha256_file(source)
    if found != expected:
        what = "encoder weights" if name == ENCODER else "components"
        raise FingerprintError(f"{what} {source!r} have SHA-256 {found}; expected {expected}")
    return found


def _decoder(url: str, manifest: Manifest, data: bytes) -> Decoder:
    try:
        decoder = make_decoder(DecoderConfig.from_dict(manifest.decoder))
        decoder.load_state_dict(safetensors.torch.load(data))
    except (RequestError, SafetensorError, RuntimeError, TypeError) as err:
        reason = str(err).splitlines()[0]
        raise BundleError(f"the decoder of the bundle {url!r} cannot be read: {reason}") from err
    return decoder.eval()


def _tokenizer(url: str, contents: Mapping[str, bytes]) -> Tokenizer:
    inside = f"{TOKENIZER}/"
    found = {name.removeprefix(inside): data for name, data in contents.items() if name.startswith(inside)}
    try:
        return tokenizer_from_files(found, files.join(url, TOKENIZER))
    except (RequestError, KeyError) as err:
        raise BundleError(f"the tokenizer of the bundle {url!r} cannot be read: {err}") from err
