"""Every way to train, in equal time from equal weights: the table of algorithms in docs/results.md.

    python experiments/algorithms.py [--output out/results/algorithms] [--seconds 20] [--seeds 1 2 3] [--workers 2]

Each algorithm trains the same small policy from the same weights (those that the seed draws) for the same wall-clock
seconds, labelling included, on one thread; `--workers` runs go on side by side, so that all have the same neighbour.
Learning rate and batch are the same for all: only what the estimator does with them differs. Afterwards
`ncogym.study` solves the field's test set with each policy, greedily and by the best of 32 samples, under the referee.
A run that is there is not made again, so a killed benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ncogym._resources import git_commit, machine, versions
from ncogym.algorithms import BOPO, PO, POMO, PPO, Algorithm, Imitation, Reinforce, SelfLabelling
from ncogym.budget import MaxRollouts
from ncogym.composing import make_solver
from ncogym.envs import make
from ncogym.policies import AttentionPolicy, GraphPolicy
from ncogym.study import study
from ncogym.training.module import Optimiser
from ncogym.training.run import Labels, train

SAMPLES = 32
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided, by the number of seeds


class Problem(NamedTuple):
    """What is trained on and tested on.

    Attributes:
        env: its name and arguments.
        policy: builds the network.
        nodes_per_batch: see `ncogym.training.run.train`.
        labels: of imitation.
        forced: first actions that imitation is given.
        test: a named set.
    """

    env: dict[str, Any]
    policy: Callable[..., Any]
    nodes_per_batch: int
    labels: Labels
    forced: int
    test: str


ATTENTION = partial(AttentionPolicy, dim=64, num_layers=3, num_heads=4, feedforward=128, norm="rms", pre_norm=True)
GRAPH = partial(GraphPolicy, dim=32, num_layers=3, num_heads=4, feedforward=128)
PROBLEMS = {
    "TSP20": Problem(
        {"name": "tsp", "num_nodes": 20},
        ATTENTION,
        1280,
        Labels(solver="pyvrp", seconds=None, rollouts=10, chunks=4, chunk_size=128),
        1,
        "kool-tsp20:500",
    ),
    "CVRP20": Problem(
        {"name": "cvrp", "num_customers": 20},
        ATTENTION,
        1280,
        Labels(solver="hgs", seconds=None, rollouts=20, chunks=2, chunk_size=128),
        1,
        "kool-cvrp20:500",
    ),
    "knapsack 50, strongly correlated": Problem(
        {"name": "knapsack", "num_items": 50, "distribution": "strongly"},
        ATTENTION,
        3200,
        Labels(solver="knapsack-dp", seconds=None, chunks=4, chunk_size=128),
        0,
        "pisinger-strongly-50",
    ),
    "job shop 6x6": Problem(
        {"name": "jssp", "num_jobs": 6, "num_machines": 6},
        GRAPH,
        192,
        Labels(solver="cp-sat", seconds=0.1, chunks=2, chunk_size=64),
        0,
        "l2d-jssp6x6",
    ),
}
# the number of rollouts is that of the starts of a tour of 20, or near it, wherever an algorithm may choose
ALGORITHMS: dict[str, Callable[[Problem], Algorithm]] = {
    "REINFORCE, rollout": lambda _: Reinforce("rollout", evaluation_size=500),
    "REINFORCE, critic": lambda _: Reinforce("critic"),
    "REINFORCE, exponential": lambda _: Reinforce("exponential"),
    "REINFORCE, shared": lambda _: Reinforce("shared", rollouts=20),
    "REINFORCE, shared, normalised": lambda _: Reinforce("shared", rollouts=20, normalise=True),
    "REINFORCE, shared, normalised, entropy": lambda _: Reinforce("shared", rollouts=20, normalise=True, entropy=0.01),
    "POMO": lambda _: POMO(),
    "POMO, normalised": lambda _: POMO(normalise=True),
    "POMO, normalised, leader 4": lambda _: POMO(normalise=True, leader_alpha=4),
    "PPO": lambda _: PPO(),
    "PO": lambda _: PO(samples=20),
    "BOPO": lambda _: BOPO(samples=20, kept=8),
    "self-labelling": lambda _: SelfLabelling(samples=20),
    "imitation": lambda problem: Imitation(sequences=4, forced=problem.forced),
}


class Run(NamedTuple):
    """One training: where it goes, and how long it may take."""

    problem: str
    algorithm: str
    seed: int
    seconds: float
    folder: Path

    @property
    def at(self) -> Path:
        """The run folder."""
        words = f"{self.problem} {self.algorithm} {self.seed}".replace(",", "").lower()
        return self.folder / words.replace(" ", "-")

    def make(self) -> None:
        """Train, unless it is done."""
        if (self.at / "policy").exists():
            return
        (self.at / "last.ckpt").unlink(missing_ok=True)
        torch.set_num_threads(1)
        problem = PROBLEMS[self.problem]
        env = make(**problem.env)
        train(
            env,
            make_solver,
            policy=problem.policy,
            algorithm=ALGORITHMS[self.algorithm](problem),
            nodes_per_batch=problem.nodes_per_batch,
            labels=replace(problem.labels, folder=str(self.at / "labels")),
            optimiser=Optimiser(lr=1e-3, warmup_steps=20, anneal=0),
            max_steps=10**9,
            max_seconds=self.seconds,
            checkpoint_every=10**9,
            threads=1,
            seed=self.seed,
            output=str(self.at),
        )


def interval(values: Sequence[float]) -> str:
    """Write the mean over the seeds and its 95 % interval by Student's t, in brackets each seed's value."""
    mean = statistics.mean(values)
    each = ", ".join(f"{value:.2f}" for value in values)
    if len(values) not in T95:
        return f"{mean:.2f} ({each})"
    half = T95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.2f} ± {half:.2f} ({each})"


def table(problem: str, runs: Sequence[Run]) -> list[str]:
    """Solve the test set of a problem with all its policies, and return the lines of its table."""
    paths = {run: str(run.at / "policy") for run in runs}
    steps = {run: json.loads((run.at / "policy" / "card.json").read_text())["training"]["steps"] for run in runs}
    gaps: dict[tuple[str, Run], float] = {}
    counts: list[int] = []
    for solver, budget in (("greedy", MaxRollouts(1)), ("sampling", MaxRollouts(SAMPLES))):
        solvers = [f"{number}={solver}@{path}" for number, path in enumerate(paths.values())]
        (found,) = study(None, [PROBLEMS[problem].test], solvers, [budget], seed=1234)
        for run, summary in zip(paths, found.summaries(), strict=True):
            if summary.mean_gap_percent is None or summary.feasible != 1:
                raise RuntimeError(f"{run.at}: a share of {summary.feasible} is solved, gap {summary.mean_gap_percent}")
            gaps[solver, run] = summary.mean_gap_percent
            counts.append(summary.instances)
    lines = [
        f"### {problem}",
        "",
        f"| algorithm | steps | gap % of greedy | gap % of the best of {SAMPLES} samples |",
        "| --- | ---: | ---: | ---: |",
    ]
    rows = []
    for algorithm in ALGORITHMS:
        mine = [run for run in runs if run.algorithm == algorithm]
        greedy, best = ([gaps[solver, run] for run in mine] for solver in ("greedy", "sampling"))
        made = statistics.mean(steps[run] for run in mine)
        rows.append((statistics.mean(best), f"| {algorithm} | {made:.0f} | {interval(greedy)} | {interval(best)} |"))
    return [*lines, *(line for _, line in sorted(rows)), "", f"- {PROBLEMS[problem].test}, {counts[0]} instances", ""]


def main() -> None:
    """Train what is missing, then write table.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/results/algorithms"))
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = [
        Run(problem, algorithm, seed, given.seconds, given.output)
        for problem in given.problems
        for seed in given.seeds
        for algorithm in ALGORITHMS
    ]
    with ProcessPoolExecutor(given.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, _ in enumerate(pool.map(Run.make, runs), start=1):
            print(f"trained {number} of {len(runs)}: {runs[number - 1].at}", flush=True)
    lines = [line for problem in given.problems for line in table(problem, [r for r in runs if r.problem == problem])]
    seeds = " ".join(map(str, given.seeds))
    options = f"--seconds {given.seconds:g} --seeds {seeds} --workers {given.workers}"
    lines += [
        f"- {given.seconds:g} s of training each, {given.workers} side by side, one thread",
        f"- mean over the seeds {seeds} ± half of its 95 % interval (Student's t), and each seed's value",
        "- weights: none that ship, all were trained for this table",
        f"- `python experiments/algorithms.py {options}`, commit {git_commit()}",
        f"- {machine()}; " + ", ".join(f"{name} {version}" for name, version in versions().items()),
        "",
    ]
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "table.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
