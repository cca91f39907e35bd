"""The processes that share a run: one alone, or those that ``torchrun`` started, a GPU each."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


class GroupError(ValueError):
    """Processes that cannot share a run; the message says what would be right."""


@dataclass(frozen=True)
class Group:
    """This process among those that share a run.

    Attributes:
        device: what it computes on.
        rank: its number; 0 writes the run's folder.
        world: how many there are.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    def any(self, flag: bool) -> bool:
        """Tell whether any process says so. On the CPU, so that no GPU waits for the answer."""
        if self.world == 1:
            return flag
        said = torch.tensor(int(flag))
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return bool(said)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.world
        return value

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.any(False)


def join() -> Group:
    """Join the processes that ``torchrun`` started; without it, be alone.

    Raises:
        GroupError: if there are more processes than GPUs.
    """
    gpus = torch.cuda.device_count()
    if "LOCAL_RANK" not in os.environ:
        return Group(torch.device("cuda" if gpus else "cpu"))
    local, processes = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if gpus and processes > gpus:  # on every process, so that the first, which alone speaks, says so
        raise GroupError(f"torchrun: {processes} processes for {gpus} GPUs; start one for each")
    device = torch.device("cpu")
    if gpus:
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    return Group(device, dist.get_rank(), dist.get_world_size())


def leave(group: Group) -> None:
    """Part from the other processes."""
    if group.world > 1:
        dist.destroy_process_group()
