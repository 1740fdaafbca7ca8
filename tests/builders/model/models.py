"""Tiny decoders and tokenizers, with weights large enough that their captions differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from captionbeam.capmodel import decoders
from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.capmodel.decoders import DecoderConfig
from captionbeam.capmodel.decoders.base import Decoder
from captionbeam.capmodel.tokenizers import WordTokenizer
from captionbeam.schemas import Store
from captionbeam.schemas.fingerprint import fingerprint
from captionbeam.schemas.storage import files

SIZES: dict[str, dict[str, Any]] = {
    "attentive": {"embed_dim": 6, "hidden_dim": 7, "attention_dim": 4, "feature_dim": 5},
    "lstm": {"embed_dim": 6, "hidden_dim": 7},
    "transformer": {"embed_dim": 6, "heads": 2, "layers": 2, "feedforward_dim": 9},
}
WORDS = ("a", "dog", "runs", "on", "grass", "two", "cats", "sleep")


def make_tokenizer(words: int = len(WORDS), max_length: int = 8) -> WordTokenizer:
    """A tokenizer of the first ``words`` of WORDS; ids from 4 on."""
    counts = {word: 10 + len(WORDS) - place for place, word in enumerate(WORDS[:words])}
    return WordTokenizer.learn(counts, min_count=1, max_length=max_length)


def make_decoder(
    tokenizer: WordTokenizer, shape: tuple[int, ...] = (2, 3, 5), seed: int = 0, **settings: Any
) -> Decoder:
    """A decoder for ``tokenizer`` in evaluation mode, random by ``seed`` and far from uniform."""
    sizes = {**SIZES[settings.get("architecture", "attentive")], **settings}
    config = DecoderConfig(tokenizer.vocab_size, shape, max_length=tokenizer.max_length, **sizes)
    generator = torch.Generator().manual_seed(seed)
    decoder = decoders.make_decoder(config)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return decoder.eval()


def make_features(images: int, shape: tuple[int, ...] = (2, 3, 5), seed: int = 0) -> torch.Tensor:
    """``[images, *shape]`` float16, as a features store keeps them."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((images, *shape), np.float32)).half()


def make_bundle(encoder: tuple[dict[str, Any], str] | None = None, **changes: Any) -> Bundle:
    """A bundle of a tiny decoder; ``encoder``: its spec and the URL of its weights."""
    tokenizer = make_tokenizer()
    spec, weights = encoder or ({"name": "none", "weights_sha256": "0" * 64}, None)
    values = {
        "decoder": make_decoder(tokenizer),
        "tokenizer": tokenizer,
        "features_fingerprint": fingerprint(spec),
        "encoder_spec": spec,
        "encoder_weights": weights,
        "scores": {"CIDEr": 0.5},
        "history": [{"epoch": 1, "val_loss": 3.5}],
    }
    return Bundle(**(values | changes))


def bundle_for(features: Store | str | Path, url: str | Path, **changes: Any) -> str:
    """A bundle, saved at ``url``, of a tiny decoder for a features store and of the encoder in its ``models/``."""
    store = features if isinstance(features, Store) else Store.open(str(features))
    (weights,) = files.names(store.models_url)
    tokenizer = make_tokenizer()
    about = {"decoder": make_decoder(tokenizer, store.shape), "tokenizer": tokenizer, **changes}
    encoder = dict(store.spec), files.join(store.models_url, weights)
    return make_bundle(encoder, features_fingerprint=store.fingerprint, **about).save(str(url))
