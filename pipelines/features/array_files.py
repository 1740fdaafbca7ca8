"""Determines on the launcher what arrays a file contains. Reads headers only, never rows."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import h5py
import numpy as np

from captionbeam.pipelines.features.array_spec import DTYPES, ArraySpec, is_features
from captionbeam.pipelines.sources import access
from captionbeam.pipelines.sources.spec import source_name, suffix
from captionbeam.schemas.errors import RequestError, SourceError

_BLOCK = 64 << 10
_LOCAL_HEADER = 30  # bytes of a zip member's local header, before its name
_SUFFIXES = {".npy": "npy", ".npz": "npz", ".h5": "hdf5", ".hdf5": "hdf5", ".hdf": "hdf5"}
Found = dict[str, ArraySpec]


def kind_of(url: str) -> str:
    """Returns ``npy``, ``npz`` or ``hdf5``; '' for other files."""
    return _SUFFIXES.get(suffix(url), "")


def arrays_in(url: str) -> Found:
    """Returns all arrays of numbers or text in the file, by name (empty in a .npy).

    Raises SourceError for a file that cannot be read, RequestError for a file of another kind.
    """
    name = source_name(url)
    kind = kind_of(name)
    if not kind:
        raise RequestError(f"{name!r} holds no array; expected {', '.join(_SUFFIXES)}")
    version = access.file_version(name)
    with access.open_container(name, _BLOCK) as stream:
        try:
            return _READERS[kind](stream, ArraySpec(name, kind, "", (), "", -1, False, version))
        except RequestError:
            raise
        except (ValueError, zipfile.BadZipFile, EOFError, KeyError, zlib.error) as err:
            raise SourceError(f"{name!r} is not a readable {kind} file: {err}") from err
        except OSError as err:
            if kind != "hdf5" or err.errno is not None:
                raise
            raise SourceError(f"{name!r} is not a readable HDF5 file: {err}") from err


def find_array(url: str, key: str | None = None) -> ArraySpec:
    """Returns the array of features: ``key``, or the only array that can be one. Raises RequestError, SourceError."""
    found = arrays_in(url)
    fits = {name: spec for name, spec in found.items() if len(spec.shape) > 1 and is_features(spec.dtype)}
    spec = _chosen(url, "features", key, found, fits)
    if not is_features(spec.dtype):
        raise RequestError(f"array {spec.label} has dtype {spec.dtype}; expected one of {', '.join(DTYPES)}")
    return spec


def find_ids(url: str, key: str | None = None) -> ArraySpec:
    """Returns the array of ids, ``[N]`` text or integers: ``key``, or the only array that can be one.

    Raises RequestError, SourceError.
    """
    found = arrays_in(url)
    fits = {name: spec for name, spec in found.items() if _may_be_ids(spec)}
    spec = _chosen(url, "ids", key, found, fits)
    if not _may_be_ids(spec):
        raise RequestError(
            f"ids {spec.label} are {list(spec.shape)} of {spec.dtype}; expected one row of text or whole numbers"
        )
    return spec


def read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns shape, order (True for Fortran) and dtype of a .npy, and stops before its rows. Raises ValueError."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _may_be_ids(spec: ArraySpec) -> bool:
    return len(spec.shape) == 1 and (spec.dtype == "text" or np.dtype(spec.dtype).kind in "SUiu")


def _chosen(url: str, what: str, key: str | None, found: Found, fits: Found) -> ArraySpec:
    there = ", ".join(f"{name!r} {list(spec.shape)} {spec.dtype}" for name, spec in found.items())
    option = "--dataset" if what == "features" else "--id-dataset"
    if key is not None:
        if "" in found:
            raise RequestError(f"{url!r} is one array; expected no {option} {key}")
        known = found.get(key.strip("/"))
        if known is None:
            raise RequestError(f"{url!r} has no array {key!r}; expected one of {there}")
        return known
    if len(fits) == 1:
        return next(iter(fits.values()))
    if len(found) == 1 and "" in found:
        return found[""]  # a .npy, not of the expected kind
    expected = f"expected {option} NAME" if fits else f"expected one of {what}"
    raise RequestError(f"{url!r} has the arrays {there or '(none)'}; {expected}")


def _npy(stream: BinaryIO, empty: ArraySpec) -> Found:
    shape, fortran, dtype = read_header(stream)
    begin, size = stream.tell(), stream.seek(0, os.SEEK_END)
    if size < (expected := begin + math.prod(shape) * dtype.itemsize):
        raise ValueError(f"it has {size:,} bytes; its header says {expected:,}")
    return {"": empty._replace(shape=shape, fortran=fortran, dtype=_named(dtype), offset=begin)}


def _npz(stream: BinaryIO, empty: ArraySpec) -> Found:
    with zipfile.ZipFile(stream) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        found = {}
        for member in members:
            with archive.open(member) as inside:
                shape, fortran, dtype = read_header(inside)
                begin = inside.tell()
            key = member.filename.removesuffix(".npy")
            found[key] = empty._replace(
                key=key, shape=shape, fortran=fortran, dtype=_named(dtype), offset=begin
            )
        return {key: _placed(stream, archive.getinfo(f"{key}.npy"), spec) for key, spec in found.items()}


def _placed(stream: BinaryIO, member: zipfile.ZipInfo, spec: ArraySpec) -> ArraySpec:
    """Returns the spec with the first row's offset in the file, or -1 if the member is compressed."""
    if member.compress_type != zipfile.ZIP_STORED:
        return spec._replace(offset=-1)
    stream.seek(member.header_offset)
    local = stream.read(_LOCAL_HEADER)
    names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    return spec._replace(offset=member.header_offset + _LOCAL_HEADER + names + spec.offset)


def _hdf5(stream: BinaryIO, empty: ArraySpec) -> Found:
    found: Found = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape:
            _refuse_elsewhere(empty.url, name, item)
            text = h5py.check_string_dtype(item.dtype) is not None
            found[name] = empty._replace(
                key=name, shape=item.shape, dtype="text" if text else _named(item.dtype)
            )

    with h5py.File(stream, "r") as file:
        file.visititems(add)
    return found


def _refuse_elsewhere(url: str, name: str, item: h5py.Dataset) -> None:
    """Raises RequestError for datasets whose values are in other files, as HDF5 would read any file they name."""
    if item.external or item.is_virtual:
        kind = "external" if item.external else "virtual"
        raise RequestError(
            f"dataset {name!r} of {url!r} is {kind}: its values lie in other files; expected a file that holds its own"
        )


def _named(dtype: np.dtype) -> str:
    """Returns ``float32`` for native byte order, else numpy's spelling: ``>f4``, ``<U5``."""
    return dtype.name if dtype.isnative and dtype.kind in "fiub" else dtype.str


_READERS: Mapping[str, Callable[[BinaryIO, ArraySpec], Found]] = {"npy": _npy, "npz": _npz, "hdf5": _hdf5}
