from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict

from ncogym.baselines import base
from ncogym.baselines.lkh import LKH
from ncogym.budget import Budget, MaxSeconds
from ncogym.envs.routing.atsp import ATSP
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import ArgumentError, NoSolutionFound, SolverNotInstalled
from ncogym.task import Task


@pytest.fixture
def elkai(monkeypatch):
    """A stand-in for elkai, a run of which takes 2 s by a clock of its own: the matrices and runs it was asked for."""
    calls = SimpleNamespace(matrices=[], runs=[], now=0.0)

    class DistanceMatrix:
        def __init__(self, distances):
            calls.matrices.append(distances)

        def solve_tsp(self, runs):
            calls.runs.append(runs)
            calls.now += 2.0 * runs
            nodes = list(range(len(calls.matrices[-1])))
            return [*nodes, 0]

    monkeypatch.setattr(LKH, "apart", False)
    monkeypatch.setitem(sys.modules, "elkai", SimpleNamespace(DistanceMatrix=DistanceMatrix))
    monkeypatch.setattr(base.time, "perf_counter", lambda: calls.now)
    return calls


def test_a_closed_tour_is_read_without_its_end(elkai, rng):
    """LKH repeats the first node at the end; the solution does not."""
    env = Task.of(TSP, 6)
    (solution,) = LKH()(env, env.generate(1, rng), None, rng)
    assert solution.actions.tolist() == [0, 1, 2, 3, 4, 5]
    assert (solution.feasible, elkai.runs) == (True, [10])


@pytest.mark.parametrize(("seconds", "runs"), [(5, [1]), (7, [1, 2]), (13, [1, 5]), (1000, [1, 10])])
def test_seconds_allow_as_many_runs_as_fit(elkai, seconds, runs, rng):
    """One run is timed (2 s); then as many follow, up to those wanted, as fit into what is left."""
    env = Task.of(TSP, 6)
    (solution,) = LKH()(env, env.generate(1, rng), MaxSeconds(seconds), rng)
    assert (elkai.runs, solution.feasible) == (runs, True)


def test_a_run_that_takes_longer_than_the_budget_is_late(elkai, rng):
    """A single run (2 s) cannot be broken off, and is too late for one second where solvers are compared."""
    env = Task.of(TSP, 6)
    with pytest.raises(NoSolutionFound, match="lkh: 1 s is too small a budget"):
        LKH()(env, env.generate(1, rng), Budget(seconds=1, strict=True), rng)


def test_distances_are_handed_over_as_whole_numbers(elkai, rng):
    """Whole distances stay as they are, asymmetric ones too; others are scaled to a million."""
    dists = torch.tensor([[[0.0, 1.0, 7.0], [2.0, 0.0, 3.0], [4.0, 5.0, 0.0]]], dtype=torch.float64)
    for each in (dists, dists / 2):
        LKH(runs=1)(Task.of(TSP, 3), TensorDict({"dists": each}, batch_size=[1]), None, rng)
    assert elkai.matrices[0] == dists[0].tolist()
    assert elkai.matrices[1] == (dists[0] / 7e-6).round().tolist()


@pytest.mark.parametrize(("name", "best"), [("br17", 39), ("ftv33", 1286), ("ftv44", 1613)])
def test_it_reaches_published_optima_of_asymmetric_instances(name, best, shared_instances, rng):
    """Files with a huge number on the diagonal are solved to their optimum, in their own direction."""
    pytest.importorskip("elkai")
    env = Task.of(ATSP, 20)
    (solution,) = LKH(runs=3)(env, env.read(shared_instances / "atsp" / f"{name}.atsp"), None, rng)
    assert (solution.feasible, solution.objective) == (True, best)


@pytest.mark.parametrize("runs", [0, 2.5, True])
def test_runs_must_be_a_positive_whole_number(runs):
    """A number of runs that makes no sense is refused in words."""
    with pytest.raises(ArgumentError, match=f"runs: {runs} is not allowed"):
        LKH(runs)


def test_a_missing_package_names_its_extra_and_licence(monkeypatch, rng):
    """Without elkai the error says which extra to install, and that its licence is a restricted one."""
    monkeypatch.setitem(sys.modules, "elkai", None)
    env = Task.of(TSP, 5)
    with pytest.raises(SolverNotInstalled, match=r"pip install 'ncogym\[lkh\]'; .* non-commercial"):
        LKH()(env, env.generate(1, rng), None, rng)
