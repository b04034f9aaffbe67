from __future__ import annotations

import csv
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from ncogym.baselines import SOLVERS
from ncogym.envs.routing import geometry
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.instances import CVRPDistribution
from ncogym.envs.routing.moves import routes_of
from ncogym.errors import ArgumentError, InstanceError
from ncogym.laws import check_env
from ncogym.plotting import draw
from ncogym.task import Task

DISTRIBUTIONS = ("uniform", "centre", "clustered", "x", "mixed")


class FileLike(CVRPDistribution):
    """Instances as a file could hold them: whole distances in `dists`, demands of one decimal in float64."""

    def draw(self, count, rng):
        drawn = super().draw(count, rng)
        tenths = {key: drawn[key].double() / 10 for key in ("demand", "capacity")}
        return drawn.update({**tenths, "dists": (1000 * geometry.distances(drawn)).round()})


@pytest.fixture
def cross(data):
    """A depot in the middle of a cross with arms of 3 and 4; demands 2, 3, 4, 5 counter-clockwise, capacity 7."""
    return Task.of(CVRP, 4).read(data / "cross4.vrp")


@pytest.fixture
def env():
    """Four customers."""
    return Task.of(CVRP, 4)


def plans(*each):
    """Return solutions of one instance, ``[1, rollouts, steps]``."""
    return torch.tensor([each], dtype=torch.int64)


def cheapest(instance: TensorDict) -> float:
    """Try every order of the customers with every way to cut it into routes, from the definition."""
    places, demand = instance["locs"][0].double().tolist(), instance["demand"][0].double().tolist()
    capacity, n = float(instance["capacity"][0]), instance["demand"].shape[1] - 1
    dists = instance["dists"][0].tolist() if "dists" in instance.keys() else None
    length = math.dist if dists is None else lambda a, b: dists[places.index(a)][places.index(b)]
    best = math.inf
    for order in itertools.permutations(range(1, n + 1)):
        for cuts in itertools.product((False, True), repeat=n - 1):
            routes = [[order[0]]]
            for node, cut in zip(order[1:], cuts, strict=True):
                routes.append([node]) if cut else routes[-1].append(node)
            if all(sum(demand[node] for node in route) <= capacity + 1e-9 for route in routes):
                stops = [[0, *route, 0] for route in routes]
                legs = [pair for stop in stops for pair in itertools.pairwise(stop)]
                best = min(best, sum(length(places[a], places[b]) for a, b in legs))
    return best


# ---------------------------------------------------------------------- laws


@pytest.mark.parametrize("kind", [*DISTRIBUTIONS, "file"])
def test_the_laws_hold(kind):
    """Every law holds, and the best of all action sequences is what trying every order and every cut finds."""
    env, tiny = (Task(CVRP(), FileLike(n) if kind == "file" else CVRPDistribution(n, kind)) for n in (9, 4))
    solvers = [solver() for solver in SOLVERS.values()]
    checked = check_env(env, seed=3, tiny=tiny, brute_force=cheapest, solvers=solvers)
    assert {"enumeration finds the optimum", "solvers solve what they take"} <= {*checked}


# ---------------------------------------------------------------------- dynamics and referee, by hand


def test_routes_step_by_step(env, cross):
    """Two routes round the cross: mask, load, count and reward are what one reads off the picture."""
    state, rewards = env.start(cross), []
    assert state.action_mask.int().tolist() == [[[0, 1, 1, 1, 1]]]
    for action, current, load, mask, left in (
        (3, 3, 3, [1, 1, 1, 0, 0], 3),  # 4 of 7 taken: the demand 5 does not fit any more
        (1, 1, 1, [1, 0, 0, 0, 0], 2),
        (0, 0, 7, [0, 0, 1, 0, 1], 2),  # at the depot the vehicle must go on
        (4, 4, 2, [1, 0, 0, 0, 0], 1),
        (0, 0, 7, [0, 0, 1, 0, 0], 1),
        (2, 0, 7, [1, 0, 0, 0, 0], 0),  # all visited: home
        (0, 0, 7, [1, 0, 0, 0, 0], 0),
    ):
        before, action = state, torch.tensor([[action]])
        state = env.advance(before, action)
        rewards.append(env.reward(before, action, state).item())
        assert state.current.item() == current
        assert state.load_left.item() == load
        assert state.action_mask.int().tolist() == [[mask]]
        assert state.num_left.item() == left
        assert state.done.item() == (left == 0)
    assert rewards == [-3, -6, -3, -4, -4, -4 - 4, 0]
    assert state.visited.all()


def test_a_vehicle_is_filled_to_the_brim():
    """Three demands of 0.2 fill the capacity of 0.6, though in float64 they sum to more and leave too little."""
    values = {
        "locs": torch.rand(1, 4, 2, generator=torch.Generator().manual_seed(0)),
        "demand": torch.tensor([[0.0, 0.2, 0.2, 0.2]], dtype=torch.float64),
        "capacity": torch.tensor([0.6], dtype=torch.float64),
    }
    env, instance = Task.of(CVRP, 3), TensorDict(values, batch_size=[1])
    state = env.start(instance)
    for node in (1, 2, 3):
        assert state.action_mask[0, 0, node]
        state = env.advance(state, torch.tensor([[node]]))
    assert env.violations(instance, plans([1, 2, 3])) == []
    values["demand"][0, 1] += 1e-6
    assert len(env.violations(TensorDict(values, batch_size=[1]), plans([1, 2, 3]))) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_numbers_are_exact(env, dtype):
    """One unit too many is refused, by mask and referee, however large the numbers are."""
    big = 1e12 if dtype == torch.float64 else 2.0**24 - 1
    demand = torch.tensor([[0, big - 1, 1, 2, 1]], dtype=dtype)
    values = {"locs": torch.rand(1, 5, 2), "demand": demand, "capacity": torch.tensor([big], dtype=dtype)}
    instance = TensorDict(values, batch_size=[1])
    state = env.advance(env.start(instance), torch.tensor([[1]]))
    assert state.action_mask.int().tolist() == [[[1, 0, 1, 0, 1]]]
    found = env.violations(instance, plans([1, 3, 0, 2, 4], [1, 2, 0, 3, 4]))
    assert [v.rollout for v in found] == [0]


def test_the_objective_has_all_depot_legs(env, cross):
    """Leading, repeated and closing zeros are nothing done; the return after the last customer is implied."""
    solutions = plans(
        [1, 4, 0, 2, 3, 0, 0, 0], [0, 1, 4, 0, 0, 2, 3, 0], [0, 0, 1, 4, 0, 0, 2, 3], [1, 0, 2, 0, 3, 0, 4, 0]
    )
    objective = env.objective(cross, solutions)
    assert objective.tolist() == [[24, 24, 24, 28]]
    assert objective.dtype == torch.float64
    assert env.violations(cross, solutions) == []


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ([1, 4, 0, 2], ["customer 3 is never visited"]),
        ([1, 4, 0, 2, 3, 0, 1], ["customer 1 is visited at step 0 and again at step 6"]),
        ([1, 4, 0, 2, 5, 3], ["step 4 visits node 5; nodes are 0 to 4"]),
        ([-1, 1, 4, 0, 2, 3], ["step 0 visits node -1; nodes are 0 to 4"]),
        ([1, 2, 0, 0, 3, 4], ["route 2 (customers 3 4) carries 9, capacity is 7"]),
        ([1, 2, 3, 4], ["route 1 (customers 1 2 3 4) carries 14, capacity is 7"]),
        ([0, 0], [f"customer {node} is never visited" for node in (1, 2, 3, 4)]),
        ([], [f"customer {node} is never visited" for node in (1, 2, 3, 4)]),
        ([4, 4], ["customer 4 is visited at step 0 and again at step 1"]
         + [f"customer {node} is never visited" for node in (1, 2, 3)]
         + ["route 1 (customers 4 4) carries 10, capacity is 7"]),
    ],
)  # fmt: skip
def test_violations_are_told_in_words(env, cross, plan, words):
    """The referee says which customer or route breaks a solution, and everything that does."""
    assert [v.reason for v in env.violations(cross, plans(plan))] == words


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(3, 12), kind=st.sampled_from(DISTRIBUTIONS))
def test_a_mutation_is_named(data, n, kind):
    """A sound solution has no violation; each way to break it gives that violation, at that row."""
    env = Task.of(CVRP, n, kind)
    instance = env.generate(2, torch.Generator().manual_seed(data.draw(st.integers(0, 99), label="seed")))
    demand, capacity = instance["demand"][1].tolist(), float(instance["capacity"][1])
    order = data.draw(st.permutations(range(1, n + 1)), label="order")
    routes: list[list[int]] = [[]]
    for node in order:
        if sum(demand[k] for k in (*routes[-1], node)) > capacity:
            routes.append([])
        routes[-1].append(node)

    def reasons(routes):
        steps = [node for route in routes for node in (*route, 0)]
        alone = [node for k in range(1, n + 1) for node in (k, 0)] + [0] * len(steps)
        actions = torch.tensor([[alone[: max(len(steps), 2 * n)]], [steps + [0] * (2 * n - len(steps))]])
        found = env.violations(instance, actions)
        assert all(v.row == 1 for v in found)
        return [v.reason for v in found]

    assert reasons(routes) == []
    victim = data.draw(st.sampled_from(order), label="victim")
    without = [[node for node in route if node != victim] for route in routes]
    assert reasons(without) == [f"customer {victim} is never visited"]
    twice = reasons([*routes, [victim]])
    assert len(twice) == 1
    assert twice[0].startswith(f"customer {victim} is visited at step")
    joined = reasons([order])
    if sum(demand) > capacity:
        assert len(joined) == 1
        assert joined[0].startswith("route 1 (customers ")
        assert joined[0].endswith(f" carries {sum(demand):.15g}, capacity is {capacity:.15g}")
    else:
        assert joined == []


def test_solvers_see_what_the_objective_and_the_referee_read(env, cross):
    """Solvers see distances, demands and capacities in float64, the depot first, and nothing that they must know."""
    model = env.model(cross)
    dists = torch.tensor([[0, 3, 4, 3, 4], [3, 0, 5, 6, 5], [4, 5, 0, 5, 8], [3, 6, 5, 0, 5], [4, 5, 8, 5, 0]])
    for view, expected in (
        (model.distances.matrix, dists[None]),
        (model.demand, torch.tensor([[0, 2, 3, 4, 5]])),
        (model.capacity, torch.tensor([7])),
    ):
        assert view.dtype == torch.float64
        assert torch.equal(view, expected.double())
    assert torch.equal(env.model(cross.exclude("dists")).distances.matrix, dists[None].double())
    assert model.needs == frozenset()


# ---------------------------------------------------------------------- instances


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_instances_are_sound(distribution, rng):
    """Nodes lie in the unit box, demands are whole, the depot has none, and every customer fits the vehicle."""
    drawn = Task.of(CVRP, 40, distribution).generate(64, rng)
    locs, demand, capacity = (drawn[key] for key in ("locs", "demand", "capacity"))
    assert (locs.shape, demand.shape, capacity.shape) == ((64, 41, 2), (64, 41), (64,))
    assert all(value.dtype == torch.float32 for value in drawn.values())
    assert ((locs >= 0) & (locs <= 1)).all()
    assert torch.equal(demand, demand.round())
    assert torch.equal(capacity, capacity.round())
    assert (demand[:, 0] == 0).all()
    assert (demand[:, 1:] >= 1).all()
    assert (demand <= capacity[:, None]).all()
    if distribution in ("uniform", "centre", "clustered"):
        assert demand[:, 1:].unique().tolist() == list(range(1, 10))
    assert ((locs[:, 0] == 0.5).all()).item() == (distribution == "centre")


def test_clustered_customers_are_closer(rng):
    """Neighbours are much nearer in clusters than in a uniform field."""
    near = {}
    for kind in ("uniform", "clustered"):
        locs = Task.of(CVRP, 100, kind).generate(100, rng)["locs"]
        near[kind] = (torch.cdist(locs, locs) + 9 * torch.eye(101)).amin(-1).mean()
    assert near["clustered"] < 0.6 * near["uniform"]


def test_the_x_set_has_its_attributes(rng):
    """Depots, customers, demands and route lengths have the shares and bounds of the paper; mixed holds a quarter."""
    drawn = Task.of(CVRP, 200, "x").generate(3000, rng)
    locs, demand, capacity = drawn["locs"], drawn["demand"][:, 1:], drawn["capacity"]
    for share in ((locs[:, 0] == 0.5).all(-1), (locs[:, 0] == 0).all(-1)):
        assert share.float().mean() == pytest.approx(1 / 3, abs=0.03)
    low, high = demand.amin(1), demand.amax(1)
    for bounds in ((1, 1), (1, 10), (5, 10), (50, 100)):
        assert ((low == bounds[0]) & (high == bounds[1])).float().mean() == pytest.approx(1 / 7, abs=0.05), bounds
    odd = ((locs[:, 1:] < 0.5).sum(-1) != 1).float()
    by_quadrant = ((odd == 1) == (demand > 50)).all(1)
    assert by_quadrant.float().mean() == pytest.approx(1 / 7, abs=0.03)
    few_large = (low < 11) & (high > 49) & ~((demand > 10) & (demand < 50)).any(1) & ~by_quadrant
    assert few_large.float().mean() == pytest.approx(1 / 7, abs=0.03)
    assert ((demand[few_large] > 10).float().mean(1) < 0.45).all()
    length = capacity * 200 / demand.sum(1)
    rounding = 200 / demand.sum(1) + 1e-3  # the capacity is rounded up
    assert ((length >= 3) & (length <= 25 + rounding)).all()
    assert (length - rounding / 2).mean() == pytest.approx((3 + 6 + 25) / 3, abs=0.4)
    nearest = (torch.cdist(locs[:500, 1:], locs[:500, 1:]) + 9 * torch.eye(200)).amin(-1).mean(-1)
    assert (nearest < 0.027).float().mean() == pytest.approx(1 / 3, abs=0.07)  # clustered; half clustered are as random
    mixed = Task.of(CVRP, 200, "mixed").generate(2000, rng)
    assert (mixed["capacity"] != 70).float().mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("size", "capacity"),
    [
        *((10, 20), (20, 30), (50, 40), (100, 50), (125, 55), (150, 60), (200, 70)),
        *((5, 15), (35, 35), (75, 45), (110, 52), (300, 90), (1000, 230)),
    ],
)
def test_capacities_are_the_fields(size, capacity):
    """The field's sizes have the field's capacities, others lie on straight lines, and an argument overrules both."""
    assert Task.of(CVRP, size).generate(1, torch.Generator())["capacity"].item() == capacity
    assert Task.of(CVRP, 20).resized(size).generate(1, torch.Generator())["capacity"].item() == capacity
    assert Task.of(CVRP, 20, capacity=44).resized(size).generate(1, torch.Generator())["capacity"].item() == 44


@pytest.mark.parametrize(("seed", "whole"), [(1234, 10_000), (1235, 1000)])
def test_seeded_instances_are_kools(seed, whole):
    """All depots, then all customers, then all demands of the whole set, by numpy's legacy generator."""
    np.random.seed(seed)  # noqa: NPY002 - the recipe itself
    depot, loc = np.random.uniform(size=(whole, 2)), np.random.uniform(size=(whole, 20, 2))  # noqa: NPY002
    demand = np.random.randint(1, 10, size=(whole, 20))  # noqa: NPY002
    found = Task.of(CVRP, 20).seeded(3, seed)
    assert found["locs"].dtype == torch.float64
    assert np.array_equal(found["locs"][:, 0], depot[:3])
    assert np.array_equal(found["locs"][:, 1:], loc[:3])
    assert np.array_equal(found["demand"][:, 1:], demand[:3])
    assert found["capacity"].tolist() == [30] * 3
    with pytest.raises(ArgumentError, match=f"the set of seed {seed} has {whole}"):
        Task.of(CVRP, 20).seeded(whole + 1, seed)


@pytest.mark.parametrize("size", [20, 50, 100])
def test_reference_solutions_have_their_cost(size, shared_instances):
    """The published validation set is the seed's, to the last bit, and its HGS solutions cost what they say."""
    with np.load(shared_instances / "nco" / f"cvrp{size}_seed4321.npz") as file:
        published = {key: torch.from_numpy(file[key]) for key in file.files}
    env = Task.of(CVRP, size)
    instances = env.seeded(len(published["loc"]), 4321)
    assert torch.equal(instances["locs"], torch.cat([published["depot"][:, None], published["loc"]], dim=1))
    assert torch.equal(instances["demand"][:, 1:], published["demand"].float())
    assert torch.equal(instances["capacity"], published["capacity"].float())
    actions = published["ref_actions"].long()[:, None]
    assert env.violations(instances, actions) == []
    torch.testing.assert_close(env.objective(instances, actions)[:, 0], published["ref_cost"], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_customers": 1}, "num_customers: 1 is not allowed; it must be a whole number of at least 2"),
        ({"num_customers": 4.0}, "num_customers: 4.0 is not allowed"),
        ({"num_customers": True}, "num_customers: True is not allowed"),
        ({"distribution": "gaussian"}, "distribution: 'gaussian' is not allowed; it must be one of uniform, centre"),
        ({"capacity": 8}, "capacity: 8 is not allowed; it must be a whole number of at least 9"),
        ({"capacity": 30.5}, "capacity: 30.5 is not allowed"),
        ({"capacity": 30, "distribution": "x"}, "capacity: 30 is not allowed; the distribution x draws its own"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    """A value outside of what is allowed is refused in one line that names it."""
    with pytest.raises(ArgumentError, match=words):
        Task.of(CVRP, **arguments)


def test_an_env_can_be_resized():
    """An environment tells its size and that of given instances, and keeps its arguments in another size."""
    other = Task.of(CVRP, 5, "clustered", 50).resized(8)
    assert other.arguments() == {"num_customers": 8, "distribution": "clustered", "capacity": 50}
    assert other.size == Task.of(CVRP, 5).instance_size(other.seeded(2, 0)) == 8


# ---------------------------------------------------------------------- files


def test_a_file_is_read(env, cross):
    """The depot comes first wherever the file has it, and numbers that must be exact are float64."""
    assert cross["locs"].tolist() == [[[0, 0], [3, 0], [0, 4], [-3, 0], [0, -4]]]
    assert cross["demand"].tolist() == [[0, 2, 3, 4, 5]]
    assert cross["capacity"].tolist() == [7]
    assert [cross[key].dtype for key in ("demand", "capacity", "dists")] == [torch.float64] * 3
    assert cheapest(cross) == 24


def test_a_file_of_distances_alone_is_read(env, data):
    """A triangle of distances defines the objective, and its nodes get places to draw and to embed."""
    rows = env.read(data / "rows4.vrp")
    assert env.objective(rows, plans([1, 2, 0, 3], [3, 2, 0, 1])).tolist() == [[7 + 3 + 8 + 9 + 9, 9 + 2 + 8 + 14]]
    assert rows["locs"].shape == (1, 4, 2)
    assert all(feature.values.isfinite().all() for feature in env.instance_features(rows))


def test_the_published_solution_beside_a_file_is_found(env, data, cross, tmp_path):
    """The .sol file gives the published objective, without one there is none, and a broken one is refused."""
    assert env.published_objective(data / "cross4.vrp", cross) == 24
    assert env.published_objective(data / "rows4.vrp", cross) is None
    (tmp_path / "mine.sol").write_text("Route #1: 1 2 3\nRoute #2: 4\nCost 3\n")
    with pytest.raises(InstanceError, match=r"mine\.sol: route 1 \(customers 1 2 3\) carries 9, capacity is 7"):
        env.published_objective(tmp_path / "mine.vrp", cross)
    (tmp_path / "mine.sol").write_text("Route #1: 1 2\nRoute #2: 3 4 5\n")
    with pytest.raises(InstanceError, match=r"mine\.sol: step 5 visits node 5; nodes are 0 to 4"):
        env.published_objective(tmp_path / "mine.vrp", cross)


def test_a_written_solution_is_the_published_one(env, cross, tmp_path):
    """Routes are written as CVRPLIB does, and read back with their own cost."""
    written = env.write_solution(cross, torch.tensor([4, 0, 3, 0, 0, 1, 2, 0]), tmp_path / "mine.vrp", "mine")
    assert written == tmp_path / "mine.sol"
    assert written.read_text() == "Route #1: 4\nRoute #2: 3\nRoute #3: 1 2\nCost 26\n"
    assert env.published_objective(tmp_path / "mine.vrp", cross) == 26


def test_arrays_are_read_with_and_without_the_depot():
    """Both layouts give the same instances, and their solutions end at the depot."""
    rng = np.random.default_rng(0)
    locs, demand = rng.uniform(size=(2, 4, 2)), np.array([[0, 3, 2, 4], [0, 1, 1, 1]], dtype=np.int16)
    known = {"ref_cost": np.array([3.5, 4]), "ref_actions": np.array([[1, 0, 2, 3, 0]] * 2)}
    capacity = np.array([9, 8])
    one = CVRP.from_arrays({"locs": locs, "demand": demand, "capacity": capacity, **known})
    apart = {"depot": locs[:, 0], "loc": locs[:, 1:], "demand": demand[:, 1:], "capacity": capacity}
    other = CVRP.from_arrays(apart)
    for key in ("locs", "demand", "capacity"):
        assert torch.equal(one.instances[key], other.instances[key])
    assert np.array_equal(one.instances["demand"].numpy(), demand)
    assert (one.best_known.tolist(), one.actions.tolist()) == ([3.5, 4], [[1, 0, 2, 3, 0]] * 2)
    assert other[1:] == (None, None, None)
    assert CVRP.from_arrays({"locs": locs}) is None
    with pytest.raises(InstanceError, match="instance 1: node 2 has the demand 9, allowed are 0 to the CAPACITY 8"):
        CVRP.from_arrays({**apart, "demand": np.array([[3, 2, 4], [9, 1, 1]])})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", ["amounts", "shares", "shares and capacities"])
def test_arrays_of_rl4co_are_read(form, dtype, env):
    """Its files have amounts, its generator shares beside a column of capacities: all are the same instances."""
    rng = np.random.RandomState(0)
    arrays = {"depot": rng.uniform(size=(3, 2)).astype(dtype), "locs": rng.uniform(size=(3, 12, 2)).astype(dtype)}
    demand, capacity = rng.randint(1, 10, size=(3, 12)), np.full(3, 30)
    demand[0, :10] = 3  # ten tenths, which fill a vehicle
    if form == "amounts":
        arrays |= {"demand": demand.astype(dtype), "capacity": capacity.astype(dtype)}
    else:
        arrays["demand"] = (demand / dtype(30)).astype(dtype)
    if form == "shares and capacities":
        arrays["capacity"] = capacity[:, None].astype(dtype)
    instances = CVRP.from_arrays(arrays).instances
    assert torch.equal(instances["locs"][:, 1:], torch.from_numpy(arrays["locs"]))
    assert torch.equal(instances["locs"][:, 0], torch.from_numpy(arrays["depot"]))
    assert instances["demand"][:, 1:].tolist() == demand.tolist()
    assert instances["capacity"].tolist() == [30] * 3
    full = torch.tensor([[[*range(1, 11), 0, 11, 0, 12, 0]]])
    assert not env.violations(instances[:1], full)


def test_demands_that_could_be_shares_or_amounts_are_refused():
    """What can be read in two ways, or has no unit, is refused in words; shares of no whole amount stay shares."""
    apart = {"depot": np.zeros((1, 2)), "locs": np.ones((1, 2, 2))}
    with pytest.raises(InstanceError, match="array demand can be read in two ways, as amounts, and as shares"):
        CVRP.from_arrays({**apart, "demand": np.array([[0.1, 0.5]]), "capacity": np.array([10])})
    with pytest.raises(InstanceError, match="array capacity is missing; without it demands must be shares"):
        CVRP.from_arrays({**apart, "demand": np.array([[1, 5]])})
    with pytest.raises(InstanceError, match=r"array capacity has the shape \[1, 2\]"):
        CVRP.from_arrays({**apart, "demand": np.array([[1, 5]]), "capacity": np.array([[10, 10]])})
    found = CVRP.from_arrays({**apart, "demand": np.array([[0.3183098, 0.7071067]])}).instances
    assert (found["demand"].tolist(), found["capacity"].tolist()) == ([[0, 0.3183098, 0.7071067]], [1])
    found = CVRP.from_arrays({**apart, "demand": np.array([[0.7, 0.9]]), "capacity": np.array([1.6])}).instances
    assert (found["demand"].tolist(), found["capacity"].tolist()) == ([[0, 0.7, 0.9]], [1.6])


def test_published_instances_have_their_published_objective(env, shared_instances):
    """Every CVRPLIB file reads, and its solution has no violation and exactly the best known objective."""
    with open(shared_instances / "index.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].endswith(".vrp")]
    assert len(rows) > 30
    for row in rows:
        path = shared_instances / row["file"]
        instance = env.read(path)
        assert env.instance_size(instance) == int(row["size"])
        expected = float(row["best_known"]) if row["solution_file"] else None
        assert env.published_objective(path, instance) == expected, row["name"]


def test_a_written_instance_scores_as_it_did(env, rng, tmp_path):
    """A drawn instance comes back in millionths with its loads, each edge rounded; a file's comes back exactly."""
    instance, solution = env.generate(1, rng), plans([2, 1, 0, 3, 4])
    env.write(instance, tmp_path / "drawn.vrp")
    again = env.read(tmp_path / "drawn.vrp")
    assert env.objective(again, solution).item() == pytest.approx(1e6 * env.objective(instance, solution).item(), abs=3)
    env.write(again, tmp_path / "again.vrp")
    third = env.read(tmp_path / "again.vrp")
    for key in ("demand", "capacity", "dists"):
        assert torch.equal(third[key], again[key])
    assert torch.equal(again["demand"], instance["demand"].double())


def test_plain_actions_are_without_padding(env, cross):
    """For output routes are parted by single zeros, with none at the ends."""
    assert env.plain_actions(cross, torch.tensor([0, 1, 4, 0, 0, 2, 3, 0, 0])) == [1, 4, 0, 2, 3]


# ---------------------------------------------------------------------- features


def test_features_are_in_the_unit_box(env, cross):
    """Places have the longer side 1; then come the share of the capacity and the way to the depot in that unit."""
    nodes, edges = env.instance_features(cross)
    expected = [[0, 0, 0, 0], [3, 0, 2 / 7 * 8, 3], [0, 4, 3 / 7 * 8, 4], [-3, 0, 4 / 7 * 8, 3], [0, -4, 5 / 7 * 8, 4]]
    torch.testing.assert_close(nodes.values, torch.tensor([expected]) / 8)
    assert nodes.kinds.tolist() == [1, 0, 0, 0, 0]
    torch.testing.assert_close(edges.values[0, 0, :, 0], torch.tensor([0, 3, 4, 3, 4]) / 8)


def test_features_are_free_of_units(rng):
    """An instance in other units of length and load shows the same numbers, before and after a step."""
    env = Task.of(CVRP, 12)
    drawn = env.generate(3, rng)
    scaled = {"locs": 700 * drawn["locs"] + 50, "demand": 13 * drawn["demand"], "capacity": 13 * drawn["capacity"]}
    other = TensorDict(scaled, batch_size=[3])
    for mine, theirs in zip(env.instance_features(drawn), env.instance_features(other), strict=True):
        torch.testing.assert_close(mine.values, theirs.values, rtol=1e-3, atol=1e-4)
    action = torch.full((3, 2), 4)
    one, two = (env.step_features(env.advance(env.start(each, 2), action)) for each in (drawn, other))
    torch.testing.assert_close(one.scalars, two.scalars)


def test_step_features_tell_node_load_and_customers_left(env, cross):
    """The one role is the current node; the scalars are shares of the capacity and of the customers."""
    state = env.advance(env.start(cross, 2), torch.tensor([[3, 4]]))
    step = env.step_features(state)
    assert step.nodes.tolist() == [[[3], [4]]]
    torch.testing.assert_close(step.scalars, torch.tensor([[[3 / 7, 0.75], [2 / 7, 0.75]]]))
    assert env.step_features(env.start(cross)).nodes.tolist() == [[[0]]]


# ---------------------------------------------------------------------- starts, symmetries, other forms, pictures


def test_every_customer_is_a_start(env, rng):
    """A multi-start begins at each customer, never at the depot, in their order or in a drawn one."""
    instances = env.generate(50, rng)
    assert torch.equal(env.first_actions(instances), torch.arange(1, 5).expand(50, -1))
    drawn = env.first_actions(instances, rng)
    assert (drawn != torch.arange(1, 5)).any()
    assert set(drawn[:, 0].tolist()) == {1, 2, 3, 4}


def test_images_move_the_nodes_alone(env, rng):
    """Eight images and random ones beyond have other places, the same loads and the same distances."""
    instances = env.generate(2, rng)
    images = env.symmetries(instances, 10, rng)
    assert len(images) == 10
    for number, image in enumerate(images):
        assert not any(torch.allclose(image["locs"], other["locs"]) for other in images[:number])
        assert torch.equal(image["demand"], instances["demand"])
        torch.testing.assert_close(geometry.distances(image), geometry.distances(instances), rtol=1e-5, atol=1e-6)
    with pytest.raises(ArgumentError, match="count: 9 images need a generator"):
        env.symmetries(instances, 9)


def test_equivalent_actions_are_the_same_routes(env, cross, rng):
    """Routes come in all orders and directions, as the same sets of customers, tightly, with padding at the end."""
    messy = torch.tensor([[0, 1, 4, 0, 0, 2, 3, 0, 0]])
    roomy = cross.clone().update({"capacity": torch.tensor([700.0], dtype=torch.float64)})  # routes nearly as if empty
    others = env.equivalent_actions(roomy, messy, 200, rng)
    assert others.shape == (1, 200, 9)
    found = set(map(tuple, others[0].tolist()))
    routes = itertools.product(itertools.permutations([1, 4]), itertools.permutations([2, 3]))
    pairs = [pair for one, two in routes for pair in ((one, two), (two, one))]
    assert found == {(*one, 0, *two, 0, 0, 0, 0) for one, two in pairs}


def test_equivalent_actions_take_their_length_as_it_is(env, cross, rng):
    """A solution without a closing zero or with nothing to spare keeps its length and all its customers."""
    for steps in ([1, 4, 0, 2, 3], [1, 0, 2, 0, 3, 0, 4], [1, 0, 2, 0, 3, 0, 4, 0]):
        others = env.equivalent_actions(cross, torch.tensor([steps]), 20, rng)
        assert others.shape == (1, 20, len(steps))
        assert env.violations(cross, others) == []
        kept = {frozenset(map(frozenset, routes_of(other))) for other in others[0].tolist()}
        assert kept == {frozenset(map(frozenset, routes_of(steps)))}


def test_fuller_routes_come_first(env, cross, rng):
    """A route of 2 of 7 comes after one of 5 of 7 nearly always; between equal ones the draw is even."""
    solution = torch.tensor([[1, 0, 4, 0, 3, 0, 2, 0]])
    others = env.equivalent_actions(cross, solution, 2000, rng)[0]
    assert (others[:, 0] == 4).float().mean() > 0.7
    assert (others[:, -2] == 1).float().mean() > 0.7
    even = env.equivalent_actions(cross, torch.tensor([[1, 4, 0, 2, 3]]), 2000, rng)[0]
    assert ((even[:, 0] == 1) | (even[:, 0] == 4)).float().mean() == pytest.approx(0.5, abs=0.05)


def test_neighbourhoods_are_routes_close_to_each_other(env, rng):
    """Of two pairs of routes, far apart, one pair is open, and each pair is at times."""
    locs = torch.tensor([[5.0, 0], [0, 0], [0, 1], [1, 0], [1, 1], [9, 0], [9, 1], [10, 0], [10, 1]])
    values = {"locs": locs, "demand": torch.tensor([0.0] + [1.0] * 8), "capacity": torch.tensor(2.0)}
    instance = TensorDict(values).unsqueeze(0)
    messy = torch.tensor([0, 5, 6, 0, 1, 2, 0, 0, 7, 8, 0, 3, 4, 0, 0]).expand(1, 100, -1)
    part = env.neighbourhood(instance, messy, 5, rng)
    assert (part.begin, part.end) == (6, part.actions.shape[-1])
    opened = set(map(frozenset, part.actions[0, :, part.begin :].tolist()))
    assert opened == {frozenset({0, 1, 2, 3, 4}), frozenset({0, 5, 6, 7, 8})}
    assert len(set(map(tuple, part.actions[0].tolist()))) > 20


def test_neighbourhoods_open_more_of_longer_solutions(env, cross, rng):
    """What is kept is as long as the shortest solution allows, and no less than nothing."""
    solutions = torch.tensor([[[1, 4, 0, 2, 3, 0, 0], [1, 0, 2, 0, 3, 0, 4]]])
    assert env.neighbourhood(cross, solutions, 2, rng).begin == 3
    assert env.neighbourhood(cross, solutions, 9, rng).begin == 0


def test_shorter_solutions_are_padded_by_the_depot(env, cross):
    """A finished solution is lengthened by zeros, not by its last customer."""
    longer = env.padded(cross, torch.tensor([[1, 4, 0, 2, 3]]), 8)
    assert longer.tolist() == [[1, 4, 0, 2, 3, 0, 0, 0]]


def test_routes_can_be_drawn(env, cross, tmp_path):
    """A picture file is written."""
    draw(env.sketch(cross, torch.tensor([1, 4, 0, 2, 3, 0])), tmp_path / "cross.png", "a cross")
    assert (tmp_path / "cross.png").read_bytes().startswith(b"\x89PNG")


def test_a_sketch_has_the_routes_and_their_legs(env, cross):
    """Each route is a line of its own colour, its legs dashed; the depot, in the middle of the cross, is marked."""
    sketch = env.sketch(cross, torch.tensor([1, 4, 0, 2, 3, 0, 0, 9]))
    assert sketch.points[0] == [sketch.width / 2, sketch.height / 2]
    assert [tuple(line) for line in sketch.lines] == [
        ([1, 0, 4], 0, "dashed"),
        ([2, 0, 3], 1, "dashed"),
        ([1, 4], 0, "solid"),
        ([2, 3], 1, "solid"),
    ]
    assert [tuple(mark) for mark in sketch.marks] == [([0], 7, "square")]


def test_an_answer_counts_nodes_as_the_file_does(data, rng) -> None:
    """The depot of the file is its third node, and stays that in an answer, while actions count customers."""
    env = CVRP()
    cross = env.read(data / "cross4.vrp")
    answer = env.answer(cross, torch.tensor([1, 2, 0, 3, 0, 4]))
    assert answer == [{"depot": 2, "visits": [0, 1]}, {"depot": 2, "visits": [3]}, {"depot": 2, "visits": [4]}]
    drawn = Task.of(CVRP, 3).generate(1, rng)
    assert env.answer(drawn, torch.tensor([3, 1, 0, 2])) == [
        {"depot": 0, "visits": [3, 1]},
        {"depot": 0, "visits": [2]},
    ]
