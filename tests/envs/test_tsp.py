from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from ncogym.baselines import SOLVERS
from ncogym.envs.routing import geometry
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import ArgumentError, InstanceError
from ncogym.laws import check_env
from ncogym.plotting import draw
from ncogym.policies.attention import AttentionPolicy
from ncogym.task import Task

DISTRIBUTIONS = ("uniform", "clustered", "explosion", "mixed")


@pytest.fixture
def rectangle():
    """The corners of a rectangle of 3 by 4, in order round it; its diagonals are 5."""
    return TensorDict({"locs": torch.tensor([[[0.0, 0.0], [3.0, 0.0], [3.0, 4.0], [0.0, 4.0]]])}, batch_size=[1])


@pytest.fixture
def env():
    """Tours of four nodes."""
    return Task.of(TSP, num_nodes=4)


def tours(*each):
    """Return tours of one instance, ``[1, rollouts, steps]``."""
    return torch.tensor([each], dtype=torch.int64)


def shortest_tour(instance: TensorDict) -> float:
    """Try every tour, from the definition."""
    places = instance["locs"][0].double().tolist()
    return min(
        sum(math.dist(places[tour[i - 1]], places[tour[i]]) for i in range(len(tour)))
        for tour in itertools.permutations(range(len(places)))
    )


# ---------------------------------------------------------------------- laws


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_laws_hold(distribution):
    """Every law holds, and the best of all action sequences is the shortest tour that brute force finds."""
    env, tiny = Task.of(TSP, 9, distribution), Task.of(TSP, 6, distribution)
    solvers = [solver() for solver in SOLVERS.values()]
    checked = check_env(env, seed=3, tiny=tiny, brute_force=shortest_tour, solvers=solvers)
    assert {"enumeration finds the optimum", "solvers solve what they take"} <= {*checked}


# ---------------------------------------------------------------------- dynamics and referee, by hand


def test_a_tour_step_by_step(env, rectangle):
    """Four steps along the rectangle: mask, nodes, count and reward are what one reads off the picture."""
    state, rewards = env.start(rectangle), []
    assert state.first.tolist() == state.current.tolist() == [[-1]]
    for action, mask, left in (
        (2, [1, 1, 0, 1], 3),
        (3, [1, 1, 0, 0], 2),
        (0, [0, 1, 0, 0], 1),
        (1, [0, 1, 0, 0], 0),  # all visited: only the last node may be repeated
        (1, [0, 1, 0, 0], 0),
    ):
        before, action = state, torch.tensor([[action]])
        state = env.advance(before, action)
        rewards.append(env.reward(before, action, state).item())
        assert state.first.item() == 2
        assert torch.equal(state.current, action)
        assert state.action_mask.int().tolist() == [[mask]]
        assert state.num_left.item() == left
        assert state.done.item() == (left == 0)
    assert rewards == [0, -3, -4, -3 - 4, 0]


def test_the_objective_is_the_closed_tour(env, rectangle):
    """Round the rectangle it is 14, across its diagonals 18 or 16, in float64."""
    objective = env.objective(rectangle, tours([0, 1, 2, 3], [0, 2, 1, 3], [1, 3, 2, 0], [0, 1, 3, 2]))
    assert objective.tolist() == [[14, 18, 16, 16]]
    assert objective.dtype == torch.float64


@pytest.mark.parametrize("padded", [[2, 1, 0, 3], [2, 1, 0, 3, 3], [2, 1, 0, 3, 3, 3, 3]])
def test_padding_is_read_as_nothing_done(env, rectangle, padded):
    """Repeats of the last node change neither the objective nor the verdict."""
    assert env.objective(rectangle, tours(padded)).item() == 14
    assert env.violations(rectangle, tours(padded)) == []


@pytest.mark.parametrize(
    ("tour", "words"),
    [
        ([0, 1, 2], "3 nodes are visited; all 4 must be"),
        ([0, 1, 2, 1], "node 1 is visited at step 1 and again at step 3"),
        ([0, 1, 2, 4], "step 3 visits node 4; nodes are 0 to 3"),
        ([-1, 1, 2, 3], "step 0 visits node -1; nodes are 0 to 3"),
        ([0, 1, 2, 3, 0], "step 4 moves on to node 0 after the tour's last node 3"),
        ([0, 0, 1, 2, 3], "node 0 is visited at step 0 and again at step 1"),
        ([0, 1, 2, 3, 7], "step 4 visits node 7; nodes are 0 to 3"),
        ([], "0 nodes are visited; all 4 must be"),
    ],
)
def test_violations_are_told_in_words(env, rectangle, tour, words):
    """The referee says which step and node break a tour."""
    assert [v.reason for v in env.violations(rectangle, tours(tour))] == [words]


def test_violations_name_their_row_and_rollout(env, rng):
    """In a batch the referee points at the broken rollouts and at no other."""
    actions = torch.arange(4).repeat(2, 3, 1)
    actions[0, 2, 1] = actions[1, 0, 3] = 0
    found = env.violations(env.generate(2, rng), actions)
    assert [(v.row, v.rollout) for v in found] == [(0, 2), (1, 0)]


def test_objective_is_precise_far_from_the_origin(env, rectangle):
    """Distances are differences in float64: a shift by a million does not touch them."""
    far = TensorDict({"locs": rectangle["locs"] + 1e6}, batch_size=[1])
    assert env.objective(far, tours([0, 2, 1, 3])).item() == 18


def test_distances_are_what_the_objective_adds_up(env, rng):
    """The matrix for outside solvers gives each tour its objective, from coordinates and from given distances."""
    instances = env.generate(2, rng)
    given = instances.clone().update({"dists": (1000 * geometry.distances(instances)).round()})
    actions = torch.stack([torch.randperm(4, generator=rng) for _ in range(6)]).view(2, 3, 4)
    for each in (instances, given):
        dists = geometry.distances(each)
        assert dists.dtype == torch.float64
        assert torch.equal(dists, dists.mT)
        assert (dists.diagonal(dim1=1, dim2=2) == 0).all()
        for row in range(2):
            for rollout, tour in enumerate(actions[row].tolist()):
                length = sum(float(dists[row, tour[i - 1], tour[i]]) for i in range(4))
                assert math.isclose(env.objective(each, actions)[row, rollout], length, rel_tol=1e-12)


# ---------------------------------------------------------------------- instances


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_instances_lie_in_the_unit_box(distribution, rng):
    """Generated nodes are finite float32 numbers of the unit box, and no two of them are at one place."""
    locs = Task.of(TSP, 100, distribution).generate(32, rng)["locs"]
    assert locs.shape == (32, 100, 2)
    assert locs.dtype == torch.float32
    assert (locs >= 0).all()
    assert (locs <= 1).all()
    apart = torch.cdist(locs, locs, compute_mode="donot_use_mm_for_euclid_dist") + torch.eye(100)
    assert (apart > 0).all()


def test_distributions_differ_as_they_should(rng):
    """Clustered nodes have nearer neighbours than uniform ones, exploded ones a larger hole; mixed holds all three."""
    locs = {distribution: Task.of(TSP, 100, distribution).generate(400, rng)["locs"] for distribution in DISTRIBUTIONS}
    nearest = {d: (torch.cdist(x, x) + 9 * torch.eye(100)).amin(-1).mean(-1) for d, x in locs.items()}
    assert nearest["clustered"].mean() < 0.6 * nearest["uniform"].mean()
    for limit in (0.03, 0.048):  # half of the rows are uniform, a quarter clustered, a quarter exploded
        share = {d: (x < limit).float().mean() for d, x in nearest.items()}
        expected = 0.5 * share["uniform"] + 0.25 * share["clustered"] + 0.25 * share["explosion"]
        assert abs(share["mixed"] - expected) < 0.1
    grid = torch.cartesian_prod(*[torch.linspace(0.2, 0.8, 13)] * 2)
    hole = {d: torch.cdist(grid.expand(400, -1, -1), x).amin(-1).amax(-1).mean() for d, x in locs.items()}
    assert hole["explosion"] > 1.3 * hole["uniform"]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_seed_names_a_sequence_of_instances(distribution):
    """The first two instances of a seed are the same however many are asked for."""
    env = Task.of(TSP, 6, distribution)
    assert torch.equal(env.seeded(2, seed=7)["locs"], env.seeded(5, seed=7)["locs"][:2])
    assert not torch.equal(env.seeded(2, seed=7)["locs"], env.seeded(2, seed=8)["locs"])


def test_seeded_instances_are_the_fields(shared_instances):
    """Seed 4321 gives the published validation set of Kool et al., to the last bit."""
    with np.load(shared_instances / "nco" / "tsp20_seed4321.npz") as published:
        places = torch.from_numpy(published["coords"])
    assert torch.equal(Task.of(TSP, 20).seeded(len(places), seed=4321)["locs"], places)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_nodes": 2}, "num_nodes: 2 is not allowed; it must be a whole number of at least 3"),
        ({"num_nodes": -5}, "num_nodes: -5 is not allowed"),
        ({"num_nodes": 4.0}, "num_nodes: 4.0 is not allowed"),
        ({"num_nodes": True}, "num_nodes: True is not allowed"),
        ({"num_nodes": "4"}, "num_nodes: 4 is not allowed"),
        ({"distribution": "gaussian"}, "distribution: 'gaussian' is not allowed; it must be one of uniform, clustered"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    """A value outside of what is allowed is refused in one line that names it."""
    with pytest.raises(ArgumentError, match=words):
        Task.of(TSP, **arguments)


def test_an_env_can_be_resized():
    """An environment tells its size and that of given instances, and keeps its distribution in another size."""
    env = Task.of(TSP, 5, "clustered")
    other = env.resized(8)
    assert (env.size, other.size) == (5, 8)
    assert other.arguments() == {"num_nodes": 8, "distribution": "clustered"}
    assert env.instance_size(other.seeded(2, 0)) == 8


# ---------------------------------------------------------------------- files


def test_a_file_is_scored_by_its_own_rule(env, data):
    """In the unit square the file rounds its diagonals to 1, so that every tour is 4; unrounded, two are 4.83."""
    instance = env.read(data / "square4.tsp")
    crossed = tours([0, 2, 1, 3])
    assert env.objective(instance, crossed).item() == 4
    assert env.objective(instance.select("locs"), crossed).item() == pytest.approx(2 + 2 * math.sqrt(2))


def test_rewards_follow_the_files_rule(env, data):
    """The rewards sum to the rounded length too."""
    instance, total = env.read(data / "square4.tsp"), 0.0
    state = env.start(instance)
    for node in (0, 2, 1, 3):
        action = torch.tensor([[node]])
        successor = env.advance(state, action)
        total, state = total + env.reward(state, action, successor).item(), successor
    assert total == -4


def test_a_file_of_distances_alone_is_read(env, data):
    """An explicit matrix defines the three tours of four nodes, and gets places to draw and to embed."""
    instance = env.read(data / "matrix4.tsp")
    assert instance.batch_size == (1,)
    assert env.objective(instance, tours([0, 1, 2, 3], [0, 1, 3, 2], [0, 2, 1, 3])).tolist() == [[16, 20, 18]]
    assert instance["locs"].shape == (1, 4, 2)
    assert instance["locs"].isfinite().all()


def test_another_problems_file_is_refused(env, data):
    """A file of the asymmetric problem is refused, with its name and type."""
    with pytest.raises(InstanceError, match=r"ring3\.atsp: TYPE ATSP is not allowed"):
        env.read(data / "ring3.atsp")


def test_the_published_tour_beside_a_file_is_found(env, data):
    """The tour file beside an instance gives the published objective; without one there is none."""
    path = data / "rectangle4.tsp"
    assert env.published_objective(path, env.read(path)) == 14
    assert env.published_objective(data / "square4.tsp", env.read(data / "square4.tsp")) is None


def test_the_published_tour_is_checked(env, data, tmp_path):
    """The tour beside a file is there as actions, and one of other nodes is refused with the file's name."""
    instance = env.read(data / "rectangle4.tsp")
    assert env.published_solution(data / "rectangle4.tsp", instance).tolist() == [0, 2, 1, 3]
    (tmp_path / "a.opt.tour").write_text("DIMENSION : 3\nTOUR_SECTION\n1\n2\n3\n-1\nEOF\n")
    with pytest.raises(InstanceError, match=r"a\.opt\.tour: 3 nodes are visited"):
        env.published_solution(tmp_path / "a.tsp", instance)


@pytest.mark.parametrize("name", ["locs", "coords"])
def test_arrays_are_read(name):
    """Coordinates keep their precision; lengths and tours are taken where they are there."""
    locs = np.random.default_rng(0).uniform(size=(2, 4, 2)).astype(np.float32)
    found = TSP.from_arrays({name: locs, "ref_length": np.array([3, 4]), "ref_tour": np.array([[0, 1, 2, 3]] * 2)})
    assert np.array_equal(found.instances["locs"].numpy(), locs)
    assert found.instances["locs"].dtype == torch.float32
    assert (found.best_known.tolist(), found.actions.tolist(), found.proven) == ([3, 4], [[0, 1, 2, 3]] * 2, None)
    assert TSP.from_arrays({name: locs})[1:] == (None, None, None)
    assert TSP.from_arrays({"dists": np.ones((1, 3, 3))}) is None
    assert TSP.from_arrays({"locs": locs, "coords": locs}) is None


def test_a_written_tour_is_the_published_one(env, data, tmp_path):
    """A solution that is written beside a copy of the file is read back with its own length."""
    path = tmp_path / "mine.tsp"
    path.write_text((data / "matrix4.tsp").read_text(encoding="utf-8"), encoding="utf-8")
    instance = env.read(path)
    written = env.write_solution(instance, torch.tensor([0, 2, 1, 3]), path, "mine")
    written.rename(path.with_suffix(".opt.tour"))
    assert env.published_objective(path, instance) == 18


def test_a_published_instance_has_its_published_optimum(env, shared_instances):
    """The optimal tour of berlin52 is 7542 long, of eil51 426 (EUC_2D)."""
    for name, optimum in (("berlin52", 7542), ("eil51", 426)):
        path = shared_instances / "tsp" / f"{name}.tsp"
        assert env.published_objective(path, env.read(path)) == optimum


def test_a_geographic_file_gets_places_of_its_distances(env, shared_instances):
    """Places of a file in degrees and minutes have nearly its distances, but for a common factor."""
    instance = env.read(shared_instances / "tsp" / "burma14.tsp")
    flat = torch.pdist(instance["locs"][0].double())
    above = torch.ones(14, 14, dtype=torch.bool).triu(1)
    factors = instance["dists"][0][above] / flat
    error = (factors / factors.median() - 1).abs()
    assert error.mean() < 0.006
    assert error.max() < 0.05  # neighbours are 40 km apart and rounded to 1 km


def test_latitudes_and_longitudes_get_places_of_their_distances(env, tmp_path):
    """Places of a GEOM file, in degrees of latitude, are as far apart as its distances in metres, north up."""
    degrees = [(48.20, 16.37), (48.21, 16.36), (48.19, 16.40)]
    rows = "".join(f"{node} {north} {east}\n" for node, (north, east) in enumerate(degrees, 1))
    path = tmp_path / "city.tsp"
    path.write_text(f"TYPE: TSP\nDIMENSION: 3\nEDGE_WEIGHT_TYPE: GEOM\nNODE_COORD_SECTION\n{rows}")
    instance = env.read(path)
    flat = torch.cdist(instance["locs"].double(), instance["locs"].double())
    assert torch.allclose(flat * 111323.87, instance["dists"], rtol=2e-3, atol=3)
    assert instance["locs"][0, :, 1].argsort().tolist() == [2, 0, 1]


def test_a_written_instance_scores_as_it_did(env, rng, tmp_path):
    """A drawn instance comes back in millionths, each of its four edges rounded; given distances come back exactly."""
    instance, crossed = env.generate(1, rng), tours([0, 2, 1, 3])
    env.write(instance, tmp_path / "drawn.tsp")
    again = env.read(tmp_path / "drawn.tsp")
    assert env.objective(again, crossed).item() == pytest.approx(1e6 * env.objective(instance, crossed).item(), abs=2)
    dists = TensorDict({"dists": geometry.distances(instance)}, batch_size=[1])
    env.write(dists, tmp_path / "dists.tsp")
    assert torch.equal(env.read(tmp_path / "dists.tsp")["dists"], dists["dists"])


def test_plain_actions_are_without_padding(env, rectangle):
    """For output a tour has each node once."""
    assert env.plain_actions(rectangle, torch.tensor([2, 1, 0, 3, 3, 3])) == [2, 1, 0, 3]


# ---------------------------------------------------------------------- features


def test_features_are_free_of_shift_and_scale(rng):
    """An instance moved and enlarged shows the same numbers."""
    env = Task.of(TSP, 12)
    instances = env.generate(4, rng)
    moved = TensorDict({"locs": 700 * instances["locs"] + torch.tensor([300.0, -50.0])}, batch_size=[4])
    for mine, theirs in zip(env.instance_features(moved), env.instance_features(instances), strict=True):
        torch.testing.assert_close(mine.values, theirs.values, rtol=1e-3, atol=1e-4)


def test_features_are_in_the_unit_box(rectangle, env):
    """The rectangle's longer side becomes 1 and its middle 0; edges hold distances and their logarithm by spacing."""
    nodes, edges = env.instance_features(rectangle)
    assert nodes.values.tolist() == [[[-0.375, -0.5], [0.375, -0.5], [0.375, 0.5], [-0.375, 0.5]]]
    assert edges.values[0, 0, :, 0].tolist() == [0, 0.75, 1.25, 1]
    expected = torch.tensor([0, 0.75, 1.25, 1]) * 2 + 0.05  # the mean spacing of four nodes is one half
    torch.testing.assert_close(edges.values[0, 0, :, 1], expected.log())


def test_the_files_distances_are_what_features_show(env, data):
    """Where a file defines distances the edges show these, in the coordinates' unit, and not the coordinates'."""
    edges = env.instance_features(env.read(data / "square4.tsp"))[1].values[0, ..., 0]
    off_diagonal = edges[~torch.eye(4, dtype=torch.bool)]
    torch.testing.assert_close(off_diagonal, off_diagonal[:1].expand(12))
    assert 1 < off_diagonal[0] < math.sqrt(2)


def test_distances_alone_are_enough(rng):
    """An instance without coordinates has finite features and symmetries, and keeps its objective under them."""
    env = Task.of(TSP, 8)
    places = env.generate(3, rng)
    instances = TensorDict({"dists": geometry.distances(places)}, batch_size=[3])
    actions = torch.stack([torch.randperm(8, generator=rng) for _ in range(6)]).view(3, 2, 8)
    assert torch.allclose(env.objective(instances, actions), env.objective(places, actions))
    for feature in env.instance_features(instances):
        assert feature.values.isfinite().all()
    for image in env.symmetries(instances, 10, rng):
        assert torch.equal(env.objective(image, actions), env.objective(instances, actions))
    assert env.start(instances).action_mask.shape == (3, 1, 8)
    assert env.first_actions(instances).shape == (3, 8)


def test_places_of_a_planar_set_have_its_distances(rng):
    """Nodes placed from the distances of points of the plane have these distances again."""
    env = Task.of(TSP, 10)
    instances = env.generate(4, rng)
    dists = geometry.distances(instances)
    nodes, _ = env.instance_features(TensorDict({"dists": dists}, batch_size=[4]))
    found = torch.cdist(nodes.values.double(), nodes.values.double())
    scale = found[:, 0, 1] / dists[:, 0, 1]  # features are in a unit of their own
    torch.testing.assert_close(found, dists * scale[:, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("key", ["locs", "dists"])
def test_nodes_at_one_place_have_finite_features(key, env):
    """Even if all nodes fall together, nothing is divided by zero."""
    value = torch.ones(1, 4, 2) if key == "locs" else torch.zeros(1, 4, 4, dtype=torch.float64)
    for feature in env.instance_features(TensorDict({key: value}, batch_size=[1])):
        assert feature.values.isfinite().all()


def test_a_policy_sees_no_shift_and_no_scale(rng):
    """An attention policy gives the same logits for an instance moved and enlarged."""
    env = Task.of(TSP, 10)
    torch.manual_seed(0)
    policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()
    instances = env.generate(2, rng)
    moved = TensorDict({"locs": 8 * instances["locs"] - 3}, batch_size=[2])
    step = env.step_features(env.start(instances, 3))
    one, other = (policy.logits(policy.encode(env.instance_features(i)), step) for i in (instances, moved))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_step_features_name_first_and_current(env, rectangle):
    """The roles are the tour's first node and its current one, nobody before the first action."""
    state = env.start(rectangle, 2)
    assert env.step_features(state).nodes.tolist() == [[[-1, -1], [-1, -1]]]
    for nodes in ([3, 1], [0, 2]):
        state = env.advance(state, torch.tensor([nodes]))
    assert env.step_features(state).nodes.tolist() == [[[3, 0], [1, 2]]]


# ---------------------------------------------------------------------- starts, symmetries, pictures


def test_every_node_is_a_start(env, rng):
    """A multi-start begins at each node, in their order or in a drawn one."""
    instances = env.generate(50, rng)
    assert torch.equal(env.first_actions(instances), torch.arange(4).expand(50, -1))
    drawn = env.first_actions(instances, rng)
    assert torch.equal(drawn.sort(-1).values, torch.arange(4).expand(50, -1))
    assert (drawn != torch.arange(4)).any()
    assert set(drawn[:, 0].tolist()) == {0, 1, 2, 3}


def test_the_eight_images_are_the_squares(env, rng):
    """The first eight images are all different, the first is the instance but for a shift, and all are congruent."""
    instances = env.generate(3, rng)
    images = env.symmetries(instances)
    places = [image["locs"] - image["locs"].mean(1, keepdim=True) for image in images]
    assert len(images) == 8
    torch.testing.assert_close(places[0], instances["locs"] - instances["locs"].mean(1, keepdim=True))
    for number, one in enumerate(places):
        assert all((one - other).abs().max() > 0.01 for other in places[:number])
        torch.testing.assert_close(
            geometry.distances(images[number]), geometry.distances(instances), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("count", [1, 4, 8, 12])
def test_as_many_images_as_asked_for(env, rng, count):
    """Images beyond the eighth are random rotations, another for each instance and each image."""
    images = env.symmetries(env.generate(2, rng), count, rng)
    assert len(images) == count
    for number, image in enumerate(images):
        assert not any(torch.equal(image["locs"], other["locs"]) for other in images[:number])


def test_random_images_need_a_generator(env, rng):
    """More than eight images without a generator are refused."""
    with pytest.raises(ArgumentError, match="count: 9 images need a generator"):
        env.symmetries(env.generate(2, rng), 9)


def test_images_leave_the_instance_alone(env, rng):
    """An image is a new TensorDict; the instance keeps its places."""
    instances = env.generate(2, rng)
    before = instances["locs"].clone()
    env.symmetries(instances, 9, rng)
    assert torch.equal(instances["locs"], before)


def test_equivalent_actions_are_the_same_tour(rng):
    """Rotations and reversals of a tour have its objective and no fault, and they differ."""
    env = Task.of(TSP, 7)
    instances = env.generate(3, rng)
    tour = torch.stack([torch.randperm(7, generator=rng) for _ in range(3)])
    others = env.equivalent_actions(instances, tour, 50, rng)
    assert env.violations(instances, others) == []
    expected = env.objective(instances, tour[:, None]).expand(-1, 50)
    torch.testing.assert_close(env.objective(instances, others), expected)
    assert len(set(map(tuple, others[0].tolist()))) > 7  # of 14: all starts and both directions


def test_neighbourhoods_are_stretches(rng):
    """The open nodes lie side by side in the tour; all stretches are drawn; padding is cut off."""
    env = Task.of(TSP, 7)
    instances = env.generate(2, rng)
    tours = torch.arange(7).roll(3).expand(2, 200, -1)
    part = env.neighbourhood(instances, env.padded(instances, tours, 9), 3, rng)
    assert (part.env, part.begin, part.end) == (env.problem, 4, 7)
    opened = part.actions[..., part.begin : part.end].flatten(0, 1)
    steps = opened.diff(dim=1) % 7
    assert ((steps == 1).all(1) | (steps == 6).all(1)).all()
    assert len(set(map(tuple, opened.tolist()))) == 14


def test_a_tour_can_be_drawn(env, rectangle, tmp_path):
    """A picture file is written, from coordinates and from distances alone."""
    pytest.importorskip("matplotlib")
    dists = TensorDict({"dists": geometry.distances(rectangle)}, batch_size=[1])
    for name, instance in (("locs.png", rectangle), ("dists.png", dists)):
        draw(env.sketch(instance, torch.tensor([0, 1, 2, 3])), tmp_path / name, "a rectangle")
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_sketch_has_the_closed_tour(env, rectangle):
    """The rectangle of 3 by 4 in thousandths of its longer side, and a line through all corners and home."""
    sketch = env.sketch(rectangle, torch.tensor([2, 0, 1, 3]))
    assert sketch.points == [[0, 0], [750, 0], [750, 1000], [0, 1000]]
    assert (sketch.width, sketch.height, sketch.proportional) == (750, 1000, True)
    assert [tuple(line) for line in sketch.lines] == [([2, 0, 1, 3, 2], 0, "solid")]
    assert [tuple(mark) for mark in sketch.marks] == [([2], 1, "square")]


def test_a_broken_tour_is_sketched_as_far_as_it_goes(env, rectangle):
    """Nodes that are not there are passed over, and nothing at all is no error."""
    assert env.sketch(rectangle, torch.tensor([2, 7, -1, 0])).lines[0].points == [2, 0, 2]
    assert env.sketch(rectangle, torch.empty(0, dtype=torch.int64)).lines[0].points == []
