"""PyVRP (MIT): iterated local search for vehicle routing, in the tradition of hybrid genetic search.

References:
    Wouda, Lan and Kool (2024), PyVRP: A High-Performance VRP Solver Package, INFORMS Journal on Computing 36(4).
    https://github.com/PyVRP/PyVRP.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from ncogym.baselines.base import (
    OutsideImprover,
    OutsideRouteSolver,
    Routing,
    Run,
    needs,
    to_actions,
    to_integers,
    to_routes,
)
from ncogym.models import Model, Routes, Tour

LONGEST = 100_000
HARDEST = 10 * LONGEST  # its own bound on the price of a unit of overload can be below that of a way back to the depot
USUAL_ITERATIONS = 1000


class PyVRP(OutsideRouteSolver, OutsideImprover):
    """PyVRP on one thread per instance, with as many vehicles as customers; tours too, symmetric or not.

    PyVRP computes in whole numbers: distances that are whole and at most 100000 are handed over as they are, others
    are scaled so that the longest is 100000; demands and capacities go through `to_loads`. The environment scores
    the routes.

    A budget of rollouts allows as many iterations, one of patience as many without an improvement, and the same seed
    then gives the same routes; without a budget there are 1000, which is 0.2, 0.4 and 1 s at 20, 50 and 100 customers.
    Every improvement that it reports counts as one rollout. As an improver it begins from the routes that it is given.

    Args:
        workers: see `OutsideSolver`.
        progress_bar: see `OutsideSolver`.
    """

    name = "pyvrp"
    reads = (Routes, Tour)

    def settings(self, model: Model) -> str:
        return f"its own parameters, but a price of overload of up to {HARDEST}"

    def _solve(self, problem: Routing, run: Run) -> None:
        with needs("pyvrp", extra="solvers"), run.paused():
            import pyvrp

        num_nodes = len(problem.dists)
        is_tour = problem.loads is None
        if num_nodes == 1:
            run.report([0])
            return
        loads = np.zeros(num_nodes, dtype=np.int64) if problem.loads is None else problem.loads
        dists: Any = to_integers(problem.dists, LONGEST)  # its own type of a matrix means nothing to numpy
        data = pyvrp.ProblemData(
            locations=[pyvrp.Location(0, 0)] * num_nodes,  # only its plots look at them
            clients=[pyvrp.Client(node, delivery=[int(loads[node])]) for node in range(1, num_nodes)],
            depots=[pyvrp.Depot(0)],
            vehicle_types=[pyvrp.VehicleType(1 if is_tour else num_nodes - 1, capacity=[problem.capacity])],
            distance_matrices=[dists],
            duration_matrices=[np.zeros_like(dists)],
        )
        limits = (problem.rollouts, problem.patience, run.limit)
        most = USUAL_ITERATIONS if min(limits) == math.inf else problem.rollouts
        start = None
        if run.start is not None:
            routes = to_routes(run.start, num_nodes, is_tour)
            start = pyvrp.Solution(data, [[node - 1 for node in route] for route in routes])
        iterations, unimproved, lowest = 0, 0, math.inf

        def stop(best_cost: float) -> bool:
            nonlocal iterations, unimproved, lowest
            unimproved = 0 if best_cost < lowest else unimproved + 1
            lowest = min(lowest, best_cost)
            spent = iterations >= most or unimproved >= problem.patience or run.elapsed >= run.limit
            iterations += 1
            return spent or run.cancelled

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pyvrp.exceptions.PenaltyBoundWarning)  # that nothing was found tells it
            params = pyvrp.SolveParams(penalty=pyvrp.PenaltyParams(max_penalty=HARDEST))
            best = pyvrp.solve(
                data, stop, problem.seed, collect_stats=False, params=params, initial_solution=start
            ).best
        if best.is_feasible():
            routes = [[visit.idx + 1 for visit in route if visit.is_client()] for route in best.routes()]
            run.report([0, *routes[0]] if is_tour else to_actions(routes))
