"""OR-Tools' routing solver (Apache-2.0): a first-solution heuristic, local search and, if wanted, a metaheuristic.

A fair comparison states its strategy, metaheuristic, seconds per instance and the gap to a strong reference: on the
TSP with 100 nodes, guided local search stays 1 to 4 % above the best tours after 1 to 10 seconds.

References:
    L. Perron and V. Furnon, OR-Tools, Google, https://developers.google.com/optimization/routing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

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
from ncogym.errors import ArgumentError
from ncogym.models import Model, Routes, Tour

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
LARGEST = 10**13  # beyond which the lengths of a thousand nodes, each penalised, may
USUAL_SECONDS = 1.0
HANDOVER_SHARE = 0.5  # of a run's time, by which its distances must be in lists: OR-Tools takes as long to read those
LOOK_EVERY = 256  # rows between two looks at the clock, so that no small instance is refused by a busy machine
READING_SHARE = 0.02  # of a run's time may go into reading improved tours for the anytime curve


class OrToolsRouting(OutsideRouteSolver, OutsideImprover):
    """OR-Tools routing on one thread per instance, of tours and of capacitated routes, symmetric or not.

    Routes get twice as many vehicles as the loads fill and three more, but no more than there are customers: where no
    detour is shorter than the direct way, two half-empty ones can always be one.

    OR-Tools computes in whole numbers: distances that are whole and at most 1e9 are handed over as they are, others are
    scaled so that the longest is 1e9, a resolution of a billionth of the longest distance; demands and capacities go
    through `to_loads`. The environment scores the solutions.

    Without a metaheuristic it stops by itself in a local optimum. With one it uses all seconds of the budget, or 1 s
    where the budget has none. It is deterministic but for the clock. As an improver it begins from the routes that it
    is given, unless these do not fit the rounded loads.

    Args:
        first_solution: OR-Tools' name of the first-solution strategy.
        metaheuristic: OR-Tools' name of the metaheuristic, or None for local search alone.
        scale: whole units per unit of distance, to follow a published protocol (1e6 on the unit square, say), instead
            of the constant above.
        workers: see `OutsideSolver`.
        progress_bar: see `OutsideSolver`.
    """

    name = "ortools"
    reads = (Routes, Tour)

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

    def settings(self, model: Model) -> str:
        metaheuristic = self.metaheuristic or "none, it stops in a local optimum"
        return f"first solution {self.first_solution}, metaheuristic {metaheuristic}"

    def _solve(self, problem: Routing, run: Run) -> None:
        with needs("ortools", extra="solvers"), run.paused():
            from ortools.constraint_solver import pywrapcp, routing_enums_pb2

        num_nodes, loads, num_vehicles = len(problem.dists), problem.loads, 1
        start = None if run.start is None else to_routes(run.start, num_nodes, loads is None)
        matrix = to_integers(problem.dists, LONGEST) if self.scale is None else self._scaled(problem.dists)
        if loads is not None:
            num_vehicles = min(num_nodes - 1, 2 * math.ceil(loads.sum() / problem.capacity) + 3)
            num_vehicles = max(num_vehicles, len(start or ()))
        manager = pywrapcp.RoutingIndexManager(num_nodes, num_vehicles, 0)
        routing = pywrapcp.RoutingModel(manager)
        rows, begun = [], run.elapsed
        for number, row in enumerate(matrix):
            if number % LOOK_EVERY == 0 and run.elapsed - begun > HANDOVER_SHARE * run.limit:
                return
            rows.append(row.tolist())
        routing.SetArcCostEvaluatorOfAllVehicles(routing.RegisterTransitMatrix(rows))
        if loads is not None:
            load = routing.RegisterUnaryTransitVector(loads.tolist())
            routing.AddDimension(load, 0, problem.capacity, True, "load")
        successors = [routing.NextVar(index) for index in range(routing.Size())]
        nodes = [manager.IndexToNode(index) for index in range(routing.Size())]
        lowest, reading = math.inf, 0.0

        def routes(successor: Callable[[int], int]) -> Iterator[list[int]]:
            for vehicle in range(num_vehicles):
                route, index = [], successor(routing.Start(vehicle))
                while not routing.IsEnd(index):
                    route.append(nodes[index])
                    index = successor(index)
                yield route

        def report(cost: float, successor: Callable[[int], int]) -> None:
            nonlocal lowest
            lowest = cost
            run.report([0, *next(routes(successor))] if loads is None else to_actions(routes(successor)))

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
        initial = None
        if start is not None:
            routing.CloseModelWithParameters(parameters)
            initial = routing.ReadAssignmentFromRoutes(
                [[manager.NodeToIndex(node) for node in route] for route in start], True
            )
        if initial is None:
            solution = routing.SolveWithParameters(parameters)
        else:
            solution = routing.SolveFromAssignmentWithParameters(initial, parameters)
        if solution is not None and solution.ObjectiveValue() < lowest:
            report(solution.ObjectiveValue(), lambda index: solution.Value(successors[index]))

    def _scaled(self, dists: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return distances by the scale that was asked for."""
        longest = float(dists.max()) * (self.scale or 1.0)
        if longest > LARGEST:
            line = f"scale: {self.scale} is not allowed here; the longest distance becomes {longest:g}"
            raise ArgumentError(f"{line}, and at most {LARGEST:g} is allowed")
        return np.rint(dists * (self.scale or 1.0)).astype(np.int64)


def _one_of(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ArgumentError(f"{argument}: {value!r} is not allowed; it must be one of {', '.join(allowed)}")
