"""The one LightningModule: any policy, any algorithm, any source of instances; never subclassed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from ncogym.algorithms.base import Algorithm
from ncogym.distributed import average_, gather, rank, world
from ncogym.errors import ArgumentError, CheckpointError
from ncogym.policies.base import Policy
from ncogym.rollout import Acting, Part, Precision, Work
from ncogym.training.data import Generated, Labelled, Stream, step_generator, stream
from ncogym.training.limits import COUNT, SEED, check


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
        check("lr", self.lr, above=0)
        for beta in self.betas:
            check("betas", beta, least=0, below=1)
        check("weight_decay", self.weight_decay, least=0)
        check("warmup_steps", self.warmup_steps, least=0, most=COUNT)
        check("anneal", self.anneal, least=0, most=1)
        check("gradient_clip", self.gradient_clip, least=0)

    def factor(self, step: int, max_steps: int) -> float:
        """Return the share of ``lr`` at a step."""
        rise = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        fall = (max_steps - step) / (self.anneal * max_steps) if self.anneal else 1.0
        return max(0.0, min(1.0, rise, fall))


class TrainingModule(pl.LightningModule):
    """Training: it draws instances, lets the algorithm take its step, and keeps optimiser, clipping and checkpoints.

    Where an algorithm learns from the same rollouts in several epochs, each epoch is a step, and rollouts are drawn at
    steps that are multiples of their number. Those in use are in every checkpoint, each process's own.

    Steps draw their instances themselves, clip by `Optimiser.gradient_clip`, and are whole: what a Trainer is told of
    other data, clipping or accumulation is refused when it begins to fit. The settings that are plain values are the
    checkpoint's hyperparameters, so that `load_from_checkpoint` takes the other three
    (docs/clients.md).

    Example:
        >>> import ncogym
        >>> from ncogym.algorithms import POMO
        >>> from ncogym.policies import AttentionPolicy
        >>> from ncogym.training.data import Generated
        >>> from ncogym.training.module import Optimiser, TrainingModule
        >>> env = ncogym.make("tsp", num_nodes=5)
        >>> policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2)
        >>> module = TrainingModule(policy, POMO(), Generated(env, 5, 5, 20), Optimiser(), 10, 10, seed=0)
        >>> [part.instances.shape for part in module.draw(0)]
        [torch.Size([4])]

    Args:
        policy: what is trained.
        algorithm: the estimator.
        source: where instances come from.
        optimiser: AdamW's settings, or the same as `dataclasses.asdict` gives them.
        max_steps: training steps in all, for the schedule.
        steps_per_epoch: steps between two validations and two calls of ``algorithm.epoch_end``.
        seed: of everything that training draws.
        scoring_bytes: what a chunk of the scoring pass may take (`ncogym.rollout.log_probs`); 0 is its default.
        acting: how rollouts are run (`ncogym.rollout.act`).
        acting_precision: of their matrix products.
        streams: of random numbers, which the processes share equally; the numbers of a run depend on how many they are.

    Attributes:
        outcome: loss, mean objective and what the algorithm measures of the last step in this process, on the device.
        rollouts_in_step: new ones of the last step in this process.
    """

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        source: Generated | Labelled,
        optimiser: Optimiser | Mapping[str, Any],
        max_steps: int,
        steps_per_epoch: int,
        seed: int,
        scoring_bytes: int = 0,
        acting: Acting = "auto",
        acting_precision: Precision = "float32",
        streams: int = 1,
    ) -> None:
        super().__init__()
        if isinstance(optimiser, Mapping):
            optimiser = Optimiser(**{**optimiser, "betas": tuple(optimiser["betas"])})
        for name, value in (("max_steps", max_steps), ("steps_per_epoch", steps_per_epoch), ("streams", streams)):
            check(name, value, least=1, most=COUNT)
        for name in ("rollouts", "epochs", "starts", "samples", "latents", "sequences", "evaluation_size"):
            check(f"algorithm.{name}", getattr(algorithm, name, None), least=0, most=COUNT)
        check("seed", seed, least=0, most=SEED)
        check("scoring_bytes", scoring_bytes, least=0, most=2**62)
        # in plain values, since checkpoints are read without unpickling anything else
        self.save_hyperparameters(
            {
                "optimiser": asdict(optimiser),
                "max_steps": max_steps,
                "steps_per_epoch": steps_per_epoch,
                "seed": seed,
                "scoring_bytes": scoring_bytes,
                "acting": acting,
                "acting_precision": acting_precision,
                "streams": streams,
            }
        )
        for empty in (parameter for parameter in policy.parameters() if not parameter.numel()):
            empty.requires_grad_(False)  # a policy of a problem without roles has one; DDP would wait for its gradient
        self.policy, self.algorithm = policy, algorithm
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            algorithm.attach(policy)
        self.source, self.optimiser = source, optimiser
        self.max_steps, self.steps_per_epoch = max_steps, steps_per_epoch
        self.seed, self.scoring_bytes = seed, scoring_bytes
        self.acting, self.acting_precision = acting, acting_precision
        self.streams = streams
        self.outcome: dict[str, Tensor] = {}
        self.rollouts_in_step = 0
        self._again: tuple[list[Part], dict[str, Tensor]] | None = None  # what is learnt from once more, and its memory
        self._loaded: list[dict[str, Tensor]] = []  # the same out of a checkpoint, of each process

    def on_train_epoch_start(self) -> None:
        """Refuse what a Trainer was told and what would change nothing here, rather than leave it out in silence.

        Raises:
            ArgumentError: one of these was given.
        """
        trainer = self.trainer
        given = trainer.fit_loop._data_source.instance
        refused = {
            "accumulate_grad_batches": (trainer.accumulate_grad_batches, 1, "a larger nodes_per_batch"),
            "gradient_clip_val": (trainer.gradient_clip_val, None, "Optimiser.gradient_clip"),
            "overfit_batches": (vars(trainer)["overfit_batches"], 0, "a source that repeats its instances"),
            "train_dataloaders": (None if given is self else type(given).__name__, None, "the module's source"),
        }
        for name, (value, allowed, instead) in refused.items():
            if value != allowed:
                raise ArgumentError(f"{name}: {value} is not allowed with this module; take {instead}")
        if self.streams % world():
            raise ArgumentError(f"streams: {self.streams} is not allowed for {world()} processes; they must share them")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of one step; ``batch`` is ignored, since the step's number decides what is drawn."""
        step = self.global_step
        if step and step % self.steps_per_epoch == 0:
            # counted in steps and not by Lightning's epochs, so that a resumed run can neither miss nor repeat it
            self.algorithm.epoch_end(self.source.env, self.policy, step_generator(self.seed + 2, step, 0, self.device))
        epoch = step % self.algorithm.epochs
        if not epoch:
            self._again = self.draw(step), {}
        elif self._again is None:
            self._again = self.draw(step - epoch), self._restored(step - epoch)
        parts, kept = self._again
        work = Work(
            self.policy,
            parts,
            acting=self.acting,
            precision=self.acting_precision,
            memory=self.scoring_bytes,
            kept=kept,
            average_=average_,
        )
        loss, metrics = self.algorithm.step(work)
        if epoch + 1 == self.algorithm.epochs:
            self._again = None
        found = work.rollouts
        self.rollouts_in_step = 0 if epoch or found is None else found.reward.numel()
        self.outcome = {"loss": loss.detach()}
        if found is not None:
            self.outcome["objective"] = found.reward.mean() * (-1 if work.env.sense == "min" else 1)
        self.outcome |= metrics
        return loss

    def draw(self, step: int) -> list[Part]:
        """Draw what a step begins with, a part for each stream of this process, with the streams as they are then."""
        each = self.streams // world()
        numbers = range(rank() * each, (rank() + 1) * each)
        return [self._part(stream(self.seed, step, number, self.streams, self.device)) for number in numbers]

    def _part(self, of: Stream) -> Part:
        env, instances, labels = self.source.draw(of)
        return Part(env, instances, labels, of.rng)

    def _restored(self, step: int) -> dict[str, Tensor]:
        """Return this process's part of what a checkpoint has of the steps from ``step`` on."""
        parts = self._loaded
        if not parts:
            raise CheckpointError(f"resume: the checkpoint has no rollouts of step {step}; epochs must be as before")
        mine = parts[rank()] if len(parts) == world() else _shared(parts)
        self._loaded = []
        return {name: value.to(self.device) for name, value in mine.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what further steps on the same rollouts need, a part for each process."""
        parts = self._loaded
        if self._again is not None:
            parts = gather({name: value.cpu() for name, value in self._again[1].items()})
        checkpoint["rollouts"] = parts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take these rollouts out again."""
        self._loaded = checkpoint.get("rollouts", [])  # there are none in checkpoints of earlier versions

    def configure_optimizers(self) -> Any:
        """Build AdamW and its schedule, stepped once per training step."""
        o = self.optimiser
        adam = torch.optim.AdamW(
            [*self.policy.parameters(), *self._of_algorithm()],
            lr=o.lr,
            betas=o.betas,
            weight_decay=o.weight_decay,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: o.factor(step, self.max_steps))
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip the gradients of the policy and of the algorithm, each by its own norm.

        Lightning refuses to where a fused optimiser meets mixed precision.
        """
        if self.optimiser.gradient_clip:
            for parameters in (self.policy.parameters(), self._of_algorithm()):
                torch.nn.utils.clip_grad_norm_(parameters, self.optimiser.gradient_clip)

    def _of_algorithm(self) -> list[Tensor]:
        return [parameter for parameter in self.algorithm.parameters() if parameter.requires_grad]

    def train_dataloader(self) -> Any:
        """Count the steps of an epoch; the instances are drawn in `training_step`, on the device."""
        return range(self.steps_per_epoch)


def _shared(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Share among the processes the rollouts ``[batch, rollouts, steps]`` that another number of them had."""
    longest = max(part["actions"].shape[-1] for part in parts)
    shared = {}
    for name in parts[0]:
        # rollouts that are shorter end in padding, and more of it does not matter
        missing = [longest - part["actions"].shape[-1] for part in parts]
        ends = [part[name][..., -1:].expand(-1, -1, more) for part, more in zip(parts, missing, strict=True)]
        whole = torch.cat([torch.cat([p[name], end], dim=-1) for p, end in zip(parts, ends, strict=True)])
        shared[name] = whole.chunk(world())[rank()]
    return shared
