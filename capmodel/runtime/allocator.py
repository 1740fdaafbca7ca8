"""The C library's memory allocator in a process that computes batch after batch."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
KEPT = 64 << 20  # bytes: as large as the heaps of glibc's threads become


def keep_freed_memory() -> None:
    """Makes glibc keep freed blocks of up to KEPT bytes for the next batch; other C libraries are left as they are.

    By default it returns large blocks to the system, which then hands out and clears the output of each layer anew,
    page by page: a third of a small network's CPU time. glibc before 2.35 refuses such large blocks.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and mallopt(M_MMAP_THRESHOLD, KEPT):
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_TOP_PAD, KEPT)
