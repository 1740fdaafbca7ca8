"""Import feature arrays made elsewhere (.npy, .npz, HDF5) into a features store."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from captionbeam.jobs.options import inputs
from captionbeam.jobs.options.command import Result
from captionbeam.jobs.options.run import BulkCommand
from captionbeam.jobs.options.shared import require
from captionbeam.pipelines.features.array_spec import Layout
from captionbeam.schemas.errors import RequestError
from captionbeam.schemas.options import FILE, NAME, STORE, one_of, option, part_of, text

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.features.array_ids import IdsSpec
    from captionbeam.pipelines.features.array_spec import ArraySpec

FREE_NAME = re.compile(r"\S(.{0,198}\S)?")


@dataclass(frozen=True, kw_only=True)
class ArrayOptions(Layout):
    """Where the ids and features are in the files, and their layout."""

    GROUP = "arrays"

    ids: tuple[str, ...] = option(
        (),
        "the image ids, one for each row: a FILE for each ARRAY, in the same order; .txt (an id on each line), .csv, "
        ".tsv, .jsonl, .parquet, .npy, .npz or HDF5 (default: in the ARRAY's own file)",
        FILE,
        several=True,
        location=True,
        opens=inputs.file,
    )
    id_column: str | None = option(None, "column of a list with the ids (default: image_id, id, ...)", NAME)
    id_dataset: str | None = option(
        None, "dataset of a .npz or HDF5 file with the ids (default: the only possible one)", NAME
    )
    dataset: str | None = option(
        None, "dataset of a .npz or HDF5 file with the features (default: the only possible one)", NAME
    )


@dataclass(frozen=True, kw_only=True)
class ImportFeatures(ArrayOptions, BulkCommand):
    """Imports feature arrays into a features store."""

    HELP = """\
  captionbeam import-features features.npy --ids ids.txt --fingerprint vgg16-conv5_3 --output features
  captionbeam import-features train.h5 val.h5 --fingerprint bottom-up-36 --output features    # ids are in the files

Copies the rows of every ARRAY to a features store, as float16, and publishes them as its next snapshot. An ARRAY is
[N, C], [N, L, C] with --grid HxW, or [N, H, W, C]; it is read in slices, never as a whole. Rows that the store already
has from an unchanged file are not copied again, so the same command resumes a stopped import. The rows of a changed
file replace its earlier ones. Other flags are those of Beam's PipelineOptions.
"""
    name = "import-features"

    arrays: tuple[str, ...] = option(
        ...,
        "a .npy, .npz, .h5 or .hdf5 file: a path or URL",
        text("ARRAY"),
        positional=True,
        repeated=True,
        location=True,
        opens=inputs.file,
    )
    output: str = option(..., "the features store, new or with earlier snapshots", STORE)
    fingerprint: str = option(
        ...,
        "a name for what made the features: model, weights, layer, preprocessing. A store has rows of one name and "
        "shape, and a captioner accepts only features with the name that it was trained on",
        text(
            "NAME",
            "1 to 200 printable characters",
            lambda value: value.isprintable() and FREE_NAME.fullmatch(value) is not None,
        ),
    )
    keep_columns: tuple[str, ...] = option(
        (),
        "columns of the lists of --ids to keep beside the rows, with their types, or all of them",
        text("NAME,...|all"),
        split=True,
    )
    format: str = option(
        "parquet", "format of a new store's shards: parquet or hdf5", one_of("parquet", "hdf5")
    )

    def execute(self) -> Result:
        """Checks the arrays, runs the pipeline, and reports."""
        from captionbeam.jobs.bulk.launch import launch
        from captionbeam.jobs.run_on.target import resolve_target

        target, options = resolve_target(self)
        return launch(importing(options), self.output, options, target, self.gates(), self.format)


def importing(options: ImportFeatures) -> Work:
    """Returns the work of importing. Raises RequestError."""
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.features.array_ids import FindArrayRows, keeping
    from captionbeam.pipelines.features.array_processor import CopierJob
    from captionbeam.pipelines.features.array_reads import fetch_rows
    from captionbeam.pipelines.features.array_spec import field_of, import_spec
    from captionbeam.schemas.fingerprint import fingerprint

    pairs = array_pairs(options)
    if options.keep_columns:
        pairs = keeping(pairs, options.keep_columns)
    layout = part_of(Layout, options)
    spec = import_spec(options.fingerprint, _one_shape(pairs, layout))
    arrays = {array.url: array for array, _ in pairs}
    return Work(
        kind="features",
        spec=spec,
        fingerprint=fingerprint(spec),
        field=field_of(spec),
        find=FindArrayRows(pairs),
        counted=True,
        names=tuple(arrays),
        keep=tuple(dict.fromkeys(name for _, ids in pairs for name in ids.keep)),
        features=None,
        fetch=functools.partial(fetch_rows, arrays=arrays),
        job=lambda _: CopierJob(dict(spec), layout),
    )


def array_pairs(options: ImportFeatures) -> list[tuple[ArraySpec, IdsSpec]]:
    """Returns each array with its ids, checked and counted. Raises RequestError."""
    from captionbeam.pipelines.features.array_files import find_array
    from captionbeam.pipelines.features.array_ids import check_ids, find_id_list
    from captionbeam.pipelines.features.array_reads import check_order

    require(
        not options.ids or len(options.ids) == len(options.arrays),
        f"there are {len(options.arrays)} ARRAYs and {len(options.ids)} files of --ids; expected as many",
    )
    pairs: list[tuple[ArraySpec, IdsSpec]] = []
    known: dict[str, str] = {}
    for url, ids_url in zip(options.arrays, options.ids or options.arrays, strict=True):
        array = find_array(url, options.dataset)
        check_order(array)
        require(
            bool(options.ids) or array.kind != "npy",
            f"{url} has no ids; expected --ids FILE with one for each of its {array.rows} rows",
        )
        ids = find_id_list(ids_url, options.id_column, options.id_dataset)
        check_ids(ids, array, known)
        pairs.append((array, ids))
    urls = [array.url for array, _ in pairs]
    twice = next((url for url in urls if urls.count(url) > 1), None)
    require(twice is None, f"array {twice!r} is named twice; expected it once")
    return pairs


def _one_shape(pairs: list[tuple[ArraySpec, IdsSpec]], layout: Layout) -> tuple[int, ...]:
    (first, shape), *others = {array.label: layout.shape(array) for array, _ in pairs}.items()
    for name, other in others:
        if other != shape:
            raise RequestError(
                f"rows of {first} become {list(shape)}, those of {name} {list(other)}; expected one shape in a store"
            )
    return shape
