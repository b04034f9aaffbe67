from __future__ import annotations

import itertools
import operator
import subprocess
import sys

import numpy as np
import pytest
import torch
from problems import STAND_INS
from tensordict import TensorDict

from ncogym.baselines import SOLVERS, base
from ncogym.baselines.base import (
    OutsideImprover,
    OutsideTourSolver,
    Run,
    needs,
    solve_each,
    to_actions,
    to_integers,
    to_routes,
)
from ncogym.books import Progress
from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.envs import PROBLEMS, make
from ncogym.envs.routing import geometry
from ncogym.envs.routing.atsp import ATSP
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import (
    Abandoned,
    ArgumentError,
    NoSolutionFound,
    SolverError,
    SolverNotInstalled,
    UnsupportedProblem,
)
from ncogym.models import Routes, Tour
from ncogym.task import Task


class Given(OutsideTourSolver):
    """Reports the tours that it was given."""

    name = "given"

    def __init__(self, *tours: list[int]) -> None:
        super().__init__()
        self.tours = tours

    def _solve(self, dists, run):
        for tour in self.tours:
            run.report(tour)


@pytest.fixture
def square() -> TensorDict:
    """A unit square, nodes in order around it."""
    return TensorDict({"locs": torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])}, batch_size=[1])


@pytest.fixture
def three(square: TensorDict) -> TensorDict:
    """The unit square thrice."""
    return torch.cat([square] * 3)


def report(tour: list[int]):
    """A task that says itself how to report its tour; `operator.call` is the job that lets it, in any process."""
    return operator.methodcaller("report", tour)


# ---------------------------------------------------------------------- the table


def test_the_table_holds_solvers_under_their_own_names():
    """Every entry builds a solver without arguments, and a result carries the name by which it was asked for."""
    assert {name: make().name for name, make in SOLVERS.items()} == {name: name for name in SOLVERS}


def test_importing_the_table_imports_no_outside_solver():
    """The table can be listed where no outside package is installed."""
    code = "import sys, ncogym.baselines; print({'ortools', 'fast_tsp', 'elkai'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# ---------------------------------------------------------------------- what is supported


@pytest.mark.parametrize("name", SOLVERS)
def test_what_shows_nothing_is_refused_by_name(name, square, rng):
    """A solver refuses what shows solvers nothing, naming both."""

    class Sorting:
        name = "sorting"

        def model(self, instance):
            return None

    with pytest.raises(UnsupportedProblem, match=rf"{name} cannot take sorting; it solves .* shows solvers nothing"):
        SOLVERS[name]()(Sorting(), square, None, rng)


@pytest.mark.parametrize("env", STAND_INS, ids=lambda env: env.name)
def test_what_asks_for_more_is_taken_by_no_solver(env, rng):
    """A model is not inherited: more constraints are another problem, until it says which."""
    instances = env.generate(1, rng)
    for solver in SOLVERS.values():
        assert not solver().supports(env, instances)
        with pytest.raises(UnsupportedProblem, match=rf"cannot take {env.name}; .* shows solvers nothing"):
            solver()(env, instances, None, rng)


@pytest.mark.parametrize("need", ["windows", "service"])
@pytest.mark.parametrize("name", [name for name, make in SOLVERS.items() if Tour in make().reads and name != "pyvrp"])
def test_tours_with_windows_are_refused(name, need, square, rng):
    """A solver of tours says which part of the instance it does not know, two-opt and OR-Tools' model among them."""
    given = {"windows": torch.tensor([[[0.0, 9.0]] * 4]), "service": torch.ones(1, 4)}[need]
    words = rf"{name} cannot take stated; these closed tours have {need}, which it does not know"
    with pytest.raises(UnsupportedProblem, match=words):
        SOLVERS[name]()(Stated(lambda dists: Tour(dists, **{need: given})), square, None, rng)


@pytest.mark.parametrize(
    ("need", "given"),
    [
        ("windows", torch.tensor([[[0.0, 9.0]] * 4])),
        ("service", torch.ones(1, 4)),
        ("depots", 2),
        ("open", True),
        ("limit", torch.ones(1)),
        ("fleet", torch.ones(1)),
        ("backhauls", torch.tensor([[False, True, False, False]])),
        ("prizes", torch.ones(1, 4)),
        ("pickups", torch.tensor([[-1, -1, 1, -1]])),
    ],
)
@pytest.mark.parametrize("name", [name for name, make in SOLVERS.items() if Routes in make().reads])
def test_routes_that_ask_for_more_are_refused(name, need, given, square, rng):
    """A solver of capacitated routes says which part of the instance it does not know, savings and HGS among them."""
    env = Stated(lambda dists: Routes(dists, torch.ones(1, 4), torch.ones(1), **{need: given}))
    words = rf"{name} cannot take stated; these capacitated routes have {need}, which it does not know"
    if need not in SOLVERS[name]().can:
        with pytest.raises(UnsupportedProblem, match=words):
            SOLVERS[name]()(env, square, None, rng)


class Stated:
    """A stand-in problem on places, of which solvers see what a test says."""

    name, sense = "stated", "min"

    def __init__(self, model) -> None:
        self._model = model

    def model(self, instance):
        return self._model(geometry.distances_of(instance))


def test_every_problem_has_its_solvers(rng):
    """What each problem shows is read by those solvers that are made for it."""
    tours = {"nearest-neighbour", "farthest-insertion", "random-insertion", "ortools", "fast-tsp", "lkh", "pyvrp"}
    nodes = {"degree-greedy", "random-degree-greedy", "cp-sat"}
    packings = {"ortools", "cp-sat", "ratio-greedy", "value-greedy", "knapsack-dp"}
    envs = {problem: make(problem).resized(6) for problem in PROBLEMS}
    shown = {problem: env.generate(1, rng) for problem, env in envs.items()}
    taken = {p: {n for n, m in SOLVERS.items() if m().supports(env, shown[p])} for p, env in envs.items()}
    assert taken == {
        "tsp": {*tours, "two-opt", "cp-sat"},
        "atsp": {*tours, "cp-sat"},
        "cvrp": {"nearest-neighbour", "savings", "ortools", "hgs", "pyvrp"},
        "knapsack": packings,
        "vrptw": {"pyvrp"},
        "jssp": {"cp-sat", *(name for name in SOLVERS if name.startswith("dispatch:"))},
        **dict.fromkeys(("mis", "mvc", "clique", "mds"), nodes),
        "maxcut": {*nodes, "tabu-cut"},
    }


def test_symmetric_solvers_refuse_asymmetric_instances(rng):
    """What needs symmetry says no to instances without it, and only to these, whatever the problem is called."""
    tours = [name for name, make in SOLVERS.items() if Tour in make().reads]
    dists = torch.tensor([[[0.0, 1.0, 1.0, 9.0], [9.0, 0.0, 1.0, 1.0], [1.0, 9.0, 0.0, 1.0], [1.0, 1.0, 9.0, 0.0]]])
    instance = TensorDict({"dists": dists.double()}, batch_size=[1])
    assert [name for name in tours if not SOLVERS[name]().supports(Task.of(TSP, 4), instance)] == ["two-opt"]
    with pytest.raises(UnsupportedProblem, match=r"these closed tours have asymmetric, which it does not know"):
        SOLVERS["two-opt"]()(Task.of(TSP, 4), instance, None, rng)
    both_ways = TensorDict({"dists": (dists + dists.mT).double()}, batch_size=[1])
    assert SOLVERS["two-opt"]()(Task.of(ATSP, 4), both_ways, None, rng)[0].feasible


# ---------------------------------------------------------------------- whole numbers, missing packages


def test_whole_distances_stay_as_they_are():
    """Whole distances within the range are not scaled, whatever stands on the diagonal."""
    dists = np.array([[9e8, 3.0], [5.0, 9e8]])
    assert to_integers(dists, 100).tolist() == [[0, 3], [5, 0]]


def test_other_distances_are_scaled_to_the_longest():
    """The longest distance becomes the largest number allowed, and no other is off by more than half a unit."""
    dists = np.random.default_rng(0).random((20, 20))
    np.fill_diagonal(dists, 0.0)
    whole = to_integers(dists, 65535)
    assert whole.max() == 65535
    assert np.abs(whole / 65535 - dists / dists.max()).max() <= 0.5 / 65535 + 1e-12
    assert to_integers(np.array([[0.0, 200.0], [100.0, 0.0]]), 100).tolist() == [[0, 100], [50, 0]]


def test_distances_that_are_all_zero_can_be_scaled():
    """Nodes that all lie in one place give zeros, not a division by zero."""
    assert to_integers(np.zeros((3, 3)), 100).tolist() == [[0, 0, 0]] * 3


def test_a_missing_package_is_told_with_its_extra():
    """A failed import becomes one line with the package, the extra and the note."""
    line = r"^abc cannot be .* pip install 'ncogym\[letters\]'; mind the gap$"
    with pytest.raises(SolverNotInstalled, match=line), needs("abc", extra="letters", note="mind the gap"):
        import abcdefgh  # noqa: F401


# ---------------------------------------------------------------------- runs and their books


def test_the_environment_scores_what_a_run_reports(square, rng):
    """Of several reports the environment's best one counts, and the curve holds each improvement."""
    crossed, around = [0, 2, 1, 3], [3, 2, 1, 0]
    (solution,) = Given(crossed, around, crossed)(Task.of(TSP, 4), square, None, rng)
    assert solution.actions.tolist() == around
    assert solution.objective == 4.0
    assert [round(point.objective, 6) for point in solution.trace] == [round(2 + 2 * 2**0.5, 6), 4.0]
    assert (solution.rollouts, solution.solver, solution.feasible) == (3, "given", True)


def test_seconds_are_those_of_each_instance(three, monkeypatch):
    """The seconds of a solution and its trace are read off its own run's clock, its view included."""
    ticks = itertools.count()
    monkeypatch.setattr(base.time, "perf_counter", lambda: float(next(ticks)))
    solutions = solve_each(
        "given",
        Task.of(TSP, 4),
        three,
        None,
        view=lambda one: report([0, 1, 2, 3]),
        job=operator.call,
    )
    # the view takes a tick, the run starts a tick later and reports after one more
    assert [solution.trace[0].seconds for solution in solutions] == [2.0] * 3
    assert [solution.seconds for solution in solutions] == [3.0] * 3


def test_an_infeasible_report_is_not_taken_on_trust(square, rng):
    """A tour that misses a node comes back as infeasible, in the referee's words."""
    (solution,) = Given([0, 1, 1, 3])(Task.of(TSP, 4), square, None, rng)
    assert not solution.feasible
    assert "node 1 is visited" in solution.violation


def prove(tours: list[list[int]], run: Run) -> None:
    """Report tours, the last of which is said to be the best."""
    for tour in tours:
        run.report(tour)
    run.prove()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_proof_comes_with_the_solution(three, workers):
    """What a run has proven is told, from this process and from others, but not of what the referee refuses."""
    around, broken = [0, 1, 2, 3], [0, 0, 0, 0]
    views = iter([[around], [broken], [around, broken]])
    solutions = solve_each(
        "given", Task.of(TSP, 4), three, None, view=lambda one: next(views), job=prove, workers=workers
    )
    assert [(solution.feasible, solution.proven) for solution in solutions] == [
        (True, True),
        (False, False),
        (True, False),
    ]


def test_without_a_word_nothing_is_proven(square, rng):
    """A solver that says nothing has proven nothing."""
    assert not Given([0, 1, 2, 3])(Task.of(TSP, 4), square, None, rng)[0].proven


def test_a_run_without_a_report_is_no_solution(square, rng):
    """A solver that finds nothing in its time has no solution."""
    with pytest.raises(NoSolutionFound, match="given: no solution of tsp"):
        Given()(Task.of(TSP, 4), square, MaxSeconds(1), rng)


def test_a_run_knows_what_is_left(monkeypatch):
    """What is left of the limit shrinks with the clock, the lead included, and stays above zero."""
    now = [10.0]
    monkeypatch.setattr(base.time, "perf_counter", lambda: now[0])
    run = Run(5.0, lambda: False, lead=1.0)
    assert run.left == 4.0
    now[0] = 20.0
    assert (run.elapsed, run.left) == (11.0, 1e-3)
    assert Run(float("inf"), lambda: False).left == float("inf")


def test_a_paused_clock_stands_still(monkeypatch):
    """What goes on while a run is paused, such as a first import of seconds, costs its budget a tenth at most."""
    now = [10.0]
    monkeypatch.setattr(base.time, "perf_counter", lambda: now[0])
    run = Run(1.0, lambda: False)
    with run.paused():
        now[0] += 5.0
    now[0] += 0.25
    assert (run.elapsed, run.left) == pytest.approx((0.35, 0.65))
    long = Run(100.0, lambda: False)
    with long.paused():
        now[0] += 5.0
    assert long.elapsed == 5.0
    endless = Run(float("inf"), lambda: False)
    with endless.paused():
        now[0] += 5.0
    assert endless.elapsed == 0.0


def test_a_cancelled_batch_begins_no_other_instance(three):
    """Once cancelled, no further instance begins, and the error tells how far it came."""
    budget = Budget()

    def job(problem, run):
        run.report([0, 1, 2, 3])
        budget.cancel.set()

    with pytest.raises(NoSolutionFound, match="cancelled after 1 of 3"):
        solve_each("given", Task.of(TSP, 4), three, budget, view=lambda one: one, job=job)


def test_a_run_under_way_sees_that_it_is_cancelled(square):
    """A cancelled run ends with the best that it has, which is returned."""
    budget = MaxRollouts(5)

    def job(problem, run):
        run.report([0, 1, 2, 3])
        budget.cancel.set()
        if not run.cancelled:
            run.report([0, 2, 1, 3])

    (solution,) = solve_each("given", Task.of(TSP, 4), square, budget, view=lambda one: one, job=job)
    assert solution.rollouts == 1


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_workers_must_be_a_positive_whole_number(workers):
    """A number of workers that makes no sense is refused in words."""
    with pytest.raises(ArgumentError, match=f"workers: {workers} is not allowed"):
        SOLVERS["fast-tsp"](workers=workers)


# ---------------------------------------------------------------------- worker processes


def solved_by_two(tasks, three):
    """Solve three instances, whose tasks act for themselves, in two worker processes."""
    views, env = iter(tasks), Task.of(TSP, 4)
    return solve_each("given", env, three, None, view=lambda one: next(views), job=operator.call, workers=2)


def test_workers_give_the_same_answers_in_the_same_order(three):
    """Solutions of worker processes are those of this process, row by row, each with its own seconds."""
    tours = [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0]]
    solutions = solved_by_two(map(report, tours), three)
    assert [solution.actions.tolist() for solution in solutions] == tours
    assert len({solution.seconds for solution in solutions}) == 3
    assert all(0 < solution.trace[0].seconds <= solution.seconds < 1 for solution in solutions)


def test_an_error_in_a_worker_is_raised_here(three):
    """What goes wrong in a worker is raised in the parent, as one line, with the worker's traceback as a note."""
    with pytest.raises(SolverError) as caught:
        solved_by_two([operator.methodcaller("nonsense")] * 3, three)
    assert str(caught.value) == "AttributeError: 'Run' object has no attribute 'nonsense'"
    assert "Traceback" in caught.value.__notes__[0]


def test_a_worker_that_dies_is_told(three):
    """A worker process that ends is an error, not a wait without end."""
    with pytest.raises(SolverError, match="a worker process died"):
        solved_by_two([sys.exit] * 3, three)


# ---------------------------------------------------------------------- the progress bar


@pytest.mark.parametrize(("terminal", "wanted", "shown"), [("1", True, True), ("1", False, False), ("0", True, False)])
def test_the_bar_is_for_terminals(terminal, wanted, shown, three, monkeypatch, capsys):
    """A terminal shows a progress bar, unless it is not wanted; a pipe sees nothing."""
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    view, env = (lambda one: report([0, 1, 2, 3])), Task.of(TSP, 4)
    solve_each("given", env, three, None, view=view, job=operator.call, progress_bar=wanted)
    out, err = capsys.readouterr()
    assert not out
    assert ("given" in err) == shown


# ---------------------------------------------------------------------- starts


class Shown(OutsideImprover):
    """Keeps what it was given, and reports what it was told."""

    name = "shown"

    def __init__(self, *tours: list[int]) -> None:
        super().__init__()
        self.tours, self.starts = tours, []

    def _view(self, env, one, budget, rng):
        return None

    def _solve(self, problem, run):
        self.starts.append(run.start)
        for tour in self.tours:
            run.report(tour)


def test_each_run_gets_its_start_and_is_never_worse(square, rng):
    """A start reaches the run of its instance and costs no rollout; a worse report does not replace it."""
    env, two = Task.of(TSP, 4), torch.cat([square] * 2)
    around, across = [0, 1, 2, 3], [0, 2, 1, 3]
    for told, tours in (([across], [around, around]), ([across, around], [around, around])):
        progress = Progress(env, two, None)
        progress.offer(torch.tensor([[around], [across]]))
        solver = Shown(*told)
        solver.improve(progress, rng)
        assert solver.starts == [around, across]
        best = tours if around in told else [around, across]
        assert [s.actions.tolist() for s in progress.solutions("x")] == best
        assert progress.rollouts == 1 + len(told)
    assert solver(env, two, None, rng)[0].rollouts == 2
    assert solver.starts[2:] == [None, None]


def test_a_cancelled_improver_keeps_what_was_there(square, rng):
    """Instances that are not begun any more keep their starts."""
    budget, two = Budget(), torch.cat([square] * 2)
    progress = Progress(Task.of(TSP, 4), two, budget)
    progress.offer(torch.tensor([[[0, 1, 2, 3]]] * 2))
    budget.cancel.set()
    solver = Shown([0, 2, 1, 3])
    solver.improve(progress, rng)
    assert solver.starts == []
    assert [s.objective for s in progress.solutions("x")] == [4.0, 4.0]


def test_starts_reach_workers(three):
    """Worker processes get their starts, too."""
    starts = torch.tensor([[0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 2, 3]])
    view, job = (lambda one: None), _report_start
    found = solve_each(
        "x", Task.of(TSP, 4), three, None, view=view, job=job, starts=starts, workers=2, progress_bar=False
    )
    assert [s.actions.tolist() for s in found] == starts.tolist()
    assert [s.rollouts for s in found] == [1, 1, 1]


def _report_start(problem, run: Run) -> None:
    run.report(run.start)


def test_actions_become_routes_from_the_depot():
    """Routes part at the depot, empty ones and padding are none; a tour is one, from node 0 on, either way round."""
    assert to_routes([2, 0, 0, 1, 3, 0, 0], 4, is_tour=False) == [[2], [1, 3]]
    assert to_actions(to_routes([2, 0, 1, 3, 0], 4, is_tour=False)) == [2, 0, 1, 3]
    assert to_routes([3, 1, 0, 2, 2, 2], 4, is_tour=True) == [[2, 3, 1]]


def test_a_broken_report_is_in_no_curve(square, rng):
    """Of what an outside solver reports, the curve has what the referee takes, with the report's own number."""
    budget = MaxSeconds(100)
    tours = [[0, 1, 1, 3], [0, 2, 1, 3], [0, 1, 2, 3]]
    (found,) = Given(*tours)(Task.of(TSP, 4), square, budget, rng)
    assert [point.rollouts for point in found.trace] == [2, 3]
    assert (found.rollouts, found.objective, found.feasible) == (3, 4.0, True)


@pytest.mark.parametrize(("took", "refused"), [(0.14, False), (0.2, True)])
def test_what_is_handed_over_late_may_be_too_late(square, monkeypatch, rng, took, refused):
    """A solver that tells what it found at its end has a moment to do so, and no more."""
    now = [10.0]
    monkeypatch.setattr(base.time, "perf_counter", lambda: now[0])

    class Late(Given):
        def _solve(self, dists, run):
            now[0] += took
            super()._solve(dists, run)

    late = Late([0, 1, 2, 3])
    if refused:
        with pytest.raises(NoSolutionFound, match=r"given: 0\.1 s is too small a budget"):
            late(Task.of(TSP, 4), square, Budget(seconds=0.1, strict=True), rng)
    else:
        assert late(Task.of(TSP, 4), square, Budget(seconds=0.1, strict=True), rng)[0].objective == 4.0


@pytest.mark.parametrize(
    "name", ["nearest-neighbour", "farthest-insertion", "random-insertion", "savings", "dispatch:MWKR"]
)
def test_constructions_look_at_the_clock(name, rng):
    """Where somebody else holds a solution they end with the time that they have; else their first is complete."""
    solver = SOLVERS[name]()
    for each in ("tsp", "cvrp", "jssp"):
        env = make(each).resized(6)
        instances = env.generate(2, rng)
        if solver.supports(env, instances):
            with pytest.raises(Abandoned, match=f"no solution of {each} within the budget"):
                solver(env, instances, Budget(seconds=1e-9, first=1e-9), rng)
            assert all(s.feasible for s in solver(env, instances, MaxSeconds(1e-9), rng))
