"""OR-Tools' CP-SAT solver (Apache-2.0): job shops, knapsacks, tours and sets of nodes as constraint programmes.

CP-SAT is built to run several strategies side by side; its maintainers recommend at least 8 threads. Here it gets one,
like every other solver, unless told otherwise: state the threads with its numbers.

References:
    L. Perron, F. Didier and S. Gay (2023), The CP-SAT-LP Solver, 29th International Conference on Principles and
    Practice of Constraint Programming. https://developers.google.com/optimization/cp.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict

from ncogym.baselines import ortools_graphs as of_graphs
from ncogym.baselines.base import ANY_WAY, OutsideImprover, Run, needs, to_integers
from ncogym.baselines.degree_greedy import DegreeGreedy
from ncogym.baselines.dispatching import Dispatching
from ncogym.baselines.heuristics import NearestNeighbour
from ncogym.baselines.knapsack import RatioGreedy
from ncogym.baselines.ortools_graphs import EXACT, MOST, Built
from ncogym.budget import Budget
from ncogym.errors import ArgumentError, SolverError
from ncogym.models import Clique, Cut, DominatingSet, IndependentSet, Model, Packing, Shop, Tour, VertexCover
from ncogym.problem import Problem
from ncogym.solver import Solver

LONGEST = 10**6  # what the longest distance is scaled to
DIGITS = 9  # of the largest weight or value of an item, where they have to be scaled
USUAL_SECONDS = 10.0

Numbers = NDArray[np.float64]


class Programme(NamedTuple):
    """One instance.

    Attributes:
        build: builds CP-SAT's model of it.
        numbers: the instance, a row of a `ncogym.models.Model`.
        simple: actions of a simple solution.
        seed: of 31 bits.
    """

    build: Callable[[Any, Any], Built]
    numbers: Any
    simple: list[int]
    seed: int


class CpSat(OutsideImprover):
    """CP-SAT on one instance after the other, until it has proven that nothing is better or its seconds are over.

    It takes the seconds of the budget, or 10 s where the budget has none. As an improver it gets the solution that is
    there as a hint, of all variables. Alone it first reports a simple one, which it does not look at: most work
    remaining first, items by ratio, the nearest node next, or nodes by degree; so there is an answer while it is still
    at its presolve, in which it hears nothing. Rollouts are counted (each solution that it reports is one) but do not
    limit it. It is deterministic but for the clock, given the generator's seed. Durations, and other data that are
    whole, are handed over as they are, else

    - weights and values of items are scaled by powers of ten, so that the largest has 9 digits before the point, which
      leaves decimals of a file exact. Of what is then left, values are rounded, and weights rounded up, so that what
      fits there fits here; what would fill the knapsack to within a unit per item may be missed;
    - distances are scaled so that the longest is 1e6, and rounded (with larger numbers it was slower).

    The proof is told in `Solution.proven` where the data were handed over as they are; a proof for scaled and rounded
    numbers is none for the instance.

    A tour has a variable per pair of nodes, which is a matter of some 100 nodes. It is strong where directions differ
    (50 nodes proven in 0.15 s) and weak where they do not (50 nodes 5 % above the best after 10 s).

    Args:
        threads: of CP-SAT within an instance.
        workers: see `OutsideSolver`.
        progress_bar: see `OutsideSolver`.
    """

    name = "cp-sat"
    apart = True
    reads = (Shop, Packing, Tour, IndependentSet, Clique, VertexCover, DominatingSet, Cut)
    can = ANY_WAY | {"weights", "edge_weights"}

    def __init__(self, threads: int = 1, *, workers: int = 1, progress_bar: bool = True) -> None:
        super().__init__(workers=workers, progress_bar=progress_bar)
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ArgumentError(f"threads: {threads} is not allowed; it must be a whole number of at least 1")
        self.threads = threads

    def settings(self, model: Model) -> str:
        return f"{self.threads} worker{'s' * (self.threads != 1)}"

    def _view(self, env: Problem, one: TensorDict, budget: Budget, rng: torch.Generator) -> Programme:
        model = self.model(env, one)
        build, simple = BUILDS[type(model)]
        start = simple()(env, one, None, rng)[0].actions.tolist()
        seed = int(torch.randint(2**31 - 1, (), generator=rng, device=rng.device))
        return Programme(build, model.row(0), start, seed)

    def _load(self, run: Run) -> Any:
        with run.paused():
            return _cp_model()

    def _solve(self, problem: Programme, run: Run) -> None:
        cp_model = self._load(run)
        if run.start is None:
            run.report(problem.simple)
        if run.cancelled:
            return
        model = cp_model.CpModel()
        built = problem.build(model, problem.numbers)
        for variable, value in built.hint(run.start) if run.start else ():
            model.add_hint(variable, value)

        class Reporting(cp_model.CpSolverSolutionCallback):  # type: ignore[name-defined]
            def on_solution_callback(self) -> None:
                run.report(built.actions(self.value))

        solver = cp_model.CpSolver()
        solver.parameters.num_workers = self.threads
        solver.parameters.random_seed = problem.seed
        if problem.build is _tour:  # the bound by the linear relaxation is nearly tight where directions differ
            solver.parameters.linearization_level = 2
            solver.parameters.cp_model_probing_level = solver.parameters.symmetry_level = 0
        solver.parameters.catch_sigint_signal = False  # the interrupt is for whoever may cancel the budget
        solver.parameters.max_time_in_seconds = USUAL_SECONDS if run.limit == math.inf else run.left
        status = solver.solve(model, Reporting())
        if status == cp_model.MODEL_INVALID:
            raise SolverError(f"{self.name}: {model.validate()}")
        if status == cp_model.OPTIMAL and built.exact:
            run.prove()


def _job_shop(model: Any, shop: Shop) -> Built:
    """Model start times ``[jobs, operations]``; the operations of a job in order, those of a machine apart."""
    durations, machines = shop.durations, shop.machines
    horizon = int(durations[machines >= 0].sum())
    makespan = model.new_int_var(0, horizon, "")
    jobs, on, lengths, starts = [], [], [], []
    queues: dict[int, list[Any]] = {}
    for job, (times, route) in enumerate(zip(durations.tolist(), machines.tolist(), strict=True)):
        end: Any = 0
        for duration, machine in zip(times, route, strict=True):
            if machine < 0:
                continue
            start = model.new_int_var(0, horizon - duration, "")
            model.add(start >= end)
            queues.setdefault(machine, []).append(model.new_fixed_size_interval_var(start, duration, ""))
            end = start + duration
            jobs.append(job)
            on.append(machine)
            lengths.append(duration)
            starts.append(start)
        model.add(makespan >= end)
    for queue in queues.values():
        model.add_no_overlap(queue)
    model.minimize(makespan)

    def actions(value: Callable[[Any], int]) -> list[int]:
        begins = np.array([value(start) for start in starts])
        # where two begin at once, the one that takes no time is first; the sort keeps the order within a job
        return [jobs[place] for place in np.lexsort((begins + np.array(lengths), begins))]

    def hint(order: list[int]) -> Iterator[tuple[Any, int]]:
        job_ready, machine_ready = [0] * len(machines), dict.fromkeys(queues, 0)
        following = [jobs.index(job) if job in jobs else 0 for job in range(len(machines))]
        for job in order[: len(jobs)]:
            place = following[job]
            begin = max(job_ready[job], machine_ready[on[place]])
            job_ready[job] = machine_ready[on[place]] = begin + lengths[place]
            following[job] += 1
            yield starts[place], begin
        yield makespan, max(job_ready)

    return Built(actions, hint, horizon <= EXACT)


def _knapsack(model: Any, packing: Any) -> Built:
    """Model which items ``[items]`` are taken."""
    weights, values, capacity = packing.weights, packing.values, packing.capacity
    exponent = _exponent(weights)
    # a decimal such as 0.3 is not to be rounded up for its binary rounding
    loads = np.ceil(_shifted(weights, exponent) - 1e-6)
    room = math.floor(min(float(_shifted(capacity, exponent)) + 1e-6, loads.sum()))
    taken = [model.new_bool_var("") for _ in weights]
    model.add(_dot(loads, taken) <= room)
    worths = np.rint(_shifted(values, _exponent(values)))
    model.maximize(_dot(worths, taken))
    exact = bool((loads == weights).all() and (worths == values).all()) and worths.sum() <= EXACT

    def actions(value: Callable[[Any], int]) -> list[int]:
        items = [item for item, variable in enumerate(taken) if value(variable)]
        return items + [len(taken)] * (len(taken) - len(items))

    def hint(items: list[int]) -> Iterator[tuple[Any, int]]:
        return ((variable, int(item in items)) for item, variable in enumerate(taken))

    return Built(actions, hint, exact)


def _tour(model: Any, tour: Tour) -> Built:
    """Model which node follows which, ``[nodes, nodes]``."""
    dists = tour.distances.matrix[0].cpu().numpy()
    lengths = to_integers(dists, LONGEST)
    follows = {(a, b): model.new_bool_var("") for a, b in np.ndindex(lengths.shape) if a != b}
    model.add_circuit([(a, b, literal) for (a, b), literal in follows.items()])
    model.minimize(_dot([lengths[arc] for arc in follows], list(follows.values())))
    exact = all(lengths[arc] == dists[arc] for arc in follows)

    def actions(value: Callable[[Any], int]) -> list[int]:
        successor = {a: b for (a, b), literal in follows.items() if value(literal)}
        tour = [0]
        while len(tour) < len(successor):
            tour.append(successor[tour[-1]])
        return tour

    def hint(tour: list[int]) -> Iterator[tuple[Any, int]]:
        taken = set(itertools.pairwise([*tour[: len(dists)], tour[0]]))
        return ((literal, int(arc in taken)) for arc, literal in follows.items())

    return Built(actions, hint, exact)


def _cp_model() -> Any:
    with needs("ortools", extra="solvers"):
        from ortools.sat.python import cp_model
    return cp_model


def _dot(coefficients: Any, variables: list[Any]) -> Any:
    return _cp_model().LinearExpr.weighted_sum(variables, [int(coefficient) for coefficient in coefficients])


def _exponent(numbers: Numbers) -> int:
    """Return 0 for whole numbers of moderate size, else the power of ten that gives the largest `DIGITS` digits."""
    peak = float(numbers.max())
    whole = peak <= MOST and bool((numbers == np.rint(numbers)).all())
    return 0 if whole else DIGITS - math.ceil(math.log10(peak))


def _shifted(numbers: Numbers, exponent: int) -> Numbers:
    """Return numbers times a power of ten, which may itself be no float64."""
    first = max(min(exponent, 300), -300)
    with np.errstate(over="ignore"):  # a capacity for more than there is
        return numbers * 10.0**first * 10.0 ** (exponent - first)


BUILDS: dict[type[Model], tuple[Callable[[Any, Any], Built], Callable[[], Solver]]] = {
    Shop: (_job_shop, Dispatching),
    Packing: (_knapsack, RatioGreedy),
    Tour: (_tour, NearestNeighbour),
    IndependentSet: (of_graphs.independent_set, DegreeGreedy),
    Clique: (of_graphs.clique, DegreeGreedy),
    VertexCover: (of_graphs.vertex_cover, DegreeGreedy),
    DominatingSet: (of_graphs.dominating_set, DegreeGreedy),
    Cut: (of_graphs.cut, DegreeGreedy),
}
"""What builds CP-SAT's model of each, and what finds a simple solution."""
