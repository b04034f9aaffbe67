"""The problems as Gymnasium environments, for those whose training loop speaks Gymnasium.

Importing this module registers an id for each problem of `ncogym.envs.PROBLEMS`, named after its class:
``ncogym/TSP-v0``, ``ncogym/ATSP-v0``, ``ncogym/CVRP-v0``, ``ncogym/Knapsack-v0``, ``ncogym/JSSP-v0``. Gymnasium 1.0 and
later knows no plugins, but imports a module that is named before the id:

    gymnasium.make("ncogym.envs.gym:ncogym/TSP-v0", num_nodes=20)
    gymnasium.make_vec("ncogym.envs.gym:ncogym/TSP-v0", num_envs=8, num_nodes=20)

The second steps all its rows as one batch. Observations hold the instance and the state by the keys that the problem's
class documents, masks as int8; their bounds are those of the number's type, for an instance may come in any unit. An
action must be allowed by ``action_mask``, which is in the observation and, as ``Discrete.sample(mask)`` wants it, in
``info``. The rewards of an episode sum to the objective, negative where that is minimised; none is ever truncated.

References:
    Towers et al. (2024), Gymnasium: a standard interface for reinforcement learning environments, arXiv:2407.17032.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor

from ncogym.envs import PROBLEMS, make
from ncogym.errors import ArgumentError

try:
    import gymnasium
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError as failed:
    raise ImportError(f"gymnasium cannot be imported ({failed}); pip install 'ncogym[gym]'") from failed

Observation = dict[str, NDArray[Any]]
Info = dict[str, Any]

LARGEST_INTEGER = 2**53  # the bound of an integer box: Gymnasium computes with the difference of the bounds


class _Episodes:
    """A batch of episodes of one problem that step together.

    Args:
        problem: its name in `ncogym.envs.PROBLEMS`.
        num_rows: episodes.
        arguments: of the problem's class.
    """

    def __init__(self, problem: str, num_rows: int, arguments: dict[str, Any]) -> None:
        if isinstance(num_rows, bool) or not isinstance(num_rows, int) or num_rows < 1:
            raise ArgumentError(f"num_envs: {num_rows} is not allowed; it must be a whole number of at least 1")
        if arguments.get("render_mode") is not None:  # a TypeError makes wrappers of other libraries try without
            raise TypeError(f"render_mode: {arguments['render_mode']!r} is not allowed; there is none")
        self.env: Any = make(problem, **{name: value for name, value in arguments.items() if name != "render_mode"})
        self.num_rows = num_rows
        drawn = self._draw(1, np.random.default_rng(0))
        self.shapes = {name: tuple(value.shape[1:]) for name, value in drawn.items()}
        self.state = self.env.start(drawn)
        shown = self._tensors()
        self.observation_space = spaces.Dict({name: _box(value[0]) for name, value in shown.items()})
        self.action_space = AllowedActions(shown["action_mask"].shape[-1])

    def begin(self, source: np.random.Generator, options: dict[str, Any] | None) -> None:
        """Start every row anew, on the instances of ``options["instance"]`` or on drawn ones.

        Raises:
            ArgumentError: an option is unknown, or the instances do not fit.
        """
        options = options or {}
        if unknown := sorted(set(options) - {"instance"}):
            raise ArgumentError(f"options: {', '.join(unknown)} is not known; 'instance' is allowed")
        given = options.get("instance")
        self.state = self.env.start(self._draw(self.num_rows, source) if given is None else self._fitting(given))

    def step(self, actions: NDArray[Any], again: NDArray[np.bool_], source: np.random.Generator) -> NDArray[np.float64]:
        """Take one action in each row, or start it anew where ``again`` is True, and return the rewards.

        Raises:
            ArgumentError: an action is not allowed by the mask.
        """
        mask = self.state.action_mask[:, 0]
        if actions.shape != again.shape or actions.dtype.kind not in "iu":
            raise ArgumentError(f"action: {actions!r} is not allowed; it must be {again.size} whole number(s)")
        chosen = torch.from_numpy(actions.astype(np.int64)).to(mask.device)
        fresh = torch.from_numpy(again).to(mask.device)
        inside = (chosen >= 0) & (chosen < mask.shape[-1])
        allowed = inside & mask.gather(1, torch.where(inside, chosen, 0)[:, None])[:, 0]
        if wrong := (~allowed & ~fresh).nonzero()[:, 0].tolist():
            self._refuse(wrong[0], int(chosen[wrong[0]]), mask[wrong[0]])
        # a row that starts anew was done: its one allowed action is padding
        action = torch.where(fresh, mask.long().argmax(-1), chosen)[:, None]
        successor = self.env.advance(self.state, action)
        reward = self.env.reward(self.state, action, successor)[:, 0].numpy(force=True).astype(np.float64)
        self.state = successor
        if again.any():
            self._replace(fresh, source)
        return reward

    def observe(self) -> tuple[Observation, NDArray[np.bool_]]:
        """Return copies of what is seen, ``[rows, ...]``, and which rows are done."""
        dtypes = {name: space.dtype for name, space in self.observation_space.spaces.items()}
        seen = {name: np.array(value.numpy(force=True), dtype=dtypes[name]) for name, value in self._tensors().items()}
        return seen, np.array(self.state.done[:, 0].numpy(force=True))

    def _tensors(self) -> dict[str, Tensor]:
        own = {name: value[:, 0] for name, value in _fields(self.state).items() if name != "done"}
        shown = {name: self.state.instance[name] for name in self.shapes} | own
        return {name: value for name, value in shown.items() if value.numel()}

    def _draw(self, count: int, source: np.random.Generator) -> TensorDict:
        rng = torch.Generator().manual_seed(int(source.integers(2**63)))
        return self.env.generate(count, rng, device=self.env.device)

    def _fitting(self, given: TensorDict) -> TensorDict:
        wanted = {name: (self.num_rows, *shape) for name, shape in self.shapes.items()}
        found = {name: tuple(given[name].shape) for name in given.keys()}
        # several rows end at several times, and drawn ones take their place: they must have the same keys
        if not wanted.items() <= found.items() or (self.num_rows > 1 and found.keys() != wanted.keys()):
            raise ArgumentError(f"instance: the shapes {found} are not allowed; they must be {wanted}")
        return given.to(self.env.device)

    def _replace(self, rows: Tensor, source: np.random.Generator) -> None:
        """Start some rows anew on drawn instances."""

        def placed(old: Tensor, new: Tensor) -> Tensor:
            old = old.clone()
            old[rows] = new.to(old.dtype)
            return old

        fresh = self.env.start(self._draw(int(rows.sum()), source))
        merged = {name: placed(self.state.instance[name], value) for name, value in fresh.instance.items()}
        own = {name: placed(getattr(self.state, name), value) for name, value in _fields(fresh).items()}
        self.state = fresh._replace(instance=TensorDict(merged, batch_size=[self.num_rows]), **own)

    def _refuse(self, row: int, action: int, mask: Tensor) -> NoReturn:
        allowed = mask.nonzero()[:, 0].tolist()
        listed = ", ".join(map(str, allowed[:10])) + (", ..." if len(allowed) > 10 else "")
        where = f" in row {row}" if self.num_rows > 1 else ""
        raise ArgumentError(f"action: {action} is not allowed{where}; action_mask allows {listed}")


class AllowedActions(spaces.Discrete):
    """The actions of an episode, of which ``sample()`` without a mask draws one that is allowed now.

    So whoever samples without a look at the mask acts soundly. Gymnasium's checker of environments does, and even takes
    in a new episode what it drew in the last one: of the actions allowed now, those that are at the start as well are
    preferred (a vehicle goes home only when it must).

    Attributes:
        allowed: int8 ``[actions]``, the episode's action mask; None before its first reset.
        at_start: int8 ``[actions]``, what it was at the start of the episode.
    """

    allowed: NDArray[np.int8] | None = None
    at_start: NDArray[np.int8] | None = None

    def sample(self, mask: Any = None, probability: Any = None) -> np.int64:
        if mask is None and probability is None and self.allowed is not None and self.at_start is not None:
            both = self.allowed & self.at_start
            mask = both if both.any() else self.allowed
        return super().sample(mask, probability)


class GymEnv(gymnasium.Env[Observation, np.int64]):
    """One episode at a time.

    ``reset(options={"instance": ...})`` takes an instance of batch size ``[1]``, such as a file's, of the size that the
    constructor was given.

    Args:
        problem: its name in `ncogym.envs.PROBLEMS`; the ids that this module registers bring it.
        arguments: of the problem's class, such as ``num_nodes=20``.

    Raises:
        ArgumentError: the problem, an argument or an action is not allowed.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own attribute

    def __init__(self, problem: str, **arguments: Any) -> None:
        self._episodes = _Episodes(problem, 1, arguments)
        self.observation_space: Any = self._episodes.observation_space
        self.action_space: Any = self._episodes.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        super().reset(seed=seed)
        self._episodes.begin(self.np_random, options)
        observation, info, _ = self._seen()
        self.action_space.at_start = self.action_space.allowed
        return observation, info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        (reward,) = self._episodes.step(np.asarray(action).reshape(-1), np.zeros(1, dtype=np.bool_), self.np_random)
        observation, info, terminated = self._seen()
        return observation, float(reward), terminated, False, info

    def _seen(self) -> tuple[Observation, Info, bool]:
        observation, done = self._episodes.observe()
        row = {name: np.array(value[0]) for name, value in observation.items()}
        self.action_space.allowed = row["action_mask"].copy()
        return row, {"action_mask": row["action_mask"].copy()}, bool(done[0])


class GymVectorEnv(VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """Many episodes that step together as the rows of one batch.

    Finished rows start anew in the next step (`AutoresetMode.NEXT_STEP`), whatever their action is, with reward 0. The
    rows draw from one generator: a row's instance is not that of a `GymEnv` with some seed.
    ``reset(options={"instance": ...})`` takes instances of batch size ``[num_envs]``.

    Args:
        num_envs: rows.
        problem: its name in `ncogym.envs.PROBLEMS`; the ids that this module registers bring it.
        arguments: of the problem's class, such as ``num_nodes=20``.

    Raises:
        ArgumentError: the problem, an argument or an action is not allowed.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, problem: str, **arguments: Any) -> None:
        self._episodes = _Episodes(problem, num_envs, arguments)
        self.num_envs = num_envs
        self.single_observation_space = self._episodes.observation_space
        self.single_action_space = self._episodes.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._again = np.zeros(num_envs, dtype=np.bool_)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        super().reset(seed=seed)
        self._episodes.begin(self.np_random, options)
        return self._seen()

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Info]:
        reward = self._episodes.step(np.asarray(actions), self._again, self.np_random)
        observation, info = self._seen()
        return observation, reward, self._again.copy(), np.zeros_like(self._again), info

    def _seen(self) -> tuple[Observation, Info]:
        observation, self._again = self._episodes.observe()
        shown = np.ones(self.num_envs, dtype=np.bool_)  # Gymnasium's mark of the rows that have an entry
        return observation, {"action_mask": observation["action_mask"].copy(), "_action_mask": shown}


def _fields(state: Any) -> dict[str, Tensor]:
    return {name: value for name, value in state._asdict().items() if name != "instance"}


def _box(value: Tensor) -> spaces.Box:
    """Return the space of tensors like ``value``, without its batch axis."""
    shape = tuple(value.shape)
    if value.dtype == torch.bool:
        return spaces.Box(0, 1, shape, np.int8)
    dtype = np.dtype(str(value.dtype).removeprefix("torch."))
    largest = float(np.finfo(dtype).max) if dtype.kind == "f" else min(LARGEST_INTEGER, np.iinfo(dtype).max)
    return spaces.Box(-largest, largest, shape, dtype.type)


def environment_id(problem: str) -> str:
    """Return the id under which a problem of `ncogym.envs.PROBLEMS` is registered, such as "ncogym/TSP-v0"."""
    return f"ncogym/{PROBLEMS[problem].__name__.removesuffix('Env')}-v0"


for _name in PROBLEMS:
    gymnasium.register(
        id=environment_id(_name),
        entry_point="ncogym.envs.gym:GymEnv",
        vector_entry_point="ncogym.envs.gym:GymVectorEnv",
        kwargs={"problem": _name},
    )
