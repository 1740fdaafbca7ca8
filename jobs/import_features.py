"""Import feature arrays made elsewhere (.npy, .npz, HDF5) into a features store, by a list of ids."""

from __future__ import annotations

import argparse
import functools
import re
from typing import TYPE_CHECKING, Any

from captionbeam.jobs.options.shared import add_run_options, require
from captionbeam.jobs.run_on.options import add_launch_options

if TYPE_CHECKING:
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.features.array_ids import IdsSpec
    from captionbeam.pipelines.features.array_spec import ArraySpec

HELP = """\
  captionbeam import-features features.npy --ids ids.txt --fingerprint vgg16-conv5_3 --output features
  captionbeam import-features train.h5 val.h5 --fingerprint bottom-up-36 --output features    # ids are in the files

Copies the rows of every ARRAY into a features store, as float16, and publishes them as its next snapshot: [N, C],
[N, L, C] with --grid HxW, or [N, H, W, C]. Rows are read by slices, an array never as a whole. What the store has
already, out of a file that is as it was, is not done again, so the same command goes on where a killed one was; a file
that changed is done again, and its rows replace the old ones. Flags that are not below go to Beam's PipelineOptions.
"""
BEAM = True
NAME = re.compile(r"\S(.{0,198}\S)?")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``captionbeam import-features``."""
    parser.add_argument("arrays", nargs="+", metavar="ARRAY", help=".npy, .npz, .h5 or .hdf5, a path or URL")
    parser.add_argument(
        "--output", required=True, metavar="STORE", help="the features store: new, or with earlier snapshots"
    )
    parser.add_argument(
        "--fingerprint",
        required=True,
        type=_name,
        metavar="NAME",
        help="what made the features, in your own words: model, weights, layer, preprocessing. Rows of another name "
        "or shape are never mixed in, and captioners are held to it",
    )
    parser.add_argument(
        "--format",
        default="parquet",
        metavar="NAME",
        help="of a new store's shards: parquet or hdf5 (default parquet)",
    )
    _add_arrays(parser.add_argument_group("arrays"))
    add_run_options(parser, model=False)
    add_launch_options(parser, gpu=False)
    parser.set_defaults(limit=None, seed=0, sample=1.0)


def _add_arrays(group: Any) -> None:
    group.add_argument(
        "--ids",
        nargs="+",
        metavar="FILE",
        help="the images' ids, one for each row, a FILE for each ARRAY in the same order: .txt (an id a line), .csv, "
        ".tsv, .jsonl, .parquet, .npy, .npz or HDF5 (default: in the ARRAY's own file)",
    )
    group.add_argument(
        "--id-column", metavar="NAME", help="of a list with the ids (default: image_id, id, ...)"
    )
    group.add_argument(
        "--id-dataset",
        metavar="NAME",
        help="of a .npz or HDF5 file with the ids (default: the only one that can be)",
    )
    group.add_argument(
        "--dataset",
        metavar="NAME",
        help="of a .npz or HDF5 file with the features (default: the only one that can be)",
    )
    group.add_argument(
        "--grid",
        type=_grid,
        metavar="HxW",
        help="height and width of the grid whose cells are the L of [N, L, C]",
    )
    group.add_argument(
        "--channels-first", action="store_true", help="rows are [C, H, W], or [C, L], and are turned"
    )


def run(options: argparse.Namespace, beam_args: list[str]) -> int:
    """Checks the arrays, runs the pipeline, and reports. Returns the exit status."""
    from captionbeam.jobs.bulk.launch import gates_of, launch
    from captionbeam.jobs.run_on.target import settle_target

    places = {"ARRAY": options.arrays, "--ids": options.ids or [], "--output": [options.output]}
    target = settle_target(beam_args, places, models=False)
    return launch(importing(options), options.output, options, target, gates_of(options), options.format)


def importing(options: argparse.Namespace) -> Work:
    """Returns the work of importing. Raises RequestError."""
    from captionbeam.jobs.bulk.launch import Work
    from captionbeam.pipelines.features.array_processor import CopierJob
    from captionbeam.pipelines.features.array_reads import fetch_rows
    from captionbeam.pipelines.features.array_rows import FindArrayRows
    from captionbeam.pipelines.features.array_spec import Layout, field_of, fingerprint_of, import_spec

    pairs = settled(options)
    layout = Layout(options.grid, options.channels_first)
    spec = import_spec(options.fingerprint, _one_shape(pairs, layout))
    arrays = {array.url: array for array, _ in pairs}
    return Work(
        kind="features",
        spec=spec,
        fingerprint=fingerprint_of(spec),
        field=field_of(spec),
        find=FindArrayRows(pairs),
        names=tuple(arrays),
        features=None,
        fetch=functools.partial(fetch_rows, arrays=arrays),
        job=lambda _: CopierJob(dict(spec), layout),
    )


def settled(options: argparse.Namespace) -> list[tuple[ArraySpec, IdsSpec]]:
    """Returns each array with its ids, checked and counted. Raises RequestError."""
    from captionbeam.pipelines.features.array_files import find_array
    from captionbeam.pipelines.features.array_ids import check_ids, find_id_list
    from captionbeam.pipelines.features.array_reads import check_order

    require(
        options.ids is None or len(options.ids) == len(options.arrays),
        f"there are {len(options.arrays)} ARRAYs and {len(options.ids or ())} files of --ids; expected as many",
    )
    pairs: list[tuple[ArraySpec, IdsSpec]] = []
    known: dict[str, str] = {}
    for url, ids_url in zip(options.arrays, options.ids or options.arrays, strict=True):
        array = find_array(url, options.dataset)
        check_order(array)
        require(
            options.ids is not None or array.kind != "npy",
            f"{url} holds no ids; expected --ids FILE with one for each of its {array.rows} rows",
        )
        ids = find_id_list(ids_url, options.id_column, options.id_dataset)
        check_ids(ids, array, known)
        pairs.append((array, ids))
    urls = [array.url for array, _ in pairs]
    twice = next((url for url in urls if urls.count(url) > 1), None)
    require(twice is None, f"array {twice!r} is named twice; expected it once")
    return pairs


def _one_shape(pairs: list[tuple[ArraySpec, IdsSpec]], layout: Any) -> tuple[int, ...]:
    shapes = {array.label: layout.shape(array) for array, _ in pairs}
    (first, shape), *others = shapes.items()
    odd = next(((name, other) for name, other in others if other != shape), None)
    require(
        odd is None,
        f"rows of {first} become {list(shape)}, those of {odd and odd[0]} {list(odd[1]) if odd else ''}; "
        "expected one shape in a store",
    )
    return shape


def _grid(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is no grid; expected HxW, such as 14x14")
    return int(height), int(width)


def _name(text: str) -> str:
    if not NAME.fullmatch(text) or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is no name; expected 1 to 200 printable characters")
    return text
