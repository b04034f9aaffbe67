"""Greedy rules on graphs: the node next that costs the least now, by its degree among what is undecided.

They are the mark that learned solvers of graph problems are to be held against, with as many randomised runs as these
have samples (Unrealized Expectations: Comparing AI Methods vs Classical Algorithms for Maximum Independent Set, TMLR
2026).

References:
    Halldórsson and Radhakrishnan (1997), Greed is Good: Approximating Independent Sets in Sparse and Bounded-Degree
    Graphs, Algorithmica 18 (the smallest degree first). Sakai, Togasaki and Yamazaki (2003), A note on greedy
    algorithms for the maximum weighted independent set problem, Discrete Applied Mathematics 126 (weight by degree and
    one).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict

from ncogym.baselines.base import Baseline
from ncogym.books import Progress
from ncogym.budget import Budget
from ncogym.models import Clique, Cut, DominatingSet, Graph, IndependentSet, VertexCover
from ncogym.problem import Problem
from ncogym.solution import Solutions

RUNS = 20  # of the randomised rule without a budget

Numbers = NDArray[np.float64]


class Adjacency(NamedTuple):
    """A graph by the neighbours of each node.

    Attributes:
        weight: float64 ``[nodes]``.
        neighbours: int64 arrays, of each node.
        edge_weight: float64 arrays, of the edges to them.
    """

    weight: Numbers
    neighbours: list[NDArray[np.int64]]
    edge_weight: list[Numbers]


class DegreeGreedy(Baseline):
    """Take the node that is best by its degree now, decide what follows, and so on.

    Independent sets: the most weight by undecided neighbours and one. Cliques: the most undecided neighbours. Covers:
    the most uncovered edges by weight. Dominating sets: the most nodes that are not dominated yet by weight, then
    whoever is not needed leaves, the latest first. Cuts: the node that gains the most by moving, as long as any does.

    Alone it takes the first of equal nodes. Randomised, it draws among equal ones: the best of 20 runs without a
    budget; under one, it goes on until that is spent.

    Args:
        randomised: draw among equal nodes, and keep the best of many runs.
    """

    reads = (IndependentSet, Clique, VertexCover, DominatingSet, Cut)
    can = frozenset({"weights", "edge_weights"})

    def __init__(self, randomised: bool = False) -> None:
        self.randomised = randomised
        self.name = "random-degree-greedy" if randomised else "degree-greedy"

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        model: Graph = self.model(env, instances)
        limited = budget or Budget(rollouts=RUNS if self.randomised else 1)
        progress = Progress(env, instances, limited)
        graphs = [adjacency(model.row(row)) for row in range(len(instances))]
        rule, steps = RULES[type(model)], env.horizon(instances)
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        draw = np.random.default_rng(seed) if self.randomised else None
        at = next(iter(instances.values())).device
        with progress.abandoning():
            while not progress.spent:
                found = []
                for row, graph in enumerate(graphs):
                    progress.look()
                    nodes = torch.tensor([[rule(graph, draw)]], dtype=torch.int64, device=at)
                    found.append(env.padded(instances[row : row + 1], nodes, steps))
                progress.offer(torch.cat(found))
                if not self.randomised:
                    break
        return progress.solutions(self.name)


def adjacency(graph: Graph) -> Adjacency:
    """Return a `Graph.row` by the neighbours of each node."""
    nodes, edges = int(graph.nodes), np.asarray(graph.edges)
    there = edges[:, 0] >= 0
    of_edges = np.ones(len(edges)) if graph.edge_weights is None else np.asarray(graph.edge_weights)
    edges, of_edges = edges[there], of_edges[there]
    arcs, of_arcs = np.concatenate([edges, edges[:, ::-1]]), np.concatenate([of_edges, of_edges])
    order = np.argsort(arcs[:, 0], kind="stable")
    arcs, of_arcs = arcs[order], of_arcs[order]
    ends = np.cumsum(np.bincount(arcs[:, 0], minlength=nodes))
    weight = np.ones(nodes) if graph.weights is None else np.asarray(graph.weights)[:nodes]
    return Adjacency(weight, np.split(arcs[:, 1], ends[:-1]), np.split(of_arcs, ends[:-1]))


def best(scores: Numbers, draw: np.random.Generator | None) -> int:
    """Return where the highest score is: the first such place, or one that is drawn."""
    if draw is None:
        return int(scores.argmax())
    ties = np.flatnonzero(scores == scores.max())
    return int(ties[draw.integers(len(ties))])


def independent_set(graph: Adjacency, draw: np.random.Generator | None) -> list[int]:
    """Take nodes, and close their neighbours."""
    degree = np.array([float(len(each)) for each in graph.neighbours])
    is_open, taken = np.ones(len(degree), dtype=bool), []
    while is_open.any():
        node = best(np.where(is_open, graph.weight / (degree + 1), -np.inf), draw)
        taken.append(node)
        closed = [node, *graph.neighbours[node][is_open[graph.neighbours[node]]]]
        is_open[closed] = False
        for each in closed:
            degree[graph.neighbours[each]] -= 1
    return taken


def clique(graph: Adjacency, draw: np.random.Generator | None) -> list[int]:
    """Take nodes, and close those that are not beside them."""
    count = len(graph.weight)
    is_open, taken = np.ones(count, dtype=bool), list[int]()
    degree = np.array([float(len(each)) for each in graph.neighbours])
    while is_open.any():
        node = best(np.where(is_open, degree * graph.weight, -np.inf), draw)
        taken.append(node)
        near = np.zeros(count, dtype=bool)
        near[graph.neighbours[node]] = True
        closed = np.flatnonzero(is_open & ~near)
        is_open &= near
        for each in closed:
            degree[graph.neighbours[each]] -= 1
    return taken


def vertex_cover(graph: Adjacency, draw: np.random.Generator | None) -> list[int]:
    """Take nodes until no edge is uncovered."""
    uncovered = np.array([float(len(each)) for each in graph.neighbours])
    out, taken = np.ones(len(uncovered), dtype=bool), list[int]()
    while (uncovered > 0).any():
        node = best(np.where(uncovered > 0, uncovered / np.maximum(graph.weight, 1e-12), -np.inf), draw)
        taken.append(node)
        out[node] = False
        beside = graph.neighbours[node]
        uncovered[beside[out[beside]]] -= 1
        uncovered[node] = 0
    return taken


def dominating_set(graph: Adjacency, draw: np.random.Generator | None) -> list[int]:
    """Return who is not in the set: whoever was not taken, and whoever was and is not needed."""
    count = len(graph.weight)
    near = [np.append(beside, node) for node, beside in enumerate(graph.neighbours)]
    by, taken = np.zeros(count, dtype=np.int64), list[int]()
    news = np.array([float(len(each)) for each in near])
    while (by == 0).any():
        node = best(np.where(news > 0, news / np.maximum(graph.weight, 1e-12), -np.inf), draw)
        taken.append(node)
        for each in near[node]:
            if by[each] == 0:
                news[near[each]] -= 1
            by[each] += 1
    kept = set(taken)
    for node in reversed(taken):
        if (by[near[node]] > 1).all():
            by[near[node]] -= 1
            kept.discard(node)
    return [node for node in range(count) if node not in kept]


def cut(graph: Adjacency, draw: np.random.Generator | None) -> list[int]:
    """Move nodes to the other side and back as long as one gains by it."""
    count = len(graph.weight)
    moved = np.zeros(count, dtype=bool) if draw is None else draw.random(count) < 0.5
    gain = np.zeros(count)
    for node, (beside, weight) in enumerate(zip(graph.neighbours, graph.edge_weight, strict=True)):
        gain[node] = np.where(moved[beside] == moved[node], weight, -weight).sum()
    least = 1e-9 * max((float(np.abs(each).sum()) for each in graph.edge_weight), default=0.0)
    while count and gain.max() > least:
        node = best(gain, draw)
        beside, weight = graph.neighbours[node], graph.edge_weight[node]
        moved[node] = ~moved[node]
        gain[node] = -gain[node]
        gain[beside] += np.where(moved[beside] == moved[node], 2 * weight, -2 * weight)
    return [int(node) for node in np.flatnonzero(moved)]


RULES: dict[type[Graph], Callable[[Adjacency, np.random.Generator | None], list[int]]] = {
    IndependentSet: independent_set,
    Clique: clique,
    VertexCover: vertex_cover,
    DominatingSet: dominating_set,
    Cut: cut,
}
"""What builds a solution of each model, as actions without padding."""
