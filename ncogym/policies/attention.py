"""The attention model: a transformer encoder and a single-glimpse pointer decoder.

References:
    Kool, van Hoof, Welling (2019), Attention, Learn to Solve Routing Problems!, ICLR.
    Kwon et al. (2020), POMO: Policy Optimization with Multiple Optima for Reinforcement Learning, NeurIPS.

Differs from POMO's form in:
    - the projection after the glimpse, ``W_o``, is folded into the pointer's keys, which is the same function;
    - the query is a sum of rows of tables, one per role (first node, current node), computed once per instance;
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
from ncogym.policies.layers import Norm, TransformerLayer, attention, closed, make_norm


class Encoded(NamedTuple):
    """An instance as the decoder sees it.

    Attributes:
        keys: ``[batch, heads, nodes, dim / heads]``, of the glimpse.
        values: ``[batch, heads, nodes, dim / heads]``, of the glimpse.
        logit_keys: ``[batch, nodes, dim]``, of the pointer, with the glimpse's output projection folded in.
        queries: ``[batch, roles, nodes + 1, dim]``: what a node in a role adds to the query; the last row is "nobody".
        bias: ``[batch, roles, nodes + 1, nodes]``: what a node in a role adds to each candidate's logit, or None.
    """

    keys: Tensor
    values: Tensor
    logit_keys: Tensor
    queries: Tensor
    bias: Tensor | None


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
        edge_bias: add a learned function of edge features to the logits.
        edge_attention: let the encoder read edge features too, which problems without coordinates need (after MatNet).
    """

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
        }
        self.dims, self.num_heads, self.clip, self.width = dims, num_heads, clip, dim
        self.numbers_per_action = 2 * num_heads + (2 * CandidateBias.HIDDEN if dims.candidates else 0)
        self.embed = NodeEmbedding(dims, dim)
        self.layers = nn.ModuleList(
            TransformerLayer(dim, num_heads, feedforward, norm, pre_norm, dims.edge if edge_attention else 0)
            for _ in range(num_layers)
        )
        self.edge_attention = edge_attention and dims.edge > 0
        self.final_norm = make_norm(norm, dim) if pre_norm else nn.Identity()
        self.glimpse = nn.Linear(dim, 2 * dim, bias=False)
        self.pointer = nn.Linear(dim, dim, bias=False)
        self.combine = nn.Linear(dim, dim, bias=False)
        self.roles = nn.Linear(dim, dims.roles * dim, bias=False) if dims.roles else None
        self.nobody = nn.Parameter(torch.empty(dims.roles, dim).uniform_(-1, 1) / math.sqrt(dim))
        self.scalars = nn.Linear(dims.scalars, dim, bias=False) if dims.scalars else None
        self.candidates = CandidateBias(dims) if dims.candidates else None
        self.edge_bias = EdgeBias(dims) if edge_bias and dims.edge else None

    def arguments(self) -> dict[str, Any]:
        return dict(self._arguments)

    def encode(self, features: InstanceFeatures) -> Encoded:
        embedded = {type(feature): embed(feature, self) for feature in features}
        x, table = embedded.get(NodeFeatures), embedded.get(EdgeFeatures)
        if x is None:
            raise UnsupportedFeatures("AttentionPolicy cannot read an environment without NodeFeatures")
        x = self.encode_nodes(x, features)
        batch, nodes, dim = x.shape
        keys, values = self.glimpse(x).view(batch, nodes, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        logit_keys = F.linear(x, self.combine.weight.T @ self.pointer.weight)
        queries = x.new_empty(batch, 0, nodes + 1, dim)
        if self.roles is not None:
            roles = self.roles(x).view(batch, nodes, -1, dim).transpose(1, 2)
            nobody = self.nobody.to(roles.dtype).expand(batch, -1, -1).unsqueeze(2)
            queries = torch.cat([roles, nobody], dim=2)
        bias = None if table is None else F.pad(table, (0, 0, 0, 1)).float()
        return Encoded(keys.contiguous(), values.contiguous(), logit_keys, queries, bias)

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

    def logits(
        self, encoded: Encoded, step: StepFeatures, condition: Tensor | None = None
    ) -> Float[Tensor, "batch queries actions"]:
        dim = encoded.logit_keys.shape[-1]
        bias: Tensor | None = None
        rows = self._rows(encoded, step)
        if encoded.bias is not None:
            for role in range(self.dims.roles):
                table = F.embedding(rows[..., role], encoded.bias.flatten(0, 2))
                bias = table if bias is None else bias + table
        if self.candidates is not None:
            numbers = self.candidates(_shown("candidates", step.candidates))
            bias = numbers if bias is None else bias + numbers
        shut = closed(step.action_mask)
        seen = self._seen(encoded, step, rows, shut)
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
        query: Tensor | float = 0.0
        for role in range(roles):
            # embedding rather than gather: ten times faster on a CPU
            query = query + F.embedding(rows[..., role], encoded.queries.flatten(0, 2))
        if self.scalars is not None:
            query = query + self.scalars(_shown("scalars", step.scalars))
        heads = torch.as_tensor(query).to(encoded.keys.dtype).view(batch, num_queries, self.num_heads, -1)
        seen = attention(heads.transpose(1, 2), encoded.keys, encoded.values, shut.unsqueeze(1))
        return seen.transpose(1, 2).reshape(batch, num_queries, -1)

    def summary(self, encoded: Encoded) -> Float[Tensor, "batch width"]:
        return encoded.logit_keys.amax(1)

    def reading(self, encoded: Encoded, step: StepFeatures) -> Float[Tensor, "batch queries width"]:
        return self._seen(encoded, step, self._rows(encoded, step), closed(step.action_mask))

    def lowered(self, encoded: Encoded, dtype: torch.dtype) -> Encoded:
        return super().lowered(encoded._replace(bias=None), dtype)._replace(bias=encoded.bias)  # of logits, in float32

    def as_pointer(self, encoded: Encoded) -> Pointer | None:
        if self.candidates is not None:
            return None
        return Pointer(*encoded, None if self.scalars is None else self.scalars.weight, self.clip)


def _shown(name: str, value: Tensor | None) -> Tensor:
    if value is None:
        raise UnsupportedFeatures(f"AttentionPolicy was built for {name} and this step shows none")
    return value
