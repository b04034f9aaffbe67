from __future__ import annotations

import pytest
import torch
from torch import nn

from ncogym.errors import UnsupportedFeatures
from ncogym.features import EdgeFeatures, FeatureDims, NodeFeatures
from ncogym.policies.embeddings import EdgeBias, NodeEmbedding, refuse_unknown


def test_nodes_of_one_kind_share_a_layer(rng):
    """Without kinds every node goes through the same linear layer."""
    embed, values = NodeEmbedding(FeatureDims(node=3), 4), torch.randn(2, 5, 3, generator=rng)
    expected = values @ embed.kinds[0].weight.T + embed.kinds[0].bias
    torch.testing.assert_close(embed(NodeFeatures(values)), expected)


def test_each_kind_of_node_has_a_layer_of_its_own(rng):
    """A depot is embedded by another layer than the customers, wherever it stands."""
    embed, values = NodeEmbedding(FeatureDims(node=3, kinds=2), 4), torch.randn(2, 4, 3, generator=rng)
    found = embed(NodeFeatures(values, torch.tensor([0, 1, 0, 1])))
    for node, kind in enumerate([0, 1, 0, 1]):
        torch.testing.assert_close(found[:, node], embed.kinds[kind](values[:, node]))
    assert not torch.allclose(found[:, 1], embed.kinds[0](values[:, 1]))


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


def test_features_without_a_layer_are_refused():
    """A feature of an unknown type is refused by a text that names the policy, the feature and what it can read."""
    features = (NodeFeatures(torch.zeros(1, 3, 2)), EdgeFeatures(torch.zeros(1, 3, 3, 1)))
    refuse_unknown(features, (NodeFeatures, EdgeFeatures), nn.Identity())
    with pytest.raises(UnsupportedFeatures, match="Identity cannot read EdgeFeatures; it reads NodeFeatures"):
        refuse_unknown(features, (NodeFeatures,), nn.Identity())
