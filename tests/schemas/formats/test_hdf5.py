"""HDF5 on a disk that refuses: an OSError, in a process that lives, and nothing left; libhdf5 itself crashes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.running.commands import ROOT, environment

# The limit is of this process's files: a write beyond it fails as one on a full disk does.
SCRIPT = """
import gc, os, resource, sys
import numpy as np, pyarrow as pa
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.formats.datafile import open_writer
url, *limits = sys.argv[1:]
field = arrow.grid_field("grid", (8, 8, 64))
schema = arrow.row_schema(pa.schema([field]), "features", "0" * 16)
grids = (np.arange(32 * 4096) % 100).reshape(32, 8, 8, 64).astype(np.float16)
texts = [pa.array([f"{name}{n}" for n in range(32)]) for name in arrow.IDENTITY_NAMES]
batch = pa.RecordBatch.from_arrays([*texts, arrow.pack_grid(grids, field)], schema=schema)
for limit in map(int, limits):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    writer = open_writer(url, schema)
    try:
        for _ in range(4):
            writer.write(batch)
        print(writer.close().rows)
    except OSError as err:
        writer.abort()
        print(err)
    del writer
    gc.collect()
"""


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_disk_that_refuses_is_an_error_and_no_crash(tmp_path, place):
    folder = tmp_path / "files"
    folder.mkdir()
    url = str(folder / "shard.h5") if place == "local" else "memory://hdf5/shard.h5"
    limits = [10, 1000, 5_000, 100_000, 600_000, 1_040_000, 10_000_000]  # of bytes; the file has 1.1 million
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, url, *map(str, limits)],
        env={**environment(), "TMPDIR": str(folder)}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    where = "" if place == "local" else f" in {folder}, where HDF5 files are made before they are uploaded"
    assert done.stdout.splitlines() == [*[f"[Errno 27] File too large{where}"] * 6, "128"]
    assert [path.name for path in Path(folder).iterdir()] == (["shard.h5"] if place == "local" else [])
