"""Random rollouts per second against rl4co 0.7.0, both in one run, alternately, each in a process of its own.

    python benchmarks/peers/run.py                 # every size, about half an hour
    python benchmarks/peers/run.py --cases targets # TSP50, CVRP50, JSSP 10x10

rl4co gets a virtual environment of its own beside this file, which is made where it is missing (1.4 GB). A step is one
decision of one rollout; rows that are done count nothing on either side. Four things are compared:

    walk      `ncogym bench env`: steps with random actions, then the objective of all rollouts
    act       `rollout.act` with random actions: what a policy would see is computed at each step, too
    rl4co     its own ``rollout(env, td, random_policy)``, without checks, gradients and the time of its reset; its
              job shop computes what a policy would see
    ranked    the same with ncogym's way of drawing a random action, to tell the environment from the draw
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from workers import HERE, PEER, Worker, about, install, write

TARGETS = [("tsp", [50], 1024, 0), ("cvrp", [50], 1024, 0), ("jssp", [10, 10], 256, 0)]
SIZES = [
    *[(env, [size], 1024, 50 * (size == 500)) for env in ("tsp", "cvrp") for size in (20, 100, 200, 500)],
    ("jssp", [6, 6], 256, 0),
    # rl4co takes up to seconds a step from here on, each step as long as the other: its first stand for the rollout
    *[("jssp", size, 256, 5) for size in ([15, 15], [20, 20], [30, 20])],
]


def speed(answer: dict[str, Any]) -> float:
    """Return decisions per second, those of the median rollout."""
    return median(n / seconds for n, seconds in zip(answer["decisions"], answer["seconds"], strict=True))


def compare(ours: Worker, theirs: Worker, case: tuple[str, list[int], int, int], options: argparse.Namespace) -> dict:
    """Measure one case, everything in turn, and return a row of the table: medians over the rounds."""
    env, size, batch, max_steps = case
    request = {"env": env, "size": size, "batch": batch, "max_steps": max_steps}
    request |= {"seconds": options.seconds, "clock": options.clock}
    rounds = 1 if max_steps else options.rounds
    turns = {"walk": ours, "rl4co": theirs, "act": ours, "ranked": theirs}
    found: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, worker in turns.items():
            found[name].append(speed(worker.ask(request | {"draw": name})))
    row: dict[str, Any] = {"env": env, "size": "x".join(map(str, size)), "batch": batch}
    row |= {"rounds": rounds, "rl4co_steps": max_steps or "all"}
    row |= {name: median(speeds) for name, speeds in found.items()}
    for mine in ("walk", "act"):
        for other in ("rl4co", "ranked"):
            ratios = [x / y for x, y in zip(found[mine], found[other], strict=True)]
            row |= {f"{mine}/{other}": median(ratios), f"{mine}/{other} range": [min(ratios), max(ratios)]}
    return row


def main() -> None:
    """Read the arguments, measure, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", choices=["targets", "sizes", "all"], default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of rollouts a side, a case and a round")
    parser.add_argument("--threads", type=int, default=2, help="of torch, on both sides")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: processor time; on a busy machine, with 1 thread"
    )
    parser.add_argument("--output", type=Path, default=Path("out/peers"))
    arguments = parser.parse_args()
    install()
    ours = Worker([sys.executable, str(HERE / "ncogym_env.py")], arguments.threads)
    theirs = Worker([str(PEER), str(HERE / "rl4co_env.py")], arguments.threads)
    cases = {"targets": TARGETS, "sizes": SIZES, "all": TARGETS + SIZES}[arguments.cases]
    told = about(ours.versions, theirs.versions)
    print(json.dumps(told))
    speeds, ratios = ["walk", "act", "rl4co", "ranked"], ["walk/rl4co", "act/rl4co", "walk/ranked", "act/ranked"]
    print("\nthousand steps per second, and ratios (lowest-highest of the rounds)\n")
    print("|", " | ".join(["env", "size", "batch", *speeds, *ratios, "rounds", "steps of rl4co"]), "|")
    print("|---" * (5 + len(speeds) + len(ratios)) + "|")
    rows = []
    for case in cases:
        row = compare(ours, theirs, case, arguments)
        rows.append(row)
        cells = [row["env"], row["size"], str(row["batch"]), *(f"{row[name] / 1000:,.1f}" for name in speeds)]
        for name in ratios:
            low, high = row[f"{name} range"]
            cells.append(f"{row[name]:.3g} ({low:.3g}-{high:.3g})")
        print("|", " | ".join([*cells, str(row["rounds"]), str(row["rl4co_steps"])]), "|", flush=True)
    write(arguments.output, "peers", told, rows)


if __name__ == "__main__":
    main()
