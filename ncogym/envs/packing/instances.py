"""Where knapsacks come from: items and capacities of the field's classes, and the published sets.

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
from typing import Any, Literal, get_args

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym.distribution import Distribution, ReferenceSet, pinned
from ncogym.errors import ArgumentError

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
KnapsackKind = Literal["uniform", "mixed", Pisinger]

RANGE = 1000  # Pisinger's R
SERIES = 100  # Pisinger's H: capacities of a series


def _knapsack_sets() -> Iterator[tuple[str, ReferenceSet]]:
    for n in (50, 100, 200):
        drawn = f"numpy.random.seed(1234), uniform(size=(10000, {n}, 2)), capacity {min(n / 4, 25):g}"
        source = f"as in Kwon et al. 2020 (POMO), who publish no set: {drawn}"
        yield f"uniform-kp{n}", ReferenceSet({"num_items": n}, 1234, 10_000, "", source)
    for kind in get_args(Pisinger):
        for n in (50, 100, 200):
            source = f"a series after Pisinger 2005, {kind}, R = {RANGE}, H = {SERIES}, seed 1234 of this library"
            arguments = {"num_items": n, "distribution": kind}
            yield f"pisinger-{kind}-{n}", ReferenceSet(arguments, 1234, SERIES, "", source)


class KnapsackDistribution(Distribution):
    """Instances of the 0-1 knapsack problem: ``weight`` and ``value`` ``[items]``, ``capacity`` ``[]``, float32.

    Args:
        num_items: items per generated instance, at least 1.
        distribution: of the generated instances.
        capacity: of uniform instances, at least 1 so that every item fits alone; None takes the field's.
    """

    reference_sets = pinned(_knapsack_sets())

    def __init__(
        self,
        num_items: int = 100,
        distribution: KnapsackKind = "uniform",
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

    def of_size(self, size: int) -> KnapsackDistribution:
        return KnapsackDistribution(size, self.distribution, self.capacity)

    def like(self, instance: TensorDict) -> KnapsackDistribution:
        return self.of_size(instance["weight"].shape[1])

    def draw(self, count: int, rng: torch.Generator) -> TensorDict:
        shape, at = (count, self.num_items), rng.device
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
        return TensorDict(instance, batch_size=[count])

    def seeded(self, count: int, seed: int) -> TensorDict:
        """Return test instances: uniform sets in the field's manner, drawn by numpy's legacy generator.

        ``numpy.random.seed(seed)``, then ``uniform(size=(10000, items, 2))``, of which the first ``count`` are taken,
        in float64: weight, then value of each item. Other distributions come from `draw`.

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

    @property
    def _field_capacity(self) -> float:
        return float(self.capacity or max(1.0, min(self.num_items, 100) / 4))


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
