"""Decoders generate a caption from image features, word by word. Importing this package does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from captionbeam.capmodel.decoders.config import DecoderConfig
from captionbeam.capmodel.decoders.options import DECODER_FIELDS, DecoderOptions
from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.decoders.base import Decoder, State

__all__ = ["DECODER_FIELDS", "Decoder", "DecoderConfig", "DecoderOptions", "State", "make_decoder"]

__getattr__ = lazy_names(__name__, base="Decoder State")


def make_decoder(config: DecoderConfig) -> Decoder:
    """Returns the decoder that ``config`` describes, with weights drawn from torch's global generator."""
    if config.architecture == "lstm":
        from captionbeam.capmodel.decoders.lstm import LstmDecoder

        return LstmDecoder(config)
    from captionbeam.capmodel.decoders.attentive import AttentiveDecoder
    from captionbeam.capmodel.decoders.transformer import TransformerDecoder

    return {"attentive": AttentiveDecoder, "transformer": TransformerDecoder}[config.architecture](config)
