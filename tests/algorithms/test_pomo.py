"""POMO: the paper's estimator by hand, and its starts."""

from __future__ import annotations

import pytest
import torch
from works import loss_of

from ncogym.algorithms.pomo import POMO
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.policies import AttentionPolicy
from ncogym.rollout import Work


def test_loss_by_hand() -> None:
    """The advantage of a start is its reward less the mean over the starts of its instance."""
    reward = torch.tensor([[-3.0, -5.0], [-2.0, -2.0]])
    log_prob = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]], requires_grad=True)
    loss = loss_of(POMO(), reward, log_prob)
    assert loss.item() == pytest.approx(-(1 * -1.0 + -1 * -2.0 + 0 + 0) / 4)
    loss.backward()
    assert torch.equal(log_prob.grad, torch.tensor([[-0.25, 0.25], [0.0, 0.0]]))


def test_normalised_loss_by_hand() -> None:
    """Normalised advantages have unit deviation."""
    reward = torch.tensor([[-3.0, -5.0]])
    log_prob = torch.tensor([[-1.0, -2.0]])
    scale = 2**0.5
    assert loss_of(POMO(normalise=True), reward, log_prob).item() == pytest.approx(-(-1.0 / scale + 2.0 / scale) / 2)


def test_leader_by_hand() -> None:
    """The advantage of the best rollout of each instance is multiplied, and nothing else."""
    reward = torch.tensor([[-3.0, -5.0, -7.0]])
    log_prob = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    loss_of(POMO(leader_alpha=3.0), reward, log_prob).backward()
    assert log_prob.grad.flatten().tolist() == pytest.approx([-6 / 3, 0, 2 / 3])
    with pytest.raises(ArgumentError, match=r"leader_alpha: 0\.5"):
        POMO(leader_alpha=0.5)


def test_starts() -> None:
    """All starts by default; fewer are drawn without replacement; of the actions of a rollout they alone are given."""
    env, rng = make("tsp", num_nodes=9), torch.Generator().manual_seed(0)
    policy, instances = AttentionPolicy(env.feature_dims, dim=8, num_layers=1, num_heads=2), env.generate(3, rng)
    work = Work.alone(policy, env, instances, rng)
    POMO().step(work)
    assert work.rollouts.actions[..., 0].tolist() == [list(range(9))] * 3
    assert work.rollouts.forced == 1
    POMO(starts=4).step(work)
    drawn = work.rollouts.actions[..., 0]
    assert drawn.shape == (3, 4)
    assert all(len(set(row)) == 4 for row in drawn.tolist())


@pytest.mark.parametrize("starts", [-1, 1])
def test_refusals(starts: int) -> None:
    """One start has no mean to be compared with."""
    with pytest.raises(ArgumentError, match=f"starts: {starts}"):
        POMO(starts=starts)
