from __future__ import annotations

import functools

import pytest
import torch

from ncogym import make
from ncogym.policies import AttentionPolicy, GraphPolicy, PolyNet

SMALL = {"dim": 16, "num_layers": 1, "num_heads": 2, "feedforward": 16}


def make_net(env, kind=AttentionPolicy, **arguments):
    """Return a small net whose layer does something."""
    torch.manual_seed(0)
    policy = PolyNet(env.feature_dims, base=functools.partial(kind, **SMALL), **{"hidden": 8, **arguments}).eval()
    for parameter in policy.contract.parameters():
        torch.nn.init.normal_(parameter)
    return policy


def test_the_layer_is_the_formula(rng):
    """The residual of a glimpse is W_2 relu(W_1 [g, v] + b_1) + b_2, v the digits of the vector's index."""
    env = make("tsp", num_nodes=6)
    policy = make_net(env, vectors=6)
    assert policy.digits == 3
    features = env.instance_features(env.generate(2, rng))
    rows = policy.under(policy.encode(features), policy.everyone)
    glimpse = torch.randn(12, 1, 16, generator=rng)
    hidden = torch.relu(glimpse @ rows.inner + rows.inner_bias)
    found = hidden @ rows.outer + rows.outer_bias
    for row in range(12):
        index = row % 6
        vector = torch.tensor([float(digit) for digit in reversed(f"{index:03b}")])
        expected = policy.contract(torch.relu(policy.expand(torch.cat([glimpse[row, 0], vector]))))
        torch.testing.assert_close(found[row, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ({"name": "cvrp", "num_customers": 6}, AttentionPolicy),
        ({"name": "knapsack", "num_items": 6}, AttentionPolicy),
        ({"name": "jssp", "num_jobs": 3, "num_machines": 2}, GraphPolicy),
    ],
)
def test_vectors_act_apart(problem, kind, rng):
    """Once the layer does something, each vector's logits are its own, in any order of the conditions."""
    if kind is GraphPolicy:
        pytest.importorskip("torch_geometric")
    env = make(**problem)
    policy = make_net(env, kind, vectors=4)
    instances = env.generate(2, rng)
    encoded = policy.encode(env.instance_features(instances))

    def logits(condition):
        state = env.start(instances[torch.arange(2).repeat_interleave(condition.shape[1])], 1)
        found = policy.logits(policy.under(encoded, condition), env.step_features(state))
        return found.unflatten(0, (2, -1)).nan_to_num(0, 0, 0)

    found = logits(policy.everyone)
    for one in range(4):
        for other in range(one):
            assert not torch.allclose(found[:, one], found[:, other], atol=1e-4)
    some = torch.tensor([[3, 1], [0, 2]])
    torch.testing.assert_close(logits(some), found[torch.arange(2).unsqueeze(1), some], rtol=1e-4, atol=1e-4)


def test_one_vector_has_no_digits(rng):
    """K = 1 is a policy with a residual layer."""
    env = make("tsp", num_nodes=6)
    policy = make_net(env, vectors=1)
    features = env.instance_features(env.generate(2, rng))
    assert policy.under(policy.encode(features), policy.everyone).inner_bias.shape == (2, 1, 8)


def test_every_weight_is_used(rng):
    """No parameter of the layer is without a gradient."""
    env = make("tsp", num_nodes=6)
    policy = make_net(env, vectors=4)
    instances = env.generate(2, rng)
    rows = policy.under(policy.encode(env.instance_features(instances)), policy.everyone)
    state = env.start(instances[torch.arange(2).repeat_interleave(4)], 1)
    policy.logits(rows, env.step_features(state)).square().sum().backward()
    for module in (policy.expand, policy.contract):
        assert all(parameter.grad.any() for parameter in module.parameters())


def test_a_new_layer_changes_nothing(rng):
    """Before it is trained each vector acts as the base does, however the rest is drawn."""
    env = make("tsp", num_nodes=6)
    policy = PolyNet(env.feature_dims, vectors=4, hidden=8, base=functools.partial(AttentionPolicy, **SMALL)).eval()
    instances = env.generate(2, rng)
    features = env.instance_features(instances)
    step, wide = (env.step_features(env.start(each, 1)) for each in (instances, instances[[0, 0, 0, 0, 1, 1, 1, 1]]))
    found = policy.logits(policy.under(policy.encode(features), policy.everyone), wide)
    expected = policy.base.logits(policy.base.encode(features), step).repeat_interleave(4, 0)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
