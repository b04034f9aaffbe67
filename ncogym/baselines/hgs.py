"""HGS-CVRP (MIT), the hybrid genetic search for capacitated routing, through the package hygese; a strong reference.

References:
    Vidal (2022), Hybrid Genetic Search for the CVRP: Open-Source Implementation and SWAP* Neighborhood, Computers &
    Operations Research 140. https://github.com/chkwon/PyHygese.
"""

from __future__ import annotations

import math
import threading
from typing import Any

from ncogym.baselines.base import OutsideRouteSolver, Routing, Run, needs, to_actions, to_scale

LONGEST = 1000.0  # it refuses distances of other orders of magnitude, and takes no gain below 1e-5 for one
USUAL_PATIENCE = 500
USUAL_RESTART = 20_000
FIRST_PART = 0.1
LAST_RESORT = 10_000  # iterations
LAST_RESORT_SECONDS = {False: 0.5, True: 0.05}  # of the processor, by whether it was cancelled


class HGS(OutsideRouteSolver):
    """HGS-CVRP on one thread per instance, with the parameters of its paper and as many vehicles as customers.

    It computes in floating point, on distances scaled so that the longest is 1000. Demands and capacities that are
    whole and at most 1e5 are handed over as they are, others by `to_loads`. The environment scores the routes.

    It measures its effort in iterations without improvement: a budget of rollouts (or of patience) allows as many of
    them, and the same seed then gives the same routes; without a budget 500, which is 0.05, 0.2 and 0.9 s at 20, 50
    and 100 customers. A budget with seconds is used up: after as many iterations without improvement as its rollouts
    (20000 where it has none) it begins anew with other solutions. Its clock counts the processor's seconds, which pass
    more slowly on a busy machine; so a first run of a tenth of the seconds shows how they pass, and a second one gets
    what is left. Every solution it returns counts as one rollout.

    Args:
        workers: see `OutsideSolver`.
        progress_bar: see `OutsideSolver`.
    """

    name = "hgs"
    largest_load = 100_000  # it refuses larger ones

    def settings(self, env: Any) -> str:
        return "the parameters of its paper"

    def _solve(self, problem: Routing, run: Run) -> None:
        with needs("hygese", extra="solvers"), run.paused():
            import hygese

        loads, capacity, num_customers = problem.loads, problem.capacity, len(problem.dists) - 1
        if loads is None:
            return
        if num_customers == 1:  # it would search for ever
            run.report([1])
            return
        if not loads.any():  # it refuses these
            loads, capacity = loads + 1, num_customers + 1
        peak = problem.dists.max()
        data = {
            "distance_matrix": to_scale(problem.dists, peak, LONGEST) if peak else problem.dists + LONGEST,
            "demands": loads,
            "vehicle_capacity": capacity,
            "num_vehicles": num_customers,
        }

        patience = min(problem.rollouts, problem.patience)
        if patience == math.inf:
            patience = USUAL_PATIENCE if run.limit == math.inf else USUAL_RESTART

        def search(iterations: float, seconds: float) -> list[list[int]]:
            limits = hygese.AlgorithmParameters(nbIter=int(iterations), timeLimit=seconds, seed=problem.seed)
            return hygese.Solver(limits, verbose=False).solve_cvrp(data, rounding=False).routes

        def search_aside(seconds: float) -> None:
            # it cannot be told to stop, so it runs aside (without the interpreter's lock) and is left alone when
            # cancelled
            found: list[list[list[int]]] = []
            thread = threading.Thread(target=lambda: found.append(search(patience, seconds)), daemon=True)
            thread.start()
            while thread.is_alive() and not run.cancelled:
                thread.join(0.05)
            if found and found[0]:
                run.report(to_actions(found[0]))

        if run.limit == math.inf:
            search_aside(0.0)  # which sets no limit
        else:
            # its clock counts the processor's seconds: a first part shows how they pass
            begin, asked = run.elapsed, FIRST_PART * run.left
            search_aside(asked)
            pace = min(1.0, asked / (run.elapsed - begin))
            if not run.cancelled:
                search_aside(run.left * pace)
        if not run.reports:
            # what it charges for an overload grows with its iterations, until nothing is overloaded
            routes = search(LAST_RESORT, LAST_RESORT_SECONDS[run.cancelled])
            if routes:
                run.report(to_actions(routes))
