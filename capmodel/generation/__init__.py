"""Caption generation: greedy search, beam search and sampling, with constraints on the words."""

from typing import TYPE_CHECKING

from captionbeam.capmodel.lazy import lazy_names

if TYPE_CHECKING:
    from captionbeam.capmodel.generation.captions import Caption, check_options, generate
    from captionbeam.capmodel.generation.options import DecodeOptions
    from captionbeam.capmodel.generation.predictions import Prediction, predict_words

__all__ = ["Caption", "DecodeOptions", "Prediction", "check_options", "generate", "predict_words"]

__getattr__ = lazy_names(
    __name__,
    captions="Caption check_options generate",
    options="DecodeOptions",
    predictions="Prediction predict_words",
)
