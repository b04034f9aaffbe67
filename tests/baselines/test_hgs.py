from __future__ import annotations

import math
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ncogym.baselines import base
from ncogym.baselines.base import Routing, Run
from ncogym.baselines.hgs import HGS
from ncogym.budget import Budget, MaxRollouts, MaxSeconds, NoImprovement
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import NoSolutionFound, SolverNotInstalled, UnsupportedProblem
from ncogym.task import Task

hygese = pytest.importorskip("hygese")


@pytest.fixture
def asked(monkeypatch):
    """What HGS is asked, without its search: parameters and data; it answers with a route for each customer."""
    calls = []

    class Solver:
        def __init__(self, parameters, verbose):
            self.parameters = parameters

        def solve_cvrp(self, data, rounding):
            calls.append((self.parameters, data))
            return SimpleNamespace(routes=[[node] for node in range(1, len(data["demands"]))])

    monkeypatch.setattr(hygese, "Solver", Solver)
    monkeypatch.setattr(HGS, "apart", False)
    return calls


def run_of(problem: Routing, seconds: float = math.inf, cancelled: bool = False) -> Run:
    """A run of a problem, after it."""
    run = Run(seconds, lambda: cancelled)
    HGS()._solve(problem, run)
    return run


def few(loads: list[int], capacity: int) -> Routing:
    """Nodes on a circle, with given loads."""
    angle = np.linspace(0, 6, len(loads))
    locs = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Routing(np.linalg.norm(locs[:, None] - locs, axis=-1), np.array(loads), capacity, patience=20)


def test_it_finds_the_best_routes(deliveries, rng):
    """With five customers it finds what trying all routes finds, in their order and in the env's units."""
    solutions = HGS()(deliveries.env, deliveries.instances, MaxRollouts(50), rng)
    assert [solution.objective for solution in solutions] == pytest.approx(deliveries.best, rel=1e-12)
    assert all(solution.feasible for solution in solutions)


def test_a_seed_repeats_its_routes():
    """The same seed gives the same routes under a budget of rollouts, and another seed another search."""
    env = Task.of(CVRP, 40)
    instances = env.generate(2, torch.Generator().manual_seed(0))
    found = [
        [s.actions.tolist() for s in HGS()(env, instances, MaxRollouts(1), torch.Generator().manual_seed(seed))]
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("budget", "iterations"),
    [
        (None, 500),
        (MaxRollouts(7), 7),
        (NoImprovement(9), 9),
        (MaxRollouts(7) | NoImprovement(5), 5),
        (MaxSeconds(100), 20000),
        (MaxSeconds(100) | MaxRollouts(7), 7),
    ],
)
def test_a_budget_becomes_its_limits(asked, deliveries, budget, iterations, rng):
    """Rollouts become iterations without improvement, and without seconds there is one search without a limit."""
    HGS()(deliveries.env, deliveries.instances[:1], budget, rng)
    assert {limits.nbIter for limits, _ in asked} == {iterations}
    if budget is None or budget.seconds == math.inf:
        assert [limits.timeLimit for limits, _ in asked] == [0]


@pytest.mark.parametrize(
    ("slower", "parts"),
    [
        ([1, 1], [10, 90]),  # an idle machine
        ([1.1, 1.1], [10, 80.9]),
        ([4, 4, 4], [10, 12, 2.4]),  # a busy one
        ([4, 1, 1], [10, 12, 48]),  # one that was busy
        ([1, 1.5], [10, 90]),  # and one that becomes it, where the process is ended
    ],
)
def test_the_seconds_of_a_busy_machine_are_filled(asked, monkeypatch, slower, parts):
    """What the processor's clock is asked for follows from how it passed before, and fills the budget's seconds."""
    now = [0.0]
    monkeypatch.setattr(base.time, "perf_counter", lambda: now[0])
    search, paces = hygese.Solver.solve_cvrp, iter(slower)

    def timed(self, data, rounding):
        now[0] += self.parameters.timeLimit * next(paces)
        return search(self, data, rounding)

    monkeypatch.setattr(hygese.Solver, "solve_cvrp", timed)
    run_of(few([0, 1, 1, 1], 5)._replace(seed=3), seconds=100.0)
    assert [limits.timeLimit for limits, _ in asked] == pytest.approx(parts, rel=1e-3)
    assert [limits.seed for limits, _ in asked] == [3, 3, 4][: len(parts)]


def test_seconds_are_kept(rng):
    """A budget of seconds ends after about as many, however busy the machine is."""
    env = Task.of(CVRP, 30)
    begin = time.perf_counter()
    (solution,) = HGS()(env, env.generate(1, rng), MaxSeconds(0.3), rng)
    assert solution.feasible
    assert time.perf_counter() - begin < 300


def test_distances_and_loads_are_of_a_size_that_it_takes(asked, rng):
    """Distances are scaled to a thousand, whatever their unit; whole loads stay as they are, others are scaled."""
    env = Task.of(CVRP, 6)
    instances = env.generate(2, rng)
    HGS()(env, instances, None, rng)
    instances["demand"] /= 7
    HGS()(env, instances, None, rng)
    assert [data["distance_matrix"].max() for _, data in asked] == pytest.approx([1000] * 4)
    assert asked[0][1]["demands"].tolist() == (instances["demand"][0] * 7).round().tolist()
    assert asked[2][1]["vehicle_capacity"] == 100_000
    assert asked[2][1]["num_vehicles"] == 6


@pytest.mark.parametrize(
    ("problem", "routes"),
    [
        (few([0, 3], 3), [[1]]),
        (few([0, 0, 0], 3), [[1, 2], [2, 1]]),
        (Routing(np.zeros((3, 3)), np.array([0, 2, 2]), 3, patience=20), [[1, 0, 2], [2, 0, 1]]),
    ],
)
def test_odd_instances_are_solved(problem, routes):
    """One customer, customers that want nothing, and places that are all the same have routes, too."""
    assert [actions in routes for _, actions in run_of(problem).reports] == [True]


def test_a_cancelled_run_ends_soon_with_routes():
    """A run that would last for minutes and is cancelled gives routes nevertheless."""
    run = run_of(few([0] + [1] * 20, 5)._replace(patience=math.inf), seconds=600, cancelled=True)
    assert run.elapsed < 300
    assert [sorted(node for node in actions if node) for _, actions in run.reports] == [list(range(1, 21))]


def test_what_it_cannot_solve_is_told_in_a_line(deliveries, rng, monkeypatch):
    """A tour is not taken; a customer who fits no vehicle has no solution; without hygese its extra is named."""
    env, instances, _ = deliveries
    with pytest.raises(UnsupportedProblem, match="hgs cannot take tsp; it solves capacitated routes"):
        HGS()(Task.of(TSP, 5), Task.of(TSP, 5).generate(1, rng), None, rng)
    with pytest.raises(NoSolutionFound, match="hgs: there is no solution; a customer wants 9 and"):
        HGS()(env, instances.clone().update({"capacity": torch.ones(3)}), Budget(), rng)
    monkeypatch.setitem(sys.modules, "hygese", None)
    with pytest.raises(SolverNotInstalled, match=r"hygese .* pip install 'ncogym\[solvers\]'"):
        HGS()(env, instances, None, rng)


@pytest.mark.parametrize(("name", "best"), [("P-n22-k8", 590), ("A-n32-k5", 784)])
def test_it_reaches_published_optima(name, best, shared_instances, rng):
    """On small published instances it reaches the best known with a free fleet."""
    env = Task.of(CVRP, 20)
    (solution,) = HGS()(env, env.read(shared_instances / "cvrp" / f"{name}.vrp"), MaxRollouts(200), rng)
    assert (solution.feasible, solution.objective) == (True, best)
