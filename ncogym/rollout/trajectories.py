"""Rollouts of a policy as data: what was done, what it brought, and walking through it again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.features import StepFeatures
from ncogym.problem import Dynamics, Problem


@dataclass(frozen=True)
class Rollouts:
    """Rollouts of a batch of instances, from the first action to the last.

    Attributes:
        instances: batch size ``[batch]``.
        actions: int64 ``[batch, rollouts, steps]``.
        reward: float32 ``[batch, rollouts]``, the objective with the sign that makes more better.
        forced: leading actions that were given (starts), whose log-probability does not count.
        log_prob: float32 ``[batch, rollouts]``, as acted, without gradients, or None where it was not told.
        condition: what they were run under (members, latents), ``[batch, conditions, ...]`` or, the same for all
            instances, ``[1, conditions, ...]``; as many rollouts under each, those of the first first. None: nothing.
    """

    instances: TensorDict
    actions: Tensor
    reward: Tensor
    forced: int = 0
    log_prob: Tensor | None = None
    condition: Tensor | None = None


def reward_of(env: Problem, instances: TensorDict, actions: Tensor) -> Tensor:
    """Return the objective of solutions with the sign that makes more better, float32 ``[batch, rollouts]``."""
    objective = env.objective(instances, actions)
    return (-objective if env.sense == "min" else objective).float()


def replay(
    env: Problem, instances: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], *, forced: int = 0
) -> Rollouts:
    """Return given solutions (labels) as if a policy had built them; their log-probability is not known yet.

    Args:
        env: the problem.
        instances: batch size ``[batch]``.
        actions: int64 ``[batch, rollouts, steps]``.
        forced: leading actions whose log-probability shall not count.
    """
    return Rollouts(instances, actions, reward_of(env, instances, actions), forced)


def steps_seen(
    env: Dynamics, instances: TensorDict, actions: Int64[Tensor, "batch rollouts steps"]
) -> list[StepFeatures]:
    """Walk through actions ``[batch, rollouts, steps]`` and return what a policy sees before each step."""
    state = env.start(instances, actions.shape[1])
    seen = []
    for action in actions.unbind(-1):
        seen.append(env.step_features(state))
        state = env.advance(state, action)
    return seen


@torch.no_grad()
def parents_seen(env: Dynamics, rollouts: Rollouts) -> Float32[Tensor, "batch rollouts decisions"]:
    """Walk through rollouts and return the logarithm of the number of parents of the state after each decision.

    Decisions are counted from the first that was not forced.
    """
    actions, forced = rollouts.actions, rollouts.forced
    state, found = env.start(rollouts.instances, actions.shape[1]), []
    for action in actions.unbind(-1):
        state = env.advance(state, action)
        found.append(env.log_parents(state))
    return torch.stack(found[forced:], dim=-1)


@torch.no_grad()
def decision_rewards(
    env: Dynamics, rollouts: Rollouts
) -> tuple[Float32[Tensor, "batch rollouts decisions"], Bool[Tensor, "batch rollouts decisions"]]:
    """Walk through rollouts and return the reward of each decision, and which decisions are no padding.

    Decisions are counted from the first that was not forced. The rewards of a rollout sum to its own, less that of the
    actions that were forced.
    """
    actions, forced = rollouts.actions, rollouts.forced
    state = env.start(rollouts.instances, actions.shape[1])
    rewards, still = [], []
    for action in actions.unbind(-1):
        successor = env.advance(state, action)
        rewards.append(env.reward(state, action, successor))
        still.append(~state.done)
        state = successor
    reward, open_ = (torch.stack(each[forced:], dim=-1) for each in (rewards, still))
    return reward, open_
