"""The contract of a policy: encode an instance once, then give logits for any number of queries."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ncogym.errors import CheckpointError, UnsupportedFeatures
from ncogym.features import FeatureDims, InstanceFeatures, Pointer, StepFeatures


class Policy(nn.Module, abc.ABC):
    """A network that reads features and scores actions; it knows of no problem and of no loop.

    Attributes:
        dims: widths of the features that it was built for.
        numbers_per_action: float32 numbers that `logits` holds per action of a query, about; bounds rollouts at a time.
        numbers_per_node: float32 numbers that `encode` holds per node, about; bounds instances at a time.
        numbers_per_pair: and per pair of nodes that it looks at; 0 where it looks at none.
        numbers_per_edge: and per edge of `SparseEdges`.
        width: numbers of `summary` and of `reading`; 0 where a policy offers nothing to a value head.
        decoder: names of the modules and parameters that are its decoder's, which a population has one of per member:
            those that `tables` and `logits` read. The others, of `embeddings`, are its encoder's.
        at_steps: those of them that `logits` reads.
        steered: numbers of the vector that `steer` takes; 0 where it takes none.
    """

    dims: FeatureDims
    numbers_per_action: int = 16
    numbers_per_node: int = 2048
    numbers_per_pair: int = 64
    numbers_per_edge: int = 0
    width: int = 0
    decoder: tuple[str, ...] = ()
    at_steps: tuple[str, ...] = ()
    steered: int = 0

    @property
    def everyone(self) -> Tensor | None:
        """All conditions that there are, in their order, ``[1, conditions, ...]``: the members of a population.

        None where a policy takes no conditions, or any (latents).
        """
        return None

    @classmethod
    def card_name(cls) -> str:
        """Return what cards call this class: its name, and for a class of another package its module's before it."""
        own = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
        return cls.__qualname__ if own else f"{cls.__module__}.{cls.__qualname__}"

    def forward(self, call: str, *args: Any) -> Any:
        """Call a method by its name, for `torch.func.functional_call` to put other weights in."""
        return getattr(self, call)(*args)

    def encoding_numbers(self, actions: int, steps: int) -> int:
        """Return how many float32 numbers `encode` holds of an instance, about.

        Args:
            actions: of a step; every one is a node.
            steps: of a rollout, at most.
        """
        return self.numbers_per_node * actions + self.numbers_per_pair * actions**2

    def query_numbers(self, actions: int) -> int:
        """Return how many float32 numbers `logits` holds of a query with so many actions, about."""
        return self.numbers_per_action * actions

    @abc.abstractmethod
    def encode(self, features: InstanceFeatures) -> Any:
        """Encode the instances once; a NamedTuple of tensors ``[batch, ...]``.

        Raises:
            UnsupportedFeatures: a feature is of a type that this policy has no layer for.
        """

    def embeddings(self, features: InstanceFeatures) -> Any:
        """Return the encoder's part of `encode`, a NamedTuple of tensors ``[batch, ...]`` or None.

        Raises:
            UnsupportedFeatures: this policy cannot be conditioned, or as in `encode`.
        """
        raise UnsupportedFeatures(f"{type(self).__name__} cannot be conditioned: its encoder and decoder are one")

    def tables(self, embedded: Any) -> Any:
        """Return the decoder's part of `encode`: what `logits` reads, computed once from the `embeddings`."""
        raise UnsupportedFeatures(f"{type(self).__name__} cannot be conditioned: its encoder and decoder are one")

    def steer(self, encoded: Any, vectors: Float[Tensor, "batch steered"]) -> Any:
        """Return what `encode` returned, shifted by a vector for each instance (row) of it; zeros change nothing.

        Raises:
            UnsupportedFeatures: this policy cannot be steered.
        """
        raise UnsupportedFeatures(f"{type(self).__name__} cannot be steered")

    def under(self, encoded: Any, condition: Tensor) -> Any:
        """Return what `logits` reads of each instance under each condition, a NamedTuple of tensors ``[rows, ...]``.

        A condition stays constant through a rollout: a member of a population, a latent. Rows are instances times
        conditions, the conditions of an instance side by side, so that acting and scoring know of instances alone.

        Args:
            encoded: what `encode` returned, the same for all conditions.
            condition: ``[batch, conditions, ...]``, or ``[1, conditions, ...]`` where all instances have the same.

        Raises:
            UnsupportedFeatures: this policy takes no conditions.
        """
        raise UnsupportedFeatures(f"{type(self).__name__} takes no conditions")

    @abc.abstractmethod
    def logits(self, encoded: Any, step: StepFeatures) -> Float[Tensor, "batch queries actions"]:
        """Score the actions of each query.

        Args:
            encoded: what `encode` returned, or `under` where rollouts have conditions.
            step: of the rollouts of one step or of the recorded steps of whole trajectories.

        Returns:
            float32 ``[batch, queries, actions]``, -inf where an action is not allowed.
        """

    def as_pointer(self, encoded: Any) -> Pointer | None:
        """Return what `logits` computes as a `Pointer`, for kernels to decode from, or None where it is no pointer."""
        return None

    def summary(self, encoded: Any) -> Float[Tensor, "batch width"]:
        """Return what a value head reads of each instance, ``[batch, width]``.

        The largest of each number over the nodes (operations) that are there. A mean would not do: behind a
        normalisation over the nodes it is the same for every instance.
        """
        raise UnsupportedFeatures(f"{type(self).__name__} has no summary for a value head")

    def reading(self, encoded: Any, step: StepFeatures) -> Float[Tensor, "batch queries width"]:
        """Return what a value head reads of each state beside the `summary`, ``[batch, queries, width]``.

        It is what the decoder reads of the nodes or candidates that are open.
        """
        raise UnsupportedFeatures(f"{type(self).__name__} has no reading of states for a value head")

    def lowered(self, encoded: Any, dtype: torch.dtype) -> Any:
        """Return what `encode` returned in a lower precision, for acting; what is added to logits stays float32."""
        lower = {
            name: value.to(dtype)
            for name, value in encoded._asdict().items()
            if name not in ("bias", "edges") and isinstance(value, Tensor) and value.is_floating_point()
        }
        return encoded._replace(**lower)

    def begin_from(self, other: Policy) -> None:
        """Take over the weights of a trained policy of the same shape.

        Raises:
            CheckpointError: its weights do not fit.
        """
        try:
            self.load_state_dict(other.state_dict())
        except RuntimeError as error:
            reason = " ".join(str(error).split()[:40])
            raise CheckpointError(
                f"{type(self).__name__} cannot begin from {type(other).__name__} ({reason})"
            ) from error

    @abc.abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Return the constructor's keyword arguments apart from the feature widths, for cards and checkpoints."""


def subclasses(base: type) -> Iterator[Any]:
    """Yield every class below another that this process knows."""
    below: list[type] = base.__subclasses__()
    for kind in below:
        yield kind
        yield from subclasses(kind)
