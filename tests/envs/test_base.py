from __future__ import annotations

import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import RewardSum, TransformedEnv
from torchrl.envs.utils import check_env_specs, step_mdp

import ncogym
from ncogym.distribution import Distribution, ReferenceSet, pinned
from ncogym.envs import PROBLEMS, Problem, make
from ncogym.envs.env import Env
from ncogym.envs.routing import geometry
from ncogym.envs.routing.instances import TSPDistribution
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import ArgumentError
from ncogym.models import Tour
from ncogym.task import Task

BATCH_SIZES = pytest.mark.parametrize("batch_size", [(), (4,)])


@pytest.fixture
def env():
    """Tours of five nodes, one instance at a time."""
    return make("tsp", num_nodes=5)


# ---------------------------------------------------------------------- the table


def test_make_builds_what_the_table_names():
    """`make` builds a problem by its name in the table, with the constructor's arguments."""
    env = ncogym.make("tsp", num_nodes=7, distribution="clustered")
    assert type(env.problem) is PROBLEMS["tsp"]
    assert isinstance(env, Problem)  # which has all that its problem has
    assert env.arguments() == {"num_nodes": 7, "distribution": "clustered"}


def test_the_table_has_each_problem_under_its_own_name():
    """A problem's key in the table is its name, and all are constructive environments of a stated sense."""
    for name, problem in PROBLEMS.items():
        assert issubclass(problem, Problem)
        assert problem.name == name
        assert problem.sense in ("min", "max")


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("travel", {}, "problem: 'travel' is not known; allowed are .*tsp"),
        ("tsp", {"nodes": 5}, "tsp: .*unexpected keyword argument 'nodes'"),
        ("tsp", {"num_nodes": 1}, "num_nodes: 1 is not allowed"),
    ],
)
def test_make_refuses_in_words(name, arguments, words):
    """An unknown problem, an unknown argument and a bad value are each refused in one line."""
    with pytest.raises(ArgumentError, match=words):
        make(name, **arguments)


def test_an_unfinished_problem_cannot_be_built():
    """A subclass that leaves out a method of the contract fails when it is built, by name."""

    class Half(Problem):
        name, sense = "half", "min"

        def generate(self, batch_size, rng, device=None):
            return TensorDict({}, batch_size=[batch_size])

    with pytest.raises(TypeError, match="advance"):
        Half()


def test_a_problem_without_a_picture_has_no_sketch(env):
    """Who defines no sketch has none, which is no error."""
    assert Problem.sketch(env, env.generate(1, torch.Generator()), torch.arange(5)) is None


@pytest.mark.parametrize("batch_size", [(2, 3), (1, 1)])
def test_a_second_batch_axis_is_refused(batch_size):
    """Rollouts are an axis of their own, so that TorchRL's batch has at most one."""
    with pytest.raises(ArgumentError, match="batch_size"):
        make("tsp", num_nodes=5, batch_size=batch_size)


# ---------------------------------------------------------------------- TorchRL, as a stranger uses it


@BATCH_SIZES
@pytest.mark.parametrize("break_when_any_done", [True, False])
def test_specs_describe_the_data(batch_size, break_when_any_done):
    """TorchRL's own check of specs against a rollout passes."""
    check_env_specs(make("tsp", num_nodes=5, batch_size=batch_size), break_when_any_done=break_when_any_done)


@BATCH_SIZES
def test_a_random_rollout_is_a_tour(batch_size):
    """``rollout`` without a policy ends after the last node with a valid tour, whose rewards sum to its length."""
    env = make("tsp", num_nodes=5, batch_size=batch_size)
    env.set_seed(1)
    data = env.rollout(100)
    assert data.shape == (*batch_size, 5)
    assert data["next", "reward"].shape == (*batch_size, 5, 1)
    assert data["next", "done"].squeeze(-1).int().sum(-1).eq(1).all()
    assert data["next", "done"][..., -1, :].all()
    actions, instance = data["action"].reshape(-1, 1, 5), data[..., 0].reshape(-1).select("locs")
    assert env.violations(instance, actions) == []
    rewards = data["next", "reward"].sum((-1, -2)).reshape(-1, 1)
    torch.testing.assert_close(-rewards.double(), env.objective(instance, actions), rtol=1e-5, atol=1e-5)


@BATCH_SIZES
def test_step_by_step_with_a_policy_of_ones_own(batch_size):
    """A loop of ``reset``, ``step`` and ``step_mdp`` that takes the first allowed node visits 0, 1, 2, ..."""
    env = make("tsp", num_nodes=5, batch_size=batch_size)
    state = env.reset()
    assert state.batch_size == batch_size
    assert not state["done"].any()
    for node in range(5):
        state["action"] = state["action_mask"].int().argmax(-1)
        assert state["action"].eq(node).all()
        stepped = env.step(state)
        assert stepped["next", "done"].eq(node == 4).all()
        assert stepped["next", "current"].eq(node).all()
        state = step_mdp(stepped)


@pytest.mark.parametrize("batch", [(), (1,), (7,)])
def test_reset_takes_instances_of_ones_own(env, rng, batch):
    """``reset`` with instances of any batch size starts on these, and the rollout's rewards are theirs."""
    instances = env.generate(7, rng)[: batch[0] if batch else 1].reshape(batch)
    state = env.reset(instances.clone())
    assert torch.equal(state["locs"], instances["locs"])
    data = env.rollout(5, tensordict=state, auto_reset=False)
    assert torch.equal(data["locs"][..., 0, :, :], instances["locs"])
    expected = env.objective(instances.reshape(-1), data["action"].reshape(-1, 1, 5)).reshape(batch)
    rewards = data["next", "reward"].sum((-1, -2)).double()
    torch.testing.assert_close(-rewards, expected, rtol=1e-5, atol=1e-5)


def test_reset_takes_instances_of_another_size(env, rng):
    """Instances need not be of the size that the environment draws."""
    state = env.reset(make("tsp", num_nodes=9).generate(3, rng))
    assert state["action_mask"].shape == (3, 9)
    assert env.rollout(9, tensordict=state, auto_reset=False)["next", "done"][:, -1].all()


def test_reset_takes_instances_of_distances_alone(env, rng):
    """An instance that is a distance matrix is used as it is; none is drawn in its stead."""
    dists = geometry.distances(env.generate(2, rng))
    state = env.reset(TensorDict({"dists": dists}, batch_size=[2]))
    assert torch.equal(state["dists"], dists)
    assert "locs" not in state.keys()
    data = env.rollout(5, tensordict=state, auto_reset=False)
    expected = env.objective(TensorDict({"dists": dists}, batch_size=[2]), data["action"][:, None])
    torch.testing.assert_close(-data["next", "reward"].sum(1).double(), expected, rtol=1e-5, atol=1e-5)


def test_reset_by_rows_leaves_the_others(rng):
    """A partial reset starts the named rows anew and leaves the others where they are."""
    env = make("tsp", num_nodes=5, batch_size=(3,))
    state = env.reset(env.generate(3, rng))
    for _ in range(2):
        state = step_mdp(env.rand_step(state))
    before, state["_reset"] = state.clone(), torch.tensor([[True], [False], [True]])
    after = env.reset(state)
    assert after["num_left"].tolist() == [5, 3, 5]
    assert after["current"].tolist() == [-1, int(before["current"][1]), -1]
    assert torch.equal(after["locs"][1], before["locs"][1])


@BATCH_SIZES
def test_random_actions_are_allowed_ones(batch_size):
    """``rand_action`` draws from the mask, every allowed action sooner or later."""
    env, seen = make("tsp", num_nodes=5, batch_size=batch_size), set()
    state = env.reset()
    state["action_mask"] = torch.tensor([False, True, False, True, True]).expand(*batch_size, 5)
    for _ in range(60):
        seen |= set(env.rand_action(state)["action"].flatten().tolist())
    assert seen == {1, 3, 4}


def stepped(env, *actions):
    """Return the state after ``actions``, taken in all rows."""
    state = env.reset()
    for action in actions:
        state["action"] = torch.full(state.batch_size, action)
        state = step_mdp(env.step(state))
    return state


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ([0, 2, 1], r"action: 2 is not allowed in row 1; action_mask allows 0, 1, 3, 4$"),
        ([5, 0, 1], "action: 5 is not allowed in row 0"),
        ([0, 1, -1], "action: -1 is not allowed in row 2"),
        ([0.0, 1.0, 1.0], "action: torch.float32 .* it must be torch.int64"),
        ([[0, 1]] * 3, r"action: torch.int64 of shape \(3, 2\) is not allowed"),
    ],
)
def test_disallowed_actions_are_refused(action, words):
    """The row and what it allows are named; the dynamics themselves, on which rollouts run, check nothing."""
    env = make("tsp", num_nodes=5, batch_size=(3,))
    state = stepped(env, 2)
    state["action"] = torch.tensor(action)
    with pytest.raises(ArgumentError, match=words):
        env.step(state)


def test_an_action_alone_has_no_row(env):
    """Where there is one instance, no row is named."""
    state = stepped(env, 2)
    state["action"] = torch.tensor(2)
    with pytest.raises(ArgumentError, match="action: 2 is not allowed; action_mask allows 0, 1, 3, 4"):
        env.step(state)


COMPILED = """
import torch
from ncogym.envs import PROBLEMS, make
from torchrl.envs.utils import step_mdp
for problem in PROBLEMS:
    torch.compiler.reset()  # a process compiles one function for few kinds of arguments
    env = make(problem, batch_size=(3,))
    state = env.rand_action(env.reset())
    step, eager = torch.compile(env.step, fullgraph=True, backend="eager"), env.step(state.clone())
    assert (step(state.clone()) == eager).all(), problem
    after = step_mdp(eager)
    after["action"] = torch.full((3,), after["action_mask"].shape[-1])
    try:
        step(after)
    except RuntimeError as error:
        print(problem, error)
"""


@pytest.mark.slow
def test_a_compiled_step_is_one_graph_and_refuses():
    """``torch.compile`` breaks no graph; the step is the same, and fails for an action that is not allowed.

    It runs in a process of its own, without the type checks of tests, which are not compiled.
    """
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=True)
    refused = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert [problem for problem, _ in refused] == list(PROBLEMS)
    assert all(words.startswith("an action is not in action_mask") for _, words in refused)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_not_waited_for():
    """On a GPU a step reads no value, whatever the action is."""
    env = make("tsp", num_nodes=5, batch_size=(3,), device="cuda")
    state = env.rand_action(env.reset())
    torch.cuda.set_sync_debug_mode("error")
    try:
        env.step(state)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_missing_key_is_named(env):
    """A tensordict that lacks what a step reads is refused by the key."""
    state = env.rand_action(env.reset())
    with pytest.raises(ArgumentError, match="tensordict: 'current' is missing"):
        env.step(state.exclude("current"))
    with pytest.raises(ArgumentError, match="an instance needs its locs, dists"):
        env.step(state.exclude("locs"))


@BATCH_SIZES
def test_an_instance_is_summed_once_and_anew_where_it_may_have_changed(batch_size, monkeypatch):
    """Steps from one to the next add up nothing again; copies are looked at, and what was written to is refused."""
    env, summed = make("tsp", num_nodes=5, batch_size=batch_size), []
    monkeypatch.setattr(env, "_sums", lambda numbers, keys: summed.append(keys) or Env._sums(numbers, keys))
    state = stepped(env, 2, 0)
    assert len(summed) == 1
    state["action"] = torch.full(batch_size, 1)
    assert torch.equal(env.step(state.clone())["next", "num_left"], env.step(state)["next", "num_left"])
    assert len(summed) == 3  # the copy, and what it was made of
    state["locs"].mul_(2)
    with pytest.raises(ArgumentError, match="locs: row 0 is not what reset and step gave"):
        env.step(state)
    with torch.inference_mode():  # where writes are not counted
        state = env.rand_action(env.reset())
        state["locs"].mul_(2)
        with pytest.raises(ArgumentError, match="locs: row 0 is not what reset and step gave"):
            env.step(state)


def test_memory_that_is_filled_anew_holds_another_instance():
    """What numpy writes into the tensors of an instance between two resets is nobody's change in mid-episode."""
    env, locs = make("tsp", num_nodes=5), np.random.default_rng(0).random((5, 2), dtype=np.float32)
    for _ in range(2):
        state = env.reset(TensorDict({"locs": torch.from_numpy(locs)}, batch_size=[]))
        env.step(env.rand_action(state).clone())
        locs *= 2


@BATCH_SIZES
@pytest.mark.parametrize(
    "wrap", [lambda env: env, lambda env: TransformedEnv(env, RewardSum())], ids=["bare", "wrapped"]
)
def test_reset_goes_on_from_a_saved_state(batch_size, wrap):
    """A state in mid-episode is gone on from, with TorchRL's warning where ``set_state`` is not said."""
    env = wrap(make("tsp", num_nodes=5, batch_size=batch_size))
    saved = stepped(env, 2, 0)
    env.reset()
    with pytest.warns(FutureWarning, match="set_state"):
        again = env.reset(saved.clone())
    for state in (again, env.reset(saved.clone(), set_state=True)):
        for key in ("locs", "first", "current", "num_left", "action_mask", "done"):
            assert torch.equal(state[key], saved[key])
    anew = env.reset(saved.clone(), set_state=False)
    assert torch.equal(anew["locs"], saved["locs"])
    assert anew["num_left"].eq(5).all()


def test_a_wrapped_environment_begins_with_instances_of_ones_own(env, rng):
    """TorchRL's transforms pass on the instances that ``reset`` is given."""
    instances = env.generate(3, rng)
    found = TransformedEnv(make("tsp", num_nodes=5, batch_size=(3,)), RewardSum()).reset(instances.clone())
    assert torch.equal(found["locs"], instances["locs"])
    assert found["num_left"].eq(5).all()


def test_a_mask_leaves_the_actions_what_they_are(env):
    """Actions are equal, and contain what they contain, whatever is masked; another number of them is another."""
    masked = env.action_spec.clone()
    masked.update_mask(torch.tensor([False, True, False, True, True]))
    assert masked == env.action_spec
    assert masked.is_in(torch.tensor(0))
    assert not masked.is_in(torch.tensor(5))
    assert masked != make("tsp", num_nodes=6).action_spec


def test_a_step_leaves_its_input_alone(env):
    """``step`` puts the successor under "next" and changes nothing of what it was given."""
    state = env.reset()
    state["action"] = torch.tensor(2)
    before = state.clone()
    after = env.step(state)
    for key in before.keys():
        assert torch.equal(after[key], before[key])
    assert after["next", "current"] == 2


# ---------------------------------------------------------------------- randomness


def test_set_seed_decides_instances_and_actions():
    """The same seed gives the same random rollout, another seed another; two environments do not share a generator."""
    runs = []
    for seed in (3, 3, 4):
        env = make("tsp", num_nodes=5, batch_size=(2,))
        env.set_seed(seed)
        make("tsp", num_nodes=5, batch_size=(2,)).reset()
        runs.append(env.rollout(5))
    for key in ("locs", "action"):
        assert torch.equal(runs[0][key], runs[1][key])
        assert not torch.equal(runs[0][key], runs[2][key])


def test_unseeded_environments_differ():
    """Where nobody has seeded torch, environments and processes draw their own instances; a seed of torch counts."""
    code = (
        "import torch, ncogym; draw = lambda: ncogym.make('tsp', num_nodes=5).reset()['locs'][0, 0].item();"
        "print(draw(), draw()); torch.manual_seed(3); print(draw(), draw())"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    (free, seeded), (other, again) = (run.stdout.splitlines() for run in runs)
    assert len({*free.split(), *other.split(), *seeded.split()}) == 6
    assert seeded == again


def test_forked_workers_differ(monkeypatch):
    """Workers that have their parent's generator draw by their name."""
    draws = set()
    for name in ("ForkProcess-1", "ForkProcess-2"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            monkeypatch.setattr(multiprocessing, "parent_process", lambda: True)
            monkeypatch.setattr(multiprocessing.current_process(), "name", name)
            draws.add(make("tsp", num_nodes=5).reset()["locs"][0, 0].item())
    assert len(draws) == 2


def test_resets_go_on(env):
    """Each ``reset`` draws another instance."""
    assert not torch.equal(env.reset()["locs"], env.reset()["locs"])


def test_the_global_generator_is_left_alone():
    """Building, seeding, drawing and stepping never touch torch's global generator."""
    before = torch.random.get_rng_state()
    env = make("tsp", num_nodes=5)
    env.set_seed(0)
    env.rollout(5)
    env.seeded(3, seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


# ---------------------------------------------------------------------- published sets


def test_a_seeded_set_is_built_from_its_entry(monkeypatch):
    """By default a published set is what `seeded` gives for its arguments, seed and count."""
    entry = ReferenceSet({"num_nodes": 4, "distribution": "clustered"}, 7, 3, "", "mine")
    monkeypatch.setattr(TSPDistribution, "reference_sets", {"mine": entry, "other": entry._replace(seed=None)})
    found = TSPDistribution.reference_set("mine")
    assert torch.equal(found["locs"], Task.of(TSP, 4, "clustered").seeded(3, 7)["locs"])
    with pytest.raises(NotImplementedError, match="TSPDistribution: other has no seed"):
        TSPDistribution.reference_set("other")


def test_each_set_gets_its_own_fingerprint():
    """Fingerprints and best known values come from the package's table, which must have each set."""
    entry = ReferenceSet({}, 0, 1, "", "mine")
    found = pinned([("ta01", entry), ("kool-tsp20", entry)])
    assert {name: each.sha256[:4] for name, each in found.items()} == {"ta01": "83f2", "kool-tsp20": "816c"}
    assert (found["ta01"].best_known, found["ta01"].proven) == ((1231.0,), (True,))
    assert (found["kool-tsp20"].best_known, found["kool-tsp20"].proven) == ((), ())
    with pytest.raises(KeyError, match="a set of nobody"):
        pinned([("a set of nobody", entry)])


def test_a_problem_need_read_no_arrays():
    """What the contract gives by default reads no arrays and knows no solution."""
    assert Problem.from_arrays({"locs": None}) is None
    assert Problem.published_objective(make("knapsack"), "a.kp", TensorDict({})) is None
    assert Distribution.reference_sets == {}


# ---------------------------------------------------------------------- what solvers may read


def test_a_model_is_of_one_class_alone(rng):
    """A subclass may ask for more, so it shows solvers nothing until it says itself what there is to see."""

    class Windows(TSP):
        pass

    class Renamed(TSP):
        model = TSP.model

    instances = Task.of(TSP, 5).generate(1, rng)
    assert Windows().model(instances) is None
    assert type(Renamed().model(instances)) is type(Task.of(TSP, 5).model(instances)) is Tour
    assert Windows().answer(instances, torch.arange(5)) is None


# ---------------------------------------------------------------------- actions of other types


@pytest.mark.parametrize("name", PROBLEMS)
def test_referees_read_whole_numbers_of_any_type(name, rng):
    """A solution is the same in any type of whole numbers, broken or not; other numbers are refused in words."""
    env = make(name).resized(50)  # numbers that 8 bits hold
    instances = env.generate(2, rng)
    state, actions = env.start(instances, 3), []
    for _ in range(env.horizon(instances)):
        drawn = torch.multinomial(state.action_mask.flatten(0, 1).float(), 1, generator=rng).view(2, 3)
        actions.append(drawn)
        state = env.advance(state, drawn)
    sound = torch.stack(actions, dim=-1)
    for given in (sound, sound.roll(1, 1).fill_(1)):
        expected = env.objective(instances, given), env.violations(instances, given)
        for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
            assert torch.equal(env.objective(instances, given.to(dtype)), expected[0])
            assert env.violations(instances, given.to(dtype)) == expected[1]
    assert env.violations(instances, sound) == []
    for dtype in (torch.float16, torch.float32, torch.float64, torch.bool, torch.complex64):
        for method in (env.objective, env.violations):
            with pytest.raises(ArgumentError, match=f"actions: {dtype} is not allowed; they must be whole numbers"):
                method(instances, sound.to(dtype))
