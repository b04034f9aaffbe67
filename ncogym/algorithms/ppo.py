r"""PPO: proximal policy optimisation over the decisions of recorded rollouts.

.. math:: L = -E\Big[\sum_t \min\big(\rho_t A_t,\, \mathrm{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon)\, A_t\big)
          + c\, H(p(\cdot \mid s_t)) - (V(s_t) - \hat V_t)^2\Big],
          \quad \rho_t = \frac{p(a_t \mid s_t)}{p_{old}(a_t \mid s_t)}

          A_t = \sum_{k \ge t} \lambda^{k-t} \big(r_k + V_{old}(s_{k+1}) - V_{old}(s_k)\big),
          \quad \hat V_t = A_t + V_{old}(s_t)

A rollout is learnt from several times; "old" is the first of them. The rewards r are the steps' own, in running
deviations of whole rewards.

References:
    Schulman, Wolski, Dhariwal, Radford, Klimov (2017), Proximal Policy Optimization Algorithms, arXiv:1707.06347.
    Schulman, Moritz, Levine, Jordan, Abbeel (2016), High-Dimensional Continuous Control Using Generalized Advantage
    Estimation, ICLR.

Differs from the papers in:
    - an epoch is one optimiser step on all rollouts, without minibatches, and nothing is discounted, since the
      objective is the sum of the rewards;
    - decisions are summed over a rollout, as in REINFORCE, whose gradient that of the first epoch is;
    - the value head shares no weight with the policy: it reads the policy's encodings, where its gradient stops, and so
      its loss needs no weight;
    - its output is what a state is worth beside a straight line from the mean reward, at the start, to 0 at the
      problem's horizon, which no way of acting or sharing a batch changes;
    - ``normalise`` divides advantages by their root mean square over the decisions of an instance, and centres nothing:
      what a value head is for.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.objectives.value.functional import generalized_advantage_estimate

from ncogym.algorithms.base import Algorithm, Critic
from ncogym.errors import ArgumentError
from ncogym.rollout import Record, Trajectories


class PPO(Algorithm):
    """Proximal policy optimisation.

    Args:
        samples: rollouts per instance from the policy's own first action; 0 takes one from every start that the problem
            offers, as POMO does.
        epochs: optimiser steps on the same rollouts.
        clip: how far a decision's probability may move from the old one, as a share of it, before its gradient stops.
        trace: lambda of the advantages: 1 compares what followed with the value, 0 looks one step ahead.
        entropy: weight of the entropy of a decision, in the unit of the advantage.
        normalise: divide advantages by their root mean square over the decisions of an instance.
    """

    stepwise = True
    horizon: int = 1  # of the instances that `first_actions` saw last, which are those that the loss is of

    def __init__(
        self,
        samples: int = 8,
        epochs: int = 3,
        clip: float = 0.2,
        trace: float = 0.95,
        entropy: float = 0.0,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        if samples < 0:
            raise ArgumentError(f"samples: {samples} is not allowed; it must be 0 (all starts) or more")
        if epochs < 1:
            raise ArgumentError(f"epochs: {epochs} is not allowed; it must be at least 1")
        if not 0 < clip < 1:
            raise ArgumentError(f"clip: {clip} is not allowed; it must be between 0 and 1")
        if not 0 <= trace <= 1:
            raise ArgumentError(f"trace: {trace} is not allowed; it must be from 0 to 1")
        if not 0 <= entropy < math.inf:
            raise ArgumentError(f"entropy: {entropy} is not allowed; it must be 0 (none) or more")
        self.rollouts, self.forced, self.epochs = samples, int(samples == 0), epochs
        self.clip, self.trace, self.entropy, self.normalise = clip, trace, entropy, normalise

    def attach(self, policy: nn.Module) -> None:
        """Build the value head."""
        self.critic = Critic(policy, states=True)

    def first_actions(self, env: Any, instances: TensorDict, rng: torch.Generator) -> Tensor | None:
        self.horizon = env.horizon(instances)
        return env.first_actions(instances) if self.forced else None

    def loss(self, trajectories: Trajectories) -> Float[Tensor, ""]:
        steps, record, critic = trajectories.steps, trajectories.record, self.critic
        if steps is None or record is None or critic is None:
            raise ArgumentError("trajectories: they have no steps and no record; attach a policy and score them first")
        begin, end = trajectories.forced, trajectories.actions.shape[-1]
        left = 1 - torch.arange(begin, end, device=steps.value.device) / self.horizon
        line = critic.mean / critic.deviation * left
        advantage, target = advantages(record, critic.deviation, record.value + line, self.trace)
        if self.normalise:
            count = record.open.sum((1, 2), keepdim=True).clamp_min(1)  # an instance may have nothing to decide
            square = (advantage.square() * record.open).sum((1, 2), keepdim=True) / count
            advantage = advantage / square.sqrt().clamp_min(1e-6)
        ratio = (steps.log_prob - record.log_prob).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        error = (steps.value + line - target).square()
        each = gain + self.entropy * steps.entropy - error
        return -(each * record.open).sum(-1).mean()


def advantages(
    record: Record, unit: Float[Tensor, ""], value: Float[Tensor, "batch rollouts decisions"], trace: float
) -> tuple[Float[Tensor, "batch rollouts decisions"], Float[Tensor, "batch rollouts decisions"]]:
    """Return the generalised advantage of each decision, and what the value of the state before it should have been.

    Args:
        record: rewards of decisions, and which of these are padding, where neither result means anything.
        unit: of rewards, which they are divided by.
        value: of the state before each, in that unit.
        trace: lambda.
    """
    end = torch.ones_like(record.open[..., :1])
    done = torch.cat([~record.open[..., 1:], end], dim=-1)
    successor = torch.cat([value[..., 1:], torch.zeros_like(value[..., :1])], dim=-1)
    columns = (each.unsqueeze(-1) for each in (value, successor, record.reward / unit, done))
    advantage, target = generalized_advantage_estimate(1.0, trace, *columns)
    return advantage.squeeze(-1), target.squeeze(-1)
