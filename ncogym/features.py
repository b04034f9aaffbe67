"""What a policy may see of an instance and of a step: the words that environments and policies share.

An environment fills these with raw numbers and holds no learnable layer; a policy picks a layer by a feature's *type*
and never asks which problem it came from. Axes are always ``batch queries nodes features``: the queries are the
rollouts of one step, or the recorded steps of whole trajectories; nothing here tells the two apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor


class NodeFeatures(NamedTuple):
    """Numbers of each node.

    Attributes:
        values: float32 ``[batch, nodes, features]``.
        kinds: int64 ``[nodes]``, or ``[batch, nodes]`` where instances differ: the kind of each node (0 ordinary, 1
            depot, ...); None where all are of one kind.
        present: bool ``[batch, nodes]``, False where there is no node, in a batch of instances of different sizes; None
            where all are there.
    """

    values: Tensor
    kinds: Tensor | None = None
    present: Tensor | None = None


class EdgeFeatures(NamedTuple):
    """Numbers of each ordered pair of nodes.

    Attributes:
        values: float32 ``[batch, nodes, nodes, features]``; entry ``[b, i, j]`` belongs to the move from i to j.
    """

    values: Tensor


class SparseEdges(NamedTuple):
    """Some ordered pairs of nodes, and numbers of each.

    Attributes:
        ends: int64 ``[batch, edges, 2]``, from and to, as nodes of the instance; -1 is no edge, in a batch of instances
            with different numbers of them.
        values: float32 ``[batch, edges, features]``.
    """

    ends: Tensor
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


class Encoded(Protocol):
    """What a policy makes of instances, once: a NamedTuple of tensors ``[batch, ...]``, and of None."""

    def __iter__(self) -> Iterator[Any]: ...

    def _asdict(self) -> dict[str, Any]: ...

    def _replace(self, **changes: Any) -> Any: ...


InstanceFeatures = tuple[NodeFeatures | EdgeFeatures | SparseEdges | OperationGraph, ...]


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


class Walk(NamedTuple):
    """A problem that visits nodes one after the other, said so that a kernel can follow it through whole rollouts.

    Every node is visited once. Without demands the walk may begin anywhere and ends when all nodes are visited. With
    demands, node 0 is a depot, where the walk begins and ends and which restores the load: another node is allowed if
    it is not visited and its demand is at most the load plus the slack; the depot is allowed unless the walk is there;
    once every other node is visited the walk is done, at the depot, and that is the only action left.

    What a step shows a policy is said by name. An environment that offers a walk keeps to it: `ncogym.laws` checks.

    Attributes:
        roles: the nodes that matter, in the order of `StepFeatures.nodes`; before the first step both are nobody,
            except that a walk with a depot is at node 0.
        scalars: the numbers, in the order of `StepFeatures.scalars`: the share of the capacity that is left, and the
            share of the nodes other than the depot that are not visited.
        horizon: steps after which every rollout is done.
        demand: float64 ``[batch, nodes]``, or None.
        capacity: float64 ``[batch]``, or None.
        slack: float64 ``[batch]``, what a demand may exceed the load by, or None.
    """

    roles: tuple[Literal["first", "current"], ...]
    scalars: tuple[Literal["room", "left"], ...]
    horizon: int
    demand: Tensor | None = None
    capacity: Tensor | None = None
    slack: Tensor | None = None


class Pointer(NamedTuple):
    r"""A decoder of one glimpse and one pointer whose query is a sum of rows, which is all that a kernel needs to know.

    .. math:: q = \sum_r Q_r[node_r] + W s, \quad
              g_h = \mathrm{softmax}(q_h K_h^\top / \sqrt{width})\, V_h, \quad
              u = clip\,(\tanh(g L^\top / \sqrt{dim}) + \sum_r B_r[node_r])

    The softmax is over the allowed nodes, and u holds the logits of these.

    Attributes:
        keys: float ``[batch, heads, nodes, width]``, of the glimpse (K); dim is heads times width.
        values: float ``[batch, heads, nodes, width]``, of the glimpse (V).
        logit_keys: float ``[batch, nodes, dim]``, of the pointer (L).
        queries: float ``[batch, roles, nodes + 1, dim]``: what a node in a role adds (Q); the last row is "nobody".
        bias: float32 ``[batch, roles, nodes + 1, nodes]``: what a node in a role adds to each logit (B), or None.
        scalars: float ``[batch, dim, scalars]``, what the scalars of a step add (W), or None.
        clip: of the logits.
    """

    keys: Tensor
    values: Tensor
    logit_keys: Tensor
    queries: Tensor
    bias: Tensor | None
    scalars: Tensor | None
    clip: float


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
        sparse: numbers per edge of `SparseEdges`, 0 where there are none.
    """

    node: int
    kinds: int = 1
    edge: int = 0
    roles: int = 0
    scalars: int = 0
    candidates: int = 0
    operation: int = 0
    sparse: int = 0
