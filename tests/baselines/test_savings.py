from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from ncogym.baselines import savings
from ncogym.baselines.base import to_loads
from ncogym.baselines.savings import NearestNeighbourRoutes, Savings
from ncogym.envs.routing import geometry
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import NoSolutionFound, UnsupportedProblem
from ncogym.task import Task

BOTH = [NearestNeighbourRoutes, Savings]


def line(demand: list[float], capacity: float) -> TensorDict:
    """A depot at 0 and customers at 1, 2, 3, ... and, the last, at -2, all on a line."""
    places = [0.0, *range(1, len(demand)), -2.0]
    values = {
        "locs": torch.tensor([[[x, 0.0] for x in places]]),
        "demand": torch.tensor([[0.0, *demand]], dtype=torch.float64),
        "capacity": torch.tensor([capacity], dtype=torch.float64),
    }
    return TensorDict(values, batch_size=[1])


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("num_customers", [2, 7, 30])
def test_routes_are_feasible_and_repeat_themselves(kind, num_customers, rng):
    """Every customer is visited on a route that fits, in a batch as alone, whatever the seed."""
    env = Task.of(CVRP, num_customers)
    instances = env.generate(5, rng)
    together = kind()(env, instances, None, rng)
    alone = [kind()(env, instances[row : row + 1], None, rng)[0] for row in range(5)]
    assert all(solution.feasible for solution in together)
    plain = [[env.plain_actions(instances[:1], solution.actions) for solution in each] for each in (together, alone)]
    assert plain[0] == plain[1]
    assert {s.solver for s in together} == {kind.name}


@pytest.mark.parametrize(
    ("kind", "actions", "objective"),
    [
        # to 1, on to 2; 3 does not fit any more, but -2 does, 4 away; then 3 alone
        (NearestNeighbourRoutes, [1, 2, 4, 0, 3], 8 + 6),
        # 2 and 3 save most (4), then 1 is taken in (2); nothing is saved on the way to -2
        (Savings, [1, 2, 3, 0, 4], 6 + 4),
    ],
)
def test_routes_by_hand(kind, actions, objective, rng):
    """On a line with vehicles for six, the routes are those that the rule gives by hand."""
    instance = line([2, 1, 3, 1] if kind is Savings else [2, 1, 4, 1], 6)
    (solution,) = kind()(Task.of(CVRP, 4), instance, None, rng)
    assert Task.of(CVRP, 4).plain_actions(instance, solution.actions) in (actions, [3, 2, 1, 0, 4])
    assert solution.objective == objective


def test_savings_are_those_of_a_plain_loop(rng):
    """Routes are those of the textbook: go through the pairs by their savings and join what can be joined."""
    env = Task.of(CVRP, 30)
    instances = env.generate(4, rng)
    demands, capacity = instances["demand"].tolist(), float(instances["capacity"][0])
    solutions = Savings()(env, instances, None, rng)
    for d, demand, solution in zip(geometry.distances(instances).tolist(), demands, solutions, strict=True):
        routes = [[node] for node in range(1, 31)]
        pairs = itertools.combinations(range(1, 31), 2)
        for i, j in sorted(pairs, key=lambda pair: d[pair[0]][0] + d[0][pair[1]] - d[pair[0]][pair[1]], reverse=True):
            one, two = (next(route for route in routes if node in route) for node in (i, j))
            at_ends = i in (one[0], one[-1]) and j in (two[0], two[-1])
            if one is not two and at_ends and sum(demand[node] for node in one + two) <= capacity:
                routes = [route for route in routes if route is not one and route is not two]
                routes.append((one if one[-1] == i else one[::-1]) + (two if two[0] == j else two[::-1]))
        rounds = ([0, *route, 0] for route in routes)
        assert solution.objective == pytest.approx(
            sum(d[a][b] for each in rounds for a, b in itertools.pairwise(each)), rel=1e-12
        )


def test_savings_mind_the_direction():
    """On asymmetric distances routes are joined the cheap way round, and never reversed."""
    dists = np.array([[0, 5, 5, 5], [5, 0, 9, 1], [5, 1, 0, 9], [5, 9, 1, 0]], dtype=np.float64)
    loads = np.array([0, 1, 1, 1])
    (route,) = Savings()._routes(dists, loads, 3, lambda: None)
    assert route in ([1, 3, 2], [3, 2, 1], [2, 1, 3])
    assert sorted(map(sorted, Savings()._routes(dists, loads, 1, lambda: None))) == [[1], [2], [3]]


def test_near_pairs_give_routes_close_to_those_of_all_pairs(rng, monkeypatch):
    """With the nearest pairs alone, as for thousands of customers, routes stay feasible and hardly longer."""
    env = Task.of(CVRP, 100)
    instances = env.generate(4, rng)
    full = sum(solution.objective for solution in Savings()(env, instances, None, rng))
    monkeypatch.setattr(savings, "ALL_PAIRS", 50)
    monkeypatch.setattr(savings, "NEAR", 20)
    solutions = Savings()(env, instances, None, rng)
    assert all(solution.feasible for solution in solutions)
    assert abs(sum(solution.objective for solution in solutions) / full - 1) < 0.05


def test_decimals_may_fill_a_vehicle(rng):
    """Demands of 0.1 and 0.2 fill a vehicle of 0.3 in spite of binary rounding."""
    (solution,) = Savings()(Task.of(CVRP, 3), line([0.1, 0.2, 0.3], 0.3), None, rng)
    assert solution.feasible
    assert (solution.actions[:4] == 0).sum() == 1


@pytest.mark.parametrize("kind", BOTH)
def test_what_cannot_be_solved_is_refused_in_a_line(kind, rng):
    """A problem without demands is not taken, and a customer who fits no vehicle is told."""
    with pytest.raises(UnsupportedProblem, match=f"{kind.name} cannot take tsp; it solves capacitated routes"):
        kind()(Task.of(TSP, 5), Task.of(TSP, 5).generate(1, rng), None, rng)
    with pytest.raises(NoSolutionFound, match="no solution of row 0; a customer wants 7 and a vehicle holds 6"):
        kind()(Task.of(CVRP, 3), line([1, 7, 1], 6), None, rng)


@pytest.mark.parametrize(("name", "best"), [("X-n101-k25", 27591), ("X-n110-k13", 14971), ("X-n120-k6", 13332)])
def test_savings_on_published_instances(name, best, shared_instances, rng):
    """On instances of the X set savings are 2 to 10 % above the best known, as the literature reports."""
    env = Task.of(CVRP, 20)
    (solution,) = Savings()(env, env.read(shared_instances / "cvrp" / f"{name}.vrp"), None, rng)
    assert solution.feasible
    assert 1.02 < solution.objective / best < 1.1


@pytest.mark.parametrize(
    ("demands", "capacity", "largest", "loads"),
    [
        ([0, 3, 4], 7, 10, ([0, 3, 4], 7)),
        ([0, 0.1, 0.25], 0.3, 10**5, ([0, 10, 25], 30)),
        ([0, 3, 4], 70, 10, ([0, 3, 4], 7)),
        ([0, 30, 40], 60, 10, ([0, 50_000, 66_667], 100_000)),
        ([0, 1 / 3, 2 / 3], 1, 10**9, ([0, 33334, 66667], 100_000)),
    ],
)
def test_loads_are_whole_and_never_too_small(demands, capacity, largest, loads):
    """Whole numbers stay, decimals are counted in their last place, others are rounded up; room for all is no more."""
    found, room = to_loads(np.array(demands, dtype=np.float64), capacity, largest)
    assert (found.tolist(), room) == loads
