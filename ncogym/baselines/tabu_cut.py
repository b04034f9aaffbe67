"""Tabu search for maximum cuts: move the node that gains the most, even if it loses, then leave it for a while.

References:
    Kochenberger, Hao, Lü, Wang and Glover (2013), Solving Large Scale Max Cut Problems via Tabu Search, Journal of
    Heuristics 19. Palubeckis (2004), Multistart Tabu Search Strategies for the Unconstrained Binary Quadratic
    Optimization Problem, Annals of Operations Research 131 (tenure, restarts).
"""

from __future__ import annotations

import numpy as np
import torch
from tensordict import TensorDict

from ncogym.baselines.base import Baseline
from ncogym.baselines.degree_greedy import Adjacency, adjacency
from ncogym.books import Progress
from ncogym.budget import Budget
from ncogym.models import Cut, Graph
from ncogym.problem import Problem
from ncogym.solution import Solutions

MOVES = 20  # by the number of nodes, that one run makes after its best
KICK = 0.05  # share of the nodes that change sides between two runs
LOOK_EVERY = 256  # moves between two looks at the clock


class TabuCut(Baseline):
    """One-flip tabu search on one instance after the other, from a random cut, and again from a kick of the best one.

    A run ends 20 moves by node after its best; without a budget there is one, under one they go on until it is spent.
    Each run is a rollout.
    """

    name = "tabu-cut"
    reads = (Cut,)
    can = frozenset({"edge_weights"})

    def __call__(self, env: Problem, instances: TensorDict, budget: Budget | None, rng: torch.Generator) -> Solutions:
        model: Graph = self.model(env, instances)
        progress = Progress(env, instances, budget or Budget(rollouts=1))
        graphs, steps = [adjacency(model.row(row)) for row in range(len(instances))], env.horizon(instances)
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        draw, at = np.random.default_rng(seed), next(iter(instances.values())).device
        best: list[np.ndarray | None] = [None] * len(graphs)
        with progress.abandoning():
            while not progress.spent:
                found = []
                for row, graph in enumerate(graphs):
                    best[row] = side = _run(graph, best[row], draw, progress)
                    nodes = torch.from_numpy(np.flatnonzero(side))[None, None].to(at)
                    found.append(env.padded(instances[row : row + 1], nodes, steps))
                progress.offer(torch.cat(found))
        return progress.solutions(self.name)


def _run(graph: Adjacency, before: np.ndarray | None, draw: np.random.Generator, progress: Progress) -> np.ndarray:
    """Return the better of the cut before and the best that a run from its kick finds, bool ``[nodes]``.

    Where the time is over it returns what it has.
    """
    count = len(graph.weight)
    side = draw.random(count) < 0.5 if before is None else before ^ (draw.random(count) < KICK)
    start = _value(graph, before) if before is not None else -np.inf
    gain = np.zeros(count)
    for node, (beside, weight) in enumerate(zip(graph.neighbours, graph.edge_weight, strict=True)):
        gain[node] = np.where(side[beside] == side[node], weight, -weight).sum()
    value = highest = _value(graph, side)
    kept, free_at, since, move = side.copy(), np.zeros(count, dtype=np.int64), 0, 0
    while count and since < MOVES * count:
        if move % LOOK_EVERY == 0 and progress.seconds >= progress.budget.seconds:
            break
        move, since = move + 1, since + 1
        allowed = (free_at <= move) | (value + gain > highest + 1e-9)  # a tabu that leads to a new best is lifted
        scores = np.where(allowed, gain + 1e-9 * draw.random(count), -np.inf)
        node = int(scores.argmax())
        beside, weight = graph.neighbours[node], graph.edge_weight[node]
        value += gain[node]
        side[node] = ~side[node]
        gain[node] = -gain[node]
        gain[beside] += np.where(side[beside] == side[node], 2 * weight, -2 * weight)
        free_at[node] = move + count // 100 + draw.integers(1, 11)
        if value > highest + 1e-9:
            highest, kept, since = value, side.copy(), 0
    return kept if before is None or highest >= start else before


def _value(graph: Adjacency, side: np.ndarray) -> float:
    """Return the weight of a cut."""
    parts = zip(side, graph.neighbours, graph.edge_weight, strict=True)
    return sum(float(weight[side[beside] != own].sum()) for own, beside, weight in parts) / 2
