"""The 0-1 knapsack problem: pack items of the largest total value whose weights sum to no more than the capacity.

An action is an item taken, or ``num_items`` to stop, which is allowed only once nothing more fits; then a row is done.
Objective: the value taken, to be maximised, in the instance's own units. Leaving out an item that would fit is no fault
of a solution, only a loss.

Instance distributions:

- uniform: weights and values from (0, 1], capacity a quarter of the number of items up to 100 items and 25 above them
  (Kwon et al. 2020, POMO: 12.5, 25, 25 for 50, 100, 200 items; Bello et al. 2016), at least 1;
- whole numbers with R = 1000 after Pisinger (2005), Where are the hard knapsack problems?, Computers & OR 32, written
  (weight, value), [a, b] a draw: uncorrelated ``([1, R], [1, R])``; weakly ``(w = [1, R], w + [-R/10, R/10])``, at
  least 1; strongly ``(w = [1, R], w + R/10)``; inverse-strongly ``(v + R/10, v = [1, R])``; almost-strongly
  ``(w = [1, R], w + R/10 + [-R/500, R/500])``; subset-sum ``(w = [1, R], w)``; similar-weights
  ``([100000, 100100], [1, R])``; circle ``(w = [1, R], 2/3 sqrt(4 R² - (w - 2 R)²))``; spanner, multiples from 1 to 10
  of one of two strongly correlated items whose numbers are divided by 5. The capacity is ``h / 101`` of all weights
  with h drawn from 1 to 100 for each instance (Pisinger's series has one instance for each h), or the heaviest weight
  where that is more, so that every item fits alone;
- mixed: half of the rows uniform, the rest an even mixture of Pisinger's classes, each in its own units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from ncogym.envs.base import as_int64, pinned
from ncogym.envs.formats.arrays import holds, real, refuse
from ncogym.errors import ArgumentError
from ncogym.features import FeatureDims, InstanceFeatures, NodeFeatures, StepFeatures
from ncogym.models import Packing
from ncogym.problem import Arrays, Contents, Neighbourhood, Problem, ReferenceSet, Violation
from ncogym.sketch import SIDE, Bar, Mark, Sketch

Pisinger = Literal[
    "uncorrelated",
    "weakly",
    "strongly",
    "inverse-strongly",
    "almost-strongly",
    "subset-sum",
    "similar-weights",
    "circle",
    "spanner",
]
Distribution = Literal["uniform", "mixed", Pisinger]

RANGE = 1000  # Pisinger's R
SERIES = 100  # Pisinger's H: capacities of a series
ALLOWANCE = 1e-9  # relative, that the referee grants where numbers have decimals
TABLES = ("order", "rank", "scaled")  # that `start` adds to a state's instance


class KnapsackState(NamedTuple):
    """State of each rollout; see `Knapsack`."""

    instance: TensorDict
    left: Tensor
    action_mask: Tensor
    done: Tensor


def _reference_sets() -> Iterator[tuple[str, ReferenceSet]]:
    for n in (50, 100, 200):
        drawn = f"numpy.random.seed(1234), uniform(size=(10000, {n}, 2)), capacity {min(n / 4, 25):g}"
        source = f"as in Kwon et al. 2020 (POMO), who publish no set: {drawn}"
        yield f"uniform-kp{n}", ReferenceSet({"num_items": n}, 1234, 10_000, "", source)
    for kind in get_args(Pisinger):
        for n in (50, 100, 200):
            source = f"a series after Pisinger 2005, {kind}, R = {RANGE}, H = {SERIES}, seed 1234 of this library"
            arguments = {"num_items": n, "distribution": kind}
            yield f"pisinger-{kind}-{n}", ReferenceSet(arguments, 1234, SERIES, "", source)


_SHA256 = """
9434274f18d23ba6 11c47478f4278ebe 651bf94fe06b7290 6af21c9a676b9995 2f07c3fb31428525 a79d62a34eb81762 16b1ee51524f857e
e08f89a4e27b7beb 84c6cb8ffaa03f9c 0245e842adea2cca 669a898a7602b33a 2a3609d093fcd431 e478e84c1250c9f7 b0a123383fb07468
0a277469c40229fe 98dedca1b3d50f37 4622572ca1f2ee44 46a62fef6cf08ea4 af08b5c77e73001c f8bdd553a9f9b53d 48bfd7ff55e8c77b
7d023bdee766e318 26104d9881f097af 2d58a2f9efafbfea cbaea3584b863d32 99196931ec6543fc 1679d5f04f5c7e03 12a7ec0c84a4b99d
1241ba1099d1dcad bcd030b541da1923
"""


class Knapsack(Problem):
    """0-1 knapsack problem.

    Instance keys, float32 as generated and float64 from files and published sets:
        weight: ``[items]``, at least 0, any unit.
        value: ``[items]``, at least 0, any unit.
        capacity: ``[]``, in the unit of the weights.

    State keys, each ``[batch, rollouts, ...]``:
        left: float64, what is left of `capacities`.
        action_mask: bool ``[items + 1]``, True = allowed: not taken and fits, or, once nothing fits, the stop alone.
        done: bool, True = nothing more fits.

    Args:
        num_items: items per generated instance, at least 1.
        distribution: of the generated instances.
        capacity: of uniform instances, at least 1 so that every item fits alone; None takes the field's.
    """

    name = "knapsack"
    sense = "max"
    suffixes = (".kp", ".txt")
    reference_sets = pinned(_reference_sets(), _SHA256)
    multi_start = False
    state_type = KnapsackState
    instance_keys = ("weight", "value", "capacity", *TABLES)

    def __init__(
        self,
        num_items: int = 100,
        distribution: Distribution = "uniform",
        capacity: float | None = None,
    ) -> None:
        if isinstance(num_items, bool) or not isinstance(num_items, int) or num_items < 1:
            raise ArgumentError(f"num_items: {num_items} is not allowed; it must be a whole number of at least 1")
        known = ("uniform", "mixed", *get_args(Pisinger))
        if distribution not in known:
            raise ArgumentError(f"distribution: {distribution!r} is not allowed; it must be one of {', '.join(known)}")
        if capacity is not None and (distribution != "uniform" or not 1 <= capacity < math.inf):
            allowed = "at least 1 and finite" if distribution == "uniform" else f"None where items are {distribution}"
            raise ArgumentError(f"capacity: {capacity} is not allowed; it must be {allowed}")
        self.num_items, self.distribution, self.capacity = num_items, distribution, capacity

    def arguments(self) -> dict[str, Any]:
        return {"num_items": self.num_items, "distribution": self.distribution, "capacity": self.capacity}

    @property
    def size(self) -> int:
        return self.num_items

    def resized(self, size: int) -> Knapsack:
        return Knapsack(size, self.distribution, self.capacity)

    def instance_size(self, instance: TensorDict) -> int:
        return instance["weight"].shape[1]

    # ------------------------------------------------------------------ instances

    def generate(self, batch_size: int, rng: torch.Generator, device: torch.device | str | None = None) -> TensorDict:
        shape, at = (batch_size, self.num_items), rng.device
        if self.distribution in ("uniform", "mixed"):
            weight, value = (1 - torch.rand(*shape, 2, generator=rng, device=at)).unbind(-1)  # never 0
            capacity = torch.full(shape[:1], self._field_capacity, device=at)
        if self.distribution == "mixed":
            drawn = [_pisinger(kind, shape, rng) for kind in get_args(Pisinger)]
            chosen = torch.randint(2 * len(drawn), shape[:1], generator=rng, device=at)
            for number, (weights, values, capacities) in enumerate(drawn):
                mine = chosen == number
                weight = torch.where(mine[:, None], weights, weight)
                value = torch.where(mine[:, None], values, value)
                capacity = torch.where(mine, capacities, capacity)
        elif self.distribution != "uniform":
            weight, value, capacity = _pisinger(self.distribution, shape, rng)
        instance = {"weight": weight, "value": value, "capacity": capacity}
        return TensorDict(instance, batch_size=[batch_size]).to(device or at)

    def seeded(self, count: int, seed: int) -> TensorDict:
        """Return test instances: uniform sets in the field's manner, drawn by numpy's legacy generator.

        ``numpy.random.seed(seed)``, then ``uniform(size=(10000, items, 2))``, of which the first ``count`` are taken,
        in float64: weight, then value of each item. Other distributions come from `generate`.

        Raises:
            ArgumentError: the set has fewer than ``count`` instances.
        """
        if self.distribution != "uniform":
            return super().seeded(count, seed)
        if count > 10_000:
            raise ArgumentError(f"instances: {count} is not allowed; the set of seed {seed} has 10000")
        drawn = np.random.RandomState(seed).uniform(size=(10_000, self.num_items, 2))[:count]
        weight, value = torch.from_numpy(drawn).unbind(-1)
        capacity = torch.full((count,), self._field_capacity, dtype=torch.float64)
        return TensorDict({"weight": weight, "value": value, "capacity": capacity}, batch_size=[count])

    @classmethod
    def reference_set(cls, name: str) -> TensorDict:
        """Build the whole set of that name: of Pisinger's classes, a series of one instance for each capacity."""
        arguments, seed, *_ = cls.reference_sets[name]
        if "distribution" not in arguments:
            return super().reference_set(name)
        rng, shape = torch.Generator().manual_seed(seed or 0), (SERIES, arguments["num_items"])
        drawn = _pisinger(arguments["distribution"], shape, rng, torch.arange(1, SERIES + 1))
        return TensorDict(dict(zip(("weight", "value", "capacity"), drawn, strict=True)), batch_size=[SERIES])

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Contents | None:
        """Read ``weight`` and ``value`` ``[batch, items]`` and ``capacity`` ``[batch]``.

        With them, ``ref_value``, ``ref_select`` ``[batch, items]``, which items it takes, and whether it is ``proven``.
        """
        from ncogym.envs.formats.knapsack import numbers_fault

        own = {"weight": "batch items", "value": "batch items", "capacity": "batch"}
        if not holds(arrays, own, {"ref_value": "batch", "ref_select": "batch items", "proven": "batch"}):
            return None
        read = {name: real(arrays, name) for name in own}
        refuse(numbers_fault(w, v, float(c)) for w, v, c in zip(*(each.numpy() for each in read.values()), strict=True))
        actions = None
        if "ref_select" in arrays:
            taken, order = torch.from_numpy(arrays["ref_select"] != 0).sort(dim=1, descending=True, stable=True)
            actions = order.masked_fill(~taken, taken.shape[1])
        return Contents(
            TensorDict(read, batch_size=[len(read["capacity"])]),
            real(arrays, "ref_value") if "ref_value" in arrays else None,
            actions,
            torch.from_numpy(arrays["proven"] != 0) if "proven" in arrays else None,
        )

    @property
    def _field_capacity(self) -> float:
        return float(self.capacity or max(1.0, min(self.num_items, 100) / 4))

    def read(self, path: str | Path) -> TensorDict:
        from ncogym.envs.formats.knapsack import read_knapsack

        weight, value, capacity = read_knapsack(path)
        instance = {"weight": torch.from_numpy(weight), "value": torch.from_numpy(value)}
        instance["capacity"] = torch.tensor(capacity, dtype=torch.float64)
        return TensorDict(instance).unsqueeze(0)

    def write(self, instance: TensorDict, path: str | Path) -> None:
        """Write ``items capacity``, then ``value weight`` a line, each number with all its digits."""
        from ncogym.envs.formats.knapsack import write_knapsack

        weight, value = (view(instance)[0].cpu().numpy() for view in (self.weights, self.values))
        write_knapsack(path, weight, value, float(instance["capacity"]))

    # ------------------------------------------------------------------ dynamics

    def start(self, instance: TensorDict, rollouts: int = 1) -> KnapsackState:
        instance = instance.select("weight", "value", "capacity").update(self._tables(instance))
        left = self.capacities(instance)[:, None].repeat(1, rollouts)
        return self._state(instance, left, torch.ones_like(instance["weight"], dtype=torch.bool)[:, None])

    def advance(self, state: KnapsackState, action: Int64[Tensor, "batch rollouts"]) -> KnapsackState:
        left = state.left - _padded(self.weights(state.instance)).gather(1, action)
        open_items = state.action_mask.scatter(-1, action.unsqueeze(-1), False)[..., :-1]
        return self._state(state.instance, left, open_items)

    def _state(self, instance: TensorDict, left: Tensor, open_items: Tensor) -> KnapsackState:
        """Return the state in which of ``open_items`` ``[batch, rollouts or 1, items]`` those that fit are allowed."""
        fits = open_items & (self.weights(instance)[:, None] <= left[..., None])  # once too heavy, always too heavy
        done = ~fits.any(-1)
        return KnapsackState(instance, left, torch.cat([fits, done[..., None]], dim=-1), done)

    def reward(
        self, state: KnapsackState, action: Int64[Tensor, "batch rollouts"], successor: KnapsackState
    ) -> Float32[Tensor, "batch rollouts"]:
        return _padded(state.instance["value"]).gather(1, action).float()

    def horizon(self, instance: TensorDict) -> int:
        return instance["weight"].shape[1]

    def earliest(self, instance: TensorDict) -> int:
        return 0  # nothing may fit

    # ------------------------------------------------------------------ referee

    def objective(
        self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]
    ) -> Float64[Tensor, "batch rollouts"]:
        actions = as_int64(actions)
        taken = _padded(self.values(instance)).gather(1, actions.flatten(1))
        return taken.view(actions.shape).sum(-1)

    def violations(self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]) -> list[Violation]:
        found, tried = [], as_int64(actions).tolist()
        rows = zip(self.weights(instance).tolist(), instance["capacity"].tolist(), tried, strict=True)
        for row, (weights, capacity, rollouts) in enumerate(rows):
            for rollout, taken in enumerate(rollouts):
                reason = _broken(taken, weights, capacity)
                if reason:
                    found.append(Violation(row, rollout, reason))
        return found

    def broken_solutions(self, instance: TensorDict, actions: Tensor) -> dict[str, Tensor | None]:
        """Return broken solutions of each kind for `ncogym.laws`; an item left out is none."""
        items = self.horizon(instance)
        after_stop = F.pad(actions, (1, 0), value=items)
        everything = torch.arange(items, device=actions.device).expand_as(actions)
        heavy = self.weights(instance).sum(1) > self.capacities(instance) * (1 + ALLOWANCE)
        overweight = torch.where(heavy[:, None, None], everything, actions)
        return {"first step left out": None, "going on after the stop": after_stop, "everything packed": overweight}

    def padded(self, instance: TensorDict, actions: Tensor, steps: int) -> Tensor:
        """Lengthen finished solutions ``[batch, ..., steps before]`` to ``steps`` by the stop."""
        return F.pad(actions, (0, steps - actions.shape[-1]), value=self.horizon(instance))

    def plain_actions(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> list[int]:
        """Return the items taken, in ascending order."""
        return sorted(int(item) for item in actions if item < self.horizon(instance))

    # ------------------------------------------------------------------ features

    @property
    def feature_dims(self) -> FeatureDims:
        return FeatureDims(node=7, kinds=2, scalars=3, candidates=5)

    def instance_features(self, instance: TensorDict) -> InstanceFeatures:
        """Return numbers of each item that are free of the units of weights and values; the last node is the stop.

        By ratio of value to weight, the best first, items fill the capacity up to the break item, which the linear
        relaxation packs in part; items without weight come before all, with the best ratio of the others. Per item:
        weight by capacity (at most 2); value by the largest value; logarithm of the ratio by the break item's (within
        ±3); rank by ratio from 0 to 1; what the relaxation packs of it; how far the weights up to it overshoot the
        capacity, by capacity (at most 2); what it gains over the break ratio's price of its weight, by that price of
        the mean weight (within ±3).
        """
        weight, value, capacity = self.weights(instance), self.values(instance), self.capacities(instance)[:, None]
        tiny = torch.finfo(torch.float64).tiny
        ratio, (order, rank, _) = _ratios(weight, value), self._tables(instance).values()
        filled = weight.gather(1, order).cumsum(-1)
        last = (filled < capacity).sum(-1, keepdim=True).clamp_max(weight.shape[1] - 1)
        price = ratio.gather(1, order.gather(1, last)).clamp_min(tiny)
        filled = filled.gather(1, rank)
        numbers = [
            (weight / capacity).clamp_max(2),
            value / value.amax(-1, keepdim=True).clamp_min(tiny),
            (ratio / price).clamp_min(tiny).log().clamp(-3, 3),
            rank / max(weight.shape[1] - 1, 1),
            ((capacity - filled) / weight.clamp_min(tiny) + 1).clamp(0, 1),
            (filled / capacity - 1).clamp_max(2),
            ((value / price - weight) / weight.mean(-1, keepdim=True).clamp_min(tiny)).clamp(-3, 3),
        ]
        kinds = torch.zeros(weight.shape[1] + 1, dtype=torch.int64, device=weight.device)
        kinds[-1] = 1
        return (NodeFeatures(F.pad(torch.stack(numbers, dim=-1).float(), (0, 0, 0, 1)), kinds),)

    def step_features(self, state: KnapsackState) -> StepFeatures:
        """Return what is left to decide, free of units.

        Scalars: capacity left by capacity; share of the items that still fit; value of the linear relaxation of what is
        left, by what the best ratio left would make of all the capacity left. Per item that fits (0 for others): weight
        by capacity left; ``log(1 + what would be left after it / lightest item that fits and weighs something)``; ratio
        by the best ratio that fits, less 1; 1 where it fills the capacity exactly; what the relaxation of what is left
        packs of it.
        """
        weight, tiny = self.weights(state.instance), torch.finfo(torch.float32).tiny
        fits, left = state.action_mask[..., :-1], state.left[..., None]
        order, rank, scaled = (state.instance[name][:, None] for name in TABLES)
        share = torch.where(fits, weight.float()[:, None] / left.float().clamp_min(tiny), 0.0)
        lightest = torch.where(share > 0, share, 1.0).amin(-1, keepdim=True)
        best = torch.where(fits, scaled, 0.0).amax(-1, keepdim=True).clamp_min(tiny)
        relative = torch.where(fits, scaled / best, 0.0)
        filled = share.gather(-1, order.expand_as(fits)).cumsum(-1).gather(-1, rank.expand_as(fits))
        packed = torch.where(fits, ((1 - filled) / share.clamp_min(tiny) + 1).clamp(0, 1), 0.0)
        numbers = [
            share,
            torch.where(fits, ((1 - share).clamp_min(0) / lightest.clamp_min(tiny)).log1p(), 0.0),
            torch.where(fits, relative - 1, 0.0),
            (share > 1 - 2 * torch.finfo(torch.float32).eps).float(),
            packed,
        ]
        scalars = [
            (left / self.capacities(state.instance)[:, None, None]).float(),
            fits.float().mean(-1, keepdim=True),
            (packed * share * relative).sum(-1, keepdim=True),
        ]
        nobody = torch.empty(*state.done.shape, 0, dtype=torch.int64, device=fits.device)
        candidates = F.pad(torch.stack(numbers, dim=-1), (0, 0, 0, 1))
        return StepFeatures(nobody, state.action_mask, torch.cat(scalars, dim=-1), candidates)

    def _tables(self, instance: TensorDict) -> dict[str, Tensor]:
        """Return what every step looks up of the ratios of value to weight, each ``[batch, items]``.

        Returns:
            order: int64, the items by ratio, the best first, before them those without weight.
            rank: int64, the place of each item in that order.
            scaled: float32, ratio by the best ratio; 1 for items without weight.
        """
        weight = self.weights(instance)
        ratio = _ratios(weight, self.values(instance))
        order = ratio.masked_fill(weight == 0, torch.inf).argsort(stable=True, dim=-1, descending=True)
        best = ratio.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return {"order": order, "rank": order.argsort(-1), "scaled": (ratio / best).float()}

    # ------------------------------------------------------------------ multi-start, symmetries, views, picture

    def equivalent_actions(
        self, instance: TensorDict, actions: Int64[Tensor, "batch steps"], count: int, rng: torch.Generator
    ) -> Int64[Tensor, "batch {count} steps"]:
        """Draw random orders of the items taken, the stops at the end."""
        return self._shuffled(actions.unsqueeze(1).expand(-1, count, -1), self.horizon(instance), rng)

    def neighbourhood(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], free: int, rng: torch.Generator
    ) -> Neighbourhood:
        """Open random items, and all the stops."""
        items = self.horizon(instance)
        return self._tail(self._shuffled(actions, items, rng), int((actions < items).sum(-1).amin()), free)

    @staticmethod
    def _shuffled(actions: Tensor, items: int, rng: torch.Generator) -> Int64[Tensor, "batch rollouts steps"]:
        """Return actions in random orders, the stops, which are ``items``, at the end."""
        key = torch.rand(actions.shape, generator=rng, device=rng.device).to(actions.device)
        return actions.gather(-1, (key + (actions == items)).argsort(-1))

    def symmetries(self, instance: TensorDict, count: int = 8, rng: torch.Generator | None = None) -> list[TensorDict]:
        """Return the instance alone, whatever ``count``: features are free of units, so no image shows anything new."""
        return [instance]

    def model(self, instance: TensorDict) -> Packing:
        return Packing(self.weights(instance), self.values(instance), self.capacities(instance))

    def weights(self, instance: TensorDict) -> Float64[Tensor, "batch items"]:
        """Return the weights, float64 ``[batch, items]``."""
        return instance["weight"].double()

    def values(self, instance: TensorDict) -> Float64[Tensor, "batch items"]:
        """Return the values that the objective adds up, float64 ``[batch, items]``."""
        return instance["value"].double()

    def capacities(self, instance: TensorDict) -> Float64[Tensor, " batch"]:
        """Return what the weights taken may sum to, float64 ``[batch]``.

        It is the capacity, and where numbers have decimals a ten-billionth more: 0.1 and 0.2 fit into 0.3, whose binary
        rounding is less than that of their sum.
        """
        weight, capacity = self.weights(instance), instance["capacity"].double()
        whole = (weight == weight.round()).all(-1) & (capacity == capacity.round())
        return torch.where(whole, capacity, capacity * (1 + ALLOWANCE / 10))

    def sketch(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> Sketch:
        """Return the items by weight and value, those packed marked, above bars of the load and the capacity."""
        weight, value = (view(instance)[0] for view in (self.weights, self.values))
        packed = [item for item in self.plain_actions(instance, actions) if 0 <= item < len(weight)]
        load, capacity = float(weight[packed].sum()), float(instance["capacity"])
        tiny = torch.finfo(value.dtype).tiny
        across = SIDE * weight / weight.max().clamp_min(tiny)
        upwards = SIDE * (0.2 + 0.8 * value / value.max().clamp_min(tiny))
        unit = SIDE / max(load, capacity, tiny)
        bars = [Bar(0, 60, round(load * unit), 50, 0, "load"), Bar(0, 0, round(capacity * unit), 50, 7, "capacity")]
        points = torch.stack([across, upwards], dim=-1).round().long().tolist()
        worth = float(value[packed].sum())
        note = f"{len(packed)} of {len(weight)} items, load {load:.6g} of {capacity:.6g}, value {worth:.6g}"
        return Sketch(SIDE, SIDE, False, points, [], [Mark(packed, 0, "disc")], bars, "weight", "value", [], note)


def _broken(taken: list[int], weights: list[float], capacity: float) -> str | None:
    """Say what is wrong with ``taken``, or None; ``len(weights)`` is the stop, which may be repeated."""
    items = len(weights)
    seen: dict[int, int] = {}
    stopped = None
    for step, item in enumerate(taken):
        if not 0 <= item <= items:
            return f"step {step} takes item {item}; items are 0 to {items - 1}, and {items} is the stop"
        if item == items:
            stopped = step if stopped is None else stopped
        elif stopped is not None:
            return f"step {step} takes item {item} after the stop at step {stopped}"
        elif item in seen:
            return f"item {item} is taken at step {seen[item]} and again at step {step}"
        else:
            seen[item] = step
    load = math.fsum(weights[item] for item in seen)
    whole = capacity.is_integer() and all(weight.is_integer() for weight in weights)
    if load > (capacity if whole else capacity * (1 + ALLOWANCE)):
        return f"items weigh {load:.15g}, capacity is {capacity:.15g}"
    return None


def _ratios(weight: Tensor, value: Tensor) -> Float64[Tensor, "batch items"]:
    """Return values by weight ``[batch, items]``; of items without weight, the best ratio of the others."""
    ratio = torch.where(weight > 0, value / weight, 0.0)
    return torch.where(weight > 0, ratio, ratio.amax(-1, keepdim=True))


def _padded(numbers: Tensor) -> Tensor:
    """Return the numbers of items ``[batch, items]`` with a 0 for the stop."""
    return F.pad(numbers, (0, 1))


def _pisinger(
    kind: str, shape: tuple[int, int], rng: torch.Generator, part: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw weights ``shape``, values ``shape`` and capacities ``[batch]`` of one of Pisinger's classes, float32.

    Args:
        kind: the class.
        shape: instances and items.
        rng: source of the draws.
        part: the h of each capacity, int64 ``[batch]``; None draws it.
    """

    def whole(low: int, high: int, size: tuple[int, int] = shape) -> Tensor:
        return torch.randint(low, high + 1, size, generator=rng, device=rng.device).double()

    weight = whole(1, RANGE)
    value = weight
    if kind == "uncorrelated":
        value = whole(1, RANGE)
    elif kind == "weakly":
        value = (weight + whole(-RANGE // 10, RANGE // 10)).clamp_min(1)
    elif kind == "strongly":
        value = weight + RANGE // 10
    elif kind == "inverse-strongly":
        weight = value + RANGE // 10
    elif kind == "almost-strongly":
        value = weight + RANGE // 10 + whole(-RANGE // 500, RANGE // 500)
    elif kind == "similar-weights":
        weight, value = whole(100_000, 100_100), whole(1, RANGE)
    elif kind == "circle":
        value = (2 / 3 * (4 * RANGE**2 - (weight - 2 * RANGE).square()).sqrt()).floor()
    elif kind == "spanner":
        base = whole(1, RANGE, (shape[0], 2))
        pick = torch.randint(2, shape, generator=rng, device=rng.device)
        factor = whole(1, 10)
        weight, value = ((numbers / 5).ceil().gather(1, pick) * factor for numbers in (base, base + RANGE // 10))
    part = whole(1, SERIES, (shape[0], 1))[:, 0] if part is None else part
    capacity = (weight.sum(-1) * part / (SERIES + 1)).floor()
    return weight.float(), value.float(), torch.maximum(capacity, weight.amax(-1)).float()
