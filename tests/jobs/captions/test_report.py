"""captionbeam report: one page that shows what a store holds, whatever lies behind it, and runs nothing."""

from __future__ import annotations

import base64
import html
import io
import re
import shutil
import subprocess
import zipfile
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captionbeam.capmodel.bundles.contents import store_bundle
from captionbeam.jobs.cli import main
from captionbeam.jobs.reporting.charts import histogram, line_chart, nice_ticks
from captionbeam.jobs.reporting.pictures import LONGEST_SIDE, Picture, looks, read_pictures, seen_window
from captionbeam.jobs.reporting.rows import choose
from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.formats import arrow
from tests.builders.data.captions import coco, write_json
from tests.builders.data.stores import make_answers, make_store
from tests.builders.model.models import make_bundle

EVIL = "<img src=x onerror=alert(1)>.jpg"
SCRIPT = "a <script>alert('x')</script> & a \"dog\""
HISTORY = [
    {"epoch": 1, "train_loss": 4.0, "val_loss": 3.5, "val_accuracy": 0.2, "CIDEr": 0.1, "Bleu_4": 0.05},
    {"epoch": 2, "train_loss": 3.0, "val_loss": 3.1, "val_accuracy": 0.3, "CIDEr": 0.3, "Bleu_4": 0.1},
]


def jpeg(path, size=(60, 40), colour=(200, 40, 40)) -> str:
    Image.new("RGB", size, colour).save(path)
    return str(path)


def written(text: str, logprob: float = -2.0, cells: int = 4) -> dict:
    tokens = text.split()
    attention = [np.eye(cells)[at % cells].tolist() for at in range(len(tokens))]
    return {"text": text, "logprob": logprob, "tokens": tokens, "attention": attention}


@pytest.fixture
def store(tmp_path):
    """Thirty images with captions and attention, one of them hostile, one gone, one in a zip, and two failures."""
    names = [f"{number:02}.jpg" for number in range(28)]
    items = {name: [written(f"a dog number {name[:2]} runs"), written("a dog", -3)] for name in names}
    locations = {name: jpeg(tmp_path / name) for name in names}
    items[EVIL], locations[EVIL] = [written(SCRIPT, -9.0)], str(tmp_path / "gone<b>.jpg")
    items["zipped.jpg"] = [written("two cats")]
    locations["zipped.jpg"] = f"zip://in/zipped.jpg::{tmp_path}/pictures.zip"
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.write(locations["00.jpg"], "in/zipped.jpg")
    items["broken<i>.jpg"] = ImageError("truncated", "decode", "<u>only half</u> is there")
    items["late.jpg"] = ImageError("timeout", "fetch", "no answer in 10 s")
    bundle = make_bundle(history=HISTORY)
    url, spec = str(tmp_path / "captions"), {"bundle": bundle.sha256, "decode": {"method": "beam", "beam": 3}}
    make_store(
        url, "captions", arrow.captions_field(True), items, spec=spec, locations=locations, shard_size=8
    )
    store_bundle(bundle.save(str(tmp_path / "bundle")), f"{url}/models")
    return url


@pytest.fixture
def references(tmp_path):
    captions = {f"{number:02}.jpg": [f"A dog number {number:02} runs.", "A cat"] for number in range(28)}
    return write_json(tmp_path / "references.json", coco({**captions, "x.jpg": ["Nobody's"]}))


def report(store, tmp_path, *arguments) -> str:
    path = tmp_path / "report.html"
    assert main(["report", "--captions", store, "--output", str(path), *map(str, arguments)]) == 0
    return path.read_text()


class Tags(HTMLParser):
    """All tags of a page with their attributes: what a browser would make elements of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, {name: value or "" for name, value in attributes}))


def text_of(page: str) -> str:
    """What a reader of the page reads."""
    without_style = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", without_style)).split())


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_a_page_shows_pictures_captions_scores_curves_failures_and_how_it_was_made(
    store, references, tmp_path
):
    page = report(store, tmp_path, "--references", references, "--images", 20)
    assert headings(page) == [
        "Where the model looked", "A sample", "Best 10", "Worst 10", "Scores and captions", "Training", "Failures",
        "How it was made",
    ]  # fmt: skip
    assert page.count('class="picture"') == 29
    text = text_of(page)
    shown = (
        "BLEU-4 1.00",
        "a dog number 07 runs",
        "A dog number 07 runs.",
        "images scored 28",
        "decoding, beam 3",
    )
    assert [part for part in shown if part not in text] == []
    assert (
        "left out: references of 1 image (such as 'x.jpg') without a caption, and captions of 2 images"
        in text
    )
    assert "truncated decode 1 broken<i>.jpg <u>only half</u> is there" in text
    assert "timeout transient fetch 1 late.jpg no answer in 10 s" in text
    charts = ["histogram, CIDEr", "histogram, words", "training, validation", "CIDEr", "validation", "BLEU-4"]
    assert re.findall(r'<svg[^>]*aria-label="(.*?)"', page) == charts


def test_whatever_a_store_says_is_text_and_never_markup(store, references, tmp_path):
    page = report(store, tmp_path, "--references", references, "--images", 40)
    tags = Tags(page).found
    assert not {tag for tag, _ in tags} & {"script", "img", "b", "i", "u", "iframe", "link", "object"}
    assert not [
        name for _, attributes in tags for name in attributes if name.startswith("on") or name == "src"
    ]
    assert {attributes["href"][0] for _, attributes in tags if "href" in attributes} == {"#"}
    assert "http" not in page.replace("http-equiv", "")
    text = text_of(page)
    assert SCRIPT in text
    assert EVIL in text


def test_pictures_are_small_jpegs_inside_the_page(tmp_path):
    big, broken = jpeg(tmp_path / "big.png", (2000, 1000)), tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing")
    whole, bad, gone = read_pictures([big, str(broken), str(tmp_path / "gone.jpg")], FetchOptions())
    image = Image.open(io.BytesIO(base64.b64decode(whole.data_uri.partition(",")[2])))
    assert (image.format, image.size) == ("JPEG", (LONGEST_SIDE, LONGEST_SIDE // 2))
    assert image.getpixel((9, 9)) == pytest.approx((200, 40, 40), abs=4)
    assert (bad.data_uri, bad.trouble.split(":")[0]) == ("", "decode")
    assert "not_found" in gone.trouble


def test_heat_maps_are_laid_over_what_the_encoder_saw():
    window = seen_window(Picture("data:", 400, 200), {"size": 150, "resize": 200})
    assert window == "266.67% 133.33%"


def test_attention_of_a_words_pieces_is_averaged():
    attention = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    seen = looks(["gi@@", "raffe", "eats"], attention)
    assert [look.word for look in seen] == ["giraffe", "eats"]
    first, second = (_heat(look.heat) for look in seen)
    assert first[0, 0] == first[0, -1] == second[-1, -1] == 63
    assert max(first[-1, 0], first[-1, -1], second[0, 0]) <= 1


def _heat(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.mark.parametrize("attention", [None, [[0.5, 0.5]], [[0.2] * 4, [0.2] * 4]])
def test_without_a_square_grid_for_each_token_there_are_no_heat_maps(attention):
    assert looks(["dog"], attention) == []


@given(st.dictionaries(st.text(max_size=3), st.tuples(st.floats(0, 9)), max_size=30), st.integers(0, 40))
def test_choices_do_not_overlap_and_the_ends_are_the_ends(ranking, sample):
    choice = choose(ranking, ranking, sample, ends=5)
    count = min(len(ranking), len(choice.best) + len(choice.worst) + sample)
    assert len(set(choice.ids)) == len(choice.ids) == count
    assert len(choice.best) + len(choice.worst) == min(10, len(ranking))
    middle = ranking.keys() - {*choice.best, *choice.worst}
    for image in middle:
        assert all(ranking[worse] <= ranking[image] for worse in choice.worst)
        assert all(ranking[better] >= ranking[image] for better in choice.best)


@given(st.integers(-(10**6), 10**6), st.integers(0, 10**6), st.sampled_from([1e-6, 1e-3, 1.0, 100.0]))
def test_ticks_span_their_values_in_equal_steps(low, span, unit):
    low, span = low * unit, span * unit
    ticks = nice_ticks(low, low + span)
    steps = np.diff(ticks)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + abs(low) * 1e-6
    assert ticks[-1] >= low + span - (abs(low) + span) * 1e-6
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)


def test_charts_escape_names_and_leave_out_what_is_no_number():
    drawing = line_chart({"<b>": [(1, 0.5), (2, float("nan")), (3, 1.0)], "empty": []}, best=3)
    assert "&lt;b&gt;, epoch 3: 1" in drawing
    assert "<b>" not in drawing
    assert drawing.count("<circle") == 2
    assert line_chart({"none": []}) == ""


def test_a_histogram_counts_what_is_beyond_its_last_bin_in_it():
    counts = re.findall(r"<title>(.*?)</title>", histogram([0, 0.4, 1, 9, 2], (0, 1, 2, 3), "words"))
    assert counts == ["0 to 1 words: 2", "1 to 2 words: 1", "2 and more words: 2"]


def test_a_store_without_its_bundle_or_attention_still_has_a_page(tmp_path):
    items = {"a.jpg": [{"text": "a dog", "logprob": -1.0, "tokens": ["a", "dog"]}], "b.jpg": []}
    make_store(str(tmp_path / "plain"), "captions", arrow.captions_field(), items)
    page = report(str(tmp_path / "plain"), tmp_path)
    assert headings(page) == ["Surest 1", "Scores and captions", "How it was made"]


def test_answers_to_a_prompt_have_a_page_without_probabilities(tmp_path, capsys):
    prompts = {"colour": {"text": "Which colour?"}, "kind": {"text": "What?", "schema": {"type": "object"}}}
    rows = {f"{n}.jpg": {"colour": [f"red {n}", "blue"], "kind": ['{"a": 1}']} for n in range(3)}
    store = make_answers(str(tmp_path / "answers"), rows, prompts).url
    page = report(store, tmp_path, "--column", "colour")
    assert headings(page) == ["A sample", "Scores and captions", "How it was made"]
    text = text_of(page)
    for part in ("answers: colour", "red 2", "model tiny", "prompt, colour Which colour?"):
        assert part in text
    assert "log p" not in text
    assert '{"a": 1}' in text_of(report(store, tmp_path, "--column", "kind"))
    capsys.readouterr()
    assert main(["report", "--captions", store, "--output", f"{tmp_path}/r.html"]) == 2
    said = (
        f"captionbeam: {store} has answers to several prompts; expected --column with one of colour, kind\n"
    )
    assert capsys.readouterr().err == said


def test_cards_show_what_stood_beside_the_pictures_in_the_input(tmp_path):
    items = {"a.jpg": [{"text": "a dog", "logprob": -1.0, "tokens": ["a", "dog"]}]}
    kept = pa.table(
        {"about": ["<b>long" * 20], "empty": [""], "nothing": [None], "price": [1.5], "size": [[4, 5]]}
    )
    make_store(str(tmp_path / "plain"), "captions", arrow.captions_field(), items, kept=kept)
    page = report(str(tmp_path / "plain"), tmp_path)
    assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.partition("<main>")[2]) == [
        ("about", html.escape(("<b>long" * 20)[:80]) + "..."), ("price", "1.5"), ("size", "[4, 5]"),
    ]  # fmt: skip


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.mark.engines
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to look at the page with")
def test_a_browser_makes_text_of_hostile_captions_and_finds_every_picture(store, references, tmp_path):
    report(store, tmp_path, "--references", references, "--images", 40)
    quiet = "no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync"
    command = [CHROMIUM, "--headless", *(f"--{flag}" for flag in quiet.split()), "--dump-dom"]
    command += [f"--user-data-dir={tmp_path}/profile", f"file://{tmp_path}/report.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    dom = done.stdout
    assert not {tag for tag, _ in Tags(dom).found} & {"script", "img", "b", "i", "u"}
    assert SCRIPT in text_of(dom)
    assert dom.count('class="picture"') == 29
    assert "Refused" not in done.stderr  # by the page's own security policy


def test_a_picture_that_is_gone_leaves_a_frame_that_says_why(store, tmp_path):
    page = report(store, tmp_path, "--images", 40)
    assert page.count('class="trouble"') == 1
    assert re.search(r"no picture</strong><span>fetch: not_found: .*gone&lt;b&gt;.jpg", page)
