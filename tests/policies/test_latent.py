from __future__ import annotations

import functools

import pytest
import torch

from ncogym import make
from ncogym.policies import AttentionPolicy, GraphPolicy, Latent

SMALL = {"dim": 16, "num_layers": 1, "num_heads": 2, "feedforward": 16}


def make_latent(env, kind=AttentionPolicy, **arguments):
    """Return a small latent policy whose latents matter."""
    torch.manual_seed(0)
    policy = Latent(env.feature_dims, base=functools.partial(kind, **SMALL), **arguments).eval()
    torch.nn.init.normal_(policy.direction.weight, std=0.01)
    return policy


def logits(env, policy, latents, rng):
    """Return logits after the first step under latents ``[1, count, dim]``, ``[count, actions]``."""
    instance = env.generate(1, rng)
    rows = policy.under(policy.encode(env.instance_features(instance)), latents)
    count = latents.shape[1]
    state = env.start(instance[torch.zeros(count, dtype=torch.int64)], 1)
    return policy.logits(rows, env.step_features(state))[:, 0]


def test_draws_fill_the_cube(rng):
    """The prior is uniform over the cube: its mean is 0 and its variance a third, and a seed repeats it."""
    policy = make_latent(make("tsp", num_nodes=5))
    drawn = policy.draw(4000, rng)
    assert drawn.shape == (1, 4000, 16)
    assert drawn.abs().max() <= 1
    assert drawn.mean((0, 1)).abs().max() < 0.05
    assert (drawn.var((0, 1)) - 1 / 3).abs().max() < 0.03
    one, other = (policy.draw(3, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, other)
    assert policy.everyone is None


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ({"name": "tsp", "num_nodes": 6}, AttentionPolicy),
        ({"name": "knapsack", "num_items": 6}, AttentionPolicy),
        ({"name": "jssp", "num_jobs": 3, "num_machines": 2}, GraphPolicy),
    ],
)
def test_the_scale_multiplies_the_latent(problem, kind):
    """Ten times the scale is ten times the latent; the zero latent is the base; latents apart act apart."""
    if kind is GraphPolicy:
        pytest.importorskip("torch_geometric")
    env = make(**problem)
    policy, wider = make_latent(env, kind, scale=10.0), make_latent(env, kind, scale=100.0)
    latents = policy.draw(3, torch.Generator().manual_seed(3)) / 10
    latents[:, 0] = 0
    found = logits(env, wider, latents, torch.Generator().manual_seed(1))
    expected = logits(env, policy, 10 * latents, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    found = found.nan_to_num(0, 0, 0)
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert (found[1] - found[2]).abs().max() > 1e-3
    plain = policy.base
    instance = env.generate(1, torch.Generator().manual_seed(1))
    own = plain.logits(plain.encode(env.instance_features(instance)), env.step_features(env.start(instance, 1)))
    torch.testing.assert_close(found[0], own[0, 0].nan_to_num(0, 0, 0), rtol=1e-5, atol=1e-5)


def test_the_shift_of_values_shifts_the_glimpse(rng):
    """A steered policy reads, of every state, what the base reads plus the vector's second half."""
    env = make("tsp", num_nodes=6)
    plain = AttentionPolicy(env.feature_dims, **SMALL).eval()
    instances = env.generate(2, rng)
    encoded = plain.encode(env.instance_features(instances))
    step = env.step_features(env.start(instances, 1))
    vectors = torch.randn(2, plain.steered, generator=rng)
    vectors[:, :16] = 0
    found = plain.reading(plain.steer(encoded, vectors), step) - plain.reading(encoded, step)
    torch.testing.assert_close(found, vectors[:, 16:].unsqueeze(1), rtol=1e-4, atol=1e-5)
    twice = plain.steer(plain.steer(encoded, vectors), vectors)
    torch.testing.assert_close(twice.values, plain.steer(encoded, 2 * vectors).values, rtol=1e-4, atol=1e-5)


def test_the_first_step_of_learning_reaches_the_direction(rng):
    """From zeros the direction has a gradient, so that latents come to matter."""
    env = make("tsp", num_nodes=6)
    policy = Latent(env.feature_dims, base=functools.partial(AttentionPolicy, **SMALL))
    assert not policy.direction.weight.any()
    logits(env, policy, policy.draw(2, rng), rng).log_softmax(-1)[0, 1].backward()
    assert policy.direction.weight.grad.any()
