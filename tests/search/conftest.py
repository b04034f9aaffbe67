"""A tiny problem and an untrained policy for it; a search needs no more to be held to its word."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from ncogym.envs import ConstructiveEnv, make
from ncogym.policies import AttentionPolicy, Policy


@pytest.fixture(scope="session")
def env() -> ConstructiveEnv:
    """Tours of seven nodes."""
    return make("tsp", num_nodes=7)


@pytest.fixture
def instances(env: ConstructiveEnv, rng: torch.Generator) -> TensorDict:
    """Three instances."""
    return env.generate(3, rng)


@pytest.fixture(scope="session")
def policy(env: ConstructiveEnv) -> Policy:
    """An attention policy of random weights, the same in each run."""
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()
