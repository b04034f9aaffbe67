"""Problems on graphs as CP-SAT's constraint programmes, for `ncogym.baselines.ortools_cpsat`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ncogym.models import Clique, Cut, DominatingSet, Graph, IndependentSet, VertexCover

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


def clique(model: Any, graph: Clique) -> Built:
    """Model which nodes are taken, at most one of those that no edge joins."""
    count, joined = int(graph.nodes), set(edges_of(graph))
    nodes = [model.new_bool_var("") for _ in range(count)]
    apart = [pair for pair in itertools.combinations(range(count), 2) if pair not in joined]
    for group in clique_cover(count, apart):
        model.add_at_most_one([nodes[node] for node in group])
    weights, exact = whole_weights(graph.weights, count)
    model.maximize(sum(weight * node for weight, node in zip(weights, nodes, strict=True)))
    return chosen(nodes, exact)


def vertex_cover(model: Any, graph: VertexCover) -> Built:
    """Model which nodes are taken, all but one at least of each clique of a cover of the edges."""
    count = int(graph.nodes)
    nodes = [model.new_bool_var("") for _ in range(count)]
    for group in clique_cover(count, edges_of(graph)):
        model.add_at_most_one([nodes[node].negated() for node in group])
    weights, exact = whole_weights(graph.weights, count)
    model.minimize(sum(weight * node for weight, node in zip(weights, nodes, strict=True)))
    return chosen(nodes, exact)


def dominating_set(model: Any, graph: DominatingSet) -> Built:
    """Model which nodes stay, one at least among each node and its neighbours; actions are those that leave."""
    count = int(graph.nodes)
    leaves = [model.new_bool_var("") for _ in range(count)]
    near: list[list[int]] = [[node] for node in range(count)]
    for one, other in edges_of(graph):
        near[one].append(other)
        near[other].append(one)
    for group in near:
        model.add_bool_or([leaves[node].negated() for node in group])
    weights, exact = whole_weights(graph.weights, count)
    model.maximize(sum(weight * node for weight, node in zip(weights, leaves, strict=True)))
    return chosen(leaves, exact)


def cut(model: Any, graph: Cut) -> Built:
    """Model which nodes are on the other side of node 0, and which edges lie between the sides."""
    count, edges = int(graph.nodes), edges_of(graph)
    nodes = [model.new_bool_var("") for _ in range(count)]
    model.add(nodes[0] == 0)
    weights, exact = whole_weights(graph.edge_weights, len(edges))
    across = []
    for (one, other), weight in zip(edges, weights, strict=True):
        edge = model.new_bool_var("")
        if weight > 0:
            model.add_bool_or([nodes[one], nodes[other], edge.negated()])
            model.add_bool_or([nodes[one].negated(), nodes[other].negated(), edge.negated()])
        else:
            model.add_bool_or([nodes[one], nodes[other].negated(), edge])
            model.add_bool_or([nodes[one].negated(), nodes[other], edge])
        across.append(edge)
    model.maximize(sum(weight * edge for weight, edge in zip(weights, across, strict=True)))
    ends = list(zip(edges, across, strict=True))

    def hint(taken: list[int]) -> Iterator[tuple[Any, int]]:
        side = {node for node in range(count) if (node in taken) != (0 in taken)}  # node 0 is on side 0
        yield from ((variable, int(node in side)) for node, variable in enumerate(nodes))
        yield from ((edge, int((one in side) != (other in side))) for (one, other), edge in ends)

    return Built(chosen(nodes, exact).actions, hint, exact)
