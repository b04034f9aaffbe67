from __future__ import annotations

import pytest
import torch

from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.errors import NoSolutionFound
from ncogym.search import GreedySearch


def test_takes_the_likeliest_action_at_every_step(env, policy, instances, rng) -> None:
    """The tour is that of a loop written out here, which takes the highest logit of each step."""
    with torch.no_grad():
        encoded = policy.encode(env.instance_features(instances))
        state, actions = env.start(instances), []
        while not state.done.all():
            actions.append(policy.logits(encoded, env.step_features(state)).argmax(-1))
            state = env.advance(state, actions[-1])
    expected = torch.cat(actions, dim=1)
    found = GreedySearch(policy)(env, instances, None, rng)
    assert [s.actions.tolist() for s in found] == expected.tolist()


def test_solutions_are_one_checked_rollout_each(env, policy, instances, rng) -> None:
    """Each instance gets one feasible solution, scored by the environment, that cost one rollout."""
    found = GreedySearch(policy)(env, instances, None, rng)
    actions = torch.stack([s.actions for s in found])
    assert [s.objective for s in found] == env.objective(instances, actions[:, None])[:, 0].tolist()
    assert all(s.feasible and s.rollouts == 1 and len(s.trace) == 1 and s.solver == "greedy" for s in found)


def test_draws_nothing(env, policy, instances, rng) -> None:
    """The generator is left as it was."""
    before = rng.get_state()
    GreedySearch(policy)(env, instances, None, rng)
    assert torch.equal(rng.get_state(), before)


def test_a_budget_pays_for_a_solution_or_is_late(env, policy, instances, rng) -> None:
    """One rollout is enough; one that is late is the answer, unless the budget is strict, and the error says so."""
    assert all(s.feasible for s in GreedySearch(policy)(env, instances, MaxRollouts(1), rng))
    with pytest.raises(NoSolutionFound, match=r"greedy: 1e-09 s is too small a budget; its first solution was"):
        GreedySearch(policy)(env, instances, Budget(seconds=1e-9, strict=True), rng)
    assert all(s.feasible for s in GreedySearch(policy)(env, instances, MaxSeconds(1e-9), rng))
