"""The asymmetric travelling salesman problem: the shortest closed tour where there and back may differ in length.

An action is the node visited next; the first action chooses the start, and the way home is implied. Objective: tour
length, to be minimised, each leg measured in the direction in which it is travelled.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.envs.formats.arrays import holds, real, refuse
from ncogym.envs.routing import geometry
from ncogym.envs.routing.instances import ATSPDistribution
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import InstanceError
from ncogym.features import EdgeFeatures, FeatureDims, InstanceFeatures, NodeFeatures
from ncogym.problem import Arrays, Contents
from ncogym.sketch import Sketch

UNITS = 1_000_000  # whole numbers that make up a distance of 1
NEAREST = 5  # neighbours whose mean distance is a feature


class ATSP(TSP):
    """Asymmetric travelling salesman problem: `TSP`, with distances alone for an instance.

    Instance keys:
        dists: float32 ``[nodes, nodes]``, ``dists[i, j]`` is the way from i to j, any unit, not negative; float64 from
            files. The diagonal is 0 and never used.

    State keys are those of `TSP`.
    """

    name = "atsp"
    suffixes = (".atsp",)
    distribution_type = ATSPDistribution
    instance_keys = ("dists",)
    both_ways = False

    model = TSP.model  # a matrix, symmetric or not

    # ------------------------------------------------------------------ instances

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
