r"""CMA-ES for many instances at once: each row of a batch has searches of its own in one space of numbers.

An instance has one search or several, the components, that begin in different places and take turns. A generation draws
:math:`x_i = m + \sigma y_i`, :math:`y_i = B D z_i`, :math:`z_i \sim N(0, I)`, with :math:`C = B D^2 B^T`. Of the best
:math:`\mu` in order, weighted by :math:`w_i \propto \ln(\mu + \frac12) - \ln i`, it takes the mean step
:math:`y_w = \sum_i w_i y_i` and updates

.. math::
    p_\sigma &\leftarrow (1 - c_\sigma) p_\sigma + \sqrt{c_\sigma (2 - c_\sigma) \mu_w} \; C^{-1/2} y_w \\
    h_\sigma &= \left[ \|p_\sigma\| < (1.4 + \tfrac{2}{n + 1}) \, \chi_n \sqrt{1 - (1 - c_\sigma)^{2t}} \right] \\
    p_c &\leftarrow (1 - c_c) p_c + h_\sigma \sqrt{c_c (2 - c_c) \mu_w} \; y_w \\
    C &\leftarrow (1 - c_1 - c_\mu + (1 - h_\sigma) c_1 c_c (2 - c_c)) C + c_1 p_c p_c^T + c_\mu \sum_i w_i y_i y_i^T \\
    m &\leftarrow m + \sigma y_w, \quad
    \sigma \leftarrow \sigma \exp \left( \tfrac{c_\sigma}{d_\sigma} (\|p_\sigma\| / \chi_n - 1) \right)

with t the number of the update, from 1. :math:`C^{-1/2} y_w` is :math:`B \sum_i w_i z_i`, so that nothing is ever
divided by an eigenvalue or by :math:`\sigma`.

References:
    Hansen (2016), The CMA Evolution Strategy: A Tutorial, arXiv 1604.00772.
    Chalumeau et al. (2023), Combinatorial Optimization with Policy Adaptation using Latent Space Search, NeurIPS:
    several components that take turns, begun at the centroids of a Voronoi tessellation.

Differs from the tutorial in:
    - the worse half has no negative weights;
    - the number of elites is free: it need not be half of a generation.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import one_hot

from ncogym.errors import ArgumentError


class CMAES:
    """Minimise a function of each instance, by generations that are asked for and whose values are told.

    Args:
        means: where the components begin, the same for every instance.
        instances: rows of the batch.
        elites: mu, how many of a generation decide the next.
        sigma: first step size, in the unit of the means.

    Attributes:
        means: float64 ``[instances, components, dim]``.
        sigmas: step sizes, float64 ``[instances, components]``.
        covariances: float64 ``[instances, components, dim, dim]``.
        updates: of each component, the generations that were told.
        turn: the component whose generation is asked for next.

    Raises:
        ArgumentError: an argument's value is outside what is allowed.
    """

    def __init__(self, means: Float[Tensor, "components dim"], instances: int, *, elites: int, sigma: float) -> None:
        for name, value in (("instances", instances), ("elites", elites)):
            if value < 1:
                raise ArgumentError(f"{name}: {value} is not allowed; it must be at least 1")
        if not 0 < sigma < math.inf:
            raise ArgumentError(f"sigma: {sigma} is not allowed; it must be above 0 and finite")
        components, n = means.shape
        self.means = means.double().repeat(instances, 1, 1)
        self.sigmas = self.means.new_full((instances, components), sigma)
        self.covariances = torch.eye(n, dtype=torch.float64, device=means.device).repeat(instances, components, 1, 1)
        self.updates, self.turn = [0] * components, 0
        self._sigma_path, self._path = torch.zeros_like(self.means), torch.zeros_like(self.means)
        self._white = self._steps = self.means[:, :0]
        raw = [math.log(elites + 0.5) - math.log(place) for place in range(1, elites + 1)]
        self._weights = self.means.new_tensor(raw).unsqueeze(-1) / sum(raw)
        # Hansen's constants, by the names that they have in the tutorial
        self._mu_w = mu_w = sum(raw) ** 2 / sum(weight**2 for weight in raw)
        self._c_sigma = (mu_w + 2) / (n + mu_w + 5)
        self._d_sigma = 1 + 2 * max(0.0, math.sqrt((mu_w - 1) / (n + 1)) - 1) + self._c_sigma
        self._c_c = (4 + mu_w / n) / (n + 4 + 2 * mu_w / n)
        self._c_1 = 2 / ((n + 1.3) ** 2 + mu_w)
        self._c_mu = min(1 - self._c_1, 2 * (mu_w - 2 + 1 / mu_w) / ((n + 2) ** 2 + mu_w))
        self._chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))

    def ask(self, count: int, rng: torch.Generator) -> Float64[Tensor, "instances {count} dim"]:
        """Draw a generation of the component whose turn it is; asked again before it was told, it is drawn anew.

        Args:
            count: points of each instance.
            rng: source of the draw.
        """
        mean, k = self.means[:, self.turn], self.turn
        values, vectors = torch.linalg.eigh(self.covariances[:, k])
        shape = (len(mean), count, mean.shape[-1])
        noise = torch.randn(shape, generator=rng, device=rng.device, dtype=torch.float64).to(mean.device)
        self._white = noise @ vectors.mT
        self._steps = (noise * values.clamp_min(0).sqrt().unsqueeze(1)) @ vectors.mT
        return mean.unsqueeze(1) + self.sigmas[:, k, None, None] * self._steps

    def tell(self, fitness: Float[Tensor, "instances count"]) -> None:
        """Update the component that was asked, and pass the turn to the next.

        Args:
            fitness: of the points in the order of `ask`; less is better, and of equal ones the earlier goes first.

        Raises:
            ArgumentError: these are not the values of the points that were asked for, or fewer than the elites.
        """
        elites, k, n = len(self._weights), self.turn, self.means.shape[-1]
        asked = tuple(self._steps.shape[:2])
        if tuple(fitness.shape) != asked or asked[1] < elites:
            allowed = f"that of the points asked for, {asked}, with at least {elites} an instance"
            raise ArgumentError(f"fitness: shape {tuple(fitness.shape)} is not allowed; it must be {allowed}")
        best = fitness.argsort(dim=-1, stable=True)[:, :elites, None].expand(-1, -1, n)
        steps, white = self._steps.gather(1, best), self._white.gather(1, best)
        step, weighted = (self._weights * steps).sum(1), self._weights * steps
        self.updates[k] += 1

        c, gain = self._c_sigma, math.sqrt(self._c_sigma * (2 - self._c_sigma) * self._mu_w)
        sigma_path = (1 - c) * self._sigma_path[:, k] + gain * (self._weights * white).sum(1)
        length = sigma_path.norm(dim=-1, keepdim=True)
        limit = (1.4 + 2 / (n + 1)) * self._chi * math.sqrt(1 - (1 - c) ** (2 * self.updates[k]))
        h_sigma = (length < limit).double()

        fading = self._c_c * (2 - self._c_c)
        path = (1 - self._c_c) * self._path[:, k] + h_sigma * math.sqrt(fading * self._mu_w) * step
        kept = 1 - self._c_1 - self._c_mu + (1 - h_sigma) * self._c_1 * fading
        rank_one = self._c_1 * path.unsqueeze(-1) * path.unsqueeze(-2)
        rank_mu = self._c_mu * weighted.mT @ steps

        self._sigma_path[:, k], self._path[:, k] = sigma_path, path
        self.covariances[:, k] = kept.unsqueeze(-1) * self.covariances[:, k] + rank_one + rank_mu
        self.means[:, k] += self.sigmas[:, k, None] * step
        self.sigmas[:, k] *= torch.exp(c / self._d_sigma * (length.squeeze(-1) / self._chi - 1))
        self._white = self._steps = self.means[:, :0]
        self.turn = (k + 1) % len(self.updates)


def centroids(
    count: int, dim: int, rng: torch.Generator, *, points: int = 10_000, rounds: int = 100
) -> Float64[Tensor, "{count} {dim}"]:
    r"""Return the centroids of a Voronoi tessellation of the box :math:`[-1, 1]^{dim}` that are centres of their cells.

    Args:
        count: cells.
        dim: dimensions of the box.
        rng: source of the points.
        points: uniform ones that stand for the box.
        rounds: of Lloyd's algorithm.

    References:
        Du, Faber, Gunzburger (1999), Centroidal Voronoi Tessellations: Applications and Algorithms, SIAM Review 41.
    """
    places = 2 * torch.rand(points, dim, generator=rng, device=rng.device, dtype=torch.float64) - 1
    centres = places[:count]
    for _ in range(rounds):
        member = one_hot(torch.cdist(places, centres).argmin(-1), count).double()
        size = member.sum(0).unsqueeze(-1)
        centres = torch.where(size > 0, member.mT @ places / size.clamp_min(1), centres)
    return centres
