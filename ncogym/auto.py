"""The solver that ``auto`` stands for: heuristics, then the best search with a policy, or the best without one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict

from ncogym.baselines import (
    CpSat,
    DegreeGreedy,
    Dispatching,
    NearestNeighbour,
    OrTools,
    PyVRP,
    RatioGreedy,
    Savings,
    TabuCut,
    TwoOpt,
)
from ncogym.books import Progress
from ncogym.budget import Budget
from ncogym.errors import NcogymWarning, NoSolutionFound, NotEnoughMemory, SolverNotInstalled, UnsupportedProblem
from ncogym.policies import Policy
from ncogym.policies.decoding import Sample
from ncogym.rollout import MEMORY_SHARE, check_memory
from ncogym.search import Compose, MultiStart, Reconstruct, Sampling, Symmetry
from ncogym.solution import Solutions, stacked
from ncogym.solver import Improver, Solver

AUTO = "auto"
SAMPLES, ROUNDS = 128, 8  # of a search without a budget
BEGINNINGS: tuple[Callable[[], Any], ...] = (  # of `auto`; of those that take a problem, the quickest first
    NearestNeighbour,
    Savings,
    RatioGreedy,
    Dispatching,
    DegreeGreedy,
)
SAMPLERS: tuple[Callable[[], Any], ...] = (  # the first that takes a problem has half of the time before these
    TabuCut,
    partial(DegreeGreedy, randomised=True),
)
CLASSICAL: tuple[Callable[[], Any], ...] = (PyVRP, CpSat, OrTools)  # who goes on where there is no policy, best first
FIRST = 0.5  # of what is left then, by which the policy must have built a solution where others could go on
BEGINNING = 0.25  # of a budget that each beginning but the first may take


def begin(progress: Progress, rng: torch.Generator) -> list[str]:
    """Offer what the heuristics find, and return the names of those that the best solutions are from."""
    env, instances, names = progress.env, progress.instances, list[str]()
    for solver in (make_beginning() for make_beginning in BEGINNINGS):
        if not solver.supports(env, instances) or (names and progress.spent):
            continue
        try:
            with progress.part(BEGINNING if names else 1.0):
                found = solver(env, instances, progress.left(), rng)
        except NoSolutionFound:  # it took too long, or finds none at all
            continue
        before: Any = progress.best
        progress.offer(stacked(env, instances, [each.actions for each in found])[:, None], rollouts=0)
        better = torch.ones(1, dtype=torch.bool) if before is None else progress.best != before
        names = [*(names if not better.all() else ()), *([solver.name] if better.any() else ())]
    return names


class Auto:
    """The search that ``auto`` stands for, composed by what the problem offers; docs/results.md has the measurements.

    It begins with heuristics of milliseconds (`BEGINNINGS`), so that there is an answer however large an instance is,
    and goes on from there. Where memory or time do not let the policy build a single solution, 2-opt has the rest of
    the time, on symmetric tours. Like 2-opt, the beginnings count no rollouts.

    On symmetric tours, samples from every start of one image after the other, the best of each improved by 2-opt, for
    as long as the budget lasts. Elsewhere `Reconstruct`: from its own greedy starts where solutions may begin anywhere,
    else from samples of the images that there are. Without a budget it ends after one round of the starts of 8 images,
    or after `SAMPLES` samples of each and `ROUNDS` rounds of re-construction.

    Args:
        policy: in evaluation mode.
    """

    name = AUTO

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return what is found; each solution carries the names of all that had a part in it."""
        progress = Progress(env, instances, budget)
        names = begin(progress, rng)
        search = self.composed(env, instances)
        if not (names and progress.spent):
            try:
                check_memory(env, self.policy, instances, MEMORY_SHARE if names else 1.0)
                if isinstance(search, Improver):
                    search.improve(progress, rng)
                else:
                    left = progress.left()
                    left = replace(left, first=FIRST * left.first)
                    progress.take(search(env, instances, left, rng))
            except NoSolutionFound:  # as above: only where there is none to begin with
                if not names:
                    raise
            except NotEnoughMemory as error:
                if not names:
                    raise
                warnings.warn(f"{AUTO}: the policy is left out: {error}", NcogymWarning, stacklevel=2)
        if progress.rollouts:
            names.append(search.name)
        elif TwoOpt().supports(env, instances) and not progress.spent:
            TwoOpt().improve(progress, rng)
            names.append(TwoOpt.name)
        return progress.solutions("+".join(names))

    def composed(self, env: Any, instances: TensorDict) -> Solver:
        """Return the search for a problem."""
        if TwoOpt().supports(env, instances):
            several = len(env.symmetries(instances, 2)) > 1
            drawn = MultiStart(self.policy, Sample(temperature=0.5), rounds=1 if several else None)
            solver = Compose(drawn, TwoOpt())
            return Symmetry(solver, endless=True) if several else solver
        rebuilt = Reconstruct(self.policy, rounds=ROUNDS)
        return rebuilt if env.multi_start else Compose(Symmetry(Sampling(self.policy, samples=SAMPLES)), rebuilt)


class Classical:
    """What ``auto`` stands for where no policy ships: heuristics, then the best classical solver that is installed.

    Without one it is the heuristics alone.
    """

    name = AUTO

    def supports(self, env: Any, instances: TensorDict) -> bool:
        """Return whether any of its solvers takes instances of batch size ``[batch]``."""
        return any(make().supports(env, instances) for make in (*BEGINNINGS, *CLASSICAL))

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return what is found; each solution carries the names of all that had a part in it."""
        if not self.supports(env, instances):
            raise UnsupportedProblem(f"{AUTO}: no solver takes {env.name}, and no policy ships for it")
        progress = Progress(env, instances, budget)
        names = begin(progress, rng)
        for solver in (make() for make in SAMPLERS):
            if solver.supports(env, instances) and not progress.spent:
                with progress.part(0.5):
                    progress.take(solver(env, instances, progress.left(), rng))
                names.append(solver.name)
                break
        for solver in (make() for make in CLASSICAL):
            if progress.spent or not solver.supports(env, instances):
                continue
            try:
                if names and isinstance(solver, Improver):
                    solver.improve(progress, rng)
                else:
                    progress.take(solver(env, instances, progress.left(), rng))
            except SolverNotInstalled:
                continue
            names.append(solver.name)
            break
        return progress.solutions("+".join(names))
