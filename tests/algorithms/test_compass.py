"""COMPASS: the estimator by hand, its ties, and its latents."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym.algorithms.compass import Compass
from ncogym.algorithms.poppy import Poppy
from ncogym.envs import make
from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.policies import AttentionPolicy, Latent
from ncogym.policies.decoding import Greedy, Sample
from ncogym.rollout import Trajectories, act, log_probs


def record(reward: Tensor, latents: int, log_prob: Tensor | None = None) -> Trajectories:
    """Return rollouts under so many latents."""
    actions = torch.zeros(*reward.shape, 3, dtype=torch.int64)
    condition = torch.zeros(1, latents, 16)
    return Trajectories(TensorDict({}, [reward.shape[0]]), actions, reward, 1, log_prob=log_prob, condition=condition)


def uniform(count: int, rng: torch.Generator) -> Tensor:
    """Stand for a policy's prior."""
    return 2 * torch.rand(1, count, 16, generator=rng) - 1


@pytest.mark.parametrize(
    ("reward_baseline", "advantages"),
    [("pomo", [1.0, 0, 0, 0, 0, -1.0]), ("analytic", [2.0, 0, 0, 0, 0, 4.0]), ("members", [1.0, 0, 0, 0, 0, 2.0])],
)
def test_only_those_that_win_alone_have_a_gradient(reward_baseline: str, advantages: list) -> None:
    """Two latents, three starts: one each, and a tie but for the last bit, by which the mean is not divided."""
    tie = 4 * (1 + 2e-7)
    reward, expected = torch.tensor([[-3.0, -4.0, -9.0, -5.0, -tie, -5.0]]), torch.tensor([advantages])
    if reward_baseline == "pomo":
        expected = torch.tensor([[7 / 3, 0, 0, 0, 0, (10 + tie) / 3 - 5]])
    log_prob = torch.linspace(-3, -1, 6).unsqueeze(0).requires_grad_()
    assert reward[0, 1] != reward[0, 4]
    loss = Compass(2, reward_baseline).loss(record(reward, 2, log_prob))
    assert loss.item() == pytest.approx(-(expected * log_prob).sum().item() / 2)
    loss.backward()
    assert torch.allclose(log_prob.grad, -expected / 2)


def test_without_a_winner_nothing_is_learnt() -> None:
    """All rewards alike give a loss of 0 with a gradient of 0, and no NaN."""
    log_prob = torch.full((2, 6), -1.0, requires_grad=True)
    loss = Compass(3).loss(record(torch.full((2, 6), -7.0), 3, log_prob))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(log_prob.grad, torch.zeros(2, 6))


def test_without_ties_it_is_poppy(rng: torch.Generator) -> None:
    """The two losses are one."""
    reward, log_prob = torch.rand(4, 12, generator=rng), -torch.rand(4, 12, generator=rng)
    for baseline in ("pomo", "analytic"):
        pair = [each.loss(record(reward, 3, log_prob)) for each in (Compass(3, baseline), Poppy(baseline))]
        assert torch.allclose(*pair)


def test_latents_are_drawn_at_every_update(rng: torch.Generator) -> None:
    """As many as wanted, the same for all instances, each from the same starts."""
    env, policy, compass = make("tsp", num_nodes=6), SimpleNamespace(draw=uniform), Compass(5, starts=3)
    compass.attach(policy)
    drawn = [compass.condition(policy, rng) for _ in range(2)]
    assert drawn[0].shape == (1, 5, 16)
    assert not torch.equal(*drawn)
    starts = compass.first_actions(env, env.generate(2, rng), rng).unflatten(1, (5, 3))
    assert (starts == starts[:, :1]).all()
    assert (compass.rollouts, compass.carrying, compass.forced) == (15, 3, 1)
    assert compass.metrics(record(-torch.rand(2, 15, generator=rng), 5))["unique_winners"] == 1


def test_latents_come_apart(rng: torch.Generator) -> None:
    """All mean the same at first; after a few steps they build different tours, and shorter ones than before."""
    torch.manual_seed(0)
    env = make("tsp", num_nodes=8)
    small = functools.partial(AttentionPolicy, dim=16, num_layers=1, num_heads=2, feedforward=16)
    policy, compass = Latent(env.feature_dims, base=small), Compass(6, "analytic")
    compass.attach(policy)
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-2)
    shown, latents = env.generate(16, rng), policy.draw(6, rng)

    def tours() -> Trajectories:
        encoded = policy.encode(env.instance_features(shown))
        return act(env, policy, encoded, shown, Greedy(), rng, rollouts=6, condition=latents)

    before = tours()
    assert (before.actions == before.actions[:, :1]).all()
    for _ in range(20):
        instances = env.generate(16, rng)
        encoded = policy.encode(env.instance_features(instances))
        condition, starts = compass.condition(policy, rng), compass.first_actions(env, instances, rng)
        found = act(
            env,
            policy,
            encoded,
            instances,
            Sample(),
            rng,
            first_actions=starts,
            condition=condition,
            log_prob=True,
        )
        scored = log_probs(env, policy, encoded, found, carrying=compass.carrying)
        optimiser.zero_grad()
        compass.loss(replace(found, log_prob=scored)).backward()
        optimiser.step()
    after = tours()
    assert (after.actions != after.actions[:, :1]).any()
    assert after.reward.max(1).values.mean() > before.reward.max(1).values.mean() + 0.1


def test_refusals() -> None:
    """One latent has nobody to win against, and a policy without latents none to draw."""
    with pytest.raises(ArgumentError, match="latents: 1"):
        Compass(1)
    with pytest.raises(ArgumentError, match="reward_baseline: 'mean'"):
        Compass(reward_baseline="mean")
    with pytest.raises(UnsupportedFeatures, match="SimpleNamespace draws no latents"):
        Compass().attach(SimpleNamespace())
    with pytest.raises(ArgumentError, match="log_prob"):
        Compass(2).loss(record(torch.zeros(1, 4), 2))
