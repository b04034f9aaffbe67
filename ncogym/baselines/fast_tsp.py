"""fast-tsp (MIT): Or-opt local search for the TSP, exact up to 20 nodes; the strong reference.

References:
    Jonker and Volgenant (1983), Transforming Asymmetric into Symmetric Traveling Salesman Problems, Operations Research
    Letters 2.
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

    Asymmetric distances become symmetric ones between twice as many nodes, each node's arrival and departure, and then
    have a third of that range: up to 21845.

    A budget without seconds gives 0.05 s to an instance of up to 100 nodes and 0.5 ms for each of its nodes beyond. Up
    to 20 nodes it is exact and takes what that takes, at most about 0.1 s. All seconds of a budget are used.

    Args:
        workers: see `OutsideTourSolver`.
        progress_bar: see `OutsideTourSolver`.
    """

    name = "fast-tsp"

    def _solve(self, dists: NDArray[np.float64], run: Run) -> None:
        with needs("fast-tsp", extra="solvers"), run.paused():
            import fast_tsp

        num_nodes = len(dists)
        if num_nodes <= 2:  # all tours are one, and it refuses a single node
            run.report(range(num_nodes))
            return
        symmetric = bool(np.allclose(dists, dists.T, rtol=1e-9, atol=0.0))
        matrix = to_integers(dists, LONGEST) if symmetric else _doubled(to_integers(dists, LONGEST // 3))
        usual = 5e-4 * max(len(matrix), 100)
        seconds = usual if run.left == math.inf else run.left

        def search() -> None:
            tours.append(fast_tsp.find_tour(matrix, seconds, max_threads=1))

        # it cannot be told to stop, so it runs aside (without the interpreter's lock) and is left alone when cancelled
        tours: list[list[int]] = []
        thread = threading.Thread(target=search, daemon=True)
        thread.start()
        while thread.is_alive() and not run.cancelled:
            thread.join(0.05)
        tour = tours[0] if tours else fast_tsp.find_tour(matrix, usual, max_threads=1)
        nodes = [node for node in tour if node < num_nodes]
        run.report(nodes)
        if not symmetric:  # the tour may have been found backwards
            run.report(nodes[::-1])


def _doubled(dists: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return symmetric distances between arrivals (the first half) and departures at nodes, which must follow each.

    From an arrival to its own departure it is 0, from a departure to another arrival the distance and as much again as
    no distance exceeds, so that no good tour leaves a node without having arrived there; all else is out of reach.
    """
    num_nodes = len(dists)
    doubled = np.full((2 * num_nodes, 2 * num_nodes), LONGEST, dtype=np.int64)
    doubled[num_nodes:, :num_nodes] = dists + LONGEST // 3
    doubled[:num_nodes, num_nodes:] = doubled[num_nodes:, :num_nodes].T
    nodes = np.arange(num_nodes)
    doubled[nodes, nodes + num_nodes] = doubled[nodes + num_nodes, nodes] = 0
    np.fill_diagonal(doubled, 0)
    return doubled
