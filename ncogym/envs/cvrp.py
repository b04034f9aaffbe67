"""The capacitated vehicle routing problem: visit every customer once, on routes from a depot that fit the vehicle.

An action is the node visited next, 0 being the return to the depot; the return after the last customer is implied. The
number of routes is free. Objective: length of all routes with their depot legs, to be minimised, in the instance's own
units and with its own rounding where a file defines one.

Instance distributions, coordinates in ``[0, 1]^2``:

- uniform: depot and customers uniform, demands 1 to 9 (Kool et al., Attention, Learn to Solve Routing Problems!, ICLR
  2019, after Nazari et al. 2018); centre: the same with the depot in the middle; clustered: all nodes from a Gaussian
  mixture of 2 to 8 modes;
- x: the generator of the X set (Uchoa et al., New Benchmark Instances for the CVRP, EJOR 257, 2017), each of its
  attributes drawn anew for each instance. Differs from the paper in: coordinates are not rounded to its 1000-grid, the
  cluster seeds are no customers themselves, and a customer that would fall outside of the box is mirrored at its side;
- mixed: half of the rows uniform, a quarter clustered, a quarter x;
- mutations of the coordinates of uniform instances, ``implosion:0.7`` and others (`ncogym.envs.mutations`).
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

from ncogym.envs import geometry, mutations
from ncogym.envs.base import as_int64, pinned
from ncogym.envs.formats.arrays import holds, real, refuse, whole
from ncogym.errors import ArgumentError, InstanceError
from ncogym.features import EdgeFeatures, FeatureDims, InstanceFeatures, NodeFeatures, StepFeatures, Walk
from ncogym.models import Routes
from ncogym.problem import Arrays, Contents, Neighbourhood, Problem, ReferenceSet, Violation
from ncogym.sketch import Line, Mark, Sketch, sketch_places

Distribution = Literal["uniform", "centre", "clustered", "x", "mixed"]

# the field's capacities by number of customers; others lie on the straight lines through these
CAPACITIES = {10: 20, 20: 30, 50: 40, 100: 50, 125: 55, 150: 60, 200: 70}
MAX_DEMAND = 9  # of the distributions that take these capacities
MOST_UNITS = 1000  # that a capacity may have had of which a file has shares alone

SLACK = 1e-9  # relative: sums of fractional demands are inexact; whole numbers are compared exactly


LABELS = "labels"  # key of the numbers that nodes have in their file, where its depot is not the first


class CVRPState(NamedTuple):
    """State of each rollout; see `CVRP`."""

    instance: TensorDict
    current: Tensor
    load_left: Tensor
    num_left: Tensor
    visited: Tensor
    action_mask: Tensor
    done: Tensor


def _reference_sets() -> Iterator[tuple[str, ReferenceSet]]:
    field = (("kool-cvrp", (20, 50, 100), 1234, 10_000), ("cvrp", (125, 150, 200), 1235, 1_000))
    for name, sizes, seed, count in field:
        for n in sizes:
            drawn = f"depots, customers uniform, demands randint(1, 10), {count} x {n}, capacity {CAPACITIES[n]}"
            source = f"Kool et al. 2019: numpy.random.seed({seed}), {drawn}"
            yield f"{name}{n}", ReferenceSet({"num_customers": n}, seed, count, "", source)
    for kind in get_args(Distribution)[1:]:
        for n in (20, 50, 100):
            note = "" if kind == "centre" else " (to the bit on processors with AVX2)"
            source = f"this library's distribution {kind}, seed 1234{note}"
            arguments = {"num_customers": n, "distribution": kind}
            yield f"ncogym-cvrp-{kind}-{n}", ReferenceSet(arguments, 1234, 1_000, "", source)
    yield from mutations.reference_sets("cvrp", "num_customers")


_SHA256 = """
6cf296bb1d92b133 1f8cdeebe4f2d565 ea3184998ec6a1e0 47394fad1f04f15d 967259b77abac8e7 e206062bcc5fa1c9 d6ec4a13bc4ee6a6
017e5148c24af85b 8ebd243d99e407f9 cfeced6fc30b2176 accc19875ed1dd65 9cedcd6704dceff8 9a366ceb118d83e2 4d76ebf48181963b
d83cf9619789efa7 917b80e890f2770a 2f3ba66e20233005 f19ff76f0ede8099 6af069f7813d187b b7245bb60dae9842 051f24181803c0bf
80c841e4a05b6038 e554873abc3e0b7c 4381c032f1de4489 a3d600b59a85bc29 6c34d6d989f5ae82 2f4aa68743a96fa9 1ab90d0fa0a48637
c1c09b11658faa81 6ba21b2030f38129 5db6ab1a0f97d676 2a8434760ffafddf 12c1a963dcc5bf21 30c349a4fe69f26e 847e36ca1904d1e3
d1634d25ecb168f1 79b31f8a3e15d4da ac797fc5340b74a9 9785318417bc09c6 9a83cad0f236c29d c589ea82159f11c3 4be918aab52d9545
d2b2d8b4d7fd916a 3e06834c79b687c5 fc1bfe01c2f8dd51 7712e927706cda5d 4d6a24cb0555733e 3dc70d1d653d8b47 545b0ca72804bd71
ccb88e441bf59e8e 920c540ae140305a 9c1806e7a9f3eef2 273962b60fe24b09 45e5413da3e27535
"""


class CVRP(Problem):
    """Capacitated vehicle routing problem with one depot, one kind of vehicle and a free fleet.

    Instance keys:
        locs: float32 ``[nodes, 2]``, coordinates of the depot (node 0) and the customers, any unit; the distance is
            Euclidean unless ``dists`` is there too.
        demand: float32 ``[nodes]``, 0 at the depot, elsewhere from 0 to the capacity; generated ones are whole numbers.
        capacity: float32 ``[]``, what a vehicle holds, in the unit of the demands.
        dists: float64 ``[nodes, nodes]``, optional, symmetric; then it alone defines the objective.

        Instances from files hold demand and capacity in float64.

    State keys, each ``[batch, rollouts, ...]``:
        current: int64, the node visited last; 0 before the first action and once the rollout is done.
        load_left: float64, what the vehicle can still take; the capacity at the depot.
        num_left: int64, customers not visited yet.
        visited: bool ``[nodes]``, True = visited; always True at the depot.
        action_mask: bool ``[nodes]``, True = allowed: customers not visited yet that fit, and the depot unless the
            vehicle is there; once all are visited, the depot alone (padding).
        done: bool, True = every customer is visited.

    Args:
        num_customers: customers per generated instance, at least 2; the depot is not counted.
        distribution: of the generated instances; a mutation with its power is written ``implosion:0.7``.
        capacity: of generated instances, at least 9; None takes `CAPACITIES`, 30/40/50 for 20/50/100 customers. The
            distribution x, also as a part of mixed, draws its own.
    """

    name = "cvrp"
    sense = "min"
    suffixes = (".vrp",)
    published_suffix = solution_suffix = ".sol"
    reference_sets = pinned(_reference_sets(), _SHA256)
    state_type = CVRPState
    instance_keys = ("locs", "demand", "capacity", "dists")

    def __init__(
        self,
        num_customers: int = 50,
        distribution: Distribution | str = "uniform",
        capacity: int | None = None,
    ) -> None:
        if isinstance(num_customers, bool) or not isinstance(num_customers, int) or num_customers < 2:
            raise ArgumentError(
                f"num_customers: {num_customers} is not allowed; it must be a whole number of at least 2"
            )
        distribution = mutations.checked(distribution, get_args(Distribution))
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

    def resized(self, size: int) -> CVRP:
        return CVRP(size, self.distribution, self.capacity)

    def instance_size(self, instance: TensorDict) -> int:
        return instance["locs"].shape[1] - 1

    # ------------------------------------------------------------------ instances

    def generate(self, batch_size: int, rng: torch.Generator, device: torch.device | str | None = None) -> TensorDict:
        n, at = self.num_customers, rng.device
        locs = torch.rand(batch_size, n + 1, 2, generator=rng, device=at)
        demand = _whole(1, MAX_DEMAND, (batch_size, n), rng)
        capacity = torch.full((batch_size,), float(self._capacity()), device=at)
        if self.distribution == "centre":
            locs[:, 0] = 0.5
        elif self.distribution == "clustered":
            locs = geometry.clustered(batch_size, n + 1, rng)
        elif self.distribution == "x":
            locs, demand, capacity = _x_set(batch_size, n, rng)
        elif self.distribution == "mixed":
            kind = torch.rand(batch_size, generator=rng, device=at)
            grouped = geometry.clustered(batch_size, n + 1, rng)
            places, demands, capacities = _x_set(batch_size, n, rng)
            is_x, is_grouped = kind >= 0.75, (kind >= 0.5)[:, None, None]
            locs = torch.where(is_x[:, None, None], places, torch.where(is_grouped, grouped, locs))
            demand = torch.where(is_x[:, None], demands, demand)
            capacity = torch.where(is_x, capacities, capacity)
        elif self.distribution != "uniform":
            locs = mutations.mutated(locs, self.distribution, rng)
        return _instance(locs, demand, capacity).to(device or at)

    def seeded(self, count: int, seed: int) -> TensorDict:
        """Return the field's test instances: uniform sets are those of Kool et al., drawn by numpy's legacy generator.

        ``numpy.random.seed(seed)``, then for 10,000 instances (1,000 for seed 1235, as in SGBS and Poppy) all depots
        ``uniform(size=(10000, 2))``, all customers and all demands ``randint(1, 10)``, of which the first ``count`` are
        taken; coordinates in float64. Other distributions come from `generate`.

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
        return _instance(locs, demand, torch.full((count,), float(self._capacity())))

    def _capacity(self) -> int:
        """Return the argument or what `CAPACITIES` says, along straight lines between and beyond its sizes."""
        if self.capacity is not None:
            return self.capacity
        sizes = sorted(CAPACITIES)
        above = min(sum(size < self.num_customers for size in sizes[1:]) + 1, len(sizes) - 1)
        low, high = sizes[above - 1], sizes[above]
        slope = (CAPACITIES[high] - CAPACITIES[low]) / (high - low)
        return math.floor(CAPACITIES[low] + slope * (self.num_customers - low) + 0.5)

    def read(self, path: str | Path) -> TensorDict:
        from ncogym.envs.formats.cvrplib import read_cvrplib

        problem = read_cvrplib(path)
        dists = torch.from_numpy(problem.dists)
        coords = None if problem.coords is None else torch.from_numpy(problem.coords)
        values = {
            "locs": geometry.file_locs(coords, problem.edge_weight_type, dists)[None],
            "demand": torch.from_numpy(problem.demand)[None],
            "capacity": torch.tensor([problem.capacity], dtype=torch.float64),
            "dists": dists[None],
        }
        if problem.order[0]:
            values[LABELS] = torch.from_numpy(problem.order)[None]
        return TensorDict(values, batch_size=[1])

    def read_solution(self, path: str | Path) -> Int64[Tensor, " steps"]:
        """Read the routes of a ``.sol`` file; the sets A, B, E and P limit the fleet for them."""
        from ncogym.envs.formats.cvrplib import read_routes

        return torch.tensor([node for route in read_routes(path) for node in (*route, 0)])

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Contents | None:
        """Read ``locs`` and ``demand`` with the depot, or ``depot``, ``loc`` or ``locs``, and ``demand`` without it.

        With them, ``capacity``, ``ref_cost`` and ``ref_actions``, nodes from the depot on, with the depot at the end as
        padding. Demands apart from the depot may be shares of the capacity, as RL4CO has them: without ``capacity``, or
        with one of shape ``[batch, 1]``.
        """
        from ncogym.envs.formats.cvrplib import load_fault

        own = {"locs": "batch nodes 2", "demand": "batch nodes", "capacity": "batch"}
        column = "capacity" in arrays and arrays["capacity"].ndim == 2
        places = "loc" if "loc" in arrays else "locs"
        apart = {"depot": "batch 2", places: "batch customers 2", "demand": "batch customers"}
        known = {"ref_cost": "batch", "ref_actions": "batch steps"}
        if holds(arrays, own, known):
            read = {name: real(arrays, name) for name in own}
            instances = TensorDict(read, batch_size=[len(read["locs"])])
        elif holds(arrays, apart, {**known, "capacity": "batch 1" if column else "batch"}):
            locs = torch.cat([real(arrays, "depot").unsqueeze(1), real(arrays, places)], dim=1)
            capacity = real(arrays, "capacity").reshape(-1) if "capacity" in arrays else None
            instances = _instance(locs, *_amounts(real(arrays, "demand"), capacity, column))
        else:
            return None
        rows = zip(instances["demand"].numpy(), instances["capacity"].tolist(), strict=True)
        refuse(load_fault(demand, capacity, 0) for demand, capacity in rows)
        return Contents(
            instances,
            real(arrays, "ref_cost") if "ref_cost" in arrays else None,
            whole(arrays, "ref_actions") if "ref_actions" in arrays else None,
        )

    def write(self, instance: TensorDict, path: str | Path) -> None:
        """Write a CVRPLIB file: ``dists`` as they are, or else the coordinates in millionths of their unit.

        CVRPLIB rounds each Euclidean distance to a whole number, so a solution of the file is 1,000,000 times as long
        as the instance's own, to within half a millionth for each edge.
        """
        from ncogym.envs.formats.cvrplib import write_cvrplib

        demand, capacity = instance["demand"][0].double().numpy(), float(instance["capacity"][0])
        if "dists" in instance.keys():
            write_cvrplib(path, instance["dists"][0].numpy(), demand, capacity, "EXPLICIT")
        else:
            scaled = instance["locs"][0].double().numpy() * 1e6
            write_cvrplib(path, scaled, demand, capacity, comment="coordinates in millionths")

    def write_solution(self, instance: TensorDict, actions: Tensor, path: str | Path, name: str) -> Path | None:
        from ncogym.envs.formats.cvrplib import write_routes

        target = Path(path).with_suffix(self.solution_suffix)
        write_routes(target, routes_of(actions.tolist()), float(self.objective(instance, actions[None, None])))
        return target

    def plain_actions(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> list[int]:
        """Return the routes one after the other with a single 0 between two; k is the file's k-th customer."""
        return [node for route in routes_of(actions.tolist()) for node in (0, *route)][1:]

    # ------------------------------------------------------------------ dynamics

    def start(self, instance: TensorDict, rollouts: int = 1) -> CVRPState:
        demand, capacity = instance["demand"], instance["capacity"]
        batch, nodes = demand.shape
        home = torch.zeros(batch, rollouts, dtype=torch.int64, device=demand.device)
        is_depot = torch.arange(nodes, device=demand.device) == 0
        return CVRPState(
            instance=instance,
            current=home,
            load_left=capacity.double().unsqueeze(1).expand(-1, rollouts).clone(),
            num_left=torch.full_like(home, nodes - 1),
            visited=is_depot.expand(batch, rollouts, -1).clone(),
            action_mask=(~is_depot).expand(batch, rollouts, -1).clone(),
            done=torch.zeros_like(home, dtype=torch.bool),
        )

    def advance(self, state: CVRPState, action: Int64[Tensor, "batch rollouts"]) -> CVRPState:
        demand, capacity = state.instance["demand"], state.instance["capacity"].double().unsqueeze(1)
        visited = state.visited.scatter(-1, action.unsqueeze(-1), True)
        num_left = state.num_left - (action > 0).long()
        done = num_left == 0
        current = action.masked_fill(done, 0)  # home after the last customer, so that padding changes nothing
        load_left = torch.where(current == 0, capacity, state.load_left - demand.gather(1, action))
        room = load_left + (SLACK * capacity).clamp_max(0.5)
        fits = ~visited & (demand.unsqueeze(1) <= room.unsqueeze(-1))
        mask = torch.cat([((current > 0) | done).unsqueeze(-1), fits[..., 1:]], dim=-1)
        return CVRPState(state.instance, current, load_left, num_left, visited, mask, done)

    def reward(
        self, state: CVRPState, action: Int64[Tensor, "batch rollouts"], successor: CVRPState
    ) -> Float32[Tensor, "batch rollouts"]:
        step = geometry.lengths(state.instance, state.current, action)
        home = geometry.lengths(state.instance, action, successor.current)
        return -(step + torch.where(successor.done, home, 0.0)).float()

    def horizon(self, instance: TensorDict) -> int:
        return 2 * self.instance_size(instance)

    def earliest(self, instance: TensorDict) -> int:
        return self.instance_size(instance)

    # ------------------------------------------------------------------ referee

    def objective(
        self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]
    ) -> Float64[Tensor, "batch rollouts"]:
        actions = as_int64(actions)
        depot = torch.zeros_like(actions[..., :1])
        path = torch.cat([depot, actions, depot], dim=-1)
        return geometry.lengths(instance, path[..., :-1], path[..., 1:]).sum(-1)

    def violations(self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]) -> list[Violation]:
        demand, capacity = instance["demand"].tolist(), instance["capacity"].tolist()
        return [
            Violation(row, rollout, reason)
            for row, rollouts in enumerate(as_int64(actions).tolist())
            for rollout, steps in enumerate(rollouts)
            for reason in _broken(steps, demand[row], capacity[row])
        ]

    def broken_solutions(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"]
    ) -> dict[str, Tensor]:
        """Return broken forms of ``actions`` by name, for `ncogym.laws`: each changes the last rollout alone."""
        n = self.instance_size(instance)
        names = ("a customer left out", "a customer for another", "all on one route")
        kinds = {name: actions.clone() for name in names}
        last = int((actions[-1, -1] == n).nonzero()[0])
        kinds["a customer left out"][-1, -1, last] = 0
        kinds["a customer for another"][-1, -1, last] = 1
        kinds["all on one route"][-1, -1] = torch.arange(1, actions.shape[-1] + 1, device=actions.device) % (n + 1)
        kinds["all on one route"][-1, -1, n:] = 0
        if instance["demand"][-1].sum() <= instance["capacity"][-1]:
            del kinds["all on one route"]
        return kinds

    # ------------------------------------------------------------------ features

    @property
    def feature_dims(self) -> FeatureDims:
        return FeatureDims(node=4, kinds=2, edge=2, roles=1, scalars=2)

    def instance_features(self, instance: TensorDict) -> InstanceFeatures:
        """Return for each node its place in the unit box, its share of the capacity and how far the depot is; edges.

        The depot is of kind 1. Units and edges are those of `geometry.unit_features`.
        """
        locs, edges = geometry.unit_features(instance["locs"], instance.get("dists", None))
        share = (instance["demand"] / instance["capacity"].unsqueeze(1)).float()
        kinds = (torch.arange(locs.shape[1], device=locs.device) == 0).long()
        values = torch.cat([locs, torch.stack([share, edges[:, 0, :, 0]], dim=-1)], dim=-1)
        return NodeFeatures(values, kinds), EdgeFeatures(edges)

    def step_features(self, state: CVRPState) -> StepFeatures:
        """Return the current node, the share of the capacity that is left and the share of customers left."""
        room = state.load_left / state.instance["capacity"].double().unsqueeze(1)
        scalars = torch.stack([room, state.num_left / self.instance_size(state.instance)], dim=-1).float()
        return StepFeatures(state.current.unsqueeze(-1), state.action_mask, scalars)

    def walk(self, instance: TensorDict) -> Walk:
        capacity = instance["capacity"].double()
        slack = (SLACK * capacity).clamp_max(0.5)
        demand = instance["demand"].double()
        return Walk(("current",), ("room", "left"), self.horizon(instance), demand, capacity, slack)

    # ------------------------------------------------------------------ multi-start, symmetries, views, picture

    def first_actions(self, instance: TensorDict, rng: torch.Generator | None = None) -> Int64[Tensor, "batch starts"]:
        batch, nodes = instance["demand"].shape
        if rng is None:
            return torch.arange(1, nodes, device=instance["demand"].device).expand(batch, -1)
        order = torch.rand(batch, nodes - 1, generator=rng, device=rng.device)
        return order.argsort(-1).to(instance["demand"].device) + 1

    def equivalent_actions(
        self, instance: TensorDict, actions: Int64[Tensor, "batch steps"], count: int, rng: torch.Generator
    ) -> Int64[Tensor, "batch {count} steps"]:
        """Draw the solution's routes in random directions, in a random order that puts fuller ones first.

        The order is by load / capacity + 0.1 Gumbel noise, descending, so that the least filled route tends to come
        last, as a policy builds it from what is left. There is a single 0 between two routes, and padding at the end.

        References:
            Drakulic et al. (2023), BQ-NCO: Bisimulation Quotienting for Efficient Neural CO, NeurIPS (the order).
        """
        path, route = _routes(actions.unsqueeze(1).expand(-1, count, -1))
        load = torch.zeros(path.shape, dtype=torch.float64, device=path.device)
        load = load.scatter_add(-1, route, _look_up(instance["demand"], path).double())
        noise, flip = torch.rand(2, *path.shape, generator=rng, device=rng.device).to(path.device)
        gumbel = -(-noise.clamp_min(1e-8).log()).log()
        fullness = load / instance["capacity"].double()[:, None, None] + 0.1 * gumbel
        return _in_order(path, route, fullness, flip)

    def neighbourhood(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], free: int, rng: torch.Generator
    ) -> Neighbourhood:
        """Open the routes that come nearest to a random customer, and of the last of these a stretch at one end."""
        customers, visits = self.instance_size(instance), actions > 0
        begins = visits & ~torch.nn.functional.pad(visits, (1, 0))[..., :-1]
        last = (visits * torch.arange(actions.shape[-1], device=actions.device)).amax()
        steps, fewest = torch.stack([last + 1, begins.sum(-1).amin()]).tolist()
        path, route = _routes(actions[..., :steps])
        centre = torch.randint(1, customers + 1, path.shape[:2], generator=rng, device=rng.device).to(path.device)
        away = geometry.lengths(instance, centre.unsqueeze(-1).expand_as(path), path).masked_fill(path == 0, torch.inf)
        nearest = torch.full_like(away, torch.inf).scatter_reduce(-1, route, away, "amin")
        flip = torch.rand(path.shape, generator=rng, device=rng.device).to(path.device)
        return self._tail(_in_order(path, route, nearest, flip), customers + fewest - 1, free)

    def padded(self, instance: TensorDict, actions: Tensor, steps: int) -> Tensor:
        """Lengthen finished solutions ``[batch, ..., steps before]`` to ``steps`` by the depot."""
        missing = actions.new_zeros(*actions.shape[:-1], steps - actions.shape[-1])
        return torch.cat([actions, missing], dim=-1)

    def symmetries(self, instance: TensorDict, count: int = 8, rng: torch.Generator | None = None) -> list[TensorDict]:
        """Return images under the dihedral group of the square, then under random rotations and reflections.

        Args:
            instance: batch size ``[batch]``.
            count: images wanted; those after the first 8 are random and need ``rng``.
            rng: source of the random images.
        """
        return geometry.images(instance, instance["locs"], count, rng)

    def model(self, instance: TensorDict) -> Routes:
        demand, capacity = instance["demand"].double(), instance["capacity"].double()
        return Routes(geometry.distances_of(instance), demand, capacity, labels=instance.get(LABELS, None))

    def sketch(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> Sketch:
        """Return the places, a line a route, its legs from and to the depot dashed, and the depot as a square."""
        places = sketch_places(instance["locs"][0].cpu().numpy())
        routes = routes_of([node for node in actions.tolist() if 0 <= node < len(places.points)])
        ways = [Line(route, colour, "solid") for colour, route in enumerate(routes)]
        legs = [Line([route[0], 0, route[-1]], colour, "dashed") for colour, route in enumerate(routes)]
        return places._replace(lines=[*legs, *ways], marks=[Mark([0], 7, "square")])


# ---------------------------------------------------------------------- helpers


def routes_of(actions: list[int]) -> list[list[int]]:
    """Split actions at the depot into routes of customers, leaving out empty ones."""
    routes: list[list[int]] = [[]]
    for node in actions:
        if node == 0:
            routes.append([])
        else:
            routes[-1].append(node)
    return [route for route in routes if route]


def _routes(
    actions: Int64[Tensor, "batch rollouts steps"],
) -> tuple[Int64[Tensor, "batch rollouts nodes"], Int64[Tensor, "batch rollouts nodes"]]:
    """Return actions and the way home, and for each of these nodes the number of its route, which may be empty."""
    path = torch.nn.functional.pad(actions, (0, 1))
    ends = (path == 0).long()
    return path, ends.cumsum(-1) - ends


def _in_order(
    path: Int64[Tensor, "batch rollouts nodes"],
    route: Int64[Tensor, "batch rollouts nodes"],
    key: Float64[Tensor, "batch rollouts nodes"],
    flip: Float32[Tensor, "batch rollouts nodes"],
) -> Int64[Tensor, "batch rollouts steps"]:
    """Return actions with the routes in another order, a single 0 between two of them and the others at the end.

    Args:
        path: of `_routes`.
        route: of `_routes`.
        key: of each route; the highest comes first.
        flip: of each route; it turns round from 0.5 on.
    """
    nodes = path.shape[-1]
    empty = torch.zeros_like(path).scatter_add(-1, route, (path > 0).long()) == 0
    rank = key.masked_fill(empty, -torch.inf).argsort(-1, descending=True).argsort(-1)
    # a node's new place follows from its route's rank and its own place, counted from the other end if flipped
    place = torch.arange(nodes, device=path.device).expand_as(path)
    place = torch.where(flip.gather(-1, route) < 0.5, place, nodes - 1 - place)
    place = torch.where(path == 0, nodes, place)
    order = (rank.gather(-1, route) * (nodes + 1) + place).argsort(-1)
    return path.gather(-1, order)[..., :-1]


def _look_up(table: Tensor, node: Int64[Tensor, "batch rollouts nodes"]) -> Tensor:
    """Return entries of ``table`` ``[batch, nodes]``."""
    return table.gather(1, node.flatten(1)).view_as(node)


def _broken(steps: list[int], demand: list[float], capacity: float) -> list[str]:
    """Say in words all that keeps ``steps`` from being routes that fit the vehicle and serve each customer once."""
    n, seen, reasons = len(demand) - 1, dict[int, int](), list[str]()
    for step, node in enumerate(steps):
        if not 0 <= node <= n:
            reasons.append(f"step {step} visits node {node}; nodes are 0 to {n}")
        elif node in seen:
            reasons.append(f"customer {node} is visited at step {seen[node]} and again at step {step}")
        elif node > 0:
            seen[node] = step
    reasons += [f"customer {node} is never visited" for node in range(1, n + 1) if node not in seen]
    whole = all(float(amount).is_integer() for amount in (*demand, capacity))
    limit = capacity if whole else capacity * (1 + SLACK)
    for number, route in enumerate(routes_of(steps), 1):
        carried = math.fsum(demand[node] for node in route if 0 < node <= n)
        if carried > limit:
            named = " ".join(map(str, route if len(route) <= 10 else [*route[:9], "..."]))
            reasons.append(f"route {number} (customers {named}) carries {carried:.15g}, capacity is {capacity:.15g}")
    return reasons


def _instance(locs: Tensor, demand: Tensor, capacity: Tensor) -> TensorDict:
    """Join coordinates ``[batch, nodes, 2]``, the customers' demands and the capacities to instances."""
    values = {"locs": locs, "demand": torch.cat([torch.zeros_like(demand[:, :1]), demand], dim=1), "capacity": capacity}
    return TensorDict(values, batch_size=[len(locs)])


def _amounts(demand: Tensor, capacity: Tensor | None, column: bool) -> tuple[Tensor, Tensor]:
    """Return customers' demands and capacities in one unit, whole amounts where shares of a capacity stand for such.

    Shares are inexact: ten of a tenth, in float32, would not fit.

    Args:
        demand: ``[batch, customers]``, amounts or shares of the capacity.
        capacity: ``[batch]``, or None, which only shares can do without.
        column: whether the file has the capacities in a column, as only RL4CO has them, beside shares.
    """
    are_shares = bool((demand <= 1).all() and (demand != demand.round()).any())
    if capacity is None:
        if not are_shares:
            raise InstanceError(
                "array capacity is missing; without it demands must be shares of the capacity, at most 1"
            )
        found = (each for each in range(1, MOST_UNITS + 1) if _are_whole(demand * each, each))
        units = next(found, None)  # the fewest of which all shares are whole
        whole = demand if units is None else (demand * units).round()
        return whole, torch.full_like(demand[:, 0], units or 1)
    amounts = demand * capacity[:, None].to(demand)
    if not (are_shares and (capacity > 1).any() and _are_whole(amounts, capacity.max())):
        return demand, capacity
    if not column:
        ways = "as amounts, and as shares of the capacity"
        raise InstanceError(f"array demand can be read in two ways, {ways}; allowed are whole amounts, or shares alone")
    return amounts.round(), capacity


def _are_whole(amounts: Tensor, units: Tensor | int) -> bool:
    """Return whether shares of so many units are whole but for the rounding of float32."""
    return bool(((amounts - amounts.round()).abs() <= 2e-7 * units).all())


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
