r"""Beam search: the sequences that the policy finds likeliest, built side by side.

A beam keeps at every step the w partial solutions of the highest log-probability

.. math:: \log p(a_1 \ldots a_t) = \sum_{s \le t} \log p(a_s \mid a_1 \ldots a_{s-1}).

References:
    Graves (2012), Sequence Transduction with Recurrent Neural Networks, arXiv:1211.3711.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym.books import Pace, Progress
from ncogym.budget import Budget
from ncogym.errors import ArgumentError
from ncogym.policies.base import Policy
from ncogym.problem import Problem
from ncogym.rollout import encode, rollouts_in_memory
from ncogym.search.base import Search, grow
from ncogym.solution import Solutions


class Beam(Search):
    """Solve by beams of growing width, from 1, which is the greedy rollout, to twice as many each time.

    Example:
        >>> import torch
        >>> from ncogym.budget import MaxRollouts
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.search import Beam
        >>> env, rng = build_task("tsp", num_nodes=6), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2).eval()
        >>> [found.feasible for found in Beam(policy, width=3)(env, env.generate(2, rng), MaxRollouts(16), rng)]
        [True, True]

    It draws nothing, so it ends before its budget where a wider beam does not fit into what is left or into memory, or
    where a beam held every sequence there is.

    Args:
        policy: in evaluation mode.
        width: of the last beam where no budget limits them.
    """

    name = "beam"

    def __init__(self, policy: Policy, width: int = 64) -> None:
        if width < 1:
            raise ArgumentError(f"width: {width} is not allowed; it must be at least 1")
        self.policy, self.width = policy, width

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return the best checked sequence of each instance over all beams."""
        progress = Progress(env, instances, budget)
        pace = Pace(progress, rollouts_in_memory(env, self.policy, instances), share=0.75)
        widest = float("inf") if progress.budget.finite else self.width
        width, wanted = 0, 1.0
        with torch.inference_mode(), progress.abandoning():
            encoded = encode(env, self.policy, instances, clock=progress)
            while (fits := pace.next(wanted)) > width:
                width = fits
                actions, _, _ = grow(env, self.policy, encoded, instances, width, _likeliest, clock=progress)
                progress.offer(actions)
                if actions.shape[1] < width:
                    break
                wanted, left = min(2.0 * width, widest), min(progress.rollouts_left, pace.affordable())
                if left - wanted < 2 * wanted:  # too few for a wider one after the next
                    wanted = left
        return progress.solutions(self.name)


def _likeliest(_: Tensor, log_prob: Tensor) -> Tensor:
    return log_prob
