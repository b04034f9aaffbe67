"""The maximum independent set: nodes of the largest total weight, no two of them joined by an edge.

An action is a node that joins the set; its neighbours are then decided, too: they stay out. The number of nodes is the
action that takes none, the only one once all are decided. Objective: the weight of the set (its size where nodes have
no weights), to be maximised. The set of a finished rollout is maximal; a solution may be any independent set.

References:
    Zhang et al. (2023), Let the Flows Tell: Solving Graph Combinatorial Problems with GFlowNets, NeurIPS (the process).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from ncogym.envs.graph import graphs, moves
from ncogym.envs.graph.base import GraphProblem
from ncogym.features import FeatureDims, StepFeatures
from ncogym.models import Graph, IndependentSet
from ncogym.problem import Violation, as_int64


class MISState(NamedTuple):
    """State of each rollout; see `MIS`."""

    instance: TensorDict
    num_taken: Tensor
    action_mask: Tensor
    done: Tensor


class MIS(GraphProblem):
    """Maximum independent set, weighted or not.

    Instance keys are those of `ncogym.envs.graph.graphs`; weights of edges are not read.

    State keys, each ``[batch, rollouts, ...]``:
        num_taken: int64, nodes of the set.
        action_mask: bool ``[nodes + 1]``, True = allowed: undecided nodes, or, once there is none, to take none.
        done: bool, True = every node is decided.
    """

    name = "mis"
    sense = "max"
    suffixes = (".mis",)
    state_type = MISState

    # ------------------------------------------------------------------ dynamics

    def start(self, instance: TensorDict, rollouts: int = 1) -> MISState:
        open_nodes = F.pad(graphs.is_node(instance), (0, 1)).unsqueeze(1).repeat(1, rollouts, 1)
        taken = torch.zeros(open_nodes.shape[:2], dtype=torch.int64, device=open_nodes.device)
        return self._state(graphs.with_tables(instance), taken, open_nodes)

    def advance(self, state: MISState, action: Int64[Tensor, "batch rollouts"]) -> MISState:
        beside, _ = graphs.neighbours_of(state.instance, action)
        decided = torch.cat([beside, action.unsqueeze(-1)], dim=-1)
        return self._state(
            state.instance, state.num_taken + (~state.done).long(), state.action_mask.scatter(-1, decided, False)
        )

    def _state(self, instance: TensorDict, num_taken: Tensor, open_nodes: Tensor) -> MISState:
        """Return the state in which ``open_nodes`` ``[batch, rollouts, nodes + 1]`` are undecided; the last is none."""
        done = ~open_nodes[..., :-1].any(-1)
        return MISState(instance, num_taken, torch.cat([open_nodes[..., :-1], done.unsqueeze(-1)], dim=-1), done)

    def reward(
        self, state: MISState, action: Int64[Tensor, "batch rollouts"], successor: MISState
    ) -> Float32[Tensor, "batch rollouts"]:
        return graphs.weights_of(state.instance).gather(1, action)

    def earliest(self, instance: TensorDict) -> int:
        return 1  # of a complete graph

    def log_parents(self, state: MISState) -> Float32[Tensor, "batch rollouts"]:
        """Return the logarithm of the set's size: any of its nodes may have been the last."""
        return state.num_taken.clamp_min(1).float().log()

    # ------------------------------------------------------------------ referee

    def objective(
        self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]
    ) -> Float64[Tensor, "batch rollouts"]:
        taken = graphs.chosen(instance, as_int64(actions))
        return (taken * instance["weight"].double().unsqueeze(1)).sum(-1)

    def violations(self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]) -> list[Violation]:
        found = []
        for row, rollouts in enumerate(as_int64(actions).tolist()):
            count = int(graphs.is_node(instance[row : row + 1]).sum())
            joined = {tuple(edge) for edge in graphs.edges_of(instance[row : row + 1])[0].tolist()}
            for rollout, steps in enumerate(rollouts):
                reason = moves.broken(steps, count, self.instance_size(instance)) or _joined(steps, joined)
                if reason:
                    found.append(Violation(row, rollout, reason))
        return found

    # ------------------------------------------------------------------ features

    @property
    def feature_dims(self) -> FeatureDims:
        return FeatureDims(node=3, kinds=2, sparse=1, scalars=2, candidates=4)

    def step_features(self, state: MISState) -> StepFeatures:
        """Return numbers of each undecided node, 0 for others.

        1; its undecided neighbours, by the mean degree; 1 by their number and 1; its share of the weight of itself and
        them, by which the greedy rule takes. Scalars: the share of nodes that are undecided, and that of nodes taken.
        """
        instance, free = state.instance, state.action_mask[..., :-1]
        count = graphs.is_node(instance).sum(-1).clamp_min(1)[:, None, None]
        mean = instance["count"].sum(-1)[:, None, None] / count
        left = graphs.beside(instance, free.float())
        weight = instance["weight"].float().unsqueeze(1)
        around = graphs.beside(instance, free * weight)
        own = weight / (weight + around).clamp_min(1e-12)
        numbers = torch.stack(
            [torch.ones_like(left), left / mean.clamp_min(1e-6), 1 / (1 + left), own.expand_as(left)], -1
        )
        candidates = F.pad(numbers * free.unsqueeze(-1), (0, 0, 0, 1))
        share = torch.stack([free.sum(-1), state.num_taken], dim=-1) / count
        return StepFeatures(graphs.no_roles(state.action_mask), state.action_mask, share.float(), candidates)

    def model(self, instance: TensorDict) -> Graph:
        return IndependentSet(*graphs.shown(instance))


def _joined(steps: list[int], joined: set[tuple[int, ...]]) -> str | None:
    """Say which two nodes of a set are joined, or None."""
    taken = sorted(set(steps))
    for place, node in enumerate(taken):
        for other in taken[place + 1 :]:
            if (node, other) in joined:
                return f"nodes {node} and {other} are both in the set, and an edge joins them"
    return None
