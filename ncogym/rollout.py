"""The one loop in which a policy acts in an environment, and the one parallel pass that scores what it did.

Acting is sequential and without gradients. It gives the log-probability of what was done, so that the algorithm's
loss can be asked first which trajectories carry a gradient; only these are then walked through again, all their steps
at once, in chunks of bounded memory, and the gradients meet at the encoder's outputs. States do not depend on the
weights, so the gradient is exactly that of the sequential loop.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from jaxtyping import Float, Float32, Int64
from tensordict import TensorDict
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ncogym import kernels
from ncogym.errors import ArgumentError, NotEnoughMemory
from ncogym.features import StepFeatures, join_steps

LOOK_EVERY = 8  # steps between two looks at the clock, and whether all are done, where they end at different times
MEMORY_SHARE, MEMORY_MOST = (
    0.25,
    256e6,
)  # of the scoring pass: share of what is free, and bytes, above which it gains nothing
ROWS_MOST = 16e6  # bytes of the rows of a part of a batch under conditions, on CPUs, above which it gains nothing
CONTAINER = Path("/sys/fs/cgroup")  # where Linux tells the memory of a container, as one sees it from within
GRAPHS_KEPT = 4  # captured rollouts of a policy; each holds the memory of its shapes

Acting = Literal["auto", "eager", "compile", "graph", "kernel"]
Precision = Literal["float32", "tf32", "bfloat16"]


class Clock(Protocol):
    """What ends a rollout before its time (`ncogym.books.Progress`)."""

    @property
    def allowed(self) -> float:
        """Wall-clock seconds that a rollout may still take."""

    def look(self) -> None:
        """Raise `ncogym.errors.Abandoned` where no time is allowed any more."""


class Steps(NamedTuple):
    """The decisions of rollouts one by one, from the first that was not forced, each ``[batch, rollouts, decisions]``.

    Attributes:
        log_prob: float32, of the action taken.
        value: float32, what a value head says of the state before it.
        entropy: float32, of the distribution that it was drawn from.
    """

    log_prob: Tensor
    value: Tensor
    entropy: Tensor


class Record(NamedTuple):
    """What does not change while the same rollouts are learnt from, each ``[batch, rollouts, decisions]``.

    Attributes:
        reward: float32, of each decision; their sum is the reward of a rollout, less that of forced actions.
        open: bool, True = the rollout was not done before; what follows is padding.
        log_prob: float32, as in `Steps`, of the policy that acted; without gradients.
        value: float32, as in `Steps`, from that time; without gradients.
    """

    reward: Tensor
    open: Tensor
    log_prob: Tensor
    value: Tensor


@dataclass(frozen=True)
class Trajectories:
    """Rollouts of a batch of instances, from the first action to the last.

    Attributes:
        instances: batch size ``[batch]``.
        actions: int64 ``[batch, rollouts, steps]``.
        reward: float32 ``[batch, rollouts]``, the objective with the sign that makes more better.
        forced: leading actions that were given (starts), whose log-probability does not count.
        log_prob: float32 ``[batch, rollouts]``: as acted, without gradients; once scored, with them. None: not known.
        reward_baseline: what the rewards are compared with, broadcastable to ``[batch, rollouts]``, or None.
        condition: what rollouts were run under (members, latents), ``[batch, conditions, ...]`` or, the same for all
            instances, ``[1, conditions, ...]``; as many rollouts under each, those of the first first. None: nothing.
        summary: what the policy says of each instance, without gradients, ``[batch, dim]``, or None.
        steps: decisions, scored with gradients, or None.
        record: of the same decisions when the rollouts were new, or None.
    """

    instances: TensorDict
    actions: Tensor
    reward: Tensor
    forced: int = 0
    log_prob: Tensor | None = None
    reward_baseline: Tensor | None = None
    condition: Tensor | None = None
    summary: Tensor | None = None
    steps: Steps | None = None
    record: Record | None = None


# ---------------------------------------------------------------------- acting


def act(
    env: Any,
    policy: Any,
    encoded: Any,
    instances: TensorDict,
    decoding: Any,
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
) -> Trajectories:
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
        Trajectories as long as the longest needs and up to `LOOK_EVERY` steps more, or as long as the horizon. Where
        rollouts may end at different times (`earliest` of the env), the eager loop's host looks now and then whether
        all are done.

    Raises:
        ArgumentError: there is no such way of acting, or not here; or rollouts are no multiple of the conditions.
        Abandoned: the clock says that the time is over.
    """
    for name, value, allowed in (("acting", acting, get_args(Acting)), ("precision", precision, get_args(Precision))):
        if value not in allowed:
            raise ArgumentError(f"{name}: {value!r} is not allowed; it must be one of {', '.join(allowed)}")
    device = next(iter(instances.values())).device
    batch = instances.batch_size[0]
    count = rollouts if first_actions is None else first_actions.shape[1]
    if not decoding.stochastic:
        noise = None
    elif noise is None:
        shape = (env.horizon(instances), batch, count)
        noise = torch.rand(shape, generator=_nearby(rng, device), device=device)
    if condition is not None:
        under = _Rows(env, policy, encoded, instances, condition, count)
        return under.act(decoding, rng, first_actions, noise, log_prob, acting, precision, clock)
    with torch.inference_mode(), _products_in(precision), _uncached_autocast(device):
        given = torch.zeros(batch, count, 0, dtype=torch.int64, device=device)
        if first_actions is not None:
            given = first_actions.unsqueeze(-1) if first_actions.dim() == 2 else first_actions
        if precision == "bfloat16":
            encoded = policy.lowered(encoded, torch.bfloat16)
        kernel = None
        if acting in ("auto", "kernel"):
            kernel = kernels.find(env, policy, encoded, instances, decoding, must=acting == "kernel")
        if kernel is not None:
            temperature = decoding.temperature if decoding.stochastic else 1.0
            actions, chosen = kernel.rollouts(given, temperature, noise, clock)
        else:
            loop = _Loop(env, policy, decoding, log_prob, "eager" if acting == "auto" else acting, clock)
            if acting == "graph":
                actions, chosen = loop.captured(encoded, instances, given, noise)
            else:
                actions, chosen = loop(encoded, instances, given, noise)
        reward = _reward(env, instances, actions)
    # out of inference mode, so that autograd may keep them
    actions, reward = actions.clone(), reward.clone()
    forced = given.shape[-1]
    return Trajectories(instances, actions, reward, forced, chosen.clone() if log_prob else None)


class _Loop:
    """The plain loop over steps, its step as it is or compiled."""

    def __init__(
        self, env: Any, policy: Any, decoding: Any, log_prob: bool, acting: str, clock: Clock | None = None
    ) -> None:
        self.env, self.policy, self.decoding, self.log_prob = env, policy, decoding, log_prob
        self.step = _compiled_step() if acting == "compile" else _step
        self.looks = acting != "graph"
        self.clock = clock if self.looks else None

    def __call__(
        self,
        encoded: Any,
        instances: TensorDict,
        given: Int64[Tensor, "batch rollouts given"],
        noise: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return actions ``[batch, rollouts, steps]`` and the log-probability of each rollout ``[batch, rollouts]``."""
        env, batch_and_rollouts = self.env, given.shape[:2]
        state = env.start(instances, batch_and_rollouts[1])
        actions: list[Tensor] = []
        total = torch.zeros(batch_and_rollouts, device=given.device)
        earliest, ended = env.earliest(instances), False
        for number in range(env.horizon(instances)):
            if self.clock is not None and number % LOOK_EVERY == 0:
                self.clock.look()
            if self.looks and number >= earliest and number % LOOK_EVERY == 0:
                ended = bool(state.done.all())  # then one step more, so that every rollout ends in padding
            if number < given.shape[-1]:
                actions.append(given[..., number])
                state = env.advance(state, actions[-1])
            else:
                drawn = None if noise is None else noise[number]
                action, chosen, state = self.step(env, self.policy, self.decoding, encoded, state, drawn, self.log_prob)
                actions.append(action)
                if chosen is not None:
                    total = total + chosen
            if ended:
                break
        return torch.stack(actions, dim=-1), total

    def captured(
        self, encoded: Any, instances: TensorDict, given: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Do the same by a CUDA graph of all steps up to the horizon, captured at its first use for these shapes."""
        if given.device.type != "cuda":
            raise ArgumentError(f"acting: 'graph' is not allowed on {given.device.type}; it takes a CUDA device")
        tensors = {f"encoded {k}": v for k, v in encoded._asdict().items() if isinstance(v, Tensor)}
        tensors |= {f"instance {k}": v for k, v in instances.items()}
        tensors |= {k: v for k, v in (("given", given), ("noise", noise)) if v is not None}

        def run(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            mine = encoded._replace(**{k: inputs[f"encoded {k}"] for k in encoded._fields if f"encoded {k}" in inputs})
            held = TensorDict({k: inputs[f"instance {k}"] for k in instances.keys()}, instances.batch_size)
            return self(mine, held, inputs["given"], inputs.get("noise"))

        kept = _GRAPHS.setdefault(self.policy, {})
        shapes = tuple((k, v.shape, v.dtype, v.device) for k, v in tensors.items())
        problem = (type(self.env), repr(self.env.arguments()))
        key = (problem, self.decoding, self.log_prob, torch.is_autocast_enabled("cuda"), shapes)
        graph = kept.pop(key, None) or _Captured(run, tensors)
        kept[key] = graph  # the last used comes last
        while len(kept) > GRAPHS_KEPT:
            del kept[next(iter(kept))]
        return graph(tensors)


class _Captured:
    """A function of tensors, captured in a CUDA graph.

    Args:
        run: the function; it launches the same kernels whatever the tensors hold.
        inputs: tensors of the shapes that it will always be called with.
    """

    def __init__(self, run: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]], inputs: dict[str, Tensor]) -> None:
        self.inputs = {k: v.clone() for k, v in inputs.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is made at the first call (workspaces, plans) must not be captured
            run(self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = run(self.inputs)

    def __call__(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        for name, value in inputs.items():
            self.inputs[name].copy_(value)
        self.graph.replay()
        return self.outputs[0].clone(), self.outputs[1].clone()


_GRAPHS: weakref.WeakKeyDictionary[Any, dict[Any, _Captured]] = weakref.WeakKeyDictionary()


def _step(
    env: Any,
    policy: Any,
    decoding: Any,
    encoded: Any,
    state: Any,
    noise: Tensor | None,
    log_prob: bool,
) -> tuple[Tensor, Tensor | None, Any]:
    """Take one decision of every rollout: its action, log-probability where wanted, and the next state."""
    logits = policy.logits(encoded, env.step_features(state))
    action = decoding(logits, noise)
    chosen = _log_prob(logits, action) if log_prob else None
    return action, chosen, env.advance(state, action)


@functools.cache
def _compiled_step() -> Callable[..., tuple[Tensor, Tensor | None, Any]]:
    return torch.compile(_step)


def _log_prob(
    logits: Float[Tensor, "batch queries actions"], action: Int64[Tensor, "batch queries"]
) -> Float[Tensor, "batch queries"]:
    # cross-entropy is the fused form of logits.gather(action) - logits.logsumexp(), forward and backward
    found = -functional.cross_entropy(logits.flatten(0, 1), action.flatten(), reduction="none")
    return found.view(action.shape)


def _nearby(rng: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a generator on ``device``, seeded by ``rng`` where that is elsewhere."""
    if rng.device.type == device.type:
        return rng
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=rng, device=rng.device)))


@contextmanager
def _products_in(precision: Precision) -> Iterator[None]:
    """Let float32 matrix products on CUDA be done in tf32 meanwhile, where that is the precision."""
    before = torch.get_float32_matmul_precision()
    try:
        if precision == "tf32":
            torch.set_float32_matmul_precision("high")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _uncached_autocast(device: torch.device, like: Any = None) -> AbstractContextManager[Any]:
    """Autocast as it is now (or as ``like`` has it), without its cache, whose casts would know of no gradient."""
    enabled, dtype = like or _autocast_state(device)
    return torch.autocast(device.type, dtype=dtype, enabled=enabled, cache_enabled=False)


def _autocast_state(device: torch.device) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)


def _reward(env: Any, instances: TensorDict, actions: Tensor) -> Tensor:
    objective = env.objective(instances, actions)
    return (-objective if env.sense == "min" else objective).float()


def replay(
    env: Any, instances: TensorDict, actions: Int64[Tensor, "batch rollouts steps"], *, forced: int = 0
) -> Trajectories:
    """Return given solutions (labels) as if a policy had built them; their log-probability is not known yet.

    Args:
        env: the problem.
        instances: batch size ``[batch]``.
        actions: int64 ``[batch, rollouts, steps]``.
        forced: leading actions whose log-probability shall not count.
    """
    return Trajectories(instances, actions, _reward(env, instances, actions), forced)


def steps_seen(env: Any, instances: TensorDict, actions: Int64[Tensor, "batch rollouts steps"]) -> list[StepFeatures]:
    """Walk through actions ``[batch, rollouts, steps]`` and return what a policy sees before each step."""
    state = env.start(instances, actions.shape[1])
    seen = []
    for action in actions.unbind(-1):
        seen.append(env.step_features(state))
        state = env.advance(state, action)
    return seen


@torch.no_grad()
def record(env: Any, trajectories: Trajectories, steps: Steps) -> Record:
    """Walk through new rollouts and return the rewards of their decisions beside how these are scored now."""
    actions, forced = trajectories.actions, trajectories.forced
    state = env.start(trajectories.instances, actions.shape[1])
    rewards, still = [], []
    for action in actions.unbind(-1):
        successor = env.advance(state, action)
        rewards.append(env.reward(state, action, successor))
        still.append(~state.done)
        state = successor
    reward, open_ = (torch.stack(each[forced:], dim=-1) for each in (rewards, still))
    return Record(reward, open_, steps.log_prob.detach(), steps.value.detach())


# ---------------------------------------------------------------------- scoring


def score_steps(
    env: Any,
    policy: Any,
    encoded: Any,
    trajectories: Trajectories,
    head: Callable[[Tensor], Tensor],
    *,
    memory: float = 0,
) -> Steps:
    """Score each decision of trajectories, in plain tensor operations, with gradients for the policy and a value head.

    Chunks are computed a second time when their gradient is asked for, so that beside one of them no more is held than
    what the policy is shown at all decisions (`StepFeatures`) and three numbers of each.

    Args:
        env: the problem.
        policy: as it acted.
        encoded: ``policy.encode(...)`` with gradients.
        trajectories: of this policy or of an earlier one.
        head: values what a policy reads of states, ``[batch, queries, 2 width]``, as ``[batch, queries]``: the
            summary of the instance and what the decoder reads. No gradient passes from it to the policy.
        memory: bytes that a chunk may take; 0 is a quarter of what is free, and at most `MEMORY_MOST`.
    """
    actions = trajectories.actions
    scoring = _Scoring(
        env, policy, encoded, trajectories.instances, trajectories.forced, memory or scoring_memory(actions.device)
    )
    summary = policy.summary(encoded).detach().unsqueeze(1)

    def score(shown: StepFeatures, taken: Tensor) -> Tensor:
        log_prob = policy.logits(encoded, shown).log_softmax(-1)
        chosen = log_prob.gather(-1, taken.unsqueeze(-1)).squeeze(-1)
        entropy = -(log_prob.exp() * log_prob.masked_fill(log_prob == -torch.inf, 0.0)).sum(-1)
        # detached afterwards: what autocast casts without gradients it would keep for those who need them
        read = policy.reading(encoded, shown).detach()
        return torch.stack([chosen, head(torch.cat([summary.expand_as(read), read], dim=-1)), entropy])

    if scoring.fits(actions):
        found = [score(shown, taken) for _, shown, taken in scoring.chunks(actions)]
    else:
        found = [
            checkpoint(score, shown, taken, use_reentrant=False, preserve_rng_state=False)
            for _, shown, taken in scoring.chunks(actions)
        ]
    return Steps(*torch.cat(found, dim=2).unflatten(2, (actions.shape[1], -1)))


def log_probs(
    env: Any,
    policy: Any,
    encoded: Any,
    trajectories: Trajectories,
    *,
    memory: float = 0,
    carrying: int = 0,
    acting: Acting = "auto",
) -> Float[Tensor, "batch rollouts"]:
    """Score trajectories in parallel, with gradients.

    Where the log-probabilities are known from acting, nothing is computed until a gradient is asked for, and then only
    for the trajectories that carry one.

    Args:
        env: the problem.
        policy: as it acted.
        encoded: ``policy.encode(...)`` with gradients; its backward runs once, however many chunks there are.
        trajectories: of this policy, or labels.
        memory: bytes that a chunk of steps may take; 0 is a quarter of what is free, and at most `MEMORY_MOST`.
        carrying: trajectories of an instance whose derivative may differ from 0 (1 for the best of many); 0 is all.
        acting: ``auto`` and ``kernel`` score by a kernel where one scores on this device (the CPU's does, CUDA's only
            acts); the others do not.

    Returns:
        float32 ``[batch, rollouts]``, the log-probability of the actions that were not forced.
    """
    instances, actions = trajectories.instances, trajectories.actions
    known, forced = trajectories.log_prob, trajectories.forced
    kernel = None
    if trajectories.condition is None and acting in ("auto", "kernel"):
        kernel = kernels.find(env, policy, encoded, instances, None)
    if trajectories.condition is not None:
        under = _Rows(env, policy, encoded, instances, trajectories.condition, actions.shape[1], memory)
        if known is None:
            known = under.log_prob(actions, forced, acting)
        inputs: Sequence[Tensor | None] = [*under.shared, *under.parameters]

        def gradient(weights: Tensor) -> Sequence[Tensor | None]:
            return under.gradient(weights, actions, forced, carrying, acting)

    elif kernel is not None:
        if known is None:
            known = kernel.log_prob(actions, forced)
        inputs = kernel.inputs

        def gradient(weights: Tensor) -> Sequence[Tensor | None]:
            chosen, taken = _carrying(carrying, weights, actions)
            return kernel.gradient(taken, forced, chosen)

    else:
        scoring = _Scoring(env, policy, encoded, instances, forced, memory or scoring_memory(actions.device))
        if known is None and scoring.fits(actions):
            return scoring.whole(actions)
        if known is None:
            known = scoring.known(actions)
        inputs = [*scoring.encoded, *scoring.parameters]

        def gradient(weights: Tensor) -> Sequence[Tensor | None]:
            return scoring.gradient(*_carrying(carrying, weights, actions))

    scored: Tensor = _Scored.apply(known, gradient, *inputs)
    return scored


def _carrying(count: int, weights: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ``count`` trajectories of each instance whose derivatives ``weights`` are the largest."""
    if not 0 < count < weights.shape[1]:
        return weights, actions
    rows, index = _largest(count, weights)
    return weights[rows, index], actions[rows, index]


def _largest(count: int, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of the ``count`` largest numbers of each row, by magnitude."""
    index = weights.abs().topk(count, dim=1).indices
    return torch.arange(index.shape[0], device=index.device).unsqueeze(1), index


class _Scored(torch.autograd.Function):
    """Known values with a gradient that is computed when it is asked for."""

    @staticmethod
    def forward(ctx: Any, known: Tensor, gradient: Callable[..., Any], *inputs: Tensor | None) -> Tensor:  # noqa: ARG004
        ctx.gradient = gradient
        return known.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> Any:
        return None, None, *ctx.gradient(weights)


class _Scoring:
    """The scoring pass in plain tensor operations: a block of rollouts is walked through, then scored in chunks."""

    def __init__(self, env: Any, policy: Any, encoded: Any, instances: TensorDict, forced: int, memory: float) -> None:
        self.env, self.policy, self.template, self.instances, self.forced = env, policy, encoded, instances, forced
        self.encoded = _floats(encoded)
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.autocast = _autocast_state(self.encoded[0].device)
        start, batch = env.start(instances[:1]), instances.batch_size[0]
        shown = sum(v.numel() * v.element_size() for v in env.step_features(start) if v is not None)
        numbers = 3 * policy.numbers_per_action * start.action_mask.shape[-1]
        # of an instance at a time: steps that are seen, and steps that are scored
        self.seen, self.queries = (max(1, int(memory / (each * batch))) for each in (shown, 4 * numbers))

    def fits(self, actions: Tensor) -> bool:
        """Say whether all steps of all rollouts fit into one chunk."""
        return actions.shape[1] * actions.shape[2] <= min(self.queries, self.seen)

    def whole(self, actions: Tensor) -> Tensor:
        """Score all at once, by a graph of autograd's own."""
        chunks = self.chunks(actions)
        found = [_log_prob(self.policy.logits(self.template, shown), taken) for _, shown, taken in chunks]
        return torch.cat(found, dim=1).view(*actions.shape[:2], -1).sum(-1)

    def known(self, actions: Tensor) -> Tensor:
        """Score without gradients."""
        with torch.no_grad(), _uncached_autocast(actions.device):
            return self.whole(actions)

    def gradient(self, weights: Tensor, actions: Tensor) -> list[Tensor | None]:
        """Return the gradients of the weighted sum of log-probabilities: of what was encoded, then of parameters."""
        leaves = [value.detach().requires_grad_() for value in self.encoded]
        encoded = _with(self.template, leaves)
        inputs = [*leaves, *self.parameters]
        sums: list[Tensor | None] = [None] * len(inputs)
        weights = weights.repeat_interleave(actions.shape[2] - self.forced, dim=1)
        with torch.enable_grad(), _uncached_autocast(actions.device, self.autocast):
            for part, shown, taken in self.chunks(actions):
                scored = _log_prob(self.policy.logits(encoded, shown), taken)
                found = torch.autograd.grad(scored, inputs, weights[:, part].to(scored.dtype), allow_unused=True)
                sums = _added(sums, found)
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


def _floats(encoded: Any) -> list[Tensor]:
    """Return the tensors of an encoding that may have gradients."""
    return [value for value in encoded if isinstance(value, Tensor) and value.is_floating_point()]


def _with(encoded: Any, floats: Iterable[Tensor]) -> Any:
    """Return an encoding with other tensors in the places of those that `_floats` returns."""
    others, mine = iter(floats), _floats(encoded)
    return type(encoded)(*(next(others) if any(v is each for each in mine) else v for v in encoded))


def _added(sums: Sequence[Tensor | None], more: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [b if a is None else a if b is None else a.add_(b) for a, b in zip(sums, more, strict=True)]


# ---------------------------------------------------------------------- conditions


class _Rows:
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
        env: Any,
        policy: Any,
        encoded: Any,
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
        self.shared = _floats(encoded)
        self.parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        device = self.shared[0].device
        self.autocast = _autocast_state(device)
        with torch.no_grad(), _uncached_autocast(device):
            self.first = self.under(slice(0, 1))
        size = sum(v.numel() * v.element_size() for v in self.first if isinstance(v, Tensor))
        most = memory or min(scoring_memory(device), ROWS_MOST if device.type == "cpu" else math.inf)
        batch, part = instances.batch_size[0], max(1, int(most / size))
        self.parts = [slice(begin, min(begin + part, batch)) for begin in range(0, batch, part)]

    def under(self, part: slice) -> Any:
        """Return the rows of a part of the batch under all conditions."""
        return self.policy.under(self.sliced(part), self.own(self.condition, part))

    def sliced(self, part: slice) -> Any:
        """Return what was encoded of a part of the batch."""
        return type(self.encoded)(*(value[part] if isinstance(value, Tensor) else value for value in self.encoded))

    @staticmethod
    def own(condition: Tensor, part: slice) -> Tensor:
        """Return the conditions of a part of the batch; what all instances share stays the tensor that it is."""
        return condition if len(condition) == 1 else condition[part]

    def repeated(self, part: slice, count: int) -> TensorDict:
        """Return the instances of a part, each as often as it has rows."""
        numbers = torch.arange(part.start, part.stop, device=self.shared[0].device)
        rows: TensorDict = self.instances[numbers.repeat_interleave(count)]
        return rows

    def act(
        self,
        decoding: Any,
        rng: torch.Generator,
        first_actions: Tensor | None,
        noise: Tensor | None,
        log_prob: bool,
        acting: Acting,
        precision: Precision,
        clock: Clock | None,
    ) -> Trajectories:
        """Run the rollouts of each part."""
        batch, count, acted = self.instances.batch_size[0], self.condition.shape[1], []
        for part in self.parts:
            with torch.inference_mode(), _products_in(precision), _uncached_autocast(self.shared[0].device):
                rows = self.first if batch == 1 else self.under(part)
            given = None if first_actions is None else first_actions[part].unflatten(1, (count, -1)).flatten(0, 1)
            drawn = None if noise is None else noise[:, part].unflatten(2, (count, -1)).flatten(1, 2)
            acted.append(
                act(
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
        return Trajectories(
            self.instances,
            torch.cat(actions).view(batch, -1, steps),
            torch.cat([each.reward for each in acted]).view(batch, -1),
            acted[0].forced,
            torch.cat(known).view(batch, -1) if known else None,
            condition=self.condition,
        )

    def _scored(
        self, rows: Any, part: slice, actions: Tensor, count: int, forced: int, known: bool, acting: Acting
    ) -> Tensor:
        """Return the log-probabilities ``[rows, rollouts]`` of the rollouts of a part, ``count`` rows an instance."""
        mine = actions.unflatten(1, (count, -1)).flatten(0, 1)
        # where gradients alone are wanted nobody looks at the values
        values = torch.zeros(mine.shape[:2], device=mine.device)
        rollouts = Trajectories(self.repeated(part, count), mine, values, forced, values if known else None)
        return log_probs(self.env, self.policy, rows, rollouts, memory=self.memory, acting=acting)

    def log_prob(self, actions: Tensor, forced: int, acting: Acting) -> Tensor:
        """Score without gradients."""
        found, count = [], self.condition.shape[1]
        with torch.no_grad(), _uncached_autocast(actions.device):
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
            row, index = _largest(carrying, weights)
            weights, actions, count = weights[row, index], actions[row, index], carrying
            condition = condition.expand(len(index), *condition.shape[1:])[row, index // self.each]
        whole = [torch.zeros_like(value) for value in self.shared]
        sums: list[Tensor | None] = [None] * len(self.parameters)
        for part in self._smaller(count):
            mine = self.sliced(part)
            leaves = [value.detach().requires_grad_() for value in _floats(mine)]
            with torch.enable_grad(), _uncached_autocast(actions.device, self.autocast):
                rows = self.policy.under(_with(mine, leaves), self.own(condition, part))
                scored = self._scored(rows, part, actions[part], count, forced, True, acting)
                carried = weights[part].view(scored.shape).to(scored.dtype)
                found = torch.autograd.grad(scored, [*leaves, *self.parameters], carried, allow_unused=True)
            for total, more in zip(whole, found[: len(leaves)], strict=True):
                if more is not None:
                    total[part] = more
            sums = _added(sums, found[len(leaves) :])
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


# ---------------------------------------------------------------------- memory


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    try:
        with open("/proc/meminfo") as file:
            free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 2**32  # no such file on this system; what any machine of the day has
    try:  # a container may have less than its machine
        most, used, kept = ((CONTAINER / f"memory.{name}").read_text() for name in ("max", "current", "stat"))
        cached = next(int(line.split()[1]) for line in kept.splitlines() if line.startswith("inactive_file "))
        return min(free, max(int(most) - int(used) + cached, 0))
    except (OSError, ValueError, StopIteration):  # it has no limit, which is told as "max"
        return free


def check_memory(env: Any, policy: Any, instances: TensorDict, share: float = 1.0) -> float:
    """Refuse instances that are too large for a policy to encode one of them, before any memory is taken.

    Args:
        env: the problem.
        policy: whose encoder it is.
        instances: batch size ``[batch]``.
        share: of the memory that is free, which it may take.

    Returns:
        The bytes that one takes (`encoding_memory`).

    Raises:
        NotEnoughMemory: it takes more.
    """
    takes, free = encoding_memory(env, policy, instances), free_memory(next(iter(instances.values())).device)
    if takes > share * free:
        size, of = env.instance_size(instances), "" if share == 1 else f"{100 * share:g} % of "
        what = f"{type(policy).__name__} takes about {takes / 1e9:.2g} GB to encode {env.name} of size {size}"
        raise NotEnoughMemory(f"{what}; allowed are {of}the {free / 1e9:.2g} GB that are free")
    return takes


@contextmanager
def _watched(policy: Any, clock: Clock | None) -> Iterator[None]:
    """Let each module of a policy look at the clock before it computes: of a large instance a layer takes seconds."""
    if clock is None:
        yield
        return
    hooks = [module.register_forward_pre_hook(lambda *_: clock.look()) for module in policy.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def encoding_memory(env: Any, policy: Any, instances: TensorDict) -> float:
    """Return the bytes that a policy takes to encode one of the instances, about."""
    actions = env.start(instances[:1]).action_mask.shape[-1]
    return float(4 * policy.encoding_numbers(actions, env.horizon(instances)))


def search_memory(device: torch.device) -> float:
    """Return the bytes that a search may take at a time: a limit that never changes where as much memory is free.

    What is drawn depends on how many rollouts are run at once, and a seed shall mean the same on every machine.
    """
    return min(8e9 if device.type == "cuda" else 512e6, 0.5 * free_memory(device))


def scoring_memory(device: torch.device) -> float:
    """Return the bytes that a chunk of the scoring pass may take where nothing is said."""
    return min(MEMORY_MOST, MEMORY_SHARE * free_memory(device))


def rollouts_in_memory(env: Any, policy: Any, instances: TensorDict, budget_bytes: float = 0) -> int:
    """Return how many rollouts per instance fit into memory while a policy acts: a step of each at a time.

    Args:
        env: the problem.
        policy: what acts.
        instances: batch size ``[batch]``.
        budget_bytes: what they may take; 0 is `search_memory`.
    """
    budget_bytes = budget_bytes or search_memory(next(iter(instances.values())).device)
    actions = env.start(instances[:1]).action_mask.shape[-1]
    return max(1, int(budget_bytes / (4 * policy.numbers_per_action * actions * instances.batch_size[0])))


def encode(env: Any, policy: Any, instances: TensorDict, budget_bytes: float = 0, *, clock: Clock | None = None) -> Any:
    """Encode instances for a search, as many at a time as fit into memory.

    Args:
        env: the problem.
        policy: whose encoder it is.
        instances: batch size ``[batch]``, thousands if need be.
        budget_bytes: what encoding may take; 0 is `search_memory`.
        clock: looked at before each module of the policy computes.

    Returns:
        ``policy.encode(...)`` of all of them, without gradients.

    Raises:
        Abandoned: the clock says that the time is over.
        NotEnoughMemory: not even one instance fits.
    """
    each = check_memory(env, policy, instances)
    budget_bytes = budget_bytes or search_memory(next(iter(instances.values())).device)
    parts = instances.split(max(1, int(budget_bytes / each)))
    with torch.inference_mode(), _watched(policy, clock):
        encoded = [policy.encode(env.instance_features(part)) for part in parts]
        if len(encoded) == 1:
            return encoded[0]
        fields = (None if values[0] is None else torch.cat(values) for values in zip(*encoded, strict=True))
        return type(encoded[0])(*fields)
