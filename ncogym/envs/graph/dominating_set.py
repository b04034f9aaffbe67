"""The minimum dominating set: nodes of the least total weight, every other node beside one of them.

All nodes are in the set at first. An action is a node that leaves it; nodes that may not follow are then decided:
those that nobody else would dominate, and those that alone dominate one that has left. The number of nodes is the
action that lets none leave, the only one once all are decided. Objective: the weight of the set, to be minimised. At
the end none can leave; a solution may be any dominating set.

References:
    Zhang et al. (2023), Let the Flows Tell: Solving Graph Combinatorial Problems with GFlowNets, NeurIPS (the process;
    here what is forced is so from the start, so that nodes without neighbours stay).
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
from ncogym.models import DominatingSet
from ncogym.problem import Violation, as_int64
from ncogym.sketch import Sketch


class MDSState(NamedTuple):
    """State of each rollout; see `MDS`."""

    instance: TensorDict
    left: Tensor
    guards: Tensor
    guard_sum: Tensor
    charged: Tensor
    action_mask: Tensor
    done: Tensor


class MDS(GraphProblem):
    """Minimum dominating set, weighted or not.

    Instance keys are those of `ncogym.envs.graph.graphs`; weights of edges are not read.

    State keys, each ``[batch, rollouts, ...]``:
        left: bool ``[nodes + 1]``, True = not in the set any more.
        guards: int64 ``[nodes + 1]``, neighbours of each node that are in the set.
        guard_sum: int64 ``[nodes + 1]``, the sum of their numbers: where there is one, its number.
        charged: float32, weight of the nodes that are decided to stay; 0 before the first action.
        action_mask: bool ``[nodes + 1]``, True = allowed: undecided nodes, or, without any, to let none leave.
        done: bool, True = every node is decided, and all that stay are charged.
    """

    name = "mds"
    sense = "min"
    state_type = MDSState

    # ------------------------------------------------------------------ dynamics

    def start(self, instance: TensorDict, rollouts: int = 1) -> MDSState:
        instance = graphs.with_tables(instance)
        guards = instance["count"].unsqueeze(1).repeat(1, rollouts, 1)
        number = torch.arange(guards.shape[-1] - 1, device=guards.device, dtype=torch.float64)
        sums = graphs.beside(instance, number.expand(len(guards), 1, -1))
        sums = F.pad(sums.round().long(), (0, 1)).expand_as(guards).clone()
        there = F.pad(graphs.is_node(instance), (0, 1)).unsqueeze(1)
        state = self._state(instance, torch.zeros_like(guards, dtype=torch.bool), guards, sums, there.expand_as(guards))
        unpaid = torch.zeros_like(state.charged)
        done = state.done & (state.charged == unpaid)
        return state._replace(charged=unpaid, done=done)

    def advance(self, state: MDSState, action: Int64[Tensor, "batch rollouts"]) -> MDSState:
        beside, _ = graphs.neighbours_of(state.instance, action)
        node = action.unsqueeze(-1)
        guards = state.guards.scatter_add(-1, beside, -torch.ones_like(beside))
        sums = state.guard_sum.scatter_add(-1, beside, -node.expand_as(beside))
        guards, sums = (F.pad(each[..., :-1], (0, 1)) for each in (guards, sums))  # of no node nothing is counted
        left = state.left.scatter(-1, node, node < state.left.shape[-1] - 1)
        return self._state(state.instance, left, guards, sums, state.action_mask & ~left)

    def _state(self, instance: TensorDict, left: Tensor, guards: Tensor, sums: Tensor, undecided: Tensor) -> MDSState:
        """Return the state with all that is forced decided."""
        nodes = left.shape[-1] - 1
        stays = torch.where(left & (guards == 1), sums, nodes)[..., :-1]  # who alone dominates one that has left
        is_open = (undecided & (guards > 0)).scatter(-1, stays, False)[..., :-1]
        decided = graphs.is_node(instance).unsqueeze(1) & ~left[..., :-1] & ~is_open
        charged = (decided * instance["weight"].float().unsqueeze(1)).sum(-1)
        done = ~is_open.any(-1)
        mask = torch.cat([is_open, done.unsqueeze(-1)], dim=-1)
        return MDSState(instance, left, guards, sums, charged, mask, done)

    def reward(
        self, state: MDSState, action: Int64[Tensor, "batch rollouts"], successor: MDSState
    ) -> Float32[Tensor, "batch rollouts"]:
        """Return the weight of what is newly decided to stay, negated."""
        return state.charged - successor.charged

    def log_parents(self, state: MDSState) -> Float32[Tensor, "batch rollouts"]:
        """Return the logarithm of how many nodes have left: any of them may have been the last."""
        return state.left[..., :-1].sum(-1).clamp_min(1).float().log()

    # ------------------------------------------------------------------ referee

    def objective(
        self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]
    ) -> Float64[Tensor, "batch rollouts"]:
        stays = ~graphs.chosen(instance, as_int64(actions)) & graphs.is_node(instance).unsqueeze(1)
        return (stays * instance["weight"].double().unsqueeze(1)).sum(-1)

    def violations(self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]) -> list[Violation]:
        found = []
        for row, rollouts in enumerate(as_int64(actions).tolist()):
            count = int(graphs.is_node(instance[row : row + 1]).sum())
            beside: list[set[int]] = [{node} for node in range(count)]
            for one, other in graphs.edges_of(instance[row : row + 1])[0].tolist():
                beside[one].add(other)
                beside[other].add(one)
            for rollout, steps in enumerate(rollouts):
                left = set(steps)
                bare = next((node for node in range(count) if beside[node] <= left), None)
                reason = moves.broken(steps, count, self.instance_size(instance))
                if reason is None and bare is not None:
                    reason = f"node {bare} is not in the set, and no neighbour of it is"
                if reason:
                    found.append(Violation(row, rollout, reason))
        return found

    def broken_solutions(self, instance: TensorDict, actions: Tensor) -> dict[str, Tensor | None]:
        """Return broken solutions of each kind for `ncogym.laws`; whoever lets less leave breaks nothing."""
        everyone = torch.arange(actions.shape[-1], device=actions.device).expand_as(actions)
        count = graphs.is_node(instance).sum(-1)[:, None, None]
        kinds = moves.broken_sets(instance, actions)
        return {**kinds, "everyone leaves": torch.where(everyone < count, everyone, self.instance_size(instance))}

    # ------------------------------------------------------------------ features

    @property
    def feature_dims(self) -> FeatureDims:
        return FeatureDims(node=3, kinds=2, sparse=1, scalars=2, candidates=4)

    def step_features(self, state: MDSState) -> StepFeatures:
        """Return numbers of each undecided node, 0 for others.

        1; its neighbours in the set, by the mean degree; the share of its neighbours that are in it; 1 by their number.
        Scalars: the share of nodes that are undecided, and that of nodes that have left.
        """
        instance, is_open = state.instance, state.action_mask[..., :-1]
        count = graphs.is_node(instance).sum(-1).clamp_min(1)[:, None, None]
        degree = instance["count"][:, None, :-1].float()
        mean = degree.sum(-1, keepdim=True) / count
        guards = state.guards[..., :-1].float()
        rows = [
            torch.ones_like(guards),
            guards / mean.clamp_min(1e-6),
            guards / degree.clamp_min(1),
            1 / guards.clamp_min(1),
        ]
        numbers = torch.stack(rows, dim=-1) * is_open.unsqueeze(-1)
        share = torch.stack([is_open.sum(-1), state.left.sum(-1)], dim=-1) / count
        return StepFeatures(
            graphs.no_roles(state.action_mask), state.action_mask, share.float(), F.pad(numbers, (0, 0, 0, 1))
        )

    def model(self, instance: TensorDict) -> DominatingSet:
        return DominatingSet(*graphs.shown(instance))

    def sketch(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> Sketch:
        """Return the graph with the nodes of the set marked."""
        left, count = {int(node) for node in actions}, int(graphs.is_node(instance).sum())
        return moves.drawn(instance, [node for node in range(count) if node not in left])
