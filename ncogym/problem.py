"""The contract of a problem, in the parts that its readers need: dynamics and referee; it has no size.

Axes are always ``batch rollouts steps``; an instance is a TensorDict of batch size ``[batch]``.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor

from ncogym.distribution import Distribution
from ncogym.errors import ArgumentError, InstanceError, UnsupportedProblem
from ncogym.features import FeatureDims, InstanceFeatures, StepFeatures, Walk
from ncogym.models import Model
from ncogym.sketch import Sketch


class Violation(NamedTuple):
    """A broken constraint, in words.

    Attributes:
        row: instance of the batch.
        rollout: rollout of that instance.
        reason: what is broken, naming the node, job or item.
    """

    row: int
    rollout: int
    reason: str

    def __str__(self) -> str:
        return f"row {self.row}, rollout {self.rollout}: {self.reason}"


class State(Protocol):
    """What `Dynamics` go through: a NamedTuple of tensors ``[batch, rollouts, ...]`` whose first field is the instance.

    Attributes:
        instance: batch size ``[batch]``.
        action_mask: bool ``[batch, rollouts, actions]``, True = allowed.
        done: bool ``[batch, rollouts]``.
    """

    @property
    def instance(self) -> TensorDict: ...

    @property
    def action_mask(self) -> Tensor: ...

    @property
    def done(self) -> Tensor: ...


class Dynamics(Protocol):
    """How solutions are built, action by action: what rollouts, searches, kernels and laws need of a problem."""

    @property
    def name(self) -> str:
        """Its name in tables and messages."""

    @property
    def sense(self) -> Literal["min", "max"]:
        """Whether less or more of the objective is better."""

    def start(self, instance: TensorDict, rollouts: int = 1) -> Any:
        """Return the `State` before the first action."""

    def advance(self, state: Any, action: Int64[Tensor, "batch rollouts"]) -> Any:
        """Return the `State` after an action; pure, with no host synchronisation."""

    def reward(
        self, state: Any, action: Int64[Tensor, "batch rollouts"], successor: Any
    ) -> Float32[Tensor, "batch rollouts"]:
        """Return the signed reward of a step; over a rollout they sum to the objective or its negative."""

    def horizon(self, instance: TensorDict) -> int:
        """Return the number of steps after which every rollout is done, from shapes alone."""

    def earliest(self, instance: TensorDict) -> int:
        """Return the steps after which it pays to look whether all rollouts are done, from shapes alone."""

    def instance_features(self, instance: TensorDict) -> InstanceFeatures:
        """Return raw numbers of the instance, ``[batch, ...]``."""

    def step_features(self, state: Any) -> StepFeatures:
        """Return raw numbers of the step, ``[batch, rollouts, ...]``."""

    def walk(self, instance: TensorDict) -> Walk | None:
        """Say the dynamics and the step features as a `Walk`, by which kernels run whole rollouts, or return None."""

    def log_parents(self, state: Any) -> Float32[Tensor, "batch rollouts"]:
        """Return the logarithm of the number of states from which an action leads to this one."""


@runtime_checkable
class Referee(Protocol):
    """Who scores and checks solutions, from the actions alone: what a solver and its books need of a problem."""

    @property
    def name(self) -> str:
        """Its name in tables and messages."""

    @property
    def sense(self) -> Literal["min", "max"]:
        """Whether less or more of the objective is better."""

    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments, for cards and records."""

    def objective(
        self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]
    ) -> Float64[Tensor, "batch rollouts"]:
        """Score solutions in the instance's own units."""

    def violations(self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]) -> list[Violation]:
        """Name every broken constraint; empty where all is well."""

    def padded(self, instance: TensorDict, actions: Tensor, steps: int) -> Tensor:
        """Lengthen finished solutions ``[batch, ..., steps before]`` to ``steps`` by actions that do nothing."""


Arrays = Mapping[str, NDArray[Any]]


class Contents(NamedTuple):
    """What an ``.npz`` file holds.

    Attributes:
        instances: batch size ``[batch]``.
        best_known: float64 ``[batch]``, NaN where nothing is known; None where the file has none at all.
        actions: int64 ``[batch, steps]``, a solution of each instance whose ``best_known`` is known, or None.
        proven: bool ``[batch]``, True = ``best_known`` is an optimum; None where the file does not say.
    """

    instances: TensorDict
    best_known: Tensor | None = None
    actions: Tensor | None = None
    proven: Tensor | None = None


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


class Problem(abc.ABC):
    """A combinatorial problem whose solutions are built action by action: `Dynamics`, `Referee`, and what readers see.

    Example:
        >>> import torch
        >>> from ncogym.envs import PROBLEMS
        >>> problem = PROBLEMS["knapsack"]()
        >>> instances = problem.distribution_type(num_items=4).draw(2, torch.Generator().manual_seed(0))
        >>> problem.start(instances, rollouts=3).action_mask.shape
        torch.Size([2, 3, 5])
        >>> [violation.reason for violation in problem.violations(instances, torch.full((2, 1, 4), 4))]
        []

    A subclass is one file in a folder of ``ncogym/envs``, with the methods in this order; its options change what
    actions mean, and nothing else. It has no size and draws nothing: `ncogym.task.Task` joins it with a distribution
    of instances, and `ncogym.make` both with TorchRL.

    Attributes:
        name: the problem's name in `ncogym.envs.PROBLEMS`.
        sense: "min" or "max".
        suffixes: file suffixes that `read` takes; ".txt" among them says that its numbers need no header.
        published_suffix: that of a published solution beside an instance file, which `read_solution` takes; or None.
        solution_suffix: that of the file which `write_solution` writes; None where the problem has no such format.
        multi_start: whether a good solution may begin with nearly any of the first actions, so that trying each pays.
        state_type: the NamedTuple that `start` returns.
        distribution_type: where its instances come from, unless a file gives them; None where nothing draws any.
        instance_keys: all keys that an instance may have and that are read.
        padding: what stands where an instance has nothing, by key, so that instances of different sizes are one batch
            (`ncogym.distribution.stack`); empty where only equal sizes can be.
    """

    name: ClassVar[str]
    sense: ClassVar[Literal["min", "max"]]
    suffixes: ClassVar[tuple[str, ...]] = ()
    published_suffix: ClassVar[str | None] = None
    solution_suffix: ClassVar[str | None] = None
    multi_start: ClassVar[bool] = True
    state_type: ClassVar[Any]
    distribution_type: ClassVar[type[Distribution] | None] = None
    instance_keys: ClassVar[tuple[str, ...]]
    padding: ClassVar[Mapping[str, float]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "model" not in cls.__dict__:
            cls.model = Problem.model  # type: ignore[method-assign]  # see there

    @property
    def problem(self) -> Problem:
        """These rules themselves; of a `Task`, which has all that they have, those that it joins."""
        return self

    # ------------------------------------------------------------------ what a problem defines, in this order

    @abc.abstractmethod
    def read(self, path: str | Path) -> TensorDict:
        """Read an instance file; a TensorDict of batch size ``[1]``."""

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

    def log_parents(self, state: Any) -> Float32[Tensor, "batch rollouts"]:
        """Return the logarithm of the number of states from which an action leads to this one.

        Only those count that the dynamics can reach: a set of n elements has up to n.

        Raises:
            UnsupportedProblem: the problem does not say, as none does until it defines this.
        """
        raise UnsupportedProblem(f"{self.name} does not say how many parents its states have (`log_parents`)")

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

    @abc.abstractmethod
    def instance_size(self, instance: TensorDict) -> int:
        """Return the size of given instances, in the units of the distribution's `size`."""

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

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Contents | None:  # noqa: ARG003 - the contract's, for problems that read some
        """Return the instances in the arrays of an ``.npz`` file, or None where they are not this problem's.

        Raises:
            InstanceError: they have the names of this problem's arrays, but are no instances; the words do not name
                the file yet.
        """
        return None

    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments, which change what actions mean; most problems have none."""
        return {}


def as_int64(actions: Tensor) -> Int64[Tensor, "*shape"]:
    """Return actions as the referees read them: whole numbers of any type.

    Raises:
        ArgumentError: they are no whole numbers by their type, as 2.0 is none.
    """
    if actions.is_floating_point() or actions.is_complex() or actions.dtype == torch.bool:
        raise ArgumentError(f"actions: {actions.dtype} is not allowed; they must be whole numbers, as torch.int64")
    return actions.long()
