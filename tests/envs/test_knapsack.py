from __future__ import annotations

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from ncogym.baselines import SOLVERS
from ncogym.envs.packing.instances import KnapsackDistribution, Pisinger
from ncogym.envs.packing.knapsack import Knapsack
from ncogym.errors import ArgumentError, InstanceError
from ncogym.laws import check_env
from ncogym.plotting import draw
from ncogym.task import Task

CLASSES = get_args(Pisinger)


@pytest.fixture
def env():
    """Knapsacks of four items."""
    return Task.of(Knapsack, 4)


@pytest.fixture
def exact(env, data):
    """Weights 6 5 5 1 with values 12 9 9 1 and capacity 10: the best fills it with items 1 and 2, worth 18."""
    return env.read(data / "exact4.kp")


def knapsack(weight, value, capacity, dtype=torch.float64):
    """Return one instance."""
    numbers = {"weight": [weight], "value": [value], "capacity": [capacity]}
    return TensorDict({name: torch.tensor(each, dtype=dtype) for name, each in numbers.items()}, batch_size=[1])


def packings(*each):
    """Return packings of one instance, ``[1, rollouts, steps]``."""
    return torch.tensor([each], dtype=torch.int64)


def best_subset(instance: TensorDict) -> float:
    """Try every subset, from the definition."""
    items = list(zip(*(instance[key][0].double().tolist() for key in ("weight", "value")), strict=True))
    subsets = (subset for size in range(len(items) + 1) for subset in itertools.combinations(items, size))
    capacity = float(instance["capacity"])
    return max(sum(value for _, value in each) for each in subsets if sum(weight for weight, _ in each) <= capacity)


def steps(env, instance, *actions):
    """Return the states of one rollout, from the start on."""
    states = [env.start(instance)]
    for action in actions:
        states.append(env.advance(states[-1], torch.tensor([[action]])))
    return states


# ---------------------------------------------------------------------- laws


@pytest.mark.parametrize("distribution", ["uniform", "mixed", *CLASSES])
def test_the_laws_hold(distribution):
    """Every law holds, and the best of all action sequences is the most valuable subset that brute force finds."""
    env, tiny = Task.of(Knapsack, 9, distribution), Task.of(Knapsack, 5, distribution)
    solvers = [solver() for solver in SOLVERS.values()]
    checked = check_env(env, seed=3, tiny=tiny, brute_force=best_subset, solvers=solvers)
    assert {"enumeration finds the optimum", "solvers solve what they take"} <= {*checked}


class Weightless(KnapsackDistribution):
    """Knapsacks of which about a third of the items weigh nothing."""

    def draw(self, count, rng):
        drawn = super().draw(count, rng)
        kept = torch.rand(drawn["weight"].shape, generator=rng, device=rng.device) > 1 / 3
        return drawn.set("weight", drawn["weight"] * kept)


@pytest.mark.parametrize("distribution", ["uniform", "strongly"])
def test_the_laws_hold_where_items_weigh_nothing(distribution):
    """Items without weight are items like others, to dynamics, referee, features and the best of all sequences."""
    env, tiny = (Task(Knapsack(), Weightless(items, distribution)) for items in (9, 5))
    assert "enumeration finds the optimum" in check_env(env, seed=3, tiny=tiny, brute_force=best_subset)


# ---------------------------------------------------------------------- dynamics and referee, by hand


def test_a_packing_step_by_step(env, exact):
    """What fits, what is left, what a step is worth: as one counts it by hand."""
    states = steps(env, exact, 1, 2, 4)
    assert [state.left.item() for state in states] == [10, 5, 0, 0]
    masks = [[True] * 4 + [False], [False, False, True, True, False], [False] * 4 + [True], [False] * 4 + [True]]
    assert [state.action_mask[0, 0].tolist() for state in states] == masks
    assert [state.done.item() for state in states] == [False, False, True, True]
    rewards = [env.reward(state, torch.tensor([[a]]), None).item() for state, a in zip(states, (1, 2, 4), strict=False)]
    assert rewards == [9, 9, 0]
    assert env.objective(exact, packings([1, 2, 4, 4])).item() == 18


def test_a_knapsack_that_nothing_fits_is_done_at_once(env):
    """Then the stop is the one action, the only start, and worth nothing."""
    instance = knapsack([5.0, 6, 7, 8], [1.0, 1, 1, 1], 4.0)
    state = env.start(instance, 2)
    assert state.done.all()
    assert state.action_mask.tolist() == [[[False] * 4 + [True]] * 2]
    assert env.first_actions(instance).tolist() == [[4]]
    for number in (env.step_features(state).scalars, env.step_features(state).candidates):
        assert number.isfinite().all()
    assert env.violations(instance, packings([4, 4, 4, 4])) == []


@pytest.mark.parametrize(
    ("actions", "reason"),
    [
        ([0, 3, 4, 4], None),
        ([3, 4, 4, 4], None),  # items 0, 1 or 2 would still fit; that is a loss and no fault
        ([], None),
        ([4, 4, 4, 4, 4, 4], None),
        ([1, 1, 4, 4], "item 1 is taken at step 0 and again at step 1"),
        ([1, 5, 4, 4], "step 1 takes item 5; items are 0 to 3, and 4 is the stop"),
        ([-1, 4, 4, 4], "step 0 takes item -1; items are 0 to 3, and 4 is the stop"),
        ([1, 4, 3, 4], "step 2 takes item 3 after the stop at step 1"),
        ([0, 1, 4, 4], "items weigh 11, capacity is 10"),
    ],
)
def test_the_referee_says_what_is_wrong(env, exact, actions, reason):
    """Each fault is named with its items and steps, and nothing else is a fault."""
    found = env.violations(exact, torch.tensor(actions, dtype=torch.int64).view(1, 1, -1))
    assert [violation.reason for violation in found] == ([] if reason is None else [reason])


def test_whole_numbers_are_exact(env):
    """One unit over a capacity of ten thousand million is too much, and one less is not."""
    for capacity, fits in ((10_000_000_003, True), (10_000_000_002, False)):
        instance = knapsack([10_000_000_000.0, 3, 1e11, 1e11], [1.0, 1, 1, 1], float(capacity))
        assert bool(steps(env, instance, 0)[-1].action_mask[0, 0, 1]) == fits
        reasons = [violation.reason for violation in env.violations(instance, packings([0, 1, 4, 4]))]
        assert reasons == ([] if fits else ["items weigh 10000000003, capacity is 10000000002"])


def test_decimals_fill_the_knapsack(data):
    """0.1 and 0.2 fit into 0.3, whose binary form is less than their sum; a millionth more does not."""
    env = Task.of(Knapsack, 3)
    instance = env.read(data / "decimal3.kp")
    assert steps(env, instance, 0)[-1].action_mask[0, 0].tolist() == [False, True, False, False]
    assert env.violations(instance, packings([0, 1, 3])) == []
    over = instance.clone().update({"capacity": torch.tensor([0.2999999], dtype=torch.float64)})
    assert steps(env, over, 0)[-1].action_mask[0, 0].tolist() == [False, False, False, True]
    assert env.violations(over, packings([0, 1, 3]))[0].reason.startswith("items weigh 0.3")


# ---------------------------------------------------------------------- instances


@pytest.mark.parametrize(("items", "capacity"), [(2, 1), (20, 5), (50, 12.5), (75, 18.75), (100, 25), (200, 25)])
def test_uniform_capacities_are_the_fields(items, capacity, rng):
    """A quarter of the number of items, 25 at most and 1 at least; a given one comes first."""
    drawn = Task.of(Knapsack, items).generate(3, rng)
    assert drawn["capacity"].tolist() == [capacity] * 3
    assert Task.of(Knapsack, items, capacity=2.5).generate(1, rng)["capacity"].item() == 2.5
    assert drawn["weight"].dtype == torch.float32
    assert drawn["weight"].min() > 0
    assert drawn["weight"].max() <= 1


R = 1000
RELATIONS = {
    "uncorrelated": lambda w, v: (v >= 1) & (v <= R),
    "weakly": lambda w, v: ((v - w).abs() <= R / 10) | (v == 1),
    "strongly": lambda w, v: v == w + R / 10,
    "inverse-strongly": lambda w, v: w == v + R / 10,
    "almost-strongly": lambda w, v: (v - w - R / 10).abs() <= R / 500,
    "subset-sum": lambda w, v: v == w,
    "similar-weights": lambda w, v: (w >= 100_000) & (w <= 100_100) & (v <= R),
    "circle": lambda w, v: ((v * 1.5) ** 2 - 4 * R**2 + (w - 2 * R) ** 2).abs() <= 3 * 1.5 * v + 3,
    "spanner": lambda w, v: (w <= 2 * R) & (v <= 2.2 * R) & (v > w),
}


@pytest.mark.parametrize("distribution", CLASSES)
def test_pisingers_classes(distribution, rng):
    """Numbers are whole and related as the class says; capacities vary, and every item fits alone."""
    drawn = Task.of(Knapsack, 60, distribution).generate(50, rng)
    weight, value, capacity = (drawn[key].double() for key in ("weight", "value", "capacity"))
    assert all((number == number.round()).all() for number in (weight, value, capacity))
    assert RELATIONS[distribution](weight, value).all()
    assert (weight >= 1).all()
    assert (value >= 1).all()
    assert (weight <= capacity[:, None]).all()
    share = capacity / weight.sum(-1)
    assert share.max() <= 100 / 101
    assert share.min() < 0.3
    assert share.max() > 0.7
    if distribution == "spanner":
        assert all(len(set((v / w).tolist())) <= 2 for v, w in zip(value, weight, strict=True))
    else:
        assert weight[0].unique().numel() > 20


def test_mixed_has_every_class_and_half_uniform(rng):
    """Half of the rows are uniform; the rest have whole numbers of several scales."""
    drawn = Task.of(Knapsack, 30, "mixed").generate(400, rng)
    uniform = drawn["weight"].amax(-1) <= 1
    assert uniform.float().mean().item() == pytest.approx(0.5, abs=0.1)
    rest = drawn[~uniform]
    assert (rest["weight"] == rest["weight"].round()).all()
    found = [RELATIONS[kind](rest["weight"].double(), rest["value"].double()).all(-1) for kind in CLASSES]
    assert all(rows.sum() >= 8 for rows in found)


def test_the_seeded_set_is_the_fields():
    """Uniform sets come from numpy's legacy generator in blocks of ten thousand, weights first, in float64."""
    instances = Task.of(Knapsack, 20).seeded(5, 4321)
    np.random.seed(4321)  # noqa: NPY002 - the published recipe
    drawn = np.random.uniform(size=(10_000, 20, 2))[:5]  # noqa: NPY002
    assert np.array_equal(instances["weight"].numpy(), drawn[..., 0])
    assert np.array_equal(instances["value"].numpy(), drawn[..., 1])
    assert instances["capacity"].tolist() == [5.0] * 5
    assert instances["capacity"].dtype == torch.float64
    assert Task.of(Knapsack, 20, "strongly").seeded(5, 1).batch_size == (5,)
    with pytest.raises(ArgumentError, match="instances: 10001 is not allowed"):
        Task.of(Knapsack, 20).seeded(10_001, 1)


@pytest.mark.parametrize("kind", CLASSES)
def test_pisingers_sets_are_series(kind):
    """A published set of a class has one instance for each capacity of the series, h of 101 parts of all weights."""
    found = KnapsackDistribution.reference_set(f"pisinger-{kind}-50")
    weight, value = found["weight"].double(), found["value"].double()
    assert (len(found), weight.shape[1]) == (100, 50)
    assert RELATIONS[kind](weight, value).all()
    parts = torch.arange(1, 101).double() / 101
    expected = torch.maximum((weight.sum(-1) * parts).floor(), weight.amax(-1))
    assert (found["capacity"] - expected).abs().max() <= 1  # floor of a quotient that is rounded
    assert weight[:, 0].unique().numel() > 3  # items of each instance are its own


def test_uniform_sets_are_seeded_ones():
    """The uniform sets are those that seed 1234 stands for."""
    found, expected = KnapsackDistribution.reference_set("uniform-kp50"), Task.of(Knapsack, 50).seeded(10_000, 1234)
    assert all(torch.equal(found[key], expected[key]) for key in ("weight", "value", "capacity"))


def test_arrays_are_read():
    """Selections become the items taken and then the stop; proofs are taken where they are there."""
    items = {"weight": np.array([[1.0, 2, 3]] * 2), "value": np.array([[3, 2, 1]] * 2), "capacity": np.array([4, 9])}
    selected = np.array([[1, 0, 1], [1, 1, 1]], dtype=bool)
    found = Knapsack.from_arrays(
        {**items, "ref_value": np.array([4, 6]), "ref_select": selected, "proven": np.array([False, True])}
    )
    assert found.actions.tolist() == [[0, 2, 3], [0, 1, 2]]
    assert (found.best_known.tolist(), found.proven.tolist()) == ([4, 6], [False, True])
    assert Knapsack().objective(found.instances, found.actions[:, None]).flatten().tolist() == [4, 6]
    assert Knapsack.from_arrays(items)[1:] == (None, None, None)
    assert Knapsack.from_arrays({"weight": items["weight"]}) is None
    with pytest.raises(InstanceError, match="instance 1: weight -1 of item 2 is not allowed"):
        Knapsack.from_arrays({**items, "weight": np.array([[1.0, 2, 3], [1, 2, -1]])})
    assert Knapsack.from_arrays({**items, "weight": np.zeros((2, 3))}).instances["weight"].sum() == 0


@pytest.mark.parametrize("items", [50, 100, 200])
def test_the_seeded_set_is_the_published_one(items, shared_instances):
    """The regenerated sets equal the reference files, and their selections are worth what they say."""
    published = np.load(shared_instances / "nco" / f"kp{items}_seed4321.npz")
    env = Task.of(Knapsack, items)
    instances = env.seeded(64, 4321)
    for key in ("weight", "value", "capacity"):
        assert np.array_equal(instances[key].numpy(), published[key])
    selected = torch.from_numpy(published["ref_select"]).bool()
    actions = torch.where(selected, torch.arange(items), items).sort(-1).values[:, None]
    assert env.violations(instances, actions) == []
    np.testing.assert_allclose(env.objective(instances, actions)[:, 0], published["ref_value"], rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_items": 0}, "num_items: 0 is not allowed"),
        ({"num_items": 2.0}, "num_items: 2.0 is not allowed"),
        ({"num_items": True}, "num_items: True is not allowed"),
        ({"distribution": "hard"}, "distribution: 'hard' is not allowed; it must be one of uniform, mixed, uncorr"),
        ({"capacity": 0.5}, "capacity: 0.5 is not allowed; it must be at least 1"),
        ({"capacity": math.nan}, "capacity: nan is not allowed"),
        ({"capacity": 5, "distribution": "circle"}, "capacity: 5 is not allowed; it must be None where items are circ"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    """A bad argument is named with its value and with what is allowed."""
    with pytest.raises(ArgumentError, match=words):
        Task.of(Knapsack, **arguments)


def test_a_resized_env_keeps_its_distribution():
    """Another size is another env of the same distribution, with the field's capacity for its size."""
    other = Task.of(Knapsack, 20, "circle").resized(30)
    assert other.arguments() == {"num_items": 30, "distribution": "circle", "capacity": None}
    assert other.size == 30


@pytest.mark.parametrize("distribution", ["uniform", "similar-weights"])
def test_a_written_instance_is_read_again(distribution, rng, tmp_path):
    """The file holds every digit: the same numbers and objective come back, in float64."""
    env = Task.of(Knapsack, 7, distribution)
    instance = env.generate(1, rng)
    env.write(instance, tmp_path / "x.kp")
    again = env.read(tmp_path / "x.kp")
    assert all(again[key].dtype == torch.float64 for key in again.keys())
    assert all(torch.equal(again[key], instance[key].double()) for key in ("weight", "value", "capacity"))
    assert env.instance_size(again) == 7


def test_output_has_the_items_without_stops(env, exact):
    """For output a packing is its items in their order; solutions are lengthened by the stop."""
    assert env.plain_actions(exact, torch.tensor([3, 1, 4, 4])) == [1, 3]
    assert env.padded(exact, packings([3, 1]), 4).tolist() == [[[3, 1, 4, 4]]]


# ---------------------------------------------------------------------- features


@pytest.mark.parametrize("distribution", ["uniform", "mixed"])
def test_features_are_free_of_units(distribution, rng):
    """Weights in grams and values in cents show the same numbers, at the start and later."""
    env = Task.of(Knapsack, 12, distribution)
    instances = env.generate(20, rng)
    # powers of two, so that what fits exactly goes on doing so
    other = instances.clone().update({key: instances[key] * 1024 for key in ("weight", "capacity")})
    other["value"] = instances["value"] / 64
    pairs = list(zip(env.instance_features(instances), env.instance_features(other), strict=True))
    assert len(pairs) == 1
    torch.testing.assert_close(pairs[0][0].values, pairs[0][1].values)
    states = [env.start(each, 3) for each in (instances, other)]
    for _ in range(4):
        mine, theirs = (env.step_features(state) for state in states)
        torch.testing.assert_close(mine.scalars, theirs.scalars)
        torch.testing.assert_close(mine.candidates, theirs.candidates)
        action = torch.multinomial(states[0].action_mask.flatten(0, 1).float(), 1, generator=rng).view(20, 3)
        states = [env.advance(state, action) for state in states]


def test_instance_features_by_hand(env, exact):
    """By ratio 2, 9/5, 9/5, 1: item 0 fits whole, item 1 is the break item and goes in by 4/5."""
    (nodes,) = env.instance_features(exact)
    assert nodes.kinds.tolist() == [0, 0, 0, 0, 1]
    weight, value, ratio, rank, packed, over, gain = nodes.values[0].T.tolist()
    expected = {
        "weight": (weight, [0.6, 0.5, 0.5, 0.1]),
        "value": (value, [1, 0.75, 0.75, 1 / 12]),
        "ratio": (ratio, [math.log(10 / 9), 0, 0, math.log(5 / 9)]),
        "rank": (rank, [0, 1 / 3, 2 / 3, 1]),
        "packed": (packed, [1, 0.8, 0, 0]),
        "over": (over, [-0.4, 0.1, 0.6, 0.7]),
        "gain": (gain, [(12 / 1.8 - 6) / 4.25, 0, 0, (1 / 1.8 - 1) / 4.25]),
    }
    for name, (found, wanted) in expected.items():
        assert found == pytest.approx([*wanted, 0], abs=1e-6), name


def test_step_features_by_hand(env, exact):
    """After item 1, 5 units are left: item 2 fills them, item 3 leaves 4, items 0 and 1 say nothing."""
    step = env.step_features(steps(env, exact, 1)[-1])
    share, slack, ratio, fills, packed = step.candidates[0, 0].T.tolist()
    assert share == pytest.approx([0, 0, 1, 0.2, 0])
    assert slack == pytest.approx([0, 0, 0, math.log1p(4), 0], abs=1e-6)
    assert ratio == pytest.approx([0, 0, 0, 1 / 1.8 - 1, 0])
    assert fills == [0, 0, 1, 0, 0]
    assert packed == pytest.approx([0, 0, 1, 0, 0])
    assert step.scalars[0, 0].tolist() == pytest.approx([0.5, 0.5, 1.0])
    assert step.nodes.shape == (1, 1, 0)


def test_a_policy_that_takes_the_relaxations_best_is_the_greedy(rng):
    """Going by the ratio that a step shows packs what going by ratio packs."""
    env = Task.of(Knapsack, 30)
    instances = env.generate(10, rng)
    state, chosen = env.start(instances), []
    for _ in range(env.horizon(instances)):
        step = env.step_features(state)
        score = torch.where(state.action_mask, step.candidates[..., 2], -torch.inf)
        chosen.append(score.argmax(-1))
        state = env.advance(state, chosen[-1])
    left, value = instances["capacity"].double(), torch.zeros(10, dtype=torch.float64)
    order = (instances["value"].double() / instances["weight"].double()).argsort(-1, descending=True)
    for item in order.T:
        weight, worth = (instances[key].double().gather(1, item[:, None])[:, 0] for key in ("weight", "value"))
        left, value = (
            torch.where(weight <= left, left - weight, left),
            torch.where(weight <= left, value + worth, value),
        )
    torch.testing.assert_close(env.objective(instances, torch.stack(chosen, dim=-1))[:, 0], value)


@pytest.mark.parametrize("capacity", [4.0, 99.0])
@pytest.mark.parametrize("value", [[0.0, 0, 0], [0.0, 3, 0], [1.0, 2, 3]])
@pytest.mark.parametrize("weight", [[1.0, 2, 3], [0.0, 2, 3], [1.0, 0, 0], [0.0, 0, 0]])
def test_odd_instances_have_finite_features(weight, value, capacity):
    """Items worth nothing or without weight, and a knapsack that holds all, divide nothing by zero."""
    env = Task.of(Knapsack, 3)
    instance = knapsack(weight, value, capacity)
    assert all(feature.values.isfinite().all() for feature in env.instance_features(instance))
    for state in steps(env, instance, 0, 1):
        step = env.step_features(state)
        assert step.scalars.isfinite().all()
        assert step.candidates.isfinite().all()
        assert step.candidates.abs().max() < 100


def test_items_without_weight_come_first():
    """They fit when nothing is left, the relaxation packs them, and what is seen of the others stays as it was."""
    env = Task.of(Knapsack, 3)
    instance = knapsack([3.0, 0, 2], [9.0, 1, 2], 3.0)
    plain = env.instance_features(knapsack([3.0, 2], [9.0, 2], 3.0))[0].values[0]
    values = env.instance_features(instance)[0].values[0]
    assert values[1, 4] == 1  # packed by the relaxation
    assert torch.equal(values[[0, 2]][:, [0, 1, 2, 4, 5]], plain[:2][:, [0, 1, 2, 4, 5]])
    full = steps(env, instance, 0)[-1]
    assert full.action_mask.tolist() == [[[False, True, False, False]]]
    assert steps(env, instance, 0, 1)[-1].done.all()


# ---------------------------------------------------------------------- starts, orders, pictures


def test_starts_are_each_rows_own(env, rng):
    """A multi-start begins with items that fit alone, as many as every row has, in their order or in a drawn one."""
    rows = torch.cat([knapsack([1.0, 9, 2, 3], [1.0] * 4, 5.0), knapsack([1.0, 1, 1, 6], [1.0] * 4, 5.0)])
    assert env.first_actions(rows).tolist() == [[0, 2, 3], [0, 1, 2]]
    apart = torch.cat([knapsack([9.0, 9, 2, 9], [1.0] * 4, 5.0), knapsack([9.0, 3, 9, 9], [1.0] * 4, 5.0)])
    assert env.first_actions(apart).tolist() == [[2], [1]]
    nothing = torch.cat([rows, knapsack([9.0] * 4, [1.0] * 4, 5.0)])
    assert env.first_actions(nothing).tolist() == [[0], [0], [4]]  # the stop is the one action of the last row
    many = torch.cat([env.generate(1, rng) for _ in range(64)])
    many["weight"][:, 0] = torch.linspace(0, 2, 64) * many["capacity"]  # in half of the rows it does not fit
    found = env.first_actions(many)
    assert found.shape == (64, 3)
    assert torch.equal(found[-1:], env.first_actions(many[-1:]))
    assert torch.equal(found[:1], env.first_actions(many[:1])[:, :3])
    drawn = env.first_actions(env.generate(50, rng), rng)
    assert torch.equal(drawn.sort(-1).values, torch.arange(4).expand(50, -1))
    assert len({tuple(row) for row in drawn.tolist()}) > 10


def test_equivalent_actions_are_the_orders(rng):
    """A packing of three items has six orders, all of them drawn, with the stops behind."""
    env = Task.of(Knapsack, 5)
    instance = knapsack([1.0] * 5, [1.0] * 5, 3.0)
    drawn = env.equivalent_actions(instance, torch.tensor([[4, 0, 2, 5, 5]]), 100, rng)[0].tolist()
    assert {tuple(row) for row in drawn} == {(*order, 5, 5) for order in itertools.permutations((0, 2, 4))}


def test_neighbourhoods_are_random_items(rng):
    """Every item is open as often as the others, and the stops are behind them."""
    env = Task.of(Knapsack, 20)
    instance = knapsack([1.0] * 20, [20.0 - item for item in range(20)], 10.0)
    solutions = torch.tensor([*range(10), 20, 20]).expand(1, 500, -1)
    part = env.neighbourhood(instance, solutions, 4, rng)
    assert (part.begin, part.end) == (6, 12)
    opened = part.actions[0, :, 6:10].flatten().bincount(minlength=20) / 500
    assert opened[:10].tolist() == pytest.approx([0.4] * 10, abs=0.1)
    assert (part.actions[..., 10:] == 20).all()


def test_a_packing_can_be_drawn(env, exact, tmp_path):
    """A picture file is written."""
    pytest.importorskip("matplotlib")
    draw(env.sketch(exact, torch.tensor([1, 2, 4, 4])), tmp_path / "x.png", "full")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_sketch_has_the_items_and_the_load(env, exact):
    """Items stand by weight and value, those packed marked; below, a bar of the load on the scale of the capacity."""
    sketch = env.sketch(exact, torch.tensor([2, 1, 4, 4]))
    assert sketch.points == [[1000, 1000], [833, 800], [833, 800], [167, 267]]
    assert [tuple(mark) for mark in sketch.marks] == [([1, 2], 0, "disc")]
    assert [(bar.x, bar.width, bar.label) for bar in sketch.bars] == [(0, 1000, "load"), (0, 1000, "capacity")]
    assert not sketch.proportional
    assert env.sketch(exact, torch.tensor([3])).bars[0].width == 100
    heavy = env.sketch(exact, torch.tensor([0, 1, 2, 3, -5]))  # 17 of 10
    assert [bar.width for bar in heavy.bars] == [1000, 588]
