"""Graphs in text files, read and written exactly.

- DIMACS (``.mis``, ``.clq``, ``.col``): ``c`` comments, ``p edge NODES EDGES`` (or ``p col``), ``e I J`` for each edge,
  ``n I WEIGHT`` for a node of another weight than 1; nodes from 1;
- rudy (Gset, ``.rud``, ``.txt``): ``NODES EDGES``, then ``I J WEIGHT`` a line, nodes from 1;
- METIS (``.graph``, ``.metis``): ``NODES EDGES [FORMAT [WEIGHTS]]``, then a line a node with its neighbours from 1; the
  format's last digit says whether edges have weights, the one before whether nodes have;
- edge lists (``.edgelist``, ``.edges``): ``I J`` or ``I J WEIGHT`` a line, nodes from 0, or from 1 where there is no 0.

An edge may be listed in both directions; loops, and an edge listed twice with two weights, are refused. What cannot be
honoured is an `InstanceError` of one line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ncogym.envs.formats.text import read_text
from ncogym.errors import InstanceError

MAX_NODES, MAX_EDGES = 10**6, 10**7
MAX_WEIGHT = 2**53  # up to here float64 adds whole numbers exactly


class GraphFile(NamedTuple):
    """What a file says of a graph.

    Attributes:
        num_nodes: how many nodes there are.
        edges: int64 ``[edges, 2]``, from 0, each once, the smaller end first.
        weight: float64 ``[nodes]``, or None where the file gives none.
        edge_weight: float64 ``[edges]``, or None where the file gives none.
    """

    num_nodes: int
    edges: NDArray[np.int64]
    weight: NDArray[np.float64] | None = None
    edge_weight: NDArray[np.float64] | None = None


def read_graph(path: str | os.PathLike[str]) -> GraphFile:
    """Read a graph; the layout is told by the suffix, and by the first line where that leaves two.

    Raises:
        InstanceError: the file is missing or malformed; the text is one line.
    """
    shown = os.fspath(path)
    shown = shown if shown.isprintable() else ascii(shown)
    try:
        lines = [(number, line.split()) for number, line in enumerate(read_text(path).splitlines(), 1)]
        suffix = os.path.splitext(os.fspath(path))[1].lower()
        if suffix in (".mis", ".clq", ".col") or any(words[:1] == ["p"] for _, words in lines):
            return _dimacs(lines)
        if suffix in (".graph", ".metis"):
            return _metis(lines)
        return _edge_list(lines) if suffix in (".edgelist", ".edges") else _rudy(lines)
    except InstanceError as error:
        raise InstanceError(f"{shown}: {error}") from error


def write_graph(path: str | os.PathLike[str], found: GraphFile) -> None:
    """Write a DIMACS file, or, where edges have weights, one of rudy's.

    Raises:
        InstanceError: nodes and edges both have weights, for which neither has room.
        OSError: the file cannot be written.
    """
    num_nodes, edges, weight, edge_weight = found
    rows = (edges + 1).tolist()
    if edge_weight is None:
        lines = [f"p edge {num_nodes} {len(rows)}"]
        if weight is not None:
            lines += [f"n {node} {value:.17g}" for node, value in enumerate(weight.tolist(), 1) if value != 1]
        lines += [f"e {one} {other}" for one, other in rows]
    elif weight is None:
        lines = [f"{num_nodes} {len(rows)}"]
        lines += [f"{one} {other} {value:.17g}" for (one, other), value in zip(rows, edge_weight.tolist(), strict=True)]
    else:
        raise InstanceError(f"{os.fspath(path)}: nodes and edges have weights, and no file format here has both")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


# ---------------------------------------------------------------------- layouts

Lines = Sequence[tuple[int, list[str]]]


def _dimacs(lines: Lines) -> GraphFile:
    num_nodes = told = None
    edges, weights = list[tuple[int, int]](), dict[int, float]()
    for number, words in lines:
        match words:
            case [] | ["c", *_]:
                continue
            case ["p", "edge" | "col" | "edges", nodes, count] if num_nodes is None:
                num_nodes, told = _count(number, nodes, "nodes", MAX_NODES), _count(number, count, "edges", MAX_EDGES)
            case ["e", one, other] if num_nodes is not None:
                edges.append((_node(number, one, num_nodes), _node(number, other, num_nodes)))
            case ["n", node, weight] if num_nodes is not None:
                weights[_node(number, node, num_nodes)] = _weight(number, weight)
            case _:
                shown = " ".join(words)[:40]
                raise InstanceError(f"line {number}: {shown!r} is not allowed; it must be c, one p, e I J, or n I W")
    if num_nodes is None or told is None:
        raise InstanceError("there is no line `p edge NODES EDGES`")
    found, _ = _once(edges, None)
    if told not in (len(edges), len(found), 2 * len(found)):
        raise InstanceError(f"it says that it has {told} edges, but lists {len(edges)}")
    of_nodes = np.ones(num_nodes)
    of_nodes[list(weights)] = list(weights.values())
    return GraphFile(num_nodes, found, of_nodes if weights else None)


def _rudy(lines: Lines) -> GraphFile:
    rows = [(number, words) for number, words in lines if words and not words[0].startswith("#")]
    if not rows or len(rows[0][1]) != 2:
        raise InstanceError("its first line is not `NODES EDGES`")
    (number, (nodes, count)), *rest = rows
    num_nodes, told = _count(number, nodes, "nodes", MAX_NODES), _count(number, count, "edges", MAX_EDGES)
    if len(rest) != told:
        raise InstanceError(f"it says that it has {told} edges, but lists {len(rest)}")
    edges, values = list[tuple[int, int]](), list[float]()
    for number, words in rest:
        if len(words) != 3:
            raise InstanceError(f"line {number}: {' '.join(words)[:40]!r} is not allowed; it must be I J WEIGHT")
        edges.append((_node(number, words[0], num_nodes), _node(number, words[1], num_nodes)))
        values.append(_weight(number, words[2]))
    found, weight = _once(edges, values)
    return GraphFile(num_nodes, found, None, weight)


def _metis(lines: Lines) -> GraphFile:
    rows = [(number, words) for number, words in lines if not (words and words[0].startswith("%"))]
    while rows and not rows[-1][1]:
        rows = rows[:-1]  # an empty line at the end is no node; one between others is a node without neighbours
    if not rows or not 2 <= len(rows[0][1]) <= 4:
        raise InstanceError("its first line is not `NODES EDGES [FORMAT [WEIGHTS]]`")
    (number, head), *rest = rows
    num_nodes, told = _count(number, head[0], "nodes", MAX_NODES), _count(number, head[1], "edges", MAX_EDGES)
    layout = head[2].zfill(3) if len(head) > 2 else "000"
    if layout[0] != "0" or not set(layout) <= {"0", "1"} or len(layout) != 3 or head[3:] not in ([], ["1"], ["0"]):
        shown = " ".join(head)
        raise InstanceError(f"line {number}: {shown!r} is not allowed; vertex sizes and several weights are not")
    rest += [(number, []) for _ in range(num_nodes - len(rest))]
    if len(rest) != num_nodes:
        raise InstanceError(f"it says that it has {num_nodes} nodes, but has {len(rest)} lines")
    of_nodes, of_edges = layout[1] == "1", layout[2] == "1"
    weight, edges, values = np.ones(num_nodes), list[tuple[int, int]](), list[float]()
    for node, (number, words) in enumerate(rest):
        if of_nodes:
            if not words:
                raise InstanceError(f"line {number}: node {node + 1} has no weight")
            weight[node], words = _weight(number, words[0]), words[1:]
        if of_edges and len(words) % 2:
            raise InstanceError(f"line {number}: it must be pairs of a neighbour and a weight")
        ends = words[::2] if of_edges else words
        edges += [(node, _node(number, end, num_nodes)) for end in ends]
        values += [_weight(number, each) for each in words[1::2]] if of_edges else []
    found, edge_weight = _once(edges, values if of_edges else None)
    if told != len(found):
        raise InstanceError(f"it says that it has {told} edges, but lists {len(found)}")
    return GraphFile(num_nodes, found, weight if of_nodes else None, edge_weight)


def _edge_list(lines: Lines) -> GraphFile:
    rows = [(number, words) for number, words in lines if words and words[0][0] not in "#%"]
    widths = {len(words) for _, words in rows}
    if widths not in ({2}, {3}):
        raise InstanceError("its lines are not all I J, or all I J WEIGHT")
    edges = [(_end(number, words[0]), _end(number, words[1])) for number, words in rows]
    base = min(min(edge) for edge in edges)
    shift = 1 if base >= 1 else 0
    num_nodes = max(max(edge) for edge in edges) + 1 - shift
    if num_nodes > MAX_NODES:
        raise InstanceError(f"it has {num_nodes} nodes; allowed are {MAX_NODES}")
    values = [_weight(number, words[2]) for number, words in rows] if widths == {3} else None
    found, weight = _once([(one - shift, other - shift) for one, other in edges], values)
    return GraphFile(num_nodes, found, None, weight)


# ---------------------------------------------------------------------- numbers


def _whole(number: int, text: str) -> int:
    if not (text.isascii() and text.lstrip("+").isdigit() and len(text) < 12):
        raise InstanceError(f"line {number}: {text[:20]!r} is not allowed; it must be a whole number")
    return int(text)


def _count(number: int, text: str, what: str, most: int) -> int:
    found = _whole(number, text)
    if found > most or (what == "nodes" and found < 1):
        least = 1 if what == "nodes" else 0
        raise InstanceError(f"line {number}: {found} {what} are not allowed; they must be from {least} to {most}")
    return found


def _node(number: int, text: str, num_nodes: int) -> int:
    found = _whole(number, text)
    if not 1 <= found <= num_nodes:
        raise InstanceError(f"line {number}: node {found} is not allowed; nodes are 1 to {num_nodes}")
    return found - 1


def _end(number: int, text: str) -> int:
    return _whole(number, text)


def _weight(number: int, text: str) -> float:
    try:
        found = float(text) if text.isascii() and "_" not in text else float("nan")
    except ValueError:
        found = float("nan")
    if not abs(found) <= MAX_WEIGHT:
        raise InstanceError(f"line {number}: {text[:20]!r} is not allowed; a weight is a number of at most 2**53")
    return found


def _once(
    edges: Sequence[tuple[int, int]], values: Sequence[float] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    """Return each edge once, the smaller end first, in ascending order, and its weight.

    Raises:
        InstanceError: an edge is a loop, or has two weights.
    """
    pairs = np.sort(np.array(edges, dtype=np.int64).reshape(-1, 2), axis=1)
    loops = np.flatnonzero(pairs[:, 0] == pairs[:, 1])
    if len(loops):
        raise InstanceError(f"node {int(pairs[loops[0], 0])}, counted from 0, is joined to itself")
    found, first, back = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    if values is None:
        return found, None
    weights = np.array(values, dtype=np.float64)
    again = np.flatnonzero(weights != weights[first][back.reshape(-1)])
    if len(again):
        one, other = pairs[again[0]].tolist()
        raise InstanceError(f"the edge of nodes {one} and {other}, counted from 0, has two weights")
    return found, weights[first]


def graph_fault(num_nodes: int, degree: NDArray[Any], neighbours: NDArray[Any], weight: NDArray[Any]) -> str | None:
    """Say what is wrong with a graph in tensors (see `ncogym.envs.graph.graphs`), or None.

    Args:
        num_nodes: nodes that are there.
        degree: int ``[nodes]``.
        neighbours: int ``[arcs]``.
        weight: of each arc, ``[arcs]``.
    """
    for reason in _faults(num_nodes, degree, neighbours, weight):
        return reason
    return None


def _faults(num_nodes: int, degree: NDArray[Any], neighbours: NDArray[Any], weight: NDArray[Any]) -> Iterator[str]:
    if (degree[:num_nodes] < 0).any() or (degree[num_nodes:] != -1).any():
        yield "array degree has -1 before a node"
    arcs = int(degree[:num_nodes].sum())
    if arcs > len(neighbours) or (neighbours[arcs:] != -1).any():
        yield "array neighbours is not as long as the degrees say"
    listed = neighbours[:arcs]
    if ((listed < 0) | (listed >= num_nodes)).any():
        yield "array neighbours names nodes that are not there"
    sources = np.repeat(np.arange(num_nodes), degree[:num_nodes])
    there, back = sources * num_nodes + listed, listed * num_nodes + sources
    order, turned = np.argsort(there, kind="stable"), np.argsort(back, kind="stable")
    if (sources == listed).any() or len(np.unique(there)) < arcs:
        yield "array neighbours has a loop, or a neighbour twice"
    if (there[order] != back[turned]).any() or (weight[:arcs][order] != weight[:arcs][turned]).any():
        yield "array neighbours has an edge in one direction alone, or with two weights"
