"""The one loop in which a policy acts in an environment, and the one parallel pass that scores what it did.

Acting is sequential, without gradients, and records what the policy saw; `log_probs` then scores all recorded steps of
all rollouts at once. States do not depend on the weights, so the gradient is exactly that of the sequential loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from tensordict import TensorDict
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ncogym.errors import ArgumentError
from ncogym.features import StepFeatures, join_steps

LOOK_EVERY = 8  # steps between two looks whether all rollouts are done, where they end at different times


@dataclass(frozen=True)
class Trajectories:
    """Rollouts of a batch of instances, from the first action to the last.

    Attributes:
        instances: batch size ``[batch]``.
        actions: int64 ``[batch, rollouts, steps]``.
        reward: float32 ``[batch, rollouts]``, the objective with the sign that makes more better.
        forced: leading actions that were given (starts), whose log-probability does not count.
        steps: what the policy saw, with queries ``rollouts * steps``, or None where it was not recorded.
        log_prob: float32 ``[batch, rollouts]`` with gradients, once scored, or None.
        reward_baseline: what the rewards are compared with, broadcastable to ``[batch, rollouts]``, or None.
        condition: what stayed constant through each rollout, ``[batch, rollouts, ...]``, or None.
    """

    instances: TensorDict
    actions: Tensor
    reward: Tensor
    forced: int = 0
    steps: StepFeatures | None = None
    log_prob: Tensor | None = None
    reward_baseline: Tensor | None = None
    condition: Tensor | None = None


def act(
    env: Any,
    policy: Any,
    encoded: Any,
    instances: TensorDict,
    decoding: Any,
    rng: torch.Generator,
    *,
    rollouts: int = 1,
    first_actions: Int64[Tensor, "batch starts"] | None = None,
    condition: Tensor | None = None,
    record: bool = False,
) -> Trajectories:
    """Let a policy build solutions, one decision of every rollout at a time, without gradients.

    Args:
        env: the problem.
        policy: gives logits for each step.
        encoded: ``policy.encode(...)`` of the instances.
        instances: batch size ``[batch]``.
        decoding: chooses actions from logits (`ncogym.policies.decoding`).
        rng: what the decoding draws from.
        rollouts: rollouts per instance, where ``first_actions`` does not say.
        first_actions: int64 ``[batch, rollouts]``, forced as the first step (multi-start), or None.
        condition: what stays constant through a rollout (a member's index, a latent), ``[batch, rollouts, ...]``.
        record: keep what the policy saw, for `log_probs`.

    Returns:
        Trajectories without log-probabilities, as long as the longest needs and up to `LOOK_EVERY` steps more. Where
        rollouts may end at different times (`earliest` of the env), the host looks now and then whether all are done.
    """
    rng = _nearby(rng, instances)
    with torch.no_grad():
        given = [] if first_actions is None else [first_actions]
        state = env.start(instances, rollouts if first_actions is None else first_actions.shape[1])
        actions: list[Tensor] = []
        seen: list[StepFeatures] = []
        earliest, ended = env.earliest(instances), False
        for number in range(env.horizon(instances)):
            if number >= earliest and number % LOOK_EVERY == 0:
                ended = bool(state.done.all())  # then one step more, so that every rollout ends in padding
            step = env.step_features(state) if record or number >= len(given) else None
            action = given[number] if number < len(given) else decoding(policy.logits(encoded, step, condition), rng)
            if record and step is not None:
                seen.append(step)
            actions.append(action)
            state = env.advance(state, action)
            if ended:
                break
        return replace(_collect(env, instances, actions, seen, len(given)), condition=condition)


def _nearby(rng: torch.Generator, instances: TensorDict) -> torch.Generator:
    """Return a generator on the device of ``instances``, seeded by ``rng`` where that is elsewhere."""
    device = next(iter(instances.values())).device
    if rng.device.type == device.type:
        return rng
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=rng, device=rng.device)))


def replay(
    env: Any, instances: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], *, forced: int = 0
) -> Trajectories:
    """Walk through given solutions (labels), recording what a policy would have seen.

    Args:
        env: the problem.
        instances: batch size ``[batch]``.
        actions: int64 ``[batch, rollouts, steps]``.
        forced: leading actions whose log-probability shall not count.
    """
    with torch.no_grad():
        state = env.start(instances, actions.shape[1])
        taken = list(actions.unbind(-1))
        seen = []
        for action in taken:
            seen.append(env.step_features(state))
            state = env.advance(state, action)
        return _collect(env, instances, taken, seen, forced)


def log_probs(
    policy: Any, encoded: Any, trajectories: Trajectories, *, max_queries: int = 0
) -> Float[Tensor, "batch rollouts"]:
    """Score recorded trajectories in parallel, with gradients.

    Args:
        policy: as it acted.
        encoded: ``policy.encode(...)`` with gradients; its backward runs once, however many chunks there are.
        trajectories: recorded.
        max_queries: steps per instance that are scored at a time; each chunk is recomputed in the backward pass, so
            that memory is bounded by one chunk. 0 scores all at once without recomputing.

    Returns:
        float32 ``[batch, rollouts]``, the log-probability of the actions that were not forced.
    """
    steps = trajectories.steps
    if steps is None:
        raise ArgumentError("trajectories: they hold no steps; act with record=True")
    batch, rollouts, horizon = trajectories.actions.shape
    actions = trajectories.actions.flatten(1)
    queries = actions.shape[1]
    size = max_queries if 0 < max_queries < queries else queries
    condition = None if trajectories.condition is None else trajectories.condition.repeat_interleave(horizon, dim=1)
    parts = []
    for begin in range(0, queries, size):
        chunk = steps.select(slice(begin, begin + size))
        taken = actions[:, begin : begin + size]
        held = None if condition is None else condition[:, begin : begin + size]
        if size == queries:
            parts.append(_chosen(policy, encoded, chunk, taken, held))
        else:
            parts.append(checkpoint(_chosen, policy, encoded, chunk, taken, held, use_reentrant=False))
    per_step = torch.cat(parts, dim=1).view(batch, rollouts, horizon)
    return per_step[..., trajectories.forced :].sum(-1)


def _chosen(
    policy: Any, encoded: Any, step: StepFeatures, actions: Int64[Tensor, "batch queries"], condition: Tensor | None
) -> Float[Tensor, "batch queries"]:
    logits = policy.logits(encoded, step, condition)
    return logits.gather(-1, actions.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def _collect(
    env: Any, instances: TensorDict, actions: list[Tensor], seen: list[StepFeatures], forced: int
) -> Trajectories:
    stacked = torch.stack(actions, dim=-1)
    objective = env.objective(instances, stacked)
    reward = (-objective if env.sense == "min" else objective).float()
    return Trajectories(instances, stacked, reward, forced, join_steps(seen) if seen else None)


def rollouts_in_memory(env: Any, policy: Any, instances: TensorDict, budget_bytes: float = 512e6) -> int:
    """Return how many rollouts per instance fit into ``budget_bytes`` while a policy acts: a step of each at a time."""
    actions = env.start(instances[:1]).action_mask.shape[-1]
    return max(1, int(budget_bytes / (4 * policy.numbers_per_action * actions * instances.batch_size[0])))
