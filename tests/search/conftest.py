"""A tiny problem and an untrained policy for it; a search needs no more to be held to its word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict

from ncogym.envs import Problem, make
from ncogym.policies import AttentionPolicy, GraphPolicy, Policy


@pytest.fixture(scope="session")
def env() -> Problem:
    """Tours of seven nodes."""
    return make("tsp", num_nodes=7)


@pytest.fixture
def instances(env: Problem, rng: torch.Generator) -> TensorDict:
    """Three instances."""
    return env.generate(3, rng)


@pytest.fixture(scope="session")
def policy(env: Problem) -> Policy:
    """An attention policy of random weights, the same in each run."""
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()


@pytest.fixture
def every_sequence() -> Callable[..., dict[tuple[int, ...], float]]:
    """Return a function that lists every action sequence of an instance with its log-probability, one by one."""

    def listed(env, policy, instance, temperature: float = 1.0) -> dict[tuple[int, ...], float]:
        encoded, found = policy.encode(env.instance_features(instance)), {}

        def follow(state, taken: tuple[int, ...], log_prob: float) -> None:
            if len(taken) == env.horizon(instance):
                found[taken] = log_prob
                return
            scores = (policy.logits(encoded, env.step_features(state)) / temperature).log_softmax(-1).flatten()
            for action in state.action_mask.flatten().nonzero().flatten().tolist():
                after = env.advance(state, torch.tensor([[action]]))
                follow(after, (*taken, action), log_prob + scores[action].item())

        with torch.inference_mode():
            follow(env.start(instance), (), 0.0)
        return found

    return listed


PROBLEMS = {
    "tsp": ({"num_nodes": 5}, AttentionPolicy),
    "atsp": ({"num_nodes": 5}, GraphPolicy),
    "cvrp": ({"num_customers": 4}, AttentionPolicy),
    "knapsack": ({"num_items": 5}, AttentionPolicy),
    "jssp": ({"num_jobs": 3, "num_machines": 2}, GraphPolicy),
}


@pytest.fixture(params=PROBLEMS)
def tiny(request: pytest.FixtureRequest) -> tuple[Problem, Policy]:
    """Each problem at a size whose solutions can be counted, with an untrained policy for it."""
    arguments, kind = PROBLEMS[request.param]
    env = make(request.param, **arguments)
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return env, kind(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()
