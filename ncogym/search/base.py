"""What several searches share: rounds of rollouts and the gradient of a tuning loss, and beams of partial solutions."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float64, Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.books import Pace, Progress
from ncogym.features import Encoded
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Decoding, Sample
from ncogym.problem import Problem
from ncogym.rollout import LOOK_EVERY, Clock, Rollouts, act, log_probs, rollouts_in_memory


class Search:
    """What a search says of itself, by which `ncogym.composing.make_solver` composes it with others.

    A search is built from a policy, and is a `ncogym.solver.Solver`. One that goes on from solutions is an
    `ncogym.solver.Improver` besides.

    Attributes:
        policies: classes of the policies that it reads; none stands for any policy that takes no conditions.
        wraps: whether it is built from another solver instead, which it runs.
    """

    policies: ClassVar[tuple[type[Policy], ...]] = ()
    wraps: ClassVar[bool] = False


@contextmanager
def recording() -> Iterator[None]:
    """Let gradients be recorded inside, whatever the caller's mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def apart(policy: Policy, trained: bool = False) -> Policy:
    """Return a copy of a policy in evaluation mode, so that nothing a search does can reach the one it was given.

    Args:
        policy: what is copied.
        trained: whether the copy's weights are to have gradients.
    """
    return copy.deepcopy(policy).eval().requires_grad_(trained)


def starts(
    env: Problem, instances: TensorDict, count: int, rng: torch.Generator
) -> Int64[Tensor, "batch {count}"] | None:
    """Return the first action of each rollout where the problem offers good ones, or None.

    Each start is taken equally often, to within one; which are taken once more is drawn.
    """
    if not env.multi_start:
        return None
    offered = env.first_actions(instances)
    if count % offered.shape[1]:
        offered = env.first_actions(instances, rng)
    return offered[:, torch.arange(count, device=offered.device) % offered.shape[1]]


def stretch(done: int, count: int, width: int) -> tuple[slice, slice]:
    """Return the columns and the lines of a table that are next, where it is gone through line by line.

    These are whole lines where there is room for one and none has begun, else a part of one line.

    Args:
        done: cells that were gone through.
        count: most cells that there is room for, above 0.
        width: of the table.
    """
    line, column = divmod(done, width)
    if column or count < width:
        return slice(column, min(column + count, width)), slice(line, line + 1)
    return slice(0, width), slice(line, line + count // width)


def rounds(
    env: Problem,
    policy: Policy,
    encode: Callable[[], Any],
    decoding: Decoding,
    progress: Progress,
    rng: torch.Generator,
    *,
    rollouts: int,
    most: float,
) -> Iterator[tuple[Any, Rollouts]]:
    """Offer one round of rollouts after another, and yield each but the last, for something to be learnt from it.

    Args:
        env: the problem.
        policy: what acts.
        encode: gives ``policy.encode(...)`` as it is tuned at the time.
        decoding: how actions are chosen.
        progress: of the search; its budget ends the rounds.
        rng: what starts and noise are drawn from.
        rollouts: of an instance in a round; fewer where memory or the budget do not pay for them.
        most: rounds after which it ends in any case.
    """
    instances = progress.instances
    pace = Pace(progress, rollouts_in_memory(env, policy, instances))
    for done in itertools.count(1):
        count = pace.next(rollouts)
        if not count:
            return
        begun, encoded = progress.seconds, encode()
        first = starts(env, instances, count, rng)
        drawn = act(env, policy, encoded, instances, decoding, rng, rollouts=count, first_actions=first, clock=progress)
        progress.offer(drawn.actions)
        now = progress.seconds
        # the gradient takes as long as the rollouts at least, and is of no use without a round after it
        if progress.spent or done >= most or progress.budget.seconds - now < 2 * (now - begun):
            return
        yield encoded, drawn


def descend(
    env: Problem, policy: Policy, encoded: Encoded, drawn: Rollouts, progress: Progress, imitation: float
) -> None:
    r"""Add up the gradient of the tuning loss in the leaves that ``encoded`` was computed from.

    .. math:: L = \sum_{instances} \Big( -\frac{1}{P} \sum_{i=1}^{P} \frac{R(\tau^i) - b}{|R(\bar\tau)|}
              \log p(\tau^i) - \lambda \log p(\bar\tau) \Big), \quad b = \frac{1}{P} \sum_j R(\tau^j)

    The incumbent :math:`\bar\tau` is the best solution so far. Rewards count by its objective, so that no unit of
    the instance matters; the sum lets each instance's gradient be what it is alone.

    Args:
        env: the problem.
        policy: as it acted.
        encoded: with gradients.
        drawn: rollouts of a round.
        progress: holds the incumbents.
        imitation: lambda, the weight of the incumbent.
    """
    incumbent, best = progress.actions, progress.best
    if incumbent is None or best is None:
        raise RuntimeError("descend: nothing was offered yet")
    steps = max(incumbent.shape[-1], drawn.actions.shape[-1])
    actions = [env.padded(drawn.instances, a, steps) for a in (drawn.actions, incumbent.unsqueeze(1))]
    signed = (best if env.sense == "max" else -best).to(drawn.reward.dtype).unsqueeze(1)
    reward = torch.cat([drawn.reward, signed], dim=1)
    unit = torch.where(signed == 0, torch.ones_like(signed), signed.abs())
    advantage = (drawn.reward - drawn.reward.mean(1, keepdim=True)) / unit
    weights = torch.cat([advantage / advantage.shape[1], torch.full_like(signed, imitation)], dim=1)
    # zeros for the log-probabilities: they are not looked at, only their gradient is
    joined = replace(drawn, actions=torch.cat(actions, dim=1), reward=reward, log_prob=torch.zeros_like(reward))
    log_probs(env, policy, encoded, joined).backward(-weights)


# ---------------------------------------------------------------------- beams of partial solutions


def gathered(state: Any, index: Int64[Tensor, "batch kept"]) -> Any:
    """Return the state of some of the rollouts, ``[batch, kept]``; a rollout may be taken more than once."""

    def picked(value: Tensor) -> Tensor:
        at = index.view(*index.shape, *[1] * (value.dim() - 2))
        return value.gather(1, at.expand(-1, -1, *value.shape[2:]))

    return state._replace(**{k: picked(v) for k, v in state._asdict().items() if isinstance(v, Tensor)})


def grow(
    env: Problem,
    policy: Policy,
    encoded: Encoded,
    instances: TensorDict,
    width: int,
    keys: Callable[[Tensor, Tensor], Tensor],
    decoding: Sample | None = None,
    clock: Clock | None = None,
) -> tuple[Int64[Tensor, "batch kept steps"], Float64[Tensor, "batch kept"], Float64[Tensor, "batch kept"]]:
    """Build distinct action sequences side by side, keeping at each step those of the highest keys.

    A finished rollout has one child, by the padding action, of log-probability 0.

    Args:
        env: the problem.
        policy: what scores the actions.
        encoded: ``policy.encode(...)`` of the instances.
        instances: batch size ``[batch]``.
        width: sequences that are kept of each instance.
        keys: gives the keys of children, float64 ``[batch, beams, actions]``, from the keys of their parents
            ``[batch, beams]``, which are 0 at the root, and their own log-probabilities ``[batch, beams, actions]``;
            what it gives where these are -inf is not looked at.
        decoding: temperature, top-k and top-p that the policy is seen through.
        clock: looked at every `LOOK_EVERY` steps.

    Returns:
        Actions, log-probabilities, and keys, highest first. Where an instance has fewer sequences than another, its
        first is repeated with a key of -inf.

    Raises:
        Abandoned: the clock says that the time is over.
    """
    state, decoding = env.start(instances, 1), decoding or Sample()
    log_prob = torch.zeros(state.done.shape, dtype=torch.float64, device=state.done.device)
    key, choices = log_prob, []
    earliest, ended = env.earliest(instances), False
    for number in range(env.horizon(instances)):
        if clock is not None and number % LOOK_EVERY == 0:
            clock.look()
        if number >= earliest and number % LOOK_EVERY == 0:
            ended = bool(state.done.all())  # then one step more, so that every sequence ends in padding
        logits = decoding.filtered(policy.logits(encoded, env.step_features(state)))
        reached = log_prob.unsqueeze(-1) + logits.log_softmax(-1)
        alive = (reached > -math.inf) & (key > -math.inf).unsqueeze(-1)
        offered = keys(key, reached).masked_fill(~alive, -math.inf).flatten(1)
        key, child = offered.topk(min(width, offered.shape[1]), dim=1)
        # where there are fewer children, the best one stands in, so that states and actions stay allowed ones
        child = torch.where(key > -math.inf, child, child[:, :1])
        log_prob = reached.flatten(1).gather(1, child)
        parent, action = child // logits.shape[-1], child % logits.shape[-1]
        choices.append((parent, action))
        state = env.advance(gathered(state, parent), action)
        if ended:
            break
    kept = int((key > -math.inf).sum(1).max())
    row = torch.arange(kept, device=key.device).expand(len(key), -1)
    actions = []
    for parent, action in reversed(choices):
        actions.append(action.gather(1, row))
        row = parent.gather(1, row)
    return torch.stack(actions[::-1], dim=-1), log_prob[:, :kept], key[:, :kept]
