r"""POMO: policy optimisation with multiple optima.

.. math:: \nabla J = \frac{1}{P} \sum_{i=1}^{P} (R(\tau^i) - b)\, \nabla \log p(\tau^i \mid a^i_1),
          \quad b = \frac{1}{P}\sum_j R(\tau^j)

One rollout from each of P starts of an instance; the mean over them is the baseline of all. With the leader reward the
advantage of the best rollout of each instance is multiplied by :math:`\alpha`, for policies of which only the best of
many rollouts will be used.

References:
    Kwon et al. (2020), POMO: Policy Optimization with Multiple Optima for Reinforcement Learning, NeurIPS, algorithm 1.
    Wang, Cheng, Li, Sun (2024), Leader Reward for POMO-Based Neural Combinatorial Optimization, arXiv:2405.13947.

Differs from the papers in:
    - ``starts`` may be fewer than the nodes; they are then drawn without replacement;
    - ``normalise`` divides the advantages by their deviation over the starts (off by default);
    - ``leader_alpha`` does not change while a run lasts: a last phase with a larger one is a run of its own.
"""

from __future__ import annotations

import math

from jaxtyping import Int64
from torch import Tensor

from ncogym.algorithms.base import Algorithm
from ncogym.errors import ArgumentError
from ncogym.rollout import Outcome, Part, Work


class POMO(Algorithm):
    """POMO's estimator, with the leader reward as an option.

    Example:
        >>> import torch
        >>> from ncogym.algorithms import POMO
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.rollout import Work
        >>> env, rng = build_task("tsp", num_nodes=5), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2)
        >>> algorithm = POMO()
        >>> algorithm.attach(policy)
        >>> algorithm.step(Work.alone(policy, env, env.generate(2, rng), rng)).loss.shape
        torch.Size([])

    Args:
        starts: starts per instance; 0 takes every one that the problem offers.
        normalise: divide each instance's advantages by their standard deviation.
        leader_alpha: factor of the advantage of an instance's best rollout; 1 is POMO itself.
    """

    def __init__(self, starts: int = 0, normalise: bool = False, leader_alpha: float = 1.0) -> None:
        super().__init__()
        if starts < 0 or starts == 1:
            raise ArgumentError(f"starts: {starts} is not allowed; it must be 0 (all) or at least 2")
        if not 1 <= leader_alpha < math.inf:
            raise ArgumentError(f"leader_alpha: {leader_alpha} is not allowed; it must be at least 1")
        self.starts, self.normalise, self.leader_alpha = starts, normalise, leader_alpha

    def step(self, work: Work) -> Outcome:
        found = work.act(starts=work.each(self.first_actions))
        reward = found.reward
        advantage = reward - reward.mean(1, keepdim=True)
        if self.normalise:
            advantage = advantage / reward.std(1, keepdim=True).clamp_min(1e-6)
        if self.leader_alpha > 1:
            leader = reward.argmax(1, keepdim=True)
            advantage = advantage.scatter(1, leader, self.leader_alpha * advantage.gather(1, leader))
        return Outcome(-(advantage * work.score(found)).mean())

    def first_actions(self, part: Part) -> Int64[Tensor, "batch starts"]:
        """Return the starts of a part's instances."""
        if self.starts == 0:
            return part.env.first_actions(part.instances)
        return part.env.first_actions(part.instances, part.rng)[:, : self.starts]
