"""Answers that are kept as soon as they arrive, so that a killed worker's are not paid for again.

An attempt at a shard writes its answers to parts (``answer_parts``) of its own: a part closes 2 seconds after its
first answer, or when 32 images of the attempt are waiting. A process works on two shards at a time, and all its
attempts together have at most 64 images whose answers are not in the store yet: further answers wait, in the threads
that asked. So after ``kill -9`` at most ``concurrency + 64`` images of a process are asked again.

An attempt reads, when it starts, what earlier attempts at the same shard left, in whichever process, and, once a
process, what other runs left. After the shard's commit it removes its parts and those of the earlier attempts; answers
to other prompts about images that failed go to one new part for each prompt.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc

from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.endpoints.answer_parts import (
    READERS,
    attempt_name,
    part_path,
    prompt_of,
    shard_parts,
    table_of,
    write_part,
)
from captionbeam.pipelines.endpoints.left_answers import PARTS, LeftAnswers, left_answers
from captionbeam.pipelines.endpoints.prompts import Answers, Prompt
from captionbeam.pipelines.workers.output import storage_error
from captionbeam.schemas.errors import ImageError, SystemicError
from captionbeam.schemas.records import ImageRef
from captionbeam.schemas.storage import files

UNWRITTEN = 64  # images of a process whose answers are not in the store yet
FULL = 32  # such images of one attempt, on which its parts close
SECONDS = 2.0  # that a part stays open

_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """The answers to one prompt about one image."""

    image_id: str
    version: str | None
    content: str
    answers: Answers


class Room:
    """Places for images whose answers are not in the store yet, shared by the attempts of a process."""

    def __init__(self, places: int) -> None:
        self._places, self._changed = places, threading.Condition()

    def take(self, check: Callable[[], None]) -> None:
        """Waits for a place and takes it. ``check`` is called before, and whenever something changed; it may raise."""
        with self._changed:
            check()
            while self._places <= 0:
                self._changed.wait()
                check()
            self._places -= 1

    def give(self, places: int) -> None:
        """Gives places back, or, with 0, lets those that wait check again."""
        with self._changed:
            self._places += places
            self._changed.notify_all()


_room = Room(UNWRITTEN)


class KeptAnswers:
    """The answers of one attempt at a shard: those that earlier attempts left, and its own. Threads may share it.

    A context manager. A thread of its own writes; if a write fails, the next ``keep``, or the end, raises
    SystemicError. After an exception what is open is written as well, and so are answers that arrive even later.
    """

    def __init__(
        self,
        run: Run,
        shard: str,
        refs: Sequence[ImageRef],
        prompts: Sequence[Prompt],
        *,
        seconds: float = SECONDS,
        room: Room = _room,
    ) -> None:
        self._run, self._shard, self._seconds, self._room = run, shard, seconds, room
        self._prompts = {prompt.fingerprint: prompt for prompt in prompts}
        self._versions = {ref.image_id: ref.version for ref in refs}
        self._attempt, self._number = attempt_name(shard, run.run_id), 0
        self._left: dict[str, LeftAnswers] = {}
        self._used: set[str] = set()  # parts of other runs
        self._parts: list[str] = []  # of earlier attempts at the shard, and written by this one
        self._places: dict[tuple[str, str], tuple[str, int]] = {}  # (prompt, content) -> a row of those
        self._open, self._writing = _Open(), _Open()
        self._changed, self._flushing = threading.Condition(), threading.Lock()
        self._closed = self._covered = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write_all, name="kept-answers", daemon=True)

    def __enter__(self) -> Self:
        """Finds earlier answers. Raises SystemicError."""
        with self._storing():
            self._find_earlier()
            self._left = left_answers(self._run, list(self._prompts.values()))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes what is open."""
        if self._covered:
            return
        self._close()
        try:
            with self._storing():
                if error is None:
                    self._raise()
                self._flush()
        except SystemicError as err:
            if error is None:
                raise
            _log.warning("answers of shard %s are lost: %s", self._shard, err)
        finally:
            self._give_all()

    def known(self, content: str, prompt: Prompt) -> Answers | None:
        """Returns earlier answers to ``prompt`` about an image with the key ``content`` (``Prompt.key``), or None.

        Raises SystemicError if the store cannot be read.
        """
        key = prompt.fingerprint, content
        with self._changed:
            for waiting in (self._open, self._writing):
                if key in waiting.answers:
                    return waiting.answers[key]
            place = self._places.get(key)
        if place is not None and (answers := self._at(*place)) is not None:
            return answers
        left = self._left[prompt.fingerprint].place(content)
        answers = None if left is None else self._at(*left)
        if left is not None and answers is not None:
            with self._changed:
                self._used.add(left[0])
        return answers

    def keep(self, image_id: str, content: str, prompt: Prompt, answers: Answers) -> None:
        """Keeps answers; they are in the store within 2 seconds.

        Waits while the process has too many that are not. Raises SystemicError if they cannot be written, and
        ImageError if they do not fit the prompt's column.
        """
        try:
            pa.array([answers], prompt.field.type)
        except (TypeError, ValueError, OverflowError) as err:
            said = f"an answer does not fit column {prompt.column}: {err}"
            raise ImageError("invalid_json", "model", said) from err
        row = Row(image_id, self._versions.get(image_id), content, answers)
        if not self._added(prompt, row, places=0):
            self._room.take(self._raise)
            self._added(prompt, row, places=1)
        if self._closed and not self._covered:  # the shard failed while this was asked
            with self._storing():
                self._flush()

    def _added(self, prompt: Prompt, row: Row, places: int) -> bool:
        """Adds a row to what is open. Returns whether it did: its image needs a place, unless it has one."""
        with self._changed:
            if not places and row.image_id not in self._open.images:
                return False
            self._open.add(prompt.fingerprint, row, places)
            self._changed.notify_all()
        return True

    def committed(self, failed: Collection[str]) -> None:
        """Removes the answers that the shard's commit covers: all but those of ``failed`` images.

        Raises SystemicError if the latter cannot be written. What cannot be removed is logged.
        """
        self._covered = True
        self._close()
        failing, removable = set(failed), list(self._parts)
        try:
            with self._storing():
                if failing:
                    removable = self._without_failed(failing)
                done = self._versions.keys() - failing
                used = sorted(self._used)
                removable += [path for path in used if self._left[prompt_of(path)].cover(path, done)]
        finally:
            self._give_all()
        _remove(self._run.url, removable)

    def _find_earlier(self) -> None:
        url, prompts = self._run.url, self._prompts
        paths = [path for prompt in prompts for path in shard_parts(url, prompt, self._shard)]
        if not paths:
            return
        with ThreadPoolExecutor(READERS) as pool:
            tables = pool.map(lambda path: PARTS.table(url, path), paths)
            for path, table in zip(paths, tables, strict=True):
                if table is not None:
                    self._note(path, table.column("content").to_pylist())

    def _note(self, path: str, contents: Iterable[str]) -> None:
        """Notes a part of the shard. Where two have one key, the first counts."""
        self._parts.append(path)
        for row, content in enumerate(contents):
            self._places.setdefault((prompt_of(path), content), (path, row))

    def _rows(self, path: str) -> pa.Table | None:
        """Returns a part's rows; None if it vanished, is broken, or does not fit the prompt's column."""
        table, field = PARTS.table(self._run.url, path), self._prompts[prompt_of(path)].field
        if table is None or table.schema.field("answers").type.equals(field.type):
            return table
        _log.warning("%s has answers of another type than %s; they are passed over", path, field.type)
        return None

    def _at(self, path: str, row: int) -> Answers | None:
        with self._storing():
            table = self._rows(path)
        answers: Answers | None = None if table is None else table.column("answers")[row].as_py()
        return answers

    def _write_all(self) -> None:
        while self._wait():
            try:
                self._flush()
            except BaseException as err:  # noqa: BLE001 - passed on to the shard's own threads, whatever it is
                self._error = err
                self._room.give(0)
                return

    def _wait(self) -> bool:
        """Waits until what is open is to be written. Returns False once the attempt is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._open.images)
            due = self._open.since + self._seconds
            while not self._closed and len(self._open.images) < FULL:
                left = due - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return not self._closed

    def _close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _flush(self) -> None:
        """Writes what is open. After an error it is open again."""
        with self._flushing:
            with self._changed:
                self._writing, self._open = self._open, _Open()
            try:
                self._write(self._writing.rows)
            except BaseException:  # Ctrl-C too: nothing that is open is lost, and it is raised again
                with self._changed:
                    self._writing.join(self._open)
                    self._open, self._writing = self._writing, _Open()
                raise
            with self._changed:
                written, self._writing = self._writing, _Open()
        self._room.give(written.places)

    def _give_all(self) -> None:
        with self._changed:
            places, self._open.places = self._open.places, 0
        self._room.give(places)

    def _write(self, rows: Mapping[str, list[Row]]) -> None:
        """Writes one part for each prompt."""
        number, self._number = self._number, self._number + 1
        parts = [(part_path(prompt, self._attempt, number), some) for prompt, some in rows.items()]

        def write(part: tuple[str, list[Row]]) -> None:
            path, some = part
            write_part(self._run.url, path, table_of(some, self._prompts[prompt_of(path)].field))

        if len(parts) > 1:
            with ThreadPoolExecutor(min(READERS, len(parts))) as pool:
                list(pool.map(write, parts))
        elif parts:
            write(parts[0])
        with self._changed:
            for path, some in parts:
                self._note(path, [row.content for row in some])

    def _without_failed(self, failed: set[str]) -> list[str]:
        """Writes the answers about failed images to one new part for each prompt. Returns the parts to remove."""
        wanted, removable = pa.array(sorted(failed)), []
        kept: defaultdict[str, list[pa.Table]] = defaultdict(list)
        for path in self._parts:
            if (table := self._rows(path)) is not None:
                removable.append(path)
                kept[prompt_of(path)].append(table.filter(pc.is_in(table.column("image_id"), wanted)))
        for prompt, rows in self._open.rows.items():
            some = [row for row in rows if row.image_id in failed]
            kept[prompt].append(table_of(some, self._prompts[prompt].field))
        for prompt, tables in kept.items():
            together = pa.concat_tables([one.replace_schema_metadata(None) for one in tables])
            if together.num_rows:
                write_part(self._run.url, part_path(prompt, self._attempt, self._number), together)
        return removable

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Raises SystemicError for the block's storage errors."""
        try:
            yield
        except OSError as err:
            raise storage_error(self._run.url, err) from err

    def _raise(self) -> None:
        if isinstance(self._error, OSError):
            raise storage_error(self._run.url, self._error) from self._error
        if self._error is not None:
            raise SystemicError(f"answers cannot be kept: {self._error}") from self._error


class _Open:
    """Answers that are not in the store yet, by prompt, and how many places of the room they take."""

    def __init__(self) -> None:
        self.rows: defaultdict[str, list[Row]] = defaultdict(list)
        self.images: set[str] = set()
        self.answers: dict[tuple[str, str], Answers] = {}
        self.places, self.since = 0, 0.0

    def add(self, prompt: str, row: Row, places: int) -> None:
        """Adds a row."""
        self.since = self.since if self.images else time.monotonic()
        self.rows[prompt].append(row)
        self.images.add(row.image_id)
        self.answers.setdefault((prompt, row.content), row.answers)
        self.places += places

    def join(self, other: _Open) -> None:
        """Adds what ``other`` has."""
        for prompt, rows in other.rows.items():
            for row in rows:
                self.add(prompt, row, 0)
        self.places += other.places


def _remove(url: str, paths: Sequence[str]) -> None:
    """Removes parts. Logs the first that cannot be removed; a vacuum removes them later."""

    def remove(path: str) -> OSError | None:
        try:
            files.remove(files.join(url, path))
        except FileNotFoundError:
            return None
        except OSError as err:
            return err
        return None

    with ThreadPoolExecutor(READERS) as pool:
        errors = [err for err in pool.map(remove, paths) if err is not None]
    if errors:
        said = errors[0].strerror or errors[0]
        _log.warning("%d files of kept answers in %s cannot be removed: %s", len(errors), url, said)
