"""Captions/s of each architecture with cached state, against a search that computes everything anew at each step.

    python benchmarks/decoding.py --images 16 --beam 3

Random weights, grids of 8 x 8 x 2,048, captions of the whole --length: what is measured is the work of a step, not
how soon captions end. Both searches run in turn, and have to find the same captions.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captionbeam.capmodel.decoders import DecoderConfig, make_decoder
from captionbeam.capmodel.decoders.base import Decoder
from captionbeam.capmodel.generation.captions import DecodeOptions, generate
from captionbeam.capmodel.tokenizers import WordTokenizer

SIZES: dict[str, dict[str, Any]] = {
    "attentive": {},
    "lstm": {},
    "transformer": {"embed_dim": 512, "heads": 8, "layers": 3},
}


class Sentences(NamedTuple):
    """All that a search knows that keeps no state: the features, and the tokens ``[B, N, t]`` so far."""

    features: Tensor
    tokens: Tensor

    def select(self, index: Tensor) -> Sentences:
        """As ``State.select``."""
        index = index.unsqueeze(-1).expand(-1, -1, self.tokens.shape[-1])
        return self._replace(tokens=self.tokens.gather(1, index))


class Anew(Decoder):
    """A decoder whose steps read the whole sentence."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.config, self.whole = decoder.config, decoder

    def begin(self, features: Tensor) -> Sentences:
        return Sentences(features, torch.empty(len(features), 1, 0, dtype=torch.int64))

    def step(self, state: Sentences, tokens: Tensor) -> tuple[Tensor, Sentences, None]:
        state = state._replace(tokens=torch.cat([state.tokens, tokens.unsqueeze(-1)], dim=-1))
        return self.whole(state.features, state.tokens)[:, :, -1], state, None


def main() -> None:
    """Print one JSON object an architecture."""
    options = _parser().parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    for architecture in options.architecture or SIZES:
        print(json.dumps({"architecture": architecture, **_measured(architecture, options)}))


def _measured(architecture: str, options: argparse.Namespace) -> dict[str, Any]:
    words = {f"word{number}": 1 for number in range(options.words)}
    tokenizer = WordTokenizer.learn(words, min_count=1, max_length=options.length)
    shape, sizes = (8, 8, 2048), {"architecture": architecture, **SIZES[architecture]}
    decoder = make_decoder(
        DecoderConfig(tokenizer.vocab_size, shape, max_length=options.length, **sizes)
    ).eval()
    with torch.no_grad():
        decoder.out_bias[tokenizer.end] -= 1000
    features, names = torch.randn(options.images, *shape).half(), [str(n) for n in range(options.images)]
    decode = DecodeOptions(beam=options.beam)
    found: dict[str, list[str]] = {}
    seconds: dict[str, list[float]] = {"cached": [], "anew": []}
    for _ in range(options.rounds):
        for name, model in (("cached", decoder), ("anew", Anew(decoder))):
            best, taken = _timed(lambda model=model: generate(model, features, decode, names, tokenizer))
            found[name] = [captions[0].text for captions in best]
            seconds[name].append(taken)
    rates = {name: options.images / min(times) for name, times in seconds.items()}
    return {
        **{name: round(rate, 2) for name, rate in rates.items()},
        "ratio": round(rates["cached"] / rates["anew"], 2),
        "same_captions": found["cached"] == found["anew"],
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--architecture", action="append", choices=list(SIZES), help="(default: all; may be given again)"
    )
    parser.add_argument("--images", type=int, default=16, help="a batch (default 16)")
    parser.add_argument("--beam", type=int, default=3)
    parser.add_argument("--length", type=int, default=22, help="tokens a caption (default 22)")
    parser.add_argument("--words", type=int, default=2531, help="in the vocabulary (default 2531)")
    parser.add_argument("--rounds", type=int, default=3, help="the best of each counts (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="torch's (default 1)")
    return parser


if __name__ == "__main__":
    main()
