"""The contract of a problem, and the bridge from it to TorchRL.

A problem is a subclass of `ConstructiveEnv` in a file of its own, with the methods in the order of docs/design.md
section 3. `start` and `advance` are pure functions on a NamedTuple of tensors ``[batch, rollouts, ...]``, which
`ncogym.rollout` drives at full speed; TorchRL's ``reset``/``step``/``rollout`` run the same two functions with one
rollout per instance and everything in a TensorDict.
"""

from __future__ import annotations

import abc
import multiprocessing
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from ncogym.envs.formats.arrays import Arrays, Contents
from ncogym.errors import ArgumentError, InstanceError
from ncogym.features import FeatureDims, InstanceFeatures, StepFeatures, Walk
from ncogym.models import Model
from ncogym.plotting import Sketch
from ncogym.problem import Violation

CHECKSUM = "checksum"  # TorchRL's key for what `step` knows the numbers by that it has to read
ALTERED = 1e-5  # relative; a number in another precision is still the same number
READ_BY_STEP = "step reads it, so a transform must write what it makes of it to another key (out_keys)"


class ReferenceSet(NamedTuple):
    """A set of instances that a problem publishes under a name.

    Attributes:
        arguments: of the problem's constructor.
        seed: of the whole set, or None where something else than a seed defines it.
        count: instances of the whole set.
        sha256: first hex digits, at least 16, of the `ncogym.solution.instances_sha256` of the whole set.
        source: paper and recipe, in one line.
        best_known: best objective known of each instance; empty where nothing is known.
        proven: of each instance, whether ``best_known`` is an optimum; empty where nothing is known.
    """

    arguments: dict[str, Any]
    seed: int | None
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    sha256: str
    source: str
    best_known: tuple[float, ...] = ()
    proven: tuple[bool, ...] = ()


def pinned(sets: Iterable[tuple[str, ReferenceSet]], digests: str) -> dict[str, ReferenceSet]:
    """Return sets by name, each with its ``sha256``.

    Args:
        sets: names and sets.
        digests: what `ReferenceSet.sha256` is of each, in order, with white space between.
    """
    return {name: entry._replace(sha256=digest) for (name, entry), digest in zip(sets, digests.split(), strict=True)}


def as_int64(actions: Tensor) -> Int64[Tensor, "*shape"]:
    """Return actions as the referees read them: whole numbers of any type.

    Raises:
        ArgumentError: they are no whole numbers by their type, as 2.0 is none.
    """
    if actions.is_floating_point() or actions.is_complex() or actions.dtype == torch.bool:
        raise ArgumentError(f"actions: {actions.dtype} is not allowed; they must be whole numbers, as torch.int64")
    return actions.long()


class Neighbourhood(NamedTuple):
    """Solutions of which some decisions are open, for a policy to take them anew.

    Attributes:
        env: what the policy acts in, by the functions that `ncogym.rollout.act` calls: the problem itself, or one that
            allows less of it and ends once the open decisions are taken.
        actions: int64 ``[batch, rollouts, steps]``, the solutions, in orders in which what is open lies side by side.
        begin: the step of the first open decision.
        end: the step of the first decision after these that is kept.
    """

    env: Any
    actions: Tensor
    begin: int
    end: int


class AllowedActions(Categorical):
    """The actions that an environment has; which of them are allowed now is no part of what they are.

    So the actions behind TorchRL's ``ActionMask`` are still the environment's own, and TorchRL asks its `rand_action`,
    which looks at the mask of each state, and not at that of the state which came last.
    """

    def __eq__(self, other: object) -> bool:
        ours = (self.space, self.shape, self.device, self.dtype)
        return isinstance(other, AllowedActions) and ours == (other.space, other.shape, other.device, other.dtype)

    def is_in(self, val: Tensor) -> bool:
        return bool(Categorical(self.space.n, self.shape, self.device, self.dtype).is_in(val))


class ConstructiveEnv(EnvBase):
    """A combinatorial problem whose solutions are built action by action.

    TorchRL's ``step`` refuses actions that ``action_mask`` does not allow: an `ArgumentError` on the CPU, a failed
    assertion on a GPU and in what ``torch.compile`` has made. It reads instance and state from the tensordict, so that
    a transform which changes them in place would change the problem: that is refused, too; let ``ObservationNorm`` and
    its like write to other keys. ``reset`` begins with instances of one's own where it is given any; from a tensordict
    in mid-episode it goes on, or with ``set_state=False`` begins anew on its instances.

    Until ``set_seed`` is called, instances and random actions follow ``torch.manual_seed``; where nobody has called
    that either, each environment draws its own.

    Args:
        batch_size: TorchRL's batch size, ``()`` or ``(batch,)``: the instances that ``reset()`` draws.
        device: where ``reset()`` draws its instances.

    Attributes:
        name: the problem's name in `ncogym.envs.PROBLEMS`.
        sense: "min" or "max".
        suffixes: file suffixes that `read` takes; ".txt" among them says that its numbers need no header.
        published_suffix: that of a published solution beside an instance file, which `read_solution` takes; or None.
        solution_suffix: that of the file which `write_solution` writes; None where the problem has no such format.
        multi_start: whether a good solution may begin with nearly any of the first actions, so that trying each pays.
        reference_sets: the sets of instances that are known by a name, in the order of tables.
    """

    name: ClassVar[str]
    sense: ClassVar[Literal["min", "max"]]
    suffixes: ClassVar[tuple[str, ...]] = ()
    published_suffix: ClassVar[str | None] = None
    solution_suffix: ClassVar[str | None] = None
    multi_start: ClassVar[bool] = True
    reference_sets: ClassVar[dict[str, ReferenceSet]] = {}
    batch_locked = False
    _supports_set_state = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "model" not in cls.__dict__:
            cls.model = ConstructiveEnv.model  # type: ignore[method-assign]  # see there

    def __init__(self, *, batch_size: tuple[int, ...] = (), device: torch.device | str = "cpu") -> None:
        super().__init__(device=torch.device(device), batch_size=torch.Size(batch_size), allow_done_after_reset=True)
        if len(self.batch_size) > 1:
            raise ArgumentError(f"batch_size: {tuple(batch_size)} is not allowed; it must be () or (batch,)")
        self._generator: torch.Generator | None = None
        self._summed: tuple[list[Any], list[Tensor], Tensor] | None = None
        self._make_specs()

    # ------------------------------------------------------------------ what a problem defines, in this order

    @abc.abstractmethod
    def generate(self, batch_size: int, rng: torch.Generator, device: torch.device | str | None = None) -> TensorDict:
        """Draw instances from ``rng`` on its device; a TensorDict of batch size ``[batch_size]``."""

    @abc.abstractmethod
    def read(self, path: str | Path) -> TensorDict:
        """Read an instance file; a TensorDict of batch size ``[1]`` with the keys of `generate` or more."""

    @abc.abstractmethod
    def start(self, instance: TensorDict, rollouts: int = 1) -> Any:
        """Return the state before the first action, a NamedTuple of tensors ``[batch, rollouts, ...]``.

        Its first field is the instance itself, and it has the fields ``action_mask`` and ``done``.
        """

    @abc.abstractmethod
    def advance(self, state: Any, action: Int64[Tensor, "batch rollouts"]) -> Any:
        """Return the state after ``action`` (int64 ``[batch, rollouts]``); pure, with no host synchronisation."""

    @abc.abstractmethod
    def reward(
        self, state: Any, action: Int64[Tensor, "batch rollouts"], successor: Any
    ) -> Float32[Tensor, "batch rollouts"]:
        """Return the signed step reward, float32 ``[batch, rollouts]``; over a rollout they sum to ± the objective."""

    @abc.abstractmethod
    def horizon(self, instance: TensorDict) -> int:
        """Return the number of steps after which every rollout is done, from shapes alone."""

    def earliest(self, instance: TensorDict) -> int:
        """Return the steps after which it pays to look whether all rollouts are done, from shapes alone.

        It is less than `horizon` where rollouts end at different times, and otherwise spares the host the look.
        """
        return self.horizon(instance)

    @abc.abstractmethod
    def objective(
        self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]
    ) -> Float64[Tensor, "batch rollouts"]:
        """Score ``actions`` ``[batch, rollouts, steps]`` from them alone; float64 ``[batch, rollouts]``.

        They are whole numbers of any type; `as_int64` reads them, and refuses others.
        """

    @abc.abstractmethod
    def violations(self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]) -> list[Violation]:
        """Name every broken constraint of ``actions`` ``[batch, rollouts, steps]``; empty where all is well.

        They are read as in `objective`.
        """

    @property
    @abc.abstractmethod
    def feature_dims(self) -> FeatureDims:
        """Widths of the features, from which a policy builds its layers."""

    @abc.abstractmethod
    def instance_features(self, instance: TensorDict) -> InstanceFeatures:
        """Return raw numbers of the instance, ``[batch, ...]``."""

    @abc.abstractmethod
    def step_features(self, state: Any) -> StepFeatures:
        """Return raw numbers of the step, ``[batch, rollouts, ...]``."""

    def walk(self, instance: TensorDict) -> Walk | None:
        """Say the dynamics and the step features as a `Walk`, by which kernels run whole rollouts, or return None."""
        return None

    def first_actions(self, instance: TensorDict, rng: torch.Generator | None = None) -> Int64[Tensor, "batch starts"]:
        """Return the first actions of a multi-start, int64 ``[batch, starts]``, in random order if ``rng`` is given.

        They are each row's own, in an order that does not depend on the other rows, as many as every row has. A problem
        that knows no better offers what its mask allows.
        """
        allowed = self.start(instance).action_mask[:, 0]
        own = allowed.long().argsort(dim=-1, descending=True, stable=True)[:, : int(allowed.sum(-1).amin())]
        if rng is None:
            return own
        order = torch.rand(own.shape, generator=rng, device=rng.device).argsort(-1)
        return own.gather(1, order.to(own.device))

    def equivalent_actions(
        self, instance: TensorDict, actions: Int64[Tensor, "batch steps"], count: int, rng: torch.Generator
    ) -> Int64[Tensor, "batch {count} steps"]:
        """Draw other action sequences of the same solutions.

        Args:
            instance: batch size ``[batch]``.
            actions: int64 ``[batch, steps]``.
            count: sequences per solution.
            rng: source of the draw.

        Returns:
            int64 ``[batch, count, steps]``; a problem that has none gives copies.
        """
        return actions.unsqueeze(1).expand(-1, count, -1)

    def neighbourhood(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], free: int, rng: torch.Generator
    ) -> Neighbourhood:
        """Draw decisions of each solution that belong together, and open them.

        Args:
            instance: batch size ``[batch]``.
            actions: int64 ``[batch, rollouts, steps]``, finished solutions.
            free: decisions to open, at least 1; all where there are not so many, and more of longer solutions where
                their lengths differ.
            rng: source of the draw.

        Returns:
            A problem that knows no better opens the last ones.
        """
        return self._tail(actions, self.horizon(instance), free)

    def _tail(self, actions: Tensor, length: int, free: int) -> Neighbourhood:
        """Open the last ``free`` of the first ``length`` decisions, and all that follow."""
        return Neighbourhood(self, actions, max(length - free, 0), actions.shape[-1])

    @abc.abstractmethod
    def symmetries(self, instance: TensorDict, count: int = 8, rng: torch.Generator | None = None) -> list[TensorDict]:
        """Return up to ``count`` images of the instance; the first is itself.

        Every solution has its objective on each of them, by the actions that `imaged` gives.
        """

    def imaged(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], number: int
    ) -> Int64[Tensor, "batch rollouts steps"]:
        """Return the actions of the same solutions on image ``number`` of `symmetries`, counted from 0.

        Each of these maps is its own inverse, so it leads back from the image, too.

        Args:
            instance: batch size ``[batch]``.
            actions: int64 ``[batch, rollouts, steps]``.
            number: of the image; where all images share their actions, as on a plane, it does not matter.
        """
        return actions

    @abc.abstractmethod
    def render(self, instance: TensorDict, actions: Tensor, path: str | Path, title: str = "") -> None:
        """Draw the solution ``actions`` ``[steps]`` of an instance of batch size ``[1]`` to a picture file."""

    def sketch(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> Sketch | None:
        """Return the solution ``actions`` of an instance of batch size ``[1]`` as a `Sketch`, which pages can draw.

        Broken solutions are drawn, too: what the instance does not have is passed over. None says that the problem has
        no such picture.
        """
        return None

    def model(self, instance: TensorDict) -> Model | None:
        """Return what classical solvers may see of instances of batch size ``[batch]``, or None: they may see nothing.

        A model says all that decides what is feasible and how good it is. So it is not inherited: a subclass may ask
        for more (a tour with time windows is no tour), and one that does not says ``model = ItsBase.model``.
        """
        return None

    def answer(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> Any:
        """Return a solution of an instance of batch size ``[1]`` in the words of its model, plain lists and numbers.

        None where the problem has no model.
        """
        model = self.model(instance)
        return None if model is None else model.row(0).answer(self.plain_actions(instance, actions))

    # ------------------------------------------------------------------ the bridge to TorchRL

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number that the constructor's size argument gives (nodes, customers, items, ...)."""

    @abc.abstractmethod
    def resized(self, size: int) -> ConstructiveEnv:
        """Return an environment of the same distribution and another size."""

    @abc.abstractmethod
    def instance_size(self, instance: TensorDict) -> int:
        """Return the size of given instances, in the units of `size`."""

    def sized_like(self, instance: TensorDict) -> ConstructiveEnv:
        """Return an environment of the same distribution whose instances have the shape of the given ones.

        A problem with sizes beside `size` overrides this.
        """
        return self.resized(self.instance_size(instance))

    def padded(self, instance: TensorDict, actions: Tensor, steps: int) -> Tensor:
        """Lengthen finished solutions ``[batch, ..., steps before]`` to ``steps`` by actions that do nothing."""
        missing = steps - actions.shape[-1]
        return torch.cat([actions, actions[..., -1:].expand(*actions.shape[:-1], missing)], dim=-1)

    def plain_actions(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> list[int]:
        """Return ``actions`` ``[steps]`` as the command line prints them, without padding."""
        return [int(action) for action in actions[: self.horizon(instance)]]

    def read_solution(self, path: str | Path) -> Int64[Tensor, " steps"]:
        """Read a solution in the problem's own file format, unchecked; for problems with a `published_suffix`.

        Raises:
            InstanceError: the file is malformed.
        """
        raise NotImplementedError

    def published_solution(self, path: str | Path, instance: TensorDict) -> Int64[Tensor, " steps"] | None:
        """Return the solution in the file that lies beside an instance file, checked by the referee, or None.

        Raises:
            InstanceError: the solution file is malformed, or its solution breaks a constraint.
        """
        beside = Path(path).with_suffix(self.published_suffix or "")
        if self.published_suffix is None or not beside.is_file():
            return None
        actions = self.read_solution(beside)
        if broken := self.violations(instance, actions[None, None]):
            raise InstanceError(f"{beside.name}: {broken[0].reason}")
        return actions

    def published_objective(self, path: str | Path, instance: TensorDict) -> float | None:
        """Return the objective of the solution file that lies beside an instance file, or None."""
        actions = self.published_solution(path, instance)
        return None if actions is None else float(self.objective(instance, actions[None, None]))

    def write_solution(self, instance: TensorDict, actions: Tensor, path: str | Path, name: str) -> Path | None:
        """Write a solution in the problem's own file format beside ``path``, with its own suffix, or return None."""
        return None

    def write(self, instance: TensorDict, path: str | Path) -> None:
        """Write an instance of batch size ``[1]`` in the problem's own file format, which `read` reads.

        Raises:
            ArgumentError: the problem has no such format.
        """
        raise ArgumentError(f"{path}: {self.name} has no file format to write")

    def seeded(self, count: int, seed: int) -> TensorDict:
        """Return the first ``count`` instances that a seed stands for, as evaluation and results name them.

        They are drawn in blocks of 100, so that a larger count begins with the instances of a smaller one.
        """
        rng = torch.Generator().manual_seed(seed)
        blocks = [self.generate(100, rng) for _ in range(0, count, 100)]
        return torch.cat(blocks)[:count]

    @classmethod
    def reference_set(cls, name: str) -> TensorDict:
        """Build the whole set of that name in `reference_sets`; a problem whose set is not `seeded` overrides this."""
        entry = cls.reference_sets[name]
        if entry.seed is None:
            raise NotImplementedError(f"{cls.name}: {name} has no seed, and nothing else says how it is built")
        return cls(**entry.arguments).seeded(entry.count, entry.seed)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Contents | None:  # noqa: ARG003 - the contract's, for problems that read some
        """Return the instances in the arrays of an ``.npz`` file, or None where they are not this problem's.

        Raises:
            InstanceError: they have the names of this problem's arrays, but are no instances; the words do not name
                the file yet.
        """
        return None

    @abc.abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments that define the distribution, for cards and records."""

    _state_type: ClassVar[Any]
    _instance_keys: ClassVar[tuple[str, ...]]

    def _make_specs(self) -> None:
        state = self.start(self.generate(1, torch.Generator().manual_seed(0)))
        shown = self._shown(state)
        self._constant = tuple(key for key, value in state.instance.items() if value.dtype != torch.bool)
        self._changing = tuple(key for key in shown if key not in self._constant and shown[key].is_floating_point())
        self._forms = {key: (value.dtype, value.ndim) for key, value in shown.items()}
        batch = self.batch_size

        def spec(key: str, value: Tensor) -> Any:
            shape = (*batch, *value.shape[1:])
            if key == "action_mask":
                return Binary(shape=shape, dtype=torch.bool, device=self.device)
            return Unbounded(shape=shape, dtype=value.dtype, device=self.device)

        shown[CHECKSUM] = self._sums(shown, (*self._constant, *self._changing))
        observed = {key: spec(key, value) for key, value in shown.items()}
        self.observation_spec = Composite(observed, shape=batch)
        # what `step` reads beside the action: TorchRL's wrappers pass on what is said here, and drop the rest
        read = {key: value.clone() for key, value in observed.items()}
        done = Binary(shape=(*batch, 1), dtype=torch.bool, device=self.device)
        self.state_spec = Composite({**read, "done": done}, shape=batch)
        self.action_spec = AllowedActions(shown["action_mask"].shape[-1], shape=batch, device=self.device)
        self.reward_spec = Unbounded(shape=(*batch, 1), device=self.device)
        self.done_spec = done.clone()

    @staticmethod
    def _shown(state: Any) -> dict[str, Tensor]:
        """Return the tensors of instance and state by name, ``[batch, ...]``."""
        own = {key: value.squeeze(1) for key, value in state._asdict().items() if key not in ("instance", "done")}
        return {**dict(state.instance.items()), **own}

    @staticmethod
    def _sums(numbers: Mapping[str, Tensor], keys: tuple[str, ...]) -> Tensor:
        """Return a sum over each row's numbers, float64 ``[batch, keys]``, for those of the keys that are there."""
        batch = numbers["action_mask"].shape[0]
        present = [numbers[key].reshape(batch, -1) for key in keys if key in numbers]
        sums = [(value.abs() if value.is_floating_point() else value).sum(-1).double() for value in present]
        return torch.stack(sums, dim=-1) if sums else numbers["action_mask"].new_zeros(batch, 0, dtype=torch.float64)

    def _constant_sums(self, numbers: Mapping[str, Tensor]) -> Tensor:
        """Return the sums over the instance's numbers, added up anew unless these are the tensors of the last time.

        They are, if they lie where those lie, which are kept meanwhile, and torch has counted no write to them since;
        it counts none in inference mode, nor those of other processes to memory that is shared.
        """
        found = [numbers[key] for key in self._constant if key in numbers]
        if torch.compiler.is_compiling() or any(value.is_inference() or value.is_shared() for value in found):
            return self._sums(numbers, self._constant)
        marks = [(value.data_ptr(), value._version, value.dtype, value.shape, value.stride()) for value in found]
        if self._summed is None or self._summed[0] != marks:
            self._summed = marks, found, self._sums(numbers, self._constant)
        return self._summed[2]

    def _to_tensordict(self, state: Any, batch: tuple[int, ...], constant: Tensor | None = None) -> TensorDict:
        shown, done = self._shown(state), state.done.reshape(-1, 1)
        constant = self._constant_sums(shown) if constant is None else constant
        checksum = torch.cat([constant, self._sums(shown, self._changing)], dim=-1) if self._changing else constant
        merged = {**shown, CHECKSUM: checksum, "done": done, "terminated": done.clone()}
        return TensorDict(merged, batch_size=[done.shape[0]]).reshape(batch)

    def _to_state(self, flat: TensorDictBase) -> Any:
        kind = self._state_type
        own = {k: flat[k].unsqueeze(1) for k in kind._fields if k not in ("instance", "done")}
        return kind(instance=flat.select(*self._instance_keys, strict=False), done=flat["done"], **own)

    def _input_td_has_state(self, tensordict: TensorDictBase | None) -> bool:
        """Say whether ``reset`` is given a state to go on from; where it starts rows anew, there is none."""
        if tensordict is None or "_reset" in tensordict.keys():
            return False
        own = set(self._state_type._fields) - {"instance", "done"}
        return not own.isdisjoint(tensordict.keys())

    # TorchRL's rollout(break_when_any_done=False) draws new instances for finished rows and keeps keys that these lack;
    # with instances that were given with optional keys (TSP: dists), reset with instances of one's own instead
    def _reset(self, tensordict: TensorDictBase | None = None, set_state: bool = False, **_: Any) -> TensorDictBase:
        self._summed = None  # a reset is rare, and may be given memory that was written to by numpy, uncounted
        if tensordict is not None and set_state and self._input_td_has_state(tensordict):
            flat = tensordict.reshape(-1)
            numbers = dict(flat.items())
            self._refuse(numbers, self._read_sums(numbers), None)
            return self._to_tensordict(self._to_state(flat), tuple(tensordict.batch_size))
        if tensordict is not None and any(key in tensordict.keys() for key in self._instance_keys):
            instance = tensordict.select(*self._instance_keys, strict=False)
        else:
            shape = self.batch_size if tensordict is None else tensordict.batch_size
            instance = self.generate(shape.numel(), self._rng).reshape(shape)
        batch = tuple(instance.batch_size)
        return self._to_tensordict(self.start(instance.reshape(-1)), batch)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        batch, flat = tuple(tensordict.batch_size), tensordict.reshape(-1)
        numbers = dict(flat.items())
        sums = self._read_sums(numbers)
        self._refuse(numbers, sums, self._allowed(numbers))
        state, action = self._to_state(flat), numbers["action"].reshape(-1, 1)
        successor = self.advance(state, action)
        constant = sum(key in numbers for key in self._constant)
        out = self._to_tensordict(successor, batch, sums[:, :constant])
        out["reward"] = self.reward(state, action, successor).reshape(*batch, 1)
        return out

    def _read_sums(self, numbers: dict[str, Tensor]) -> Tensor:
        """Return the sums over the numbers that ``step`` reads.

        Raises:
            ArgumentError: something that it needs is missing, or whole numbers are such no longer.
        """
        for key in (*self._state_type._fields, CHECKSUM):
            if key != "instance" and key not in numbers:
                raise ArgumentError(f"tensordict: {key!r} is missing; step needs all that reset and step gave")
        for key, (dtype, axes) in self._forms.items():
            found = numbers.get(key)
            if found is not None and (found.ndim != axes or (found.dtype != dtype and not dtype.is_floating_point)):
                form = f"{found.dtype} of shape {tuple(found.shape)}"
                raise ArgumentError(f"{key}: {form} is not what reset gave; {READ_BY_STEP}")
        sums = self._constant_sums(numbers)
        if self._changing:
            sums = torch.cat([sums, self._sums(numbers, self._changing)], dim=-1)
        if sums.shape != numbers[CHECKSUM].shape:
            raise ArgumentError(f"tensordict: an instance needs its {', '.join(self._instance_keys)}; {READ_BY_STEP}")
        return sums

    @staticmethod
    def _altered(numbers: dict[str, Tensor], sums: Tensor) -> Tensor:
        """Say which numbers are not those that ``reset`` and ``step`` gave, bool ``[batch, keys]``."""
        given = numbers[CHECKSUM]
        return (sums - given).abs() > ALTERED * given.abs()

    @staticmethod
    def _allowed(numbers: dict[str, Tensor]) -> Tensor:
        """Say in which rows the action is allowed, bool ``[batch, 1]``.

        Raises:
            ArgumentError: it is no whole number.
        """
        mask, action = numbers["action_mask"], numbers["action"]
        if action.dtype != torch.int64 or action.numel() != len(mask):
            found = f"{action.dtype} of shape {tuple(action.shape)}"
            raise ArgumentError(f"action: {found} is not allowed; it must be torch.int64, one for each row")
        action = action.reshape(-1, 1)
        inside = action.clamp(0, mask.shape[-1] - 1)
        return mask.gather(-1, inside) & (inside == action)

    def _refuse(self, numbers: dict[str, Tensor], sums: Tensor, allowed: Tensor | None) -> None:
        """Raise an error unless all is well; on a GPU and in compiled code by an assertion that waits for nothing."""
        given = numbers[CHECKSUM]
        if sums.device.type != "cpu" or torch.compiler.is_compiling():
            sound = ~self._altered(numbers, sums).any()
            sound = sound if allowed is None else sound & allowed.all()
            torch._assert_async(sound, f"an action is not in action_mask, or numbers were changed: {READ_BY_STEP}")
            return
        # what nobody has touched is the same to the last bit
        if (
            not (sums.dtype == given.dtype and torch.equal(sums, given))
            and (altered := self._altered(numbers, sums)).any()
        ):
            row, name = altered.nonzero()[0].tolist()
            key = [key for key in (*self._constant, *self._changing) if key in numbers][name]
            raise ArgumentError(f"{key}: row {row} is not what reset and step gave; {READ_BY_STEP}")
        if allowed is not None and not allowed.all():
            row = int(allowed.long().argmin())
            mask, action = numbers["action_mask"][row], int(numbers["action"].reshape(-1)[row])
            raise ArgumentError(refused_action(action, mask, row if len(allowed) > 1 else None))

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Draw a uniformly random allowed action into ``tensordict``, from the env's own generator."""
        if tensordict is None:
            return super().rand_action(tensordict)
        mask = tensordict["action_mask"]
        drawn = torch.multinomial(mask.reshape(-1, mask.shape[-1]).float(), 1, generator=self._rng)
        tensordict["action"] = drawn.reshape(tensordict.batch_size)
        return tensordict

    @property
    def _rng(self) -> torch.Generator:
        """The source of instances and random actions; made at its first use, which ``set_seed`` may come before."""
        if self._generator is None:
            self._generator = torch.Generator(device=self.device).manual_seed(_some_seed())
        return self._generator

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self._generator = torch.Generator(device=self.device).manual_seed(seed)


def refused_action(action: int, mask: Tensor, row: int | None = None) -> str:
    """Say that an action is not allowed, and which are.

    Args:
        action: what was chosen.
        mask: bool ``[actions]``.
        row: of the batch, or None where there is one alone.
    """
    allowed = mask.nonzero()[:, 0].tolist()
    listed = ", ".join(map(str, allowed[:10])) + (", ..." if len(allowed) > 10 else "")
    where = "" if row is None else f" in row {row}"
    return f"action: {action} is not allowed{where}; action_mask allows {listed}"


def _some_seed() -> int:
    """Draw a seed from torch's global generator, which is another in each process until somebody seeds it.

    A forked worker has its parent's: its name, which is numbered, tells it from the others.
    """
    worker = multiprocessing.current_process().name if multiprocessing.parent_process() else ""
    return int(torch.randint(2**62, ())) ^ zlib.crc32(worker.encode())
