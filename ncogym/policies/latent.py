r"""A policy that a vector of few numbers steers: a continuous population, which a search can move through.

.. math:: \pi(a \mid s, z), \quad z \sim U([-1, 1]^{16}), \quad \text{decoder's numbers} \mathrel{+}= W (c\, z)

W begins at zero, so that a latent policy on top of a trained one acts like it for every z.

References:
    Chalumeau, Surana, Bonnet, Grinsztajn, Pretorius, Laterre, Barrett (2023), Combinatorial Optimization with Policy
    Adaptation using Latent Space Search, NeurIPS (COMPASS).

Differs from the paper in:
    - z is added, by W, to the query and to the values of the glimpse (in the graph policy, to the candidates); a shift
      of the glimpse's keys, which the paper has too, would be the same for all nodes and cancel in the softmax;
    - any policy that can be steered may be the base; scalars and encoder stay the base's own, and are trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ncogym.errors import ArgumentError
from ncogym.features import FeatureDims
from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.base import Policy
from ncogym.policies.population import Conditioned, repeated


class Latent(Conditioned):
    """A policy whose condition is a latent, a point of the cube ``[-1, 1]^latent_dim``.

    Args:
        dims: widths of the environment's features.
        latent_dim: numbers of a latent (16 in the paper).
        scale: what a latent is multiplied by before W, in training and search alike: W learns the faster for it.
        base: makes the policy that is steered.

    Raises:
        UnsupportedFeatures: the base cannot be steered.
    """

    def __init__(
        self,
        dims: FeatureDims,
        *,
        latent_dim: int = 16,
        scale: float = 100.0,
        base: Callable[[FeatureDims], Policy] = AttentionPolicy,
    ) -> None:
        super().__init__(dims, base)
        if latent_dim < 1:
            raise ArgumentError(f"latent_dim: {latent_dim} is not allowed; it must be at least 1")
        if not 0 < scale < math.inf:
            raise ArgumentError(f"scale: {scale} is not allowed; it must be above 0")
        if not self.base.steered:
            raise ArgumentError(f"base: {type(self.base).__name__} is not allowed; it must be one that can be steered")
        self.latent_dim, self.scale = latent_dim, scale
        self.direction = nn.Linear(latent_dim, self.base.steered, bias=False)
        nn.init.zeros_(self.direction.weight)

    def arguments(self) -> dict[str, Any]:
        return {"latent_dim": self.latent_dim, "scale": self.scale, **super().arguments()}

    def draw(self, count: int, rng: torch.Generator) -> Float[Tensor, "1 {count} latent"]:
        """Draw latents from the prior, which is uniform over the cube.

        Args:
            count: latents.
            rng: what they are drawn from; they are on its device.
        """
        return torch.rand(1, count, self.latent_dim, generator=rng, device=rng.device) * 2 - 1

    def under(self, encoded: Any, condition: Tensor) -> Any:
        """Return the base's tables, steered by latents.

        Args:
            encoded: what `encode` returned.
            condition: ``[batch, conditions, latent_dim]`` or ``[1, conditions, latent_dim]``.
        """
        latents = condition.to(self.direction.weight.dtype).expand(encoded[0].shape[0], -1, -1)
        vectors = self.direction(self.scale * latents).flatten(0, 1)
        return self.base.steer(repeated(self.base.tables(encoded), condition.shape[1]), vectors)
