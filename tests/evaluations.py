"""Small evaluations made by hand, for the tests of tables and pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict

from ncogym.envs.routing.tsp import TSP
from ncogym.evaluation import Evaluation, Record
from ncogym.references import References
from ncogym.sets import InstanceSet
from ncogym.solution import TracePoint
from ncogym.task import Task


def tours(sizes: Sequence[int], name: str = "hand-made", distribution: str = "uniform") -> InstanceSet:
    """Return travelling salesman instances of the given sizes, of which nothing is known."""
    rng = torch.Generator().manual_seed(0)
    blocks = [TensorDict({"locs": torch.rand(1, size, 2, generator=rng)}, batch_size=[1]) for size in sizes]
    if len(set(sizes)) == 1:
        blocks = [torch.cat(blocks)]
    count = len(sizes)
    return InstanceSet(
        name=name,
        env=Task.of(TSP, num_nodes=max(sizes), distribution=distribution),
        blocks=tuple(blocks),
        names=tuple(f"i{row}" for row in range(count)),
        best_known=torch.full((count,), math.nan, dtype=torch.float64),
        proven=(False,) * count,
        actions=(None,) * count,
        best_known_name=None,
        distribution=distribution,
    )


def record(solver: str, instance: int, *trace: tuple[float, float], seconds: float = 1.0, **more: Any) -> Record:
    """Return a feasible record whose reference is 10, from ``(seconds, objective)`` of its trace."""
    objective = trace[-1][1]
    values = {
        "objective": objective,
        "reference": 10.0,
        "gap_percent": 10 * (objective - 10),
        "feasible": True,
        "rollouts": 8,
        "actions": (2, 0, 1, 3),
    }
    points = tuple(TracePoint(at, 8, value) for at, value in trace)
    return Record(solver=solver, instance=instance, seconds=seconds, trace=points, **{**values, **more})


def of(instances: InstanceSet, records: Sequence[Record], **more: Any) -> Evaluation:
    """Return the evaluation of records whose references are 10, the first of them with a solution and proven."""
    count = instances.count
    actions = (torch.arange(instances.sizes[0]), *[None] * (count - 1))
    objective = torch.full((count,), 10.0, dtype=torch.float64)
    values = {
        "solvers": tuple(dict.fromkeys(each.solver for each in records)),
        "references": References("lkh", objective, (True, *[False] * (count - 1)), actions),
        "budget": {"seconds": 2.0},
        "seed": 7,
        "versus": None,
        "warm_up_seconds": {},
    }
    return Evaluation(instances=instances, records=tuple(records), **{**values, **more})


def mixed(**more: Any) -> Evaluation:
    """Return what one solver solves, one fails at once, and one cannot take, on two instances of four nodes."""
    fault = 'node 3, "a", is visited\ttwice'
    records = (
        record("good", 0, (0.25, 12.0), (0.75, 10.1)),
        record("good", 1, (0.5, 11.0), seconds=2.0),
        record("weak", 0, (0.125, 1 / 3)),
        record("weak", 1, (0.25, -3.0), gap_percent=None, feasible=False, violation=fault, seconds=0.5, actions=(3, 3)),
        Record("other", 0, reference=10.0, violation="other cannot take [a-z]sp"),
        Record("other", 1, reference=10.0, violation="other cannot take [a-z]sp"),
    )
    values = {"warm_up_seconds": {"good": 0.5, "weak": 0.25, "other": 0.0}}
    return of(tours([4, 4]), records, **{**values, **more})
