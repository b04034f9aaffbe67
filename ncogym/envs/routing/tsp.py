"""The travelling salesman problem: visit every node once and return to the first, on the shortest closed tour.

An action is the node visited next; the first action chooses the start, and the way home is implied. Objective: tour
length, to be minimised, in the instance's own units and with its own rounding where a file defines one.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from tensordict import TensorDict
from torch import Tensor

from ncogym.distribution import Distribution
from ncogym.envs.formats.arrays import holds, real, whole
from ncogym.envs.routing import geometry, moves
from ncogym.envs.routing.instances import TSPDistribution
from ncogym.errors import InstanceError
from ncogym.features import EdgeFeatures, FeatureDims, InstanceFeatures, NodeFeatures, StepFeatures, Walk
from ncogym.models import Tour
from ncogym.problem import Arrays, Contents, Neighbourhood, Problem, Violation, as_int64
from ncogym.sketch import Line, Mark, Sketch, sketch_places


class TSPState(NamedTuple):
    """State of each rollout; see `TSP`."""

    instance: TensorDict
    first: Tensor
    current: Tensor
    num_left: Tensor
    action_mask: Tensor
    done: Tensor


class TSP(Problem):
    """Symmetric travelling salesman problem.

    Instance keys:
        locs: float32 ``[nodes, 2]``, coordinates, any unit; the distance is Euclidean unless ``dists`` is there too.
        dists: float64 ``[nodes, nodes]``, optional, symmetric; then it alone defines the objective.

    State keys, each ``[batch, rollouts, ...]``:
        first: int64, the start; -1 before the first action.
        current: int64, the node visited last; -1 before the first action.
        num_left: int64, nodes not visited yet.
        action_mask: bool ``[nodes]``, True = allowed: not visited yet, or, once all are, the last node (padding).
        done: bool, True = every node is visited.
    """

    name = "tsp"
    sense = "min"
    suffixes = (".tsp",)
    published_suffix, solution_suffix = ".opt.tour", ".tour"
    state_type = TSPState
    distribution_type: ClassVar[type[Distribution] | None] = TSPDistribution
    instance_keys: ClassVar[tuple[str, ...]] = ("locs", "dists")
    both_ways: ClassVar[bool] = True  # whether a tour is as long backwards

    def instance_size(self, instance: TensorDict) -> int:
        return self._like(instance).shape[1]

    # ------------------------------------------------------------------ instances

    def read(self, path: str | Path) -> TensorDict:
        from ncogym.envs.formats.tsplib import read_tsplib

        problem = read_tsplib(path)
        if problem.type != "TSP":
            raise InstanceError(f"{Path(path).name}: TYPE {problem.type} is not allowed; this problem reads TSP")
        dists = torch.from_numpy(problem.dists)
        coords = None if problem.coords is None else torch.from_numpy(problem.coords)
        locs = geometry.file_locs(coords, problem.edge_weight_type, dists)
        return TensorDict({"locs": locs[None], "dists": dists[None]}, batch_size=[1])

    def read_solution(self, path: str | Path) -> Int64[Tensor, " steps"]:
        from ncogym.envs.formats.tsplib import read_tour

        return torch.from_numpy(read_tour(path))

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Contents | None:
        """Read ``locs``, or ``coords``, ``[batch, nodes, 2]``, and with them ``ref_length`` and ``ref_tour``."""
        known = {"ref_length": "batch", "ref_tour": "batch nodes"}
        name = next((name for name in ("locs", "coords") if holds(arrays, {name: "batch nodes 2"}, known)), None)
        if name is None:
            return None
        locs = real(arrays, name)
        return Contents(
            TensorDict({"locs": locs}, batch_size=[len(locs)]),
            real(arrays, "ref_length") if "ref_length" in arrays else None,
            whole(arrays, "ref_tour") if "ref_tour" in arrays else None,
        )

    def write(self, instance: TensorDict, path: str | Path) -> None:
        """Write a TSPLIB file: ``dists`` as they are, or else the coordinates in millionths of their unit.

        TSPLIB rounds each Euclidean distance to a whole number, so a tour of the file is 1,000,000 times as long as
        the instance's own, to within half a millionth for each edge.
        """
        from ncogym.envs.formats.tsplib import write_tsplib

        name = Path(path).stem
        if "dists" in instance.keys():
            write_tsplib(path, instance["dists"][0].numpy(), name, "EXPLICIT")
        else:
            scaled = instance["locs"][0].double().numpy() * 1e6
            write_tsplib(path, scaled, name, comment="coordinates in millionths")

    def write_solution(self, instance: TensorDict, actions: Tensor, path: str | Path, name: str) -> Path | None:
        from ncogym.envs.formats.tsplib import write_tour

        target = Path(path).with_suffix(self.solution_suffix)
        length = float(self.objective(instance, actions[None, None]))
        write_tour(target, actions.numpy(), name=name, comment=f"Length {length:.15g}", length=length)
        return target

    # ------------------------------------------------------------------ dynamics

    def start(self, instance: TensorDict, rollouts: int = 1) -> TSPState:
        like = self._like(instance)
        shape = (like.shape[0], rollouts)
        nobody = torch.full(shape, -1, dtype=torch.int64, device=like.device)
        return TSPState(
            instance=instance,
            first=nobody,
            current=nobody.clone(),
            num_left=torch.full_like(nobody, like.shape[1]),
            action_mask=torch.ones(*shape, like.shape[1], dtype=torch.bool, device=like.device),
            done=torch.zeros(shape, dtype=torch.bool, device=like.device),
        )

    def advance(self, state: TSPState, action: Int64[Tensor, "batch rollouts"]) -> TSPState:
        num_left = (state.num_left - 1).clamp_min(0)
        done = num_left == 0
        # the node just visited closes, except that after the last one it is what a finished row may repeat
        mask = state.action_mask.scatter(-1, action.unsqueeze(-1), done.unsqueeze(-1))
        first = torch.where(state.first < 0, action, state.first)
        return TSPState(state.instance, first, action, num_left, mask, done)

    def reward(
        self, state: TSPState, action: Int64[Tensor, "batch rollouts"], successor: TSPState
    ) -> Float32[Tensor, "batch rollouts"]:
        step = geometry.lengths(state.instance, state.current.clamp_min(0), action)
        home = geometry.lengths(state.instance, action, successor.first)
        arrived = successor.done & ~state.done
        return -(torch.where(state.current < 0, 0.0, step) + torch.where(arrived, home, 0.0)).float()

    def horizon(self, instance: TensorDict) -> int:
        return self._like(instance).shape[1]

    # ------------------------------------------------------------------ referee

    def objective(
        self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]
    ) -> Float64[Tensor, "batch rollouts"]:
        actions = as_int64(actions)
        return geometry.lengths(instance, actions, actions.roll(-1, dims=-1)).sum(-1)

    def violations(self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]) -> list[Violation]:
        n = self.horizon(instance)
        found = []
        for row, rollouts in enumerate(as_int64(actions).tolist()):
            for rollout, tour in enumerate(rollouts):
                reason = _broken(tour, n)
                if reason:
                    found.append(Violation(row, rollout, reason))
        return found

    # ------------------------------------------------------------------ features

    @property
    def feature_dims(self) -> FeatureDims:
        return FeatureDims(node=2, edge=2, roles=2)

    def instance_features(self, instance: TensorDict) -> InstanceFeatures:
        """Return coordinates in the unit box and distances; see `geometry.unit_features`."""
        locs, edges = geometry.unit_features(self._coordinates(instance), instance.get("dists", None))
        return NodeFeatures(locs), EdgeFeatures(edges)

    def step_features(self, state: TSPState) -> StepFeatures:
        return StepFeatures(torch.stack([state.first, state.current], dim=-1), state.action_mask)

    def walk(self, instance: TensorDict) -> Walk:
        return Walk(roles=("first", "current"), scalars=(), horizon=self.horizon(instance))

    # ------------------------------------------------------------------ multi-start, symmetries, views, picture

    def first_actions(self, instance: TensorDict, rng: torch.Generator | None = None) -> Int64[Tensor, "batch starts"]:
        like = self._like(instance)
        if rng is None:
            return torch.arange(like.shape[1], device=like.device).expand(like.shape[0], -1)
        order = torch.rand(like.shape[:2], generator=rng, device=rng.device)
        return order.argsort(-1).to(like.device)

    def equivalent_actions(
        self, instance: TensorDict, actions: Int64[Tensor, "batch steps"], count: int, rng: torch.Generator
    ) -> Int64[Tensor, "batch {count} steps"]:
        """Draw the tour's rotations to random starts, each in a random direction."""
        return moves.rotated(actions.unsqueeze(1).expand(-1, count, -1), rng, self.both_ways)

    def neighbourhood(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], free: int, rng: torch.Generator
    ) -> Neighbourhood:
        """Open a stretch of each tour."""
        nodes = self.horizon(instance)
        return self._tail(moves.rotated(actions[..., :nodes], rng, self.both_ways), nodes, free)

    def symmetries(self, instance: TensorDict, count: int = 8, rng: torch.Generator | None = None) -> list[TensorDict]:
        """Return images under the dihedral group of the square, then under random rotations and reflections.

        Args:
            instance: batch size ``[batch]``.
            count: images wanted; those after the first 8 are random and need ``rng``.
            rng: source of the random images.
        """
        return geometry.images(instance, self._coordinates(instance), count, rng)

    def model(self, instance: TensorDict) -> Tour:
        return Tour(geometry.distances_of(instance))

    def sketch(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> Sketch:
        """Return the places, the closed tour and a mark at its start."""
        places = sketch_places(self._coordinates(instance)[0].cpu().numpy())
        tour = [node for node in actions.tolist() if 0 <= node < len(places.points)]
        return places._replace(lines=[Line(tour + tour[:1], 0, "solid")], marks=[Mark(tour[:1], 1, "square")])

    # ------------------------------------------------------------------ helpers

    @staticmethod
    def _like(instance: TensorDict) -> Tensor:
        """Return a tensor whose first two axes are batch and nodes."""
        return instance["locs"] if "locs" in instance.keys() else instance["dists"]

    @staticmethod
    def _coordinates(instance: TensorDict) -> Tensor:
        if "locs" in instance.keys():
            return instance["locs"]
        return geometry.scaled_coordinates(instance["dists"]).float()


def _broken(tour: list[int], num_nodes: int) -> str | None:
    """Say what keeps ``tour`` from visiting every node once, or None; later repeats of the last node are padding."""
    if len(tour) < num_nodes:
        return f"{len(tour)} nodes are visited; all {num_nodes} must be"
    seen: dict[int, int] = {}
    for step, node in enumerate(tour):
        if not 0 <= node < num_nodes:
            return f"step {step} visits node {node}; nodes are 0 to {num_nodes - 1}"
        if step >= num_nodes:
            if node != tour[num_nodes - 1]:
                return f"step {step} moves on to node {node} after the tour's last node {tour[num_nodes - 1]}"
        elif node in seen:
            return f"node {node} is visited at step {seen[node]} and again at step {step}"
        else:
            seen[node] = step
    return None
