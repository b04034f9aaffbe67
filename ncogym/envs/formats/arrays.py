"""Many instances in one ``.npz`` file: plain numpy arrays by name, whose first axis is the instance."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from ncogym.errors import InstanceError
from ncogym.problem import Arrays

MAX_BYTES = 1 << 20  # more only of a file that is large itself:
MAX_RATIO = 20  # instances of small whole numbers, each in 8 bytes, shrink to an eighth; zeros to a thousandth
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file; nothing in it is unpickled, and no array is made that it does not hold.

    Raises:
        InstanceError: the file is missing or malformed, or its arrays are over 1 MB and over 20 times as large as the
            file; the text is one line that names it.
    """
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except InstanceError:
        raise
    except OSError as error:
        raise InstanceError(f"{os.fspath(path)}: {(error.strerror or 'cannot be read').lower()}") from error
    except (
        ValueError,
        TypeError,
        EOFError,
        MemoryError,
        RuntimeError,  # encrypted; NotImplementedError, of a compression that zipfile does not know, is one
        OverflowError,
        SyntaxError,  # this and the next: of numpy's headers, which are Python
        tokenize.TokenError,
        struct.error,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise InstanceError(f"{os.fspath(path)}: it is no .npz file of numbers ({reason})") from error


def _check_sizes(path: str | os.PathLike[str]) -> None:
    """Refuse an ``.npz`` file whose arrays are larger than it allows for, or than it holds, from its headers alone."""
    with zipfile.ZipFile(path) as archive:
        members, allowed = archive.infolist(), max(MAX_BYTES, MAX_RATIO * os.path.getsize(path))
        needed = sum(member.file_size for member in members)
        if needed > allowed:
            told = f"its arrays take {needed:,} bytes, and a file of this size may hold {allowed:,}"
            raise InstanceError(f"{os.fspath(path)}: {told}; save them uncompressed")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the two that numpy writes
                raise ValueError("unknown compression")
            with archive.open(member) as file:
                version = npy.read_magic(file)
                if version not in HEADERS:
                    raise ValueError(f"{member.filename} has the version {version}")
                shape, _, dtype = HEADERS[version](file)
                if dtype.hasobject or file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                    raise ValueError(f"{member.filename} is no array of numbers")


def holds(arrays: Arrays, axes: Mapping[str, str], known: Mapping[str, str]) -> bool:
    """Return whether the arrays are those of a layout, and check their shapes and numbers if they are.

    Args:
        arrays: by name, as `read_arrays` returns them.
        axes: the arrays that must be there, and their axes, such as ``"batch nodes 2"``: axes of one name have one
            length, and a number is a length.
        known: likewise the arrays that may be there.

    Raises:
        InstanceError: an array has other axes, or holds what is no finite number; the words do not name the file yet.
    """
    if not axes.keys() <= arrays.keys() <= axes.keys() | known.keys():
        return False
    lengths: dict[str, int] = {}
    for name, told in ((name, told) for name, told in {**axes, **known}.items() if name in arrays):
        array, names = arrays[name], told.split()
        pairs = zip(names, array.shape, strict=False)
        if array.ndim != len(names) or any(
            length != (int(axis) if axis.isdigit() else lengths.setdefault(axis, length)) for axis, length in pairs
        ):
            known_lengths = ", ".join(f"{length} {axis}" for axis, length in lengths.items())
            words = f"array {name} has the shape {list(array.shape)}; it must be [{', '.join(names)}]"
            raise InstanceError(f"{words} with {known_lengths}" if lengths else words)
        if not array.size:
            raise InstanceError(f"array {name} has the shape {list(array.shape)}, which holds nothing")
        with np.errstate(over="ignore"):  # a longer float may not fit
            finite = array.dtype.kind in "biuf" and np.isfinite(array.astype(np.float64)).all()
        if not finite:
            raise InstanceError(f"array {name} has entries that are no finite numbers")
    return True


def whole(arrays: Arrays, name: str) -> Tensor:
    """Return an array of whole numbers as int64.

    Raises:
        InstanceError: an entry is no whole number.
    """
    with np.errstate(invalid="ignore"):  # what int64 cannot hold is found unequal below
        numbers = arrays[name].astype(np.int64)
    if not np.array_equal(numbers, arrays[name]):
        raise InstanceError(f"array {name} has entries that are no whole numbers")
    return torch.from_numpy(numbers)


def real(arrays: Arrays, name: str) -> Tensor:
    """Return an array as it is where it is float32, and else as float64."""
    array = arrays[name]
    return torch.from_numpy(array.astype(np.float32 if array.dtype == np.float32 else np.float64))


def refuse(faults: Iterable[str | None]) -> None:
    """Raise what is wrong with the first broken instance, if any is.

    Args:
        faults: of each instance, what is wrong with it, or None.

    Raises:
        InstanceError: one is broken; the words do not name the file yet.
    """
    for row, fault in enumerate(faults):
        if fault is not None:
            raise InstanceError(f"instance {row}: {fault}")
