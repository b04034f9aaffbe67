"""What the classical solvers share: what they read of a problem, and instances solved one by one in worker processes.

An outside solver takes one instance at a time and does not know `Progress`. `solve_each` runs it over a batch, here or
in worker processes, and replays what each run reported into a `Progress` of its own, so that the environment scores
and checks every solution, and so that seconds are those which the run itself took, wherever it ran.
"""

from __future__ import annotations

import abc
import itertools
import math
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor

from ncogym.baselines.aside import POSSIBLE, aside, passed_on
from ncogym.books import Progress
from ncogym.budget import Budget
from ncogym.errors import (
    ArgumentError,
    NoSolutionFound,
    SolverError,
    SolverNotInstalled,
    UnsupportedProblem,
)
from ncogym.models import Model, Routes, Tour
from ncogym.problem import Problem
from ncogym.solution import Solution, Solutions, TracePoint
from ncogym.solver import Improver
from ncogym.workers import interrupts_held

PAUSE_SHARE = 0.1  # of a run's seconds, up to which they pay for an import
HANDOVER_SECONDS = 0.05  # that a solver may take to end, read and hand over what it had found within its seconds
RESOLUTION = 100_000  # whole units in a vehicle's capacity, where loads have fractions


class Baseline(abc.ABC):
    """A classical solver, which takes what a problem shows it (`ncogym.models`), never what it looks like or is called.

    Attributes:
        name: the solver's name in tables and records.
        reads: the models that it solves.
        can: what they may ask for beyond what is neutral (`ncogym.models.Model.needs`).
    """

    name: str
    reads: ClassVar[tuple[type[Model], ...]]
    can: ClassVar[frozenset[str]] = frozenset()

    def refuses(self, model: Model | None) -> str | None:
        """Return in words why this solver cannot take a problem that shows this model, or None where it can."""
        solves = " and ".join(f"{each.words} ({each.__name__})" for each in self.reads)
        if model is None:
            return f"it solves {solves}, and the problem shows solvers nothing"
        if not isinstance(model, self.reads):
            return f"it solves {solves}, and these are {model.words} ({type(model).__name__})"
        missing = ", ".join(sorted(model.needs - self.can))
        return f"these {model.words} have {missing}, which it does not know" if missing else None

    def supports(self, env: Problem, instances: TensorDict) -> bool:
        """Return whether this solver can take instances of batch size ``[batch]``."""
        return self.refuses(env.model(instances)) is None

    def check(self, env: Problem, instances: TensorDict) -> None:
        """Refuse instances of batch size ``[batch]`` that this solver cannot take.

        Raises:
            UnsupportedProblem: it cannot; the words say why.
        """
        self.model(env, instances)

    def settings(self, model: Model) -> str:
        """Return, in words for the notes of a table, what this solver is told that decides its results; "" if nothing.

        Args:
            model: what it is to solve.
        """
        return ""

    def model(self, env: Problem, instances: TensorDict) -> Any:
        """Return what this solver may see of instances of batch size ``[batch]``: one of the models that it reads.

        Raises:
            UnsupportedProblem: it cannot take them; the words say why.
        """
        model = env.model(instances)
        if reason := self.refuses(model):
            raise UnsupportedProblem(f"{self.name} cannot take {env.name}; {reason}")
        return model


ANY_WAY = frozenset({"asymmetric"})  # of solvers that take distances which differ by direction


class OutsideSolver(Baseline):
    """A solver from another package, called once per instance.

    Args:
        workers: processes that solve instances side by side, each on one thread; 1 solves in this process. A worker
            takes seconds to start, and more workers than processor cores spoil one another's time.
        progress_bar: show one on a terminal while a batch is solved.

    Attributes:
        apart: whether each run goes on in a process of its own (`ncogym.baselines.aside`), since the solver may hear
            nothing for a while.
    """

    apart: ClassVar[bool] = False

    def __init__(self, *, workers: int = 1, progress_bar: bool = True) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ArgumentError(f"workers: {workers} is not allowed; it must be a whole number of at least 1")
        self.workers, self.progress_bar = workers, progress_bar

    @abc.abstractmethod
    def _view(self, env: Problem, one: TensorDict, budget: Budget, rng: torch.Generator) -> Any:
        """Return what `_solve` needs to know of an instance of batch size ``[1]``, picklable; called row by row."""

    def _load(self, run: Run) -> Any:
        """Import the package, its clock paused, and return it; before a process is forked, which then has it."""
        return None

    @abc.abstractmethod
    def _solve(self, problem: Any, run: Run) -> None:
        """Solve one instance, as `_view` shows it, reporting to ``run``.

        It ends soon once it is cancelled; where it cannot, it is `apart`, and looks at its beginning whether it is.
        """

    def _job(self, problem: Any, run: Run) -> None:
        """Solve one instance, in a process of its own where only its end makes the solver stop."""
        if self.apart and POSSIBLE:
            self._load(run)
            aside(self._solve, problem, run)
        else:
            self._solve(problem, run)

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        return self._each(env, instances, budget or Budget(), rng, None)

    def _each(
        self, env: Problem, instances: TensorDict, budget: Budget, rng: torch.Generator, starts: Tensor | None
    ) -> Solutions:
        return solve_each(
            self.name,
            env,
            instances,
            budget,
            view=lambda one: self._view(env, one, budget, rng),
            job=self._job,
            starts=starts,
            workers=self.workers,
            progress_bar=self.progress_bar,
        )


class OutsideImprover(OutsideSolver, Improver):
    """An `OutsideSolver` that can begin from a solution, which its `_solve` finds in ``run.start``."""

    def improve(self, progress: Progress, rng: torch.Generator) -> None:
        left = progress.left()
        progress.take(self._each(progress.env, progress.instances, left, rng, progress.actions))


class OutsideTourSolver(OutsideSolver):
    """A solver of tours from another package; its `_solve` gets the distances, float64 ``[nodes, nodes]``.

    Of a budget it keeps the seconds; rollouts are counted (each tour it reports is one) but do not limit it.
    """

    reads = (Tour,)
    can = ANY_WAY

    def _view(self, env: Problem, one: TensorDict, budget: Budget, rng: torch.Generator) -> NDArray[np.float64]:
        return self.model(env, one).distances.matrix[0].cpu().numpy()


class Routing(NamedTuple):
    """A routing problem in numbers, and what its run may cost.

    Attributes:
        dists: float64 ``[nodes, nodes]``; 0 on the diagonal; node 0 is the depot.
        loads: int64 ``[nodes]``, what each node wants delivered, 0 at the depot; None for a closed tour.
        capacity: of each vehicle, in the same units; 0 for a closed tour.
        windows: float64 ``[nodes, 2]``, within which service must begin, or None; distances are times then.
        service: float64 ``[nodes]``, how long it takes, or None.
        rollouts: that the budget allows.
        patience: rollouts without an improvement that it allows.
        seed: for the solver's own generator, at most 31 bits.
    """

    dists: NDArray[np.float64]
    loads: NDArray[np.int64] | None = None
    capacity: int = 0
    windows: NDArray[np.float64] | None = None
    service: NDArray[np.float64] | None = None
    rollouts: float = math.inf
    patience: float = math.inf
    seed: int = 0


class OutsideRouteSolver(OutsideSolver):
    """A solver of routes from another package; its `_solve` gets a `Routing`, with loads by `to_loads`.

    Attributes:
        largest_load: the largest whole number that the solver takes for a load.
    """

    reads: ClassVar[tuple[type[Model], ...]] = (Routes,)
    can = ANY_WAY
    largest_load: ClassVar[int] = 10**9

    def _view(self, env: Problem, one: TensorDict, budget: Budget, rng: torch.Generator) -> Routing:
        model = self.model(env, one)
        dists = model.distances.matrix[0].cpu().numpy().copy()
        np.fill_diagonal(dists, 0.0)
        loads, capacity = None, 0
        if isinstance(model, Routes):
            demand, holds = model.demand[0].cpu().numpy(), float(model.capacity[0])
            refuse_unfit(self.name, demand, holds)
            loads, capacity = to_loads(demand, holds, self.largest_load)
        seed = int(torch.randint(2**31 - 1, (), generator=rng, device=rng.device))
        windows, service = (None if each is None else each[0].cpu().numpy() for each in (model.windows, model.service))
        return Routing(dists, loads, capacity, windows, service, budget.rollouts, budget.patience, seed)


def to_actions(routes: Iterable[Iterable[int]]) -> list[int]:
    """Join routes, each without the depot, into actions: a 0 between two that are not empty."""
    return [node for route in map(list, routes) if route for node in (0, *route)][1:]


def to_routes(actions: list[int], num_nodes: int, is_tour: bool) -> list[list[int]]:
    """Return the routes from node 0 that actions stand for, each without it; a tour is one."""
    if is_tour:
        place = actions.index(0)
        return [actions[place + 1 : num_nodes] + actions[:place]]
    parted = itertools.groupby(actions, key=bool)
    return [list(route) for is_route, route in parted if is_route]


def to_loads(demands: NDArray[np.float64], capacity: float, largest: int) -> tuple[NDArray[np.int64], int]:
    """Return demands and a capacity as whole numbers, so that what fits these fits those.

    Whole numbers stay as they are, and decimals of up to six places are counted in units of the last, where none is
    above ``largest`` then. Otherwise the capacity becomes `RESOLUTION` and demands, in that unit, are rounded up: a
    route may then take less than would fit, by one unit for each customer.

    Args:
        demands: ``[nodes]``, not negative.
        capacity: above 0.
        largest: the largest whole number that the solver shall see.
    """
    with np.errstate(over="ignore"):
        capacity = min(capacity, float(demands.sum()) or capacity)  # more than all demands is no more than all
    numbers = np.append(demands, capacity)
    for places in range(7):
        if numbers.max() > largest / 10**places:
            break
        scaled = numbers * 10**places
        whole = np.rint(scaled)
        if np.abs(scaled - whole).max() <= 1e-12 * scaled.max():
            return whole[:-1].astype(np.int64), int(whole[-1])
    return np.ceil(to_scale(demands, capacity, RESOLUTION) - 1e-6).astype(np.int64), RESOLUTION


def to_scale(numbers: NDArray[np.float64], unit: float, top: float) -> NDArray[np.float64]:
    """Return ``numbers`` in parts of ``unit``, of which there are ``top``; tiny and huge ones, too.

    Raises:
        ArgumentError: ``unit`` is not finite, as a distance between places that are too far apart.
    """
    if not math.isfinite(unit):
        raise ArgumentError(f"instance: a number of {unit} is not allowed for this solver; it must be finite")
    factor = top / unit
    return numbers * factor if math.isfinite(factor) else numbers / unit * top


def refuse_unfit(name: str, demands: NDArray[np.float64], capacity: float, of: str = "") -> None:
    """Say so where a customer of the instance ``of`` wants more than a vehicle holds, rather than search in vain.

    Raises:
        NoSolutionFound: one does.
    """
    if demands.max() > capacity:
        wants = f"a customer wants {demands.max():.17g} and a vehicle holds {capacity:.17g}"
        raise NoSolutionFound(f"{name}: there is no solution{of}; {wants}")


def to_integers(dists: NDArray[np.float64], longest: int) -> NDArray[np.int64]:
    """Return distances as whole numbers, for a solver that takes no others.

    Distances that are whole and at most ``longest`` stay as they are. Others are scaled by the one constant that turns
    the longest distance into ``longest``, and rounded: the resolution is the longest distance divided by ``longest``.

    Args:
        dists: ``[nodes, nodes]``, not negative; files hold anything on the diagonal, which becomes 0.
        longest: the largest whole number that the solver shall see.
    """
    dists = np.where(np.eye(len(dists), dtype=bool), 0.0, dists)
    peak = float(dists.max())
    whole = peak <= longest and bool((dists == np.rint(dists)).all())
    return np.rint(dists if whole else to_scale(dists, peak, longest)).astype(np.int64)


@contextmanager
def needs(package: str, extra: str, note: str = "") -> Iterator[None]:
    """Turn a failed import into a line that says which extra to install.

    Args:
        package: the package as pip knows it.
        extra: the extra of ncogym that brings it.
        note: what else must be known, such as a licence.

    Raises:
        SolverNotInstalled: an import inside the ``with`` failed.
    """
    try:
        yield
    except ImportError as error:
        more = f"; {note}" if note else ""
        line = f"{package} cannot be imported ({error}); pip install 'ncogym[{extra}]'{more}"
        raise SolverNotInstalled(line) from error


class Run:
    """One instance under way: its clock, and where a job reports the solutions that it finds.

    Args:
        limit: seconds that this run may take; infinite where nothing limits it.
        cancelled: tells whether it was cancelled from outside.
        lead: seconds that went into this instance before.
        start: actions of the solution to go on from, padding included, or None.

    Attributes:
        reports: seconds and actions of each solution reported.
        tell: is told each report as well, where it goes on to another process.
        proven: whether the solver has proven that nothing is better than the best of them.
    """

    def __init__(
        self, limit: float, cancelled: Callable[[], bool], lead: float = 0.0, start: list[int] | None = None
    ) -> None:
        self.limit, self._cancelled, self.start = limit, cancelled, start
        self.reports: list[tuple[float, list[int]]] = []
        self.tell: Callable[[tuple[float, list[int]]], None] | None = None
        self.proven = False
        self._start = time.perf_counter() - lead

    @property
    def elapsed(self) -> float:
        """Seconds that this instance has taken so far."""
        return time.perf_counter() - self._start

    @property
    def left(self) -> float:
        """Seconds that the limit still allows, at least a millisecond; infinite where nothing limits it."""
        return max(self.limit - self.elapsed, 1e-3)

    @property
    def cancelled(self) -> bool:
        """Whether the run shall end soon with the best that it has."""
        return self._cancelled()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for what would eat a small budget, as the first import of a package: a tenth of it counts."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            counted = PAUSE_SHARE * self.limit if self.limit < math.inf else 0.0
            self.skip(max(time.perf_counter() - begin - counted, 0.0))

    def skip(self, seconds: float) -> None:
        """Set the clock back by what went into something else than solving."""
        self._start += seconds

    def report(self, actions: Iterable[int]) -> None:
        """Take note of a solution, as of now."""
        self.reports.append((self.elapsed, [int(action) for action in actions]))
        if self.tell is not None:
            self.tell(self.reports[-1])

    def prove(self) -> None:
        """Take note that nothing is better than the best that was reported; for the instance itself, not rounded."""
        self.proven = True


Job = Callable[[Any, Run], None]


class _Outcome(NamedTuple):
    """What is left of a run: its seconds, the seconds and actions of each report, and whether the best is proven."""

    seconds: float
    reports: list[tuple[float, list[int]]]
    proven: bool


_Task = tuple[int, Any, float, list[int] | None]
_Outcomes = Generator[tuple[int, _Outcome], None, None]


class _Replay(Progress):
    """The books of a run that is over; the clock shows what the run's own clock showed."""

    seconds: float = 0.0

    def replay(self, reports: list[tuple[float, list[int]]]) -> None:
        """Offer what was reported, all at once: a referee's call takes milliseconds, and the run is over."""
        device = next(iter(self.instances.values())).device
        steps, place = max(len(actions) for _, actions in reports), len(self._curves)
        told = [torch.tensor(actions, device=device)[None] for _, actions in reports]
        offered = torch.stack([self.env.padded(self.instances, actions, steps) for actions in told], dim=1)
        if self._first is None:
            self._first = max(reports[0][0] - HANDOVER_SECONDS, 0.0)
        values = self.offer(offered)[0].tolist()
        broken = {violation.rollout for violation in self.env.violations(self.instances, offered)}
        if broken:
            self._doubted.add(0)
        sound = [number for number in range(len(reports)) if number not in broken]
        self._curves.insert(place, [[TracePoint(reports[n][0], n + 1, values[n]) for n in sound]])


def solve_each(
    name: str,
    env: Problem,
    instances: TensorDict,
    budget: Budget | None,
    *,
    view: Callable[[TensorDict], Any],
    job: Job,
    starts: Int64[Tensor, "batch steps"] | None = None,
    workers: int = 1,
    progress_bar: bool = True,
) -> Solutions:
    """Solve the instances of a batch one by one.

    `Solution.seconds` and the trace are measured around each instance, in the process that solves it. A cancelled
    budget ends the runs under way with what they have, and begins no other.

    Args:
        name: the solver's name.
        env: the problem; scores and checks.
        instances: batch size ``[batch]``.
        budget: its seconds limit each run.
        view: takes a TensorDict of batch size ``[1]`` and returns what the job needs of it, picklable for workers.
        job: solves one view, reporting to a `Run`; picklable for workers.
        starts: a solution of each instance that is there before, and counts as found from the beginning.
        workers: processes; 1 solves in this one.
        progress_bar: show one on a terminal, if there is more than one instance; never where this is a worker itself.

    Raises:
        NoSolutionFound: an instance got no solution within the budget or before it was cancelled.
        SolverError: a worker process died.
    """
    budget = budget or Budget()
    batch, workers = instances.batch_size[0], min(workers, instances.batch_size[0])
    tasks = _tasks(instances, view, None if starts is None else starts.tolist())
    runs = _in_workers(name, job, tasks, budget, workers) if workers > 1 else _here(job, tasks, budget)
    shown = progress_bar and batch > 1 and multiprocessing.parent_process() is None
    solutions: dict[int, Solution] = {}
    with closing(runs):
        for row, outcome in _with_bar(runs, name, batch) if shown else runs:
            solutions[row] = _scored(name, env, instances, row, budget, outcome, starts)
    for row in range(batch if starts is not None else 0):
        if row not in solutions:  # cancelled before it was begun
            solutions[row] = _scored(name, env, instances, row, budget, _Outcome(0.0, [], False), starts)
    if len(solutions) < batch:
        raise NoSolutionFound(f"{name}: cancelled after {len(solutions)} of {batch} instances")
    return [solutions[row] for row in range(batch)]


def _tasks(instances: TensorDict, view: Callable[[TensorDict], Any], starts: list[list[int]] | None) -> Iterator[_Task]:
    """Yield each row, its view, the seconds that the view took and its start, one at a time to spare memory."""
    for row in range(instances.batch_size[0]):
        begin = time.perf_counter()
        yield row, view(instances[row : row + 1]), time.perf_counter() - begin, starts[row] if starts else None


def _run(job: Job, problem: Any, run: Run) -> _Outcome:
    job(problem, run)
    return _Outcome(run.elapsed, run.reports, run.proven)


def _here(job: Job, tasks: Iterator[_Task], budget: Budget) -> _Outcomes:
    for row, problem, lead, start in tasks:
        if budget.cancel.is_set():
            return
        yield row, _run(job, problem, Run(budget.seconds, budget.cancel.is_set, lead, start))


def _in_workers(name: str, job: Job, tasks: Iterator[_Task], budget: Budget, workers: int) -> _Outcomes:
    """Hand out tasks one by one to spawned processes, which share the wish to cancel through an event."""
    context = multiprocessing.get_context("spawn")
    cancel = context.Event()
    processes: dict[Connection, Any] = {}
    busy: dict[Connection, int] = {}

    def hand_out(pipe: Connection) -> None:
        task = None if budget.cancel.is_set() else next(tasks, None)
        if task is not None:
            busy[pipe] = task[0]
            pipe.send(task[1:])

    try:
        with interrupts_held():
            for _ in range(workers):
                pipe, far_end = context.Pipe()
                process = context.Process(target=_work, args=(far_end, job, budget.seconds, cancel), daemon=True)
                process.start()
                far_end.close()
                processes[pipe] = process
        for pipe in processes:
            hand_out(pipe)
        while busy:
            if budget.cancel.is_set():
                cancel.set()
            for pipe in cast(list[Connection], wait(list(busy), timeout=0.1)):
                outcome = pipe.recv()
                if isinstance(outcome, Exception):
                    raise outcome
                row = busy.pop(pipe)
                hand_out(pipe)
                yield row, outcome
    except (EOFError, ConnectionError) as error:
        hint = 'a script that uses workers needs the guard `if __name__ == "__main__":`'
        raise SolverError(f"{name}: a worker process died; {hint}") from error
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()


def _work(pipe: Connection, job: Job, seconds: float, cancel: threading.Event) -> None:
    """Solve what comes through ``pipe`` until this process is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which passes it on through `cancel`
    torch.set_num_threads(1)
    while True:
        try:
            problem, lead, start = pipe.recv()
        except EOFError:  # the parent is gone
            return
        try:
            outcome: _Outcome | Exception = _run(job, problem, Run(seconds, cancel.is_set, lead, start))
        except Exception as error:  # noqa: BLE001 - it is raised again by the parent
            outcome = passed_on(error)
        pipe.send(outcome)


def _with_bar(runs: _Outcomes, name: str, batch: int) -> Iterable[tuple[int, _Outcome]]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        return runs
    return track(runs, description=name, total=batch, console=console, transient=True)


def _scored(
    name: str, env: Problem, instances: TensorDict, row: int, budget: Budget, outcome: _Outcome, starts: Tensor | None
) -> Solution:
    """Replay a run into the books of its instance and return the solution."""
    instance = instances[row : row + 1]
    progress = _Replay(env, instance, budget)
    if starts is not None:
        progress.offer(starts[row : row + 1, None], rollouts=0)
    progress.seconds = outcome.seconds
    if outcome.reports:
        progress.replay(outcome.reports)
    if outcome.proven:
        progress.prove([0])
    return progress.solutions(name)[0]
