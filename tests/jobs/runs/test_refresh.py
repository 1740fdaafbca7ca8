"""``captionbeam refresh`` through the console script: folders, zips and features that changed, kill -9."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from pathlib import Path
from tempfile import gettempdir

import pytest

from captionbeam.jobs import cli
from captionbeam.schemas import Store
from captionbeam.schemas.store import layout
from tests.builders.data.images import drawn, encoded
from tests.builders.model.models import bundle_for
from tests.builders.running.commands import ROOT, captionbeam, killed_at

IMAGES = 24
ENCODER = ["--encoder", "efficientnet_lite0", "--precision", "fp32", "--pooled", "--image-size", 64,
           "--shard-size", 4, "--warn-failures", 1]  # fmt: skip


def jpeg(number: int) -> bytes:
    return encoded(drawn(40 + number, 32), "JPEG")


def make_photos(folder: Path, prefix: str = "", images: int = IMAGES) -> Path:
    folder.mkdir(parents=True)
    for number in range(images):
        (folder / f"{prefix}{number:02d}.jpg").write_bytes(jpeg(number))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Photographs, two of them broken, and a store of their features."""
    folder = tmp_path_factory.mktemp("made")
    photos = make_photos(folder / "photos")
    for name in ("broken-0.jpg", "broken-1.jpg"):
        (photos / name).write_bytes(b"not a picture")
    captionbeam("encode", photos, "--output", folder / "store", *ENCODER)
    return folder


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the photographs at the place that the store knows, and of the store."""
    shutil.copytree(made / "store", tmp_path / "store")
    kept = tmp_path / "kept"
    shutil.copytree(made / "photos", kept)
    yield made / "photos", tmp_path / "store"
    shutil.rmtree(made / "photos")
    shutil.copytree(kept, made / "photos")


def refresh(source, store, *arguments, status=0):
    return captionbeam("refresh", source, "--output", store, *ENCODER, *arguments, status=status)


def versions(store, number=None):
    """What a reader sees: version by image, each once."""
    found = [
        row
        for batch in Store.open(str(store), number).scan(["image_id", "version"])
        for row in batch.to_pylist()
    ]
    assert len(found) == len({row["image_id"] for row in found})
    return {row["image_id"]: row["version"] for row in found}


def failed(store):
    return sorted(Store.open(str(store)).failures().column("image_id").to_pylist())


def tree(folder):
    """Every file below ``folder`` with its hash."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def shown(output: str) -> dict[str, str]:
    """The rows of the table that a job prints."""
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in output.splitlines() if "│" in line]
    return {name: value for name, value in rows if name}


def test_a_folder_that_changed(copied):
    photos, store = copied
    before = versions(store)
    data = tree(store / "data")

    relative = os.path.relpath(photos, ROOT) + "/"
    said = f"nothing to do: 24 images of {store} are done and 2 failed (--retry-failures tries them again)\n"
    assert said in refresh(relative, store).stdout
    assert layout.snapshot_ids(str(store)) == [1]

    (photos / "03.jpg").unlink()
    (photos / "broken-0.jpg").unlink()
    (photos / "05.jpg").write_bytes(jpeg(50))
    (photos / "new.jpg").write_bytes(jpeg(60))
    reading = Store.open(str(store)).scan(["image_id"])
    seen = next(reading).column(0).to_pylist()

    there = tree(store)
    planned = shown(refresh(photos, store, "--plan", "--price-per-hour", 3).stdout)
    assert [planned[kind] for kind in ("new", "changed", "gone", "unchanged")] == ["1", "1", "2", "23"]
    assert planned["shards"] == "1"
    assert planned["bytes to read"] == f"{(len(jpeg(50)) + len(jpeg(60))) / 1000:.1f} kB"
    assert {"time", "cost"} <= planned.keys()
    assert tree(store) == there

    done = shown(refresh(photos, store).stdout)
    assert done["listing"] == "1 new, 1 changed, 2 gone, 23 unchanged"
    assert done["rows"] == "2 in 1 shard"
    after = versions(store)
    assert {name for name in before if after.get(name) != before[name]} == {"03.jpg", "05.jpg"}
    assert after.keys() - before.keys() == {"new.jpg"}
    assert failed(store) == ["broken-1.jpg"]
    assert Store.open(str(store)).snapshot.operation == "refresh"
    assert tree(store / "data").items() >= data.items(), "data files are never rewritten"

    seen += [name for batch in reading for name in batch.column(0).to_pylist()]
    assert sorted(seen) == sorted(before), "a reader keeps its snapshot"
    assert versions(store, 1) == before

    (photos / "new.jpg").unlink()
    done = refresh(photos, store).stdout
    assert shown(done)["listing"] == "0 new, 0 changed, 1 gone, 24 unchanged"
    assert "nothing to do" not in done
    assert "new.jpg" not in versions(store)

    (photos / "03.jpg").write_bytes(jpeg(3))
    refresh(photos, store)
    assert sorted(versions(store)) == sorted(before), "what came back is there again"


def test_a_copy_of_photographs_and_store_costs_a_reading(tmp_path):
    photos, store = make_photos(tmp_path / "work" / "photos", images=5), tmp_path / "work" / "store"
    captionbeam("encode", photos, "--output", store, *ENCODER)
    shutil.copytree(tmp_path / "work", tmp_path / "copy", copy_function=shutil.copy)
    copy = tmp_path / "copy" / "photos"
    (copy / "00.jpg").write_bytes(jpeg(50))
    done = refresh(copy, tmp_path / "copy" / "store").stdout
    assert f"rows of {photos} count as those of {copy}" in done
    assert shown(done)["listing"] == "0 new, 5 changed, 0 gone, 0 unchanged"
    assert shown(done)["reused"].startswith("4 rows copied")
    assert "nothing to do" in refresh(copy, tmp_path / "copy" / "store").stdout
    assert versions(tmp_path / "copy" / "store").keys() == {path.name for path in copy.iterdir()}


def test_a_sample_deletes_nothing(copied):
    photos, store = copied
    (photos / "03.jpg").unlink()
    done = refresh(photos, store, "--limit", 3)
    assert "none is deleted" in done.stdout
    assert "03.jpg" in versions(store)


def test_more_gone_than_allowed_is_held_back_and_published_on_request(copied):
    photos, store = copied
    for number in range(6):
        (photos / f"{number:02d}.jpg").unlink()
    (photos / "new.jpg").write_bytes(jpeg(60))
    plan = refresh(photos, store, "--plan").stdout
    gone = "6 of 26 images are gone from the listing; expected at most 0.1 to go (--max-deletes)"
    assert f"note: {gone}: this refresh would not be published" in plan
    redo = refresh(photos, store, "--plan", "--image-size", 96).stdout
    assert "the snapshot would have 21 rows, its parent has 24; expected at most 0.1 to go" in redo
    held = refresh(photos, store, status=1)
    assert (
        "6 of 26 images are gone from the listing ('00.jpg', '01.jpg', '02.jpg', ...); expected at most 0.1 to go "
        "(--max-deletes)"
    ) in held.stderr
    assert "Traceback" not in held.stderr
    assert layout.snapshot_ids(str(store)) == [1]
    assert "would be held back" not in refresh(photos, store, "--plan", "--max-deletes", 6).stdout
    done = refresh(photos, store, "--max-deletes", 6)
    assert shown(done.stdout)["images"].startswith("0 in"), "the new image was kept"
    assert len(versions(store)) == IMAGES - 6 + 1


def zip_of(path: Path, numbers, compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for number in numbers:
            archive.writestr(
                zipfile.ZipInfo(f"in-zip/{number}.jpg", (1999 + compression, 1, 1, 0, 0, 0)), jpeg(number)
            )
    return path


def test_a_zip_beside_a_folder(copied, tmp_path):
    """Packed again with the same pictures it is the same; what goes from it leaves the folder's rows alone."""
    photos, store = copied
    archive = zip_of(tmp_path / "more.zip", range(20))
    refresh(archive, store)
    assert len(versions(store)) == IMAGES + 20
    zip_of(archive, reversed(range(20)), zipfile.ZIP_DEFLATED)
    assert "nothing to do" in refresh(archive, store).stdout
    (photos / "03.jpg").unlink()
    zip_of(archive, range(1, 20))
    assert shown(refresh(archive, store).stdout)["listing"] == "0 new, 0 changed, 1 gone, 19 unchanged"
    assert {"03.jpg", "04.jpg"} <= versions(store).keys()
    assert "in-zip/0.jpg" not in versions(store)
    refused = refresh(archive, store, "--image-size", 96, status=2)
    assert f"and the rows of {photos} lost" in refused.stderr
    moved = shutil.copytree(photos, tmp_path / "moved")
    (moved / "04.jpg").write_bytes(jpeg(70))
    refused = refresh(moved, store, status=2)
    assert f"image '04.jpg' of {moved} would replace another one of {photos}" in refused.stderr
    refresh(moved, store, "--retire", photos)
    assert "03.jpg" not in versions(store)
    assert len(versions(store)) == IMAGES - 1 + 19
    (moved / "05.jpg").unlink()
    assert "1 gone" in refresh(moved, store).stdout, "its rows are the new source's now"


def test_another_option_does_all_again_whatever_kills_it(copied):
    photos, store = copied
    before, spec = versions(store), Store.open(str(store)).spec
    options = ["refresh", photos, "--output", store, *ENCODER, "--image-size", 96]
    refused = captionbeam(*options, status=2).stderr
    assert f"all 26 images of {store} would be processed again: " in refused
    assert "expected --redo to do so" in refused
    command = [*options, "--redo"]
    said = killed_at("between index and commit", 4, *command)
    size = spec["preprocess"]["size"]
    assert f"all 26 images of {store} are processed again: " in said
    assert f"preprocess.size {size} -> 96" in said
    assert versions(store) == before
    plan = captionbeam(*options, "--plan").stdout
    assert "held back" not in plan, "what the killed run has done is not gone"
    done = shown(captionbeam(*command).stdout)
    assert done["rows"].endswith("in 4 shards")
    assert versions(store) == before
    new = Store.open(str(store))
    assert (new.snapshot_id, new.snapshot.parent, new.spec["preprocess"]["size"]) == (2, 1, 96)
    assert len(new.snapshot.manifests) == 1
    assert failed(store) == ["broken-0.jpg", "broken-1.jpg"]
    assert Store.open(str(store), 1).spec == spec
    assert versions(store, 1) == before
    assert "nothing to do" in captionbeam(*command).stdout


def test_a_canary_says_what_all_would_cost_and_leaves_no_trace(copied):
    photos, store = copied
    there, places = tree(store), set(Path(gettempdir()).glob("captionbeam-*"))
    done = refresh(photos, store, "--image-size", 96, "--canary", 6, "--price-per-hour", 3600)
    rows = shown(done.stdout)
    assert rows["canary"].startswith("6 images in ")
    assert rows["new"] == "26"
    rate = float(rows["canary"].split()[-2])
    assert rows["time"].endswith("of one worker like the canary's")
    assert float(rows["cost"]) == pytest.approx(26 / rate, rel=0.1)
    assert tree(store) == there
    assert set(Path(gettempdir()).glob("captionbeam-*")) <= places


def test_captions_follow_their_images_and_their_features(made, tmp_path):
    photos = make_photos(tmp_path / "photos", images=12)
    features, captions, direct = tmp_path / "features", tmp_path / "captions", tmp_path / "direct"
    encoder = ["--encoder", "efficientnet_lite0", "--precision", "fp32", "--image-size", 64]
    captionbeam("encode", photos, "--output", features, *encoder)
    bundle_for(features, tmp_path / "bundle")
    of_features = ["refresh", "--features", features, "--bundle", tmp_path / "bundle", "--output", captions]
    of_images = ["refresh", photos, "--bundle", tmp_path / "bundle", "--output", direct, "--publish-anyway"]
    for command in (of_features, of_images):
        assert shown(captionbeam(*command).stdout)["listing"] == "12 new, 0 changed, 0 gone, 0 unchanged"

    (photos / "03.jpg").unlink()
    (photos / "05.jpg").write_bytes(jpeg(50))
    captionbeam("refresh", photos, "--output", features, *encoder)
    for command, found in ((of_features, captions), (of_images, direct)):
        done = shown(captionbeam(*command).stdout)
        assert done["listing"] == "0 new, 1 changed, 1 gone, 10 unchanged"
        assert versions(found) == versions(features)
    done = captionbeam(*of_images, "--beam", 2, "--plan").stdout
    assert "are processed again: --beam 3 -> 2" in done
    assert layout.snapshot_ids(str(direct)) == [1, 2]

    repeated = captionbeam("refresh", captions).stdout
    assert f"as in the record of {captions}: --bundle {tmp_path}/bundle --features {features} " in repeated
    assert "nothing to do" in repeated
    captionbeam("refresh", "--output", captions, "--n-best", 2, "--redo", "--publish-anyway")
    assert "nothing to do" in captionbeam("refresh", captions).stdout, "the new option is of the record now"
    assert (
        "--n-best 2 -> 1; expected --redo" in captionbeam("refresh", captions, "--n-best", 1, status=2).stderr
    )
    assert "nothing to do" in captionbeam("refresh", direct, "--publish-anyway").stdout


def test_a_store_alone_repeats_the_sources_and_options_of_all_its_runs(copied, tmp_path):
    """Two encodes of two sources, one of them a list with columns and a root of its own."""
    photos, store = copied
    more = make_photos(tmp_path / "more", "m", 4)
    (tmp_path / "list.csv").write_text("name,path\n" + "".join(f"n{n},m{n:02d}.jpg\n" for n in range(4)))
    listed = [tmp_path / "list.csv", "--id-column", "name", "--image-root", more]
    captionbeam("encode", *listed, "--output", store, *ENCODER)
    assert Store.open(str(store)).snapshot.request == {
        "job": "encode",
        "options": {"encoder": "efficientnet_lite0", "image_size": 64, "pooled": True, "precision": "fp32"},
        "sources": [
            {"source": str(photos)},
            {"source": str(tmp_path / "list.csv"), "id_column": "name", "image_root": str(more)},
        ],
    }
    (photos / "03.jpg").unlink()
    (more / "m02.jpg").write_bytes(jpeg(50))
    done = captionbeam("refresh", store, "--warn-failures", 1).stdout
    flags = "--encoder efficientnet_lite0 --image-size 64 --pooled --precision fp32"
    own = f"{tmp_path / 'list.csv'} with --image-root {more} --id-column name"
    said = f"{flags} {photos} {tmp_path / 'list.csv'}; {own}"
    assert f"as in the record of {store}: {said}\n" in done
    assert shown(done)["listing"] == "0 new, 1 changed, 1 gone, 28 unchanged"
    assert {"n0", "n1", "n2", "n3"} <= versions(store).keys()

    one = captionbeam("refresh", photos, "--output", store, "--warn-failures", 1).stdout
    assert shown(one)["listing"] == "0 new, 0 changed, 0 gone, 25 unchanged", "of this source alone"
    retire = ["--retire", tmp_path / "list.csv", "--max-deletes", 4, "--warn-failures", 1]
    captionbeam("refresh", "--output", store, *retire)
    assert "n0" not in versions(store)
    assert Store.open(str(store)).snapshot.request["sources"] == [{"source": str(photos)}]


def test_a_part_of_a_source_stays_the_part_until_the_source_is_named(tmp_path):
    photos, store = make_photos(tmp_path / "photos", images=6), tmp_path / "store"
    captionbeam("encode", photos, "--output", store, *ENCODER, "--limit", 2, "--seed", 3)
    assert "nothing to do: all 2 images" in captionbeam("refresh", store).stdout
    make_photos(tmp_path / "more", "m", 2)
    captionbeam("encode", tmp_path / "more", "--output", store, *ENCODER)
    refused = captionbeam("refresh", store, status=2).stderr
    assert "the sources were listed with different --" in refused
    captionbeam("refresh", photos, "--output", store)
    assert len(versions(store)) == 8
    assert "nothing to do" in captionbeam("refresh", store).stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([__file__], "a refresh needs one of --encoder (for features) and --bundle or --captioner"),
        (["--encoder", "resnet50"], "no source is named"),
    ],
)
def test_a_wrong_request_is_one_sentence(arguments, sentence, capsys):
    assert cli.main(["refresh", "--output", "store", *arguments]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.engines
@pytest.mark.parametrize("point", ["while planning", "between the last commit and the snapshot"])
def test_killed_and_started_again(copied, point):
    photos, store = copied
    before = versions(store)
    (photos / "03.jpg").unlink()
    (photos / "05.jpg").write_bytes(jpeg(50))
    command = ["refresh", photos, "--output", store, *ENCODER]
    killed_at(point, 1, *command)
    assert layout.snapshot_ids(str(store)) == [1]
    assert versions(store) == before
    captionbeam(*command)
    after = versions(store)
    assert {name for name in before if after.get(name) != before[name]} == {"03.jpg", "05.jpg"}
    assert Store.open(str(store)).totals["rows"] == len(after) == IMAGES - 1
