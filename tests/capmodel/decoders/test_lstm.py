import pytest
import torch
from torch.nn import functional

from captionbeam.capmodel.generation.captions import DecodeOptions, check_options, generate
from captionbeam.schemas.errors import RequestError
from tests.builders.model import models
from tests.builders.model.models import make_decoder, make_features, make_tokenizer
from tests.builders.model.sentences import padded

TOKENIZER = make_tokenizer()
TOKENS = padded(TOKENIZER)
WIDTH = 7


def made(**chosen):
    return models.make_decoder(TOKENIZER, architecture="lstm", **chosen)


def cell_step(lstm, word, hidden, cell):
    """An LSTM by its equations (Hochreiter & Schmidhuber 1997; forget gates of Gers et al. 2000)."""
    gates = lstm.weight_ih_l0 @ word + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ hidden + lstm.bias_hh_l0
    i, f, g, o = gates.chunk(4)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def by_the_book(decoder, features, caption):
    """Logits ``[T, V]`` of one caption: the image first, then word by word."""
    config, zeros = decoder.config, torch.zeros(WIDTH)
    image = features.float().reshape(-1, config.channels).mean(0)
    for layer in decoder.image:
        linear = isinstance(layer, torch.nn.Linear)
        image = layer.weight @ image + layer.bias if linear else functional.elu(image)
    states = {"start-state": (image, image), "start-cell": (zeros, image)}
    hidden, cell = states.get(config.image_as) or cell_step(decoder.lstm, image, zeros, zeros)
    logits = []
    for token in caption:
        hidden, cell = cell_step(decoder.lstm, decoder.embed.weight[token], hidden, cell)
        if config.ties:
            logits.append(decoder.embed.weight @ decoder.out_hidden(hidden) + decoder.out_bias)
        else:
            logits.append(decoder.output.weight @ hidden + decoder.out_bias)
    return torch.stack(logits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("role", ["first-input", "start-state", "start-cell"])
@pytest.mark.parametrize(
    ("bottleneck", "activation", "layers"),
    [(None, "none", 1), (4, "elu", 4), (4, "none", 2), (None, "elu", 2)],
)
def test_the_image_comes_in_as_it_should(role, bottleneck, activation, layers, tied):
    decoder = made(
        image_as=role, image_bottleneck=bottleneck, image_activation=activation, tie_embeddings=tied
    )
    assert len(decoder.image) == layers
    features = make_features(3)
    logits = decoder(features, TOKENS)
    for image in range(3):
        for n in range(2):
            expected = by_the_book(decoder, features[image], TOKENS[image, n])
            torch.testing.assert_close(logits[image, n], expected, rtol=1e-4, atol=1e-4)


def test_pooled_features_are_taken_as_they_are_and_a_grid_by_its_mean():
    grid, decoder, pooled = make_features(3).float(), made(), made(shape=(5,))
    pooled.load_state_dict(decoder.state_dict())
    torch.testing.assert_close(decoder(grid, TOKENS), pooled(grid.mean((1, 2)), TOKENS))
    torch.testing.assert_close(decoder(grid, TOKENS), decoder(grid.flatten(1, 2), TOKENS))


def test_there_is_no_attention_to_keep():
    decoder, options = made(), DecodeOptions(method="greedy", keep_attention=True)
    with pytest.raises(RequestError, match=r"this model's decoder \(lstm\) has no attention to keep"):
        check_options(options, decoder.config, TOKENIZER)
    plain = DecodeOptions(beam=2)
    captions = generate(decoder, make_features(2), plain, ["a", "b"], TOKENIZER)
    assert [image[0].attention for image in captions] == [None, None]


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
