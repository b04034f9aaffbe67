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
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torchrl.objectives.value.functional import generalized_advantage_estimate

from ncogym.algorithms.base import Algorithm, Critic, samples_or_starts
from ncogym.errors import ArgumentError
from ncogym.policies.base import Policy
from ncogym.rollout import Decisions, Outcome, Work, decision_rewards


class Taken(NamedTuple):
    """The actions that the epochs share, int64 ``[batch, rollouts, steps]``."""

    actions: Tensor


class Memory(NamedTuple):
    """What does not change while the same rollouts are learnt from, each ``[batch, rollouts, decisions]``.

    Attributes:
        reward: float32, of each decision; their sum is the reward of a rollout, less that of forced actions.
        open: bool, True = the rollout was not done before; what follows is padding.
        log_prob: float32, of the action taken, of the policy that acted; without gradients.
        value: float32, what the value head said of the state before it at that time; without gradients.
    """

    reward: Tensor
    open: Tensor
    log_prob: Tensor
    value: Tensor


class PPO(Algorithm):
    """Proximal policy optimisation.

    Example:
        >>> import torch
        >>> from ncogym.algorithms import PPO
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.rollout import Work
        >>> env, rng = build_task("tsp", num_nodes=5), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2)
        >>> algorithm = PPO(samples=4)
        >>> algorithm.attach(policy)
        >>> algorithm.step(Work.alone(policy, env, env.generate(2, rng), rng)).loss.shape
        torch.Size([])

    Args:
        samples: rollouts per instance from the policy's own first action; 0 takes one from every start that the problem
            offers, as POMO does.
        epochs: optimiser steps on the same rollouts.
        clip: how far a decision's probability may move from the old one, as a share of it, before its gradient stops.
        trace: lambda of the advantages: 1 compares what followed with the value, 0 looks one step ahead.
        entropy: weight of the entropy of a decision, in the unit of the advantage.
        normalise: divide advantages by their root mean square over the decisions of an instance.
    """

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
        self.samples, self.epochs = samples, epochs
        self.clip, self.trace, self.entropy, self.normalise = clip, trace, entropy, normalise
        self.critic: Critic | None = None

    def attach(self, policy: Policy) -> None:
        """Build the value head."""
        self.critic = Critic(policy, states=True)

    def step(self, work: Work) -> Outcome:
        if self.critic is None:
            raise RuntimeError("PPO takes steps once it has met a policy (`attach`)")
        critic = self.critic
        taken = work.once(Taken, lambda: self._act(work, critic))
        rollouts = work.replay(taken.actions, forced=int(self.samples == 0))
        summary = work.policy.summary(work.encoded).detach().unsqueeze(1)

        def read(decision: Decisions) -> tuple[Tensor, Tensor, Tensor]:
            # detached afterwards: what autocast casts without gradients it would keep for those who need them
            reading = decision.reading.detach()
            value = critic(torch.cat([summary.expand_as(reading), reading], dim=-1))
            return decision.chosen, value, decision.entropy

        log_prob, value, entropy = work.score_steps(rollouts, read)
        memory = work.once(
            Memory, lambda: Memory(*decision_rewards(work.env, rollouts), log_prob.detach(), value.detach())
        )
        begin, end = rollouts.forced, rollouts.actions.shape[-1]
        left = 1 - torch.arange(begin, end, device=value.device) / work.env.horizon(work.instances)
        return Outcome(self.loss(critic, memory, log_prob, value, entropy, left))

    def loss(
        self,
        critic: Critic,
        memory: Memory,
        log_prob: Float[Tensor, "batch rollouts decisions"],
        value: Float[Tensor, "batch rollouts decisions"],
        entropy: Float[Tensor, "batch rollouts decisions"],
        left: Float[Tensor, " decisions"],
    ) -> Float[Tensor, ""]:
        """Return the loss of decisions as they are scored now.

        Args:
            critic: whose running statistics are the unit of rewards.
            memory: of the same decisions when they were taken.
            log_prob: of the actions taken.
            value: of the states before them, beside the straight line.
            entropy: of the distributions that they were drawn from.
            left: share of the steps that are left at each.
        """
        line = critic.mean / critic.deviation * left
        advantage, target = advantages(memory, critic.deviation, memory.value + line, self.trace)
        if self.normalise:
            count = memory.open.sum((1, 2), keepdim=True).clamp_min(1)  # an instance may have nothing to decide
            square = (advantage.square() * memory.open).sum((1, 2), keepdim=True) / count
            advantage = advantage / square.sqrt().clamp_min(1e-6)
        ratio = (log_prob - memory.log_prob).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        error = (value + line - target).square()
        each = gain + self.entropy * entropy - error
        return -(each * memory.open).sum(-1).mean()

    def _act(self, work: Work, critic: Critic) -> Taken:
        """Act, and let the critic see the rewards; what is averaged in place is that of the whole batch."""
        found = samples_or_starts(work, self.samples, log_prob=False)
        work.average_(critic.observe(found.reward))
        return Taken(found.actions)


def advantages(
    memory: Memory, unit: Float[Tensor, ""], value: Float[Tensor, "batch rollouts decisions"], trace: float
) -> tuple[Float[Tensor, "batch rollouts decisions"], Float[Tensor, "batch rollouts decisions"]]:
    """Return the generalised advantage of each decision, and what the value of the state before it should have been.

    Args:
        memory: rewards of decisions, and which of these are padding, where neither result means anything.
        unit: of rewards, which they are divided by.
        value: of the state before each, in that unit.
        trace: lambda.
    """
    end = torch.ones_like(memory.open[..., :1])
    done = torch.cat([~memory.open[..., 1:], end], dim=-1)
    successor = torch.cat([value[..., 1:], torch.zeros_like(value[..., :1])], dim=-1)
    columns = (each.unsqueeze(-1) for each in (value, successor, memory.reward / unit, done))
    advantage, target = generalized_advantage_estimate(1.0, trace, *columns)
    return advantage.squeeze(-1), target.squeeze(-1)
