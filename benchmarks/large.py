"""Large instances under a small budget: does every solver answer in time, and what does it take?

    python benchmarks/large.py --seconds 5
    python benchmarks/large.py --seconds 5 --cases tsp --solvers auto,two-opt

Instances of four problems are generated (seeded) into a folder, and each is solved by `ncogym solve` in a process of
its own. A row tells the exit code; `solving`, the seconds by the solver's own clock, which is what the budget is of;
wall-clock and CPU seconds of the whole process, with its imports and the reading of the file; its peak of resident
memory; the objective, whether the referee found it feasible, and what was said on stderr (or who had a part in it).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CASES = {  # arguments of `ncogym generate`, the file, and solvers
    "tsp": ("tsp --env.num_nodes 10000 --seed 1235", "tsp10000.tsp", "auto nearest-neighbour two-opt ortools"),
    "cvrp": (
        "cvrp --env.num_customers 3000 --seed 7",
        "cvrp3000.vrp",
        "auto nearest-neighbour savings ortools pyvrp hgs",
    ),
    "jssp": (
        "jssp --env.num_jobs 100 --env.num_machines 20 --seed 7",
        "jobs100x20.jsp",
        "auto dispatch:MWKR dispatch:random-MWKR cp-sat",
    ),
    "knapsack": (
        "knapsack --env.num_items 10000 --seed 7",
        "items10000.kp",
        "auto ratio-greedy knapsack-dp ortools cp-sat",
    ),
}
NCOGYM = (sys.executable, "-m", "ncogym.cli")


def main() -> None:
    """Read the arguments, make the instances, solve and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--cases", default=",".join(CASES), help="with commas between")
    parser.add_argument("--solvers", help="with commas between; those of each case where nothing is said")
    parser.add_argument("--folder", type=Path, help="of the instances; a temporary one where nothing is said")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        head = f"{'instance':15} {'solver':20} {'exit':>4} {'solving':>8} {'wall s':>7} {'CPU s':>7} {'peak MB':>8}"
        print(f"{head} {'objective':>14} feasible  note")
        for case in arguments.cases.split(","):
            made, name, solvers = CASES[case]
            path = folder / name
            if not path.exists():
                subprocess.run([*NCOGYM, "generate", "--env", *made.split(), "--output", str(path)], check=True)
            for solver in arguments.solvers.split(",") if arguments.solvers else solvers.split():
                print(_row(path, solver, arguments.seconds), flush=True)


def _row(path: Path, solver: str, seconds: float) -> str:
    """Solve in a process of its own and return what came of it."""
    command = [*NCOGYM, "solve", str(path), "--solver", solver, "--seconds", f"{seconds:g}", "--format", "json"]
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        said, complaint = out.read().decode(), " ".join(err.read().decode().split())
    record = json.loads(said) if said else {}
    solving, objective = (f"{record[key]:.6g}" if record else "-" for key in ("seconds", "objective"))
    cost = f"{solving:>8} {wall:7.2f} {used.ru_utime + used.ru_stime:7.2f} {used.ru_maxrss / 1024:8.0f}"
    note = "; ".join(filter(None, (record.get("solver"), complaint)))
    feasible = record.get("feasible", "-")
    return f"{path.stem:15} {solver:20} {process.returncode:4} {cost} {objective:>14} {feasible!s:8}  {note}"


if __name__ == "__main__":
    main()
