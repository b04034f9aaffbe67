"""Classical methods for the 0-1 knapsack: greedy by ratio or by value, and an exact dynamic programme."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor

from ncogym.baselines.base import Baseline, OutsideSolver, Run
from ncogym.books import Progress
from ncogym.budget import Budget
from ncogym.errors import ArgumentError, SolverError
from ncogym.models import Packing
from ncogym.problem import Problem
from ncogym.solution import Solutions

Numbers = NDArray[np.float64]
MODERATE = 400  # binary exponents to either side of 1 within which numbers stay as they are
EXACT = 2**53  # whole numbers add up without rounding to here


class Items(NamedTuple):
    """An instance in numbers: weights ``[items]``, values ``[items]`` and the capacity."""

    weights: Numbers
    values: Numbers
    capacity: float


class KnapsackSolver(Baseline):
    """A solver of 0-1 knapsacks."""

    reads = (Packing,)


class PackingSolver(KnapsackSolver, OutsideSolver):
    """A `KnapsackSolver` called once per instance; its `_solve` gets a `Items`.

    Of a budget it keeps the seconds; rollouts are counted (each packing it reports is one) but do not limit it.
    """

    def _view(self, env: Problem, one: TensorDict, budget: Budget, rng: torch.Generator) -> Items:
        row = self.model(env, one).row(0)
        weights, capacity = _moderate(row.weights, float(row.capacity))
        return Items(weights, _moderate(row.values)[0], capacity)


class RatioGreedy(KnapsackSolver):
    """Go through the items by value per weight, the best first (without weight: before all), and take each that fits.

    A single pass for all instances together. On uniform items it is 0.3 to 0.1 % below the optimum, on strongly
    correlated ones 2 to 1 % (50 to 100 items): a policy that is worse has learned nothing.
    """

    name = "ratio-greedy"

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        model = self.model(env, instances)
        progress = Progress(env, instances, budget)
        weights, values, left = model.weights, model.values, model.capacity
        order = self._merit(weights, values).argsort(-1, descending=True)
        actions = torch.full_like(order, weights.shape[1])
        for place, item in enumerate(order.T):
            weight = weights.gather(1, item[:, None])[:, 0]
            fits = weight <= left
            actions[:, place] = torch.where(fits, item, actions[:, place])
            left = torch.where(fits, left - weight, left)
        progress.offer(actions.sort(-1).values[:, None])  # a set has no order; the stops come last
        return progress.solutions(self.name)

    def _merit(self, weights: Tensor, values: Tensor) -> Tensor:
        return torch.where(weights > 0, values / weights, torch.inf)


class ValueGreedy(RatioGreedy):
    """Go through the items by value, the largest first, and take each that still fits; as fast as `RatioGreedy`."""

    name = "value-greedy"

    def _merit(self, weights: Tensor, values: Tensor) -> Tensor:
        return values


class KnapsackDP(PackingSolver):
    """The exact dynamic programme over undominated packings, for any numbers, whole or not.

    First the linear relaxation's bound settles what it can: an item whose other choice cannot beat the greedy packing
    keeps the choice it has there. The open items are then gone through by ratio, and of the packings so far those are
    kept that none lighter is worth as much as, and whose bound beats the best known. It ends with a proven optimum, or
    at the end of the budget with the best so far. Random instances of all Pisinger's classes with 200 items take
    milliseconds; instances made to be hard (Jooken et al. 2022) may keep too many packings.

    The proof, told in `Solution.proven`, is exact for whole numbers (where their sum is at most 2**53, else it is not
    told). For others it is up to the rounding of a sum in float64, as is the objective itself.

    Args:
        max_states: packings kept in all, 5 bytes each; what needs more is given up as a `SolverError`.
        workers: see `OutsideSolver`.
        progress_bar: see `OutsideSolver`.

    References:
        Nemhauser and Ullmann (1969), Discrete dynamic programming and capital allocation, Management Science 15.
        Dembo and Hammer (1980), A reduction algorithm for knapsack problems, Methods of Operations Research 36.
    """

    name = "knapsack-dp"

    def __init__(self, *, max_states: int = 50_000_000, workers: int = 1, progress_bar: bool = True) -> None:
        super().__init__(workers=workers, progress_bar=progress_bar)
        if max_states < 1:
            raise ArgumentError(f"max_states: {max_states} is not allowed; it must be at least 1")
        self.max_states = max_states

    def _solve(self, packing: Items, run: Run) -> None:
        weights, values, capacity = packing
        greedy = fill(*packing, np.zeros(len(weights), dtype=bool))
        run.report(as_actions(greedy))
        sure, is_open = _settled(packing, greedy)
        room = capacity - weights[sure].sum()
        ended = True
        if is_open.any() and room >= 0:  # else whatever is better would have to pack too much
            chosen = sure.copy()
            chosen[is_open], ended = self._best(Items(weights[is_open], values[is_open], room), run)
            run.report(as_actions(fill(*packing, chosen)))
        if ended and max(weights.sum(), values.sum()) <= EXACT:
            run.prove()

    def _best(self, packing: Items, run: Run) -> tuple[NDArray[np.bool_], bool]:
        """Return the best packing, bool ``[items]``, and True; or the best so far and False if the run ends before."""
        order = np.argsort(-ratios(packing.weights, packing.values), kind="stable")
        weights, values = packing.weights[order], packing.values[order]
        ratio = np.append(ratios(weights, values), 0.0)
        load_before, worth_before = (np.append(0.0, numbers.cumsum()) for numbers in (weights, values))
        step = _step(values)
        load, worth = np.zeros(1), np.zeros(1)  # of the packings kept, by load
        history: list[tuple[NDArray[np.int32], NDArray[np.bool_]]] = []  # from which packing each came, with the item?
        best, place, states = -1.0, (0, 0, 0), 0
        for item in range(len(weights) + 1):
            # of the items from here on, those before `end` fit as well, and a part of the next, which weighs something
            room = packing.capacity - load + load_before[item]
            end = np.searchsorted(load_before, room, side="right") - 1
            reached = worth + worth_before[end] - worth_before[item]
            first = int(reached.argmax())
            if reached[first] > best:
                best, place = reached[first], (item, first, int(end[first]))
            bound = reached + (room - load_before[end]) * ratio[end]
            kept = (bound >= best + step).nonzero()[0]
            ended = item == len(weights) or not len(kept)
            if ended or run.cancelled or run.elapsed >= run.limit:
                break
            load, worth = load[kept], worth[kept]
            fits = (load + weights[item] <= packing.capacity).nonzero()[0]
            load, worth = np.append(load, load[fits] + weights[item]), np.append(worth, worth[fits] + values[item])
            by_load = load.argsort(kind="stable")
            most = np.maximum.accumulate(worth[by_load])
            undominated = by_load[np.append(True, most[1:] > most[:-1])]
            load, worth = load[undominated], worth[undominated]
            history.append((np.append(kept, kept[fits])[undominated].astype(np.int32), undominated >= len(kept)))
            states += len(load)
            if states > self.max_states:
                allowed = f"{self.max_states} are allowed (max_states)"
                raise SolverError(f"{self.name}: too hard; more packings would have to be kept than {allowed}")
        item, state, last = place
        chosen = np.zeros(len(weights), dtype=bool)
        chosen[order[item:last]] = True
        for before in reversed(range(item)):
            parents, taken = history[before]
            chosen[order[before]], state = taken[state], parents[state]
        return chosen, ended


def ratios(weights: Numbers, values: Numbers) -> Numbers:
    """Return values per weight ``[items]``, infinity where there is no weight: what costs nothing comes first."""
    with np.errstate(over="ignore"):
        return np.divide(values, weights, out=np.full(len(weights), np.inf), where=weights > 0)


def as_actions(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the actions that take the items ``chosen`` ``[items]``, with stops up to the horizon."""
    actions = np.full(len(chosen), len(chosen), dtype=np.int64)
    items = chosen.nonzero()[0]
    actions[: len(items)] = items
    return actions


def fill(weights: Numbers, values: Numbers, capacity: float, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return ``chosen`` with every further item that fits, by ratio: no packing is done while something fits."""
    chosen = chosen.copy()
    left = capacity - weights[chosen].sum()
    for item in np.argsort(-ratios(weights, values), kind="stable"):
        if not chosen[item] and weights[item] <= left:
            chosen[item] = True
            left -= weights[item]
    return chosen


def _moderate(numbers: Numbers, capacity: float = 0.0) -> tuple[Numbers, float]:
    """Return numbers so tiny or huge that their sums or quotients leave float64 in another unit, a power of two."""
    exponent = int(np.frexp(numbers.max())[1])
    if numbers.max() > 0 and abs(exponent) > MODERATE:
        with np.errstate(over="ignore"):
            numbers, capacity = np.ldexp(numbers, -exponent), float(np.ldexp(capacity, -exponent))
    return numbers, min(capacity, 2 * float(numbers.sum()))  # there is room for all


def _settled(packing: Items, greedy: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return what every packing better than ``greedy`` takes for sure, and what is open, bool ``[items]`` each.

    The linear relaxation packs by ratio up to the break item. An item's other choice costs what the item gains, or
    loses, against the break ratio's price of its weight; where the relaxation cannot afford that, it is settled.
    """
    weights, values, capacity = packing
    order = np.argsort(-ratios(weights, values), kind="stable")
    heavy = weights[order].cumsum()
    if heavy[-1] <= capacity:
        return greedy, np.zeros_like(greedy)
    place = int(np.searchsorted(heavy, capacity, side="right"))
    relaxed = np.zeros_like(greedy)
    relaxed[order[:place]] = True
    price = values[order[place]] / weights[order[place]]
    gain = values - price * weights
    spare = gain[relaxed].sum() + price * capacity - values[greedy].sum()
    is_open = np.abs(gain) <= spare - _step(values)
    return relaxed & ~is_open, is_open


def _step(values: Numbers) -> float:
    """Return by how much one packing is worth more than another, at least: whole values differ by 1.

    Whole values give or take what rounding does to their bounds; for others it is nothing, less the same.
    """
    return float((values == np.rint(values)).all()) - 1e-14 * float(values.sum())
