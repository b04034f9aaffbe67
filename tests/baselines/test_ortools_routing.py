from __future__ import annotations

import itertools
import math
import sys
from typing import get_args

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from ncogym.baselines.base import Routing, Run
from ncogym.baselines.ortools_routing import FirstSolution, Metaheuristic, OrToolsRouting
from ncogym.books import Progress
from ncogym.budget import MaxSeconds
from ncogym.envs.routing import geometry
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import ArgumentError, NoSolutionFound, SolverNotInstalled
from ncogym.task import Task

pywrapcp = pytest.importorskip("ortools.constraint_solver.pywrapcp")
enums = pytest.importorskip("ortools.constraint_solver.routing_enums_pb2")


@pytest.fixture
def asked(monkeypatch):
    """The matrices and search parameters that OR-Tools is given."""
    calls = []

    class Spy(pywrapcp.RoutingModel):
        def RegisterTransitMatrix(self, matrix):  # noqa: N802 - OR-Tools' name
            calls.append(matrix)
            return super().RegisterTransitMatrix(matrix)

        def SolveWithParameters(self, parameters):  # noqa: N802
            calls.append(parameters)
            unlimited = pywrapcp.DefaultRoutingSearchParameters()
            unlimited.first_solution_strategy = parameters.first_solution_strategy
            return super().SolveWithParameters(unlimited)

    monkeypatch.setattr(pywrapcp, "RoutingModel", Spy)
    return calls


def test_it_finds_the_shortest_tours_of_few_nodes(rng):
    """On six nodes its local search finds what trying all tours finds, or stays close above it."""
    env = Task.of(TSP, 6)
    instances = env.generate(10, rng)
    rest = torch.tensor(list(itertools.permutations(range(1, 6))))
    tours = torch.cat([torch.zeros(len(rest), 1, dtype=torch.int64), rest], dim=1)
    best = env.objective(instances, tours.expand(10, -1, -1)).min(1).values
    solutions = OrToolsRouting(metaheuristic=None)(env, instances, None, rng)
    found = torch.tensor([solution.objective for solution in solutions], dtype=torch.float64)
    assert (found > best - 1e-9).all()
    assert (found / best).mean() < 1.01


def test_it_keeps_to_the_direction(rng):
    """On asymmetric distances it takes the cheap way round."""
    around = torch.full((1, 5, 5), 9.0, dtype=torch.float64)
    around[0, torch.arange(5), torch.arange(5).roll(-1)] = 1.0
    instance = TensorDict({"dists": around}, batch_size=[1])
    (solution,) = OrToolsRouting(metaheuristic=None)(Task.of(TSP, 5), instance, None, rng)
    assert (solution.actions.tolist(), solution.objective) == ([0, 1, 2, 3, 4], 5.0)


def test_it_finds_good_routes(deliveries, rng):
    """With five customers its local search finds what trying all routes finds, or stays close above it."""
    solutions = OrToolsRouting(metaheuristic=None)(deliveries.env, deliveries.instances, None, rng)
    assert all(solution.feasible for solution in solutions)
    gaps = [solution.objective / best for solution, best in zip(solutions, deliveries.best, strict=True)]
    assert min(gaps) > 1 - 1e-9
    assert sum(gaps) / 3 < 1.02


@pytest.mark.parametrize("whole", [True, False])
def test_routes_fit_the_vehicle(whole, rng):
    """Whole loads and fractions alike stay within the capacity, and no route that the rest needs is missing."""
    env = Task.of(CVRP, 20)
    instances = env.generate(3, rng)
    if not whole:
        instances["demand"] /= 7
        instances["capacity"] /= 7
    assert all(s.feasible for s in OrToolsRouting(metaheuristic=None)(env, instances, None, rng))


def test_a_customer_who_fits_no_vehicle_has_no_solution(deliveries, rng):
    """Where a demand exceeds the capacity nothing is found, which is said."""
    too_small = deliveries.instances.clone().update({"capacity": torch.ones(3)})
    with pytest.raises(NoSolutionFound, match="ortools: there is no solution; a customer wants 9 and"):
        OrToolsRouting()(deliveries.env, too_small, None, rng)


@pytest.mark.parametrize("first_solution", get_args(FirstSolution))
def test_every_first_solution_strategy_gives_a_solution(first_solution, rng):
    """Each name that is allowed is one of OR-Tools' own and works for a tour and for routes."""
    assert first_solution in enums.FirstSolutionStrategy.Value.keys()
    for env in (Task.of(TSP, 12), Task.of(CVRP, 12)):
        (solution,) = OrToolsRouting(first_solution, None)(env, env.generate(1, rng), None, rng)
        assert solution.feasible


def test_every_metaheuristic_is_one_of_its_own(asked, rng):
    """Each name that is allowed reaches OR-Tools as its number."""
    env = Task.of(TSP, 5)
    for name in get_args(Metaheuristic):
        OrToolsRouting(metaheuristic=name)(env, env.generate(1, rng), None, rng)
        assert asked[-1].local_search_metaheuristic == enums.LocalSearchMetaheuristic.Value.Value(name)


def test_seconds_come_from_the_budget(asked, rng):
    """A metaheuristic gets the budget's seconds or 1 s; local search alone has no limit but the budget's."""
    env = Task.of(TSP, 5)
    instances = env.generate(1, rng)

    def seconds(metaheuristic, budget):
        OrToolsRouting(metaheuristic=metaheuristic)(env, instances, budget, rng)
        limit = asked[-1].time_limit
        return limit.seconds + limit.nanos / 1e9 if asked[-1].HasField("time_limit") else math.inf

    assert seconds("GUIDED_LOCAL_SEARCH", None) == 1
    assert 900 < seconds("GUIDED_LOCAL_SEARCH", MaxSeconds(1000)) < 1000
    assert 900 < seconds(None, MaxSeconds(1000)) < 1000
    assert seconds(None, None) == math.inf


def test_whole_distances_are_handed_over_as_they_are(asked, rng):
    """A file's whole distances are not scaled, others are scaled to a billion, or by the scale that is given."""
    dists = torch.tensor([[[0.0, 1.0, 7.0], [1.0, 0.0, 3.0], [7.0, 3.0, 0.0]]], dtype=torch.float64)
    instances = [TensorDict({"dists": each}, batch_size=[1]) for each in (dists, dists / 2)]
    OrToolsRouting()(Task.of(TSP, 3), instances[0], None, rng)
    OrToolsRouting()(Task.of(TSP, 3), instances[1], None, rng)
    OrToolsRouting(scale=100)(Task.of(TSP, 3), instances[1], None, rng)
    whole = dists[0].long()
    assert asked[::2] == [
        whole.tolist(),
        [[0, 142857143, 10**9], [142857143, 0, 428571429], [10**9, 428571429, 0]],
        (whole * 50).tolist(),
    ]


def test_the_curve_falls_from_the_first_solution(rng):
    """Improved tours are reported as they are found, each better than the one before, the last being the result."""
    env = Task.of(TSP, 40)
    (solution,) = OrToolsRouting(metaheuristic=None)(env, env.generate(1, rng), None, rng)
    objectives = [point.objective for point in solution.trace]
    seconds = [point.seconds for point in solution.trace]
    assert len(objectives) > 1
    assert objectives == sorted(objectives, reverse=True)
    assert seconds == sorted(seconds)
    assert objectives[-1] == solution.objective
    assert seconds[-1] <= solution.seconds


def test_a_cancelled_run_ends_with_its_first_solution():
    """A run that would last for minutes and is cancelled gives the solution that it has."""
    env = Task.of(TSP, 40)
    dists = geometry.distances(env.generate(1, torch.Generator().manual_seed(0)))[0].numpy()
    run = Run(600.0, lambda: True)
    OrToolsRouting()._solve(Routing(dists), run)
    assert [sorted(actions) for _, actions in run.reports] == [list(range(40))]
    assert run.elapsed < 300


def test_distances_that_take_too_long_to_hand_over_are_not(asked, monkeypatch, rng):
    """OR-Tools reads them no faster than they are made into lists; it is not asked, and one line says so."""
    env = Task.of(TSP, 6)
    monkeypatch.setattr("ncogym.baselines.ortools_routing.HANDOVER_SHARE", -1.0)
    with pytest.raises(NoSolutionFound, match="ortools: no solution of tsp within the budget"):
        OrToolsRouting()(env, env.generate(1, rng), MaxSeconds(60), rng)
    assert not asked


def test_reading_tours_is_bounded(monkeypatch):
    """Improvements that come faster than they can be read are passed over; the last is never lost."""
    env = Task.of(TSP, 40)
    dists = geometry.distances(env.generate(1, torch.Generator().manual_seed(0)))[0].numpy()
    lengths = []
    for share in (math.inf, 0.0):
        monkeypatch.setattr("ncogym.baselines.ortools_routing.READING_SHARE", share)
        run = Run(math.inf, lambda: False)
        OrToolsRouting(metaheuristic=None)._solve(Routing(dists), run)
        tours = np.array([actions for _, actions in run.reports])
        lengths.append(dists[tours, np.roll(tours, -1, axis=1)].sum(1))
    assert len(lengths[0]) > len(lengths[1]) == 2
    assert lengths[0][0] == lengths[1][0]
    assert lengths[0][-1] == lengths[1][-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"first_solution": "SAVING"}, "first_solution: 'SAVING' is not allowed; it must be one of AUTOMATIC, PATH_"),
        ({"first_solution": "SWEEP"}, "first_solution: 'SWEEP' is not allowed"),
        ({"metaheuristic": "gls"}, "metaheuristic: 'gls' is not allowed; it must be one of GUIDED_LOCAL_SEARCH, "),
        ({"scale": 0}, "scale: 0 is not allowed"),
    ],
)
def test_unknown_values_are_refused_in_words(arguments, words):
    """A value that OR-Tools does not know, or not for tours, is refused when the solver is built."""
    with pytest.raises(ArgumentError, match=words):
        OrToolsRouting(**arguments)


def test_a_missing_package_names_its_extra(monkeypatch, rng):
    """Without OR-Tools the error says which extra to install."""
    monkeypatch.setitem(sys.modules, "ortools.constraint_solver", None)
    env = Task.of(TSP, 5)
    with pytest.raises(SolverNotInstalled, match=r"ortools .* pip install 'ncogym\[solvers\]'"):
        OrToolsRouting()(env, env.generate(1, rng), None, rng)


# ---------------------------------------------------------------------- starts


@pytest.mark.parametrize("env", [Task.of(TSP, 30), Task.of(CVRP, 30)], ids=["tsp", "cvrp"])
def test_it_goes_on_from_what_is_there(env, rng, monkeypatch):
    """The first solution that it looks at is the one that it is given, and none is worse than that."""
    instances = env.generate(1, rng)
    descent = OrToolsRouting(metaheuristic=None)  # which ends of its own accord
    best = descent(env, instances, None, rng)
    read = []

    class Spy(pywrapcp.RoutingModel):
        def SolveFromAssignmentWithParameters(self, assignment, parameters):  # noqa: N802 - OR-Tools' name
            read.append(assignment.ObjectiveValue())
            return super().SolveFromAssignmentWithParameters(assignment, parameters)

    monkeypatch.setattr(pywrapcp, "RoutingModel", Spy)
    progress = Progress(env, instances, None)
    progress.take(best)
    if env.name != "cvrp":
        progress.actions = progress.actions.roll(7, -1)
    descent.improve(progress, rng)
    assert len(read) == 1
    assert progress.best.item() <= best[0].objective
    assert progress.solutions("x")[0].feasible


def test_more_routes_than_vehicles_are_taken(rng):
    """A start with a route for each customer has the vehicles that it needs."""
    env = Task.of(CVRP, 12)
    instances = env.generate(1, rng)
    progress = Progress(env, instances, None)
    progress.offer(torch.tensor([[[node for customer in range(1, 13) for node in (customer, 0)][:-1]]]))
    apart = progress.best.item()
    OrToolsRouting(metaheuristic=None).improve(progress, rng)
    assert progress.best.item() < apart
