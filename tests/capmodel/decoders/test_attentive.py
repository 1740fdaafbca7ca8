import pytest
import torch

from captionbeam.capmodel.decoders import DecoderConfig
from captionbeam.capmodel.decoders.attentive import AttentiveDecoder
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


def test_a_word_does_not_see_the_words_after_it():
    decoder, features, tokens = make_decoder(TOKENIZER), make_features(3), padded(TOKENIZER)
    changed = tokens.clone()
    changed[..., 2:] = 5
    torch.testing.assert_close(decoder(features, tokens)[:, :, :2], decoder(features, changed)[:, :, :2])


def test_each_image_is_seen():
    decoder, tokens = make_decoder(TOKENIZER), padded(TOKENIZER)
    features = make_features(3)
    logits, others = decoder(features, tokens), decoder(features.flip(0), tokens)
    assert not torch.allclose(logits[0], others[0])
    torch.testing.assert_close(logits[1], others[1])


def test_pooled_features_are_a_grid_of_one_cell():
    decoder, tokens = make_decoder(TOKENIZER, shape=(5,)), padded(TOKENIZER)
    pooled = make_features(3, shape=(5,))
    assert decoder.config.cells == 1
    logits = decoder(pooled, tokens)
    assert logits.shape == (*tokens.shape, TOKENIZER.vocab_size)
    torch.testing.assert_close(logits, decoder(pooled.unsqueeze(1), tokens))


def test_selecting_carries_each_captions_state_along():
    decoder, features = make_decoder(TOKENIZER), make_features(2)
    state = decoder.begin(features).select(torch.zeros(2, 3, dtype=torch.int64))
    _, state, _ = decoder.step(state, torch.tensor([[4, 5, 6], [7, 8, 9]]))
    chosen = state.select(torch.tensor([[2, 2], [0, 1]]))
    torch.testing.assert_close(chosen.hidden[0], state.hidden[0][[2, 2]])
    torch.testing.assert_close(chosen.cell[1], state.cell[1][[0, 1]])
    assert chosen.keys is state.keys


def test_dropout_acts_in_training_only():
    decoder, features, tokens = make_decoder(TOKENIZER, grid_dropout=0.5), make_features(3), padded(TOKENIZER)
    assert decoder(features, tokens).equal(decoder(features, tokens))
    decoder.train()
    assert not decoder(features, tokens).equal(decoder(features, tokens))


def test_a_fresh_decoder_starts_near_a_uniform_guess_with_open_forget_gates():
    torch.manual_seed(0)
    decoder = AttentiveDecoder(DecoderConfig(100, (2, 2, 8)))
    config = decoder.config
    forget = decoder.from_word.bias[config.attention_dim + config.hidden_dim :][: config.hidden_dim]
    assert forget.mean().item() == pytest.approx(1, abs=0.05)
    logits = decoder.eval()(make_features(4, (2, 2, 8)), torch.full((4, 1, 1), START))
    assert logits.abs().max() < 3
