"""Construction heuristics and local search for tours, on whole batches of instances at once.

All work on the distances that the environment shows, so any metric or rounding will do; nearest neighbour and the
insertions take asymmetric ones too.

References:
    Rosenkrantz, Stearns and Lewis (1977), An Analysis of Several Heuristics for the Traveling Salesman Problem, SIAM
    Journal on Computing 6. Croes (1958), A Method for Solving Traveling-Salesman Problems, Operations Research 6
    (2-opt). Or (1976), Traveling Salesman-Type Combinatorial Problems and Their Relation to the Logistics of Regional
    Blood Banking, PhD thesis, Northwestern University (Or-opt).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float64, Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.baselines.base import ANY_WAY, Baseline
from ncogym.baselines.savings import NearestNeighbourRoutes
from ncogym.books import Pace, Progress
from ncogym.budget import Budget
from ncogym.errors import ArgumentError
from ncogym.models import Routes, Tour
from ncogym.problem import Problem
from ncogym.solution import Solutions
from ncogym.solver import Improver

CELLS = 2**17  # distances looked at per step of a construction: enough to amortise its overhead, few enough for caches
WEIGHED = 2**19  # moves looked at per step of the local search
BLOCK = 2**20  # distances that are copied at a time, where all are gone through
LOOK_EVERY = 64  # nodes between two looks at the clock


class TourSolver(Baseline):
    """A solver of closed tours, which takes distances that differ by direction unless it says otherwise."""

    reads = (Tour,)
    can = ANY_WAY


class NearestNeighbour(Baseline):
    """Go on to the nearest node that may come next, in a tour or, as `NearestNeighbourRoutes` does, in routes.

    Args:
        starts: "first" builds one tour, from node 0, as the literature does; "all" builds one from every node (as
            many as the budget allows) and keeps the best. Routes begin at the depot.
    """

    name = "nearest-neighbour"
    reads = (Tour, Routes)
    can = ANY_WAY

    def __init__(self, starts: Literal["first", "all"] = "first") -> None:
        if starts not in ("first", "all"):
            raise ArgumentError(f"starts: {starts!r} is not allowed; it must be 'first' or 'all'")
        self.starts = starts

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        model = self.model(env, instances)
        if isinstance(model, Routes):
            return NearestNeighbourRoutes()(env, instances, budget, rng)
        progress = Progress(env, instances, budget)
        dists = model.distances.matrix
        batch, num_nodes = dists.shape[:2]
        pace = Pace(progress, CELLS // (batch * num_nodes))
        count = num_nodes if self.starts == "all" else 1
        while more := pace.next(count - progress.rollouts):
            starts = torch.arange(progress.rollouts, progress.rollouts + more, device=dists.device).expand(batch, -1)
            with progress.abandoning():
                progress.offer(_nearest_neighbour(dists, starts, progress))
        return progress.solutions(self.name)


class FarthestInsertion(TourSolver):
    """Insert the node that is farthest from the tour where it lengthens the tour least, beginning with the most remote.

    It is deterministic and ties are broken by node index. This is the variant with which Kool et al. (2019) compare.
    """

    name = "farthest-insertion"

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        progress = Progress(env, instances, budget)
        dists = self.model(env, instances).distances.matrix
        progress.offer(_insertion(dists, _farthest_first(dists, progress)[:, None], progress))
        return progress.solutions(self.name)


class RandomInsertion(TourSolver):
    """Insert nodes in random order, each where it lengthens the tour least.

    One tour per instance without a budget; under a budget it begins anew with other orders until that is spent, and
    keeps the best.
    """

    name = "random-insertion"

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        progress = Progress(env, instances, budget)
        dists = self.model(env, instances).distances.matrix
        batch, num_nodes = dists.shape[:2]
        pace = Pace(progress, CELLS // (batch * num_nodes), first=1)
        wanted = math.inf if progress.budget.finite else 1
        while more := pace.next(wanted - progress.rollouts):
            order = torch.rand((batch, more, num_nodes), generator=rng, device=rng.device).argsort(-1)
            with progress.abandoning():
                progress.offer(_insertion(dists, order.to(dists.device), progress))
        return progress.solutions(self.name)


class TwoOpt(TourSolver, Improver):
    """Improve tours by 2-opt and Or-opt moves until there is none that shortens them.

    Called alone it begins from the tours of `NearestNeighbour`.

    Each step makes the best move of a neighbourhood: the reversal of a path (2-opt), or up to three nodes in a row
    moved elsewhere, either way round (Or-opt). At the end no 2-opt move shortens the tour, unless time ran out; Or-opt
    moves are sought near each node only.

    It counts no rollouts.
    """

    name = "two-opt"
    brief = True
    can = frozenset()

    def improve(self, progress: Progress, rng: torch.Generator) -> None:
        env, instances = progress.env, progress.instances
        dists = self.model(env, instances).distances.matrix
        if progress.actions is None:
            first = torch.zeros_like(dists[:, :1, 0], dtype=torch.int64)
            progress.offer(_nearest_neighbour(dists, first, progress))
        num_nodes = dists.shape[-1]
        tours = cast(Tensor, progress.actions)[:, :num_nodes].clone()
        begun, limit = progress.seconds, progress.budget.seconds
        rows = max(1, WEIGHED // (num_nodes * NEIGHBOURS * MOVES * 2))
        for begin in range(0, len(tours), rows):
            end = min(begin + rows, len(tours))
            until = begun + (limit - begun) * end / len(tours)  # so that the last instances get their share

            def spent(until: float = until) -> bool:
                return progress.seconds >= until or progress.budget.cancel.is_set()

            tours[begin:end] = local_search(dists[begin:end], tours[begin:end], spent)
        progress.offer(tours[:, None], rollouts=0)


# ---------------------------------------------------------------------- constructions


def _nearest_neighbour(
    dists: Float64[Tensor, "batch nodes nodes"], starts: Int64[Tensor, "batch rollouts"], progress: Progress
) -> Int64[Tensor, "batch rollouts nodes"]:
    """Return the tours from given starts."""
    batch, num_nodes = dists.shape[:2]
    row = torch.arange(batch, device=dists.device)[:, None]
    closed = torch.zeros(*starts.shape, num_nodes, dtype=dists.dtype, device=dists.device)
    # made beforehand: small results that are kept between large ones that are not would scatter the memory
    tour, node = starts.new_empty(*starts.shape, num_nodes), starts
    for number in range(num_nodes):
        if number % LOOK_EVERY == 0:
            progress.look()
        tour[..., number] = node
        closed.scatter_(-1, node.unsqueeze(-1), math.inf)
        node = (dists[row, node] + closed).argmin(-1)
    return tour


def _blocks(
    dists: Float64[Tensor, "instances nodes nodes"], rows: Int64[Tensor, " batch"], diagonal: float
) -> Iterator[tuple[slice, Float64[Tensor, "batch part nodes"]]]:
    """Go through the distances of some instances a few nodes at a time, so that there is never a copy of them all.

    Args:
        dists: of all instances.
        rows: the instances.
        diagonal: what stands there instead of what files may hold.
    """
    num_nodes = dists.shape[1]
    count = max(1, BLOCK // (len(rows) * num_nodes))
    for begin in range(0, num_nodes, count):
        part = slice(begin, min(begin + count, num_nodes))
        block = dists[rows, part]
        block.diagonal(begin, dim1=1, dim2=2).fill_(diagonal)
        yield part, block


def _farthest_first(dists: Float64[Tensor, "batch nodes nodes"], progress: Progress) -> Int64[Tensor, "batch nodes"]:
    """Order nodes: the one with the longest distance, then always the one farthest from those."""
    row = torch.arange(dists.shape[0], device=dists.device)
    nearest = torch.full_like(dists[:, 0], math.inf)
    node = torch.cat([block.amax(2) for _, block in _blocks(dists, row, 0.0)], dim=1).argmax(1)
    order = [node]
    for number in range(dists.shape[1] - 1):
        if number % LOOK_EVERY == 0:
            progress.look()
        nearest = torch.minimum(nearest, dists[row, node]).scatter(1, node[:, None], -math.inf)
        node = nearest.argmax(1)
        order.append(node)
    return torch.stack(order, dim=-1)


def _insertion(
    dists: Float64[Tensor, "batch nodes nodes"], order: Int64[Tensor, "batch rollouts nodes"], progress: Progress
) -> Int64[Tensor, "batch rollouts nodes"]:
    """Return tours into which the nodes came in ``order``, each at its cheapest place."""
    row = torch.arange(dists.shape[0], device=dists.device)[:, None]
    first, *others = (node.unsqueeze(-1) for node in order.unbind(-1))
    after = torch.zeros_like(order)  # the tour so far as a linked list: the node that follows each
    after.scatter_(-1, first, first)
    length = torch.full(order.shape, -math.inf, dtype=dists.dtype, device=dists.device)  # of the way there
    length.scatter_(-1, first, 0.0)
    for number, node in enumerate(others):
        if number % LOOK_EVERY == 0:
            progress.look()
        away, back = dists[row, node.squeeze(-1)], dists.mT[row, node.squeeze(-1)]
        place = (back + away.gather(-1, after) - length).argmin(-1, keepdim=True)  # infinite outside the tour
        follower = after.gather(-1, place)
        after.scatter_(-1, place, node).scatter_(-1, node, follower)
        length.scatter_(-1, place, back.gather(-1, place)).scatter_(-1, node, away.gather(-1, follower))
    tour = [first]
    for _ in others:
        tour.append(after.gather(-1, tour[-1]))
    return torch.cat(tour, dim=-1)


# ---------------------------------------------------------------------- local search

NEIGHBOURS = 10  # nearest nodes that moves connect a node with, before all that may matter are tried
SEGMENTS = (1, 2, 3)  # nodes in a row that Or-opt moves
MOVES = 1 + 2 * len(SEGMENTS)


def local_search(
    dists: Float64[Tensor, "batch nodes nodes"],
    tours: Int64[Tensor, "batch nodes"],
    stop: Callable[[], bool] = lambda: False,
) -> Int64[Tensor, "batch nodes"]:
    """Make best moves of 2-opt and Or-opt until none shortens a tour.

    A 2-opt move that shortens a tour connects some node with one that is nearer to it than a neighbour of it in the
    tour. So moves are first sought among the `NEIGHBOURS` nearest nodes of each, then among twice as many, and so on
    until no node has a tour neighbour beyond them: no 2-opt move is left. An instance's result does not depend on the
    others of the batch.

    Args:
        dists: symmetric.
        tours: where to begin.
        stop: asked before each move of the batch, and while neighbours are sought.

    Returns:
        Tours, none longer than it was.
    """
    num_nodes = tours.shape[1]
    if num_nodes < 4:  # there is only one tour
        return tours
    tours = tours.clone()
    tolerance = 1e-12 * dists.amax((1, 2))
    rows, num_near = torch.arange(len(tours), device=tours.device), min(NEIGHBOURS, num_nodes - 1)
    while len(rows) and not stop():
        near_dists = dists.new_empty(len(rows), num_nodes, num_near)
        near = torch.empty_like(near_dists, dtype=torch.int64)
        for part, block in _blocks(dists, rows, math.inf):
            if part.start and stop():
                return tours
            near_dists[:, part], near[:, part] = block.topk(num_near, largest=False)
        active = torch.arange(len(rows), device=tours.device)
        while len(active) and not stop():
            row = rows[active]
            moved, gained = _best_move(dists, row, tours[row], near[active], near_dists[active], tolerance[row])
            tours[row], active = moved, active[gained]
        ahead = dists[rows[:, None], tours[rows], tours[rows].roll(-1, 1)]
        longest = torch.empty_like(ahead).scatter_(1, tours[rows], torch.maximum(ahead, ahead.roll(1, 1)))
        shorter = [(block < longest[:, part, None]).sum(-1) for part, block in _blocks(dists, rows, math.inf)]
        reach = torch.cat(shorter, dim=1).amax(-1)
        rows, num_near = rows[reach > num_near], min(2 * num_near, num_nodes - 1)
    return tours


def _best_move(
    dists: Float64[Tensor, "instances nodes nodes"],
    rows: Int64[Tensor, " batch"],
    tours: Int64[Tensor, "batch nodes"],
    near: Int64[Tensor, "batch nodes near"],
    near_dists: Float64[Tensor, "batch nodes near"],
    tolerance: Float64[Tensor, " batch"],
) -> tuple[Int64[Tensor, "batch nodes"], Bool[Tensor, " batch"]]:
    """Make the best move of each tour; return the tours, and where one was made.

    A move connects node a with a near node c. Every move is sought on the tour and on its mirror image, which turns
    "the next node" into "the one before". With s(x) the next node and p(x) the one before:

    - 2-opt: the path from s(a) to c is reversed, so that a-c and s(a)-s(c) are connected;
    - Or-opt: the segment of 1 to 3 nodes from a to e is cut out, and put between c and s(c) with a next to c, or
      between p(c) and c, reversed, with a next to c.

    Args:
        dists: of all instances.
        rows: the instance of each tour.
        tours: the tours that are still on their way.
        near: each node's candidates for c.
        near_dists: their distances.
        tolerance: what a move must gain to be more than round-off.
    """
    batch, num_nodes, num_near = near.shape
    tour = torch.cat([tours, tours.flip(1)])
    a = torch.arange(num_nodes, device=tours.device).expand(2 * batch, -1)
    c, a_to_c = near.repeat(2, 1, 1), near_dists.repeat(2, 1, 1)
    flat, offset = dists.reshape(-1), (rows * num_nodes**2).repeat(2)

    def dist(x: Tensor, y: Tensor) -> Tensor:
        return flat.take(offset.view(-1, *(1,) * (max(x.dim(), y.dim()) - 1)) + x * num_nodes + y)

    def at_c(values: Tensor) -> Tensor:
        return values.gather(1, c.flatten(1)).view_as(c)

    position = torch.empty_like(tour).scatter_(1, tour, a)
    s, p = (torch.empty_like(tour).scatter_(1, tour, tour.roll(shift, 1)) for shift in (-1, 1))
    ahead = dist(a, s)
    behind = ahead.gather(1, p)
    s_c, p_c, ahead_c, behind_c = at_c(s), at_c(p), at_c(ahead), at_c(behind)
    steps = at_c(position) - position[..., None]
    steps += num_nodes * (steps < 0)  # from a onwards to c

    changes = [a_to_c + dist(s[..., None], s_c) - ahead[..., None] - ahead_c]
    e = a
    for size in SEGMENTS:
        follower = s.gather(1, e)
        cut = behind + ahead.gather(1, e) - dist(p, follower)
        closed = steps < size  # c is in the segment
        forward = a_to_c + dist(e[..., None], s_c) - ahead_c - cut[..., None]
        reverse = a_to_c + dist(e[..., None], p_c) - behind_c - cut[..., None]
        changes.append(forward.masked_fill(closed | (c == p[..., None]), math.inf))
        changes.append(reverse.masked_fill(closed | (c == follower[..., None]), math.inf))
        e = follower
    # one column for each move of a tour and of its mirror image
    change, pair = (torch.stack(x, 1) for x in zip(*(change.flatten(1).min(1) for change in changes), strict=True))
    change, column = change.view(2, batch, MOVES).transpose(0, 1).flatten(1).min(1)
    mirror, move = column // MOVES, column % MOVES
    row = torch.arange(batch, device=tours.device) + batch * mirror
    pair = pair[row, move]
    steps = steps.flatten(1)[row, pair]

    # every move puts a segment of the tour, reversed or not, behind the nodes that followed it
    is_two_opt = move == 0
    reverse_it = is_two_opt | (move % 2 == 0)
    begin = position[row, pair // num_near] + is_two_opt
    length = torch.where(is_two_opt, steps, (move + 1) // 2)
    last = torch.where(reverse_it, steps - 1, steps)  # its last place, counted from its beginning
    index = torch.arange(num_nodes, device=tours.device)
    turned = tour[row].gather(1, (begin[:, None] + index) % num_nodes)
    length, last, reverse_it = length[:, None], last[:, None], reverse_it[:, None]
    inside = torch.where(reverse_it, last - index, index - last + length - 1)
    source = torch.where(index > last, index, torch.where(index > last - length, inside, index + length))
    gained = change < -tolerance
    return torch.where(gained[:, None], turned.gather(1, source), tours), gained
