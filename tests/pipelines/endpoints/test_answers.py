"""KeptAnswers: what a killed attempt leaves, how later ones find it, and when it goes."""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.pipelines.bulk.run import start_run
from captionbeam.pipelines.endpoints import answer_parts, answers, left_answers
from captionbeam.pipelines.endpoints.answers import KeptAnswers, Room
from captionbeam.pipelines.endpoints.prompts import prompts_of
from captionbeam.schemas.errors import ImageError, StoreError, SystemicError
from captionbeam.schemas.fingerprint import fingerprint, spec_of
from captionbeam.schemas.formats import arrow
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files

SPEC = EndpointSpec("m", {"colour": {"text": "Which colour?"}, "what": {"text": "What is it?"}})
COLOUR, WHAT = prompts_of(SPEC)
NAMES = [f"{n:03d}.jpg" for n in range(200)]


def start(place):
    return start_run(str(place), "captions", spec_of(SPEC), fingerprint(spec_of(SPEC)), COLOUR.field)


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    if request.param == "disk":
        yield str(tmp_path / "store")
    else:
        url = f"memory://{tmp_path.name}/store"
        yield url
        files.remove(url)


def refs_of(names):
    return [ImageRef(name, f"/images/{name}", "/images", f"v of {name}") for name in names]


def attempt(run, shard="s1", names=NAMES, prompts=(COLOUR, WHAT), **options):
    return KeptAnswers(run, shard, refs_of(names), prompts, **options)


def content(name):
    return hashlib.sha256(name.encode()).hexdigest()


def answer(name, prompt=COLOUR, word="answer"):
    return [{"text": f"{word} to {prompt.text} about {name}", "finish_reason": "stop", "tokens_in": 7, "tokens_out": 3,
             "model": "m"}]  # fmt: skip


def keep(kept, names, prompts=(COLOUR,), word="answer"):
    for name in names:
        for prompt in prompts:
            kept.keep(name, content(name), prompt, answer(name, prompt, word))


def known(kept, names=NAMES, prompt=COLOUR):
    found = {name: kept.known(content(name), prompt) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def expected(names, prompt=COLOUR, word="answer"):
    return {name: answer(name, prompt, word) for name in names}


def parts(url, prompt=COLOUR):
    """The image ids of each part, in the order of their names."""
    paths = answer_parts.all_parts(url, prompt.fingerprint)
    return [answer_parts.read_part(url, path).column("image_id").to_pylist() for path in paths]


def kept_ids(url, prompt=COLOUR):
    return [name for part in parts(url, prompt) for name in part]


def killed(kept):
    """Ends an attempt as ``kill -9`` would: what is open is gone."""
    kept.__enter__()
    return kept


def all_written(kept, names):
    return len(kept._places) == len(names)


def wait_until(holds, seconds=10.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "too late"
        time.sleep(0.005)


def test_a_part_is_a_stamped_parquet_file_of_the_prompts_type(place):
    run = start(place)
    with attempt(run) as kept:
        keep(kept, NAMES[:2])
    (path,) = answer_parts.all_parts(place)
    folder, prompt, bucket, name = path.split("/")
    assert (folder, prompt, len(bucket)) == ("answers", COLOUR.fingerprint, 2)
    assert name.startswith("s1-")
    assert name.endswith("-000000.parquet")
    table = pq.read_table(pa.BufferReader(files.read_bytes(files.join(place, path))))
    assert table.to_pylist() == [
        {"image_id": name, "version": f"v of {name}", "content": content(name), "answers": answer(name)}
        for name in NAMES[:2]
    ]
    assert table.schema.field("answers").type == COLOUR.field.type
    assert table.schema.metadata[arrow.KIND_KEY] == b"answers"
    assert table.schema.metadata[arrow.FINGERPRINT_KEY].decode() == COLOUR.fingerprint
    arrow.check_version(table.schema.metadata, path)


def test_an_attempt_knows_its_own_answers_before_and_after_they_are_written(place):
    with attempt(start(place), seconds=0.05) as kept:
        keep(kept, NAMES[:3])
        assert known(kept) == expected(NAMES[:3])
        assert known(kept, prompt=WHAT) == {}
        wait_until(lambda: parts(place))
        assert known(kept) == expected(NAMES[:3])


def test_32_images_close_a_part_and_so_do_two_seconds(place):
    with attempt(start(place), seconds=0.5) as kept:
        keep(kept, NAMES[:32])
        wait_until(lambda: parts(place) == [NAMES[:32]], 0.4)
        keep(kept, NAMES[32:35])
        time.sleep(0.2)
        assert parts(place) == [NAMES[:32]]
        wait_until(lambda: parts(place) == [NAMES[:32], NAMES[32:35]], 2)
    assert answers.SECONDS == 2
    assert answers.FULL == 32


def test_two_prompts_have_parts_of_their_own_that_close_together(place):
    with attempt(start(place)) as kept:
        keep(kept, NAMES[:32], (COLOUR, WHAT))
        wait_until(lambda: parts(place, WHAT))
    assert kept_ids(place, COLOUR) == kept_ids(place, WHAT) == NAMES[:32]
    assert len(answer_parts.all_parts(place)) <= 4


def test_a_process_has_at_most_64_images_that_are_not_in_the_store(tmp_path, monkeypatch):
    """Writes that hang hold the askers back, whatever the number of attempts; in-flight requests are theirs alone."""
    hanging, written, write = threading.Event(), [], answers.write_part

    def slow(url, path, table):
        hanging.wait(10)
        write(url, path, table)
        written.append(table.num_rows)

    monkeypatch.setattr(answers, "write_part", slow)
    run, done, room = start(tmp_path / "store"), [], Room(answers.UNWRITTEN)
    with attempt(run, "s1", room=room) as one, attempt(run, "s2", room=room) as two:

        def ask(kept, names):
            for name in names:
                keep(kept, [name])
                done.append(name)

        threads = [
            threading.Thread(target=ask, args=(kept, NAMES[at::8])) for kept in (one, two) for at in range(8)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(done) == 64)
        time.sleep(0.1)
        assert len(done) == 64
        hanging.set()
        for thread in threads:
            thread.join()
    assert sum(written) == len(done) == 2 * len(NAMES)


def test_a_later_attempt_at_the_shard_finds_what_a_killed_one_left(place):
    """In another process or an older one, whichever: it lists the shard's folder."""
    run = start(place)
    with attempt(run, "s2", NAMES[100:]) as other:  # this process has read what other runs left
        killed(attempt(run, seconds=0.05))
        first = killed(attempt(run, seconds=0.05))
        keep(first, NAMES[:40])
        wait_until(lambda: sum(map(len, parts(place))) == 40)
        with attempt(run) as second:
            assert known(second) == expected(NAMES[:40])
            keep(second, NAMES[40:50])
        with attempt(run) as third:
            assert known(third) == expected(NAMES[:50])
            third.committed([])
        keep(other, NAMES[100:101])
    assert parts(place) == [NAMES[100:101]]


def test_a_later_run_with_other_shards_finds_all_and_reads_it_once(place, monkeypatch):
    first = start(place)
    for shard, names in (("s1", NAMES[:70]), ("s2", NAMES[70:140])):
        kept = killed(attempt(first, shard, names, seconds=0.05))
        keep(kept, names)
        wait_until(functools.partial(all_written, kept, names))
    reads, read = [], answer_parts.read_part
    monkeypatch.setattr(left_answers, "read_part", lambda *part: reads.append(part) or read(*part))
    left_answers.PARTS.__init__()
    again = start(place)
    for at in range(0, 200, 20):
        with attempt(again, f"t{at}", NAMES[at : at + 20]) as kept:
            assert known(kept, NAMES[at : at + 20]) == expected(NAMES[at : min(140, at + 20)])
            kept.committed([])
    assert len(reads) == len(set(reads))
    assert parts(place) == []


def test_parts_that_the_run_itself_writes_at_other_shards_are_not_read(place, monkeypatch):
    run = start(place)
    with attempt(run, "s1") as kept:
        keep(kept, NAMES[:3])
    monkeypatch.setattr(left_answers, "read_part", lambda *part: pytest.fail(f"{part} is read"))
    left_answers._indexes.clear()  # as in another process
    with attempt(run, "s2") as kept:
        assert known(kept) == {}


def test_a_part_that_vanishes_is_no_error_and_a_broken_one_is_passed_over(place, caplog):
    run = start(place)
    for names in (NAMES[:3], NAMES[3:6], NAMES[6:9]):
        with attempt(run) as kept:
            keep(kept, names)
    by_first = {answer_parts.read_part(place, path).column("image_id")[0].as_py(): path
                for path in answer_parts.all_parts(place)}  # fmt: skip
    left_answers.PARTS.__init__()
    broken = files.join(place, by_first[NAMES[0]])
    files.write_atomic(broken, files.read_bytes(broken)[:-20])
    with caplog.at_level(logging.WARNING), attempt(start(place), "t") as kept:
        left_answers.PARTS.__init__()
        files.remove(files.join(place, by_first[NAMES[3]]))
        assert known(kept) == expected(NAMES[6:9])
        kept.committed([])
    assert f"kept answers are passed over: {broken} cannot be read" in caplog.text
    assert answer_parts.all_parts(place) == [by_first[NAMES[0]]]


def test_answers_in_json_keep_their_types(place):
    schema = {
        "type": "object",
        "properties": {
            "colours": {"type": "array", "items": {"type": "string", "enum": ["red", "blue"]}},
            "size": {
                "type": "object",
                "properties": {"cm": {"type": "number"}, "whole": {"type": "integer"}},
            },
            "sure": {"type": "boolean"},
            "kind": {"enum": ["cat", "dog"]},
        },
        "required": ["colours"],
    }
    (prompt,) = prompts_of(EndpointSpec("m", {"about": {"text": "Describe it.", "schema": schema}}))
    values = [
        {"colours": ["red", "blue"], "size": {"cm": 1.5, "whole": 2}, "sure": True, "kind": "dog"},
        {"colours": [], "size": None, "sure": None, "kind": None},
    ]
    run, said = start(place), [{**answer("a")[0], "text": str(value), "value": value} for value in values]
    with attempt(run, prompts=[prompt]) as kept:
        kept.keep("a", content("a"), prompt, said)
        kept.keep("b", content("b"), prompt, said[1:])
    for earlier in (run, start(place)):
        left_answers.PARTS.__init__()
        with attempt(earlier, prompts=[prompt]) as kept:
            assert kept.known(content("a"), prompt) == said
            assert kept.known(content("b"), prompt) == said[1:]
            column = pa.array([kept.known(content("a"), prompt)], prompt.field.type)
            assert column.to_pylist() == [said]


def test_no_flipped_bit_of_a_part_changes_an_answer(tmp_path):
    url = str(tmp_path / "store")
    with attempt(start(url)) as kept:
        keep(kept, NAMES[:2])
    (path,) = answer_parts.all_parts(url)
    where, whole = Path(url, path), answer_parts.read_part(url, path)
    before = where.read_bytes()
    for at in range(0, len(before), 7):
        changed = bytearray(before)
        changed[at] ^= 1 << at % 8
        where.write_bytes(changed)
        with suppress(StoreError):
            table = answer_parts.read_part(url, path)
            if table.schema.equals(whole.schema):  # an attempt passes other types over
                assert table.equals(whole)


def test_of_two_parts_with_one_key_the_first_by_name_counts(place):
    run = start(place)
    for word in ("one", "other", "third"):
        with attempt(run) as kept:
            kept._places.clear()  # as if it had not seen the earlier ones
            keep(kept, NAMES[:2], word=word)
    first = answer_parts.read_part(place, answer_parts.all_parts(place)[0]).column("answers").to_pylist()
    with attempt(run) as retried, attempt(start(place), "t") as later:
        assert [*known(retried).values()] == [*known(later).values()] == first


def test_what_is_committed_goes_but_not_the_other_answers_about_failed_images(place):
    run = start(place)
    with attempt(run) as kept:
        keep(kept, NAMES[:40], (COLOUR, WHAT))
    with attempt(run) as kept:
        keep(kept, NAMES[40:75])
        kept.committed(["003.jpg", "041.jpg", "074.jpg", "199.jpg"])
    assert parts(place, COLOUR) == [["003.jpg", "041.jpg", "074.jpg"]]
    assert parts(place, WHAT) == [["003.jpg"]]
    with attempt(start(place), "t", ["003.jpg", "041.jpg", "074.jpg"]) as kept:
        assert known(kept) == expected(["003.jpg", "041.jpg", "074.jpg"])
        kept.committed([])
    assert parts(place, COLOUR) == []
    assert parts(place, WHAT) == [["003.jpg"]]  # not used by the retry


def test_in_a_bucket_as_on_a_disk(bucket):
    url = f"{bucket.url}/stores/answers"
    run = start(url)
    with attempt(run, "s2", NAMES[60:]):
        with attempt(run) as kept:
            keep(kept, NAMES[:40], (COLOUR, WHAT))
        with attempt(run) as kept:
            assert known(kept) == expected(NAMES[:40])
            kept.committed(["003.jpg"])
    assert kept_ids(url, COLOUR) == kept_ids(url, WHAT) == ["003.jpg"]
    with attempt(start(url), "t") as kept:
        assert known(kept, prompt=WHAT) == expected(["003.jpg"], WHAT)
        assert known(kept) == expected(["003.jpg"])
        kept.committed([])
    assert answer_parts.all_parts(url) == []


def test_what_cannot_be_removed_is_logged_only(tmp_path, caplog):
    run = start(tmp_path / "store")
    with attempt(run) as kept:
        keep(kept, NAMES[:3])
    (path,) = answer_parts.all_parts(run.url)
    folder = Path(run.url, path).parent
    with attempt(run) as kept:
        files_remove, answers.files.remove = answers.files.remove, denied
        try:
            kept.committed([])
        finally:
            answers.files.remove = files_remove
    assert folder.exists()
    assert f"1 files of kept answers in {run.url} cannot be removed: Permission denied" in caplog.text


def denied(url):
    raise PermissionError(13, "Permission denied", url)


def test_after_an_exception_what_is_open_is_written_and_what_arrives_even_later(place):
    run = start(place)
    kept = attempt(run)
    with suppress(ZeroDivisionError), kept:
        keep(kept, NAMES[:3])
        raise ZeroDivisionError
    keep(kept, NAMES[3:4])
    with attempt(run) as kept:
        assert known(kept) == expected(NAMES[:4])


def test_a_write_that_fails_stops_the_shard(tmp_path, monkeypatch):
    def full(url, path, table):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(answers, "write_part", full)
    run, room = start(tmp_path / "store"), Room(40)
    with (
        pytest.raises(SystemicError, match="cannot write to .*: No space left"),
        attempt(run, room=room) as kept,
    ):
        keep(kept, NAMES)
    with pytest.raises(SystemicError, match="No space left"), attempt(run, room=room) as kept:
        keep(kept, NAMES[:3])
    assert room._places == 40


def test_an_answer_that_does_not_fit_its_column_is_one_images_failure(place):
    with attempt(start(place)) as kept:
        with pytest.raises(ImageError, match="an answer does not fit column colour"):
            kept.keep("a", content("a"), COLOUR, [{"text": 5}])
        keep(kept, NAMES[:1])
    assert parts(place) == [NAMES[:1]]


def test_200_000_left_answers_take_a_few_megabytes_and_seconds(tmp_path):
    run, count = start(tmp_path / "store"), 200_000
    names = [f"{n:06d}" for n in range(count)]
    rows = [(name, "v", content(name), answer(name)) for name in names]
    for at in range(0, count, 2000):
        path = answer_parts.part_path(COLOUR.fingerprint, answer_parts.attempt_name(f"s{at}", run.run_id), 0)
        answer_parts.write_part(run.url, path, answer_parts.table_of(rows[at : at + 2000], COLOUR.field))
    with attempt(start(tmp_path / "store"), "t", names[:1]) as kept:
        left = kept._left[COLOUR.fingerprint]
        assert len(left) == count
        assert sum(array.nbytes for array in (left._keys, left._parts, left._rows)) == 72 * count
        assert left_answers.PARTS._bytes <= left_answers.CACHED_BYTES
        assert known(kept, names[:: count // 10]) == expected(names[:: count // 10])
