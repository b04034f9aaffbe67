from __future__ import annotations

import itertools
import os
import signal
import sys
import threading

import pytest
import torch
from tensordict import TensorDict

from ncogym.baselines import SOLVERS
from ncogym.baselines.base import Run
from ncogym.baselines.ortools_cpsat import CpSat
from ncogym.books import Progress
from ncogym.budget import Budget, MaxSeconds
from ncogym.envs.packing.knapsack import Knapsack
from ncogym.envs.routing.atsp import ATSP
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.tsp import TSP
from ncogym.envs.scheduling.jssp import JSSP
from ncogym.errors import ArgumentError, SolverError, SolverNotInstalled, UnsupportedProblem
from ncogym.task import Task

cp_model = pytest.importorskip("ortools.sat.python.cp_model")

FT06 = """2 1 0 3 1 6 3 7 5 3 4 6   1 8 2 5 4 10 5 10 0 10 3 4   2 5 3 4 5 8 0 9 1 1 4 7
          1 5 0 5 2 5 3 3 4 8 5 9   2 9 1 3 4 5 5 4 0 3 3 1     1 3 3 3 5 9 0 10 4 4 2 1"""  # Fisher and Thompson 1963


def shop(duration: list, machine: list) -> TensorDict:
    """Job shops, by lists of numbers."""
    return TensorDict({"duration": torch.tensor(duration), "machine": torch.tensor(machine)}, batch_size=[len(machine)])


def packing(weight: list, value: list, capacity: list) -> TensorDict:
    """Knapsacks, by lists of numbers."""
    keys = {"weight": weight, "value": value, "capacity": capacity}
    numbers = {key: torch.tensor(number, dtype=torch.float64) for key, number in keys.items()}
    return TensorDict(numbers, batch_size=[len(weight)])


def best_of_all(env, instances: TensorDict, sequences: list) -> list[float]:
    """The best objective over all action sequences, by the environment's referee."""
    scores = env.objective(instances, torch.tensor(sequences).expand(len(instances), -1, -1))
    return (scores.amin(1) if env.sense == "min" else scores.amax(1)).tolist()


# ---------------------------------------------------------------------- optima


def test_job_shops_are_solved_to_the_optimum(rng):
    """On three jobs and two machines, no time and no operation among them, the best of all sequences is found."""
    env = Task.of(JSSP, 3, 2)
    instances = env.generate(12, rng)
    instances["duration"][:4] %= 5
    instances["duration"][2, 0, 0] = instances["duration"][3, 1, 1] = 0
    both = sorted(set(itertools.permutations([0, 0, 1, 1, 2, 2])))
    at_once = shop([[[5, 0], [0, 5]]], [[[0, -1], [0, 1]]])  # job 1 passes through m0 at 0, before job 0 begins there
    (solution,) = CpSat()(env, at_once, None, rng)
    assert (solution.actions.tolist()[0], solution.objective) == (1, 5)
    shorter = shop([[[4, 2], [3, 0], [0, 3]]], [[[0, 1], [0, -1], [1, 0]]])
    for given, sequences in ((instances, both), (shorter, sorted(set(itertools.permutations([0, 0, 1, 2, 2]))))):
        solutions = CpSat()(env, given, None, rng)
        assert [solution.objective for solution in solutions] == best_of_all(env, given, sequences)
        assert all(solution.feasible for solution in solutions)


def test_ft06_is_proven(rng):
    """The classic 6 x 6 instance takes 55, with a curve that falls to it, and ends before its seconds are over."""
    numbers = torch.tensor([int(number) for number in FT06.split()]).view(1, 6, 6, 2)
    instance = TensorDict({"duration": numbers[..., 1], "machine": numbers[..., 0]}, batch_size=[1])
    (solution,) = CpSat()(Task.of(JSSP, 6, 6), instance, MaxSeconds(600), rng)
    assert (solution.objective, solution.feasible, solution.solver) == (55, True, "cp-sat")
    objectives = [point.objective for point in solution.trace]
    assert objectives == sorted(objectives, reverse=True)
    assert (objectives[-1], solution.trace[-1].rollouts <= solution.rollouts) == (55, True)
    assert solution.seconds < 500
    assert solution.proven


def test_only_what_it_has_proven_is_called_proven(rng):
    """A search that is cut off once it has found something has proven nothing."""
    env = Task.of(JSSP, 20, 20)
    solver, run = CpSat(), Run(600.0, lambda: bool(run.reports))
    solver._solve(solver._view(env, env.generate(1, rng), Budget(), rng), run)
    assert run.reports
    assert not run.proven


def test_only_whole_numbers_are_proven(rng):
    """The optimum of scaled and rounded numbers is none of the instance, however near; whole ones stay as they are."""
    whole = packing([[2.0, 3.0, 4.0]], [[3.0, 4.0, 5.0]], [5.5])
    heavy, dear = packing([[2.0, 3.5, 4.0]], [[3.0, 4.0, 5.0]], [5.5]), packing([[2.0, 3.0, 4.0]], [[3, 4.5, 5.0]], [5])
    large = packing([[2.0, 3.0, 4.0]], [[2.0**52, 2.0**52, 2.0**52]], [5.0])
    packed = [CpSat()(Task.of(Knapsack, 3), each, None, rng)[0] for each in (whole, heavy, dear, large)]
    assert [solution.proven for solution in packed] == [True, False, False, False]
    dists = torch.tensor([[[9.0, 2, 3, 4], [5, 9, 6, 7], [8, 1, 9, 2], [3, 4, 5, 9]]], dtype=torch.float64)
    for factor, exact in ((1.0, True), (0.5, False)):
        instance = TensorDict({"dists": factor * dists}, batch_size=[1])
        assert CpSat()(Task.of(ATSP, 4), instance, None, rng)[0].proven == exact


def test_knapsacks_are_packed_to_the_optimum(rng):
    """On eight items, whole or not, what is packed is the best of all subsets."""
    env = Task.of(Knapsack, 8)
    fractions = env.generate(10, rng)
    scale = {"weight": 20, "value": 20, "capacity": 20}
    whole = TensorDict({key: (fractions[key].double() * s).ceil() for key, s in scale.items()}, batch_size=[10])
    whole["capacity"] -= 0.5
    subsets = [[i for i in range(8) if code >> i & 1] for code in range(2**8)]
    sequences = torch.tensor([items + [8] * (8 - len(items)) for items in subsets])
    for instances in (fractions, whole):
        for row, solution in enumerate(CpSat()(env, instances, None, rng)):
            one, all_sequences = instances[row : row + 1], sequences[None]
            broken = {each.rollout for each in env.violations(one, all_sequences)}
            scores = env.objective(one, all_sequences)[0].tolist()
            best = max(score for rollout, score in enumerate(scores) if rollout not in broken)
            assert solution.feasible
            assert solution.objective == pytest.approx(best, rel=1e-8)


def test_numbers_are_neither_rounded_away_nor_scaled_out_of_range(rng):
    """Decimals that fill the capacity exactly fit, and whole numbers of ten digits stay exact."""
    tenths = packing([[0.067, 0.134, 0.201]], [[1.0, 1.0, 1.5]], [0.201])  # 0.067 * 1e9 is above 67e6
    large = packing([[9e9, 9e9 + 1, 1.0]], [[5e9, 5e9 + 1, 1e-9]], [9e9 + 1])
    (decimal,), (exact,) = (CpSat()(Task.of(Knapsack, 3), each, None, rng) for each in (tenths, large))
    assert (decimal.actions.tolist(), decimal.feasible) == ([0, 1, 3], True)
    assert (exact.actions.tolist(), exact.feasible) == ([1, 3, 3], True)


def test_nothing_fits(rng):
    """A knapsack too small for any item gets the empty packing."""
    (solution,) = CpSat()(Task.of(Knapsack, 2), packing([[2.5, 3.0]], [[1.0, 1.0]], [1.0]), None, rng)
    assert (solution.actions.tolist(), solution.objective, solution.feasible) == ([2, 2], 0.0, True)


@pytest.mark.parametrize("kind", [TSP, ATSP])
def test_tours_are_as_short_as_can_be(kind, rng):
    """On six nodes, asymmetric or not, the tour is the shortest of all."""
    env = Task.of(kind, 6)
    instances = env.generate(4, rng)
    solutions = CpSat()(env, instances, None, rng)
    best = best_of_all(env, instances, [(0, *rest) for rest in itertools.permutations(range(1, 6))])
    assert [solution.objective for solution in solutions] == pytest.approx(best, rel=1e-5)
    assert all(solution.feasible for solution in solutions)


# ---------------------------------------------------------------------- limits


def test_what_it_is_asked_for(monkeypatch, rng):
    """Seconds are the budget's or 10, there is one thread unless told otherwise, and the seed is the generator's."""
    asked = []

    class Spy(cp_model.CpSolver):
        def solve(self, *arguments):
            found = self.parameters
            asked.append((found.max_time_in_seconds, found.num_workers, found.random_seed))
            return super().solve(*arguments)

    monkeypatch.setattr(cp_model, "CpSolver", Spy)
    monkeypatch.setattr(CpSat, "apart", False)
    env, seeded = Task.of(JSSP, 2, 2), torch.Generator()
    instances = env.generate(2, rng)
    for seed in (1, 1, 2):
        CpSat()(env, instances, None, seeded.manual_seed(seed))
    CpSat(threads=3)(env, instances[:1], MaxSeconds(500), rng)
    assert [each[:2] for each in asked[:6]] == [(10, 1)] * 6
    assert (400 < asked[6][0] < 500, asked[6][1]) == (True, 3)
    assert asked[:2] == asked[2:4] != asked[4:6]
    assert asked[0] != asked[1]


def test_the_same_seed_gives_the_same_solution(rng):
    """Where time does not end the search, it repeats itself."""
    env = Task.of(JSSP, 6, 6)
    instances = env.generate(2, rng)
    first, second = (CpSat()(env, instances, None, torch.Generator().manual_seed(4)) for _ in range(2))
    assert [s.actions.tolist() for s in first] == [s.actions.tolist() for s in second]


def test_a_cancelled_run_ends_with_what_it_has(rng):
    """A run that would last for minutes hears a signal at once, and keeps the solutions that it found before."""
    env, cancelled = Task.of(JSSP, 20, 20), threading.Event()
    solver, run = CpSat(), Run(600.0, cancelled.is_set)
    problem = solver._view(env, env.generate(1, rng), Budget(), rng)
    before = signal.signal(signal.SIGUSR1, lambda *_: cancelled.set())

    def interrupt() -> None:
        while not run.reports:
            over.wait(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    over = threading.Event()
    sender = threading.Thread(target=interrupt)
    sender.start()
    try:
        solver._job(problem, run)
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert run.reports
    assert run.elapsed < 300


@pytest.mark.parametrize(
    "env", [Task.of(JSSP, 30, 20), Task.of(Knapsack, 3000), Task.of(ATSP, 80)], ids=lambda env: env.name
)
def test_there_is_an_answer_before_it_searches(env, rng):
    """A budget in which CP-SAT itself finds nothing leaves the simple solution, which is not proven to be anything."""
    budget = Budget(seconds=1e-6)
    (solution,) = CpSat()(env, env.generate(1, rng), budget, rng)
    assert solution.feasible
    assert not solution.proven


@pytest.mark.parametrize(
    ("env", "name"),
    [
        (Task.of(JSSP, 6, 4), "dispatch:MWKR"),
        (Task.of(Knapsack, 20), "ratio-greedy"),
        (Task.of(TSP, 9), "nearest-neighbour"),
        (Task.of(ATSP, 9), "nearest-neighbour"),
    ],
    ids=lambda given: given if isinstance(given, str) else given.name,
)
def test_its_first_report_is_the_simple_solution(env, name, rng):
    """It is that of the quickest heuristic; a solution to go on from takes its place."""
    solver, one = CpSat(), env.generate(1, rng)
    (simple,) = SOLVERS[name]()(env, one, None, rng)
    run = Run(600.0, lambda: True)
    solver._solve(solver._view(env, one, Budget(), rng), run)
    assert [actions for _, actions in run.reports] == [simple.actions.tolist()]
    improving = Run(600.0, lambda: True, start=simple.actions.tolist())
    solver._solve(solver._view(env, one, Budget(), rng), improving)
    assert not improving.reports


# ---------------------------------------------------------------------- refusals


def test_what_it_cannot_do_is_refused_in_words(rng):
    """Routes with demands, a bad number of threads and durations beyond 62 bits get one line each."""
    routes = Task.of(CVRP, 4)
    with pytest.raises(
        UnsupportedProblem, match=r"^cp-sat cannot take cvrp; it solves job shops .*, and these are capacitated routes"
    ):
        CpSat()(routes, routes.generate(1, rng), None, rng)
    with pytest.raises(ArgumentError, match=r"^threads: 0 is not allowed"):
        CpSat(0)
    with pytest.raises(ArgumentError, match=r"^workers: 0 is not allowed"):
        CpSat(workers=0)
    with pytest.raises(SolverError, match=r"^cp-sat: var #0 domain"):
        CpSat()(Task.of(JSSP, 2, 2), shop([[[2**60] * 2] * 2], [[[0, 1], [1, 0]]]), None, rng)


def test_a_missing_package_names_its_extra(monkeypatch, rng):
    """Without OR-Tools the error says which extra to install."""
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    env = Task.of(JSSP, 2, 2)
    with pytest.raises(SolverNotInstalled, match=r"ortools .* pip install 'ncogym\[solvers\]'"):
        CpSat()(env, env.generate(1, rng), None, rng)


# ---------------------------------------------------------------------- starts


def start_of(env, instances: TensorDict) -> Progress:
    """Return books that hold random allowed solutions."""
    state, actions = env.start(instances), []
    for number in range(env.horizon(instances)):
        mask = state.action_mask[:, 0]
        actions.append((mask * ((torch.arange(mask.shape[1]) * 7 + number) % 5 + 1)).argmax(1, keepdim=True))
        state = env.advance(state, actions[-1])
    progress = Progress(env, instances, MaxSeconds(60))
    progress.offer(torch.stack(actions, dim=-1))
    return progress


SHOPS = Task.of(JSSP, 5, 4)


@pytest.mark.parametrize("env", [SHOPS, Task.of(Knapsack, 8), Task.of(ATSP, 8)], ids=["job shop", "knapsack", "tour"])
def test_its_hint_is_the_solution_that_is_there(env, rng, monkeypatch):
    """A model whose variables are fixed to the hint is solved, and by that very solution."""
    instances = env.generate(1, rng)
    if env is SHOPS:
        instances["machine"][0, 2, 3] = -1  # shorter than the others
    progress = start_of(env, instances)
    given, solve = [], cp_model.CpSolver.solve

    def fixed(self, model, callback):
        self.parameters.fix_variables_to_their_hinted_value = True
        assert len(model.proto.solution_hint.vars) == len(model.proto.variables)
        given.append(solve(self, model, callback))
        return given[-1]

    monkeypatch.setattr(cp_model.CpSolver, "solve", fixed)
    monkeypatch.setattr(CpSat, "apart", False)
    before = progress.best.clone()
    found = CpSat()._each(env, instances, MaxSeconds(1000), rng, progress.actions)
    assert given == [cp_model.OPTIMAL]
    assert found[0].objective == pytest.approx(before.item(), rel=1e-6)
    assert found[0].rollouts == 1  # found again, from the hint


def test_what_is_there_counts_from_the_beginning(rng):
    """Where its time is too short to find anything, what it was given is the answer; nothing is worse than that."""
    env = Task.of(JSSP, 30, 20)
    instances = env.generate(2, rng)
    progress = start_of(env, instances)
    before = progress.best.clone()
    progress.budget = MaxSeconds(progress.seconds + 1e-4)
    CpSat().improve(progress, rng)
    assert (progress.best <= before).all()
    assert all(solution.feasible for solution in progress.solutions("x"))
