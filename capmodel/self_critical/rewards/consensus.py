"""Consensus of an image's captions: the CIDEr-D of each caption against the others.

Weighting the cross-entropy of human captions by it follows Phan et al. 2017, "Consensus-based Sequence Training for
Video Captioning" (https://arxiv.org/abs/1712.09532), whose WXE uses CIDEr-D itself as the weight. The power, the
normalisation to a mean of 1 per image, and END as a word are additions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from captionbeam.capmodel.self_critical.rewards.cider_d import CiderReward, PackedReferences
from captionbeam.capmodel.self_critical.rewards.ngrams import NONE
from captionbeam.capmodel.self_critical.rewards.reading import CaptionReader
from captionbeam.capmodel.tokenizers import Tokenizer

IMAGES_AT_ONCE = 500
ITSELF = 10.0  # CIDEr-D of a caption against itself, if it has n-grams of every n


def consensus(references: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
    """Returns the CIDEr-D of each caption against the others of its image, float64 [I, R].

    ``references``: each image's captions as word ids; R is the most captions of an image. Document frequencies are
    those of all captions. NaN where an image has fewer captions, and for an only caption.
    """
    packed = PackedReferences.pack(references)
    number, cider, words = packed.number[:, None], CiderReward(packed), _padded(references)
    places = np.arange(len(words))
    parts = [slice(start, start + IMAGES_AT_ONCE) for start in range(0, len(words), IMAGES_AT_ONCE)]
    whole = np.concatenate([cider(places[part], words[part]) for part in parts])
    itself = ITSELF * (packed.norms > 0).mean(1)
    there = (np.arange(words.shape[1]) < number) & (number > 1)
    others = np.divide(whole * number - itself, number - 1, out=np.full(whole.shape, np.nan), where=there)
    return np.maximum(others, 0)


def consensus_weights(captions: Sequence[Sequence[str]], tokenizer: Tokenizer, power: float) -> np.ndarray:
    """Returns float32 [I, R]: each caption's consensus to the ``power``, divided by the mean of its image's.

    Images therefore weigh equally. Weights are 1 if all captions of an image have consensus 0 or if there is only one;
    0 after an image's last caption.
    """
    found = consensus(CaptionReader(tokenizer, count_end=True).references(captions)) ** power
    sums, number = np.nansum(found, 1, keepdims=True), np.array([[len(image)] for image in captions])
    even = np.broadcast_to(sums == 0, found.shape)
    weights = np.divide(found * number, sums, out=np.ones_like(found), where=~even)
    return np.where(np.arange(found.shape[1]) < number, weights, 0).astype(np.float32)


def _padded(references: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
    """Returns word ids [I, R, T], padded with NONE."""
    most = max(len(image) for image in references)
    longest = max(len(caption) for image in references for caption in image)
    words = np.full((len(references), most, longest), NONE)
    for place, image in enumerate(references):
        for which, caption in enumerate(image):
            words[place, which, : len(caption)] = caption
    return words
