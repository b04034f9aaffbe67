"""The graph policy: graph attention over sparse edges, with a decoder for what the environment shows.

One encoder, a stack of GATv2 layers on a list of edges, serves three kinds of environment:
    - operations of a shop: the disjunctive graph (the order within a job, and all pairs on a machine), then a small
      transformer over the candidate actions of each step, as in SLIM;
    - nodes with edge features: each node's nearest neighbours, then the pointer decoder of `AttentionPolicy`, so that
      the encoder's attention grows with the nodes and not with their square;
    - nodes with sparse edges: these, then the same decoder, so that memory grows with the edges.

References:
    Brody, Alon, Yahav (2022), How Attentive are Graph Attention Networks?, ICLR (GATv2).
    Corsini, Porrello, Calderara, Dell'Amico (2024), Self-Labeling the Job Shop Scheduling Problem, NeurIPS (SLIM).

Differs from SLIM in:
    - each layer has a residual connection, a normalisation before it and a feed-forward network behind it;
    - edges carry their kind, so that attention tells a predecessor from an operation on the same machine;
    - attention over the candidates sees the operations, there context numbers alone, and leaves out finished jobs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from ncogym.errors import ArgumentError, SolverNotInstalled, UnsupportedFeatures
from ncogym.features import (
    EdgeFeatures,
    FeatureDims,
    InstanceFeatures,
    NodeFeatures,
    OperationGraph,
    Pointer,
    SparseEdges,
    StepFeatures,
)
from ncogym.policies.attention import AttentionPolicy, residual
from ncogym.policies.attention import Embedded as EmbeddedNodes
from ncogym.policies.attention import Encoded as EncodedNodes
from ncogym.policies.base import Policy
from ncogym.policies.layers import attention, of_member

KINDS = 4  # of edges between operations: from the one before in the job, from the one after, same machine, itself
FEW = 24  # candidates up to which plain products are the faster attention on a CPU


class Edges(NamedTuple):
    """The edges of a batch of graphs whose nodes are numbered through.

    Attributes:
        ends: int64 ``[2, edges]``, from (row 0) and to (row 1), as torch_geometric has them.
        values: float32 ``[edges, features]``.
    """

    ends: Tensor
    values: Tensor


class EncodedOperations(NamedTuple):
    """An instance as the decoder over candidates sees it.

    Attributes:
        operations: ``[batch, operations + 1, dim]``: what an operation adds to an action; the last row, "none", is 0.
        context: ``[batch, dim]``, added to every candidate before they are compared, or None.
        inner: ``[batch, dim, hidden]``: with the next three, a residual layer before the score,
            ``x + relu(x inner + inner_bias) outer + outer_bias``; all four or None.
        inner_bias: ``[batch, 1, hidden]``.
        outer: ``[batch, hidden, dim]``.
        outer_bias: ``[batch, 1, dim]``.
        member: int64 ``[batch, 1]``, of a population, whose weights the steps read; ``[batch, 0]`` where all members
            are there in turn; None where steps read no weights of members.
    """

    operations: Tensor
    context: Tensor | None = None
    inner: Tensor | None = None
    inner_bias: Tensor | None = None
    outer: Tensor | None = None
    outer_bias: Tensor | None = None
    member: Tensor | None = None


# ---------------------------------------------------------------------- from features to edges


def disjunctive_graph(
    jobs: Int64[Tensor, "batch operations"], machines: Int64[Tensor, "batch operations"]
) -> tuple[Int64[Tensor, " present"], Edges]:
    """Connect the operations that are there: both ways along each job, all pairs on each machine, each with itself.

    Memory grows with the edges, ``jobs^2 * machines``, and not with the square of the operations.

    Args:
        jobs: of each operation; those of a job lie side by side in their order.
        machines: of each operation; -1 is no operation.

    Returns:
        The places of the operations in the flattened batch, by which the edges number them, and the edges with their
        kind in one-hot form.
    """
    present = (machines.flatten() >= 0).nonzero().squeeze(-1)
    row = present // max(jobs.shape[1], 1)
    job, machine = ((row * (ids.max() + 1) + ids.flatten()[present]) for ids in (jobs, machines))
    number = torch.arange(len(present), device=present.device)
    before = number[:-1][job[1:] == job[:-1]]
    # operations sorted by machine: each is the target of as many edges as its machine has operations
    order = machine.argsort(stable=True)
    size = machine[order].unique_consecutive(return_counts=True)[1]
    begin = (size.cumsum(0) - size).repeat_interleave(size)
    degree = size.repeat_interleave(size)
    target = number.repeat_interleave(degree)
    place = torch.arange(len(target), device=target.device) - (degree.cumsum(0) - degree).repeat_interleave(degree)
    source, target = order[begin[target] + place], order[target]
    index = torch.stack([torch.cat([before, before + 1, source]), torch.cat([before + 1, before, target])])
    kind = torch.cat([torch.zeros_like(before), torch.ones_like(before), 2 + (source == target).long()])
    return present, Edges(index, F.one_hot(kind, KINDS).float())


def nearest_neighbours(
    moves: Float[Tensor, "batch nodes nodes features"], kinds: Int64[Tensor, " nodes"] | None, neighbours: int
) -> Edges:
    """Connect each node with its nearest neighbours and itself, and nodes of a special kind (a depot) with all.

    Who is among the nearest of another hears it too, so that a lonely node is heard; edges are at most twice
    ``neighbours`` times the nodes, beside those of special nodes.

    Args:
        moves: numbers of the move from a node to another; the first is its length.
        kinds: of each node; 0 is ordinary. None: all are.
        neighbours: ordinary nodes nearest to each, those to which its moves are shortest.

    Returns:
        Edges with the numbers of the hearing node's move to the heard one, and of the move back.
    """
    batch, nodes = moves.shape[:2]
    apart = torch.eye(nodes, dtype=torch.bool, device=moves.device)
    if kinds is not None:
        apart = apart | (kinds > 0) | (kinds > 0).unsqueeze(-1)
    nearest = moves[..., 0].masked_fill(apart, math.inf).topk(min(neighbours, nodes), largest=False).indices
    hears = apart.repeat(batch, 1, 1).scatter_(-1, nearest, True)
    row, target, source = (hears | hears.mT).nonzero().unbind(-1)
    index = torch.stack([row * nodes + source, row * nodes + target])
    return Edges(index, torch.cat([moves[row, target, source], moves[row, source, target]], dim=-1))


def sparse_edges(edges: SparseEdges, nodes: int) -> Edges:
    """Number the edges of a batch through; those that are not there join one more node, the last, with itself."""
    batch = edges.ends.shape[0]
    offset = torch.arange(batch, device=edges.ends.device).view(-1, 1, 1) * nodes
    ends = torch.where(edges.ends < 0, batch * nodes, edges.ends + offset)
    return Edges(ends.flatten(0, 1).T, edges.values.flatten(0, 1))


# ---------------------------------------------------------------------- layers


class GraphLayer(nn.Module):
    r"""GATv2 attention over edges and a feed-forward network, each behind a normalisation and beside a residual.

    .. math:: h' = h + \mathrm{GATv2}(N(h)), \quad h'' = h' + F(N(h'))

    Raises:
        SolverNotInstalled: torch-geometric is missing.
    """

    def __init__(self, dim: int, edge: int, num_heads: int, feedforward: int) -> None:
        super().__init__()
        try:
            from torch_geometric.nn import GATv2Conv
        except ImportError as error:
            line = f"GraphPolicy needs torch-geometric ({error}); pip install 'ncogym[graph]'"
            raise SolverNotInstalled(line) from error
        self.conv = GATv2Conv(dim, dim // num_heads, num_heads, edge_dim=edge, add_self_loops=False)
        self.feed = nn.Sequential(nn.Linear(dim, feedforward), nn.ReLU(), nn.Linear(feedforward, dim))
        # over each node's own numbers: a graph's size and the rest of the batch must not matter
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])

    def forward(self, x: Float[Tensor, "nodes dim"], edges: Edges) -> Float[Tensor, "nodes dim"]:
        x = x + self.conv(self.norms[0](x), edges.ends, edges.values)
        return x + self.feed(self.norms[1](x))


class GraphEncoder(nn.Module):
    """A stack of graph layers and a last normalisation, on the nodes of a batch of graphs in one list."""

    def __init__(self, dim: int, edge: int, num_layers: int, num_heads: int, feedforward: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GraphLayer(dim, edge, num_heads, feedforward) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "nodes dim"], edges: Edges) -> Float[Tensor, "nodes dim"]:
        for layer in self.layers:
            x = layer(x, edges)
        encoded: Tensor = self.norm(x)
        return encoded


def _read_few(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention as plain products: on a CPU twice as fast as the fused kernel at 10 keys."""
    hidden = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -math.inf)
    scores = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).float() + hidden
    # softmax over a short last axis costs more than both products do; divided out after the second, it is cheap
    weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    return (weights.to(v.dtype) @ v) / weights.sum(-1, keepdim=True).to(v.dtype)


class CandidateLayer(nn.Module):
    """Pre-norm transformer layer over the candidate actions of each query; only allowed ones are attended to."""

    def __init__(self, dim: int, num_heads: int, feedforward: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.project, self.combine = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.feed = nn.Sequential(nn.Linear(dim, feedforward), nn.ReLU(), nn.Linear(feedforward, dim))
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])

    def forward(
        self,
        x: Float[Tensor, "batch queries actions dim"],
        mask: Bool[Tensor, "batch queries actions"],
        plain: bool = False,
    ) -> Float[Tensor, "batch queries actions dim"]:
        x, mask, batch = x.flatten(0, 1), mask.flatten(0, 1), x.shape[0]
        queries, actions, dim = x.shape
        qkv = self.project(self.norms[0](x)).view(queries, actions, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        read = _read_few if x.device.type == "cpu" and (plain or actions <= FEW) else attention
        seen = read(q, k, v, mask[:, None, None].expand(-1, -1, actions, -1))
        x = x + self.combine(seen.transpose(1, 2).reshape(queries, actions, dim))
        return (x + self.feed(self.norms[1](x))).unflatten(0, (batch, -1))


# ---------------------------------------------------------------------- the two kinds of environment


class OperationNetwork(nn.Module):
    """Graph encoder over operations, and a decoder that compares the operations which the actions stand for now."""

    reads = (OperationGraph,)
    decoder = at_steps = ("candidates", "scalars", "compare", "norm", "score")

    def __init__(self, dims: FeatureDims, dim: int, num_layers: int, num_heads: int, feedforward: int) -> None:
        super().__init__()
        self.steered = dim
        self.embed = nn.Linear(dims.operation, dim)
        self.encoder = GraphEncoder(dim, KINDS, num_layers, num_heads, feedforward)
        self.project = nn.Linear(dims.operation + dim, dim)
        self.candidates = nn.Linear(dims.candidates, dim, bias=False) if dims.candidates else None
        self.scalars = nn.Linear(dims.scalars, dim, bias=False) if dims.scalars else None
        self.compare = CandidateLayer(dim, num_heads, 2 * dim)
        self.norm = nn.LayerNorm(dim)
        self.score = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1, bias=False))

    def embeddings(self, features: InstanceFeatures) -> EncodedOperations:
        """Encode the operations; those that are not there are 0."""
        graph = next(feature for feature in features if isinstance(feature, OperationGraph))
        batch, operations, _ = graph.values.shape
        present, edges = disjunctive_graph(graph.jobs, graph.machines)
        values = graph.values.flatten(0, 1)[present]
        x = self.project(torch.cat([values, self.encoder(self.embed(values), edges)], dim=-1))
        table = x.new_zeros(batch * operations, x.shape[-1]).index_copy(0, present, x)
        return EncodedOperations(F.pad(table.view(batch, operations, -1), (0, 0, 0, 1)))

    def tables(self, embedded: EncodedOperations) -> EncodedOperations:
        """Return what the encoder returned: nothing of the decoder's is known before a step."""
        return embedded

    def logits(self, encoded: EncodedOperations, step: StepFeatures) -> Float[Tensor, "batch queries actions"]:
        """Score each action by its operation, its numbers, and those of the other allowed actions."""
        compared = self._compared(encoded, step)
        if encoded.inner is not None:
            compared = residual(compared.flatten(1, 2), encoded)
        scores = of_member(self.score, encoded.member, compared).float()
        return scores.view(step.action_mask.shape).masked_fill(~step.action_mask, -math.inf)

    def steer(self, encoded: EncodedOperations, vectors: Float[Tensor, "batch steered"]) -> EncodedOperations:
        """Add the vectors to every candidate."""
        context = vectors.to(encoded.operations.dtype)
        return encoded._replace(context=context if encoded.context is None else encoded.context + context)

    def summary(self, encoded: EncodedOperations) -> Float[Tensor, "batch width"]:
        """Return the largest of each number over the operations that are there."""
        absent = (encoded.operations == 0).all(-1, keepdim=True)
        return encoded.operations.masked_fill(absent, -math.inf).amax(1)

    def reading(self, encoded: EncodedOperations, step: StepFeatures) -> Float[Tensor, "batch queries width"]:
        """Return the largest of each number over the candidates that are open, as they are compared."""
        compared = self._compared(encoded, step)
        return compared.masked_fill(~step.action_mask.unsqueeze(-1), -math.inf).amax(2)

    def _compared(self, encoded: EncodedOperations, step: StepFeatures) -> Float[Tensor, "batch queries actions dim"]:
        """Return the candidates of each state as they are scored."""
        table, operation = encoded.operations, _shown("candidate_nodes", step.candidate_nodes)
        rows = table.shape[1]
        offset = torch.arange(table.shape[0], device=table.device).view(-1, 1, 1) * rows
        # embedding rather than gather: fifteen times faster on a CPU
        x = F.embedding(torch.where(operation < 0, rows - 1, operation) + offset, table.flatten(0, 1))
        if self.candidates is not None:
            x = x + of_member(self.candidates, encoded.member, _shown("candidates", step.candidates))
        if self.scalars is not None:
            x = x + of_member(self.scalars, encoded.member, _shown("scalars", step.scalars)).unsqueeze(2)
        if encoded.context is not None:
            x = x + encoded.context[:, None, None]
        # vmap knows no rule for the fused kernel on CPUs
        compared = of_member(self.compare, encoded.member, x, step.action_mask, encoded.member is not None)
        return of_member(self.norm, encoded.member, compared)


class NodeNetwork(AttentionPolicy):
    """The attention model with graph layers over nearest neighbours in the place of its dense ones."""

    reads = (NodeFeatures, EdgeFeatures)

    def __init__(
        self, dims: FeatureDims, dim: int, num_layers: int, num_heads: int, feedforward: int, neighbours: int
    ) -> None:
        super().__init__(dims, dim=dim, num_layers=0, num_heads=num_heads, feedforward=feedforward, norm="none")
        self.encoder = GraphEncoder(dim, 2 * dims.edge, num_layers, num_heads, feedforward)
        self.neighbours = neighbours

    def encode_nodes(
        self, x: Float[Tensor, "batch nodes dim"], features: InstanceFeatures
    ) -> Float[Tensor, "batch nodes dim"]:
        kinds = next(feature.kinds for feature in features if isinstance(feature, NodeFeatures))
        moves = next(feature.values for feature in features if isinstance(feature, EdgeFeatures))
        encoded: Tensor = self.encoder(x.flatten(0, 1), nearest_neighbours(moves, kinds, self.neighbours))
        return encoded.view(x.shape)


class SparseNetwork(AttentionPolicy):
    """The attention model with graph layers over the edges that an environment shows in the place of its dense ones."""

    reads = (NodeFeatures, SparseEdges)

    def __init__(self, dims: FeatureDims, dim: int, num_layers: int, num_heads: int, feedforward: int) -> None:
        alone = replace(dims, sparse=0)  # the attention model reads none, and need not
        super().__init__(alone, dim=dim, num_layers=0, num_heads=num_heads, feedforward=feedforward, norm="none")
        self.encoder = GraphEncoder(dim, dims.sparse, num_layers, num_heads, feedforward)

    def encode_nodes(
        self, x: Float[Tensor, "batch nodes dim"], features: InstanceFeatures
    ) -> Float[Tensor, "batch nodes dim"]:
        edges = next(feature for feature in features if isinstance(feature, SparseEdges))
        present = next(feature.present for feature in features if isinstance(feature, NodeFeatures))
        flat = F.pad(x.flatten(0, 1), (0, 0, 0, 1))
        encoded = self.encoder(flat, sparse_edges(edges, x.shape[1]))[:-1].view(x.shape)
        return encoded if present is None else encoded * present.unsqueeze(-1)  # 0 is what is not there

    def summary(self, encoded: EncodedNodes) -> Float[Tensor, "batch width"]:
        """Return the largest of each number over the nodes that are there."""
        absent = (encoded.logit_keys == 0).all(-1, keepdim=True)
        return encoded.logit_keys.masked_fill(absent, -math.inf).amax(1)


class GraphPolicy(Policy):
    """Graph attention over the disjunctive graph of a shop, the nearest neighbours of nodes, or edges that are shown.

    Args:
        dims: widths of the environment's features; they decide which of the three it is.
        dim: embedding width.
        num_layers: graph layers of the encoder.
        num_heads: heads of the encoder and of the decoder; divides ``dim``.
        feedforward: hidden width of the encoder's feed-forward networks; the decoder's is twice ``dim``.
        neighbours: nearest neighbours that each node is connected with; operations have no use for it.

    Raises:
        UnsupportedFeatures: the environment shows neither operations nor nodes with edges, or more than would be read.
        SolverNotInstalled: torch-geometric is missing.
    """

    def __init__(
        self,
        dims: FeatureDims,
        *,
        dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        feedforward: int = 256,
        neighbours: int = 10,
    ) -> None:
        super().__init__()
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ArgumentError(f"num_heads: {num_heads} is not allowed; it must divide dim, which is {dim}")
        for name, value in (("num_layers", num_layers), ("feedforward", feedforward), ("neighbours", neighbours)):
            if value < 1:
                raise ArgumentError(f"{name}: {value} is not allowed; it must be at least 1")
        self.dims, self.width = dims, dim
        self._arguments = {
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "feedforward": feedforward,
            "neighbours": neighbours,
        }
        self.network: OperationNetwork | NodeNetwork | SparseNetwork
        if dims.operation:
            if dims.node or dims.edge:
                raise UnsupportedFeatures("GraphPolicy cannot read NodeFeatures or EdgeFeatures beside OperationGraph")
            if dims.roles:
                raise UnsupportedFeatures(
                    "GraphPolicy cannot read roles of operations; candidate_nodes names operations"
                )
            self.network = OperationNetwork(dims, dim, num_layers, num_heads, feedforward)
            self.numbers_per_action = 12 * dim  # projections, attention and feed-forward of each candidate
            self.numbers_per_pair = 6 * dim  # of two operations on a machine: both ends, their sum, what is sent
        elif dims.node and dims.sparse:
            if dims.edge:
                raise UnsupportedFeatures("GraphPolicy cannot read EdgeFeatures beside SparseEdges")
            self.network = SparseNetwork(dims, dim, num_layers, num_heads, feedforward)
            self.numbers_per_action = self.network.numbers_per_action
            self.numbers_per_pair, self.numbers_per_edge = 0, 8 * dim
        elif dims.node and dims.edge:
            if not dims.roles:
                raise UnsupportedFeatures(
                    "GraphPolicy cannot read all EdgeFeatures where no node plays a role at a step: it would see those "
                    "of nearest neighbours alone"
                )
            self.network = NodeNetwork(dims, dim, num_layers, num_heads, feedforward, neighbours)
        else:
            raise UnsupportedFeatures(
                "GraphPolicy cannot read an environment with neither OperationGraph nor NodeFeatures and edges of them"
            )
        self.decoder, self.at_steps = (
            tuple(f"network.{name}" for name in names) for names in (self.network.decoder, self.network.at_steps)
        )
        self.steered = self.network.steered

    def arguments(self) -> dict[str, Any]:
        return dict(self._arguments)

    def encoding_numbers(self, actions: int, steps: int) -> int:
        if self.dims.operation:  # a step for each operation, and on its machine one of each job (an action)
            return self.numbers_per_node * steps + self.numbers_per_pair * steps * actions
        return super().encoding_numbers(actions, steps)

    def encode(self, features: InstanceFeatures) -> EncodedOperations | EncodedNodes:
        return self.tables(self.embeddings(features))

    def embeddings(self, features: InstanceFeatures) -> EncodedOperations | EmbeddedNodes:
        shown, reads = sorted(type(f).__name__ for f in features), sorted(kind.__name__ for kind in self.network.reads)
        if shown != reads:
            raise UnsupportedFeatures(
                f"GraphPolicy cannot read {' and '.join(shown)}; here it reads {' and '.join(reads)}"
            )
        return self.network.embeddings(features)

    def tables(self, embedded: Any) -> EncodedOperations | EncodedNodes:
        return self.network.tables(embedded)

    def steer(self, encoded: Any, vectors: Float[Tensor, "batch steered"]) -> EncodedOperations | EncodedNodes:
        return self.network.steer(encoded, vectors)

    def logits(self, encoded: Any, step: StepFeatures) -> Float[Tensor, "batch queries actions"]:
        return self.network.logits(encoded, step)

    def summary(self, encoded: Any) -> Float[Tensor, "batch width"]:
        return self.network.summary(encoded)

    def reading(self, encoded: Any, step: StepFeatures) -> Float[Tensor, "batch queries width"]:
        return self.network.reading(encoded, step)

    def as_pointer(self, encoded: Any) -> Pointer | None:
        return None if isinstance(self.network, OperationNetwork) else self.network.as_pointer(encoded)


def _shown(name: str, value: Tensor | None) -> Tensor:
    if value is None:
        raise UnsupportedFeatures(f"GraphPolicy was built for {name} and this step shows none")
    return value
