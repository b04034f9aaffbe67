"""What a policy may see of an instance and of a step: the words that environments and policies share.

An environment fills these with raw numbers and holds no learnable layer; a policy picks a layer by a feature's *type*
and never asks which problem it came from. Axes are always ``batch queries nodes features``: the queries are the
rollouts of one step, or the recorded steps of whole trajectories; nothing here tells the two apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor


class NodeFeatures(NamedTuple):
    """Numbers of each node.

    Attributes:
        values: float32 ``[batch, nodes, features]``.
        kinds: int64 ``[nodes]``, the kind of each node (0 ordinary, 1 depot, ...), or None where all are of one kind.
    """

    values: Tensor
    kinds: Tensor | None = None


class EdgeFeatures(NamedTuple):
    """Numbers of each ordered pair of nodes.

    Attributes:
        values: float32 ``[batch, nodes, nodes, features]``; entry ``[b, i, j]`` belongs to the move from i to j.
    """

    values: Tensor


class OperationGraph(NamedTuple):
    """The operations of a shop; what a disjunctive graph connects follows from their jobs and machines.

    Attributes:
        values: float32 ``[batch, operations, features]``.
        jobs: int64 ``[batch, operations]``, the job of each; the operations of a job lie side by side in their order.
        machines: int64 ``[batch, operations]``, the machine of each; -1 is no operation (instances of different sizes).
    """

    values: Tensor
    jobs: Tensor
    machines: Tensor


InstanceFeatures = tuple[NodeFeatures | EdgeFeatures | OperationGraph, ...]


class StepFeatures(NamedTuple):
    """What matters at one decision of one rollout.

    Attributes:
        nodes: int64 ``[batch, queries, roles]``, the node that plays each role (TSP: first, current); -1 is nobody yet.
        action_mask: bool ``[batch, queries, actions]``, True = allowed.
        scalars: float32 ``[batch, queries, scalars]`` (CVRP: load left), or None.
        candidates: float32 ``[batch, queries, actions, numbers]``, or None.
        candidate_nodes: int64 ``[batch, queries, actions]``, the node or operation that an action stands for now (job
            shop: the next operation of the job), -1 where it stands for none; None where action i is always node i.
    """

    nodes: Tensor
    action_mask: Tensor
    scalars: Tensor | None = None
    candidates: Tensor | None = None
    candidate_nodes: Tensor | None = None

    def select(self, part: slice) -> StepFeatures:
        """Return some of the queries."""
        return StepFeatures(*(cast(Tensor, None if value is None else value[:, part]) for value in self))


def join_steps(steps: Sequence[StepFeatures]) -> StepFeatures:
    """Join the steps of the same rollouts into one set of queries, ``rollouts * steps``, steps running fastest."""

    def join(values: Sequence[Tensor | None]) -> Tensor | None:
        if all(value is None for value in values):
            return None
        return torch.stack(cast(list[Tensor], values), dim=2).flatten(1, 2)  # steps show it all or not at all

    return StepFeatures(*(cast(Tensor, join(values)) for values in zip(*steps, strict=True)))


@dataclass(frozen=True)
class FeatureDims:
    """Widths of an environment's features, from which a policy builds its layers.

    Attributes:
        node: numbers per node.
        kinds: kinds of node.
        edge: numbers per ordered pair, 0 where there are none.
        roles: nodes that matter at a step.
        scalars: scalars of a step.
        candidates: numbers per candidate action of a step.
        operation: numbers per operation, 0 where there are none.
    """

    node: int
    kinds: int = 1
    edge: int = 0
    roles: int = 0
    scalars: int = 0
    candidates: int = 0
    operation: int = 0
