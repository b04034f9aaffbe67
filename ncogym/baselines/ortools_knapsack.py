"""OR-Tools' knapsack solver (Apache-2.0): branch and bound, or a dynamic programme where loads are few.

References:
    L. Perron and V. Furnon, OR-Tools, Google, https://developers.google.com/optimization/pack/knapsack.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ncogym.baselines.base import OutsideImprover, Run, needs, to_scale
from ncogym.baselines.knapsack import Items, Numbers, PackingSolver, as_actions, fill

LARGEST = 10**9  # what the capacity, and the largest value, are scaled to
LOADS = 2 * 10**8  # items times loads up to which the dynamic programme is taken; it takes a second at most
USUAL_SECONDS = 10.0


class OrToolsKnapsack(PackingSolver, OutsideImprover):
    """OR-Tools' dynamic programme (divide and conquer) where items times capacity are few, else its branch and bound.

    OR-Tools computes in whole numbers. Numbers that are whole, or are with up to 9 decimals, are handed over exactly.
    Others are scaled: weights so that the capacity is 1e9, and rounded up, so that what fits there fits here; values so
    that the largest is 1e9, and rounded.

    The proof of an optimum is told in `Solution.proven` where the numbers were handed over exactly.

    Branch and bound takes microseconds on random items and may take hours where weights and values go together; it is
    given the seconds of the budget, or 10 s where the budget has none, and then the best that it has is reported. What
    is cancelled before gives the greedy packing. Neither takes a start: as an improver it keeps the better of what
    there was and what it finds.

    Args:
        workers: see `OutsideSolver`.
        progress_bar: see `OutsideSolver`.
    """

    name = "ortools"
    apart = True

    def _load(self, run: Run) -> Any:
        with needs("ortools", extra="solvers"), run.paused():
            from ortools.algorithms.python import knapsack_solver
        return knapsack_solver

    def _solve(self, packing: Items, run: Run) -> None:
        knapsack_solver = self._load(run)
        weights, values, capacity = packing
        if run.cancelled:
            run.report(as_actions(fill(*packing, np.zeros(len(weights), dtype=bool))))
            return
        exact = [_decimals(numbers) for numbers in (weights, values)]
        # a decimal such as 0.3 is not to be rounded up for its binary rounding
        if exact[0]:
            loads, room = np.ceil(weights * exact[0] - 1e-6), capacity * exact[0] + 1e-6
        else:
            fits = weights <= capacity
            loads = np.where(fits, np.ceil(to_scale(weights * fits, capacity or 1.0, LARGEST) - 1e-6), LARGEST + 1)
            room = float(LARGEST)
        loads = loads.astype(np.int64)
        room = int(min(room, loads.sum()))
        worths = np.rint(values * exact[1] if exact[1] else to_scale(values, values.max(), LARGEST)).astype(np.int64)
        kinds = knapsack_solver.SolverType
        few = len(weights) * room <= LOADS
        kind = (
            kinds.KNAPSACK_DIVIDE_AND_CONQUER_SOLVER if few else kinds.KNAPSACK_MULTIDIMENSION_BRANCH_AND_BOUND_SOLVER
        )
        solver = knapsack_solver.KnapsackSolver(kind, self.name)
        solver.set_time_limit(USUAL_SECONDS if run.limit == math.inf else run.left)
        solver.init(worths.tolist(), [loads.tolist()], [room])
        solver.solve()
        chosen = np.array([solver.best_solution_contains(item) for item in range(len(weights))])
        if chosen.any() or solver.is_solution_optimal():
            run.report(as_actions(fill(weights, values, capacity, chosen)))
        if solver.is_solution_optimal() and all(exact):
            run.prove()


def _decimals(numbers: Numbers) -> float | None:
    """Return the least power of ten, at most 1e9, that makes all numbers whole, or None where none does."""
    for digits in range(10):
        scaled = numbers * 10.0**digits  # which are moderate
        if scaled.sum() <= 2**53 and (np.abs(scaled - np.rint(scaled)) <= 4e-16 * scaled).all():
            return 10.0**digits
    return None
