"""The maximum cut: two sides of the nodes with the most weight of edges between them.

All nodes are on one side at first. An action is a node that moves to the other; a node that would lose by moving is
then decided: it stays. The number of nodes is the action that moves none and ends it, the only one once all are
decided. Where an edge has a negative weight, who loses now may gain later: there nobody is decided unasked, and one
may end at any time. Objective: the weight of the edges between the sides, to be maximised. Any two sides are a
solution.

References:
    Zhang et al. (2023), Let the Flows Tell: Solving Graph Combinatorial Problems with GFlowNets, NeurIPS (the process;
    here only parents that the process can reach are counted).
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
from ncogym.models import Cut
from ncogym.problem import Violation, as_int64
from ncogym.sketch import Sketch


class MaxCutState(NamedTuple):
    """State of each rollout; see `MaxCut`."""

    instance: TensorDict
    moved: Tensor
    across: Tensor
    action_mask: Tensor
    done: Tensor


class MaxCut(GraphProblem):
    """Maximum cut.

    Instance keys are those of `ncogym.envs.graph.graphs`; weights of nodes are not read.

    State keys, each ``[batch, rollouts, ...]``:
        moved: bool ``[nodes + 1]``, True = on the other side.
        across: float32 ``[nodes + 1]``, weight of each node's edges to nodes that have moved.
        action_mask: bool ``[nodes + 1]``, True = allowed: undecided nodes; to move none, once all are decided.
        done: bool, True = every node is decided.
    """

    name = "maxcut"
    sense = "max"
    suffixes = (".rud",)
    state_type = MaxCutState
    any_order = False

    # ------------------------------------------------------------------ dynamics

    def start(self, instance: TensorDict, rollouts: int = 1) -> MaxCutState:
        there = F.pad(graphs.is_node(instance), (0, 1)).unsqueeze(1).repeat(1, rollouts, 1)
        across = torch.zeros(there.shape, dtype=torch.float32, device=there.device)
        return self._state(graphs.with_tables(instance), torch.zeros_like(there), across, there)

    def advance(self, state: MaxCutState, action: Int64[Tensor, "batch rollouts"]) -> MaxCutState:
        beside, weight = graphs.neighbours_of(state.instance, action)
        across = state.across.scatter_add(-1, beside, weight.float())
        node = action.unsqueeze(-1)
        moved = state.moved.scatter(-1, node, node < state.moved.shape[-1] - 1)
        undecided = state.action_mask & ~moved & (node < state.moved.shape[-1] - 1)  # who moves none decides all
        return self._state(state.instance, moved, across, undecided)

    def _state(self, instance: TensorDict, moved: Tensor, across: Tensor, undecided: Tensor) -> MaxCutState:
        """Return the state in which of the undecided nodes those stay that would lose by moving, now and later."""
        negative = (instance["arc_weight"] < 0).any(-1)[:, None]
        loses = (2 * across[..., :-1] > _total(instance)) & ~negative.unsqueeze(-1)
        is_open = undecided[..., :-1] & ~loses
        done = ~is_open.any(-1)
        mask = torch.cat([is_open, (done | negative).unsqueeze(-1)], dim=-1)
        return MaxCutState(instance, moved, across, mask, done)

    def reward(
        self, state: MaxCutState, action: Int64[Tensor, "batch rollouts"], successor: MaxCutState
    ) -> Float32[Tensor, "batch rollouts"]:
        """Return what the move gains."""
        gain = F.pad(_total(state.instance) - 2 * state.across[..., :-1], (0, 1))
        return gain.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def log_parents(self, state: MaxCutState) -> Float32[Tensor, "batch rollouts"]:
        """Return the logarithm of how many moved nodes can have been the last.

        Those that would not have lost by it then: the others had stayed. Where an edge has a negative weight that is
        not so, and it is not a number.
        """
        gained = 2 * state.across[..., :-1] <= _total(state.instance)
        count = (state.moved[..., :-1] & gained).sum(-1).clamp_min(1).float().log()
        negative = (state.instance["arc_weight"] < 0).any(-1, keepdim=True)
        return count.masked_fill(negative, torch.nan)

    # ------------------------------------------------------------------ referee

    def objective(
        self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]
    ) -> Float64[Tensor, "batch rollouts"]:
        side = F.pad(graphs.chosen(instance, as_int64(actions)), (0, 1))
        rows, source = side.shape[1], graphs.arc_sources(instance)
        target = torch.where(instance["neighbours"] < 0, side.shape[-1] - 1, instance["neighbours"])
        ends = (side.gather(-1, end.unsqueeze(1).expand(-1, rows, -1)) for end in (source, target))
        one, other = ends
        weight = instance["arc_weight"].double().unsqueeze(1)
        return ((one != other) * weight).sum(-1) / 2  # each edge is there in both directions

    def violations(self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]) -> list[Violation]:
        found = []
        for row, rollouts in enumerate(as_int64(actions).tolist()):
            count = int(graphs.is_node(instance[row : row + 1]).sum())
            for rollout, steps in enumerate(rollouts):
                if reason := moves.broken(steps, count, self.instance_size(instance)):
                    found.append(Violation(row, rollout, reason))
        return found

    # ------------------------------------------------------------------ features

    @property
    def feature_dims(self) -> FeatureDims:
        return FeatureDims(node=3, kinds=2, sparse=1, scalars=2, candidates=3)

    def step_features(self, state: MaxCutState) -> StepFeatures:
        """Return numbers of each node, 0 for no node.

        1 if it is undecided; 1 if it has moved; what it would gain by moving, in units of the mean weight of a node's
        edges. Scalars: the share of nodes that are undecided, and that of nodes that have moved.
        """
        instance, is_open = state.instance, state.action_mask[..., :-1]
        there = graphs.is_node(instance).unsqueeze(1)
        count = there.sum(-1, keepdim=True).clamp_min(1)
        unit = instance["arc_weight"].float().abs().sum(-1)[:, None, None] / count
        gain = (_total(instance) - 2 * state.across[..., :-1]) / unit.clamp_min(1e-12)
        moved = state.moved[..., :-1]
        numbers = torch.stack([is_open.float(), moved.float(), gain], dim=-1) * there.unsqueeze(-1)
        share = torch.stack([is_open.sum(-1), moved.sum(-1)], dim=-1) / count
        return StepFeatures(
            graphs.no_roles(state.action_mask), state.action_mask, share.float(), F.pad(numbers, (0, 0, 0, 1))
        )

    def model(self, instance: TensorDict) -> Cut:
        return Cut(*graphs.shown(instance))

    def sketch(self, instance: TensorDict, actions: Int64[Tensor, " steps"]) -> Sketch:
        """Return the graph with the nodes of one side marked, and the edges between the sides in another colour."""
        side = set(self.plain_actions(instance, actions))
        edges = graphs.edges_of(instance)[0].tolist()
        return moves.drawn(instance, sorted(side), [(a, b) for a, b in edges if (a in side) != (b in side)])


def _total(instance: TensorDict) -> Float32[Tensor, "batch 1 nodes"]:
    """Return the weight of each node's edges."""
    return instance["strength"].unsqueeze(1)
