from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from ncogym.baselines import Dispatching, NearestNeighbour, Savings
from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.envs import make
from ncogym.errors import ArgumentError, NoSolutionFound
from ncogym.search import GreedySearch, MultiStart, Sampling, Symmetry


class Watched:
    """A solver that keeps the budgets it is given and the rollouts it took."""

    def __init__(self, inner) -> None:
        self.inner, self.name = inner, inner.name
        self.budgets, self.rollouts = [], []

    def __call__(self, env, instances, budget, rng):
        """Solve by the solver that is watched."""
        found = self.inner(env, instances, budget, rng)
        self.budgets.append(budget)
        self.rollouts.append(found[0].rollouts)
        return found


def test_best_of_the_eight_images(env, policy, instances, rng) -> None:
    """The answer is the best that the inner search finds on the instance and its seven images, scored on the first."""
    images = env.symmetries(instances, 8)
    each = [[s.objective for s in GreedySearch(policy)(env, image, None, rng)] for image in images]
    found = Symmetry(GreedySearch(policy))(env, instances, None, rng)
    assert [s.objective for s in found] == pytest.approx([min(row) for row in zip(*each, strict=True)], rel=1e-6)
    actions = torch.stack([s.actions for s in found])
    assert [s.objective for s in found] == env.objective(instances, actions[:, None])[:, 0].tolist()
    assert all(s.feasible and s.rollouts == 8 for s in found)


def test_never_worse_than_its_inner_search(env, policy, rng) -> None:
    """The first image is the instance itself, so nothing is lost, and something is won."""
    instances = env.generate(20, rng)
    inner = MultiStart(policy)
    plain, images = (search(env, instances, None, rng) for search in (inner, Symmetry(inner)))
    assert all(i.objective <= p.objective for i, p in zip(images, plain, strict=True))
    assert any(i.objective < p.objective for i, p in zip(images, plain, strict=True))
    assert images[0].rollouts == 8 * 7


@pytest.mark.parametrize("rollouts", [1, 3, 8, 9, 13, 55, 56, 57])
def test_budget_is_spent_to_the_last_rollout(env, policy, instances, rng, rollouts: int) -> None:
    """No rollout above the budget, and none below while the eight images offer starts."""
    found = Symmetry(MultiStart(policy))(env, instances, MaxRollouts(rollouts), rng)
    assert [s.rollouts for s in found] == [min(rollouts, 8 * 7)] * 3


@pytest.mark.parametrize("rollouts", [8, 13, 100])
def test_images_share_the_budget_equally(env, policy, instances, rng, rollouts: int) -> None:
    """Each of the eight images gets its eighth, to within one rollout, and together they get all."""
    inner = Watched(Sampling(policy))
    Symmetry(inner)(env, instances, MaxRollouts(rollouts), rng)
    assert len(inner.rollouts) == 8
    assert sum(inner.rollouts) == rollouts
    assert max(inner.rollouts) - min(inner.rollouts) <= 1


def test_endless_search_goes_on_with_random_images(env, policy, instances, rng) -> None:
    """An endless search spends a budget that the eight images cannot, and ends of its own accord without one."""
    inner = MultiStart(policy)
    assert Symmetry(inner, endless=True)(env, instances, MaxRollouts(100), rng)[0].rollouts == 100
    assert Symmetry(inner)(env, instances, MaxRollouts(100), rng)[0].rollouts == 56
    assert Symmetry(inner, endless=True)(env, instances, None, rng)[0].rollouts == 56


def test_seconds_are_kept(env, policy, instances, rng, ticking) -> None:
    """The images together keep a budget in seconds."""
    found = Symmetry(MultiStart(policy), endless=True)(env, instances, MaxSeconds(2), rng)
    assert 1 < found[0].seconds < 2.1
    assert found[0].rollouts > 56


def test_image_that_cannot_end_in_time_is_not_begun(env, policy, instances, rng, monkeypatch) -> None:
    """When less time is left than the quickest image took, the search ends before its budget does."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Slow(Watched):
        def __call__(self, *given):
            now[0] += 0.2
            return super().__call__(*given)

    inner = Slow(GreedySearch(policy))
    found = Symmetry(inner)(env, instances[:1], MaxSeconds(0.5), rng)
    assert len(inner.rollouts) == 2
    assert found[0].feasible


@pytest.mark.parametrize("budget", [Budget(), MaxSeconds(60)])
def test_cancel_reaches_the_inner_search(env, policy, instances, rng, budget: Budget) -> None:
    """The inner search sees the cancel event, with limits and without, and no image is begun after it is set."""
    inner = Watched(GreedySearch(policy))
    budget.cancel.set()
    found = Symmetry(inner)(env, instances, budget, rng)
    assert [given.cancel for given in inner.budgets] == [budget.cancel]
    assert all(s.feasible for s in found)


def test_same_seed_same_answer(env, policy, instances) -> None:
    """The generator's seed decides the order of starts and the random images."""
    search = Symmetry(MultiStart(policy), endless=True)
    tours = [
        [s.actions.tolist() for s in search(env, instances, MaxRollouts(70), torch.Generator().manual_seed(seed))]
        for seed in (1, 1)
    ]
    assert tours[0] == tours[1]


def test_trace_only_improves(env, policy, rng) -> None:
    """Along the anytime curve of each instance rollouts grow and the objective falls to the answer."""
    found = Symmetry(GreedySearch(policy))(env, env.generate(20, rng), None, rng)
    assert max(len(s.trace) for s in found) > 1
    for solution in found:
        assert all(a.rollouts < b.rollouts and a.objective > b.objective for a, b in pairwise(solution.trace))
        assert solution.trace[-1].objective == solution.objective


def test_name_tells_the_inner_search(policy) -> None:
    """The name is that of the command line; over a greedy search the images alone are named."""
    assert Symmetry(GreedySearch(policy)).name == "symmetry"
    assert Symmetry(MultiStart(policy)).name == "multistart+symmetry"


def test_no_images_are_refused(policy) -> None:
    """A search that would build nothing is refused, with the value."""
    with pytest.raises(ArgumentError, match=r"images: 0 is not allowed; it must be at least 1"):
        Symmetry(GreedySearch(policy), images=0)


def test_an_image_without_a_solution_costs_none(env, policy, instances, rng) -> None:
    """Where the inner solver finds nothing for a later image, the best of those before it is the answer."""

    class Once(Watched):
        def __call__(self, *arguments):
            if self.budgets:
                raise NoSolutionFound("once: nothing")
            return super().__call__(*arguments)

    assert all(s.feasible and s.rollouts == 1 for s in Symmetry(Once(GreedySearch(policy)))(env, instances, None, rng))
    tired = Once(GreedySearch(policy))
    tired.budgets.append(None)
    with pytest.raises(NoSolutionFound, match="once: nothing"):
        Symmetry(tired)(env, instances, None, rng)


def test_solutions_of_images_need_not_be_equally_long(rng) -> None:
    """Routes of classical solvers end when they end."""
    routes = make("cvrp", num_customers=8)
    instances = routes.generate(4, rng)
    found = Symmetry(Savings())(routes, instances, None, rng)
    assert all(s.feasible for s in found)

    class Short(Savings):
        def __call__(self, env, *arguments):
            whole = super().__call__(env, *arguments)
            last = [int(s.actions.nonzero().max()) + 1 for s in whole]
            return [replace(s, actions=s.actions[:end]) for s, end in zip(whole, last, strict=True)]

    short = Symmetry(Short())(routes, instances, None, rng)
    assert [s.objective for s in short] == [s.objective for s in found]


@pytest.mark.parametrize(
    ("problem", "inner"),
    [
        ({"name": "atsp", "num_nodes": 9}, NearestNeighbour()),
        ({"name": "jssp", "num_jobs": 5, "num_machines": 4}, Dispatching("SPT")),
    ],
    ids=["atsp", "jssp"],
)
def test_solutions_of_an_image_are_led_back(problem, inner, rng) -> None:
    """What is found on the image, read backwards, has its objective on the instance, and wins where it is better."""
    env = make(**problem)
    instances = env.generate(20, rng)
    own, turned = ([s.objective for s in inner(env, image, None, rng)] for image in env.symmetries(instances, 8))
    found = Symmetry(inner)(env, instances, None, rng)
    assert any(there < here for here, there in zip(own, turned, strict=True))
    best = [min(pair) for pair in zip(own, turned, strict=True)]
    assert [s.objective for s in found] == pytest.approx(best, rel=1e-6)
