"""The travelling salesman problem: visit every node once and return to the first, on the shortest closed tour.

An action is the node visited next; the first action chooses the start, and the way home is implied. Objective: tour
length, to be minimised, in the instance's own units and with its own rounding where a file defines one.

Instance distributions, ``[0, 1]^2``: uniform (Kool et al. 2019); clustered, a Gaussian mixture of 2 to 8 modes, and
explosion, a uniform cloud with a hole blown into it (both after Bossek et al., Evolving Diverse TSP Instances, FOGA
2019, in the form used by Zhou et al., Omni-Generalizable Neural Methods for VRPs, ICML 2023); mixed, half of the rows
uniform and a quarter of each other kind.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.envs.base import ConstructiveEnv
from ncogym.errors import ArgumentError, InstanceError
from ncogym.features import EdgeFeatures, FeatureDims, InstanceFeatures, NodeFeatures, StepFeatures
from ncogym.solver import Violation

Distribution = Literal["uniform", "clustered", "explosion", "mixed"]


class TSPState(NamedTuple):
    """State of each rollout; see `TSPEnv`."""

    instance: TensorDict
    first: Tensor
    current: Tensor
    num_left: Tensor
    action_mask: Tensor
    done: Tensor


class TSPEnv(ConstructiveEnv):
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

    Args:
        num_nodes: nodes per generated instance, at least 3.
        distribution: of the generated coordinates.
        batch_size: of TorchRL's ``reset()``.
        device: of TorchRL's ``reset()``.
    """

    name = "tsp"
    sense = "min"
    suffixes = (".tsp",)
    _state_type = TSPState
    _instance_keys = ("locs", "dists")

    def __init__(
        self,
        num_nodes: int = 50,
        distribution: Distribution = "uniform",
        *,
        batch_size: tuple[int, ...] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        if isinstance(num_nodes, bool) or not isinstance(num_nodes, int) or num_nodes < 3:
            raise ArgumentError(f"num_nodes: {num_nodes} is not allowed; it must be a whole number of at least 3")
        if distribution not in get_args(Distribution):
            allowed = ", ".join(get_args(Distribution))
            raise ArgumentError(f"distribution: {distribution!r} is not allowed; it must be one of {allowed}")
        self.num_nodes, self.distribution = num_nodes, distribution
        super().__init__(batch_size=batch_size, device=device)

    def arguments(self) -> dict[str, Any]:
        return {"num_nodes": self.num_nodes, "distribution": self.distribution}

    @property
    def size(self) -> int:
        return self.num_nodes

    def resized(self, size: int) -> TSPEnv:
        return TSPEnv(size, self.distribution)

    def instance_size(self, instance: TensorDict) -> int:
        return self._like(instance).shape[1]

    # ------------------------------------------------------------------ instances

    def generate(self, batch_size: int, rng: torch.Generator, device: torch.device | str | None = None) -> TensorDict:
        n, at = self.num_nodes, rng.device
        locs = torch.rand(batch_size, n, 2, generator=rng, device=at)
        if self.distribution == "clustered":
            locs = _clustered(batch_size, n, rng)
        elif self.distribution == "explosion":
            locs = _explosion(locs, rng)
        elif self.distribution == "mixed":
            kind = torch.rand(batch_size, 1, 1, generator=rng, device=at)
            exploded, clustered = _explosion(locs, rng), _clustered(batch_size, n, rng)
            locs = torch.where(kind < 0.5, locs, torch.where(kind < 0.75, exploded, clustered))
        return TensorDict({"locs": locs}, batch_size=[batch_size]).to(device or at)

    def seeded(self, count: int, seed: int) -> TensorDict:
        """Return the field's test instances: uniform sets are those of Kool et al., drawn by numpy's legacy generator.

        ``numpy.random.seed(seed)``, then ``uniform(size=(10000, nodes, 2))`` (1,000 for seed 1235, as in SGBS and
        Poppy), of which the first ``count`` are taken, in float64. Other distributions come from `generate`.

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

    def read(self, path: str | Path) -> TensorDict:
        from ncogym.envs.formats.tsplib import read_tsplib

        problem = read_tsplib(path)
        if problem.type != "TSP":
            raise InstanceError(f"{Path(path).name}: TYPE {problem.type} is not allowed; this problem reads TSP")
        dists = torch.from_numpy(problem.dists)
        if problem.coords is None:
            locs = _scaled_coordinates(dists[None])[0]
        elif problem.edge_weight_type == "GEO":
            whole = torch.from_numpy(problem.coords).trunc()  # DDD.MM: the decimals are minutes
            latitude, longitude = (whole + (torch.from_numpy(problem.coords) - whole) * 5 / 3).unbind(-1)
            locs = torch.stack([longitude * torch.cos(torch.deg2rad(latitude.mean())), latitude], dim=-1)
        else:
            locs = torch.from_numpy(problem.coords)
        return TensorDict({"locs": locs.float()[None], "dists": dists[None]}, batch_size=[1])

    def published_objective(self, path: str | Path, instance: TensorDict) -> float | None:
        from ncogym.envs.formats.tsplib import read_tour

        beside = Path(path).with_suffix(".opt.tour")
        if not beside.is_file():
            return None
        tour = torch.from_numpy(read_tour(beside))[None, None]
        broken = self.violations(instance, tour)
        if broken:
            raise InstanceError(f"{beside.name}: {broken[0].reason}")
        return float(self.objective(instance, tour))

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

        target = Path(path).with_suffix(".tour")
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
        step = self._length(state.instance, state.current.clamp_min(0), action)
        home = self._length(state.instance, action, successor.first)
        arrived = successor.done & ~state.done
        return -(torch.where(state.current < 0, 0.0, step) + torch.where(arrived, home, 0.0)).float()

    def horizon(self, instance: TensorDict) -> int:
        return self._like(instance).shape[1]

    # ------------------------------------------------------------------ referee

    def objective(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"]
    ) -> Float64[Tensor, "batch rollouts"]:
        return self._length(instance, actions, actions.roll(-1, dims=-1)).sum(-1)

    def violations(self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"]) -> list[Violation]:
        n = self.horizon(instance)
        found = []
        for row, rollouts in enumerate(actions.tolist()):
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
        """Return coordinates in the unit box and distances, free of the instance's shift and scale.

        The box is that of the coordinates, centred on 0 with the longer side 1. Edges hold the distance in that unit,
        and the logarithm of the distance in units of the mean spacing ``1 / sqrt(nodes)``.
        """
        locs = self._coordinates(instance).float()
        low, high = locs.amin(1, keepdim=True), locs.amax(1, keepdim=True)
        extent = (high - low).amax(-1, keepdim=True).clamp_min(torch.finfo(locs.dtype).tiny)
        locs = (locs - (low + high) / 2) / extent
        dists = torch.cdist(locs, locs, compute_mode="donot_use_mm_for_euclid_dist")
        if "dists" in instance.keys():
            own = instance["dists"]
            scale = dists.mean((1, 2), dtype=own.dtype) / own.mean((1, 2)).clamp_min(torch.finfo(own.dtype).tiny)
            dists = (own * scale[:, None, None]).to(locs.dtype)
        spacing = dists * math.sqrt(locs.shape[1])
        return NodeFeatures(locs), EdgeFeatures(torch.stack([dists, torch.log(spacing + 0.05)], dim=-1))

    def step_features(self, state: TSPState) -> StepFeatures:
        return StepFeatures(torch.stack([state.first, state.current], dim=-1), state.action_mask)

    # ------------------------------------------------------------------ multi-start, symmetries, views, picture

    def first_actions(self, instance: TensorDict, rng: torch.Generator | None = None) -> Int64[Tensor, "batch starts"]:
        like = self._like(instance)
        if rng is None:
            return torch.arange(like.shape[1], device=like.device).expand(like.shape[0], -1)
        order = torch.rand(like.shape[:2], generator=rng, device=rng.device)
        return order.argsort(-1).to(like.device)

    def equivalent_actions(
        self, actions: Int64[Tensor, "batch steps"], count: int, rng: torch.Generator
    ) -> Int64[Tensor, "batch {count} steps"]:
        """Draw the tour's rotations to random starts, each in a random direction."""
        batch, nodes = actions.shape
        at = rng.device
        offset = torch.randint(nodes, (batch, count, 1), generator=rng, device=at)
        direction = torch.randint(2, (batch, count, 1), generator=rng, device=at) * 2 - 1
        steps = torch.arange(nodes, device=at)
        place = ((offset + direction * steps) % nodes).to(actions.device)
        return actions.unsqueeze(1).expand(-1, count, -1).gather(-1, place)

    def symmetries(self, instance: TensorDict, count: int = 8, rng: torch.Generator | None = None) -> list[TensorDict]:
        """Return images under the dihedral group of the square, then under random rotations and reflections.

        Args:
            instance: batch size ``[batch]``.
            count: images wanted; those after the first 8 are random and need ``rng``.
            rng: source of the random images.
        """
        locs = self._coordinates(instance)
        centred = locs - (locs.amin(1, keepdim=True) + locs.amax(1, keepdim=True)) / 2
        x, y = centred.unbind(-1)
        pairs = [(x, y), (y, x), (x, -y), (y, -x), (-x, y), (-y, x), (-x, -y), (-y, -x)]
        images = [torch.stack(pair, dim=-1) for pair in pairs[:count]]
        for _ in range(count - 8):
            if rng is None:
                raise ArgumentError(f"count: {count} images need a generator; without one at most 8 are allowed")
            turn, side = torch.rand(2, locs.shape[0], 1, generator=rng, device=rng.device).to(locs)
            cos, sin = torch.cos(turn * 2 * math.pi), torch.sin(turn * 2 * math.pi)
            flip = torch.where(side < 0.5, -1.0, 1.0)
            images.append(torch.stack([(x * cos - y * sin) * flip, x * sin + y * cos], dim=-1))
        return [instance.clone(recurse=False).update({"locs": image}) for image in images]

    def distances(self, instance: TensorDict) -> Float64[Tensor, "batch nodes nodes"]:
        """Return the distances that the objective adds up, float64 ``[batch, nodes, nodes]``."""
        if "dists" in instance.keys():
            return instance["dists"].double()
        locs = instance["locs"].double()
        return torch.cdist(locs, locs, compute_mode="donot_use_mm_for_euclid_dist")

    def render(self, instance: TensorDict, actions: Tensor, path: str | Path, title: str = "") -> None:
        from ncogym.plotting import draw_tour

        draw_tour(self._coordinates(instance)[0].numpy(), actions.numpy(), path, title)

    # ------------------------------------------------------------------ helpers

    @staticmethod
    def _like(instance: TensorDict) -> Tensor:
        """Return a tensor whose first two axes are batch and nodes."""
        return instance["locs"] if "locs" in instance.keys() else instance["dists"]

    @staticmethod
    def _coordinates(instance: TensorDict) -> Tensor:
        if "locs" in instance.keys():
            return instance["locs"]
        return _scaled_coordinates(instance["dists"]).float()

    def _length(self, instance: TensorDict, origin: Tensor, target: Tensor) -> Tensor:
        """Return float64 lengths of the moves ``origin -> target``, int64 ``[batch, ...]``."""
        flat = (origin.flatten(1), target.flatten(1))
        if "dists" in instance.keys():
            dists = instance["dists"]
            lengths = dists.flatten(1).gather(1, flat[0] * dists.shape[-1] + flat[1]).double()
        else:
            locs = instance["locs"]
            ends = [locs.gather(1, node[..., None].expand(-1, -1, 2)).double() for node in flat]
            lengths = (ends[0] - ends[1]).square().sum(-1).sqrt()
        return lengths.reshape(origin.shape)


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


def _scaled_coordinates(dists: Float[Tensor, "batch nodes nodes"]) -> Float[Tensor, "batch nodes 2"]:
    """Place nodes in the plane so that their distances resemble ``dists`` (classical multidimensional scaling).

    Only policies and pictures use the places; the objective stays with ``dists``.

    Args:
        dists: float64 ``[batch, nodes, nodes]``.

    Returns:
        float64 ``[batch, nodes, 2]``.

    References:
        Torgerson (1952), Multidimensional scaling: I. Theory and method, Psychometrika 17.
    """
    squared = dists.square()
    gram = -0.5 * (
        squared - squared.mean(1, keepdim=True) - squared.mean(2, keepdim=True) + squared.mean((1, 2), keepdim=True)
    )
    values, vectors = torch.linalg.eigh(gram)
    return vectors[..., -2:].flip(-1) * values[..., -2:].flip(-1).clamp_min(0).sqrt().unsqueeze(1)


def _to_unit_box(locs: Float[Tensor, "batch nodes 2"]) -> Float[Tensor, "batch nodes 2"]:
    low, high = locs.amin(1, keepdim=True), locs.amax(1, keepdim=True)
    return (locs - low) / (high - low).amax(-1, keepdim=True)


def _clustered(batch: int, nodes: int, rng: torch.Generator) -> Float[Tensor, "{batch} {nodes} 2"]:
    at = rng.device
    num_modes = torch.randint(2, 9, (batch, 1), generator=rng, device=at)
    centres = torch.rand(batch, 8, 2, generator=rng, device=at)
    spread = 0.02 + 0.08 * torch.rand(batch, 8, 1, generator=rng, device=at)
    mode = (torch.rand(batch, nodes, generator=rng, device=at) * num_modes).long().unsqueeze(-1)
    noise = torch.randn(batch, nodes, 2, generator=rng, device=at)
    return _to_unit_box(centres.gather(1, mode.expand(-1, -1, 2)) + noise * spread.gather(1, mode))


def _explosion(locs: Float[Tensor, "batch nodes 2"], rng: torch.Generator) -> Float[Tensor, "batch nodes 2"]:
    batch, at = locs.shape[0], locs.device
    centre = torch.rand(batch, 1, 2, generator=rng, device=at)
    radius = 0.1 + 0.3 * torch.rand(batch, 1, 1, generator=rng, device=at)
    offset = locs - centre
    away = offset.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    thrown = -torch.log1p(-torch.rand(*locs.shape[:2], 1, generator=rng, device=at)) / 10.0
    return _to_unit_box(torch.where(away < radius, centre + offset / away * (radius + thrown), locs))
