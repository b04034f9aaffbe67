"""Construction heuristics for capacitated routing: nearest neighbour, and the savings of Clarke and Wright.

Both work on the distances that the environment shows, symmetric or not, and on loads as `to_loads` counts them.

References:
    Clarke and Wright (1964), Scheduling of Vehicles from a Central Depot to a Number of Delivery Points, Operations
    Research 12.
"""

from __future__ import annotations

import abc
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict

from ncogym.baselines.base import ANY_WAY, Baseline, refuse_unfit, to_actions, to_loads
from ncogym.books import Progress
from ncogym.budget import Budget
from ncogym.models import Routes
from ncogym.problem import Problem
from ncogym.solution import Solutions

ALL_PAIRS = 2000  # nodes up to which every pair may be joined
NEAR = 100  # beyond, each customer with its nearest alone
LOOK_EVERY = 1024  # pairs between two looks at the clock
LARGEST = 2**53  # whole numbers that float64 holds


class RouteConstruction(Baseline, abc.ABC):
    """A heuristic that builds the routes of each instance once; it is deterministic, and a budget changes nothing."""

    reads = (Routes,)
    can = ANY_WAY

    @abc.abstractmethod
    def _routes(
        self, dists: NDArray[np.float64], loads: NDArray[np.int64], capacity: int, look: Callable[[], None]
    ) -> list[list[int]]:
        """Return routes, each without the depot.

        Args:
            dists: ``[nodes, nodes]``.
            loads: ``[nodes]``; each fits.
            capacity: of a vehicle.
            look: looks at the clock.
        """

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        """Solve a batch.

        Raises:
            UnsupportedProblem: it cannot take them.
            NoSolutionFound: a customer wants more than a vehicle holds.
        """
        model = self.model(env, instances)
        progress = Progress(env, instances, budget)
        views = (model.distances.matrix, model.demand, model.capacity)
        built: list[torch.Tensor] = []
        for row, (dists, demands, limit) in enumerate(zip(*(view.cpu().numpy() for view in views), strict=True)):
            refuse_unfit(self.name, demands, float(limit), f" of row {row}")
            loads, capacity = to_loads(demands, float(limit), LARGEST)
            built.append(torch.tensor(to_actions(self._routes(dists, loads, capacity, progress.look))))
        actions = torch.nn.utils.rnn.pad_sequence(built, batch_first=True)  # with 0, which is the env's padding
        progress.offer(actions[:, None].to(views[0].device))
        return progress.solutions(self.name)


class NearestNeighbourRoutes(RouteConstruction):
    """Go on to the nearest customer that still fits, and home where none does."""

    name = "nearest-neighbour"

    def _routes(
        self, dists: NDArray[np.float64], loads: NDArray[np.int64], capacity: int, look: Callable[[], None]
    ) -> list[list[int]]:
        is_open = np.ones(len(dists), dtype=bool)
        is_open[0] = False
        routes: list[list[int]] = []
        while is_open.any():
            look()
            routes.append([])
            node, left = 0, capacity
            while (fits := is_open & (loads <= left)).any():
                node = int(np.where(fits, dists[node], np.inf).argmin())
                is_open[node] = False
                left -= loads[node]
                routes[-1].append(node)
        return routes


class Savings(RouteConstruction):
    """Begin with a route for each customer, and join ends of routes, the largest saving of distance first.

    This is the parallel version, which grows all routes at once. Ties are broken by node indices. Up to 2000 nodes
    every pair of customers may be joined; beyond, only those of which one is among the 100 nearest of the other, so
    that several thousand customers take seconds.
    """

    name = "savings"

    def _routes(
        self, dists: NDArray[np.float64], loads: NDArray[np.int64], capacity: int, look: Callable[[], None]
    ) -> list[list[int]]:
        symmetric = bool((dists == dists.T).all())
        routes = [[node] for node in range(len(dists))]
        route_of, load_of = list(range(len(dists))), loads.tolist()
        look()
        for number, (last, first) in enumerate(zip(*_by_saving(dists, symmetric), strict=True)):
            if number % LOOK_EVERY == 0:
                look()
            one, two = route_of[last], route_of[first]
            if one == two or load_of[one] + load_of[two] > capacity:
                continue
            head, tail = routes[one], routes[two]
            if symmetric:  # a route may be turned round
                if head[-1] != last:
                    head.reverse()
                if tail[0] != first:
                    tail.reverse()
            if head[-1] != last or tail[0] != first:
                continue
            head += tail
            load_of[one] += load_of[two]
            for node in tail:
                route_of[node] = one
        return [routes[number] for number in sorted(set(route_of[1:]))]


def _by_saving(dists: NDArray[np.float64], symmetric: bool) -> tuple[list[int], list[int]]:
    """Return pairs of customers that joining saves distance on, the largest saving first; once each if symmetric."""
    num_nodes = len(dists)
    saved = dists[:, :1] + dists[:1] - dists  # the ways home from one and out to another, for the way between
    wanted = (saved > 0) & ~np.eye(num_nodes, dtype=bool)
    wanted[0] = wanted[:, 0] = False
    if num_nodes > ALL_PAIRS:
        near = np.zeros_like(wanted)
        np.put_along_axis(near, dists.argpartition(NEAR, axis=1)[:, : NEAR + 1], True, axis=1)
        wanted &= near | near.T
    if symmetric:
        wanted = np.triu(wanted)
    last, first = np.nonzero(wanted)
    order = np.argsort(-saved[last, first], kind="stable")
    return last[order].tolist(), first[order].tolist()
