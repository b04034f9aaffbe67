"""What algorithms share: the critic, its statistics by hand, and the count of decisions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ncogym.algorithms.base import Critic, WinnerTakesAll, decisions, per_decision
from ncogym.envs import make
from ncogym.errors import ArgumentError, UnsupportedFeatures


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


def test_log_probabilities_per_decision_by_hand() -> None:
    """Each rollout's is divided by its own decisions, then their mean is taken; alike counts divide to the last bit."""
    log_prob = torch.tensor([[-6.0, -3.0], [-8.0, -1.0]])
    assert per_decision(log_prob, torch.tensor([[3, 1], [4, 2]])).item() == pytest.approx((-2 - 3 - 2 - 0.5) / 4)
    assert torch.equal(per_decision(log_prob, torch.full((2, 2), 7)), log_prob.mean() / 7)


# ---------------------------------------------------------------------- the best under several conditions


class Winners(WinnerTakesAll):
    """The least that Poppy and COMPASS have in common."""

    def step(self, work):
        """Take none."""
        raise NotImplementedError


@pytest.mark.parametrize(
    ("compared", "expected"),
    [
        ("pomo", [[2.0, -2.0], [-1.5, 1.5]]),
        ("analytic", [[4.0, 0.0], [0.0, 3.0]]),
        ("members", [[2.0, -1.5], [-2.0, 1.5]]),
    ],
)
def test_advantages_by_hand(compared: str, expected: list[list[float]]) -> None:
    """What is subtracted is a mean over starts, the second best, or a mean over members; the deviation divides."""
    reward = torch.tensor([[[6.0, 2.0], [2.0, 5.0]]])
    plain, scaled = (Winners(compared, 0, 0, normalise).advantages(reward) for normalise in (False, True))
    torch.testing.assert_close(plain, torch.tensor([expected]))
    torch.testing.assert_close(scaled, torch.tensor([expected]) / 2.061553)


@pytest.mark.parametrize(("name", "sign"), [("tsp", -1), ("knapsack", 1)])
def test_winners_by_hand(name: str, sign: int) -> None:
    """Three members at four starts: wins of 2, 1 and 1, of which one is shared but for rounding."""
    sense, winners = make(name).sense, Winners("pomo", 0, 0, False)
    rows = [[5.0, 7.0, 1.0, 1.0], [4.0, 7.000001, 6.0, 1.0], [3.0, 0.0, 2.0, 2.0]]
    found = {word: value.item() for word, value in winners.metrics(torch.tensor([rows]), sense).items()}
    assert found == pytest.approx(
        {
            "best_of_members": sign * (5 + 7 + 6 + 2) / 4,
            "mean_member": sign * (14 + 18 + 7) / 12,
            "leave_one_out": (1 + 0 + 4 + 1) / 4 / 3,
            "share_won_most": 0.5,
            "share_won_least": 0.25,
            "unique_winners": 0.75,
            "ties": 0.25,
        },
        abs=1e-6,
    )
    alone = winners.metrics(torch.tensor([[[5.0, 7.0, 1.0]]]), sense)
    assert (alone["leave_one_out"], alone["share_won_least"], alone["unique_winners"]) == (0, 1, 1)


@pytest.mark.parametrize(("compared", "least"), [("pomo", 2), ("analytic", 1), ("members", 1)])
def test_as_many_starts_as_have_a_mean(compared: str, least: int) -> None:
    """None, or from the least on; what is below is refused with its name, its value and what is allowed."""
    for name in ("starts", "samples"):
        for value in (0, least, least + 1):
            Winners(compared, **{"starts": 0, "samples": 0, name: value}, normalise=False)
        for value in {-1, least - 1} - {0}:
            with pytest.raises(ArgumentError, match=rf"^{name}: {value} is not allowed; .* at least {least}$"):
                Winners(compared, **{"starts": 0, "samples": 0, name: value}, normalise=False)
