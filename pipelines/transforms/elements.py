"""Elements of the transforms: NamedTuples, which Beam encodes as rows with a schema."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import apache_beam as beam
import numpy as np

from captionbeam.schemas.records import Failure


class ImageFeatures(NamedTuple):
    """The features of one image: ``data`` is float16 of ``shape`` ``[H, W, C]`` or ``[C]``, in C order.

    ``fingerprint`` is that of the features. ``uri`` and ``source`` of an image that was given as bytes are empty.
    ``columns``: the columns that are kept from the input, as a JSON object; '' if there are none.
    """

    image_id: str
    uri: str
    version: Optional[str]
    source: str
    fingerprint: str
    shape: Sequence[int]
    data: bytes
    columns: str = ""

    @property
    def array(self) -> np.ndarray:
        """The features as a read-only array, float16 ``[H, W, C]`` or ``[C]``."""
        return np.frombuffer(self.data, np.float16, math.prod(self.shape)).reshape(tuple(self.shape))


class Caption(NamedTuple):
    """A caption and its log-probability; None for an endpoint's answer, which names its prompt if there are several."""

    text: str
    logprob: Optional[float] = None
    prompt: Optional[str] = None


class ImageCaptions(NamedTuple):
    """The captions of one image, best first.

    ``fingerprint`` is that of the captions; ``columns``: as of ImageFeatures.
    """

    image_id: str
    uri: str
    version: Optional[str]
    source: str
    fingerprint: str
    captions: Sequence[Caption]
    columns: str = ""

    @property
    def text(self) -> str:
        """The best caption."""
        return self.captions[0].text


class Outputs(NamedTuple):
    """A transform's two outputs. Every image is in exactly one of them.

    ``rows``: ImageFeatures or ImageCaptions. ``failures``: ``Failure`` with stage, code and message.
    """

    rows: beam.PCollection[Any]
    failures: beam.PCollection[Failure]
