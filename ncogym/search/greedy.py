"""Greedy search: one rollout per instance, the likeliest action at every step."""

from __future__ import annotations

import torch
from tensordict import TensorDict

from ncogym.books import Progress
from ncogym.budget import Budget
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Greedy as GreedyDecoding
from ncogym.problem import Problem
from ncogym.rollout import act, encode
from ncogym.search.base import Search
from ncogym.solution import Solutions


class GreedySearch(Search):
    """Solve by one greedy rollout of a policy.

    Example:
        >>> import torch
        >>> from ncogym.budget import MaxRollouts
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.search import GreedySearch
        >>> env, rng = build_task("tsp", num_nodes=6), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2).eval()
        >>> [found.feasible for found in GreedySearch(policy)(env, env.generate(2, rng), MaxRollouts(16), rng)]
        [True, True]

    Args:
        policy: in evaluation mode.
    """

    name = "greedy"

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return one checked solution per instance."""
        progress = Progress(env, instances, budget)
        with torch.inference_mode(), progress.abandoning():
            encoded = encode(env, self.policy, instances, clock=progress)
            progress.offer(act(env, self.policy, encoded, instances, GreedyDecoding(), rng, clock=progress).actions)
        return progress.solutions(self.name)
