"""LKH, the Lin-Kernighan-Helsgaun heuristic, through the package elkai; an extra of its own for its licence.

LKH is free for academic and non-commercial use only, which is why nothing else in ncogym needs it.

References:
    Helsgaun (2017), An Extension of the Lin-Kernighan-Helsgaun TSP Solver for Constrained Traveling Salesman and
    Vehicle Routing Problems, Roskilde University. https://github.com/fikisipi/elkai.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncogym.baselines.base import OutsideTourSolver, Run, needs, to_integers
from ncogym.errors import ArgumentError

LONGEST = 1_000_000  # LKH works with 100 times that, in 32 bits


class LKH(OutsideTourSolver):
    """LKH on one thread per instance, symmetric or not.

    Distances that are whole and at most a million are handed over as they are, others are scaled so that the longest is
    a million, a resolution of a millionth of the longest distance. The environment scores the tour.

    LKH knows no time limit, and what is cancelled within its first run has no tour. Under a budget with seconds one run
    is done and timed, then as many (up to ``runs``) as that lets expect to fit into what is left; a budget below a
    single run is refused.

    Args:
        runs: independent runs of which the best tour is kept.
        workers: see `OutsideTourSolver`.
        progress_bar: see `OutsideTourSolver`.
    """

    name = "lkh"
    apart = True

    def __init__(self, runs: int = 10, *, workers: int = 1, progress_bar: bool = True) -> None:
        if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1:
            raise ArgumentError(f"runs: {runs} is not allowed; it must be a whole number of at least 1")
        super().__init__(workers=workers, progress_bar=progress_bar)
        self.runs = runs

    def _load(self, run: Run) -> Any:
        licence = "LKH's licence allows academic and non-commercial use only"
        with needs("elkai", extra="lkh", note=licence), run.paused():
            import elkai
        return elkai

    def _solve(self, dists: NDArray[np.float64], run: Run) -> None:
        elkai = self._load(run)
        if run.cancelled:
            return
        if len(dists) < 3:  # it refuses so few
            run.report(range(len(dists)))
            return
        problem = elkai.DistanceMatrix(to_integers(dists, LONGEST).tolist())
        runs = self.runs
        if run.left < math.inf:
            run.report(problem.solve_tsp(runs=1)[:-1])
            runs = min(runs, int(run.left / run.elapsed))  # the same first run, and others
            if runs < 2 or run.cancelled:
                return
        run.report(problem.solve_tsp(runs=runs)[:-1])  # it repeats the first node at the end
