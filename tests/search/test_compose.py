"""Chains of solvers: one budget, one count of rollouts, one anytime curve."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from ncogym import books as clocked
from ncogym.books import Progress
from ncogym.budget import Budget, MaxRollouts, MaxSeconds, NoImprovement
from ncogym.errors import ArgumentError, NoSolutionFound
from ncogym.search import EAS, Active, Compose, GreedySearch, Sampling, Symmetry
from ncogym.solver import Improver


@pytest.fixture
def clock(monkeypatch):
    """Return the clock of the solver module, which stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr(clocked.time, "perf_counter", lambda: now[0])
    return now


class First:
    """Offers random tours, each for so many seconds, until its budget is spent or it has offered ``most``."""

    name = "first"

    def __init__(self, clock, cost: float, most: float = math.inf) -> None:
        self.clock, self.cost, self.most = clock, cost, most
        self.budgets = []

    def __call__(self, env, instances, budget, rng):
        """Solve by random tours."""
        self.budgets.append(budget)
        progress = Progress(env, instances, budget)
        self.work(progress, rng)
        return progress.solutions(self.name)

    def work(self, progress, rng):
        """Offer one tour after the other."""
        done = 0
        while done < self.most and not (progress.actions is not None and progress.spent):
            self.clock[0] += self.cost * progress.batch
            order = torch.rand(progress.batch, 1, 7, generator=rng).argsort(-1)
            progress.offer(order)
            done += 1


class Then(First, Improver):
    """The same as an improver, which keeps the incumbents that it was given and the budget that it saw."""

    name = "then"

    def __init__(self, *arguments, brief: bool = False) -> None:
        super().__init__(*arguments)
        self.brief, self.given = brief, []

    def improve(self, progress, rng):
        """Go on from there, in name."""
        self.budgets.append(progress.budget)
        self.given.append(progress.best.tolist())
        if self.brief:
            self.clock[0] += self.cost * progress.batch
            progress.offer(progress.actions[:, None], rollouts=0)
        else:
            self.work(progress, rng)


def test_a_chain_shares_the_budget_and_spends_it(clock, env, instances, rng) -> None:
    """The first gets a quarter, the others equal parts of what is left, and all of it is spent, none twice."""
    first, second, third = First(clock, 0.5), Then(clock, 0.5), Then(clock, 0.5)
    begin = clock[0]
    found = Compose(first, second, third)(env, instances, MaxSeconds(40), rng)
    assert first.budgets[0].seconds == 10
    assert [stage.budgets[0].seconds for stage in (second, third)] == [25, 40]
    assert (clock[0] - begin) / 3 == 40
    assert {(s.seconds, s.rollouts) for s in found} == {(40.0, 80)}
    assert len(first.budgets) == 1


def test_what_a_stage_leaves_goes_to_the_later_ones(clock, env, instances, rng) -> None:
    """A first stage that ends of its own accord leaves its part to the next, and is not asked again."""
    first, second = First(clock, 0.5, most=2), Then(clock, 0.5)
    found = Compose(first, second)(env, instances, MaxSeconds(40), rng)
    assert found[0].rollouts == 80
    assert second.budgets[0].seconds == 40
    assert len(first.budgets) == 1


@pytest.mark.parametrize("most", [math.inf, 3])
def test_brief_stages_reserve_little_and_what_they_leave_is_spent(clock, env, instances, rng, most) -> None:
    """Before a local search the first gets nine tenths; what is over goes into the chain once more, if it helps."""
    first, brief = First(clock, 0.5, most), Then(clock, 0.1, brief=True)
    found = Compose(first, brief)(env, instances, MaxSeconds(40), rng)
    assert first.budgets[0].seconds == 36
    if most == 3:
        assert len(first.budgets) == len(brief.budgets) == 1
        assert found[0].seconds == pytest.approx(1.6)
    else:
        assert len(first.budgets) == len(brief.budgets) == 2
        assert 38 <= found[0].seconds <= 40 + 0.5 + 0.1


def test_a_further_pass_that_finds_nothing_costs_nothing(clock, env, instances, rng) -> None:
    """What was found before is the answer, where the first finds nothing in what is left; at first it is an error."""

    class Slow(First):
        def work(self, progress, rng):
            if len(self.budgets) > 1 or progress.budget.seconds < 1:
                clock[0] += progress.budget.seconds * 3
                raise NoSolutionFound("slow: nothing")
            super().work(progress, rng)

    first, brief = Slow(clock, 0.5), Then(clock, 0.1, brief=True)
    found = Compose(first, brief)(env, instances, MaxSeconds(40), rng)
    assert len(first.budgets) == 2
    assert all(s.feasible for s in found)
    with pytest.raises(NoSolutionFound, match="slow: nothing"):
        Compose(Slow(clock, 0.5), brief)(env, instances, MaxSeconds(1), rng)


def test_rollouts_are_shared_and_none_is_reserved_for_brief_stages(clock, env, instances, rng) -> None:
    """A quarter of the rollouts are for the first, all where only a local search follows, and it still has its turn."""
    first, second, brief = First(clock, 0.5), Then(clock, 0.5), Then(clock, 0.1, brief=True)
    found = Compose(first, second, brief)(env, instances, MaxRollouts(40), rng)
    assert (first.budgets[0].rollouts, found[0].rollouts) == (10, 40)
    assert len(brief.budgets) == 1
    first, brief = First(clock, 0.5), Then(clock, 0.1, brief=True)
    assert Compose(first, brief)(env, instances, MaxRollouts(7), rng)[0].rollouts == 7
    assert len(brief.budgets) == len(first.budgets) == 1


def test_patience_is_each_stages_own(clock, env, instances, rng) -> None:
    """Every stage ends after so many rollouts without an improvement, and the chain after the last."""
    first, second = First(clock, 0.5), Then(clock, 0.5)
    found = Compose(first, second)(env, instances, NoImprovement(9), rng)
    assert len(first.budgets) == len(second.budgets) == 1
    assert found[0].rollouts >= 9 + 9


def test_the_curve_is_that_of_all_stages(clock, env, instances, rng) -> None:
    """It rises in seconds and rollouts, through all stages, to the answer; the next stage gets the best of the last."""
    first, second = First(clock, 1.0, most=3), Then(clock, 1.0)
    found = Compose(first, second)(env, instances, MaxRollouts(200), rng)
    assert any(point.rollouts > 3 for s in found for point in s.trace)
    for row, solution in enumerate(found):
        assert all(a.seconds < b.seconds and a.rollouts < b.rollouts for a, b in pairwise(solution.trace))
        assert all(a.objective > b.objective for a, b in pairwise(solution.trace))
        assert all(p.seconds == pytest.approx(p.rollouts) for p in solution.trace)
        assert solution.trace[-1].objective == solution.objective
        assert second.given[0][row] == [p.objective for p in solution.trace if p.rollouts <= 3][-1]
        assert solution.solver == "first+then"


def test_a_first_stage_may_be_late_where_the_whole_is_not(clock, env, instances, rng) -> None:
    """Its part need not pay for a solution, the whole must."""
    chain = Compose(First(clock, 3.0), Then(clock, 0.5))
    assert chain(env, instances, MaxSeconds(4), rng)[0].feasible
    with pytest.raises(NoSolutionFound, match=r"first\+then: 2 s is too small a budget; its first solution .* 3 s"):
        chain(env, instances, Budget(seconds=2, strict=True), rng)


def test_an_interrupt_returns_the_best_so_far(clock, env, instances, rng) -> None:
    """Once cancelled, no stage begins any more, and what the first found is checked and returned."""
    budget = MaxSeconds(40)

    class Cancelling(First):
        def work(self, progress, rng):
            super().work(progress, rng)
            budget.cancel.set()

    second = Then(clock, 0.5)
    found = Compose(Cancelling(clock, 0.5), second)(env, instances, budget, rng)
    assert not second.budgets
    assert all(s.feasible and s.rollouts == 20 for s in found)


def test_nothing_follows_a_proof(clock, env, instances, rng) -> None:
    """Where the best of every instance is proven to be one, the chain ends."""

    class Proving(First):
        def work(self, progress, rng):
            super().work(progress, rng)
            progress.prove(range(3))

    second = Then(clock, 0.5)
    found = Compose(Proving(clock, 0.5, 4), second)(env, instances, MaxSeconds(40), rng)
    assert not second.budgets
    assert all(s.proven for s in found)


def test_what_cannot_improve_is_refused(policy) -> None:
    """A search that begins anew does not follow another."""
    with pytest.raises(ArgumentError, match="then: sampling is not allowed; it cannot go on from a solution"):
        Compose(GreedySearch(policy), Sampling(policy))
    assert not isinstance(Symmetry(GreedySearch(policy)), Improver)


IMPROVERS = {
    "eas": lambda policy: EAS(policy, rollouts=4, steps=5),
    "eas-lay": lambda policy: EAS(policy, "layer", rollouts=4, steps=5),
    "eas-tab": lambda policy: EAS(policy, "table", rollouts=4, steps=5),
    "active": lambda policy: Active(policy, rollouts=4, steps=5),
}


@pytest.mark.parametrize("name", IMPROVERS)
@pytest.mark.parametrize("budget", [None, MaxRollouts(40)])
def test_searches_that_tune_go_on_from_what_is_there(env, policy, instances, rng, name, budget) -> None:
    """Never worse than their start, within the budget, with the policy's weights as they were."""
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    start = Sampling(policy, samples=8)
    chain = Compose(start, IMPROVERS[name](policy))
    alone = Sampling(policy)(env, instances, MaxRollouts(10 if budget else 8), torch.Generator().manual_seed(5))
    found = chain(env, instances, budget, torch.Generator().manual_seed(5))
    assert all(a.objective <= b.objective for a, b in zip(found, alone, strict=True))
    assert {s.rollouts for s in found} == {40 if budget else 8 + 4 * 5}
    assert {s.solver for s in found} == {f"sampling+{name}"}
    assert all(torch.equal(value, before[key]) for key, value in policy.state_dict().items())


@pytest.mark.parametrize(("module", "search"), [("eas", EAS), ("active", Active)])
def test_an_incumbent_that_is_given_is_imitated(env, policy, instances, rng, monkeypatch, module, search) -> None:
    """What is made likelier from the first step on is the solution that was given, not the best of the own rollouts."""
    best = Sampling(policy, samples=2000)(env, instances, None, rng)
    imitated = []

    def watched(env, policy, encoded, drawn, progress, weight):
        imitated.append(progress.best.tolist())

    monkeypatch.setattr(f"ncogym.search.{module}.descend", watched)
    progress = Progress(env, instances, MaxRollouts(2020))
    progress.take(best)
    search(policy, rollouts=5).improve(progress, rng)
    assert imitated[0] == [s.objective for s in best][: len(imitated[0])]
    assert progress.rollouts == 2020


def test_a_chain_of_searches_keeps_a_budget_of_rollouts(env, policy, instances, rng) -> None:
    """Images, then tuning: no rollout more or less."""
    found = Compose(Symmetry(Sampling(policy)), EAS(policy, rollouts=5))(env, instances, MaxRollouts(80), rng)
    assert {(s.rollouts, s.solver) for s in found} == {(80, "sampling+symmetry+eas")}
