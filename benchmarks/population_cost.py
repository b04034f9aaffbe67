"""What a population costs to train: an update of K members beside one of the single policy, in time and memory.

    python benchmarks/population_cost.py [--members 8] [--problem tsp] [--sizes 20 50 100] [--batch 32]

Updates of both alternate in one process, so that whatever else the machine does meets both; the table tells the medians
and how far the peak of resident memory rises in a process of each's own.
"""

from __future__ import annotations

import argparse
import multiprocessing
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
    """Tell how many bytes the peak of resident memory rises by during three updates (Linux)."""
    update = update_of(kind, given)
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on: else it may be that of the parent process
    before = _peak()
    for _ in range(3):
        update()
    told.put(_peak() - before)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measured(given: argparse.Namespace) -> str:
    """Return the row of a size."""
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
        peaks[kind] = told.get() / 1e6
        process.join()
    single, population = (statistics.median(seconds[kind]) for kind in seconds)
    ratio, more = given.members * single / population, peaks["population"] / peaks["single"]
    cells = [f"{given.size}", f"{single:.3f}", f"{population:.3f}", f"{ratio:.2f}"]
    cells += [f"{peaks['single']:.0f}", f"{peaks['population']:.0f}", f"{more:.2f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, print and write table.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/results/population-cost"))
    parser.add_argument("--problem", default="tsp")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    titles = (
        f"{given.problem}, nodes",
        "POMO, s an update",
        f"Poppy {given.members}, s an update",
        f"updates of a member, times those of {given.members} runs",
        "POMO, MB",
        f"Poppy {given.members}, MB",
        "times",
    )
    lines = [f"| {' | '.join(titles)} |", "| ---: |" + " ---: |" * (len(titles) - 1)]
    lines += [measured(argparse.Namespace(**{**vars(given), "size": size})) for size in given.sizes]
    options = f"--problem {given.problem} --sizes {' '.join(map(str, given.sizes))} --batch {given.batch}"
    lines += [
        "",
        f"- {given.batch} instances a batch, every start, medians of {given.rounds} updates each, in turn",
        "- memory is how far the peak of resident memory rises during updates",
        "- weights: none that ship, they are as the seed draws them",
        f"- `python benchmarks/population_cost.py {options} --members {given.members} --rounds {given.rounds}"
        f" --threads {given.threads}`, commit {git_commit()}",
        f"- {machine()}; torch {torch.__version__}",
        "",
    ]
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "table.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
