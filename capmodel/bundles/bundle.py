"""Bundles: a trained captioner in one folder, on a local disk or any fsspec URL. No pickle anywhere.

config.json          written last: a folder without it is no bundle; names the others with their SHA-256
model.safetensors    the decoder's parameters
tokenizer/           the tokenizer's folder
encoder.safetensors  the encoder's weights, so that the folder captions images; absent where none were given
components.safetensors  what reduces its features; there where the features that it was trained on are reduced
history.json         one object an epoch
README.md            the model card, for people to complete: the only file that is not checked
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
    """A trained captioner and what is to be known about it.

    features_fingerprint: of the features that it was trained on and expects.
    encoder_spec:         what made them (``EncoderSpec.to_dict()``); None where that is not known.
    encoder_weights:      URL of the encoder's safetensors; None where the bundle captions features only.
    components:           URL of the components that reduce its features; None where they are not reduced.
    scores:               of the epoch that was kept; history: one mapping an epoch.
    trained_on:           platform, job, and what computed; empty where that is not known.
    writing:              the search that wrote the captions which were scored (``DecodeOptions.to_dict()``), and that
                          captionbeam caption takes where it is told no other; empty where that is not known.
    sha256:               of what decides a caption: decoder, tokenizer, features and encoder; scores,
                          history and place change nothing about it.
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
        """The decoder's sizes and special ids."""
        return self.decoder.config

    def save(self, url: str) -> str:
        """Write the folder ``url``, over a bundle that is there, and give it back."""
        fs, config = files.split(files.join(url, CONFIG))
        if fs.exists(config):
            fs.rm_file(config)
        contents = self._contents()
        manifest = self._manifest(contents)
        for name, data in {**contents, CARD: self._card(manifest, url).encode()}.items():
            files.write_atomic(files.join(url, name), data)
        for name, source in self._copied().items():
            files.copy_file(source, files.join(url, name))
        files.write_atomic(files.join(url, CONFIG), files.json_bytes(manifest.to_dict()))
        return url

    @classmethod
    def load(cls, url: str) -> Bundle:
        """The bundle in the folder ``url``, its decoder on the CPU and in evaluation mode.

        The encoder's weights and components are only named: whoever loads them checks them against
        ``encoder_spec``. Raises
        BundleError where a file is missing, is not the one that was saved, or comes from a newer version.
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
        """What ``config.json`` says of the bundle as it is now."""
        return self._manifest(self._contents())

    def _card(self, manifest: Manifest, url: str) -> str:
        parameters = sum(value.numel() for value in self.decoder.parameters())
        return model_card(manifest, self.config, parameters, self.tokenizer, files.absolute(url))

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
        """Files that come from elsewhere, by their name in the bundle."""
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
