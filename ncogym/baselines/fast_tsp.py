"""fast-tsp (MIT): Or-opt local search for the symmetric TSP, exact up to 20 nodes; the strong reference.

References:
    S. Mulvad, fast-tsp, https://github.com/shmulvad/fast-tsp.
"""

from __future__ import annotations

import math
import threading

import numpy as np
from numpy.typing import NDArray

from ncogym.baselines.base import OutsideTourSolver, Run, needs, to_integers

LONGEST = 65535  # it takes 16-bit distances


class FastTSP(OutsideTourSolver):
    """fast-tsp on one thread per instance.

    It takes whole distances up to 65535 only: distances that are whole and no longer than that are handed over as they
    are, others are scaled so that the longest is 65535, a resolution of 0.0015 % of the longest distance. Its own
    measure of a tour is never used; the environment scores the tour.

    A budget without seconds gives 0.05 s to an instance of up to 100 nodes and 0.5 ms for each of its nodes beyond. Up
    to 20 nodes it is exact and takes what that takes, at most about 0.1 s. All seconds of a budget are used.

    Args:
        workers: see `OutsideTourSolver`.
        progress_bar: see `OutsideTourSolver`.
    """

    name = "fast-tsp"
    symmetric_only = True

    def _solve(self, dists: NDArray[np.float64], run: Run) -> None:
        with needs("fast-tsp", extra="solvers"):
            import fast_tsp

        num_nodes = len(dists)
        if num_nodes <= 3:  # all tours are one, and it refuses a single node
            run.report(range(num_nodes))
            return
        matrix = to_integers(dists, LONGEST)
        usual = 5e-4 * max(num_nodes, 100)
        seconds = usual if run.left == math.inf else run.left

        def search() -> None:
            tours.append(fast_tsp.find_tour(matrix, seconds, max_threads=1))

        # it cannot be told to stop, so it runs aside (without the interpreter's lock) and is left alone when cancelled
        tours: list[list[int]] = []
        thread = threading.Thread(target=search, daemon=True)
        thread.start()
        while thread.is_alive() and not run.cancelled:
            thread.join(0.05)
        run.report(tours[0] if tours else fast_tsp.find_tour(matrix, usual, max_threads=1))
