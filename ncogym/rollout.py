"""The one loop in which a policy acts in an environment, and the one parallel pass that scores what it did.

Acting is sequential and without gradients. It gives the log-probability of what was done, so that the algorithm's
loss can be asked first which trajectories carry a gradient; only these are then walked through again, all their steps
at once, in chunks of bounded memory, and the gradients meet at the encoder's outputs. States do not depend on the
weights, so the gradient is exactly that of the sequential loop.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Float32, Int64
from tensordict import TensorDict
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ncogym import kernels
from ncogym.errors import ArgumentError
from ncogym.features import StepFeatures, join_steps

LOOK_EVERY = 8  # steps between two looks whether all rollouts are done, where they end at different times
MEMORY_SHARE, MEMORY_MOST = (
    0.25,
    256e6,
)  # of the scoring pass: share of what is free, and bytes, above which it gains nothing
GRAPHS_KEPT = 4  # captured rollouts of a policy; each holds the memory of its shapes

Acting = Literal["auto", "eager", "compile", "graph", "kernel"]
Precision = Literal["float32", "tf32", "bfloat16"]


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
        condition: what stayed constant through each rollout, ``[batch, rollouts, ...]``, or None.
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
        condition: what stays constant through a rollout (a member's index, a latent), ``[batch, rollouts, ...]``.
        noise: uniform numbers from [0, 1), one a decision, at least as many steps as the horizon; None draws them where
            the decoding is stochastic.
        log_prob: tell the log-probability of what was done, that of the policy itself at temperature 1.
        acting: ``eager`` is the plain loop; ``compile`` compiles its step; ``graph`` captures the whole loop in a CUDA
            graph; ``kernel`` runs it in one call of a kernel (`ncogym.kernels`); ``auto`` is the kernel where there is
            one for this problem, policy and device, else eager.
        precision: of the matrix products: ``tf32`` on CUDA, or ``bfloat16`` tensors; a policy's logits, softmax and
            log-probabilities stay in float32. The CPU's kernel computes in float32 throughout; CUDA's takes bfloat16
            tensors, and multiplies float32 ones in three tf32 parts whatever is said here.

    Returns:
        Trajectories as long as the longest needs and up to `LOOK_EVERY` steps more, or as long as the horizon. Where
        rollouts may end at different times (`earliest` of the env), the eager loop's host looks now and then whether
        all are done.

    Raises:
        ArgumentError: there is no such way of acting, or not here.
    """
    for name, value, allowed in (("acting", acting, get_args(Acting)), ("precision", precision, get_args(Precision))):
        if value not in allowed:
            raise ArgumentError(f"{name}: {value!r} is not allowed; it must be one of {', '.join(allowed)}")
    device = next(iter(instances.values())).device
    batch = instances.batch_size[0]
    count = rollouts if first_actions is None else first_actions.shape[1]
    with torch.inference_mode(), _products_in(precision), _uncached_autocast(device):
        if not decoding.stochastic:
            noise = None
        elif noise is None:
            shape = (env.horizon(instances), batch, count)
            noise = torch.rand(shape, generator=_nearby(rng, device), device=device)
        given = torch.zeros(batch, count, 0, dtype=torch.int64, device=device)
        if first_actions is not None:
            given = first_actions.unsqueeze(-1) if first_actions.dim() == 2 else first_actions
        if precision == "bfloat16":
            encoded = policy.lowered(encoded, torch.bfloat16)
        kernel = None
        if acting in ("auto", "kernel"):
            kernel = kernels.find(env, policy, encoded, instances, decoding, condition, must=acting == "kernel")
        if kernel is not None:
            actions, chosen = kernel.rollouts(given, decoding.temperature if decoding.stochastic else 1.0, noise)
        else:
            loop = _Loop(env, policy, decoding, log_prob, "eager" if acting == "auto" else acting)
            if acting == "graph":
                actions, chosen = loop.captured(encoded, instances, given, noise, condition)
            else:
                actions, chosen = loop(encoded, instances, given, noise, condition)
        reward = _reward(env, instances, actions)
    # out of inference mode, so that autograd may keep them
    actions, reward = actions.clone(), reward.clone()
    forced = given.shape[-1]
    return Trajectories(instances, actions, reward, forced, chosen.clone() if log_prob else None, condition=condition)


class _Loop:
    """The plain loop over steps, its step as it is or compiled."""

    def __init__(self, env: Any, policy: Any, decoding: Any, log_prob: bool, acting: str) -> None:
        self.env, self.policy, self.decoding, self.log_prob = env, policy, decoding, log_prob
        self.step = _compiled_step() if acting == "compile" else _step
        self.looks = acting != "graph"

    def __call__(
        self,
        encoded: Any,
        instances: TensorDict,
        given: Int64[Tensor, "batch rollouts given"],
        noise: Tensor | None,
        condition: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return actions ``[batch, rollouts, steps]`` and the log-probability of each rollout ``[batch, rollouts]``."""
        env, batch_and_rollouts = self.env, given.shape[:2]
        state = env.start(instances, batch_and_rollouts[1])
        actions: list[Tensor] = []
        total = torch.zeros(batch_and_rollouts, device=given.device)
        earliest, ended = env.earliest(instances), False
        for number in range(env.horizon(instances)):
            if self.looks and number >= earliest and number % LOOK_EVERY == 0:
                ended = bool(state.done.all())  # then one step more, so that every rollout ends in padding
            if number < given.shape[-1]:
                actions.append(given[..., number])
                state = env.advance(state, actions[-1])
            else:
                drawn = None if noise is None else noise[number]
                action, chosen, state = self.step(
                    env, self.policy, self.decoding, encoded, state, drawn, condition, self.log_prob
                )
                actions.append(action)
                if chosen is not None:
                    total = total + chosen
            if ended:
                break
        return torch.stack(actions, dim=-1), total

    def captured(
        self, encoded: Any, instances: TensorDict, given: Tensor, noise: Tensor | None, condition: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Do the same by a CUDA graph of all steps up to the horizon, captured at its first use for these shapes."""
        if given.device.type != "cuda":
            raise ArgumentError(f"acting: 'graph' is not allowed on {given.device.type}; it takes a CUDA device")
        tensors = {f"encoded {k}": v for k, v in encoded._asdict().items() if isinstance(v, Tensor)}
        tensors |= {f"instance {k}": v for k, v in instances.items()}
        others = {"given": given, "noise": noise, "condition": condition}
        tensors |= {k: v for k, v in others.items() if v is not None}

        def run(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            mine = encoded._replace(**{k: inputs[f"encoded {k}"] for k in encoded._fields if f"encoded {k}" in inputs})
            held = TensorDict({k: inputs[f"instance {k}"] for k in instances.keys()}, instances.batch_size)
            return self(mine, held, inputs["given"], inputs.get("noise"), inputs.get("condition"))

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
    condition: Tensor | None,
    log_prob: bool,
) -> tuple[Tensor, Tensor | None, Any]:
    """Take one decision of every rollout: its action, log-probability where wanted, and the next state."""
    logits = policy.logits(encoded, env.step_features(state), condition)
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

    def score(shown: tuple[StepFeatures, Tensor | None], taken: Tensor) -> Tensor:
        log_prob = policy.logits(encoded, *shown).log_softmax(-1)
        chosen = log_prob.gather(-1, taken.unsqueeze(-1)).squeeze(-1)
        entropy = -(log_prob.exp() * log_prob.masked_fill(log_prob == -torch.inf, 0.0)).sum(-1)
        # detached afterwards: what autocast casts without gradients it would keep for those who need them
        read = policy.reading(encoded, shown[0]).detach()
        return torch.stack([chosen, head(torch.cat([summary.expand_as(read), read], dim=-1)), entropy])

    if scoring.fits(actions):
        found = [score(shown, taken) for _, shown, taken in scoring.chunks(actions, trajectories.condition)]
    else:
        found = [
            checkpoint(score, shown, taken, use_reentrant=False, preserve_rng_state=False)
            for _, shown, taken in scoring.chunks(actions, trajectories.condition)
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
    instances, actions, condition = trajectories.instances, trajectories.actions, trajectories.condition
    kernel = None
    if acting in ("auto", "kernel"):
        kernel = kernels.find(env, policy, encoded, instances, None, condition)
    known, forced = trajectories.log_prob, trajectories.forced
    if kernel is not None:
        if known is None:
            known = kernel.log_prob(actions, forced)
        inputs: Sequence[Tensor | None] = kernel.inputs

        def gradient(weights: Tensor) -> Sequence[Tensor | None]:
            chosen, taken, _ = _carrying(carrying, weights, actions)
            return kernel.gradient(taken, forced, chosen)

    else:
        scoring = _Scoring(env, policy, encoded, instances, forced, memory or scoring_memory(actions.device))
        if known is None and scoring.fits(actions):
            return scoring.whole(actions, condition)
        if known is None:
            known = scoring.known(actions, condition)
        inputs = [*scoring.encoded, *scoring.parameters]

        def gradient(weights: Tensor) -> Sequence[Tensor | None]:
            return scoring.gradient(*_carrying(carrying, weights, actions, condition))

    scored: Tensor = _Scored.apply(known, gradient, *inputs)
    return scored


def _carrying(
    count: int, weights: Tensor, actions: Tensor, condition: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the ``count`` trajectories of each instance whose derivatives ``weights`` are the largest."""
    if not 0 < count < weights.shape[1]:
        return weights, actions, condition
    index = weights.abs().topk(count, dim=1).indices
    rows = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
    return weights[rows, index], actions[rows, index], None if condition is None else condition[rows, index]


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
        self.encoded = [value for value in encoded if isinstance(value, Tensor) and value.is_floating_point()]
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

    def whole(self, actions: Tensor, condition: Tensor | None) -> Tensor:
        """Score all at once, by a graph of autograd's own."""
        chunks = self.chunks(actions, condition)
        found = [_log_prob(self.policy.logits(self.template, *shown), taken) for _, shown, taken in chunks]
        return torch.cat(found, dim=1).view(*actions.shape[:2], -1).sum(-1)

    def known(self, actions: Tensor, condition: Tensor | None) -> Tensor:
        """Score without gradients."""
        with torch.no_grad(), _uncached_autocast(actions.device):
            return self.whole(actions, condition)

    def gradient(self, weights: Tensor, actions: Tensor, condition: Tensor | None) -> list[Tensor | None]:
        """Return the gradients of the weighted sum of log-probabilities: of what was encoded, then of parameters."""
        leaves = [value.detach().requires_grad_() for value in self.encoded]
        replaced = iter(leaves)
        encoded = type(self.template)(
            *(next(replaced) if any(v is mine for mine in self.encoded) else v for v in self.template)
        )
        inputs = [*leaves, *self.parameters]
        sums: list[Tensor | None] = [None] * len(inputs)
        weights = weights.repeat_interleave(actions.shape[2] - self.forced, dim=1)
        with torch.enable_grad(), _uncached_autocast(actions.device, self.autocast):
            for part, shown, taken in self.chunks(actions, condition):
                scored = _log_prob(self.policy.logits(encoded, *shown), taken)
                found = torch.autograd.grad(scored, inputs, weights[:, part].to(scored.dtype), allow_unused=True)
                sums = [b if a is None else a if b is None else a.add_(b) for a, b in zip(sums, found, strict=True)]
        return sums

    def chunks(
        self, actions: Tensor, condition: Tensor | None
    ) -> Iterator[tuple[slice, tuple[StepFeatures, Tensor | None], Tensor]]:
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
                held = None
                if condition is not None:
                    held = condition[:, torch.arange(whole.start, whole.stop, device=condition.device) // steps]
                yield whole, (seen.select(part), held), taken[:, part]


# ---------------------------------------------------------------------- memory


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 2**32  # no such file on this system; what any machine of the day has


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


def encode(env: Any, policy: Any, instances: TensorDict, budget_bytes: float = 0) -> Any:
    """Encode instances for a search, as many at a time as fit into memory.

    Args:
        env: the problem.
        policy: whose encoder it is.
        instances: batch size ``[batch]``, thousands if need be.
        budget_bytes: what encoding may take; 0 is `search_memory`.

    Returns:
        ``policy.encode(...)`` of all of them, without gradients.
    """
    budget_bytes = budget_bytes or search_memory(next(iter(instances.values())).device)
    nodes = env.start(instances[:1]).action_mask.shape[-1]
    each = 4 * (policy.numbers_per_node * nodes + policy.numbers_per_pair * nodes**2)
    parts = instances.split(max(1, int(budget_bytes / each)))
    with torch.inference_mode():
        encoded = [policy.encode(env.instance_features(part)) for part in parts]
        if len(encoded) == 1:
            return encoded[0]
        fields = (None if values[0] is None else torch.cat(values) for values in zip(*encoded, strict=True))
        return type(encoded[0])(*fields)
