"""The problems as Gymnasium environments, for those whose training loop speaks Gymnasium.

Importing this module registers an id for each problem of `ncogym.envs.PROBLEMS`, named after its class:
``ncogym/TSP-v0``, ``ncogym/ATSP-v0``, ``ncogym/CVRP-v0``, ``ncogym/Knapsack-v0``, ``ncogym/JSSP-v0``. Gymnasium 1.0 and
later knows no plugins, but imports a module that is named before the id:

    gymnasium.make("ncogym.envs.gym:ncogym/TSP-v0", num_nodes=20)
    gymnasium.make_vec("ncogym.envs.gym:ncogym/TSP-v0", num_envs=8, num_nodes=20)

The second steps all its rows as one batch. The rewards of an episode sum to the objective, negative where that is
minimised; none is ever truncated. An action must be allowed by the mask, which is in ``info["action_mask"]`` as
``Discrete.sample(mask)`` wants it, and in ``action_masks()`` as sb3-contrib's MaskablePPO does.

What is observed is an argument, ``observation``:

- "state", a dictionary of the instance and the state by the keys that the problem's class documents, masks as int8 and
  single numbers as arrays of one; bounds are those of the number's type, for an instance may come in any unit;
- "features", one array of float32 numbers, for networks that know nothing of sets and graphs (``MlpPolicy``): what
  the problem shows to policies, put together anew for each action, as `flat_features` says.

References:
    Towers et al. (2024), Gymnasium: a standard interface for reinforcement learning environments, arXiv:2407.17032.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor
from torch.nn.functional import one_hot

from ncogym.envs import PROBLEMS, make
from ncogym.envs.env import refused_action
from ncogym.errors import ArgumentError
from ncogym.features import EdgeFeatures, InstanceFeatures, NodeFeatures, StepFeatures
from ncogym.plotting import draw

try:
    import gymnasium
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError as failed:
    raise ImportError(f"gymnasium cannot be imported ({failed}); pip install 'ncogym[gym]'") from failed

Observation = dict[str, NDArray[Any]] | NDArray[Any]
Shown = Literal["state", "features"]
Info = dict[str, Any]

PIXELS = (640, 640)  # width and height of a frame
LARGEST_INTEGER = 2**53  # the bound of an integer box: Gymnasium computes with the difference of the bounds


class _Episodes:
    """A batch of episodes of one problem that step together.

    Args:
        problem: its name in `ncogym.envs.PROBLEMS`.
        num_rows: episodes.
        shown: what is observed.
        arguments: of the problem's class.
    """

    def __init__(self, problem: str, num_rows: int, shown: Shown, arguments: dict[str, Any]) -> None:
        if isinstance(num_rows, bool) or not isinstance(num_rows, int) or num_rows < 1:
            raise ArgumentError(f"num_envs: {num_rows} is not allowed; it must be a whole number of at least 1")
        if shown not in get_args(Shown):
            raise ArgumentError(f"observation: {shown!r} is not known; allowed are {', '.join(get_args(Shown))}")
        try:
            self.env: Any = make(problem, **arguments)
        except ArgumentError as error:
            if isinstance(error.__cause__, TypeError):
                raise UnknownArgument(str(error)) from error
            raise
        self.num_rows, self.shown = num_rows, shown
        drawn = self._draw(1, np.random.default_rng(0))
        self.shapes = {name: tuple(value.shape[1:]) for name, value in drawn.items()}
        self._set(self.env.start(drawn))
        seen = self._tensors()
        self.boxes = {name: _box(value[0]) for name, value in seen.items()}
        self.observation_space: Any = spaces.Dict({**self.boxes}) if shown == "state" else self.boxes["features"]
        self.action_space = AllowedActions(self.state.action_mask.shape[-1])

    def begin(self, source: np.random.Generator, options: dict[str, Any] | None) -> None:
        """Start every row anew, on the instances of ``options["instance"]`` or on drawn ones.

        Raises:
            ArgumentError: an option is unknown, or the instances do not fit.
        """
        options = options or {}
        if unknown := sorted(set(options) - {"instance"}):
            raise ArgumentError(f"options: {', '.join(unknown)} is not known; 'instance' is allowed")
        given = options.get("instance")
        self._set(self.env.start(self._draw(self.num_rows, source) if given is None else self._fitting(given)))

    def _set(self, state: Any) -> None:
        """Go on from a state whose instances are new."""
        self.state, self.actions = (
            state,
            torch.empty(state.done.shape[0], 0, dtype=torch.int64, device=state.done.device),
        )
        self.features = self.env.instance_features(state.instance) if self.shown == "features" else ()

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
        self.state, self.actions = successor, torch.cat([self.actions, action], dim=-1)
        if again.any():
            self.replace(fresh, source)
        return reward

    def observe(self) -> tuple[Observation, NDArray[np.bool_]]:
        """Return copies of what is seen, ``[rows, ...]``, and which rows are done."""
        seen = {}
        for name, value in self._tensors().items():
            box = self.boxes[name]
            seen[name] = np.array(value.numpy(force=True), dtype=box.dtype).reshape(len(value), *box.shape)
        done = np.array(self.state.done[:, 0].numpy(force=True))
        return (seen if self.shown == "state" else seen["features"]), done

    def masks(self) -> NDArray[np.int8]:
        """Return which actions are allowed, ``[rows, actions]``."""
        return np.array(self.state.action_mask[:, 0].numpy(force=True), dtype=np.int8)

    def picture(self) -> NDArray[np.uint8]:
        """Draw the first row's solution as far as it goes, ``[height, width, 3]``."""
        from PIL import Image, ImageOps

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frame.png"
            instance = self.state.instance.select(*self.shapes)[:1].cpu()
            sketch = self.env.sketch(instance, self.actions[0].cpu())
            if sketch is None:
                raise ArgumentError(f"render_mode: {self.env.name} has no picture; None is allowed")
            draw(sketch, path)
            with Image.open(path) as drawn:
                return np.array(ImageOps.pad(drawn.convert("RGB"), PIXELS, color="white"))

    def _tensors(self) -> dict[str, Tensor]:
        if self.shown == "features":
            return {"features": flat_features(self.features, self.env.step_features(self.state))[:, 0]}
        own = {name: value[:, 0] for name, value in _fields(self.state).items() if name != "done"}
        shown = {name: self.state.instance[name] for name in self.shapes} | own
        return {name: value for name, value in shown.items() if value.numel()}

    def _draw(self, count: int, source: np.random.Generator) -> TensorDict:
        rng = torch.Generator().manual_seed(int(source.integers(2**63)))
        return self.env.fitted(self.env.generate(count, rng)).to(self.env.device)

    def _fitting(self, given: TensorDict) -> TensorDict:
        given = self.env.fitted(given)
        wanted = {name: (self.num_rows, *shape) for name, shape in self.shapes.items()}
        found = {name: tuple(given[name].shape) for name in given.keys()}
        # several rows end at several times, and drawn ones take their place: they must have the same keys
        if not wanted.items() <= found.items() or (self.num_rows > 1 and found.keys() != wanted.keys()):
            raise ArgumentError(f"instance: the shapes {found} are not allowed; they must be {wanted}")
        return given.to(self.env.device)

    def replace(self, rows: Tensor, source: np.random.Generator) -> None:
        """Start some rows anew on drawn instances."""

        def placed(old: Tensor, new: Tensor) -> Tensor:
            old = old.clone()
            old[rows] = new.to(old.dtype)
            return old

        fresh = self.env.start(self._draw(int(rows.sum()), source))
        merged = {name: placed(self.state.instance[name], value) for name, value in fresh.instance.items()}
        own = {name: placed(getattr(self.state, name), value) for name, value in _fields(fresh).items()}
        self._set(fresh._replace(instance=TensorDict(merged, batch_size=[self.num_rows]), **own))

    def _refuse(self, row: int, action: int, mask: Tensor) -> NoReturn:
        raise ArgumentError(refused_action(action, mask, row if self.num_rows > 1 else None))


class UnknownArgument(ArgumentError, TypeError):
    """The problem has no argument of that name; a TypeError, for TorchRL's GymEnv then tries without (frameskip)."""


def flat_features(features: InstanceFeatures, step: StepFeatures) -> Tensor:
    """Put together what a problem shows to policies, so that a network without an idea of nodes and edges can read it.

    For each action: whether it is allowed, the numbers of its node or operation (with the node's kind, one number a
    kind), the numbers of the moves to that node from each node that plays a role (TSP: the first and the current one; 0
    where nobody plays it), and its own numbers at this step. After all actions come the numbers of the nodes that play
    a role, and those of the whole step.

    Args:
        features: of the instances, ``[batch, ...]``.
        step: of their rollouts, ``[batch, rollouts, ...]``.

    Returns:
        float32 ``[batch, rollouts, numbers]``.
    """
    mask = step.action_mask
    batch, rollouts, actions = mask.shape
    rows = torch.arange(batch, device=mask.device).view(-1, 1, 1)
    nodes = step.candidate_nodes
    if nodes is None:
        nodes = torch.arange(actions, device=mask.device).expand(batch, rollouts, -1)

    def at(values: Tensor, *places: Tensor) -> Tensor:
        """Return the numbers of ``values`` at places ``[batch, rollouts, count]``, 0 where one is -1."""
        found = values[rows, *(place.clamp_min(0) for place in places)]
        there = torch.stack(torch.broadcast_tensors(*places)).amin(0) >= 0
        return torch.where(there.unsqueeze(-1), found, 0.0)

    each, whole = [mask.unsqueeze(-1).float()], []
    for feature in features:
        if isinstance(feature, EdgeFeatures):
            each += [at(feature.values, role.unsqueeze(-1), nodes) for role in step.nodes.unbind(-1)]
            continue
        each.append(at(feature.values, nodes))
        whole.append(at(feature.values, step.nodes.long()).flatten(2))
        if isinstance(feature, NodeFeatures) and feature.kinds is not None:
            each.append(at(one_hot(feature.kinds).float().expand(batch, -1, -1), nodes))
    each += [] if step.candidates is None else [step.candidates]
    whole += [] if step.scalars is None else [step.scalars]
    return torch.cat([torch.cat(each, dim=-1).flatten(2), *whole], dim=-1)


class AllowedRows(spaces.MultiDiscrete):
    """The actions of several episodes, of which ``sample()`` without a mask draws one for each that is allowed now.

    Attributes:
        allowed: int8 ``[rows, actions]``, their action masks; None before the first reset.
    """

    allowed: NDArray[np.int8] | None = None

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[np.int64]:
        if mask is None and probability is None and self.allowed is not None:
            mask = tuple(self.allowed)
        return super().sample(mask, probability)


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
        observation: what is observed, "state" or "features".
        render_mode: "rgb_array", for `render` to draw the solution as far as it goes, or None.
        arguments: of the problem's class, such as ``num_nodes=20``.

    Raises:
        ArgumentError: the problem, an argument or an action is not allowed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - Gymnasium's own attribute

    def __init__(
        self, problem: str, *, observation: Shown = "state", render_mode: str | None = None, **arguments: Any
    ) -> None:
        _check_render_mode(render_mode, self.metadata["render_modes"])
        self._episodes = _Episodes(problem, 1, observation, arguments)
        self.observation_space: Any = self._episodes.observation_space
        self.action_space: Any = self._episodes.action_space
        self.render_mode = render_mode

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

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are allowed now, bool ``[actions]``, as sb3-contrib's MaskablePPO asks for it."""
        return self._episodes.masks()[0].astype(np.bool_)

    def render(self) -> Any:
        return self._episodes.picture() if self.render_mode == "rgb_array" else None

    def _seen(self) -> tuple[Observation, Info, bool]:
        observation, done = self._episodes.observe()
        self.action_space.allowed = self._episodes.masks()[0]
        return _row(observation), {"action_mask": self.action_space.allowed.copy()}, bool(done[0])


class GymVectorEnv(VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """Many episodes that step together as the rows of one batch.

    Finished rows start anew in the next step, whatever their action is, with reward 0 (`AutoresetMode.NEXT_STEP`), or
    at once (`AutoresetMode.SAME_STEP`), when ``info`` has what they ended with as "final_obs" and "final_info". The
    rows draw from one generator: a row's instance is not that of a `GymEnv` with some seed.
    ``reset(options={"instance": ...})`` takes instances of batch size ``[num_envs]``.

    Args:
        num_envs: rows.
        problem: its name in `ncogym.envs.PROBLEMS`; the ids that this module registers bring it.
        observation: what is observed, "state" or "features".
        autoreset_mode: Gymnasium's name for when finished rows start anew.
        render_mode: None; a single environment has pictures.
        arguments: of the problem's class, such as ``num_nodes=20``.

    Raises:
        ArgumentError: the problem, an argument or an action is not allowed.
    """

    def __init__(
        self,
        num_envs: int,
        problem: str,
        *,
        observation: Shown = "state",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        _check_render_mode(render_mode, [])
        modes = {mode.value: mode for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)}
        mode = modes.get(getattr(autoreset_mode, "value", autoreset_mode))
        if mode is None:
            raise ArgumentError(
                f"autoreset_mode: {autoreset_mode} is not allowed; it must be one of {', '.join(modes)}"
            )
        self._at_once = mode is AutoresetMode.SAME_STEP
        self.metadata = {"render_modes": [], "autoreset_mode": mode}
        self._episodes = _Episodes(problem, num_envs, observation, arguments)
        self.num_envs = num_envs
        self.single_observation_space = self._episodes.observation_space
        self.single_action_space = self._episodes.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space: Any = AllowedRows([int(self.single_action_space.n)] * num_envs)
        self._again = np.zeros(num_envs, dtype=np.bool_)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        super().reset(seed=seed)
        self._episodes.begin(self.np_random, options)
        observation, info, self._again = self._seen()
        return observation, info

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Info]:
        reward = self._episodes.step(np.asarray(actions), self._again, self.np_random)
        observation, info, ended = self._seen()
        self._again = ended
        if self._at_once and ended.any():
            last, last_info = observation, info
            self._episodes.replace(torch.from_numpy(ended).to(self._episodes.state.done.device), self.np_random)
            observation, info, self._again = self._seen()
            rows = np.full(self.num_envs, None, dtype=object)
            for row in ended.nonzero()[0]:
                rows[row] = _row(last, int(row))
            final = {"action_mask": last_info["action_mask"], "_action_mask": ended.copy()}
            info |= {"final_obs": rows, "_final_obs": ended.copy(), "final_info": final, "_final_info": ended.copy()}
        return observation, reward, ended.copy(), np.zeros_like(ended), info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are allowed now, bool ``[rows, actions]``."""
        return self._episodes.masks().astype(np.bool_)

    def _seen(self) -> tuple[Observation, Info, NDArray[np.bool_]]:
        observation, done = self._episodes.observe()
        self.action_space.allowed = self._episodes.masks()
        shown = np.ones(self.num_envs, dtype=np.bool_)  # Gymnasium's mark of the rows that have an entry
        return observation, {"action_mask": self.action_space.allowed.copy(), "_action_mask": shown}, done


def _check_render_mode(mode: str | None, allowed: list[str]) -> None:
    if mode is not None and mode not in allowed:  # a TypeError makes wrappers of other libraries try without
        raise TypeError(f"render_mode: {mode!r} is not allowed; it must be {', '.join(allowed) or 'None'}")


def _row(observation: Observation, row: int = 0) -> Observation:
    """Return copies of what is observed in one row."""
    if isinstance(observation, dict):
        return {name: np.array(value[row]) for name, value in observation.items()}
    return np.array(observation[row])


def _fields(state: Any) -> dict[str, Tensor]:
    return {name: value for name, value in state._asdict().items() if name != "instance"}


def _box(value: Tensor) -> spaces.Box:
    """Return the space of tensors like ``value``, without its batch axis."""
    shape = tuple(value.shape) or (1,)  # networks of other libraries want an axis
    if value.dtype == torch.bool:
        return spaces.Box(0, 1, shape, np.int8)
    dtype = np.dtype(str(value.dtype).removeprefix("torch."))
    largest = float(np.finfo(dtype).max) if dtype.kind == "f" else min(LARGEST_INTEGER, np.iinfo(dtype).max)
    return spaces.Box(-largest, largest, shape, dtype.type)


def environment_id(problem: str) -> str:
    """Return the id under which a problem of `ncogym.envs.PROBLEMS` is registered, such as "ncogym/TSP-v0"."""
    return f"ncogym/{PROBLEMS[problem].__name__}-v0"


for _name in PROBLEMS:
    gymnasium.register(
        id=environment_id(_name),
        entry_point="ncogym.envs.gym:GymEnv",
        vector_entry_point="ncogym.envs.gym:GymVectorEnv",
        kwargs={"problem": _name},
    )
