"""Compute the references that ship with the package, from the table below, and write them into ncogym/data/references.

    python experiments/references.py [NAME ...] [--workers 2]

Names are those of sets; without any, all of the table are done, the cheapest first. What was computed before is taken
from the user's cache, so an interrupted run goes on where it was. A set that ships already is written anew.
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from typing import NamedTuple

from ncogym import _resources, references
from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.composing import make_solver
from ncogym.sets import open_set

COMMIT = _resources.git_commit()  # before the first file that is written makes the checkout another


class Entry(NamedTuple):
    """A set with its count, and what its references are computed by."""

    name: str
    solver: str
    budget: Budget


TABLE = [
    *(Entry(f"uniform-kp{items}:1000", "knapsack-dp", Budget()) for items in (50, 100, 200)),
    *(Entry(f"pisinger-strongly-{items}:100", "knapsack-dp", Budget()) for items in (50, 100)),
    *(Entry(f"pisinger-almost-strongly-{items}:100", "knapsack-dp", Budget()) for items in (50, 100)),
    Entry("l2d-jssp6x6:100", "cp-sat", MaxSeconds(120)),
    *(Entry(f"ncogym-atsp{nodes}:200", "fast-tsp", MaxSeconds(0.2)) for nodes in (20, 50)),
    *(Entry(f"kool-tsp{nodes}:1000", "fast-tsp", MaxSeconds(0.2)) for nodes in (20, 50, 100)),
    Entry("l2d-jssp10x10:100", "cp-sat", MaxSeconds(120)),
    # its rollouts are iterations without an improvement
    *(Entry(f"kool-cvrp{customers}:1000", "hgs", MaxRollouts(2000)) for customers in (20, 50)),
    Entry("kool-cvrp100:100", "hgs", MaxSeconds(5)),
]


def _ship(entry: Entry, workers: int) -> None:
    """Compute the references of a set, write them, and print a line about them."""
    instances, begin = open_set(entry.name), time.monotonic()
    limits = {name: getattr(entry.budget, name) for name in ("seconds", "rollouts")}
    found = references.compute(
        instances.env,
        instances.blocks,
        make_solver(entry.solver),
        entry.budget,
        cache=references.cache_folder(),
        workers=workers,
        progress=lambda _, done, total: print(f"{entry.name}: {done} of {total}", end="\r", flush=True),
    )
    about = {
        "set": entry.name,
        "solver": entry.solver,
        "budget": {name: value for name, value in limits.items() if value < float("inf")},
        "versions": _resources.versions(),
        "commit": COMMIT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _resources.machine(),
    }
    path = references.SHIPPED / f"{entry.name.partition(':')[0]}.safetensors"
    references.ship(path, instances.env, instances.blocks, found, about)
    if references.shipped(instances.env, entry.name, instances.blocks) is None:
        raise SystemExit(f"{path}: it cannot be read back")
    print(
        f"{entry.name} by {entry.solver}: mean {found.objective.mean():.6g}, {sum(found.proven)} of "
        f"{instances.count} proven, {path.stat().st_size:,} bytes, {time.monotonic() - begin:.0f} s",
        flush=True,
    )


def main() -> None:
    """Compute and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {entry.name.partition(":")[0]: entry for entry in TABLE}
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}")
    parser.add_argument("--workers", type=int, default=1, help="processes side by side (default: 1)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    for name, entry in known.items():
        if not arguments.names or name in arguments.names:
            _ship(entry, arguments.workers)


if __name__ == "__main__":
    main()
