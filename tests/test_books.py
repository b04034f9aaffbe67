from __future__ import annotations

import math
import signal
import time
from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict

from ncogym import books
from ncogym.books import Pace, Progress
from ncogym.budget import Budget, MaxRollouts, MaxSeconds, NoImprovement
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import Abandoned, ArgumentError, NoSolutionFound
from ncogym.problem import Violation
from ncogym.solution import Solution, TracePoint
from ncogym.task import Task
from ncogym.workers import interrupts_held


class Shelf:
    """Take items off a shelf: a solution's objective is the sum of its items' numbers; item 9 may not be taken."""

    name = "shelf"

    def __init__(self, sense: str = "min") -> None:
        self.sense = sense

    def objective(self, instance, actions):
        """Add up the items' numbers, the last item once however often it is repeated at the end."""
        repeated = torch.cat([torch.zeros_like(actions[..., :1]), actions[..., :-1] == actions[..., 1:]], -1).bool()
        numbers = instance["number"].gather(1, actions.flatten(1)).view(actions.shape).double()
        return numbers.masked_fill(repeated, 0).sum(-1)

    def violations(self, instance, actions):
        """Object to every item 9."""
        return [
            Violation(row, rollout, f"step {step} takes item 9")
            for row, rollout, step in (actions == 9).nonzero().tolist()
        ]

    def padded(self, instance, actions, steps):
        """Repeat the last item."""
        return torch.cat([actions, actions[:, -1:].expand(-1, steps - actions.shape[-1])], dim=-1)


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock of the books."""
    clock = Clock()
    monkeypatch.setattr(books.time, "perf_counter", clock)
    return clock


@pytest.fixture
def instances():
    """Two shelves of ten items with the numbers 0 to 9 and 0 to 90."""
    numbers = torch.arange(10.0)
    return TensorDict({"number": torch.stack([numbers, 10 * numbers])}, batch_size=[2])


def offers(*rows):
    """Return actions of two instances, ``[2, rollouts, steps]``."""
    return torch.tensor(rows)


# ---------------------------------------------------------------------- budgets


def test_a_budget_limits_what_it_names():
    """Each constructor sets one limit and leaves the others infinite."""
    assert MaxSeconds(1.5) == Budget(1.5, math.inf, math.inf)
    assert MaxRollouts(8) == Budget(math.inf, 8, math.inf)
    assert NoImprovement(3) == Budget(math.inf, math.inf, 3)


@pytest.mark.parametrize("name", ["seconds", "rollouts", "patience"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_a_budget_of_nothing_is_refused(name, value):
    """A limit that is not above 0 is refused, with its name and value."""
    with pytest.raises(ArgumentError, match=f"{name}: {value} is not allowed"):
        Budget(**{name: value})


def test_joined_budgets_take_the_tighter_limit():
    """Of each limit ``|`` keeps the smaller, in either order."""
    one, other = Budget(seconds=5, rollouts=10), Budget(seconds=2, patience=4)
    assert one | other == other | one == Budget(2, 10, 4)


@pytest.mark.parametrize("budget", [MaxSeconds(1), MaxRollouts(1), NoImprovement(1)])
def test_any_limit_makes_a_budget_finite(budget):
    """A budget is finite as soon as one limit is."""
    assert budget.finite
    assert not Budget().finite


def test_budgets_do_not_share_their_cancel():
    """Cancelling one search leaves another alone."""
    one, other = MaxSeconds(1), MaxSeconds(1)
    one.cancel.set()
    assert not other.cancel.is_set()


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="this system cannot hold signals back")
def test_interrupts_are_held_back_for_a_while():
    """What is started meanwhile inherits that Ctrl-C is blocked; afterwards it is as before."""

    def blocked() -> bool:
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    with interrupts_held():
        assert blocked()
    assert not blocked()


def test_what_remains_is_what_was_not_used(clock, instances):
    """A nested solver gets the share of what is left, and hears the same cancel."""
    progress = Progress(Shelf(), instances, Budget(seconds=10, rollouts=9, patience=7))
    progress.offer(offers([[1]], [[1]]))
    clock.now += 8.0  # of two instances: 4 seconds each
    rest = progress.left(share=0.5)
    assert (rest.seconds, rest.rollouts, rest.patience) == (3.0, 4.0, 7)
    progress.budget.cancel.set()
    assert rest.cancel.is_set()


def test_what_remains_of_a_spent_budget_is_still_a_budget(clock, instances):
    """After overtime a nested solver may still build one solution."""
    progress = Progress(Shelf(), instances, Budget(seconds=1, rollouts=1))
    progress.offer(offers([[1], [2]], [[1], [2]]))
    clock.now += 60.0
    rest = progress.left()
    assert 0 < rest.seconds <= 1e-3
    assert rest.rollouts == 1


# ---------------------------------------------------------------------- progress


@pytest.mark.parametrize(("sense", "best", "actions"), [("min", [1, 20], [1, 2]), ("max", [7, 50], [7, 5])])
def test_the_best_of_each_instance_is_kept(instances, sense, best, actions):
    """Over several offers each instance keeps its own best, by the problem's sense."""
    progress = Progress(Shelf(sense), instances, None)
    first = progress.offer(offers([[3], [4]], [[2], [5]]))
    progress.offer(offers([[1], [7]], [[3], [4]]))
    progress.offer(offers([[2], [6]], [[4], [3]]))
    assert first.dtype == torch.float64
    assert first.tolist() == [[3, 4], [20, 50]]
    found = progress.solutions("shelf-search")
    assert [s.objective for s in found] == best
    assert [s.actions.tolist() for s in found] == [[a] for a in actions]
    assert all(s.feasible and s.violation is None and s.solver == "shelf-search" for s in found)


def test_rollouts_are_counted_per_instance(instances):
    """An offer costs its number of rollouts, or what the solver says that it cost."""
    progress = Progress(Shelf(), instances, MaxRollouts(10))
    progress.offer(offers([[3], [4]], [[2], [5]]))
    assert (progress.rollouts, progress.rollouts_left) == (2, 8)
    progress.offer(offers([[3]], [[2]]), rollouts=7)
    assert (progress.rollouts, progress.rollouts_left) == (9, 1)
    assert not progress.spent
    progress.offer(offers([[3]], [[2]]))
    assert progress.spent
    assert {s.rollouts for s in progress.solutions("x")} == {10}


def test_time_is_shared_by_the_instances_of_a_batch(clock, instances):
    """Two instances in six seconds took three seconds each, and a budget of seconds is per instance."""
    progress = Progress(Shelf(), instances, MaxSeconds(4))
    progress.offer(offers([[3]], [[2]]))
    clock.now += 6.0
    assert not progress.spent
    assert {s.seconds for s in progress.solutions("x")} == {3.0}
    clock.now += 2.0
    assert progress.spent


def test_time_runs_forward(instances):
    """On the real clock a solution took a positive time, not above what passed."""
    begin = time.perf_counter()
    progress = Progress(Shelf(), instances, None)
    progress.offer(offers([[3]], [[2]]))
    (one, other), passed = progress.solutions("x"), time.perf_counter() - begin
    assert 0 < one.seconds <= passed / 2
    assert one.seconds == other.seconds
    assert 0 < one.trace[0].seconds <= one.seconds


def test_no_budget_is_never_spent(clock, instances):
    """Without a budget the solver ends of its own accord."""
    progress = Progress(Shelf(), instances, None)
    for _ in range(50):
        progress.offer(offers([[3]], [[2]]))
    clock.now += 1e9
    assert not progress.spent


def test_cancel_ends_a_search_and_keeps_the_best(instances):
    """A cancelled search is spent and still returns its best solution."""
    budget = MaxSeconds(1e6)
    progress = Progress(Shelf(), instances, budget)
    progress.offer(offers([[3]], [[2]]))
    assert not progress.spent
    budget.cancel.set()
    assert progress.spent
    assert progress.solutions("x")[0].objective == 3


def test_patience_ends_where_no_instance_improves(instances):
    """Patience counts the rollouts since any instance of the batch last improved."""
    progress = Progress(Shelf(), instances, NoImprovement(4))
    progress.offer(offers([[3]], [[5]]))
    progress.offer(offers([[3], [3], [3]], [[5], [5], [5]]))
    assert not progress.spent
    progress.offer(offers([[3]], [[4]]))
    progress.offer(offers([[3], [3], [3]], [[4], [4], [4]]))
    assert not progress.spent
    progress.offer(offers([[3]], [[4]]))
    assert progress.spent


def test_patience_counts_what_an_offer_cost(instances):
    """Patience is in rollouts: one candidate that cost five rollouts wears it by five."""
    progress = Progress(Shelf(), instances, NoImprovement(5))
    progress.offer(offers([[3]], [[5]]))
    progress.offer(offers([[3]], [[5]]), rollouts=5)
    assert progress.spent


@pytest.mark.parametrize("sense", ["min", "max"])
def test_the_trace_rises_to_the_answer(clock, instances, sense):
    """A trace has a point per improvement of its own instance, in time, and ends at the objective."""
    progress = Progress(Shelf(sense), instances, None)
    for one, other in ([5, 5], [5, 4], [6, 4], [4, 5], [4, 4]):
        clock.now += 2.0
        progress.offer(offers([[one]], [[other]]))
    first, second = (s.trace for s in progress.solutions("x"))
    if sense == "min":
        assert first == (TracePoint(1.0, 1, 5.0), TracePoint(4.0, 4, 4.0))
        assert second == (TracePoint(1.0, 1, 50.0), TracePoint(2.0, 2, 40.0))
    else:
        assert first == (TracePoint(1.0, 1, 5.0), TracePoint(3.0, 3, 6.0))
        assert second == (TracePoint(1.0, 1, 50.0),)


def test_shorter_offers_are_padded_with_their_last_action(instances):
    """Solutions of different lengths are kept side by side: the shorter repeats its last action, before and after."""
    progress = Progress(Shelf(), instances, None)
    progress.offer(offers([[1, 2]], [[1, 2]]))
    progress.offer(offers([[9, 9, 9, 9]], [[0, 1, 0, 1]]))
    progress.offer(offers([[0, 2]], [[8, 8]]))
    one, other = progress.solutions("x")
    assert one.actions.tolist() == [0, 2, 2, 2]
    assert one.objective == 2
    assert other.actions.tolist() == [0, 1, 0, 1]
    progress = Progress(Shelf(), instances, None)
    progress.offer(offers([[1, 2]], [[1, 2]]))
    progress.offer(offers([[9, 8, 7]], [[0, 1, 0]]))
    assert [s.actions.tolist() for s in progress.solutions("x")] == [[1, 2, 2], [0, 1, 0]]


def test_the_referee_has_the_last_word(instances):
    """An infeasible answer is returned as such, with the first of the referee's reasons, and its neighbour is not."""
    progress = Progress(Shelf("max"), instances, None)
    progress.offer(offers([[9, 0, 9]], [[1, 2, 3]]))
    broken, sound = progress.solutions("x")
    assert not broken.feasible
    assert broken.violation == "step 0 takes item 9"
    assert sound.feasible
    assert sound.violation is None


def test_a_part_narrows_the_budget_and_gives_it_back(clock, instances):
    """A stage has its share of what is left and a patience of its own; then the whole is there again."""
    whole = Budget(seconds=10, rollouts=9, patience=2)
    progress = Progress(Shelf(), instances, whole)
    progress.offer(offers([[1]], [[1]]))
    progress.offer(offers([[1]], [[1]]), rollouts=2)
    assert progress.spent
    clock.now += 4.0  # two seconds each
    with progress.part(0.25, rollouts=0.5):
        assert (progress.budget.seconds, progress.budget.rollouts, progress.budget.patience) == (4.0, 6.0, 2)
        assert progress.budget.cancel is whole.cancel
        assert not progress.spent
        clock.now += 4.0
        assert progress.spent
    assert progress.budget is whole
    assert not progress.spent
    clock.now += 40.0
    with progress.part(0.5):
        assert progress.spent


def solution(objective: float, action: int, seconds: float, rollouts: int, *trace, proven: bool = False):
    """Return what a solver inside may have found."""
    points = tuple(TracePoint(*point) for point in trace)
    return Solution(torch.tensor([action]), objective, True, None, seconds, rollouts, points, "inside", proven)


def test_what_a_solver_inside_found_is_taken_with_its_books(clock, instances):
    """Its curve goes on from when it began, where it improves; rollouts and seconds are those of each instance."""
    progress = Progress(Shelf(), instances, None)
    clock.now += 2.0
    progress.offer(offers([[5]], [[5]]))
    clock.now += 8.0  # four seconds each: one took three of them, the other five
    progress.take(
        [
            solution(3.0, 3, 3.0, 7, (1.0, 1, 6.0), (2.0, 4, 4.0), (2.5, 7, 3.0 + 1e-9)),
            solution(50.0, 5, 5.0, 9, (0.5, 1, 50.0), proven=True),
        ]
    )
    assert (progress.seconds, progress.rollouts) == (5.0, 10)
    clock.now += 2.0
    progress.offer(offers([[2]], [[6]]))
    one, other = progress.solutions("outside")
    assert one.trace == (
        TracePoint(1.0, 1, 5.0),
        TracePoint(3.0, 5, 4.0),
        TracePoint(3.5, 8, 3.0),
        TracePoint(5.0, 9, 2.0),
    )
    assert other.trace == (TracePoint(1.0, 1, 50.0),)
    assert [(s.seconds, s.rollouts, s.proven) for s in (one, other)] == [(5.0, 9, False), (7.0, 11, True)]


def test_seconds_of_workers_put_the_clock_forward(clock, instances):
    """Instances solved side by side took more seconds each than passed here."""
    progress = Progress(Shelf(), instances, MaxSeconds(10))
    clock.now += 4.0
    progress.take([solution(3.0, 3, 4.0, 1, (4.0, 1, 3.0)), solution(30.0, 3, 4.0, 1, (1.0, 1, 30.0))])
    assert progress.seconds == 4.0
    assert [s.trace[0].seconds for s in progress.solutions("x")] == [4.0, 1.0]


def test_a_worse_find_is_not_taken_for_a_proof(instances):
    """A proof of something that is beaten already is none."""
    progress = Progress(Shelf(), instances, None)
    progress.offer(offers([[2]], [[2]]))
    progress.take([solution(3.0, 3, 1.0, 1, proven=True), solution(20.0, 2, 1.0, 1, proven=True)])
    assert [s.proven for s in progress.solutions("x")] == [False, True]
    assert not progress.settled
    progress.prove([0])
    assert progress.settled


def test_solutions_of_different_lengths_are_taken(instances):
    """What outside solvers find need not be equally long."""
    progress = Progress(Shelf(), instances, None)
    short, long = solution(3.0, 3, 1.0, 1), replace(solution(30.0, 3, 1.0, 1), actions=torch.tensor([1, 2]))
    progress.take([short, long])
    assert [s.actions.tolist() for s in progress.solutions("x")] == [[3, 3], [1, 2]]


@pytest.mark.parametrize(("late", "refused"), [(2.05, False), (2.2, True)])
def test_a_first_solution_too_late_is_none_where_solvers_are_compared(clock, instances, late, refused):
    """More than 5 % beyond a strict budget it is an error that says what it took; improvements may take longer."""
    progress = Progress(Shelf(), instances, Budget(seconds=1, strict=True))
    clock.now += late
    progress.offer(offers([[3]], [[2]]))
    clock.now += 9.0
    progress.offer(offers([[2]], [[1]]))
    if refused:
        line = r"^snail: 1 s is too small a budget; its first solution was complete after 1\.1 s$"
        with pytest.raises(NoSolutionFound, match=line):
            progress.solutions("snail")
        progress.budget.cancel.set()
    assert progress.solutions("snail")[0].objective == 2


def test_a_finished_solution_is_never_thrown_away(clock, instances):
    """However late it is, it is the answer, and its trace says when it was complete."""
    progress = Progress(Shelf(), instances, MaxSeconds(1))
    clock.now += 100.0
    progress.offer(offers([[3]], [[2]]))
    assert [(s.objective, s.trace[0].seconds) for s in progress.solutions("snail")] == [(3, 50.0), (20, 50.0)]


def test_a_rollout_has_time_until_there_is_a_solution(clock, instances):
    """The first may take all the time that it needs; then what is under way at the end of the budget is given up."""
    progress = Progress(Shelf(), instances, MaxSeconds(1))
    clock.now += 100.0
    assert progress.allowed == math.inf
    with progress.abandoning():
        progress.look()
        progress.offer(offers([[3]], [[2]]))
        progress.look()
        raise AssertionError("the time is over")
    assert progress.solutions("snail")[0].objective == 3
    clock.now -= 99.5
    assert progress.allowed == pytest.approx(1.5)  # of both instances together
    progress.look()
    progress.budget.cancel.set()
    with pytest.raises(Abandoned):
        progress.look()


@pytest.mark.parametrize(("share", "first"), [(1.0, 4.0), (0.1, 0.4)])
def test_a_search_inside_may_come_to_nothing_where_there_is_a_solution(clock, instances, share, first):
    """Its first solution then ends with its seconds, and that of a search inside of it with the same."""
    outer = Progress(Shelf(), instances, MaxSeconds(4))
    assert outer.left().first == math.inf
    outer.offer(offers([[3]], [[2]]))
    inner = Progress(Shelf(), instances, outer.left(share))
    assert inner.budget.first == first
    deeper = Progress(Shelf(), instances, inner.left(0.1))
    clock.now += 2 * first - 0.2
    for each in (inner, deeper):
        assert each.allowed == pytest.approx(0.2)
        assert Pace(each, 100).next(1000) > 0
    clock.now += 0.4
    for each in (inner, deeper):
        with pytest.raises(Abandoned, match=r"no solution of .* within the budget"):
            Pace(each, 100).next(1000)
        with pytest.raises(NoSolutionFound), each.abandoning():
            each.look()


def test_only_the_outermost_budget_says_too_late(clock, instances):
    """A part of a budget that is too small for a solution is no error while the whole pays for it."""
    outer = Progress(Shelf(), instances, MaxSeconds(4))
    inner = Progress(Shelf(), instances, outer.left(0.1))
    clock.now += 2.0
    inner.offer(offers([[3]], [[2]]))
    outer.take(inner.solutions("inner"))
    assert outer.solutions("outer")[0].objective == 3
    tight = Progress(Shelf(), instances, Budget(seconds=0.5, strict=True))
    clock.now += 2.0
    tight.take(inner.solutions("inner"))
    with pytest.raises(NoSolutionFound, match="after 1 s"):
        tight.solutions("outer")


def test_a_proof_is_for_its_instance_and_what_was_offered(instances):
    """A proof holds for the instance that it names, until something better turns up."""
    progress = Progress(Shelf(), instances, None)
    progress.offer(offers([[3]], [[3]]))
    progress.prove([1])
    progress.offer(offers([[2]], [[4]]))
    assert [s.proven for s in progress.solutions("x")] == [False, True]
    progress.offer(offers([[2]], [[1]]))
    assert [s.proven for s in progress.solutions("x")] == [False, False]


@pytest.mark.parametrize("also", [[], [8]])
def test_who_offers_a_broken_solution_proves_nothing(instances, also):
    """A proof whose best solution the referee refuses is dropped, with another solution at hand or without one."""
    progress = Progress(Shelf("max"), instances, None)
    for item in [*also, 9]:
        progress.offer(offers([[item]], [[5]]))
    progress.prove([0, 1])
    assert [(s.feasible, s.proven) for s in progress.solutions("x")] == [(bool(also), False), (True, True)]


def test_no_offer_is_no_solution(instances):
    """A budget that ends before the first solution is an error that names solver and problem."""
    with pytest.raises(NoSolutionFound, match="snail: no solution of shelf"):
        Progress(Shelf(), instances, MaxRollouts(1)).solutions("snail")


def test_a_violation_reads_as_a_sentence():
    """A violation says where it is and what is broken."""
    assert str(Violation(2, 0, "node 3 is visited twice")) == "row 2, rollout 0: node 3 is visited twice"


# ---------------------------------------------------------------------- pace


def test_pace_is_bounded_by_memory_wish_and_budget(instances):
    """Without a time limit a round is as large as memory, the wish and the rollouts that are left allow."""
    progress = Progress(Shelf(), instances, MaxRollouts(30))
    assert Pace(progress, most=20).next(100) == 20
    assert Pace(progress, most=20).next(7) == 7
    assert Pace(progress, most=200).next(100) == 30
    assert Pace(progress, most=0).next(100) == 1


def test_pace_follows_the_clock(clock, instances):
    """Under a time limit rounds grow by at most 8 times, to half of what is left, and to all of the last fifth."""
    progress = Progress(Shelf(), instances, MaxSeconds(100))
    assert Pace(progress, most=100).next(math.inf) == 1
    pace = Pace(progress, most=10_000)
    assert pace.next(math.inf) == 8
    clock.now += 2 * 8 * 0.1  # two instances, a tenth of a second each per rollout
    progress.offer(torch.zeros(2, 8, 1, dtype=torch.int64))
    assert pace.next(math.inf) == 64
    clock.now += 2 * 64 * 1.0
    progress.offer(torch.zeros(2, 64, 1, dtype=torch.int64))
    assert pace.next(math.inf) == int(0.5 * (100 - 64.8))
    clock.now += 2 * 17 * 1.0
    progress.offer(torch.zeros(2, 17, 1, dtype=torch.int64))
    assert pace.next(math.inf) == int(0.9 * (100 - 81.8))


def worked(clock, progress, count, seconds):
    """Let a round of so many rollouts take so long for each of two instances."""
    clock.now += 2 * seconds
    progress.offer(torch.zeros(2, count, 1, dtype=torch.int64))


def test_no_round_begins_that_would_not_end_in_time(clock, instances):
    """What a round costs however small is known from the smallest; where that is not left, nothing begins."""
    progress = Progress(Shelf(), instances, MaxSeconds(10))
    pace = Pace(progress, most=1)
    assert pace.next(math.inf) == 1
    worked(clock, progress, 1, 3.0)
    assert pace.next(math.inf) == 1
    worked(clock, progress, 1, 4.0)
    assert pace.next(math.inf) == 1
    worked(clock, progress, 1, 2.9)
    assert pace.next(math.inf) == 0
    assert progress.seconds == pytest.approx(9.9)


def test_something_is_begun_where_there_is_nothing_yet(clock, instances):
    """The first round is of one rollout at least, whatever the clock says."""
    progress = Progress(Shelf(), instances, MaxSeconds(1))
    clock.now += 5.0
    pace = Pace(progress, most=100)
    assert pace.next(math.inf) == 1
    worked(clock, progress, 1, 1.0)
    assert pace.next(math.inf) == 0


@pytest.mark.parametrize("fixed", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("rate", [1e-4, 1e-2])
def test_rounds_end_at_the_end_of_the_budget(clock, instances, fixed, rate):
    """Where rounds cost a fixed time and a time per rollout, the budget is met to within 5 %, or a single rollout."""
    progress = Progress(Shelf(), instances, MaxSeconds(2))
    pace = Pace(progress, most=100_000)
    while count := pace.next(math.inf):
        worked(clock, progress, count, fixed + rate * count)
    assert 2 - max(0.1, 1.5 * (fixed + rate)) <= progress.seconds <= 2.1


def test_a_wide_share_is_for_who_gains_by_one_large_round(clock, instances):
    """A share of 0.9 takes nearly all that is left at once."""
    progress = Progress(Shelf(), instances, MaxSeconds(100))
    pace = Pace(progress, most=10_000, share=0.9)
    assert pace.next(16) == 8
    worked(clock, progress, 8, 20.0)
    assert pace.next(math.inf) == int(0.9 * 80 / 2.5)


def test_a_broken_candidate_never_costs_a_sound_one() -> None:
    """First, last or in the same offer, a broken solution that scores better gives way to a sound one."""
    env = Task.of(TSP, num_nodes=4)
    square = TensorDict({"locs": torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])}, batch_size=[1])
    broken, crossed, sound = ([0, 0, 0, 0], [0, 2, 1, 3], [0, 1, 2, 3])
    for offers in ([[broken, crossed]], [[broken], [crossed]], [[crossed], [broken]]):
        progress = Progress(env, square, None)
        for each in offers:
            progress.offer(torch.tensor([each]))
        (found,) = progress.solutions("x")
        assert (found.actions.tolist(), found.feasible) == (crossed, True)
    progress.offer(torch.tensor([[sound]]))
    assert progress.solutions("x")[0].objective == 4.0
    only = Progress(env, square, None)
    only.offer(torch.tensor([[broken]]))
    (found,) = only.solutions("x")
    assert (found.feasible, found.objective) == (False, 0.0)
    assert "node 0" in str(found.violation)
