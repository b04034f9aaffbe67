"""Files that appear whole or not at all: what a kill, a full disk or an error leaves is the file before, or none."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PREFIX = ".ncogym-unfinished-"  # long, since what begins with it is removed


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Give the path of a file to be written, which takes the place of ``path`` once all of it is on the disk.

    The file has the name of ``path`` and lies in a hidden folder beside it, which is gone afterwards.

    Example:
        >>> import tempfile
        >>> from ncogym._files import whole
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole(f"{folder}/a.txt") as path:
        ...         path.write_text("all of it")
        9

    Raises:
        OSError: as in `staged`.
    """
    target = Path(path)
    with staged(target.parent) as made, named(made / target.name):
        yield made / target.name


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Give an error of a write, which names no file, the name of the file that is being written."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def staged(folder: str | Path) -> Iterator[Path]:
    """Give an empty folder; the files that are written there replace those in ``folder`` once all are on the disk.

    If the block ends with an error, ``folder`` is as it was. What processes that were killed left of such folders is
    removed.

    Args:
        folder: must exist.

    Raises:
        OSError: ``folder`` or a file cannot be written; a file is named by where it would have been.
    """
    folder = Path(folder)
    for left in folder.glob(f"{PREFIX}*"):
        _remove(left)
    made, lock = _locked(folder)
    try:
        yield made
        files = sorted(made.iterdir())
        for path in files:
            _to_disk(path)
        for path in files:
            os.replace(path, folder / path.name)
    except OSError as error:
        at = None if error.filename is None else Path(os.fsdecode(error.filename))
        if at is not None and at.parent != made:
            raise
        # where nobody named the file (`named`), it is most likely the one that was written last
        name = _newest(made) if at is None else at.name
        raise type(error)(error.errno, error.strerror or str(error), str(folder / name)) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> tuple[Path, int | None]:
    """Make a folder that no other process removes while its lock is held; without a lock none ever does."""
    for left in (2, 1, 0):
        try:
            made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(folder)) from error
        lock = _lock(made)
        if left == 0 or (lock is not None and made.exists()):
            break
        shutil.rmtree(made, ignore_errors=True)  # another process takes it for one that was left, or nothing locks here
        if lock is not None:
            os.close(lock)
    return made, lock


def _remove(left: Path) -> None:
    """Remove such a folder, unless a process is at work in it."""
    lock = _lock(left)
    if lock is not None:
        shutil.rmtree(left, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder until the descriptor that is returned is closed or the process ends; None where that fails."""
    if sys.platform == "win32":
        return None
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # a pipe of that name would be waited for
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        os.close(descriptor)
    return None


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _newest(folder: Path) -> str:
    return max(((path.stat().st_mtime_ns, path.name) for path in folder.iterdir()), default=(0, ""))[1]
