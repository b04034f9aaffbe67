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
from ncogym.models import Graph, IndependentSet
from ncogym.problem import Problem
from ncogym.solution import Solutions

RUNS = 20  # of the randomised rule without a budget

Numbers = NDArray[np.float64]


class Adjacency(NamedTuple):
    """A graph by the neighbours of each node.

    Attributes:
        weight: float64 ``[nodes]``.
        neighbours: int64 arrays, of each node.
    """

    weight: Numbers
    neighbours: list[NDArray[np.int64]]


class DegreeGreedy(Baseline):
    """Take the node of the most weight by undecided neighbours and one, decide what follows, and so on.

    Alone it takes the first of equal nodes. Randomised, it draws among equal ones: the best of 20 runs without a
    budget; under one, it goes on until that is spent.

    Args:
        randomised: draw among equal nodes, and keep the best of many runs.
    """

    reads = (IndependentSet,)
    can = frozenset({"weights"})

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
    edges = edges[edges[:, 0] >= 0]
    arcs = np.concatenate([edges, edges[:, ::-1]])
    arcs = arcs[np.argsort(arcs[:, 0], kind="stable")]
    ends = np.cumsum(np.bincount(arcs[:, 0], minlength=nodes))
    weight = np.ones(nodes) if graph.weights is None else np.asarray(graph.weights)[:nodes]
    return Adjacency(weight, np.split(arcs[:, 1], ends[:-1]))


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


RULES: dict[type[Graph], Callable[[Adjacency, np.random.Generator | None], list[int]]] = {
    IndependentSet: independent_set,
}
"""What builds a solution of each model, as actions without padding."""
