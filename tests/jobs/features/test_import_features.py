"""``captionbeam import-features``: arrays of every kind become a store, to train on and to caption from."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from captionbeam.capmodel.training.worker import save_bundle
from captionbeam.jobs.cli import main
from captionbeam.pipelines.features import array_reads
from captionbeam.schemas import Store
from captionbeam.schemas.errors import SystemicError
from captionbeam.schemas.store import layout
from tests.builders.model.training import make_tokens, numbered_captions, tiny_options, train_alone

GRIDS = np.random.default_rng(1).normal(size=(10, 2, 3, 4)).astype(np.float32)
IDS = [f"photos/{number}.jpg" for number in range(len(GRIDS))]


def rows(store: Path, snapshot: int | None = None) -> dict[str, np.ndarray]:
    """The published features by id."""
    opened = Store.open(str(store), snapshot)
    found = {}
    for batch in opened.scan(["image_id", opened.column]):
        grids = batch.column(opened.column).to_numpy_ndarray()
        found.update(zip(batch.column("image_id").to_pylist(), grids.copy(), strict=True))
    return found


def same(seen: dict[str, np.ndarray], expected: np.ndarray, ids: list[str] = IDS) -> None:
    assert sorted(seen) == sorted(ids)
    for name, row in zip(ids, expected, strict=True):
        assert seen[name].dtype == np.float16
        np.testing.assert_array_equal(seen[name], row.astype(np.float16))


@pytest.fixture
def command(tmp_path):
    """An array and its ids in ``tmp_path``, and the command that imports them."""
    np.save(tmp_path / "a.npy", GRIDS)
    (tmp_path / "ids.txt").write_text("\n".join(IDS))
    return ["import-features", str(tmp_path / "a.npy"), "--ids", str(tmp_path / "ids.txt"), "--output",
            str(tmp_path / "store"), "--fingerprint", "vgg16 conv5_3", "--shard-size", "4"]  # fmt: skip


# Every kind of array


def test_an_npy_of_grids(command, tmp_path):
    assert main(command) == 0
    store = Store.open(str(tmp_path / "store"))
    same(rows(tmp_path / "store"), GRIDS)
    assert (store.kind, store.column, store.shape) == ("features", "grid", (2, 3, 4))
    assert store.spec == {"imported": "vgg16 conv5_3", "output": "grid", "shape": [2, 3, 4]}
    (batch,) = [
        batch for batch in store.scan(["image_id", "uri", "source"]) if IDS[0] in batch[0].to_pylist()
    ]
    assert batch.to_pylist()[0] == {
        "image_id": IDS[0],
        "uri": f"{tmp_path}/a.npy#row=0",
        "source": f"{tmp_path}/a.npy",
    }


# Columns of the ids' list


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns_of_the_list_of_ids_are_kept_and_follow_it(command, tmp_path, kind):
    def write(first_price):
        values = {
            "image_id": IDS,
            "sku": [f"{n:03d}" for n in range(10)],
            "Price": [first_price, *range(1, 10)],
        }
        frame = pd.DataFrame(values)
        if kind == "csv":
            frame.to_csv(tmp_path / "ids.csv", index=False)
        elif kind == "jsonl":
            frame.to_json(tmp_path / "ids.jsonl", orient="records", lines=True)
        else:
            frame.to_parquet(tmp_path / "ids.parquet")

    command[3] = str(tmp_path / f"ids.{kind}")
    command += ["--keep-columns", "sku,price"]
    write(0)
    assert main(command) == 0
    store = Store.open(str(tmp_path / "store"))
    assert [(field.name, str(field.type)) for field in store.kept] == [("Price", "int64"), ("sku", "string")]
    same(rows(tmp_path / "store"), GRIDS)
    write(99)
    assert main(command) == 0
    prices = {
        row["image_id"]: row["Price"]
        for batch in Store.open(str(tmp_path / "store")).scan(["image_id", "Price"])
        for row in batch.to_pylist()
    }
    assert prices == dict(zip(IDS, [99, *range(1, 10)], strict=True))
    newest = max(
        (tmp_path / "store" / "plans").glob("*/totals.json"), key=lambda path: path.stat().st_mtime_ns
    )
    totals = json.loads(newest.read_text())
    assert (totals["images"], totals["columns"]["images"]) == (0, 1)


def test_columns_that_no_list_of_ids_has_are_one_sentence(command, tmp_path, capsys):
    (tmp_path / "ids.csv").write_text("\n".join(["image_id,price", *(f"{name},1" for name in IDS)]))
    np.savez(tmp_path / "both.npz", x=GRIDS, ids=np.array(IDS))
    command[3] = str(tmp_path / "ids.csv")
    assert main([*command, "--keep-columns", "cost"]) == 2
    assert "has no column 'cost' to keep; expected some of 'image_id', 'price'" in capsys.readouterr().err
    assert main(["import-features", f"{tmp_path}/both.npz", *command[4:], "--keep-columns", "all"]) == 2
    assert "the ids are in arrays, which have no columns to keep" in capsys.readouterr().err


# Again, and after an end


def test_a_changed_file_is_done_again_and_its_new_rows_are_added(command, tmp_path, capsys):
    assert main(command) == 0
    assert main(command) == 0
    assert "nothing to do: all 10 images" in capsys.readouterr().out
    np.save(tmp_path / "a.npy", np.concatenate([GRIDS + 1, GRIDS[:1]]))
    (tmp_path / "ids.txt").write_text("\n".join([*IDS, "new.jpg"]))
    assert main(command) == 0
    same(rows(tmp_path / "store"), np.concatenate([GRIDS + 1, GRIDS[:1]]), [*IDS, "new.jpg"])
    same(rows(tmp_path / "store", 1), GRIDS)


def test_an_import_that_ended_in_the_middle_goes_on(command, tmp_path, monkeypatch, capsys):
    """What was committed is kept: the second run reads the rest alone."""
    read, asked = array_reads.read_rows, []

    def breaking(array, start, stop):
        if len(asked) == 1:
            raise SystemicError("the disk is gone")
        asked.append((start, stop))
        return read(array, start, stop)

    monkeypatch.setattr(array_reads, "read_rows", breaking)
    assert main(command) == 1
    assert "the disk is gone" in capsys.readouterr().err
    assert layout.snapshot_ids(str(tmp_path / "store")) == []
    (first,) = asked
    monkeypatch.setattr(array_reads, "read_rows", read)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"{len(GRIDS) - (first[1] - first[0])} in 0:0" in said
    same(rows(tmp_path / "store"), GRIDS)


def test_rows_that_hold_what_is_no_number_are_failures_of_theirs(command, tmp_path, capsys):
    odd = GRIDS.copy()
    odd[3, 1, 1, 1], odd[7, 0, 0, 0] = np.nan, 1e9
    np.save(tmp_path / "a.npy", odd)
    assert main(command) == 3  # a fifth of them failed
    failures = Store.open(str(tmp_path / "store")).failures().to_pylist()
    assert {row["image_id"]: (row["stage"], row["code"], row["message"]) for row in failures} == {
        IDS[3]: ("decode", "decode", "1 of 24 numbers are not finite in float16, the first is nan"),
        IDS[7]: ("decode", "decode", "1 of 24 numbers are not finite in float16, the first is 1000000000.0"),
    }
    capsys.readouterr()
    assert main(["store", "retry-failures", str(tmp_path / "store"), "--all"]) == 2
    assert "expected captionbeam import-features again, with --retry-failures" in capsys.readouterr().err
    good = [number for number in range(10) if number not in (3, 7)]
    same(rows(tmp_path / "store"), GRIDS[good], [IDS[number] for number in good])


# What it refuses


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--fingerprint": "resnet"}, ", not resnet; expected the same"),
        ({"--grid": "2x3"}, "is [10, 2, 3, 4]; expected no --grid"),
        ({"--ids": None}, "has no ids; expected --ids FILE with one for each of its 10 rows"),
    ],
)
def test_a_wrong_request_is_one_sentence(change, sentence, made, capsys):
    words = dict(zip(made[2::2], made[3::2], strict=True)) | change
    flags = [word for name, value in words.items() if value is not None for word in (name, value)]
    assert main([*made[:2], *flags]) == 2
    assert sentence in capsys.readouterr().err


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The command of a store that is there."""
    folder = tmp_path_factory.mktemp("made")
    np.save(folder / "a.npy", GRIDS)
    (folder / "ids.txt").write_text("\n".join(IDS))
    command = ["import-features", str(folder / "a.npy"), "--ids", str(folder / "ids.txt"), "--output",
               str(folder / "store"), "--fingerprint", "mine"]  # fmt: skip
    assert main(command) == 0
    return command


# What such a store is for


def test_a_captioner_of_imported_features_captions_features_and_says_why_not_images(tmp_path, capsys):
    captions = numbered_captions(20, 4)
    grids = np.random.default_rng(2).random((len(captions), 2, 2, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", grids)
    np.save(tmp_path / "ids.npy", np.array(list(captions)))
    store, bundle = str(tmp_path / "features"), str(tmp_path / "bundle")
    assert main(["import-features", str(tmp_path / "a.npy"), "--ids", str(tmp_path / "ids.npy"), "--fingerprint",
                 "my net", "--output", store]) == 0  # fmt: skip
    make_tokens(str(tmp_path / "tokens"), captions)
    data = {"features": store, "tokens": str(tmp_path / "tokens")}
    trainer, _ = train_alone(tiny_options(data, tmp_path, epochs=1))
    save_bundle(trainer, [{"epoch": 1, "val_loss": 1.0, "CIDEr": 0.1}])
    assert (
        main(["caption", "--features", store, "--bundle", bundle, "--output", str(tmp_path / "captions")])
        == 0
    )
    assert sorted(Store.open(str(tmp_path / "captions")).ids()) == sorted(captions)
    assert "my net" in (tmp_path / "bundle" / "README.md").read_text()
    (tmp_path / "one.jpg").write_bytes(b"")
    capsys.readouterr()
    assert (
        main(["caption", str(tmp_path / "one.jpg"), "--bundle", bundle, "--output", str(tmp_path / "c")]) == 2
    )
    assert capsys.readouterr().err == (
        f"captionbeam: the bundle {bundle!r} was trained on features imported as 'my net': there is no encoder for "
        "them here; expected --features with features that were imported under that name\n"
    )
    record = next(Path(store).glob("plans/*/run.json"))
    assert json.loads(record.read_text())["options"]["fingerprint"] == "my net"


def test_a_compressed_npz_with_channels_first(tmp_path):
    np.savez_compressed(
        tmp_path / "a.npz", features=GRIDS.astype(np.float64).transpose(0, 3, 1, 2), ids=np.array(IDS)
    )
    assert main(["import-features", str(tmp_path / "a.npz"), "--channels-first", "--fingerprint", "mine", "--output",
                 str(tmp_path / "store")]) == 0  # fmt: skip
    same(rows(tmp_path / "store"), GRIDS)


def test_vectors_with_ids_in_a_column(tmp_path):
    np.save(tmp_path / "a.npy", GRIDS.reshape(10, -1))
    (tmp_path / "ids.csv").write_text("file,split\n" + "".join(f"{name},train\n" for name in IDS))
    assert main(["import-features", str(tmp_path / "a.npy"), "--ids", str(tmp_path / "ids.csv"), "--id-column", "file",
                 "--fingerprint", "mine", "--output", str(tmp_path / "store")]) == 0  # fmt: skip
    same(rows(tmp_path / "store"), GRIDS.reshape(10, -1))
    assert (Store.open(str(tmp_path / "store")).column, Store.open(str(tmp_path / "store")).shape) == (
        "pooled",
        (24,),
    )


def test_hdf5_files_with_their_ids_and_a_grid_to_lay_the_cells_out(tmp_path):
    for name, part in (("train", slice(0, 6)), ("val", slice(6, 10))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["features"] = GRIDS[part].reshape(-1, 6, 4).astype(np.float16)
            file["image_id"] = IDS[part]
    arrays = [str(tmp_path / "train.h5"), str(tmp_path / "val.h5")]
    assert main(["import-features", *arrays, "--grid", "2x3", "--fingerprint", "mine", "--format", "hdf5", "--output",
                 str(tmp_path / "store")]) == 0  # fmt: skip
    same(rows(tmp_path / "store"), GRIDS.astype(np.float16))
    assert Store.open(str(tmp_path / "store")).shape == (2, 3, 4)
