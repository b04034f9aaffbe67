from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym.books import Progress
from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.envs import make
from ncogym.errors import ArgumentError, NoSolutionFound, NotEnoughMemory, SolverError, UnsupportedProblem
from ncogym.evaluation import (
    Evaluation,
    Record,
    evaluate,
    mean_ci95,
    primal_integral,
    seeded_instances,
    seeds_ci95,
    student_quantile,
)
from ncogym.problem import Violation
from ncogym.sets import InstanceSet
from ncogym.solution import Solutions, TracePoint, gap_percent, instances_sha256

FIELDS = [
    *("solver", "env", "instances", "mean_objective", "mean_gap_percent", "ci95_gap_percent", "reference", "feasible"),
    *("seconds_total", "seconds_per_instance", "seed", "instances_sha256", "set", "budget_seconds", "budget_rollouts"),
    *("rollouts_per_instance", "worst_gap_percent", "worst_instance", "solved", "better", "proven"),
    *("primal_integral_percent", "versus", "mean_difference_percent", "ci95_difference_percent", "device", "threads"),
]


class Pick:
    """Pick one of three numbers: the objective is the number picked; a negative one may not be."""

    name = "pick"

    def __init__(self, sense: str = "min") -> None:
        self.sense = sense

    def generate(self, batch_size: int, rng: torch.Generator) -> TensorDict:
        """Draw numbers from 0 to 1."""
        return TensorDict({"number": torch.rand(batch_size, 3, generator=rng)}, batch_size=[batch_size])

    def instance_size(self, instance: TensorDict) -> int:
        """Count the numbers."""
        return instance["number"].shape[1]

    def arguments(self) -> dict[str, Any]:
        """Return nothing, for there is but one distribution."""
        return {}

    def plain_actions(self, instance: TensorDict, actions: Tensor) -> list[int]:
        """Return the place."""
        return actions.tolist()

    def padded(self, instance: TensorDict, actions: Tensor, steps: int) -> Tensor:
        """Leave the one step as it is."""
        return actions

    def objective(self, instance: TensorDict, actions: Tensor) -> Tensor:
        """Look the numbers up."""
        return instance["number"].gather(1, actions[..., 0]).double()

    def violations(self, instance: TensorDict, actions: Tensor) -> list[Violation]:
        """Object to negative numbers."""
        negative = (self.objective(instance, actions) < 0).nonzero().tolist()
        return [Violation(row, rollout, "the number is negative") for row, rollout in negative]


class Picker:
    """Pick the same place everywhere, and remember each call."""

    def __init__(self, name: str, place: int = 0) -> None:
        self.name, self.place = name, place
        self.calls: list[tuple[list[float], Budget | None]] = []

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return what is at the place."""
        self.calls.append((instances["number"][:, 0].tolist(), budget))
        progress = Progress(env, instances, budget)
        progress.offer(torch.full((instances.batch_size[0], 1, 1), self.place))
        return progress.solutions(self.name)

    @property
    def batches(self) -> list[int]:
        """How many instances each call had."""
        return [len(rows) for rows, _ in self.calls]


class Twice(Picker):
    """Pick the same place twice."""

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return what is at the place."""
        progress = Progress(env, instances, budget)
        for _ in range(2):
            progress.offer(torch.full((instances.batch_size[0], 1, 1), self.place))
        return progress.solutions(self.name)


class Random(Picker):
    """Pick a random place."""

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return what is at a place that the generator chooses."""
        self.calls.append((instances["number"][:, 0].tolist(), budget))
        progress = Progress(env, instances, budget)
        progress.offer(torch.randint(3, (instances.batch_size[0], 1, 1), generator=rng))
        return progress.solutions(self.name)


class Failing(Picker):
    """Raise an error at the calls that meet a condition."""

    def __init__(self, name: str, error: BaseException, when: Any = lambda rows, calls: True) -> None:
        super().__init__(name)
        self.error, self.when = error, when

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Fail, or pick the first place."""
        solutions = super().__call__(env, instances, budget, rng)
        if self.when(self.calls[-1][0], len(self.calls)):
            raise self.error
        return solutions


class Cancelled(Picker):
    """Have the budget cancelled during a call, and still answer."""

    def __init__(self, name: str, call: int) -> None:
        super().__init__(name)
        self.call = call

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Pick the first place."""
        if len(self.calls) + 1 == self.call and budget is not None:
            budget.cancel.set()
        return super().__call__(env, instances, budget, rng)


class Identity:
    """Visit the nodes of a tour in the order of their numbers."""

    name = "identity"

    def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Return 0, 1, 2 ... for each instance."""
        progress = Progress(env, instances, budget)
        batch, nodes = instances["locs"].shape[:2]
        progress.offer(torch.arange(nodes).expand(batch, 1, nodes))
        return progress.solutions(self.name)


def numbers(*rows: list[float]) -> TensorDict:
    """Return instances of `Pick`."""
    return TensorDict({"number": torch.tensor(rows, dtype=torch.float64)}, batch_size=[len(rows)])


def as_set(blocks: Sequence[TensorDict], best_known: Sequence[float] = ()) -> InstanceSet:
    """Return a set of `Pick`."""
    count = sum(block.batch_size[0] for block in blocks)
    known = torch.tensor(best_known or [math.nan] * count, dtype=torch.float64)
    name = "the book" if best_known else None
    names = tuple(map(str, range(count)))
    return InstanceSet("numbers", Pick(), tuple(blocks), names, known, (False,) * count, (None,) * count, name)


def counted(count: int) -> TensorDict:
    """Return instances whose first number is their index, the others a half and three quarters more."""
    first = torch.arange(count, dtype=torch.float64)[:, None]
    return TensorDict({"number": first + torch.tensor([0.0, 0.5, 0.75])}, batch_size=[count])


# ---------------------------------------------------------------------- instances and gaps


@pytest.mark.parametrize(
    ("objective", "reference", "sense", "gap"),
    [
        (11.0, 10.0, "min", 10.0),
        (9.0, 10.0, "min", -10.0),
        (8.0, 10.0, "max", 20.0),
        (12.5, 10.0, "max", -25.0),
        (10.0, 10.0, "max", 0.0),
        (0.0, 0.0, "min", 0.0),
        (1.0, 0.0, "min", None),
        (0.0, 1.0, "max", 100.0),
        (-9.0, -10.0, "min", 10.0),
    ],
)
def test_gap_is_larger_where_worse(objective: float, reference: float, sense: str, gap: float | None) -> None:
    """A gap is in percent, negative where the reference is beaten, and None where a division by zero would say it."""
    assert gap_percent(objective, reference, sense) == (gap if gap is None else pytest.approx(gap, abs=1e-12))


def test_fingerprint_is_over_names_dtypes_shapes_and_bytes() -> None:
    """The fingerprint of a tiny set is the SHA-256 that its definition gives, whatever the order of the keys."""
    one = TensorDict({"b": torch.tensor([1.5]), "a": torch.tensor([[2, 3]])}, batch_size=[1])
    other = TensorDict({"a": torch.tensor([[2, 3]]), "b": torch.tensor([1.5])}, batch_size=[1])
    text = b"a torch.int64 (1, 2)\n" + np.array([2, 3], dtype="<i8").tobytes()
    text += b"b torch.float32 (1,)\n" + np.array([1.5], dtype="<f4").tobytes()
    assert instances_sha256(one) == instances_sha256(other) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    "changed",
    [
        {"x": torch.tensor([[1.0, 2.0, 4.0, 3.0]])},
        {"x": torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)},
        {"x": torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])},
        {"y": torch.tensor([[1.0, 2.0, 3.0, 4.0]])},
        {"x": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "y": torch.zeros(1)},
    ],
    ids=["value", "dtype", "shape", "name", "key"],
)
def test_fingerprint_tells_sets_apart(changed: dict[str, Tensor]) -> None:
    """A change of a value, a dtype, a shape, a name or the set of keys changes the fingerprint."""
    same = TensorDict({"x": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}, batch_size=[1])
    assert instances_sha256(same) != instances_sha256(TensorDict(changed, batch_size=[1]))


def test_seeded_tours_are_the_fields_own() -> None:
    """An env that knows the field's sets is asked for them: Kool et al.'s uniform tours, in numpy's legacy numbers."""
    expected = np.random.RandomState(1234).uniform(size=(10_000, 5, 2))[:3]
    assert (seeded_instances(make("tsp", num_nodes=5), 3, 1234)["locs"].numpy() == expected).all()


@pytest.mark.parametrize(
    ("count", "seed", "words"), [(0, 1, "instances: 0"), (1, -1, "seed: -1"), (1, 2**32, "seed: ")]
)
def test_seeded_refuses_what_names_no_set(count: int, seed: int, words: str) -> None:
    """No instances and seeds that numpy cannot take are refused in words."""
    with pytest.raises(ArgumentError, match=words):
        seeded_instances(make("tsp", num_nodes=5), count, seed)


# ---------------------------------------------------------------------- evaluation


def test_summary_of_a_minimiser_by_hand() -> None:
    """Two instances, gaps of 50 and 0 %: means, interval, feasibility and times are those worked out by hand."""
    instances = numbers([2, 3, 9], [4, 4, 9])
    found = evaluate(Pick(), instances, [Picker("best", 0), Picker("next", 1)], reference="best", seed=5)
    best, second = found.summaries()
    assert (second.mean_objective, second.mean_gap_percent, second.feasible) == (3.5, 25.0, 1.0)
    assert second.ci95_gap_percent == pytest.approx([25 - 12.7062 * 25, 25 + 12.7062 * 25], rel=1e-5)
    assert (best.mean_objective, best.mean_gap_percent, best.ci95_gap_percent) == (3.0, 0.0, [0.0, 0.0])
    assert (second.solver, second.env, second.instances, second.reference) == ("next", "pick", 2, "best")
    assert (second.seed, second.instances_sha256) == (5, instances_sha256(instances))
    seconds = [record.seconds for record in found.records if record.solver == "next"]
    assert second.seconds_total == pytest.approx(sum(seconds)) != 0
    assert second.seconds_per_instance == pytest.approx(sum(seconds) / 2)


def test_summary_of_a_maximiser_by_hand() -> None:
    """Where more is better, 8 of 10 is a gap of 20 %, and 25 of 20 one of -25 %, which is not clipped."""
    instances = numbers([10, 8, 0], [20, 25, 0])
    found = evaluate(Pick("max"), instances, {"a": Picker("x", 0), "b": Picker("x", 1)}, reference="a")
    assert [record.gap_percent for record in found.records] == pytest.approx([0.0, 0.0, 20.0, -25.0])
    assert found.summaries()[1].mean_gap_percent == pytest.approx(-2.5)


def test_summary_has_the_promised_fields() -> None:
    """A summary is one JSON object with the fields that the command line promises, in their order."""
    (summary,) = evaluate(Pick(), counted(3), [Picker("a")], reference="a").summaries()
    assert list(json.loads(json.dumps(asdict(summary), allow_nan=False))) == FIELDS


def test_records_tell_each_instance() -> None:
    """A record has the solver's numbers, the referee's verdict and the anytime trace of its instance."""
    found = evaluate(Pick(), numbers([2, 3, 9], [4, -1, 9]), [Picker("next", 1)], reference=torch.tensor([2.0, 5.0]))
    first, second = found.records
    assert (first.solver, first.instance, first.objective, first.reference) == ("next", 0, 3.0, 2.0)
    assert (first.gap_percent, first.feasible, first.violation, first.rollouts) == (50.0, True, None, 1)
    assert [point.objective for point in first.trace] == [3.0]
    assert 0 < first.trace[0].seconds <= first.seconds
    assert (second.instance, second.feasible, second.violation) == (1, False, "the number is negative")


def test_infeasible_solutions_have_no_gap_and_no_part_in_the_means() -> None:
    """An objective reached by breaking a constraint flatters nobody; the share of feasible solutions shows it."""
    found = evaluate(Pick(), numbers([4, 0, 0], [-9, 0, 0]), [Picker("a")], reference=torch.tensor([2.0, 2.0]))
    assert [record.gap_percent for record in found.records] == [100.0, None]
    (summary,) = found.summaries()
    assert (summary.mean_objective, summary.mean_gap_percent, summary.feasible) == (4.0, 100.0, 0.5)


def test_infeasible_reference_judges_nobody() -> None:
    """Where the reference solver itself has no feasible solution, there is no reference and no gap."""
    found = evaluate(Pick(), numbers([-4, 1, 0], [1, 2, 0]), [Picker("a"), Picker("b", 1)], reference="a")
    assert [record.gap_percent for record in found.records] == [None, 0.0, None, 100.0]


def test_given_reference_may_have_unknowns() -> None:
    """Objectives from elsewhere are named as the caller names them; NaN stands for an unknown one."""
    reference = torch.tensor([2.0, math.nan])
    found = evaluate(Pick(), numbers([3, 0, 0], [3, 0, 0]), [Picker("a")], reference=reference, reference_name="book")
    assert [(r.reference, r.gap_percent) for r in found.records] == [(2.0, 50.0), (None, None)]
    assert found.summaries()[0].reference == "book"


def test_no_reference_gives_no_gaps() -> None:
    """Without a reference there are objectives only."""
    (summary,) = evaluate(Pick(), counted(3), [Picker("a")]).summaries()
    assert (summary.mean_objective, summary.mean_gap_percent, summary.ci95_gap_percent) == (1.0, None, None)
    assert summary.reference is None


def test_solvers_take_turns_in_batches() -> None:
    """Each solver gets one instance to warm up, then every instance once, in the same batches as the others."""
    solvers, told = [Picker("a"), Picker("b")], []
    evaluate(Pick(), counted(5), solvers, batch_size=2, progress=lambda *tick: told.append(tick))
    for solver in solvers:
        assert [rows for rows, _ in solver.calls] == [[0.0], [0.0, 1.0], [2.0, 3.0], [4.0]]
    assert told == [("a", 2, 10), ("b", 4, 10), ("a", 6, 10), ("b", 8, 10), ("a", 9, 10), ("b", 10, 10)]


def test_warm_up_is_short_and_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call, which pays for imports and compilation, is told apart; the budget is that of the caller."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Compiling(Picker):
        def __call__(self, *arguments: Any) -> Solutions:
            if not self.calls:
                now[0] += 5.0
            return super().__call__(*arguments)

    solver = Compiling("a")
    found = evaluate(Pick(), counted(2), [solver], budget=Budget(seconds=30.0, rollouts=7))
    assert found.warm_up_seconds["a"] == 5.0
    assert found.summaries()[0].seconds_total == 0.0
    assert [budget for _, budget in solver.calls] == [Budget(1.0, 7), Budget(30.0, 7)]


def test_draws_do_not_depend_on_company() -> None:
    """A solver that draws finds the same, alone or among others; another seed makes another draw."""
    instances = Pick().generate(100, torch.Generator().manual_seed(1))

    def objectives(seed: int, *others: Picker) -> list[float | None]:
        found = evaluate(Pick(), instances, [*others, Random("random")], seed=seed, batch_size=30)
        return [record.objective for record in found.records if record.solver == "random"]

    alone = objectives(3)
    assert alone == objectives(3, Picker("a"), Random("b"))
    assert alone != objectives(4)


def test_the_seed_is_0_unless_told_otherwise() -> None:
    """What a caller leaves out is what the signature says."""
    assert [s.seed for s in evaluate(Pick(), counted(2), [Random("a")]).summaries()] == [0]


def test_summaries_tell_the_last_session_and_cannot_be_changed(tmp_path: Path) -> None:
    """Device and threads are those of the run that ended the work."""
    path = tmp_path / "00.jsonl"
    cut = Failing("a", KeyboardInterrupt(), lambda rows, calls: calls == 3)
    for solver, session in ((cut, {"device": "cpu", "threads": 1}), (Picker("a"), {"device": "cuda", "threads": 4})):
        found = evaluate(Pick(), counted(4), [solver], batch_size=1, journal=path, session=session)
    (summary,) = found.summaries()
    assert (summary.device, summary.threads) == ("cuda", 4)
    with pytest.raises(FrozenInstanceError):
        summary.seed = 7


def test_batches_draw_apart() -> None:
    """Two batches of equal instances do not get the same draws."""
    found = evaluate(Pick(), numbers(*[[1.0, 2.0, 3.0]] * 40), [Random("random")], batch_size=20)
    objectives = [record.objective for record in found.records]
    assert objectives[:20] != objectives[20:]


def test_problem_that_a_solver_cannot_take_is_a_dash() -> None:
    """A solver that refuses the problem gets records of None with its reason; the others go on."""
    refusing = Failing("tours", UnsupportedProblem("tours cannot take pick"))
    found = evaluate(Pick(), counted(3), [refusing, Picker("a")], reference="a")
    assert found.records[0] == Record("tours", 0, reference=0.0, violation="tours cannot take pick")
    tours, other = found.summaries()
    assert (tours.mean_objective, tours.mean_gap_percent, tours.feasible, tours.seconds_total) == (None,) * 4
    assert (tours.instances, other.mean_objective, other.mean_gap_percent) == (3, 1.0, 0.0)


@pytest.mark.parametrize("error", [NoSolutionFound, NotEnoughMemory])
def test_instance_without_a_solution_costs_only_itself(error: type[SolverError]) -> None:
    """Where a batch fails for one instance, the others are solved alone and that one is infeasible in words."""
    solver = Failing("slow", error("slow: no solution"), lambda rows, calls: 2.0 in rows)
    found = evaluate(Pick(), counted(4), [solver])
    assert [record.objective for record in found.records] == [0.0, 1.0, None, 3.0]
    assert [record.feasible for record in found.records] == [True, True, False, True]
    assert found.records[2].violation == "slow: no solution"
    assert found.records[2].seconds > 0
    assert found.summaries()[0].feasible == 0.75


def test_keyboard_interrupt_returns_what_is_done() -> None:
    """An interrupt ends the evaluation; complete batches are kept, with their gaps, and it is told."""
    interrupted = Failing("b", KeyboardInterrupt(), lambda rows, calls: calls == 3)
    found = evaluate(Pick(), counted(6), [Picker("a"), interrupted], batch_size=2, reference="a")
    assert found.interrupted
    assert [(record.solver, record.instance) for record in found.records] == [
        *(("a", row) for row in range(4)),
        *(("b", row) for row in range(2)),
    ]
    assert [summary.instances for summary in found.summaries()] == [4, 2]
    assert found.records[-1].gap_percent == 0.0


@pytest.mark.parametrize(("call", "kept"), [(1, 0), (2, 0), (3, 2)])
def test_cancelled_call_is_left_out(call: int, kept: int) -> None:
    """A call that was cut short had less than its budget, so its solutions are not compared with others."""
    found = evaluate(Pick(), counted(6), [Cancelled("a", call)], batch_size=2, budget=Budget(cancel=threading.Event()))
    assert found.interrupted
    assert len(found.records) == kept


def test_search_cancelled_before_its_first_solution_is_an_interrupt() -> None:
    """No solution because of the cancellation is no failure of the solver."""
    budget = Budget(cancel=threading.Event())
    budget.cancel.set()
    found = evaluate(Pick(), counted(2), [Failing("a", NoSolutionFound("a: cancelled"))], budget=budget)
    assert (found.interrupted, found.records, found.summaries()[0].feasible) == (True, (), None)


def test_undisturbed_evaluation_is_not_interrupted() -> None:
    """Only an interrupt makes an evaluation an interrupted one."""
    assert not evaluate(Pick(), counted(2), [Picker("a")]).interrupted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reference": "lkh"}, "reference: 'lkh' is not in this run; allowed are a, b"),
        ({"reference": torch.ones(3)}, r"reference: \[3\] is not allowed; it must be \[2\]"),
        ({"reference": torch.tensor([1.0, math.inf])}, "of finite numbers"),
        ({"solvers": []}, "solvers: none is given"),
        ({"solvers": {}}, "solvers: none is given"),
        ({"solvers": [Picker("a"), Picker("a")]}, "solvers: two of one name"),
        ({"instances": counted(0)}, "instances, batch_size: 0, 64"),
        ({"batch_size": 0}, "instances, batch_size: 2, 0"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments: dict[str, Any], words: str) -> None:
    """What cannot be evaluated is refused before anything is solved."""
    given = {"instances": counted(2), "solvers": [Picker("a"), Picker("b")], **arguments}
    with pytest.raises(ArgumentError, match=words) as refusal:
        evaluate(Pick(), given.pop("instances"), given.pop("solvers"), **given)
    assert "\n" not in str(refusal.value)


def test_solver_that_loses_an_instance_is_refused() -> None:
    """A solver must return one solution per instance, or later ones would be taken for others'."""

    class Losing(Picker):
        def __call__(self, *arguments: Any) -> Solutions:
            return super().__call__(*arguments)[:1]

    with pytest.raises(SolverError, match="losing: 1 solutions came back for 2 instances"):
        evaluate(Pick(), counted(2), [Losing("losing")])


def test_tours_are_scored_by_their_problem() -> None:
    """The identity is optimal on a square numbered around it, and of a known length on one numbered across."""
    around = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    instances = TensorDict({"locs": torch.stack([around, around[[0, 2, 1, 3]]])}, batch_size=[2])
    reference = torch.tensor([4.0, 4.0], dtype=torch.float64)
    found = evaluate(make("tsp", num_nodes=4), instances, [Identity()], reference=reference)
    assert [record.objective for record in found.records] == pytest.approx([4.0, 2 + 2 * math.sqrt(2)])
    assert [record.gap_percent for record in found.records] == pytest.approx([0.0, 50 * (math.sqrt(2) - 1)], abs=1e-9)
    assert [record.feasible for record in found.records] == [True, True]


# ---------------------------------------------------------------------- what the table says beside the mean


def test_paired_difference_by_hand() -> None:
    """The difference is the gap to the other solver's solution of the same instance, with its own interval."""
    instances = numbers([2, 3, 9], [4, 5, 9], [8, 8, 9])
    found = evaluate(Pick(), instances, [Picker("a", 0), Picker("b", 1)], versus="a")
    own, other = found.summaries()
    assert (own.versus, own.mean_difference_percent, own.ci95_difference_percent) == ("a", 0.0, [0.0, 0.0])
    assert other.mean_difference_percent == pytest.approx((50 + 25 + 0) / 3)
    assert other.ci95_difference_percent == pytest.approx(
        [25 - 4.30265 * 25 / 3**0.5, 25 + 4.30265 * 25 / 3**0.5], rel=1e-4
    )
    assert (other.reference, other.mean_gap_percent) == (None, None)


def test_difference_is_over_what_both_solved() -> None:
    """An instance that one of the two did not solve has no part in their difference."""
    instances = numbers([2, -1, 9], [-4, 5, 9], [8, 10, 9])
    found = evaluate(Pick(), instances, [Picker("a", 0), Picker("b", 1)], versus="a")
    assert found.summaries()[1].mean_difference_percent == pytest.approx(25.0)


def test_pairing_sees_what_two_intervals_hide() -> None:
    """Instances differ by far more than the solvers; the paired interval still tells which one is better."""
    rng = torch.Generator().manual_seed(3)
    base = torch.rand(60, 1, generator=rng, dtype=torch.float64) * 100 + 1
    rows = torch.cat([base, base * (1.001 + 0.001 * torch.rand(60, 1, generator=rng, dtype=torch.float64)), base], 1)
    instances = TensorDict({"number": rows}, batch_size=[60])
    found = evaluate(Pick(), instances, [Picker("a", 0), Picker("b", 1)], versus="a", reference=torch.ones(60))
    first, second = found.summaries()
    assert first.ci95_gap_percent[1] > second.ci95_gap_percent[0]
    assert second.ci95_difference_percent[0] > 0.1


def test_worst_case_and_share_solved_by_hand() -> None:
    """The worst instance is named; solved to the reference are those without a gap, better ones are counted."""
    reference = torch.tensor([2.0, 4.0, 9.0, 1.0], dtype=torch.float64)
    instances = numbers([2 * (1 + 1e-12), 0, 0], [3, 0, 0], [18, 0, 0], [1.001, 0, 0])
    (summary,) = evaluate(Pick(), instances, [Picker("a")], reference=reference).summaries()
    assert (summary.worst_instance, summary.worst_gap_percent) == (2, pytest.approx(100.0))
    assert (summary.solved, summary.better) == (0.5, 1)


def test_proofs_are_counted() -> None:
    """The share proven is the solver's word for its own solutions."""

    class Proving(Picker):
        def __call__(self, *arguments: Any) -> Solutions:
            return [replace(s, proven=s.objective > 0) for s in super().__call__(*arguments)]

    found = evaluate(Pick(), counted(4), [Proving("a"), Picker("b")], reference="a")
    assert [summary.proven for summary in found.summaries()] == [0.75, 0.0]
    assert found.references.proven == (False, True, True, True)


@pytest.mark.parametrize(
    ("trace", "sense", "expected"),
    [
        ([], "min", 100.0),
        ([(0.0, 10.0)], "min", 0.0),
        ([(0.0, 20.0)], "min", 50.0),
        ([(2.0, 10.0)], "min", 50.0),
        ([(1.0, 20.0), (3.0, 10.0)], "min", 100 * (1 + 0.5 * 2 + 0) / 4),
        ([(1.0, 20.0), (5.0, 10.0)], "min", 100 * (1 + 0.5 * 3) / 4),
        ([(0.0, 5.0)], "max", 50.0),
        ([(0.0, 8.0)], "min", -20.0),
        ([(0.0, -10.0)], "min", -200.0),
        ([(0.0, -10.0)], "max", 100.0),
    ],
)
def test_primal_integral_by_hand(trace: list[tuple[float, float]], sense: str, expected: float) -> None:
    """Over four seconds, with a reference of 10: the area under the primal gap, 1 before the first solution."""
    points = [TracePoint(seconds, 1, objective) for seconds, objective in trace]
    assert primal_integral(points, 10.0, sense, 4.0) == pytest.approx(expected)


def test_a_solution_that_comes_too_late_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver whose first solution took longer than all may is told to have none, and how long it took."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Late(Picker):
        def __call__(self, env: Any, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
            """Take three seconds for each instance, and pick."""
            progress = Progress(env, instances, budget)
            now[0] += 3.0 * instances.batch_size[0]
            progress.offer(torch.zeros(instances.batch_size[0], 1, 1, dtype=torch.int64))
            return progress.solutions(self.name)

    for seconds, feasible in ((3.0, 1.0), (2.0, 0.0)):
        found = evaluate(Pick(), numbers([1, 2]), [Late("late")], budget=MaxSeconds(seconds))
        assert found.summaries()[0].feasible == feasible
    assert found.records[0].violation == "late: 2 s is too small a budget; its first solution was complete after 3 s"


def test_primal_integral_spans_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds the best at once has 0, and who has no solution has the whole span of the budget."""
    monkeypatch.setattr("time.perf_counter", lambda: 100.0)
    reference = torch.tensor([1.0, 1.0])
    found = evaluate(
        Pick(),
        numbers([1, -5, 0], [1, -5, 0]),
        [Twice("a"), Picker("b", 1)],
        reference=reference,
        budget=MaxSeconds(5),
    )
    good, broken = found.summaries()
    assert found.horizon == 5.0
    assert good.primal_integral_percent == 0
    assert broken.primal_integral_percent == 100.0


def test_who_tells_one_solution_has_no_primal_integral() -> None:
    """It would say when the solver ended, not how it came there; a solver that went on after its best has one."""
    found = evaluate(Pick(), numbers([1, 2, 0], [1, 3, 0]), [Picker("once"), Twice("twice")], reference="once")
    assert found.reported_once == {"once"}
    once, twice = found.summaries()
    assert once.primal_integral_percent is None
    assert twice.primal_integral_percent is not None


def test_groups_are_sizes() -> None:
    """Few sizes are groups of their own, many fall into octaves; one size is no group, and summaries take rows."""

    def sizes(*counts: int) -> Evaluation:
        blocks = tuple(TensorDict({"number": torch.ones(1, count)}, batch_size=[1]) for count in counts)
        return evaluate(Pick(), as_set(blocks), [Picker("a")], reference=torch.arange(1.0, len(counts) + 1))

    assert sizes(5, 5, 5).groups() == {}
    found = sizes(5, 9, 5)
    assert found.groups() == {"5": [0, 2], "9": [1]}
    (summary,) = found.summaries([0, 2])
    assert (summary.instances, summary.mean_gap_percent) == (2, pytest.approx(-100 / 3))
    assert sizes(*range(3, 20)).groups() == {
        "2 to 3": [0],
        "4 to 7": [1, 2, 3, 4],
        "8 to 15": list(range(5, 13)),
        "16 to 31": list(range(13, 17)),
    }


def test_sets_bring_their_best_known_values() -> None:
    """Where no reference is given, gaps are to what is known of the set; batches reach over no two shapes."""
    blocks = (numbers([2, 3, 9], [4, 4, 9]), TensorDict({"number": torch.ones(1, 5)}, batch_size=[1]))
    picker = Picker("a")
    found = evaluate(Pick(), as_set(blocks, best_known=[1.0, math.nan, 1.0]), [picker])
    assert picker.calls[1][0] == [2.0, 4.0]
    assert [record.gap_percent for record in found.records] == [100.0, None, 0.0]
    assert found.reference == "the book"


# ---------------------------------------------------------------------- going on after a kill


def told(found: Evaluation) -> list[Any]:
    """Return what two runs must have in common: all but the clock."""
    return [
        (r.solver, r.instance, r.objective, r.gap_percent, r.feasible, r.violation, r.rollouts, r.actions)
        for r in found.records
    ]


def test_journal_spares_what_is_done(tmp_path: Path) -> None:
    """After an interrupt the same call does only what is missing, and the records are those of an undisturbed run."""
    instances, path = Pick().generate(10, torch.Generator().manual_seed(1)), tmp_path / "00.jsonl"
    undisturbed = evaluate(Pick(), instances, [Random("a"), Random("b")], batch_size=3, reference="a")
    cut = Failing("b", KeyboardInterrupt(), lambda rows, calls: calls == 3)
    evaluate(Pick(), instances, [Random("a"), cut], batch_size=3, reference="a", journal=path, session={"number": 1})
    first, second = Random("a"), Random("b")
    found = evaluate(
        Pick(), instances, [first, second], batch_size=3, reference="a", journal=path, session={"number": 2}
    )
    assert (first.batches, second.batches) == ([1, 3, 1], [1, 3, 3, 1])
    cut_off = [entry for entry in told(found) if entry[:2] in {("b", 0), ("b", 1), ("b", 2)}]
    assert len(cut_off) == 3
    assert [e for e in told(found) if e not in cut_off] == [
        e for e in told(undisturbed) if not (e[0] == "b" and e[1] < 3)
    ]
    assert found.sessions == ({"number": 1}, {"number": 2})
    again = evaluate(Pick(), instances, [Failing("a", OSError()), Failing("b", OSError())], batch_size=3, journal=path)
    assert [e[:3] for e in told(again)] == [e[:3] for e in told(found)]


def test_journal_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    """Records under another budget are not taken for these."""
    path = tmp_path / "00.jsonl"
    evaluate(Pick(), counted(2), [Picker("a")], budget=MaxRollouts(5), journal=path)
    with pytest.raises(
        ArgumentError, match=r"of other, unfinished work \(budget {'rollouts': 5}, here {'rollouts': 6}"
    ):
        evaluate(Pick(), counted(2), [Picker("a")], budget=MaxRollouts(6), journal=path)
    with pytest.raises(ArgumentError, match="device None, here 'cuda'"):
        evaluate(Pick(), counted(2), [Picker("a")], budget=MaxRollouts(5), journal=path, settings={"device": "cuda"})


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (1, "{}"),
        (1, '{"about": [1]}'),
        (2, "{}"),
        (2, '{"session": 1, "warm_up": {}}'),
        (3, '{"solver": "z", "begin": 0, "records": []}'),
        (3, '{"solver": "a", "begin": 0, "records": [1]}'),
        (3, '{"solver": "a", "begin": 0, "records": [{"trace": [[1]], "actions": null}]}'),
        (3, '{"solver": "a", "begin": 0, "records": [{"trace": [], "actions": null, "x": 1}]}'),
    ],
)
def test_a_damaged_journal_is_named(tmp_path: Path, number: int, line: str) -> None:
    """A line that no evaluation wrote is refused in words, and the file is as it was."""
    path = tmp_path / "00.jsonl"
    evaluate(Pick(), counted(2), [Picker("a")], journal=path)
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n")
    words = r"^output: .*00\.jsonl is (damaged|of other, unfinished work) \(.*to begin anew$"
    with pytest.raises(ArgumentError, match=words):
        evaluate(Pick(), counted(2), [Picker("a")], journal=path)
    assert path.read_text().splitlines() == lines


KILLED = """
import sys, threading
from pathlib import Path
import torch
from ncogym.envs import make
from ncogym.baselines import RandomInsertion
from ncogym.evaluation import evaluate

class Slow(RandomInsertion):
    calls = 0

    def __call__(self, *arguments):
        self.calls += 1
        if self.calls > {most}:
            threading.Event().wait()  # to be killed
        return super().__call__(*arguments)

env = make("tsp", num_nodes=8)
found = evaluate(env, env.seeded(30, 5), {{"a": Slow(), "b": RandomInsertion()}}, reference="b", seed=2, batch_size=2,
                 journal=Path(sys.argv[1]))
print([(r.solver, r.instance, r.objective, r.gap_percent, r.actions) for r in found.records])
"""


def test_kill_costs_the_batch_under_way_and_no_number(tmp_path: Path) -> None:
    """Kill -9 in the middle: what was done stays, and the run that goes on has the records of an undisturbed one."""

    def run(path: Path, most: int = 1000) -> subprocess.Popen[str]:
        script = KILLED.format(most=most)
        return subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)

    path = tmp_path / "killed.jsonl"
    with run(path, most=5) as process:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and (not path.exists() or path.read_text().count("\n") < 6):
            time.sleep(0.05)
        process.kill()
    kept = path.read_text()
    assert 6 <= kept.count("\n") < 32
    with run(path) as process:
        found = process.stdout.read()
    assert path.read_text().startswith(kept[: kept.rfind("\n") + 1])
    with run(tmp_path / "undisturbed.jsonl") as process:
        assert process.stdout.read() == found != ""


# ---------------------------------------------------------------------- intervals


def test_interval_of_a_large_sample_is_that_of_the_normal_law() -> None:
    """For many values the interval is the mean ± 1.96 standard errors."""
    values = torch.randn(4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3 + 10
    low, high = mean_ci95(values)
    error = 1.96 * float(values.std()) / math.sqrt(4000)
    assert low == pytest.approx(float(values.mean()) - error, abs=0.1 * error)
    assert high == pytest.approx(float(values.mean()) + error, abs=0.1 * error)


def test_interval_of_symmetric_values_is_students() -> None:
    """1, 2, 3 have the mean 2 ± 4.3027 / sqrt(3), as tables of Student's t say."""
    assert mean_ci95(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)) == pytest.approx([2 - 2.484138, 2 + 2.484138])


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.70620), (2, 4.30265), (4, 2.77645), (9, 2.26216), (31, 2.03951), (999, 1.96234)]
)
def test_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    """The 97.5 % quantiles of Student's t, as printed in any table of it."""
    assert student_quantile(freedom) == pytest.approx(quantile, abs=1e-5)


def test_interval_by_hand() -> None:
    """0, 0, 0, 4: the lower end is Student's, the upper end is Hall's, worked out by hand."""
    values = torch.tensor([0.0, 0.0, 0.0, 4.0], dtype=torch.float64)
    # mean 1, spread 2, skewness (3 * (-1/2)^3 + (3/2)^3) / 4 = 3/4; t of 3 degrees of freedom 3.182446
    reach = 3.182446 / 2
    hall = 4 * (1 - math.cbrt(1 - 0.75 * (reach + 0.75 / 24)))
    assert mean_ci95(values) == pytest.approx([1 - 2 * reach, 1 + 2 * hall])
    assert mean_ci95(-values) == pytest.approx([-1 - 2 * hall, -1 + 2 * reach])


@pytest.mark.parametrize(("count", "least"), [(10, 0.90), (32, 0.93)])
def test_interval_covers_the_truth_about_as_often_as_it_says(count: int, least: float) -> None:
    """Of gaps, half of which are 0, few intervals miss the mean; the percentile bootstrap's hold it in 82 and 90 %."""
    rng = torch.Generator().manual_seed(2)
    gaps = torch.empty(2000, count, dtype=torch.float64).exponential_(generator=rng)
    gaps *= torch.rand(2000, count, generator=rng) < 0.5
    held = [low <= 0.5 <= high for low, high in map(mean_ci95, gaps)]
    assert least < sum(held) / 2000 < 0.99


def test_interval_scales_with_the_values() -> None:
    """Another unit and another zero are another interval, no other statement; equal values have one of no width."""
    values = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64).pow(4)
    ends = torch.tensor(mean_ci95(values))
    assert torch.tensor(mean_ci95(1e9 * values + 3)).allclose(1e9 * ends + 3, rtol=1e-5)
    assert mean_ci95(torch.full((5,), 0.1, dtype=torch.float64)) == pytest.approx([0.1, 0.1])
    low, high = mean_ci95(torch.tensor([1e9, 1e9 + 2e-7, 1e9], dtype=torch.float64))
    assert low == high  # nothing but rounding


@pytest.mark.parametrize("count", [0, 1])
def test_interval_needs_two_values(count: int) -> None:
    """One value says nothing of the spread, so that there is no interval."""
    assert mean_ci95(torch.ones(count, dtype=torch.float64)) is None


def test_interval_over_seeds_by_hand() -> None:
    """Two seeds, two instances: mean squares of 9, 1 and 0 over seeds, instances and the rest."""
    values = torch.tensor([[0.0, 1.0], [3.0, 4.0]], dtype=torch.float64)
    # by seed 0.5 and 3.5 (variance 4.5, times 2), by instance 1.5 and 2.5 (0.5, times 2), and they add up exactly
    freedom = (9 + 1 - 0) ** 2 / (9**2 / 1 + 1**2 / 1)
    half = student_quantile(freedom) * math.sqrt(10 / 4)
    assert seeds_ci95(values) == pytest.approx(
        [min(2 - half, 2 - 12.7062 / 2), max(2 + half, 2 + 12.7062 / 2)], rel=1e-4
    )
    assert seeds_ci95(values[:1]) is None
    assert seeds_ci95(values[:, :1]) is None


def test_interval_over_seeds_covers_other_seeds() -> None:
    """Of three seeds whose means differ it holds the truth as often as it says, where the instances' alone does not."""
    rng = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    both, alone = 0, 0
    for _ in range(500):
        values = normal(3, 1) + normal(1, 50) + normal(3, 50)
        low, high = seeds_ci95(values)
        both += low <= 0 <= high
        low, high = mean_ci95(values.mean(0))
        alone += low <= 0 <= high
    assert both / 500 > 0.9
    assert alone / 500 < 0.6


def test_seeds_that_agree_widen_nothing_much() -> None:
    """Where the seeds are alike, the interval is that of the instances."""
    values = torch.randn(1, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64).expand(3, -1)
    assert seeds_ci95(values) == pytest.approx(mean_ci95(values[0]), rel=0.02)
