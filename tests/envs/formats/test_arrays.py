from __future__ import annotations

import io
import re
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncogym.envs.formats.arrays import holds, read_arrays, real, refuse, whole
from ncogym.errors import InstanceError

AXES = {"locs": "batch nodes 2", "load": "batch nodes"}
KNOWN = {"best": "batch"}


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    """Return arrays of two instances of three nodes."""
    return {"locs": np.ones((2, 3, 2)), "load": np.ones((2, 3)), **changes}


def test_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    """Names, dtypes and numbers come back."""
    given = arrays(load=np.arange(6, dtype=np.int16).reshape(2, 3))
    np.savez(tmp_path / "a.npz", **given)
    found = read_arrays(tmp_path / "a.npz")
    assert list(found) == ["locs", "load"]
    assert found["load"].dtype == np.int16
    assert all(np.array_equal(found[name], given[name]) for name in given)


def test_files_that_hold_no_arrays_are_refused(tmp_path: Path) -> None:
    """A missing file, text, half a file, a lone array, and pickled objects are named; nothing is unpickled."""
    path = tmp_path / "a.npz"
    with pytest.raises(InstanceError, match=r"a\.npz: no such file"):
        read_arrays(path)
    np.savez(path, **arrays())
    half = path.read_bytes()[:200]
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    lone = path.read_bytes()
    np.savez(path, locs=np.array([{}], dtype=object))
    for content in (path.read_bytes(), b"", b"no arrays", half, lone):
        path.write_bytes(content)
        with pytest.raises(InstanceError, match=r"a\.npz: it is no \.npz file of numbers"):
            read_arrays(path)


def member(header: bytes, numbers: bytes = b"") -> bytes:
    """Return an array in numpy's format whose header is given."""
    header = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + numbers


def packed(path: Path, content: bytes, name: str = "locs.npy", how: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip file of one member."""
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr(name, content)
    return path


def test_bombs_are_refused_from_their_headers(tmp_path: Path) -> None:
    """Numbers that shrank to a thousandth are not unpacked, nor those made that a header tells of and nothing holds."""
    zeros = io.BytesIO()
    np.save(zeros, np.zeros((1 << 19, 10)))  # 40 MB, which shrink to a thousandth
    bomb = packed(tmp_path / "bomb.npz", zeros.getvalue())
    shape = b"(1000000000000, 50, 2)"
    hollow = packed(tmp_path / "hollow.npz", member(b"{'descr': '<f4', 'fortran_order': False, 'shape': %s}" % shape))
    long = packed(tmp_path / "long.npz", member(b"{'descr': '<U500000000', 'fortran_order': False, 'shape': ()}"))
    del zeros
    tracemalloc.start()
    with pytest.raises(
        InstanceError, match=r"bomb\.npz: its arrays take 41,943,168 bytes, and a file of this size may"
    ):
        read_arrays(bomb)
    for path in (hollow, long):
        with pytest.raises(InstanceError, match=r"it is no \.npz file of numbers \(locs\.npy is no array of numbers\)"):
            read_arrays(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_numbers_that_shrink_as_they_do_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a compressed file is read if it is as instances make one: durations below 100, 8 bytes each."""
    monkeypatch.setattr("ncogym.envs.formats.arrays.MAX_BYTES", 0)
    duration = np.random.default_rng(0).integers(1, 100, (10, 50, 20))
    np.savez_compressed(tmp_path / "a.npz", duration=duration)
    assert duration.nbytes > 5 * (tmp_path / "a.npz").stat().st_size
    assert np.array_equal(read_arrays(tmp_path / "a.npz")["duration"], duration)


@pytest.mark.parametrize("harm", ["flipped", "encrypted", "compression", "lzma", "text", "nested", "version"])
def test_damage_is_one_line(tmp_path: Path, harm: str) -> None:
    """A flipped byte in what is compressed, a password, an unknown compression, other members: each is one line."""
    array = member(b"{'descr': '<f8', 'fortran_order': False, 'shape': (100,)}", np.random.default_rng(0).bytes(800))
    contents = {
        "text": b"no array",
        "nested": member(b"(" * 100),
        "version": array.replace(b"NUMPY\x01", b"NUMPY\x09"),
    }
    how = zipfile.ZIP_LZMA if harm == "lzma" else zipfile.ZIP_DEFLATED
    path = packed(tmp_path / "a.npz", contents.get(harm, array), how=how)
    raw = bytearray(path.read_bytes())
    central = raw.index(b"PK\x01\x02")
    for head in (0, central):
        if harm == "encrypted":
            raw[head + (6 if head == 0 else 8)] |= 1
        if harm == "compression":
            raw[head + (8 if head == 0 else 10)] = 77
    if harm == "flipped":
        raw[30 + len("locs.npy") + 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(InstanceError, match=r"a\.npz: it is no \.npz file of numbers \(.+\)$") as refused:
        read_arrays(path)
    assert not re.search(r"\n", str(refused.value))


def test_names_tell_the_layout() -> None:
    """Arrays are a layout's if all that must be there are, and nothing that may not be."""
    assert holds(arrays(), AXES, KNOWN)
    assert holds(arrays(best=np.ones(2)), AXES, KNOWN)
    assert not holds(arrays(other=np.ones(2)), AXES, KNOWN)
    assert not holds({"locs": np.ones((2, 3, 2))}, AXES, KNOWN)
    assert not holds({"locs": "of any shape", "other": None}, AXES, KNOWN)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"locs": np.ones((2, 3))}, r"array locs has the shape \[2, 3\]; it must be \[batch, nodes, 2\]$"),
        (
            {"locs": np.ones((2, 3, 3))},
            r"shape \[2, 3, 3\]; it must be \[batch, nodes, 2\] with 2 batch, 3 nodes",
        ),
        ({"load": np.ones((2, 4))}, r"load has the shape \[2, 4\]; it must be \[batch, nodes\] with 2 batch, 3 nodes"),
        ({"best": np.ones(3)}, r"best has the shape \[3\]"),
        ({"locs": np.ones((0, 3, 2)), "load": np.ones((0, 3))}, r"locs has the shape \[0, 3, 2\], which holds nothing"),
        ({"load": np.full((2, 3), np.inf)}, "array load has entries that are no finite numbers"),
        ({"load": np.full((2, 3), "3")}, "array load has entries that are no finite numbers"),
        ({"load": np.full((2, 3), "1e4000", dtype=np.longdouble)}, "array load has entries that are no finite numbers"),
        ({"load": np.full((2, 3), 1j)}, "array load has entries that are no finite numbers"),
    ],
)
def test_broken_arrays_are_refused(changes: dict[str, Any], words: str) -> None:
    """Axes that do not fit each other, nothing at all, and what is no number are named."""
    with pytest.raises(InstanceError, match=words):
        holds(arrays(**changes), AXES, KNOWN)


def test_numbers_become_tensors() -> None:
    """float32 stays, other numbers become float64, and whole ones int64 if they are whole; the array is not shared."""
    given = {"a": np.ones(2, np.float32), "b": np.array([1, 2], np.int16), "c": np.array([1.0, 2.5])}
    assert [real(given, name).dtype for name in given] == [torch.float32, torch.float64, torch.float64]
    assert (whole(given, "a").tolist(), whole(given, "b").dtype) == ([1, 1], torch.int64)
    with pytest.raises(InstanceError, match="array c has entries that are no whole numbers"):
        whole(given, "c")
    for huge in (np.array([1e30]), np.array([2.0**63]), np.array([2**64 - 1], np.uint64)):
        with np.errstate(all="raise"), pytest.raises(InstanceError, match="c has entries that are no whole numbers"):
            whole({"c": huge}, "c")
    real(given, "c").zero_()
    assert given["c"].tolist() == [1.0, 2.5]


def test_the_first_fault_is_refused() -> None:
    """The first broken instance is named by its row."""
    refuse([None, None])
    with pytest.raises(InstanceError, match="instance 1: too heavy"):
        refuse([None, "too heavy", "too light"])
