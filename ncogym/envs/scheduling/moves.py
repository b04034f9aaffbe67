"""Job shops of which some operations are left for later."""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Float32, Float64, Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.features import InstanceFeatures, StepFeatures
from ncogym.problem import Problem


class Window:
    """The dynamics of a job shop that ends before some operations: those behind ``until`` in their jobs.

    Args:
        whole: the job shop.
        until: int64 ``[batch, rollouts, jobs]``, operations of each job that are to be placed.
        steps: their number in all jobs, the same in each rollout.
    """

    def __init__(self, whole: Problem, until: Int64[Tensor, "batch rollouts jobs"], steps: int) -> None:
        self.whole, self.until, self.steps = whole, until, steps

    @property
    def name(self) -> str:
        """That of the whole."""
        return self.whole.name

    @property
    def sense(self) -> Literal["min", "max"]:
        """That of the whole."""
        return self.whole.sense

    def start(self, instance: TensorDict, rollouts: int = 1) -> Any:
        """Return the whole's state before the first action."""
        return self.whole.start(instance, rollouts)

    def advance(self, state: Any, action: Int64[Tensor, "batch rollouts"]) -> Any:
        """Return the whole's state after ``action``."""
        return self.whole.advance(state, action)

    def reward(
        self, state: Any, action: Int64[Tensor, "batch rollouts"], successor: Any
    ) -> Float32[Tensor, "batch rollouts"]:
        """Return the whole's reward of a step."""
        return self.whole.reward(state, action, successor)

    def horizon(self, instance: TensorDict) -> int:
        """Return how many operations are placed."""
        return self.steps

    def earliest(self, instance: TensorDict) -> int:
        """Return how many operations are placed."""
        return self.steps

    def instance_features(self, instance: TensorDict) -> InstanceFeatures:
        """Return the whole's features of an instance."""
        return self.whole.instance_features(instance)

    def objective(
        self, instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"]
    ) -> Float64[Tensor, "batch rollouts"]:
        """Return the whole's objective."""
        return self.whole.objective(instance, actions)

    def step_features(self, state: Any) -> StepFeatures:
        """Return the whole's features, with jobs whose operations are all placed here shut."""
        return self.whole.step_features(state)._replace(action_mask=state.next_operation < self.until)

    def walk(self, instance: TensorDict) -> None:
        """Return that kernels know of no window."""
