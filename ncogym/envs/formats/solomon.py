"""Solomon's and Gehring-Homberger's files: routes with time windows.

A name; ``VEHICLE`` with number and capacity; ``CUSTOMER`` with a line a node: number, x, y, demand, ready time, due
date, service time, node 0 the depot. Distances, which are times, too, are those that the field compares by: Euclid's,
cut off after the first decimal (the 12th DIMACS challenge). The number of vehicles is not read: the distance alone
counts.

References:
    Solomon (1987), Algorithms for the Vehicle Routing and Scheduling Problems with Time Window Constraints, Operations
    Research 35.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ncogym.envs.formats.cvrplib import load_fault
from ncogym.envs.formats.text import read_text
from ncogym.errors import InstanceError

MAX_NODES = 10_000
MAX_NUMBER = 2.0**40

Numbers = NDArray[np.float64]


class SolomonFile(NamedTuple):
    """What a file says.

    Attributes:
        coords: float64 ``[nodes, 2]``.
        dists: float64 ``[nodes, nodes]``.
        demand: float64 ``[nodes]``.
        capacity: of each vehicle.
        windows: float64 ``[nodes, 2]``.
        service: float64 ``[nodes]``.
    """

    coords: Numbers
    dists: Numbers
    demand: Numbers
    capacity: float
    windows: Numbers
    service: Numbers


def read_solomon(path: str | os.PathLike[str]) -> SolomonFile:
    """Read an instance.

    Raises:
        InstanceError: the file is missing or malformed, or a customer cannot be served on a route of its own; the text
            is one line.
    """
    try:
        found = _parsed(read_text(path))
        if fault := load_fault(found.demand, found.capacity, 0) or windows_fault(
            found.windows, found.service, found.dists
        ):
            raise InstanceError(fault)
    except InstanceError as error:
        shown = os.fspath(path)
        raise InstanceError(f"{shown if shown.isprintable() else ascii(shown)}: {error}") from error
    return found


def _parsed(text: str) -> SolomonFile:
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, words) for number, words in lines if words]
    heads = [place for place, (_, words) in enumerate(lines) if words[0].upper() in ("VEHICLE", "CUSTOMER")]
    if len(heads) != 2 or heads[1] != heads[0] + 3:
        raise InstanceError("it has no sections VEHICLE, with number and capacity, and CUSTOMER")
    number, words = lines[heads[0] + 2]
    if len(words) != 2:
        raise InstanceError(f"line {number}: it must be the number of vehicles and their capacity")
    capacity = _number(number, words[1])
    rows = []
    for place, (number, words) in enumerate(lines[heads[1] + 2 :]):
        if len(words) != 7 or words[0] != str(place):
            raise InstanceError(f"line {number}: {' '.join(words)[:40]!r} is not allowed; node {place} has 7 numbers")
        rows.append([_number(number, word) for word in words[1:]])
    if not 2 <= len(rows) <= MAX_NODES:
        raise InstanceError(f"it has {len(rows)} nodes; allowed are 2 to {MAX_NODES}")
    table = np.array(rows)
    coords = table[:, :2]
    apart = np.sqrt(((coords[:, None] - coords) ** 2).sum(-1))
    dists = np.floor(10 * apart + 1e-9) / 10  # 6.4 may come out of the root as 6.3999...
    return SolomonFile(coords, dists, table[:, 2], capacity, table[:, 3:5], table[:, 5])


def _number(line: int, text: str) -> float:
    try:
        found = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        found = math.nan
    if not abs(found) <= MAX_NUMBER:
        raise InstanceError(f"line {line}: {text[:20]!r} is not allowed; it must be a number of at most 2**40")
    return found


def windows_fault(windows: Numbers, service: Numbers, dists: Numbers) -> str | None:
    """Say which node cannot be served on a route of its own, or None.

    Args:
        windows: ``[nodes, 2]``, node 0 the depot.
        service: ``[nodes]``.
        dists: ``[nodes, nodes]``.
    """
    first, last = windows[0]
    slack = 1e-9 * abs(last)
    if (service < 0).any() or (windows[:, 0] > windows[:, 1]).any():
        node = int(((service < 0) | (windows[:, 0] > windows[:, 1])).argmax())
        return f"node {node}: its window ends before it begins, or its service takes less than no time"
    reached = first + dists[0]
    back = np.maximum(reached, windows[:, 0]) + service + dists[:, 0]
    late = (reached > windows[:, 1] + slack) | (back > last + slack)
    late[0] = False
    if late.any():
        return f"customer {int(late.argmax())} cannot be reached and left within the windows, on whatever route"
    return None
