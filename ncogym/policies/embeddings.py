"""From raw features to vectors; the layer is chosen by the feature's type, never by the problem."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ncogym.features import FeatureDims, InstanceFeatures, NodeFeatures
from ncogym.errors import UnsupportedFeatures


class NodeEmbedding(nn.Module):
    """A linear layer per kind of node (Kool et al. embed the depot apart from the customers).

    Shapes:
        `NodeFeatures` with values ``[batch, nodes, features]`` to ``[batch, nodes, dim]``.
    """

    def __init__(self, dims: FeatureDims, dim: int) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(nn.Linear(dims.node, dim) for _ in range(dims.kinds))

    def forward(self, nodes: NodeFeatures) -> Tensor:
        if nodes.kinds is None:
            embedded: Tensor = self.kinds[0](nodes.values)
            return embedded
        each = torch.stack([layer(nodes.values) for layer in self.kinds])
        return torch.einsum("kbnd,nk->bnd", each, nn.functional.one_hot(nodes.kinds, len(self.kinds)).to(each.dtype))


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
        self.network = nn.Sequential(nn.Linear(dims.edge, hidden), nn.SiLU(), nn.Linear(hidden, dims.roles))
        nn.init.zeros_(self.network[2].weight)
        nn.init.zeros_(self.network[2].bias)

    def forward(self, edges: Tensor) -> Tensor:
        biased: Tensor = self.network(edges)
        return biased.permute(0, 3, 1, 2)


def pick(features: InstanceFeatures, kind: type, reader: nn.Module) -> tuple | None:
    """Return the feature of type ``kind``, or None."""
    return next((feature for feature in features if isinstance(feature, kind)), None)


def refuse_unknown(features: InstanceFeatures, known: tuple[type, ...], policy: nn.Module) -> None:
    """Raise `UnsupportedFeatures` for a feature that ``policy`` has no layer for."""
    for feature in features:
        if not isinstance(feature, known):
            read = ", ".join(kind.__name__ for kind in known)
            raise UnsupportedFeatures(
                f"{type(policy).__name__} cannot read {type(feature).__name__}; it reads {read}"
            )
