"""PO: the pairs by hand, its gradient, both senses, and that it learns."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict

from ncogym.algorithms.bopo import BOPO
from ncogym.algorithms.pomo import POMO
from ncogym.algorithms.preference import PO
from ncogym.algorithms.reinforce import Reinforce
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.policies import AttentionPolicy
from ncogym.policies.decoding import Sample
from ncogym.rollout import Trajectories, act, log_probs


def record(reward: torch.Tensor, log_prob: torch.Tensor | None) -> Trajectories:
    """Return rollouts of four steps."""
    actions = torch.arange(4).expand(*reward.shape, 4)
    return Trajectories(TensorDict({}, [reward.shape[0]]), actions, reward, 1, log_prob=log_prob)


@pytest.mark.parametrize("shift", [0.0, 10.0])
def test_loss_by_hand(shift: float) -> None:
    """Each pair with a preference adds its negative log-likelihood, in either sense; a tie adds nothing."""
    reward = torch.tensor([[-3.0, -5.0, -5.0]]) + shift
    log_prob = torch.tensor([[-1.0, -2.0, -4.0]], requires_grad=True)
    loss = PO(alpha=0.5).loss(record(reward, log_prob))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-1.5))) / 3)
    loss.backward()
    one, two = 0.5 / (1 + math.exp(0.5)), 0.5 / (1 + math.exp(1.5))
    assert log_prob.grad.flatten().tolist() == pytest.approx([-(one + two) / 3, one / 3, two / 3])
    with pytest.raises(ArgumentError, match="log_prob"):
        PO().loss(record(reward, None))


def test_per_step_by_hand() -> None:
    """Log-probabilities are compared per decision, of which neither a given action nor padding is one."""
    log_prob = torch.tensor([[-1.0, -3.0]])
    found = replace(
        record(torch.tensor([[-3.0, -5.0]]), log_prob), actions=torch.tensor([[[0, 1, 2, 2], [0, 1, 2, 3]]])
    )
    loss = PO(alpha=0.5, per_step=True).loss(found)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.5 * (-1 / 2 + 3 / 3))))


def test_rollouts(rng: torch.Generator) -> None:
    """They begin at every start, or are samples from the policy's own first action."""
    env = make("tsp", num_nodes=5)
    instances = env.generate(2, rng)
    assert PO().first_actions(env, instances, rng).tolist() == [list(range(5))] * 2
    assert PO().forced == 1
    assert PO(samples=7).first_actions(env, instances, rng) is None
    assert (PO(samples=7).rollouts, PO(samples=7).forced) == (7, 0)


@pytest.mark.parametrize(
    "algorithm",
    [
        PO(),
        PO(samples=8),
        BOPO(samples=0, kept=4),
        BOPO(samples=16, kept=4),
        POMO(leader_alpha=2.0),
        Reinforce("leave-one-out", rollouts=8, normalise=True, entropy=0.01),
    ],
    ids=["po", "po-samples", "bopo-starts", "bopo", "leader", "entropy"],
)
@pytest.mark.parametrize("env", [make("tsp", num_nodes=10), make("knapsack", num_items=10)], ids=["min", "max"])
def test_it_learns(env, algorithm, rng: torch.Generator) -> None:
    """A few steps make a policy's samples better, whether the objective is minimised or maximised."""
    torch.manual_seed(0)
    policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16)
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-2)
    means = []
    for _ in range(40):
        instances = env.generate(32, rng)
        encoded = policy.encode(env.instance_features(instances))
        starts = algorithm.first_actions(env, instances, rng)
        rollouts = algorithm.rollouts or 1
        found = act(
            env,
            policy,
            encoded,
            instances,
            Sample(),
            rng,
            rollouts=rollouts,
            first_actions=starts,
            log_prob=True,
            acting="eager",
        )
        scored = log_probs(env, policy, encoded, found, carrying=algorithm.carrying, acting="eager")
        loss = algorithm.loss(Trajectories(instances, found.actions, found.reward, found.forced, scored))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        means.append(found.reward.mean().item())
    assert sum(means[-5:]) > sum(means[:5]) + 0.02 * abs(sum(means[:5]))


@pytest.mark.parametrize(("arguments", "word"), [({"alpha": 0.0}, "alpha: 0.0"), ({"samples": 1}, "samples: 1")])
def test_refusals(arguments: dict, word: str) -> None:
    """Each bad argument is named with its value."""
    with pytest.raises(ArgumentError, match=word):
        PO(**arguments)
