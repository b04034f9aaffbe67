"""From raw features to vectors; the layer is chosen by the feature's type, never by the problem."""

from __future__ import annotations

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ncogym.errors import UnsupportedFeatures
from ncogym.features import EdgeFeatures, FeatureDims, NodeFeatures, SparseEdges


class NodeEmbedding(nn.Module):
    """A linear layer per kind of node (Kool et al. embed the depot apart from the customers).

    Shapes:
        `NodeFeatures` with values ``[batch, nodes, features]`` to ``[batch, nodes, dim]``.
    """

    def __init__(self, dims: FeatureDims, dim: int) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(nn.Linear(dims.node, dim) for _ in range(dims.kinds))

    def forward(self, nodes: NodeFeatures) -> Float[Tensor, "batch nodes dim"]:
        if nodes.kinds is None:
            embedded: Tensor = self.kinds[0](nodes.values)
            return embedded
        each = torch.stack([layer(nodes.values) for layer in self.kinds])
        which = nn.functional.one_hot(nodes.kinds, len(self.kinds)).to(each.dtype)
        return torch.einsum("kbnd,bnk->bnd" if which.ndim == 3 else "kbnd,nk->bnd", each, which)


class EdgeBias(nn.Module):
    """What the move from a node to each candidate adds to the candidate's logit, one table per role.

    A small network reads the numbers of each edge. The table is computed once per instance; a step only picks rows.

    Shapes:
        ``[batch, nodes, nodes, features]`` to ``[batch, roles, nodes, nodes]``.

    References:
        Huang et al. (2025), Rethinking Light Decoder-based Solvers for Vehicle Routing Problems (ReLD): distance in the
        logits, there as a fixed ``-log(dist)``.
    """

    def __init__(self, dims: FeatureDims, hidden: int = 16) -> None:
        super().__init__()
        last = nn.Linear(hidden, dims.roles)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(nn.Linear(dims.edge, hidden), nn.SiLU(), last)

    def forward(self, edges: Float[Tensor, "batch nodes nodes features"]) -> Float[Tensor, "batch roles nodes nodes"]:
        return self.table(self.hidden(edges))

    def hidden(self, edges: Float[Tensor, "batch nodes nodes features"]) -> Float[Tensor, "batch nodes nodes hidden"]:
        """Return what the last layer reads of each edge: the part that members of a population share."""
        read: Tensor = self.network[1](self.network[0](edges))
        return read

    def table(self, hidden: Float[Tensor, "batch nodes nodes hidden"]) -> Float[Tensor, "batch roles nodes nodes"]:
        """Return the table from what `hidden` returned."""
        biased: Tensor = self.network[2](hidden)
        return biased.permute(0, 3, 1, 2)


class CandidateBias(nn.Module):
    """What the numbers of a candidate action at a step add to its logit: a small network, zero at first.

    Shapes:
        ``[batch, queries, actions, numbers]`` to ``[batch, queries, actions]``, float32.
    """

    HIDDEN = 32

    def __init__(self, dims: FeatureDims) -> None:
        super().__init__()
        last = nn.Linear(self.HIDDEN, 1, bias=False)
        nn.init.zeros_(last.weight)
        self.network = nn.Sequential(nn.Linear(dims.candidates, self.HIDDEN), nn.SiLU(), last)

    def forward(
        self, candidates: Float[Tensor, "batch queries actions numbers"]
    ) -> Float[Tensor, "batch queries actions"]:
        biased: Tensor = self.network(candidates)
        return biased.squeeze(-1).float()


@functools.singledispatch
def embed(feature: object, policy: Any) -> Tensor | None:
    """Embed a feature with the layer that ``policy`` keeps for its type; a new type registers its own function here.

    Raises:
        UnsupportedFeatures: no layer is known for the type.
    """
    known = ", ".join(kind.__name__ for kind in embed.registry if kind is not object)
    raise UnsupportedFeatures(f"{type(policy).__name__} cannot read {type(feature).__name__}; it reads {known}")


@embed.register
def _(feature: NodeFeatures, policy: Any) -> Tensor | None:
    embedded: Tensor = policy.embed(feature)
    return embedded


@embed.register
def _(feature: EdgeFeatures, policy: Any) -> Tensor | None:
    return None if policy.edge_bias is None else policy.edge_bias.hidden(feature.values)


@embed.register
def _(feature: SparseEdges, policy: Any) -> Tensor | None:  # noqa: ARG001 - an encoder of graphs reads them as they are
    return None
