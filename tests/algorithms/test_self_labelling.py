"""Self-labelling: the best of the policy's own samples is what it learns."""

from __future__ import annotations

from dataclasses import replace

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


def test_padding_does_not_count() -> None:
    """The best rollout is divided by its own decisions, however far the record is padded."""
    log_prob = torch.tensor([[-1.0, -3.0, -2.0], [-7.0, -8.0, -6.0]])
    actions = torch.tensor([[[1, 2, 0, 0], [1, 2, 3, 0], [2, 1, 3, 0]], [[1, 0, 0, 0], [1, 3, 0, 0], [2, 0, 0, 0]]])
    one = replace(record(log_prob=log_prob), actions=actions)
    assert SelfLabelling().loss(one).item() == pytest.approx((3 / 4 + 6 / 2) / 2)
    padded = replace(one, actions=torch.cat([actions, torch.zeros(2, 3, 5, dtype=torch.int64)], -1))
    assert SelfLabelling().loss(padded).item() == SelfLabelling().loss(one).item()


def test_refusal() -> None:
    """The best of one is no choice."""
    with pytest.raises(ArgumentError, match="samples: 1"):
        SelfLabelling(samples=1)
