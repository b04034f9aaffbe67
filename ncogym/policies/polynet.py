r"""A policy that a binary vector changes by one residual layer: a population within one decoder.

.. math:: g' = g + W_2\, \mathrm{relu}(W_1 [g, v] + b_1) + b_2, \quad v \in \{0, 1\}^{\lceil \log_2 K \rceil}

g is the glimpse, and W_2 and b_2 begin at zero, so that at first every vector acts like the base does.

References:
    Hottung, Mahajan, Tierney (2025), PolyNet: Learning Diverse Solution Strategies for Neural Combinatorial
    Optimization, ICLR.

Differs from the paper in:
    - the glimpse's output projection lies in the pointer's keys, and the layer comes before it, as in EAS here;
    - any policy with room for the layer may be the base: in the graph policy it comes before the score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from ncogym.errors import ArgumentError
from ncogym.features import FeatureDims
from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.base import Policy
from ncogym.policies.population import Conditioned, repeated

MAX_VECTORS = 1 << 16


class PolyNet(Conditioned):
    """A policy whose condition is the index of a binary vector, its digits.

    Args:
        dims: widths of the environment's features.
        vectors: K (128 in the paper).
        hidden: width of the layer (256 in the paper).
        base: makes the policy that the layer is put into.
    """

    indices: Tensor

    def __init__(
        self,
        dims: FeatureDims,
        *,
        vectors: int = 128,
        hidden: int = 256,
        base: Callable[[FeatureDims], Policy] = AttentionPolicy,
    ) -> None:
        super().__init__(dims, base)
        for name, value in (("vectors", vectors), ("hidden", hidden)):
            if not 1 <= value <= MAX_VECTORS:
                raise ArgumentError(f"{name}: {value} is not allowed; it must be from 1 to {MAX_VECTORS}")
        if not self.width:
            raise ArgumentError(f"base: {type(self.base).__name__} is not allowed; it must tell its width")
        self.digits = (vectors - 1).bit_length()
        self.expand, self.contract = nn.Linear(self.width + self.digits, hidden), nn.Linear(hidden, self.width)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)
        self.register_buffer("indices", torch.arange(vectors, device="cpu")[None], persistent=False)  # never on meta

    @property
    def everyone(self) -> Tensor:
        return self.indices

    def arguments(self) -> dict[str, Any]:
        return {"vectors": self.indices.shape[1], "hidden": self.expand.out_features, **super().arguments()}

    def under(self, encoded: Any, condition: Tensor) -> Any:
        """Return the base's tables with the layer, whose first bias the vectors change.

        Args:
            encoded: what `encode` returned.
            condition: int64 ``[batch, conditions]`` or ``[1, conditions]``, indices of vectors.
        """
        batch, count = encoded[0].shape[0], condition.shape[1]
        vectors = (condition.unsqueeze(-1) >> torch.arange(self.digits, device=condition.device)) & 1
        of_glimpse, of_vector = self.expand.weight.split([self.width, self.digits], dim=1)
        first = F.linear(vectors.to(of_vector.dtype), of_vector, self.expand.bias)
        return repeated(self.base.tables(encoded), count)._replace(
            inner=of_glimpse.T.expand(batch * count, -1, -1),
            inner_bias=first.expand(batch, -1, -1).flatten(0, 1).unsqueeze(1),
            outer=self.contract.weight.T.expand(batch * count, -1, -1),
            outer_bias=self.contract.bias.expand(batch * count, 1, -1),
        )
