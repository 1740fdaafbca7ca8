"""Beam search in plain Python, to compare the real one with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch

from captionbeam.capmodel.decoders.base import Decoder
from captionbeam.capmodel.generation.captions import DecodeOptions
from captionbeam.capmodel.tokenizers import Tokenizer

Scored = tuple[float, list[int]]


class PlainSearch:
    """Searches over lists of tokens, each continuation scored from the start; nothing stops early."""

    def __init__(
        self, decoder: Decoder, features: torch.Tensor, tokenizer: Tokenizer, options: DecodeOptions
    ) -> None:
        """``features`` ``[1, ...]`` are one image's."""
        self.decoder, self.features, self.tokenizer, self.options = decoder, features, tokenizer, options
        self.known: dict[tuple[int, ...], list[float]] = {}

    def logs(self, ids: list[int]) -> list[float]:
        """What may follow START.. ``ids``, each with the model's log-probability."""
        if tuple(ids) not in self.known:
            with torch.no_grad():
                logits = self.decoder(self.features, torch.tensor(ids)[None, None])[0, 0, -1]
            self.known[tuple(ids)] = logits.log_softmax(-1).tolist()
        return self.known[tuple(ids)]

    def words(self, ids: list[int]) -> Iterator[int]:
        """END, and the words that neither the length nor an n-gram forbids."""
        size, written = self.options.no_repeat_ngram, ids[1:]
        yield self.tokenizer.end
        if len(ids) == self.tokenizer.max_length - 1:
            return
        seen = {tuple(written[at : at + size]) for at in range(len(written) - size + 1)} if size else ()
        for word in range(4, self.tokenizer.vocab_size):
            if not size or tuple([*written, word][-size:]) not in seen:
                yield word

    def rank(self, caption: Scored, toll: float = 0.0) -> float:
        """Log-probability / length penalty, having paid ``toll``."""
        score, ids = caption
        length = len(ids) - 1
        base = length if self.options.length_formula == "length" else (5 + length) / 6
        return (score - toll) / base**self.options.length_penalty

    def race(self, beams: list[Scored], taken: Counter[int]) -> list[Scored]:
        """The next beams of one group, those of the groups before having ``taken`` their words."""
        grown = []
        for score, ids in beams:
            if ids[-1] == self.tokenizer.end:
                grown.append((self.rank((score, ids)), (score, ids)))
                continue
            for word in self.words(ids):
                longer = (score + self.logs(ids)[word], [*ids, word])
                grown.append((self.rank(longer, self.options.diversity * taken[word]), longer))
        each = self.options.beam // self.options.beam_groups
        chosen = [caption for _, caption in sorted(grown, key=lambda pair: -pair[0])[:each]]
        running = [ids for _, ids in beams if ids[-1] != self.tokenizer.end]
        taken.update(ids[-1] for _, ids in chosen if ids[:-1] in running)
        return chosen

    def search(self) -> list[Scored]:
        """``[(logprob, ids)]``, best first: each group's best before any group's second best, all different."""
        groups: list[list[Scored]] = [
            [(0.0, [self.tokenizer.start])] for _ in range(self.options.beam_groups)
        ]
        for _ in range(self.tokenizer.max_length - 1):
            taken: Counter[int] = Counter()
            groups = [self.race(beams, taken) for beams in groups]
        found: dict[tuple[int, ...], Scored] = {}
        for place in range(self.options.beam):
            row = [beams[place] for beams in groups if place < len(beams)]
            for score, ids in sorted(row, key=self.rank, reverse=True):
                found.setdefault(tuple(ids), (score, ids))
        return sorted(list(found.values())[: self.options.n_best], key=self.rank, reverse=True)
