r"""PO: preference optimisation over all pairs of an instance's rollouts.

.. math:: L = -\frac{2}{P\,(P - 1)} \sum_{R(\tau^i) > R(\tau^j)}
          \log \sigma\big(\alpha\, (\log p(\tau^i) - \log p(\tau^j))\big)

The likelihood, in the model of Bradley and Terry, that the better of two rollouts is preferred. How much better it is
does not matter, so the gradient does not shrink as the rewards of a converging policy draw near to one another. Two
rollouts of the same reward say nothing.

References:
    Pan, Lin, Luo, Zhu, Dai, Sun, Yuan (2025), Preference Optimization for Combinatorial Optimization Problems, ICML.

Differs from the paper in:
    - no fine-tuning on rollouts that a local search has improved;
    - where ``per_step`` divides by the number of decisions, repetitions of an action at the end, as in padding, count
      as one.
"""

from __future__ import annotations

import math

from torch.nn import functional

from ncogym.algorithms.base import Algorithm, decisions, samples_or_starts
from ncogym.errors import ArgumentError
from ncogym.rollout import Outcome, Work


class PO(Algorithm):
    """Preference optimisation.

    Example:
        >>> import torch
        >>> from ncogym.algorithms import PO
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.rollout import Work
        >>> env, rng = build_task("tsp", num_nodes=5), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2)
        >>> algorithm = PO(samples=4)
        >>> algorithm.attach(policy)
        >>> algorithm.step(Work.alone(policy, env, env.generate(2, rng), rng)).loss.shape
        torch.Size([])

    Args:
        alpha: slope of the preference in the difference of log-probabilities (0.03 to 0.05 in the paper).
        samples: rollouts per instance from the policy's own first action; 0 takes one from every start that the problem
            offers, as POMO does.
        per_step: compare log-probabilities per decision, so that no rollout is preferred for its length; alpha is then
            to be larger by about the number of decisions.
    """

    def __init__(self, alpha: float = 0.05, samples: int = 0, per_step: bool = False) -> None:
        super().__init__()
        if not 0 < alpha < math.inf:
            raise ArgumentError(f"alpha: {alpha} is not allowed; it must be above 0")
        if samples < 0 or samples == 1:
            raise ArgumentError(f"samples: {samples} is not allowed; it must be 0 (all starts) or at least 2")
        self.alpha, self.samples, self.per_step = alpha, samples, per_step

    def step(self, work: Work) -> Outcome:
        found = samples_or_starts(work, self.samples)
        reward, log_prob = found.reward, work.score(found)
        if self.per_step:
            log_prob = log_prob / decisions(found.actions, found.forced)
        better = reward.unsqueeze(2) > reward.unsqueeze(1)
        preferred = functional.logsigmoid(self.alpha * (log_prob.unsqueeze(2) - log_prob.unsqueeze(1)))
        # by the number of all pairs, so that an instance weighs the less the more of its rollouts are alike
        pairs = reward.shape[1] * (reward.shape[1] - 1) / 2
        return Outcome(-(preferred * better).sum((1, 2)).mean() / pairs)
