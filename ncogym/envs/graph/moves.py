"""Sets of nodes said otherwise: in other orders, by distance; what is wrong with them; and their picture."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from ncogym.envs.graph import graphs
from ncogym.sketch import SIDE, Line, Mark, Sketch

ROUNDS = 4  # of neighbours of neighbours that distances look at; farther nodes are all alike
MOST_NODES, MOST_LINES = 1000, 4000  # of a picture that shows who is beside whom


def shuffled(
    actions: Int64[Tensor, "batch rollouts steps"], nodes: int, rng: torch.Generator
) -> Int64[Tensor, "batch rollouts steps"]:
    """Return actions in random orders, those that take no node, which are ``nodes``, at the end."""
    key = torch.rand(actions.shape, generator=rng, device=rng.device).to(actions.device)
    return actions.gather(-1, (key + (actions == nodes)).argsort(-1))


def by_distance(
    instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], rng: torch.Generator
) -> tuple[Int64[Tensor, "batch rollouts steps"], Int64[Tensor, "batch rollouts"]]:
    """Return actions with those nodes last that are nearest to a random node, and how many nodes each takes.

    Those that take no node follow behind. Nodes at one distance come in random order.
    """
    batch, rollouts, _ = actions.shape
    nodes = instance["degree"].shape[1]
    there = graphs.is_node(instance)
    draw = torch.rand(batch, rollouts, generator=rng, device=rng.device).to(actions.device)
    centre = (draw * there.sum(-1, keepdim=True)).long().clamp_max(nodes - 1)
    seen = F.one_hot(centre, nodes).float()
    near = seen
    for _ in range(ROUNDS):
        seen = ((seen + graphs.beside(instance, seen)) > 0).float()
        near = near + seen
    near = F.pad(near, (0, 1), value=ROUNDS + 2)
    key = near.gather(-1, actions) + torch.rand(actions.shape, generator=rng, device=rng.device).to(actions.device)
    key = torch.where(actions == nodes, ROUNDS + 4, key)
    return actions.gather(-1, key.argsort(-1)), (actions < nodes).sum(-1)


def broken(steps: list[int], count: int, none: int) -> str | None:
    """Say which action names no node, names one twice, or follows one that takes none; or None.

    Args:
        steps: actions.
        count: nodes of the graph.
        none: the action that takes none.
    """
    seen: dict[int, int] = {}
    over = None
    for step, node in enumerate(steps):
        if node == none:
            over = step if over is None else over
        elif not 0 <= node < count:
            return f"step {step} takes node {node}; nodes are 0 to {count - 1}, and {none} takes none"
        elif over is not None:
            return f"step {step} takes node {node} after step {over} took none"
        elif node in seen:
            return f"node {node} is taken at step {seen[node]} and again at step {step}"
        else:
            seen[node] = step
    return None


def broken_sets(instance: TensorDict, actions: Tensor) -> dict[str, Tensor | None]:
    """Return broken solutions of each kind for `ncogym.laws`, of a problem in which a node left out is no fault."""
    nodes = instance["degree"].shape[1]
    after = F.pad(actions, (1, 0), value=nodes)
    after[..., 1] = torch.where(actions[..., 0] == nodes, 0, actions[..., 0])  # an empty solution gets a node, too
    return {"first step left out": None, "going on after the end": after}


# ---------------------------------------------------------------------- picture


def drawn(instance: TensorDict, marked: list[int], lines: list[tuple[int, int]] | None = None) -> Sketch:
    """Return a graph with nodes marked; of a large one without its edges, on a spiral.

    Args:
        instance: batch size ``[1]``.
        marked: nodes that stand out.
        lines: edges to be drawn in another colour, such as those of a cut.
    """
    count = int(graphs.is_node(instance).sum())
    edges, _ = graphs.edges_of(instance)
    whole = count <= MOST_NODES and len(edges) <= MOST_LINES
    places = layout(count, edges) if whole else spiral(count)
    apart = {tuple(edge) for edge in lines or ()}
    ways = [Line([a, b], 1 if (a, b) in apart else 7, "solid") for a, b in edges.tolist()] if whole else []
    points = (places * SIDE).round().astype(int).tolist()
    note = f"{count} nodes, {len(edges)} edges, {len(marked)} nodes chosen"
    return Sketch(SIDE, SIDE, True, points, ways, [Mark(marked, 0, "disc")], [], note=note)


def layout(count: int, edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return places ``[nodes, 2]`` in the unit square at which edges are short (Fruchterman and Reingold, 1991)."""
    import networkx as nx

    whole = nx.Graph()
    whole.add_nodes_from(range(count))
    whole.add_edges_from(edges.tolist())
    found = nx.spring_layout(whole, seed=0, iterations=30)
    places = np.array([found[node] for node in range(count)]).reshape(-1, 2)
    low, high = places.min(0, initial=1.0), places.max(0, initial=-1.0)
    scaled: NDArray[np.float64] = (places - low) / np.maximum(high - low, 1e-9)
    return scaled


def spiral(count: int) -> NDArray[np.float64]:
    """Return places ``[nodes, 2]`` in the unit square, evenly on a disc (Vogel, 1979)."""
    number = np.arange(count)
    radius, angle = 0.5 * np.sqrt((number + 0.5) / max(count, 1)), number * np.pi * (3 - 5**0.5)
    return np.stack([0.5 + radius * np.cos(angle), 0.5 + radius * np.sin(angle)], axis=1)
