"""Where instances come from: distributions, which alone have a size, and the sets that are known by a name."""

from __future__ import annotations

import abc
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym.errors import ArgumentError

PUBLISHED = Path(__file__).parent / "data" / "published.json"


class ReferenceSet(NamedTuple):
    """A set of instances that a problem publishes under a name.

    Attributes:
        arguments: of `ncogym.make`.
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


class Distribution(abc.ABC):
    """How instances of a problem are drawn; its constructor takes their size, and what else their numbers follow from.

    Attributes:
        reference_sets: the sets of instances that are known by a name, in the order of tables.
    """

    reference_sets: ClassVar[dict[str, ReferenceSet]] = {}

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number that the constructor's size argument gives (nodes, customers, items, ...)."""

    @abc.abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments, for cards and records."""

    @abc.abstractmethod
    def draw(self, count: int, rng: torch.Generator) -> TensorDict:
        """Draw instances from ``rng`` on its device; batch size ``[count]``."""

    @abc.abstractmethod
    def of_size(self, size: int) -> Distribution:
        """Return the same distribution at another size."""

    @abc.abstractmethod
    def like(self, instance: TensorDict) -> Distribution:
        """Return the same distribution in the sizes of given instances."""

    @property
    def frame(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes, without the batch, that no instance exceeds, by key, of those that differ from draw to draw.

        TorchRL and Gymnasium want all observations of one shape: for them instances are padded to these.
        """
        return {}

    def seeded(self, count: int, seed: int) -> TensorDict:
        """Return the first ``count`` instances that a seed stands for, as evaluation and results name them.

        They are drawn in blocks of 100, so that a larger count begins with the instances of a smaller one.
        """
        rng = torch.Generator().manual_seed(seed)
        blocks = [self.draw(100, rng) for _ in range(0, count, 100)]
        return torch.cat(blocks)[:count]

    @classmethod
    def reference_set(cls, name: str) -> TensorDict:
        """Build the whole set of that name in `reference_sets`; what has a set that is not `seeded` overrides this."""
        entry = cls.reference_sets[name]
        if entry.seed is None:
            raise NotImplementedError(f"{cls.__name__}: {name} has no seed, and nothing else says how it is built")
        return cls(**entry.arguments).seeded(entry.count, entry.seed)


def pinned(sets: Iterable[tuple[str, ReferenceSet]]) -> dict[str, ReferenceSet]:
    """Return sets by name, each with what the package's table of published sets has of it: fingerprint, best known."""
    return {name: entry._replace(**_published()[name]) for name, entry in sets}


@cache
def _published() -> dict[str, dict[str, Any]]:
    def plain(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    table = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    return {name: {key: plain(value) for key, value in told.items()} for name, told in table.items()}


def padded(instances: TensorDict, shapes: Mapping[str, tuple[int, ...]], padding: Mapping[str, float]) -> TensorDict:
    """Return instances with the given keys padded to shapes, at the end of each axis; see `stack`."""
    kept = {
        key: _padded(value, shapes.get(key, value.shape[1:]), padding.get(key, 0)) for key, value in instances.items()
    }
    return TensorDict(kept, batch_size=instances.batch_size)


def stack(instances: Sequence[TensorDict], padding: Mapping[str, float]) -> TensorDict:
    """Join instances of different sizes into one batch, those that are too small padded at the end of each axis.

    Args:
        instances: each of batch size ``[some]``, with the same keys.
        padding: what stands where an instance has nothing, by key (`ncogym.problem.Problem.padding`); keys that it does
            not name must have one shape.

    Raises:
        ArgumentError: none is given, or the shapes of a key differ that ``padding`` does not name.

    Example:
        >>> import torch
        >>> small, large = (TensorDict({"value": torch.ones(1, n)}, batch_size=[1]) for n in (2, 3))
        >>> stack([small, large], {"value": 0})["value"].tolist()
        [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    if not instances:
        raise ArgumentError("instances: none is given; at least one must be")
    joined = {}
    for key in instances[0].keys():
        values = [each[key] for each in instances]
        shape = [max(axis) for axis in zip(*(value.shape[1:] for value in values), strict=True)]
        if key not in padding and any(list(value.shape[1:]) != shape for value in values):
            raise ArgumentError(f"instances: {key} has several shapes, and the problem does not say how to pad it")
        joined[key] = torch.cat([_padded(value, shape, padding.get(key, 0)) for value in values])
    return TensorDict(joined, batch_size=[sum(len(each) for each in instances)])


def _padded(value: Tensor, shape: Sequence[int], fill: float) -> Tensor:
    missing = [wanted - found for wanted, found in zip(shape, value.shape[1:], strict=True)]
    if not any(missing):
        return value
    return torch.nn.functional.pad(value, [side for count in reversed(missing) for side in (0, count)], value=fill)
