"""BLEU, ROUGE-L, CIDEr and METEOR: by hand on small things, and equal to the published code on real ones."""

from __future__ import annotations

import json
import math
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.capmodel.metrics import SCORES, References, score
from captionbeam.capmodel.metrics.bleu import BleuCounts, add_counts, bleu, count_image
from captionbeam.capmodel.metrics.rouge import longest_common_subsequence, rouge_l
from captionbeam.schemas.errors import RequestError

DATA = os.environ.get("CAPTIONBEAM_DATA")
JAVA = shutil.which("java") is not None
needs_data = pytest.mark.skipif(not DATA, reason="CAPTIONBEAM_DATA does not name the folder of real data")


def words(text: str) -> list[str]:
    return text.split()


sentences = st.lists(st.sampled_from(["a", "dog", "runs", "on", "grass"]), min_size=1, max_size=9)


@needs_data
def test_a_thousand_published_captions_score_as_published():
    folder = Path(str(DATA))
    zipped = zipfile.ZipFile(folder / "coco-captions/captions_val2014.zip")
    annotations = json.loads(zipped.read("annotations/captions_val2014.json"))["annotations"]
    results = json.loads((folder / "metrics/fakecap_results.json").read_text())
    published = json.loads((folder / "metrics/fakecap_published.json").read_text())
    hypotheses = {str(row["image_id"]): row["caption"] for row in results}
    references: dict[str, list[str]] = {image: [] for image in hypotheses}
    for row in annotations:
        if str(row["image_id"]) in references:
            references[str(row["image_id"])].append(row["caption"])

    scores = References(references).evaluate(hypotheses, with_meteor=JAVA).to_dict()

    for name in ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr", *(["METEOR"] if JAVA else [])):
        assert scores[name] == pytest.approx(published["pycocoevalcap_1.2"][name], abs=1e-5)
        assert round(scores[name], 3) == published["published"][name]
    counts = published["counts"]
    assert scores["counts"] == {
        "testlen": counts["testlen"],
        "reflen": counts["reflen"],
        "guess": tuple(counts["guess"]),
        "correct": tuple(counts["correct"]),
    }


def test_bleu_counts_clip_by_the_richest_reference_and_take_the_closest_length():
    counts = count_image(
        words("the the the the"), [words("the cat"), words("the the dog"), words("a b c d e")]
    )
    assert counts == BleuCounts(testlen=4, reflen=3, guess=(4, 3, 2, 1), correct=(2, 1, 0, 0))


def test_bleu_of_a_corpus_is_not_the_mean_of_its_images():
    one = count_image(words("a dog"), [words("a dog")])
    two = count_image(words("a cat sat"), [words("the dog ran off")])
    total = add_counts([one, two])
    assert total == BleuCounts(testlen=5, reflen=6, guess=(5, 3, 1, 0), correct=(2, 1, 0, 0))
    assert bleu(total)[0] == pytest.approx(2 / 5 * math.exp(1 - 6 / 5))
    assert bleu(total)[1] == pytest.approx(math.sqrt(2 / 5 * 1 / 3) * math.exp(1 - 6 / 5))


def test_rouge_takes_the_best_precision_and_the_best_recall():
    references = [words("a dog runs on grass"), words("dog")]
    precision, recall = 2 / 2, 1 / 1
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l(words("dog runs"), references) == pytest.approx(expected)
    assert rouge_l(words("cat"), references) == 0.0
    assert rouge_l([], references) == 0.0


@given(sentences, sentences)
def test_the_longest_common_subsequence_is_that_of_the_table(left, right):
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, one in enumerate(left):
        for j, two in enumerate(right):
            table[i + 1][j + 1] = table[i][j] + 1 if one == two else max(table[i][j + 1], table[i + 1][j])
    assert longest_common_subsequence(left, right) == table[-1][-1]


def test_cider_by_hand():
    """Two images; every n-gram of image 1 is in its references alone, so that each idf is log 2."""
    references = {"1": ["red dog runs fast"], "2": ["two cats sleep here"]}
    scores = References(references).evaluate({"1": "red dog runs fast", "2": "red dog runs fast"}).images
    assert scores["1"]["CIDEr"] == pytest.approx(10.0)
    assert scores["2"]["CIDEr"] == 0.0


def test_cider_d_clips_and_punishes_length_where_the_original_does_neither():
    references = {"1": ["red dog"], "2": ["two cats"]}
    scores = References(references).evaluate({"1": "red red dog", "2": "two cats"}).images["1"]
    penalty = math.exp(-1 / (2 * 36))
    unigrams, bigrams = (1 + 1) / (math.sqrt(5) * math.sqrt(2)), 1 / math.sqrt(2)
    assert scores["CIDEr_D"] == pytest.approx(10 / 4 * (unigrams + bigrams) * penalty)
    assert scores["CIDEr_original"] == pytest.approx(10 / 4 * (3 / (math.sqrt(5) * math.sqrt(2)) + bigrams))
    assert scores["CIDEr"] == scores["CIDEr_D"]


@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(sentences, sentences, sentences), min_size=1))
def test_scores_stay_in_their_range_and_do_not_depend_on_the_images_order(rows):
    references = {image: [" ".join(one), " ".join(two)] for image, (_, one, two) in rows.items()}
    hypotheses = {image: " ".join(caption) for image, (caption, _, _) in rows.items()}
    scores = score(hypotheses, references)
    backwards = score(dict(reversed(hypotheses.items())), dict(reversed(references.items())))
    for name in SCORES:
        assert 0 <= scores[name] <= (10 if name.startswith("CIDEr") else 1) + 1e-9
        assert scores[name] == pytest.approx(backwards[name])


@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=4, max_size=7), min_size=1, max_size=4))
def test_a_caption_that_is_a_reference_is_perfect(captions):
    references = {str(at): [" ".join(one), "e f g h"] for at, one in enumerate(captions)}
    scores = score({str(at): " ".join(one) for at, one in enumerate(captions)}, references)
    assert [scores[name] for name in SCORES[:5]] == pytest.approx([1, 1, 1, 1, 1], abs=1e-6)


def test_both_sides_must_have_the_same_images():
    references = References({"1": ["a dog"], "2": ["a cat"]})
    with pytest.raises(RequestError, match="image '2' has no caption to score"):
        references.evaluate({"1": "a dog"})
    with pytest.raises(RequestError, match="image '3' has no reference"):
        references.cider({"1": "a dog", "2": "a cat", "3": "a bird"})


def test_an_image_without_references_cannot_be_scored():
    with pytest.raises(RequestError, match="image '2' has no reference"):
        References({"1": ["a dog"], "2": []})
    with pytest.raises(RequestError, match="no references at all"):
        score({}, {})
