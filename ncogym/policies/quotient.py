"""The quotient policy: at every step the network reads anew what is left of the instance, and nothing else.

States that leave the same to be decided look the same to it, whatever came before (a bisimulation quotient): a TSP of
which half is visited is a smaller problem, the shortest path through the other nodes from the current one back to the
first. So it has no encoder to speak of, all of its layers read each state, and its price grows with the square of the
nodes at every step.

References:
    Drakulic, Michel, Mai, Sors, Andreoli (2023), BQ-NCO: Bisimulation Quotienting for Efficient Neural Combinatorial
    Optimization, NeurIPS.

Differs from the paper in:
    - normalisation by root mean squares before each block, in place of ReZero;
    - what is left is marked by a mask in place of being cut out, so that states of all steps are one batch; the numbers
      are the same, and nodes that are decided cost time;
    - each node sees the numbers of its edges with the nodes that play a role, where an environment shows edges.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.features import EdgeFeatures, FeatureDims, InstanceFeatures, NodeFeatures, StepFeatures
from ncogym.policies.base import Policy
from ncogym.policies.embeddings import NodeEmbedding
from ncogym.policies.layers import TransformerLayer, closed, make_norm


class Encoded(NamedTuple):
    """An instance as each step reads it.

    Attributes:
        nodes: ``[batch, nodes, dim]``, a linear map of their numbers.
        edges: ``[batch, nodes, nodes, features]``, as they are, or None.
    """

    nodes: Tensor
    edges: Tensor | None


class QuotientPolicy(Policy):
    """Reads the nodes that are left, and those that play a role, anew at each step.

    Args:
        dims: widths of the environment's features.
        dim: embedding width.
        num_layers: layers, at least 1.
        num_heads: heads; divides ``dim``.
        feedforward: hidden width of the layers' feed-forward networks.

    Raises:
        ArgumentError: an argument is not allowed.
        UnsupportedFeatures: what the environment shows would not be read.
    """

    def __init__(
        self, dims: FeatureDims, *, dim: int = 64, num_layers: int = 3, num_heads: int = 4, feedforward: int = 256
    ) -> None:
        super().__init__()
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ArgumentError(f"num_heads: {num_heads} is not allowed; it must divide dim, which is {dim}")
        for name, value in (("num_layers", num_layers), ("feedforward", feedforward)):
            if value < 1:
                raise ArgumentError(f"{name}: {value} is not allowed; it must be at least 1")
        if dims.node < 1:
            raise UnsupportedFeatures("QuotientPolicy cannot read an environment without NodeFeatures")
        for unread, what in ((dims.operation, "OperationGraph"), (dims.sparse, "SparseEdges")):
            if unread:
                raise UnsupportedFeatures(f"QuotientPolicy cannot read {what}; it reads NodeFeatures, EdgeFeatures")
        if dims.edge and not dims.roles:
            raise UnsupportedFeatures("QuotientPolicy cannot read EdgeFeatures where no node plays a role at a step")
        self.dims, self.num_heads, self.width = dims, num_heads, dim
        self._arguments = {
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "feedforward": feedforward,
        }
        self.numbers_per_node, self.numbers_per_pair = 2 * dim, 2 * dims.edge
        self.numbers_per_action = num_layers * (8 * dim + 2 * feedforward)
        self.embed = NodeEmbedding(dims, dim)
        self.roles = nn.Parameter(torch.randn(dims.roles, dim) / math.sqrt(dim))
        self.moves = nn.ModuleList(nn.Linear(dims.edge, dim, bias=False) for _ in range(dims.roles if dims.edge else 0))
        self.scalars = nn.Linear(dims.scalars, dim, bias=False) if dims.scalars else None
        self.candidates = nn.Linear(dims.candidates, dim, bias=False) if dims.candidates else None
        self.layers = nn.ModuleList(
            TransformerLayer(dim, num_heads, feedforward, "rms", pre_norm=True) for _ in range(num_layers)
        )
        self.norm = make_norm("rms", dim)
        self.score = nn.Linear(dim, 1, bias=False)

    def arguments(self) -> dict[str, Any]:
        return dict(self._arguments)

    def query_numbers(self, actions: int) -> int:
        return self.numbers_per_action * actions + 2 * self.num_heads * actions**2

    def encode(self, features: InstanceFeatures) -> Encoded:
        nodes = next((each for each in features if isinstance(each, NodeFeatures)), None)
        if nodes is None:
            raise UnsupportedFeatures("QuotientPolicy cannot read an environment without NodeFeatures")
        if nodes.present is not None:
            raise UnsupportedFeatures("QuotientPolicy cannot read nodes that are not there; GraphPolicy can")
        edges = next((each.values for each in features if isinstance(each, EdgeFeatures)), None)
        return Encoded(self.embed(nodes), edges if self.moves else None)

    def logits(self, encoded: Encoded, step: StepFeatures) -> Float[Tensor, "batch queries actions"]:
        if step.candidate_nodes is not None:
            raise UnsupportedFeatures("QuotientPolicy cannot read candidate_nodes; to it action i is node i")
        scores: Tensor = self.score(self._read(encoded, step)).squeeze(-1)
        return scores.float().masked_fill(~step.action_mask, -math.inf)

    def summary(self, encoded: Encoded) -> Float[Tensor, "batch width"]:
        return encoded.nodes.amax(1)

    def reading(self, encoded: Encoded, step: StepFeatures) -> Float[Tensor, "batch queries width"]:
        """Return the largest of each number over the nodes that are allowed."""
        return self._read(encoded, step).masked_fill(~step.action_mask.unsqueeze(-1), -math.inf).amax(2)

    def _read(self, encoded: Encoded, step: StepFeatures) -> Float[Tensor, "batch queries nodes dim"]:
        """Let the nodes that are left, and those that play a role, learn of each other."""
        batch, queries, nodes = step.action_mask.shape
        x = encoded.nodes.unsqueeze(1).expand(-1, queries, -1, -1)
        left = step.action_mask
        rows = torch.arange(batch, device=left.device).unsqueeze(-1)
        for role in range(self.dims.roles):
            node = step.nodes[..., role]
            known, at = node >= 0, node.clamp_min(0)
            plays = nn.functional.one_hot(at, nodes).bool() & known.unsqueeze(-1)
            left = left | plays
            x = x + plays.unsqueeze(-1).to(x.dtype) * self.roles[role]
            if encoded.edges is not None:
                ways = encoded.edges[rows, at] * known[..., None, None]
                x = x + self.moves[role](ways)
        if self.scalars is not None:
            x = x + self.scalars(_shown("scalars", step.scalars)).unsqueeze(2)
        if self.candidates is not None:
            x = x + self.candidates(_shown("candidates", step.candidates))
        x, shut = x.flatten(0, 1), closed(left).flatten(0, 1)[:, None, None]
        for layer in self.layers:
            x = layer(x, mask=shut)
        read: Tensor = self.norm(x)
        return read.unflatten(0, (batch, queries))


def _shown(name: str, value: Tensor | None) -> Tensor:
    if value is None:
        raise UnsupportedFeatures(f"QuotientPolicy was built for {name} and this step shows none")
    return value
