"""Settings of all tests."""

from __future__ import annotations

import os

# Tiny tensors gain nothing from more threads, and lose much where several tests run at once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
