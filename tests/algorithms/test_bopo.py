"""BOPO: its choice of rollouts and its loss by hand, in both senses."""

from __future__ import annotations

import math

import pytest
import torch
from works import loss_of

from ncogym.algorithms.bopo import BOPO, evenly_spaced
from ncogym.errors import ArgumentError


def test_evenly_spaced_by_hand() -> None:
    """Equal rewards count once, the best and the worst are in, and too few rewards leave places empty."""
    reward = torch.tensor([[3.0, 9.0, 9.0, 7.0, 5.0, 1.0], [2.0, 2.0, 2.0, 1.0, 1.0, 1.0], [4.0] * 6])
    chosen, new = evenly_spaced(reward, 3)
    assert reward.gather(1, chosen).tolist() == [[9, 5, 1], [2, 2, 1], [4, 4, 4]]
    assert new.tolist() == [[True, True, True], [True, False, True], [True, False, False]]


@pytest.mark.parametrize("reward", [[-2.0, -3.0, -2.0, -5.0], [3.0, 2.0, 3.0, 1.2]])
def test_loss_by_hand(reward: list[float]) -> None:
    """The ratio of the objectives scales the difference of mean log-probabilities; it is above 1 in either sense."""
    log_prob = torch.tensor([[-3.0, -6.0, -3.0, -1.5]], requires_grad=True)
    loss = loss_of(BOPO(samples=4, kept=3), torch.tensor([reward]), log_prob)
    gaps = (1.5 * (-1.0 + 2.0), 2.5 * (-1.0 + 0.5))
    assert loss.item() == pytest.approx(sum(math.log1p(math.exp(-gap)) for gap in gaps) / 2)
    loss.backward()
    slopes = [ratio / (1 + math.exp(gap)) / 3 / 2 for ratio, gap in zip((1.5, 2.5), gaps, strict=True)]
    found = log_prob.grad[0].tolist()
    assert found[0] + found[2] == pytest.approx(-sum(slopes))  # either copy of the best
    assert [found[1], found[3]] == pytest.approx(slopes)


def test_no_preference_and_no_ratio() -> None:
    """Rollouts that are all alike have no gradient, and an objective of 0 has a finite one."""
    for reward in ([[1.0, 1.0]], [[1.0, 0.0]], [[0.0, -1.0]], [[1.0, -1.0]]):
        log_prob = torch.tensor([[-1.0, -1.0]], requires_grad=True)
        loss_of(BOPO(samples=2, kept=2), torch.tensor(reward), log_prob).backward()
        expected = 0.0 if reward[0][0] == reward[0][1] else 0.5 / 3
        assert log_prob.grad[0].tolist() == pytest.approx([-expected, expected])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"samples": 1}, "samples: 1"), ({"kept": 1}, "kept: 1"), ({"samples": 8, "kept": 9}, "kept: 9.*samples, 8")],
)
def test_refusals(arguments: dict, word: str) -> None:
    """Each bad argument is named with its value."""
    with pytest.raises(ArgumentError, match=word):
        BOPO(**arguments)
