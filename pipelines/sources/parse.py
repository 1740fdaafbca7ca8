"""Determines on the launcher what each SOURCE is and whether it can be read, before any other work starts."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from captionbeam.pipelines.fetch.errors import reading
from captionbeam.pipelines.fetch.urls import filesystem, is_http, is_local
from captionbeam.pipelines.sources import access, folders, lists, parquet, stores, tars, zips
from captionbeam.pipelines.sources.access import FileInfo
from captionbeam.pipelines.sources.buckets import inventory, inventory_manifest
from captionbeam.pipelines.sources.buckets.inventory_manifest import Report
from captionbeam.pipelines.sources.spec import (
    ARCHIVES,
    EXPECTED,
    SourceOptions,
    SourceSpec,
    is_image_name,
    missing,
    source_name,
    suffix,
)
from captionbeam.pipelines.sources.tables import columns
from captionbeam.pipelines.sources.tables.keeper import kept_names, settle_columns
from captionbeam.schemas.errors import RequestError, SourceError

# Number of files of a remote folder to examine for its content, enough to skip a few other files. If one of
# them is an archive, all files are examined until an image is found, so that no archive is missed.
_EXAMINED_FILES = 1000
AS_FOUND = SourceOptions()
LISTS = ("list", "coco")


def parse_sources(urls: Sequence[str], options: SourceOptions = AS_FOUND) -> list[SourceSpec]:
    """Returns what to list, in order. A glob or folder of archives gives one entry per archive, with the same name.

    Raises SourceError or RequestError if a source cannot be read or does not fit the options.
    """
    specs = parse_each([(url, options) for url in urls], options.inventories)
    return [spec._replace(header=()) for spec in specs]


def parse_each(
    sources: Sequence[tuple[str, SourceOptions]], inventories: Sequence[str] = ()
) -> list[SourceSpec]:
    """Like ``parse_sources``, for sources with own options, and with the columns that were seen (``header``).

    Each of ``inventories`` must be of some source.
    """
    if not sources:
        raise RequestError(f"no source is named; expected {EXPECTED}")
    names = [source_name(url) for url, _ in sources]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"source {name!r} is named twice; expected it once")
    urls = dict.fromkeys(url for _, options in sources for url in options.inventories)
    found = {url: inventory_manifest.read_report(url) for url in urls}
    specs = []
    for name, (_, options) in zip(names, sources, strict=True):
        known = [found[url] for url in options.inventories]
        specs += _reported(name, known) or _parse_source(name, options)
    _refuse_idle_reports(names, [found[url] for url in inventories])
    used = [column for _, options in sources for column in options.used_columns]
    return settle_columns(specs, used, all(options.may_lack for _, options in sources))


def _reported(name: str, known: Sequence[Report]) -> list[SourceSpec]:
    """Returns ``name`` as listed by the report of its bucket, if there is one. The folder itself is not accessed."""
    found = [report for report in known if _is_of(name, report)]
    if len(found) > 1:
        raise RequestError(
            f"source {name!r} has the inventories {found[0].url!r} and {found[1].url!r}; expected one"
        )
    if found and name != found[0].bucket and (folders.is_glob(name) or _kind_of_suffix(name)):
        raise RequestError(
            f"source {name!r} is no folder, but has the inventory {found[0].url!r}; expected a bucket or a folder of it"
        )
    spec = SourceSpec(name, "folder", name, name)
    return [part for report in found for part in inventory.parts(report, spec)]


def _is_of(name: str, report: Report) -> bool:
    return name == report.bucket or name.startswith(f"{report.bucket}/")


def _refuse_idle_reports(names: Sequence[str], known: Sequence[Report]) -> None:
    for report in known:
        if not any(_is_of(name, report) for name in names):
            raise RequestError(
                f"inventory {report.url!r} is of {report.bucket}, as none of the sources is; expected a SOURCE there"
            )
        if not report.files:
            raise SourceError(f"inventory {report.url!r} names no files; expected one or more")


def _parse_source(name: str, options: SourceOptions) -> list[SourceSpec]:
    with reading(name):
        url = access.canonical(name)
        found = _stat(url)
    if found is None and folders.is_glob(url):
        with reading(name):
            return _parse_glob(name, folders.escaped(url), options)
    if found is None:
        raise missing(name)
    if found.is_folder or (not _kind_of_suffix(url) and access.has_keys_below(url)):
        stores.refuse_store(name, url)
        return _parse_folder(name, url, options)
    stores.refuse_store_files(name, [url])
    return [_checked(_container(name, url, _kind(url, name), options, root=""), options)]


def _stat(url: str) -> FileInfo | None:
    try:
        found = access.stat_url(url)
    except FileNotFoundError as err:
        if is_http(url) and err.__cause__ is not None:  # fsspec raises this for any HTTP error
            raise
        return None
    if found.version is None and is_local(url):  # a broken link
        return None
    is_page = is_http(url) and not _kind_of_suffix(url) and _mimetype(url) == "text/html"
    return found._replace(is_folder=True) if is_page else found


def _mimetype(url: str) -> str:
    fs, path = filesystem(url)
    return str(fs.info(path).get("mimetype"))


def _kind(url: str, name: str) -> str:
    if url.lower().endswith(tars.COMPRESSED_SUFFIXES):
        raise SourceError(
            f"source {name!r} is a compressed tar, without random access; expected a plain .tar or a .zip"
        )
    kind = _kind_of_suffix(url)
    if not kind and is_http(url):
        kind = "file" if _mimetype(url).startswith("image/") else ""
    if not kind:
        raise SourceError(f"source {name!r} is of no known kind; expected {EXPECTED}")
    return kind


def _kind_of_suffix(url: str) -> str:
    if is_image_name(url):
        return "file"
    kind = {**ARCHIVES, ".json": "coco"}.get(suffix(url), "")
    return kind or ("list" if lists.list_suffix(url) else "")


def _container(name: str, url: str, kind: str, options: SourceOptions, root: str) -> SourceSpec:
    """Returns a spec. ``root``: the base of file ids; for lists and COCO, the base of relative paths."""
    if kind in LISTS or (kind == "parquet" and options.uri_column):
        root = _image_root(options.image_root) if options.image_root else url.rpartition("/")[0]
    keep = tuple(dict.fromkeys((*options.keep_columns, *options.used_columns)))
    root = root or url.rpartition("/")[0]
    return SourceSpec(name, kind, url, root, keep=keep, used=options.used_columns)


def _image_root(url: str) -> str:
    root = access.canonical(source_name(url))
    if is_http(root):  # a server need not respond for a folder
        return root
    with reading(url):
        found = _stat(root)
    if found is None or not found.is_folder:
        raise RequestError(f"image root {url!r} is not a folder; expected the one that the images lie in")
    return root


def _checked(spec: SourceSpec, options: SourceOptions) -> SourceSpec:
    """Checks the container and returns ``spec`` with its columns chosen."""
    match spec.kind:
        case "zip":
            zips.check_zip(spec)
        case "tar":
            tars.check_tar(spec)
        case "coco":
            return lists.check_coco(spec)
        case "list":
            return lists.resolve_list_columns(spec, options.uri_column, options.id_column)
        case "parquet":
            return _resolve_parquet(spec, options)
    return spec


def _resolve_parquet(spec: SourceSpec, options: SourceOptions) -> SourceSpec:
    """Chooses the column of image bytes, or else of URIs, in which case the file is a list."""
    with parquet.opened(spec.url) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        if not rows:
            raise SourceError(f"source {spec.url!r} has no rows; expected one image or more")
        bytes_column = "" if options.uri_column else parquet.find_bytes_column(schema, options.bytes_column)
        uri_column = "" if bytes_column else _uri_column(spec, file, options)
    if bytes_column:
        id_column = _id_column(spec, schema, options, parquet.ID_COLUMNS)
        spec = spec._replace(id_column=id_column, bytes_column=bytes_column, header=schema.names)
        spec = spec._replace(needs_ids=bool(options.id_column))
        kept_names(spec, schema.names)
        return spec
    id_column = _id_column(spec, schema, options, columns.ID_COLUMNS)
    spec = _container(spec.name, spec.url, "list", options, spec.root)
    spec = spec._replace(id_column=id_column, uri_column=uri_column, header=schema.names)
    spec = spec._replace(needs_ids=bool(options.id_column))
    kept_names(spec, schema.names)
    return spec


def _uri_column(spec: SourceSpec, file: pq.ParquetFile, options: SourceOptions) -> str:
    schema, wanted = file.schema_arrow, options.bytes_column or options.uri_column
    uris = (options.uri_column,) if options.uri_column else columns.URI_COLUMNS
    found = "" if options.bytes_column else parquet.find_column(schema, uris)
    images = [] if found or wanted else parquet.find_images(file)
    if found or len(images) == 1:
        return found or images[0]
    usual = f"{parquet.BYTES_COLUMNS[0]!r} (bytes) or {uris[0]!r} (text)"
    expected = columns.expected_uris(wanted, images, usual)
    raise SourceError(
        f"source {spec.url!r} has the columns {columns.named(schema.names)}; expected {expected}"
    )


def _id_column(spec: SourceSpec, schema: pa.Schema, options: SourceOptions, usual: Sequence[str]) -> str:
    found = parquet.find_column(schema, (options.id_column,) if options.id_column else usual)
    if options.id_column and not found:
        raise SourceError(
            f"source {spec.url!r} has the columns {columns.named(schema.names)}; expected {options.id_column!r} "
            "for ids, text or whole numbers"
        )
    return found


def _parse_folder(name: str, url: str, options: SourceOptions) -> list[SourceSpec]:
    """Returns a folder of images, or all its zips, tars and Parquet files if it contains no images."""
    archives = []
    with reading(name):
        for number, found in enumerate(access.walk(url)):
            if is_image_name(found.url) and not found.is_special:
                return [SourceSpec(name, "folder", url, url)]
            if _is_archive(found.url):
                archives.append(found.url)
            if number >= _EXAMINED_FILES and not archives and not is_local(url):
                return [SourceSpec(name, "folder", url, url)]
    if not archives:
        raise SourceError(f"source {name!r} is a folder without images; expected images or archives below it")
    return _archives(name, url, sorted(archives), options)


def _is_archive(url: str) -> bool:
    return _kind_of_suffix(url) in ARCHIVES.values() or url.lower().endswith(tars.COMPRESSED_SUFFIXES)


def _parse_glob(name: str, url: str, options: SourceOptions) -> list[SourceSpec]:
    root = folders.glob_root(url)
    with reading(name):
        found = list(folders.matches(url))
    archives = [
        f.url for f in found if not f.is_folder and (_is_archive(f.url) or _kind_of_suffix(f.url) in LISTS)
    ]
    if any(not f.is_folder and is_image_name(f.url) for f in found):
        if archives:
            raise SourceError(f"source {name!r} matches images and {archives[0]!r}; expected one kind")
        return [SourceSpec(name, "glob", url, root)]
    if archives:
        return _archives(name, root, sorted(archives), options)
    subfolders = sorted(f.url.rstrip("/") for f in found if f.is_folder)
    if not subfolders:
        raise SourceError(f"source {name!r} matches nothing that holds images; expected {EXPECTED}")
    parts = (spec for folder in subfolders for spec in _parse_folder(name, folder, options))
    return [spec._replace(root=root) for spec in parts]


def _archives(name: str, root: str, urls: list[str], options: SourceOptions) -> list[SourceSpec]:
    """Returns one entry per archive. Checks the first one of each kind; workers report errors in the others."""
    stores.refuse_store_files(name, urls)
    resolved: dict[str, SourceSpec] = {}
    specs = []
    for url in urls:
        spec = _container(name, url, _kind(url, name), options, root)
        example = resolved.get(spec.kind) or resolved.setdefault(spec.kind, _checked(spec, options))
        specs.append(example._replace(url=url, root=_container(name, url, example.kind, options, root).root))
    return _with_headers(specs, options)


def _with_headers(specs: list[SourceSpec], options: SourceOptions) -> list[SourceSpec]:
    """Looks for the columns to keep that the first file lacks in further files of Parquet, and returns these with
    their header.
    """
    wanted = set(options.keep_columns)
    found = []
    for number, spec in enumerate(specs):
        if number and wanted and number < _EXAMINED_FILES and _kind_of_suffix(spec.url) == "parquet":
            with parquet.opened(spec.url) as file:
                spec = parquet.fitted(spec, file.schema_arrow)._replace(header=file.schema_arrow.names)
        wanted = {
            name for name in wanted if not kept_names(spec._replace(keep=(name,), used=()), spec.header)
        }
        found.append(spec)
    return found
