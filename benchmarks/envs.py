"""Random steps per second of every environment, over sizes, batch sizes and the devices there are.

    python benchmarks/envs.py --batches 64 1024 --output out/envs

Each row is what `ncogym bench env` measures, with one rollout an instance: the median of five repetitions after one
that warms up. ``OMP_NUM_THREADS=1`` before it takes one thread.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import torch

import ncogym
from ncogym.bench import bench

NODES = (20, 50, 100, 200, 500)
SIZES: dict[str, list[dict[str, Any]]] = {
    "tsp": [{"num_nodes": size} for size in NODES],
    "atsp": [{"num_nodes": size} for size in NODES],
    "cvrp": [{"num_customers": size} for size in NODES],
    "knapsack": [{"num_items": size} for size in NODES],
    "jssp": [
        {"num_jobs": jobs, "num_machines": machines}
        for jobs, machines in ((6, 6), (10, 10), (15, 15), (20, 20), (30, 20))
    ],
}


def main() -> None:
    """Read the arguments, measure, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="+", choices=sorted(SIZES), default=sorted(SIZES))
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--rollouts", type=int, default=1, help="of each instance")
    parser.add_argument("--output", type=Path, default=Path("out/envs"))
    arguments = parser.parse_args()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; million steps per second\n")
    print("|", " | ".join(["device", "env", "size", *(f"batch {batch}" for batch in arguments.batches)]), "|")
    print("|---" * (3 + len(arguments.batches)) + "|")
    rows = []
    for device in devices:
        for name in arguments.envs:
            for size in SIZES[name]:
                words = "x".join(map(str, size.values()))
                cells = []
                for batch in arguments.batches:
                    env = ncogym.make(name, **size)
                    found = bench("env", env, batch=batch, rollouts=arguments.rollouts, device=device)
                    rows.append({"size": words} | found)
                    cells.append(f"{found['steps_per_second'] / 1e6:.3g}")
                print("|", " | ".join([device, name, words, *cells]), "|", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "envs.json").write_text(json.dumps(rows, indent=1) + "\n")
    with (arguments.output / "envs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
