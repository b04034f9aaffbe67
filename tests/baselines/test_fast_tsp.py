from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from ncogym.baselines.base import Run
from ncogym.baselines.fast_tsp import FastTSP
from ncogym.budget import Budget, MaxSeconds
from ncogym.envs.routing import geometry
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import SolverNotInstalled
from ncogym.task import Task

fast_tsp = pytest.importorskip("fast_tsp")


@pytest.fixture
def asked(monkeypatch):
    """What fast-tsp is asked, without its search: matrices and seconds."""
    calls = []

    def find_tour(matrix, seconds, max_threads):
        calls.append((matrix, seconds))
        return list(range(len(matrix)))

    monkeypatch.setattr(fast_tsp, "find_tour", find_tour)
    return calls


def test_it_finds_the_shortest_tours(rng):
    """On seven nodes it finds what trying all tours finds."""
    env = Task.of(TSP, 7)
    instances = env.generate(10, rng)
    rest = torch.tensor(list(itertools.permutations(range(1, 7))))
    tours = torch.cat([torch.zeros(len(rest), 1, dtype=torch.int64), rest], dim=1)
    best = env.objective(instances, tours.expand(10, -1, -1)).min(1).values
    found = [solution.objective for solution in FastTSP()(env, instances, None, rng)]
    assert found == pytest.approx(best.tolist(), rel=1e-12)


@pytest.mark.parametrize("num_nodes", [1, 2, 3])
def test_so_few_nodes_have_one_tour(num_nodes):
    """One node is no trouble, nor two or three."""
    run = Run(1.0, lambda: False)
    FastTSP()._solve(np.ones((num_nodes, num_nodes)), run)
    assert [actions for _, actions in run.reports] == [list(range(num_nodes))]


def test_whole_distances_are_handed_over_as_they_are(asked, rng):
    """A file's whole distances are not scaled, and the objective is whole."""
    dists = torch.randint(1, 1000, (1, 30, 30), generator=rng).double()
    dists = (dists + dists.mT).tril(-1) + (dists + dists.mT).triu(1)
    (solution,) = FastTSP()(Task.of(TSP, 30), TensorDict({"dists": dists}, batch_size=[1]), MaxSeconds(1000), rng)
    assert asked[0][0].tolist() == dists[0].tolist()
    assert solution.objective == int(solution.objective)


def test_other_distances_become_sixteen_bits(asked, rng):
    """Distances of the unit square use the whole range of 16 bits."""
    env = Task.of(TSP, 30)
    FastTSP()(env, env.generate(2, rng), MaxSeconds(1000), rng)
    assert [(matrix.max(), matrix.min()) for matrix, _ in asked] == [(65535, 0)] * 2
    assert all(np.issubdtype(matrix.dtype, np.integer) for matrix, _ in asked)


@pytest.mark.parametrize(("num_nodes", "seconds"), [(30, 0.05), (100, 0.05), (300, 0.15)])
def test_seconds_without_a_budget_grow_with_the_nodes(asked, num_nodes, seconds, rng):
    """Without seconds in the budget, it takes those that its size calls for."""
    env = Task.of(TSP, num_nodes)
    FastTSP()(env, env.generate(1, rng), None, rng)
    FastTSP()(env, env.generate(1, rng), Budget(rollouts=5), rng)
    assert [given for _, given in asked] == pytest.approx([seconds] * 2)


def test_it_is_given_what_is_left_of_the_seconds(asked, rng):
    """Each instance gets the budget's seconds, less what went into its distances."""
    env = Task.of(TSP, 30)
    FastTSP()(env, env.generate(2, rng), MaxSeconds(1000), rng)
    assert all(900 < seconds < 1000 for _, seconds in asked)


def test_a_cancelled_run_ends_at_once_with_a_tour():
    """A run that would last for minutes and is cancelled gives a good tour nevertheless."""
    env = Task.of(TSP, 30)
    dists = geometry.distances(env.generate(1, torch.Generator().manual_seed(0)))[0].numpy()
    run = Run(600.0, lambda: True)
    FastTSP()._solve(dists, run)
    assert [sorted(actions) for _, actions in run.reports] == [list(range(30))]
    assert run.elapsed < 300


def test_a_cancelled_budget_reaches_worker_processes(rng):
    """Workers in the midst of a search of minutes learn that the budget was cancelled, and give what they have."""
    budget = MaxSeconds(600)

    class Interrupted(TSP):
        def model(self, instance):
            self.asked = getattr(self, "asked", 0) + 1
            if self.asked == 2:  # the first instance is with its worker, this one soon is
                budget.cancel.set()
            return super().model(instance)

    env = Task.of(Interrupted, 30)
    solutions = FastTSP(workers=2)(env, env.generate(2, rng), budget, rng)
    assert [solution.feasible for solution in solutions] == [True, True]
    assert max(solution.seconds for solution in solutions) < 300


def test_a_missing_package_names_its_extra(monkeypatch, rng):
    """Without fast-tsp the error says which extra to install."""
    monkeypatch.setitem(sys.modules, "fast_tsp", None)
    env = Task.of(TSP, 5)
    with pytest.raises(SolverNotInstalled, match=r"fast-tsp .* pip install 'ncogym\[solvers\]'"):
        FastTSP()(env, env.generate(1, rng), None, rng)
