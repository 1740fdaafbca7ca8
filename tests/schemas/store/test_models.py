"""A store's models/: nothing has its name there before its hash is right, and what is wrong there is replaced."""

from __future__ import annotations

import uuid

import pytest

from captionbeam.schemas.errors import FingerprintError
from captionbeam.schemas.fingerprint import sha256_bytes
from captionbeam.schemas.storage import files
from captionbeam.schemas.store import models

WEIGHTS = bytes(range(256)) * 40_000  # several blocks of a copy
SHA256 = sha256_bytes(WEIGHTS)


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    return str(tmp_path / "models") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").write_bytes(WEIGHTS)
    return tmp_path / "source"


def test_a_file_is_copied_once(folder, source):
    target = files.join(folder, "weights")
    models.keep_file(str(source), target, SHA256)
    assert files.read_bytes(target) == WEIGHTS
    source.write_bytes(b"not looked at again")
    models.keep_file(str(source), target, SHA256)
    assert files.read_bytes(target) == WEIGHTS


@pytest.mark.parametrize("length", [len(WEIGHTS) - 1])
def test_a_cut_file_is_refused_and_leaves_nothing(folder, source, length):
    source.write_bytes(WEIGHTS[:length])
    with pytest.raises(FingerprintError, match=f"source' has SHA-256 [0-9a-f]{{64}}; expected {SHA256}"):
        models.keep_file(str(source), files.join(folder, "weights"), SHA256)
    fs, path = files.split(folder)
    assert not fs.exists(path) or fs.find(path) == []


@pytest.mark.parametrize("there", [b"", WEIGHTS[:-1] + b"?"])
def test_what_is_there_and_wrong_is_replaced(folder, source, there):
    for name in ("copied", "written"):
        files.write_atomic(files.join(folder, name), there)
    models.keep_file(str(source), files.join(folder, "copied"), SHA256)
    models.keep_bytes(WEIGHTS, files.join(folder, "written"), SHA256)
    assert [files.read_bytes(files.join(folder, name)) for name in ("copied", "written")] == [WEIGHTS] * 2
    assert files.names(folder) == ["copied", "written"]


def test_a_copy_that_breaks_off_leaves_what_was_there(folder, source):
    target = files.join(folder, "weights")
    files.write_atomic(target, b"whole")
    source.write_bytes(WEIGHTS[:-1])
    with pytest.raises(FingerprintError):
        files.copy_file(str(source), target, SHA256)
    assert folder.startswith("memory://") or files.read_bytes(target) == b"whole"
