"""The law for devices that are not here: a training step keeps to its device and looks at no number.

torch has a device ``meta``, whose tensors have shapes and no numbers. What runs there makes no tensor elsewhere and
never lets a number decide on the host: so it runs on a GPU, and without waiting for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any, cast

import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym.algorithms import Algorithm
from ncogym.errors import NcogymError
from ncogym.features import Encoded
from ncogym.laws import LawBroken
from ncogym.policies import Policy
from ncogym.policies.decoding import Decoding, Sample
from ncogym.rollout import Part, Rollouts, Work
from ncogym.rollout.acting import whole_rollouts
from ncogym.task import Task

META = torch.device("meta")
EXCEPTIONS = {  # by what torch says of an encoder, and of nothing else: why it is done on the CPU and moved
    "torch.nonzero()": "the encoder lists the edges of a graph, and how many there are is a number of the host's",
}
"""Beside these, two things are done otherwise than on a device, since there is no other way: what is drawn is drawn on
the CPU and moved, for meta has no generators; and the loop runs to the horizon without a look whether all are done, as
it does in a CUDA graph (on other devices it looks once in `ncogym.rollout.LOOK_EVERY` steps, where rollouts end at
different times)."""


class _Shapes(Work):
    """The work of a step on meta, with draws of real instances."""

    real: Part
    real_policy: Policy
    exception: str | None = None

    @cached_property
    def encoded(self) -> Encoded:
        """What the policy makes of the instances; done on the CPU and moved where an exception is named."""
        try:
            return super().encoded
        except NotImplementedError as error:
            self.exception = next((reason for words, reason in EXCEPTIONS.items() if words in str(error)), None)
            if self.exception is None:
                raise
        there: Any = self.real_policy.encode(self.env.instance_features(self.real.instances))
        moved = {name: value.detach().to(META) for name, value in there._asdict().items() if isinstance(value, Tensor)}
        return cast(Encoded, there._replace(**{k: v.requires_grad_(v.is_floating_point()) for k, v in moved.items()}))

    def each(self, draw: Callable[[Part], Tensor]) -> Tensor:
        return draw(self.real).to(META)

    def act(
        self,
        *,
        rollouts: int = 1,
        starts: Tensor | None = None,
        condition: Tensor | None = None,
        decoding: Decoding = Sample(),  # noqa: B008 - frozen
        log_prob: bool = True,
    ) -> Rollouts:
        if condition is not None:
            return super().act(
                rollouts=rollouts, starts=starts, condition=condition, decoding=decoding, log_prob=log_prob
            )
        count = rollouts if starts is None else starts.shape[1]
        noise = torch.rand(self.env.horizon(self.instances), len(self.instances), count, device=META)
        self.rollouts = whole_rollouts(
            self.env, self.policy, self.encoded, self.instances, decoding, count, starts, noise, log_prob
        )
        return self.rollouts

    @staticmethod
    def _noise(part: Part, rollouts: int) -> Tensor:
        return torch.rand(part.env.horizon(part.instances), len(part.instances), rollouts, device=META)


def check_training_step(
    env: Task, policy: Policy, algorithm: Algorithm, *, labels: Tensor | None = None, seed: int = 0
) -> str | None:
    """Take a training step on the device meta: dynamics, features, encoder, logits, the loop, scoring, loss, backward.

    Args:
        env: the problem and its distribution, in a small size.
        policy: a copy of which takes the step.
        algorithm: that has met it (`Algorithm.attach`); a copy takes the step.
        labels: int64 ``[2, 1, steps]``, for an algorithm that imitates.
        seed: of the two instances.

    Returns:
        None, or the reason among `EXCEPTIONS` for which the encoder was run on the CPU; all else is checked.

    Raises:
        LawBroken: a tensor lies elsewhere, or the host looked at one; the text says what torch says of it.

    Example:
        >>> from ncogym.algorithms import POMO
        >>> from ncogym.device_law import check_training_step
        >>> from ncogym.envs import build_task
        >>> from ncogym.policies import AttentionPolicy
        >>> env = build_task("tsp", num_nodes=5)
        >>> check_training_step(env, AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2), POMO())
    """
    rng = torch.Generator().manual_seed(seed)
    real = env.generate(2, rng)
    there = TensorDict({key: value.to(META) for key, value in real.items()}, batch_size=[2])
    network, estimator = copy.deepcopy(policy).to(META), copy.deepcopy(algorithm).to(META)
    work = _Shapes(network, [Part(env, there, None, rng)], acting="eager")
    work.real, work.real_policy = Part(env, real, labels, rng), policy
    what = f"{env.name} with {type(policy).__name__} and {type(algorithm).__name__}"
    try:
        loss = estimator.step(work).loss
        loss.backward()
    except NcogymError:
        raise
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        said = " ".join(str(error).split())
        raise LawBroken(f"{what} breaks the law 'a step keeps to its device and looks at no number': {said}") from error
    held: dict[str, Any] = {"the loss": loss, **{name: each.grad for name, each in network.named_parameters()}}
    elsewhere = [name for name, value in held.items() if value is not None and value.device != META]
    if elsewhere:
        raise LawBroken(f"{what} breaks the law 'a step keeps to its device and looks at no number': {elsewhere[0]}")
    return work.exception
