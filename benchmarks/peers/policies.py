"""A training step and decoding against rl4co 0.7.0, both in one run, alternately, each in a process of its own.

    python benchmarks/peers/policies.py                  # TSP and CVRP 50 and 100, JSSP 10x10
    python benchmarks/peers/policies.py --cases targets  # TSP50, CVRP50
    python benchmarks/peers/policies.py --cases growth   # time and memory from 20 to 500 nodes

``train`` is a step of POMO without its optimiser, which neither side runs: encode, act by sampling from every start,
score, loss, backward. ``decode`` is greedy decoding from every start, its encoder included. Both sides take the same
instances, float32, and POMO's attention model: 128 wide, 6 layers, 8 heads, feed-forward 512, instance normalisation.
The job shop's networks differ: rl4co's L2DPolicy (heterogeneous graph encoder) and ncogym's GraphPolicy (GATv2 and
attention over candidates), each at its defaults; it decodes one rollout and trains on 20 of each instance.

    ncogym X        acting by X ("auto", "eager", ...), as `ncogym bench train` and `ncogym bench decode` do
    rl4co           at its defaults
    rl4co unchecked with ``check_solution=False`` and ``check_nan=False``
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from workers import HERE, PEER, Worker, about, install, write

import ncogym

LIMIT = 18 * 2**30  # bytes of memory above which a case is left out
SIZES = {"tsp": ["num_nodes"], "cvrp": ["num_customers"], "jssp": ["num_jobs", "num_machines"]}

Case = tuple[str, list[int], int]  # environment, size, batch
TARGETS: list[Case] = [("tsp", [50], 64), ("cvrp", [50], 64)]
TSP100: list[Case] = [("tsp", [100], 64)]
JSSP: list[Case] = [("jssp", [10, 10], 2)]  # rl4co's step of 16 instances takes minutes
TABLE: list[Case] = [*TARGETS, *TSP100, ("cvrp", [100], 64), *JSSP]
# as many pairs of nodes a batch as 64 instances of 50 nodes have
GROWTH: list[Case] = [
    (env, [size], max(1, round(64 * (50 / size) ** 2))) for env in ("tsp", "cvrp") for size in (20, 50, 100, 200, 500)
]

CASES = {"targets": TARGETS, "tsp100": TSP100, "jssp": JSSP, "table": TABLE, "growth": GROWTH}

OTHERS = ["rl4co", "rl4co unchecked"]
COLUMNS = ["seconds", "seconds_low", "seconds_high", "instances_per_second", "peak_memory_bytes"]
COLUMNS += ["decisions", "parameters", "acting"]
COLUMNS += [f"times {other}{end}" for other in OTHERS for end in ("", " low", " high")] + ["note"]


def command(side: str) -> list[str]:
    """Return what starts a process of a side."""
    if side.startswith("rl4co"):
        return [str(PEER), str(HERE / "rl4co_policy.py")]
    return [sys.executable, str(HERE / "ncogym_policy.py")]


def request(case: Case, what: str, side: str, device: str, folder: str, starts: int = 0) -> dict[str, Any]:
    """Return the case as its workers read it; its instances are drawn into a file where that is missing."""
    env, size, batch = case
    named = dict(zip(SIZES[env], size, strict=True))
    file = Path(folder) / f"{env}{size}.pt"
    if not file.exists():
        drawn = ncogym.make(env, **named).generate(batch, torch.Generator().manual_seed(0))
        torch.save(drawn.to_dict(), file)
    rollouts = {"train": 20, "decode": 1}[what] if env == "jssp" else starts or size[0]
    own = {"checks": side == "rl4co"} if side.startswith("rl4co") else {"acting": side.removeprefix("ncogym ")}
    return {
        "what": what,
        "env": env,
        "size": named,
        "batch": batch,
        "rollouts": rollouts,
        "instances": str(file),
        "device": device,
        **own,
    }


def memory(side: str, asked: dict[str, Any], threads: int) -> int:
    """Return the peak bytes of a case, measured in a process of its own."""
    worker = Worker(command(side), threads)
    found = worker.ask({"ask": "memory", "case": asked})["bytes"]
    worker.close()
    return found


def estimate(row: dict[str, Any], earlier: list[dict[str, Any]]) -> float:
    """Foresee peak bytes by the last size's: at most they grow with batch x rollouts x steps x nodes."""
    for last in reversed(earlier):
        if last["peak_memory_bytes"] and all(last[key] == row[key] for key in ("env", "what", "side")):
            growth = (int(row["size"]) / int(last["size"])) ** 3 * row["batch"] / last["batch"]
            return growth * last["peak_memory_bytes"]
    return 0.0


def compare(case: Case, sides: list[str], earlier: list[dict], options: argparse.Namespace, folder: str) -> list[dict]:
    """Measure one case and return its rows: the memory of each side, then the times, in turn.

    Args:
        case: what is measured.
        sides: who takes part.
        earlier: rows of cases before this one, from which memory is foreseen.
        options: the arguments.
        folder: where instances lie.
    """
    env, size, batch = case
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    asked: dict[tuple[str, str], dict[str, Any]] = {}
    for what in ("train", "decode"):
        for side in sides:
            asked[what, side] = request(case, what, side, options.device, folder, options.starts)
            row = {"env": env, "size": "x".join(map(str, size)), "batch": batch}
            row |= {"rollouts": asked[what, side]["rollouts"], "what": what, "side": side}
            rows[what, side] = row | dict.fromkeys(COLUMNS, "")
            foreseen = estimate(rows[what, side], earlier)
            if foreseen > LIMIT:
                rows[what, side]["note"] = f"left out: {foreseen / 2**30:.0f} GiB foreseen"
            else:
                rows[what, side]["peak_memory_bytes"] = memory(side, asked[what, side], options.threads)
    ours, theirs = (Worker(command(side), options.threads) for side in ("ncogym", "rl4co"))
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.repetitions):
        for turn, row in rows.items():
            if row["note"]:
                continue
            worker = theirs if row["side"].startswith("rl4co") else ours
            answer = worker.ask({"ask": "times", "seconds": options.seconds, "case": asked[turn]})
            taken.setdefault(turn, []).append(median(answer["seconds"]))
            row |= {key: answer[key] for key in ("decisions", "parameters", "acting") if key in answer}
    for worker in (ours, theirs):
        worker.close()
    for (what, side), seconds in taken.items():
        row = rows[what, side]
        row |= {"seconds": median(seconds), "seconds_low": min(seconds), "seconds_high": max(seconds)}
        row["instances_per_second"] = batch / median(seconds)
        for other in OTHERS:
            if side.startswith("ncogym") and (what, other) in taken:
                ratios = [x / y for x, y in zip(taken[what, other], seconds, strict=True)]
                row |= {f"times {other}": median(ratios)}
                row |= {f"times {other} low": min(ratios), f"times {other} high": max(ratios)}
    return list(rows.values())


def line(row: dict[str, Any]) -> str:
    """Return a row as a line of the printed table."""
    cells = [row["env"], row["size"], f"{row['batch']} x {row['rollouts']}", row["what"], row["side"]]
    if row["acting"] and row["acting"] not in row["side"]:
        cells[-1] += f" ({row['acting']})"
    if row["note"]:
        return f"| {' | '.join(cells)} | {row['note']}" + " |" * 7
    cells.append(f"{row['seconds']:.3g} ({row['seconds_low']:.3g}-{row['seconds_high']:.3g})")
    cells += [
        f"{row['instances_per_second']:,.3g}",
        f"{row['peak_memory_bytes'] / 2**20:,.0f}",
        f"{row['decisions']:.1f}",
    ]
    for name in (f"times {other}" for other in OTHERS):
        cells.append(row[name] and f"{row[name]:.3g} ({row[f'{name} low']:.3g}-{row[f'{name} high']:.3g})")
    cells.append(f"{row['parameters']:,}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Read the arguments, measure, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", choices=CASES, default="table")
    parser.add_argument("--acting", nargs="+", default=["auto"], help="of ncogym, each measured")
    parser.add_argument("--starts", type=int, default=0, help="of each tour or route instance; 0: as many as nodes")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, on both sides")
    parser.add_argument("--repetitions", type=int, default=5, help="rounds, in each of which everything has its turn")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn; more where one step takes longer")
    parser.add_argument("--threads", type=int, default=2, help="of torch, on both sides")
    parser.add_argument("--output", type=Path, default=Path("out/peers"))
    arguments = parser.parse_args()
    install()
    sides = [*(f"ncogym {acting}" for acting in arguments.acting), *OTHERS]
    versions = []
    for side in ("ncogym", "rl4co"):
        worker = Worker(command(side), arguments.threads)
        versions.append(worker.versions)
        worker.close()
    told = about(*versions)
    print(json.dumps(told))
    print("\nof each side: seconds of a run, median (lowest-highest of the rounds), and MiB it takes at most")
    print("of ncogym: how many times as fast as rl4co, likewise\n")
    heads = ["env", "size", "batch x rollouts", "what", "side", "seconds", "instances/s", "MiB", "decisions"]
    heads += [*(f"times {other}" for other in OTHERS), "parameters"]
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES[arguments.cases]:
            found = compare(case, sides, rows, arguments, folder)
            print("\n".join(map(line, found)), flush=True)
            rows += found
            write(arguments.output, f"policies-{arguments.cases}{arguments.starts or ''}", told, rows)


if __name__ == "__main__":
    main()
