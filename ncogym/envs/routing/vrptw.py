"""Capacitated routes with time windows: `CVRP`, where each customer's service must begin within a window.

An action is the node visited next, 0 being the return to the depot, as in `CVRP`. A vehicle leaves the depot when its
window opens, waits where it is early, and must be back before that window closes; distances are times. Objective:
length of all routes, to be minimised; waiting costs nothing, and the number of routes is free.

References:
    Solomon (1987), Algorithms for the Vehicle Routing and Scheduling Problems with Time Window Constraints, Operations
    Research 35.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64, Int64, Shaped
from tensordict import TensorDict
from torch import Tensor

from ncogym.envs.formats.arrays import holds, real, refuse
from ncogym.envs.formats.solomon import windows_fault
from ncogym.envs.routing import geometry, moves
from ncogym.envs.routing.cvrp import CVRP, CVRPState
from ncogym.envs.routing.instances import VRPTWDistribution
from ncogym.errors import ArgumentError
from ncogym.features import FeatureDims, InstanceFeatures, NodeFeatures, StepFeatures
from ncogym.models import Routes
from ncogym.problem import Arrays, Contents, Violation, as_int64

LATE = 1e-9  # relative to when the depot closes: sums of times are inexact


class VRPTWState(NamedTuple):
    """State of each rollout; see `VRPTW`."""

    instance: TensorDict
    current: Tensor
    load_left: Tensor
    num_left: Tensor
    visited: Tensor
    time: Tensor
    action_mask: Tensor
    done: Tensor


class VRPTW(CVRP):
    """Vehicle routing problem with time windows.

    Instance keys are those of `CVRP`, and:
        windows: float32 ``[nodes, 2]``, the first and the last moment at which service may begin; of the depot, between
            which vehicles are on their way.
        service: float32 ``[nodes]``, how long it takes; 0 at the depot.

    State keys are those of `CVRP`, and time: float64, when the vehicle can leave where it is. `action_mask` allows only
    customers that are reached in time, and from which the depot is.
    """

    name = "vrptw"
    suffixes = (".txt",)
    state_type = VRPTWState
    distribution_type = VRPTWDistribution
    instance_keys = ("locs", "demand", "capacity", "windows", "service", "dists")
    both_ways = False  # a route backwards may be late

    # ------------------------------------------------------------------ instances

    def read(self, path: str | Path) -> TensorDict:
        from ncogym.envs.formats.solomon import read_solomon

        coords, dists, demand, capacity, windows, service = read_solomon(path)
        values = {"locs": coords, "demand": demand, "windows": windows, "service": service, "dists": dists}
        keys = {key: torch.from_numpy(value)[None] for key, value in values.items()}
        return TensorDict({**keys, "capacity": torch.tensor([capacity], dtype=torch.float64)}, batch_size=[1])

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Contents | None:
        """Read the arrays of the instance keys but ``dists``, as ``ncogym generate`` writes them."""
        own = {"locs": "batch nodes 2", "demand": "batch nodes", "capacity": "batch"}
        own |= {"windows": "batch nodes 2", "service": "batch nodes"}
        if not holds(arrays, own, {}):
            return None
        plain = super().from_arrays({name: arrays[name] for name in ("locs", "demand", "capacity")})
        if plain is None:
            return None
        instances = plain.instances.update({name: real(arrays, name) for name in ("windows", "service")})
        times = (instances["windows"], instances["service"], geometry.distances(instances))
        refuse(windows_fault(*row) for row in zip(*(each.double().numpy() for each in times), strict=True))
        return Contents(instances)

    def write(self, instance: TensorDict, path: str | Path) -> None:
        raise ArgumentError(f"{path}: {self.name} has no file format to write")

    # ------------------------------------------------------------------ dynamics

    def start(self, instance: TensorDict, rollouts: int = 1) -> Any:
        plain = super().start(instance, rollouts)
        begin = instance["windows"][:, :1, 0].double().expand(-1, rollouts).clone()
        return self._in_time(plain, begin)

    def advance(self, state: Any, action: Int64[Tensor, "batch rollouts"]) -> Any:
        instance, plain = state.instance, super().advance(state, action)
        opens, service = instance["windows"][..., 0].double(), instance["service"].double()
        arrived = state.time + geometry.lengths(instance, state.current, action)
        leaves = torch.maximum(arrived, opens.gather(1, action)) + service.gather(1, action)
        return self._in_time(plain, torch.where(plain.current == 0, opens[:, :1], leaves))

    def _in_time(self, plain: CVRPState, time: Float64[Tensor, "batch rollouts"]) -> VRPTWState:
        """Return a state of `CVRP` at a time, with what is reached in time alone allowed."""
        fields = plain._asdict()
        instance, current, mask = fields["instance"], fields["current"], fields["action_mask"]
        opens, closes = instance["windows"].double().unsqueeze(1).unbind(-1)
        nodes = torch.arange(mask.shape[-1], device=mask.device)
        everyone, home = nodes.expand_as(mask), torch.zeros_like(mask[:, :1], dtype=torch.int64)
        reached = time.unsqueeze(-1) + geometry.lengths(instance, current.unsqueeze(-1).expand_as(mask), everyone)
        back = torch.maximum(reached, opens) + instance["service"].double().unsqueeze(1)
        back = back + geometry.lengths(instance, everyone[:, :1], home)
        slack = LATE * closes[..., :1].abs()
        in_time = (reached <= closes + slack) & (back <= closes[..., :1] + slack)
        return VRPTWState(**{**fields, "time": time, "action_mask": mask & (in_time | (nodes == 0))})

    # ------------------------------------------------------------------ referee

    def violations(self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]) -> list[Violation]:
        found = super().violations(instance, actions)
        windows, service = instance["windows"].double().tolist(), instance["service"].double().tolist()
        ways = geometry.distances(instance).tolist()
        for row, rollouts in enumerate(as_int64(actions).tolist()):
            for rollout, steps in enumerate(rollouts):
                inside = [node for node in steps if 0 <= node < len(service[row])]
                for number, route in enumerate(moves.routes_of(inside), 1):
                    if reason := _late(route, windows[row], service[row], ways[row]):
                        found.append(Violation(row, rollout, f"route {number}: {reason}"))
        return sorted(found)

    def broken_solutions(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"]
    ) -> dict[str, Tensor]:
        """Return those of `CVRP`, and one in which the customer whose window closes first comes after the last one."""
        kinds = super().broken_solutions(instance, actions)
        opens, closes = instance["windows"][-1, 1:].unbind(-1)
        last, first = int(opens.argmax()) + 1, int(closes.argmin()) + 1
        if opens.max() > closes.min():
            others = [node for node in range(1, len(opens) + 1) if node not in (first, last)]
            plan = [last, first, *(step for node in others for step in (0, node))]
            late = torch.zeros_like(actions[-1, -1])
            late[: len(plan)] = torch.tensor(plan, device=actions.device)
            kinds["a customer too late"] = actions.clone()
            kinds["a customer too late"][-1, -1] = late
        return kinds

    # ------------------------------------------------------------------ features

    @property
    def feature_dims(self) -> FeatureDims:
        return FeatureDims(node=7, kinds=2, edge=2, roles=1, scalars=3)

    def instance_features(self, instance: TensorDict) -> InstanceFeatures:
        """Return what `CVRP` shows, and of each node when its window opens and closes, and its service.

        Times are in units of the horizon, from the depot's first moment to its last.
        """
        nodes: Any
        nodes, edges = super().instance_features(instance)
        times = torch.cat([instance["windows"], instance["service"].unsqueeze(-1)], dim=-1)
        begin, end = instance["windows"][:, :1, :1], instance["windows"][:, :1, 1:]
        shift = torch.tensor([1.0, 1.0, 0.0], device=times.device, dtype=times.dtype)
        shares = ((times - begin * shift) / (end - begin)).float()
        return NodeFeatures(torch.cat([nodes.values, shares], dim=-1), nodes.kinds), edges

    def step_features(self, state: Any) -> StepFeatures:
        """Return what `CVRP` shows, and the time, by the horizon."""
        nodes, mask, scalars, *_ = super().step_features(state)
        begin, end = state.instance["windows"][:, :1].double().unbind(-1)
        share = ((state.time - begin) / (end - begin)).float().unsqueeze(-1)
        return StepFeatures(nodes, mask, share if scalars is None else torch.cat([scalars, share], dim=-1))

    def walk(self, instance: TensorDict) -> None:
        """Return that kernels know of no time."""

    def model(self, instance: TensorDict) -> Routes:
        windows, service = instance["windows"].double(), instance["service"].double()
        plain = CVRP.model(self, instance)
        return Routes(plain.distances, plain.demand, plain.capacity, windows, service, labels=plain.labels)


def _late(route: list[int], windows: list[list[float]], service: list[float], ways: list[list[float]]) -> str | None:
    """Say where a route comes too late, or None."""
    (time, last), at = windows[0], 0
    slack = LATE * abs(last)
    for node in route:
        time += ways[at][node]
        if time > windows[node][1] + slack:
            return f"customer {node} is reached at {time:.15g}, after {windows[node][1]:.15g}"
        time, at = max(time, windows[node][0]) + service[node], node
    home = time + ways[at][0]
    return f"it is back at {home:.15g}, after {last:.15g}" if home > last + slack else None
