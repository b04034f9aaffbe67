"""Compose: a chain of solvers under one budget, each of which goes on from what those before it found."""

from __future__ import annotations

import torch
from tensordict import TensorDict

from ncogym.books import Progress
from ncogym.errors import ArgumentError, NoSolutionFound
from ncogym.problem import Problem
from ncogym.solver import Choosy, Improver, Solver

FIRST = 0.25  # of a budget, for who only makes the start of what searches long after it
BRIEF = 0.1  # of the seconds, for those who end of their own accord soon
USED = 0.75  # of its seconds, from which on the first could have used more
LITTLE = 0.05  # of the seconds, with which nothing is begun any more


class Compose(Improver):
    """Solve by one solver, then let others improve what there is, one after the other.

    The first gets a quarter of a finite budget, those after it equal parts of what is left. Brief ones (a local search)
    get a tenth of the seconds and need no rollouts; if there are only such after the first, that one gets the rest.
    What a stage leaves goes to the later ones, and what the last leaves to the whole chain once more, if the first
    could have used more than its part. Rollouts, seconds and the anytime curve are those of all stages together.

    Args:
        first: any solver.
        then: what goes on from there, in this order.
    """

    def __init__(self, first: Solver, *then: Improver) -> None:
        for stage in then:
            if not isinstance(stage, Improver):
                raise ArgumentError(f"then: {stage.name} is not allowed; it cannot go on from a solution")
        self.first, self.then = first, then
        self.name = "+".join(stage.name for stage in self.stages)

    @property
    def stages(self) -> tuple[Solver, ...]:
        """All of them, in their order."""
        return (self.first, *self.then)

    def check(self, env: Problem, instances: TensorDict) -> None:
        """Refuse instances that one of the stages cannot take, before any of them begins.

        Raises:
            UnsupportedProblem: a stage says no.
        """
        for stage in self.stages:
            if isinstance(stage, Choosy):
                stage.check(env, instances)

    def improve(self, progress: Progress, rng: torch.Generator) -> None:
        """Let all stages have their part; where there is a solution already, the first need not come to one.

        Raises:
            UnsupportedProblem: `check` says no.
        """
        self.check(progress.env, progress.instances)
        limit = progress.budget.seconds
        while self._pass(progress, rng) and limit - progress.seconds > LITTLE * limit:
            if progress.spent or progress.settled:
                break

    def _pass(self, progress: Progress, rng: torch.Generator) -> bool:
        """Let every stage have its part, and say whether the first used up the seconds of its own."""
        with progress.part(*self._shares(0)):
            left = progress.left()
            try:
                progress.take(self.first(progress.env, progress.instances, left, rng))
            except NoSolutionFound:
                if progress.actions is None:  # else there are some already
                    raise
            hungry = progress.budget.seconds - progress.seconds < (1 - USED) * left.seconds
        for number, stage in enumerate(self.then, 1):
            if progress.settled or (progress.spent and not stage.brief):
                continue
            with progress.part(*self._shares(number)):
                stage.improve(progress, rng)
        return hungry

    def _shares(self, number: int) -> tuple[float, float]:
        """Return the shares of the seconds and of the rollouts that a stage gets of what is left."""
        later = self.then[number:]
        brief, others = any(stage.brief for stage in later), sum(not stage.brief for stage in later)
        if number and self.then[number - 1].brief:
            return (BRIEF if later else 1.0), 1.0
        rollouts = 1 / (1 + others) if number or not others else FIRST
        return rollouts * (1 - BRIEF if brief else 1.0), rollouts
