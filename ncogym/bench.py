"""Speed: how fast an environment steps, a policy decodes, and a training step runs."""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym import __version__
from ncogym.algorithms.pomo import POMO
from ncogym.errors import ArgumentError
from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.decoding import Greedy, Sample
from ncogym.rollout import act, log_probs

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
    """

    env: Any
    instances: TensorDict
    starts: Tensor
    rng: torch.Generator


def bench(what: What, env: Any, *, batch: int, rollouts: int, device: str | None = None) -> dict[str, Any]:
    """Measure a speed: the median of five repetitions after one that warms up.

    Args:
        what: ``env`` walks with random allowed actions; ``decode`` builds greedy rollouts with an `AttentionPolicy` of
            random weights, its encoder included; ``train`` is one POMO step: act, score, backward, without optimiser.
        env: the problem and its size.
        batch: instances.
        rollouts: rollouts per instance; where the problem has fewer starts, they are gone round again.
        device: such as ``cpu`` or ``cuda``; None takes ``cuda`` where there is one.

    Returns:
        The JSON object of docs/design.md section 6. A step is one decision of one rollout. Peak memory is what tensors
        took on a CUDA device, elsewhere what the whole process took so far.

    Raises:
        ArgumentError: there is no such device.
    """
    at = _device(device)
    rng = torch.Generator(device=at).manual_seed(0)
    instances = env.generate(batch, rng)
    first = env.first_actions(instances)
    starts = first[:, torch.arange(rollouts, device=at) % first.shape[1]]
    setting = Setting(env, instances, starts, rng)
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)  # of the random weights
        run = {"env": walk, "decode": decode, "train": train_step}[what](setting)
    seconds = _median_seconds(run, at)
    return {
        "what": what,
        "env": env.name,
        "device": str(at),
        "batch": batch,
        "rollouts": rollouts,
        "dtype": "float32",
        "acting": "eager",
        "seconds_median": seconds,
        "instances_per_second": batch / seconds,
        "steps_per_second": batch * rollouts * env.horizon(instances) / seconds,
        "peak_memory_bytes": _peak_memory(at),
        "versions": {"python": platform.python_version(), "ncogym": __version__, "torch": torch.__version__},
    }


def walk(setting: Setting) -> Callable[[], None]:
    """Return a run of ``start`` and ``advance`` with random allowed actions to the end."""
    env, instances, rng = setting.env, setting.instances, setting.rng

    def run() -> None:
        state = env.start(instances, setting.starts.shape[1])
        for _ in range(env.horizon(instances)):
            mask = state.action_mask
            drawn = torch.rand(mask.shape, generator=rng, device=mask.device)
            state = env.advance(state, drawn.masked_fill_(~mask, -1).argmax(-1))

    return run


def decode(setting: Setting) -> Callable[[], None]:
    """Return a run of greedy multi-start decoding."""
    env, instances = setting.env, setting.instances
    policy = AttentionPolicy(env.feature_dims).to(setting.starts.device).eval()

    @torch.inference_mode()
    def run() -> None:
        encoded = policy.encode(env.instance_features(instances))
        act(env, policy, encoded, instances, Greedy(), setting.rng, first_actions=setting.starts)

    return run


def train_step(setting: Setting) -> Callable[[], None]:
    """Return a run of one POMO step without its optimiser."""
    env, instances, algorithm = setting.env, setting.instances, POMO()
    policy = AttentionPolicy(env.feature_dims).to(setting.starts.device).train()

    def run() -> None:
        encoded = policy.encode(env.instance_features(instances))
        trajectories = act(
            env, policy, encoded, instances, Sample(), setting.rng, first_actions=setting.starts, record=True
        )
        scored = replace(trajectories, log_prob=log_probs(policy, encoded, trajectories))
        algorithm.loss(scored).backward()
        policy.zero_grad()

    return run


def _device(name: str | None) -> torch.device:
    """Return the device of that name, once a tensor could be made there."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's own assertion where it was built without CUDA
        raise ArgumentError(f"device: {name!r} is not allowed here ({str(error).splitlines()[0]})") from error
    return device


def _median_seconds(run: Callable[[], None], device: torch.device) -> float:
    run()
    times = []
    for _ in range(REPETITIONS):
        _wait(device)
        begin = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
