from __future__ import annotations

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
    real(given, "c").zero_()
    assert given["c"].tolist() == [1.0, 2.5]


def test_the_first_fault_is_refused() -> None:
    """The first broken instance is named by its row."""
    refuse([None, None])
    with pytest.raises(InstanceError, match="instance 1: too heavy"):
        refuse([None, "too heavy", "too light"])
