"""Several processes that train one model, each on its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from mobilesam.errors import UsageError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class World:
    """This process among all; alone unless said otherwise."""

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """Every `size`-th item from `rank` on: together each once, none twice.

        `DistributedSampler` would repeat items until all shares are equal; here unequal ones are
        refused, since the mean over processes would weigh them wrongly.

        Raises:
            UsageError: The items cannot be shared equally.
        """
        if len(items) % self.size:
            raise UsageError(
                f"{len(items)} micro-batches cannot be shared by {self.size} processes; "
                "choose batch_size / micro_batch a multiple of them"
            )
        return items[self.rank :: self.size]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over all processes, in one exchange."""
        if self.size == 1 or not tensors:
            return
        device = tensors[0].device
        flat = torch.cat([each.detach().reshape(-1).float().to(device) for each in tensors])
        torch.distributed.all_reduce(flat)
        start = 0
        for tensor in tensors:
            part = flat[start : start + tensor.numel()]
            tensor.detach().copy_(part.view_as(tensor))
            start += tensor.numel()

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.size > 1:
            torch.distributed.barrier()


@contextmanager
def launched_world(device: torch.device) -> Iterator[World]:
    """The processes that `torchrun` has started, or this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()
