"""The one LightningModule: any policy, any algorithm, any source of instances; never subclassed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from ncogym.algorithms.base import Algorithm
from ncogym.errors import ArgumentError
from ncogym.policies.base import Policy
from ncogym.policies.decoding import Sample
from ncogym.rollout import act, log_probs, replay
from ncogym.training.data import Generated, Labelled, step_generator


@dataclass(frozen=True)
class Optimiser:
    """AdamW and its schedule: a linear warm-up, a plateau, and a linear anneal to zero at the end.

    Attributes:
        lr: learning rate of the plateau.
        betas: of Adam.
        weight_decay: decoupled, as in AdamW.
        warmup_steps: steps from 0 to ``lr``.
        anneal: share of all steps over which the rate falls from ``lr`` to 0 at the end.
        gradient_clip: largest norm of the gradient; 0 clips nothing.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-6
    warmup_steps: int = 0
    anneal: float = 0.1
    gradient_clip: float = 1.0

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ArgumentError(f"lr: {self.lr} is not allowed; it must be above 0")
        if not 0 <= self.anneal <= 1:
            raise ArgumentError(f"anneal: {self.anneal} is not allowed; it must be from 0 to 1")

    def factor(self, step: int, max_steps: int) -> float:
        """Return the share of ``lr`` at a step."""
        rise = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        fall = (max_steps - step) / (self.anneal * max_steps) if self.anneal else 1.0
        return max(0.0, min(1.0, rise, fall))


class TrainingModule(pl.LightningModule):
    """One training step: act or replay without gradients, score in parallel, ask the algorithm for the loss.

    Args:
        policy: what is trained.
        algorithm: the estimator.
        source: where instances come from.
        optimiser: AdamW's settings.
        max_steps: training steps in all, for the schedule.
        steps_per_epoch: steps between two validations and two calls of ``algorithm.epoch_end``.
        seed: of everything that training draws.
        max_queries: bounds the memory of the scoring pass (`ncogym.rollout.log_probs`); 0 is no bound.
    """

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        source: Generated | Labelled,
        optimiser: Optimiser,
        max_steps: int,
        steps_per_epoch: int,
        seed: int,
        max_queries: int = 0,
    ) -> None:
        super().__init__()
        self.policy, self.algorithm = policy, algorithm
        algorithm.attach(policy)
        self.source, self.optimiser = source, optimiser
        self.max_steps, self.steps_per_epoch = max_steps, steps_per_epoch
        self.seed, self.max_queries = seed, max_queries
        self.rollouts_in_step = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of one step; ``batch`` is ignored, since the step's number decides what is drawn."""
        step, rank = self.global_step, self.global_rank
        if step and step % self.steps_per_epoch == 0:
            # counted in steps and not by Lightning's epochs, so that a resumed run can neither miss nor repeat it
            self.algorithm.epoch_end(self.source.env, self.policy, step_generator(self.seed + 2, step, 0, self.device))
        rng = step_generator(self.seed, step, rank, self.device)
        host = step_generator(self.seed + 1, step, rank, "cpu")
        env, instances, labels = self.source.draw(rng, host)
        encoded = self.policy.encode(env.instance_features(instances))
        if self.algorithm.imitates and labels is not None:
            demonstrations = self.algorithm.demonstrations(env, instances, labels, rng)
            trajectories = replay(env, instances, demonstrations, forced=self.algorithm.forced)
        else:
            trajectories = act(
                env,
                self.policy,
                encoded,
                instances,
                Sample(),
                rng,
                rollouts=self.algorithm.rollouts,
                first_actions=self.algorithm.first_actions(env, instances, rng),
                record=not self.algorithm.chooses,
            )
            if self.algorithm.chooses:
                chosen = self.algorithm.choose(trajectories)
                trajectories = replay(env, instances, chosen, forced=trajectories.forced)
        trajectories = replace(
            trajectories,
            reward_baseline=self.algorithm.reward_baseline(env, trajectories),
            log_prob=log_probs(self.policy, encoded, trajectories, max_queries=self.max_queries),
        )
        loss = self.algorithm.loss(trajectories)
        self.rollouts_in_step = trajectories.reward.numel()
        objective = trajectories.reward.mean() * (-1 if env.sense == "min" else 1)
        self.log_dict({"loss": loss.detach(), "objective": objective}, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Build AdamW and its schedule, stepped once per training step."""
        o = self.optimiser
        adam = torch.optim.AdamW(self.policy.parameters(), lr=o.lr, betas=o.betas, weight_decay=o.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: o.factor(step, self.max_steps))
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> Any:
        """Count the steps of an epoch; the instances are drawn in `training_step`, on the device."""
        return torch.utils.data.DataLoader(_Steps(self.steps_per_epoch), batch_size=None, generator=torch.Generator())


class _Steps(torch.utils.data.Dataset[int]):
    """The numbers of an epoch's steps."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index
