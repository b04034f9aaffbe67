"""Mutants of algorithms, searches, statistics and formats, drawn by Cosmic Ray, against the tests that mirror them.

    git worktree add /tmp/mutants && python -m venv /tmp/mutate && /tmp/mutate/bin/pip install cosmic-ray==8.7.0
    cd /tmp/mutants && /tmp/mutate/bin/python benchmarks/mutants.py --python /PATH/.venv/bin/python --output out.json

It changes files of the checkout that it runs in, one mutant after the other, so give it one of its own. As many mutants
of each part are drawn, from all that the tool knows but those of annotations and of `if TYPE_CHECKING`, which no run
evaluates. A mutant is killed where a test of the mirrored file fails, or does not end in time. What was done is kept in
the output, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_item import MutationSpec

PARTS = {
    "algorithms": "ncogym/algorithms/*.py",
    "searches": "ncogym/search/*.py",
    "statistics": "ncogym/evaluation.py",
    "formats": "ncogym/envs/formats/*.py",
}


def mirrored(path: Path) -> Path:
    """Return the test file that mirrors a module of the package."""
    return Path("tests", *path.parts[1:-1], f"test_{path.name}")


def never_evaluated(path: Path) -> list[tuple[int, int]]:
    """Return the first and last positions (line * 1000 + column) of what no run of the module evaluates."""
    found: list[Any] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        found.extend(getattr(node, name, None) for name in ("annotation", "returns"))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found.append(node)
    return [
        (node.lineno * 1000 + node.col_offset, node.end_lineno * 1000 + node.end_col_offset) for node in found if node
    ]


def drawn(pattern: str, count: int, seed: int) -> list[MutationSpec]:
    """Draw mutants of the files of one part, each of all of them with the same probability."""
    paths = [path for path in sorted(Path().glob(pattern)) if mirrored(path).exists()]
    skipped = {path: never_evaluated(path) for path in paths}
    known = [
        mutation
        for item in _all_work_items(paths, {})
        for mutation in item.mutations
        if not any(
            first <= mutation.start_pos[0] * 1000 + mutation.start_pos[1] < last
            for first, last in skipped[mutation.module_path]
        )
    ]
    known.sort(key=lambda m: (str(m.module_path), m.start_pos, m.operator_name, m.occurrence))
    print(f"{pattern}: {len(known)} mutants of {len(paths)} files", file=sys.stderr)
    return random.Random(seed).sample(known, count)


def main() -> None:
    """Draw, run and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="a Python that has the package's dependencies")
    parser.add_argument("--output", type=Path, required=True, help="JSON: one object a mutant")
    parser.add_argument("--seed", type=int, default=20261201)
    parser.add_argument("--count", type=int, default=15, help="mutants of each part")
    parser.add_argument("--seconds", type=float, default=900, help="until a test that does not end counts as failed")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    given = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    os.environ |= {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    rows = json.loads(given.output.read_text()) if given.output.exists() else []
    for part in given.parts:
        for mutation in drawn(PARTS[part], given.count, given.seed):
            path = mutation.module_path
            key = {
                "part": part,
                "file": str(path),
                "line": mutation.start_pos[0],
                "operator": mutation.operator_name.removeprefix("core/"),
                "occurrence": mutation.occurrence,
            }
            if any(row | key == row for row in rows):
                continue
            command = f"{shlex.quote(given.python)} -m pytest -x -p no:cacheprovider {mirrored(path)}"
            result = mutate_and_test([mutation], command, given.seconds)
            diff = [line for line in (result.diff or "").splitlines() if line[:1] in "+-" and line[:3] not in "+++---"]
            outcome = str(result.test_outcome.value if result.test_outcome else result.worker_outcome.value)
            row = key | {"outcome": outcome, "change": diff, "seed": given.seed, "commit": commit}
            rows.append(row)
            given.output.write_text(json.dumps(rows, indent=1) + "\n")
            print(row, flush=True)
    for part in given.parts:
        of_part = [row for row in rows if row["part"] == part]
        print(f"{part}: {sum(row['outcome'] == 'killed' for row in of_part)} of {len(of_part)} killed")


if __name__ == "__main__":
    main()
