"""`Task`: a problem and the distribution that its instances are drawn from."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict

from ncogym.distribution import Distribution, padded
from ncogym.errors import ArgumentError
from ncogym.problem import Problem

if TYPE_CHECKING:
    _Rules = Problem  # to a reader of types it is one; at run time the rules are asked, not inherited
else:
    _Rules = object


class Task(_Rules):
    """A problem and a distribution of its instances; it has all that the problem has, by the same name.

    Args:
        problem: the rules.
        distribution: where instances come from.

    Example:
        >>> import torch
        >>> from ncogym.envs import PROBLEMS
        >>> task = Task.of(PROBLEMS["jssp"], num_jobs=6, num_machines=4, insertion=True)
        >>> task.size, task.problem.arguments()
        (6, {'non_delay': False, 'insertion': True})
        >>> task.horizon(task.generate(2, torch.Generator().manual_seed(0)))
        24
    """

    def __init__(self, problem: Problem, distribution: Distribution) -> None:
        self._problem, self._distribution = problem, distribution

    @classmethod
    def of(cls, kind: type[Problem], *sizes: Any, **arguments: Any) -> Task:
        """Build a problem and its distribution, each of the arguments that it knows.

        Args:
            kind: the problem.
            sizes: the distribution's first arguments.
            arguments: the others, by name.

        Raises:
            ArgumentError: an argument is not allowed, or nothing draws instances of this problem.
            TypeError: an argument is unknown.
        """
        if kind.distribution_type is None:
            raise ArgumentError(f"{kind.name}: nothing draws its instances; they come from files alone")
        options = {key: value for key, value in arguments.items() if key in signature(kind).parameters}
        drawn = {key: value for key, value in arguments.items() if key not in options}
        return cls(kind(**options), kind.distribution_type(*sizes, **drawn))

    @staticmethod
    def parameters(kind: type[Problem]) -> dict[str, Parameter]:
        """Return the parameters of `of` by name: those of the distribution, then those of the rules."""
        drawn = {} if kind.distribution_type is None else signature(kind.distribution_type).parameters
        return {**drawn, **signature(kind).parameters}

    @property
    def problem(self) -> Problem:
        """The rules."""
        return self._problem

    @property
    def distribution(self) -> Distribution:
        """Where instances come from."""
        return self._distribution

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `of`: those of the distribution, and those of the problem."""
        return {**self._distribution.arguments(), **self._problem.arguments()}

    @property
    def size(self) -> int:
        """Number that the distribution's size argument gives (nodes, customers, items, ...)."""
        return self._distribution.size

    def generate(self, batch_size: int, rng: torch.Generator, device: torch.device | str | None = None) -> TensorDict:
        """Draw instances from ``rng`` on its device; a TensorDict of batch size ``[batch_size]``."""
        return self._distribution.draw(batch_size, rng).to(device or rng.device)

    def fitted(self, instances: TensorDict) -> TensorDict:
        """Return instances padded to the distribution's `frame`, unless they are larger, so that all have one shape."""
        frame = self._distribution.frame
        if any(instances[key].shape[1:] > shape for key, shape in frame.items() if key in instances.keys()):
            return instances
        return padded(instances, frame, self._problem.padding)

    def seeded(self, count: int, seed: int) -> TensorDict:
        """Return the first ``count`` instances that a seed stands for; see `Distribution.seeded`."""
        return self._distribution.seeded(count, seed)

    def resized(self, size: int) -> Task:
        """Return the same problem and distribution at another size."""
        return Task(self._problem, self._distribution.of_size(size))  # type: ignore[abstract]

    def sized_like(self, instance: TensorDict) -> Task:
        """Return the same problem and distribution in the sizes of given instances."""
        return Task(self._problem, self._distribution.like(instance))  # type: ignore[abstract]

    def __getattr__(self, name: str) -> Any:
        """Return what the problem has, or else the distribution, by a name that is not here; it is looked up once."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no {name}")
        own = self._problem if hasattr(self._problem, name) else self._distribution
        found = self.__dict__[name] = getattr(own, name)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._problem, self._distribution)


Problem.register(Task)  # type: ignore[type-abstract]  # it can do all that its problem can
