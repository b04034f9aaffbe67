from __future__ import annotations

import itertools
import warnings
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from ncogym.baselines import SOLVERS
from ncogym.baselines.base import Run
from ncogym.baselines.knapsack import Items, KnapsackDP, RatioGreedy, ValueGreedy, as_actions, fill
from ncogym.budget import MaxSeconds
from ncogym.envs.packing.instances import Pisinger
from ncogym.envs.packing.knapsack import Knapsack
from ncogym.errors import ArgumentError, SolverError, UnsupportedProblem
from ncogym.models import Packing
from ncogym.task import Task


def knapsack(weight, value, capacity):
    """Return one instance."""
    numbers = {"weight": weight, "value": value, "capacity": capacity}
    return TensorDict({name: torch.tensor([each], dtype=torch.float64) for name, each in numbers.items()}, [1])


def best_value(weight, value, capacity):
    """Try every subset, from the definition."""
    picks = np.array(list(itertools.product((0.0, 1.0), repeat=len(weight))))
    return (picks @ value)[picks @ weight <= capacity].max()


# ---------------------------------------------------------------------- greedy


def test_greedy_by_hand(data, rng):
    """By ratio comes item 0, then nothing but item 3: worth 13, where 18 were possible."""
    env = Task.of(Knapsack, 4)
    (solution,) = RatioGreedy()(env, env.read(data / "exact4.kp"), None, rng)
    assert solution.actions.tolist() == [0, 3, 4, 4]
    assert (solution.objective, solution.feasible, solution.solver) == (13, True, "ratio-greedy")


def test_greedy_treats_rows_alone(rng):
    """A batch gives what each of its rows gives, and leaves nothing out that fits."""
    env = Task.of(Knapsack, 40, "mixed")
    instances = env.generate(20, rng)
    together = RatioGreedy()(env, instances, None, rng)
    for row, solution in enumerate(together):
        instance = instances[row : row + 1]
        (alone,) = RatioGreedy()(env, instance, None, rng)
        assert torch.equal(alone.actions, solution.actions)
        assert solution.feasible
        packed = np.isin(np.arange(40), solution.actions)
        weight = instance["weight"][0].double().numpy()
        left = float(instance["capacity"]) - weight[packed].sum()
        assert packed.all() or weight[~packed].min() > left


@pytest.mark.parametrize(("items", "gap"), [(50, 0.278), (100, 0.126)])
def test_greedy_is_as_far_off_as_measured_before(items, gap):
    """On uniform sets the mean gap to the optimum is that of an independent study, within a fifth."""
    env = Task.of(Knapsack, items)
    instances = env.seeded(200, 4321)
    values = [[s.objective for s in solver(env, instances, None, torch.Generator())] for solver in (RatioGreedy(), DP)]
    greedy, best = np.array(values)
    assert 100 * (1 - greedy / best).mean() == pytest.approx(gap, rel=0.2)


@pytest.mark.parametrize("name", [name for name, kind in SOLVERS.items() if Packing in kind().reads])
def test_items_without_weight_are_packed(name, rng):
    """Every solver of knapsacks takes what weighs nothing, beside the best of the others, and warns of nothing."""
    instance = knapsack([0.0, 2, 0, 3, 0], [10.0, 3, 0, 2.5, 1], 4.0)
    weightless = knapsack([0.0] * 5, [1.0, 0, 2, 3, 0], 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [
            SOLVERS[name]()(Task.of(Knapsack, 5), each, MaxSeconds(1000), rng)[0] for each in (instance, weightless)
        ]
    assert [(each.objective, each.feasible) for each in found] == [(14, True), (6, True)]


# ---------------------------------------------------------------------- dynamic programme

DP = KnapsackDP(progress_bar=False)
whole, decimal = st.integers(1, 15).map(float), st.integers(1, 10**6).map(lambda k: k / 2**16)
items = st.one_of(
    st.lists(st.tuples(whole, st.integers(0, 15).map(float)), min_size=1, max_size=9),
    st.lists(st.tuples(whole, decimal), min_size=1, max_size=9),
    st.lists(st.tuples(decimal, decimal), min_size=1, max_size=9),
    st.lists(whole.map(lambda w: (w, w)), min_size=1, max_size=9),
    st.lists(whole.map(lambda w: (w, w + 10)), min_size=1, max_size=9),
    st.lists(st.tuples(st.just(0.0) | whole, st.just(0.0) | whole), min_size=1, max_size=9),
)


@settings(deadline=None, max_examples=150)
@given(items=items, share=st.floats(0.0, 1.1))
def test_the_optimum_is_brute_forces(items, share):
    """Whatever the numbers, the best reported packing fits and is worth what the best subset is."""
    weight, value = np.array(items).T
    capacity = max(1.0, float(np.floor(share * weight.sum())))
    run = Run(np.inf, lambda: False)
    DP._solve(Items(weight, value, capacity), run)
    found = [np.isin(np.arange(len(weight)), actions) for _, actions in run.reports]
    assert all(weight @ packed <= capacity for packed in found)
    assert max(value @ packed for packed in found) == pytest.approx(best_value(weight, value, capacity), abs=1e-9)
    assert run.proven


@pytest.mark.parametrize("distribution", ["uniform", "mixed", *get_args(Pisinger)])
def test_it_agrees_with_the_programme_over_loads(distribution, rng):
    """On each class it finds what the textbook table of the best value for each load, item by item, ends with."""
    env = Task.of(Knapsack, 25, distribution)
    instances = env.generate(4, rng)
    solutions = DP(env, instances, None, rng)
    for row, solution in enumerate(solutions):
        weight, value, capacity = (instances[key][row].double().numpy() for key in ("weight", "value", "capacity"))
        assert solution.feasible
        if (weight == np.rint(weight)).all() and capacity < 1e5:
            best = np.zeros(int(capacity) + 1)
            for w, v in zip(weight.astype(int), value, strict=True):
                best[w:] = np.maximum(best[w:], best[:-w] + v)
            assert solution.objective == best[-1]
        else:  # nothing beats the relaxation, and a swap of two items does not beat the solution
            order = np.argsort(-value / weight)
            bound = np.interp(capacity, np.append(0, weight[order].cumsum()), np.append(0, value[order].cumsum()))
            packed = np.isin(np.arange(25), solution.actions)
            lighter = weight[packed].sum() - weight[packed][:, None] + weight[~packed] <= capacity
            assert solution.objective <= bound * (1 + 1e-12)
            assert not (lighter & (value[~packed] > value[packed][:, None] + 1e-9)).any()


def test_public_files_are_solved(shared_instances, rng):
    """The best known values of the public files are reached, but for one that was made to be hard."""
    env, solved = Knapsack(), 0
    for path in sorted((shared_instances / "knapsack").glob("*.txt")):
        best = known(shared_instances)[path.name]
        if "c_10000000000" not in path.name:
            (solution,) = DP(env, env.read(path), None, rng)
            assert solution.feasible
            assert solution.objective == pytest.approx(best, rel=1e-6), path.name
            solved += 1
    assert solved


def known(folder):
    """Return the best known value of each public file."""
    lines = (folder / "index.csv").read_text(encoding="utf-8").splitlines()
    cells = [line.split(",") for line in lines if ",knapsack/" in line]
    return {cell[2].removeprefix("knapsack/"): float(cell[4]) for cell in cells}


def test_the_published_references_are_reached(shared_instances, rng):
    """The optima of the field's uniform set are those of OR-Tools' proof."""
    published = np.load(shared_instances / "nco" / "kp100_seed4321.npz")
    env = Task.of(Knapsack, 100)
    solutions = DP(env, env.seeded(64, 4321), None, rng)
    np.testing.assert_allclose([solution.objective for solution in solutions], published["ref_value"], rtol=1e-9)


def hard(items=60):
    """Return an instance whose bounds settle nothing: weights of many digits, values that go with them."""
    weight = np.random.default_rng(0).integers(10**9, 2 * 10**9, items).astype(float)
    return knapsack(weight.tolist(), (weight + 10**8).tolist(), float(weight.sum() // 2))


def test_seconds_end_it_with_the_best_so_far(rng, ticking):
    """When the time is over the best packing so far is there, no worse than the greedy one."""
    env = Task.of(Knapsack, 60)
    (solution,) = DP(env, hard(), MaxSeconds(0.03), rng)
    assert solution.feasible
    assert solution.seconds < 0.04
    assert solution.objective >= RatioGreedy()(env, hard(), None, rng)[0].objective
    assert not solution.proven


def test_whole_numbers_are_proven_as_long_as_they_add_up(rng):
    """An optimum is proven, a greedy packing never is, nor what is worth more than float64 can count."""
    env = Task.of(Knapsack, 3)
    small, large = (knapsack([2.0, 3.0, 4.0], [v, v + 2, v + 4], 5.0) for v in (3.0, 2.0**53))
    assert [solver(env, small, None, rng)[0].proven for solver in (DP, RatioGreedy())] == [True, False]
    assert not DP(env, large, None, rng)[0].proven


def test_too_hard_is_an_error_in_words(rng):
    """Without seconds it gives up in one line when it would have to keep too many packings."""
    with pytest.raises(SolverError, match=r"knapsack-dp: too hard; .* 1000 are allowed"):
        KnapsackDP(max_states=1000)(Task.of(Knapsack, 60), hard(), None, rng)
    with pytest.raises(ArgumentError, match="max_states: 0 is not allowed"):
        KnapsackDP(max_states=0)


def test_decimals_fill_the_knapsack(data, rng):
    """The packing of 0.1 and 0.2 in 0.3 is found."""
    env = Task.of(Knapsack, 3)
    (solution,) = DP(env, env.read(data / "decimal3.kp"), None, rng)
    assert (solution.objective, solution.feasible) == (5, True)


def test_value_greedy_by_hand(rng: torch.Generator) -> None:
    """It takes the most valuable item that fits, however heavy; the ratio would have taken the two others."""
    keys = {"weight": [[9.0, 5.0, 5.0]], "value": [[10.0, 9.0, 8.0]], "capacity": [10.0]}
    one = TensorDict({key: torch.tensor(value) for key, value in keys.items()}, batch_size=[1])
    env = Task.of(Knapsack, num_items=3)
    assert [solver(env, one, None, rng)[0].objective for solver in (ValueGreedy(), RatioGreedy())] == [10.0, 17.0]


@pytest.mark.parametrize("solver", [RatioGreedy(), ValueGreedy(), DP])
def test_a_knapsack_that_nothing_fits(solver, rng):
    """The empty packing is a solution, worth nothing."""
    (solution,) = solver(Task.of(Knapsack, 2), knapsack([5.0, 6.0], [1.0, 2.0], 4.0), None, rng)
    assert (solution.actions.tolist(), solution.objective, solution.feasible) == ([2, 2], 0, True)


@pytest.mark.parametrize("solver", [RatioGreedy(), ValueGreedy(), DP])
def test_other_problems_are_refused(solver, rng):
    """What does not show itself as a knapsack is not solved."""

    class Sorting:
        name = "sorting"

        def model(self, instance):
            return None

    with pytest.raises(UnsupportedProblem, match=f"{solver.name} cannot take sorting; it solves 0-1 knapsacks"):
        solver(Sorting(), knapsack([1.0], [1.0], 1.0), None, rng)


def test_what_fits_is_filled_in():
    """Worthless items that fit are taken as well, so that a packing is done; the choice itself is kept."""
    weights, values = np.array([4.0, 3.0, 2.0, 1.0]), np.array([0.0, 9.0, 0.0, 1.0])
    chosen = np.array([True, False, False, False])
    assert fill(weights, values, 6.0, chosen).tolist() == [True, False, False, True]
    assert chosen.tolist() == [True, False, False, False]
    assert as_actions(np.array([True, False, True])).tolist() == [0, 2, 3]
