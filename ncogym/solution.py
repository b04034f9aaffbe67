"""What a solver answers: one scored and checked solution of each instance, and how it compares with a reference."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.problem import Referee


class TracePoint(NamedTuple):
    """One point of an anytime curve: the best objective after so many seconds and rollouts of this instance."""

    seconds: float
    rollouts: int
    objective: float


@dataclass(frozen=True)
class Solution:
    """A solution of one instance, scored and checked by the environment.

    Attributes:
        actions: int64 ``[steps]``.
        objective: in the instance's own units.
        feasible: whether the referee found no violation.
        violation: the referee's words, or None.
        seconds: wall-clock seconds of this instance (of a batch: its equal share, or as measured in its worker).
        rollouts: complete solutions that were built for this instance.
        trace: the anytime curve, one point per improvement.
        solver: the solver's name.
        proven: whether the solver has proven that nothing is better; False says only that it has not.
    """

    actions: Tensor
    objective: float
    feasible: bool
    violation: str | None
    seconds: float
    rollouts: int
    trace: tuple[TracePoint, ...]
    solver: str
    proven: bool = False


Solutions = list[Solution]


def instances_sha256(instances: TensorDict) -> str:
    """Return a fingerprint of instances: SHA-256 over the names, dtypes, shapes and bytes of their tensors.

    The order of the keys and the device do not count; everything else does.
    """
    digest = hashlib.sha256()
    for key, value in sorted(instances.items(include_nested=True, leaves_only=True), key=lambda item: str(item[0])):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def picked(instances: TensorDict, rows: Int64[Tensor, " rows"]) -> TensorDict:
    """Return some of the instances, in this order.

    As indexing does, but tensordict's own imports a part of torch's compiler at its first use, in a solver's time.
    """
    return TensorDict({key: value[rows] for key, value in instances.items()}, batch_size=[len(rows)])


def gap_percent(objective: float, reference: float, sense: str) -> float | None:
    """Return how much worse ``objective`` is than ``reference``, in percent of the reference.

    It is ``100 * (objective / reference - 1)`` where less is better, and its mirror ``100 * (1 - objective /
    reference)``
    where more is. 0 is as good, larger is worse, negative is better than the reference; it is never clipped.

    Args:
        objective: what was found.
        reference: what it is compared with.
        sense: "min" or "max".

    Returns:
        The gap, or None where the two differ and the reference is 0, which no percentage can say.
    """
    if objective == reference:
        return 0.0
    worse = objective - reference if sense == "min" else reference - objective
    return 100 * worse / abs(reference) if reference else None


def stacked(
    env: Referee, instances: TensorDict, solutions: Sequence[Int64[Tensor, " _"]], steps: int | None = None
) -> Int64[Tensor, "batch _"]:
    """Return a solution of each instance in one tensor, padded where one is longer than another.

    Args:
        env: the problem.
        instances: batch size ``[batch]``.
        solutions: int64 ``[steps]`` of each, on any device.
        steps: length of the rows; None is that of the longest.
    """
    device = next(iter(instances.values())).device
    steps = max(map(len, solutions)) if steps is None else steps
    if all(len(actions) == steps for actions in solutions):  # as a batch's are; a row of a TensorDict costs much more
        return torch.stack(list(solutions)).to(device)
    rows = enumerate(solutions)
    return torch.cat([env.padded(instances[row : row + 1], each[None].to(device), steps) for row, each in rows])
