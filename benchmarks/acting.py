"""Every way of acting beside the plain loop: decoding and a training step over batch sizes.

    python benchmarks/acting.py                  # on a GPU where there is one: the first thing to run there
    python benchmarks/acting.py --device cpu --batches 64 --sizes 50

Ways that cannot be had on the device are named with the reason. ``times eager`` is the ratio of the medians of this
run; the first call, which compiles or captures, is not timed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import ncogym
from ncogym.bench import bench
from ncogym.errors import NcogymError

SIZES = {"tsp": "num_nodes", "cvrp": "num_customers"}


def main() -> None:
    """Read the arguments, measure, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--envs", nargs="+", choices=SIZES, default=["tsp"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[50, 100])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--acting", nargs="+", default=["eager", "compile", "graph", "kernel"])
    parser.add_argument("--precision", default="float32", help="of acting's products: float32, tf32 or bfloat16")
    parser.add_argument("--output", type=Path, default=Path("out/acting.json"))
    arguments = parser.parse_args()
    at = arguments.device
    print(
        f"{torch.cuda.get_device_name() if at == 'cuda' else 'cpu'}, torch {torch.__version__}, {arguments.precision}\n"
    )
    heads = ["env", "size", "batch x starts", "what", "acting", "seconds", "instances/s", "times eager", "peak MiB"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    found: list[dict[str, Any]] = []
    for name in arguments.envs:
        for size in arguments.sizes:
            env = ncogym.make(name, **{SIZES[name]: size})
            for batch in arguments.batches:
                for what in ("decode", "train"):
                    plain = None
                    for acting in arguments.acting:
                        cells = [name, str(size), f"{batch} x {size}", what, acting]
                        if at == "cuda":
                            torch.cuda.empty_cache()
                            torch.cuda.reset_peak_memory_stats()
                        options = {"device": at, "acting": acting, "precision": arguments.precision}
                        try:
                            row = bench(what, env, batch=batch, rollouts=size, **options)
                        except (NcogymError, torch.cuda.OutOfMemoryError) as error:
                            print(f"| {' | '.join([*cells, str(error).splitlines()[0]])} | | | |", flush=True)
                            continue
                        seconds = row["seconds_median"]
                        plain = seconds if acting == "eager" else plain
                        times = "" if plain is None else f"{plain / seconds:.2f}"
                        cells += [f"{seconds:.4g}", f"{row['instances_per_second']:,.4g}", times]
                        cells.append(f"{row['peak_memory_bytes'] / 2**20:,.0f}")
                        print(f"| {' | '.join(cells)} |", flush=True)
                        found.append({**row, "size": size})
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
