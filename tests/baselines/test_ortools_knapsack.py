from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from ncogym.baselines import SOLVERS, KnapsackDP, OrToolsKnapsack
from ncogym.baselines.base import Run
from ncogym.budget import Budget, MaxSeconds
from ncogym.envs.packing.knapsack import Knapsack
from ncogym.envs.scheduling.jssp import JSSP
from ncogym.errors import SolverNotInstalled, UnsupportedProblem
from ncogym.task import Task

knapsack_solver = pytest.importorskip("ortools.algorithms.python.knapsack_solver")


def knapsack(weight, value, capacity):
    """Return one instance."""
    numbers = {"weight": weight, "value": value, "capacity": capacity}
    return TensorDict({name: torch.tensor([each], dtype=torch.float64) for name, each in numbers.items()}, [1])


@pytest.fixture
def asked(monkeypatch):
    """What OR-Tools is given: the algorithm, then values, weights and capacity."""
    calls = []

    class Spy(knapsack_solver.KnapsackSolver):
        def __init__(self, kind, name):
            calls.append(kind.name)
            super().__init__(kind, name)

        def init(self, *numbers):
            calls.extend(numbers)
            super().init(*numbers)

    monkeypatch.setattr(knapsack_solver, "KnapsackSolver", Spy)
    monkeypatch.setattr(OrToolsKnapsack, "apart", False)
    return calls


@pytest.mark.parametrize("distribution", ["uniform", "strongly", "mixed", "spanner"])
def test_it_agrees_with_the_exact_programme(distribution, rng):
    """Both exact solvers find the same value, to within the resolution of scaled weights."""
    env = Task.of(Knapsack, 30, distribution)
    instances = env.generate(6, rng)
    found = [solver(env, instances, MaxSeconds(2000), rng) for solver in (OrToolsKnapsack(), KnapsackDP())]
    assert all(solution.feasible and len(solution.actions) == 30 for solution in found[0])
    for one, other in zip(*found, strict=True):
        assert one.objective == pytest.approx(other.objective, rel=1e-7)


def test_whole_numbers_go_over_as_they_are(asked, data, rng):
    """Whole numbers are not scaled, and few loads are a matter of the dynamic programme."""
    env = Task.of(Knapsack, 4)
    (solution,) = OrToolsKnapsack()(env, env.read(data / "exact4.kp"), None, rng)
    assert asked == ["KNAPSACK_DIVIDE_AND_CONQUER_SOLVER", [12, 9, 9, 1], [[6, 5, 5, 1]], [10]]
    assert (solution.objective, solution.actions.tolist(), solution.solver) == (18, [1, 2, 4, 4], "ortools")
    assert solution.proven


def test_decimals_go_over_as_they_are(asked, data, rng):
    """Hundredths become whole, so that 0.1 and 0.2 fill 0.3."""
    env = Task.of(Knapsack, 3)
    (solution,) = OrToolsKnapsack()(env, env.read(data / "decimal3.kp"), None, rng)
    assert asked[1:] == [[2, 3, 4], [[10, 20, 25]], [30]]
    assert (solution.objective, solution.feasible, solution.proven) == (5, True, True)


def test_other_numbers_are_rounded_to_the_safe_side(asked, rng):
    """Weights are scaled by the capacity and rounded up, values by the largest; what is too heavy stays out."""
    third = 1 / 3
    instance = knapsack([third, 2 * third * (1 + 1e-9), 0.5], [1.0, third, 0.1], 1.0)
    (solution,) = OrToolsKnapsack()(Task.of(Knapsack, 3), instance, None, rng)
    kind, values, (weights,), (capacity,) = asked
    assert kind == "KNAPSACK_MULTIDIMENSION_BRANCH_AND_BOUND_SOLVER"
    assert values == [10**9, 333333333, 10**8]
    assert weights == [333333334, 666666668, 5 * 10**8]
    assert capacity == 10**9
    assert solution.feasible
    assert solution.objective == pytest.approx(1.1)
    assert not solution.proven


def test_seconds_limit_branch_and_bound(rng):
    """Where branch and bound would take for ever it ends with the budget, with a packing that holds."""
    weight = np.random.default_rng(0).integers(10**9, 2 * 10**9, 80).astype(float)
    instance = knapsack(weight.tolist(), (weight + 10**8).tolist(), float(weight.sum() // 2))
    (solution,) = OrToolsKnapsack()(Task.of(Knapsack, 80), instance, MaxSeconds(0.2), rng)
    assert solution.feasible
    assert solution.objective > 0
    assert not solution.proven


def test_a_cancelled_run_has_a_packing(rng):
    """Hard numbers, under a budget of hours that is cancelled, leave the greedy packing."""
    weight = np.random.default_rng(0).integers(10**9, 2 * 10**9, 80).astype(float)
    instance = knapsack(weight.tolist(), (weight + 10**8).tolist(), float(weight.sum() // 2))
    solver, run = OrToolsKnapsack(), Run(10_000.0, lambda: True)
    solver._job(solver._view(Task.of(Knapsack, 80), instance, Budget(), rng), run)
    ((_, packed),) = run.reports
    assert not Task.of(Knapsack, 80).violations(instance, torch.tensor([[packed]]))
    assert run.elapsed < 5000


def test_nothing_fits(rng):
    """The empty packing is a solution."""
    (solution,) = OrToolsKnapsack()(Task.of(Knapsack, 2), knapsack([5.0, 6.0], [1.0, 2.0], 4.0), None, rng)
    assert (solution.actions.tolist(), solution.objective, solution.feasible) == ([2, 2], 0, True)


def test_one_name_for_routes_and_knapsacks(rng):
    """`ortools` in the table solves what either of OR-Tools' two solvers takes, and names both where neither does."""
    solver = SOLVERS["ortools"]()
    env = Task.of(Knapsack, 6)
    assert solver(env, env.generate(1, rng), None, rng)[0].solver == "ortools"
    shop = Task.of(JSSP, 2, 2)
    words = r"ortools cannot take jssp; it solves capacitated routes .* and 0-1 knapsacks \(Packing\), and these are "
    with pytest.raises(UnsupportedProblem, match=words):
        solver(shop, shop.generate(1, rng), None, rng)


def test_a_missing_package_is_named(monkeypatch, rng):
    """Without OR-Tools the line says what to install."""
    monkeypatch.setitem(sys.modules, "ortools.algorithms.python", None)
    env = Task.of(Knapsack, 4)
    with pytest.raises(SolverNotInstalled, match=r"pip install 'ncogym\[solvers\]'"):
        OrToolsKnapsack()(env, env.generate(1, rng), None, rng)
