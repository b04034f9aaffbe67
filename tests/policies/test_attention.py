from __future__ import annotations

import functools
import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.features import EdgeFeatures, FeatureDims, NodeFeatures, StepFeatures
from ncogym.policies import AttentionPolicy, Population

DIMS = FeatureDims(node=2, edge=2, roles=2)
BATCH, NODES, QUERIES = 3, 6, 4
POPPY = {"biases": True, "mean_query": True, "pointer_projection": False}


def make_policy(dims: FeatureDims = DIMS, **arguments) -> AttentionPolicy:
    """Return a small policy whose weights are all away from zero, so that no part of it is idle."""
    torch.manual_seed(0)
    small = {"dim": 16, "num_layers": 2, "num_heads": 4, "feedforward": 32}
    policy = AttentionPolicy(dims, **{**small, **arguments})
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return policy.eval()


@pytest.fixture
def features(rng):
    """Random nodes in the plane with two numbers per edge."""
    nodes = torch.rand(BATCH, NODES, 2, generator=rng) - 0.5
    return NodeFeatures(nodes), EdgeFeatures(torch.randn(BATCH, NODES, NODES, 2, generator=rng))


@pytest.fixture
def step(rng):
    """Four queries, the first of which has no node in either role; some actions are masked."""
    nodes = torch.randint(0, NODES, (BATCH, QUERIES, 2), generator=rng)
    nodes[:, 0] = -1
    mask = torch.rand(BATCH, QUERIES, NODES, generator=rng) < 0.6
    mask[..., 2] = True
    return StepFeatures(nodes, mask)


def embed(policy: AttentionPolicy, features) -> Tensor:
    """Return the node embeddings that the encoder hands to the decoder."""
    x = policy.embed(features[0])
    for layer in policy.layers:
        x = layer(x)
    return policy.final_norm(x)


# ---------------------------------------------------------------------- the function


@pytest.mark.parametrize("pre_norm", [False, True])
def test_the_decoder_is_the_unfolded_formula(features, step, pre_norm):
    """Logits are C (tanh(W_o glimpse . key / sqrt(dim)) + edge bias), with W_o applied and not folded."""
    policy = make_policy(norm="layer", pre_norm=pre_norm, clip=7.0)
    x = embed(policy, features)
    found = policy.logits(policy.encode(features), step)
    keys, values = policy.glimpse(x).split(16, dim=-1)
    table = policy.edge_bias.network(features[1].values)
    for b in range(BATCH):
        pointed = x[b] @ policy.pointer.weight.T
        for i in range(QUERIES):
            seen, query, bias = step.action_mask[b, i], torch.zeros(16), torch.zeros(NODES)
            for role, node in enumerate(step.nodes[b, i].tolist()):
                if node < 0:
                    query = query + policy.nobody[role]
                else:
                    query = query + policy.roles.weight[16 * role : 16 * (role + 1)] @ x[b, node]
                    bias = bias + table[b, node, :, role]
            glimpse = []
            for head in range(4):
                part = slice(4 * head, 4 * (head + 1))
                weights = torch.softmax(keys[b, seen, part] @ query[part] / math.sqrt(4), dim=0)
                glimpse.append(weights @ values[b, seen, part])
            scores = pointed @ policy.combine(torch.cat(glimpse)) / math.sqrt(16)
            expected = (7.0 * (torch.tanh(scores) + bias)).masked_fill(~seen, -math.inf)
            torch.testing.assert_close(found[b, i], expected, rtol=1e-4, atol=1e-4)


def test_the_paper_of_populations_has_its_form(features, step):
    """With biases, a mean in the query and no projection of the pointer's keys, logits are Poppy's formula."""
    policy = make_policy(edge_bias=False, norm="layer", **POPPY)
    x = embed(policy, features)
    keys, values = policy.glimpse(x).split(16, dim=-1)
    found = policy.logits(policy.encode(features), step)
    for b in range(BATCH):
        for i in range(QUERIES):
            seen, query = step.action_mask[b, i], policy.mean(x[b].mean(0))
            for role, node in enumerate(step.nodes[b, i].tolist()):
                if node >= 0:
                    query = query + policy.roles.weight[16 * role : 16 * (role + 1)] @ x[b, node]
            glimpse = []
            for head in range(4):
                part = slice(4 * head, 4 * (head + 1))
                weights = torch.softmax(keys[b, seen, part] @ query[part] / math.sqrt(4), dim=0)
                glimpse.append(weights @ values[b, seen, part])
            read = policy.combine.weight @ (torch.cat(glimpse) + policy.combine.bias)
            expected = (10 * torch.tanh(x[b] @ read / math.sqrt(16))).masked_fill(~seen, -math.inf)
            torch.testing.assert_close(found[b, i], expected, rtol=1e-4, atol=1e-4)
    assert policy.as_pointer(policy.encode(features)) is not None


@pytest.mark.parametrize("members", [1, 4, 8, 16])
def test_the_paper_of_populations_has_its_size(members):
    """The paper's configuration has the paper's numbers: an encoder of 1,190,016 and members of 98,816 (table 4)."""
    base = functools.partial(AttentionPolicy, norm="layer", edge_bias=False, **POPPY)
    policy = Population(DIMS, members=members, base=base)
    assert sum(p.numel() for p in policy.parameters()) == 1_190_016 + members * 98_816


def test_masked_actions_alone_are_at_minus_infinity(features, step):
    """Exactly the masked actions have the logit -inf; logits are float32."""
    policy = make_policy()
    logits = policy.logits(policy.encode(features), step)
    assert logits.dtype == torch.float32
    assert torch.equal(logits == -math.inf, ~step.action_mask)
    assert logits[step.action_mask].isfinite().all()


def test_without_edges_logits_stay_within_the_clip(features, step):
    """The pointer's logits lie within plus and minus C."""
    policy = make_policy(edge_bias=False, clip=2.5)
    with torch.no_grad():
        policy.pointer.weight.mul_(1000)
    logits = policy.logits(policy.encode(features), step)[step.action_mask]
    assert logits.abs().max() <= 2.5
    assert logits.abs().max() > 2.4


def test_queries_do_not_see_one_another(features, step):
    """A query has the same logits alone, as one of a step, and among the recorded steps of whole trajectories."""
    policy = make_policy()
    encoded = policy.encode(features)
    together = policy.logits(encoded, step)
    for query in range(QUERIES):
        alone = policy.logits(encoded, StepFeatures(*(None if f is None else f[:, query : query + 1] for f in step)))
        torch.testing.assert_close(alone, together[:, query : query + 1])
    twice = StepFeatures(torch.cat([step.nodes] * 2, 1), torch.cat([step.action_mask] * 2, 1))
    torch.testing.assert_close(policy.logits(encoded, twice), torch.cat([together] * 2, 1))


@pytest.mark.parametrize("norm", ["instance", "layer", "rms", "none", "batch"])
def test_a_row_of_a_batch_is_that_row_alone(features, step, norm):
    """In evaluation mode, whatever the normalisation, an instance's logits do not depend on its batch."""
    policy = make_policy(norm=norm)
    together = policy.logits(policy.encode(features), step)
    for row in range(BATCH):
        nodes, edges = features[0].values[row : row + 1], features[1].values[row : row + 1]
        encoded = policy.encode((NodeFeatures(nodes), EdgeFeatures(edges)))
        alone = policy.logits(encoded, StepFeatures(step.nodes[row : row + 1], step.action_mask[row : row + 1]))
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["instance", "rms"])
def test_the_names_of_nodes_do_not_matter(features, step, norm):
    """Renumbering the nodes renumbers the logits, and the encoder's keys, and changes nothing else."""
    policy = make_policy(norm=norm)
    order = torch.tensor([4, 2, 0, 5, 1, 3])  # the new node i is the old node order[i]
    new_name = order.argsort()
    nodes, edges = features[0].values[:, order], features[1].values[:, order][:, :, order]
    renamed_step = StepFeatures(
        torch.where(step.nodes < 0, -1, new_name[step.nodes.clamp_min(0)]), step.action_mask[..., order]
    )
    encoded, renamed = policy.encode(features), policy.encode((NodeFeatures(nodes), EdgeFeatures(edges)))
    torch.testing.assert_close(renamed.keys, encoded.keys[:, :, order], rtol=1e-4, atol=1e-4)
    found, expected = policy.logits(renamed, renamed_step), policy.logits(encoded, step)[..., order]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, policy.logits(encoded, step))


# ---------------------------------------------------------------------- what it reads


def test_each_role_counts(features, step):
    """The logits depend on the node of each role, and on whether there is one."""
    policy = make_policy(edge_bias=False)
    encoded = policy.encode(features)
    nodes = torch.tensor([[0, 1], [1, 0], [2, 1], [-1, 1], [0, -1]]).expand(BATCH, -1, -1)
    logits = policy.logits(encoded, StepFeatures(nodes, torch.ones(BATCH, 5, NODES, dtype=torch.bool)))
    for one in range(5):
        for other in range(one):
            assert not torch.allclose(logits[:, one], logits[:, other])


def test_edges_count_only_where_asked(features, step):
    """With ``edge_bias`` off edges change nothing; with it on they do; without edges there is nothing to switch on."""
    other = (features[0], EdgeFeatures(features[1].values + 1))
    off = make_policy(edge_bias=False)
    assert off.encode(features).bias is None
    assert torch.equal(off.logits(off.encode(features), step), off.logits(off.encode(other), step))
    on = make_policy()
    assert not torch.allclose(on.logits(on.encode(features), step), on.logits(on.encode(other), step))
    assert make_policy(FeatureDims(node=2, roles=2)).edge_bias is None


def test_an_untrained_edge_bias_changes_nothing(features, step):
    """A new policy gives the same logits whether or not it sees edges."""
    policy = AttentionPolicy(DIMS, dim=16, num_layers=1, num_heads=2, feedforward=16)
    with_edges = policy.logits(policy.encode(features), step)
    assert torch.equal(with_edges, policy.logits(policy.encode(features[:1]), step))


def test_scalars_join_the_query_and_candidates_the_logits(features, step, rng):
    """A step's scalars change the query; a candidate's numbers change its own logit, by C times a function of them."""
    policy = make_policy(FeatureDims(node=2, roles=2, scalars=1, candidates=3), clip=5.0)
    for parameter in policy.candidates.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    encoded = policy.encode(features[:1])
    scalars = torch.rand(BATCH, QUERIES, 1, generator=rng)
    numbers = torch.randn(BATCH, QUERIES, NODES, 3, generator=rng)
    logits = policy.logits(encoded, step._replace(scalars=scalars, candidates=torch.zeros_like(numbers)))
    other = policy.logits(encoded, step._replace(scalars=scalars + 1, candidates=torch.zeros_like(numbers)))
    assert not torch.allclose(logits, other)
    found = policy.logits(encoded, step._replace(scalars=scalars, candidates=numbers))
    added = 5.0 * (policy.candidates(numbers) - policy.candidates(torch.zeros_like(numbers)))
    torch.testing.assert_close(found, logits + added, rtol=1e-4, atol=1e-4)


def test_kinds_of_nodes_are_told_apart(features, step):
    """The same places give other logits once a node is a depot."""
    policy = make_policy(FeatureDims(node=2, kinds=2, roles=2))
    nodes = features[0].values
    plain, depot = torch.zeros(NODES, dtype=torch.int64), F.one_hot(torch.tensor(0), NODES)
    one, other = (policy.logits(policy.encode((NodeFeatures(nodes, k),)), step) for k in (plain, depot))
    assert not torch.allclose(one, other)


def test_the_encoder_reads_edges(step, rng):
    """With edge attention a changed distance reaches the embeddings of the nodes; without it, only the logits' bias."""
    nodes = NodeFeatures(torch.rand(BATCH, NODES, 2, generator=rng))
    edges = torch.rand(BATCH, NODES, NODES, 3, generator=rng)
    changed = edges.clone()
    changed[:, 1, 2] += 1
    for edge_attention in (True, False):
        policy = make_policy(FeatureDims(node=2, edge=3, roles=2), edge_attention=edge_attention)
        one, other = (policy.encode((nodes, EdgeFeatures(e))).logit_keys for e in (edges, changed))
        assert torch.allclose(one, other) is not edge_attention


def test_edge_attention_follows_the_nodes(rng):
    """Nodes in another order, their edges with them, have the same embeddings in that order."""
    policy = make_policy(FeatureDims(node=2, edge=3, roles=2), edge_attention=True)
    nodes, edges = torch.rand(1, NODES, 2, generator=rng), torch.rand(1, NODES, NODES, 3, generator=rng)
    order = torch.randperm(NODES, generator=rng)
    one = policy.encode((NodeFeatures(nodes), EdgeFeatures(edges))).logit_keys
    other = policy.encode((NodeFeatures(nodes[:, order]), EdgeFeatures(edges[:, order][:, :, order]))).logit_keys
    torch.testing.assert_close(one[:, order], other, rtol=1e-4, atol=1e-5)


def test_encoding_is_per_instance_only(features):
    """All that the encoder returns begins with the batch, so that it can be cut and expanded per instance."""
    for tensor in (*make_policy().embeddings(features), *make_policy().encode(features)):
        assert tensor is None or tensor.shape[0] == BATCH


# ---------------------------------------------------------------------- cards and refusals


def test_the_arguments_rebuild_the_policy(features, step):
    """A policy rebuilt from its arguments takes its weights and gives its logits."""
    policy = make_policy(norm="rms", pre_norm=True, clip=3.0, edge_bias=False)
    rebuilt = AttentionPolicy(DIMS, **policy.arguments()).eval()
    rebuilt.load_state_dict(policy.state_dict())
    assert torch.equal(rebuilt.logits(rebuilt.encode(features), step), policy.logits(policy.encode(features), step))


@pytest.mark.parametrize("arguments", [{}, {"norm": "layer", **POPPY}])
def test_every_weight_is_used(features, step, arguments):
    """No parameter is without a gradient: what is built is part of the function."""
    policy = make_policy(**arguments)
    policy.logits(policy.encode(features), step)[step.action_mask].square().sum().backward()
    idle = [name for name, p in policy.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert idle == []


@pytest.mark.parametrize("norm", ["instance", "layer"])
def test_a_value_head_reads_more_than_the_mean(features, step, norm):
    """Its words differ between instances and states whatever the normalisation; the order of nodes does not matter."""
    policy = make_policy(norm=norm)
    encoded = policy.encode(features)
    summary, reading = policy.summary(encoded), policy.reading(encoded, step)
    assert summary.shape == (BATCH, policy.width)
    assert reading.shape == (BATCH, QUERIES, policy.width)
    if norm == "instance":  # which is why it is no mean
        mean = encoded.logit_keys.mean(1)
        torch.testing.assert_close(mean, mean[:1].expand_as(mean), rtol=1e-3, atol=1e-5)
    assert (summary[0] - summary[1]).abs().max() > 0.01
    assert (reading[0, 1] - reading[0, 2]).abs().max() > 0.01
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    nodes, edges = NodeFeatures(features[0].values[:, order]), EdgeFeatures(features[1].values[:, order][:, :, order])
    torch.testing.assert_close(policy.summary(policy.encode((nodes, edges))), summary, rtol=1e-4, atol=1e-5)


def test_a_value_head_reads_open_nodes_alone(features, step):
    """What it reads of a state with one open node is that node's value."""
    policy = make_policy()
    encoded = policy.encode(features)
    mask = F.one_hot(torch.full((BATCH, QUERIES), 2), NODES).bool()
    reading = policy.reading(encoded, step._replace(action_mask=mask))
    torch.testing.assert_close(reading, encoded.values[:, :, 2].flatten(1).unsqueeze(1).expand_as(reading))


def test_unknown_features_are_refused(features):
    """A feature that the policy has no layer for is refused by a text that names both."""

    class Smells(NamedTuple):
        values: Tensor

    with pytest.raises(UnsupportedFeatures, match="AttentionPolicy cannot read Smells; it reads NodeFeatures"):
        make_policy().encode((*features, Smells(torch.zeros(BATCH, 1))))


def test_an_environment_without_nodes_is_refused():
    """A policy over nodes cannot be built for an environment that shows none."""
    with pytest.raises(UnsupportedFeatures, match="NodeFeatures"):
        AttentionPolicy(FeatureDims(node=0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_heads": 3}, "num_heads: 3 is not allowed; it must divide dim, which is 128"),
        ({"num_heads": 0}, "num_heads: 0 is not allowed"),
        ({"dim": 0}, "dim"),
        ({"clip": 0.0}, "clip: 0.0 is not allowed; it must be above 0"),
        ({"clip": math.nan}, "clip: nan is not allowed"),
        ({"norm": "group"}, "norm: 'group' is not allowed"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    """A value outside of what is allowed is refused in one line that names it."""
    with pytest.raises(ArgumentError, match=words):
        AttentionPolicy(DIMS, **arguments)
