"""Rollouts under conditions (members, latents), on top of acting and scoring: a row for each instance and condition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32, Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym import kernels
from ncogym.errors import ArgumentError
from ncogym.features import Encoded
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Decoding
from ncogym.problem import Problem
from ncogym.rollout.acting import (
    Acting,
    Clock,
    Precision,
    autocast_state,
    check_ways,
    noise_for,
    products_in,
    roll_out,
    uncached_autocast,
)
from ncogym.rollout.memory import scoring_memory
from ncogym.rollout.scoring import Known, added, floats_of, largest, score, with_floats
from ncogym.rollout.trajectories import Rollouts
from ncogym.solution import picked

ROWS_MOST = 16e6  # bytes of the rows of a part of a batch under conditions, on CPUs, above which it gains nothing


def act(
    env: Problem,
    policy: Policy,
    encoded: Encoded,
    instances: TensorDict,
    decoding: Decoding,
    rng: torch.Generator,
    *,
    rollouts: int = 1,
    first_actions: Int64[Tensor, "batch starts *given"] | None = None,
    condition: Tensor | None = None,
    noise: Float32[Tensor, "steps batch rollouts"] | None = None,
    log_prob: bool = False,
    acting: Acting = "auto",
    precision: Precision = "float32",
    clock: Clock | None = None,
) -> Rollouts:
    """Let a policy build solutions, one decision of every rollout at a time, without gradients.

    Every way of acting takes the same actions, but for near ties that rounding decides.

    Args:
        env: the problem.
        policy: gives logits for each step.
        encoded: ``policy.encode(...)`` of the instances.
        instances: batch size ``[batch]``.
        decoding: chooses actions from logits (`ncogym.policies.decoding`).
        rng: what noise is drawn from.
        rollouts: rollouts per instance, where ``first_actions`` does not say.
        first_actions: int64 ``[batch, rollouts]``, forced as the first step (multi-start), or ``[batch, rollouts,
            given]``, forced as the first steps, or None.
        condition: what rollouts are run under (members, latents), ``[batch, conditions, ...]`` or, the same for all
            instances, ``[1, conditions, ...]``; as many rollouts under each, those of the first first.
        noise: uniform numbers from [0, 1), one a decision, at least as many steps as the horizon; None draws them where
            the decoding is stochastic.
        log_prob: tell the log-probability of what was done, that of the policy itself at temperature 1.
        acting: ``eager`` is the plain loop; ``compile`` compiles its step; ``graph`` captures the whole loop in a CUDA
            graph; ``kernel`` runs it in one call of a kernel (`ncogym.kernels`); ``auto`` is the kernel where there is
            one for this problem, policy and device, else eager.
        precision: of the matrix products: ``tf32`` on CUDA, or ``bfloat16`` tensors; a policy's logits, softmax and
            log-probabilities stay in float32. The CPU's kernel computes in float32 throughout; CUDA's takes bfloat16
            tensors, and multiplies float32 ones in three tf32 parts whatever is said here.
        clock: looked at every `LOOK_EVERY` steps, by the CPU's kernel, too; CUDA's and a graph run to their end.

    Returns:
        Rollouts as long as the longest needs and up to `LOOK_EVERY` steps more, or as long as the horizon. Where
        rollouts may end at different times (`earliest` of the env), the eager loop's host looks now and then whether
        all are done.

    Raises:
        ArgumentError: there is no such way of acting, or not here; or rollouts are no multiple of the conditions.
        Abandoned: the clock says that the time is over.
    """
    if condition is None:
        return roll_out(
            env,
            policy,
            encoded,
            instances,
            decoding,
            rng,
            rollouts=rollouts,
            first_actions=first_actions,
            noise=noise,
            log_prob=log_prob,
            acting=acting,
            precision=precision,
            clock=clock,
        )
    check_ways(acting, precision)
    count = rollouts if first_actions is None else first_actions.shape[1]
    noise = noise_for(env, instances, count, decoding, noise, rng)
    under = Rows(env, policy, encoded, instances, condition, count)
    return under.act(decoding, rng, first_actions, noise, log_prob, acting, precision, clock)


def log_probs(
    env: Problem,
    policy: Policy,
    encoded: Encoded,
    rollouts: Rollouts,
    *,
    memory: float = 0,
    carrying: int = 0,
    acting: Acting = "auto",
) -> Float[Tensor, "batch rollouts"]:
    """Score rollouts in parallel, with gradients.

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
    if rollouts.condition is None:
        return score(env, policy, encoded, rollouts, memory=memory, carrying=carrying, acting=acting)
    actions, known, forced = rollouts.actions, rollouts.log_prob, rollouts.forced
    under = Rows(env, policy, encoded, rollouts.instances, rollouts.condition, actions.shape[1], memory)
    if known is None:
        known = under.log_prob(actions, forced, acting)

    def gradient(weights: Tensor) -> Sequence[Tensor | None]:
        return under.gradient(weights, actions, forced, carrying, acting)

    scored: Tensor = Known.apply(known, gradient, *under.shared, *under.parameters)
    return scored


class Rows:
    """Rollouts under conditions, as rollouts of more instances: a row for each instance under each condition.

    The rows of a part of the batch are there at a time, so that many conditions take no more memory than few.

    Args:
        env: the problem.
        policy: takes conditions (`Policy.under`).
        encoded: ``policy.encode(...)``.
        instances: batch size ``[batch]``.
        condition: ``[batch, conditions, ...]`` or ``[1, conditions, ...]``.
        rollouts: of an instance, all conditions together.
        memory: bytes that the rows of a part may take; 0 is `scoring_memory`, on CPUs `ROWS_MOST` at most.

    Attributes:
        shared: tensors of what was encoded that have gradients.
        parameters: of the policy that have them.
    """

    def __init__(
        self,
        env: Problem,
        policy: Policy,
        encoded: Encoded,
        instances: TensorDict,
        condition: Tensor,
        rollouts: int,
        memory: float = 0,
    ) -> None:
        count = condition.shape[1]
        if rollouts % count:
            raise ArgumentError(f"rollouts: {rollouts} is not allowed under {count} conditions; it must be a multiple")
        self.env, self.policy, self.encoded, self.instances = env, policy, encoded, instances
        self.condition, self.each, self.memory = condition, rollouts // count, memory
        self.shared = floats_of(encoded)
        self.parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        device = self.shared[0].device
        self.autocast = autocast_state(device)
        with torch.no_grad(), uncached_autocast(device):
            self.first = self.under(slice(0, 1))
        size = sum(v.numel() * v.element_size() for v in self.first if isinstance(v, Tensor))
        most = memory or min(scoring_memory(device), ROWS_MOST if device.type == "cpu" else math.inf)
        batch, part = instances.batch_size[0], max(1, int(most / size))
        self.parts = [slice(begin, min(begin + part, batch)) for begin in range(0, batch, part)]

    def under(self, part: slice) -> Encoded:
        """Return the rows of a part of the batch under all conditions."""
        return self.policy.under(self.sliced(part), self.own(self.condition, part))

    def sliced(self, part: slice) -> Encoded:
        """Return what was encoded of a part of the batch."""
        return type(self.encoded)(*(value[part] if isinstance(value, Tensor) else value for value in self.encoded))

    @staticmethod
    def own(condition: Tensor, part: slice) -> Tensor:
        """Return the conditions of a part of the batch; what all instances share stays the tensor that it is."""
        return condition if len(condition) == 1 else condition[part]

    def repeated(self, part: slice, count: int) -> TensorDict:
        """Return the instances of a part, each as often as it has rows."""
        numbers = torch.arange(part.start, part.stop, device=self.shared[0].device)
        return picked(self.instances, numbers.repeat_interleave(count))

    def act(
        self,
        decoding: Decoding,
        rng: torch.Generator,
        first_actions: Tensor | None,
        noise: Tensor | None,
        log_prob: bool,
        acting: Acting,
        precision: Precision,
        clock: Clock | None,
    ) -> Rollouts:
        """Run the rollouts of each part."""
        batch, count, acted = self.instances.batch_size[0], self.condition.shape[1], []
        for part in self.parts:
            with torch.inference_mode(), products_in(precision), uncached_autocast(self.shared[0].device):
                rows = self.first if batch == 1 else self.under(part)
            given = None if first_actions is None else first_actions[part].unflatten(1, (count, -1)).flatten(0, 1)
            drawn = None if noise is None else noise[:, part].unflatten(2, (count, -1)).flatten(1, 2)
            acted.append(
                roll_out(
                    self.env,
                    self.policy,
                    rows,
                    self.repeated(part, count),
                    decoding,
                    rng,
                    rollouts=self.each,
                    first_actions=given,
                    noise=drawn,
                    log_prob=log_prob,
                    acting=acting,
                    precision=precision,
                    clock=clock,
                )
            )
        steps = max(each.actions.shape[-1] for each in acted)
        actions = [self.env.padded(each.instances, each.actions, steps) for each in acted]
        known = [each.log_prob for each in acted if each.log_prob is not None]
        return Rollouts(
            self.instances,
            torch.cat(actions).view(batch, -1, steps),
            torch.cat([each.reward for each in acted]).view(batch, -1),
            acted[0].forced,
            torch.cat(known).view(batch, -1) if known else None,
            condition=self.condition,
        )

    def _scored(
        self, rows: Encoded, part: slice, actions: Tensor, count: int, forced: int, known: bool, acting: Acting
    ) -> Tensor:
        """Return the log-probabilities ``[rows, rollouts]`` of the rollouts of a part, ``count`` rows an instance."""
        mine = actions.unflatten(1, (count, -1)).flatten(0, 1)
        # where gradients alone are wanted nobody looks at the values
        values = torch.zeros(mine.shape[:2], device=mine.device)
        rollouts = Rollouts(self.repeated(part, count), mine, values, forced, values if known else None)
        return score(self.env, self.policy, rows, rollouts, memory=self.memory, acting=acting)

    def log_prob(self, actions: Tensor, forced: int, acting: Acting) -> Tensor:
        """Score without gradients."""
        found, count = [], self.condition.shape[1]
        with torch.no_grad(), uncached_autocast(actions.device):
            for part in self.parts:
                rows = self.under(part)
                found.append(self._scored(rows, part, actions[part], count, forced, False, acting))
        return torch.cat(found).view(actions.shape[:2])

    def gradient(
        self, weights: Tensor, actions: Tensor, forced: int, carrying: int, acting: Acting
    ) -> list[Tensor | None]:
        """Return the gradients of the weighted sum of log-probabilities: of what was encoded, then of parameters.

        Of the rollouts that carry one each gets a row of its own, or, where a kernel passes over those that do not and
        there are fewer conditions, the rows are those that acted.
        """
        condition, count = self.condition, self.condition.shape[1]
        if 0 < carrying < weights.shape[1] and (carrying < count or not self._kernel(acting)):
            row, index = largest(carrying, weights)
            weights, actions, count = weights[row, index], actions[row, index], carrying
            condition = condition.expand(len(index), *condition.shape[1:])[row, index // self.each]
        whole = [torch.zeros_like(value) for value in self.shared]
        sums: list[Tensor | None] = [None] * len(self.parameters)
        for part in self._smaller(count):
            mine = self.sliced(part)
            leaves = [value.detach().requires_grad_() for value in floats_of(mine)]
            with torch.enable_grad(), uncached_autocast(actions.device, self.autocast):
                rows = self.policy.under(with_floats(mine, leaves), self.own(condition, part))
                scored = self._scored(rows, part, actions[part], count, forced, True, acting)
                carried = weights[part].view(scored.shape).to(scored.dtype)
                found = torch.autograd.grad(scored, [*leaves, *self.parameters], carried, allow_unused=True)
            for total, more in zip(whole, found[: len(leaves)], strict=True):
                if more is not None:
                    total[part] = more
            sums = added(sums, found[len(leaves) :])
        return [*whole, *sums]

    def _kernel(self, acting: Acting) -> bool:
        first = self.repeated(slice(0, 1), self.condition.shape[1])
        return acting in ("auto", "kernel") and kernels.find(self.env, self.policy, self.first, first, None) is not None

    def _smaller(self, count: int) -> list[slice]:
        """Return the parts, or smaller ones where an instance has more rows than it has conditions."""
        size = self.parts[0].stop
        size = max(1, size * self.condition.shape[1] // max(count, self.condition.shape[1]))
        batch = self.instances.batch_size[0]
        return [slice(begin, min(begin + size, batch)) for begin in range(0, batch, size)]
