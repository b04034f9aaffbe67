"""What algorithms share: the critic, its statistics by hand, and the count of decisions."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from ncogym.algorithms.base import Critic, decisions
from ncogym.algorithms.pomo import POMO
from ncogym.errors import UnsupportedFeatures
from ncogym.rollout import Trajectories


class Words(nn.Module):
    """Stands for a policy that offers so many numbers to read."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


def test_statistics_by_hand() -> None:
    """All batches so far weigh the same, and from the hundredth on a new one weighs a hundredth."""
    critic = Critic(Words(3), states=False)
    critic.observe(torch.tensor([[1.0, 3.0]]))
    assert (critic.mean.item(), critic.deviation.item()) == pytest.approx((2, 1))
    critic.observe(torch.tensor([[6.0, 6.0]]))
    assert critic.mean.item() == pytest.approx(4)
    assert critic.deviation.item() == pytest.approx(((1 + 9 + 36 + 36) / 4 - 16) ** 0.5)
    critic.batches.fill_(1000)
    assert critic.observe(torch.tensor([[104.0]]))[0].item() == pytest.approx(5)
    assert critic.mean.item() == pytest.approx(5)


@pytest.mark.parametrize("reward", [0.0, -1234.0])
def test_rewards_that_are_all_alike(reward: float) -> None:
    """Their deviation is a small number above 0, so that it can divide."""
    critic = Critic(Words(3), states=False)
    critic.observe(torch.full((4, 2), reward))
    assert 0 < critic.deviation.item() <= abs(reward) / 999 + 1e-30


def test_a_large_mean_costs_no_digits() -> None:
    """A deviation of a thousandth and a bit of the mean is found."""
    critic = Critic(Words(3), states=False)
    critic.observe(torch.tensor([[-100_200.0, -99_800.0]]))
    assert critic.deviation.item() == pytest.approx(200, rel=1e-5)


@pytest.mark.parametrize("states", [False, True])
def test_it_begins_with_the_mean_and_can_learn(states: bool, rng: torch.Generator) -> None:
    """Its first word is 0 whatever it reads, and all its weights have a gradient once the last ones have moved."""
    critic = Critic(Words(3), states=states)
    read = torch.randn(2, 5, 6 if states else 3, generator=rng)
    assert critic(read).shape == (2, 5)
    assert not critic(read).any()
    sgd = torch.optim.SGD(critic.parameters(), 0.1)
    for _ in range(2):
        sgd.zero_grad()
        (critic(read) - read[..., 0]).square().mean().backward()
        sgd.step()
    assert all(parameter.grad.any() for parameter in critic.parameters())


def test_a_policy_without_words_is_refused() -> None:
    """It is named."""
    with pytest.raises(UnsupportedFeatures, match="Words offers a value head nothing to read"):
        Critic(Words(0), states=True)


def test_padding_is_no_decision() -> None:
    """However far a record is padded, the decisions are as many."""
    actions = torch.tensor([[[2, 1, 0, 3, 0], [1, 2, 3, 0, 0]]])
    assert decisions(actions, 1).tolist() == [[4, 3]]
    assert decisions(torch.cat([actions, torch.zeros(1, 2, 3, dtype=torch.int64)], -1), 1).tolist() == [[4, 3]]


def test_there_are_no_conditions_unless_an_algorithm_has_some(rng: torch.Generator) -> None:
    """Nor is there anything to log beside loss and objective."""
    rollouts = Trajectories(TensorDict({}, [1]), torch.zeros(1, 2, 3, dtype=torch.int64), torch.zeros(1, 2))
    assert POMO().condition(Words(0), rng) is None
    assert POMO().metrics(rollouts) == {}
