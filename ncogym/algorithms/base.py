"""The contract of a training algorithm: which trajectories it wants, and the loss on them."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from tensordict import TensorDict
from torch import Tensor, nn

from ncogym.rollout import Trajectories


class Algorithm(nn.Module, abc.ABC):
    """An estimator; it never acts, searches or steps an optimiser.

    Attributes:
        imitates: True where it learns from labelled solutions instead of the policy's own rollouts.
        forced: leading actions that are given and whose log-probability does not count.
        rollouts: rollouts per instance, where `first_actions` gives no starts.
        carrying: rollouts of an instance that the loss depends on (1 for the best of many); only these are scored with
            gradients. 0 is all.
    """

    imitates: ClassVar[bool] = False
    forced: int = 0
    rollouts: int = 1
    carrying: int = 0

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
        """Return what each reward is compared with where that takes more than the trajectories, or None."""
        return None

    @abc.abstractmethod
    def loss(self, trajectories: Trajectories) -> Float[Tensor, ""]:
        """Return the loss to descend, a scalar, from trajectories with ``log_prob``."""

    def epoch_end(self, env: Any, policy: nn.Module, rng: torch.Generator) -> None:
        """Update what changes between epochs, such as a baseline policy."""
