import numpy as np
import pytest
import torch

from captionbeam.capmodel.generation.predictions import predict_words
from tests.builders.model.models import make_decoder, make_features, make_tokenizer

TOKENIZER = make_tokenizer(max_length=8)


def predicted(texts, top, seed=1):
    decoder, features = make_decoder(TOKENIZER, seed=seed), make_features(1)
    ids = [TOKENIZER.encode(text) for text in texts]
    return decoder, features, predict_words(decoder, features, ids, TOKENIZER, top)


def test_each_word_is_held_against_what_the_model_says_after_those_before_it():
    decoder, features, found = predicted(["a dog runs on grass", "two cats"], top=3)
    for ids, steps in zip(([2, 4, 5, 6, 7, 8, 3], [2, 9, 10, 3]), found, strict=True):
        assert [step.token for step in steps] == TOKENIZER.tokens(ids[1:])
        state = decoder.begin(features)
        for word, true, step in zip(ids, ids[1:], steps, strict=False):
            with torch.no_grad():
                logits, state, _ = decoder.step(state, torch.tensor([[word]]))
            chances = logits[0, 0].softmax(-1).numpy()
            order = np.argsort(-chances)
            assert step.probability == pytest.approx(chances[true], abs=1e-5)
            assert step.rank == 1 + int(np.flatnonzero(order == true)[0])
            assert [token for token, _ in step.top] == TOKENIZER.tokens(order[:3])
            assert [chance for _, chance in step.top] == pytest.approx(chances[order[:3]], abs=1e-5)


def test_unknown_words_are_there_as_such():
    _, _, (steps,) = predicted(["a zebra"], top=1)
    assert [step.token for step in steps] == ["a", "<unk>", "<end>"]
