"""Self-labelling: the best of the policy's own samples is what it learns."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from ncogym.algorithms.self_labelling import SelfLabelling
from ncogym.errors import ArgumentError
from ncogym.rollout import Trajectories


def record(**more: torch.Tensor | None) -> Trajectories:
    """Return two instances with three rollouts of two steps each."""
    actions = torch.arange(12).view(2, 3, 2)
    return Trajectories(TensorDict({}, [2]), actions, torch.tensor([[-3.0, -1.0, -2.0], [5.0, 6.0, 7.0]]), **more)


def test_loss_by_hand() -> None:
    """The loss is the mean negative log-probability of a decision of the best rollout of each instance."""
    log_prob = torch.tensor([[-1.0, -3.0, -2.0], [-7.0, -8.0, -6.0]], requires_grad=True)
    loss = SelfLabelling().loss(record(log_prob=log_prob))
    assert loss.item() == pytest.approx(4.5 / 2)
    loss.backward()
    assert log_prob.grad.tolist() == [[0, -0.25, 0], [0, 0, -0.25]]
    assert SelfLabelling.carrying == 1  # of an instance, as the gradient says
    with pytest.raises(ArgumentError, match="log_prob"):
        SelfLabelling().loss(record())


def test_refusal() -> None:
    """The best of one is no choice."""
    with pytest.raises(ArgumentError, match="samples: 1"):
        SelfLabelling(samples=1)
