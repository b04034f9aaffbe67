"""The work of a training step whose rollouts and scores a test gives, and steps on real ones without a trainer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym.algorithms.base import Algorithm
from ncogym.rollout import Part, Rollouts, Work

NOWHERE = SimpleNamespace(sense="min", first_actions=lambda instances, rng=None: torch.zeros(len(instances), 2).long())


class Given:
    """What an algorithm's step asks of its work: the rollouts and log-probabilities are given.

    Args:
        reward: ``[batch, rollouts]``.
        log_prob: ``[batch, rollouts]``.
        actions: ``[batch, rollouts, steps]``; by default four different ones.
        forced: leading actions that were given.
        env: the problem, of which most losses want the sense alone.
        policy: that is trained.

    Attributes:
        asked: what the rollouts were asked for with.
        carrying: rollouts of an instance that the loss was said to depend on.
    """

    def __init__(
        self,
        reward: Tensor,
        log_prob: Tensor,
        *,
        actions: Tensor | None = None,
        forced: int = 1,
        env: Any = NOWHERE,
        policy: Any = None,
    ) -> None:
        self.instances = TensorDict({}, batch_size=[len(reward)])
        actions = torch.arange(4).expand(*reward.shape, 4) if actions is None else actions
        self.rollouts = Rollouts(self.instances, actions, reward, forced, log_prob)
        self.env, self.policy, self.log_prob = env, policy, log_prob
        self.asked: dict[str, Any] = {}
        self.carrying: int | None = None

    def each(self, draw: Any) -> Tensor:
        """Draw, where a test does not look at what is drawn."""
        return draw(Part(self.env, self.instances, torch.zeros(len(self.instances), 1, 4).long(), torch.Generator()))

    def act(self, **asked: Any) -> Rollouts:
        """Give the rollouts."""
        self.asked = asked
        return self.rollouts

    def replay(self, actions: Tensor, forced: int = 0) -> Rollouts:
        """Give the rollouts."""
        self.asked = {"actions": actions, "forced": forced}
        return self.rollouts

    def score(self, rollouts: Rollouts, carrying: int = 0) -> Tensor:
        """Give the log-probabilities."""
        assert rollouts is self.rollouts
        self.carrying = carrying
        return self.log_prob

    def average_(self, value: Tensor) -> Tensor:
        """Average over one process."""
        return value


def loss_of(algorithm: Algorithm, reward: Tensor, log_prob: Tensor, **more: Any) -> Tensor:
    """Return the loss of a step on given rollouts."""
    return algorithm.step(Given(reward, log_prob, **more)).loss


class Learning:
    """An algorithm and its policy, step by step without a trainer.

    Args:
        env: draws the instances.
        policy: what is trained.
        algorithm: the estimator.
        batch: instances of a step.
        rng: what all is drawn from.
        settings: of the `Work`.
    """

    def __init__(
        self, env: Any, policy: Any, algorithm: Any, batch: int, rng: torch.Generator, **settings: Any
    ) -> None:
        self.env, self.policy, self.algorithm, self.batch, self.rng = env, policy, algorithm, batch, rng
        self.settings = settings
        algorithm.attach(policy)
        self.optimiser = torch.optim.Adam(policy.parameters(), lr=1e-2)

    def step(self) -> tuple[Rollouts, dict[str, Tensor]]:
        """Take a step; return its rollouts and metrics."""
        work = Work.alone(self.policy, self.env, self.env.generate(self.batch, self.rng), self.rng, **self.settings)
        loss, metrics = self.algorithm.step(work)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        assert work.rollouts is not None
        return work.rollouts, metrics
