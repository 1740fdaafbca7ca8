"""Kept answers under ``store vacuum``, ``purge`` and ``verify``."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.pipelines.bulk.plan import planned_shards, write_plan
from captionbeam.pipelines.bulk.run import start_run
from captionbeam.pipelines.endpoints import answer_parts
from captionbeam.pipelines.endpoints.answer_parts import (
    all_parts,
    attempt_name,
    part_path,
    read_part,
    table_of,
)
from captionbeam.pipelines.endpoints.prompts import prompts_of
from captionbeam.pipelines.maintenance import kept_answers
from captionbeam.pipelines.maintenance.purge import purge
from captionbeam.pipelines.maintenance.vacuum import find_garbage, vacuum
from captionbeam.pipelines.maintenance.verify import verify
from captionbeam.schemas.errors import ImageError
from captionbeam.schemas.fingerprint import fingerprint, spec_of
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files
from tests.builders.data.history import finish
from tests.builders.data.stores import commit_all

SPEC = EndpointSpec("m", {"captions": {"text": "Describe it."}})
(PROMPT,) = prompts_of(SPEC)
(OTHER,) = prompts_of(EndpointSpec("m", {"captions": {"text": "Which colour?"}}))
LATER = lambda: time.time() + 48 * 3600  # noqa: E731 - a clock


class Says:
    """Answers with the item, which may be an error."""

    schema, fingerprint, batch_size, streams = pa.schema([PROMPT.field]), "", 1, 1

    def prepare(self, item):
        return item

    def run(self, batch, image_ids):
        return {"captions": pa.array([answers(batch[0].decode())], PROMPT.field.type)}


def answers(text):
    return [{"text": text, "finish_reason": "stop", "tokens_in": 1, "tokens_out": 2, "model": "m"}]


def run_of(url, images, fails=(), commit=True, publish=True):
    """A run over images (id to version) with committed and published rows."""
    spec = spec_of(SPEC)
    run = start_run(url, "captions", spec, fingerprint(spec), PROMPT.field)
    write_plan(run, "p", [ImageRef(name, f"/i/{name}", "/i", v) for name, v in images.items()], 2)

    def fetch(refs):
        return [
            ImageError("rejected", "model", "no") if ref.image_id in fails else ref.image_id.encode()
            for ref in refs
        ]

    if commit:
        commit_all(run, Says(), fetch)
    if publish:
        finish(run)
    return run


def leave(url, images, prompt=PROMPT, shard="s", run="r"):
    """A part with answers about images (id to version). Returns its path."""
    path = part_path(prompt.fingerprint, attempt_name(shard, run), 0)
    rows = [
        (name, version, hashlib.sha256(name.encode()).hexdigest(), answers(name))
        for name, version in images.items()
    ]
    answer_parts.write_part(url, path, table_of(rows, prompt.field))
    return path


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "store")


def ids(url):
    """The image ids of each part."""
    return {path: read_part(url, path).column("image_id").to_pylist() for path in all_parts(url)}


def test_vacuum_removes_parts_all_of_whose_images_have_a_row(url):
    run_of(url, {"a": "1", "b": "1", "c": "1"}, fails={"c"})
    covered = leave(url, {"a": "1", "b": "1"})
    stay = {leave(url, {"a": "1", "x": "1"}), leave(url, {"a": "2"}), leave(url, {"a": "1", "c": "1"}),
            leave(url, {"a": "1"}, OTHER)}  # fmt: skip
    temporary = f"{covered.rsplit('/', 1)[0]}/.half.parquet.ab.tmp"
    files.write_atomic(files.join(url, temporary), b"half")
    broken = leave(url, {"d": "1"})
    files.write_atomic(files.join(url, broken), b"PAR1")
    assert vacuum(url, 5, 24) == []
    dry = find_garbage(url, 5, 24, clock=LATER).entries()
    gone = {entry.name for entry in vacuum(url, 5, 24, clock=LATER)}
    assert gone == {covered, temporary, broken} == {entry.name for entry in dry}
    assert set(all_parts(url)) == stay


def test_vacuum_counts_unpublished_commits_as_long_as_it_keeps_them(url):
    run_of(url, {"a": "1"})
    run = run_of(url, {"b": "1", "c": "1"}, publish=False)
    (shard,) = planned_shards(run)
    part = leave(url, {"a": "1", "b": "1"})
    os.utime(Path(url, part), (0, 0))
    assert {entry.name for entry in vacuum(url, 5, 24)} == {part}
    part = leave(url, {"b": "1"})
    gone = {entry.name for entry in vacuum(url, 5, 24, clock=LATER)}
    assert f"commits/{shard.shard_id}.json" in gone
    assert all_parts(url) == [part]


def test_vacuum_keeps_parts_of_a_newer_version(url, monkeypatch):
    run_of(url, {"a": "1"})
    monkeypatch.setattr("captionbeam.schemas.formats.arrow.SCHEMA_VERSION", 99)
    part = leave(url, {"a": "1"})
    monkeypatch.undo()
    vacuum(url, 5, 24, clock=LATER)
    assert all_parts(url) == [part]
    (problem,) = verify(url).problems
    assert "has version 99" in problem


def test_purge_erases_the_images_from_parts_and_keeps_the_rest(url):
    run_of(url, {"a": "1", "b": "1"})
    mixed, whole, other = (
        leave(url, {"a": "1", "x": "1", "y": "2"}),
        leave(url, {"x": "1"}),
        leave(url, {"b": "1"}),
    )
    hidden = f"{mixed.rsplit('/', 1)[0]}/.killed.parquet.ab.tmp"
    files.write_atomic(files.join(url, hidden), files.read_bytes(files.join(url, whole)))
    before = read_part(url, mixed)
    done = purge(url, {"x", "y", "never"})
    assert done.ids == {"x", "y"}
    assert (done.unreadable, done.files) == ([], 3)
    kept = ids(url)
    assert sorted(kept.values()) == [["a"], ["b"]]
    assert not Path(url, hidden).exists()
    (path,) = kept.keys() - {other}
    assert path.rsplit("-", 3)[0] == mixed.rsplit("-", 3)[0]
    assert read_part(url, path).equals(before.slice(0, 1))
    assert purge(url, {"x", "y"}).files == 0
    assert purge(url, {"a"}).ids == {"a"}
    assert [*ids(url).values()] == [["b"]]
    assert verify(url).problems == []


def test_in_a_bucket_as_on_a_disk(bucket):
    url = f"{bucket.url}/stores/answers"
    run_of(url, {"a": "1", "b": "1"})
    covered, other = leave(url, {"a": "1"}), leave(url, {"b": "1", "x": "1", "y": "1"})
    assert purge(url, {"x"}).ids == {"x"}
    assert sorted(ids(url).values()) == [["a"], ["b", "y"]]
    assert verify(url).problems == []
    assert covered in {entry.name for entry in vacuum(url, 5, 24, clock=LATER)}
    assert [*ids(url).values()] == [["b", "y"]]
    assert other not in ids(url)


def test_an_interrupted_purge_of_parts_is_completed_by_the_next(url, monkeypatch):
    run_of(url, {"a": "1"})
    leave(url, {"b": "1", "x": "1"})
    remove = kept_answers.remove

    def interrupted(place, names):
        raise KeyboardInterrupt

    monkeypatch.setattr(kept_answers, "remove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        purge(url, {"x"})
    assert sorted(ids(url).values()) == [["b"], ["b", "x"]]
    monkeypatch.setattr(kept_answers, "remove", remove)
    purge(url, {"x"})
    assert {tuple(names) for names in ids(url).values()} == {("b",)}


def test_verify_finds_any_broken_part(url):
    run_of(url, {"a": "1"})
    part = leave(url, {"b": "1"})
    where = Path(url, part)
    whole = where.read_bytes()
    assert verify(url).problems == []
    at = pq.ParquetFile(where).metadata.row_group(0).column(2).dictionary_page_offset + 40
    for content in (whole[:-10], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], b""):
        where.write_bytes(content)
        (problem,) = verify(url).problems
        assert problem.startswith(f"{where} cannot be read: ")
    where.write_bytes(whole)
    wrong = where.parent.parent.parent / OTHER.fingerprint / "ab" / where.name
    wrong.parent.mkdir(parents=True)
    where.rename(wrong)
    (problem,) = verify(url).problems
    assert problem == f"{wrong} has answers to prompt '{PROMPT.fingerprint}'; expected '{OTHER.fingerprint}'"
