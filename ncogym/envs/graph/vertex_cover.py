"""The minimum vertex cover: nodes of the least total weight, one end at least of every edge among them.

An action is a node that joins the cover; nodes without an uncovered edge are decided: they stay out. The number of
nodes is the action that takes none, the only one once all edges are covered. Objective: the weight of the cover, to be
minimised. A solution may be any cover.
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
from ncogym.models import VertexCover
from ncogym.problem import Violation, as_int64


class MVCState(NamedTuple):
    """State of each rollout; see `MVC`."""

    instance: TensorDict
    taken: Tensor
    uncovered: Tensor
    action_mask: Tensor
    done: Tensor


class MVC(GraphProblem):
    """Minimum vertex cover, weighted or not.

    Instance keys are those of `ncogym.envs.graph.graphs`; weights of edges are not read.

    State keys, each ``[batch, rollouts, ...]``:
        taken: bool ``[nodes + 1]``, True = in the cover.
        uncovered: int64 ``[nodes + 1]``, edges of each node that nothing covers yet.
        action_mask: bool ``[nodes + 1]``, True = allowed: nodes with an uncovered edge, or, without any, to take none.
        done: bool, True = every edge is covered.
    """

    name = "mvc"
    sense = "min"
    state_type = MVCState
    any_order = False

    # ------------------------------------------------------------------ dynamics

    def start(self, instance: TensorDict, rollouts: int = 1) -> MVCState:
        instance = graphs.with_tables(instance)
        uncovered = instance["count"].unsqueeze(1).repeat(1, rollouts, 1)
        return self._state(instance, torch.zeros_like(uncovered, dtype=torch.bool), uncovered)

    def advance(self, state: MVCState, action: Int64[Tensor, "batch rollouts"]) -> MVCState:
        beside, _ = graphs.neighbours_of(state.instance, action)
        node = action.unsqueeze(-1)
        uncovered = state.uncovered.scatter_add(-1, beside, -torch.ones_like(beside)).clamp_min(0)
        taken = state.taken.scatter(-1, node, node < state.taken.shape[-1] - 1)
        return self._state(state.instance, taken, uncovered.scatter(-1, node, 0))

    def _state(self, instance: TensorDict, taken: Tensor, uncovered: Tensor) -> MVCState:
        is_open = uncovered[..., :-1] > 0
        done = ~is_open.any(-1)
        return MVCState(instance, taken, uncovered, torch.cat([is_open, done.unsqueeze(-1)], dim=-1), done)

    def reward(
        self, state: MVCState, action: Int64[Tensor, "batch rollouts"], successor: MVCState
    ) -> Float32[Tensor, "batch rollouts"]:
        return -graphs.weights_of(state.instance).gather(1, action)

    def log_parents(self, state: MVCState) -> Float32[Tensor, "batch rollouts"]:
        """Return the logarithm of how many nodes of the cover have a neighbour outside of it: only they can be last."""
        outside = graphs.beside(state.instance, (~state.taken[..., :-1]).float()) > 0
        return (outside & state.taken[..., :-1]).sum(-1).clamp_min(1).float().log()

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
            edges = graphs.edges_of(instance[row : row + 1])[0].tolist()
            for rollout, steps in enumerate(rollouts):
                taken = set(steps)
                bare = next((edge for edge in edges if taken.isdisjoint(edge)), None)
                reason = moves.broken(steps, count, self.instance_size(instance))
                if reason is None and bare is not None:
                    reason = f"the edge of nodes {bare[0]} and {bare[1]} is not covered"
                if reason:
                    found.append(Violation(row, rollout, reason))
        return found

    def broken_solutions(self, instance: TensorDict, actions: Tensor) -> dict[str, Tensor | None]:
        """Return broken solutions of each kind for `ncogym.laws`; the first node may not be needed in the end."""
        kinds = moves.broken_sets(instance, actions)
        if bool((instance["degree"] > 0).any(-1).all()):
            kinds["nothing taken"] = torch.full_like(actions, self.instance_size(instance))
        return kinds

    # ------------------------------------------------------------------ features

    @property
    def feature_dims(self) -> FeatureDims:
        return FeatureDims(node=3, kinds=2, sparse=1, scalars=2, candidates=3)

    def step_features(self, state: MVCState) -> StepFeatures:
        """Return numbers of each node with an uncovered edge, 0 for others.

        1; its uncovered edges, by the mean degree; these by its weight, over the largest such ratio. Scalars: the share
        of edges that are uncovered, and that of nodes taken.
        """
        instance, is_open = state.instance, state.action_mask[..., :-1]
        count = graphs.is_node(instance).sum(-1).clamp_min(1)[:, None]
        total = instance["count"].sum(-1)[:, None].clamp_min(1)
        left = state.uncovered[..., :-1].float()
        ratio = left / instance["weight"].float().unsqueeze(1).clamp_min(1e-12)
        best = (ratio * is_open).amax(-1, keepdim=True).clamp_min(1e-12)
        mean = (total / count).clamp_min(1e-6).unsqueeze(-1)
        numbers = torch.stack([torch.ones_like(left), left / mean, ratio / best], dim=-1) * is_open.unsqueeze(-1)
        share = torch.stack([left.sum(-1) / total, state.taken.sum(-1) / count], dim=-1)
        return StepFeatures(
            graphs.no_roles(state.action_mask), state.action_mask, share.float(), F.pad(numbers, (0, 0, 0, 1))
        )

    def model(self, instance: TensorDict) -> VertexCover:
        return VertexCover(*graphs.shown(instance))
