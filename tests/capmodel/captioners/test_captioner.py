import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from captionbeam.capmodel.bundles.bundle import Bundle
from captionbeam.capmodel.captioners.captioner import Captioner, resolve_captioner
from captionbeam.capmodel.encoders.encoder import Encoder, resolve_encoder, store_weights
from captionbeam.capmodel.generation.captions import DecodeOptions, generate
from captionbeam.schemas.errors import BundleError, FingerprintError, ImageError, OutOfMemory, RequestError
from captionbeam.schemas.fingerprint import fingerprint
from captionbeam.schemas.formats import arrow
from tests.builders.data.stores import make_features
from tests.builders.model.models import make_bundle, make_decoder, make_tokenizer
from tests.builders.model.models import make_features as grids

SPEC = {"name": "none", "weights_sha256": "0" * 64, "precision": "fp32"}
NAMES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]


@pytest.fixture
def url(tmp_path):
    """A bundle that captions features only."""
    return make_bundle((SPEC, None)).save(str(tmp_path / "bundle"))


def rows(count=3):
    """Features as a snapshot gives them."""
    return list(grids(count).numpy())


def captioned(captioner, items, names=NAMES):
    """The captions of all items, in one batch."""
    batch = [captioner.prepare(item) for item in items]
    return captioner.run(batch, names[: len(items)])["captions"].to_pylist()


def test_rows_of_features_become_captions_best_first(url):
    options = DecodeOptions(beam=3, n_best=2)
    captioner = Captioner.load(url, options, from_features=True, batch_size=4)
    bundle = Bundle.load(url)
    expected = generate(bundle.decoder, grids(4), options, NAMES[:4], bundle.tokenizer)
    assert captioned(captioner, rows(4)) == [
        [{"text": c.text, "logprob": np.float32(c.logprob), "tokens": c.tokens} for c in captions]
        for captions in expected
    ]


@pytest.mark.parametrize("keep_attention", [False, True])
def test_the_column_is_the_one_that_the_schema_says(url, keep_attention):
    options = DecodeOptions(keep_attention=keep_attention)
    captioner = Captioner.load(url, options, from_features=True, batch_size=2)
    column = captioner.run(rows(2), NAMES[:2])["captions"]
    assert captioner.schema.field(0).equals(arrow.captions_field(keep_attention))
    assert column.type == captioner.schema.field(0).type
    best = column.to_pylist()[0][0]
    if keep_attention:
        assert np.array(best["attention"]).shape == (len(best["tokens"]), 6)
        np.testing.assert_allclose(np.sum(best["attention"], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("options", [DecodeOptions(), DecodeOptions(method="sample", n_best=2)], ids=str)
def test_a_row_does_not_depend_on_how_full_its_batch_is(url, options):
    captioner = Captioner.load(url, options, from_features=True, batch_size=4)
    together = captioned(captioner, rows(4))
    alone = [captioned(captioner, [row], [name])[0] for row, name in zip(rows(4), NAMES, strict=False)]
    assert [[c["text"] for c in image] for image in alone] == [
        [c["text"] for c in image] for image in together
    ]
    assert captioned(captioner, rows(4)[:1]) == together[:1]


def test_every_batch_has_the_fixed_shape(url):
    captioner = Captioner.load(url, DecodeOptions(), from_features=True, batch_size=4)
    seen = []
    begin = captioner._decoder.begin
    captioner._decoder.begin = lambda features: seen.append(tuple(features.shape)) or begin(features)
    captioned(captioner, rows(3))
    captioned(captioner, rows(1))
    assert seen == [(4, 2, 3, 5)] * 2


def test_the_fingerprint_is_of_bundle_features_decoding_and_precision(url):
    bundle = Bundle.load(url)
    captioner = Captioner.load(url, DecodeOptions(beam=2), from_features=True)
    assert captioner.spec == {
        "bundle": bundle.sha256,
        "features": bundle.features_fingerprint,
        "decode": {"beam": 2},
    }
    assert captioner.fingerprint == fingerprint(captioner.spec)
    others = [
        Captioner.load(url, DecodeOptions(beam=3), from_features=True),
        Captioner.load(url, DecodeOptions(beam=2), from_features=True, precision="bf16"),
    ]
    assert len({captioner.fingerprint, *(other.fingerprint for other in others)}) == 3


def test_output_that_is_not_finite_names_the_image(tmp_path):
    decoder = make_decoder(make_tokenizer())
    with torch.no_grad():
        decoder.out_bias.fill_(torch.nan)
    url = make_bundle((SPEC, None), decoder=decoder).save(str(tmp_path / "bundle"))
    captioner = Captioner.load(url, DecodeOptions(), from_features=True)
    with pytest.raises(ImageError, match=r"the model's output for 'a\.jpg' is not finite"):
        captioner.run(rows(2), NAMES[:2])


def test_a_batch_that_does_not_fit_the_device_is_said_so_and_a_smaller_one_goes_on(url):
    captioner = Captioner.load(url, DecodeOptions(), from_features=True, batch_size=4)
    expected = captioned(captioner, rows(2))
    begin = captioner._decoder.begin

    def crowded(features):
        if len(features) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return begin(features)

    captioner._decoder.begin = crowded
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        captioned(captioner, rows(2))
    captioner.batch_size = 2
    texts = [image[0]["text"] for image in captioned(captioner, rows(2))]
    assert texts == [image[0]["text"] for image in expected]


def test_a_bundle_without_an_encoder_captions_no_images(url):
    for make in (
        lambda: Captioner.load(url, DecodeOptions()),
        lambda: resolve_captioner(url, DecodeOptions()),
    ):
        with pytest.raises(BundleError, match="holds no encoder; expected --features, or a bundle with one"):
            make()


def test_features_alone_need_no_encoders_libraries(url):
    code = (
        "import sys; from captionbeam.capmodel.captioners.captioner import Captioner; "
        "from captionbeam.capmodel.generation.captions import DecodeOptions; "
        f"Captioner.load({url!r}, DecodeOptions(), from_features=True); "
        "sys.exit('torchvision' in sys.modules or 'captionbeam.capmodel.encoders.encoder' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_options_that_the_bundle_cannot_follow_are_refused_on_the_launcher(tmp_path, url):
    store = make_features(str(tmp_path / "features"), NAMES, (2, 3, 5), spec=SPEC)
    with pytest.raises(RequestError, match="prefix 'a zebra' has a word that the model does not know"):
        resolve_captioner(url, DecodeOptions(prefix="a zebra"), store)


def test_features_made_otherwise_are_refused_and_the_difference_is_said(tmp_path, url):
    store = make_features(str(tmp_path / "features"), NAMES, (2, 3, 5), spec={**SPEC, "precision": "bf16"})
    with pytest.raises(FingerprintError, match="were made with precision bf16, not fp32; expected those"):
        resolve_captioner(url, DecodeOptions(), store)


@pytest.fixture(scope="module")
def sighted(tmp_path_factory):
    """A bundle with real eyes, small ones: EfficientNet-Lite0 at 64 pixels; its spec; its weights' URL."""
    folder = tmp_path_factory.mktemp("sighted")
    spec, state = resolve_encoder("efficientnet_lite0", image_size=64, precision="fp32")
    weights = store_weights(state, str(folder / "models"))
    tokenizer = make_tokenizer()
    bundle = make_bundle(
        (spec.to_dict(), weights),
        features_fingerprint=spec.fingerprint,
        decoder=make_decoder(tokenizer, spec.shape),
        tokenizer=tokenizer,
    )
    return SimpleNamespace(url=bundle.save(str(folder / "bundle")), spec=spec, weights=weights)


def picture(seed):
    """A JPEG of coloured noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((80, 70)).save(stream, "JPEG")
    return stream.getvalue()


def test_images_get_the_captions_that_their_features_get(sighted):
    options, pictures = DecodeOptions(n_best=2, keep_attention=True), [picture(seed) for seed in range(3)]
    captioner = Captioner.load(sighted.url, options, batch_size=4)
    encoder = Encoder.load(sighted.spec, sighted.weights, 4)
    features = encoder.run([encoder.prepare(image) for image in pictures], NAMES[:3])["grid"]
    from_rows = Captioner.load(sighted.url, options, from_features=True, batch_size=4)
    assert captioned(captioner, pictures) == captioned(from_rows, features)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_the_features_own_unless_it_is_asked_for(tmp_path, precision):
    spec = {**SPEC, "precision": precision}
    url = make_bundle((spec, None)).save(str(tmp_path / "bundle"))
    of_features = Captioner.load(url, DecodeOptions(), from_features=True)
    assert of_features.spec.get("precision", "fp32") == precision
    asked = Captioner.load(url, DecodeOptions(), from_features=True, precision="fp32")
    assert asked.spec.get("precision", "fp32") == "fp32"


def test_a_row_of_another_shape_is_one_images_failure(url):
    captioner = Captioner.load(url, DecodeOptions(), from_features=True)
    with pytest.raises(ImageError, match=r"features have shape \(2, 3, 4\); expected \(2, 3, 5\)"):
        captioner.prepare(np.zeros((2, 3, 4), np.float16))


def test_a_row_that_is_not_finite_is_one_images_failure(url):
    captioner = Captioner.load(url, DecodeOptions(), from_features=True)
    row = rows(1)[0].copy()
    row[0, 0, 0] = np.nan
    with pytest.raises(ImageError, match="features are not finite"):
        captioner.prepare(row)
