from __future__ import annotations

import itertools
import math
import sys
import warnings

import numpy as np
import pytest
import torch

from ncogym.baselines.base import Routing, Run
from ncogym.baselines.pyvrp import PyVRP
from ncogym.books import Progress
from ncogym.budget import Budget, MaxRollouts, MaxSeconds, NoImprovement
from ncogym.envs.packing.knapsack import Knapsack
from ncogym.envs.routing import geometry
from ncogym.envs.routing.atsp import ATSP
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import NoSolutionFound, SolverNotInstalled, UnsupportedProblem
from ncogym.task import Task

pyvrp = pytest.importorskip("pyvrp")


@pytest.fixture
def iterations(monkeypatch):
    """How many iterations each of its runs did."""
    done = []
    solve = pyvrp.solve

    def counted(*arguments, **named):
        result = solve(*arguments, **named)
        done.append(result.num_iterations)
        return result

    monkeypatch.setattr(pyvrp, "solve", counted)
    return done


def test_it_finds_the_best_routes(deliveries, rng):
    """With five customers it finds what trying all routes finds."""
    solutions = PyVRP()(deliveries.env, deliveries.instances, MaxRollouts(100), rng)
    assert [solution.objective for solution in solutions] == pytest.approx(deliveries.best, rel=1e-12)
    assert all(solution.feasible for solution in solutions)


@pytest.mark.parametrize("env", [Task.of(TSP, 6), Task.of(ATSP, 6)], ids=["symmetric", "asymmetric"])
def test_it_finds_the_shortest_tours(env, rng):
    """On six nodes it finds what trying all tours finds, whether or not the way back is as long."""
    instances = env.generate(4, rng)
    rest = torch.tensor(list(itertools.permutations(range(1, 6))))
    tours = torch.cat([torch.zeros(len(rest), 1, dtype=torch.int64), rest], dim=1)
    best = env.objective(instances, tours.expand(4, -1, -1)).min(1).values
    found = [solution.objective for solution in PyVRP()(env, instances, MaxRollouts(100), rng)]
    assert found == pytest.approx(best.tolist(), rel=1e-12)


def test_a_seed_repeats_its_routes():
    """The same seed gives the same routes under a budget of rollouts, another seed others."""
    env = Task.of(CVRP, 40)
    instances = env.generate(2, torch.Generator().manual_seed(0))
    found = [
        [s.actions.tolist() for s in PyVRP()(env, instances, MaxRollouts(5), torch.Generator().manual_seed(seed))]
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]


def test_budgets_are_kept(iterations, rng):
    """Rollouts are iterations, patience is iterations without improvement, and seconds end it, whichever is first."""
    env = Task.of(CVRP, 20)
    one = env.generate(1, rng)
    PyVRP()(env, one, MaxRollouts(7), rng)
    PyVRP()(env, one, MaxRollouts(7) | MaxSeconds(600), rng)
    PyVRP()(env, one, NoImprovement(60), rng)
    (timed,) = PyVRP()(env, one, MaxSeconds(0.2), rng)
    assert iterations[:2] == [7, 7]
    assert 60 <= iterations[2] < 1000
    assert timed.seconds >= 0.2
    PyVRP()(env, one, None, rng)
    assert iterations[-1] == 1000


def test_few_units_of_load_are_not_bought_with_a_detour(rng):
    """Vehicles that all have to be filled nearly to the brim are filled, and nobody is left out."""
    env = Task.of(CVRP, 20)
    instances = env.generate(8, rng)
    demand = instances["demand"].sum(1)
    instances["capacity"] = (demand / 4).ceil() + 1
    assert all(s.feasible for s in PyVRP()(env, instances, MaxRollouts(300), rng))


@pytest.mark.parametrize("loads", [[0], [0, 3], [0, 3, 0]])
def test_few_customers_are_no_trouble(loads):
    """None, one or two customers have routes, and a single node has a tour."""
    dists = np.ones((len(loads), len(loads))) - np.eye(len(loads))
    runs = []
    for problem in (Routing(dists, np.array(loads), 3, rollouts=20), Routing(dists, rollouts=20)):
        runs.append(Run(math.inf, lambda: False))
        PyVRP()._solve(problem, runs[-1])
    nodes = list(range(len(loads)))
    assert [sorted(node for node in actions if node) for _, actions in runs[0].reports] == [nodes[1:]]
    assert [sorted(actions) for _, actions in runs[1].reports] == [nodes]


def test_a_cancelled_run_ends_with_its_first_solution():
    """A run that would last for minutes and is cancelled gives the solution that it has."""
    env = Task.of(TSP, 30)
    dists = geometry.distances(env.generate(1, torch.Generator().manual_seed(0)))[0].numpy()
    run = Run(600.0, lambda: True)
    PyVRP()._solve(Routing(dists), run)
    assert [sorted(actions) for _, actions in run.reports] == [list(range(30))]
    assert run.elapsed < 300


def test_what_it_cannot_solve_is_told_in_a_line(deliveries, rng, monkeypatch):
    """A knapsack is not taken; a customer who fits no vehicle has no solution; without PyVRP its extra is named."""
    env, instances, _ = deliveries
    with pytest.raises(
        UnsupportedProblem, match=r"pyvrp cannot take knapsack; it solves .* routes .* and closed tours"
    ):
        PyVRP()(Task.of(Knapsack, 5), Task.of(Knapsack, 5).generate(1, rng), None, rng)
    too_small = instances.clone().update({"capacity": torch.ones(3)})
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(NoSolutionFound, match="pyvrp: there is no solution; a customer wants 9 and"),
    ):
        PyVRP()(env, too_small, None, rng)
    monkeypatch.setitem(sys.modules, "pyvrp", None)
    with pytest.raises(SolverNotInstalled, match=r"pyvrp .* pip install 'ncogym\[solvers\]'"):
        PyVRP()(env, instances, None, rng)


def test_it_is_close_to_published_optima(shared_instances, rng):
    """On a small published instance it comes within a hundredth of the best known."""
    env = Task.of(CVRP, 20)
    (solution,) = PyVRP()(env, env.read(shared_instances / "cvrp" / "A-n32-k5.vrp"), MaxRollouts(1000), rng)
    assert solution.feasible
    assert 784 <= solution.objective <= 792


# ---------------------------------------------------------------------- starts


@pytest.mark.parametrize("env", [Task.of(TSP, 40), Task.of(ATSP, 40), Task.of(CVRP, 40)], ids=["tsp", "atsp", "cvrp"])
def test_it_goes_on_from_what_is_there(env, monkeypatch):
    """It begins with the routes that it is given, in their own numbers, whatever node they begin with."""
    instances = env.generate(2, torch.Generator().manual_seed(0))
    good = PyVRP()(env, instances, MaxRollouts(300), torch.Generator().manual_seed(1))
    given, solve = [], pyvrp.solve

    def watched(data, *arguments, initial_solution, **named):
        given.append(initial_solution.distance())
        return solve(data, *arguments, initial_solution=initial_solution, **named)

    progress = Progress(env, instances, MaxRollouts(1000))
    progress.take(good)
    if env.name != "cvrp":
        progress.actions = progress.actions.roll(7, -1)
    progress.budget = Budget(rollouts=progress.rollouts + 2)
    monkeypatch.setattr(pyvrp, "solve", watched)
    PyVRP().improve(progress, torch.Generator().manual_seed(2))
    peak = geometry.distances(instances).amax((1, 2))
    assert given == pytest.approx([s.objective * 1e5 / p for s, p in zip(good, peak.tolist(), strict=True)], rel=1e-3)
    assert all(float(b) <= s.objective for b, s in zip(progress.best, good, strict=True))
