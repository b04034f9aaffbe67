"""What the comparisons share: rl4co's virtual environment, the processes that measure, and the files of results."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PEER = HERE / ".venv" / "bin" / "python"


class Worker:
    """A process that measures on request; `serving.serve` is its end of the pipe.

    Args:
        command: what starts it.
        threads: of torch.
    """

    def __init__(self, command: list[str], threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(HERE.parents[1])}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.versions = self._answer()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{Path(sys.argv[0]).name}: {' '.join(self.process.args)} ended with code {self.process.wait()}")
        return json.loads(line)


def install() -> None:
    """Make rl4co's virtual environment, torch first and by itself, so that no other package picks a larger build."""
    if PEER.exists():
        return
    print("installing rl4co 0.7.0 into", HERE / ".venv", "(a few minutes) ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", HERE / ".venv"], check=True)
    pip = [PEER, "-m", "pip", "install", "--quiet", "--constraint", HERE / "constraints.txt"]
    subprocess.run([*pip, "torch"], check=True)
    subprocess.run([*pip, "rl4co==0.7.0"], check=True)


def about(ours: dict[str, str], theirs: dict[str, str]) -> dict[str, Any]:
    """Return what a table of results must tell of how it came about."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "ours": ours,
        "theirs": theirs,
    }


def write(folder: Path, name: str, told: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write the rows as CSV, and as JSON with what was told about them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"about": told, "rows": rows}, indent=1) + "\n")
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
