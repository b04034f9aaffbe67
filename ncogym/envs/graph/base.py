"""What all problems on graphs have in common: their instances, their files, and what of them is shown."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Int64
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from ncogym.distribution import Distribution
from ncogym.envs.graph import graphs, moves
from ncogym.envs.graph.instances import GraphDistribution
from ncogym.features import InstanceFeatures
from ncogym.problem import Arrays, Contents, Neighbourhood, Problem
from ncogym.sketch import Sketch


class GraphProblem(Problem):
    """A problem whose actions are nodes, and the number of nodes, which takes none and ends a solution.

    Instance keys are those of `ncogym.envs.graph.graphs`.

    Attributes:
        any_order: whether the nodes of a solution may be named in any order; else one may be decided before its turn.
    """

    any_order: ClassVar[bool] = True
    multi_start: ClassVar[bool] = False
    distribution_type: ClassVar[type[Distribution] | None] = GraphDistribution
    instance_keys: ClassVar[tuple[str, ...]] = (*graphs.KEYS, *graphs.TABLES)
    padding = graphs.PADDING

    def instance_size(self, instance: TensorDict) -> int:
        return int(instance["degree"].shape[1])

    def read(self, path: str | Path) -> TensorDict:
        from ncogym.envs.formats.graphs import read_graph

        return graphs.graph(*read_graph(path), dtype=torch.float64)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Contents | None:
        """Read the arrays of the instance keys, as ``ncogym generate`` writes them."""
        return graphs.from_arrays(arrays)

    def write(self, instance: TensorDict, path: str | Path) -> None:
        """Write a DIMACS file, with a line for each node of another weight than 1; rudy's where edges have weights."""
        graphs.write(instance, path)

    def horizon(self, instance: TensorDict) -> int:
        return self.instance_size(instance)

    def earliest(self, instance: TensorDict) -> int:
        return 0  # everything may be decided at once

    def padded(self, instance: TensorDict, actions: Tensor, steps: int) -> Tensor:
        """Lengthen finished solutions ``[batch, ..., steps before]`` to ``steps`` by the action that takes none."""
        return F.pad(actions, (0, steps - actions.shape[-1]), value=self.instance_size(instance))

    def plain_actions(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> list[int]:
        """Return the nodes that are named, in ascending order."""
        return sorted({int(node) for node in actions if node < self.instance_size(instance)})

    def instance_features(self, instance: TensorDict) -> InstanceFeatures:
        """Return what `graphs.graph_features` says of nodes and edges."""
        return graphs.graph_features(instance)

    def broken_solutions(self, instance: TensorDict, actions: Tensor) -> dict[str, Tensor | None]:
        """Return broken solutions of each kind for `ncogym.laws`; a node left out is none."""
        return moves.broken_sets(instance, actions)

    def equivalent_actions(
        self, instance: TensorDict, actions: Int64[Tensor, "batch steps"], count: int, rng: torch.Generator
    ) -> Int64[Tensor, "batch {count} steps"]:
        """Draw random orders of the nodes, the action that takes none at the end; copies where the order matters."""
        if not self.any_order:
            return super().equivalent_actions(instance, actions, count, rng)
        return moves.shuffled(actions.unsqueeze(1).expand(-1, count, -1), self.instance_size(instance), rng)

    def neighbourhood(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], free: int, rng: torch.Generator
    ) -> Neighbourhood:
        """Open the nodes taken that are nearest to a random node, and all that then comes.

        Where the order matters, the last ones.
        """
        if not self.any_order:
            return self._tail(actions, int((actions < self.instance_size(instance)).sum(-1).amin()), free)
        order, taken = moves.by_distance(instance, actions, rng)
        return self._tail(order, int(taken.amin()), free)

    def symmetries(self, instance: TensorDict, count: int = 8, rng: torch.Generator | None = None) -> list[TensorDict]:
        """Return the instance alone: other names of the nodes are no image to a policy that sees none."""
        return [instance]

    def sketch(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> Sketch:
        """Return the graph with the nodes that are named marked."""
        return moves.drawn(instance, self.plain_actions(instance, actions))
