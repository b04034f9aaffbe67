from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from ncogym.errors import UnsupportedFeatures
from ncogym.features import EdgeFeatures, FeatureDims, NodeFeatures, OperationGraph, StepFeatures
from ncogym.policies import POLICIES, AttentionPolicy, GraphPolicy, Latent, PolyNet, Population, QuotientPolicy

NODES, ACTIONS = 6, 6
SHOWN = [
    FeatureDims(node, kinds, edge, roles, scalars, candidates, operation)
    for node, kinds, edge, roles, scalars, candidates, operation in itertools.product(
        (0, 2), (1, 2), (0, 2), (0, 2), (0, 2), (0, 3), (0, 2)
    )
    if kinds == 1 or node
]
attention = partial(AttentionPolicy, dim=8, num_heads=2, feedforward=8)
graph = partial(GraphPolicy, dim=8, num_heads=2, num_layers=1, feedforward=8, neighbours=2)
FORMS = {
    "plain": partial(attention, num_layers=1),
    "no layers": partial(attention, num_layers=0),
    "edge attention": partial(attention, num_layers=1, edge_attention=True),
    "edge attention alone": partial(attention, num_layers=1, edge_attention=True, edge_bias=False),
    "edge attention without layers": partial(attention, num_layers=0, edge_attention=True, edge_bias=False),
    "POMO": partial(attention, num_layers=1, edge_bias=False),
    "Poppy": partial(
        attention, num_layers=1, norm="layer", biases=True, mean_query=True, pointer_projection=False, edge_bias=False
    ),
    "graph": graph,
    "quotient": partial(QuotientPolicy, dim=8, num_layers=1, num_heads=2, feedforward=8),
    "population": partial(Population, members=2, base=partial(attention, num_layers=1)),
    "population of graphs": partial(Population, members=2, base=graph),
    "latent": partial(Latent, latent_dim=2, scale=1.0, base=partial(attention, num_layers=1)),
    "latent of graphs": partial(Latent, latent_dim=2, scale=1.0, base=graph),
    "polynet": partial(PolyNet, vectors=2, hidden=4, base=partial(attention, num_layers=1)),
    "polynet of graphs": partial(PolyNet, vectors=2, hidden=4, base=graph),
}
LEAVE_EDGES_OUT = ("POMO", "Poppy")  # they ask for it


def drawn(dims, rng):
    """Return random features of the widths that ``dims`` says, by name; what is not shown is not there."""

    def numbers(*shape):
        return 2 * torch.randn(*shape, generator=rng)

    shown = {"kinds": torch.tensor([1, 0, 1, 0, 1, 0])} if dims.kinds > 1 else {}
    shapes = {
        "node": (1, NODES, dims.node),
        "edge": (1, NODES, NODES, dims.edge),
        "operation": (1, NODES, dims.operation),
        "scalars": (1, 1, dims.scalars),
        "candidates": (1, 1, ACTIONS, dims.candidates),
    }
    shown |= {name: numbers(*shape) for name, shape in shapes.items() if shape[-1]}
    shown["nodes"] = torch.arange(dims.roles).view(1, 1, -1)
    if dims.operation:
        shown |= {"jobs": torch.tensor([[0, 0, 1, 1, 2, 2]]), "machines": torch.tensor([[0, 1, 0, 1, 1, 0]])}
        shown["candidate_nodes"] = torch.tensor([[[0, 2, 4, 1, 3, 5]]])
    return shown


def scored(policy, shown):
    """Return the logits under the first condition that there is."""
    features = [NodeFeatures(shown["node"], shown.get("kinds"))] if "node" in shown else []
    features += [EdgeFeatures(shown["edge"])] if "edge" in shown else []
    if "operation" in shown:
        features.append(OperationGraph(shown["operation"], shown["jobs"], shown["machines"]))
    known = (shown.get(name) for name in ("scalars", "candidates", "candidate_nodes"))
    encoded = policy.encode(tuple(features))
    if isinstance(policy, Latent):
        encoded = policy.under(encoded, torch.tensor([[[0.3, -0.4]]]))
    elif policy.everyone is not None:
        encoded = policy.under(encoded, policy.everyone[:, :1])
    return policy.logits(encoded, StepFeatures(shown["nodes"], torch.ones(1, 1, ACTIONS, dtype=torch.bool), *known))


def changed(shown, rng):
    """Yield what is shown with one of its numbers changed everywhere, and the number's name."""
    for name, value in shown.items():
        for number in range(value.shape[-1] if value.is_floating_point() or name == "nodes" else 1):
            other = value.clone()
            if value.is_floating_point():
                other[..., number] += torch.rand(other[..., number].shape, generator=rng)
            elif name == "nodes":
                other[..., number] += 2
            elif name == "jobs":
                other[..., 1] = 1  # the first job has an operation less
            else:
                other = value.roll(1, -1)
            yield f"{name} {number}", shown | {name: other}


def test_every_policy_has_a_form_here():
    """A new policy of the table joins these tests."""
    made = {type(policy) for dims in SHOWN for policy in (built(form, dims) for form in FORMS.values()) if policy}
    assert made == set(POLICIES.values())


def built(form, dims):
    """Return the policy, or None where it cannot read what is shown."""
    try:
        return form(dims)
    except UnsupportedFeatures:
        return None


@pytest.mark.parametrize("name", FORMS)
def test_every_number_that_is_shown_moves_the_logits(name):
    """A policy refuses what an environment shows, in words, when it is built, or reads all of it."""
    rng, read = torch.Generator().manual_seed(0), 0
    for dims in SHOWN:
        policy = built(FORMS[name], dims)
        if policy is None:
            continue
        shown, still = drawn(dims, rng), {number for number, _ in changed(drawn(dims, rng), rng)}
        for scale in (0.3, 0.6, 1.0):  # weights that begin at zero, or that saturate a tanh, hide what they read
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter.copy_(scale * torch.randn(parameter.shape, generator=rng))
                before = scored(policy, shown)
                for number, other in changed(shown, rng):
                    if number in still and not torch.equal(scored(policy, other), before):
                        still.remove(number)
        if name in LEAVE_EDGES_OUT:
            still = {number for number in still if not number.startswith("edge")}
        assert not still, f"{name} does not read {', '.join(sorted(still))} of {dims}"
        read += 1
    assert read


def test_two_graphs_of_one_degree_are_told_apart_or_refused():
    """A ring of 12 nodes and two rings of 6 are the same to a policy that drops the edges."""
    dims = FeatureDims(node=1, edge=1, scalars=1)
    for form in (attention, partial(attention, edge_attention=True, num_layers=0), graph):
        with pytest.raises(UnsupportedFeatures, match="EdgeFeatures where no node plays a role"):
            form(dims)
    policy = attention(dims, num_layers=2, edge_attention=True)
    ring = F.one_hot((torch.arange(12) + 1) % 12, 12)
    half = F.one_hot((torch.arange(6) + 1) % 6, 6)
    edges = [(each + each.T).float()[None, ..., None] for each in (ring, torch.block_diag(half, half))]
    values = torch.rand(1, 12, 1, generator=torch.Generator().manual_seed(0))
    nobody, mask = torch.empty(1, 1, 0, dtype=torch.int64), torch.ones(1, 1, 12, dtype=torch.bool)
    step = StepFeatures(nobody, mask, torch.ones(1, 1, 1))
    one, two = (policy.logits(policy.encode((NodeFeatures(values), EdgeFeatures(each))), step) for each in edges)
    assert not torch.allclose(one, two)


def test_actions_that_stand_for_other_nodes_are_refused():
    """To the attention model action i is node i, and what says otherwise is not passed over."""
    policy = attention(FeatureDims(node=2, roles=1), num_layers=1)
    encoded = policy.encode((NodeFeatures(torch.rand(1, 3, 2)),))
    mask = torch.ones(1, 1, 3, dtype=torch.bool)
    step = StepFeatures(torch.zeros(1, 1, 1, dtype=torch.int64), mask, candidate_nodes=torch.tensor([[[2, 1, 0]]]))
    with pytest.raises(UnsupportedFeatures, match="cannot read candidate_nodes"):
        policy.logits(encoded, step)


@pytest.mark.parametrize(
    ("form", "dims", "words"),
    [
        (attention, FeatureDims(node=2, roles=1, operation=3), "AttentionPolicy cannot read OperationGraph"),
        (graph, FeatureDims(node=2, operation=3), "GraphPolicy cannot read NodeFeatures or EdgeFeatures beside"),
        (
            graph,
            FeatureDims(node=0, edge=1, operation=3),
            "GraphPolicy cannot read NodeFeatures or EdgeFeatures beside",
        ),
    ],
)
def test_what_would_not_be_read_is_refused_when_it_is_built(form, dims, words):
    """The policy and the feature are named before anything is trained."""
    with pytest.raises(UnsupportedFeatures, match=words):
        form(dims)
