"""What training costs beside encode, act, score, loss, backward and AdamW: Lightning, logging, validation, checkpoints.

    python benchmarks/overhead.py --threads 1

Two loops take turns, a block of steps each, in one process and on networks of the same form: a bare one, written out
below, and the one of `ncogym.training.run.train`, with its logging, validation and checkpoints. Times are medians over
blocks. What validation and checkpoints take is measured by itself and is in no step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch

import ncogym
from ncogym.algorithms import POMO
from ncogym.composing import make_solver
from ncogym.policies import AttentionPolicy
from ncogym.rollout import Work
from ncogym.training import callbacks, module, run


class Case(NamedTuple):
    """A problem size, a batch and a network."""

    nodes: int
    batch: int
    policy: Callable[..., AttentionPolicy]


CASES = {
    "tsp50": Case(50, 64, partial(AttentionPolicy, edge_bias=False)),
    "tsp20-small": Case(20, 16, partial(AttentionPolicy, dim=32, num_layers=2, num_heads=4, feedforward=64)),
}


def bare(case: Case, device: torch.device, clip: float = 1.0) -> Callable[[], None]:
    """Return one training step without anything around it."""
    env, rng, algorithm = ncogym.make("tsp", num_nodes=case.nodes), torch.Generator(device).manual_seed(0), POMO()
    policy = case.policy(env.feature_dims).to(device)
    adam = torch.optim.AdamW(policy.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        work = Work.alone(policy, env, env.generate(case.batch, rng), rng)
        loss, _ = algorithm.step(work)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), clip)
        adam.step()

    return step


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Turns:
    """Takes the times of a run of `train`, and has the bare loop take its turn after each block of steps."""

    def __init__(self, bare: Callable[[], None], block: int, device: torch.device, clock: Callable[[], float]) -> None:
        self.bare, self.block, self.device, self.clock = bare, block, device, clock
        self.steps: dict[str, list[float]] = {"bare": [], "train": []}
        self.apart: dict[str, list[float]] = {"validation": [], "checkpoint": []}
        self._begun, self._aside, self._count = 0.0, 0.0, 0

    def now(self) -> float:
        """Return the time when the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()

    def before_step(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """Close a block where it is full, and take the step."""
        if self._count % self.block == 0:
            ended = self.now()
            if self._count > self.block:  # the first block warms up
                self.steps["train"].append((ended - self._begun - self._aside) / self.block)
            for _ in range(self.block):
                self.bare()
            begun, ended = ended, self.now()
            if self._count > self.block:
                self.steps["bare"].append((ended - begun) / self.block)
            self._begun, self._aside = ended, 0.0
        self._count += 1
        return step(*arguments)

    def apart_from_steps(self, what: str, do: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Do something that belongs to no step."""
        begun = self.now()
        done = do(*arguments, **more)
        self.apart[what].append(self.now() - begun)
        self._aside += self.apart[what][-1]
        return done


def measure(
    case: Case, blocks: int, block: int, threads: int, accelerator: str, clock: Callable[[], float]
) -> dict[str, Any]:
    """Measure a case and return its row."""
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    turns = Turns(bare(case, device), block, device, clock)
    wrapped = [
        (module.TrainingModule, "training_step", turns.before_step),
        (callbacks.Validation, "on_train_epoch_end", partial(turns.apart_from_steps, "validation")),
        (run.pl.Trainer, "save_checkpoint", partial(turns.apart_from_steps, "checkpoint")),
    ]
    originals = [getattr(cls, name) for cls, name, _ in wrapped]
    try:
        for (cls, name, around), original in zip(wrapped, originals, strict=True):
            setattr(cls, name, _method(around, original))
        with tempfile.TemporaryDirectory() as folder:
            run.train(
                ncogym.make("tsp", num_nodes=case.nodes),
                make_solver,
                policy=case.policy,
                nodes_per_batch=case.batch * case.nodes,
                validation=run.ValidationSettings(sizes=[case.nodes], folder=f"{folder}/references"),
                max_steps=block * (blocks + 2) + 1,
                steps_per_epoch=block,
                checkpoint_every=block,
                threads=threads,
                accelerator=accelerator,
                output=f"{folder}/run",
            )
    finally:
        for (cls, name, _), original in zip(wrapped, originals, strict=True):
            setattr(cls, name, original)
    medians = {name: statistics.median(times) for name, times in (turns.steps | turns.apart).items()}
    ratios = [mine / bare for mine, bare in zip(turns.steps["train"], turns.steps["bare"], strict=True)]
    return {**medians, "overhead_percent": 100 * (statistics.median(ratios) - 1)}


def _method(around: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *arguments: Any, **more: Any) -> Any:
        return around(original, self, *arguments, **more)

    return method


def main() -> None:
    """Read the arguments, measure, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--blocks", type=int, default=10, help="of each loop")
    parser.add_argument(
        "--block", type=int, default=25, help="steps of a block: the steps from one reading to the next"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="gpu" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of this process, on a busy machine")
    parser.add_argument("--output", type=Path, default=Path("out/overhead"))
    arguments = parser.parse_args()
    versions = f"torch {torch.__version__}, lightning {lightning.__version__}"
    print(f"{versions}, {arguments.accelerator}, milliseconds of {arguments.clock} time\n")
    print("| case | bare step | step of train | overhead | validation, every epoch | checkpoint |")
    print("|---|---|---|---|---|---|")
    rows = []
    for name in arguments.cases:
        sizes = arguments.blocks, arguments.block, arguments.threads
        row = measure(CASES[name], *sizes, arguments.accelerator, CLOCKS[arguments.clock])
        rows.append({"case": name} | row)
        times = [f"{1e3 * row[key]:.2f}" for key in ("bare", "train", "validation", "checkpoint")]
        print("|", " | ".join([name, *times[:2], f"{row['overhead_percent']:.2f} %", *times[2:]]), "|", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "overhead.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
