"""Which device and which precision a job computes in."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from captionbeam.capmodel.runtime.device import resolve_precision
from captionbeam.schemas.errors import RequestError


@pytest.fixture
def processor(monkeypatch):
    """Makes this machine one whose processor has exactly the named abilities, and no GPU."""

    def make(*names: str) -> None:
        able = dict.fromkeys(names, True)
        monkeypatch.setattr(torch, "cpu", SimpleNamespace(get_capabilities=lambda: able))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    return make


@pytest.mark.parametrize(
    ("abilities", "precision"),
    [
        (("avx512_bf16",), "bf16"),
        (("amx_bf16", "amx_tile"), "bf16"),
        (("sve_bf16",), "bf16"),
        (("avx512_f", "avx2"), "fp32"),
        ((), "fp32"),
    ],
)
def test_auto_is_bf16_on_processors_that_multiply_it(processor, abilities, precision):
    processor(*abilities)
    assert resolve_precision("auto") == resolve_precision("auto", "cpu") == precision


def test_a_precision_that_is_named_is_taken_whatever_the_device():
    assert resolve_precision("bf16", "cuda:77") == "bf16"


def test_another_precision_is_refused():
    with pytest.raises(RequestError, match="precision is 'fp64'; expected auto, fp32 or bf16"):
        resolve_precision("fp64")
