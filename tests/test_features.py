from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
import torch

from ncogym import features
from ncogym.features import FeatureDims, NodeFeatures, StepFeatures


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


def test_step_features_can_be_cut_field_by_field():
    """A step without scalars and candidates can be taken apart and rebuilt, as the parallel scoring does."""
    step = StepFeatures(torch.zeros(1, 6, 2, dtype=torch.int64), torch.ones(1, 6, 4, dtype=torch.bool))
    part = StepFeatures(*(None if field is None else field[:, 2:4] for field in step))
    assert part.nodes.shape == (1, 2, 2)
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
