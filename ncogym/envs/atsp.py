"""The asymmetric travelling salesman problem: the shortest closed tour where there and back may differ in length.

An action is the node visited next; the first action chooses the start, and the way home is implied. Objective: tour
length, to be minimised, each leg measured in the direction in which it is travelled.

Instance distributions, both closed so that no detour is shorter than the direct way: uniform, the matrix of Kwon et
al., Matrix Encoding Networks for Neural Combinatorial Optimization, NeurIPS 2021 (MatNet): whole numbers from 1 to
1,000,000, closed, in units of 1,000,000; noisy, Euclidean distances of uniform points of ``[0, 1]^2``, each direction
lengthened by a factor of its own from ``U[1, 5]``: about as asymmetric as the road matrices of TSPLIB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float32, Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.envs import geometry
from ncogym.envs.base import pinned
from ncogym.envs.formats.arrays import holds, real, refuse
from ncogym.envs.tsp import TSP
from ncogym.errors import ArgumentError, InstanceError
from ncogym.features import EdgeFeatures, FeatureDims, InstanceFeatures, NodeFeatures
from ncogym.problem import Arrays, Contents, Problem, ReferenceSet
from ncogym.sketch import Sketch

Distribution = Literal["uniform", "noisy"]

UNITS = 1_000_000  # whole numbers that make up a distance of 1
NEAREST = 5  # neighbours whose mean distance is a feature


_SHA256 = """
ebe12fadca3b8937 9ff34031baad086d
"""


class ATSP(TSP):
    """Asymmetric travelling salesman problem: `TSP`, with distances alone for an instance.

    Instance keys:
        dists: float32 ``[nodes, nodes]``, ``dists[i, j]`` is the way from i to j, any unit, not negative; float64 from
            files. The diagonal is 0 and never used.

    State keys are those of `TSP`.

    Args:
        num_nodes: nodes per generated instance, at least 3.
        distribution: of the generated distances.
    """

    name = "atsp"
    suffixes = (".atsp",)
    reference_sets: ClassVar[dict[str, ReferenceSet]] = pinned(
        (
            (f"ncogym-atsp{n}", ReferenceSet({"num_nodes": n}, 1234, 1_000, "", "this library's uniform, seed 1234"))
            for n in (20, 50)
        ),
        _SHA256,
    )
    instance_keys: ClassVar[Any] = ("dists",)

    def __init__(
        self,
        num_nodes: int = 50,
        distribution: Distribution = "uniform",
    ) -> None:
        if distribution not in get_args(Distribution):
            allowed = ", ".join(get_args(Distribution))
            raise ArgumentError(f"distribution: {distribution!r} is not allowed; it must be one of {allowed}")
        super().__init__(num_nodes)
        self.distribution = distribution

    def resized(self, size: int) -> ATSP:
        return ATSP(**{**self.arguments(), "num_nodes": size})

    model = TSP.model  # a matrix, symmetric or not

    # ------------------------------------------------------------------ instances

    def generate(self, batch_size: int, rng: torch.Generator, device: torch.device | str | None = None) -> TensorDict:
        n, at = self.num_nodes, rng.device
        if self.distribution == "uniform":
            dists = torch.randint(1, UNITS + 1, (batch_size, n, n), generator=rng, device=at).float()
        else:
            locs = torch.rand(batch_size, n, 2, generator=rng, device=at)
            flat = torch.cdist(locs, locs, compute_mode="donot_use_mm_for_euclid_dist")
            factor = 1 + 4 * torch.rand(batch_size, n, n, generator=rng, device=at)
            dists = (flat * factor * UNITS).round()
        return TensorDict({"dists": _closed(dists) / UNITS}, batch_size=[batch_size]).to(device or at)

    def seeded(self, count: int, seed: int) -> TensorDict:
        """Return the first ``count`` instances that a seed stands for.

        The field has no test set that a seed defines (MatNet publishes files), so these are the library's own.
        """
        return Problem.seeded(self, count, seed)

    def read(self, path: str | Path) -> TensorDict:
        """Read a TSPLIB file; what it holds on the diagonal, often a huge number, becomes 0."""
        from ncogym.envs.formats.tsplib import read_tsplib

        problem = read_tsplib(path)
        if problem.type != "ATSP":
            raise InstanceError(f"{Path(path).name}: TYPE {problem.type} is not allowed; this problem reads ATSP")
        return TensorDict({"dists": torch.from_numpy(problem.dists)[None]}, batch_size=[1])

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Contents | None:
        """Read ``dists`` ``[batch, nodes, nodes]``."""
        from ncogym.envs.formats.tsplib import matrix_fault

        if not holds(arrays, {"dists": "batch nodes nodes"}, {}):
            return None
        dists = real(arrays, "dists")
        dists.diagonal(dim1=1, dim2=2).zero_()
        refuse(matrix_fault(matrix, "ATSP") for matrix in dists.numpy())
        return Contents(TensorDict({"dists": dists}, batch_size=[len(dists)]))

    def write(self, instance: TensorDict, path: str | Path) -> None:
        """Write a TSPLIB file: float64 distances, those of a file, as they are; float32 ones in whole millionths.

        Generated distances are whole millionths, so a tour of the file is exactly 1,000,000 times as long.
        """
        from ncogym.envs.formats.tsplib import write_tsplib

        dists, name = instance["dists"][0], Path(path).stem
        if dists.dtype == torch.float64:
            write_tsplib(path, dists.numpy(), name, "EXPLICIT", problem_type="ATSP")
        else:
            scaled = (dists.double() * UNITS).round().numpy()
            write_tsplib(path, scaled, name, "EXPLICIT", "distances in millionths", "ATSP")

    # ------------------------------------------------------------------ features

    @property
    def feature_dims(self) -> FeatureDims:
        return FeatureDims(node=8, edge=8, roles=2)

    def instance_features(self, instance: TensorDict) -> InstanceFeatures:
        """Return distances in units of their mean, free of the instance's scale; the diagonal plays no part.

        Nodes hold, first of the ways out and then of the ways in: mean, smallest, standard deviation, and mean of the 5
        shortest. Edges hold the distance there and back, the logarithms of both, what is left of both once each
        row's smallest distance and then each column's is taken away (the reduced matrix of Little et al., 1963), and
        the share of the ways out of i that are shorter, and of the ways into j.
        """
        dists = instance["dists"]
        n = dists.shape[-1]
        diagonal = torch.eye(n, dtype=torch.bool, device=dists.device)
        mean = dists.masked_fill(diagonal, 0).sum((1, 2), keepdim=True) / (n * (n - 1))
        dists = (dists / mean.clamp_min(torch.finfo(dists.dtype).tiny)).float()
        there = dists.masked_fill(diagonal, torch.inf)
        reduced = there - there.amin(2, keepdim=True)
        reduced = reduced - reduced.amin(1, keepdim=True)
        back = there.mT
        edges = [there, back, torch.log(there + 0.05), torch.log(back + 0.05)]
        edges += [reduced, reduced.mT]
        nodes = []
        for ways in (there, back.contiguous()):
            ordered = ways.sort(-1).values
            shorter = torch.searchsorted(ordered, ways) / (n - 1)  # equal ways have the same share
            edges.append(shorter if ways is there else shorter.mT)
            ordered = ordered[..., :-1]  # without the diagonal's infinity
            nodes += [ordered.mean(-1), ordered[..., 0], ordered.std(-1, correction=0), ordered[..., :NEAREST].mean(-1)]
        values = torch.stack(edges, dim=-1).masked_fill(diagonal.unsqueeze(-1), 0)
        return NodeFeatures(torch.stack(nodes, dim=-1)), EdgeFeatures(values)

    # ------------------------------------------------------------------ symmetries, picture

    def _rotated(
        self, tours: Int64[Tensor, "batch rollouts nodes"], rng: torch.Generator
    ) -> Int64[Tensor, "batch rollouts nodes"]:
        """Return each tour from a random start on; its reverse is another solution here."""
        *shape, nodes = tours.shape
        offset = torch.randint(nodes, (*shape, 1), generator=rng, device=rng.device)
        place = (offset + torch.arange(nodes, device=rng.device)) % nodes
        return tours.gather(-1, place.to(tours.device))

    def symmetries(self, instance: TensorDict, count: int = 8, rng: torch.Generator | None = None) -> list[TensorDict]:
        """Return the instance and the one with all distances turned round, whose tours are those read backwards."""
        turned = instance.replace(dists=instance["dists"].mT.contiguous())
        return [instance, turned][:count]

    def imaged(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], number: int
    ) -> Int64[Tensor, "batch rollouts steps"]:
        """Return the tours backwards for the image with all distances turned round."""
        return actions.flip(-1) if number % 2 else actions

    def sketch(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> Sketch:
        """Return the tour with arrows, nodes placed so that their distances resemble the mean of there and back."""
        dists = geometry.distances(instance)
        placed = TensorDict({"locs": geometry.scaled_coordinates((dists + dists.mT) / 2)}, batch_size=[1])
        drawn = super().sketch(placed, actions)
        return drawn._replace(lines=[line._replace(style="arrows") for line in drawn.lines])


def _closed(dists: Float32[Tensor, "batch nodes nodes"]) -> Float32[Tensor, "batch nodes nodes"]:
    """Replace each distance, a whole number, by that of the shortest way (Floyd 1962), and the diagonal by 0.

    It is exact while the sum of two distances is below 2**24.
    """
    diagonal = torch.eye(dists.shape[-1], dtype=torch.bool, device=dists.device)
    dists = dists.masked_fill(diagonal, 0)
    for via in range(dists.shape[-1]):
        dists = torch.minimum(dists, dists[:, :, via, None] + dists[:, None, via, :])
    return dists
