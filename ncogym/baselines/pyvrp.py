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
from numpy.typing import NDArray

from ncogym.baselines.base import (
    ANY_WAY,
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
LATEST = 2**40  # of a moment, where there is no window
HARDEST = 10 * LONGEST  # its own bound on the price of a unit of overload can be below that of a way back to the depot
USUAL_ITERATIONS = 1000


def to_times(
    dists: NDArray[np.float64], windows: NDArray[np.float64], service: NDArray[np.float64]
) -> tuple[NDArray[np.int64], list[int], list[int], list[int]]:
    """Return durations, window ends and service times as whole numbers, so that what is in time there is in time here.

    Whole numbers and decimals of up to four places stay exact, in units of the last. Others are scaled so that the
    longest distance is `LONGEST`, and rounded to the safe side: ways and service up, windows' beginnings up, ends down.
    """
    finite = np.append(windows[np.isfinite(windows)], [dists.max(), service.max()])
    numbers = np.concatenate([finite, dists.ravel(), service])
    for places in range(5):
        scaled = numbers * 10**places
        if np.abs(scaled).max() <= LATEST and np.abs(scaled - np.rint(scaled)).max() <= 1e-6:
            factor, nudge = 10.0**places, 1e-6
            break
    else:
        factor, nudge = LONGEST / max(float(dists.max()), 1e-300), 0.0
    up = [np.ceil(each * factor - nudge).astype(np.int64) for each in (dists, windows[:, 0], service)]
    last = np.minimum(np.floor(windows[:, 1] * factor + nudge), LATEST).astype(np.int64)
    return up[0], up[1].tolist(), last.tolist(), up[2].tolist()


class PyVRP(OutsideRouteSolver, OutsideImprover):
    """PyVRP on one thread per instance, with as many vehicles as customers; tours too, symmetric or not.

    PyVRP computes in whole numbers: distances that are whole and at most 100000 are handed over as they are, others
    are scaled so that the longest is 100000; demands and capacities go through `to_loads`. The environment scores
    the routes. Time windows and service are handed over exactly where they are whole or have few decimals, else
    rounded to the safe side.

    A budget of rollouts allows as many iterations, one of patience as many without an improvement, and the same seed
    then gives the same routes; without a budget there are 1000, which is 0.2, 0.4 and 1 s at 20, 50 and 100 customers.
    Every improvement that it reports counts as one rollout. As an improver it begins from the routes that it is given.

    Args:
        workers: see `OutsideSolver`.
        progress_bar: see `OutsideSolver`.
    """

    name = "pyvrp"
    reads = (Routes, Tour)
    can = ANY_WAY | {"windows", "service"}

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
        windows, service = problem.windows, problem.service
        timed = windows is not None or service is not None
        dists: Any = to_integers(problem.dists, LONGEST)  # its own type of a matrix means nothing to numpy
        durations: Any = np.zeros_like(dists)
        opens, closes, takes = [0] * num_nodes, [LATEST] * num_nodes, [0] * num_nodes
        if timed:
            windows = np.array([[0.0, math.inf]] * num_nodes) if windows is None else windows
            service = np.zeros(num_nodes) if service is None else service
            durations, opens, closes, takes = to_times(problem.dists, windows, service)
        data = pyvrp.ProblemData(
            locations=[pyvrp.Location(0, 0)] * num_nodes,  # only its plots look at them
            clients=[
                pyvrp.Client(node, [int(loads[node])], [], takes[node], opens[node], closes[node])
                for node in range(1, num_nodes)
            ],
            depots=[pyvrp.Depot(0, opens[0], closes[0])],
            vehicle_types=[pyvrp.VehicleType(1 if is_tour else num_nodes - 1, capacity=[problem.capacity])],
            distance_matrices=[dists],
            duration_matrices=[durations],
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
