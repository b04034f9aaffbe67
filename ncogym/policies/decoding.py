"""How an action is chosen from masked logits: greedily, or by sampling with temperature, top-k and top-p."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ncogym.errors import ArgumentError


@runtime_checkable
class Decoding(Protocol):
    """Chooses actions, int64 ``[batch, queries]``, from logits ``[batch, queries, actions]`` (-inf = not allowed).

    Attributes:
        stochastic: whether it needs noise, one uniform number from [0, 1) for each action, ``[batch, queries]``.
        temperature: divides the logits of a stochastic one.
        plain: whether these two say all of it, so that a kernel may do the same.
    """

    stochastic: bool

    @property
    def temperature(self) -> float: ...

    @property
    def plain(self) -> bool: ...

    def __call__(
        self, logits: Float[Tensor, "batch queries actions"], noise: Float[Tensor, "batch queries"] | None
    ) -> Int64[Tensor, "batch queries"]: ...


@dataclass(frozen=True)
class Greedy:
    """Take the action of the highest logit."""

    stochastic, temperature, plain = False, 1.0, True

    def __call__(
        self, logits: Float[Tensor, "batch queries actions"], noise: Float[Tensor, "batch queries"] | None = None
    ) -> Int64[Tensor, "batch queries"]:
        return logits.argmax(-1)


@dataclass(frozen=True)
class Sample:
    """Draw an action by the inverse of the cumulative distribution, in the order of the actions.

    Attributes:
        temperature: divides the logits; below 1 is nearer to greedy.
        top_k: keep only the k highest logits, and those equal to the last of them; 0 keeps all.
        top_p: keep the smallest set of actions whose probability reaches this share; 1 keeps all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stochastic = True

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ArgumentError(f"temperature: {self.temperature} is not allowed; it must be above 0")
        if self.top_k < 0:
            raise ArgumentError(f"top_k: {self.top_k} is not allowed; it must be 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise ArgumentError(f"top_p: {self.top_p} is not allowed; it must be above 0 and at most 1")

    @property
    def plain(self) -> bool:
        """Whether there is no more to it than the temperature."""
        return self.top_k == 0 and self.top_p == 1

    def __call__(
        self, logits: Float[Tensor, "batch queries actions"], noise: Float[Tensor, "batch queries"] | None
    ) -> Int64[Tensor, "batch queries"]:
        if noise is None:
            raise ArgumentError("noise: None is not allowed; sampling takes one number an action")
        shown = logits.float() if self.plain and self.temperature == 1 else self.filtered(logits)
        reached = torch.softmax(shown, dim=-1).cumsum(-1)
        total = reached[..., -1:]
        # below the total, whatever rounding does: an action of probability 0 can never be drawn
        target = torch.minimum(noise.unsqueeze(-1) * total, total * (1 - 2**-23))
        return torch.searchsorted(reached, target, right=True).squeeze(-1)

    def filtered(self, logits: Tensor) -> Tensor:
        """Return the tempered logits with those outside of top-k and top-p at -inf."""
        logits = logits.float()
        # taking the largest away first keeps any temperature from overflowing
        logits = (logits - logits.amax(-1, keepdim=True)) / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            lowest = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < lowest, -math.inf)
        if self.top_p < 1:
            ordered, order = logits.sort(dim=-1, descending=True)
            before = torch.softmax(ordered, dim=-1).cumsum(-1).roll(1, dims=-1)
            before[..., 0] = 0
            dropped = (before >= self.top_p).gather(-1, order.argsort(-1))
            logits = logits.masked_fill(dropped, -math.inf)
        return logits
