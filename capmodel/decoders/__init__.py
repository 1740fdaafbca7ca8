"""Decoders: features become a sentence, word by word. Importing this needs no torch; making one does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from captionbeam.capmodel.decoders.config import DecoderConfig
from captionbeam.capmodel.decoders.options import DECODER_FIELDS, DecoderOptions

if TYPE_CHECKING:
    from captionbeam.capmodel.decoders.base import Decoder

__all__ = ["DECODER_FIELDS", "DecoderConfig", "DecoderOptions", "make_decoder"]


def make_decoder(config: DecoderConfig) -> Decoder:
    """The decoder that ``config`` describes, with fresh weights (torch's generator decides which)."""
    if config.architecture == "lstm":
        from captionbeam.capmodel.decoders.lstm import LstmDecoder

        return LstmDecoder(config)
    from captionbeam.capmodel.decoders.attentive import AttentiveDecoder
    from captionbeam.capmodel.decoders.transformer import TransformerDecoder

    return {"attentive": AttentiveDecoder, "transformer": TransformerDecoder}[config.architecture](config)
