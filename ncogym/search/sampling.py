"""Sampling: independent rollouts drawn from the policy, the best of which counts."""

from __future__ import annotations

import torch
from tensordict import TensorDict

from ncogym.books import Pace, Progress
from ncogym.budget import Budget
from ncogym.errors import ArgumentError
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Sample
from ncogym.problem import Problem
from ncogym.rollout import act, encode, rollouts_in_memory
from ncogym.search.base import Search
from ncogym.solution import Solutions


class Sampling(Search):
    """Solve by sampling a policy until the budget is spent.

    Example:
        >>> import torch
        >>> from ncogym.budget import MaxRollouts
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.search import Sampling
        >>> env, rng = build_task("tsp", num_nodes=6), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2).eval()
        >>> [found.feasible for found in Sampling(policy, samples=4)(env, env.generate(2, rng), MaxRollouts(16), rng)]
        [True, True]

    Args:
        policy: in evaluation mode.
        samples: rollouts per instance where no budget limits them (1,280 in Kool et al. 2019).
        decoding: temperature, top-k and top-p.
    """

    name = "sampling"

    def __init__(self, policy: Policy, samples: int = 1280, decoding: Sample | None = None) -> None:
        if samples < 1:
            raise ArgumentError(f"samples: {samples} is not allowed; it must be at least 1")
        self.policy, self.samples, self.decoding = policy, samples, decoding or Sample()

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return the best checked sample of each instance."""
        limit = self.samples if budget is None or not budget.finite else float("inf")
        progress = Progress(env, instances, budget)
        pace = Pace(progress, rollouts_in_memory(env, self.policy, instances))
        with torch.inference_mode(), progress.abandoning():
            encoded = encode(env, self.policy, instances, clock=progress)
            while count := pace.next(limit - progress.rollouts):
                drawn = act(env, self.policy, encoded, instances, self.decoding, rng, rollouts=count, clock=progress)
                progress.offer(drawn.actions)
        return progress.solutions(self.name)
