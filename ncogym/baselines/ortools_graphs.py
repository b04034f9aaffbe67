"""Problems on graphs as CP-SAT's constraint programmes, for `ncogym.baselines.ortools_cpsat`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ncogym.models import Graph, IndependentSet

SCALE = 10**6  # parts of the largest weight, where weights are not whole
MOST = 2**40  # up to which whole weights are not scaled
EXACT = 2**53  # up to here CP-SAT compares its bound, which is a floating-point number, exactly


class Built(NamedTuple):
    """What a model's variables mean.

    Attributes:
        actions: turns the values of a model's variables into actions.
        hint: turns actions into variables and their values.
        exact: whether the model has the instance's numbers as they are.
    """

    actions: Callable[[Callable[[Any], int]], list[int]]
    hint: Callable[[list[int]], Iterable[tuple[Any, int]]]
    exact: bool


def whole_weights(weights: Any, count: int) -> tuple[list[int], bool]:
    """Return weights as whole numbers, and whether they are the weights themselves."""
    if weights is None:
        return [1] * count, True
    numbers: NDArray[np.float64] = np.asarray(weights, dtype=np.float64)[:count]
    peak = float(np.abs(numbers).max(initial=0.0))
    if peak <= MOST and (numbers == np.rint(numbers)).all():
        return [int(weight) for weight in numbers], float(np.abs(numbers).sum()) <= EXACT
    return [round(float(weight) / peak * SCALE) for weight in numbers], False


def chosen(nodes: list[Any], exact: bool) -> Built:
    """Return what a variable a node means: the nodes whose variables are 1, then the action that takes none."""

    def actions(value: Callable[[Any], int]) -> list[int]:
        return [node for node, variable in enumerate(nodes) if value(variable)]

    def hint(taken: list[int]) -> Iterator[tuple[Any, int]]:
        return ((variable, int(node in taken)) for node, variable in enumerate(nodes))

    return Built(actions, hint, exact)


def edges_of(graph: Graph) -> list[tuple[int, int]]:
    """Return the edges of a `Graph.row`."""
    return [(one, other) for one, other in np.asarray(graph.edges).tolist() if one >= 0]


def clique_cover(count: int, edges: list[tuple[int, int]]) -> Iterator[list[int]]:
    """Yield cliques that have all edges between them, each grown from an edge that none before it has.

    Constraints on cliques bound a relaxation far better than those on the edges alone.
    """
    beside: list[set[int]] = [set() for _ in range(count)]
    for one, other in edges:
        beside[one].add(other)
        beside[other].add(one)
    covered: set[tuple[int, int]] = set()
    for one, other in edges:
        if (one, other) in covered:
            continue
        clique, common = [one, other], beside[one] & beside[other]
        while common:
            node = min(common, key=lambda each: (-len(common & beside[each]), each))
            clique.append(node)
            common &= beside[node]
        clique.sort()
        covered.update(itertools.combinations(clique, 2))
        yield clique


def independent_set(model: Any, graph: IndependentSet) -> Built:
    """Model which nodes are taken, at most one of each clique of a cover of the edges."""
    count = int(graph.nodes)
    nodes = [model.new_bool_var("") for _ in range(count)]
    for clique in clique_cover(count, edges_of(graph)):
        model.add_at_most_one([nodes[node] for node in clique])
    weights, exact = whole_weights(graph.weights, count)
    model.maximize(sum(weight * node for weight, node in zip(weights, nodes, strict=True)))
    return chosen(nodes, exact)
