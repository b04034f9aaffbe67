r"""REINFORCE with a choice of reward baselines.

.. math:: \nabla J = E\big[(R(\tau) - b)\,\nabla \log p(\tau)\big] + c\,\nabla H,
          \quad \nabla H = -E\big[(\log p(\tau) - b')\,\nabla \log p(\tau)\big]

With ``critic`` the baseline is a value head on what the policy says of the instance, trained beside it by

.. math:: L_V = E\big[((R(\tau) - b) / \sigma)^2\big], \quad b = \mu + \sigma\, V(instance)

where :math:`\mu` and :math:`\sigma` are the running mean and deviation of rewards.

The entropy H is that of whole rollouts. Its gradient takes no more than their log-probabilities; its baseline
:math:`b'` is their mean over the other rollouts of the instance.

References:
    Williams (1992), Simple statistical gradient-following algorithms, Machine Learning 8.
    Williams, Peng (1991), Function Optimization Using Connectionist Reinforcement Learning Algorithms: the entropy.
    Kool, van Hoof, Welling (2019), Attention, Learn to Solve Routing Problems!, ICLR: exponential, rollout.
    Bello et al. (2017), Neural Combinatorial Optimization with Reinforcement Learning, ICLR workshop: the critic.
    Kwon et al. (2020), POMO, NeurIPS: the shared mean. Kool et al. (2019), Buy 4 REINFORCE Samples, Get a Baseline for
    Free!: leave-one-out.

Differs from the papers in:
    - the rollout baseline's policy is frozen in evaluation mode while the trained policy's mode is left alone;
    - the critic is no network of its own: it reads the largest of each number of the policy's encodings, and its
      gradient stops there, so that it moves no weight of the policy;
    - ``normalise`` divides the advantages by the rewards' deviation over the rollouts of an instance (off by default).
"""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from ncogym.algorithms.base import Algorithm, Critic
from ncogym.errors import ArgumentError
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Greedy
from ncogym.problem import Problem
from ncogym.rollout import Outcome, Rollouts, Work, act, encode
from ncogym.task import Task


def advantage_shared(reward: Float[Tensor, "batch rollouts"]) -> Float[Tensor, "batch rollouts"]:
    """Return rewards ``[batch, rollouts]`` less the mean over the rollouts of their instance."""
    return reward - reward.mean(1, keepdim=True)


def advantage_leave_one_out(reward: Float[Tensor, "batch rollouts"]) -> Float[Tensor, "batch rollouts"]:
    """Return rewards ``[batch, rollouts]`` less the mean over the *other* rollouts of their instance."""
    return advantage_shared(reward) * (reward.shape[1] / (reward.shape[1] - 1))


class Reinforce(Algorithm):
    """REINFORCE from the policy's own first action.

    Example:
        >>> import torch
        >>> from ncogym.algorithms import Reinforce
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.rollout import Work
        >>> env, rng = build_task("tsp", num_nodes=5), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2)
        >>> algorithm = Reinforce("shared", rollouts=4)
        >>> algorithm.attach(policy)
        >>> algorithm.step(Work.alone(policy, env, env.generate(2, rng), rng)).loss.shape
        torch.Size([])

    Args:
        reward_baseline: what a reward is compared with: ``exponential`` (moving average of the batch mean),
            ``rollout`` (greedy rollout of the best policy so far, replaced when a one-sided paired t-test on a fresh
            evaluation set says that the new one is better; exponential during the first epoch), ``shared`` (mean over
            the rollouts of the instance), ``leave-one-out``, ``critic`` (a value head, learned beside the policy) or
            ``none``.
        rollouts: rollouts per instance; at least 2 for ``shared`` and ``leave-one-out``.
        decay: of the exponential baseline (0.8 in Kool et al.).
        significance: level of the t-test (0.05 in Kool et al.).
        evaluation_size: fresh instances of each t-test (10,000 in Kool et al.).
        normalise: divide advantages by the standard deviation of their instance's rewards; takes at least 2 rollouts.
        entropy: weight of the entropy of a rollout, in the unit of the advantage; above 0 it takes at least 2 rollouts.
    """

    def __init__(
        self,
        reward_baseline: Literal["exponential", "rollout", "shared", "leave-one-out", "critic", "none"] = "rollout",
        rollouts: int = 1,
        decay: float = 0.8,
        significance: float = 0.05,
        evaluation_size: int = 10_000,
        normalise: bool = False,
        entropy: float = 0.0,
    ) -> None:
        super().__init__()
        if reward_baseline in ("shared", "leave-one-out") and rollouts < 2:
            raise ArgumentError(f"rollouts: {rollouts} is not allowed with {reward_baseline}; it takes at least 2")
        if reward_baseline == "rollout" and evaluation_size < 100:
            raise ArgumentError(f"evaluation_size: {evaluation_size} is not allowed; a t-test takes at least 100")
        if not 0 <= decay < 1:
            raise ArgumentError(f"decay: {decay} is not allowed; it must be at least 0 and below 1")
        if not 0 < significance < 1:
            raise ArgumentError(f"significance: {significance} is not allowed; it must be between 0 and 1")
        if not 0 <= entropy < math.inf:
            raise ArgumentError(f"entropy: {entropy} is not allowed; it must be 0 (none) or more")
        for name, wanted in (("normalise", normalise), ("entropy", entropy > 0)):
            if wanted and rollouts < 2:
                raise ArgumentError(f"rollouts: {rollouts} is not allowed with {name}; it takes at least 2")
        if rollouts < 1:
            raise ArgumentError(f"rollouts: {rollouts} is not allowed; it must be at least 1")
        self.kind, self.rollouts, self.decay = reward_baseline, rollouts, decay
        self.significance, self.evaluation_size = significance, evaluation_size
        self.normalise, self.entropy = normalise, entropy
        self.register_buffer("average", torch.full((), math.nan))
        self.num_epochs = 0  # a number of the host, so that no step has to wait for the device to tell it
        self.champion: Policy | None = None
        self.critic: Critic | None = None

    average: Tensor

    def get_extra_state(self) -> int:
        return self.num_epochs

    def set_extra_state(self, state: int) -> None:
        self.num_epochs = state

    def attach(self, policy: Policy) -> None:
        """Copy the policy as the first champion, or build the critic; a submodule is in every checkpoint."""
        if self.kind == "rollout":
            self.champion = copy.deepcopy(policy).eval().requires_grad_(False)
        if self.kind == "critic":
            self.critic = Critic(policy, states=False)

    def step(self, work: Work) -> Outcome:
        found = work.act(rollouts=self.rollouts)
        reward, advantage = found.reward, self._advantage(work, found)
        loss: Tensor | float = 0.0
        log_prob = work.score(found)
        if self.critic is not None:
            loss, advantage = (advantage / self.critic.deviation).square().mean(), advantage.detach()
        if self.normalise:
            advantage = advantage / reward.std(1, keepdim=True).clamp_min(1e-6)
        if self.entropy:
            advantage = advantage - self.entropy * advantage_leave_one_out(log_prob.detach())
        return Outcome(loss - (advantage * log_prob).mean())

    def _advantage(self, work: Work, found: Rollouts) -> Float[Tensor, "batch rollouts"]:
        """Return how much better rollouts are than what they are compared with."""
        reward = found.reward
        if self.kind == "shared":
            return advantage_shared(reward)
        if self.kind == "leave-one-out":
            return advantage_leave_one_out(reward)
        if self.champion is not None and self.num_epochs > 0:
            return reward - greedy_reward(work.env, self.champion, found.instances).unsqueeze(1)
        if self.kind in ("exponential", "rollout"):
            mean = reward.mean()
            # the first batch is its own average; where() keeps the choice on the device
            self.average = torch.where(self.average.isnan(), mean, self.decay * self.average + (1 - self.decay) * mean)
            return reward - work.average_(self.average)
        if self.critic is not None:
            work.average_(self.critic.observe(reward))
            value = self.critic(work.policy.summary(work.encoded).detach())
            return reward - (self.critic.mean + self.critic.deviation * value).unsqueeze(1)
        return reward

    def epoch_end(self, env: Task, policy: Policy, rng: torch.Generator) -> None:
        if self.champion is not None:
            instances = env.generate(self.evaluation_size, rng)
            gain = greedy_reward(env, policy, instances) - greedy_reward(env, self.champion, instances)
            if significantly_positive(gain, self.significance):
                self.champion.load_state_dict(policy.state_dict())
        self.num_epochs += 1


def greedy_reward(env: Problem, policy: Policy, instances: TensorDict, chunk: int = 1024) -> Tensor:
    """Return the reward of one greedy rollout per instance, float32 ``[batch]``, in evaluation mode."""
    training = policy.training
    policy.eval()
    rng = torch.Generator(device=instances.device or "cpu")
    rewards = []
    with torch.no_grad():
        for part in instances.split(chunk):
            encoded = encode(env, policy, part)
            rewards.append(act(env, policy, encoded, part, Greedy(), rng).reward[:, 0])
    policy.train(training)
    return torch.cat(rewards)


def significantly_positive(differences: Tensor, level: float) -> bool:
    """Test by a one-sided paired t-test whether the mean of ``differences`` is above 0.

    From 100 differences on the t distribution is the normal one to within 0.001 of the level, and is taken as such.

    Raises:
        ArgumentError: fewer than 100 differences.
    """
    count = differences.numel()
    deviation = differences.double().std()
    if count < 100:
        raise ArgumentError(f"evaluation_size: {count} is not allowed; a t-test takes at least 100")
    if deviation == 0:
        return bool(differences.mean() > 0)
    statistic = differences.double().mean() / deviation * math.sqrt(count)
    return bool(0.5 * torch.erfc(statistic / math.sqrt(2)) < level)
