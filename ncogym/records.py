"""What `solve --output` leaves in a folder: a record, NAME.json, that has the digests of the files it was written with.

By them a file of ours is told from one that somebody else put there: that one is never replaced, and a solution of ours
that lies beside an instance is not taken for a published one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from ncogym._files import named, staged
from ncogym.envs.formats.text import read_text
from ncogym.errors import ArgumentError, InstanceError

DIGESTS, REPLACED, PLACES = "sha256", "replaced_sha256", "places"


def record_beside(path: Path) -> Path:
    """Return where the record of an instance file lies if it was written to the same folder."""
    return path.with_name(f"{path.stem}.json")


def wrote(path: Path, record: Path) -> bool:
    """Return whether a file is there and is, to the last byte, one that was written with a record, or the record.

    Args:
        path: the file.
        record: NAME.json; there need be none.
    """
    said = _read(record)
    if said is None:
        return False
    if path.name == record.name:
        own = said[DIGESTS].pop(record.name, None)
        return bool(own == _digest(json.dumps(said).encode()))
    return path.is_file() and _digest(path.read_bytes()) in [*said[DIGESTS].values(), *said[REPLACED]]


def check_free(paths: Iterable[Path], record: Path, places: Iterable[str]) -> None:
    """Refuse to write where files lie that were not written with a record, or that answer for another instance.

    Args:
        paths: what is to be written.
        record: NAME.json.
        places: where the instance file lies, as `write_record` is told.

    Raises:
        ArgumentError: a file lies there that `solve` did not write, or somebody has changed since, or the record is of
            another instance file.
        OSError: a name cannot be that of a file.
    """
    for path in paths:
        with suppress(FileNotFoundError):
            path.lstat()
            if not wrote(path, record):
                cure = "name another folder, or move it away"
                raise ArgumentError(f"output: {path} was not written by `ncogym solve`, or was changed since; {cure}")
    told = (_read(record) or {}).get(PLACES)
    if told and not set(told) & set(places):
        raise ArgumentError(f"output: {record} is of another instance file, {told[-1]}; name another folder")


def write_record(record: Path, said: Mapping[str, Any], write_others: Callable[[Path], None]) -> None:
    """Write a record and the files that go with it, each whole or not at all.

    Args:
        record: NAME.json, in a folder that exists.
        said: what the record says, in plain values; its `PLACES` are where the instance file lies.
        write_others: writes the files to the folder that it is given.

    Raises:
        ArgumentError: as in `check_free`.
        OSError: a file cannot be written; it is named.
    """
    with staged(record.parent) as made:
        write_others(made)
        digests = {path.name: _digest(path.read_bytes()) for path in sorted(made.iterdir())}
        check_free([record, *(record.with_name(name) for name in digests)], record, said[PLACES])
        before = _read(record)
        # a kill may leave files of the record before beside the new one: it knows them, too
        told = {**said, REPLACED: [] if before is None else sorted(before[DIGESTS].values()), DIGESTS: digests}
        digests[record.name] = _digest(json.dumps(told).encode())
        with named(made / record.name):
            (made / record.name).write_text(json.dumps(told) + "\n")
    for name in () if before is None else before[DIGESTS].keys() - digests.keys():
        left = record.parent / PurePath(name).name  # of the solution before, which has no successor
        if wrote(left, record):
            left.unlink()


def _read(record: Path) -> Any:
    """Return what a record says, or None if there is none, or none with digests."""
    try:
        said = json.loads(read_text(record))
        of_files, replaced = said[DIGESTS], said[REPLACED]
        set(said.get(PLACES, []))
    except (InstanceError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return said if isinstance(of_files, dict) and isinstance(replaced, list) else None


def places_of(file: Path, folder: Path) -> list[str]:
    """Return where an instance file lies, seen from the folder of its record and from the root."""
    return [os.path.relpath(file.resolve(), folder.resolve()), str(file.resolve())]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
