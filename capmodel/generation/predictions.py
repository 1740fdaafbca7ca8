"""The model's next-word predictions at each word of given captions (teacher forcing).

Shapes: N captions of one image, T steps, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captionbeam.capmodel.decoders.base import Decoder
from captionbeam.capmodel.tokenizers import Tokenizer


class Prediction(NamedTuple):
    """One step of a caption: its token, and the model's prediction from the tokens before it.

    ``probability`` and ``top`` are the model's own, over its whole vocabulary; ``rank`` 1 is the most likely token.
    ``top`` has the most likely tokens with their probabilities, in falling order. The last step's token is END.
    """

    token: str
    probability: float
    rank: int
    top: list[tuple[str, float]]


@torch.no_grad()
def predict_words(
    decoder: Decoder, features: Tensor, captions: Sequence[Sequence[int]], tokenizer: Tokenizer, top: int
) -> list[list[Prediction]]:
    """Returns one list per caption, with one entry for each of its tokens after START.

    ``features`` ``[1, L, C]``, ``[1, H, W, C]`` or ``[1, C]`` are one image's; ``captions`` are START..END ids.
    """
    longest = max(map(len, captions))
    padded = [[*ids, *[decoder.config.pad] * (longest - len(ids))] for ids in captions]
    tokens = torch.tensor(padded, device=features.device).unsqueeze(0)
    logits = decoder(features, tokens[..., :-1])[0].float()
    chances = torch.softmax(logits, dim=-1)
    best = chances.topk(min(top, chances.shape[-1]), dim=-1)
    true = tokens[0, :, 1:].unsqueeze(-1)
    own = chances.gather(-1, true).squeeze(-1)
    ranks = 1 + (logits > logits.gather(-1, true)).sum(-1)
    names = tokenizer.tokens

    def step(caption: int, place: int) -> Prediction:
        likeliest = names(best.indices[caption, place].tolist())
        pairs = zip(likeliest, best.values[caption, place].tolist(), strict=True)
        (name,) = names([captions[caption][place + 1]])
        return Prediction(name, float(own[caption, place]), int(ranks[caption, place]), list(pairs))

    return [[step(n, place) for place in range(len(ids) - 1)] for n, ids in enumerate(captions)]
