"""Multi-start: a rollout from each first action that the problem offers.

References:
    Kwon et al. (2020), POMO: Policy Optimization with Multiple Optima for Reinforcement Learning, NeurIPS, section 4.3.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict

from ncogym.policies.base import Policy
from ncogym.policies.decoding import Decoding, Greedy
from ncogym.rollout import act, rollouts_in_memory
from ncogym.solver import Budget, Pace, Progress, Solutions


class MultiStart:
    """Solve by a rollout from every start; starts in random order where the budget may not pay for all.

    Args:
        policy: in evaluation mode.
        decoding: greedy by default; a stochastic decoding goes round the starts again until the budget is spent.
    """

    def __init__(self, policy: Policy, decoding: Decoding | None = None) -> None:
        self.policy, self.decoding = policy, decoding or Greedy()
        self.name = "multistart+sampling" if self.decoding.stochastic else "multistart"

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return the best checked rollout of each instance."""
        limited = budget is not None and budget.finite
        progress = Progress(env, instances, budget)
        pace = Pace(progress, rollouts_in_memory(env, instances))
        with torch.inference_mode():
            encoded = self.policy.encode(env.instance_features(instances))
            while True:
                starts = env.first_actions(instances, rng if limited else None)
                while starts.shape[1] and not (progress.spent and progress.rollouts):
                    count = pace.next(starts.shape[1])
                    first, starts = starts[:, :count], starts[:, count:]
                    built = act(env, self.policy, encoded, instances, self.decoding, rng, first_actions=first)
                    progress.offer(built.actions)
                if progress.spent or not (limited and self.decoding.stochastic):
                    return progress.solutions(self.name)
