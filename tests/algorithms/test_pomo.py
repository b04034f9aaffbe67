"""POMO: the paper's estimator by hand, and its starts."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from ncogym.algorithms.pomo import POMO
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.rollout import Trajectories


def test_loss_by_hand() -> None:
    """The advantage of a start is its reward less the mean over the starts of its instance."""
    reward = torch.tensor([[-3.0, -5.0], [-2.0, -2.0]])
    log_prob = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]], requires_grad=True)
    record = Trajectories(TensorDict({}, [2]), torch.zeros(2, 2, 3, dtype=torch.int64), reward, 1, log_prob=log_prob)
    loss = POMO().loss(record)
    assert loss.item() == pytest.approx(-(1 * -1.0 + -1 * -2.0 + 0 + 0) / 4)
    loss.backward()
    assert torch.equal(log_prob.grad, torch.tensor([[-0.25, 0.25], [0.0, 0.0]]))


def test_normalised_loss_by_hand() -> None:
    """Normalised advantages have unit deviation."""
    reward = torch.tensor([[-3.0, -5.0]])
    log_prob = torch.tensor([[-1.0, -2.0]])
    record = Trajectories(TensorDict({}, [1]), torch.zeros(1, 2, 3, dtype=torch.int64), reward, 1, log_prob=log_prob)
    scale = 2**0.5
    assert POMO(normalise=True).loss(record).item() == pytest.approx(-(-1.0 / scale + 2.0 / scale) / 2)


def test_leader_by_hand() -> None:
    """The advantage of the best rollout of each instance is multiplied, and nothing else."""
    reward = torch.tensor([[-3.0, -5.0, -7.0]])
    log_prob = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    record = Trajectories(TensorDict({}, [1]), torch.zeros(1, 3, 3, dtype=torch.int64), reward, 1, log_prob=log_prob)
    POMO(leader_alpha=3.0).loss(record).backward()
    assert log_prob.grad.flatten().tolist() == pytest.approx([-6 / 3, 0, 2 / 3])
    with pytest.raises(ArgumentError, match=r"leader_alpha: 0\.5"):
        POMO(leader_alpha=0.5)


def test_starts() -> None:
    """All starts by default; fewer are drawn without replacement."""
    env, rng = make("tsp", num_nodes=9), torch.Generator().manual_seed(0)
    instances = env.generate(3, rng)
    assert POMO().first_actions(env, instances, rng).tolist() == [list(range(9))] * 3
    drawn = POMO(starts=4).first_actions(env, instances, rng)
    assert drawn.shape == (3, 4)
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    assert POMO().forced == 1  # of the actions of a rollout: its start alone is given


@pytest.mark.parametrize("starts", [-1, 1])
def test_refusals(starts: int) -> None:
    """One start has no mean to be compared with."""
    with pytest.raises(ArgumentError, match=f"starts: {starts}"):
        POMO(starts=starts)
