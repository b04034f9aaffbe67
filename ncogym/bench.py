"""Speed: how fast an environment steps, a policy decodes, and a training step runs."""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym import __version__, kernels
from ncogym.algorithms.pomo import POMO
from ncogym.errors import ArgumentError
from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Greedy
from ncogym.policies.graph import GraphPolicy
from ncogym.problem import Problem
from ncogym.rollout import LOOK_EVERY, Acting, Part, Precision, Rollouts, Work, act
from ncogym.task import Task

REPETITIONS = 5

What = Literal["env", "decode", "train"]


@dataclass(frozen=True)
class Setting:
    """What one measurement runs on.

    Attributes:
        env: the problem.
        instances: batch size ``[batch]``, on the device.
        starts: the first action of each rollout, int64 ``[batch, rollouts]``.
        rng: on the device.
        acting: how rollouts are run, see `ncogym.rollout.act`.
        precision: of the matrix products of acting.
    """

    env: Task
    instances: TensorDict
    starts: Tensor
    rng: torch.Generator
    acting: Acting = "auto"
    precision: Precision = "float32"


def bench(
    what: What,
    env: Task,
    *,
    batch: int,
    rollouts: int,
    device: str | None = None,
    acting: Acting = "auto",
    precision: Precision = "float32",
) -> dict[str, Any]:
    """Measure a speed: the median of five repetitions after one that warms up.

    Args:
        what: ``env`` walks with uniformly random allowed actions, the first among them, and scores the solutions, but
            computes nothing for a policy to see; ``decode`` builds greedy rollouts with a policy of random weights, its
            encoder included; ``train`` is one POMO step: act, score, backward, without optimiser. The policy is a
            `GraphPolicy` where the problem has operations or sparse edges, else an `AttentionPolicy` of POMO's form (6
            layers of 128 channels and 8 heads, instance normalisation, no edge bias).
        env: the problem and its size.
        batch: instances.
        rollouts: rollouts per instance; where the problem has fewer starts, they are gone round again.
        device: such as ``cpu`` or ``cuda``; None takes ``cuda`` where there is one.
        acting: how rollouts are run, see `ncogym.rollout.act`.
        precision: of the matrix products of acting.

    Returns:
        The JSON object of docs/design.md section 6. A step is one decision of one rollout; the padding of a finished
        rollout is none. Peak memory is what tensors took on a CUDA device, elsewhere what the whole process took so
        far.

    Raises:
        ArgumentError: there is no such device, or no such way of acting on it.
    """
    at = _device(device)
    rng = torch.Generator(device=at).manual_seed(0)
    instances = env.generate(batch, rng)
    first = env.first_actions(instances)
    starts = first[:, torch.arange(rollouts, device=at) % first.shape[1]]
    setting = Setting(env, instances, starts, rng, acting, precision)
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)  # of the random weights
        run = {"env": walk, "decode": decode, "train": train_step}[what](setting)
        acted = "eager" if what == "env" else acted_by(setting)
    seconds, speed = _medians(run, setting)
    return {
        "what": what,
        "env": env.name,
        "device": str(at),
        "batch": batch,
        "rollouts": rollouts,
        "dtype": precision,
        "acting": acted,
        "seconds_median": seconds,
        "instances_per_second": batch / seconds,
        "steps_per_second": speed,
        "peak_memory_bytes": _peak_memory(at),
        "versions": {"python": platform.python_version(), "ncogym": __version__, "torch": torch.__version__},
    }


def uniform(action_mask: Tensor, rng: torch.Generator) -> Tensor:
    """Draw one of the allowed actions of each row, each as likely as the other.

    One random number a row picks a rank among the allowed actions: about a tenth of the time of one number an action.

    Args:
        action_mask: bool ``[..., actions]``, True = allowed, which some action of each row must be.
        rng: on the mask's device.

    Returns:
        int64 ``[...]``.
    """
    whole = torch.int16 if action_mask.shape[-1] < 2**15 else torch.int32  # the short sum is the faster
    counts = action_mask.cumsum(-1, dtype=whole)
    drawn = torch.rand(*action_mask.shape[:-1], 1, generator=rng, device=rng.device, dtype=torch.float64)
    rank = (drawn * counts[..., -1:]).to(whole)  # below the count even where drawn is the largest number below 1
    return torch.searchsorted(counts, rank, right=True).squeeze(-1)


def num_decisions(env: Problem, instances: TensorDict, actions: Tensor) -> int:
    """Count the actions, int64 ``[batch, rollouts, steps]``, that were taken by rollouts not yet done."""
    state = env.start(instances, actions.shape[1])
    count = torch.zeros((), dtype=torch.int64, device=actions.device)
    for action in actions.unbind(-1):
        count += (~state.done).sum()
        state = env.advance(state, action)
    return int(count)


def walk(setting: Setting) -> Callable[[], Tensor]:
    """Return a run of ``start`` and ``advance`` with random allowed actions to the end, scored at last."""
    env, instances, rollouts = setting.env, setting.instances, setting.starts.shape[1]
    earliest = max(1, env.earliest(instances))

    @torch.inference_mode()
    def run() -> Tensor:
        state, actions = env.start(instances, rollouts), []
        for number in range(env.horizon(instances)):
            if number >= earliest and number % LOOK_EVERY == 0 and state.done.all():
                break
            actions.append(uniform(state.action_mask, setting.rng))
            state = env.advance(state, actions[-1])
        stacked = torch.stack(actions, dim=-1)
        env.objective(instances, stacked)
        return stacked

    return run


def decode(setting: Setting) -> Callable[[], Tensor]:
    """Return a run of greedy multi-start decoding."""
    env, instances = setting.env, setting.instances
    policy = _policy(setting).eval()

    @torch.inference_mode()
    def run() -> Tensor:
        encoded = policy.encode(env.instance_features(instances))
        return act(
            env,
            policy,
            encoded,
            instances,
            Greedy(),
            setting.rng,
            first_actions=setting.starts,
            acting=setting.acting,
            precision=setting.precision,
        ).actions

    return run


class _FromStarts(POMO):
    """POMO from starts that are given, which may be more than the problem has.

    Args:
        given: int64 ``[batch, rollouts]``.
    """

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given = given

    def first_actions(self, part: Part) -> Tensor:
        return self.given


def train_step(setting: Setting) -> Callable[[], Tensor]:
    """Return a run of one POMO step without its optimiser."""
    env, instances, algorithm = setting.env, setting.instances, _FromStarts(setting.starts)
    policy = _policy(setting).train()

    def run() -> Tensor:
        work = Work.alone(policy, env, instances, setting.rng, acting=setting.acting, precision=setting.precision)
        algorithm.step(work).loss.backward()
        policy.zero_grad()
        return cast(Rollouts, work.rollouts).actions

    return run


def acted_by(setting: Setting) -> str:
    """Return how the rollouts of a setting are run: what ``auto`` stands for there."""
    if setting.acting != "auto":
        return setting.acting
    policy, env = _policy(setting), setting.env
    with torch.inference_mode():
        encoded = policy.encode(env.instance_features(setting.instances[:1]))
        found = kernels.find(env, policy, encoded, setting.instances[:1], Greedy())
    return "eager" if found is None else "kernel"


def _policy(setting: Setting) -> Policy:
    dims = setting.env.feature_dims
    policy = GraphPolicy(dims) if dims.operation or dims.sparse else AttentionPolicy(dims, edge_bias=False)
    return policy.to(setting.starts.device)


def _device(name: str | None) -> torch.device:
    """Return the device of that name, once a tensor could be made there."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's own assertion where it was built without CUDA
        raise ArgumentError(f"device: {name!r} is not allowed here ({str(error).splitlines()[0]})") from error
    return device


def _medians(run: Callable[[], Tensor], setting: Setting) -> tuple[float, float]:
    """Return the median seconds and the median decisions per second of the repetitions."""
    device = setting.starts.device
    run()
    times, speeds = [], []
    for _ in range(REPETITIONS):
        _wait(device)
        begin = time.perf_counter()
        actions = run()
        _wait(device)
        times.append(time.perf_counter() - begin)
        speeds.append(num_decisions(setting.env, setting.instances, actions) / times[-1])
    return statistics.median(times), statistics.median(speeds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
