"""OR-Tools' routing solver (Apache-2.0): a first-solution heuristic, local search and, if wanted, a metaheuristic.

A fair comparison states its strategy, metaheuristic, seconds per instance and the gap to a strong reference: on the
TSP with 100 nodes, guided local search stays 1 to 4 % above the best tours after 1 to 10 seconds.

References:
    L. Perron and V. Furnon, OR-Tools, Google, https://developers.google.com/optimization/routing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ncogym.baselines.base import OutsideTourSolver, Run, needs, to_integers
from ncogym.errors import ArgumentError

# those of OR-Tools' own names that need nothing beyond arc costs and visits that are all mandatory
FirstSolution = Literal[
    "AUTOMATIC",
    "PATH_CHEAPEST_ARC",
    "PATH_MOST_CONSTRAINED_ARC",
    "SAVINGS",
    "PARALLEL_SAVINGS",
    "CHRISTOFIDES",
    "PARALLEL_CHEAPEST_INSERTION",
    "SEQUENTIAL_CHEAPEST_INSERTION",
    "LOCAL_CHEAPEST_INSERTION",
    "LOCAL_CHEAPEST_COST_INSERTION",
    "GLOBAL_CHEAPEST_ARC",
    "LOCAL_CHEAPEST_ARC",
    "FIRST_UNBOUND_MIN_VALUE",
]
Metaheuristic = Literal["GUIDED_LOCAL_SEARCH", "SIMULATED_ANNEALING", "TABU_SEARCH", "GENERIC_TABU_SEARCH"]

LONGEST = 10**9  # far from overflowing 64 bits, even summed up and penalised
USUAL_SECONDS = 1.0
READING_SHARE = 0.02  # of a run's time may go into reading improved tours for the anytime curve


class OrToolsRouting(OutsideTourSolver):
    """OR-Tools routing with one vehicle, on one thread per instance, symmetric or not.

    OR-Tools computes in whole numbers: distances that are whole and at most 1e9 are handed over as they are, others are
    scaled so that the longest is 1e9, a resolution of a billionth of the longest distance. The environment scores the
    tours.

    Without a metaheuristic it stops by itself in a local optimum. With one it uses all seconds of the budget, or 1 s
    where the budget has none. It is deterministic but for the clock.

    Args:
        first_solution: OR-Tools' name of the first-solution strategy.
        metaheuristic: OR-Tools' name of the metaheuristic, or None for local search alone.
        scale: whole units per unit of distance, to follow a published protocol (1e6 on the unit square, say), instead
            of the constant above.
        workers: see `OutsideTourSolver`.
        progress_bar: see `OutsideTourSolver`.
    """

    name = "ortools"

    def __init__(
        self,
        first_solution: FirstSolution = "PATH_CHEAPEST_ARC",
        metaheuristic: Metaheuristic | None = "GUIDED_LOCAL_SEARCH",
        *,
        scale: float | None = None,
        workers: int = 1,
        progress_bar: bool = True,
    ) -> None:
        super().__init__(workers=workers, progress_bar=progress_bar)
        _one_of("first_solution", first_solution, get_args(FirstSolution))
        if metaheuristic is not None:
            _one_of("metaheuristic", metaheuristic, get_args(Metaheuristic))
        if scale is not None and not 0 < scale < math.inf:
            raise ArgumentError(f"scale: {scale} is not allowed; it must be above 0 and finite, or None")
        self.first_solution, self.metaheuristic, self.scale = first_solution, metaheuristic, scale

    def _solve(self, dists: NDArray[np.float64], run: Run) -> None:
        with needs("ortools", extra="solvers"):
            from ortools.constraint_solver import pywrapcp, routing_enums_pb2

        num_nodes = len(dists)
        matrix = to_integers(dists, LONGEST) if self.scale is None else np.rint(dists * self.scale).astype(np.int64)
        manager = pywrapcp.RoutingIndexManager(num_nodes, 1, 0)
        routing = pywrapcp.RoutingModel(manager)
        routing.SetArcCostEvaluatorOfAllVehicles(routing.RegisterTransitMatrix(matrix.tolist()))
        successors = [routing.NextVar(index) for index in range(num_nodes)]
        nodes = [manager.IndexToNode(index) for index in range(num_nodes)]
        lowest, reading = math.inf, 0.0

        def report(cost: float, successor: Callable[[int], int]) -> None:
            nonlocal lowest
            lowest = cost
            tour, index = [], routing.Start(0)
            while not routing.IsEnd(index):
                tour.append(nodes[index])
                index = successor(index)
            run.report(tour)

        def at_solution() -> None:
            nonlocal reading
            if run.cancelled:
                routing.CancelSearch()
            cost = routing.CostVar().Value()
            if cost < lowest and reading <= READING_SHARE * run.elapsed:
                start = run.elapsed
                report(cost, lambda index: successors[index].Value())
                reading += run.elapsed - start

        routing.AddAtSolutionCallback(at_solution)
        parameters = pywrapcp.DefaultRoutingSearchParameters()
        parameters.first_solution_strategy = getattr(routing_enums_pb2.FirstSolutionStrategy, self.first_solution)
        seconds = run.left
        if self.metaheuristic is not None:
            metaheuristics = routing_enums_pb2.LocalSearchMetaheuristic
            parameters.local_search_metaheuristic = getattr(metaheuristics, self.metaheuristic)
            seconds = USUAL_SECONDS if seconds == math.inf else seconds
        if seconds < math.inf:
            parameters.time_limit.FromMicroseconds(int(seconds * 1e6))
        solution = routing.SolveWithParameters(parameters)
        if solution is not None and solution.ObjectiveValue() < lowest:
            report(solution.ObjectiveValue(), lambda index: solution.Value(successors[index]))


def _one_of(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ArgumentError(f"{argument}: {value!r} is not allowed; it must be one of {', '.join(allowed)}")
