"""What a refresh takes from a store's record, beside what its user names."""

from __future__ import annotations

import os
import re

import pytest

from captionbeam.jobs import cli
from captionbeam.jobs.options.recorded import repeat_limits, repeat_request, request_of, with_store
from captionbeam.jobs.ui.terminal import speak
from captionbeam.pipelines.bulk.run import Run, merged_request
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.layout import Snapshot
from tests.builders.data.stores import make_features

PHOTOS, LIST = {"source": "/photos"}, {"source": "/list.csv", "id_column": "name", "image_root": "/root"}


def snapshot(options=None, sources=(PHOTOS,)) -> Snapshot:
    request = {"job": "encode", "options": options or {}, "sources": list(sources)}
    return Snapshot(
        1, None, "r", "features", "parquet", "f", {}, "grid", (), (), (), {}, "now", request=request
    )


def repeated(words, newest):
    """The options of ``captionbeam refresh --output s WORDS``, the record taken into account."""
    return repeat_request(cli.parse(["refresh", "--output", "s", *words]), newest)


@pytest.fixture(autouse=True)
def printing():
    before = speak(True)
    yield
    speak(before)


def chosen(options, *names):
    return {name: getattr(options, name) for name in names}


def test_all_that_is_not_named_is_as_recorded(capsys):
    recorded = {"encoder": "resnet50", "layers": ["layer3", "layer4"], "dtype": "int8", "precision": "bf16"}
    options = repeated([], snapshot(recorded, [PHOTOS, LIST]))
    assert chosen(options, *recorded) == {**recorded, "layers": ("layer3", "layer4")}
    assert options.sources == ("/photos", "/list.csv")
    assert options.listings == (("/photos", {}), ("/list.csv", {"id_column": "name", "image_root": "/root"}))
    flags = "--encoder resnet50 --layers layer3,layer4 --dtype int8 --precision bf16 /photos /list.csv"
    own = "/list.csv with --image-root /root --id-column name"
    assert capsys.readouterr().out == f"as in the record of s: {flags}; {own}\n"


def test_options_that_all_sources_were_listed_with_are_said_once(capsys):
    kept = {"keep_columns": ["price", "sku"], "keep_exif": True}
    repeated([], snapshot({"encoder": "resnet50"}, [PHOTOS | kept, LIST | kept]))
    flags = "--encoder resnet50 --keep-columns price,sku --keep-exif /photos /list.csv"
    own = "/list.csv with --image-root /root --id-column name"
    assert capsys.readouterr().out == f"as in the record of s: {flags}; {own}\n"
    repeated(["/list.csv"], snapshot({"encoder": "resnet50"}, [PHOTOS, LIST]))
    assert capsys.readouterr().out == (
        "as in the record of s: --encoder resnet50 --image-root /root --id-column name\n"
    )


def test_what_is_named_wins_even_where_it_is_the_default():
    options = repeated(["--dtype", "float16", "--id-column", "key"], snapshot({"dtype": "int8"}, [LIST]))
    assert options.dtype == "float16"
    assert options.id_column == "key"
    assert options.listings == (("/list.csv", {"image_root": "/root"}),)


@pytest.mark.parametrize(
    ("words", "recorded", "expected"),
    [
        (["--logits"], {"pooled": True}, {"pooled": False, "logits": True}),
        (["--captioner", "hf:x"], {"bundle": "/b"}, {"bundle": None, "captioner": "hf:x"}),
        (["--bundle", "/c"], {"bundle": "/b", "n_best": 2}, {"bundle": "/c", "n_best": 2}),
        (
            ["--bundle", "/b"],
            {"captioner": "hf:x", "precision": "bf16", "n_best": 2},
            {"captioner": None, "precision": None, "n_best": 2},
        ),
        (["--bundle", "b/../c"], {"bundle": os.path.abspath("c"), "dtype": "int8"}, {"dtype": "int8"}),
        (["--method", "sample"], {"beam": 5, "n_best": 2}, {"beam": None, "n_best": 2}),
        (
            ["--encoder", "resnet34"],
            {"encoder": "resnet18", "weights": "/w", "image_size": 96, "reduce": "/c", "dtype": "int8"},
            {"encoder": "resnet34", "weights": None, "image_size": None, "reduce": None, "dtype": "int8"},
        ),
        (["--encoder", "resnet18"], {"encoder": "resnet18", "image_size": 96}, {"image_size": 96}),
        (["x"], {"features": "/f", "bundle": "/b"}, {"features": None, "bundle": "/b"}),
        (["--ignore-record"], {"encoder": "resnet18"}, {"encoder": None, "sources": ()}),
    ],
)
def test_what_is_named_takes_the_place_of_what_it_excludes(words, recorded, expected):
    assert chosen(repeated(words, snapshot(recorded)), *expected) == expected


def test_a_named_source_is_listed_whole_with_its_own_columns():
    listed = {**LIST, "limit": 5, "seed": 3, "inventory": ["/i"]}
    options = repeated(["/list.csv", "/new"], snapshot({}, [PHOTOS, listed]))
    assert options.listings == (("/list.csv", {"id_column": "name", "image_root": "/root"}), ("/new", {}))
    assert chosen(options, "limit", "seed", "inventory") == {"limit": None, "seed": None, "inventory": ()}


def test_a_part_of_the_sources_may_lack_the_recorded_columns():
    """``/photos`` has none, and a refresh of it alone is no mistake; a column that is named is expected there."""
    kept = {"keep_columns": ["price"]}
    newest = snapshot({}, [PHOTOS | kept, LIST | kept])
    assert repeated(["/photos"], newest).others
    assert not repeated(["/photos", "--keep-columns", "price"], newest).others
    assert not repeated(["/photos", "/list.csv"], newest).others
    assert not repeated([], newest).others


def test_sources_that_were_listed_differently_have_to_be_named():
    newest = snapshot({}, [{**PHOTOS, "limit": 5}, LIST])
    said = "the sources were listed with different --limit: /photos with 5 and /list.csv with None; expected --limit"
    with pytest.raises(RequestError, match=said):
        repeated([], newest)
    assert repeated(["--limit", "7"], newest).limit == 7
    assert repeated(["--retire", "/list.csv"], newest).limit == 5


def test_limits_of_what_is_read_are_repeated_where_all_sources_agree():
    options = cli.parse(["store", "retry-failures", "s"])
    differing = snapshot({}, [{**PHOTOS, "max_image_bytes": 9}, LIST])
    assert repeat_limits(options, differing).max_image_bytes == 64 << 20
    assert repeat_limits(options, snapshot({}, [{**PHOTOS, "max_image_bytes": 9}])).max_image_bytes == 9


def test_a_store_alone_is_the_output(tmp_path):
    url = make_features(str(tmp_path / "store"), ["a.jpg"]).url
    options = with_store(cli.parse(["refresh", url]))
    assert (options.output, options.sources) == (url, ())
    none = str(tmp_path / "none")
    for words, said in (
        (["refresh"], "no store is named"),
        (["refresh", none], f"{none!r} is not a store with a published snapshot"),
        (["refresh", url, "photos"], "no store is named"),
    ):
        with pytest.raises(RequestError, match=f"{re.escape(said)}; expected --output STORE"):
            with_store(cli.parse(words))


def test_a_copied_store_is_refreshed_from_what_was_copied_beside_it(tmp_path, capsys):
    """Its bundle and folder of pictures lie beside the copy; a list that was not copied stays where it was."""
    before, now = tmp_path / "work", tmp_path / "copy"
    url = make_features(str(now / "store"), ["a.jpg"]).url
    run_id = layout.newest_snapshot(url).run
    record = {"url": str(before / "store")}
    files.write_atomic(files.join(url, "plans", run_id, "run.json"), files.json_bytes(record))
    (now / "photos").mkdir()
    sources = [{"source": str(before / "photos")}, {"source": str(before / "list.csv")}]
    options = repeat_request(
        with_store(cli.parse(["refresh", url])), snapshot({"encoder": "resnet18"}, sources)
    )
    assert options.sources == (str(now / "photos"), str(before / "list.csv"))
    assert capsys.readouterr().out.splitlines() == [
        f"note: {url} was made at {before}/store; there is no copy of {before}/list.csv beside it, so "
        f"{before}/list.csv is used",
        f"as in the record of {url}: --encoder resnet18 {now}/photos {before}/list.csv",
    ]


class Made:
    """Of a job's work what its request is made of."""

    kind, names, spec = "features", ("/photos",), {"precision": "fp32"}


def test_a_request_has_what_decides_rows_and_no_more():
    words = ["photos", "--output", "s", "--encoder", "resnet50", "--weights", "none.pth", "--limit", "5"]
    how = [
        "--shard-size",
        "7",
        "--device",
        "cpu",
        "--max-failures",
        "1",
        "--fetch-tries",
        "2",
        "--format",
        "hdf5",
    ]
    options = cli.parse(["encode", *words, *how, "--storage-options", '{"gs": {"token": "secret"}}'])
    assert request_of(options, Made()) == {
        "job": "encode",
        "options": {"encoder": "resnet50", "weights": "none.pth", "precision": "fp32"},
        "sources": [{"source": "/photos", "limit": 5}],
    }
    words = ["--features", "f", "--output", "s", "--reduce", "c"]
    options = cli.parse(["encode", *words])
    here = os.getcwd()
    assert request_of(options, Made())["options"] == {"features": f"{here}/f", "reduce": f"{here}/c"}


def test_sources_of_all_runs_are_kept_but_retired_ones():
    run = Run("s", "r", "features", "parquet", "f", {}, "grid", (), 1, request=snapshot().request)
    earlier = snapshot({"dtype": "int8"}, [LIST]).request
    assert merged_request(earlier, run) == {"job": "encode", "options": {}, "sources": [LIST, PHOTOS]}
    retired = Run("s", "r", "features", "parquet", "f", {}, "grid", (), 1,
                  request=snapshot().request, retired=("/list.csv",))  # fmt: skip
    assert merged_request(earlier, retired)["sources"] == [PHOTOS]
    silent = Run("s", "r", "features", "parquet", "f", {}, "grid", (), 1)
    assert merged_request(earlier, silent) == earlier
