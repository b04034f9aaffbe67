"""The protocol that a search with a policy and a classical solver share.

A `Solver` is called with a problem, a batch of instances, a `Budget` and a generator, and returns one checked
`Solution` per instance, by way of `ncogym.books.Progress`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, runtime_checkable

import torch
from tensordict import TensorDict

from ncogym.books import Progress
from ncogym.budget import Budget
from ncogym.problem import Problem
from ncogym.solution import Solutions


@runtime_checkable
class Solver(Protocol):
    """Anything that solves instances: a search that holds a policy, or a classical solver."""

    name: str

    def __call__(
        self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator
    ) -> Solutions: ...


@runtime_checkable
class Choosy(Solver, Protocol):
    """A solver that can say before it begins what it cannot take."""

    def check(self, env: Problem, instances: TensorDict) -> None:
        """Refuse instances of batch size ``[batch]`` that this solver cannot take.

        Raises:
            UnsupportedProblem: it cannot; the words say why.
        """


@runtime_checkable
class Improver(Solver, Protocol):
    """A solver that can go on from solutions that are there; called alone it makes a start of its own.

    Attributes:
        brief: whether it ends of its own accord soon, and counts no rollouts.
    """

    brief: bool = False

    @abstractmethod
    def improve(self, progress: Progress, rng: torch.Generator) -> None:
        """Go on from the incumbents that ``progress`` holds, or from a start of its own where it holds none.

        What is found is offered to ``progress``. It ends when that is spent or, where its budget is not finite, of its
        own accord.

        Args:
            progress: the books of the whole call, with the environment, the instances and the budget.
            rng: what is drawn from.
        """

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return the best checked solution of each instance."""
        progress = Progress(env, instances, budget)
        self.improve(progress, rng)
        return progress.solutions(self.name)
