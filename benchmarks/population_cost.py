"""What a population costs to train: an update of K members beside one of the single policy, in time and memory.

    python benchmarks/population_cost.py [--members 8] [--problem tsp] [--size 100] [--batch 64] [--rounds 10]

Updates of both alternate in one process, so that whatever else the machine does meets both; the table tells the medians
and how far the peak of resident memory rises in a process of each's own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ncogym._resources import git_commit, machine
from ncogym.algorithms import POMO, Poppy
from ncogym.envs import make
from ncogym.policies import AttentionPolicy, Population
from ncogym.training.data import Generated
from ncogym.training.module import Optimiser, TrainingModule


def update_of(kind: str, given: argparse.Namespace) -> Callable[[], None]:
    """Return a function that does one update."""
    torch.set_num_threads(given.threads)
    torch.manual_seed(1)
    env = make(given.problem).resized(given.size)
    base = partial(AttentionPolicy, norm="rms", pre_norm=True)
    single = kind == "single"
    policy = base(env.feature_dims) if single else Population(env.feature_dims, members=given.members, base=base)
    source = Generated(env, given.size, given.size, given.size * given.batch)
    module = TrainingModule(policy, POMO() if single else Poppy(), source, Optimiser(), 10**6, 10**6, 1)
    adam: Any = module.configure_optimizers()["optimizer"]
    steps = iter(range(10**6))

    def update() -> None:
        loss = module.training_step(None, next(steps))
        adam.zero_grad()
        loss.backward()
        adam.step()

    return update


def memory_of(kind: str, given: argparse.Namespace, told: Any) -> None:
    """Tell how many bytes the peak of resident memory rises by during three updates."""
    update = update_of(kind, given)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        update()
    told.put(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/results/population-cost"))
    parser.add_argument("--problem", default="tsp")
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {"single": [], "population": []}
    updates = {kind: update_of(kind, given) for kind in seconds}
    for number in range(given.rounds + 1):
        for kind, update in updates.items():
            begin = time.perf_counter()
            update()
            if number:  # the first makes what later ones find
                seconds[kind].append(time.perf_counter() - begin)
    peaks, context = {}, multiprocessing.get_context("spawn")
    for kind in seconds:
        told = context.Queue()
        process = context.Process(target=memory_of, args=(kind, given, told))
        process.start()
        peaks[kind] = told.get()
        process.join()
    single, population = (statistics.median(seconds[kind]) for kind in seconds)
    ratio, more = given.members * single / population, peaks["population"] / peaks["single"]
    what = f"{given.problem} {given.size}, {given.batch} instances a batch, {given.threads} thread"
    options = f"--problem {given.problem} --size {given.size} --batch {given.batch} --members {given.members}"
    lines = [
        "| | seconds an update | MB beyond what is there at first |",
        "| --- | ---: | ---: |",
        f"| POMO, a single policy | {single:.3f} | {peaks['single'] / 1e6:.0f} |",
        f"| Poppy, {given.members} members | {population:.3f} | {peaks['population'] / 1e6:.0f} |",
        "",
        f"- {what}; the medians of {given.rounds} updates each, in turn",
        f"- a member of the population is updated {ratio:.2f} times as often as in {given.members} runs of their own",
        f"- memory is {more:.2f} times that of the single policy",
        f"- `python benchmarks/population_cost.py {options} --rounds {given.rounds} --threads {given.threads}`,"
        f" commit {git_commit()}",
        f"- {machine()}; torch {torch.__version__}",
        "",
    ]
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "table.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
