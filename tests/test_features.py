from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
import torch

from ncogym import features
from ncogym.features import FeatureDims, NodeFeatures, StepFeatures, join_steps


def test_widths_are_absent_unless_said():
    """A problem that names only its nodes' numbers has one kind of node and no edges, roles, scalars, candidates."""
    assert FeatureDims(node=2) == FeatureDims(node=2, kinds=1, edge=0, roles=0, scalars=0, candidates=0)


def test_widths_cannot_be_changed():
    """A policy's layers and the widths they were built from cannot drift apart."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        FeatureDims(node=2).node = 3


def test_node_kinds_are_optional():
    """Nodes of one kind need no kinds."""
    assert NodeFeatures(torch.zeros(1, 3, 2)).kinds is None


@pytest.mark.parametrize("optional", [False, True])
def test_steps_are_joined_rollout_by_rollout(optional):
    """Query ``rollout * steps + step`` of joined steps is what that rollout saw at that step, field by field."""
    batch, rollouts, actions = 2, 3, 4

    def numbers(step, width):
        return step * 100.0 + torch.arange(rollouts).view(1, -1, 1).expand(batch, rollouts, width)

    steps = [
        StepFeatures(
            numbers(step, 2).long(),
            numbers(step, actions) % 2 == 0,
            numbers(step, 1) if optional else None,
            numbers(step, actions).unsqueeze(-1) if optional else None,
        )
        for step in range(5)
    ]
    joined = join_steps(steps)
    for rollout in range(rollouts):
        for step in range(5):
            query = joined.select(slice(rollout * 5 + step, rollout * 5 + step + 1))
            for field, whole in zip(query, steps[step], strict=True):
                assert (field is None) == (whole is None)
                assert field is None or torch.equal(field, whole[:, rollout : rollout + 1])


def test_a_selection_of_queries_keeps_its_fields():
    """Part of the queries has each field of the whole, and no scalars or candidates where the whole has none."""
    step = StepFeatures(torch.arange(12).view(1, 6, 2), torch.ones(1, 6, 4, dtype=torch.bool))
    part = step.select(slice(2, 4))
    assert part.nodes.tolist() == [[[4, 5], [6, 7]]]
    assert part.action_mask.shape == (1, 2, 4)
    assert part.scalars is None
    assert part.candidates is None


def test_the_shared_words_know_no_other_room():
    """Environments and policies meet here, so this module imports nothing of the package."""
    tree = ast.parse(Path(features.__file__).read_text(encoding="utf-8"))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert "torch" in modules
    assert not [module for module in modules if module.startswith("ncogym")]
