from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ncogym.errors import UnsupportedFeatures
from ncogym.features import EdgeFeatures, FeatureDims, NodeFeatures
from ncogym.policies.embeddings import EdgeBias, NodeEmbedding, embed


def test_nodes_of_one_kind_share_a_layer(rng):
    """Without kinds every node goes through the same linear layer."""
    layer, values = NodeEmbedding(FeatureDims(node=3), 4), torch.randn(2, 5, 3, generator=rng)
    expected = values @ layer.kinds[0].weight.T + layer.kinds[0].bias
    torch.testing.assert_close(layer(NodeFeatures(values)), expected)


def test_each_kind_of_node_has_a_layer_of_its_own(rng):
    """A depot is embedded by another layer than the customers, wherever it stands."""
    layer, values = NodeEmbedding(FeatureDims(node=3, kinds=2), 4), torch.randn(2, 4, 3, generator=rng)
    found = layer(NodeFeatures(values, torch.tensor([0, 1, 0, 1])))
    for node, kind in enumerate([0, 1, 0, 1]):
        torch.testing.assert_close(found[:, node], layer.kinds[kind](values[:, node]))
    assert not torch.allclose(found[:, 1], layer.kinds[0](values[:, 1]))


def test_edge_bias_begins_at_zero(rng):
    """An untrained edge bias adds nothing, so that switching it on does not change an untrained policy."""
    table = EdgeBias(FeatureDims(node=2, edge=3, roles=2))(torch.randn(2, 5, 5, 3, generator=rng))
    assert table.shape == (2, 2, 5, 5)
    assert (table == 0).all()


def test_edge_bias_reads_each_edge_alone(rng):
    """Entry [role, i, j] is a function of the numbers of the move from i to j alone."""
    bias = EdgeBias(FeatureDims(node=2, edge=3, roles=2))
    nn.init.normal_(bias.network[2].weight, generator=rng)
    edges = torch.randn(1, 4, 4, 3, generator=rng)
    table, other = bias(edges), edges.clone()
    other[0, 1, 2] += 1.0
    changed = (bias(other) != table).nonzero().tolist()
    assert changed == [[0, 0, 1, 2], [0, 1, 1, 2]]


def test_edge_bias_can_learn(rng):
    """The zero start passes gradients on: its last layer's are not zero."""
    bias = EdgeBias(FeatureDims(node=2, edge=3, roles=2))
    bias(torch.randn(1, 4, 4, 3, generator=rng)).sum().backward()
    assert (bias.network[2].weight.grad != 0).any()


class Smells(NamedTuple):
    """A type of feature that no layer is registered for."""

    values: Tensor


@pytest.fixture
def policy():
    """A policy's two layers, without the rest of it."""
    dims = FeatureDims(node=3, edge=2, roles=1)
    return SimpleNamespace(embed=NodeEmbedding(dims, 4), edge_bias=EdgeBias(dims))


def test_the_type_of_a_feature_picks_the_layer(policy, rng):
    """Nodes go to the policy's node embedding, edges to all but the last layer of its edge bias, or nowhere."""
    nodes = NodeFeatures(torch.randn(2, 5, 3, generator=rng))
    edges = EdgeFeatures(torch.randn(2, 5, 5, 2, generator=rng))
    assert torch.equal(embed(nodes, policy), policy.embed(nodes))
    assert torch.equal(policy.edge_bias.table(embed(edges, policy)), policy.edge_bias(edges.values))
    assert policy.edge_bias(edges.values).shape == (2, 1, 5, 5)
    assert embed(edges, SimpleNamespace(edge_bias=None)) is None


def test_a_feature_without_a_layer_is_refused(policy):
    """A feature of an unknown type is refused by a text that names the policy, the feature and what can be read."""
    with pytest.raises(UnsupportedFeatures, match="SimpleNamespace cannot read Smells; it reads NodeFeatures, Edge"):
        embed(Smells(torch.zeros(1, 1)), policy)


def test_a_new_type_brings_its_own_layer(policy):
    """A layer for a new type is registered from outside, and no policy or problem is named in doing so."""

    class Sounds(Smells):
        pass

    embed.register(Sounds, lambda feature, policy: feature.values + policy.embed.kinds[0].bias.shape[0])
    assert embed(Sounds(torch.zeros(1, 1)), policy).item() == 4
