from __future__ import annotations

import itertools

import pytest
import torch

from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.errors import ArgumentError
from ncogym.policies.decoding import Sample
from ncogym.search import GreedySearch, Sampling


@pytest.mark.parametrize("rollouts", [1, 2, 7, 50])
def test_rollouts_are_those_of_the_budget(env, policy, instances, rng, rollouts: int) -> None:
    """Exactly as many rollouts are built as the budget allows, above or below the default number."""
    found = Sampling(policy, samples=20)(env, instances, MaxRollouts(rollouts), rng)
    assert [s.rollouts for s in found] == [rollouts] * 3


@pytest.mark.parametrize("budget", [None, Budget()])
def test_samples_are_drawn_where_nothing_limits(env, policy, instances, rng, budget) -> None:
    """Without a budget, or with one that sets no limit, the default number of rollouts is built."""
    assert Sampling(policy, samples=5)(env, instances, budget, rng)[0].rollouts == 5


def test_same_seed_same_answer(env, policy, instances) -> None:
    """The generator's seed decides every draw, and another seed draws otherwise."""
    tours = [
        [s.actions.tolist() for s in Sampling(policy, 3)(env, instances, None, torch.Generator().manual_seed(seed))]
        for seed in (1, 1, 2)
    ]
    assert tours[0] == tours[1] != tours[2]


def test_many_samples_find_the_optimum_of_a_tiny_instance(env, policy, instances, rng) -> None:
    """Two thousand draws of seven nodes meet the best of all 720 tours."""
    tours = torch.tensor([(0, *rest) for rest in itertools.permutations(range(1, 7))])
    best = env.objective(instances, tours.expand(3, -1, -1)).amin(1)
    found = Sampling(policy)(env, instances, MaxRollouts(2000), rng)
    assert [s.objective for s in found] == pytest.approx(best.tolist(), rel=1e-12)
    assert all(s.feasible for s in found)


def test_trace_only_improves(env, policy, instances, rng, ticking) -> None:
    """Along the anytime curve time and rollouts grow, the objective falls, and the last point is the answer."""
    search = Sampling(policy)
    for solution in search(env, instances, MaxSeconds(0.5), rng):
        seconds, rollouts, objectives = zip(*solution.trace, strict=True)
        assert list(seconds) == sorted(seconds)
        assert list(rollouts) == sorted(rollouts)
        assert list(objectives) == sorted(set(objectives), reverse=True)
        assert objectives[-1] == solution.objective


def test_seconds_end_the_search(env, policy, instances, rng, ticking) -> None:
    """A budget in seconds is kept, with more than one round built in it."""
    found = Sampling(policy)(env, instances, MaxSeconds(0.5), rng)  # of each of three instances
    assert 0.3 < found[0].seconds < 0.55
    assert found[0].rollouts > 8


def test_cancelled_search_returns_what_it_has(env, policy, instances, rng) -> None:
    """Once the cancel event is set no further round begins, and the answer is feasible."""
    budget = MaxSeconds(60)
    budget.cancel.set()
    found = Sampling(policy)(env, instances, budget, rng)
    assert all(s.feasible and s.rollouts <= 8 for s in found)


def test_cold_samples_are_greedy(env, policy, instances, rng) -> None:
    """As the temperature goes to 0 sampling becomes the greedy search."""
    cold = Sampling(policy, 1, Sample(temperature=1e-6))(env, instances, None, rng)
    greedy = GreedySearch(policy)(env, instances, None, rng)
    assert [s.actions.tolist() for s in cold] == [s.actions.tolist() for s in greedy]


@pytest.mark.parametrize("decoding", [Sample(top_k=1), Sample(top_p=1e-6)])
def test_samples_of_the_likeliest_action_are_greedy(env, policy, instances, rng, decoding: Sample) -> None:
    """Where top-k or top-p leaves one action at each step, sampling is the greedy search."""
    found = Sampling(policy, 3, decoding)(env, instances, None, rng)
    greedy = GreedySearch(policy)(env, instances, None, rng)
    assert [s.actions.tolist() for s in found] == [s.actions.tolist() for s in greedy]


def test_no_samples_are_refused(policy) -> None:
    """A search that would build nothing is refused, with the value."""
    with pytest.raises(ArgumentError, match=r"samples: 0 is not allowed; it must be at least 1"):
        Sampling(policy, samples=0)
