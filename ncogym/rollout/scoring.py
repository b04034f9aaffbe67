"""Scoring: all steps of whole rollouts at once, with gradients, in chunks of bounded memory.

States do not depend on the weights, so the gradient is exactly that of the sequential loop. Chunks' gradients meet at
the encoder's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ncogym import kernels
from ncogym.features import Encoded, StepFeatures, join_steps
from ncogym.policies.base import Policy
from ncogym.problem import Dynamics
from ncogym.rollout.acting import Acting, autocast_state, log_prob_of, uncached_autocast
from ncogym.rollout.memory import scoring_memory
from ncogym.rollout.trajectories import Rollouts, steps_seen


class Decisions(NamedTuple):
    """What a policy says of decisions, for `score_steps` to read numbers of them.

    Attributes:
        log_prob: float32 ``[batch, queries, actions]``, of all actions, -inf where one is not allowed.
        taken: int64 ``[batch, queries]``, the actions taken.
        shown: what the policy was shown.
        policy: that says it.
        encoded: what it reads of the instances.
    """

    log_prob: Tensor
    taken: Tensor
    shown: StepFeatures
    policy: Policy
    encoded: Encoded

    @property
    def chosen(self) -> Float[Tensor, "batch queries"]:
        """The log-probability of the actions taken."""
        return self.log_prob.gather(-1, self.taken.unsqueeze(-1)).squeeze(-1)

    @property
    def entropy(self) -> Float[Tensor, "batch queries"]:
        """The entropy of the distribution that each was drawn from."""
        return -(self.log_prob.exp() * self.log_prob.masked_fill(self.log_prob == -torch.inf, 0.0)).sum(-1)

    @property
    def reading(self) -> Float[Tensor, "batch queries width"]:
        """What a value head may read of the state before each (`Policy.reading`)."""
        return self.policy.reading(self.encoded, self.shown)


Read = Callable[[Decisions], Sequence[Float[Tensor, "batch queries"]]]


def score_steps(
    env: Dynamics, policy: Policy, encoded: Encoded, rollouts: Rollouts, read: Read, *, memory: float = 0
) -> tuple[Float[Tensor, "batch rollouts decisions"], ...]:
    """Read any numbers of each decision of rollouts, in plain tensor operations, with gradients.

    Chunks are computed a second time when their gradient is asked for, so that beside one of them no more is held than
    what the policy is shown at all decisions (`StepFeatures`) and the numbers that were read.

    Args:
        env: the problem.
        policy: as it acted.
        encoded: ``policy.encode(...)`` with gradients.
        rollouts: of this policy or of an earlier one.
        read: numbers of decisions, each ``[batch, queries]``, of what the policy says of them.
        memory: bytes that a chunk may take; 0 is a quarter of what is free, and at most `MEMORY_MOST`.

    Returns:
        The same numbers ``[batch, rollouts, decisions]``, from the first decision that was not forced.
    """
    actions = rollouts.actions
    scoring = Scoring(
        env, policy, encoded, rollouts.instances, rollouts.forced, memory or scoring_memory(actions.device)
    )

    def numbers(shown: StepFeatures, taken: Tensor) -> Tensor:
        log_prob = policy.logits(encoded, shown).log_softmax(-1)
        return torch.stack(list(read(Decisions(log_prob, taken, shown, policy, encoded))))

    if scoring.fits(actions):
        found = [numbers(shown, taken) for _, shown, taken in scoring.chunks(actions)]
    else:
        found = [
            checkpoint(numbers, shown, taken, use_reentrant=False, preserve_rng_state=False)
            for _, shown, taken in scoring.chunks(actions)
        ]
    return torch.cat(found, dim=2).unflatten(2, (actions.shape[1], -1)).unbind()


def score(
    env: Dynamics,
    policy: Policy,
    encoded: Encoded,
    rollouts: Rollouts,
    *,
    memory: float = 0,
    carrying: int = 0,
    acting: Acting = "auto",
) -> Float[Tensor, "batch rollouts"]:
    """Score rollouts in parallel, as `ncogym.rollout.log_probs` says, under no conditions.

    Where the log-probabilities are known from acting, nothing is computed until a gradient is asked for, and then only
    for the rollouts that carry one.

    Args:
        env: the problem.
        policy: as it acted.
        encoded: ``policy.encode(...)`` with gradients; its backward runs once, however many chunks there are.
        rollouts: of this policy, or labels.
        memory: bytes that a chunk of steps may take; 0 is a quarter of what is free, and at most `MEMORY_MOST`.
        carrying: rollouts of an instance whose derivative may differ from 0 (1 for the best of many); 0 is all.
        acting: ``auto`` and ``kernel`` score by a kernel where one scores on this device (the CPU's does, CUDA's only
            acts); the others do not.

    Returns:
        float32 ``[batch, rollouts]``, the log-probability of the actions that were not forced.
    """
    instances, actions = rollouts.instances, rollouts.actions
    known, forced = rollouts.log_prob, rollouts.forced
    kernel = None
    if acting in ("auto", "kernel"):
        kernel = kernels.find(env, policy, encoded, instances, None)
    if kernel is not None:
        if known is None:
            known = kernel.log_prob(actions, forced)
        inputs: Sequence[Tensor | None] = kernel.inputs

        def gradient(weights: Tensor) -> Sequence[Tensor | None]:
            chosen, taken = carriers(carrying, weights, actions)
            return kernel.gradient(taken, forced, chosen)

    else:
        scoring = Scoring(env, policy, encoded, instances, forced, memory or scoring_memory(actions.device))
        if known is None and scoring.fits(actions):
            return scoring.whole(actions)
        if known is None:
            known = scoring.known(actions)
        inputs = [*scoring.encoded, *scoring.parameters]

        def gradient(weights: Tensor) -> Sequence[Tensor | None]:
            return scoring.gradient(*carriers(carrying, weights, actions))

    scored: Tensor = Known.apply(known, gradient, *inputs)
    return scored


def carriers(count: int, weights: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ``count`` rollouts of each instance whose derivatives ``weights`` are the largest."""
    if not 0 < count < weights.shape[1]:
        return weights, actions
    rows, index = largest(count, weights)
    return weights[rows, index], actions[rows, index]


def largest(count: int, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of the ``count`` largest numbers of each row, by magnitude."""
    index = weights.abs().topk(count, dim=1).indices
    return torch.arange(index.shape[0], device=index.device).unsqueeze(1), index


class Known(torch.autograd.Function):
    """Known values with a gradient that is computed when it is asked for."""

    @staticmethod
    def forward(ctx: Any, known: Tensor, gradient: Callable[..., Any], *inputs: Tensor | None) -> Tensor:  # noqa: ARG004
        ctx.gradient = gradient
        return known.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> Any:
        return None, None, *ctx.gradient(weights)


class Scoring:
    """The scoring pass in plain tensor operations: a block of rollouts is walked through, then scored in chunks."""

    def __init__(
        self, env: Dynamics, policy: Policy, encoded: Encoded, instances: TensorDict, forced: int, memory: float
    ) -> None:
        self.env, self.policy, self.template, self.instances, self.forced = env, policy, encoded, instances, forced
        self.encoded = floats_of(encoded)
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.autocast = autocast_state(self.encoded[0].device)
        start, batch = env.start(instances[:1]), instances.batch_size[0]
        shown = sum(v.numel() * v.element_size() for v in env.step_features(start) if v is not None)
        numbers = 3 * policy.query_numbers(start.action_mask.shape[-1])
        # of an instance at a time: steps that are seen, and steps that are scored
        self.seen, self.queries = (max(1, int(memory / (each * batch))) for each in (shown, 4 * numbers))

    def fits(self, actions: Tensor) -> bool:
        """Say whether all steps of all rollouts fit into one chunk."""
        return actions.shape[1] * actions.shape[2] <= min(self.queries, self.seen)

    def whole(self, actions: Tensor) -> Tensor:
        """Score all at once, by a graph of autograd's own."""
        chunks = self.chunks(actions)
        found = [log_prob_of(self.policy.logits(self.template, shown), taken) for _, shown, taken in chunks]
        return torch.cat(found, dim=1).view(*actions.shape[:2], -1).sum(-1)

    def known(self, actions: Tensor) -> Tensor:
        """Score without gradients."""
        with torch.no_grad(), uncached_autocast(actions.device):
            return self.whole(actions)

    def gradient(self, weights: Tensor, actions: Tensor) -> list[Tensor | None]:
        """Return the gradients of the weighted sum of log-probabilities: of what was encoded, then of parameters."""
        leaves = [value.detach().requires_grad_() for value in self.encoded]
        encoded = with_floats(self.template, leaves)
        inputs = [*leaves, *self.parameters]
        sums: list[Tensor | None] = [None] * len(inputs)
        weights = weights.repeat_interleave(actions.shape[2] - self.forced, dim=1)
        with torch.enable_grad(), uncached_autocast(actions.device, self.autocast):
            for part, shown, taken in self.chunks(actions):
                scored = log_prob_of(self.policy.logits(encoded, shown), taken)
                found = torch.autograd.grad(scored, inputs, weights[:, part].to(scored.dtype), allow_unused=True)
                sums = added(sums, found)
        return sums

    def chunks(self, actions: Tensor) -> Iterator[tuple[slice, StepFeatures, Tensor]]:
        """Yield chunks of queries: which of ``rollouts * steps`` they are, what a policy is shown, what it took."""
        steps = actions.shape[2] - self.forced
        rollouts = max(1, self.seen // actions.shape[2])
        for first in range(0, actions.shape[1], rollouts):
            block = actions[:, first : first + rollouts]
            with torch.no_grad():
                seen = join_steps(steps_seen(self.env, self.instances, block)[self.forced :])
            taken = block[..., self.forced :].flatten(1)
            for begin in range(0, taken.shape[1], self.queries):
                part = slice(begin, min(begin + self.queries, taken.shape[1]))
                whole = slice(first * steps + part.start, first * steps + part.stop)
                yield whole, seen.select(part), taken[:, part]


def floats_of(encoded: Encoded) -> list[Tensor]:
    """Return the tensors of an encoding that may have gradients."""
    return [value for value in encoded if isinstance(value, Tensor) and value.is_floating_point()]


def with_floats(encoded: Encoded, floats: Iterable[Tensor]) -> Any:
    """Return an encoding with other tensors in the places of those that `floats_of` returns."""
    others, mine = iter(floats), floats_of(encoded)
    return type(encoded)(*(next(others) if any(v is each for each in mine) else v for v in encoded))


def added(sums: Sequence[Tensor | None], more: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return sums of gradients, in place where there is one; None stands for no gradient."""
    return [b if a is None else a if b is None else a.add_(b) for a, b in zip(sums, more, strict=True)]
