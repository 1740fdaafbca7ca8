"""The processor of endpoints: pictures to answers, one image at a time, with answers kept as they arrive."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pyarrow as pa

from captionbeam.capmodel.specs import EndpointSpec
from captionbeam.capmodel.templates import columns_of_prompts
from captionbeam.pipelines.bulk.run import Run
from captionbeam.pipelines.endpoints.answers import KeptAnswers
from captionbeam.pipelines.endpoints.client.chat import ChatClient
from captionbeam.pipelines.endpoints.client.pace import Pace
from captionbeam.pipelines.endpoints.copied import copied_answers
from captionbeam.pipelines.endpoints.links import url_of
from captionbeam.pipelines.endpoints.pictures import as_data_url
from captionbeam.pipelines.endpoints.plan import Endpoint
from captionbeam.pipelines.endpoints.prompts import Answers, Prompt, prompts_of
from captionbeam.pipelines.endpoints.servers.server import Server
from captionbeam.schemas.errors import ImageError, is_transient
from captionbeam.schemas.fingerprint import fingerprint, spec_of
from captionbeam.schemas.records import ImageRef

NO_VALUES: Mapping[str, str] = {}

_captioners: weakref.WeakSet[EndpointCaptioner] = weakref.WeakSet()


@dataclass(frozen=True)
class Question:
    """One image to ask about: its URL (``data:`` or the server's to read), the prompts with its values in their texts.

    ``keys``: what the answers to each prompt depend on (``Prompt.key``). ``known``: answers by column.
    """

    picture: str
    prompts: Sequence[Prompt]
    keys: Sequence[str]
    known: Mapping[str, Answers]


class EndpointCaptioner:
    """A processor that asks an endpoint every prompt about every image. Threads may share it.

    The number of concurrent calls of ``run`` is the number of requests in flight. ``first_patience``: as of
    ``ChatClient``.
    """

    batch_size = 1

    def __init__(self, spec: EndpointSpec, endpoint: Endpoint, first_patience: float | None = None) -> None:
        self.options, self.prompts = spec, prompts_of(spec)
        self.spec = spec_of(spec)
        self.fingerprint = fingerprint(self.spec)
        self.schema = pa.schema([prompt.field for prompt in self.prompts])
        self.columns = tuple(columns_of_prompts(self.spec))
        self.streams = endpoint.concurrency
        self._stack = ExitStack()
        weakref.finalize(self, self._stack.close)  # when Beam drops the engine
        _captioners.add(self)
        url, reconnect = endpoint.url, None
        if endpoint.command:
            server = Server(endpoint.command, endpoint.model, spec.endpoint, endpoint.start_timeout)
            url, reconnect = self._stack.enter_context(server).url, server.wait_until_healthy
        self._pace = Pace(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self._client = ChatClient(
            url,
            spec,
            self._pace,
            endpoint.concurrency,
            endpoint.timeout,
            first_patience=None if endpoint.command else first_patience,
            reconnect=reconnect,
        )
        self._stack.callback(self._pace.close)
        self._stack.callback(self._client.close)

    def close(self) -> None:
        """Ends all requests, and leaves the server."""
        self._stack.close()

    def prepare(self, item: bytes, used: Mapping[str, str] = NO_VALUES) -> Question:
        """Returns a file's bytes as a question without known answers. Raises ImageError.

        ``used``: the image's values in ``columns``.
        """
        return self.question(item, used, self.keys(item, used), {})

    def keys(self, item: bytes, used: Mapping[str, str]) -> list[str]:
        """Returns what the answers to each prompt depend on."""
        content = hashlib.sha256(item).hexdigest()
        return [prompt.key(content, used) for prompt in self.prompts]

    def question(
        self, item: bytes, used: Mapping[str, str], keys: Sequence[str], known: Mapping[str, Answers]
    ) -> Question:
        """Returns the question about a file's bytes; its picture is made only if a prompt is to be asked.

        Raises ImageError, also if a prompt's text is blank with these values.
        """
        prompts = [prompt.about(used) for prompt in self.prompts]
        all_known = len(known) == len(self.prompts)
        return Question("" if all_known else self._picture(item), prompts, keys, known)

    def _picture(self, item: bytes) -> str:
        if self.options.send_urls:
            return url_of(item)
        return as_data_url(item, self.options.max_image_pixels)

    def run(self, batch: Sequence[Question], image_ids: Sequence[str]) -> dict[str, pa.Array]:
        """Returns the answers to one question, by column. Raises ImageError, SystemicError."""
        counts = Counter[str]()
        found = {prompt.column: self.ask(batch[0], prompt, counts) for prompt in batch[0].prompts}
        return self.arrays(found)

    def ask(self, question: Question, prompt: Prompt, counts: Counter[str]) -> Answers:
        """Returns the answers to one prompt. Raises ImageError, which names the prompt if there are several."""
        try:
            return self._client.ask(question.picture, prompt, counts)
        except ImageError as err:
            which = f"prompt {prompt.column}: " if len(self.prompts) > 1 else ""
            raise ImageError(err.code, err.stage, which + err.message) from err

    def arrays(self, found: Mapping[str, Answers]) -> dict[str, pa.Array]:
        """Returns one image's answers as columns of one row."""
        return {
            column: pa.array([answers], self.schema.field(column).type) for column, answers in found.items()
        }

    @contextmanager
    def open_shard(self, run: Run, shard: str, refs: Sequence[ImageRef]) -> Iterator[ShardCaptioner]:
        """Yields the processor of one shard, which keeps each answer in the store and asks nothing twice."""
        self._pace.join(run.folder)
        with KeptAnswers(run, shard, refs, self.prompts) as kept:
            yield ShardCaptioner(self, kept, copied_answers(run, refs, self.prompts))


class ShardCaptioner:
    """An ``EndpointCaptioner`` for one shard. It asks each prompt once about images for which its key is the same."""

    joins = True

    def __init__(
        self,
        captioner: EndpointCaptioner,
        kept: KeptAnswers,
        copied: Mapping[tuple[str, str], Mapping[str, Answers]],
    ) -> None:
        self._captioner, self._kept, self._copied = captioner, kept, copied
        self.fingerprint, self.schema = captioner.fingerprint, captioner.schema
        self.batch_size, self.streams, self.columns = (
            captioner.batch_size,
            captioner.streams,
            captioner.columns,
        )
        self.counts, self._lock = Counter[str](), threading.Lock()
        self._asked: dict[tuple[str, str], Future[Answers]] = {}  # by the prompt's fingerprint and key

    def prepare(self, item: bytes, used: Mapping[str, str] = NO_VALUES) -> Question:
        """Returns the question about a file's bytes, with the answers that are known. Raises ImageError."""
        keys = self._captioner.keys(item, used)
        known, counts = {}, Counter[str]()
        for prompt, key in zip(self._captioner.prompts, keys, strict=True):
            answers: Answers | None = None
            if copied := self._copied.get((key, prompt.fingerprint)):
                answers = next(iter(copied.values()))
                counts["answers_copied"] += 1
            elif (prompt.fingerprint, key) in self._asked:
                continue
            elif (answers := self._kept.known(key, prompt)) is not None:
                counts["answers_kept"] += 1
                for name in ("tokens_in", "tokens_out"):  # paid for by an attempt that did not commit
                    counts[name] += sum(answer[name] or 0 for answer in answers)
            if answers is not None:
                known[prompt.column] = answers
        self._count(counts)
        return self._captioner.question(item, used, keys, known)

    def run(self, batch: Sequence[Question], image_ids: Sequence[str]) -> dict[str, pa.Array]:
        """Returns the answers about one image, by column. Raises ImageError, SystemicError.

        Where one prompt fails, the others are asked as well, and their answers kept, unless there was no answer at all.
        """
        (question,), (image_id,) = batch, image_ids
        found: dict[str, Answers] = {}
        failed: list[ImageError] = []
        counts = Counter[str]()
        try:
            for prompt, key in zip(question.prompts, question.keys, strict=True):
                if (known := question.known.get(prompt.column)) is not None:
                    found[prompt.column] = known
                    continue
                try:
                    found[prompt.column] = self._answers(question, prompt, key, image_id, counts)
                except ImageError as err:
                    failed.append(err)
                    if is_transient(err.code):
                        break
        finally:
            self._count(counts)
        if failed:
            raise failed[0]
        return self._captioner.arrays(found)

    def _answers(
        self, question: Question, prompt: Prompt, key: str, image_id: str, counts: Counter[str]
    ) -> Answers:
        """Returns the answers to one prompt, asked or those of another image with the same ``key``, and keeps them."""
        with self._lock:
            earlier = self._asked.get((prompt.fingerprint, key))
            asked = self._asked.setdefault((prompt.fingerprint, key), Future())
        if earlier is not None:
            answers = earlier.result()
            self._kept.keep(image_id, key, prompt, answers)
            return answers
        try:
            answers = self._captioner.ask(question, prompt, counts)
            self._kept.keep(image_id, key, prompt, answers)
        except BaseException as err:  # raised for the other images, too
            asked.set_exception(err)
            raise
        asked.set_result(answers)
        return answers

    def _count(self, counts: Counter[str]) -> None:
        with self._lock:
            self.counts.update(counts)

    def committed(self, failed: Collection[str]) -> None:
        """Removes the kept answers that the shard's commit covers."""
        self._kept.committed(failed)


def _close_all() -> None:
    """Ends the requests of a process that ends, which would otherwise wait for their answers."""
    for captioner in list(_captioners):
        captioner.close()


threading._register_atexit(_close_all)  # type: ignore[attr-defined]  # ``atexit`` runs after threads have ended
