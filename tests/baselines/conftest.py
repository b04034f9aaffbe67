"""Fixtures that several solvers' tests share."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch
from tensordict import TensorDict

from ncogym.envs.routing import geometry
from ncogym.envs.routing.cvrp import CVRP
from ncogym.task import Task


class Deliveries(NamedTuple):
    """Some instances of capacitated routing and the objective of each one's best solution."""

    env: CVRP
    instances: TensorDict
    best: list[float]


@pytest.fixture
def deliveries() -> Deliveries:
    """Three instances with five customers, solved by trying all orders and all ways to cut them into routes."""
    env = Task.of(CVRP, 5, capacity=15)
    instances = env.generate(3, torch.Generator().manual_seed(0))
    best = []
    for dists, demand in zip(geometry.distances(instances).tolist(), instances["demand"].tolist(), strict=True):
        lengths = []
        for order in itertools.permutations(range(1, 6)):
            for cuts in itertools.product([False, True], repeat=4):
                routes = [[order[0]]]
                for node, cut in zip(order[1:], cuts, strict=True):
                    routes.append([node]) if cut else routes[-1].append(node)
                if all(sum(demand[node] for node in route) <= 15 for route in routes):
                    rounds = ([0, *route, 0] for route in routes)
                    lengths.append(sum(dists[a][b] for each in rounds for a, b in itertools.pairwise(each)))
        best.append(min(lengths))
    return Deliveries(env, instances, best)
