"""Numbers at the ends of what float64 holds: every solver scales them, or refuses them in one line."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from tensordict import TensorDict

from ncogym import laws
from ncogym.baselines import SOLVERS
from ncogym.baselines.ortools_routing import OrToolsRouting
from ncogym.budget import MaxRollouts
from ncogym.envs.packing.knapsack import Knapsack
from ncogym.envs.routing.atsp import ATSP
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.tsp import TSP
from ncogym.envs.scheduling.jssp import JSSP
from ncogym.errors import ArgumentError, NoSolutionFound

PLACES = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0], [0.0, 4.0], [1.0, 1.0]], dtype=torch.float64)
ONE_WAY = torch.tensor([[0.0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1], [1, 2, 3, 0]], dtype=torch.float64)


def tour(scale, shift=0.0):
    """Places in the plane, moved and scaled."""
    return TSP, {"locs": PLACES * scale + shift}


def one_way(scale):
    """Distances round a ring, scaled."""
    return ATSP, {"dists": ONE_WAY * scale}


def routes(demand, capacity, scale=1.0):
    """Customers at those places."""
    demand = torch.tensor([0.0, *demand], dtype=torch.float64)
    return CVRP, {"locs": PLACES * scale, "demand": demand, "capacity": torch.tensor(capacity, dtype=torch.float64)}


def items(weight, value, capacity):
    """A knapsack."""
    numbers = {"weight": weight, "value": value, "capacity": capacity}
    return Knapsack, {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}


def shop(scale):
    """Two jobs on two machines, their durations scaled."""
    machine = torch.tensor([[0, 1], [1, 0]])
    return JSSP, {"duration": torch.tensor([[1, 2], [3, 4]]) * scale, "machine": machine}


EXTREMES = {
    "tour, subnormal": tour(1e-320),
    "tour, tiny": tour(1e-300),
    "tour, huge": tour(1e150),
    "tour, far away": tour(1.0, 1e12),
    "tour, all in one place": tour(0.0),
    "one way, subnormal": one_way(1e-320),
    "one way, huge": one_way(1e306),
    "one way, whole and large": one_way(2.0**40),
    "routes, huge demands": routes([1e300, 1e300, 2e300, 1e299], 3e300),
    "routes, demands at the end": routes([1e308, 1e307, 1e308, 1.0], 1.7e308),
    "routes, tiny demands": routes([1e-300, 1e-300, 2e-300, 1e-301], 3e-300),
    "routes, subnormal demands": routes([1e-320, 1e-320, 2e-320, 1e-321], 3e-320),
    "routes, demands from tiny to huge": routes([1e-300, 1.0, 1e300, 1e-320], 2e300),
    "routes, no demands": routes([0.0, 0.0, 0.0, 0.0], 1e-320),
    "routes, nearly full": routes([1 / 3, 1 / 3, 1 / 3, 1 / 7], 1.0),
    "routes, room for all": routes([1.0, 2.0, 3.0, 4.0], 1e308),
    "routes, subnormal places": routes([1.0, 2.0, 3.0, 4.0], 5.0, 1e-320),
    "routes, huge places": routes([1.0, 2.0, 3.0, 4.0], 5.0, 1e150),
    "items, tiny": items([1e-300, 2e-300, 3e-300], [1e-300, 3e-300, 1e-300], 4e-300),
    "items, subnormal": items([1e-320, 2e-320, 3e-320], [1e-320, 3e-320, 1e-320], 4e-320),
    "items, huge": items([1e300, 2e300, 3e300], [1e300, 3e300, 1e300], 4e300),
    "items, at the end": items([1e307, 2e307, 3e307], [1e307, 3e307, 1e307], 4e307),
    "items, from tiny to huge": items([1e-300, 1.0, 1e300], [1e300, 1.0, 1e-300], 1e300),
    "items, room for all": items([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 1e308),
    "items, room for none": items([1e300, 2e300, 3e300], [1.0, 2.0, 3.0], 1e-300),
    "items, without weight": items([0.0, 2.0, 3.0], [1.0, 0.0, 3.0], 3.0),
    "items, without value": items([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], 3.0),
    "items, without either": items([0.0, 2.0, 0.0], [0.0, 0.0, 1.0], 3.0),
    "shop, long": shop(2**40),
    "shop, without length": shop(0),
}


@pytest.mark.parametrize("extreme", EXTREMES)
def test_extreme_numbers_are_solved(extreme):
    """Every solver that takes the problem gives a feasible solution, and no warning of numpy's reaches the user."""
    kind, instance = EXTREMES[extreme]
    pair = TensorDict({name: torch.stack([value, value]) for name, value in instance.items()}, batch_size=[2])
    env = type(kind.__name__, (kind,), {"model": kind.model})()
    env.generate = lambda batch, rng: pair
    solvers = tuple(make() for name, make in SOLVERS.items() if ":" not in name or name == "dispatch:MWKR")
    case = laws.Case(env, 0, pair, torch.zeros(2, 1, 1), solvers=solvers)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert list(laws.solvers_solve_what_they_take(case)) == []


@pytest.mark.parametrize("name", ["ortools", "fast-tsp", "pyvrp", "cp-sat"])
def test_places_too_far_apart_are_refused_in_words(name, rng):
    """A distance beyond float64 is no number that whole numbers could stand for."""
    env, instance = TSP(), TensorDict({"locs": 1e200 * PLACES[None]}, batch_size=[1])
    with pytest.raises(ArgumentError, match="a number of inf is not allowed for this solver; it must"):
        SOLVERS[name]()(env, instance, MaxRollouts(1), rng)


@pytest.mark.parametrize("name", ["nearest-neighbour", "savings", "ortools", "hgs", "pyvrp"])
@pytest.mark.parametrize(("demand", "capacity"), [(1e300, 1e299), (2.0, 1e-300), (2e-320, 1e-320), (1 + 1e-9, 1.0)])
def test_a_customer_for_no_vehicle_is_told(name, demand, capacity, rng):
    """A demand above the capacity is told with both numbers, whatever their size, and nobody searches in vain."""
    _, instance = routes([0.0, demand, 0.0, 0.0], capacity)
    instances = TensorDict(instance, batch_size=[]).unsqueeze(0)
    words = f"; a customer wants {demand:.17g} and a vehicle holds {capacity:.17g}"
    with pytest.raises(NoSolutionFound, match=re.escape(words)):
        SOLVERS[name]()(CVRP(), instances, MaxRollouts(1), rng)


def test_a_scale_that_leaves_whole_numbers_is_refused(rng):
    """A published protocol's scale is of the unit square; on places far apart it would overflow."""
    instances = TensorDict({"locs": 1e9 * PLACES[None]}, batch_size=[1])
    with pytest.raises(ArgumentError, match=r"scale: 1000000.0 is not allowed here; the longest .* becomes 5e\+15"):
        OrToolsRouting(scale=1e6)(TSP(), instances, MaxRollouts(1), rng)
