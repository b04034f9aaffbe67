"""Self-labelling: the best of the policy's own samples is what it learns."""

from __future__ import annotations

import pytest
import torch
from works import Given, loss_of

from ncogym.algorithms.self_labelling import SelfLabelling
from ncogym.errors import ArgumentError

REWARD = torch.tensor([[-3.0, -1.0, -2.0], [5.0, 6.0, 7.0]])


def test_loss_by_hand() -> None:
    """The loss is the mean negative log-probability of a decision of each instance's best rollout, and of it alone."""
    log_prob = torch.tensor([[-1.0, -3.0, -2.0], [-7.0, -8.0, -6.0]], requires_grad=True)
    work = Given(REWARD, log_prob, actions=torch.arange(12).view(2, 3, 2), forced=0)
    loss = SelfLabelling(3).step(work).loss
    assert loss.item() == pytest.approx(4.5 / 2)
    loss.backward()
    assert log_prob.grad.tolist() == [[0, -0.25, 0], [0, 0, -0.25]]
    assert work.carrying == 1  # of an instance, as the gradient says
    assert work.asked == {"rollouts": 3}


def test_padding_does_not_count() -> None:
    """The best rollout is divided by its own decisions, however far the record is padded."""
    log_prob = torch.tensor([[-1.0, -3.0, -2.0], [-7.0, -8.0, -6.0]])
    actions = torch.tensor([[[1, 2, 0, 0], [1, 2, 3, 0], [2, 1, 3, 0]], [[1, 0, 0, 0], [1, 3, 0, 0], [2, 0, 0, 0]]])
    one = loss_of(SelfLabelling(), REWARD, log_prob, actions=actions, forced=0)
    assert one.item() == pytest.approx((3 / 4 + 6 / 2) / 2)
    padded = torch.cat([actions, torch.zeros(2, 3, 5, dtype=torch.int64)], -1)
    assert loss_of(SelfLabelling(), REWARD, log_prob, actions=padded, forced=0).item() == one.item()


def test_refusal() -> None:
    """The best of one is no choice."""
    with pytest.raises(ArgumentError, match="samples: 1"):
        SelfLabelling(samples=1)
