"""PO: the pairs by hand, its gradient, both senses, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch
from works import Learning, loss_of

from ncogym.algorithms.bopo import BOPO
from ncogym.algorithms.pomo import POMO
from ncogym.algorithms.preference import PO
from ncogym.algorithms.reinforce import Reinforce
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.policies import AttentionPolicy
from ncogym.rollout import Work


@pytest.mark.parametrize("shift", [0.0, 10.0])
def test_loss_by_hand(shift: float) -> None:
    """Each pair with a preference adds its negative log-likelihood, in either sense; a tie adds nothing."""
    reward = torch.tensor([[-3.0, -5.0, -5.0]]) + shift
    log_prob = torch.tensor([[-1.0, -2.0, -4.0]], requires_grad=True)
    loss = loss_of(PO(alpha=0.5), reward, log_prob)
    assert loss.item() == pytest.approx((math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-1.5))) / 3)
    loss.backward()
    one, two = 0.5 / (1 + math.exp(0.5)), 0.5 / (1 + math.exp(1.5))
    assert log_prob.grad.flatten().tolist() == pytest.approx([-(one + two) / 3, one / 3, two / 3])


def test_per_step_by_hand() -> None:
    """Log-probabilities are compared per decision, of which neither a given action nor padding is one."""
    log_prob = torch.tensor([[-1.0, -3.0]])
    reward, actions = torch.tensor([[-3.0, -5.0]]), torch.tensor([[[0, 1, 2, 2], [0, 1, 2, 3]]])
    loss = loss_of(PO(alpha=0.5, per_step=True), reward, log_prob, actions=actions)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.5 * (-1 / 2 + 3 / 3))))


def test_rollouts(rng: torch.Generator) -> None:
    """They begin at every start, or are samples from the policy's own first action."""
    env = make("tsp", num_nodes=5)
    policy = AttentionPolicy(env.feature_dims, dim=8, num_layers=1, num_heads=2)
    work = Work.alone(policy, env, env.generate(2, rng), rng)
    PO().step(work)
    assert (work.rollouts.actions[..., 0].tolist(), work.rollouts.forced) == ([list(range(5))] * 2, 1)
    PO(samples=7).step(work)
    assert (work.rollouts.actions.shape[1], work.rollouts.forced) == (7, 0)


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
    learning = Learning(env, policy, algorithm, 32, rng, acting="eager")
    means = [learning.step()[0].reward.mean().item() for _ in range(40)]
    assert sum(means[-5:]) > sum(means[:5]) + 0.02 * abs(sum(means[:5]))


@pytest.mark.parametrize(("arguments", "word"), [({"alpha": 0.0}, "alpha: 0.0"), ({"samples": 1}, "samples: 1")])
def test_refusals(arguments: dict, word: str) -> None:
    """Each bad argument is named with its value."""
    with pytest.raises(ArgumentError, match=word):
        PO(**arguments)
