"""Generates captions from features: greedy search, beam search or sampling, with prefix, n best and attention.

Example::

    options = DecodeOptions(method="beam", beam=3)
    best = [captions[0].text for captions in generate(decoder, grids, options, image_ids, tokenizer)]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captionbeam.capmodel.decoders import DecoderConfig
from captionbeam.capmodel.decoders.base import Decoder
from captionbeam.capmodel.generation.choices import BeamSearch, ForcedPrefix, Sampling, uniforms
from captionbeam.capmodel.generation.constraints import NEVER, TokenConstraints
from captionbeam.capmodel.generation.options import DecodeOptions
from captionbeam.capmodel.generation.ranking import Ranking
from captionbeam.capmodel.generation.search import (
    SearchTrace,
    SelectTokens,
    attention_weights,
    run_search,
    token_ids,
)
from captionbeam.capmodel.tokenizers import Tokenizer
from captionbeam.schemas.errors import RequestError

__all__ = ["Caption", "DecodeOptions", "check_options", "generate"]


class Caption(NamedTuple):
    """One caption of one image.

    ``logprob`` is the sum of the natural log-probabilities of all its tokens, including a prefix and END. ``tokens`` do
    not include START and END. ``attention`` float32 [len(tokens), L] has one row per token: the weights over the grid's
    cells, in row-major order, when the token was generated.
    """

    text: str
    logprob: float
    tokens: list[str]
    attention: np.ndarray | None = None


def check_options(options: DecodeOptions, config: DecoderConfig, tokenizer: Tokenizer) -> list[int]:
    """Returns the prefix's token ids. Raises RequestError if the model does not support the options."""
    if options.keep_attention and not config.attends:
        raise RequestError(
            f"this model's decoder ({config.architecture}) has no attention to keep; expected to leave it out"
        )
    ids = tokenizer.encode_whole(options.prefix)[1:-1]
    if tokenizer.unk in ids and not options.allow_unk:
        raise RequestError(
            f"prefix {options.prefix!r} has a word that the model does not know; expected others"
        )
    most = options.max_length or config.max_length
    if config.longest and most > config.longest:
        raise RequestError(
            f"max-length is {most}; expected at most {config.longest}, the positions it has learned"
        )
    if len(ids) + 2 > most:
        raise RequestError(f"prefix {options.prefix!r} has {len(ids)} tokens; expected at most {most - 2}")
    return ids


@torch.no_grad()  # not inference_mode, in which autocast casts every weight again at each step
def generate(
    decoder: Decoder, features: Tensor, options: DecodeOptions, image_ids: Sequence[str], tokenizer: Tokenizer
) -> list[list[Caption]]:
    """Returns up to ``n_best`` captions per image, best first; fewer if the search finds fewer different ones.

    ``features`` ``[B, L, C]``, ``[B, H, W, C]`` or ``[B, C]`` are on the decoder's device. For a fixed B, an image's
    captions are bitwise independent of the rest of its batch. Raises RequestError.
    """
    prefix = check_options(options, decoder.config, tokenizer)
    was_training = decoder.training
    decoder.eval()
    try:
        traces = _search(decoder, features, options, image_ids, prefix)
    finally:
        decoder.train(was_training)
    return _captions(traces, options, tokenizer)


def _search(
    decoder: Decoder,
    features: Tensor,
    options: DecodeOptions,
    image_ids: Sequence[str],
    prefix: Sequence[int],
) -> SearchTrace:
    steps = (options.max_length or decoder.config.max_length) - 1
    state = decoder.begin(features)
    first = torch.full((len(features), 1), decoder.config.start, device=features.device)
    ranking = Ranking.of(options)
    rules = TokenConstraints(
        decoder.config, options.allow_unk, features.device, options.no_repeat_ngram, prefix=len(prefix)
    )
    choose: SelectTokens = BeamSearch(options.rows, ranking, options.diversity, rules.pad)
    if options.method == "sample":
        numbers = uniforms(options.seed, image_ids, options.n_best, steps - len(prefix))
        choose = Sampling(options, torch.from_numpy(numbers).to(features.device))
    return run_search(
        decoder, state, first, rules, ForcedPrefix(prefix, choose), steps, ranking, options.keep_attention
    )


def _captions(trace: SearchTrace, options: DecodeOptions, tokenizer: Tokenizer) -> list[list[Caption]]:
    """Returns each image's best captions by rank, without beams that never found a continuation."""
    scores, tokens = trace.scores.cpu().numpy(), token_ids(trace)
    weights = attention_weights(trace) if options.keep_attention else None
    order = np.argsort(-trace.ranks.cpu().numpy(), axis=1, kind="stable")
    ranking = Ranking.of(options)

    def best(image: int) -> list[int]:
        found = [row for row in order[image].tolist() if scores[image, row] > NEVER]
        each = scores.shape[1] // ranking.groups
        return ranking.pick(found, lambda row: tokens[image, row].tobytes(), each)

    def caption(image: int, row: int) -> Caption:
        ids = tokens[image, row, : int(np.argmax(tokens[image, row] == tokenizer.end))].tolist()
        kept = None if weights is None else weights[image, row, : len(ids)]
        return Caption(tokenizer.decode(ids), float(scores[image, row]), tokenizer.tokens(ids), kept)

    return [[caption(image, row) for row in best(image)] for image in range(len(order))]
