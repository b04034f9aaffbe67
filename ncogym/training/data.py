"""Where training instances come from: generated on the device at each step, or drawn from labelled ones.

A step draws from one or more streams, and each draws its own part of the batch. What a step sees follows from (seed,
step, stream) alone: a resumed run continues with the numbers of an uninterrupted one, no state of a generator is saved,
and which process draws a stream makes no difference.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym.errors import ArgumentError
from ncogym.task import Task
from ncogym.training.labels import LabelledFile, LabelledPool


class Batch(NamedTuple):
    """Instances of one size, their environment, and their labels ``[batch, 1, steps]`` where there are any."""

    env: Task
    instances: TensorDict
    labels: Tensor | None


def step_generator(seed: int, step: int, stream: int, device: torch.device | str) -> torch.Generator:
    """Return the generator of one training step of one stream."""
    # splitmix64's odd constants keep neighbouring (seed, step, stream) far apart
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB) % 2**63
    return torch.Generator(device=device).manual_seed(mixed)


class Stream(NamedTuple):
    """What one stream of a step draws from.

    Attributes:
        number: from 0.
        of: how many streams share the batch.
        rng: on the device.
        host: on the CPU, for what the host decides about this stream's part.
        shared: on the CPU, with the same numbers in every stream of the step, for what they have in common: the size.
    """

    number: int
    of: int
    rng: torch.Generator
    host: torch.Generator
    shared: torch.Generator


def stream(seed: int, step: int, number: int, of: int, device: torch.device | str) -> Stream:
    """Return a stream of a step, its generators at their beginning."""
    rng, host = step_generator(seed, step, number, device), step_generator(seed + 1, step, number, "cpu")
    return Stream(number, of, rng, host, step_generator(seed + 3, step, 0, "cpu"))


class Generated:
    """Fresh instances at every step, of one size drawn uniformly per step.

    Args:
        env: the problem and its distribution.
        low: smallest size, inclusive.
        high: largest size, inclusive.
        nodes_per_batch: a batch holds this many nodes (jobs, items), hence more instances where they are smaller.
    """

    def __init__(self, env: Task, low: int, high: int, nodes_per_batch: int) -> None:
        if not 0 < low <= high:
            raise ArgumentError(f"sizes: {low} to {high} is not allowed; it takes 0 < low <= high")
        self.env, self.low, self.high, self.nodes_per_batch = env, low, high, nodes_per_batch
        self._sized = functools.cache(env.resized)  # to build an environment takes milliseconds

    def draw(self, stream: Stream) -> Batch:
        """Draw the part of a stream, on its device."""
        size = int(torch.randint(self.low, self.high + 1, (), generator=stream.shared))
        env = self._sized(size)
        return Batch(env, env.generate(max(1, self.nodes_per_batch // stream.of // size), stream.rng), None)


class Labelled:
    """Instances of a labelled pool, or file, under random symmetries.

    Args:
        pool: where the labels are.
        nodes_per_batch: as in `Generated`.
        rotations: share of the parts under a random rotation; the others are under one of the first 8 symmetries.
    """

    def __init__(self, pool: LabelledPool | LabelledFile, nodes_per_batch: int, rotations: float = 0.25) -> None:
        self.pool, self.env = pool, pool.env
        self.nodes_per_batch, self.rotations = nodes_per_batch, rotations
        self._sized = functools.cache(self.env.resized)

    def draw(self, stream: Stream) -> Batch:
        """Draw the part of a stream; all parts are from one chunk of the pool and share no row while it has enough."""
        chunk = int(torch.randint(self.pool.chunks, (), generator=stream.shared))
        size = self.pool.sizes[chunk]
        env = self._sized(size)
        instances, labels = self.pool.load(chunk)
        held = labels.shape[0]
        count = min(max(1, self.nodes_per_batch // stream.of // size), held)
        places = (stream.number * count + torch.arange(count)) % held
        rows = torch.randperm(held, generator=stream.shared)[places]
        rotated = bool(torch.rand((), generator=stream.host) < self.rotations)
        image = 9 if rotated else int(torch.randint(8, (), generator=stream.host)) + 1
        images = env.symmetries(instances[rows], image, stream.host)
        labels = env.imaged(instances[rows], labels[rows], len(images) - 1)
        return Batch(env, images[-1].to(stream.rng.device), labels.to(stream.rng.device))
