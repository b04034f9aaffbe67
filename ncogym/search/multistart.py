"""Multi-start: a rollout from each first action that the problem offers.

References:
    Kwon et al. (2020), POMO: Policy Optimization with Multiple Optima for Reinforcement Learning, NeurIPS, section 4.3.
"""

from __future__ import annotations

import itertools
import math

import torch
from tensordict import TensorDict

from ncogym.books import Pace, Progress
from ncogym.budget import Budget
from ncogym.errors import ArgumentError
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Decoding, Greedy
from ncogym.problem import Problem
from ncogym.rollout import act, encode, rollouts_in_memory
from ncogym.search.base import Search
from ncogym.solution import Solutions


class MultiStart(Search):
    """Solve by a rollout from every start; starts in random order where the budget may not pay for all.

    Example:
        >>> import torch
        >>> from ncogym.budget import MaxRollouts
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.search import MultiStart
        >>> env, rng = build_task("tsp", num_nodes=6), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2).eval()
        >>> [found.feasible for found in MultiStart(policy)(env, env.generate(2, rng), MaxRollouts(16), rng)]
        [True, True]

    Args:
        policy: in evaluation mode.
        decoding: greedy by default.
        rounds: how often to go round the starts; None is once where decoding is greedy, and until the budget is spent
            where it is stochastic and there is a budget.
    """

    def __init__(self, policy: Policy, decoding: Decoding | None = None, rounds: int | None = None) -> None:
        if rounds is not None and rounds < 1:
            raise ArgumentError(f"rounds: {rounds} is not allowed; it must be at least 1")
        self.policy, self.decoding, self.rounds = policy, decoding or Greedy(), rounds
        self.name = "multistart+sampling" if self.decoding.stochastic else "multistart"

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return the best checked rollout of each instance."""
        limited = budget is not None and budget.finite
        progress = Progress(env, instances, budget)
        pace = Pace(progress, rollouts_in_memory(env, self.policy, instances))
        rounds = self.rounds or (math.inf if limited and self.decoding.stochastic else 1)
        with torch.inference_mode(), progress.abandoning():
            encoded = encode(env, self.policy, instances, clock=progress)
            for done in itertools.count(1):
                starts = env.first_actions(instances, rng if limited else None)
                while count := pace.next(starts.shape[1]) if starts.shape[1] else 0:
                    first, starts = starts[:, :count], starts[:, count:]
                    built = act(
                        env, self.policy, encoded, instances, self.decoding, rng, first_actions=first, clock=progress
                    )
                    progress.offer(built.actions)
                if starts.shape[1] or done >= rounds:
                    break
        return progress.solutions(self.name)
