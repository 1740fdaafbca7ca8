"""Every choice of a decoder: what holds for all of them, each in its own words and sizes."""

import pytest
import torch
from safetensors.torch import load_file

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.capmodel.generation.captions import DecodeOptions, generate
from tests.builders.model.models import make_bundle, make_decoder, make_features, make_tokenizer
from tests.builders.model.sentences import padded, stepped

TOKENIZER = make_tokenizer()
TOKENS = padded(TOKENIZER)
INPUTS, TARGETS = TOKENS[..., :-1], TOKENS[..., 1:]
FEATURES = make_features(3)
HEADS = {"attention": "multi-head", "heads": 2, "feature_dim": 6, "attention_dim": 4}
LSTM = {"architecture": "lstm"}
CHOICES = {
    "dot": {"attention": "dot"},
    "multi-head": HEADS,
    "hard": {"attention": "hard"},
    "sparsemax": {"attention": "sparsemax"},
    "scalar gate": {"gate": "scalar"},
    "no gate": {"gate": "none"},
    "starts from the mean": {"initial_state": "mean"},
    "doubly stochastic": {"doubly_stochastic": 1.0},
    "two-stage": {"output_layer": "two-stage", "output_bottleneck": 4},
    "two-stage, tied": {"output_layer": "two-stage", "output_bottleneck": 6},
    "adaptive": {"output_layer": "adaptive", "adaptive_cutoffs": "5,8", "embed_dim": 16},
    "untied": {"tie_embeddings": False},
    "lstm": LSTM,
    "start-state": {**LSTM, "image_as": "start-state"},
    "start-cell": {**LSTM, "image_as": "start-cell", "image_bottleneck": 4},
    "elu": {**LSTM, "image_as": "start-state", "image_bottleneck": 4, "image_activation": "elu"},
    "lstm, two-stage": {**LSTM, "output_layer": "two-stage", "output_bottleneck": 4},
    "lstm, adaptive": {**LSTM, "output_layer": "adaptive", "adaptive_cutoffs": "5,8", "hidden_dim": 16},
    "lstm, untied": {**LSTM, "tie_embeddings": False},
    "transformer": {"architecture": "transformer"},
    "transformer, learned positions": {"architecture": "transformer", "positions": "learned"},
    "transformer, two-stage": {"architecture": "transformer", "output_layer": "two-stage", "output_bottleneck": 4},
    "transformer, adaptive": {"architecture": "transformer", "output_layer": "adaptive", "adaptive_cutoffs": "5,8",
                              "embed_dim": 16},
}  # fmt: skip

each_choice = pytest.mark.parametrize("chosen", CHOICES.values(), ids=CHOICES)
each_decoder = pytest.mark.parametrize("chosen", [{}, *CHOICES.values()], ids=["attentive", *CHOICES])


@each_decoder
def test_teacher_forcing_equals_stepping(chosen):
    decoder = make_decoder(TOKENIZER, **chosen)
    torch.testing.assert_close(decoder(FEATURES, TOKENS), stepped(decoder, FEATURES, TOKENS))
    wanted = TOKENIZER.pad != TARGETS
    torch.testing.assert_close(decoder(FEATURES, INPUTS, TARGETS), decoder(FEATURES, INPUTS)[wanted])


@each_decoder
def test_every_parameter_learns(chosen):
    torch.manual_seed(0)
    decoder = make_decoder(TOKENIZER, **chosen).train()
    decoder.loss(FEATURES, INPUTS, TARGETS).backward()
    assert [name for name, value in decoder.named_parameters() if not value.grad.ne(0).any()] == []


@each_choice
def test_the_choice_changes_the_model(chosen):
    """Another function of the same weights, or other weights."""
    ours, usual = make_decoder(TOKENIZER, **chosen), make_decoder(TOKENIZER)
    same_weights = [value.shape for value in ours.parameters()] == [
        value.shape for value in usual.parameters()
    ]
    if same_weights:
        losses = [model.train(False).loss(FEATURES, INPUTS, TARGETS).item() for model in (ours, usual)]
        assert losses[0] != pytest.approx(losses[1])


@each_decoder
def test_a_bundle_brings_it_back(chosen, tmp_path):
    decoder = make_decoder(TOKENIZER, **chosen)
    url = make_bundle(decoder=decoder).save(str(tmp_path / "bundle"))
    loaded = Bundle.load(url)
    assert loaded.config == decoder.config
    assert set(load_file(tmp_path / "bundle" / "model.safetensors")) == set(decoder.state_dict())
    options = DecodeOptions(beam=3, n_best=2, keep_attention=decoder.config.attends)
    ours, theirs = (
        generate(model, FEATURES, options, list("abc"), TOKENIZER) for model in (decoder, loaded.decoder)
    )
    assert [[caption[:3] for caption in image] for image in ours] == [
        [caption[:3] for caption in image] for image in theirs
    ]


@each_decoder
def test_an_images_captions_do_not_depend_on_the_others_of_its_batch(chosen):
    decoder, options = make_decoder(TOKENIZER, **chosen), DecodeOptions(beam=3)
    others = torch.cat([FEATURES[:1], make_features(2, seed=1)])
    ours, theirs = (
        generate(decoder, batch, options, list("abc"), TOKENIZER)[0] for batch in (FEATURES, others)
    )
    assert [(caption.text, caption.logprob) for caption in ours] == [
        (caption.text, caption.logprob) for caption in theirs
    ]


@each_decoder
def test_the_loss_is_a_sum_over_captions(chosen):
    """So that ranks, batches and padding may be cut as one likes: absent captions add nothing."""
    decoder = make_decoder(TOKENIZER, **chosen)
    apart = [
        decoder.loss(FEATURES[image : image + 1], INPUTS[image, None, n, None], TARGETS[image, None, n, None])
        for image in range(3)
        for n in range(2)
    ]
    absent = torch.full_like(TARGETS[:, :1], TOKENIZER.pad)
    more = (torch.cat([part, absent], 1) for part in (INPUTS, TARGETS))
    torch.testing.assert_close(decoder.loss(FEATURES, *more), sum(apart))


@each_decoder
def test_bf16_stays_close(chosen):
    decoder = make_decoder(TOKENIZER, **chosen)
    with torch.autocast("cpu", torch.bfloat16):
        loss = decoder.loss(FEATURES, INPUTS, TARGETS)
        loss.backward()
    assert loss.dtype == torch.float32
    if chosen.get("attention") != "hard":  # whose choice may flip
        assert loss.item() == pytest.approx(decoder.loss(FEATURES, INPUTS, TARGETS).item(), rel=0.1)


def by_the_book(decoder, grid, caption):
    """Xu et al. 2015, one caption, one step at a time: logits ``[T, V]`` and weights ``[T, L]``."""
    config = decoder.config
    cells = decoder.normalise(decoder.project(grid.float().reshape(config.cells, config.channels)))
    hidden, cell = torch.zeros(2, config.hidden_dim)
    logits, weights = [], []
    for token in caption:
        word = decoder.embed.weight[token]
        word_query, word_gates = decoder.from_word(word).split([config.attention_dim, 4 * config.hidden_dim])
        query, gates, *beta = decoder.from_hidden(hidden).split(decoder._widths())
        keys = decoder.attention.key(cells)
        scores = torch.tanh(keys + query + word_query) @ decoder.attention.score.weight[0]
        weights.append(scores.softmax(0))
        context = weights[-1] @ cells
        if config.gate != "none":
            context = context * torch.sigmoid(beta[0])
        i, f, o, g = (word_gates + gates + decoder.from_context(context)).chunk(4)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        deep = decoder.out_hidden(hidden) + decoder.out_context(context) + word
        logits.append(deep @ decoder.embed.weight.T + decoder.out_bias)
    return torch.stack(logits), torch.stack(weights)


@pytest.mark.parametrize(("gate", "numbers"), [("vector", 5), ("scalar", 1), ("none", 0)])
def test_the_gate_is_that_of_the_book(gate, numbers):
    decoder = make_decoder(TOKENIZER, gate=gate)
    assert decoder.from_hidden.out_features == 4 + 4 * 7 + numbers
    logits = decoder(FEATURES, TOKENS)
    for image in range(3):
        for n in range(2):
            torch.testing.assert_close(
                logits[image, n], by_the_book(decoder, FEATURES[image], TOKENS[image, n])[0]
            )


def test_attention_that_leaves_cells_out_is_penalised():
    """Xu et al., equation 14: masked steps give no attention, absent captions no penalty."""
    plain, strict = (make_decoder(TOKENIZER, doubly_stochastic=strength) for strength in (0.0, 0.7))
    expected = 0.0
    for image in range(3):
        for inputs, targets in zip(INPUTS[image], TARGETS[image], strict=True):
            _, weights = by_the_book(plain, FEATURES[image], inputs[targets != TOKENIZER.pad])
            expected += 0.7 * (1 - weights.sum(0)).square().sum()
    added = strict.loss(FEATURES, INPUTS, TARGETS) - plain.loss(FEATURES, INPUTS, TARGETS)
    torch.testing.assert_close(added, expected, rtol=1e-4, atol=1e-4)
    assert strict(FEATURES, TOKENS).equal(plain(FEATURES, TOKENS))
