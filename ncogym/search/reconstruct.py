"""Random re-construction: keep the first part of an equivalent of the best solution, and let the policy build the rest.

References:
    Luo, Lin, Liu, Zhang, Wang (2023), Neural Combinatorial Optimization with Heavy Decoder: Toward Large Scale
    Generalization (LEHD), NeurIPS (random re-construct).

Differs from the paper in:
    - every problem takes part: what is cut is an equivalent action sequence that the problem draws (a tour's rotation,
      routes or items in another order, operations by start time);
    - several cuts of one length are rebuilt at once, and the rest is sampled; there one cut, greedily.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from tensordict import TensorDict

from ncogym.errors import ArgumentError
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Greedy, Sample
from ncogym.rollout import act, encode, rollouts_in_memory
from ncogym.search.base import starts
from ncogym.solver import Budget, Pace, Progress, Solutions, Solver


class Reconstruct:
    """Improve another solver's solutions by rebuilding random parts of them; the best so far is what is cut.

    Args:
        policy: in evaluation mode.
        start: gives the first solutions; None is one greedy rollout from each start where solutions may begin
            anywhere, else ``rollouts`` samples.
        rollouts: rebuilt at once, of each instance.
        rounds: after which it ends where no budget limits it.
        share: of a finite budget that the start may use.
    """

    def __init__(
        self, policy: Policy, start: Solver | None = None, rollouts: int = 16, rounds: int = 50, share: float = 0.25
    ) -> None:
        for name, value in (("rollouts", rollouts), ("rounds", rounds)):
            if value < 1:
                raise ArgumentError(f"{name}: {value} is not allowed; it must be at least 1")
        if not 0 < share < 1:
            raise ArgumentError(f"share: {share} is not allowed; it must be between 0 and 1")
        self.policy, self.start, self.rollouts, self.rounds, self.share = policy, start, rollouts, rounds, share
        self.name = "reconstruct" if start is None else f"{start.name}+reconstruct"

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return the best checked solution of each instance."""
        progress = Progress(env, instances, budget)
        if self.start is not None:
            found = self.start(env, instances, progress.budget.remaining(progress, self.share), rng)
            progress.offer(torch.stack([s.actions for s in found])[:, None].to(instances.device), found[0].rollouts)
        pace = Pace(progress, rollouts_in_memory(env, self.policy, instances))
        with torch.inference_mode():
            encoded = encode(env, self.policy, instances)
            if self.start is None:
                wanted = env.first_actions(instances).shape[1] if env.multi_start else self.rollouts
                count = pace.next(max(1, min(wanted, progress.budget.rollouts * self.share)))
                first = starts(env, instances, count, rng)
                decoding = Sample() if first is None else Greedy()
                built = act(env, self.policy, encoded, instances, decoding, rng, rollouts=count, first_actions=first)
                progress.offer(built.actions)
            for done in itertools.count():
                best = progress.actions
                if progress.spent or best is None or done >= (math.inf if progress.budget.finite else self.rounds):
                    break
                count = pace.next(self.rollouts)
                # up to the last change of action: padding repeats the last one, and has nothing to rebuild
                changed = (best != best.roll(1, -1)) * torch.arange(best.shape[-1], device=best.device)
                length = int(changed.amax(-1).min()) + 1
                free = int(torch.randint(1, length + 1, (), generator=rng, device=rng.device))
                kept = env.equivalent_actions(instances, best, count, rng)[..., : length - free]
                built = act(env, self.policy, encoded, instances, Sample(), rng, first_actions=kept)
                progress.offer(built.actions)
        return progress.solutions(self.name)
