"""Many cases of each target in processes of their own, and a table of what became of them.

    python -m fuzz --cases 100000 --workers 2 --output out/fuzz

Cases that fail are kept in the output folder. Exit code 1 if any did.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pickle
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from fuzz.measure import limit_memory, limit_seconds, measured
from fuzz.targets import TARGETS, Files, put
from hypothesis import HealthCheck, Phase, given, seed, settings

CHUNK = 1000  # cases of a process
ALLOWED_MB = 4000  # that a process may grow by
MEMORY = Path("/dev/shm")  # of Linux
KEPT = 3  # cases of each kind of failure


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="in all, shared by the targets")
    parser.add_argument("--targets", help="names with commas between; all by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--output", type=Path, default=Path("out/fuzz"))
    given_ = parser.parse_args()
    chosen = [TARGETS[name] for name in given_.targets.split(",")] if given_.targets else list(TARGETS.values())
    share, begin = given_.cases / sum(target.cases for target in chosen), time.monotonic()
    shutil.rmtree(given_.output, ignore_errors=True)
    given_.output.mkdir(parents=True)
    chunks = []
    for target in chosen:
        _ = target.valid  # made here once, and not in every process
        left = round(target.cases * share)
        while left > 0:
            chunks.append((target.name, min(left, CHUNK), given_.seed * 1_000_003 + len(chunks)))
            left -= CHUNK
    torch.set_num_threads(1)
    if MEMORY.is_dir():  # most of a case's time would go into folders
        tempfile.tempdir = str(MEMORY)
    tallies = _in_processes(chunks, given_.workers, given_.output)
    took = f"{time.monotonic() - begin:.0f} s with {given_.workers} workers"
    lines = [
        *_table(chosen, chunks, tallies),
        "",
        f"seed {given_.seed}, {took}; what failed is kept in {given_.output}",
    ]
    lines += [f"{count:6d} {words}" for words, count in _failures(tallies).most_common()]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(any(tally["failed"] for tally in tallies))


def _in_processes(chunks: list[tuple[str, int, int]], workers: int, output: Path) -> list[dict[str, Any]]:
    """Run chunks, each in a process that is forked from this one, and return what became of them."""
    context = multiprocessing.get_context("fork")
    running: dict[Any, Any] = {}
    for name, cases, number in chunks:
        while len(running) >= workers:
            for sentinel in wait(running):
                running.pop(sentinel).join()
        process = context.Process(target=_chunk, args=(name, cases, number, output / f"{number}.json"))
        process.start()
        running[process.sentinel] = process
    for process in running.values():
        process.join()
    return [_told(name, number, output) for name, _, number in chunks]


def _told(name: str, number: int, output: Path) -> dict[str, Any]:
    """Return what became of a chunk; of one whose process died, keep the case that it died of."""
    place = output / f"{number}.json"
    last = place.with_suffix(".last")
    if place.exists():
        last.unlink()
        told: dict[str, Any] = json.loads(place.read_text())
        return told
    if last.stat().st_size:
        put(pickle.loads(last.read_bytes()), output / f"died-{number}")  # noqa: S301 - our own
    words = f"{name}: the process of chunk {number} died, and with it the cases that were to follow"
    return {"cases": 0, "kinds": {}, "failed": {words: 1}, "seconds": 0.0, "mb": 0.0, "cpu": 0.0}


def _chunk(name: str, cases: int, number: int, place: Path) -> None:
    """Run cases of a target, and write what became of them."""
    warnings.simplefilter("ignore")
    target, output = TARGETS[name], place.parent.resolve()
    place, last = place.resolve(), open(place.resolve().with_suffix(".last"), "wb", buffering=0)  # noqa: SIM115
    kinds: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    most, begin = [0.0, 0.0], time.process_time()
    limit_memory(ALLOWED_MB)

    @seed(number)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.strategy())
    def run(case: tuple[Files, bool]) -> None:
        last.seek(0)
        last.truncate()
        last.write(pickle.dumps(case[0]))
        limit_seconds(60)
        outcome = measured(lambda: target.run(*case))
        kinds[outcome.kind] += 1
        most[:] = max(most[0], outcome.seconds), max(most[1], outcome.mb)
        if outcome.kind == "FAILED":
            words = f"{name}: {' '.join(outcome.words.split())}"
            failed[words] += 1
            if failed[words] <= KEPT:
                put(case[0], output / f"{name.replace(' ', '-')}-{number}-{sum(kinds.values())}")

    run()
    told = {"kinds": kinds, "failed": failed, "seconds": most[0], "mb": most[1], "cpu": time.process_time() - begin}
    place.write_text(json.dumps({"cases": sum(kinds.values()), **told}))


def _failures(tallies: list[dict[str, Any]]) -> Counter[str]:
    return sum((Counter(tally["failed"]) for tally in tallies), Counter[str]())


def _table(chosen: list[Any], chunks: list[Any], tallies: list[dict[str, Any]]) -> list[str]:
    """Return what became of the cases of each target, as a table in Markdown."""
    columns = ["target", "cases", "still valid", "refused", "failures", "most CPU s", "most MB", "CPU s in all"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    rows = [
        (target.name, [t for c, t in zip(chunks, tallies, strict=True) if c[0] == target.name]) for target in chosen
    ]
    for name, mine in (*rows, ("all", tallies)):
        kinds = sum((Counter(tally["kinds"]) for tally in mine), Counter[str]())
        refused = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common() if kind not in ("valid", "FAILED"))
        failures = sum(sum(tally["failed"].values()) for tally in mine)
        cells = [name, sum(tally["cases"] for tally in mine), kinds["valid"], refused, failures]
        cells += [f"{max(tally['seconds'] for tally in mine):.2f}", f"{max(tally['mb'] for tally in mine):.0f}"]
        cells.append(f"{sum(tally['cpu'] for tally in mine):.0f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
