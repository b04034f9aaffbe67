"""Processes that share a piece of work: which of them this one is, and what they tell one another.

`torchrun` and `srun` say in the environment which of how many processes this one is, and Lightning joins those that it
starts itself. Alone, nothing here costs anything. `gather` and `barrier` are for all processes: each must call them.
"""

from __future__ import annotations

import atexit
import functools
import os
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed as dist

from ncogym.errors import ArgumentError

T = TypeVar("T")

PATIENCE = timedelta(days=7)  # one share of labels may take long after the others; who dies is noticed at once
LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))  # torchrun may run inside srun


def rank() -> int:
    """Return the number of this process among those that share the work, from 0."""
    return dist.get_rank() if dist.is_initialized() else _launched()[0]


def world() -> int:
    """Return how many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() else _launched()[1]


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    # a process that Lightning started knows no more than its LOCAL_RANK until all have met
    return rank() == 0 and os.environ.get("LOCAL_RANK", "0") == "0"


def share(count: int, size: int) -> list[range]:
    """Return which of ``count`` things this process takes on, in batches of ``size``: every world-th batch."""
    return [range(begin, min(begin + size, count)) for begin in range(rank() * size, count, world() * size)]


def gather(value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks, to each of them."""
    if world() == 1:
        return [value]
    values: list[T] = [value] * world()
    dist.all_gather_object(values, value, group=_group())
    return values


def barrier() -> None:
    """Wait until all processes are here."""
    gather(None)


def average_(value: torch.Tensor) -> torch.Tensor:
    """Replace a tensor by its mean over all processes, on its device, without a wait of the host for a GPU."""
    if world() > 1:
        _join()
        dist.all_reduce(value)
        value /= world()
    return value


class Vote:
    """A yes of any process that all of them hear at the same call, the one after it was said; nobody waits for it."""

    def __init__(self) -> None:
        self._said: torch.Tensor | None = None
        self._work: dist.Work | None = None

    def __call__(self, yes: bool) -> bool:
        """Say yes or no, and return whether anybody said yes at the last call (alone: at this one)."""
        if world() == 1:
            return yes
        heard = self.close()
        if not heard:
            self._said = torch.tensor(int(yes))
            self._work = dist.all_reduce(self._said, dist.ReduceOp.MAX, _group(), async_op=True)
        return heard

    def close(self) -> bool:
        """Hear the last call to its end; call it before the processes part."""
        if self._work is None or self._said is None:
            return False
        self._work.wait()
        self._work = None
        return bool(self._said)


def _launched() -> tuple[int, int]:
    """Return rank and number of processes as a launcher tells them, (0, 1) without one."""
    for number, count in LAUNCHERS:
        if number in os.environ and count in os.environ:
            return int(os.environ[number]), int(os.environ[count])
    return 0, 1


def _join() -> None:
    if dist.is_initialized():
        return
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ArgumentError(f"{missing[0]}: it is not in the environment; {world()} processes need it to meet")
    # what lies on the host goes through gloo, what lies on a GPU through nccl
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, rank=rank(), world_size=world())
    atexit.register(dist.destroy_process_group)


@functools.cache
def _group() -> dist.ProcessGroup:
    """Return a group for the host's messages, apart from the one that carries gradients."""
    _join()
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=PATIENCE)
    return group
