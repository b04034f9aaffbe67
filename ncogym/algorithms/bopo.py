r"""BOPO: best-anchored and objective-guided preference optimisation.

.. math:: L = -\frac{1}{K - 1} \sum_{k=2}^{K} \log \sigma\Big(\beta_k\,
          \Big(\frac{\log p(\tau^1)}{T_1} - \frac{\log p(\tau^k)}{T_k}\Big)\Big),
          \quad \beta_k = \frac{f(\tau^k)}{f(\tau^1)}

The rollouts of an instance with different objectives are sorted; K of them, evenly spaced from the best to the worst,
are kept, and the best is preferred to each of the others, the more so the worse they are. T counts a rollout's
decisions.

References:
    Liao, Chen, Wang, Zhang, Wang (2025), BOPO: Neural Combinatorial Optimization via Best-anchored and Objective-guided
    Preference Optimization, ICML.

Differs from the paper in:
    - all rollouts are sampled, where the paper has a greedy one among them;
    - objectives that are maximised have the ratio the other way round, so that it is never below 1; it is 1 where an
      objective is 0 or the two have different signs;
    - of repetitions of an action at the end, as in padding, one counts as a decision.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from ncogym.algorithms.base import Algorithm, decisions, samples_or_starts
from ncogym.errors import ArgumentError
from ncogym.rollout import Outcome, Work


class BOPO(Algorithm):
    """The best rollout against others.

    Example:
        >>> import torch
        >>> from ncogym.algorithms import BOPO
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.rollout import Work
        >>> env, rng = build_task("tsp", num_nodes=5), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2)
        >>> algorithm = BOPO(samples=8, kept=4)
        >>> algorithm.attach(policy)
        >>> algorithm.step(Work.alone(policy, env, env.generate(2, rng), rng)).loss.shape
        torch.Size([])

    Args:
        samples: rollouts per instance from the policy's own first action (256 in the paper); 0 takes one from every
            start that the problem offers, as POMO does.
        kept: rollouts of an instance that are compared, the best among them (16 in the paper).
    """

    def __init__(self, samples: int = 256, kept: int = 16) -> None:
        super().__init__()
        if samples < 0 or samples == 1:
            raise ArgumentError(f"samples: {samples} is not allowed; it must be 0 (all starts) or at least 2")
        if kept < 2 or kept > samples > 0:
            most = f" and at most samples, {samples}" if samples else ""
            raise ArgumentError(f"kept: {kept} is not allowed; it must be at least 2{most}")
        self.samples, self.kept = samples, kept

    def step(self, work: Work) -> Outcome:
        found = samples_or_starts(work, self.samples)
        chosen, new = evenly_spaced(found.reward, self.kept)
        reward = found.reward.gather(1, chosen)
        log_prob = work.score(found, carrying=self.kept)
        each = (log_prob / decisions(found.actions, found.forced)).gather(1, chosen)
        best, other = reward[:, :1], reward[:, 1:]
        # more is better in a reward, and a cost is a reward below 0: in either sense the larger number is divided by
        # the smaller, for costs that of the other rollout and for gains that of the best
        ratio = torch.where(best < 0, other / best, best / other)
        ratio = torch.where(best * other > 0, ratio, 1.0)
        preferred = functional.logsigmoid(ratio * (each[:, :1] - each[:, 1:]))
        return Outcome(-(preferred * new[:, 1:]).sum(1).mean() / (self.kept - 1))


def evenly_spaced(
    reward: Float[Tensor, "batch rollouts"], count: int
) -> tuple[Int64[Tensor, "batch {count}"], Bool[Tensor, "batch {count}"]]:
    """Choose rollouts at even distances in the order of their different rewards, from the best to the worst.

    Args:
        reward: ``[batch, rollouts]``.
        count: how many, at least 2.

    Returns:
        Their numbers, int64 ``[batch, count]``, and a mask that is False where a rollout comes again, since an instance
        has fewer rewards than ``count``.
    """
    ordered, order = reward.sort(dim=1, descending=True)
    first = functional.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0), value=True)
    rank = first.long().cumsum(1) - 1  # among the different rewards
    wanted = torch.arange(count, device=reward.device) * rank[:, -1:] // (count - 1)
    chosen = order.gather(1, torch.searchsorted(rank, wanted))
    return chosen, functional.pad(wanted[:, 1:] != wanted[:, :-1], (1, 0), value=True)
