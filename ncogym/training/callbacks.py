"""What happens around training steps: validation through a Solver, speed, interrupts."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym.budget import Budget
from ncogym.distributed import Vote, average_, gather, share, world
from ncogym.problem import Problem
from ncogym.solution import gap_percent
from ncogym.solver import Solver

BATCH = 64  # instances that a validation solves at once; the processes take turns at them


@dataclass(frozen=True)
class ValidationSet:
    """Instances, with the objectives of a reference solver if there is one.

    Attributes:
        name: in the log.
        env: the problem.
        instances: batch size ``[batch]``.
        reference: float64 ``[batch]``, cached on disk by whoever computed it; None where there is no reference solver.
    """

    name: str
    env: Problem
    instances: TensorDict
    reference: Tensor | None


class Validation(pl.Callback):
    """Solve the validation sets with the policy in evaluation mode after every epoch, and log means.

    For each set it is the mean gap to its references, and the mean over the sets (``gap_NAME``, ``gap``); for sets
    without references it is the mean objective (``validation_objective_NAME``, ``validation_objective``).

    Args:
        sets: what to solve.
        solver: builds a Solver around the policy.
        budget: of the solver.
    """

    def __init__(
        self, sets: Sequence[ValidationSet], solver: Callable[[Any], Solver], budget: Budget | None = None
    ) -> None:
        self.sets, self.solver, self.budget = list(sets), solver, budget

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        policy = pl_module.policy
        training = policy.training
        policy.eval()
        means: dict[str, list[float]] = {"gap": [], "validation_objective": []}
        for each in self.sets:
            known, own = each.reference, list[float | None]()
            for rows in share(len(each.instances), BATCH):
                part, rng = slice(rows.start, rows.stop), torch.Generator().manual_seed(rows.start)
                solutions = self.solver(policy)(each.env, each.instances[part].to(pl_module.device), self.budget, rng)
                objectives = [solution.objective for solution in solutions]
                if known is None:
                    own += objectives
                else:
                    pairs = zip(objectives, known[part].tolist(), strict=True)
                    own += [gap_percent(found, reference, each.env.sense) for found, reference in pairs]
            kind = "validation_objective" if known is None else "gap"
            means[kind].append(statistics.fmean(value for found in gather(own) for value in found if value is not None))
            pl_module.log(f"{kind}_{each.name}", means[kind][-1], sync_dist=True)
        for kind, values in means.items():
            if values:
                pl_module.log(kind, sum(values) / len(values), prog_bar=True, sync_dist=True)
        policy.train(training)


class Readings(pl.Callback):
    """Log loss, mean objective and rollouts per second, of all processes together.

    Between two readings the host asks the device for nothing, so that it need not wait for it.

    Args:
        every: training steps between two readings.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._rollouts, self._since = 0, time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._rollouts += pl_module.rollouts_in_step * world()
        if trainer.global_step % self.every == 0:
            values = average_(torch.stack(list(pl_module.outcome.values()))).cpu()
            now = time.perf_counter()
            read = dict(zip(pl_module.outcome, values, strict=True))
            read["rollouts_per_second"] = torch.tensor(self._rollouts / (now - self._since))
            pl_module.log_dict(read, prog_bar=True)  # tensors on the host, which Lightning may read at every step
            self._rollouts, self._since = 0, now


class Interrupted(Exception):
    """Training ended by a signal, after its checkpoint was written."""


class Interruptible(pl.Callback):
    """On SIGINT or SIGTERM finish the step, write a checkpoint and raise `Interrupted`; a second signal acts at once.

    Where several processes train, it is enough that one of them gets the signal: all stop after the same step, the one
    after that in which it came.

    Args:
        path: where the checkpoint goes.

    Attributes:
        begun: whether training has begun, so that all is restored that a checkpoint had.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending = self._saved = False
        self.begun = False
        self._vote = Vote()
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Take over the signals, keeping the handlers that were there."""
        self.begun = True
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        # Lightning's own agreement, which has the host wait for the device at every step, has nothing to agree on now
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def _note(self, number: int, frame: Any) -> None:
        if self._pending:
            raise KeyboardInterrupt
        self._pending = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write the checkpoint once all know of a signal."""
        if self._vote(self._pending):
            trainer.save_checkpoint(self.path)
            self._saved = True

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Stop before the next step, when the last one is in the log too."""
        if self._saved:
            raise Interrupted(f"interrupted at step {trainer.global_step}; resume from {self.path}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Hear the others out, who may still ask."""
        self._vote.close()

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Give the signals back, however training ended."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
