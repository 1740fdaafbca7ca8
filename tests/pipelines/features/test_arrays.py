"""Arrays of features made elsewhere: what a file holds, its rows by slices, its ids, and what a row becomes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from captionbeam.pipelines.features.array_files import arrays_in, find_array
from captionbeam.pipelines.features.array_ids import check_ids, find_id_list, list_rows, read_ids
from captionbeam.pipelines.features.array_processor import Copier
from captionbeam.pipelines.features.array_reads import fetch_rows
from captionbeam.pipelines.features.array_spec import ArraySpec, Layout, import_spec
from captionbeam.schemas.errors import ImageError, RequestError, SourceError

GRIDS = np.random.default_rng(0).normal(size=(7, 2, 3, 4))


def write(folder: Path, name: str, values: np.ndarray = GRIDS, **others: np.ndarray) -> str:
    """An array in a file of the kind that ``name`` says; beside it others, in a file of several."""
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, values)
    elif name.endswith(".npz"):
        save = np.savez_compressed if "compressed" in name else np.savez
        save(path, features=values, **others)
    else:
        with h5py.File(path, "w") as file:
            file["some/grid"] = values
            for key, value in others.items():
                file[key] = value
    return str(path)


def taken(url: str, rows: list[int], array: ArraySpec | None = None) -> list[np.ndarray | ImageError]:
    array = array or find_array(url)
    (ids := Path(url).with_suffix(".ids.txt")).write_text("\n".join(map(str, range(array.rows))))
    refs = list(list_rows(array, find_id_list(str(ids))))
    return fetch_rows([refs[row] for row in rows], {array.url: array})


# What a file holds


@pytest.mark.parametrize("dtype", ["float16", ">f4", "float64"])
@pytest.mark.parametrize("name", ["a.npy", "stored.npz", "compressed.npz", "a.h5"])
def test_rows_come_as_they_are_in_any_file(tmp_path, name, dtype):
    url = write(tmp_path, name, GRIDS.astype(dtype))
    array = find_array(url)
    kinds = {"npy": "npy", "npz": "npz", "h5": "hdf5"}
    assert (array.shape, array.kind) == ((7, 2, 3, 4), kinds[name.split(".")[1]])
    for row, seen in zip((6, 0, 1, 2, 6), taken(url, [6, 0, 1, 2, 6]), strict=True):
        np.testing.assert_array_equal(seen, GRIDS.astype(dtype)[row])


def test_a_file_of_several_arrays_needs_a_name(tmp_path):
    url = write(tmp_path, "two.npz", other=GRIDS[:, 0], labels=np.arange(7))
    with pytest.raises(RequestError) as caught:
        find_array(url)
    assert str(caught.value) == (
        f"{url!r} has the arrays 'features' [7, 2, 3, 4] float64, 'other' [7, 3, 4] float64, 'labels' [7] int64; "
        "expected --dataset NAME"
    )
    assert find_array(url, "other").shape == (7, 3, 4)
    assert find_array(write(tmp_path, "a.h5", labels=np.arange(7)), "/some/grid").key == "some/grid"
    with pytest.raises(RequestError, match="has no array 'third'; expected one of 'features'"):
        find_array(url, "third")


@pytest.mark.parametrize(("name", "kind"), [("a.npy", "npy"), ("a.npz", "npz"), ("a.h5", "HDF5")])
def test_a_file_that_is_none_is_one_sentence(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"no array at all")
    with pytest.raises(SourceError, match=f"'{tmp_path / name}' is not a readable {kind} file: "):
        arrays_in(str(tmp_path / name))
    with pytest.raises(SourceError, match="not_found"):
        arrays_in(str(tmp_path / "missing.npy"))
    with pytest.raises(RequestError, match=r"'/a/b.txt' holds no array; expected .npy, .npz, .h5"):
        arrays_in("/a/b.txt")


def test_rows_that_a_file_no_longer_has_are_failures_of_theirs(tmp_path):
    url = write(tmp_path, "a.npy")
    array = find_array(url)
    data = Path(url).read_bytes()
    Path(url).write_bytes(data[: -GRIDS[0].nbytes - 1])
    seen = taken(url, [4, 5, 6], array)
    np.testing.assert_array_equal(seen[0], GRIDS[4])
    assert [(each.code, each.message) for each in seen[1:]] == [
        ("truncated", f"{url!r} ends before row 5"),
        ("truncated", f"{url!r} ends before row 6"),
    ]


@pytest.mark.parametrize("name", ["compressed.npz", "a.h5"])
def test_an_array_that_changed_since_it_was_listed_stops_the_job(tmp_path, name):
    url = write(tmp_path, name)
    array = find_array(url)
    write(tmp_path, name, GRIDS[:, :1])
    with pytest.raises(SourceError, match="has changed since it was listed"):
        taken(url, [0], array)


# Ids


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ids.csv", "split,image_id\ntrain,a.jpg\nval,b.jpg\n"),
        ("ids.jsonl", '{"image_id": "a.jpg"}\n{"image_id": "b.jpg"}\n'),
    ],
)
def test_ids_come_from_a_list(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert list(read_ids(find_id_list(str(tmp_path / name)))) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array(["a.jpg", "bé.jpg"]), ["a.jpg", "bé.jpg"]),
        (np.array([3, 285]), ["3", "285"]),
        (np.array([b"a", b"b"]), ["a", "b"]),
    ],
)
def test_ids_come_from_an_array(tmp_path, values, expected):
    np.save(tmp_path / "ids.npy", values)
    assert list(read_ids(find_id_list(str(tmp_path / "ids.npy")))) == expected
    url = write(tmp_path, "both.npz", ids=values)
    assert list(read_ids(find_id_list(url))) == expected


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_values_in_other_files_are_never_followed(tmp_path, kind):
    (tmp_path / "secret").write_bytes(bytes(16))
    url = write(tmp_path, "a.h5", GRIDS[:2])
    with h5py.File(url, "a") as file:
        if kind == "external":
            file.create_dataset("far", (2, 2), "f4", external=[(str(tmp_path / "secret"), 0, 16)])
        else:
            layout = h5py.VirtualLayout((2, 2), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "b.h5"), "x", (2, 2))
            file.create_virtual_dataset("far", layout)
    with pytest.raises(RequestError, match=f"^dataset 'far' of .* is {kind}: its values lie in other files"):
        find_array(url)


def test_a_pickle_of_ids_is_never_loaded(tmp_path):
    np.save(tmp_path / "ids.npy", np.array(["a", 7], dtype=object), allow_pickle=True)
    with pytest.raises(RequestError, match=r"are \[2\] of \|O; expected one row of text or whole numbers"):
        find_id_list(str(tmp_path / "ids.npy"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\nb\na", "two rows have the id 'a': row 0 of {0} and row 2 of {0}; expected one"),
        ("a\nb", "{0} has 2 ids, array {1!r} has 3 rows; expected as many"),
    ],
)
def test_ids_that_do_not_fit_the_rows_are_refused(tmp_path, text, said):
    (tmp_path / "ids.txt").write_text(text)
    url = write(tmp_path, "a.npy", GRIDS[:3])
    with pytest.raises(RequestError) as caught:
        check_ids(find_id_list(str(tmp_path / "ids.txt")), find_array(url), {})
    assert str(caught.value) == said.format(tmp_path / "ids.txt", url)


# What a row becomes


def spec(*shape: int) -> ArraySpec:
    return ArraySpec("/a.npy", "npy", "", shape, "float32", 0, False, "1")


@pytest.mark.parametrize(
    ("array", "layout", "shape"),
    [
        (spec(9, 8), Layout(), (8,)),
        (spec(9, 6, 8), Layout((2, 3)), (2, 3, 8)),
        (spec(9, 8, 6), Layout((2, 3), True), (2, 3, 8)),
        (spec(9, 2, 3, 8), Layout(), (2, 3, 8)),
        (spec(9, 8, 2, 3), Layout(channels_first=True), (2, 3, 8)),
    ],
)
def test_a_row_becomes_a_grid_or_a_vector(array, layout, shape):
    """Each cell has its channels, wherever the array had them."""
    assert layout.shape(array) == shape
    plain = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    row = np.moveaxis(plain, -1, 0) if layout.channels_first else plain
    seen = Copier(import_spec("x", shape), layout).prepare(row.reshape(array.shape[1:]))
    assert seen.dtype == np.float16
    np.testing.assert_array_equal(seen, plain)


@pytest.mark.parametrize(
    ("array", "layout", "sentence"),
    [
        (spec(9), Layout(), "array '/a.npy' is [9]; expected [N, C], [N, L, C] or [N, H, W, C]"),
        (spec(9, 6, 8), Layout(), "array '/a.npy' is [9, 6, 8]; expected --grid HxW too"),
        (
            spec(9, 8, 6),
            Layout((2, 3)),
            "array '/a.npy' is [9, 8, 6], with 8 cells a row; expected as many as --grid 2x3 has, 6",
        ),
    ],
)
def test_what_does_not_fit_is_refused(array, layout, sentence):
    with pytest.raises(RequestError) as caught:
        layout.shape(array)
    assert str(caught.value) == sentence


def test_an_array_in_fortrans_order_is_read_all_the_same(tmp_path):
    url = write(tmp_path, "a.npy", np.asfortranarray(GRIDS))
    assert find_array(url).fortran
    for row, seen in enumerate(taken(url, list(range(7)))):
        np.testing.assert_array_equal(seen, GRIDS[row])


def test_an_id_in_two_files_and_an_empty_one_are_refused(tmp_path):
    (tmp_path / "ids.csv").write_text("id,x\na,1\n,2\n")
    array = find_array(write(tmp_path, "a.npy", GRIDS[:2]))
    with pytest.raises(
        RequestError, match=r"the id in row 1 of .*ids.csv is empty; expected one for each row"
    ):
        check_ids(find_id_list(str(tmp_path / "ids.csv")), array, {})
    with pytest.raises(RequestError, match="two rows have the id 'a': row 9 of other.txt and row 0 of"):
        check_ids(find_id_list(str(tmp_path / "ids.csv")), array, {"a": "row 9 of other.txt"})
