"""What fits into memory: how many rollouts at a time, how large a chunk, how many instances to encode at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from ncogym.errors import NotEnoughMemory
from ncogym.features import Encoded, SparseEdges
from ncogym.policies.base import Policy
from ncogym.problem import Dynamics, Problem
from ncogym.rollout.acting import Clock

MEMORY_SHARE = 0.25  # of what is free, that a chunk of the scoring pass may take
MEMORY_MOST = 256e6  # bytes, above which the scoring pass gains nothing
CONTAINER = Path("/sys/fs/cgroup")  # where Linux tells the memory of a container, as one sees it from within


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


def check_memory(env: Problem, policy: Policy, instances: TensorDict, share: float = 1.0) -> float:
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
def _watched(policy: Policy, clock: Clock | None) -> Iterator[None]:
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


def encoding_memory(env: Dynamics, policy: Policy, instances: TensorDict) -> float:
    """Return the bytes that a policy takes to encode one of the instances, about."""
    one = instances[:1]
    actions, edges = env.start(one).action_mask.shape[-1], 0
    if policy.numbers_per_edge:
        edges = sum(shown.ends.shape[1] for shown in env.instance_features(one) if isinstance(shown, SparseEdges))
    numbers = policy.encoding_numbers(actions, env.horizon(instances)) + policy.numbers_per_edge * edges
    return float(4 * numbers)


def search_memory(device: torch.device) -> float:
    """Return the bytes that a search may take at a time: a limit that never changes where as much memory is free.

    What is drawn depends on how many rollouts are run at once, and a seed shall mean the same on every machine.
    """
    return min(8e9 if device.type == "cuda" else 512e6, 0.5 * free_memory(device))


def scoring_memory(device: torch.device) -> float:
    """Return the bytes that a chunk of the scoring pass may take where nothing is said."""
    return min(MEMORY_MOST, MEMORY_SHARE * free_memory(device))


def rollouts_in_memory(env: Dynamics, policy: Policy, instances: TensorDict, budget_bytes: float = 0) -> int:
    """Return how many rollouts per instance fit into memory while a policy acts: a step of each at a time.

    Args:
        env: the problem.
        policy: what acts.
        instances: batch size ``[batch]``.
        budget_bytes: what they may take; 0 is `search_memory`.
    """
    budget_bytes = budget_bytes or search_memory(next(iter(instances.values())).device)
    actions = env.start(instances[:1]).action_mask.shape[-1]
    return max(1, int(budget_bytes / (4 * policy.query_numbers(actions) * instances.batch_size[0])))


def encode(
    env: Problem, policy: Policy, instances: TensorDict, budget_bytes: float = 0, *, clock: Clock | None = None
) -> Any:
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
        first: Any = encoded[0]
        if len(encoded) == 1:
            return first
        fields = (None if values[0] is None else torch.cat(values) for values in zip(*encoded, strict=True))
        joined: Encoded = type(first)(*fields)
        return joined
