from __future__ import annotations

import pytest
import torch

from ncogym.algorithms import POMO
from ncogym.budget import MaxRollouts
from ncogym.device_law import check_training_step
from ncogym.envs import build_task
from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.features import FeatureDims
from ncogym.policies import QuotientPolicy
from ncogym.rollout import Work
from ncogym.search import Sampling

SMALL = {"dim": 16, "num_layers": 2, "num_heads": 2, "feedforward": 32}
TASKS = [
    build_task("tsp", num_nodes=7),
    build_task("atsp", num_nodes=6),
    build_task("cvrp", num_customers=6),
    build_task("vrptw", num_customers=6),
    build_task("knapsack", num_items=6),
]


def walked(env, instances, actions):
    """Return the state after actions ``[batch, steps]``."""
    state = env.start(instances)
    for action in actions.unbind(-1):
        state = env.advance(state, action.unsqueeze(-1))
    return state


@pytest.mark.parametrize("env", TASKS, ids=lambda env: env.name)
def test_steps_and_trajectories_have_the_same_logits(env, rng):
    """What a rollout's actions had for log-probabilities as they were taken, scoring whole trajectories says again."""
    policy, instances = QuotientPolicy(env.feature_dims, **SMALL).eval(), env.generate(3, rng)
    work = Work.alone(policy, env, instances, rng)
    found = work.act(rollouts=4)
    (scored,) = work.score_steps(found, lambda decision: (decision.chosen,))
    torch.testing.assert_close(scored.sum(-1), found.log_prob, rtol=1e-4, atol=1e-4)


def test_what_is_decided_does_not_matter(rng):
    """Nodes that are visited and play no role may lie anywhere: what is left is the problem."""
    env = build_task("tsp", num_nodes=8)
    policy, instances = QuotientPolicy(env.feature_dims, **SMALL).eval(), env.generate(2, rng)
    actions = torch.tensor([[3, 1, 6, 2]]).expand(2, -1)
    state = walked(env, instances, actions)
    nodes, edges = env.instance_features(instances)
    moved, changed = nodes.values.clone(), edges.values.clone()
    moved[:, [1, 6]] = 99.0
    changed[:, [1, 6]] = changed[:, :, [1, 6]] = 99.0
    shown = env.step_features(state)
    plain = policy.logits(policy.encode((nodes, edges)), shown)
    other = policy.logits(policy.encode((nodes._replace(values=moved), edges._replace(values=changed))), shown)
    torch.testing.assert_close(other, plain)
    moved[:, 4] = 99.0
    other = policy.logits(policy.encode((nodes._replace(values=moved), edges)), shown)
    assert not torch.allclose(other[..., [0, 5, 7]], plain[..., [0, 5, 7]])


def test_the_order_before_does_not_matter(rng):
    """Two ways to the same first and current node through the same others leave the same problem."""
    env = build_task("tsp", num_nodes=8)
    policy, instances = QuotientPolicy(env.feature_dims, **SMALL).eval(), env.generate(2, rng)
    encoded = policy.encode(env.instance_features(instances))
    one, other = (
        policy.logits(encoded, env.step_features(walked(env, instances, torch.tensor([order]).expand(2, -1))))
        for order in ([3, 1, 6, 2], [3, 6, 1, 2])
    )
    torch.testing.assert_close(one, other)


def test_it_learns(rng):
    """A few steps of POMO shorten its tours."""
    torch.manual_seed(0)
    env, algorithm = build_task("tsp", num_nodes=8), POMO()
    policy = QuotientPolicy(env.feature_dims, **SMALL)
    adam, means = torch.optim.Adam(policy.parameters(), lr=3e-3), []
    for _ in range(60):
        work = Work.alone(policy, env, env.generate(16, rng), rng)
        loss = algorithm.step(work).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
        means.append(work.rollouts.reward.mean().item())
    assert sum(means[-15:]) / 15 > sum(means[:5]) / 5 + 0.3


@pytest.mark.parametrize("env", TASKS[:-1], ids=lambda env: env.name)
def test_it_keeps_to_its_device(env):
    """A training step needs no number of the host's."""
    assert check_training_step(env, QuotientPolicy(env.feature_dims, **SMALL), POMO()) is None


def test_its_memory_is_counted(rng):
    """A query holds numbers of pairs of nodes, so that searches run as many rollouts as fit."""
    env = build_task("tsp", num_nodes=20)
    policy = QuotientPolicy(env.feature_dims, **SMALL)
    assert policy.query_numbers(200) > 10 * policy.query_numbers(20) > 0
    found = Sampling(policy, samples=8)(env, env.generate(2, rng), MaxRollouts(8), rng)
    assert all(solution.feasible for solution in found)


@pytest.mark.parametrize(
    ("dims", "arguments", "error", "words"),
    [
        (FeatureDims(node=2), {"dim": 10, "num_heads": 4}, ArgumentError, "num_heads: 4 is not allowed"),
        (FeatureDims(node=2), {"num_layers": 0}, ArgumentError, "num_layers: 0 is not allowed"),
        (FeatureDims(node=0), {}, UnsupportedFeatures, "without NodeFeatures"),
        (FeatureDims(node=2, sparse=1), {}, UnsupportedFeatures, "cannot read SparseEdges"),
        (FeatureDims(node=2, operation=1), {}, UnsupportedFeatures, "cannot read OperationGraph"),
    ],
)
def test_refusals(dims, arguments, error, words):
    """What is not allowed, and what would not be read, is refused in words."""
    with pytest.raises(error, match=words):
        QuotientPolicy(dims, **arguments)
