"""The contract of a training algorithm, which trajectories it wants and the loss on them, and what several share."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64, Int64
from tensordict import TensorDict
from torch import Tensor, nn

from ncogym.errors import UnsupportedFeatures
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

    def epoch_end(self, env: Any, policy: nn.Module, rng: torch.Generator) -> None:
        """Update what changes between epochs, such as a baseline policy."""


def decisions(actions: Int64[Tensor, "batch rollouts steps"], forced: int) -> Int64[Tensor, "batch rollouts"]:
    """Count the decisions of each rollout, int64 ``[batch, rollouts]``: without those given and without padding.

    How far a record is padded depends on the way of acting. What only repeats the last action is padding; in a schedule
    it may also be the rest of the last job, where there is as little to decide.
    """
    repeats = (actions == actions[..., -1:]).long().flip(-1).cumprod(-1).sum(-1) - 1
    return (actions.shape[-1] - repeats - forced).clamp_min(1)
