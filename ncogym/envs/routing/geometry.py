"""What the problems on nodes of a plane share: distances, the unit box, random places, images under symmetries.

An instance has ``locs``, ``dists`` or both; where it has ``dists``, these alone are its distances.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float32, Float64
from tensordict import TensorDict
from torch import Tensor

from ncogym.errors import ArgumentError
from ncogym.models import Distances

# ---------------------------------------------------------------------- distances


def distances(instance: TensorDict) -> Float64[Tensor, "batch nodes nodes"]:
    """Return the distances of all ordered pairs of nodes, float64 ``[batch, nodes, nodes]``."""
    if "dists" in instance.keys():
        return instance["dists"].double()
    locs = instance["locs"].double()
    return torch.cdist(locs, locs, compute_mode="donot_use_mm_for_euclid_dist")


def distances_of(instance: TensorDict) -> Distances:
    """Return the same as solvers see them, which need not be a matrix."""
    if "dists" in instance.keys():
        return Distances(given=instance["dists"])
    return Distances(points=instance["locs"])


def lengths(instance: TensorDict, origin: Tensor, target: Tensor) -> Tensor:
    """Return float64 lengths of the moves ``origin -> target``, int64 ``[batch, ...]``, without building a matrix."""
    flat = (origin.flatten(1), target.flatten(1))
    if "dists" in instance.keys():
        dists = instance["dists"]
        found = dists.flatten(1).gather(1, flat[0] * dists.shape[-1] + flat[1]).double()
    else:
        locs = instance["locs"]
        # one coordinate after the other: seven times faster than gathering pairs and summing over two
        x, y = ((p.gather(1, flat[0]).double() - p.gather(1, flat[1]).double()) for p in locs.unbind(-1))
        found = (x.square() + y.square()).sqrt()
    return found.reshape(origin.shape)


# ---------------------------------------------------------------------- places


def to_unit_box(locs: Float[Tensor, "batch nodes 2"]) -> Float[Tensor, "batch nodes 2"]:
    """Move and scale places so that they touch the low sides of ``[0, 1]^2`` and one of the high ones."""
    low, high = locs.amin(1, keepdim=True), locs.amax(1, keepdim=True)
    return (locs - low) / (high - low).amax(-1, keepdim=True)


def clustered(batch: int, nodes: int, rng: torch.Generator) -> Float[Tensor, "{batch} {nodes} 2"]:
    """Draw places from Gaussian mixtures of 2 to 8 modes, scaled to the unit box."""
    at = rng.device
    num_modes = torch.randint(2, 9, (batch, 1), generator=rng, device=at)
    centres = torch.rand(batch, 8, 2, generator=rng, device=at)
    spread = 0.02 + 0.08 * torch.rand(batch, 8, 1, generator=rng, device=at)
    mode = (torch.rand(batch, nodes, generator=rng, device=at) * num_modes).long().unsqueeze(-1)
    noise = torch.randn(batch, nodes, 2, generator=rng, device=at)
    return to_unit_box(centres.gather(1, mode.expand(-1, -1, 2)) + noise * spread.gather(1, mode))


def scaled_coordinates(dists: Float[Tensor, "batch nodes nodes"]) -> Float[Tensor, "batch nodes 2"]:
    """Place nodes in the plane so that their distances resemble ``dists`` (classical multidimensional scaling).

    Only policies and pictures use the places; the objective stays with ``dists``.

    Args:
        dists: float64 ``[batch, nodes, nodes]``.

    Returns:
        float64 ``[batch, nodes, 2]``.

    References:
        Torgerson (1952), Multidimensional scaling: I. Theory and method, Psychometrika 17.
    """
    squared = dists.square()
    gram = -0.5 * (
        squared - squared.mean(1, keepdim=True) - squared.mean(2, keepdim=True) + squared.mean((1, 2), keepdim=True)
    )
    values, vectors = torch.linalg.eigh(gram)
    return vectors[..., -2:].flip(-1) * values[..., -2:].flip(-1).clamp_min(0).sqrt().unsqueeze(1)


def file_locs(
    coords: Float64[Tensor, "nodes 2"] | None, edge_weight_type: str, dists: Float64[Tensor, "nodes nodes"]
) -> Float32[Tensor, "nodes 2"]:
    """Return what a policy and a picture see of a file's nodes.

    Args:
        coords: the file's coordinates, or None; then the nodes are placed by scaling ``dists``.
        edge_weight_type: of the file; latitudes and longitudes (GEO in degrees and minutes, GEOM in degrees) are put on
            an equirectangular plane.
        dists: the file's distances.
    """
    if coords is None:
        return scaled_coordinates(dists[None])[0].float()
    if edge_weight_type in ("GEO", "GEOM"):
        whole = coords.trunc()
        minutes = 5 / 3 if edge_weight_type == "GEO" else 1  # DDD.MM: the decimals are minutes
        latitude, longitude = (whole + (coords - whole) * minutes).unbind(-1)
        coords = torch.stack([longitude * torch.cos(torch.deg2rad(latitude.mean())), latitude], dim=-1)
    return coords.float()


# ---------------------------------------------------------------------- features and symmetries


def unit_features(
    locs: Float[Tensor, "batch nodes 2"], dists: Float[Tensor, "batch nodes nodes"] | None = None
) -> tuple[Float32[Tensor, "batch nodes 2"], Float32[Tensor, "batch nodes nodes 2"]]:
    """Return coordinates in the unit box and two numbers an edge, free of the instance's shift and scale.

    The box is that of the coordinates, centred on 0 with the longer side 1. Edges hold the distance in that unit,
    and the logarithm of the distance in units of the mean spacing ``1 / sqrt(nodes)``.

    Args:
        locs: coordinates in any unit.
        dists: the distances where these are not the coordinates'; scaled to the same mean.
    """
    locs = locs.float()
    low, high = locs.amin(1, keepdim=True), locs.amax(1, keepdim=True)
    extent = (high - low).amax(-1, keepdim=True).clamp_min(torch.finfo(locs.dtype).tiny)
    locs = (locs - (low + high) / 2) / extent
    edges = torch.cdist(locs, locs, compute_mode="donot_use_mm_for_euclid_dist")
    if dists is not None:
        scale = edges.mean((1, 2), dtype=dists.dtype) / dists.mean((1, 2)).clamp_min(torch.finfo(dists.dtype).tiny)
        edges = (dists * scale[:, None, None]).to(locs.dtype)
    spacing = edges * math.sqrt(locs.shape[1])
    return locs, torch.stack([edges, torch.log(spacing + 0.05)], dim=-1)


def images(
    instance: TensorDict, locs: Float[Tensor, "batch nodes 2"], count: int, rng: torch.Generator | None
) -> list[TensorDict]:
    """Return images under the dihedral group of the square, then under random rotations and reflections.

    Args:
        instance: batch size ``[batch]``; an image differs from it in ``locs`` alone.
        locs: its coordinates.
        count: images wanted; those after the first 8 are random and need ``rng``.
        rng: source of the random images.

    Raises:
        ArgumentError: more than 8 images without a generator.
    """
    centred = locs - (locs.amin(1, keepdim=True) + locs.amax(1, keepdim=True)) / 2
    x, y = centred.unbind(-1)
    pairs = [(x, y), (y, x), (x, -y), (y, -x), (-x, y), (-y, x), (-x, -y), (-y, -x)]
    places = [torch.stack(pair, dim=-1) for pair in pairs[:count]]
    for _ in range(count - 8):
        if rng is None:
            raise ArgumentError(f"count: {count} images need a generator; without one at most 8 are allowed")
        turn, side = torch.rand(2, locs.shape[0], 1, generator=rng, device=rng.device).to(locs)
        cos, sin = torch.cos(turn * 2 * math.pi), torch.sin(turn * 2 * math.pi)
        flip = torch.where(side < 0.5, -1.0, 1.0)
        places.append(torch.stack([(x * cos - y * sin) * flip, x * sin + y * cos], dim=-1))
    return [instance.clone(recurse=False).update({"locs": place}) for place in places]
