"""Sparse graphs of different sizes in one batch: how they lie in tensors, and who is beside whom.

A graph has its neighbours in one list, node after node, so that memory and the price of a step grow with the edges and
the largest degree, never with the square of the nodes. Instance keys, which all problems on graphs share:

    weight: float32 ``[nodes]``, of each node; 1 where a graph has no weights, 0 where there is no node.
    degree: int64 ``[nodes]``, neighbours of each; -1 is no node (at the end, in batches of different sizes).
    neighbours: int64 ``[arcs]``, those of node 0, then those of node 1, ...; each edge twice; -1 is none (at the end).
    arc_weight: float32 ``[arcs]``, of the edge of each, the same both ways; 1 where a graph has no weights.
    reach: int64 ``[largest degree]``, 0, 1, ...: as many places as a step looks at; its length alone is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from ncogym.distribution import stack
from ncogym.envs.formats.arrays import holds, real, refuse, whole
from ncogym.envs.formats.graphs import GraphFile, graph_fault, write_graph
from ncogym.errors import InstanceError
from ncogym.features import NodeFeatures, SparseEdges
from ncogym.problem import Arrays, Contents

KEYS = ("weight", "degree", "neighbours", "arc_weight", "reach")
TABLES = ("first", "count", "strength")  # that `with_tables` adds
PADDING = {"weight": 0.0, "degree": -1.0, "neighbours": -1.0, "arc_weight": 0.0, "reach": 0.0}


def graph(
    num_nodes: int,
    edges: NDArray[Any],
    weight: NDArray[Any] | None = None,
    edge_weight: NDArray[Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> TensorDict:
    """Return one graph, batch size ``[1]``.

    Args:
        num_nodes: how many.
        edges: int ``[edges, 2]``, no loops and no edge twice, in whatever order.
        weight: of each node; None is 1.
        edge_weight: of each edge; None is 1.
        dtype: of the weights.
    """
    edges = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    values = np.ones(len(edges)) if edge_weight is None else np.asarray(edge_weight, dtype=np.float64)
    arcs = np.concatenate([edges, edges[:, ::-1]])
    order = np.lexsort((arcs[:, 1], arcs[:, 0]))
    degree = np.bincount(arcs[:, 0], minlength=num_nodes).astype(np.int64)
    reach = max(1, int(degree.max(initial=0)))
    places = max(1, len(arcs))  # a list is never empty, so that it can be looked up
    neighbours, of_arc = np.full(places, -1, dtype=np.int64), np.zeros(places)
    neighbours[: len(arcs)], of_arc[: len(arcs)] = arcs[order, 1], np.concatenate([values, values])[order]
    nodes = np.ones(num_nodes) if weight is None else np.asarray(weight, dtype=np.float64)
    keys = {
        "weight": torch.from_numpy(nodes).to(dtype),
        "degree": torch.from_numpy(degree),
        "neighbours": torch.from_numpy(neighbours),
        "arc_weight": torch.from_numpy(of_arc).to(dtype),
        "reach": torch.arange(reach),
    }
    return TensorDict({key: value.unsqueeze(0) for key, value in keys.items()}, batch_size=[1])


def batch(graphs: Iterable[TensorDict]) -> TensorDict:
    """Join graphs, each of any batch size, to one batch."""
    return stack(list(graphs), PADDING)


def is_node(instance: TensorDict) -> Bool[Tensor, "batch nodes"]:
    """Return where there is a node."""
    return instance["degree"] >= 0


def with_tables(instance: TensorDict) -> TensorDict:
    """Return instances with what steps look up, of each node and, last, of no node.

    Returns:
        The instance keys, and: first: int64 ``[nodes + 1]``, where a node's neighbours begin; count: int64
        ``[nodes + 1]``, how many they are, 0 of no node; strength: float32 ``[nodes]``, the weight of each one's edges.
    """
    count = F.pad(instance["degree"].clamp_min(0), (0, 1))
    ones = torch.ones_like(instance["weight"], dtype=torch.float32).unsqueeze(1)
    strength = beside(instance, ones, weighted=True).squeeze(1)
    return instance.select(*KEYS).update({"first": count.cumsum(-1) - count, "count": count, "strength": strength})


def neighbours_of(
    instance: TensorDict, node: Int64[Tensor, "batch rollouts"]
) -> tuple[Int64[Tensor, "batch rollouts reach"], Float[Tensor, "batch rollouts reach"]]:
    """Return who is beside a node, and the weights of the edges between them; of no node, and behind the last, no node.

    Args:
        instance: of `with_tables`.
        node: from 0; the number of nodes is no node.
    """
    nodes, arcs = instance["degree"].shape[1], instance["neighbours"].shape[1]
    places = torch.arange(instance["reach"].shape[1], device=node.device)
    there = places < instance["count"].gather(1, node).unsqueeze(-1)
    at = (instance["first"].gather(1, node).unsqueeze(-1) + places).clamp_max(arcs - 1).flatten(1)
    found = instance["neighbours"].gather(1, at).view(there.shape)
    weight = instance["arc_weight"].gather(1, at).view(there.shape)
    return torch.where(there, found, nodes), torch.where(there, weight, 0.0)


def arc_sources(instance: TensorDict) -> Int64[Tensor, "batch arcs"]:
    """Return whose neighbour each entry of ``neighbours`` is; the number of nodes where there is none."""
    ends = instance["degree"].clamp_min(0).cumsum(-1)
    arcs = torch.arange(instance["neighbours"].shape[1], device=ends.device).expand(len(ends), -1).contiguous()
    return torch.searchsorted(ends, arcs, right=True)


def beside(
    instance: TensorDict, values: Float[Tensor, "batch rollouts nodes"], weighted: bool = False
) -> Float[Tensor, "batch rollouts nodes"]:
    """Return the sum of each node's neighbours' values, of the edges' weights times these if ``weighted``."""
    neighbours = instance["neighbours"]
    (rows, rollouts, nodes), arcs = values.shape, neighbours.shape[1]
    table = F.pad(values.mT, (0, 0, 0, 1)).flatten(0, 1)  # a row a node, and one of 0 for no node
    row = torch.arange(rows, device=values.device).unsqueeze(-1)
    at = torch.where(neighbours < 0, nodes, neighbours) + row * (nodes + 1)
    count = F.pad(instance["degree"].clamp_min(0), (0, 1))
    begin = count.cumsum(-1) - count + row * arcs
    weight = instance["arc_weight"].to(values.dtype).flatten() if weighted else None
    # a bag of rows each: on a CPU twenty times as fast as gathering [batch, rollouts, arcs]
    found = F.embedding_bag(at.flatten(), table, begin.flatten(), mode="sum", per_sample_weights=weight)
    return found.view(rows, nodes + 1, rollouts)[:, :-1].mT


def edges_of(instance: TensorDict) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the edges ``[edges, 2]`` of one instance, the smaller end first, and their weights."""
    neighbours = instance["neighbours"][0].cpu().numpy()
    sources = arc_sources(instance)[0].cpu().numpy()
    once = (neighbours >= 0) & (sources < neighbours)
    weights = instance["arc_weight"][0].double().cpu().numpy()
    return np.stack([sources[once], neighbours[once]], axis=1), weights[once]


def chosen(
    instance: TensorDict, actions: Int64[Tensor, "batch rollouts steps"]
) -> Bool[Tensor, "batch rollouts nodes"]:
    """Return which nodes occur among actions; what is no node is passed over."""
    nodes = instance["degree"].shape[1]
    inside = torch.where((actions >= 0) & (actions < nodes), actions, nodes)
    taken = torch.zeros(*actions.shape[:2], nodes + 1, dtype=torch.bool, device=actions.device)
    return taken.scatter(-1, inside, True)[..., :-1]


def graph_features(instance: TensorDict) -> tuple[NodeFeatures, SparseEdges]:
    """Return three numbers of each node, free of a graph's size and of the weights' unit, and who is beside whom.

    A node's weight by the largest; its degree by the mean; the logarithm of its degree over the mean. The last node is
    no node, of kind 1: what an action that takes none stands for.
    """
    there, degree = is_node(instance), instance["degree"].clamp_min(0).float()
    count = there.sum(-1, keepdim=True).clamp_min(1)
    mean = (degree.sum(-1, keepdim=True) / count).clamp_min(1e-6)
    weight = instance["weight"].float()
    weight = weight / weight.abs().amax(-1, keepdim=True).clamp_min(1e-12)
    values = torch.stack([weight, degree / mean, ((degree + 1) / (mean + 1)).log()], dim=-1)
    values = values.masked_fill(~there.unsqueeze(-1), 0.0)
    kinds = F.pad(torch.zeros(degree.shape[1], dtype=torch.int64, device=degree.device), (0, 1), value=1)
    nodes = NodeFeatures(F.pad(values, (0, 0, 0, 1)), kinds, F.pad(there, (0, 1), value=True))
    neighbours = instance["neighbours"]
    ends = torch.stack([neighbours, arc_sources(instance)], dim=-1).masked_fill((neighbours < 0).unsqueeze(-1), -1)
    largest = instance["arc_weight"].float().abs().amax(-1, keepdim=True).clamp_min(1e-12)
    return nodes, SparseEdges(ends, (instance["arc_weight"].float() / largest).unsqueeze(-1))


def no_roles(mask: Bool[Tensor, "batch rollouts actions"]) -> Int64[Tensor, "batch rollouts 0"]:
    """Return that no node plays a role at a step."""
    return torch.empty(*mask.shape[:2], 0, dtype=torch.int64, device=mask.device)


def weights_of(instance: TensorDict) -> Float32[Tensor, "batch nodes_and_none"]:
    """Return the nodes' weights, and 0 of no node."""
    return F.pad(instance["weight"], (0, 1)).float()


# ---------------------------------------------------------------------- files, solvers


def from_arrays(arrays: Arrays) -> Contents | None:
    """Return the instances in the arrays of the instance keys, or None where they are others.

    Raises:
        InstanceError: one is no graph.
    """
    axes = {"weight": "batch nodes", "degree": "batch nodes", "neighbours": "batch arcs", "arc_weight": "batch arcs"}
    if not holds(arrays, {**axes, "reach": "batch reach"}, {}):
        return None
    keys = {name: whole(arrays, name) for name in ("degree", "neighbours", "reach")}
    keys |= {name: real(arrays, name) for name in ("weight", "arc_weight")}
    faults = (
        graph_fault(int((degree >= 0).sum()), degree, neighbours, weight)
        for degree, neighbours, weight in zip(*(keys[name].numpy() for name in list(axes)[1:]), strict=True)
    )
    refuse(faults)
    if keys["reach"].shape[1] < keys["degree"].max():
        raise InstanceError("array reach is shorter than the largest degree")
    instances = TensorDict({name: keys[name] for name in KEYS}, batch_size=[len(keys["degree"])])
    return Contents(instances)


def write(instance: TensorDict, path: str | Path) -> None:
    """Write an instance of batch size ``[1]`` to a file that its problem reads; weights of 1 alone are left out."""
    edges, edge_weight = edges_of(instance)
    weight = instance["weight"][0][is_node(instance)[0]].double().numpy()
    told = GraphFile(
        len(weight), edges, None if (weight == 1).all() else weight, None if (edge_weight == 1).all() else edge_weight
    )
    write_graph(path, told)


def shown(instance: TensorDict) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the fields of a `ncogym.models.Graph`: nodes, edges, and the weights of both where not all are 1."""
    source, target = arc_sources(instance), instance["neighbours"]
    once = (target >= 0) & (source < target)
    order = (~once).long().argsort(dim=-1, stable=True)[:, : max(1, int(once.sum(-1).max()))]
    there = once.gather(1, order)
    edges = torch.stack([each.gather(1, order) for each in (source, target)], dim=-1)
    edges = edges.masked_fill(~there.unsqueeze(-1), -1)
    nodes = is_node(instance)
    weight = instance["weight"].double()
    of_edges = instance["arc_weight"].double().gather(1, order).masked_fill(~there, 0.0)
    plain = bool((weight[nodes] == 1).all())
    alike = bool((of_edges[there] == 1).all())
    return nodes.sum(-1), edges, None if plain else weight, None if alike else of_edges
