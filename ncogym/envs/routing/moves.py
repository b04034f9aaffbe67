"""Solutions of routing problems said in other words: tours from another start, routes in another order."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor


def rotated(
    tours: Int64[Tensor, "batch rollouts nodes"], rng: torch.Generator, both_ways: bool
) -> Int64[Tensor, "batch rollouts nodes"]:
    """Return each tour from a random start on, in a random direction if its reverse is as good."""
    (*shape, nodes), at = tours.shape, rng.device
    offset, steps = torch.randint(nodes, (*shape, 1), generator=rng, device=at), torch.arange(nodes, device=at)
    if both_ways:
        steps = (torch.randint(2, (*shape, 1), generator=rng, device=at) * 2 - 1) * steps
    place = (offset + steps) % nodes
    return tours.gather(-1, place.to(tours.device))


def routes_of(actions: list[int]) -> list[list[int]]:
    """Split actions at the depot into routes of customers, leaving out empty ones."""
    routes: list[list[int]] = [[]]
    for node in actions:
        if node == 0:
            routes.append([])
        else:
            routes[-1].append(node)
    return [route for route in routes if route]


def numbered(
    actions: Int64[Tensor, "batch rollouts steps"],
) -> tuple[Int64[Tensor, "batch rollouts nodes"], Int64[Tensor, "batch rollouts nodes"]]:
    """Return actions and the way home, and for each of these nodes the number of its route, which may be empty."""
    path = torch.nn.functional.pad(actions, (0, 1))
    ends = (path == 0).long()
    return path, ends.cumsum(-1) - ends


def in_order(
    path: Int64[Tensor, "batch rollouts nodes"],
    route: Int64[Tensor, "batch rollouts nodes"],
    key: Float64[Tensor, "batch rollouts nodes"],
    flip: Float32[Tensor, "batch rollouts nodes"],
) -> Int64[Tensor, "batch rollouts steps"]:
    """Return actions with the routes in another order, a single 0 between two of them and the others at the end.

    Args:
        path: of `numbered`.
        route: of `numbered`.
        key: of each route; the highest comes first.
        flip: of each route; it turns round from 0.5 on.
    """
    nodes = path.shape[-1]
    empty = torch.zeros_like(path).scatter_add(-1, route, (path > 0).long()) == 0
    rank = key.masked_fill(empty, -torch.inf).argsort(-1, descending=True).argsort(-1)
    # a node's new place follows from its route's rank and its own place, counted from the other end if flipped
    place = torch.arange(nodes, device=path.device).expand_as(path)
    place = torch.where(flip.gather(-1, route) < 0.5, place, nodes - 1 - place)
    place = torch.where(path == 0, nodes, place)
    order = (rank.gather(-1, route) * (nodes + 1) + place).argsort(-1)
    return path.gather(-1, order)[..., :-1]


def look_up(table: Tensor, node: Int64[Tensor, "batch rollouts nodes"]) -> Tensor:
    """Return entries of ``table`` ``[batch, nodes]``."""
    return table.gather(1, node.flatten(1)).view_as(node)
