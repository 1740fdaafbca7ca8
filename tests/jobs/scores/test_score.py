"""``captionbeam score``, ``caption --score`` and ``--rerank``: tiny random BLIP, CLIP and SigLIP in bulk jobs."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from captionbeam.capmodel.captioners.huggingface.scorer import Scorer, resolve_scorer
from captionbeam.jobs import cli
from captionbeam.pipelines.maintenance.tables import export_schema
from captionbeam.schemas import Store
from captionbeam.schemas.store import layout
from tests.builders.model.scorers import save_scorer
from tests.builders.model.transformers_models import save_model

IMAGES = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = random.integers(0, 255, (30 + number, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"photos/{number}.png")
    (folder / "photos/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    save_model(folder / "blip")
    save_scorer(folder / "clip", "clip")
    save_scorer(folder / "siglip", "siglip")
    run(*caption(folder, folder / "plain"))
    run(*caption(folder, folder / "scored", "--score", f"hf:{folder / 'clip'}"))
    return folder


def caption(made, store, *arguments):
    return ["caption", made / "photos", "--captioner", f"hf:{made / 'blip'}", "--output", store, "--batch-size", 4,
            "--warn-failures", 1, "--shard-size", 3, "--n-best", 2, *arguments]  # fmt: skip


def score(store, model, *arguments):
    return ["score", store, "--with", f"hf:{model}", "--batch-size", 4, "--warn-failures", 1, *arguments]


def run(*arguments, status=0):
    """In this process, which has transformers loaded."""
    assert cli.main([str(argument) for argument in arguments]) == status


def rows(store):
    return {
        row["image_id"]: row["captions"]
        for batch in Store.open(str(store)).scan(["image_id", "captions"])
        for row in batch.to_pylist()
    }


def heights(store):
    """Pixels, as ``--keep-exif`` keeps them."""
    scan = Store.open(str(store)).scan(["image_id", "height"])
    return {row["image_id"]: row["height"] for batch in scan for row in batch.to_pylist()}


def without_scores(found):
    return {
        image: [{name: value for name, value in caption.items() if name != "score"} for caption in captions]
        for image, captions in found.items()
    }


def scores(found):
    return {image: [caption["score"] for caption in captions] for image, captions in found.items()}


def expected(made, kind, found):
    scorer = Scorer.load(resolve_scorer(str(made / kind)).folder, 4, "cpu")
    result = {}
    for image, captions in found.items():
        picture = scorer.image_features([scorer.prepare((made / "photos" / image).read_bytes())])
        texts, _ = scorer.text_features([caption["text"] for caption in captions])
        result[image] = scorer.scores(picture[[0] * len(captions)], texts).tolist()
    return result


@pytest.fixture
def copied(made, tmp_path):
    """The store of captions without scores, and the photographs: copies that a test may change."""
    shutil.copytree(made / "photos", tmp_path / "photos")
    run(*caption(made, tmp_path / "store")[:1], tmp_path / "photos", *caption(made, tmp_path / "store")[2:])
    return tmp_path / "store"


def test_captions_are_scored_as_they_are_made(made):
    found = rows(made / "scored")
    assert len(found) == IMAGES
    assert without_scores(found) == rows(made / "plain")
    assert scores(found) == expected(made, "clip", found)


def test_store_show_has_the_median_of_the_first_captions_scores(made, capsys):
    run("store", "show", made / "scored", "--json")
    (median,) = json.loads(capsys.readouterr().out)["scores"].items()
    first = [own[0] for own in scores(rows(made / "scored")).values()]
    assert median == ("captions", pytest.approx(float(np.median(first))))
    run("store", "show", made / "plain", "--json")
    assert json.loads(capsys.readouterr().out)["scores"] == {}


def test_a_store_is_scored_without_captioning_again(made, copied):
    before = rows(copied)
    (captioner,) = (copied / "models").glob("*/model.safetensors")
    captioner.write_bytes(b"the captioner is not even loaded")
    run(*score(copied, made / "siglip"))
    found = rows(copied)
    assert without_scores(found) == before
    assert scores(found) == expected(made, "siglip", found)
    store = Store.open(str(copied))
    (failure,) = store.failures().to_pylist()
    assert (failure["image_id"], store.snapshot.operation) == ("broken.png", "score")
    assert store.fingerprint != Store.open(str(made / "plain")).fingerprint
    commits = layout.load_commits(str(copied), [row["shard"] for row in store.shards])
    assert sum(commit.counts["captions_copied"] for commit in commits) == IMAGES


def test_scoring_equals_scoring_while_captioning_and_is_done_once(made, copied, capsys):
    run(*score(copied, made / "clip"))
    assert rows(copied) == rows(made / "scored")
    assert Store.open(str(copied)).fingerprint == Store.open(str(made / "scored")).fingerprint
    run(*score(copied, made / "clip"))
    assert "nothing to do" in capsys.readouterr().out


def test_another_scorer_replaces_the_scores(made, copied):
    run(*score(copied, made / "clip"))
    before = rows(copied)
    run(*score(copied, made / "siglip"))
    found = rows(copied)
    assert without_scores(found) == without_scores(before)
    assert scores(found) == expected(made, "siglip", found)


def test_captions_stay_where_images_have_gone_or_changed(made, copied, capsys):
    """Also when they are scored again: the other image does not score the captions."""
    before, photos = rows(copied), copied.parent / "photos"
    (photos / "2.png").unlink()
    shutil.copy(photos / "3.png", photos / "4.png")
    run(*score(copied, made / "clip"))
    capsys.readouterr()
    run(*score(copied, made / "clip"))
    found = rows(copied)
    assert without_scores(found) == before
    assert {image for image, own in scores(found).items() if own == [None, None]} == {"2.png", "4.png"}
    assert "those of 2 images left without score" in " ".join(
        capsys.readouterr().out.replace("│", " ").split()
    )


def test_exif_of_images_that_have_gone_or_changed_stays_that_of_the_captioned_file(made, tmp_path):
    shutil.copytree(made / "photos", photos := tmp_path / "photos")
    command = caption(made, tmp_path / "store", "--keep-exif")
    run(command[0], photos, *command[2:])
    before = heights(tmp_path / "store")
    (photos / "2.png").unlink()
    shutil.copy(photos / "3.png", photos / "4.png")
    run(*score(tmp_path / "store", made / "clip"))
    assert heights(tmp_path / "store") == before == {f"{number}.png": 30 + number for number in range(IMAGES)}


def test_empty_scores_are_tried_again_by_the_same_model_and_nothing_else_is(made, copied, capsys):
    photos = copied.parent / "photos"
    (photos / "2.png").rename(photos.parent / "2.png")
    run(*score(copied, made / "clip"))
    (photos.parent / "2.png").rename(photos / "2.png")
    capsys.readouterr()
    run(*score(copied, made / "clip"))
    assert rows(copied) == rows(made / "scored")
    assert "captions of 1 image copied" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    run(*score(copied, made / "clip"))
    assert "nothing to do" in capsys.readouterr().out


def test_captioning_a_scored_store_without_its_scorer_is_refused(made, copied, capsys):
    run(*score(copied, made / "clip"))
    capsys.readouterr()
    captions = [*caption(made, copied)[:1], copied.parent / "photos", *caption(made, copied)[2:]]
    run(*captions, status=2)
    assert "has scores, and this command gives none, or others; expected --score" in capsys.readouterr().err


def test_a_refresh_scores_what_is_new(made, copied):
    run(*score(copied, made / "clip"))
    shutil.copy(copied.parent / "photos/1.png", copied.parent / "photos/9.png")
    run("refresh", copied, "--batch-size", 4, "--warn-failures", 1)
    found = rows(copied)
    assert found["9.png"] == found["1.png"] == rows(made / "scored")["1.png"]


def test_rerank_orders_captions_by_score(made, tmp_path):
    run(*caption(made, tmp_path / "store", "--rerank", f"hf:{made / 'clip'}"))
    found = rows(tmp_path / "store")
    plain = rows(made / "scored")
    assert all(own == sorted(own, reverse=True) for own in scores(found).values())
    assert any(found[image] != plain[image] for image in plain)
    assert {image: sorted(own, key=lambda one: one["text"]) for image, own in found.items()} == {
        image: sorted(own, key=lambda one: one["text"]) for image, own in plain.items()
    }


def test_captions_are_made_again_where_they_are_no_longer_ordered_by_score(made, copied):
    run("refresh", copied, "--redo", "--rerank", f"hf:{made / 'clip'}", "--warn-failures", 1)
    assert rows(copied) != rows(made / "scored")
    run("refresh", copied, "--redo", "--score", f"hf:{made / 'clip'}", "--warn-failures", 1)
    assert rows(copied) == rows(made / "scored")


def test_captions_of_zip_members_with_kept_columns_are_scored(made, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", made / "photos")
    command = caption(made, tmp_path / "store", "--keep-exif")
    run(command[0], archive, *command[2:])
    before = rows(tmp_path / "store")
    kept = Store.open(str(tmp_path / "store")).kept
    run(*score(tmp_path / "store", made / "clip"))
    found = rows(tmp_path / "store")
    assert without_scores(found) == before
    assert Store.open(str(tmp_path / "store")).kept == kept
    assert scores(found) == scores(rows(made / "scored"))


@pytest.mark.parametrize("file_format", ["jsonl", "csv", "parquet"])
def test_exports_have_scores(made, tmp_path, file_format):
    run("store", "export", made / "scored", "--output", tmp_path / "out", "--format", file_format)
    schema = export_schema(Store.open(str(made / "scored")), file_format)
    if file_format == "csv":
        assert schema.field("score").type == pa.float32()
        header = next((tmp_path / "out").glob("*.csv")).read_text().partition("\n")[0]
        assert "score" in header.split(",")
    else:
        assert schema.field("captions").type.value_type.field("score").type == pa.float32()
    if file_format == "jsonl":
        (part,) = (tmp_path / "out").glob("*.jsonl")
        for line in map(json.loads, part.read_text().splitlines()):
            own = [caption["score"] for caption in line["captions"]]
            assert own == pytest.approx(scores(rows(made / "scored"))[line["image_id"]])


def test_the_report_and_scores_of_single_images_have_the_score(made, tmp_path):
    first = {image: own[0] for image, own in scores(rows(made / "scored")).items()}
    run("report", "--captions", made / "scored", "--output", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert {*re.findall(r">score (\d\.\d{3})<", page)} == {f"{score:.3f}" for score in first.values()}
    lines = [json.dumps({"image_id": image, "captions": ["a dog"]}) for image in first]
    (tmp_path / "references.jsonl").write_text("\n".join(lines))
    run("evaluate", "--captions", made / "scored", "--references", tmp_path / "references.jsonl",
        "--per-image", tmp_path / "images.jsonl")  # fmt: skip
    found = map(json.loads, (tmp_path / "images.jsonl").read_text().splitlines())
    assert {row["image_id"]: row["score"] for row in found} == first


def test_features_and_captions_of_features_are_refused(made, tmp_path, capsys):
    run("caption", "--features", made / "plain", "--bundle", made / "blip", "--output", tmp_path / "out",
        "--score", f"hf:{made / 'clip'}", status=2)  # fmt: skip
    assert "scores need the images, which --features does not read" in capsys.readouterr().err
    run(
        "caption",
        made / "photos",
        "--captioner",
        f"hf:{made / 'blip'}",
        "--score",
        f"hf:{made / 'blip'}",
        status=2,
    )
    assert "is a model of blip, which does not score" in capsys.readouterr().err


def test_evaluate_adds_clipscore_and_refclipscore(made, tmp_path, capsys):
    references = {"0.png": ["a dog runs", "two cats"], "1.png": ["a dog", "a red ball"]}
    lines = [json.dumps({"image_id": image, "captions": texts}) for image, texts in references.items()]
    (tmp_path / "references.jsonl").write_text("\n".join(lines))
    command = ["evaluate", "--captions", made / "plain", "--references", tmp_path / "references.jsonl", "--json",
               "--per-image", tmp_path / "images.jsonl"]  # fmt: skip
    run(*command, "--clip", f"hf:{made / 'clip'}")
    record = json.loads(capsys.readouterr().out)
    images = {
        row["image_id"]: row for row in map(json.loads, (tmp_path / "images.jsonl").read_text().splitlines())
    }
    captions = {image: found[0]["text"] for image, found in rows(made / "plain").items()}
    model = CLIPModel.from_pretrained(made / "clip").eval()
    pictures, tokenizer = (
        AutoImageProcessor.from_pretrained(made / "clip"),
        AutoTokenizer.from_pretrained(made / "clip"),
    )

    def unit(found):
        return torch.nn.functional.normalize(found.pooler_output, dim=-1)

    def texts(*own):
        given = tokenizer([f"A photo depicts {one}" for one in own], padding=True, truncation=True, max_length=40,
                          return_tensors="pt")  # fmt: skip
        return unit(model.get_text_features(**given))

    expected = {}
    for image, own in references.items():
        pixels = pictures(images=Image.open(made / "photos" / image), return_tensors="pt")
        with torch.no_grad():
            caption = texts(captions[image])[0]
            clip = 2.5 * max(0.0, float(unit(model.get_image_features(**pixels))[0] @ caption))
            nearest = max(0.0, float((texts(*own) @ caption).max()))
        expected[image] = clip, 2 * clip * nearest / (clip + nearest)
    found = {image: (row["CLIPScore"], row["RefCLIPScore"]) for image, row in images.items()}
    assert found == {image: pytest.approx(pair, abs=1e-5) for image, pair in expected.items()}
    means = [sum(pair[at] for pair in expected.values()) / 2 for at in (0, 1)]
    assert [record["CLIPScore"], record["RefCLIPScore"]] == pytest.approx(means, abs=1e-5)


def test_clipscore_needs_images_and_a_clip(made, tmp_path, capsys):
    store = shutil.copytree(made / "plain", tmp_path / "store")
    (tmp_path / "references.jsonl").write_text(json.dumps({"image_id": "0.png", "captions": ["a dog"]}))
    command = ["evaluate", "--captions", store, "--references", tmp_path / "references.jsonl"]
    run(*command, "--clip", f"hf:{made / 'siglip'}", status=2)
    assert "is a model of siglip; expected CLIP, of which CLIPScore is" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("[]")
    run(
        "evaluate",
        "--captions",
        tmp_path / "results.json",
        *command[3:],
        "--clip",
        f"hf:{made / 'clip'}",
        status=2,
    )
    assert "--clip reads the images that a store's captions are of" in capsys.readouterr().err
