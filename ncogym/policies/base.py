"""The contract of a policy: encode an instance once, then give logits for any number of queries."""

from __future__ import annotations

import abc
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ncogym.errors import UnsupportedFeatures
from ncogym.features import FeatureDims, InstanceFeatures, Pointer, StepFeatures


class Policy(nn.Module, abc.ABC):
    """A network that reads features and scores actions; it knows of no problem and of no loop.

    Attributes:
        dims: widths of the features that it was built for.
        numbers_per_action: float32 numbers that `logits` holds per action of a query, about; bounds rollouts at a time.
        numbers_per_node: float32 numbers that `encode` holds per node, about; bounds instances at a time.
        numbers_per_pair: and per ordered pair of nodes.
        width: numbers of `summary` and of `reading`; 0 where a policy offers nothing to a value head.
    """

    dims: FeatureDims
    numbers_per_action: int = 16
    numbers_per_node: int = 2048
    numbers_per_pair: int = 64
    width: int = 0

    @abc.abstractmethod
    def encode(self, features: InstanceFeatures) -> Any:
        """Encode the instances once; a NamedTuple of tensors ``[batch, ...]``.

        Raises:
            UnsupportedFeatures: a feature is of a type that this policy has no layer for.
        """

    @abc.abstractmethod
    def logits(
        self, encoded: Any, step: StepFeatures, condition: Tensor | None = None
    ) -> Float[Tensor, "batch queries actions"]:
        """Score the actions of each query.

        Args:
            encoded: what `encode` returned.
            step: of the rollouts of one step or of the recorded steps of whole trajectories.
            condition: what stays constant through a rollout (a member's index, a latent), ``[batch, queries, ...]``.

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
        """Return what `encode` returned in a lower precision, for acting."""
        return type(encoded)(
            *(
                value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
                for value in encoded
            )
        )

    @abc.abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Return the constructor's keyword arguments apart from the feature widths, for cards and checkpoints."""
