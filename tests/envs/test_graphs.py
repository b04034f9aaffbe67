"""What problems on graphs share: graphs in tensors, files, random models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ncogym.envs.formats.graphs import read_graph, write_graph
from ncogym.envs.graph import graphs
from ncogym.envs.graph.instances import GraphDistribution
from ncogym.errors import ArgumentError, InstanceError

SQUARE = [[0, 1], [1, 2], [2, 3], [0, 3]]


def dense(instance):
    """The matrix of an instance's edge weights, from its edges."""
    edges, weight = graphs.edges_of(instance)
    nodes = instance["degree"].shape[1]
    matrix = torch.zeros(nodes, nodes)
    for (one, other), value in zip(edges.tolist(), weight.tolist(), strict=True):
        matrix[one, other] = matrix[other, one] = value
    return matrix


@pytest.mark.parametrize("model", ["rb", "er:0.2", "ba:3"])
def test_neighbours_are_those_of_the_matrix(model, rng):
    """In a batch of different sizes, lists and sums over neighbours are what the matrix of each graph says."""
    drawn = GraphDistribution(24, model, 0.4, weighted=True).draw(5, rng)
    tables = graphs.with_tables(drawn)
    nodes = drawn["degree"].shape[1]
    values = torch.rand(5, 3, nodes, generator=rng)
    sums, weighted = (graphs.beside(drawn, values, weighted) for weighted in (False, True))
    assert (drawn["degree"] < 0).any()
    for row in range(5):
        matrix = dense(drawn[row : row + 1])
        assert torch.equal((matrix != 0).sum(1), drawn["degree"][row].clamp_min(0))
        torch.testing.assert_close(sums[row], values[row] @ (matrix != 0).float())
        torch.testing.assert_close(weighted[row], values[row] @ matrix)
        for node in range(nodes + 1):
            beside, weight = graphs.neighbours_of(tables, torch.full((5, 1), node))
            there = beside[row, 0] < nodes
            expected = matrix[node].nonzero()[:, 0] if node < nodes else torch.empty(0, dtype=torch.int64)
            assert torch.equal(beside[row, 0][there].sort().values, expected)
            if node < nodes:
                assert torch.equal(weight[row, 0][there], matrix[node, beside[row, 0][there]])
    assert set(drawn.keys()) == set(graphs.KEYS) == set(graphs.PADDING)


def test_a_graph_without_edges_is_one():
    """Nodes alone are a graph: nobody is beside anybody."""
    instance = graphs.with_tables(graphs.graph(3, np.empty((0, 2))))
    assert graphs.neighbours_of(instance, torch.tensor([[0, 3]]))[0].tolist() == [[[3], [3]]]
    assert graphs.beside(instance, torch.ones(1, 1, 3)).tolist() == [[[0.0] * 3]]
    assert graphs.edges_of(instance)[0].shape == (0, 2)


# ---------------------------------------------------------------------- random models


def test_model_rb_has_its_cliques():
    """Blocks of k nodes are cliques, so that an independent set has at most n nodes; the nodes lie in the range."""
    found = GraphDistribution(250, "rb").seeded(12, 7)
    count = graphs.is_node(found).sum(-1)
    assert ((count >= 200) & (count <= 300)).all()
    for row in range(3):
        matrix, nodes = dense(found[row : row + 1]), int(count[row])
        sizes = [k for k in range(5, 12) if all(matrix[i, j] for i in range(k) for j in range(i))]
        assert any(20 <= nodes / k <= 24.5 for k in sizes)  # isolated nodes alone are dropped
        assert (found["degree"][row, :nodes] > 0).all()


def test_densities_are_as_told():
    """Of Erdős-Rényi about the share of pairs is joined, and no pair twice; Barabási-Albert has m edges a new node."""
    found = GraphDistribution(100, "er:0.1", 0.0).seeded(40, 1)
    pairs = 100 * 99 / 2
    assert found["degree"].sum(-1).double().mean() / 2 == pytest.approx(0.1 * pairs, rel=0.03)
    dense_graph = GraphDistribution(30, "er:0.9", 0.0).seeded(1, 1)
    edges, _ = graphs.edges_of(dense_graph)
    assert len({tuple(edge) for edge in edges.tolist()}) == len(edges) == pytest.approx(0.9 * 435, rel=0.1)
    for row in range(4):
        grown = GraphDistribution(60, "ba:4", 0.2).seeded(4, 2)[row : row + 1]
        nodes = int(graphs.is_node(grown).sum())
        assert len(graphs.edges_of(grown)[0]) == 4 + 4 * (nodes - 5)


def test_seeds_stand_for_graphs():
    """A larger count begins with the graphs of a smaller one, and draws follow the generator alone."""
    distribution = GraphDistribution(30, "ba")
    few, many = distribution.seeded(2, 5), distribution.seeded(6, 5)
    assert [graphs.edges_of(few[row : row + 1])[0].tolist() for row in range(2)] == [
        graphs.edges_of(many[row : row + 1])[0].tolist() for row in range(2)
    ]
    drawn = [distribution.draw(3, torch.Generator().manual_seed(seed))["neighbours"] for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert drawn[0].shape != drawn[2].shape or not torch.equal(drawn[0], drawn[2])


def test_no_draw_is_larger_than_the_frame(rng):
    """TorchRL's shapes hold every draw."""
    for model in ("rb", "er:0.5", "ba:2"):
        distribution = GraphDistribution(20, model, 0.5)
        drawn = distribution.draw(30, rng)
        assert all(drawn[key].shape[1] <= length for key, (length,) in distribution.frame.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_nodes": 1}, "num_nodes: 1 is not allowed"),
        ({"spread": 0.6}, "spread: 0.6 is not allowed"),
        ({"distribution": "rb:2"}, "distribution: 'rb:2' is not allowed; it must be one of rb, er, ba"),
        ({"distribution": "er:2"}, "the share of pairs must be from 0 to 1"),
        ({"distribution": "ba:1.5"}, "its edges must be a whole number from 1"),
        ({"distribution": "ba:x"}, "its edges must be a whole number from 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    """Each is refused in a line that says what is allowed."""
    with pytest.raises(ArgumentError, match=words):
        GraphDistribution(**arguments)


# ---------------------------------------------------------------------- files

FILES = {
    "a.mis": "c hello\np edge 4 4\nn 2 3\ne 1 2\ne 2 3\ne 3 4\ne 4 1\n",
    "a.txt": "4 4\n1 2 1\n2 3 -1\n3 4 1\n1 4 2\n",
    "a.graph": "% METIS\n4 4\n2 4\n1 3\n2 4\n3 1\n",
    "b.graph": "4 4 11\n5 2 1 4 7\n1 1 1 3 1\n2 2 1 4 1\n9 3 1 1 7\n",
    "a.edgelist": "# from 0\n0 1\n1 2\n2 3\n3 0\n",
    "b.edges": "1 2 0.5\n2 3 1\n3 4 1\n4 1 1\n",
}


@pytest.mark.parametrize("name", FILES)
def test_layouts_say_the_same_graph(tmp_path, name):
    """Each layout is a square of four nodes."""
    (tmp_path / name).write_text(FILES[name])
    found = read_graph(tmp_path / name)
    assert (found.num_nodes, found.edges.tolist()) == (4, sorted(SQUARE))
    weights = {"a.mis": ([1, 3, 1, 1], None), "b.graph": ([5, 1, 2, 9], [1, 7, 1, 1])}
    weights |= {"a.txt": (None, [1, 2, -1, 1]), "b.edges": (None, [0.5, 1, 1, 1])}
    nodes, edges = weights.get(name, (None, None))
    assert (found.weight is None, found.edge_weight is None) == (nodes is None, edges is None)
    if nodes is not None:
        assert found.weight.tolist() == nodes
    if edges is not None:
        assert found.edge_weight.tolist() == edges
    if nodes is None or edges is None:
        write_graph(tmp_path / "again.txt", found)
        again = read_graph(tmp_path / "again.txt")
        assert again.edges.tolist() == found.edges.tolist()
        assert again.edge_weight is None or again.edge_weight.tolist() == edges


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.mis", "e 1 2\n", "line 1: 'e 1 2' is not allowed"),
        ("a.mis", "c nothing\n", "there is no line `p edge NODES EDGES`"),
        ("a.txt", "nothing\n", "its first line is not"),
        ("a.mis", "p edge 3 3\ne 1 2\n", "it says that it has 3 edges, but lists 1"),
        ("a.mis", "p edge 3 1\ne 1 4\n", "line 2: node 4 is not allowed; nodes are 1 to 3"),
        ("a.mis", "p edge 3 1\ne 2 2\n", "node 1, counted from 0, is joined to itself"),
        ("a.mis", "p edge x 1\n", "line 1: 'x' is not allowed; it must be a whole number"),
        ("a.mis", "p edge 0 0\n", "0 nodes are not allowed; they must be from 1"),
        ("a.txt", "3 2\n1 2 1\n2 1 5\n", "the edge of nodes 0 and 1, counted from 0, has two weights"),
        ("a.txt", "3 1\n1 2\n", "it must be I J WEIGHT"),
        ("a.txt", "3 1\n1 2 nan\n", "line 2: 'nan' is not allowed; a weight is a number"),
        ("a.graph", "3 1 100\n2\n1\n\n", "vertex sizes and several weights are not"),
        ("a.graph", "2 1\n2\n1\n2\n", "it says that it has 2 nodes, but has 3 lines"),
        ("a.graph", "2 5\n2\n1\n", "it says that it has 5 edges, but lists 1"),
        ("a.edgelist", "0 1\n1 2 3\n", "its lines are not all I J"),
    ],
)
def test_what_is_malformed_is_refused(tmp_path, name, text, words):
    """Each fault is told in one line that names the file."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InstanceError, match=words) as caught:
        read_graph(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arrays_that_are_no_graph_are_refused(rng):
    """What `generate` writes is read; edges of one direction, loops and nodes that are not there are not."""
    drawn = GraphDistribution(8, "er:0.5").draw(2, rng)
    arrays = {key: value.numpy().copy() for key, value in drawn.items()}
    assert graphs.from_arrays({**arrays, "more": arrays["degree"]}) is None
    read = graphs.from_arrays(arrays)
    assert all(torch.equal(read.instances[key], drawn[key]) for key in graphs.KEYS)
    for key, row, place, value, words in (
        ("neighbours", 0, 0, 99, "names nodes that are not there"),
        ("neighbours", 0, 0, 0, "loop|one direction"),
        ("arc_weight", 1, 0, 5, "two weights"),
        ("degree", 1, 0, 50, "not as long as"),
    ):
        broken = {name: array.copy() for name, array in arrays.items()}
        broken[key][row, place] = value
        with pytest.raises(InstanceError, match=words):
            graphs.from_arrays(broken)
