"""Where graphs come from: random models of the field, weighted or not, and the published sets.

Of ``num_nodes`` nodes more or less: the number of each graph is drawn from ``(1 - spread) num_nodes`` to ``(1 + spread)
num_nodes``.

- rb: Model RB (Xu and Li, Exact Phase Transitions in Random Constraint Satisfaction Problems, JAIR 12, 2000), as in
  Zhang et al., Let the Flows Tell, NeurIPS 2023: n cliques of k nodes each, and between random pairs of cliques
  ``p k²`` random edges at a time, ``-n ln k / ln(1 - p) - 1`` times, with n, k and p drawn. For 250 nodes n is 20 to 24
  and k 5 to 11, for 1000 nodes 40 to 54 and 20 to 24, for others as for 250 in proportion to the square root; graphs of
  other sizes than the spread allows are drawn anew. An independent set has at most n nodes, and nearly n. Isolated
  nodes are dropped;
- er: Erdős-Rényi, each pair with a probability of 0.15 (``er:0.05``: of 0.05);
- ba: Barabási-Albert, each new node joined to 4 others (``ba:2``: to 2), which are drawn by their degree.

``weighted`` gives each node a weight from 1 to 100, and each edge one of -1 and 1 as in the Ising spin glasses of the
maximum cut literature or, with ``er`` and ``rb``, 1 to 10; whole numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict

from ncogym.distribution import Distribution, ReferenceSet, pinned
from ncogym.envs.graph.graphs import batch, graph
from ncogym.errors import ArgumentError

MODELS = {"rb": None, "er": 0.15, "ba": 4.0}  # and what is meant where no number follows
CLIQUES = {250: ((20, 24), (5, 11)), 1000: ((40, 54), (20, 24))}  # of Model RB: their number and their nodes, by size


def _sets() -> Iterator[tuple[str, ReferenceSet]]:
    kinds = (("rb-small", 250, "rb"), ("rb-large", 1000, "rb"), ("ba-small", 250, "ba"), ("ba-large", 1000, "ba"))
    for name, size, kind in (*kinds, ("er-700-800", 750, "er")):
        arguments: dict[str, Any] = {"num_nodes": size, "distribution": kind}
        if kind == "er":
            arguments["spread"] = 1 / 15
        count = 100 if size > 250 else 500
        yield f"ncogym-{name}", ReferenceSet(arguments, 1234, count, "", f"this library's {kind}, seed 1234")


class GraphDistribution(Distribution):
    """Random graphs; see the module for the models.

    Args:
        num_nodes: nodes of a graph, about; at least 2.
        distribution: rb, er, ba, or with a number er:0.05, ba:2.
        spread: how far the number of nodes may be from that, as a share of it, from 0 to 0.5.
        weighted: whether nodes and edges have weights.
    """

    reference_sets = pinned(_sets())

    def __init__(
        self, num_nodes: int = 250, distribution: str = "rb", spread: float = 0.2, weighted: bool = False
    ) -> None:
        if isinstance(num_nodes, bool) or not isinstance(num_nodes, int) or num_nodes < 2:
            raise ArgumentError(f"num_nodes: {num_nodes} is not allowed; it must be a whole number of at least 2")
        if not 0 <= spread <= 0.5:
            raise ArgumentError(f"spread: {spread} is not allowed; it must be from 0 to 0.5")
        self.model, self.number = _model(distribution)
        self.num_nodes, self.distribution, self.spread, self.weighted = num_nodes, distribution, spread, weighted

    def arguments(self) -> dict[str, Any]:
        names = ("num_nodes", "distribution", "spread", "weighted")
        return {name: getattr(self, name) for name in names}

    @property
    def size(self) -> int:
        return self.num_nodes

    def of_size(self, size: int) -> GraphDistribution:
        return GraphDistribution(**{**self.arguments(), "num_nodes": size})

    def like(self, instance: TensorDict) -> GraphDistribution:
        return self.of_size(max(2, instance["degree"].shape[1]))

    @property
    def frame(self) -> Mapping[str, tuple[int, ...]]:
        nodes = self._bounds[1]
        arcs = nodes * (nodes - 1) if self.model != "ba" else 2 * int(self.number) * nodes
        shapes = {"weight": nodes, "degree": nodes, "neighbours": arcs, "arc_weight": arcs, "reach": nodes - 1}
        return {key: (length,) for key, length in shapes.items()}

    @property
    def _bounds(self) -> tuple[int, int]:
        """The fewest and the most nodes."""
        low, high = (round(self.num_nodes * share) for share in (1 - self.spread, 1 + self.spread))
        return max(2, low), max(2, high)

    def draw(self, count: int, rng: torch.Generator) -> TensorDict:
        """Draw graphs one by one, on the host, from a seed that ``rng`` gives."""
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        return batch(self._one(_stream(seed, row)) for row in range(count)).to(rng.device)

    def seeded(self, count: int, seed: int) -> TensorDict:
        """Return the first ``count`` graphs that a seed stands for, each drawn from (seed, its number)."""
        return batch(self._one(_stream(seed, row)) for row in range(count))

    def _one(self, rng: np.random.RandomState) -> TensorDict:
        low, high = self._bounds
        if self.model == "rb":
            num_nodes, edges = _rb(self.num_nodes, low, high, rng)
        else:
            num_nodes = int(rng.randint(low, high + 1))
            edges = _er(num_nodes, self.number, rng) if self.model == "er" else _ba(num_nodes, int(self.number), rng)
        if not self.weighted:
            return graph(num_nodes, edges)
        signs = rng.randint(0, 2, len(edges)) * 2 - 1 if self.model == "ba" else rng.randint(1, 11, len(edges))
        return graph(num_nodes, edges, rng.randint(1, 101, num_nodes), signs)


def _stream(seed: int, row: int) -> np.random.RandomState:
    """Return the generator of one graph; numpy keeps the numbers of this one the same for ever."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, row])))


def _model(distribution: str) -> tuple[str, float]:
    """Return a random model's name and number."""
    name, colon, text = str(distribution).partition(":")
    if name not in MODELS or (colon and name == "rb"):
        allowed = "rb, er, ba, or with a number er:0.05 (the share of pairs), ba:2 (edges of a new node)"
        raise ArgumentError(f"distribution: {distribution!r} is not allowed; it must be one of {allowed}")
    try:
        number = float(text) if colon else MODELS[name] or 0.0
    except ValueError:
        number = -1.0
    if name == "er" and not 0 <= number <= 1:
        raise ArgumentError(f"distribution: {distribution!r} is not allowed; the share of pairs must be from 0 to 1")
    if name == "ba" and (number < 1 or number != int(number)):
        raise ArgumentError(f"distribution: {distribution!r} is not allowed; its edges must be a whole number from 1")
    return name, number


def _er(num_nodes: int, share: float, rng: np.random.RandomState) -> NDArray[np.int64]:
    """Draw the number of edges, then that many different pairs: in sparse graphs the others are never looked at."""
    pairs = num_nodes * (num_nodes - 1) // 2
    number = _distinct(pairs, rng.binomial(pairs, share), rng)
    # pair (i, j), i < j, has the number j (j - 1) / 2 + i
    high = np.floor((1 + np.sqrt(1 + 8.0 * number)) / 2).astype(np.int64)
    high -= high * (high - 1) // 2 > number  # where the root was rounded up
    return np.stack([number - high * (high - 1) // 2, high], axis=1)


def _distinct(high: int, count: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    """Draw ``count`` different numbers from 0 to below ``high``."""
    if 2 * count > high:
        return rng.permutation(high)[:count].astype(np.int64)
    found = np.empty(0, dtype=np.int64)
    while len(found) < count:
        drawn = np.concatenate([found, rng.randint(high, size=count - len(found) + 16)])
        _, first = np.unique(drawn, return_index=True)
        found = drawn[np.sort(first)]
    return found[:count]


def _ba(num_nodes: int, edges: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    """Join each new node to ``edges`` different others, drawn by their degree; the first ones to all of a star."""
    edges = min(edges, num_nodes - 1)
    ends = [end for node in range(edges) for end in (node, edges)]  # a star round node number `edges`
    for node in range(edges + 1, num_nodes):
        others: dict[int, None] = {}
        while len(others) < edges:
            others[ends[int(rng.randint(len(ends)))]] = None
        for other in others:
            ends += (other, node)
    return np.array(ends, dtype=np.int64).reshape(-1, 2)


def _rb(size: int, low: int, high: int, rng: np.random.RandomState) -> tuple[int, NDArray[np.int64]]:
    """Draw a graph of Model RB of ``low`` to ``high`` nodes."""
    root = size**0.5
    ratios = ((20 / 250**0.5, 24 / 250**0.5), (5 / 250**0.5, 11 / 250**0.5))
    scaled = tuple(tuple(max(2, round(each * root)) for each in pair) for pair in ratios)
    (few, many), (small, large) = CLIQUES.get(size, scaled)
    while True:
        cliques, each = int(rng.randint(few, many + 1)), int(rng.randint(small, large + 1))
        tightness = 0.3 + 0.7 * float(rng.random_sample())
        if each * cliques < low:  # isolated nodes are dropped, none comes in addition
            continue
        edges = _rb_edges(cliques, each, tightness, rng)
        kept, renamed = np.unique(edges, return_inverse=True)
        if low <= len(kept) <= high:
            return len(kept), renamed.reshape(-1, 2)


def _rb_edges(cliques: int, each: int, tightness: float, rng: np.random.RandomState) -> NDArray[np.int64]:
    inside = np.stack(np.triu_indices(each, 1), axis=1)
    blocks = [inside + each * clique for clique in range(cliques)]
    joined = np.zeros((cliques, cliques, each * each), dtype=bool)
    rounds = int(-cliques * np.log(each) / np.log1p(-tightness) - 1) if tightness < 1 else 0
    at_a_time = int(tightness * each * each)
    for _ in range(rounds):
        one, other = sorted(int(clique) for clique in rng.choice(cliques, 2, replace=False))
        free = np.flatnonzero(~joined[one, other])
        joined[one, other, rng.permutation(free)[:at_a_time]] = True
    ones, others, pairs = joined.nonzero()
    between = np.stack([ones * each + pairs // each, others * each + pairs % each], axis=1)
    return np.concatenate([*blocks, between])
