"""Acting: the loop over steps in which a policy builds solutions, without gradients."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol, get_args

import torch
from jaxtyping import Float, Float32, Int64
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional

from ncogym import kernels
from ncogym.errors import ArgumentError
from ncogym.features import Encoded
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Decoding
from ncogym.problem import Dynamics, Problem, State
from ncogym.rollout.trajectories import Rollouts, reward_of

LOOK_EVERY = 8  # steps between two looks at the clock, and whether all are done, where they end at different times
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


def roll_out(
    env: Problem,
    policy: Policy,
    encoded: Encoded,
    instances: TensorDict,
    decoding: Decoding,
    rng: torch.Generator,
    *,
    rollouts: int = 1,
    first_actions: Int64[Tensor, "batch starts *given"] | None = None,
    noise: Float32[Tensor, "steps batch rollouts"] | None = None,
    log_prob: bool = False,
    acting: Acting = "auto",
    precision: Precision = "float32",
    clock: Clock | None = None,
) -> Rollouts:
    """Let a policy build solutions, as `ncogym.rollout.act` says, under no conditions.

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
        ArgumentError: there is no such way of acting, or not here.
        Abandoned: the clock says that the time is over.
    """
    check_ways(acting, precision)
    device, batch = next(iter(instances.values())).device, instances.batch_size[0]
    count = rollouts if first_actions is None else first_actions.shape[1]
    noise = noise_for(env, instances, count, decoding, noise, rng)
    with torch.inference_mode(), products_in(precision), uncached_autocast(device):
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
        reward = reward_of(env, instances, actions)
    # out of inference mode, so that autograd may keep them
    actions, reward = actions.clone(), reward.clone()
    forced = given.shape[-1]
    return Rollouts(instances, actions, reward, forced, chosen.clone() if log_prob else None)


def check_ways(acting: Acting, precision: Precision) -> None:
    """Refuse a way of acting or a precision that there is not.

    Raises:
        ArgumentError: it is named.
    """
    for name, value, allowed in (("acting", acting, get_args(Acting)), ("precision", precision, get_args(Precision))):
        if value not in allowed:
            raise ArgumentError(f"{name}: {value!r} is not allowed; it must be one of {', '.join(allowed)}")


def noise_for(
    env: Dynamics,
    instances: TensorDict,
    rollouts: int,
    decoding: Decoding,
    noise: Float32[Tensor, "steps batch rollouts"] | None,
    rng: torch.Generator,
) -> Float32[Tensor, "steps batch {rollouts}"] | None:
    """Return the noise that was given, or draw it; None where the decoding needs none."""
    if not decoding.stochastic:
        return None
    if noise is not None:
        return noise
    device = next(iter(instances.values())).device
    shape = (env.horizon(instances), instances.batch_size[0], rollouts)
    return torch.rand(shape, generator=nearby(rng, device), device=device)


def whole_rollouts(
    env: Problem,
    policy: Policy,
    encoded: Encoded,
    instances: TensorDict,
    decoding: Decoding,
    rollouts: int,
    starts: Int64[Tensor, "batch rollouts"] | None,
    noise: Float32[Tensor, "steps batch rollouts"] | None,
    log_prob: bool,
) -> Rollouts:
    """Let a policy build solutions in the plain loop, to the horizon and without a look at any number."""
    batch = instances.batch_size[0]
    given = torch.zeros(batch, rollouts, 0, dtype=torch.int64, device=next(iter(instances.values())).device)
    if starts is not None:
        given = starts.unsqueeze(-1)
    with torch.no_grad():
        loop = _Loop(env, policy, decoding, log_prob, "graph")
        actions, chosen = loop(encoded, instances, given, noise)
        reward = reward_of(env, instances, actions)
    return Rollouts(instances, actions, reward, given.shape[-1], chosen if log_prob else None)


class _Loop:
    """The plain loop over steps, its step as it is or compiled."""

    def __init__(
        self, env: Problem, policy: Policy, decoding: Decoding, log_prob: bool, acting: str, clock: Clock | None = None
    ) -> None:
        self.env, self.policy, self.decoding, self.log_prob = env, policy, decoding, log_prob
        self.step = _compiled_step() if acting == "compile" else _step
        self.looks = acting != "graph"
        self.clock = clock if self.looks else None

    def __call__(
        self,
        encoded: Encoded,
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
        self, encoded: Encoded, instances: TensorDict, given: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Do the same by a CUDA graph of all steps up to the horizon, captured at its first use for these shapes."""
        if given.device.type != "cuda":
            raise ArgumentError(f"acting: 'graph' is not allowed on {given.device.type}; it takes a CUDA device")
        tensors = {f"encoded {k}": v for k, v in encoded._asdict().items() if isinstance(v, Tensor)}
        tensors |= {f"instance {k}": v for k, v in instances.items()}
        tensors |= {k: v for k, v in (("given", given), ("noise", noise)) if v is not None}

        def run(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            mine = encoded._replace(
                **{k: inputs[f"encoded {k}"] for k in encoded._asdict() if f"encoded {k}" in inputs}
            )
            held = TensorDict({k: inputs[f"instance {k}"] for k in instances.keys()}, instances.batch_size)
            return self(mine, held, inputs["given"], inputs.get("noise"))

        kept = _GRAPHS.setdefault(self.policy, {})
        shapes = tuple((k, v.shape, v.dtype, v.device) for k, v in tensors.items())
        problem = (self.env.name, repr(self.env.arguments()))
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
    env: Dynamics,
    policy: Policy,
    decoding: Decoding,
    encoded: Encoded,
    state: State,
    noise: Tensor | None,
    log_prob: bool,
) -> tuple[Tensor, Tensor | None, Any]:
    """Take one decision of every rollout: its action, log-probability where wanted, and the next state."""
    logits = policy.logits(encoded, env.step_features(state))
    action = decoding(logits, noise)
    chosen = log_prob_of(logits, action) if log_prob else None
    return action, chosen, env.advance(state, action)


@functools.cache
def _compiled_step() -> Callable[..., tuple[Tensor, Tensor | None, Any]]:
    return torch.compile(_step)


def log_prob_of(
    logits: Float[Tensor, "batch queries actions"], action: Int64[Tensor, "batch queries"]
) -> Float[Tensor, "batch queries"]:
    """Return the log-probability of an action of each query."""
    # cross-entropy is the fused form of logits.gather(action) - logits.logsumexp(), forward and backward
    found = -functional.cross_entropy(logits.flatten(0, 1), action.flatten(), reduction="none")
    return found.view(action.shape)


def nearby(rng: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a generator on ``device``, seeded by ``rng`` where that is elsewhere."""
    if rng.device.type == device.type:
        return rng
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=rng, device=rng.device)))


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Let float32 matrix products on CUDA be done in tf32 meanwhile, where that is the precision."""
    before = torch.get_float32_matmul_precision()
    try:
        if precision == "tf32":
            torch.set_float32_matmul_precision("high")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def uncached_autocast(device: torch.device, like: Any = None) -> AbstractContextManager[Any]:
    """Autocast as it is now (or as ``like`` has it), without its cache, whose casts would know of no gradient."""
    if device.type == "meta":  # which has no autocast, and no numbers
        return nullcontext()
    enabled, dtype = like or autocast_state(device)
    return torch.autocast(device.type, dtype=dtype, enabled=enabled, cache_enabled=False)


def autocast_state(device: torch.device) -> tuple[bool, torch.dtype]:
    """Return whether autocast is on there now, and its dtype."""
    if device.type == "meta":
        return False, torch.float32
    return torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
