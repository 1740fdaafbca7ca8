"""Memory that does not suffice halves the batch; a device that is broken ends the job."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from captionbeam.capmodel.encoders.encoder import Encoder
from captionbeam.pipelines.workers.batches import Prepared, run_batch
from captionbeam.schemas.records import ImageRef
from tests.builders.model.encoding import stored

BROKEN = """
import torch
from captionbeam.capmodel.runtime.device import device_errors
from captionbeam.schemas.errors import SystemicError
table, beyond = torch.zeros(4, device="cuda"), torch.tensor([9], device="cuda")
for _ in range(2):
    try:
        with device_errors():
            table[beyond].cpu()
    except SystemicError as err:
        print(err)
"""


def test_a_batch_that_does_not_fit_is_halved_until_it_does(cuda, tmp_path):
    encoder = Encoder.load(*stored(tmp_path, image_size=224), 256, str(cuda))
    pixels = [torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8) for _ in range(256)]
    batch = [Prepared(ImageRef(str(n), "", "", ""), "", one) for n, one in enumerate(pixels)]
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved(cuda) + (400 << 20)
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(cuda).total_memory)
    try:
        rows = [columns["grid"] for _, columns in run_batch(batch, encoder)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert encoder.batch_size < 256
    assert sum(map(len, rows)) == 256
    assert np.isfinite(np.concatenate(rows)).all()


def test_a_broken_device_is_no_images_fault(cuda):
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=120)
    first, second = done.stdout.splitlines()
    assert first.startswith("the device is broken: CUDA error: device-side assert triggered")
    assert second.startswith("the device is broken: ")
