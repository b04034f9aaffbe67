r"""Active search: all weights of a policy are tuned to each instance by the rewards of its own rollouts.

.. math:: \nabla L = -\frac{1}{P} \sum_{i=1}^{P} (R(\tau^i) - b)\, \nabla \log p_\theta(\tau^i)
          - \lambda\, \nabla \log p_\theta(\bar\tau), \quad b = \frac{1}{P} \sum_j R(\tau^j)

References:
    Bello, Pham, Le, Norouzi, Bengio (2016), Neural Combinatorial Optimization with Reinforcement Learning, section 4.2.

Differs from the paper in:
    - the reward baseline is the mean over the rollouts of a round, there a moving average;
    - rewards are divided by the best one so far, so that the unit of an instance does not matter;
    - ``imitation`` adds the likelihood of the best solution so far, as efficient active search does (off by default);
    - where solutions may begin with any node, rollouts begin with each in turn, as POMO's do.
"""

from __future__ import annotations

import math

import torch

from ncogym.books import Progress
from ncogym.errors import ArgumentError
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Sample
from ncogym.rollout import check_memory
from ncogym.search.base import Search, apart, descend, recording, rounds
from ncogym.solution import Solutions
from ncogym.solver import Improver


class Active(Search, Improver):
    """Solve by tuning a copy of all the policy's weights to each instance.

    Example:
        >>> import torch
        >>> from ncogym.budget import MaxRollouts
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.search import Active
        >>> env, rng = build_task("tsp", num_nodes=6), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2).eval()
        >>> [found.feasible for found in Active(policy)(env, env.generate(2, rng), MaxRollouts(16), rng)]
        [True, True]

    Instances come one after the other, each with the budget of one. Encoders that count edges (a graph's) cannot be
    mapped over sets of weights, and the weights, gradients and moments of one instance are all that is held at a time.

    Args:
        policy: what every instance starts from; it is not changed.
        rollouts: per step.
        steps: after which it ends where no budget limits it.
        learning_rate: of Adam.
        imitation: weight of the best solution so far, relative to rewards of about 1.
    """

    name = "active"

    def __init__(
        self,
        policy: Policy,
        rollouts: int = 128,
        steps: int = 200,
        learning_rate: float = 1e-5,
        imitation: float = 0.0,
    ) -> None:
        for name, value in (("rollouts", rollouts), ("steps", steps)):
            if value < 1:
                raise ArgumentError(f"{name}: {value} is not allowed; it must be at least 1")
        if not 0 < learning_rate < math.inf:
            raise ArgumentError(f"learning_rate: {learning_rate} is not allowed; it must be above 0")
        if not 0 <= imitation < math.inf:
            raise ArgumentError(f"imitation: {imitation} is not allowed; it must be at least 0")
        self.policy, self.rollouts, self.steps = policy, rollouts, steps
        self.learning_rate, self.imitation = learning_rate, imitation

    def improve(self, progress: Progress, rng: torch.Generator) -> None:
        budget = progress.left()
        found: Solutions = []
        with recording():
            for row, instance in enumerate(progress.instances.split(1)):
                own = Progress(progress.env, instance.clone(), budget)
                if progress.actions is not None:
                    own.offer(progress.actions[row : row + 1, None], rollouts=0)
                with own.abandoning():
                    self._tune(own, rng)
                found += own.solutions(self.name)
        progress.take(found)

    def _tune(self, progress: Progress, rng: torch.Generator) -> None:
        env = progress.env
        check_memory(env, self.policy, progress.instances)
        policy = apart(self.policy, trained=True)
        optimizer = torch.optim.Adam(policy.parameters(), self.learning_rate)
        for encoded, drawn in rounds(
            env,
            policy,
            lambda: policy.encode(env.instance_features(progress.instances)),
            Sample(),
            progress,
            rng,
            rollouts=self.rollouts,
            most=math.inf if progress.budget.finite else self.steps,
        ):
            optimizer.zero_grad()
            descend(env, policy, encoded, drawn, progress, self.imitation)
            optimizer.step()
