"""Where routing instances come from: coordinates or distances, demands, capacities, and the published sets.

TSP, coordinates in ``[0, 1]^2``: uniform (Kool et al. 2019); clustered, a Gaussian mixture of 2 to 8 modes, and
explosion, a uniform cloud with a hole blown into it (both after Bossek et al., Evolving Diverse TSP Instances, FOGA
2019, in the form used by Zhou et al., Omni-Generalizable Neural Methods for VRPs, ICML 2023); mixed, half of the rows
uniform and a quarter of each other kind; and mutations of uniform instances, ``implosion:0.7`` and others, which
`ncogym.envs.routing.mutations` defines.

ATSP, both closed so that no detour is shorter than the direct way: uniform, the matrix of Kwon et al., Matrix Encoding
Networks for Neural Combinatorial Optimization, NeurIPS 2021 (MatNet): whole numbers from 1 to 1,000,000, closed, in
units of 1,000,000; noisy, Euclidean distances of uniform points of ``[0, 1]^2``, each direction lengthened by a factor
of its own from ``U[1, 5]``: about as asymmetric as the road matrices of TSPLIB.

CVRP, coordinates in ``[0, 1]^2``:

- uniform: depot and customers uniform, demands 1 to 9 (Kool et al., Attention, Learn to Solve Routing Problems!, ICLR
  2019, after Nazari et al. 2018); centre: the same with the depot in the middle; clustered: all nodes from a Gaussian
  mixture of 2 to 8 modes;
- x: the generator of the X set (Uchoa et al., New Benchmark Instances for the CVRP, EJOR 257, 2017), each of its
  attributes drawn anew for each instance. Differs from the paper in: coordinates are not rounded to its 1000-grid, the
  cluster seeds are no customers themselves, and a customer that would fall outside of the box is mirrored at its side;
- mixed: half of the rows uniform, a quarter clustered, a quarter x;
- mutations of the coordinates of uniform instances, as above.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32
from tensordict import TensorDict
from torch import Tensor

from ncogym.distribution import Distribution, ReferenceSet, pinned
from ncogym.envs.routing import geometry, mutations
from ncogym.errors import ArgumentError

TSPKind = Literal["uniform", "clustered", "explosion", "mixed"]
ATSPKind = Literal["uniform", "noisy"]
CVRPKind = Literal["uniform", "centre", "clustered", "x", "mixed"]

UNITS = 1_000_000  # whole numbers that make up a distance of 1 of an asymmetric instance

# the field's capacities by number of customers; others lie on the straight lines through these
CAPACITIES = {10: 20, 20: 30, 50: 40, 100: 50, 125: 55, 150: 60, 200: 70}
MAX_DEMAND = 9  # of the distributions that take these capacities
HORIZON = 4.6  # of vehicles with time windows, in the unit square


def _tsp_sets() -> Iterator[tuple[str, ReferenceSet]]:
    field = (("kool-tsp", (20, 50, 100), 1234, 10_000), ("tsp", (125, 150, 200), 1235, 1_000))
    for name, sizes, seed, count in field:
        for n in sizes:
            source = f"Kool et al. 2019: numpy.random.seed({seed}), uniform(size=({count}, {n}, 2))"
            yield f"{name}{n}", ReferenceSet({"num_nodes": n}, seed, count, "", source)
    for kind in get_args(TSPKind)[1:]:
        for n in (20, 50, 100):
            source = f"this library's distribution {kind}, seed 1234 (to the bit on processors with AVX2)"
            arguments = {"num_nodes": n, "distribution": kind}
            yield f"ncogym-tsp-{kind}-{n}", ReferenceSet(arguments, 1234, 1_000, "", source)
    yield from mutations.reference_sets("tsp", "num_nodes")


class TSPDistribution(Distribution):
    """Symmetric instances of the travelling salesman problem: ``locs`` float32 ``[nodes, 2]``.

    Args:
        num_nodes: nodes per generated instance, at least 3.
        distribution: of the generated coordinates; a mutation with its power is written ``implosion:0.7``.
    """

    reference_sets = pinned(_tsp_sets())

    def __init__(
        self,
        num_nodes: int = 50,
        distribution: TSPKind | str = "uniform",
    ) -> None:
        _check_nodes(num_nodes)
        self.num_nodes, self.distribution = num_nodes, mutations.checked(distribution, get_args(TSPKind))

    def arguments(self) -> dict[str, Any]:
        return {"num_nodes": self.num_nodes, "distribution": self.distribution}

    @property
    def size(self) -> int:
        return self.num_nodes

    def of_size(self, size: int) -> TSPDistribution:
        return TSPDistribution(size, self.distribution)

    def like(self, instance: TensorDict) -> TSPDistribution:
        return self.of_size(next(iter(instance.values())).shape[1])

    def draw(self, count: int, rng: torch.Generator) -> TensorDict:
        n, at = self.num_nodes, rng.device
        locs = torch.rand(count, n, 2, generator=rng, device=at)
        if self.distribution == "clustered":
            locs = geometry.clustered(count, n, rng)
        elif self.distribution == "explosion":
            locs = _exploded(locs, rng)
        elif self.distribution == "mixed":
            kind = torch.rand(count, 1, 1, generator=rng, device=at)
            exploded, clustered = _exploded(locs, rng), geometry.clustered(count, n, rng)
            locs = torch.where(kind < 0.5, locs, torch.where(kind < 0.75, exploded, clustered))
        elif self.distribution != "uniform":
            locs = mutations.mutated(locs, self.distribution, rng)
        return TensorDict({"locs": locs}, batch_size=[count])

    def seeded(self, count: int, seed: int) -> TensorDict:
        """Return the field's test instances: uniform sets are those of Kool et al., drawn by numpy's legacy generator.

        ``numpy.random.seed(seed)``, then ``uniform(size=(10000, nodes, 2))`` (1,000 for seed 1235, as in SGBS and
        Poppy), of which the first ``count`` are taken, in float64. Other distributions come from `draw`.

        Raises:
            ArgumentError: the set has fewer than ``count`` instances.
        """
        if self.distribution != "uniform":
            return super().seeded(count, seed)
        whole = 1000 if seed == 1235 else 10_000
        if count > whole:
            raise ArgumentError(f"instances: {count} is not allowed; the set of seed {seed} has {whole}")
        drawn = np.random.RandomState(seed).uniform(size=(whole, self.num_nodes, 2))[:count]
        return TensorDict({"locs": torch.from_numpy(drawn)}, batch_size=[count])


class ATSPDistribution(Distribution):
    """Asymmetric instances: ``dists`` float32 ``[nodes, nodes]``.

    Args:
        num_nodes: nodes per generated instance, at least 3.
        distribution: of the generated distances.
    """

    reference_sets = pinned(
        (f"ncogym-atsp{n}", ReferenceSet({"num_nodes": n}, 1234, 1_000, "", "this library's uniform, seed 1234"))
        for n in (20, 50)
    )

    def __init__(self, num_nodes: int = 50, distribution: ATSPKind = "uniform") -> None:
        _check_nodes(num_nodes)
        if distribution not in get_args(ATSPKind):
            allowed = ", ".join(get_args(ATSPKind))
            raise ArgumentError(f"distribution: {distribution!r} is not allowed; it must be one of {allowed}")
        self.num_nodes, self.distribution = num_nodes, distribution

    def arguments(self) -> dict[str, Any]:
        return {"num_nodes": self.num_nodes, "distribution": self.distribution}

    @property
    def size(self) -> int:
        return self.num_nodes

    def of_size(self, size: int) -> ATSPDistribution:
        return ATSPDistribution(size, self.distribution)

    def like(self, instance: TensorDict) -> ATSPDistribution:
        return self.of_size(instance["dists"].shape[1])

    def draw(self, count: int, rng: torch.Generator) -> TensorDict:
        n, at = self.num_nodes, rng.device
        if self.distribution == "uniform":
            dists = torch.randint(1, UNITS + 1, (count, n, n), generator=rng, device=at).float()
        else:
            locs = torch.rand(count, n, 2, generator=rng, device=at)
            flat = torch.cdist(locs, locs, compute_mode="donot_use_mm_for_euclid_dist")
            factor = 1 + 4 * torch.rand(count, n, n, generator=rng, device=at)
            dists = (flat * factor * UNITS).round()
        return TensorDict({"dists": _closed(dists) / UNITS}, batch_size=[count])


def _cvrp_sets() -> Iterator[tuple[str, ReferenceSet]]:
    field = (("kool-cvrp", (20, 50, 100), 1234, 10_000), ("cvrp", (125, 150, 200), 1235, 1_000))
    for name, sizes, seed, count in field:
        for n in sizes:
            drawn = f"depots, customers uniform, demands randint(1, 10), {count} x {n}, capacity {CAPACITIES[n]}"
            source = f"Kool et al. 2019: numpy.random.seed({seed}), {drawn}"
            yield f"{name}{n}", ReferenceSet({"num_customers": n}, seed, count, "", source)
    for kind in get_args(CVRPKind)[1:]:
        for n in (20, 50, 100):
            note = "" if kind == "centre" else " (to the bit on processors with AVX2)"
            source = f"this library's distribution {kind}, seed 1234{note}"
            arguments = {"num_customers": n, "distribution": kind}
            yield f"ncogym-cvrp-{kind}-{n}", ReferenceSet(arguments, 1234, 1_000, "", source)
    yield from mutations.reference_sets("cvrp", "num_customers")


class CVRPDistribution(Distribution):
    """Instances of capacitated routing: ``locs`` ``[nodes, 2]``, ``demand`` ``[nodes]``, ``capacity`` ``[]``, float32.

    Args:
        num_customers: customers per generated instance, at least 2; the depot is not counted.
        distribution: of the generated instances; a mutation with its power is written ``implosion:0.7``.
        capacity: of generated instances, at least 9; None takes `CAPACITIES`, 30/40/50 for 20/50/100 customers. The
            distribution x, also as a part of mixed, draws its own.
    """

    reference_sets: ClassVar[dict[str, ReferenceSet]] = pinned(_cvrp_sets())

    def __init__(
        self,
        num_customers: int = 50,
        distribution: CVRPKind | str = "uniform",
        capacity: int | None = None,
    ) -> None:
        if isinstance(num_customers, bool) or not isinstance(num_customers, int) or num_customers < 2:
            raise ArgumentError(
                f"num_customers: {num_customers} is not allowed; it must be a whole number of at least 2"
            )
        distribution = mutations.checked(distribution, get_args(CVRPKind))
        if capacity is not None:
            if distribution in ("x", "mixed"):
                raise ArgumentError(
                    f"capacity: {capacity} is not allowed; the distribution {distribution} draws its own"
                )
            if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < MAX_DEMAND:
                raise ArgumentError(
                    f"capacity: {capacity} is not allowed; it must be a whole number of at least {MAX_DEMAND}"
                )
        self.num_customers, self.distribution, self.capacity = num_customers, distribution, capacity

    def arguments(self) -> dict[str, Any]:
        return {"num_customers": self.num_customers, "distribution": self.distribution, "capacity": self.capacity}

    @property
    def size(self) -> int:
        return self.num_customers

    def of_size(self, size: int) -> CVRPDistribution:
        return CVRPDistribution(size, self.distribution, self.capacity)

    def like(self, instance: TensorDict) -> CVRPDistribution:
        return self.of_size(instance["demand"].shape[1] - 1)

    def draw(self, count: int, rng: torch.Generator) -> TensorDict:
        n, at = self.num_customers, rng.device
        locs = torch.rand(count, n + 1, 2, generator=rng, device=at)
        demand = _whole(1, MAX_DEMAND, (count, n), rng)
        capacity = torch.full((count,), float(self._capacity()), device=at)
        if self.distribution == "centre":
            locs[:, 0] = 0.5
        elif self.distribution == "clustered":
            locs = geometry.clustered(count, n + 1, rng)
        elif self.distribution == "x":
            locs, demand, capacity = _x_set(count, n, rng)
        elif self.distribution == "mixed":
            kind = torch.rand(count, generator=rng, device=at)
            grouped = geometry.clustered(count, n + 1, rng)
            places, demands, capacities = _x_set(count, n, rng)
            is_x, is_grouped = kind >= 0.75, (kind >= 0.5)[:, None, None]
            locs = torch.where(is_x[:, None, None], places, torch.where(is_grouped, grouped, locs))
            demand = torch.where(is_x[:, None], demands, demand)
            capacity = torch.where(is_x, capacities, capacity)
        elif self.distribution != "uniform":
            locs = mutations.mutated(locs, self.distribution, rng)
        return routes(locs, demand, capacity)

    def seeded(self, count: int, seed: int) -> TensorDict:
        """Return the field's test instances: uniform sets are those of Kool et al., drawn by numpy's legacy generator.

        ``numpy.random.seed(seed)``, then for 10,000 instances (1,000 for seed 1235, as in SGBS and Poppy) all depots
        ``uniform(size=(10000, 2))``, all customers and all demands ``randint(1, 10)``, of which the first ``count`` are
        taken; coordinates in float64. Other distributions come from `draw`.

        Raises:
            ArgumentError: the set has fewer than ``count`` instances.
        """
        if self.distribution != "uniform":
            return super().seeded(count, seed)
        whole, n = 1000 if seed == 1235 else 10_000, self.num_customers
        if count > whole:
            raise ArgumentError(f"instances: {count} is not allowed; the set of seed {seed} has {whole}")
        draw = np.random.RandomState(seed)
        depot, places = draw.uniform(size=(whole, 2))[:count], draw.uniform(size=(whole, n, 2))[:count]
        demand = torch.from_numpy(draw.randint(1, 10, size=(whole, n))[:count]).float()
        locs = torch.from_numpy(np.concatenate([depot[:, None], places], axis=1))
        return routes(locs, demand, torch.full((count,), float(self._capacity())))

    def _capacity(self) -> int:
        """Return the argument or what `CAPACITIES` says, along straight lines between and beyond its sizes."""
        if self.capacity is not None:
            return self.capacity
        sizes = sorted(CAPACITIES)
        above = min(sum(size < self.num_customers for size in sizes[1:]) + 1, len(sizes) - 1)
        low, high = sizes[above - 1], sizes[above]
        slope = (CAPACITIES[high] - CAPACITIES[low]) / (high - low)
        return math.floor(CAPACITIES[low] + slope * (self.num_customers - low) + 0.5)


class VRPTWDistribution(CVRPDistribution):
    """Instances of `CVRPDistribution` with time windows, as the field draws them in the unit square.

    The depot is open from 0 to 4.6. Service takes 0.15 to 0.18, a window is 0.18 to 0.2 long, and it lies so that each
    customer can be reached and left in time on a route of its own, even if served last (Liu et al., Multi-Task Learning
    for Routing Problem with Cross-Problem Zero-Shot Generalization, KDD 2024; Berto et al., RouteFinder, TMLR 2025).

    Args:
        num_customers: as of `CVRPDistribution`.
        distribution: as there.
        capacity: as there.
    """

    reference_sets: ClassVar[dict[str, ReferenceSet]] = pinned(
        (
            f"ncogym-vrptw-{n}",
            ReferenceSet({"num_customers": n}, 1234, 1_000, "", "this library's uniform with windows, seed 1234"),
        )
        for n in (20, 50, 100)
    )

    def of_size(self, size: int) -> VRPTWDistribution:
        return VRPTWDistribution(size, self.distribution, self.capacity)

    def draw(self, count: int, rng: torch.Generator) -> TensorDict:
        drawn = super().draw(count, rng)
        locs = drawn["locs"]
        shape = (*locs.shape[:2], 3)
        length, width, place = torch.rand(shape, generator=rng, device=locs.device).unbind(-1)
        service, width = 0.15 + 0.03 * length, 0.18 + 0.02 * width
        away = (locs - locs[:, :1]).norm(dim=-1)
        latest = HORIZON - service - width - away  # at which a window may open
        opens = away + place * (latest - away)
        windows = torch.stack([opens, opens + width], dim=-1)
        windows[:, 0], service[:, 0] = torch.tensor([0.0, HORIZON], device=locs.device), 0.0
        return drawn.update({"windows": windows, "service": service})

    def seeded(self, count: int, seed: int) -> TensorDict:
        """Return the first ``count`` instances that a seed stands for, drawn in blocks; see `Distribution.seeded`."""
        return Distribution.seeded(self, count, seed)


def routes(locs: Tensor, demand: Tensor, capacity: Tensor) -> TensorDict:
    """Join coordinates ``[batch, nodes, 2]``, the customers' demands and the capacities to instances."""
    values = {"locs": locs, "demand": torch.cat([torch.zeros_like(demand[:, :1]), demand], dim=1), "capacity": capacity}
    return TensorDict(values, batch_size=[len(locs)])


# ---------------------------------------------------------------------- draws


def _check_nodes(num_nodes: int) -> None:
    if isinstance(num_nodes, bool) or not isinstance(num_nodes, int) or num_nodes < 3:
        raise ArgumentError(f"num_nodes: {num_nodes} is not allowed; it must be a whole number of at least 3")


def _exploded(locs: Float[Tensor, "batch nodes 2"], rng: torch.Generator) -> Float[Tensor, "batch nodes 2"]:
    everyone = torch.ones(locs.shape[:2], dtype=torch.bool, device=locs.device)
    return geometry.to_unit_box(mutations.explosion(locs, everyone, rng))


def _closed(dists: Float32[Tensor, "batch nodes nodes"]) -> Float32[Tensor, "batch nodes nodes"]:
    """Replace each distance, a whole number, by that of the shortest way (Floyd 1962), and the diagonal by 0.

    It is exact while the sum of two distances is below 2**24.
    """
    diagonal = torch.eye(dists.shape[-1], dtype=torch.bool, device=dists.device)
    dists = dists.masked_fill(diagonal, 0)
    for via in range(dists.shape[-1]):
        dists = torch.minimum(dists, dists[:, :, via, None] + dists[:, None, via, :])
    return dists


def _whole(low: Tensor | int, high: Tensor | int, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Draw whole numbers from ``low`` to ``high``, both inclusive and broadcastable, as float32."""
    share = torch.rand(shape, generator=rng, device=rng.device)
    return (low + torch.floor(share * (high - low + 1))).clamp_max(high)


def _x_set(batch: int, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw coordinates ``[batch, n + 1, 2]``, demands ``[batch, n]`` and capacities ``[batch]`` as in the X set."""
    at = rng.device

    def rand(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=rng, device=at)

    # the depot lies in the middle, in a corner, or anywhere
    kind, depot = torch.floor(3 * rand(1, 1)), rand(1, 2)
    depot = torch.where(kind == 0, 0.5, torch.where(kind == 1, 0.0, depot))
    # customers lie anywhere, or round 3 to 8 seeds with the density exp(-d / 40) of the 1000-grid, or half and half
    seeds, which = rand(8, 2), torch.floor(rand(n) * _whole(3, 8, (batch, 1), rng)).long()
    radius, angle = -0.04 * (torch.log1p(-rand(n)) + torch.log1p(-rand(n))), 2 * math.pi * rand(n)
    offset = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
    near = seeds.gather(1, which.unsqueeze(-1).expand(-1, -1, 2)) + offset
    near = 1 - (1 - near.remainder(2)).abs()  # mirrored at the sides
    share = 0.5 * torch.floor(3 * rand(1))  # of the customers that lie anywhere
    customers = torch.where((torch.arange(n, device=at) < share * n).unsqueeze(-1), rand(n, 2), near)
    # demands: 1; 1 to 10; 5 to 10; 1 to 100; 50 to 100; by quadrant 1 to 50 or 51 to 100; many small and few large
    kind = torch.floor(7 * rand(1)).long()
    bounds = torch.tensor([[1, 1, 5, 1, 50, 1, 1], [1, 10, 10, 100, 100, 50, 10]], device=at)
    low, high = bounds[0][kind].expand(-1, n), bounds[1][kind].expand(-1, n)
    odd = (customers < 0.5).sum(-1) != 1  # first and third quadrant
    large = rand(n) < 0.05 + 0.25 * rand(1)
    low = torch.where((kind == 5) & odd, 51, torch.where((kind == 6) & large, 50, low))
    high = torch.where(((kind == 5) & odd) | ((kind == 6) & large), 100, high)
    demand = _whole(low, high, (batch, n), rng)
    # customers per route from a triangular distribution of 3 to 25 with its mode at 6
    u = rand()
    length = torch.where(u < 3 / 22, 3 + (66 * u).sqrt(), 25 - (418 * (1 - u)).sqrt())
    capacity = torch.maximum((length * demand.sum(1) / n).ceil(), demand.amax(1))
    return torch.cat([depot, customers], dim=1), demand, capacity
