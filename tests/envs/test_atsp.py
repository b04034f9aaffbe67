from __future__ import annotations

import csv
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensordict import TensorDict

from ncogym.baselines import SOLVERS
from ncogym.baselines.lkh import LKH
from ncogym.envs import PROBLEMS, build_task
from ncogym.envs.routing import geometry
from ncogym.envs.routing.atsp import ATSP
from ncogym.errors import ArgumentError, InstanceError, UnsupportedProblem
from ncogym.laws import check_env
from ncogym.plotting import draw
from ncogym.policies.attention import AttentionPolicy
from ncogym.task import Task

DISTRIBUTIONS = ("uniform", "noisy")


@pytest.fixture
def ring(data):
    """Three nodes: 0, 1, 2 and home are 3 long, the other way round is 30."""
    return Task.of(ATSP, 3).read(data / "ring3.atsp")


def shortest_tour(instance: TensorDict) -> float:
    """Try every tour, from the definition."""
    dists = instance["dists"][0].double().tolist()
    return min(
        sum(dists[tour[i - 1]][tour[i]] for i in range(len(tour))) for tour in itertools.permutations(range(len(dists)))
    )


def tours(*each):
    """Return tours of one instance, ``[1, rollouts, steps]``."""
    return torch.tensor([each], dtype=torch.int64)


# ---------------------------------------------------------------------- laws, by hand


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_laws_hold(distribution):
    """Every law holds, and the best of all action sequences is the shortest tour that brute force finds."""
    env, tiny = Task.of(ATSP, 9, distribution), Task.of(ATSP, 6, distribution)
    solvers = [solver() for solver in SOLVERS.values()]
    checked = check_env(env, seed=3, tiny=tiny, brute_force=shortest_tour, solvers=solvers)
    assert {"enumeration finds the optimum", "solvers solve what they take"} <= {*checked}


def test_direction_matters(ring):
    """Along the ring each leg is 1, against it 10, in objective, rewards and the view for solvers alike."""
    env = Task.of(ATSP, 3)
    assert env.objective(ring, tours([0, 1, 2], [1, 2, 0], [2, 1, 0], [0, 2, 1])).tolist() == [[3, 3, 30, 30]]
    assert geometry.distances(ring).tolist() == [[[0, 1, 10], [10, 0, 1], [1, 10, 0]]]
    for order, expected in (((2, 0, 1), [0, -1, -2]), ((2, 1, 0), [0, -10, -20])):
        state, rewards = env.start(ring), []
        for node in order:
            before, action = state, torch.tensor([[node]])
            state = env.advance(before, action)
            rewards.append(env.reward(before, action, state).item())
        assert rewards == expected


@pytest.mark.parametrize(
    ("tour", "words"),
    [
        ([0, 1], "2 nodes are visited; all 3 must be"),
        ([0, 1, 0], "node 0 is visited at step 0 and again at step 2"),
        ([0, 1, 3], "step 2 visits node 3; nodes are 0 to 2"),
        ([0, 1, 2, 0], "step 3 moves on to node 0 after the tour's last node 2"),
    ],
)
def test_violations_are_told_in_words(ring, tour, words):
    """The referee says which step and node break a tour, and has nothing against padding."""
    assert [v.reason for v in Task.of(ATSP, 3).violations(ring, tours(tour))] == [words]
    assert Task.of(ATSP, 3).violations(ring, tours([1, 0, 2, 2])) == []


def test_equivalent_actions_are_rotations(rng):
    """All starts of the tour are drawn, and its reverse never is."""
    env = Task.of(ATSP, 7)
    instances = env.generate(2, rng)
    tour = torch.stack([torch.randperm(7, generator=rng) for _ in range(2)])
    others = env.equivalent_actions(instances, tour, 100, rng)
    for row in range(2):
        rotations = {tuple(tour[row].roll(k).tolist()) for k in range(7)}
        assert set(map(tuple, others[row].tolist())) == rotations


def test_neighbourhoods_are_stretches_in_the_direction_of_the_tour(rng):
    """All stretches of three nodes are drawn, and none backwards."""
    env = Task.of(ATSP, 7)
    part = env.neighbourhood(env.generate(1, rng), torch.arange(7).expand(1, 100, -1), 3, rng)
    opened = set(map(tuple, part.actions[0, :, part.begin : part.end].tolist()))
    assert opened == {(node, (node + 1) % 7, (node + 2) % 7) for node in range(7)}


# ---------------------------------------------------------------------- instances


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_no_detour_is_shorter(distribution, rng):
    """Generated distances are whole millionths, positive off the diagonal, asymmetric, and keep the triangle rule."""
    dists = Task.of(ATSP, 30, distribution).generate(8, rng)["dists"]
    assert dists.dtype == torch.float32
    whole = (dists.double() * 1e6).round()
    assert torch.equal((whole / 1e6).float(), dists)
    assert (whole.diagonal(dim1=1, dim2=2) == 0).all()
    assert (whole + torch.eye(30) > 0).all()
    assert (whole[:, :, None, :] <= whole[:, :, :, None] + whole[:, None, :, :]).all()
    assert 0.1 < (whole - whole.mT).abs().mean() / whole.mean() < 0.6


def test_uniform_distances_are_shortest_ways():
    """A generated matrix holds the shortest ways, of any number of legs, through a matrix of uniform numbers."""
    env = Task.of(ATSP, 12)
    drawn = torch.randint(1, 1_000_001, (1, 12, 12), generator=torch.Generator().manual_seed(5)).double()[0]
    for node in range(12):
        drawn[node, node] = 0
    expected = drawn.clone()
    for _ in range(12):  # Bellman and Ford, one leg more each time
        expected = torch.minimum(expected, (expected[:, :, None] + drawn[None]).amin(1))
    found = env.generate(1, torch.Generator().manual_seed(5))["dists"][0]
    assert torch.equal((found.double() * 1e6).round(), expected)


def test_arrays_are_read():
    """Distances are taken as they are, but for the diagonal, and negative ones are refused."""
    dists = np.random.default_rng(0).uniform(size=(2, 4, 4))
    found = ATSP.from_arrays({"dists": dists})
    assert np.array_equal(found.instances["dists"].numpy(), dists * (1 - np.eye(4)))
    assert found[1:] == (None, None, None)
    assert ATSP.from_arrays({"locs": dists}) is None
    dists[1, 2, 3] = -1
    with pytest.raises(InstanceError, match="instance 1: the weight from node 3 to 4 is -1"):
        ATSP.from_arrays({"dists": dists})


def test_distributions_differ_and_seeds_name_instances():
    """Noisy matrices are not uniform ones; a seed's first instances are the same however many are asked for."""
    uniform, noisy = (Task.of(ATSP, 8, distribution) for distribution in DISTRIBUTIONS)
    assert not torch.allclose(uniform.seeded(2, 7)["dists"], noisy.seeded(2, 7)["dists"])
    assert torch.equal(uniform.seeded(2, 7)["dists"], uniform.seeded(5, 7)["dists"][:2])
    assert not torch.equal(uniform.seeded(2, 7)["dists"], uniform.seeded(2, 8)["dists"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_nodes": 2}, "num_nodes: 2 is not allowed; it must be a whole number of at least 3"),
        ({"distribution": "clustered"}, "distribution: 'clustered' is not allowed; it must be one of uniform, noisy"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    """A value outside of what is allowed is refused in one line that names it."""
    with pytest.raises(ArgumentError, match=words):
        Task.of(ATSP, **arguments)


def test_it_is_a_problem_of_the_table():
    """It is found by its name, tells its size, and keeps its distribution in another one."""
    env = build_task("atsp", num_nodes=5, distribution="noisy")
    other = env.resized(8)
    assert type(other.problem) is ATSP is PROBLEMS["atsp"]
    assert other.arguments() == {"num_nodes": 8, "distribution": "noisy"}
    assert env.instance_size(other.seeded(2, 0)) == 8


# ---------------------------------------------------------------------- files


def test_the_files_diagonal_is_never_used(data, tmp_path, ring):
    """A huge number on the diagonal of a file changes nothing."""
    text = (data / "ring3.atsp").read_text()
    (tmp_path / "huge.atsp").write_text(text.replace("0 1 10", "100000000 1 10"))
    huge = Task.of(ATSP, 3).read(tmp_path / "huge.atsp")
    assert huge["dists"].dtype == torch.float64
    assert torch.equal(huge["dists"], ring["dists"])


@settings(deadline=None, max_examples=40)
@given(
    matrix=st.integers(3, 6).flatmap(
        lambda n: hnp.arrays(np.float64, (n, n), elements=st.floats(0, 1e15) | st.integers(0, 10**15).map(float))
    )
)
def test_a_written_file_reads_the_same(tmp_path_factory, matrix):
    """Distances of a file, written and read again, are the same float64 numbers, with 0 on the diagonal."""
    env, path = Task.of(ATSP, 3), tmp_path_factory.getbasetemp() / "written.atsp"
    np.fill_diagonal(matrix, 0)
    env.write(TensorDict({"dists": torch.from_numpy(matrix)[None]}, batch_size=[1]), path)
    assert torch.equal(env.read(path)["dists"][0], torch.from_numpy(matrix))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_drawn_instance_is_written_in_millionths(distribution, rng, tmp_path):
    """A generated instance comes back with every tour exactly a million times as long, in whole numbers."""
    env = Task.of(ATSP, 6, distribution)
    instance = env.generate(1, rng)
    env.write(instance, tmp_path / "drawn.atsp")
    again = env.read(tmp_path / "drawn.atsp")
    actions = torch.stack([torch.randperm(6, generator=rng) for _ in range(5)])[None]
    assert (again["dists"] == again["dists"].round()).all()
    torch.testing.assert_close(env.objective(again, actions), 1e6 * env.objective(instance, actions), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("TYPE : ATSP", "TYPE : TSP"), "must be symmetric"),
        (("10 0 1", "10 0"), "EDGE_WEIGHT_SECTION has 8 numbers"),
        (("10 0 1", "10 0 -1"), "the weight from node 2 to 3 is -1"),
        (("10 0 1", "10 0 x"), "'x' in EDGE_WEIGHT_SECTION is not a finite number"),
        (("DIMENSION : 3", "DIMENSION : 2"), "DIMENSION must be from 3"),
    ],
)
def test_bad_files_are_refused(data, tmp_path, change, words):
    """What is wrong with a file is told in one line that names it."""
    path = tmp_path / "bad.atsp"
    path.write_text((data / "ring3.atsp").read_text().replace(*change))
    with pytest.raises(InstanceError, match=rf"bad\.atsp.*: .*{words}") as refusal:
        Task.of(ATSP, 3).read(path)
    assert "\n" not in str(refusal.value)


def test_another_problems_file_is_refused(data):
    """A file of the symmetric problem is refused, with its name and type."""
    with pytest.raises(InstanceError, match=r"square4\.tsp: TYPE TSP is not allowed; this problem reads ATSP"):
        Task.of(ATSP, 4).read(data / "square4.tsp")


def test_published_instances_are_read(shared_instances):
    """Every published file has the size that the index says, and features without a trace of its diagonal."""
    env = Task.of(ATSP, 3)
    with open(shared_instances / "index.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["problem"] == "ATSP"]
    assert len(rows) >= 7
    for row in rows:
        instance = env.read(shared_instances / row["file"])
        assert env.instance_size(instance) == int(row["size"])
        nodes, edges = env.instance_features(instance)
        assert nodes.values.isfinite().all()
        assert edges.values.abs().max() < 20


@pytest.mark.parametrize(("name", "optimum"), [("br17", 39), ("ftv33", 1286)])
def test_published_optima_are_found(name, optimum, shared_instances, rng):
    """LKH's tours of two published instances have their published optima."""
    pytest.importorskip("elkai")
    env = Task.of(ATSP, 3)
    (solution,) = LKH(progress_bar=False)(env, env.read(shared_instances / "atsp" / f"{name}.atsp"), None, rng)
    assert solution.objective == optimum


# ---------------------------------------------------------------------- features


def test_features_of_the_ring(ring):
    """By hand: the mean distance is 5.5; ways out and in are 1 and 10; the reduced matrix has 0 and 9."""
    nodes, edges = Task.of(ATSP, 3).instance_features(ring)
    mean, low, high = 1.0, 1 / 5.5, 10 / 5.5
    expected = torch.tensor([mean, low, (high - low) / 2, mean] * 2)
    torch.testing.assert_close(nodes.values, expected.expand(1, 3, 8))
    short = torch.tensor([low, high, math.log(low + 0.05), math.log(high + 0.05), 0, high - low, 0, 0])
    long = torch.tensor([high, low, math.log(high + 0.05), math.log(low + 0.05), high - low, 0, 0.5, 0.5])
    torch.testing.assert_close(edges.values[0, 0, 1], short)
    torch.testing.assert_close(edges.values[0, 1, 0], long)
    assert (edges.values.diagonal(dim1=1, dim2=2) == 0).all()


def test_features_tell_out_from_in(rng):
    """The transposed instance swaps the ways out and in of every node and the two directions of every edge."""
    env = Task.of(ATSP, 11)
    instances = env.generate(3, rng)
    nodes, edges = env.instance_features(instances)
    back_nodes, back_edges = env.instance_features(TensorDict({"dists": instances["dists"].mT}, batch_size=[3]))
    torch.testing.assert_close(back_nodes.values, nodes.values[..., [4, 5, 6, 7, 0, 1, 2, 3]])
    keep = [0, 1, 2, 3, 6, 7]  # rows reduced first and columns reduced first are two matrices
    swapped = edges.values.transpose(1, 2)[..., [0, 1, 2, 3, 4, 5, 7, 6]]
    torch.testing.assert_close(back_edges.values[..., keep], swapped[..., keep])
    reduced = edges.values[..., 4] + 9 * torch.eye(11)
    assert (reduced >= 0).all()
    torch.testing.assert_close(reduced.amin(1), torch.zeros(3, 11))  # a 0 in every column
    torch.testing.assert_close(edges.values[..., 5], edges.values[..., 4].mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_policy_sees_no_scale(dtype, rng):
    """An attention policy gives the same logits in other units, to float32 and float64 instances."""
    env = Task.of(ATSP, 10)
    torch.manual_seed(0)
    policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()
    instances = env.generate(2, rng)
    other = TensorDict({"dists": (instances["dists"] * 700).to(dtype)}, batch_size=[2])
    step = env.step_features(env.start(instances, 3))
    one, two = (policy.logits(policy.encode(env.instance_features(i)), step) for i in (instances, other))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 4.0])
def test_equal_distances_have_finite_features(value):
    """Where all distances are equal, or all are 0, nothing is divided by zero, and no way is shorter than another."""
    dists = value * (1 - torch.eye(5))[None]
    nodes, edges = Task.of(ATSP, 5).instance_features(TensorDict({"dists": dists}, batch_size=[1]))
    assert nodes.values.isfinite().all()
    assert edges.values.isfinite().all()
    assert (edges.values[..., 6:] == 0).all()


# ---------------------------------------------------------------------- symmetries, solvers, pictures


def test_the_other_way_round(rng):
    """There are two images at most: the instance, and its ways back, on which tours are read backwards."""
    env = Task.of(ATSP, 5)
    instances = env.generate(2, rng)
    assert [len(env.symmetries(instances, count, rng)) for count in (1, 2, 8, 20)] == [1, 2, 2, 2]
    same, turned = env.symmetries(instances)
    assert torch.equal(same["dists"], instances["dists"])
    tours = torch.tensor([[0, 3, 1, 4, 2]]).expand(2, 1, -1)
    backwards = env.imaged(instances, tours, 1)
    assert backwards[0, 0].tolist() == [2, 4, 1, 3, 0]
    torch.testing.assert_close(env.objective(turned, backwards), env.objective(instances, tours))
    assert not torch.allclose(env.objective(instances, backwards), env.objective(instances, tours))


@pytest.mark.parametrize("name", ["two-opt"])
def test_solvers_of_symmetric_problems_refuse(name, rng):
    """A solver that needs symmetric distances says so in one line."""
    env = Task.of(ATSP, 6)
    with pytest.raises(UnsupportedProblem, match=f"^{name} cannot take atsp; these closed tours have asymmetric, .*$"):
        SOLVERS[name]()(env, env.generate(2, rng), None, rng)


@pytest.mark.parametrize("name", ["nearest-neighbour", "farthest-insertion", "random-insertion"])
def test_other_solvers_keep_to_the_direction(name, ring, rng):
    """Heuristics that take a matrix find the cheap way round the ring."""
    (solution,) = SOLVERS[name]()(Task.of(ATSP, 3), ring, None, rng)
    assert solution.objective == 3
    assert solution.feasible


@pytest.mark.parametrize("key", ["read", "drawn"])
def test_a_tour_can_be_drawn(key, ring, rng, tmp_path):
    """A picture has an arrow for each leg, and needs no coordinates."""
    pytest.importorskip("matplotlib")
    instance = ring if key == "read" else Task.of(ATSP, 3).generate(1, rng)
    draw(Task.of(ATSP, 3).sketch(instance, torch.tensor([2, 0, 1])), tmp_path / "tour.svg", "a ring")
    text = (tmp_path / "tour.svg").read_text()
    assert text.split('id="line-0-arrows"')[1].split("</g>")[0].count("<path") == 3


def test_a_sketch_has_arrows(ring):
    """The tour has a direction; nodes are placed by their distances, here all equally far from each other."""
    sketch = Task.of(ATSP, 3).sketch(ring, torch.tensor([2, 0, 1]))
    assert [tuple(line) for line in sketch.lines] == [([2, 0, 1, 2], 0, "arrows")]
    places = torch.tensor(sketch.points, dtype=torch.float64)
    sides = torch.pdist(places)
    assert sides.min() == pytest.approx(float(sides.max()), rel=0.01)
