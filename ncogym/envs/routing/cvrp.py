"""The capacitated vehicle routing problem: visit every customer once, on routes from a depot that fit the vehicle.

An action is the node visited next, 0 being the return to the depot; the return after the last customer is implied. The
number of routes is free. Objective: length of all routes with their depot legs, to be minimised, in the instance's own
units and with its own rounding where a file defines one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from tensordict import TensorDict
from torch import Tensor

from ncogym.distribution import Distribution
from ncogym.envs.formats.arrays import holds, real, refuse, whole
from ncogym.envs.formats.shares import amounts
from ncogym.envs.routing import geometry, moves
from ncogym.envs.routing.instances import CVRPDistribution, routes
from ncogym.features import EdgeFeatures, FeatureDims, InstanceFeatures, NodeFeatures, StepFeatures, Walk
from ncogym.models import Routes
from ncogym.problem import Arrays, Contents, Neighbourhood, Problem, Violation, as_int64
from ncogym.sketch import Line, Mark, Sketch, sketch_places

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
    """

    name = "cvrp"
    sense = "min"
    suffixes: ClassVar[tuple[str, ...]] = (".vrp",)
    published_suffix = solution_suffix = ".sol"
    state_type: ClassVar[Any] = CVRPState
    distribution_type: ClassVar[type[Distribution] | None] = CVRPDistribution
    instance_keys: ClassVar[tuple[str, ...]] = ("locs", "demand", "capacity", "dists")
    both_ways: ClassVar[bool] = True  # whether a route is as good backwards

    def instance_size(self, instance: TensorDict) -> int:
        return instance["locs"].shape[1] - 1

    # ------------------------------------------------------------------ instances

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
            instances = routes(locs, *amounts(real(arrays, "demand"), capacity, column))
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
        write_routes(target, moves.routes_of(actions.tolist()), float(self.objective(instance, actions[None, None])))
        return target

    def plain_actions(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> list[int]:
        """Return the routes one after the other with a single 0 between two; k is the file's k-th customer."""
        return [node for route in moves.routes_of(actions.tolist()) for node in (0, *route)][1:]

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

    def walk(self, instance: TensorDict) -> Walk | None:
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
        path, route = moves.numbered(actions.unsqueeze(1).expand(-1, count, -1))
        load = torch.zeros(path.shape, dtype=torch.float64, device=path.device)
        load = load.scatter_add(-1, route, moves.look_up(instance["demand"], path).double())
        noise, flip = torch.rand(2, *path.shape, generator=rng, device=rng.device).to(path.device)
        flip = flip * self.both_ways
        gumbel = -(-noise.clamp_min(1e-8).log()).log()
        fullness = load / instance["capacity"].double()[:, None, None] + 0.1 * gumbel
        return moves.in_order(path, route, fullness, flip)

    def neighbourhood(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], free: int, rng: torch.Generator
    ) -> Neighbourhood:
        """Open the routes that come nearest to a random customer, and of the last of these a stretch at one end."""
        customers, visits = self.instance_size(instance), actions > 0
        begins = visits & ~torch.nn.functional.pad(visits, (1, 0))[..., :-1]
        last = (visits * torch.arange(actions.shape[-1], device=actions.device)).amax()
        steps, fewest = torch.stack([last + 1, begins.sum(-1).amin()]).tolist()
        path, route = moves.numbered(actions[..., :steps])
        centre = torch.randint(1, customers + 1, path.shape[:2], generator=rng, device=rng.device).to(path.device)
        away = geometry.lengths(instance, centre.unsqueeze(-1).expand_as(path), path).masked_fill(path == 0, torch.inf)
        nearest = torch.full_like(away, torch.inf).scatter_reduce(-1, route, away, "amin")
        flip = torch.rand(path.shape, generator=rng, device=rng.device).to(path.device) * self.both_ways
        return self._tail(moves.in_order(path, route, nearest, flip), customers + fewest - 1, free)

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
        routes = moves.routes_of([node for node in actions.tolist() if 0 <= node < len(places.points)])
        ways = [Line(route, colour, "solid") for colour, route in enumerate(routes)]
        legs = [Line([route[0], 0, route[-1]], colour, "dashed") for colour, route in enumerate(routes)]
        return places._replace(lines=[*legs, *ways], marks=[Mark([0], 7, "square")])


# ---------------------------------------------------------------------- helpers


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
    for number, route in enumerate(moves.routes_of(steps), 1):
        carried = math.fsum(demand[node] for node in route if 0 < node <= n)
        if carried > limit:
            named = " ".join(map(str, route if len(route) <= 10 else [*route[:9], "..."]))
            reasons.append(f"route {number} (customers {named}) carries {carried:.15g}, capacity is {capacity:.15g}")
    return reasons
