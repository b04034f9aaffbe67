"""Solve every file of a folder of public instances and print a table with the gaps to the best known values.

    python benchmarks/files.py ../instances --seconds 5 [--solver auto] [--workers 2] > table.md

The folder holds an ``index.csv`` with the columns problem, name, file and best_known; sets of many instances (.npz) are
passed over. Every solution is scored and checked by the referee; what is infeasible or fails is told in its row, and
the exit code is then 1.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import re
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

import ncogym
from ncogym.errors import NcogymError


class Row(NamedTuple):
    """A line of the table; ``gap`` is in percent, and ``words`` say what went wrong, if anything did."""

    problem: str
    name: str
    best_known: float
    objective: float
    gap: float
    seconds: float
    solver: str
    words: str


def solve(
    entry: dict[str, str], folder: Path, solver: str, seconds: float | None, rollouts: int | None, seed: int
) -> Row:
    """Solve one file of the index on one thread."""
    torch.set_num_threads(1)
    best = float(entry["best_known"])
    try:
        solved = ncogym.solve(
            folder / entry["file"], solver=solver, seconds=seconds, rollouts=rollouts, seed=seed, best_known=best
        )
    except NcogymError as error:
        return Row(entry["problem"], entry["name"], best, float("nan"), float("nan"), 0.0, solver, str(error))
    found = solved.solution
    gap = float("nan") if solved.gap_percent is None else solved.gap_percent
    return Row(
        entry["problem"], entry["name"], best, found.objective, gap, found.seconds, found.solver, found.violation or ""
    )


def main() -> int:
    """Print the table, a section a problem, as the files end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, help="wall-clock budget of each file")
    parser.add_argument("--rollouts", type=int, help="budget of complete solutions of each file")
    parser.add_argument("--solver", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="files at a time; more than cores spoils the times")
    parser.add_argument("--problem", help="only the files of this problem, as index.csv names it")
    parser.add_argument("--name", default="", help="only the files whose name begins with a match of this pattern")
    given = parser.parse_args()
    with (given.folder / "index.csv").open(newline="") as file:
        entries = [e for e in csv.DictReader(file) if given.problem in (None, e["problem"]) and ".npz" not in e["file"]]
    entries = sorted((e for e in entries if re.match(given.name, e["name"])), key=lambda entry: entry["problem"])
    budget = {"seconds": given.seconds, "rollouts": given.rollouts}
    job = partial(solve, folder=given.folder, solver=given.solver, seed=given.seed, **budget)
    failed = False
    with ProcessPoolExecutor(given.workers) as pool:
        for problem, rows in itertools.groupby(pool.map(job, entries), key=lambda row: row.problem):
            print(f"\n### {problem}\n\n| file | best known | found | gap % | s | |\n|---|---|---|---|---|---|")
            gaps = []
            for row in rows:
                numbers = f"{row.best_known:.10g} | {row.objective:.10g} | {row.gap:.3f} | {row.seconds:.1f}"
                print(f"| {row.name} | {numbers} | {row.words} |", flush=True)
                gaps.append(row.gap)
                failed = failed or bool(row.words)
            print(
                f"\n{len(gaps)} files, mean gap {statistics.fmean(gaps):.3f} %, largest {max(gaps):.3f} %; {row.solver}"
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
