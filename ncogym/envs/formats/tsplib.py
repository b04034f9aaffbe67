"""TSPLIB95: travelling salesman instances (`.tsp`, `.atsp`) and tours (`.tour`), read and written exactly.

A file is a header of `KEYWORD : value` lines, then sections of numbers, then `EOF`. Distances are the format's own:
computed in float64 from direct coordinate differences and rounded as the format says, because the lengths published
for a file are sums of these integers; a Gram-matrix distance is wrong at the rounding edge. Two types of LKH's are
read as well, for coordinates that such rounding would swallow: EXACT_2D, Euclidean and not rounded, and GEOM, metres
on the globe between latitudes and longitudes in degrees.

The reader is tolerant in form (blanks round the colon or no colon, lower case, CRLF, a byte order mark, numbers
wrapped over lines in any way, headers below their section, no EOF) and strict in content: what it cannot honour is an
`InstanceError` of one line that names the file, the line where there is one, the value, and what is allowed. Of
keywords that no format has, those that inform, such as ``BEST_KNOWN : 34``, are passed over with a warning; those with
a word of a constraint or a cost, such as ``MAX_ROUTES : 3``, are refused. It never takes memory for numbers that the
header promises but the file does not hold.

References:
    G. Reinelt, TSPLIB 95, Institut fuer Angewandte Mathematik, Universitaet Heidelberg, 1995.
    K. Helsgaun, An Extension of the Lin-Kernighan-Helsgaun TSP Solver for Constrained Traveling Salesman and Vehicle
    Routing Problems, Roskilde University, 2017 (LKH-3: EXACT_2D, GEOM).
"""

import math
import os
import re
import warnings
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ncogym.envs.formats.text import read_text
from ncogym.errors import InstanceError, NcogymWarning

MIN_DIMENSION = 3
MAX_DIMENSION = 20_000
MAX_MAGNITUDE = 1e15  # of a coordinate or weight: beyond it float64 soon stops telling whole numbers apart

_MAX_LINE = 2**26  # bytes; a whole 3000 x 3000 matrix fits on one line
_PI = 3.141592  # the format's own, not math.pi
_EARTH_RADIUS = 6378.388  # kilometres, of GEO and GEOM
_LEAST = {"CEIL_2D": 1, "ATT": 1, "GEO": 1, "GEOM": 1}  # of close nodes, in the types that round up; 0 in the others

_TYPES = ("TSP", "ATSP")
_HEADER = (
    *("NAME", "COMMENT", "TYPE", "DIMENSION", "EDGE_WEIGHT_TYPE", "EDGE_WEIGHT_FORMAT"),
    *("NODE_COORD_TYPE", "DISPLAY_DATA_TYPE"),
)
_ROW_SECTIONS = ("NODE_COORD_SECTION", "DISPLAY_DATA_SECTION")  # a line 'id x y' for each node
_LAYOUTS = (
    *("FULL_MATRIX", "UPPER_ROW", "LOWER_ROW", "UPPER_DIAG_ROW", "LOWER_DIAG_ROW"),
    *("UPPER_COL", "LOWER_COL", "UPPER_DIAG_COL", "LOWER_DIAG_COL"),
)
# A keyword with such a word may change what a solution is or costs, in LKH's, CVRPLIB's, PyVRP's or OPLib's files ...
_CONSTRAINING = re.compile(
    "(?:^|_)(?:BACKHAUL|BATTER|CAPACIT|CLUSTER|COMPARTMENT|COST|CYCLE|DELIVER|DEMAND|DEPOT|DIMENSION|DISTANCE|DURATION|EDGE"
    "|FACTOR|FIXED|FLEET|FORMAT|GRID|GROUP|HORIZON|LENGTH|LIMIT|LOAD|MANDATORY|MATRIX|MAX|MIN|OPEN|OPTIONAL|PENALT|PERIOD"
    "|PICKUP|PRECED|PRECISION|PRIZE|PROFIT|RANGE|REVENUE|RISK|ROUNDING|ROUTE|SALES|SCALE|SCORE|SECTION|SERVICE|SET|SKILL"
    "|SPEED|SPLIT|START|STATION|TIME|TOUR|TRAILER|TRUCK|TYPE|UNIT|VEHICLE|WAIT|WEIGHT|WINDOW)"
)
_KNOWN = re.compile("(?:^|_)(?:BEST|BKS|KNOWN|OPT|OPTIMAL|OPTIMUM)(?:_|$)")  # ... unless it tells what is known of it

_INFORMS = re.compile(r"[A-Za-z_][A-Za-z_0-9]*\s*:")  # of a keyword that is not known, the colon is asked for
_KEYWORD = re.compile(r"([A-Za-z_][A-Za-z_0-9]*)\s*:?\s*(.*)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# Within these characters float() takes exactly what _NUMBER takes: no nan, no inf, no 1_0, no digits of other scripts.
_NUMERIC = re.compile(r"[0-9eE+.\s-]*")
_TOUR_HEADER = re.compile(r"^[ \t]*(TYPE|DIMENSION)\b[ \t]*:?(.*)$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, eq=False)
class TSPLIBProblem:
    """One TSP or ATSP instance as its file defines it; index k everywhere is the file's node k + 1.

    Attributes:
        name: The file's NAME, or the file name without its suffix where there is none.
        type: "TSP" (symmetric) or "ATSP".
        comment: The COMMENT lines, joined by a blank.
        dimension: Number of nodes N.
        edge_weight_type: "EUC_2D" and so on, in upper case; "EXPLICIT" where the file holds the matrix.
        coords: Node coordinates, float64 [N, 2], as in the file (GEO: DDD.MM, GEOM: degrees); None where it has none.
        display: Coordinates that serve for drawing only, float64 [N, 2], or None.
        dists: Distances, float64 [N, N], rounded as the format says; the diagonal is 0 whatever the file holds there.
        integral: Whether every distance is a whole number.
        node_ids: The ids in the order of the file's coordinate rows; 1..N in a file without such rows.
    """

    name: str
    type: Literal["TSP", "ATSP"]
    comment: str
    dimension: int
    edge_weight_type: str
    coords: np.ndarray | None
    display: np.ndarray | None
    dists: np.ndarray
    integral: bool
    node_ids: list[int]


def read_tsplib(path: str | os.PathLike[str]) -> TSPLIBProblem:
    """Read a TSP or ATSP instance in TSPLIB95 format.

    Args:
        path: A file of 3 to 20000 nodes whose ids are 1..N, in any order.

    Returns:
        The instance, with its coordinates sorted by node id and its full distance matrix.

    Raises:
        InstanceError: The file is missing, malformed or beyond what is supported; the text is one line.

    Warns:
        NcogymWarning: Rounding swallows the distances of so many close nodes that a tour says little.
    """
    document = _Document(path, _TYPES, (*_ROW_SECTIONS, "EDGE_WEIGHT_SECTION"))
    problem_type, edge_weight_type = document.need("TYPE"), document.need("EDGE_WEIGHT_TYPE")
    coords, node_ids = document.rows("NODE_COORD_SECTION")
    if edge_weight_type == "EXPLICIT":
        dists = document.matrix()
        if fault := matrix_fault(dists, problem_type):
            raise document.error(fault)
    elif coords is None:
        raise document.error(f"NODE_COORD_SECTION is missing, EDGE_WEIGHT_TYPE {edge_weight_type} needs it")
    else:
        dists = document.distances(coords)
    return TSPLIBProblem(
        name=document.header.get("NAME") or Path(path).stem,
        type="ATSP" if problem_type == "ATSP" else "TSP",
        comment=document.header["COMMENT"],
        dimension=len(dists),
        edge_weight_type=edge_weight_type,
        coords=coords,
        display=document.rows("DISPLAY_DATA_SECTION")[0],
        dists=dists,
        integral=all((row == np.floor(row)).all() for row in dists),
        node_ids=node_ids,
    )


def write_tsplib(
    path: str | os.PathLike[str],
    values: np.ndarray,
    name: str,
    edge_weight_type: str = "EUC_2D",
    comment: str = "",
    problem_type: Literal["TSP", "ATSP"] = "TSP",
) -> None:
    """Write an instance that `read_tsplib` reads back to the very same float64 numbers.

    Args:
        path: The file to write; an existing one is replaced.
        values: Coordinates [N, 2] as the edge weight type wants them, or for "EXPLICIT" the distances [N, N], whose
            diagonal is written as 0.
        name: One line of text for NAME.
        edge_weight_type: "EXPLICIT" or one of those that `distances` takes.
        comment: One line of text for COMMENT, left out where empty.
        problem_type: "TSP" or "ATSP"; distances of a TSP must be symmetric.

    Raises:
        InstanceError: `read_tsplib` would refuse the file; nothing is written.
        OSError: The file cannot be written.
    """
    values = np.array(values, dtype=np.float64)
    explicit = edge_weight_type == "EXPLICIT"
    if explicit and values.ndim == 2:
        np.fill_diagonal(values, 0)
    if fault := (
        _choice_fault("TYPE", problem_type, _TYPES)
        or _choice_fault("EDGE_WEIGHT_TYPE", edge_weight_type, (*_FORMULAS, "EXPLICIT"))
        or (matrix_fault(values, problem_type) if explicit else places_fault(values, edge_weight_type))
        or _size_fault("the number of nodes", len(values))
    ):
        raise InstanceError(f"{_shown_path(path)}: {fault}")
    lines = [f"NAME : {_one_line('name', name)}", f"TYPE : {problem_type}"]
    lines += [f"COMMENT : {_one_line('comment', comment)}"] if comment else []
    lines += [f"DIMENSION : {len(values)}", f"EDGE_WEIGHT_TYPE : {edge_weight_type}"]
    if explicit:
        lines += ["EDGE_WEIGHT_FORMAT : FULL_MATRIX", "EDGE_WEIGHT_SECTION"]
        lines += [" ".join(map(_plain, row)) for row in values.tolist()]
    else:
        lines += ["NODE_COORD_SECTION", *(f"{k} {x!r} {y!r}" for k, (x, y) in enumerate(values.tolist(), 1))]
    Path(path).write_text("\n".join([*lines, "EOF", ""]), encoding="utf-8", newline="\n")


def read_tour(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the one tour of a TSPLIB95 `.tour` file.

    Args:
        path: A file with a TOUR_SECTION. TYPE, DIMENSION, the closing -1 and EOF may be missing, other headers
            (TOUR_LENGTH ...) are left unread, nodes may be parted by commas, and the first may stand at the end again.

    Returns:
        Node indices from 0 in the order of the visits, int64 [N]: a permutation of 0..N-1.

    Raises:
        InstanceError: The file is missing or malformed, or its nodes are not each of 1..N once.
    """

    def error(text: str) -> InstanceError:
        return InstanceError(f"{_shown_path(path)}: {text}")

    try:
        text = read_text(path).replace("\r", "\n")
    except InstanceError as fault:
        raise error(str(fault)) from fault
    head, *sections = re.split(r"^[ \t]*TOUR_SECTION\b[ \t]*:?", text, maxsplit=1, flags=re.IGNORECASE | re.MULTILINE)
    header = {word.upper(): value.strip() for word, value in _TOUR_HEADER.findall(head)}
    if "TOUR" not in (kind := header.get("TYPE", "TOUR")).upper():
        raise error(f"TYPE {_shown(kind)} is not supported, allowed is TOUR")
    if not re.fullmatch(r"[0-9]{1,18}", dimension := header.get("DIMENSION", "0")):
        raise error(f"DIMENSION must be a whole number, got {_shown(dimension)}")
    if not sections:
        raise error("TOUR_SECTION is missing")
    listed = re.split(r"^[ \t]*EOF\b", sections[0], maxsplit=1, flags=re.IGNORECASE | re.MULTILINE)[0]
    tokens = listed.replace(",", " ").split(None, MAX_DIMENSION + 3)
    for token in tokens[: MAX_DIMENSION + 3]:
        if not _NUMBER.fullmatch(token):
            raise error(f"{_shown(token)} in TOUR_SECTION is not a finite number")
    if (
        len(tokens) > MAX_DIMENSION + 3
    ):  # after the nodes the first may come again, a -1 end the tour, another the section
        raise error(f"TOUR_SECTION has more than {MAX_DIMENSION} nodes")
    nodes = np.array([float(token) for token in tokens])
    end = int(np.argmax(nodes == -1)) if -1 in nodes else len(nodes)
    tour, rest = nodes[:end], nodes[end:]
    if (rest != -1).any():
        raise error("TOUR_SECTION holds more than one tour, one is allowed")
    if len(tour) > MIN_DIMENSION and tour[0] == tour[-1]:
        tour = tour[:-1]
    if int(dimension) not in (0, len(tour)):
        raise error(f"TOUR_SECTION has {len(tour)} nodes, DIMENSION says {int(dimension)}")
    if wrong := _tour_fault(tour, first=1):
        raise error(wrong)
    return tour.astype(np.int64) - 1


def write_tour(
    path: str | os.PathLike[str], tour: np.ndarray, name: str, comment: str = "", length: float | None = None
) -> None:
    """Write a tour as a TSPLIB95 `.tour` file.

    Args:
        path: The file to write; an existing one is replaced.
        tour: Node indices from 0, each once.
        name: One line of text for NAME.
        comment: One line of text for COMMENT.
        length: The tour's length, said at the end of COMMENT as published tours do: "(Length 7542)".

    Raises:
        InstanceError: The tour is not a permutation, or a text is not one printable line; nothing is written.
        OSError: The file cannot be written.
    """
    nodes = np.asarray(tour)
    if fault := _tour_fault(nodes, first=0):
        raise InstanceError(f"{_shown_path(path)}: {fault}")
    words = [_one_line("comment", comment)] if comment else []
    words += [f"(Length {_plain(length)})"] if length is not None else []
    lines = [f"NAME : {_one_line('name', name)}", "TYPE : TOUR"]
    lines += [f"COMMENT : {' '.join(words)}"] if words else []
    lines += [f"DIMENSION : {len(nodes)}", "TOUR_SECTION", *(str(int(node) + 1) for node in nodes), "-1", "EOF", ""]
    Path(path).write_text("\n".join(lines), encoding="utf-8", newline="\n")


def distances(coords: np.ndarray, edge_weight_type: str) -> np.ndarray:
    """Compute the distance matrix that TSPLIB95, or LKH, defines for coordinates.

    With dx, dy the differences of two nodes and nint(v) = floor(v + 0.5):

    - EUC_2D: nint(sqrt(dx^2 + dy^2)); CEIL_2D: the same root rounded up; EXACT_2D (LKH): the same root as it is.
    - MAN_2D: nint(|dx| + |dy|); MAX_2D: max(nint(|dx|), nint(|dy|)).
    - ATT: with r = sqrt((dx^2 + dy^2) / 10), nint(r), plus 1 where nint(r) < r.
    - GEO: x is a latitude, y a longitude, DDD.MM in degrees and minutes, south and west negative. With
      deg = trunc(v), angle(v) = 3.141592 * (deg + 5 * (v - deg) / 3) / 180 and R = 6378.388 km:
      floor(R * acos(((1 + q1) * q2 - (1 - q1) * q3) / 2) + 1), where q1 = cos(longitude_i - longitude_j),
      q2 = cos(latitude_i - latitude_j), q3 = cos(latitude_i + latitude_j). Two nodes at one place are 1 apart.
    - GEOM (LKH, Concorde): x is a latitude from -90 to 90, y a longitude from -360 to 360, in decimal degrees. With d
      the great-circle distance (that of the haversine formula) in metres on a globe of radius 6378388 m: floor(d + 1).

    Args:
        coords: Coordinates [N, 2], N at most 20000, each at most 1e15 in size.
        edge_weight_type: One of the eight names above.

    Returns:
        Float64 [N, N], symmetric, with 0 on the diagonal; whole numbers but for EXACT_2D.

    Raises:
        InstanceError: The type is not one of these, or the coordinates are not as above.
    """
    coords = np.asarray(coords, dtype=np.float64)
    if fault := places_fault(coords, edge_weight_type):
        raise InstanceError(fault)
    formula = _FORMULAS[edge_weight_type]
    x, y = _ANGLES.get(edge_weight_type, np.array)(coords).T.copy()
    dists = np.empty((len(x), len(x)))
    for i in range(len(x)):  # a row at a time, so that nothing but the result is N x N
        dists[i, i:] = dists[i:, i] = formula(x[i], y[i], x[i:], y[i:])
    np.fill_diagonal(dists, 0)
    return dists


def _nint(values: np.ndarray) -> np.ndarray:
    """Round as the format does, halves up (not to even), for values of at least 0."""
    return np.floor(values + 0.5)


def _att(x0: float, y0: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the pseudo-Euclidean distances of ATT from one node to others."""
    root = np.sqrt(((x - x0) ** 2 + (y - y0) ** 2) / 10)
    return _nint(root) + (_nint(root) < root)


def _angle(degrees: np.ndarray) -> np.ndarray:
    """Turn DDD.MM into radians, with the format's own pi and degrees cut toward zero."""
    whole = np.trunc(degrees)
    return _PI * (whole + 5.0 * (degrees - whole) / 3.0) / 180.0


def _geo(latitude0: float, longitude0: float, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the distances of GEO, in kilometres, from one node to others; angles in radians."""
    q1, q2, q3 = np.cos(longitude - longitude0), np.cos(latitude - latitude0), np.cos(latitude + latitude0)
    cosine = np.clip(0.5 * ((1.0 + q1) * q2 - (1.0 - q1) * q3), -1.0, 1.0)
    return np.floor(_EARTH_RADIUS * np.arccos(cosine) + 1.0)


def _geom(latitude0: float, longitude0: float, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the distances of GEOM, in metres, from one node to others, with LKH's own terms; angles in radians."""
    apart, between, sum_ = longitude0 - longitude, latitude0 - latitude, latitude0 + latitude
    sine, cosine = np.sin(apart / 2), np.cos(apart / 2)
    q1 = np.cos(latitude) * np.sin(apart)
    q2 = np.sin(sum_) * sine * sine - np.sin(between) * cosine * cosine
    q5 = np.cos(between) * cosine * cosine - np.cos(sum_) * sine * sine
    return np.floor(1000 * _EARTH_RADIUS * np.arctan2(np.sqrt(q1 * q1 + q2 * q2), q5) + 1.0)


_ANGLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "GEO": _angle,
    "GEOM": lambda degrees: math.pi * (degrees / 180.0),
}
_FORMULAS: dict[str, Callable[[float, float, np.ndarray, np.ndarray], np.ndarray]] = {
    "EUC_2D": lambda x0, y0, x, y: _nint(np.sqrt((x - x0) ** 2 + (y - y0) ** 2)),
    "CEIL_2D": lambda x0, y0, x, y: np.ceil(np.sqrt((x - x0) ** 2 + (y - y0) ** 2)),
    "EXACT_2D": lambda x0, y0, x, y: np.sqrt((x - x0) ** 2 + (y - y0) ** 2),
    "GEO": _geo,
    "GEOM": _geom,
    "ATT": _att,
    "MAN_2D": lambda x0, y0, x, y: _nint(np.abs(x - x0) + np.abs(y - y0)),
    "MAX_2D": lambda x0, y0, x, y: np.maximum(_nint(np.abs(x - x0)), _nint(np.abs(y - y0))),
}


class _Document:
    """The header and the sections of one file, read once from top to bottom.

    Attributes:
        header: Keyword, in upper case, to the text after it; fixed choices in upper case.
        dimension: The number of nodes that the header announces, 0 as long as it does not.
        numbers: Section to its numbers, in the file's order.
        least: The fewest nodes that are allowed.
    """

    least = MIN_DIMENSION

    def __init__(self, path: str | os.PathLike[str], types: tuple[str, ...], sections: tuple[str, ...]) -> None:
        self.path = path
        self.header: dict[str, str] = {}
        self.dimension = 0
        self.numbers: dict[str, array[float]] = {}
        self._choices = {
            "TYPE": types,
            "EDGE_WEIGHT_TYPE": (*_FORMULAS, "EXPLICIT"),
            "EDGE_WEIGHT_FORMAT": (*_LAYOUTS, "FUNCTION"),
        }
        self._sizes: dict[str, int] = {}  # section to how many numbers it must have
        self._ids: set[float] = set()  # node ids of the section in hand
        self._comments: list[str] = []
        self._ahead: set[int] | None = None  # lines of headers that were taken before their turn; None: not looked for
        passed = []
        self._line = 0  # number of the line in hand, 0 once all are read
        section = ""
        for line in self._lines():
            match = _KEYWORD.fullmatch(line)
            word, value = (match[1].upper(), match[2]) if match else ("", line)
            if word == "EOF":
                break
            if word in _HEADER:
                section = ""
                if self._line not in (self._ahead or ()):
                    self._set(word, value)
            elif word in sections:
                section = word
                self._open(section)
                self._take(section, value)
            elif section and not (word and len(self.numbers[section]) == self._sizes[section]):
                self._take(section, line)
            elif _INFORMS.match(line) and (not _CONSTRAINING.search(word) or _KNOWN.search(word)):
                section = ""
                passed.append(f"{_shown(line)} (line {self._line})")
            else:
                allowed = ", ".join((*_HEADER, *sections, "EOF"))
                raise self.error(f"{_shown(line)} is not a keyword of a {'/'.join(types)} file, allowed are {allowed}")
        self._line = 0
        if not self.header and not self.numbers:
            raise self.error("the file is empty")
        if passed:
            text = f"no keywords of a {'/'.join(types)} file, passed over: {', '.join(passed[:3])}"
            more = f" and {len(passed) - 3} more" if len(passed) > 3 else ""
            warnings.warn(str(self.error(text + more)), NcogymWarning, stacklevel=3)
        self.header["COMMENT"] = " ".join(filter(None, self._comments))
        for section, size in self._sizes.items():
            found = len(self.numbers[section])
            if found != size:
                needed = f"{_count(section, size)} for DIMENSION {self.dimension}"
                raise self.error(f"{section} has {_count(section, found)} and must have {needed}")

    def error(self, text: str) -> InstanceError:
        """Return the error that says `text` of this file, and of the line in hand while lines are read."""
        return InstanceError(f"{_shown_path(self.path)}{f', line {self._line}' if self._line else ''}: {text}")

    def need(self, keyword: str) -> str:
        """Return the header's value for a keyword with fixed choices, which must be there."""
        if keyword not in self.header:
            raise self.error(f"{keyword} is missing in the header, allowed are {', '.join(self._choices[keyword])}")
        return self.header[keyword]

    def rows(self, section: str) -> tuple[np.ndarray | None, list[int]]:
        """Return a section's coordinates [N, 2] by node id, or None without it, and the ids in the file's order."""
        if section not in self.numbers:
            return None, list(range(1, self.dimension + 1))
        table = np.array(self.numbers[section]).reshape(-1, 3)
        return table[np.argsort(table[:, 0]), 1:], table[:, 0].astype(int).tolist()

    def distances(self, coords: np.ndarray) -> np.ndarray:
        """Return the distances [N, N] of the header's type, and warn where rounding swallows many of them."""
        kind = self.header["EDGE_WEIGHT_TYPE"]
        try:
            dists = distances(coords, kind)
        except InstanceError as error:
            raise self.error(str(error)) from error
        if lost := _swallowed(coords, dists, kind):
            text = f"{kind} rounds {lost} to {_LEAST.get(kind, 0)}"
            cure = (
                "EDGE_WEIGHT_TYPE EXACT_2D does not round; GEOM takes 'id latitude longitude' in degrees, gives metres"
            )
            warnings.warn(f"{self.error(text)}; {cure}", NcogymWarning, stacklevel=3)
        return dists

    def matrix(self) -> np.ndarray:
        """Return the explicit matrix [N, N], completed from the half that the file lists, with 0 on the diagonal."""
        if "EDGE_WEIGHT_SECTION" not in self.numbers:
            raise self.error("EDGE_WEIGHT_SECTION is missing, EDGE_WEIGHT_TYPE EXPLICIT needs it")
        n, layout = self.dimension, self.header["EDGE_WEIGHT_FORMAT"]
        weights = np.array(self.numbers["EDGE_WEIGHT_SECTION"])
        if layout == "FULL_MATRIX":
            dists = weights.reshape(n, n)
            np.fill_diagonal(dists, 0)
            return dists
        # As the matrix is symmetric, one half column by column is the other half row by row.
        lower, diagonal = layout.startswith("LOWER") == layout.endswith("ROW"), "DIAG" in layout
        half = np.zeros((n, n))
        half[np.tri(n, k=0 if lower == diagonal else -1, dtype=np.bool_) == lower] = weights  # filled row by row
        np.fill_diagonal(half, 0)
        return half + half.T

    def _lines(self) -> Iterator[str]:
        """Yield the file's lines that are not blank, stripped."""
        try:
            with open(self.path, "rb") as file:
                while chunk := file.readline(_MAX_LINE):
                    for raw in chunk.splitlines():  # \n, \r\n, and the bare \r of old files
                        self._line += 1
                        if b"\0" in raw or len(chunk) == _MAX_LINE:
                            raise self.error("binary data or a line of over 64 MB, a text file is needed")
                        try:
                            line = raw.decode("utf-8-sig").strip()
                        except UnicodeDecodeError:
                            line = raw.decode("latin-1").strip()
                        if line:
                            yield line
        except OSError as error:
            raise self.error((error.strerror or "cannot be read").lower()) from error

    def _set(self, word: str, value: str) -> None:
        """Take one header line; only COMMENT may come again."""
        if word == "COMMENT":
            self._comments.append(value)
        elif word in self.header:
            raise self.error(f"{word} is given twice")
        elif word in self._choices:  # by the first word: si175 has 'TYPE: TSP (M.~Hofmeister)'
            value = re.split(r"[^\w-]", value, maxsplit=1)[0].upper() or value
            if fault := _choice_fault(word, value, self._choices[word]):
                raise self.error(fault)
        elif word == "DIMENSION":
            if not re.fullmatch(r"[+-]?[0-9]{1,18}", value):
                raise self.error(f"DIMENSION must be a whole number, got {_shown(value)}")
            self.dimension = int(value)
            if fault := _size_fault("DIMENSION", self.dimension, self.least):
                raise self.error(fault)
        self.header[word] = value

    def _open(self, section: str) -> None:
        """Begin a section: the header must say how many numbers it has, by now or below."""
        if section in self.numbers:
            raise self.error(f"{section} is given twice")
        self._look_ahead()
        n = self.dimension
        if not n:
            raise self.error(f"DIMENSION is missing before {section}")
        if section in _ROW_SECTIONS:
            size = 3 * n
        elif self.need("EDGE_WEIGHT_TYPE") != "EXPLICIT":
            raise self.error(f"{section} needs EDGE_WEIGHT_TYPE EXPLICIT, got {self.header['EDGE_WEIGHT_TYPE']}")
        else:
            layout = self.need("EDGE_WEIGHT_FORMAT")
            if fault := _choice_fault("EDGE_WEIGHT_FORMAT", layout, _LAYOUTS):
                raise self.error(fault)
            size = n * n if layout == "FULL_MATRIX" else n * (n + (1 if "DIAG" in layout else -1)) // 2
        self._sizes[section], self.numbers[section] = size, array("d")
        self._ids.clear()

    def _look_ahead(self) -> None:
        """Take the headers below this line, once, if any is missing that says how long a section is."""
        if self._ahead is not None or {"DIMENSION", "EDGE_WEIGHT_TYPE", "EDGE_WEIGHT_FORMAT"} <= self.header.keys():
            return
        here, self._line, self._ahead = self._line, 0, set()
        for line in self._lines():
            match = _KEYWORD.fullmatch(line)
            word = match[1].upper() if match else ""
            if word == "EOF":
                break
            if match and word in _HEADER and self._line > here:
                self._ahead.add(self._line)
                self._set(word, match[2])
        self._line = here

    def _take(self, section: str, line: str) -> None:
        """Add one line of numbers to a section, and not one more than it must have."""
        numbers, size = self.numbers[section], self._sizes[section]
        tokens = line.split(None, size - len(numbers))
        if len(numbers) + len(tokens) > size:
            raise self.error(f"{section} has more than the {_count(section, size)} that the header allows")
        try:
            if not _NUMERIC.fullmatch(line):
                raise ValueError
            values = array("d", map(float, tokens))
        except ValueError:
            bad = next(token for token in tokens if not _NUMBER.fullmatch(token))
            raise self.error(f"{_shown(bad)} in {section} is not a finite number") from None
        if section in _ROW_SECTIONS and tokens and (fault := self._row_fault(values)):
            raise self.error(fault)
        numbers.extend(values)

    def _row_fault(self, values: "array[float]") -> str | None:
        """Say what is wrong with one 'id x y' line, if anything."""
        if len(values) != 3:
            return f"a node's line must be 'id x y', got {len(values)} number{'s' * (len(values) > 1)}"
        node, x, y = values
        if not (1 <= node <= self.dimension and node.is_integer()):
            return f"node id {_plain(node)} is not one of 1..{self.dimension}"
        if node in self._ids:
            return f"node id {_plain(node)} is given twice"
        self._ids.add(node)
        return _coords_fault(np.array([[x, y]]))


def _choice_fault(keyword: str, value: str, allowed: tuple[str, ...]) -> str | None:
    """Say that a value is not one of those allowed, if so."""
    return None if value in allowed else f"{keyword} {_shown(value)} is not supported, allowed are {', '.join(allowed)}"


def _size_fault(what: str, n: int, least: int = MIN_DIMENSION) -> str | None:
    """Say why `n` nodes are not allowed, if so."""
    if least <= n <= MAX_DIMENSION:
        return None
    why = ", the distances of more nodes would need over 3 GB" if n > MAX_DIMENSION else ""
    return f"{what} must be from {least} to {MAX_DIMENSION}, got {n}{why}"


def _coords_fault(coords: np.ndarray) -> str | None:
    """Say what is wrong with coordinates [N, 2], if anything; N may be small."""
    if coords.ndim != 2 or coords.shape[1] != 2:
        return f"coordinates must have the shape [N, 2], got {list(coords.shape)}"
    far = coords[~(np.abs(coords) <= MAX_MAGNITUDE)]  # written so that nan is caught
    if len(far):
        return f"a coordinate is {_plain(far.item(0))}, allowed are -{MAX_MAGNITUDE:g} to {MAX_MAGNITUDE:g}"
    return _size_fault("the number of nodes", max(len(coords), MIN_DIMENSION))


def places_fault(coords: np.ndarray, edge_weight_type: str) -> str | None:
    """Say why coordinates [N, 2] have no distances of a type, if so."""
    if fault := _choice_fault("EDGE_WEIGHT_TYPE", edge_weight_type, tuple(_FORMULAS)) or _coords_fault(coords):
        return fault
    degrees = (("latitude", coords[:, 0], 90), ("longitude", coords[:, 1], 360)) if edge_weight_type == "GEOM" else ()
    for name, values, limit in degrees:
        if (wrong := np.abs(values) > limit).any():
            value = _plain(values[wrong].item(0))
            return f"a {name} is {value}, allowed are -{limit} to {limit} degrees; GEOM has 'id latitude longitude'"
    return None


def _swallowed(coords: np.ndarray, dists: np.ndarray, kind: str) -> str | None:
    """Say how many distances of nodes at different places became the least that rounding leaves, if it matters.

    A tour has as many edges as nodes, and short ones: a tenth of that many such pairs is enough to be told.
    """
    n = len(dists)
    lost = sum(int(np.count_nonzero(row[i + 1 :] == _LEAST.get(kind, 0))) for i, row in enumerate(dists))
    counts = np.unique(coords, axis=0, return_counts=True)[1]
    together = int((counts * (counts - 1) // 2).sum())  # pairs at one place: 0 apart in CEIL_2D and ATT, else the least
    lost -= 0 if kind in ("CEIL_2D", "ATT") else together
    if not lost or 10 * lost < n:
        return None
    return f"{100 * lost / (n * (n - 1) // 2 - together):.3g} % of the distances between different places"


def matrix_fault(dists: np.ndarray, problem_type: str) -> str | None:
    """Say what is wrong with distances [N, N] whose diagonal is 0, if anything; nodes are counted from 1."""
    if dists.ndim != 2 or dists.shape[0] != dists.shape[1]:
        return f"distances must have the shape [N, N], got {list(dists.shape)}"
    wrong = ~((dists >= 0) & (dists <= MAX_MAGNITUDE))
    if wrong.any():
        i, j = np.unravel_index(wrong.argmax(), wrong.shape)
        return (
            f"the weight from node {i + 1} to {j + 1} is {_plain(dists.item(i, j))}, allowed are 0 to {MAX_MAGNITUDE:g}"
        )
    uneven = dists != dists.T
    if problem_type == "TSP" and uneven.any():
        i, j = np.unravel_index(uneven.argmax(), uneven.shape)
        there, back = _plain(dists.item(i, j)), _plain(dists.item(j, i))
        return f"the weight from node {i + 1} to {j + 1} is {there} but {back} back, TYPE TSP must be symmetric"
    return None


def _tour_fault(nodes: np.ndarray, first: int) -> str | None:
    """Say why `nodes` is not a permutation of `first`, `first` + 1, ..., if so."""
    if nodes.ndim != 1:
        return f"a tour must have the shape [N], got {list(nodes.shape)}"
    last = first + len(nodes) - 1
    outside = nodes[~((nodes >= first) & (nodes <= last) & (nodes == np.floor(nodes)))]
    if len(outside):
        return f"node {_plain(outside.item(0))} of the tour is not one of {first}..{last}"
    visits = np.bincount(nodes.astype(np.int64), minlength=1)
    if visits.max() > 1:
        return f"node {visits.argmax()} is visited {visits.max()} times, each must be once"
    return _size_fault("the number of nodes", len(nodes))


def _count(section: str, numbers: int) -> str:
    """Return "3 rows" or "9 numbers", whichever a section is counted in."""
    count, unit = (numbers // 3, "row") if section in _ROW_SECTIONS else (numbers, "number")
    return f"{count} {unit}{'s' * (count != 1)}"


def _plain(value: float) -> str:
    """Return the shortest text that reads back to the same float64, without '.0'."""
    return repr(float(value)).removesuffix(".0")


def _one_line(what: str, text: str) -> str:
    """Return a header text stripped, refused where it would not read back as one line."""
    if not text.strip() or not text.isprintable():
        raise InstanceError(f"{what} must be one line of printable text, got {_shown(text)}")
    return text.strip()


def _shown(text: str) -> str:
    """Return text quoted for a message: one line, printable, and short."""
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


def _shown_path(path: str | os.PathLike[str]) -> str:
    """Return a path for a message, escaped where it would not print as it is."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)
