from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ncogym._files import named, staged, whole


def test_file_appears_once_it_is_whole(tmp_path: Path) -> None:
    """Until the block ends the old file is there, then the new one, with the rights of any other, and no litter."""
    path, plain = tmp_path / "a.txt", tmp_path / "plain"
    path.write_text("old")
    plain.touch()
    with whole(path) as made:
        assert made.name == "a.txt"
        made.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode == plain.stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "plain"]


def write(folder: Path, contents: dict[str, bytes | Exception], naming: Callable[[Path], Any] = nullcontext) -> None:
    """Write files together, and raise in the place of one that is an error."""
    with staged(folder) as made:
        for name, content in contents.items():
            with naming(made / name):
                if isinstance(content, Exception):
                    raise content
                (made / name).write_bytes(content)


def test_error_leaves_all_as_it_was(tmp_path: Path) -> None:
    """An error in the block passes through, and neither of two files is replaced."""
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyError):
        write(tmp_path, {"a": b"new", "b": b"new", "c": KeyError()})
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_full_disk_names_the_file(tmp_path: Path) -> None:
    """A write that fails is an error with the file's name, and leaves no half file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="large") as raised:
            write(tmp_path, {"small": b"fits", "large": bytes(5000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(tmp_path / "large"))
    assert os.listdir(tmp_path) == []


def test_error_without_a_number_names_the_file(tmp_path: Path) -> None:
    """What numpy raises of a full disk, text alone, keeps its words and gets the name."""
    with pytest.raises(OSError, match="9 requested and 0 written") as raised:
        write(tmp_path, {"a.npz": b"half", "more": OSError("9 requested and 0 written")})
    assert raised.value.filename == str(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("folder", "name", "told"),
    [("", "a" * 300, "a" * 300), ("none", "a", "none")],
)
def test_what_cannot_be_written_is_named_by_its_place(tmp_path: Path, folder: str, name: str, told: str) -> None:
    """An error names the file as the user knows it, or the folder that is missing."""
    with pytest.raises(OSError, match=r"(?i)no such|too long") as raised:
        write(tmp_path / folder, {name: b""})
    assert raised.value.filename == str(tmp_path / told)


def test_the_file_at_work_is_named(tmp_path: Path) -> None:
    """Who knows which file is being written tells, even where the library that failed took it away again."""
    with pytest.raises(OSError, match=r"b\.png") as raised:
        write(tmp_path, {"a": b"", "b.png": OSError(errno.ENOSPC, "No space left")}, named)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "b.png"))


def test_error_of_another_file_is_told_as_it_is(tmp_path: Path) -> None:
    """What the block cannot read is not taken for the file that it writes."""
    with pytest.raises(FileNotFoundError, match="mine"):
        write(tmp_path, {"a": b"", "b": FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/mine")})


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    """The next process that writes there removes the folder of one that was killed, and not that of one at work."""
    code = f"import os; from ncogym._files import staged\nwith staged({str(tmp_path)!r}): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    (left,) = os.listdir(tmp_path)
    with whole(tmp_path / "a") as outer:
        outer.write_text("a")
        assert not (tmp_path / left).exists()
        with whole(tmp_path / "b") as inner:
            inner.write_text("b")
        assert outer.exists()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
