"""Kernels that run whole rollouts of a pointer policy on a walk in one call, for the processor and for CUDA.

They know of no problem and no network, only of the words of `ncogym.features`: an environment that offers a `Walk`
and a policy that offers a `Pointer` meet here. The plain loop of `ncogym.rollout` is what they are held against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float32, Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.errors import ArgumentError
from ncogym.features import Encoded, Pointer, Walk
from ncogym.problem import Dynamics, Problem


class Backend(NamedTuple):
    """A module that has kernels for one kind of device, by functions of one contract.

    ``supports(pointer, walk)`` returns None, or in words why it cannot take them. ``rollouts(pointer, walk, given,
    temperature=, noise=, clock=)`` returns actions and their log-probabilities. Where it scores, ``log_prob(pointer,
    walk, actions, forced)`` returns those of given actions, and ``gradient(pointer, walk, actions, forced, weights)``
    the gradient of their weighted sum with respect to each tensor of the pointer.

    Attributes:
        device: type of the torch device.
        load: returns the module; it is imported when it is wanted.
        acts: whether it has ``rollouts``.
        scores: whether it has ``log_prob`` and ``gradient``.
        faster: whether it is known to beat the plain loop (docs/results.md); else it runs only where it is asked for.
    """

    device: str
    load: Callable[[], ModuleType]
    acts: bool
    scores: bool
    faster: bool


def _cpu() -> ModuleType:
    from ncogym.kernels import cpu

    return cpu


def _cuda() -> ModuleType:
    from ncogym.kernels import cuda

    return cuda


BACKENDS: tuple[Backend, ...] = (
    Backend("cpu", _cpu, acts=True, scores=True, faster=True),
    Backend("cuda", _cuda, acts=True, scores=False, faster=False),  # not measured on a GPU yet
)


class Kernel:
    """A kernel for some instances, as one policy encoded them.

    Args:
        backend: who has it.
        pointer: the decoder.
        walk: the problem.

    Attributes:
        inputs: the tensors that `gradient` returns the gradients of.
    """

    def __init__(self, backend: Backend, pointer: Pointer, walk: Walk) -> None:
        self.backend, self.walk, self.pointer = backend, walk, pointer
        self._module: Any = backend.load()
        self.inputs: Sequence[Tensor | None] = pointer[:-1]

    def rollouts(
        self,
        given: Int64[Tensor, "batch rollouts given"],
        temperature: float,
        noise: Float32[Tensor, "steps batch rollouts"] | None,
        clock: Any = None,
    ) -> tuple[Int64[Tensor, "batch rollouts steps"], Float32[Tensor, "batch rollouts"]]:
        """Return actions, and their log-probability at temperature 1 but for the given ones; no noise is greedy.

        Args:
            given: leading actions that are forced.
            temperature: divides the logits that actions are drawn from.
            noise: a uniform number from [0, 1) for each decision.
            clock: a `ncogym.rollout.Clock`, or None.
        """
        if clock is not None:
            clock.look()
        actions, log_prob = self._module.rollouts(
            self.pointer, self.walk, given, temperature=temperature, noise=noise, clock=clock
        )
        return actions, log_prob.sum(-1) if log_prob.dim() == 3 else log_prob

    def log_prob(
        self, actions: Int64[Tensor, "batch rollouts steps"], forced: int
    ) -> Float32[Tensor, "batch rollouts"]:
        """Return the log-probability of actions, but for the first ``forced``."""
        found: Tensor = self._module.log_prob(self.pointer, self.walk, actions, forced)
        return found

    def gradient(
        self, actions: Int64[Tensor, "batch rollouts steps"], forced: int, weights: Float32[Tensor, "batch rollouts"]
    ) -> Sequence[Tensor | None]:
        """Return the gradient of the weighted sum of log-probabilities with respect to each of `inputs`."""
        found: Sequence[Tensor | None] = self._module.gradient(self.pointer, self.walk, actions, forced, weights)
        return found


def find(
    env: Dynamics,
    policy: Any,
    encoded: Encoded,
    instances: TensorDict,
    decoding: Any | None,
    *,
    must: bool = False,
) -> Kernel | None:
    """Return the kernel for a policy in an environment, or None where there is none.

    Args:
        env: the problem.
        policy: what acts.
        encoded: ``policy.encode(...)`` of the instances.
        instances: batch size ``[batch]``.
        decoding: how actions are chosen; None looks for a kernel that scores.
        must: refuse in words where there is none; else one is found only where it is known to be the faster.

    Raises:
        ArgumentError: there is none and there must be.
    """
    found = _find(env, policy, encoded, instances, decoding)
    if isinstance(found, Kernel):
        return found if must or found.backend.faster else None
    if must:
        raise ArgumentError(f"acting: 'kernel' is not allowed here; {found}")
    return None


def prepare(env: Problem, instances: TensorDict, policy: Any, condition: Tensor | None = None) -> float:
    """Build the kernel that a policy takes in a problem, if there is one, before a clock starts.

    Args:
        env: the problem.
        instances: batch size ``[batch]``; one is encoded, if nothing draws a small one.
        policy: what will act.
        condition: under which it may, or None where it takes none.

    Returns:
        The seconds that compiling took: 0 where there is none, or it was compiled before.
    """
    from ncogym.kernels import cpu

    before = len(cpu.compiling)
    drawn = env.problem.distribution_type
    instances = instances[:1] if drawn is None else drawn().of_size(8).draw(1, torch.Generator().manual_seed(0))
    if env.walk(instances) is not None:
        with torch.inference_mode():
            encoded = policy.encode(env.instance_features(instances))
            if condition is not None:
                encoded = policy.under(encoded, condition[:, :1])
            find(env, policy, encoded, instances, None)
    return sum(cpu.compiling[before:])


def _find(env: Dynamics, policy: Any, encoded: Encoded, instances: TensorDict, decoding: Any | None) -> Kernel | str:
    """Return the kernel, or why there is none."""
    if decoding is not None and not decoding.plain:
        return "it samples without top-k and top-p"
    walk, pointer = env.walk(instances), policy.as_pointer(encoded)
    if walk is None or pointer is None:
        return f"{env.name} offers no walk" if walk is None else f"{type(policy).__name__} is no pointer"
    device = pointer.keys.device.type
    able = (each for each in BACKENDS if each.device == device and (each.acts if decoding else each.scores))
    if (backend := next(able, None)) is None:
        return f"there is none that {'acts' if decoding else 'scores'} on {device}"
    reason: str | None = backend.load().supports(pointer, walk)
    return Kernel(backend, pointer, walk) if reason is None else reason
