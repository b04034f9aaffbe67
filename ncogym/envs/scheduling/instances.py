"""Where job shops come from: durations and machine orders, and the published sets.

L2d, durations ``1..98`` (numpy's ``randint(1, 99)``) and random machine orders, as in Zhang et
al., Learning to Dispatch for Job Shop Scheduling via Deep Reinforcement Learning, NeurIPS 2020; taillard, durations
``1..99`` as in Taillard, Benchmarks for basic scheduling problems, EJOR 64, 1993.

Makespans of ta01 to ta80 in the table of published sets are by github.com/ScheduleOpt/benchmarks, jobshop (2025).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict

from ncogym.distribution import Distribution, ReferenceSet, pinned
from ncogym.envs.formats.jobshop import TAILLARD_SEEDS
from ncogym.errors import ArgumentError

JSSPKind = Literal["l2d", "taillard"]


def _jssp_sets() -> Iterator[tuple[str, ReferenceSet]]:
    for jobs, machines in ((6, 6), (10, 10), (15, 15), (20, 15), (20, 20), (30, 20)):
        arguments: dict[str, Any] = {"num_jobs": jobs, "num_machines": machines}
        source = "Zhang et al. 2020 (L2D): numpy.random.seed(200), durations randint(1, 99)"
        yield f"l2d-jssp{jobs}x{machines}", ReferenceSet(arguments, 200, 100, "", source)
    for name, (jobs, machines, *_) in TAILLARD_SEEDS.items():
        arguments = {"num_jobs": jobs, "num_machines": machines, "distribution": "taillard"}
        yield name, ReferenceSet(arguments, None, 1, "", f"Taillard 1993, {jobs}x{machines}, from its two seeds")


def _told(entry: ReferenceSet) -> ReferenceSet:
    """Say in words what is known of a set of one instance."""
    if not entry.best_known:
        return entry
    known = f"{'optimum' if entry.proven[0] else 'best known'} {entry.best_known[0]:.0f}"
    return entry._replace(source=f"{entry.source}; {known}")


class JSSPDistribution(Distribution):
    """Instances of the job shop: ``duration`` and ``machine`` int64 ``[jobs, machines]``.

    Args:
        num_jobs: jobs per generated instance, at least 1.
        num_machines: machines, and operations per job, of a generated instance, at least 1.
        distribution: of the generated durations.
    """

    reference_sets: ClassVar[dict[str, ReferenceSet]] = {
        name: _told(entry) for name, entry in pinned(_jssp_sets()).items()
    }

    def __init__(self, num_jobs: int = 10, num_machines: int = 10, *, distribution: JSSPKind = "l2d") -> None:
        for name, value in (("num_jobs", num_jobs), ("num_machines", num_machines)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ArgumentError(f"{name}: {value} is not allowed; it must be a whole number of at least 1")
        if distribution not in get_args(JSSPKind):
            allowed = ", ".join(get_args(JSSPKind))
            raise ArgumentError(f"distribution: {distribution!r} is not allowed; it must be one of {allowed}")
        self.num_jobs, self.num_machines, self.distribution = num_jobs, num_machines, distribution

    def arguments(self) -> dict[str, Any]:
        return {"num_jobs": self.num_jobs, "num_machines": self.num_machines, "distribution": self.distribution}

    @property
    def size(self) -> int:
        return self.num_jobs

    def of_size(self, size: int) -> JSSPDistribution:
        """Return one with ``size`` jobs and machines in the same proportion, rounded and at least 1."""
        machines = max(1, round(size * self.num_machines / self.num_jobs))
        return JSSPDistribution(size, machines, distribution=self.distribution)

    def like(self, instance: TensorDict) -> JSSPDistribution:
        return JSSPDistribution(*instance["duration"].shape[1:], distribution=self.distribution)

    def draw(self, count: int, rng: torch.Generator) -> TensorDict:
        shape, at = (count, self.num_jobs, self.num_machines), rng.device
        longest = 98 if self.distribution == "l2d" else 99
        duration = torch.randint(1, longest + 1, shape, generator=rng, device=at)
        machine = torch.rand(shape, generator=rng, device=at).argsort(-1)
        return TensorDict({"duration": duration, "machine": machine}, batch_size=[count])

    def seeded(self, count: int, seed: int) -> TensorDict:
        """Return the field's test instances: those of L2D, drawn by numpy's legacy generator one after another.

        ``numpy.random.seed(seed)``, then for each instance ``randint(1, 99, (jobs, machines))`` and the machine order
        ``sample((jobs, machines)).argsort(1)``. The published sets have 100 instances; more go on with the same
        stream. Other distributions come from `draw`.
        """
        if self.distribution != "l2d":
            return super().seeded(count, seed)
        stream, shape = np.random.RandomState(seed), (self.num_jobs, self.num_machines)
        drawn = [(stream.randint(1, 99, shape), stream.random_sample(shape).argsort(1)) for _ in range(count)]
        keys = {
            name: torch.from_numpy(np.stack([pair[number] for pair in drawn]).astype(np.int64))
            for number, name in enumerate(("duration", "machine"))
        }
        return TensorDict(keys, batch_size=[count])

    @classmethod
    def reference_set(cls, name: str) -> TensorDict:
        """Build the whole set of that name; one of Taillard's is a single instance."""
        if name in TAILLARD_SEEDS:
            return taillard_instance(*TAILLARD_SEEDS[name])
        return super().reference_set(name)


def taillard_instance(num_jobs: int, num_machines: int, time_seed: int, machine_seed: int) -> TensorDict:
    """Return the instance that two seeds stand for in Taillard's benchmark, batch size ``[1]``.

    ``taillard_instance(*TAILLARD_SEEDS["ta01"])``, with the table of `ncogym.envs.formats.jobshop`, is ta01.
    """
    from ncogym.envs.formats.jobshop import taillard_matrices

    return shop(*taillard_matrices(num_jobs, num_machines, time_seed, machine_seed))


def shop(duration: NDArray[np.int64], machine: NDArray[np.int64]) -> TensorDict:
    """Return one instance, batch size ``[1]``, of its matrices ``[jobs, machines]``."""
    keys = {"duration": torch.from_numpy(duration)[None], "machine": torch.from_numpy(machine)[None]}
    return TensorDict(keys, batch_size=[1])
