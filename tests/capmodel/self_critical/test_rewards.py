"""The reward of self-critical training: the published CIDEr-D, for whole batches, over the words it sees."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.capmodel.metrics import References
from captionbeam.capmodel.metrics.cider import CiderReferences
from captionbeam.capmodel.metrics.ptb import tokenize
from captionbeam.capmodel.self_critical.rewards import CaptionReader, CiderReward, PackedReferences
from captionbeam.capmodel.self_critical.rewards.ngrams import NONE
from captionbeam.capmodel.tokenizers import PAD, BpeTokenizer, WordTokenizer
from captionbeam.capmodel.tokenizers.bpe import split_words
from captionbeam.schemas.errors import RequestError

few_words = st.integers(0, 5)
captions = st.lists(few_words, max_size=9)
images = st.lists(st.lists(captions, min_size=1, max_size=4), min_size=1, max_size=5)


def padded(several, length=None):
    table = np.full((len(several), length or max(map(len, several), default=0)), NONE)
    for row, caption in zip(table, several, strict=True):
        row[: len(caption)] = caption
    return table


def numbered(references):
    """The references with ids from 0 on, as they are interned; and the ids of all words."""
    ids = {}
    for image in references:
        for caption in image:
            for word in caption:
                ids.setdefault(word, len(ids))
    return [[[ids[word] for word in caption] for caption in image] for image in references], ids


def reward_of(references, hypotheses):
    """The reward and what ``captionbeam.capmodel.metrics.cider`` says, for ``hypotheses`` [B, K] of word lists."""
    packed, ids = numbered(references)
    ids = {**ids, **{word: len(ids) + n for n, word in enumerate(sorted(set(range(12)) - set(ids)))}}
    rows = [[ids[word] for word in caption] for image in hypotheses for caption in image]
    words = padded(rows).reshape(len(hypotheses), len(hypotheses[0]), -1)
    ours = CiderReward(PackedReferences.pack(packed))(np.arange(len(hypotheses)), words)
    slow = CiderReferences({str(n): image for n, image in enumerate(references)})
    theirs = [[slow.cider_d(str(n), caption) for caption in image] for n, image in enumerate(hypotheses)]
    return ours, np.array(theirs)


@given(st.data())
def test_it_is_cider_d_for_any_captions(data):
    """Empty ones, ones of one word, repeated n-grams, words that no reference has."""
    references = data.draw(images)
    some = st.lists(st.lists(st.integers(0, 11), max_size=12), min_size=3, max_size=3)
    hypotheses = data.draw(st.lists(some, min_size=len(references), max_size=len(references)))
    ours, theirs = reward_of(references, hypotheses)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_it_is_the_published_codes():
    """What pycocoevalcap 1.2 gives for these; ``benchmarks/reward.py`` compares with it at length."""
    references = [
        ["a dog runs on grass", "the dog is running", "a brown dog on the grass"],
        ["two cats sleep", "two cats on a bed"],
        ["a man on a man on a man"],
        ["red car"],
    ]
    hypotheses = ["a dog is on the grass", "two two cats cats sleep on", "a man on a man on a horse", "car"]
    published = [2.62612275, 2.11560901, 9.06059645, 1.74338435]
    packed, ids = numbered([[caption.split() for caption in image] for image in references])
    rows = [[ids.setdefault(word, len(ids)) for word in caption.split()] for caption in hypotheses]
    reward = CiderReward(PackedReferences.pack(packed))(np.arange(4), padded(rows)[:, None])
    np.testing.assert_allclose(reward[:, 0], published, rtol=0, atol=1e-8)


@pytest.mark.parametrize("references", [[], [[[0]], []]])
def test_an_image_without_references_is_refused(references):
    with pytest.raises(RequestError, match="an image without references has no CIDEr-D"):
        PackedReferences.pack(references)


TEXTS = ["A man's T-shirt.", "Two dogs, running!", "a dog cannot run", "the man runs", "unbelievable dogs"]


@cache
def make_tokenizer(kind):
    if kind == "words":
        words = ("a", "man", "s", "dog", "dogs", "cannot", "run", "the", "two")
        return WordTokenizer.learn(Counter(words), min_count=1)
    counts = Counter(word for text in TEXTS for word in split_words(text))
    return BpeTokenizer.learn(counts, merges={"bpe": 12, "characters": 0}[kind])


def encoded(tokenizer, texts):
    rows = [tokenizer.encode(text)[1:] for text in texts]
    table = np.full((len(rows), max(map(len, rows))), PAD)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids)] = ids
    return table


def read_back(reader, tokens):
    words = reader(tokens)
    spelled = {number: word for word, number in reader._ids.items()}
    return [[spelled[word] for word in row if word != NONE] for row in words]


@pytest.mark.parametrize("kind", ["words", "bpe", "characters"])
def test_captions_are_read_as_the_metrics_read_them(kind):
    tokenizer = make_tokenizer(kind)
    reader = CaptionReader(tokenizer, count_end=False)
    reader.references([TEXTS])
    texts = ["a man's dog, the dogs.", "cannot run", "", "dogsdogs two"]
    tokens = encoded(tokenizer, texts)
    whole = tokenize([tokenizer.decode(row) for row in tokens])
    assert read_back(reader, tokens) == whole
    assert read_back(reader, tokens) == whole  # what was learned of new words is kept


def test_without_end_it_is_the_metric_that_validation_computes():
    texts = {"0": TEXTS[:2], "1": TEXTS[2:4], "2": TEXTS[4:]}
    tokenizer = make_tokenizer("bpe")
    reader = CaptionReader(tokenizer, count_end=False)
    reward = CiderReward(PackedReferences.pack(reader.references(texts.values())))
    tokens = encoded(tokenizer, ["a man cannot run", "the dog's t-shirt", "two dogs"])
    ours = reward(np.arange(3), reader(tokens)[:, None])[:, 0]
    written = {name: tokenizer.decode(row) for name, row in zip(texts, tokens, strict=True)}
    published = References(texts).evaluate(written).images
    np.testing.assert_allclose(ours, [published[name]["CIDEr_D"] for name in texts], rtol=0, atol=1e-9)
