"""The 0-1 knapsack problem: pack items of the largest total value whose weights sum to no more than the capacity.

An action is an item taken, or ``num_items`` to stop, which is allowed only once nothing more fits; then a row is done.
Objective: the value taken, to be maximised, in the instance's own units. Leaving out an item that would fit is no fault
of a solution, only a loss.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from ncogym.envs.formats.arrays import holds, real, refuse
from ncogym.envs.packing.instances import KnapsackDistribution
from ncogym.features import FeatureDims, InstanceFeatures, NodeFeatures, StepFeatures
from ncogym.models import Packing
from ncogym.problem import Arrays, Contents, Neighbourhood, Problem, Violation, as_int64
from ncogym.sketch import SIDE, Bar, Mark, Sketch

ALLOWANCE = 1e-9  # relative, that the referee grants where numbers have decimals
TABLES = ("order", "rank", "scaled")  # that `start` adds to a state's instance


class KnapsackState(NamedTuple):
    """State of each rollout; see `Knapsack`."""

    instance: TensorDict
    left: Tensor
    action_mask: Tensor
    done: Tensor


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
    """

    name = "knapsack"
    sense = "max"
    suffixes = (".kp", ".txt")
    multi_start = False
    state_type = KnapsackState
    distribution_type = KnapsackDistribution
    instance_keys = ("weight", "value", "capacity", *TABLES)

    def instance_size(self, instance: TensorDict) -> int:
        return instance["weight"].shape[1]

    # ------------------------------------------------------------------ instances

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
