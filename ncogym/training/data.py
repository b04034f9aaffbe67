"""Where training instances come from: generated on the device at each step, or drawn from a labelled pool.

What a step sees follows from (seed, step, rank) alone, so a resumed run continues with the numbers of an uninterrupted
one and no state of a generator is saved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym.errors import ArgumentError
from ncogym.training.labels import LabelledPool


class Batch(NamedTuple):
    """Instances of one size, their environment, and their labels ``[batch, 1, steps]`` where there are any."""

    env: Any
    instances: TensorDict
    labels: Tensor | None


def step_generator(seed: int, step: int, rank: int, device: torch.device | str) -> torch.Generator:
    """Return the generator of one training step of one process."""
    # splitmix64's odd constants keep neighbouring (seed, step, rank) far apart
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % 2**63
    return torch.Generator(device=device).manual_seed(mixed)


class Generated:
    """Fresh instances at every step, of one size drawn uniformly per step.

    Args:
        env: the problem and its distribution.
        low: smallest size, inclusive.
        high: largest size, inclusive.
        nodes_per_batch: a batch holds this many nodes (jobs, items), hence more instances where they are smaller.
    """

    def __init__(self, env: Any, low: int, high: int, nodes_per_batch: int) -> None:
        if not 0 < low <= high:
            raise ArgumentError(f"sizes: {low} to {high} is not allowed; it takes 0 < low <= high")
        self.env, self.low, self.high, self.nodes_per_batch = env, low, high, nodes_per_batch
        self._envs: dict[int, Any] = {env.size: env}

    def draw(self, rng: torch.Generator, host: torch.Generator) -> Batch:
        """Draw a batch; ``rng`` makes the instances on its device, ``host`` decides their size."""
        size = int(torch.randint(self.low, self.high + 1, (), generator=host))
        env = self._envs.setdefault(size, self.env.resized(size))
        return Batch(env, env.generate(max(1, self.nodes_per_batch // size), rng), None)


class Labelled:
    """Instances of a labelled pool under random symmetries.

    Args:
        pool: where the labels are.
        nodes_per_batch: as in `Generated`.
        rotations: share of the batches under a random rotation; the others are under one of the first 8 symmetries.
    """

    def __init__(self, pool: LabelledPool, nodes_per_batch: int, rotations: float = 0.25) -> None:
        self.pool, self.env = pool, pool.env
        self.nodes_per_batch, self.rotations = nodes_per_batch, rotations
        self._envs: dict[int, Any] = {}

    def draw(self, rng: torch.Generator, host: torch.Generator) -> Batch:
        """Draw a batch from one chunk of the pool."""
        chunk = int(torch.randint(self.pool.chunks, (), generator=host))
        size = self.pool.sizes[chunk]
        env = self._envs.setdefault(size, self.env.resized(size))
        instances, labels = self.pool.load(chunk)
        rows = torch.randperm(labels.shape[0], generator=host)[: max(1, self.nodes_per_batch // size)]
        rotated = bool(torch.rand((), generator=host) < self.rotations)
        image = 9 if rotated else int(torch.randint(8, (), generator=host)) + 1
        instances = env.symmetries(instances[rows], image, host)[-1]
        return Batch(env, instances.to(rng.device), labels[rows].to(rng.device))
