from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.policies.decoding import Greedy as GreedyDecoding
from ncogym.policies.decoding import Sample
from ncogym.rollout import act
from ncogym.search import GreedySearch, MultiStart


def test_best_of_all_starts(env, policy, instances, rng) -> None:
    """The answer is the best of the greedy rollouts from each node, which are all built, once."""
    starts = torch.arange(7).expand(3, -1)
    with torch.no_grad():
        encoded = policy.encode(env.instance_features(instances))
    rollouts = act(env, policy, encoded, instances, GreedyDecoding(), rng, first_actions=starts)
    best = env.objective(instances, rollouts.actions).amin(1)
    found = MultiStart(policy)(env, instances, None, rng)
    assert [s.objective for s in found] == best.tolist()
    assert all(s.feasible and s.rollouts == 7 and s.solver == "multistart" for s in found)


def test_never_worse_than_greedy(env, policy, rng) -> None:
    """One of the starts is greedy's own first action, so no instance is solved worse."""
    instances = env.generate(20, rng)
    greedy, multi = (search(policy)(env, instances, None, rng) for search in (GreedySearch, MultiStart))
    assert all(m.objective <= g.objective for m, g in zip(multi, greedy, strict=True))
    assert any(m.objective < g.objective for m, g in zip(multi, greedy, strict=True))


def test_more_rollouts_are_never_worse(env, policy, instances) -> None:
    """At the same seed a larger budget goes further through the same starts; each budget is spent to the last."""
    objectives = []
    for budget in range(1, 8):
        found = MultiStart(policy)(env, instances, MaxRollouts(budget), torch.Generator().manual_seed(5))
        assert [s.rollouts for s in found] == [budget] * 3
        objectives.append([s.objective for s in found])
    for smaller, larger in pairwise(objectives):
        assert all(after <= before for before, after in zip(smaller, larger, strict=True))
    everything = MultiStart(policy)(env, instances, None, torch.Generator().manual_seed(6))
    assert objectives[-1] == [s.objective for s in everything]


def test_greedy_starts_end_by_themselves(policy, rng) -> None:
    """Greedy rollouts repeat themselves, so a large budget ends, after several rounds, when each start was tried."""
    env = make("tsp", num_nodes=30)
    instances = env.generate(3, rng)
    found = MultiStart(policy)(env, instances, MaxSeconds(6000), rng)
    assert [s.rollouts for s in found] == [30] * 3
    whole = MultiStart(policy)(env, instances, None, rng)
    assert [s.objective for s in found] == pytest.approx([s.objective for s in whole])


def test_unlimited_starts_draw_nothing(env, policy, instances, rng) -> None:
    """Where every start is paid for their order does not matter, and the generator is left as it was."""
    before = rng.get_state()
    MultiStart(policy)(env, instances, None, rng)
    assert torch.equal(rng.get_state(), before)


@pytest.mark.parametrize(("budget", "rollouts"), [(None, 7), (Budget(), 7), (MaxRollouts(20), 20), (MaxRollouts(2), 2)])
def test_sampled_starts_go_round_again(env, policy, instances, rng, budget, rollouts: int) -> None:
    """A stochastic decoding goes round the starts until the budget is spent, and once without one."""
    found = MultiStart(policy, Sample())(env, instances, budget, rng)
    assert [s.rollouts for s in found] == [rollouts] * 3
    assert found[0].solver == "multistart+sampling"


@pytest.mark.parametrize(
    ("rounds", "budget", "rollouts"), [(2, None, 14), (1, MaxRollouts(20), 7), (3, MaxRollouts(9), 9)]
)
def test_rounds_bound_the_search(env, policy, instances, rng, rounds: int, budget, rollouts: int) -> None:
    """As many rounds as were asked for are gone, unless the budget ends before."""
    found = MultiStart(policy, Sample(), rounds)(env, instances, budget, rng)
    assert [s.rollouts for s in found] == [rollouts] * 3


def test_no_rounds_are_refused(policy) -> None:
    """A search that would build nothing is refused, with the value."""
    with pytest.raises(ArgumentError, match=r"rounds: 0 is not allowed; it must be at least 1"):
        MultiStart(policy, rounds=0)


def test_same_seed_same_answer(env, policy, instances) -> None:
    """The generator's seed decides the order of the starts and the samples."""
    tours = [
        [s.actions.tolist() for s in MultiStart(policy, Sample())(env, instances, MaxRollouts(3), generator)]
        for generator in (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    ]
    assert tours[0] == tours[1] != tours[2]


def test_cancelled_search_returns_what_it_has(env, policy, instances, rng) -> None:
    """A cancel event that is set before the search leaves one round."""
    budget = MaxRollouts(10_000)
    budget.cancel.set()
    found = MultiStart(policy, Sample())(env, instances, budget, rng)
    assert all(s.feasible and s.rollouts <= 7 for s in found)
