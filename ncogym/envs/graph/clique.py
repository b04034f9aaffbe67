"""The maximum clique: nodes of the largest total weight, each two of them joined by an edge.

An action is a node that joins the clique; nodes that are not beside all of it are then decided, too: they stay out.
The number of nodes is the action that takes none, the only one once all are decided. Objective: the weight of the
clique, to be maximised. The clique of a finished rollout is maximal; a solution may be any clique.

References:
    Zhang et al. (2023), Let the Flows Tell: Solving Graph Combinatorial Problems with GFlowNets, NeurIPS (the process).
"""

from __future__ import annotations

import torch
from jaxtyping import Int64, Shaped
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from ncogym.envs.graph import graphs, moves
from ncogym.envs.graph.independent_set import MIS, MISState
from ncogym.features import StepFeatures
from ncogym.models import Clique
from ncogym.problem import Violation, as_int64


class MaxClique(MIS):
    """Maximum clique, weighted or not; instance and state keys are those of `MIS`."""

    name = "clique"
    suffixes = (".clq",)

    def advance(self, state: MISState, action: Int64[Tensor, "batch rollouts"]) -> MISState:
        beside, _ = graphs.neighbours_of(state.instance, action)
        near = torch.zeros_like(state.action_mask).scatter(-1, beside, True)
        return self._state(state.instance, state.num_taken + (~state.done).long(), state.action_mask & near)

    def violations(self, instance: TensorDict, actions: Shaped[Tensor, "batch rollouts steps"]) -> list[Violation]:
        found = []
        for row, rollouts in enumerate(as_int64(actions).tolist()):
            count = int(graphs.is_node(instance[row : row + 1]).sum())
            joined = {tuple(edge) for edge in graphs.edges_of(instance[row : row + 1])[0].tolist()}
            for rollout, steps in enumerate(rollouts):
                reason = moves.broken(steps, count, self.instance_size(instance)) or _apart(steps, count, joined)
                if reason:
                    found.append(Violation(row, rollout, reason))
        return found

    def step_features(self, state: MISState) -> StepFeatures:
        """Return numbers of each undecided node, 0 for others.

        1; its undecided neighbours, by the mean degree; the share of undecided nodes that they are; the share of the
        undecided weight that they and itself have. Scalars: those of `MIS`.
        """
        instance, free = state.instance, state.action_mask[..., :-1]
        count = graphs.is_node(instance).sum(-1).clamp_min(1)[:, None, None]
        mean = instance["count"].sum(-1)[:, None, None] / count
        left, weight = graphs.beside(instance, free.float()), instance["weight"].float().unsqueeze(1)
        others = free.sum(-1, keepdim=True).clamp_min(1)
        around = (graphs.beside(instance, free * weight) + weight) / (free * weight).sum(-1, keepdim=True).clamp_min(
            1e-12
        )
        numbers = torch.stack([torch.ones_like(left), left / mean.clamp_min(1e-6), left / others, around], dim=-1)
        candidates = F.pad(numbers * free.unsqueeze(-1), (0, 0, 0, 1))
        share = torch.stack([free.sum(-1), state.num_taken], dim=-1) / count
        return StepFeatures(graphs.no_roles(state.action_mask), state.action_mask, share.float(), candidates)

    def model(self, instance: TensorDict) -> Clique:
        return Clique(*graphs.shown(instance))


def _apart(steps: list[int], count: int, joined: set[tuple[int, ...]]) -> str | None:
    """Say which two nodes of a clique no edge joins, or None."""
    taken = sorted(node for node in set(steps) if node < count)
    for place, node in enumerate(taken):
        for other in taken[place + 1 :]:
            if (node, other) not in joined:
                return f"nodes {node} and {other} are both in the clique, and no edge joins them"
    return None
