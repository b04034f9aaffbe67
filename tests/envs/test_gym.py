from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict

from ncogym.envs import PROBLEMS, make
from ncogym.envs.gym import GymEnv, GymVectorEnv, environment_id
from ncogym.errors import ArgumentError

SIZES = {"jssp": {"num_jobs": 3, "num_machines": 2}, "cvrp": {"num_customers": 6}, "knapsack": {"num_items": 6}}
CASES = [(name, SIZES.get(name, {"num_nodes": 5})) for name in PROBLEMS]


def sampled(space, mask, rng):
    """Return a random allowed action of each row of ``mask``."""
    return np.array([rng.choice(np.flatnonzero(row)) for row in np.atleast_2d(mask)], dtype=space.dtype)


def episode(env, rng, **reset):
    """Act at random in a single environment until it ends; return instance, actions, rewards and observations."""
    observation, info = env.reset(**reset)
    seen, actions, rewards, terminated = [observation], [], [], False
    while not terminated:
        actions.append(int(sampled(env.action_space, info["action_mask"], rng)[0]))
        observation, reward, terminated, truncated, info = env.step(actions[-1])
        seen.append(observation)
        rewards.append(reward)
        assert not truncated
    return actions, rewards, seen


# ---------------------------------------------------------------------- ids and checks


def test_ids_are_named_after_the_problems():
    """Each problem has an id in its own spelling."""
    assert environment_id("tsp") == "ncogym/TSP-v0"
    assert environment_id("knapsack") == "ncogym/Knapsack-v0"
    for name in PROBLEMS:
        assert gymnasium.spec(environment_id(name)).kwargs == {"problem": name}


def test_an_id_brings_its_module():
    """With the module before the id nothing need be imported, and ``import ncogym.envs`` imports no gymnasium."""
    code = (
        "import sys, ncogym.envs; assert 'gymnasium' not in sys.modules; import gymnasium;"
        "env = gymnasium.make('ncogym.envs.gym:ncogym/TSP-v0', num_nodes=4); print(env.action_space)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("Discrete(4)", "")


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_gymnasiums_own_check_passes(name, arguments):
    """Gymnasium's check, which samples the action space without a mask, has nothing to say, not even a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(GymEnv(name, **arguments), skip_render_check=True)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_sampling_without_a_mask_draws_what_is_allowed(name, arguments):
    """Sampled actions carry an episode to its end, and the space can be sent to another process."""
    env = gymnasium.make(environment_id(name), **arguments)
    env.action_space.seed(0)
    env.reset(seed=0)
    while not env.step(env.action_space.sample())[2]:
        pass
    assert env.action_space == gymnasium.spaces.Discrete(env.action_space.n)
    assert pickle.loads(pickle.dumps(env.action_space)) == env.action_space  # noqa: S301 - our own


# ---------------------------------------------------------------------- single environments


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_rewards_of_an_episode_sum_to_the_objective(name, arguments):
    """The sum is the signed objective of the given instance; everything seen is of the observation space."""
    env, core = gymnasium.make(environment_id(name), **arguments), make(name, **arguments)
    instance = core.generate(1, torch.Generator().manual_seed(4))
    actions, rewards, seen = episode(env, np.random.default_rng(1), options={"instance": instance})
    objective = core.objective(instance, torch.tensor(actions)[None, None]).item()
    assert sum(rewards) == pytest.approx(-objective if core.sense == "min" else objective, rel=1e-5)
    assert all(type(reward) is float for reward in rewards)
    for observation in seen:
        assert observation in env.observation_space
        for key, value in instance.items():
            np.testing.assert_array_equal(observation[key], value[0].numpy())


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_seed_decides_an_episode(name, arguments):
    """The same seed gives the same instance, another seed and a second reset give others."""
    env, key = gymnasium.make(environment_id(name), **arguments), next(iter(make(name, **arguments)._instance_keys))
    first, again, other = (env.reset(seed=seed)[0][key] for seed in (3, 3, 4))
    env.reset(seed=3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, env.reset()[0][key])


def test_the_mask_suits_discrete_sampling():
    """``Discrete.sample`` takes the mask of ``info``, which is that of the observation, and draws what is allowed."""
    env = gymnasium.make("ncogym/TSP-v0", num_nodes=4)
    env.reset(seed=0)
    observation, _, _, _, info = env.step(2)
    assert info["action_mask"].dtype == np.int8
    assert info["action_mask"].tolist() == observation["action_mask"].tolist() == [1, 1, 0, 1]
    assert {int(env.action_space.sample(info["action_mask"])) for _ in range(50)} == {0, 1, 3}


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (2, "action: 2 is not allowed; action_mask allows 0, 1, 3"),
        (4, "action: 4 is not allowed; action_mask allows"),
        (-1, "action: -1 is not allowed; action_mask allows"),
        (1.0, "action: .* is not allowed; it must be 1 whole number"),
        ([0, 1], "action: .* is not allowed; it must be 1 whole number"),
    ],
)
def test_forbidden_actions_are_refused(action, words):
    """An action that the mask forbids is named, and what is allowed; the episode stays where it is."""
    env = GymEnv("tsp", num_nodes=4)
    env.reset(seed=0)
    env.step(2)
    with pytest.raises(ArgumentError, match=words):
        env.step(action)
    assert env.step(0)[0]["current"] == 0


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: GymEnv("tps"), ArgumentError, "problem: 'tps' is not known"),
        (lambda: GymEnv("tsp", nodes=4), ArgumentError, "tsp: .*unexpected keyword argument 'nodes'"),
        (lambda: GymEnv("tsp", render_mode="human"), TypeError, "render_mode: 'human' is not allowed"),
        (lambda: GymVectorEnv(0, "tsp"), ArgumentError, "num_envs: 0 is not allowed"),
        (lambda: GymEnv("tsp").reset(options={"instances": 1}), ArgumentError, "options: instances is not known"),
    ],
)
def test_bad_arguments_are_refused(call, error, words):
    """A value outside of what is allowed is refused in one line that names it."""
    with pytest.raises(error, match=words):
        call()


def test_a_file_can_be_acted_on(data):
    """An instance from a file is scored by the file's own rule; one of another size is refused."""
    instance = make("tsp").read(data / "square4.tsp")
    _, rewards, _ = episode(GymEnv("tsp", num_nodes=4), np.random.default_rng(0), options={"instance": instance})
    assert sum(rewards) == -4
    with pytest.raises(ArgumentError, match=r"instance: the shapes .*\(1, 4, 2\).* they must be .*\(1, 5, 2\)"):
        GymEnv("tsp", num_nodes=5).reset(options={"instance": instance})


# ---------------------------------------------------------------------- vector environments


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_rows_are_single_environments(name, arguments):
    """Each row sees, earns and ends as a single environment on its instance; then the next step starts it anew."""
    rng, env = np.random.default_rng(2), gymnasium.make_vec(environment_id(name), num_envs=3, **arguments)
    assert isinstance(env, GymVectorEnv)
    singles = [GymEnv(name, **arguments) for _ in range(3)]
    observation, info = env.reset(seed=5)
    keys = make(name, **arguments).generate(1, torch.Generator()).keys()

    def restart(row):
        instance = TensorDict({key: torch.from_numpy(observation[key][row : row + 1]) for key in keys}, batch_size=[1])
        return singles[row].reset(options={"instance": instance})[0]

    alone, ended, ends = [restart(row) for row in range(3)], np.zeros(3, dtype=bool), 0
    for _ in range(60):
        actions = sampled(env.action_space, info["action_mask"], rng)
        actions[ended] = -7  # not looked at
        observation, reward, terminated, truncated, info = env.step(actions)
        assert observation in env.observation_space
        assert not truncated.any()
        np.testing.assert_array_equal(info["action_mask"], observation["action_mask"])
        for row in range(3):
            if ended[row]:
                alone[row], expected = restart(row), (0.0, False)
            else:
                alone[row], *expected, _, _ = singles[row].step(actions[row])
            assert (reward[row], terminated[row]) == tuple(expected)
            for key, value in alone[row].items():
                np.testing.assert_array_equal(observation[key][row], value)
        ended, ends = terminated, ends + terminated.sum()
    assert ends >= 6


def test_ended_rows_draw_new_instances():
    """Rows that end at several times get instances that are new, and leave other rows and older observations alone."""
    env, rng = gymnasium.make_vec("ncogym/Knapsack-v0", num_envs=6, num_items=8), np.random.default_rng(0)
    observation, info = env.reset(seed=0)
    ended, mixed = np.zeros(6, dtype=bool), False
    for _ in range(40):
        before = observation
        observation, _, terminated, _, info = env.step(sampled(env.action_space, info["action_mask"], rng))
        assert not np.shares_memory(observation["weight"], before["weight"])
        changed = (observation["weight"] != before["weight"]).any(1)
        assert np.array_equal(changed, ended)
        mixed |= 0 < ended.sum() < 6
        ended = terminated.copy()
        terminated[:] = False  # what is returned is the caller's own
    assert mixed


def test_the_vector_environment_is_as_gymnasium_wants(recwarn):
    """It names its autoreset mode and its spaces, repeats itself under a seed, and warns of nothing."""
    env = gymnasium.make_vec("ncogym/TSP-v0", num_envs=4, num_nodes=5)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert env.action_space == gymnasium.spaces.MultiDiscrete([5] * 4)
    assert env.single_observation_space == gymnasium.make("ncogym/TSP-v0", num_nodes=5).observation_space
    first, again, other = (env.reset(seed=seed)[0]["locs"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first[:, 0, 0])) == 4
    recorded = gymnasium.wrappers.vector.RecordEpisodeStatistics(env)
    recorded.reset(seed=1)
    for node in range(5):
        *_, info = recorded.step(np.full(4, node))
    assert (info["episode"]["l"] == 5).all()
    assert not recwarn.list


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        ([0, 2, 1], "action: 2 is not allowed in row 1; action_mask allows 0, 1, 3"),
        ([0, 1], "action: .* is not allowed; it must be 3 whole number"),
        ([0.0, 1.0, 1.0], "action: .* is not allowed; it must be 3 whole number"),
    ],
)
def test_forbidden_actions_of_a_row_are_refused(actions, words):
    """The row is named, too."""
    env = GymVectorEnv(3, "tsp", num_nodes=4)
    env.reset(seed=0)
    env.step(np.array([3, 2, 3]))
    with pytest.raises(ArgumentError, match=words):
        env.step(np.array(actions))


def test_instances_of_a_vector_environment_can_be_given(data):
    """Given instances are what is shown, and are left alone; keys that drawn rows would lack are refused."""
    core, env = make("tsp", num_nodes=4), GymVectorEnv(2, "tsp", num_nodes=4)
    given = core.generate(2, torch.Generator().manual_seed(8))
    before = given["locs"].numpy().copy()
    assert np.array_equal(env.reset(options={"instance": given})[0]["locs"], before)
    for node in (0, 1, 2, 3, 0):
        observation, *_ = env.step(np.full(2, node))
    assert not np.array_equal(observation["locs"], before)
    assert np.array_equal(given["locs"].numpy(), before)  # the rows that began anew did not write into it
    with pytest.raises(ArgumentError, match=r"instance: the shapes .*dists.* are not allowed"):
        env.reset(options={"instance": torch.cat([core.read(data / "square4.tsp")] * 2)})
