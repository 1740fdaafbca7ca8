import torch

from tests.builders.models import make_decoder, make_features, make_tokenizer
from tests.builders.sentences import padded

TOKENIZER = make_tokenizer()
PAD, START, END = TOKENIZER.pad, TOKENIZER.start, TOKENIZER.end


def test_the_gradients_do_not_depend_on_whether_padding_is_skipped():
    decoder, features, tokens = make_decoder(TOKENIZER), make_features(3), padded(TOKENIZER)
    inputs, targets = tokens[..., :-1], tokens[..., 1:]
    judged = torch.randn(int((targets != PAD).sum()), TOKENIZER.vocab_size)
    full = (decoder(features, inputs)[targets != PAD] * judged).sum()
    short = (decoder(features, inputs, targets) * judged).sum()
    parameters = list(decoder.parameters())
    torch.testing.assert_close(torch.autograd.grad(short, parameters), torch.autograd.grad(full, parameters))


def test_pooled_features_are_a_grid_of_one_cell():
    decoder, tokens = make_decoder(TOKENIZER, shape=(5,)), padded(TOKENIZER)
    pooled = make_features(3, shape=(5,))
    assert decoder.config.cells == 1
    logits = decoder(pooled, tokens)
    assert logits.shape == (*tokens.shape, TOKENIZER.vocab_size)
    torch.testing.assert_close(logits, decoder(pooled.unsqueeze(1), tokens))


def test_dropout_acts_in_training_only():
    decoder, features, tokens = make_decoder(TOKENIZER, grid_dropout=0.5), make_features(3), padded(TOKENIZER)
    assert decoder(features, tokens).equal(decoder(features, tokens))
    decoder.train()
    assert not decoder(features, tokens).equal(decoder(features, tokens))
