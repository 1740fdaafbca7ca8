"""The processes of one training run and their communication."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from captionbeam.capmodel.runtime.device import pick_devices

T = TypeVar("T")


@dataclass(frozen=True)
class Distributed:
    """Rank ``rank`` of ``world_size`` processes, computing on ``device``. A single process needs no process group."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def all_sum(self, *values: float) -> list[float]:
        """Returns each of ``values`` summed over all ranks, in float64."""
        sums = torch.tensor(values, dtype=torch.float64)
        if dist.is_initialized():
            dist.all_reduce(sums)
        return sums.tolist()

    def all_gather(self, value: Any) -> list[Any]:
        """Returns every rank's ``value``, in rank order, on all ranks."""
        if not dist.is_initialized():
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def from_main(self, make: Callable[[], T]) -> T:
        """Calls ``make`` on the first rank and returns its result on all ranks."""
        if not dist.is_initialized():
            return make()
        values = [make() if self.is_main else None]
        dist.broadcast_object_list(values)
        return cast(T, values[0])

    def wrap(self, model: nn.Module) -> nn.Module:
        """Returns ``model`` with gradients averaged over the ranks."""
        if not dist.is_initialized():
            return model
        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device_ids)

    @staticmethod
    def no_sync(model: nn.Module) -> AbstractContextManager[None]:
        """Accumulates gradients locally inside this context; the next backward pass after it averages them."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def local_world() -> int:
    """Returns the number of the run's processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def local_rank() -> int:
    """Returns this process's index on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def choose_device(name: str) -> torch.device:
    """Returns the device; ``auto`` is this process's GPU if there is one, else the CPU. Raises RequestError."""
    devices = pick_devices(name)
    return devices[local_rank() % len(devices)]


@contextmanager
def init_distributed(device: str) -> Iterator[Distributed]:
    """Joins the process group that torchrun's environment describes: gloo between CPUs, nccl between GPUs."""
    chosen, world = choose_device(device), int(os.environ.get("WORLD_SIZE", "1"))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Distributed(0, 1, chosen)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Distributed(dist.get_rank(), world, chosen)
    finally:
        dist.destroy_process_group()
