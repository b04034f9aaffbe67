"""The contract of a training algorithm, which trajectories it wants and the loss on them, and what several share."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float, Float64, Int64
from tensordict import TensorDict
from torch import Tensor, nn

from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.rollout import Trajectories


class Critic(nn.Module):
    """A value head, and the running mean and deviation of rewards, so that what it learns is free of their unit.

    At first it says 0 of everything, which stands for the mean.

    Args:
        policy: whose words it reads (`Policy.summary`, `Policy.reading`).
        states: read both, for the value of states; else the summary alone, for that of instances.
        hidden: width of its hidden layer.

    Raises:
        UnsupportedFeatures: the policy offers no such words.
    """

    SHARE = 0.01  # of a batch in the running statistics, once a hundred were seen

    moments: Tensor
    batches: Tensor

    def __init__(self, policy: Any, *, states: bool, hidden: int = 128) -> None:
        super().__init__()
        if not policy.width:
            raise UnsupportedFeatures(f"{type(policy).__name__} offers a value head nothing to read")
        width = policy.width * (2 if states else 1)
        # no bias, which is the running mean: the gradient of one would be 0 but for rounding, which Adam blows up
        last = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(last.weight)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), last)
        self.register_buffer("moments", torch.zeros(2, dtype=torch.float64))  # mean, and mean of squares
        self.register_buffer("batches", torch.zeros((), dtype=torch.float64))

    def observe(self, reward: Float[Tensor, "batch rollouts"]) -> Float64[Tensor, " 2"]:
        """Mix new rewards into the running statistics, and return these, for the processes to average in place."""
        new, share = reward.double(), (1 / (self.batches + 1)).clamp_min(self.SHARE)
        self.moments.lerp_(torch.stack([new.mean(), new.square().mean()]), share)
        self.batches += 1
        return self.moments

    @property
    def mean(self) -> Float[Tensor, ""]:
        """The running mean of rewards."""
        return self.moments[0].float()

    @property
    def deviation(self) -> Float[Tensor, ""]:
        """Their running standard deviation; at least a thousandth of the mean, should all be alike."""
        mean, square = self.moments.unbind()
        least = (1e-3 * mean.abs()).clamp_min(torch.finfo(torch.float32).tiny)
        return torch.maximum((square - mean**2).clamp_min(0).sqrt(), least).float()

    def forward(self, read: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape"]:
        """Return values in deviations from the mean."""
        value: Tensor = self.head(read.float())
        return value.squeeze(-1).float()


class Algorithm(nn.Module, abc.ABC):
    """An estimator; it never acts, searches or steps an optimiser.

    Its parameters that take a gradient are trained beside the policy's, so `loss` must reach each of them.

    Attributes:
        imitates: True where it learns from labelled solutions instead of the policy's own rollouts.
        forced: leading actions that are given and whose log-probability does not count.
        rollouts: rollouts per instance, where `first_actions` gives no starts.
        carrying: rollouts of an instance that the loss depends on (1 for the best of many); only these are scored with
            gradients. 0 is all.
        epochs: optimiser steps on the same rollouts; more than 1 only where it is ``stepwise``.
        critic: its value head, built by `attach`, or None; trajectories have a `summary` where there is one.
        stepwise: True where `loss` takes decisions one by one, with the critic's value of the state before each
            (`Trajectories.steps` and `Trajectories.record`), in place of ``log_prob``.
    """

    imitates: ClassVar[bool] = False
    stepwise: ClassVar[bool] = False
    forced: int = 0
    rollouts: int = 1
    carrying: int = 0
    epochs: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.critic: Critic | None = None

    def attach(self, policy: nn.Module) -> None:
        """Meet the policy before training and before a checkpoint is loaded, to build what depends on it."""

    def condition(self, policy: Any, rng: torch.Generator) -> Tensor | None:
        """Return the conditions that an update's rollouts are under, ``[1, conditions, ...]``, or None where none are.

        It is asked before `first_actions`; the rollouts of an instance are ordered by condition, then by start.
        """
        return None

    def first_actions(self, env: Any, instances: TensorDict, rng: torch.Generator) -> Tensor | None:
        """Return the forced starts, int64 ``[batch, rollouts]``, or None for the policy's own first action."""
        return None

    def demonstrations(
        self, env: Any, instances: TensorDict, labels: Int64[Tensor, "batch 1 steps"], rng: torch.Generator
    ) -> Int64[Tensor, "batch rollouts steps"]:
        """Turn labels ``[batch, 1, steps]`` into the action sequences to imitate, ``[batch, rollouts, steps]``."""
        return labels

    def reward_baseline(self, env: Any, trajectories: Trajectories) -> Tensor | None:
        """Return what the rewards of new rollouts are compared with where that takes more than these, or None."""
        return None

    @abc.abstractmethod
    def loss(self, trajectories: Trajectories) -> Float[Tensor, ""]:
        """Return the loss to descend, a scalar, from scored trajectories."""

    def metrics(self, trajectories: Trajectories) -> dict[str, Float[Tensor, ""]]:
        """Return what the log shall say of new rollouts beside loss and mean objective, scalars on their device."""
        return {}

    def epoch_end(self, env: Any, policy: nn.Module, rng: torch.Generator) -> None:
        """Update what changes between epochs, such as a baseline policy."""


Compared = Literal["pomo", "analytic", "members"]


class WinnerTakesAll(Algorithm):
    """What Poppy and COMPASS share: each start is rolled out under all conditions, and only the best rollout learns.

    A condition is a member of a population or a latent. All of them have the same starts, and noise of their own.

    Args:
        reward_baseline: what the best rollout's reward is compared with: ``pomo`` is the mean of the rollouts from all
            starts under its condition, ``analytic`` the second best rollout from its start, ``members`` the mean of all
            rollouts from its start.
        starts: starts per instance, at most, drawn without replacement; 0 takes every one that the problem offers.
        samples: rollouts under each condition from the policy's own first action instead; the n-th of all conditions
            are compared with one another as those from a start are. 0 takes starts.
        normalise: divide each instance's advantages by the standard deviation of all its rewards.

    Attributes:
        conditions: of an instance; known once a policy was met (`attach`).
    """

    TOLERANCE = 1e-6  # relative; the two ways round a tour have lengths that differ in the last bits

    conditions: int = 1

    def __init__(self, reward_baseline: Compared, starts: int, samples: int, normalise: bool) -> None:
        super().__init__()
        if reward_baseline not in get_args(Compared):
            allowed = ", ".join(get_args(Compared))
            raise ArgumentError(f"reward_baseline: {reward_baseline!r} is not allowed; it must be one of {allowed}")
        self.least = 2 if reward_baseline == "pomo" else 1  # rollouts that have a mean to be compared with
        for name, value, none in (("starts", starts, "all"), ("samples", samples, "starts")):
            if value < 0 or 0 < value < self.least:
                raise ArgumentError(f"{name}: {value} is not allowed; it must be 0 ({none}) or at least {self.least}")
        if starts and samples:
            raise ArgumentError(f"starts: {starts} is not allowed with samples, {samples}; one of them must be 0")
        self.compared, self.starts, self.samples, self.normalise = reward_baseline, starts, samples, normalise
        self.forced = int(samples == 0)
        self._sign = 1

    def first_actions(self, env: Any, instances: TensorDict, rng: torch.Generator) -> Tensor | None:
        self._sign = -1 if env.sense == "min" else 1
        given, each = None, self.samples
        if self.forced:
            given = env.first_actions(instances, rng if self.starts else None)
            each = min(self.starts or given.shape[1], given.shape[1])
            if each < self.least:
                raise ArgumentError(f"instances: {each} start is not allowed; at least {self.least} must be there")
            given = given[:, :each].repeat(1, self.conditions)
        self.rollouts, self.carrying = self.conditions * each, each
        return given

    def advantages(self, reward: Float[Tensor, "batch conditions starts"]) -> Float[Tensor, "batch conditions starts"]:
        """Return how much better each rollout is than what it is compared with."""
        if self.compared == "analytic":
            advantage = reward - reward.topk(2, dim=1).values[:, 1:]
        else:
            advantage = reward - reward.mean(2 if self.compared == "pomo" else 1, keepdim=True)
        if self.normalise:
            advantage = advantage / reward.flatten(1).std(1).clamp_min(1e-6).view(-1, 1, 1)
        return advantage

    def best(
        self, trajectories: Trajectories
    ) -> tuple[Float[Tensor, "batch starts"], Float[Tensor, "batch starts"], Bool[Tensor, "batch starts"]]:
        """Return the advantage and the log-probability of the best rollout from each start, and whether no other ties.

        Of rollouts that tie it is the first.
        """
        reward, log_prob = by_condition(trajectories)
        if log_prob is None:
            raise ArgumentError("trajectories: they have no log_prob; score them first")
        first = reward.argmax(1, keepdim=True)
        advantage, chosen = (each.gather(1, first).squeeze(1) for each in (self.advantages(reward), log_prob))
        return advantage, chosen, self._reaching(reward).sum(1) == 1

    def metrics(self, trajectories: Trajectories) -> dict[str, Float[Tensor, ""]]:
        """Say who wins, of all pairs of an instance and a start.

        Returns:
            By name, in the objective's own sense ``best_of_members`` (mean of the best) and ``mean_member``;
            ``leave_one_out``, how much worse the best is without a member, on average over them;
            ``share_won_most`` and ``share_won_least``, the largest and the smallest share of pairs that a member wins
            (the first of those that tie); ``unique_winners``, the share whose best is reached by one member alone; and
            ``ties``, how many further members reach it, on average. Members are latents where these are the conditions.
        """
        reward, _ = by_condition(trajectories)
        count = reward.shape[1]
        best = reward.max(1).values
        reaching = self._reaching(reward)
        number = torch.arange(count, device=reward.device).view(-1, 1)
        won = (reaching.long().argmax(1, keepdim=True) == number).float().mean((0, 2))
        second = reward.topk(2, dim=1).values[:, 1] if count > 1 else best
        return {
            "best_of_members": self._sign * best.mean(),
            "mean_member": self._sign * reward.mean(),
            "leave_one_out": (best - second).mean() / count,
            "share_won_most": won.max(),
            "share_won_least": won.min(),
            "unique_winners": (reaching.sum(1) == 1).float().mean(),
            "ties": reaching.sum(1).float().mean() - 1,
        }

    def _reaching(self, reward: Float[Tensor, "batch conditions starts"]) -> Bool[Tensor, "batch conditions starts"]:
        best = reward.max(1, keepdim=True).values
        return reward >= best - self.TOLERANCE * best.abs()


def by_condition(
    trajectories: Trajectories,
) -> tuple[Float[Tensor, "batch conditions starts"], Float[Tensor, "batch conditions starts"] | None]:
    """Return the reward and the log-probability of rollouts by condition and start."""
    if trajectories.condition is None:
        raise ArgumentError("trajectories: they have no condition; the policy must act under some")
    shape = (trajectories.condition.shape[1], -1)
    log_prob = trajectories.log_prob
    return trajectories.reward.unflatten(1, shape), None if log_prob is None else log_prob.unflatten(1, shape)


def decisions(actions: Int64[Tensor, "batch rollouts steps"], forced: int) -> Int64[Tensor, "batch rollouts"]:
    """Count the decisions of each rollout, int64 ``[batch, rollouts]``: without those given and without padding.

    How far a record is padded depends on the way of acting. What only repeats the last action is padding; in a schedule
    it may also be the rest of the last job, where there is as little to decide.
    """
    repeats = (actions == actions[..., -1:]).long().flip(-1).cumprod(-1).sum(-1) - 1
    return (actions.shape[-1] - repeats - forced).clamp_min(1)


def per_decision(log_prob: Float[Tensor, "*shape"], counts: Int64[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean over rollouts of their log-probability per decision.

    Args:
        log_prob: of rollouts.
        counts: their `decisions`.
    """
    most = counts.max()
    return (log_prob * (most / counts)).mean() / most  # where all are alike, by a factor that is exactly 1
