import pytest
import torch
from torch.nn import functional

from captionbeam.capmodel.decoders import DecoderConfig, DecoderOptions
from captionbeam.capmodel.decoders.output import AdaptiveOutput, FullOutput
from captionbeam.capmodel.objectives.losses import masked_cross_entropy
from captionbeam.capmodel.tokenizers import BpeTokenizer
from captionbeam.schemas.errors import RequestError
from tests.builders.model.models import make_decoder, make_features, make_tokenizer
from tests.builders.model.sentences import padded

WORDS, WIDTH = 30, 16


def made(**chosen):
    """An output layer, the embeddings and biases, what it sees ``[5, 2, WIDTH]`` and targets ``[5, 2]``."""
    torch.manual_seed(0)
    config = DecoderConfig(WORDS, (8,), embed_dim=WIDTH, **chosen)
    adaptive = config.output_layer == "adaptive"
    bias = None if adaptive else torch.nn.Parameter(torch.zeros(config.vocab_size))
    if bias is not None:
        torch.nn.init.normal_(bias)
    targets = torch.randint(4, WORDS, (5, 2))
    return (
        (AdaptiveOutput if adaptive else FullOutput)(config),
        torch.randn(WORDS, WIDTH),
        bias,
        torch.randn(5, 2, WIDTH),
        targets,
    )


def loss_of(layer, embeddings, bias, seen, targets, smoothing=0.0):
    return layer.loss(seen.flatten(0, 1), embeddings, bias, targets.flatten(), smoothing)


def test_tied_weights_are_the_embeddings():
    layer, embeddings, bias, seen, _ = made()
    assert list(layer.parameters()) == []
    torch.testing.assert_close(layer(seen, embeddings, bias), seen @ embeddings.T + bias)


@pytest.mark.parametrize(("size", "tied"), [(3, False), (16, True)])
def test_two_stages_are_a_few_channels_and_then_the_words(size, tied):
    layer, embeddings, bias, seen, _ = made(output_layer="two-stage", output_bottleneck=size)
    first = layer.reduce[0]
    stage = functional.elu(seen @ first.weight.T + first.bias)
    assert stage.shape == (5, 2, size)
    assert (layer.weight is None) == tied
    expected = stage @ (embeddings if tied else layer.weight).T + bias
    torch.testing.assert_close(layer(seen, embeddings, bias), expected)


def test_adaptive_softmax_is_a_distribution_over_all_words_by_clusters():
    """``p(word) = p(cluster) p(word | cluster)`` for rare ones (Grave et al. 2017, equation 3)."""
    layer, embeddings, bias, seen, targets = made(output_layer="adaptive", adaptive_cutoffs="8,20")
    found = layer(seen, embeddings, bias)
    assert (found.shape, bias) == ((5, 2, WORDS), None)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(5, 2))
    head = layer.words.head(seen).log_softmax(-1)
    parts = [head[..., :8]]
    for number, cluster in enumerate(layer.words.tail):
        parts.append(head[..., 8 + number, None] + cluster(seen).log_softmax(-1))
    torch.testing.assert_close(found, torch.cat(parts, -1))
    expected = masked_cross_entropy(found, targets, 0)[0]
    torch.testing.assert_close(loss_of(layer, embeddings, bias, seen, targets), expected)


def test_clusters_begin_where_one_says_else_at_a_fifteenth_and_a_fifth():
    assert DecoderConfig(9000, (8,), output_layer="adaptive").cutoffs == (600, 1800)
    assert DecoderConfig(5, (8,), output_layer="adaptive").cutoffs == (1, 3)
    layer, *_ = made(output_layer="adaptive", adaptive_cutoffs="8,20")
    assert layer.words.cutoffs == [8, 20, WORDS]


def test_a_step_without_rare_words_gives_their_clusters_a_gradient_all_the_same():
    """DDP waits for the gradients of all parameters."""
    layer, embeddings, bias, seen, targets = made(output_layer="adaptive", adaptive_cutoffs="8,20")
    loss_of(layer, embeddings, bias, seen, targets.clamp(max=7)).backward()
    assert all(value.grad is not None for value in layer.parameters())
    assert not any(value.grad.any() for value in layer.words.tail.parameters())


def test_adaptive_softmax_is_refused_for_byte_pairs_whose_ids_do_not_fall_in_frequency():
    tokenizer = BpeTokenizer.learn({"dog": 3, "dogs": 2}, merges=3)
    options = DecoderOptions(output_layer="adaptive")
    with pytest.raises(RequestError, match="needs ids that fall in frequency"):
        DecoderConfig.fit(options, (8,), tokenizer)
    assert DecoderConfig.fit(options, (8,), make_tokenizer()).output_layer == "adaptive"


def test_label_smoothing_reaches_the_output():
    layer, embeddings, bias, seen, targets = made()
    logits = layer(seen, embeddings, bias)
    expected = masked_cross_entropy(logits, targets, 0, label_smoothing=0.2)[0]
    torch.testing.assert_close(loss_of(layer, embeddings, bias, seen, targets, 0.2), expected)


@pytest.mark.parametrize("name", ["embed_dropout", "state_dropout"])
def test_words_and_states_have_a_dropout_of_their_own(name):
    """None: that of the output. Dropped are whole numbers of what goes in, so the share is seen in the masks."""
    part = {"embed_dropout": "drop_words", "state_dropout": "drop_state"}[name]
    assert getattr(make_decoder(make_tokenizer(), dropout=0.3), part).p == 0.3
    own = make_decoder(make_tokenizer(), dropout=0.0, grid_dropout=0.0, **{name: 0.5})
    assert (getattr(own, part).p, own.drop.p) == (0.5, 0.0)
    tokens = padded(make_tokenizer())
    assert not own.train()(make_features(3), tokens).equal(own(make_features(3), tokens))
    assert own.eval()(make_features(3), tokens).equal(own(make_features(3), tokens))
