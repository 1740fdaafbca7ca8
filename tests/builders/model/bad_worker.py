"""A worker that ends badly, for the launcher's tests: ``error``, ``crash`` or ``silent``."""

from __future__ import annotations

import os
import sys
import time

from captionbeam.capmodel.training.worker import emit, report_crash

how, rank = sys.argv[1], os.environ["RANK"]
sys.excepthook = report_crash
if rank == "1":
    print("a line of rank 1 that is no event", flush=True)
if how == "silent" and rank == "1":
    os._exit(7)
if rank == "1" and how == "error":
    try:
        raise RuntimeError("connection closed by peer")
    except RuntimeError as err:
        report_crash(type(err), err, err.__traceback__)
    time.sleep(60)  # torchrun ends all processes with the first that is gone: here the other one's
if rank == "1" or how == "crash":
    raise RuntimeError("connection closed by peer")
time.sleep(0.5 if how == "error" else 60)
emit({"event": "error", "message": "the value is 3; expected 4", "status": 2})
sys.exit(2)
