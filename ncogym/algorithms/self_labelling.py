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

from ncogym.algorithms.base import Algorithm, decisions, per_decision
from ncogym.errors import ArgumentError
from ncogym.rollout import Outcome, Work


class SelfLabelling(Algorithm):
    """Cross-entropy on the best of the policy's own samples.

    Example:
        >>> import torch
        >>> from ncogym.algorithms import SelfLabelling
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.rollout import Work
        >>> env, rng = build_task("tsp", num_nodes=5), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2)
        >>> algorithm = SelfLabelling(samples=4)
        >>> algorithm.attach(policy)
        >>> algorithm.step(Work.alone(policy, env, env.generate(2, rng), rng)).loss.shape
        torch.Size([])

    Args:
        samples: rollouts per instance, of which the best is imitated (256 in the paper, 32 to 128 also serve).
    """

    def __init__(self, samples: int = 256) -> None:
        super().__init__()
        if samples < 2:
            raise ArgumentError(f"samples: {samples} is not allowed; it must be at least 2")
        self.samples = samples

    def step(self, work: Work) -> Outcome:
        found = work.act(rollouts=self.samples)
        best = found.reward.argmax(1, keepdim=True)
        counts = decisions(found.actions, found.forced)
        log_prob = work.score(found, carrying=1)
        return Outcome(-per_decision(log_prob.gather(1, best), counts.gather(1, best)))
