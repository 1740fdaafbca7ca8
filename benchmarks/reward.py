"""The reward of self-critical training against pycocoevalcap's CIDEr-D of the same batch, both in one run.

    pip install '.[benchmarks]'
    python benchmarks/reward.py --tokens tokens

A batch is as in training: --images photographs of the train split with --samples captions each, document
frequencies those of the whole split. Ours starts from token ids, as they are sampled; the published code from
words between spaces, which it is handed ready. A sample is a caption of its own image or of another one, with
two tokens in five replaced by any. In turn, --rounds times; the times are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocoevalcap.cider.cider_scorer import CiderScorer

from captionbeam.capmodel.self_critical.rewards import CaptionReader, CiderReward, PackedReferences
from captionbeam.capmodel.tokenizers import END, SPECIALS, load_tokenizer
from captionbeam.schemas.formats.tokens import TokenTable


class GivenCorpus(CiderScorer):
    """The published scorer with document frequencies that are given, and not those of the batch."""

    def __init__(self, frequencies: Any, log_images: float) -> None:
        self.log_images = log_images
        super().__init__()
        self.document_frequency = frequencies

    ref_len = property(lambda self: self.log_images, lambda self, value: None)


def main() -> None:
    """Print one JSON object."""
    options = _parser().parse_args()
    table = TokenTable.open(options.tokens)
    rows = np.flatnonzero(np.array(table.table["split"].to_pylist()) == "train")
    figures = {
        f"END {'counted' if end else 'left out'}": measure(table, rows, options, end) for end in (True, False)
    }
    print(json.dumps({"images": options.images, "samples": options.samples, **figures}, indent=1))


def measure(
    table: TokenTable, rows: np.ndarray, options: argparse.Namespace, count_end: bool
) -> dict[str, Any]:
    """Milliseconds of both sides, their ratio, and how far apart their scores are at most."""
    reader = CaptionReader(load_tokenizer(table.tokenizer_url), count_end)
    captions = table.table["captions"].to_pylist()
    references = reader.references(captions[row] for row in rows)
    reward = CiderReward(PackedReferences.pack(references))
    images = np.random.default_rng(0).permutation(len(rows))[: options.images]
    tokens = sample(table, rows, images, options.samples)

    def ours() -> np.ndarray:
        words = reader(tokens.reshape(-1, tokens.shape[-1]))
        return reward(images, words.reshape(*tokens.shape[:2], -1))

    words = reader(tokens.reshape(-1, tokens.shape[-1]))
    hypotheses = [spelled(row[row >= 0]) for row in words]
    theirs_of = [[spelled(one) for one in references[image]] for image in np.repeat(images, options.samples)]
    corpus = CiderScorer()
    for image in references:
        corpus.cook_append("", [spelled(one) for one in image])
    corpus.compute_doc_freq()

    def published() -> np.ndarray:
        scorer = GivenCorpus(corpus.document_frequency, np.log(float(len(references))))
        for hypothesis, several in zip(hypotheses, theirs_of, strict=True):
            scorer.cook_append(hypothesis, several)
        return np.array(scorer.compute_cider()).reshape(tokens.shape[:2])

    seconds = [(timed(published), timed(ours)) for _ in range(options.rounds)]
    theirs, mine = (1e3 * statistics.median(side) for side in zip(*seconds, strict=True))
    apart = float(np.abs(ours() - published()).max())
    return {
        "pycocoevalcap_msecs": round(theirs, 1),
        "reward_msecs": round(mine, 2),
        "ratio": round(theirs / mine, 1),
        "mean_reward": round(float(ours().mean()), 4),
        "largest_difference": apart,
        "equal_to_1e-6": apart < 1e-6,
    }


def sample(table: TokenTable, rows: np.ndarray, images: np.ndarray, samples: int) -> np.ndarray:
    """Token ids [B, K, T] as a half-trained model might draw them, END last."""
    rng, vocabulary = np.random.default_rng(1), load_tokenizer(table.tokenizer_url).vocab_size
    tokens = table.table["tokens"]
    drawn = []
    for number in range(len(images) * samples):
        image = images[number // samples] if number % 2 else rng.integers(len(rows))
        several = tokens[int(rows[image])].as_py()
        caption = np.array(several[rng.integers(len(several))][1:])
        other = (rng.random(len(caption)) < 0.4) & (caption != END)
        drawn.append(np.where(other, rng.integers(len(SPECIALS), vocabulary, len(caption)), caption))
    padded = np.zeros((len(drawn), max(map(len, drawn))), np.int64)
    for place, caption in enumerate(drawn):
        padded[place, : len(caption)] = caption
    return padded.reshape(len(images), samples, -1)


def spelled(words: Any) -> str:
    """Word ids as words between spaces: the published code asks no more of a word."""
    return " ".join(map(str, words))


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tokens", required=True, metavar="TOKENS", help="the token table that tokenize wrote"
    )
    parser.add_argument("--images", type=int, default=64, help="of a batch (default 64)")
    parser.add_argument("--samples", type=int, default=5, help="captions of each (default 5)")
    parser.add_argument("--rounds", type=int, default=15)
    return parser


if __name__ == "__main__":
    main()
