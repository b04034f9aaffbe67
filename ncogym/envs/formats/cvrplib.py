"""CVRPLIB: capacitated vehicle routing instances (`.vrp`) and solutions (`.sol`), read and written exactly.

A `.vrp` file is a TSPLIB95 file with a capacity, demands and a depot, so it is read as strictly as one and has its
distances (`ncogym.envs.formats.tsplib`). The package vrplib would not do: of an instance it drops the ids of the rows,
it takes neither GEO, ATT nor most explicit layouts, its Gram-matrix distances are wrong at the rounding edge, and it
refuses `.sol` files with tabs, commas or capitals, which are in use.

References:
    E. Uchoa et al., New Benchmark Instances for the Capacitated Vehicle Routing Problem, EJOR 257, 2017.
"""

import os
import re
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ncogym.envs.formats.text import read_text
from ncogym.envs.formats.tsplib import (
    _ROW_SECTIONS,
    _Document,
    _one_line,
    _plain,
    _shown,
    _shown_path,
    _size_fault,
    matrix_fault,
    places_fault,
)
from ncogym.errors import InstanceError

MIN_DIMENSION = 2  # the depot and a customer
MAX_LOAD = 2**53  # up to here float64 adds whole numbers exactly

_NUMBERS = ("CAPACITY", "DISTANCE", "SERVICE_TIME", "VEHICLES")  # header lines, each read as a section of one number
_OWN_SECTIONS = (*_NUMBERS, "DEMAND_SECTION", "DEPOT_SECTION")
_NOT_MODELLED = {
    "TIME_WINDOW_SECTION": "time windows",
    "BACKHAUL_SECTION": "backhauls",
    "PICKUP_AND_DELIVERY_SECTION": "pick-ups",
}

_ROUTE_WORD = re.compile(r"\s*route\b", re.IGNORECASE)
_ROUTE = re.compile(r"\s*route\s*(?:#\s*\d+\s*[:=]?|\d*\s*[:=])(.*)", re.IGNORECASE)
_CUSTOMER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, eq=False)
class CVRPLIBProblem:
    """One CVRP instance as its file defines it; index 0 is the depot, the customers keep the order of their ids.

    Attributes:
        name: The file's NAME, or the file name without its suffix where there is none.
        edge_weight_type: "EUC_2D" and so on, in upper case; "EXPLICIT" where the file holds the matrix.
        coords: Coordinates, float64 [N, 2], as in the file; None where the file has none.
        demand: Float64 [N], 0 at the depot.
        capacity: What a vehicle holds.
        dists: Distances, float64 [N, N], symmetric, rounded as the format says, with 0 on the diagonal.
        order: Int64 [N], the place in the file of each node, counted from 0.
    """

    name: str
    edge_weight_type: str
    coords: np.ndarray | None
    demand: np.ndarray
    capacity: float
    dists: np.ndarray
    order: np.ndarray


class _CVRPDocument(_Document):
    """A TSPLIB95 document with the parts of a CVRP; what the problem does not model is refused by name."""

    least = MIN_DIMENSION

    def _open(self, section: str) -> None:
        if section in _NOT_MODELLED:
            raise self.error(f"{section} is not supported; this problem has no {_NOT_MODELLED[section]}")
        if section not in _OWN_SECTIONS:
            return super()._open(section)
        if section in self.numbers:
            raise self.error(f"{section} is given twice")
        if section not in _NUMBERS:
            self._look_ahead()
            if not self.dimension:
                raise self.error(f"DIMENSION is missing before {section}")
        sizes = {"DEMAND_SECTION": 2 * self.dimension, "DEPOT_SECTION": self.dimension + 1}
        self._sizes[section], self.numbers[section] = sizes.get(section, 1), array("d")
        return None

    def _take(self, section: str, line: str) -> None:
        if section == "DEPOT_SECTION":  # as long as it is
            self._sizes[section] = self.dimension + 1
        super()._take(section, line)
        if section == "DEPOT_SECTION":
            self._sizes[section] = len(self.numbers[section])

    def section(self, name: str) -> np.ndarray:
        """Return the numbers of a section that must be there."""
        if name not in self.numbers:
            raise self.error(f"{name} is missing")
        return np.array(self.numbers[name])

    def check_limits(self, dists: np.ndarray) -> None:
        """Refuse a limit of the header that a solution on these distances [N, N] could break.

        A route is no longer than the longest ways out of all nodes together, and no route is without a customer.
        """
        told = {name: float(self.numbers[name][0]) for name in _NUMBERS[1:] if name in self.numbers}
        customers, service = self.dimension - 1, told.get("SERVICE_TIME", 0.0)
        longest = float(dists.max(1).sum()) + customers * service
        for name, wrong, missing, harmless in (
            ("VEHICLES", told.get("VEHICLES", customers) < customers, "limited fleet", f"at least {customers}"),
            (
                "DISTANCE",
                told.get("DISTANCE", longest) < longest,
                "routes of limited length",
                f"at least {longest:.15g}",
            ),
            ("SERVICE_TIME", service < 0 or (service and "DISTANCE" not in told), "service times", "0"),
        ):
            if wrong:
                words = f"this problem has no {missing}, allowed is what limits nothing here, {harmless}"
                raise self.error(f"{name} {_plain(told[name])} is not supported; {words}")

    def depot(self) -> int:
        """Return the index of the one depot."""
        depots = [number for number in self.section("DEPOT_SECTION") if number != -1]
        if len(depots) != 1:
            raise self.error(f"DEPOT_SECTION names {len(depots)} depots, one is allowed")
        if not (1 <= depots[0] <= self.dimension and depots[0].is_integer()):
            raise self.error(f"depot {_plain(depots[0])} is not one of 1..{self.dimension}")
        return int(depots[0]) - 1

    def demand(self) -> np.ndarray:
        """Return the demands [N] by node id."""
        ids, demand = self.section("DEMAND_SECTION").reshape(-1, 2).T
        for node in ids[~np.isin(ids, np.arange(1, self.dimension + 1))]:
            raise self.error(f"node id {_plain(node)} in DEMAND_SECTION is not one of 1..{self.dimension}")
        by_id, counts = np.zeros(self.dimension), np.bincount(ids.astype(int) - 1)
        if counts.max() > 1:
            raise self.error(f"node id {counts.argmax() + 1} is given twice in DEMAND_SECTION")
        by_id[ids.astype(int) - 1] = demand
        return by_id


def read_cvrplib(path: str | os.PathLike[str]) -> CVRPLIBProblem:
    """Read a CVRP instance in CVRPLIB format.

    Args:
        path: A file of 2 to 20000 nodes whose ids are 1..N, in any order.

    Returns:
        The instance, with the depot moved to index 0.

    Raises:
        InstanceError: The file is missing, malformed or asks for what is not modelled; the text is one line.
    """
    document = _CVRPDocument(path, ("CVRP",), (*_ROW_SECTIONS, "EDGE_WEIGHT_SECTION", *_OWN_SECTIONS, *_NOT_MODELLED))
    document.need("TYPE")
    edge_weight_type = document.need("EDGE_WEIGHT_TYPE")
    capacity = float(document.section("CAPACITY")[0])
    demand, depot = document.demand(), document.depot()
    if fault := load_fault(demand, capacity, depot):
        raise document.error(fault)
    coords, _ = document.rows("NODE_COORD_SECTION")
    order = np.array([depot, *(node for node in range(document.dimension) if node != depot)])
    coords = None if coords is None else coords[order]
    if edge_weight_type == "EXPLICIT":
        dists = document.matrix()
        if fault := _symmetric_fault(dists):
            raise document.error(fault)
        dists = dists[np.ix_(order, order)] if depot else dists
    elif coords is None:
        raise document.error(f"NODE_COORD_SECTION is missing, EDGE_WEIGHT_TYPE {edge_weight_type} needs it")
    else:
        dists = document.distances(coords)
    document.check_limits(dists)
    name = document.header.get("NAME") or Path(path).stem
    return CVRPLIBProblem(name, edge_weight_type, coords, demand[order], capacity, dists, order)


def write_cvrplib(
    path: str | os.PathLike[str],
    values: np.ndarray,
    demand: np.ndarray,
    capacity: float,
    edge_weight_type: str = "EUC_2D",
    comment: str = "",
) -> None:
    """Write an instance that `read_cvrplib` reads back to the very same float64 numbers; its NAME is the file's.

    Args:
        path: The file to write; an existing one is replaced.
        values: Coordinates [N, 2] as the edge weight type wants them, the depot first, or for "EXPLICIT" the symmetric
            distances [N, N].
        demand: Demands [N], 0 at the depot.
        capacity: What a vehicle holds.
        edge_weight_type: "EXPLICIT" or one of those that `ncogym.envs.formats.tsplib.distances` takes.
        comment: One line of text for COMMENT, left out where empty.

    Raises:
        InstanceError: `read_cvrplib` would refuse the file; nothing is written.
        OSError: The file cannot be written.
    """
    values = np.array(values, dtype=np.float64)
    explicit = edge_weight_type == "EXPLICIT"
    if explicit and values.ndim == 2:
        np.fill_diagonal(values, 0)
    if fault := (
        (_symmetric_fault(values) if explicit else places_fault(values, edge_weight_type))
        or _size_fault("the number of nodes", len(values), MIN_DIMENSION)
        or (f"demands must have the shape [{len(values)}]" if np.shape(demand) != (len(values),) else None)
        or load_fault(demand, capacity, 0)
    ):
        raise InstanceError(f"{_shown_path(path)}: {fault}")
    lines = [f"NAME : {_one_line('name', Path(path).stem)}", "TYPE : CVRP"]
    lines += [f"COMMENT : {_one_line('comment', comment)}"] if comment else []
    lines += [f"DIMENSION : {len(values)}", f"EDGE_WEIGHT_TYPE : {edge_weight_type}"]
    lines += ["EDGE_WEIGHT_FORMAT : FULL_MATRIX"] if explicit else []
    lines += [f"CAPACITY : {_plain(capacity)}"]
    if explicit:
        lines += ["EDGE_WEIGHT_SECTION", *(" ".join(map(_plain, row)) for row in values.tolist())]
    else:
        lines += ["NODE_COORD_SECTION", *(f"{k} {x!r} {y!r}" for k, (x, y) in enumerate(values.tolist(), 1))]
    lines += ["DEMAND_SECTION", *(f"{k} {_plain(amount)}" for k, amount in enumerate(demand, 1))]
    Path(path).write_text("\n".join([*lines, "DEPOT_SECTION", "1", "-1", "EOF", ""]), encoding="utf-8", newline="\n")


def read_routes(path: str | os.PathLike[str]) -> list[list[int]]:
    """Read the routes of a `.sol` file, customers counted from 1 in the order of their ids.

    Args:
        path: A file of lines ``Route #1: 5 3 8``. Capitals do not matter, nor whether numbers are parted by blanks,
            tabs, commas or ``->``, nor whether a route begins and ends with the depot, 0. Whatever else the file holds,
            such as ``Cost 784``, is left unread.

    Raises:
        InstanceError: The file cannot be read, or it holds no routes of numbers.
    """
    try:
        text = read_text(path)
    except InstanceError as error:
        raise InstanceError(f"{_shown_path(path)}: {error}") from error
    routes = []
    for number, line in enumerate(text.splitlines(), 1):
        if not _ROUTE_WORD.match(line):
            continue
        match = _ROUTE.fullmatch(line)
        words = re.split(r"[\s,;]+|->", match[1]) if match else [line.strip()]
        for word in words:
            if word and not _CUSTOMER.fullmatch(word):
                raise InstanceError(f"{_shown_path(path)}, line {number}: {_shown(word)} is no customer of a route")
        route = [int(word) for word in words if word]
        visits = [place for place, node in enumerate(route) if node]  # what lies outside them is the depot
        if visits:
            routes.append(route[visits[0] : visits[-1] + 1])
    if not routes:
        raise InstanceError(f"{_shown_path(path)}: no line 'Route #1: ...' is there")
    return routes


def write_routes(path: str | os.PathLike[str], routes: list[list[int]], cost: float) -> None:
    """Write routes and their cost as a `.sol` file, as CVRPLIB publishes them.

    Args:
        path: The file to write; an existing one is replaced.
        routes: Customers of each route, counted from 1 in the order of their ids.
        cost: The length of all routes.
    """
    lines = [f"Route #{number}: {' '.join(map(str, route))}" for number, route in enumerate(routes, 1)]
    Path(path).write_text("\n".join([*lines, f"Cost {_plain(cost)}", ""]), encoding="utf-8", newline="\n")


def load_fault(demand: np.ndarray, capacity: float, depot: int) -> str | None:
    """Say why demands [N] and a capacity make no instance, if so; nodes are counted from 1."""
    if not 0 < capacity <= MAX_LOAD:
        return f"CAPACITY is {_plain(capacity)}, it must be above 0 and at most 2**53"
    if demand[depot] != 0:
        return f"the depot, node {depot + 1}, has the demand {_plain(demand[depot])}, it must be 0"
    wrong = ~((demand >= 0) & (demand <= capacity))
    if wrong.any():
        node = int(wrong.argmax())
        return (
            f"node {node + 1} has the demand {_plain(demand[node])}, allowed are 0 to the CAPACITY {_plain(capacity)}"
        )
    if demand.sum() > MAX_LOAD:
        return f"demands sum to {_plain(demand.sum())}; at most 2**53 is allowed, for exact sums"
    return None


def _symmetric_fault(dists: np.ndarray) -> str | None:
    """Say why distances [N, N] whose diagonal is 0 are not allowed, if so; nodes are counted from 1."""
    if fault := matrix_fault(dists, "ATSP"):
        return fault
    uneven = dists != dists.T
    if uneven.any():
        i, j = np.unravel_index(uneven.argmax(), uneven.shape)
        there, back = _plain(dists.item(i, j)), _plain(dists.item(j, i))
        return f"the weight from node {i + 1} to {j + 1} is {there} but {back} back, a CVRP must be symmetric"
    return None
