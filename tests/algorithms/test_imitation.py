"""Imitation: cross-entropy per decision on equivalent action sequences."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from works import loss_of

from ncogym.algorithms.imitation import Imitation
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.policies import AttentionPolicy
from ncogym.rollout import Work


def test_loss_by_hand() -> None:
    """The loss is the mean negative log-probability of a decision that was not given."""
    log_prob = torch.tensor([[-3.0, -6.0]])
    actions = torch.tensor([[[0, 1, 2, 3], [1, 0, 3, 2]]])
    assert loss(log_prob, actions) == pytest.approx(4.5 / 3)


def loss(log_prob: torch.Tensor, actions: torch.Tensor) -> float:
    """Return the loss of sequences, of which the first action is given."""
    env = SimpleNamespace(equivalent_actions=lambda instances, labels, count, rng: actions)
    return loss_of(Imitation(), torch.zeros_like(log_prob), log_prob, actions=actions, env=env).item()


def test_padding_does_not_count() -> None:
    """Each sequence is divided by its own decisions, however far all are padded, and by all where none is."""
    log_prob = torch.tensor([[-3.0, -6.0]])
    actions = torch.tensor([[[1, 2, 0, 3, 0], [2, 3, 1, 0, 0]]])
    assert loss(log_prob, actions) == pytest.approx((3 / 4 + 6 / 3) / 2)
    longer = torch.cat([actions, actions[..., -1:].expand(-1, -1, 7)], -1)
    assert loss(log_prob, longer) == loss(log_prob, actions)
    whole, log_prob = torch.stack([torch.randperm(13) for _ in range(70)]).view(7, 10, 13), -torch.rand(7, 10)
    assert loss(log_prob, whole) == (-log_prob.mean() / 12).item()


def test_what_is_shown_is_the_same_tour() -> None:
    """Every sequence has the edges of its label, and both directions and several starts occur."""
    env, rng = make("tsp", num_nodes=6), torch.Generator().manual_seed(0)
    label = torch.tensor([[[3, 0, 5, 1, 4, 2]]])
    policy = AttentionPolicy(env.feature_dims, dim=8, num_layers=1, num_heads=2)
    work = Work.alone(policy, env, env.generate(1, rng), rng, label)
    Imitation(sequences=40).step(work).loss.backward()
    shown = work.rollouts.actions[0].tolist()

    def edges(tour: list[int]) -> set[frozenset[int]]:
        return {frozenset(pair) for pair in zip(tour, tour[1:] + tour[:1], strict=True)}

    assert all(edges(tour) == edges(label[0, 0].tolist()) for tour in shown)
    assert len({tour[0] for tour in shown}) == 6
    assert len({tuple(tour) for tour in shown}) > 6
    with pytest.raises(ArgumentError, match="they have no labels"):
        Imitation().step(Work.alone(policy, env, env.generate(1, rng), rng))


def test_refusal() -> None:
    """At least one sequence per label."""
    with pytest.raises(ArgumentError, match="sequences: 0"):
        Imitation(sequences=0)
