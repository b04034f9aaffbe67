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
from gymnasium.wrappers import RenderCollection
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3
from tensordict import TensorDict
from torchrl.envs import ActionMask, TransformedEnv
from torchrl.envs import GymEnv as TorchRLGymEnv

from ncogym.envs import PROBLEMS, make
from ncogym.envs.gym import GymEnv, GymVectorEnv, environment_id, flat_features
from ncogym.errors import ArgumentError
from ncogym.features import EdgeFeatures, NodeFeatures, StepFeatures

SIZES = {
    "jssp": {"num_jobs": 3, "num_machines": 2},
    "cvrp": {"num_customers": 6},
    "vrptw": {"num_customers": 8},
    "knapsack": {"num_items": 6},
    **{name: {"num_nodes": 7, "distribution": "er:0.4"} for name in ("mis", "mvc", "mds", "maxcut")},
    "clique": {"num_nodes": 7, "distribution": "er:0.8"},
}
SHOWN = pytest.mark.parametrize("observation", ["state", "features"])
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


class Forgiving(GymEnv):
    """Takes the first allowed action for one that is not: gymnasium samples an action, then resets, then steps."""

    def step(self, action):
        mask = self.action_masks()
        return super().step(action if mask[action] else int(np.flatnonzero(mask)[0]))


@SHOWN
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_gymnasiums_own_check_passes(name, arguments, observation):
    """Gymnasium's check, which samples the action space without a mask, has nothing to say, not even a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(Forgiving(name, observation=observation, **arguments), skip_render_check=True)


@SHOWN
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_stable_baselines_own_check_passes(name, arguments, observation):
    """Its check warns of nothing but matrices, which its networks flatten."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        check_env_of_sb3(GymEnv(name, observation=observation, **arguments))
    words = [str(each.message) for each in warned]
    assert all("has an unconventional shape" in each for each in words)
    assert observation == "state" or not words


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
        for key, value in env.unwrapped._episodes.env.fitted(instance).items():
            np.testing.assert_array_equal(observation[key], value[0].numpy())


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_seed_decides_an_episode(name, arguments):
    """The same seed gives the same instance, another seed and a second reset give others."""
    env, keys = gymnasium.make(environment_id(name), **arguments), make(name, **arguments).instance_keys

    def instance(**seed):
        seen = env.reset(**seed)[0]
        return np.concatenate([seen[key].ravel() for key in keys if key in seen])

    first, again, other = (instance(seed=seed) for seed in (3, 3, 4))
    instance(seed=3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, instance())


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
        (lambda: GymEnv("tsp", nodes=4), TypeError, "tsp: .*unexpected keyword argument 'nodes'"),
        (lambda: GymEnv("tsp", num_nodes=1), ArgumentError, "num_nodes: 1 is not allowed"),
        (lambda: GymEnv("tsp", render_mode="human"), TypeError, "render_mode: 'human' is not allowed; .* rgb_array"),
        (lambda: GymVectorEnv(2, "tsp", render_mode="rgb_array"), TypeError, "render_mode: .* it must be None"),
        (lambda: GymEnv("tsp", observation="flat"), ArgumentError, "observation: 'flat' is not known; .* features"),
        (lambda: GymVectorEnv(2, "tsp", autoreset_mode="Disabled"), ArgumentError, "autoreset_mode: Disabled is not"),
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
        shown = {key: torch.from_numpy(observation[key][row : row + 1]) for key in keys}
        shown = {key: value.view(1, *singles[row]._episodes.shapes[key]) for key, value in shown.items()}
        instance = TensorDict(shown, batch_size=[1])
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


def test_rows_can_begin_anew_at_once():
    """With SAME_STEP a row's last observation is in ``info``, and what is seen is of the next instance."""
    env = gymnasium.make_vec("ncogym/TSP-v0", num_envs=3, num_nodes=4, autoreset_mode=AutoresetMode.SAME_STEP)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    first, _ = env.reset(seed=0)
    for node in range(4):
        observation, _, terminated, _, info = env.step(np.full(3, node))
        assert ("final_obs" in info) == (node == 3)
    assert terminated.all()
    assert info["_final_obs"].all()
    for row in range(3):
        assert np.array_equal(info["final_obs"][row]["locs"], first["locs"][row])
        assert info["final_obs"][row]["num_left"] == 0
    assert (observation["num_left"] == 4).all()
    assert not np.array_equal(observation["locs"], first["locs"])
    env.step(np.full(3, 2))  # the new episodes go on


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_sampling_rows_without_a_mask_draws_what_is_allowed(name, arguments):
    """Sampled actions carry the rows through several episodes, and are those of `action_masks`."""
    env = gymnasium.make_vec(environment_id(name), num_envs=3, **arguments)
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(30):
        action = env.action_space.sample()
        assert env.action_masks()[np.arange(3), action].all()
        env.step(action)
    assert pickle.loads(pickle.dumps(env.action_space)) == env.action_space  # noqa: S301 - our own


# ---------------------------------------------------------------------- features for flat networks


def test_flat_features_are_those_of_each_action():
    """Worked out by hand for an action that stands for node 1 and one that stands for none."""
    nodes = NodeFeatures(torch.tensor([[[1.0, 2], [3, 4], [5, 6]]]), torch.tensor([1, 0, 0]))
    edges = EdgeFeatures(torch.arange(9.0).view(1, 3, 3, 1))
    step = StepFeatures(
        torch.tensor([[[2, -1]]]),
        torch.tensor([[[True, False]]]),
        torch.tensor([[[7.0]]]),
        torch.tensor([[[[0.5], [0.25]]]]),
        torch.tensor([[[1, -1]]]),
    )
    action = [1, 3, 4, 1, 0, 7, 0, 0.5]  # allowed, node 1, of kind 0, from node 2 to 1, from nobody, its own number
    nothing = [0, 0, 0, 0, 0, 0, 0, 0.25]  # not allowed, and it stands for no node
    expected = [*action, *nothing, 5, 6, 0, 0, 7]  # then the places of node 2 and of nobody, and the scalar
    assert flat_features((nodes, edges), step)[0, 0].tolist() == expected


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_rows_see_the_features_of_their_own(name, arguments):
    """What a row observes is what a single environment does, after new instances, too."""
    env = gymnasium.make_vec(environment_id(name), num_envs=3, observation="features", **arguments)
    env.action_space.seed(1)
    core, (observation, _) = env._episodes.env, env.reset(seed=1)
    for _ in range(12):
        state = env._episodes.state
        for row in range(3):
            features = core.instance_features(state.instance[row : row + 1])
            step = StepFeatures(*(None if each is None else each[row : row + 1] for each in core.step_features(state)))
            np.testing.assert_allclose(observation[row], flat_features(features, step)[0, 0].numpy(), atol=1e-6)
        observation, *_ = env.step(env.action_space.sample())
        assert observation in env.observation_space


# ---------------------------------------------------------------------- other libraries


@pytest.mark.parametrize(("name", "arguments"), CASES)
@pytest.mark.parametrize(("policy", "observation"), [("MultiInputPolicy", "state"), ("MlpPolicy", "features")])
def test_maskable_ppo_trains(name, arguments, policy, observation):
    """It finds the masks by itself, and never takes an action that is refused."""
    env = gymnasium.make(environment_id(name), observation=observation, **arguments)
    options = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "device": "cpu", "seed": 0}
    MaskablePPO(policy, env, **options).learn(32)


def test_what_knows_no_mask_is_refused():
    """Plain PPO chooses what is not allowed, which is said."""
    env = gymnasium.make("ncogym/TSP-v0", num_nodes=4)
    with pytest.raises(ArgumentError, match=r"action: \d is not allowed"):
        PPO("MultiInputPolicy", env, n_steps=64, device="cpu", seed=0).learn(64)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_torchrls_own_wrapper_works(name, arguments):
    """TorchRL's GymEnv takes the ids, and plays on behind its ActionMask."""
    env = TransformedEnv(TorchRLGymEnv(environment_id(name), **arguments), ActionMask())
    env.set_seed(0)
    data = env.rollout(20, break_when_any_done=False)
    assert data["action_mask"].shape == (20, env.action_spec.shape[-1])
    assert data["next", "done"].any()


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_an_episode_can_be_filmed(name, arguments):
    """Every frame has the same size, and shows one more step of the solution."""
    env = gymnasium.make(environment_id(name), render_mode="rgb_array", **arguments)
    env.action_space.seed(0)
    env = RenderCollection(env)
    env.reset(seed=0)
    for _ in range(3):
        env.step(env.action_space.sample())
    frames = env.render()
    assert {(frame.shape, frame.dtype) for frame in frames} == {((640, 640, 3), np.dtype(np.uint8))}
    assert len({frame.tobytes() for frame in frames}) >= 3
    assert GymEnv(name, **arguments).render() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)  # pictures are asked for, too
