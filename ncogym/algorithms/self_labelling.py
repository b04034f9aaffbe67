r"""Self-labelling: sample solutions, and imitate the best of each instance.

.. math:: L = -\frac{1}{T} \sum_{t=1}^{T} \log p(a^*_t \mid a^*_{1:t-1}), \quad
          a^* = \arg\max_{a^i \sim p,\; i \le \beta} R(a^i)

T counts the decisions of the best, without padding; the loss is the mean over the instances.

References:
    Corsini, Porrello, Calderara, Dell'Amico (2024), Self-Labeling the Job Shop Scheduling Problem, NeurIPS.

Differs from the paper in:
    - instances come in batches, and only the winners are scored with gradients, all their steps in one pass, where the
      paper's code takes one instance at a time; the gradient is the same;
    - of repetitions of an action at the end, as in padding, one counts as a decision.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ncogym.algorithms.base import Algorithm, decisions, per_decision
from ncogym.errors import ArgumentError
from ncogym.rollout import Trajectories


class SelfLabelling(Algorithm):
    """Cross-entropy on the best of the policy's own samples.

    Args:
        samples: rollouts per instance, of which the best is imitated (256 in the paper, 32 to 128 also serve).
    """

    carrying = 1

    def __init__(self, samples: int = 256) -> None:
        super().__init__()
        if samples < 2:
            raise ArgumentError(f"samples: {samples} is not allowed; it must be at least 2")
        self.rollouts = samples

    def loss(self, trajectories: Trajectories) -> Float[Tensor, ""]:
        if trajectories.log_prob is None:
            raise ArgumentError("trajectories: they have no log_prob; score them first")
        best = trajectories.reward.argmax(1, keepdim=True)
        counts = decisions(trajectories.actions, trajectories.forced)
        return -per_decision(trajectories.log_prob.gather(1, best), counts.gather(1, best))
