"""A file of JSON lines that grows while long work goes on, so that a kill loses what was under way and no more.

A line is written by one call of the system and reaches the disk before the next work begins. The last line of a file
that was cut off in the middle is dropped; any other that cannot be read is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ncogym.errors import ArgumentError


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of each line of a file, none if there is no file.

    Raises:
        ArgumentError: a line other than a torn last one is no JSON object.
    """
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline was cut off
        if not line.strip():
            continue
        try:
            said = json.loads(line)
            if not isinstance(said, dict):
                raise ValueError("it is no object")
        except (ValueError, RecursionError) as error:
            raise ArgumentError(f"{path}: line {number} is broken ({error}); delete the file to begin anew") from error
        yield number, said


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Add a line to a file; several processes may do so at once. What a kill left there is for `mend` to cut away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(content, allow_nan=False).encode() + b"\n"
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)
        os.fsync(file)
    finally:
        os.close(file)


def mend(path: Path) -> None:
    """Cut away a torn last line; to be called before anything is added, while nobody else writes."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


class Journal:
    """The journal of one piece of work, which knows what work it is of.

    Each process of several that share the work writes a file of its own, and reads those of all.

    Args:
        path: of the first process's file; the others' have their number before the suffix.
        about: what the work is; a journal of another is refused.
        rank: number of this process.

    Attributes:
        entries: what was there when it was opened, in the order of the files and lines.

    Raises:
        ArgumentError: the file is of other work, or broken.
    """

    def __init__(self, path: Path, about: dict[str, Any], rank: int = 0) -> None:
        self.path = path.with_name(f"{path.stem}{f'.{rank}' if rank else ''}{path.suffix}")
        mend(self.path)
        self.entries: list[dict[str, Any]] = []
        for file in sorted({path, self.path, *path.parent.glob(f"{path.stem}.*{path.suffix}")}):
            lines = [said for _, said in read_lines(file)]
            if lines and lines[0] != {"about": about}:
                told = lines[0].get("about")
                told = told if isinstance(told, dict) else {}
                differs = [name for name in {**about, **told} if told.get(name) != about.get(name)]
                words = "; ".join(f"{name} {told.get(name)!r}, here {about.get(name)!r}" for name in differs)
                allowed = "name another folder, or delete the file to begin anew"
                raise ArgumentError(f"output: {file} is of other, unfinished work ({words}); {allowed}")
            self.entries += lines[1:]
        if not self.path.exists() or not self.path.stat().st_size:
            append_line(self.path, {"about": about})

    def append(self, entry: dict[str, Any]) -> None:
        """Note what is done."""
        append_line(self.path, entry)
