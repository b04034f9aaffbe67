"""What one training step may use: its instances, its policy, and random numbers drawn stream by stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Float32, Int64
from tensordict import TensorDict
from torch import Tensor

from ncogym.features import Encoded
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Decoding, Sample
from ncogym.rollout.acting import Acting, Precision
from ncogym.rollout.conditions import act, log_probs
from ncogym.rollout.scoring import Read, score_steps
from ncogym.rollout.trajectories import Rollouts, replay
from ncogym.task import Task


class Part(NamedTuple):
    """What one stream of a step draws.

    Attributes:
        env: the problem, of the size that this step has.
        instances: batch size ``[batch]``.
        labels: int64 ``[batch, 1, steps]``, a solution of each, or None.
        rng: the stream's, on the device.
    """

    env: Task
    instances: TensorDict
    labels: Tensor | None
    rng: torch.Generator


class Outcome(NamedTuple):
    """What an algorithm makes of a step.

    Attributes:
        loss: a scalar with gradients, to descend.
        metrics: what the log shall say beside loss and mean objective, scalars on their device.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, Float[Tensor, ""]] = {}  # noqa: RUF012 - a NamedTuple's default, which nobody writes to


K = TypeVar("K", bound=tuple[Tensor, ...])


def in_one_process(value: Tensor) -> Tensor:
    """Average a tensor over one process: it stays as it is."""
    return value


@dataclass
class Work:
    """All that one training step may use. An algorithm's step asks it for draws, rollouts and their scores.

    All that is drawn follows from the streams of the step, in the order in which the algorithm asks; so it makes no
    difference which process draws which stream.

    Example:
        >>> import torch, ncogym
        >>> from ncogym.algorithms import POMO
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.rollout import Work
        >>> env, rng = ncogym.make("tsp", num_nodes=5), torch.Generator().manual_seed(0)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2)
        >>> work = Work.alone(policy, env, env.generate(2, rng), rng)
        >>> POMO().step(work).loss.backward()

    Args:
        policy: what is trained.
        parts: what each stream of this process draws from.
        acting: how rollouts are run (`act`).
        precision: of their matrix products.
        memory: bytes that a chunk of the scoring pass may take; 0 is the default of `log_probs`.
        kept: what earlier steps on the same rollouts kept (`once`), by name.
        average_: averages a tensor over the processes, in place.

    Attributes:
        instances: of all parts, batch size ``[batch]``.
        rollouts: those that the step has acted or replayed last, or None.
    """

    policy: Policy
    parts: Sequence[Part]
    acting: Acting = "auto"
    precision: Precision = "float32"
    memory: float = 0
    kept: dict[str, Tensor] = field(default_factory=dict)
    average_: Callable[[Tensor], Tensor] = in_one_process
    rollouts: Rollouts | None = field(default=None, init=False)

    @classmethod
    def alone(
        cls,
        policy: Policy,
        env: Task,
        instances: TensorDict,
        rng: torch.Generator,
        labels: Tensor | None = None,
        **settings: Any,
    ) -> Work:
        """Return the work on one part: some instances and a generator on their device."""
        return cls(policy, [Part(env, instances, labels, rng)], **settings)

    @property
    def env(self) -> Task:
        """The problem, of the size that this step has."""
        return self.parts[0].env

    @cached_property
    def instances(self) -> TensorDict:
        """Those of all parts, batch size ``[batch]``."""
        return joined([part.instances for part in self.parts])

    @cached_property
    def encoded(self) -> Encoded:
        """What the policy makes of the instances, with gradients."""
        encoded: Encoded = self.policy.encode(self.env.instance_features(self.instances))
        return encoded

    def each(self, draw: Callable[[Part], Tensor]) -> Tensor:
        """Draw something in each stream, and join it.

        Args:
            draw: returns a tensor ``[batch, ...]`` of a part's own batch, or ``[1, ...]`` for all of its instances.
        """
        drawn = [draw(part) for part in self.parts]
        if len(drawn) == 1:
            return drawn[0]
        sizes = [part.instances.batch_size[0] for part in self.parts]
        return torch.cat([own.expand(size, *own.shape[1:]) for own, size in zip(drawn, sizes, strict=True)])

    def act(
        self,
        *,
        rollouts: int = 1,
        starts: Int64[Tensor, "batch rollouts"] | None = None,
        condition: Tensor | None = None,
        decoding: Decoding = Sample(),  # noqa: B008 - frozen
        log_prob: bool = True,
    ) -> Rollouts:
        """Let the policy build solutions, without gradients.

        Args:
            rollouts: of each instance, where ``starts`` does not say.
            starts: forced first actions.
            condition: what they are run under, as in `ncogym.rollout.act`.
            decoding: chooses actions.
            log_prob: tell the log-probability of what was done, so that only what carries a gradient is scored again.
        """
        count = rollouts if starts is None else starts.shape[1]
        noise = [self._noise(part, count) for part in self.parts]
        self.rollouts = act(
            self.env,
            self.policy,
            self.encoded,
            self.instances,
            decoding,
            torch.Generator(),  # all that is drawn is drawn already
            rollouts=count,
            first_actions=starts,
            noise=noise[0] if len(noise) == 1 else torch.cat(noise, 1),
            condition=condition,
            log_prob=log_prob,
            acting=self.acting,
            precision=self.precision,
        )
        return self.rollouts

    @staticmethod
    def _noise(part: Part, rollouts: int) -> Float32[Tensor, "steps batch {rollouts}"]:
        shape = (part.env.horizon(part.instances), part.instances.batch_size[0], rollouts)
        return torch.rand(shape, generator=part.rng, device=part.rng.device)

    def replay(self, actions: Int64[Tensor, "batch rollouts steps"], *, forced: int = 0) -> Rollouts:
        """Return given solutions as if the policy had built them.

        Args:
            actions: int64 ``[batch, rollouts, steps]``.
            forced: leading actions whose log-probability shall not count.
        """
        self.rollouts = replay(self.env, self.instances, actions, forced=forced)
        return self.rollouts

    def score(self, rollouts: Rollouts, *, carrying: int = 0) -> Float[Tensor, "batch rollouts"]:
        """Return the log-probability of rollouts, with gradients.

        Args:
            rollouts: of this step.
            carrying: rollouts of an instance whose derivative may differ from 0 (1 for the best of many); 0 is all.
        """
        return log_probs(
            self.env,
            self.policy,
            self.encoded,
            rollouts,
            memory=self.memory,
            carrying=carrying,
            acting=self.acting,
        )

    def score_steps(self, rollouts: Rollouts, read: Read) -> tuple[Float[Tensor, "batch rollouts decisions"], ...]:
        """Return any numbers of each decision, with gradients (`ncogym.rollout.score_steps`).

        Args:
            rollouts: of this step.
            read: the numbers, of what the policy says of decisions.
        """
        return score_steps(self.env, self.policy, self.encoded, rollouts, read, memory=self.memory)

    def once(self, kind: type[K], make: Callable[[], K]) -> K:
        """Return what the first of several steps on the same rollouts makes, in all of them.

        It is in the checkpoints between them, too.

        Args:
            kind: a NamedTuple of tensors ``[batch, rollouts, ...]``, whose fields no other one of the step has.
            make: makes it.
        """
        names: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]  # a NamedTuple's
        if not set(names) <= self.kept.keys():
            self.kept.update(zip(names, make(), strict=True))
        return kind(*(self.kept[name] for name in names))


def joined(parts: Sequence[TensorDict]) -> TensorDict:
    """Return the instances of several parts in one batch."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
