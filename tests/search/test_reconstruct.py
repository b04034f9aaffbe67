"""Random re-construction, on every problem."""

from __future__ import annotations

import pytest
import torch

from ncogym.errors import ArgumentError
from ncogym.search import reconstruct
from ncogym.search.multistart import MultiStart
from ncogym.search.reconstruct import Reconstruct
from ncogym.solver import MaxRollouts
from ncogym.solving import make_solver, needs_policy


def test_what_is_kept_is_kept_and_every_solution_is_allowed(tiny, rng, monkeypatch):
    """Prefixes are kept exactly, budgets too, and weights."""
    env, policy = tiny
    instances, lengths, act = env.generate(3, rng), set(), reconstruct.act

    def watched(*arguments, first_actions, **options):
        built = act(*arguments, first_actions=first_actions, **options)
        if first_actions is None or first_actions.dim() == 2:  # the start
            return built
        given = first_actions.shape[-1]
        lengths.add(given)
        assert torch.equal(built.actions[..., :given], first_actions)
        assert not env.violations(instances, built.actions)
        return built

    monkeypatch.setattr(reconstruct, "act", watched)
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    found = Reconstruct(policy, rollouts=3)(env, instances, MaxRollouts(40), rng)
    assert len(lengths) > 1
    for each in found:
        assert each.feasible
        assert each.rollouts == 40
    assert all(torch.equal(v, before[k]) for k, v in policy.state_dict().items())


def test_it_improves_what_it_starts_from(env, policy, instances, rng):
    """It is never worse than its start, and better somewhere."""
    start = MultiStart(policy)(env, instances, None, rng)
    found = Reconstruct(policy, MultiStart(policy))(env, instances, None, rng)
    assert all(a.objective <= b.objective for a, b in zip(found, start, strict=True))
    assert any(a.objective < b.objective for a, b in zip(found, start, strict=True))


def test_a_cancelled_search_returns_its_start(env, policy, instances, rng):
    """Cancelling ends it before the budget does."""
    budget = MaxRollouts(1000)
    budget.cancel.set()
    assert all(s.feasible and s.rollouts < 1000 for s in Reconstruct(policy)(env, instances, budget, rng))


@pytest.mark.parametrize("wrong", [{"rollouts": 0}, {"rounds": 0}, {"share": 1.0}])
def test_bad_arguments_are_refused(policy, wrong):
    """The words name the argument."""
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        Reconstruct(policy, **wrong)


@pytest.mark.parametrize("name", ["reconstruct", "multistart+symmetry+reconstruct", "nearest-neighbour+reconstruct"])
def test_it_composes_by_name(env, policy, instances, rng, name):
    """Alone, after searches, and after a baseline; it always needs a policy."""
    found = make_solver(name, policy)(env, instances, MaxRollouts(30), rng)
    assert [s.solver for s in found] == [name] * 3
    assert all(s.rollouts == 30 for s in found)
    assert needs_policy(name)
    with pytest.raises(ArgumentError, match="needs a policy"):
        make_solver(name)
