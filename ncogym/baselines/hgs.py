"""HGS-CVRP (MIT), the hybrid genetic search for capacitated routing, through the package hygese; a strong reference.

References:
    Vidal (2022), Hybrid Genetic Search for the CVRP: Open-Source Implementation and SWAP* Neighborhood, Computers &
    Operations Research 140. https://github.com/chkwon/PyHygese.
"""

from __future__ import annotations

import math
from typing import Any

from ncogym.baselines.base import OutsideRouteSolver, Routing, Run, needs, to_actions, to_scale
from ncogym.models import Model

LONGEST = 1000.0  # it refuses distances of other orders of magnitude, and takes no gain below 1e-5 for one
USUAL_PATIENCE = 500
USUAL_RESTART = 20_000
FIRST_PART, SMALLEST_PART, MOST_PARTS = 0.1, 0.05, 4
IDLE, CAREFUL = 0.9, 0.8  # share of a processor that we have, and of what it lets expect on a busy machine
LAST_RESORT = 10_000  # iterations
LAST_RESORT_SECONDS = 0.5  # of the processor
CANCELLED_SECONDS = 0.05


class HGS(OutsideRouteSolver):
    """HGS-CVRP on one thread per instance, with the parameters of its paper and as many vehicles as customers.

    It computes in floating point, on distances scaled so that the longest is 1000. Demands and capacities that are
    whole and at most 1e5 are handed over as they are, others by `to_loads`. The environment scores the routes.

    It measures its effort in iterations without improvement: a budget of rollouts (or of patience) allows as many of
    them, and the same seed then gives the same routes; without a budget 500, which is 0.05, 0.2 and 0.9 s at 20, 50
    and 100 customers. A budget with seconds is used up: after as many iterations without improvement as its rollouts
    (20000 where it has none) it begins anew with other solutions. Its clock counts the processor's seconds, which pass
    more slowly on a busy machine; so a first run of a tenth of the seconds shows how they pass, and a second one gets
    what is left, or most of it where they pass slowly, and others the rest. What a run has not returned when the
    budget's seconds are over is lost. Every solution it returns counts as one rollout.

    Args:
        workers: see `OutsideSolver`.
        progress_bar: see `OutsideSolver`.
    """

    name = "hgs"
    apart = True
    largest_load = 100_000  # it refuses larger ones

    def settings(self, model: Model) -> str:
        return "the parameters of its paper"

    def _load(self, run: Run) -> Any:
        with needs("hygese", extra="solvers"), run.paused():
            import hygese
        return hygese

    def _solve(self, problem: Routing, run: Run) -> None:
        hygese = self._load(run)
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

        def search(iterations: float, seconds: float, part: int = 1) -> None:
            seed = problem.seed + max(part - 1, 0)  # the second part goes on where the first one ended
            limits = hygese.AlgorithmParameters(nbIter=int(iterations), timeLimit=seconds, seed=seed)
            routes = hygese.Solver(limits, verbose=False).solve_cvrp(data, rounding=False).routes
            if routes:
                run.report(to_actions(routes))

        if run.cancelled:
            search(LAST_RESORT, CANCELLED_SECONDS)
            return
        if run.limit == math.inf:
            search(patience, 0.0)  # which sets no limit
        share = FIRST_PART
        for part in range(MOST_PARTS):
            if run.limit == math.inf or run.left < SMALLEST_PART * run.limit:
                break
            begin, asked = run.elapsed, share * run.left
            search(patience, asked, part)
            pace = min(1.0, asked / (run.elapsed - begin))
            share = pace if pace > IDLE else CAREFUL * pace
        if not run.reports:
            # what it charges for an overload grows with its iterations, until nothing is overloaded
            search(LAST_RESORT, LAST_RESORT_SECONDS)
