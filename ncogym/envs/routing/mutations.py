"""Mutations of places in the unit square, by which a policy is tested on instances unlike those of its training.

``NAME:POWER``, such as ``implosion:0.7``, is the distribution of uniform instances that the mutation NAME changes once:
each node that the mutation can move is moved with the probability POWER, from 0 (uniform) to 1. Every instance has a
centre, line, box or turn of its own, and a depot is a node like others. What leaves the unit square is moved and scaled
back into it with its whole instance, both axes alike (`geometry.to_unit_box`); other instances keep their scale.

References:
    Bossek, Kerschke, Neumann, Wagner, Neumann, Trautmann (2019), Evolving Diverse TSP Instances by Means of Novel and
    Creative Mutation Operators, FOGA. COMPASS (Chalumeau et al., NeurIPS 2023) and its successors test on them.

Differs from the paper in:
    - it gives explosion, implosion, expansion, compression and grid no probability: the power is then that of the nodes
      within the circle, the tube or the box;
    - a grid has its nodes in the middle of equal cells of the box, and which nodes it takes is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ncogym.distribution import ReferenceSet
from ncogym.envs.routing import geometry
from ncogym.errors import ArgumentError

Mutation = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def checked(distribution: str, others: Sequence[str]) -> str:
    """Return a distribution's name in its one spelling.

    Args:
        distribution: one of ``others``, or ``NAME:POWER`` with a name of `MUTATIONS`.
        others: names of distributions that are no mutations.

    Raises:
        ArgumentError: there is no such distribution.
    """
    name, colon, power = str(distribution).partition(":")
    if not colon and name in others:
        return name
    if not colon or name not in MUTATIONS:
        allowed = f"{', '.join(others)}, or NAME:POWER with {', '.join(MUTATIONS)}"
        raise ArgumentError(f"distribution: {distribution!r} is not allowed; it must be one of {allowed}")
    try:
        value = float(power)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ArgumentError(f"distribution: {distribution!r} is not allowed; its power must be from 0 to 1")
    return f"{name}:{abs(value):.15g}"


def mutated(
    locs: Float[Tensor, "batch nodes 2"], distribution: str, rng: torch.Generator
) -> Float[Tensor, "batch nodes 2"]:
    """Return places after a mutation, in the unit square.

    Args:
        locs: uniform places in the unit square.
        distribution: ``NAME:POWER``.
        rng: source of the mutation.
    """
    name, _, power = distribution.partition(":")
    chosen = _uniform(0, 1, locs.shape[:2], rng) < float(power)
    moved = MUTATIONS[name](locs, chosen, rng)
    is_outside = ((moved < 0) | (moved > 1)).any(-1).any(-1)
    return torch.where(is_outside[:, None, None], geometry.to_unit_box(moved), moved)


def reference_sets(problem: str, size: str) -> Iterator[tuple[str, ReferenceSet]]:
    """Yield the named sets of a problem: every mutation at two powers, for two sizes.

    Args:
        problem: its name, which is part of theirs.
        size: the name of its size argument.
    """
    for n in (20, 50):
        for power in ("0.3", "0.7"):
            for name in MUTATIONS:
                note = "" if name in EXACT else " (to the bit on processors with AVX2)"
                source = f"uniform instances under the mutation {name} of power {power}, seed 1234{note}"
                arguments = {size: n, "distribution": f"{name}:{power}"}
                yield f"ncogym-{problem}-{name}-{power}-{n}", ReferenceSet(arguments, 1234, 1_000, "", source)


# ---------------------------------------------------------------------- round a centre


def explosion(
    locs: Float[Tensor, "batch nodes 2"], chosen: Bool[Tensor, "batch nodes"], rng: torch.Generator
) -> Float[Tensor, "batch nodes 2"]:
    """Throw the chosen nodes within eps ~ U[0.1, 0.4] of a centre out of there, to the distance eps + Exp(10)."""
    centre, radius, offset, away = _circle(locs, 0.4, rng)
    thrown = _thrown(locs, rng).unsqueeze(-1)
    moves = (away < radius) & chosen.unsqueeze(-1)
    return torch.where(moves, centre + offset / away * (radius + thrown), locs)


def _implosion(locs: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
    """Pull the chosen nodes within eps ~ U[0.1, 0.3] of a centre towards it, by the factor min(|N(0, 1)|, eps)."""
    centre, radius, offset, away = _circle(locs, 0.3, rng)
    factor = torch.minimum(_normal(locs[..., :1], rng).abs(), radius)
    return torch.where((away < radius) & chosen.unsqueeze(-1), centre + offset * factor, locs)


def _circle(locs: Tensor, largest: float, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw a circle per instance: its centre and radius, and each node's offset and distance from the centre."""
    batch = len(locs)
    centre, radius = _uniform(0, 1, (batch, 1, 2), rng), _uniform(0.1, largest, (batch, 1, 1), rng)
    offset = locs - centre
    return centre, radius, offset, offset.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def _cluster(locs: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
    """Replace the chosen nodes by a Gaussian round a uniform centre, of sd U[0.001, 0.3], clipped to the square."""
    batch = len(locs)
    centre, spread = _uniform(0, 1, (batch, 1, 2), rng), _uniform(0.001, 0.3, (batch, 1, 1), rng)
    placed = (centre + spread * _normal(locs, rng)).clamp(0, 1)
    return torch.where(chosen.unsqueeze(-1), placed, locs)


def _rotation(locs: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
    """Turn the chosen nodes round the origin by an angle ~ U[0, 360) degrees, then shift them by U[0, 1]^2."""
    batch = len(locs)
    angle, shift = _uniform(0, 2 * math.pi, (batch, 1), rng), _uniform(0, 1, (batch, 1, 2), rng)
    (x, y), cos, sin = locs.unbind(-1), torch.cos(angle), torch.sin(angle)
    turned = torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1) + shift
    return torch.where(chosen.unsqueeze(-1), turned, locs)


# ---------------------------------------------------------------------- on and beside a line


def _axis_projection(locs: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
    """Set one coordinate, the same of all chosen nodes, to a constant ~ U[0, 1]."""
    batch = len(locs)
    axis, level = _uniform(0, 1, (batch, 1, 1), rng) < 0.5, _uniform(0, 1, (batch, 1, 1), rng)
    is_flat = torch.cat([axis, ~axis], dim=-1) & chosen.unsqueeze(-1)
    return torch.where(is_flat, level, locs)


def _linear_projection(locs: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
    """Set the second coordinate of the chosen nodes to what a random line (`_line`) has at their first."""
    intercept, slope = _line(len(locs), rng)
    x, y = locs.unbind(-1)
    return torch.stack([x, torch.where(chosen, intercept + slope * x, y)], dim=-1)


def _expansion(locs: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
    """Throw the chosen nodes within eps ~ U[0.1, 0.3] of a random line away from it, to the distance eps + Exp(10)."""
    away, normal, width = _tube(locs, rng)
    target = torch.where(away < 0, -1.0, 1.0) * (width + _thrown(locs, rng))
    moves = ((away.abs() < width) & chosen).unsqueeze(-1)
    return torch.where(moves, locs + (target - away).unsqueeze(-1) * normal, locs)


def _compression(locs: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
    """Pull the chosen nodes within eps ~ U[0.1, 0.3] of a random line towards it, by the factor min(|N(0, 1)|, 1)."""
    away, normal, width = _tube(locs, rng)
    target = away * _normal(away, rng).abs().clamp_max(1)
    moves = ((away.abs() < width) & chosen).unsqueeze(-1)
    return torch.where(moves, locs + (target - away).unsqueeze(-1) * normal, locs)


def _line(batch: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw an intercept ~ U[0, 1] and a slope ~ U[0, 3], downwards where the intercept is 0.5 or more."""
    intercept, steepness = _uniform(0, 1, (batch, 1), rng), _uniform(0, 3, (batch, 1), rng)
    return intercept, torch.where(intercept < 0.5, steepness, -steepness)


def _tube(locs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a tube round a line per instance: each node's signed distance, the line's normal, and the half-width."""
    intercept, slope = _line(len(locs), rng)
    width, length = _uniform(0.1, 0.3, (len(locs), 1), rng), _root(1 + slope.square())
    x, y = locs.unbind(-1)
    normal = torch.stack([slope, -torch.ones_like(slope)], dim=-1) / length.unsqueeze(-1)
    return (intercept + slope * x - y) / length, normal, width


# ---------------------------------------------------------------------- in a box


def _grid(locs: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
    """Lay the chosen nodes in a box with sides ~ U[0.1, 0.3] out in g rows of g; nodes beyond g squared stay."""
    batch = len(locs)
    side = _uniform(0.1, 0.3, (batch, 1, 2), rng)
    low = _uniform(0, 1, (batch, 1, 2), rng) * (1 - side)
    is_inside = chosen & ((locs >= low) & (locs <= low + side)).all(-1)
    rows = is_inside.sum(-1, keepdim=True).sqrt().long()
    order = _uniform(0, 1, chosen.shape, rng).masked_fill(~is_inside, 2).argsort(dim=-1, stable=True)
    place, row = order.argsort(-1), rows.clamp_min(1)
    cell = torch.stack([place % row, place // row], dim=-1)
    moves = (is_inside & (place < rows.square())).unsqueeze(-1)
    return torch.where(moves, low + side * (cell + 0.5) / row.unsqueeze(-1), locs)


# ---------------------------------------------------------------------- draws


def _root(values: Tensor) -> Tensor:
    """Return square roots, correctly rounded, since the last bits of torch's own in float32 are the processor's."""
    return values.double().sqrt().to(values.dtype)


def _uniform(low: float, high: float, shape: Sequence[int], rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(tuple(shape), generator=rng, device=rng.device)


def _normal(like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng, device=rng.device)


def _thrown(locs: Tensor, rng: torch.Generator) -> Tensor:
    """Draw how far beyond its region each node is thrown, from the exponential distribution of rate 10."""
    return -torch.log1p(-_uniform(0, 1, locs.shape[:2], rng)) / 10.0


MUTATIONS: dict[str, Mutation] = {
    "explosion": explosion,
    "implosion": _implosion,
    "cluster": _cluster,
    "rotation": _rotation,
    "linear-projection": _linear_projection,
    "axis-projection": _axis_projection,
    "expansion": _expansion,
    "compression": _compression,
    "grid": _grid,
}
EXACT = (
    "linear-projection",
    "axis-projection",
    "grid",
)  # no logarithm, cosine or Gaussian, so the same on all processors
