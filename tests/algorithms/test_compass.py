"""COMPASS: the estimator by hand, its ties, and its latents."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from works import Given, Learning, loss_of

from ncogym.algorithms.compass import Compass
from ncogym.algorithms.poppy import Poppy
from ncogym.envs import make
from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.policies import AttentionPolicy, Latent
from ncogym.policies.decoding import Greedy
from ncogym.rollout import Rollouts, act


def loss(compass: Compass | Poppy, reward: Tensor, latents: int, log_prob: Tensor) -> Tensor:
    """Return the loss of rollouts under so many latents or members."""
    prior = SimpleNamespace(draw=lambda count, rng: torch.zeros(1, latents, 16), everyone=torch.zeros(1, latents))
    return loss_of(compass, reward, log_prob, policy=prior)


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
    found = loss(Compass(2, reward_baseline), reward, 2, log_prob)
    assert found.item() == pytest.approx(-(expected * log_prob).sum().item() / 2)
    found.backward()
    assert torch.allclose(log_prob.grad, -expected / 2)


def test_without_a_winner_nothing_is_learnt() -> None:
    """All rewards alike give a loss of 0 with a gradient of 0, and no NaN."""
    log_prob = torch.full((2, 6), -1.0, requires_grad=True)
    found = loss(Compass(3), torch.full((2, 6), -7.0), 3, log_prob)
    found.backward()
    assert found.item() == 0
    assert torch.equal(log_prob.grad, torch.zeros(2, 6))


def test_without_ties_it_is_poppy(rng: torch.Generator) -> None:
    """The two losses are one."""
    reward, log_prob = torch.rand(4, 12, generator=rng), -torch.rand(4, 12, generator=rng)
    for baseline in ("pomo", "analytic"):
        pair = [loss(each, reward, 3, log_prob) for each in (Compass(3, baseline), Poppy(baseline))]
        assert torch.allclose(*pair)


SMALL = functools.partial(AttentionPolicy, dim=16, num_layers=1, num_heads=2, feedforward=16)


def test_latents_are_drawn_at_every_update(rng: torch.Generator) -> None:
    """As many as wanted, the same for all instances, each from the same starts."""
    env = make("tsp", num_nodes=6)
    policy, compass = Latent(env.feature_dims, base=SMALL), Compass(5, starts=3)
    learning = Learning(env, policy, compass, 2, rng)
    drawn = [learning.step() for _ in range(2)]
    found, metrics = drawn[0]
    assert found.condition.shape[:2] == (1, 5)
    assert not torch.equal(found.condition, drawn[1][0].condition)
    starts = found.actions[..., 0].unflatten(1, (5, 3))
    assert (starts == starts[:, :1]).all()
    assert found.forced == 1
    assert {"best_of_members", "mean_member", "unique_winners"} <= metrics.keys()
    given = Given(torch.rand(2, 15, generator=rng), torch.zeros(2, 15), policy=policy)
    compass.step(given)
    assert given.carrying == 3


def test_latents_come_apart(rng: torch.Generator) -> None:
    """All mean the same at first; after a few steps they build different tours, and shorter ones than before."""
    torch.manual_seed(0)
    env = make("tsp", num_nodes=8)
    policy = Latent(env.feature_dims, base=SMALL)
    shown, latents = env.generate(16, rng), policy.draw(6, rng)

    def tours() -> Rollouts:
        encoded = policy.encode(env.instance_features(shown))
        return act(env, policy, encoded, shown, Greedy(), rng, rollouts=6, condition=latents)

    before, learning = tours(), Learning(env, policy, Compass(6, "analytic"), 16, rng)
    assert (before.actions == before.actions[:, :1]).all()
    for _ in range(20):
        learning.step()
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
