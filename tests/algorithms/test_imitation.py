"""Imitation: cross-entropy per decision on equivalent action sequences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict

from ncogym.algorithms.imitation import Imitation
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.rollout import Trajectories


def test_loss_by_hand() -> None:
    """The loss is the mean negative log-probability of a decision that was not given."""
    log_prob = torch.tensor([[-3.0, -6.0]])
    actions = torch.tensor([[[0, 1, 2, 3], [1, 0, 3, 2]]])
    record = Trajectories(TensorDict({}, [1]), actions, torch.zeros(1, 2), 1, log_prob=log_prob)
    assert Imitation().loss(record).item() == pytest.approx(4.5 / 3)


def test_padding_does_not_count() -> None:
    """Each sequence is divided by its own decisions, however far all are padded, and by all where none is."""
    log_prob = torch.tensor([[-3.0, -6.0]])
    actions = torch.tensor([[[1, 2, 0, 3, 0], [2, 3, 1, 0, 0]]])
    record = Trajectories(TensorDict({}, [1]), actions, torch.zeros(1, 2), 1, log_prob=log_prob)
    assert Imitation().loss(record).item() == pytest.approx((3 / 4 + 6 / 3) / 2)
    longer = replace(record, actions=torch.cat([actions, actions[..., -1:].expand(-1, -1, 7)], -1))
    assert Imitation().loss(longer).item() == Imitation().loss(record).item()
    whole = torch.stack([torch.randperm(13) for _ in range(70)]).view(7, 10, 13)
    tours = Trajectories(TensorDict({}, [7]), whole, torch.zeros(7, 10), 1, log_prob=-torch.rand(7, 10))
    assert Imitation().loss(tours).item() == (-tours.log_prob.mean() / 12).item()


def test_demonstrations_are_the_same_tour() -> None:
    """Every demonstration has the edges of its label, and both directions and several starts occur."""
    env, rng = make("tsp", num_nodes=6), torch.Generator().manual_seed(0)
    label = torch.tensor([[[3, 0, 5, 1, 4, 2]]])
    shown = Imitation(sequences=40).demonstrations(env, env.generate(1, rng), label, rng)[0].tolist()

    def edges(tour: list[int]) -> set[frozenset[int]]:
        return {frozenset(pair) for pair in zip(tour, tour[1:] + tour[:1], strict=True)}

    assert all(edges(tour) == edges(label[0, 0].tolist()) for tour in shown)
    assert len({tour[0] for tour in shown}) == 6
    assert len({tuple(tour) for tour in shown}) > 6


def test_refusal() -> None:
    """At least one sequence per label."""
    with pytest.raises(ArgumentError, match="sequences: 0"):
        Imitation(sequences=0)
