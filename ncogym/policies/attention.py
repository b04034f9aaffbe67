"""The attention model: a transformer encoder and a single-glimpse pointer decoder.

References:
    Kool, van Hoof, Welling (2019), Attention, Learn to Solve Routing Problems!, ICLR.
    Kwon et al. (2020), POMO: Policy Optimization with Multiple Optima for Reinforcement Learning, NeurIPS.
    Grinsztajn et al. (2023), Winner Takes It All: Training Performant RL Populations for Combinatorial Optimization,
    NeurIPS (Poppy): its form is ``norm="layer", biases=True, mean_query=True, pointer_projection=False,
    edge_bias=False``.

Differs from POMO's form in:
    - the projection after the glimpse, ``W_o``, is folded into the pointer's keys, which is the same function;
    - the query is a sum of rows of tables, one per role (first node, current node), computed once per instance;
    - the bias of that projection, which ``biases`` adds, comes before it, on what the glimpse has read: where the
      projection has an inverse these are the same functions;
    - in the TSP Poppy's glimpse sees the visited nodes alone; here it sees the open ones in every form;
    - ``edge_bias`` adds a learned function of the distance to the logits (after ReLD); switch it off for POMO's own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from ncogym.errors import ArgumentError, UnsupportedFeatures
from ncogym.features import EdgeFeatures, FeatureDims, InstanceFeatures, NodeFeatures, Pointer, StepFeatures
from ncogym.policies.base import Policy
from ncogym.policies.embeddings import CandidateBias, EdgeBias, NodeEmbedding, embed
from ncogym.policies.layers import Norm, TransformerLayer, attention, closed, make_norm, of_member


class Embedded(NamedTuple):
    """An instance as the encoder leaves it.

    Attributes:
        nodes: ``[batch, nodes, dim]``.
        edges: ``[batch, nodes, nodes, hidden]``, what the last layer of the edge bias reads, or None.
    """

    nodes: Tensor
    edges: Tensor | None


class Encoded(NamedTuple):
    """An instance as the decoder sees it.

    Attributes:
        keys: ``[batch, heads, nodes, dim / heads]``, of the glimpse.
        values: ``[batch, heads, nodes, dim / heads]``, of the glimpse.
        logit_keys: ``[batch, nodes, dim]``, of the pointer, with the glimpse's output projection folded in.
        queries: ``[batch, roles, nodes + 1, dim]``: what a node in a role adds to the query; the last row is "nobody".
        bias: ``[batch, roles, nodes + 1, nodes]``: what a node in a role adds to each candidate's logit, or None.
        scalars: ``[batch, dim, scalars]``: what the scalars of a step add to the query, or None.
        context: ``[batch, dim]``, added to every query, or None.
        inner: ``[batch, dim, hidden]``: with the next three, a residual layer between glimpse and pointer,
            ``g + relu(g inner + inner_bias) outer + outer_bias``; all four or None.
        inner_bias: ``[batch, 1, hidden]``.
        outer: ``[batch, hidden, dim]``.
        outer_bias: ``[batch, 1, dim]``.
        member: int64 ``[batch, 1]``, of a population, whose weights the steps read; ``[batch, 0]`` where all members
            are there in turn; None where steps read no weights of members.
    """

    keys: Tensor
    values: Tensor
    logit_keys: Tensor
    queries: Tensor
    bias: Tensor | None
    scalars: Tensor | None = None
    context: Tensor | None = None
    inner: Tensor | None = None
    inner_bias: Tensor | None = None
    outer: Tensor | None = None
    outer_bias: Tensor | None = None
    member: Tensor | None = None


def residual(x: Float[Tensor, "batch queries dim"], encoded: Any) -> Float[Tensor, "batch queries dim"]:
    """Send vectors through the residual layer of an encoding, where it has one."""
    if encoded.inner is None:
        return x
    hidden = torch.relu(torch.baddbmm(encoded.inner_bias, x, encoded.inner))
    return x + torch.baddbmm(encoded.outer_bias, hidden, encoded.outer)


class AttentionPolicy(Policy):
    """Attention model with rollouts on an axis of their own.

    Args:
        dims: widths of the environment's features.
        dim: embedding width.
        num_layers: encoder layers.
        num_heads: heads of the encoder and of the glimpse; divides ``dim``.
        feedforward: hidden width of the encoder's feed-forward networks.
        norm: normalisation of the encoder: instance (POMO), batch (Kool et al.), layer, rms or none.
        pre_norm: normalise before each block instead of after it.
        clip: C in ``C tanh(u)``, the range of the pointer's logits (10 in both papers).
        edge_bias: add a learned function of edge features to the logits, of the moves from nodes that play a role.
        edge_attention: let the encoder read edge features too, which problems without coordinates need (after MatNet).
        biases: give the projections of encoder and glimpse biases (Poppy); POMO has none.
        mean_query: add a projection of the nodes' mean to every query (Kool et al., Poppy), and nothing for "nobody".
            Behind an instance normalisation the mean is the same for all instances.
        pointer_projection: project the nodes to the pointer's keys (POMO); without, they are the keys (Poppy).

    Raises:
        ArgumentError: an argument is not allowed.
        UnsupportedFeatures: what the environment shows would not be read. Edges alone may be left out, by
            ``edge_bias=False, edge_attention=False``, where nodes say it all (POMO).
    """

    decoder = (
        "glimpse",
        "pointer",
        "combine",
        "mean",
        "roles",
        "nobody",
        "scalars",
        "candidates",
        "edge_bias.network.2",
    )

    def __init__(
        self,
        dims: FeatureDims,
        *,
        dim: int = 128,
        num_layers: int = 6,
        num_heads: int = 8,
        feedforward: int = 512,
        norm: Norm = "instance",
        pre_norm: bool = False,
        clip: float = 10.0,
        edge_bias: bool = True,
        edge_attention: bool = False,
        biases: bool = False,
        mean_query: bool = False,
        pointer_projection: bool = True,
    ) -> None:
        super().__init__()
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ArgumentError(f"num_heads: {num_heads} is not allowed; it must divide dim, which is {dim}")
        if num_layers < 0 or feedforward < 1:
            raise ArgumentError(
                f"num_layers, feedforward: {num_layers}, {feedforward} are not allowed; at least 0 and at least 1 are"
            )
        if not clip > 0:
            raise ArgumentError(f"clip: {clip} is not allowed; it must be above 0")
        if dims.node < 1:
            raise UnsupportedFeatures("AttentionPolicy cannot read an environment without NodeFeatures")
        if dims.roles < 1 and dims.scalars < 1:
            raise UnsupportedFeatures("AttentionPolicy cannot read steps that show neither nodes nor scalars")
        for unread, what in ((dims.operation, "OperationGraph"), (dims.sparse, "SparseEdges")):
            if unread:
                raise UnsupportedFeatures(f"AttentionPolicy cannot read {what}; it reads NodeFeatures, EdgeFeatures")
        by_role, by_layer = edge_bias and dims.roles > 0, edge_attention and num_layers > 0
        if dims.edge and (edge_bias or edge_attention) and not (by_role or by_layer):
            raise UnsupportedFeatures(
                "AttentionPolicy cannot read EdgeFeatures where no node plays a role at a step (edge_bias) and no "
                f"layer reads them (edge_attention: {edge_attention}, num_layers: {num_layers})"
            )
        self._arguments = {
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "feedforward": feedforward,
            "norm": norm,
            "pre_norm": pre_norm,
            "clip": clip,
            "edge_bias": edge_bias,
            "edge_attention": edge_attention,
            "biases": biases,
            "mean_query": mean_query,
            "pointer_projection": pointer_projection,
        }
        self.dims, self.num_heads, self.clip, self.width = dims, num_heads, clip, dim
        if not dims.edge:
            self.numbers_per_pair = 0  # the encoder's attention is never there as a whole
        self.numbers_per_action = 2 * num_heads + (2 * CandidateBias.HIDDEN if dims.candidates else 0)
        self.embed = NodeEmbedding(dims, dim)
        self.layers = nn.ModuleList(
            TransformerLayer(dim, num_heads, feedforward, norm, pre_norm, dims.edge if edge_attention else 0, biases)
            for _ in range(num_layers)
        )
        self.edge_attention = edge_attention and dims.edge > 0
        self.final_norm = make_norm(norm, dim) if pre_norm else nn.Identity()
        self.glimpse = nn.Linear(dim, 2 * dim, bias=biases)
        self.pointer = nn.Linear(dim, dim, bias=False) if pointer_projection else None
        self.combine = nn.Linear(dim, dim, bias=biases)
        self.mean = nn.Linear(dim, dim, bias=biases) if mean_query else None
        self.roles = nn.Linear(dim, dims.roles * dim, bias=False) if dims.roles else None
        nobody = None if mean_query else torch.empty(dims.roles, dim).uniform_(-1, 1)
        if nobody is not None and not nobody.is_meta:  # there are no numbers, and torch would import its compiler
            nobody = nobody / math.sqrt(dim)
        self.nobody = None if nobody is None else nn.Parameter(nobody)
        self.scalars = nn.Linear(dims.scalars, dim, bias=False) if dims.scalars else None
        self.candidates = CandidateBias(dims) if dims.candidates else None
        self.edge_bias = EdgeBias(dims) if by_role and dims.edge else None
        self.at_steps = ("candidates",) if dims.candidates else ()
        self.steered = 2 * dim

    def arguments(self) -> dict[str, Any]:
        return dict(self._arguments)

    def encode(self, features: InstanceFeatures) -> Encoded:
        return self.tables(self.embeddings(features))

    def embeddings(self, features: InstanceFeatures) -> Embedded:
        embedded = {type(feature): embed(feature, self) for feature in features}
        if self.layers and any(isinstance(each, NodeFeatures) and each.present is not None for each in features):
            raise UnsupportedFeatures("AttentionPolicy cannot read nodes that are not there; GraphPolicy can")
        x = embedded.get(NodeFeatures)
        if x is None:
            raise UnsupportedFeatures("AttentionPolicy cannot read an environment without NodeFeatures")
        return Embedded(self.encode_nodes(x, features), embedded.get(EdgeFeatures))

    def tables(self, embedded: Embedded) -> Encoded:
        x = embedded.nodes
        batch, nodes, dim = x.shape
        keys, values = self.glimpse(x).view(batch, nodes, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        if self.combine.bias is not None:  # of every glimpse, whose weights sum to 1
            values = values + self.combine.bias.view(self.num_heads, 1, -1)
        folded = self.combine.weight.T
        logit_keys = F.linear(x, folded if self.pointer is None else folded @ self.pointer.weight)
        queries = x.new_empty(batch, 0, nodes + 1, dim)
        if self.roles is not None:
            roles = self.roles(x).view(batch, nodes, -1, dim).transpose(1, 2)
            nobody = roles.new_zeros(roles.shape[1], dim) if self.nobody is None else self.nobody.to(roles.dtype)
            queries = torch.cat([roles, nobody.expand(batch, -1, -1).unsqueeze(2)], dim=2)
        bias = None
        if self.edge_bias is not None and embedded.edges is not None:
            bias = F.pad(self.edge_bias.table(embedded.edges), (0, 0, 0, 1)).float()
        scalars = None if self.scalars is None else self.scalars.weight.to(x.dtype).expand(batch, -1, -1)
        context = None if self.mean is None else self.mean(x.mean(1))
        return Encoded(keys.contiguous(), values.contiguous(), logit_keys, queries, bias, scalars, context)

    def encode_nodes(
        self, x: Float[Tensor, "batch nodes dim"], features: InstanceFeatures
    ) -> Float[Tensor, "batch nodes dim"]:
        """Let the nodes learn of each other: the layers between their embedding and the decoder's tables."""
        edges = None
        if self.edge_attention:
            edges = next(feature.values for feature in features if isinstance(feature, EdgeFeatures))
        for layer in self.layers:
            x = layer(x, edges)
        encoded: Tensor = self.final_norm(x)
        return encoded

    def logits(self, encoded: Encoded, step: StepFeatures) -> Float[Tensor, "batch queries actions"]:
        if step.candidate_nodes is not None:
            raise UnsupportedFeatures("AttentionPolicy cannot read candidate_nodes; to it action i is node i")
        dim = encoded.logit_keys.shape[-1]
        bias: Tensor | None = None
        rows = self._rows(encoded, step)
        if encoded.bias is not None:
            for role in range(self.dims.roles):
                table = F.embedding(rows[..., role], encoded.bias.flatten(0, 2))
                bias = table if bias is None else bias + table
        if self.candidates is not None:
            numbers = of_member(self.candidates, encoded.member, _shown("candidates", step.candidates))
            bias = numbers if bias is None else bias + numbers
        shut = closed(step.action_mask)
        seen = residual(self._seen(encoded, step, rows, shut), encoded)
        # few and quick passes over [batch, queries, actions]: beside attention they are what a step on a CPU consists
        # of; C tanh(u) is C (2 sigmoid(2u) - 1), which is four times as fast there
        keys = encoded.logit_keys.transpose(1, 2)
        scores = torch.baddbmm(seen.new_zeros(()), seen, keys, beta=0, alpha=2 * dim**-0.5)
        logits = torch.add(shut - self.clip, torch.sigmoid(scores.float()), alpha=2 * self.clip)
        return logits if bias is None else torch.add(logits, bias, alpha=self.clip)

    def _rows(self, encoded: Encoded, step: StepFeatures) -> Int64[Tensor, "batch queries roles"]:
        """Return where a node's row lies in the tables of all instances and roles, one below the other."""
        batch, nodes, _ = encoded.logit_keys.shape
        rows = torch.where(step.nodes < 0, nodes, step.nodes)
        return rows + torch.arange(batch * self.dims.roles, device=rows.device).view(batch, 1, self.dims.roles) * (
            nodes + 1
        )

    def _seen(
        self,
        encoded: Encoded,
        step: StepFeatures,
        rows: Int64[Tensor, "batch queries roles"],
        shut: Float[Tensor, "batch queries actions"],
    ) -> Float[Tensor, "batch queries dim"]:
        """Return the glimpse of the open nodes."""
        batch, num_queries, roles = rows.shape
        query = encoded.keys.new_zeros(()) if encoded.context is None else encoded.context.unsqueeze(1)
        for role in range(roles):
            # embedding rather than gather: ten times faster on a CPU
            query = query + F.embedding(rows[..., role], encoded.queries.flatten(0, 2))
        if encoded.scalars is not None:
            weight = encoded.scalars.mT
            query = torch.baddbmm(query, _shown("scalars", step.scalars).to(weight.dtype), weight)
        heads = query.to(encoded.keys.dtype).view(batch, num_queries, self.num_heads, -1)
        seen = attention(heads.transpose(1, 2), encoded.keys, encoded.values, shut.unsqueeze(1))
        return seen.transpose(1, 2).reshape(batch, num_queries, -1)

    def summary(self, encoded: Encoded) -> Float[Tensor, "batch width"]:
        return encoded.logit_keys.amax(1)

    def reading(self, encoded: Encoded, step: StepFeatures) -> Float[Tensor, "batch queries width"]:
        return self._seen(encoded, step, self._rows(encoded, step), closed(step.action_mask))

    def steer(self, encoded: Encoded, vectors: Float[Tensor, "batch steered"]) -> Encoded:
        """Add the first half of the vectors to every query, the second to the value of every node."""
        _, heads, _, width = encoded.values.shape
        query, value = vectors.to(encoded.values.dtype).split(heads * width, dim=-1)
        context = query if encoded.context is None else encoded.context + query
        return encoded._replace(context=context, values=encoded.values + value.unflatten(-1, (heads, 1, width)))

    def as_pointer(self, encoded: Encoded) -> Pointer | None:
        queries = encoded.queries
        if self.candidates is not None or encoded.inner is not None:
            return None
        if encoded.context is not None:
            if not self.dims.roles:
                return None
            shift = encoded.context[:, None, None]  # a query has one row of each role
            queries = torch.cat([queries[:, :1] + shift, queries[:, 1:]], dim=1)
        return Pointer(*encoded[:3], queries, encoded.bias, encoded.scalars, self.clip)


def _shown(name: str, value: Tensor | None) -> Tensor:
    if value is None:
        raise UnsupportedFeatures(f"AttentionPolicy was built for {name} and this step shows none")
    return value
