"""The contract of a problem, in the parts that its readers need: dynamics, referee, distribution.

Axes are always ``batch rollouts steps``; an instance is a TensorDict of batch size ``[batch]``.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from tensordict import TensorDict
from torch import Tensor

from ncogym.features import InstanceFeatures, StepFeatures, Walk
from ncogym.models import Model


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


class Problem(Dynamics, Referee, Protocol):
    """The rules of a problem: its dynamics, its referee, and what solvers may see of it."""

    @property
    def name(self) -> str:
        """Its name in tables and messages."""

    @property
    def sense(self) -> Literal["min", "max"]:
        """Whether less or more of the objective is better."""

    def first_actions(self, instance: TensorDict, rng: torch.Generator | None = None) -> Int64[Tensor, "batch starts"]:
        """Return the first actions of a multi-start, int64 ``[batch, starts]``, in random order if ``rng`` is given."""

    def equivalent_actions(
        self, instance: TensorDict, actions: Int64[Tensor, "batch steps"], count: int, rng: torch.Generator
    ) -> Int64[Tensor, "batch {count} steps"]:
        """Draw other action sequences of the same solutions, int64 ``[batch, count, steps]``."""

    def instance_size(self, instance: TensorDict) -> int:
        """Return the size of given instances (nodes, customers, items, ...)."""

    def model(self, instance: TensorDict) -> Model | None:
        """Return what classical solvers may see of instances of batch size ``[batch]``, or None: they may see nothing.

        A model says all that decides what is feasible and how good it is.
        """

    def answer(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> Any:
        """Return a solution of an instance of batch size ``[1]`` in the words of its model, plain lists and numbers."""


class Distribution(Protocol):
    """Where instances come from: the only part of a problem that has a size."""

    @property
    def size(self) -> int:
        """Number that the constructor's size argument gives (nodes, customers, items, ...)."""

    def draw(self, count: int, rng: torch.Generator) -> TensorDict:
        """Draw instances from ``rng`` on its device; batch size ``[count]``."""

    def of_size(self, size: int) -> Distribution:
        """Return the same distribution at another size."""
