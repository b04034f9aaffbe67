r"""Policies under conditions: one encoder, and a decoder that something constant through a rollout changes.

`Conditioned` is the frame, and `Population` has as many decoders as members, of which each solves some instances:

.. math:: J = \mathbb{E}_\rho\, \mathbb{E}_{\tau_1, \dots, \tau_K} \max_k R(\tau_k)

References:
    Grinsztajn, Furelos-Blanco, Surana, Bonnet, Barrett (2023), Winner Takes It All: Training Performant RL Populations
    for Combinatorial Optimization, NeurIPS (Poppy).

Differs from the paper in:
    - any policy that tells encoder from decoder may be the base, and not the attention model alone;
    - in the TSP the paper's glimpse sees the visited cities alone; here it sees those that are open, as elsewhere.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ncogym.errors import ArgumentError
from ncogym.features import FeatureDims, InstanceFeatures, Pointer, StepFeatures
from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.base import Policy

MAX_MEMBERS = 1 << 12


class Conditioned(Policy):
    """A policy on top of another one, its base, whose encoding under a condition the base's own decoder reads.

    Args:
        dims: widths of the environment's features.
        base: makes the policy that it conditions.

    Attributes:
        base: that policy.
    """

    def __init__(self, dims: FeatureDims, base: Callable[[FeatureDims], Policy]) -> None:
        super().__init__()
        self.base = base(dims)
        if isinstance(self.base, Conditioned):
            raise ArgumentError(
                f"base: {type(self.base).__name__} is not allowed; it must be a policy of no conditions"
            )
        self.dims, self.width = dims, self.base.width
        self.numbers_per_action, self.numbers_per_node = self.base.numbers_per_action, self.base.numbers_per_node
        self.numbers_per_pair = self.base.numbers_per_pair

    def arguments(self) -> dict[str, Any]:
        return {"base": {"class": self.base.card_name(), "arguments": self.base.arguments()}}

    def encode(self, features: InstanceFeatures) -> Any:
        return self.base.embeddings(features)

    def logits(self, encoded: Any, step: StepFeatures) -> Float[Tensor, "batch queries actions"]:
        return self.base.logits(encoded, step)

    def as_pointer(self, encoded: Any) -> Pointer | None:
        return self.base.as_pointer(encoded)

    def summary(self, encoded: Any) -> Float[Tensor, "batch width"]:
        return self.base.summary(encoded)

    def reading(self, encoded: Any, step: StepFeatures) -> Float[Tensor, "batch queries width"]:
        return self.base.reading(encoded, step)

    def begin_from(self, other: Policy) -> None:
        """Take over the weights of a policy of the same kind, or, into the base, of one of the base's kind.

        A new policy then acts as the base's does under every condition.

        Raises:
            CheckpointError: their weights do not fit.
        """
        if type(other) is type(self):
            super().begin_from(other)
        else:
            self.base.begin_from(other)


def repeated(encoded: Any, count: int) -> Any:
    """Return rows of which each instance has as many, all the same, side by side."""
    return encoded._replace(
        **{
            name: value.unsqueeze(1).expand(-1, count, *value.shape[1:]).flatten(0, 1)
            for name, value in encoded._asdict().items()
            if isinstance(value, Tensor)
        }
    )


class Population(Conditioned):
    """One encoder and as many decoders as members; the condition is a member's index.

    Members are clones at first, unless they are to learn from scratch. Their decoders lie in one tensor
    ``[members, ...]`` per parameter of the base's, and each product is one for all members.

    Args:
        dims: widths of the environment's features.
        members: decoders (K; 4, 8, 16 and 32 in the paper).
        base: makes the policy whose decoder each member has one of.
        alike: begin as clones; else each member's decoder is drawn by itself, for a population that no trained policy
            comes before (the knapsack's in the paper).
    """

    members: Tensor

    def __init__(
        self,
        dims: FeatureDims,
        *,
        members: int = 8,
        base: Callable[[FeatureDims], Policy] = AttentionPolicy,
        alike: bool = True,
    ) -> None:
        super().__init__(dims, base)
        self.alike = alike
        if not 1 <= members <= MAX_MEMBERS:
            raise ArgumentError(f"members: {members} is not allowed; it must be from 1 to {MAX_MEMBERS}")
        # each parameter of the base's decoder makes room for those of all members; True: the steps read it
        self._stacked = {
            name: _within(name, self.base.at_steps)
            for name, _ in self.base.named_parameters()
            if _within(name, self.base.decoder)
        }
        if not self._stacked:
            raise ArgumentError(f"base: {type(self.base).__name__} is not allowed; it must tell decoder from encoder")
        # of what is on the meta device, as a policy is that will be loaded, shapes alone matter
        cloned = alike or next(self.base.parameters()).is_meta
        others = [] if cloned else [base(dims) for _ in range(1, members)]
        for name in self._stacked:
            each = [policy.get_parameter(name).detach() for policy in (self.base, *others)]
            _put(self.base, name, torch.stack(each * members if cloned else each))
        self.register_buffer("members", torch.arange(members, device="cpu")[None], persistent=False)  # never on meta

    @property
    def everyone(self) -> Tensor:
        return self.members

    def arguments(self) -> dict[str, Any]:
        return {"members": self.members.shape[1], **super().arguments(), "alike": self.alike}

    def member(self, number: int) -> Policy:
        """Return a member alone: a policy of the base's kind with weights of its own."""
        alone = copy.deepcopy(self.base)
        for name in self._stacked:
            _put(alone, name, alone.get_parameter(name).detach()[number].clone())
        return alone

    def begin_from(self, other: Policy) -> None:
        if type(other) is type(self):
            super().begin_from(other)
            return
        alone = self.member(0)
        alone.begin_from(other)
        given = alone.state_dict()
        with torch.no_grad():
            for name, value in self.base.state_dict().items():
                value.copy_(given[name])  # that of all members at once

    def under(self, encoded: Any, condition: Tensor) -> Any:
        """Return the tables of members, of which all are computed at once, even where some are asked for.

        Args:
            encoded: what `encode` returned.
            condition: int64 ``[batch, conditions]`` or ``[1, conditions]``, indices of members.
        """
        weights: dict[str, Tensor] = {
            name: self.base.get_parameter(name) for name, at_step in self._stacked.items() if not at_step
        }
        everyone, batch, count = self._is_everyone(condition), encoded[0].shape[0], self.members.shape[1]
        number = condition.expand(batch, -1)
        member = None
        if self.base.at_steps:
            member = number.reshape(-1, 1)[:, : 0 if everyone else 1]
        if not weights:  # the steps read all that members have of their own
            return repeated(self.base.tables(encoded), number.shape[1])._replace(member=member)
        made: list[Any] = []

        def tables(weights: dict[str, Tensor]) -> list[Tensor]:
            made[:] = [functional_call(self.base, weights, ("tables", encoded))]
            return [value for value in made[0] if value is not None]

        found = [value.transpose(0, 1).flatten(0, 1) for value in vmap(tables)(weights)]
        if not everyone:
            rows = (torch.arange(batch, device=number.device).unsqueeze(1) * count + number).flatten()
            found = [value.index_select(0, rows) for value in found]
        names = (name for name, value in made[0]._asdict().items() if value is not None)
        return type(made[0])(**{**made[0]._asdict(), **dict(zip(names, found, strict=True)), "member": member})

    def _is_everyone(self, condition: Tensor) -> bool:
        """Say whether a condition is `everyone`, without a look at its values."""
        mine = self.members
        return condition is mine or (condition.shape == mine.shape and condition.data_ptr() == mine.data_ptr())


def _within(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    """Set a parameter by its full name."""
    owner, _, last = name.rpartition(".")
    setattr(module.get_submodule(owner), last, nn.Parameter(value))
