"""Returns a snapshot's failures as references, to retry them without listing their sources.

A failure's row has the location of its image, but not its coordinates in a tar, a zip or a features store. These are
in the plan of the run that failed. Members of a zip are also looked up again, because reading its directory is fast
and the zip may have been replaced. If no plan is left (after a vacuum), the container is listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.capmodel.specs import complete_spec
from captionbeam.pipelines.bulk.plan import REF_COLUMNS
from captionbeam.pipelines.sources.images import parse_location
from captionbeam.pipelines.sources.listing import list_images
from captionbeam.pipelines.sources.spec import SourceSpec
from captionbeam.schemas.errors import is_transient
from captionbeam.schemas.formats import kept, parquet
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import layout
from captionbeam.schemas.store.reading import Store
from captionbeam.schemas.store.rows import FailureRow


def failed_images(store: Store, all_codes: bool = False) -> list[FailureRow]:
    """Returns the snapshot's transient failures (``captionbeam.schemas.formats.arrow.FAILURES``), or all."""
    rows = cast(list[FailureRow], store.failures().to_pylist())
    return [row for row in rows if all_codes or is_transient(row["code"])]


def find_failed(store: Store, failures: Iterable[FailureRow]) -> tuple[list[ImageRef], list[str]]:
    """Returns references to the failures' images, and the ids of images whose coordinates cannot be found.

    Raises SourceError for a container that cannot be listed.
    """
    wanted = {failure["image_id"]: failure for failure in failures}
    found: dict[str, ImageRef] = {}
    for run in _runs(store) if wanted else ():
        found.update((ref.image_id, ref) for ref in _planned(store, run, wanted) if ref.image_id not in found)
        if len(found) == len(wanted):
            break
    rest = [failure for name, failure in wanted.items() if name not in found]
    if (
        complete_spec(store.spec).get("encoder", "") is not None
    ):  # else captions of features, whose images are rows
        found.update((failure["image_id"], _from_location(failure)) for failure in rest)
    refs = _with_columns(store, with_coordinates(list(found.values())))
    return refs, sorted(wanted.keys() - {ref.image_id for ref in refs})


def _with_columns(store: Store, refs: list[ImageRef]) -> list[ImageRef]:
    """Returns the references with the kept columns that the store has of their failures."""
    ids = pa.array([ref.image_id for ref in refs], pa.string())
    texts: dict[str, str] = {}
    for row in store.shards:
        if row["failed"] and row["columns"]:
            url = files.join(store.url, "columns", row["columns"])
            table = parquet.read_table(url, ["image_id", kept.TEXT]).slice(row["rows"])
            alive = [at for at in range(row["failed"]) if at not in store.dead_in(row["shard"]).failed]
            ours = table.take(pa.array(alive, pa.int64()))
            ours = ours.filter(pc.is_in(ours.column("image_id"), ids))
            texts.update(zip(*(column.to_pylist() for column in ours.columns), strict=True))
    return [ref._replace(columns=texts.get(ref.image_id, "")) for ref in refs]


def by_reading(refs: Iterable[ImageRef]) -> list[list[ImageRef]]:
    """Separates images from feature rows, which are read in different ways. A reduced store may have both."""
    apart: dict[bool, list[ImageRef]] = {}
    for ref in refs:
        apart.setdefault(ref.kind == "row", []).append(ref)
    return list(apart.values())


def _runs(store: Store) -> list[str]:
    """Returns the runs that have a plan: first those that committed the snapshot's failures, then the newest."""
    commits = layout.load_commits(store.url, [row["shard"] for row in store.shards if row["failed"]])
    names = files.names(files.join(store.url, "plans"))
    return list(dict.fromkeys([*sorted({commit.run for commit in commits}), *reversed(names)]))


def _planned(store: Store, run: str, wanted: Mapping[str, FailureRow]) -> Iterator[ImageRef]:
    """Yields one run's references to the wanted images, with the version and location that failed."""
    parts = files.join(store.url, "plans", run, "parts")
    ids = pa.array(list(wanted), pa.string())
    for name in files.names(parts):
        table = parquet.read_table(files.join(parts, name), REF_COLUMNS)
        for row in table.filter(pc.is_in(table.column("image_id"), ids)).to_pylist():
            ref, failure = ImageRef(**row), wanted[row["image_id"]]
            if (ref.version, ref.location) == (failure["version"], failure["uri"]):
                yield ref._replace(replaces="")


def _from_location(failure: FailureRow) -> ImageRef:
    ref = parse_location(failure["uri"])
    return ref._replace(image_id=failure["image_id"], source=failure["source"], version=failure["version"])


def with_coordinates(refs: list[ImageRef]) -> list[ImageRef]:
    """Lists the containers of zip members, and of tar members without coordinates, again. Drops missing members."""
    lost = [ref for ref in refs if ref.kind == "zip" or (ref.kind == "tar" and ref.length < 0)]
    found = [ref for ref in refs if ref not in lost]
    for kind, uri in dict.fromkeys((ref.kind, ref.uri) for ref in lost):
        ours = {ref.image_id: ref for ref in lost if (ref.kind, ref.uri) == (kind, uri)}
        for member in list_images(SourceSpec(uri, kind, uri)):
            if isinstance(member, ImageRef) and member.image_id in ours:
                before = ours[member.image_id]
                found.append(member._replace(source=before.source, columns=before.columns))
    return found
