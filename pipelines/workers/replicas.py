"""Several copies of one model, each on a device of its own; a batch takes one that is free."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from captionbeam.pipelines.workers.batches import Processor


class Replicas:
    """A processor of several that are equal but for their device. Threads may share it.

    Images are prepared by the first, which also has all other attributes. ``kept``: what must live as long.
    """

    def __init__(self, processors: Mapping[str, Processor], kept: object = None) -> None:
        """``processors``: by the name of their device."""
        self._all, self._kept = list(processors.values()), kept
        self.fingerprint, self.schema = self._all[0].fingerprint, self._all[0].schema
        self.streams = sum(processor.streams for processor in self._all)
        self.devices, self._lock = dict.fromkeys(processors, 0), threading.Lock()
        self._free: SimpleQueue[tuple[str, Processor]] = SimpleQueue()
        for turn in range(self.streams):
            for name, processor in processors.items():
                if turn < processor.streams:
                    self._free.put((name, processor))

    @property
    def batch_size(self) -> int:
        """Images of a batch on every device: fewer once they exceeded a device's memory."""
        return self._all[0].batch_size

    @batch_size.setter
    def batch_size(self, images: int) -> None:
        for processor in self._all:
            processor.batch_size = images

    def prepare(self, *item: Any) -> Any:
        """Returns one prepared image. Raises ImageError."""
        return self._all[0].prepare(*item)

    def run(self, batch: Sequence[Any], image_ids: Sequence[str]) -> dict[str, Any]:
        """Runs a batch on the device that has been free for longest, and counts it in ``devices``.

        Raises ImageError, OutOfMemory, SystemicError.
        """
        name, processor = self._free.get()
        try:
            with self._lock:
                self.devices[name] += 1
            return processor.run(list(batch), list(image_ids))
        finally:
            self._free.put((name, processor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._all[0], name)
