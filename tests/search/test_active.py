from __future__ import annotations

import pytest
import torch

from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.policies import AttentionPolicy, GraphPolicy
from ncogym.rollout import act
from ncogym.search import Active, Sampling


def small(env, kind=AttentionPolicy):
    """Return an untrained policy for a problem, the same in each run."""
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return kind(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()


def test_beats_as_many_samples_of_the_policy(rng) -> None:
    """An untrained policy is tuned, so that 800 rollouts find far shorter tours than 800 samples."""
    env = make("tsp", num_nodes=20)
    policy, instances = small(env), env.generate(4, rng)
    search = Active(policy, rollouts=20, learning_rate=0.01)
    plain, tuned = (
        sum(found.objective for found in s(env, instances, MaxRollouts(800), rng)) for s in (Sampling(policy), search)
    )
    assert tuned < 0.9 * plain


@pytest.mark.parametrize("imitation", [0.0, 0.1])
def test_every_weight_that_matters_moves(env, policy, instances, rng, monkeypatch, imitation: float) -> None:
    """After a step of Adam each instance has weights of its own, as far from the start as the learning rate says."""
    acted = []

    def watched(env, policy, *args, **kwargs):
        acted.append({name: value.detach().clone() for name, value in policy.named_parameters()})
        return act(env, policy, *args, **kwargs)

    monkeypatch.setattr("ncogym.search.base.act", watched)
    Active(policy, rollouts=10, learning_rate=1e-3, imitation=imitation)(env, instances, MaxRollouts(20), rng)
    start = dict(policy.named_parameters())
    for first, second in (acted[0:2], acted[2:4], acted[4:6]):
        moved = [(second[name] - value).abs().max().item() for name, value in first.items()]
        assert all(torch.equal(value, start[name]) for name, value in first.items())
        assert max(moved) < 1.01e-3
        assert sum(move > 0.9e-3 for move in moved) > 0.7 * len(moved)  # the others have no gradient here
    assert not torch.equal(acted[1]["pointer.weight"], acted[3]["pointer.weight"])


@pytest.mark.parametrize("training", [False, True])
def test_policy_is_left_as_it_was(env, instances, rng, training: bool) -> None:
    """Weights stay bit-identical, and flags, gradients and mode stay, too."""
    policy = small(env).train(training)
    next(policy.parameters()).requires_grad_(False)
    flags = [p.requires_grad for p in policy.parameters()]
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    Active(policy, rollouts=5, learning_rate=0.1)(env, instances, MaxRollouts(20), rng)
    assert policy.training is training
    assert [p.requires_grad for p in policy.parameters()] == flags
    assert all(p.grad is None for p in policy.parameters())
    after = policy.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_batch_is_its_instances_alone(env, policy, instances) -> None:
    """One instance after the other is solved, from the same generator, as if there were no others."""
    search = Active(policy, rollouts=5, learning_rate=0.01)
    together, generator = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    found = search(env, instances, MaxRollouts(20), together)
    alone = [search(env, instances[row : row + 1], MaxRollouts(20), generator)[0] for row in range(3)]
    assert [s.actions.tolist() for s in found] == [s.actions.tolist() for s in alone]


@pytest.mark.parametrize("rollouts", [1, 5, 13])
def test_rollouts_are_those_of_the_budget(env, policy, instances, rng, rollouts: int) -> None:
    """Exactly as many rollouts are built for each instance as the budget allows, and each solution is checked."""
    found = Active(policy, rollouts=5)(env, instances, MaxRollouts(rollouts), rng)
    assert [s.rollouts for s in found] == [rollouts] * 3
    actions = torch.stack([s.actions for s in found])
    assert [s.objective for s in found] == env.objective(instances, actions[:, None])[:, 0].tolist()
    assert all(s.feasible and s.solver == "active" for s in found)


@pytest.mark.parametrize("budget", [None, Budget()])
def test_steps_end_the_search_where_nothing_limits(env, policy, instances, rng, budget) -> None:
    """Without a limit it takes its number of steps."""
    assert [s.rollouts for s in Active(policy, rollouts=4, steps=3)(env, instances, budget, rng)] == [12] * 3


def test_seconds_end_the_search(env, policy, instances, rng, ticking) -> None:
    """Each instance has its seconds, with several rounds in them."""
    found = Active(policy, rollouts=10)(env, instances, MaxSeconds(1), rng)
    assert all(0.5 < s.seconds < 1.05 and s.rollouts > 8 for s in found)


def test_cancelled_search_returns_the_best_so_far(env, policy, instances, rng, monkeypatch) -> None:
    """Interrupted in the second round of the first instance, it leaves each other instance one round."""
    budget, rounds = MaxRollouts(10_000), []

    def interrupted(*args, **kwargs):
        rounds.append(act(*args, **kwargs))
        if len(rounds) == 2:
            budget.cancel.set()
        return rounds[-1]

    monkeypatch.setattr("ncogym.search.base.act", interrupted)
    found = Active(policy, rollouts=7)(env, instances, budget, rng)
    assert [s.rollouts for s in found] == [14, 7, 7]
    best = env.objective(instances[:1], torch.cat([each.actions for each in rounds[:2]], dim=1)).amin()
    assert found[0].objective == best
    assert all(s.feasible for s in found)


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ({"name": "tsp", "num_nodes": 6}, AttentionPolicy),
        ({"name": "tsp", "num_nodes": 6}, GraphPolicy),
        ({"name": "cvrp", "num_customers": 6}, AttentionPolicy),
        ({"name": "atsp", "num_nodes": 6}, AttentionPolicy),
        ({"name": "knapsack", "num_items": 8}, AttentionPolicy),
        ({"name": "jssp", "num_jobs": 3, "num_machines": 3}, GraphPolicy),
    ],
)
def test_every_problem(rng, problem, kind) -> None:
    """A few rollouts of each problem are feasible, whatever the mode of the caller."""
    if kind is GraphPolicy:
        pytest.importorskip("torch_geometric")
    env = make(**problem)
    policy = small(env, kind)
    with torch.inference_mode():
        found = Active(policy, rollouts=4, learning_rate=0.05)(env, env.generate(2, rng), MaxRollouts(10), rng)
    assert all(s.feasible and s.rollouts == 10 for s in found)


@pytest.mark.parametrize(
    ("argument", "value"), [("rollouts", 0), ("steps", 0), ("learning_rate", 0.0), ("imitation", -0.1)]
)
def test_bad_values_are_refused(policy, argument: str, value: float) -> None:
    """A value that makes no sense is told with what is allowed."""
    with pytest.raises(ArgumentError, match=f"{argument}: {value} is not allowed; it must be"):
        Active(policy, **{argument: value})
