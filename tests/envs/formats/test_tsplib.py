"""TSPLIB95: formulas against exact arithmetic, layouts, round trips, published optima, and every refusal in words."""

import csv
import math
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ncogym.envs.formats import tsplib
from ncogym.envs.formats.tsplib import distances, read_tour, read_tsplib, write_tour, write_tsplib
from ncogym.errors import InstanceError, NcogymWarning

DATA = Path(__file__).parents[2] / "data"
PACKAGE_DATA = Path(tsplib.__file__).parents[2] / "data"
PUBLIC = Path(__file__).resolve().parents[4] / "shared" / "instances"  # beside the repository, not part of it
COORD_TYPES = ("EUC_2D", "CEIL_2D", "EXACT_2D", "GEO", "GEOM", "ATT", "MAN_2D", "MAX_2D")
LAYOUTS = ("FULL_MATRIX", "UPPER_ROW", "LOWER_ROW", "UPPER_DIAG_ROW", "LOWER_DIAG_ROW")
LAYOUTS += ("UPPER_COL", "LOWER_COL", "UPPER_DIAG_COL", "LOWER_DIAG_COL")

quick = settings(deadline=None, max_examples=60)


def published(*suffixes: str, solved: bool = False) -> list:
    """Return rows of the public index as test parameters (`solved`: with a tour), or one skipped parameter."""
    if not (PUBLIC / "index.csv").exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no public instances at {PUBLIC}"))]
    with open(PUBLIC / "index.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].endswith(suffixes)]
    return [pytest.param(row, id=row["name"]) for row in rows if row["solution_file"] or not solved]


def refusal(read, path) -> str:
    """Return the text with which `read` refuses `path`, having checked that it is one short printable line."""
    with pytest.raises(InstanceError) as caught:
        read(path)
    text = str(caught.value)
    assert type(caught.value) is InstanceError
    assert text.isprintable()
    assert len(text) < 500
    return text


def euc(*rows: str, n: object = 3, kind: str = "EUC_2D", head: str = "") -> str:
    """Return the text of a file with coordinate rows."""
    start = f"NAME : x\nTYPE : TSP\nDIMENSION : {n}\nEDGE_WEIGHT_TYPE : {kind}\n{head}"
    return start + "NODE_COORD_SECTION\n" + "\n".join(rows or ("1 0 0", "2 3 4", "3 0 8")) + "\nEOF\n"


def explicit(weights: str, n: object = 3, layout: str = "FULL_MATRIX", kind: str = "TSP") -> str:
    """Return the text of a file with a matrix."""
    start = f"NAME: x\nTYPE: {kind}\nDIMENSION: {n}\nEDGE_WEIGHT_TYPE: EXPLICIT\nEDGE_WEIGHT_FORMAT: {layout}\n"
    return f"{start}EDGE_WEIGHT_SECTION\n{weights}\nEOF\n"


def written(tmp_path: Path, content: str | bytes, name: str = "x.tsp") -> Path:
    """Write a file byte for byte and return its path."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---------------------------------------------------------------------------------------------------------- formulas


def exact(kind: str, dx: int, dy: int) -> int:
    """Compute a distance of whole differences in integers only, with no floating point to share a mistake."""
    square = dx * dx + dy * dy
    if kind == "EUC_2D":
        return (math.isqrt(4 * square) + 1) // 2
    if kind == "CEIL_2D":
        return math.isqrt(square - 1) + 1 if square else 0
    if kind == "ATT":  # rounding and then adding 1 where that was down is rounding up
        return next(k for k in range(math.isqrt(square // 10), square + 1) if 10 * k * k >= square)
    return abs(dx) + abs(dy) if kind == "MAN_2D" else max(abs(dx), abs(dy))


@quick
@given(
    kind=st.sampled_from(["EUC_2D", "CEIL_2D", "ATT", "MAN_2D", "MAX_2D"]),
    coords=hnp.arrays(np.int64, st.tuples(st.integers(3, 6), st.just(2)), elements=st.integers(-(10**6), 10**6)),
)
def test_distances_are_exact(kind, coords):
    """Every planar edge weight type that rounds equals its definition evaluated in whole numbers."""
    expected = [[exact(kind, int(a[0] - b[0]), int(a[1] - b[1])) for b in coords] for a in coords]
    assert distances(coords, kind).tolist() == expected


@pytest.mark.parametrize(
    ("kind", "end", "expected"),
    [
        ("EUC_2D", (3, 4), 5),
        ("EUC_2D", (0.5, 0), 1),  # halves go up ...
        ("EUC_2D", (2.5, 0), 3),  # ... and not to even
        ("EUC_2D", (1, 1), 1),
        ("CEIL_2D", (1, 1), 2),
        ("CEIL_2D", (3, 4), 5),
        ("MAN_2D", (-1.25, 2.25), 4),  # 3.5
        ("MAX_2D", (-1.25, 2.5), 3),
        ("ATT", (10, 0), 4),  # sqrt(10) = 3.16 is rounded to 3 < 3.16
        ("ATT", (3, 9), 3),  # sqrt(9) exactly
        ("ATT", (3, 1), 1),
        ("GEO", (0, 1), 112),  # one degree of the equator is 111.32 km
        ("GEO", (0, 0.30), 56),  # 30 minutes
        ("GEO", (0, -0.30), 56),  # degrees are cut toward zero, so that -0.30 is 30 minutes west
        ("GEO", (-1.30, 0), 167),  # 1.5 degrees south, 166.98 km
        ("GEO", (90, 45), 10020),  # a quarter of the meridian, 10019.1 km
        ("GEO", (0, 0), 1),  # the formula's own: int(0 + 1.0) for two nodes at one place
        ("EXACT_2D", (3, 4), 5),
        ("EXACT_2D", (0.25, 0), 0.25),
        ("EXACT_2D", (0.1, 0.1), math.sqrt(0.1**2 + 0.1**2)),
        ("GEOM", (0, 1), 111324),  # pi / 180 * 6378388 m = 111323.87 m
        ("GEOM", (0, -0.5), 55662),  # decimal degrees: 55661.94 m
        ("GEOM", (-1.5, 0), 166986),  # 166985.81 m to the south
        ("GEOM", (90, 45), 10019149),  # a quarter of the meridian, 10019148.4 m
        ("GEOM", (0.00001, 0), 2),  # 1.11 m
        ("GEOM", (0, 0), 1),
    ],
)
def test_distance_by_hand(kind, end, expected):
    """The distance from the origin to one point is what pencil and paper give."""
    dists = distances(np.array([[0, 0], end, [50, 50]]), kind)
    assert dists[0, 1] == dists[1, 0] == expected
    assert (dists.diagonal() == 0).all()


@quick
@given(
    hnp.arrays(np.int64, (4, 2, 2), elements=st.integers(0, 59)),
    st.lists(st.sampled_from([-1, 1]), min_size=8, max_size=8),
)
def test_geo_agrees_with_haversine(parts, signs):
    """GEO is the great-circle distance of degrees and minutes by another formula, to the kilometre it rounds to."""
    signs = np.array(signs).reshape(4, 2)
    degrees, minutes = parts[..., 0], parts[..., 1]
    dists = distances(signs * (degrees + minutes / 100), "GEO")
    angle = np.deg2rad(signs * (degrees + minutes / 60))
    for i in range(4):
        for j in range(i):
            (lat_a, lon_a), (lat_b, lon_b) = angle[i], angle[j]
            half = (
                math.sin((lat_a - lat_b) / 2) ** 2
                + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_a - lon_b) / 2) ** 2
            )
            kilometres = 2 * 6378.388 * math.asin(min(1, math.sqrt(half)))
            assert kilometres - 0.02 <= dists[i, j] <= kilometres + 1.02


@quick
@given(hnp.arrays(np.float64, (4, 2), elements=st.floats(-1, 1)))
def test_geom_agrees_with_haversine(shares):
    """GEOM is the great-circle distance of decimal degrees by another formula, to the metre it rounds to."""
    degrees = shares * [90, 180]
    dists, angle = distances(degrees, "GEOM"), np.deg2rad(degrees)
    for i in range(4):
        for j in range(i):
            (lat_a, lon_a), (lat_b, lon_b) = angle[i], angle[j]
            half = (
                math.sin((lat_a - lat_b) / 2) ** 2
                + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_a - lon_b) / 2) ** 2
            )
            metres = 2 * 6378388 * math.asin(min(1, math.sqrt(half)))
            assert metres - 0.2 <= dists[i, j] <= metres + 1.2  # near the antipode the haversine has lost its digits


def test_distances_far_from_the_origin_are_direct():
    """Distances come from direct differences: 1.5 stays 1.5 where a Gram matrix has lost every digit of it."""
    assert distances(np.array([[1e8, 1e8], [1e8 + 1.5, 1e8], [1e8, 1e8 + 2.4]]), "EUC_2D")[0].tolist() == [0, 2, 2]


@pytest.mark.parametrize(
    ("coords", "kind", "words"),
    [
        ([[0, 0], [1, 1]], "EUC_3D", "'EUC_3D' is not supported, allowed are EUC_2D"),
        ([[0, 0], [1, math.nan]], "EUC_2D", "a coordinate is nan"),
        ([[0, 0], [1, -math.inf]], "GEO", "a coordinate is -inf"),
        ([[0, 0, 0], [1, 1, 1]], "EUC_2D", r"shape [N, 2], got [2, 3]"),
        (
            [[0, 0], [101, 13]],
            "GEOM",
            "a latitude is 101, allowed are -90 to 90 degrees; GEOM has 'id latitude longitude'",
        ),
        ([[0, 0], [13, -361]], "GEOM", "a longitude is -361, allowed are -360 to 360 degrees"),
        (np.zeros((20001, 2)), "EUC_2D", "3 GB"),
    ],
)
def test_distances_refuses(coords, kind, words):
    """Coordinates or a type that have no distances are refused in words."""
    assert words in refusal(lambda coords: distances(np.array(coords), kind), coords)


# ------------------------------------------------------------------------------------- rounding that swallows distances

CITY = ("1 48.20 16.37", "2 48.21 16.36", "3 48.19 16.40", "4 48.90 16.90")  # three within Vienna, one 90 km away


@pytest.mark.parametrize(
    ("kind", "rows", "words"),
    [
        (
            "EUC_2D",
            CITY,
            "EUC_2D rounds 50 % of the distances between different places to 0; EDGE_WEIGHT_TYPE EXACT_2D",
        ),
        ("MAN_2D", CITY, "MAN_2D rounds 50 % of the distances"),
        ("MAX_2D", CITY, "MAX_2D rounds 50 % of the distances"),
        ("CEIL_2D", CITY, "CEIL_2D rounds 100 % of the distances between different places to 1"),
        ("ATT", CITY, "ATT rounds 100 % of the distances between different places to 1"),
        ("GEO", ("1 48.20 16.37", "2 48.20 16.37", "3 48.20 16.374", "4 49 17"), "GEO rounds 40 % of the distances"),
        (
            "EUC_2D",
            (*CITY[:3], "4 48.20 16.37"),
            "EUC_2D rounds 100 % of the distances",
        ),  # two at one place: not counted
    ],
)
def test_rounding_that_swallows_distances_is_told(tmp_path, kind, rows, words):
    """The warning says what share of distances rounding leaves alike, and which types keep them; the file is read."""
    with pytest.warns(NcogymWarning) as told:
        problem = read_tsplib(written(tmp_path, euc(*rows, n=4, kind=kind)))
    assert problem.dimension == 4
    [text] = [str(each.message) for each in told]
    assert text.startswith(f"{tmp_path / 'x.tsp'}: ")
    assert words in text
    assert "GEOM takes 'id latitude longitude' in degrees, gives metres" in text
    assert text.isprintable()


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("EXACT_2D", CITY),
        ("GEOM", CITY),
        ("EUC_2D", ("1 0 0", "2 1 0", "3 1 0", "4 1 1")),  # two at one place have no distance to lose
        ("CEIL_2D", ("1 0 0", "2 3 0", "3 3 0", "4 0 3")),
        ("GEO", ("1 0 0", "2 0 0", "3 10 10", "4 10 12")),
    ],
)
def test_distances_that_are_kept_cost_no_warning(tmp_path, kind, rows):
    """Nodes at one place are no loss, and types that keep decimals lose nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_tsplib(written(tmp_path, euc(*rows, n=4, kind=kind)))


def test_a_few_close_nodes_among_many_cost_no_warning(tmp_path):
    """In a file of forty nodes, one pair that rounding joins is no matter."""
    rows = [f"{k} {10 * k} 0" for k in range(1, 40)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem = read_tsplib(written(tmp_path, euc(*rows, "40 10.3 0", n=40)))
    assert problem.dists[0, 39] == 0


def test_degrees_in_wrong_order_are_refused_by_name(tmp_path):
    """A longitude where GEOM has its latitude is named with the file."""
    text = refusal(read_tsplib, written(tmp_path, euc("1 151.2 -33.9", "2 144.9 -37.8", "3 153 -27.5", kind="GEOM")))
    assert (
        text
        == f"{tmp_path / 'x.tsp'}: a latitude is 151.2, allowed are -90 to 90 degrees; GEOM has 'id latitude longitude'"
    )


# ----------------------------------------------------------------------------------------------------------- reading


def test_tiny_file():
    """A hand-made file gives the rectangle's sides and diagonals, and its tour is as long as the file says."""
    problem = read_tsplib(DATA / "rectangle4.tsp")
    assert (problem.name, problem.type, problem.dimension, problem.edge_weight_type) == (
        "rectangle4",
        "TSP",
        4,
        "EUC_2D",
    )
    assert problem.dists.tolist() == [[0, 5, 3, 4], [5, 0, 4, 3], [3, 4, 0, 5], [4, 3, 5, 0]]
    assert problem.coords.tolist() == [[0, 0], [3, 4], [3, 0], [0, 4]]
    assert (problem.integral, problem.display, problem.node_ids) == (True, None, [1, 2, 3, 4])
    tour = read_tour(DATA / "rectangle4.opt.tour")
    assert tour.dtype == np.int64
    assert problem.dists[tour, np.roll(tour, -1)].sum() == 14


def listed(matrix: np.ndarray, layout: str) -> list[int]:
    """List a matrix as TSPLIB's table of layouts describes it, walking over it cell by cell."""
    n, numbers = len(matrix), []
    half, order = layout.split("_")[0], layout.split("_")[-1]
    for outer in range(n):
        for inner in range(n):
            row, column = (inner, outer) if order == "COL" else (outer, inner)
            kept = half == "FULL" or (column > row if half == "UPPER" else column < row)
            if kept or (row == column and "DIAG" in layout):
                numbers.append(int(matrix[row, column]))
    return numbers


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", [1, 3, 4, 100])
def test_layouts_give_one_matrix(tmp_path, layout, width):
    """Every layout of a matrix, wrapped anywhere, is the same matrix, with 0 for whatever is on the diagonal."""
    half = np.triu(np.random.default_rng(3).integers(1, 99, (6, 6)), 1)
    matrix = half + half.T
    numbers = list(map(str, listed(matrix + 9999 * np.eye(6, dtype=int), layout)))
    lines = [" ".join(numbers[k : k + width]) for k in range(0, len(numbers), width)]
    problem = read_tsplib(written(tmp_path, explicit("\n".join(lines), n=6, layout=layout)))
    assert problem.dists.tolist() == matrix.tolist()
    assert (problem.integral, problem.coords, problem.node_ids) == (True, None, [1, 2, 3, 4, 5, 6])


def test_asymmetric_matrix_keeps_its_direction(tmp_path):
    """Entry [i, j] of an ATSP is the weight from i to j, and its sentinels on the diagonal become 0."""
    problem = read_tsplib(written(tmp_path, explicit("-1 1 2\n3 1e9 4\n5 6.5 100000000", kind="ATSP")))
    assert problem.type == "ATSP"
    assert problem.dists.tolist() == [[0, 1, 2], [3, 0, 4], [5, 6.5, 0]]
    assert not problem.integral


def test_rows_are_sorted_by_node_id(tmp_path):
    """Coordinates are placed by node id, as tours refer to ids, and the file's order is kept beside them."""
    problem = read_tsplib(written(tmp_path, euc("3 0 8", "1 0 0", "2 3 4")))
    assert problem.coords.tolist() == [[0, 0], [3, 4], [0, 8]]
    assert problem.node_ids == [3, 1, 2]


def test_display_coordinates_are_kept(tmp_path):
    """Coordinates for drawing are read beside the matrix and do not touch its distances."""
    display = "DISPLAY_DATA_SECTION\n3 5 6\n1 1 2\n2 3 4\nEOF"
    matrix = explicit("0 7 8\n7 0 9\n8 9 0").replace("EOF", display)
    for text, coords in [(matrix, None), (euc().replace("EOF", display), [[0, 0], [3, 4], [0, 8]])]:
        problem = read_tsplib(written(tmp_path, text))
        assert problem.display.tolist() == [[1, 2], [3, 4], [5, 6]]
        assert problem.dists[0].tolist() == ([0, 7, 8] if coords is None else [0, 5, 8])
        assert (problem.coords is None) if coords is None else (problem.coords.tolist() == coords)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(" : ", ":"),
        lambda text: text.replace(" : ", "  :\t "),
        lambda text: text.replace(" : ", " "),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\n\n \t\n"),
        lambda text: text.removesuffix("EOF\n"),
        lambda text: text.removesuffix("\nEOF\n"),
        lambda text: text + "EOF\n\n-1 whatever follows EOF\n",
        lambda text: text.replace("EOF", "  EOF  "),
        lambda text: text.lower(),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("TYPE : TSP", "TYPE : TSP (M.~Hofmeister)"),
        lambda text: text.replace("2 3 4", "  2 3.00000e+00 +.4E1 "),
        lambda text: text.replace("_SECTION\n", "_SECTION :\n"),
        lambda text: text.replace("EDGE_WEIGHT_TYPE", "EDGE_WEIGHT_FORMAT : FUNCTION\nEDGE_WEIGHT_TYPE"),
        lambda text: text.replace(
            "DIMENSION", "DISPLAY_DATA_TYPE : COORD_DISPLAY\nNODE_COORD_TYPE : TWOD_COORDS\nDIMENSION"
        ),
    ],
)
def test_form_does_not_matter(tmp_path, change):
    """Blanks, line ends, case, a byte order mark, number styles and a missing EOF change nothing that is read."""
    problem = read_tsplib(written(tmp_path, change(euc())))
    assert (problem.name, problem.type, problem.edge_weight_type) == ("x", "TSP", "EUC_2D")
    assert problem.coords.tolist() == [[0, 0], [3, 4], [0, 8]]
    assert problem.dists.tolist() == [[0, 5, 8], [5, 0, 5], [8, 5, 0]]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_comments_are_joined_in_either_encoding(tmp_path, encoding):
    """COMMENT may come on several lines, in UTF-8 or in the Latin-1 of old files; a missing NAME is the file's."""
    text = euc().replace("NAME : x\n", "COMMENT : Grötschel\nCOMMENT: 1990: ok\n")
    problem = read_tsplib(written(tmp_path, text.encode(encoding), "towns.tsp"))
    assert (problem.name, problem.comment) == ("towns", "Grötschel 1990: ok")


@pytest.mark.parametrize("row", published(".tsp", ".atsp"))
def test_published_files_read(row):
    """Every public instance has the size, the type and the whole distances that the index states."""
    problem = read_tsplib(PUBLIC / row["file"])
    assert (problem.type, problem.dimension) == (row["problem"], int(row["size"]))
    assert problem.dists.shape == (problem.dimension, problem.dimension)
    assert problem.integral
    assert not problem.dists.diagonal().any()
    assert problem.edge_weight_type == row["extra"].removeprefix("edge_weight=").split("/")[0].split(";")[0]


@pytest.mark.parametrize("row", published(".tsp", solved=True))
def test_published_optima_are_reproduced(row):
    """A published optimal tour is exactly as long as the published optimum."""
    dists, tour = read_tsplib(PUBLIC / row["file"]).dists, read_tour(PUBLIC / row["solution_file"])
    assert dists[tour, np.roll(tour, -1)].sum() == float(row["best_known"])


# ----------------------------------------------------------------------------------------------------------- writing

finite = st.floats(-1e15, 1e15, allow_nan=False)
weight = st.one_of(st.floats(0, 1e15), st.integers(0, 10**6).map(float))
text = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=20)
line = text.filter(lambda value: value.isprintable() and value.strip())


@pytest.mark.filterwarnings("ignore::ncogym.errors.NcogymWarning")  # of coordinates that rounding swallows
@quick
@given(
    coords=hnp.arrays(np.float64, st.tuples(st.integers(3, 9), st.just(2)), elements=finite),
    kind=st.sampled_from(COORD_TYPES),
    name=line,
    comment=st.one_of(st.just(""), line),
)
def test_coordinates_survive_writing(tmp_path_factory, coords, kind, name, comment):
    """Coordinates and texts that are written are read back equal to the last bit."""
    path = tmp_path_factory.mktemp("write") / "x.tsp"
    coords = np.fmod(coords, 90) if kind == "GEOM" else coords
    write_tsplib(path, coords, name, kind, comment)
    problem = read_tsplib(path)
    assert (problem.name, problem.comment, problem.edge_weight_type) == (name.strip(), comment.strip(), kind)
    assert problem.coords.tobytes() == coords.tobytes()
    assert problem.dists.tolist() == distances(coords, kind).tolist()


@quick
@given(st.integers(3, 6).flatmap(lambda n: hnp.arrays(np.float64, (n, n), elements=weight)), st.booleans())
def test_distances_survive_writing(tmp_path_factory, dists, symmetric):
    """A distance matrix that is written is read back equal, but for the diagonal, which becomes 0."""
    path = tmp_path_factory.mktemp("write") / "x.atsp"
    dists = np.maximum(dists, dists.T) if symmetric else dists
    before = dists.copy()
    write_tsplib(path, dists, "x", "EXPLICIT", problem_type="TSP" if symmetric else "ATSP")
    problem = read_tsplib(path)
    assert problem.type == ("TSP" if symmetric else "ATSP")
    assert problem.dists.tolist() == (before * (1 - np.eye(len(before)))).tolist()
    assert dists.tolist() == before.tolist(), "the argument was written to"


@quick
@given(st.integers(3, 40).flatmap(lambda n: st.permutations(range(n))), st.booleans())
def test_tours_survive_writing(tmp_path_factory, tour, described):
    """A tour that is written is read back equal."""
    path = tmp_path_factory.mktemp("write") / "x.tour"
    extra = {"comment": "found by hand", "length": 12.5} if described else {}
    write_tour(path, np.array(tour), "x.tour", **extra)
    assert read_tour(path).tolist() == tour


def test_tour_file_by_hand(tmp_path):
    """A written tour looks as the published ones do."""
    write_tour(tmp_path / "x", np.array([2, 0, 1]), "x.opt.tour", "Optimal tour", 14.0)
    lines = ["NAME : x.opt.tour", "TYPE : TOUR", "COMMENT : Optimal tour (Length 14)", "DIMENSION : 3", "TOUR_SECTION"]
    assert (tmp_path / "x").read_text().split("\n") == [*lines, "3", "1", "2", "-1", "EOF", ""]


SQUARE = np.array([[0.0, 1, 2], [1, 0, 3], [2, 3, 0]])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: write_tsplib(path, SQUARE, "x"), "shape [N, 2], got [3, 3]"),
        (lambda path: write_tsplib(path, SQUARE[:, :2], "x", "EXPLICIT"), "shape [N, N], got [3, 2]"),
        (lambda path: write_tsplib(path, SQUARE[:2, :2], "x"), "number of nodes must be from 3 to 20000, got 2"),
        (lambda path: write_tsplib(path, SQUARE[:2, :2], "x", "EXPLICIT"), "from 3 to 20000, got 2"),
        (lambda path: write_tsplib(path, SQUARE[:, :2] * np.nan, "x"), "a coordinate is nan"),
        (lambda path: write_tsplib(path, -SQUARE, "x", "EXPLICIT"), "from node 1 to 2 is -1"),
        (lambda path: write_tsplib(path, np.triu(SQUARE), "x", "EXPLICIT"), "TYPE TSP must be symmetric"),
        (lambda path: write_tsplib(path, SQUARE[:, :2], "x", "EUC"), "'EUC' is not supported, allowed are EUC_2D"),
        (lambda path: write_tsplib(path, 100 * SQUARE[:, :2], "x", "GEOM"), "a latitude is 100, allowed are -90 to 90"),
        (lambda path: write_tsplib(path, SQUARE[:, :2], "two\nlines"), "name must be one line"),
        (lambda path: write_tsplib(path, SQUARE[:, :2], " "), "name must be one line"),
        (lambda path: write_tsplib(path, SQUARE[:, :2], "x", comment="EOF\r"), "comment must be one line"),
        (lambda path: write_tour(path, np.array([0, 1, 1]), "x"), "node 1 is visited 2 times"),
        (lambda path: write_tour(path, np.array([1, 2, 3]), "x"), "node 3 of the tour is not one of 0..2"),
        (lambda path: write_tour(path, np.array([0, 1.5, 2]), "x"), "node 1.5 of the tour"),
        (lambda path: write_tour(path, np.array([[0, 1, 2]]), "x"), "shape [N], got [1, 3]"),
        (lambda path: write_tour(path, np.array([0, 1, 2]), "x", "a\nb"), "comment must be one line"),
    ],
)
def test_writers_refuse_what_readers_would(tmp_path, write, words):
    """What could not be read back is refused in words, and no file is left behind."""
    assert words in refusal(write, tmp_path / "x")
    assert not (tmp_path / "x").exists()


# --------------------------------------------------------------------------------------------------------- malformed

FULL = "0 1 2\n1 0 3\n2 3 0"
MALFORMED = {
    "empty": ("", ["x.tsp: the file is empty"]),
    "blank": (" \n\n\t\n", ["the file is empty"]),
    "only EOF": ("EOF\n", ["the file is empty"]),
    "prose": ("Dear reader,\n", ["line 1: 'Dear reader,'", "not a keyword of a TSP/ATSP file", "NODE_COORD_SECTION"]),
    "numbers only": ("3 0 0\n1 2 3\n", ["line 1: '3 0 0'", "not a keyword"]),
    "long line": ("x" * 10**5, ["line 1", "xxx…'"]),
    "binary": (euc().replace("2 3 4", "2 3\0 4"), ["line 7: binary data", "text file"]),
    "utf-16": (euc().encode("utf-16"), ["line 1: binary data"]),
    "gzip": (b"\x1f\x8b\x08\x08\0\0\0\0\0\x03x.tsp\0", ["line 1: binary data"]),
    "no type": (euc().replace("TYPE : TSP\n", "", 1), ["TYPE is missing in the header, allowed are TSP, ATSP"]),
    "type cvrp": (euc().replace("TSP", "CVRP"), ["line 2: TYPE 'CVRP' is not supported, allowed are TSP, ATSP"]),
    "type tsptw": (euc().replace("TSP", "TSPTW"), ["TYPE 'TSPTW'"]),
    "type blank": (euc().replace("TSP", ""), ["TYPE ''"]),
    "type symbols": (euc().replace("TSP", "(*)"), ["TYPE '(*)'"]),
    "tour": ("TYPE : TOUR\nDIMENSION : 3\nTOUR_SECTION\n1 2 3 -1\n", ["TYPE 'TOUR' is not supported"]),
    "no dimension": (euc().replace("DIMENSION : 3\n", ""), ["line 4: DIMENSION is missing before NODE_COORD_SECTION"]),
    "late dimension": (
        "TYPE: TSP\nEDGE_WEIGHT_TYPE: EUC_2D\nNODE_COORD_SECTION\n1 0 0\nDIMENSION: 3\n",
        ["NODE_COORD_SECTION has 1 row and must have 3 rows for DIMENSION 3"],
    ),
    "late dimension in a row": (
        "TYPE: TSP\nNODE_COORD_SECTION\n1 0 0 DIMENSION: 3\n",
        ["line 2: DIMENSION is missing"],
    ),
    "late dimension twice": (
        "TYPE: TSP\nNODE_COORD_SECTION\n1 0 0\n2 0 0\n3 0 0\nDIMENSION: 3\nDIMENSION: 4\n",
        ["line 7: DIMENSION is given twice"],
    ),
    "dimension after EOF": ("TYPE: TSP\nNODE_COORD_SECTION\n1 0 0\nEOF\nDIMENSION: 3\n", ["DIMENSION is missing"]),
    "dimension 0": (euc(n=0), ["line 3: DIMENSION must be from 3 to 20000, got 0"]),
    "dimension -5": (euc(n=-5), ["from 3 to 20000, got -5"]),
    "dimension 2": (euc("1 0 0", "2 3 4", n=2), ["from 3 to 20000, got 2"]),
    "dimension 20001": (euc(n=20001), ["got 20001", "over 3 GB"]),
    "dimension huge": (euc(n="9" * 5000), ["DIMENSION must be a whole number, got '999", "…'"]),
    "dimension 3.5": (euc(n=3.5), ["DIMENSION must be a whole number, got '3.5'"]),
    "dimension 1_0": (euc(n="1_0"), ["DIMENSION must be a whole number, got '1_0'"]),
    "dimension arabic": (euc(n="\u0663"), ["DIMENSION must be a whole number"]),
    "dimension word": (euc(n="three"), ["got 'three'"]),
    "dimension blank": (euc(n=""), ["got ''"]),
    "dimension twice": (euc(head="DIMENSION : 3\n"), ["line 5: DIMENSION is given twice"]),
    "unknown keyword": (
        euc(head="CLOSED : no\nCOLOUR red\n"),
        ["line 6: 'COLOUR red' is not a keyword", "allowed are NAME"],
    ),
    "keyword after": (euc().replace("EOF", "COLOUR red"), ["line 9: 'COLOUR red' is not a keyword"]),
    "colon elsewhere": (euc(head="Dear reader: no\n"), ["line 5: 'Dear reader: no' is not a keyword"]),
    "keyword in a section": (
        euc("1 0 0", "COLOUR : red", "2 3 4", "3 0 8"),
        ["line 7: 'COLOUR' in NODE_COORD_SECTION"],
    ),
    "capacity": (euc(head="CAPACITY : 3\n"), ["line 5: 'CAPACITY : 3' is not a keyword of a TSP/ATSP file"]),
    "cost limit": (euc(head="COST_LIMIT : 300\n"), ["line 5: 'COST_LIMIT : 300' is not a keyword"]),
    "scale": (euc(head="SCALE : 100\n"), ["line 5: 'SCALE : 100' is not a keyword"]),
    "limit": (euc(head="MAX_RIDE : 30\n"), ["line 5: 'MAX_RIDE : 30' is not a keyword"]),
    "unknown section": (
        euc(head="TIME_WINDOW_SECTION :\n1 0 9\n"),
        ["line 5: 'TIME_WINDOW_SECTION :' is not a keyword"],
    ),
    "fixed edges": (euc(head="FIXED_EDGES_SECTION\n1 2\n-1\n"), ["line 5: 'FIXED_EDGES_SECTION' is not a keyword"]),
    "fixed edges after": (euc().replace("EOF", "FIXED_EDGES_SECTION\n1 2\n-1"), ["line 9: 'FIXED_EDGES_SECTION'"]),
    "tour section": (euc(head="TOUR_SECTION\n1 2 3\n"), ["'TOUR_SECTION' is not a keyword of a TSP/ATSP"]),
    "no edge type": (euc().replace("EDGE_WEIGHT_TYPE : EUC_2D\n", ""), ["EDGE_WEIGHT_TYPE is missing", "EUC_2D"]),
    "edge type": (euc(kind="EUC_4D"), ["line 4: EDGE_WEIGHT_TYPE 'EUC_4D'", "allowed are EUC_2D", "EXPLICIT"]),
    "edge type 3d": (euc(kind="EUC_3D"), ["EDGE_WEIGHT_TYPE 'EUC_3D' is not supported, allowed are EUC_2D"]),
    "edge type xray": (euc(kind="XRAY1"), ["'XRAY1' is not supported"]),
    "no coordinates": (euc().partition("NODE")[0], ["NODE_COORD_SECTION is missing, EDGE_WEIGHT_TYPE EUC_2D needs it"]),
    "coordinates but explicit": (euc(kind="EXPLICIT"), ["EDGE_WEIGHT_SECTION is missing", "EXPLICIT needs it"]),
    "section twice": (
        euc().replace("EOF", euc().partition("EUC_2D\n")[2]),
        ["line 9: NODE_COORD_SECTION is given twice"],
    ),
    "few rows": (euc("1 0 0", "2 3 4"), ["NODE_COORD_SECTION has 2 rows and must have 3 rows for DIMENSION 3"]),
    "no rows": (euc(""), ["NODE_COORD_SECTION has 0 rows"]),
    "many rows": (euc("1 0 0", "2 3 4", "3 0 8", "4 1 1"), ["line 9: NODE_COORD_SECTION has more than the 3 rows"]),
    "short row": (euc("1 0 0", "2 3", "3 0 8"), ["line 7: a node's line must be 'id x y', got 2 numbers"]),
    "short last row": (euc("1 0 0", "2 3 4", "3"), ["line 8: a node's line must be 'id x y', got 1 number"]),
    "3d row": (euc("1 0 0 0", "2 3 4 0", "3 0 8 0"), ["line 6: a node's line must be 'id x y', got 4 numbers"]),
    "nan": (euc("1 0 0", "2 3 nan", "3 0 8"), ["line 7: 'nan' in NODE_COORD_SECTION is not a finite number"]),
    "inf": (euc("1 0 0", "2 -inf 4", "3 0 8"), ["line 7: '-inf'"]),
    "1e999": (euc("1 0 0", "2 3 1e999", "3 0 8"), ["line 7: a coordinate is inf, allowed are -1e+15 to 1e+15"]),
    "1e16": (euc("1 0 0", "2 -1e16 4", "3 0 8"), ["line 7: a coordinate is -1e+16"]),
    "comma": (euc("1 0 0", "2 3,5 4", "3 0 8"), ["line 7: '3,5'"]),
    "underscore": (euc("1 0 0", "2 1_0 4", "3 0 8"), ["line 7: '1_0'"]),
    "hexadecimal": (euc("1 0 0", "2 0x10 4", "3 0 8"), ["line 7: '0x10'"]),
    "arabic digits": (euc("1 0 0", "2 \u0663 4", "3 0 8"), ["line 7: '\u0663'"]),
    "signs": (euc("1 0 0", "2 1-2 4", "3 0 8"), ["line 7: '1-2'"]),
    "name for id": (euc("1 0 0", "Bern 3 4", "3 0 8"), ["line 7: 'Bern'"]),
    "id twice": (euc("1 0 0", "2 3 4", "2 0 8"), ["line 8: node id 2 is given twice"]),
    "ids from 0": (euc("0 0 0", "1 3 4", "2 0 8"), ["line 6: node id 0 is not one of 1..3"]),
    "id gap": (euc("1 0 0", "2 3 4", "4 0 8"), ["line 8: node id 4 is not one of 1..3"]),
    "id negative": (euc("-1 0 0", "2 3 4", "3 0 8"), ["line 6: node id -1"]),
    "id fraction": (euc("1 0 0", "1.5 3 4", "3 0 8"), ["line 7: node id 1.5 is not one of 1..3"]),
    "id huge": (euc("1 0 0", "1e300 3 4", "3 0 8"), ["line 7: node id 1e+300"]),
    "no format": (explicit(FULL).replace("EDGE_WEIGHT_FORMAT: FULL_MATRIX\n", ""), ["EDGE_WEIGHT_FORMAT is missing"]),
    "format": (explicit(FULL, layout="SPIRAL"), ["line 5: EDGE_WEIGHT_FORMAT 'SPIRAL' is not supported", "UPPER_ROW"]),
    "function": (explicit(FULL, layout="FUNCTION"), ["EDGE_WEIGHT_FORMAT 'FUNCTION'", "allowed are FULL_MATRIX"]),
    "no weights": (explicit(FULL).partition("EDGE_WEIGHT_SECTION")[0], ["EDGE_WEIGHT_SECTION is missing"]),
    "few weights": (
        explicit("0 1 2\n1 0 3"),
        ["EDGE_WEIGHT_SECTION has 6 numbers and must have 9 numbers for DIMENSION 3"],
    ),
    "many weights": (explicit(f"{FULL} 7"), ["line 9: EDGE_WEIGHT_SECTION has more than the 9 numbers"]),
    "half for full": (explicit("1 2\n3"), ["has 3 numbers and must have 9"]),
    "weights but not explicit": (
        explicit(FULL).replace("EXPLICIT", "GEO"),
        ["line 6", "needs EDGE_WEIGHT_TYPE EXPLICIT, got GEO"],
    ),
    "weight nan": (
        explicit(FULL.replace("3 0", "nan 0")),
        ["line 9: 'nan' in EDGE_WEIGHT_SECTION is not a finite number"],
    ),
    "weight inf first": (explicit(FULL.replace("2 3 0", "inf 3 0")), ["line 9: 'inf' in EDGE_WEIGHT_SECTION"]),
    "weight 1e999": (
        explicit("1e999", layout="UPPER_ROW", n=3).replace("1e999", "1 1e999 1"),
        ["from node 1 to 3 is inf"],
    ),
    "weight negative": (
        explicit("0 1 2\n1 0 -3\n2 3 0"),
        ["the weight from node 2 to 3 is -3, allowed are 0 to 1e+15"],
    ),
    "asymmetric": (
        explicit("0 1 2\n1 0 3\n2.5 3 0"),
        ["from node 1 to 3 is 2 but 2.5 back, TYPE TSP must be symmetric"],
    ),
    "few display rows": (
        explicit(FULL).replace("EOF", "DISPLAY_DATA_SECTION\n1 0 0"),
        ["DISPLAY_DATA_SECTION has 1 row "],
    ),
}


@pytest.mark.parametrize("where", ["TYPE", "NODE_COORD", "EOF"])
def test_keywords_that_inform_are_passed_over(tmp_path, where):
    """What no format knows and no constraint is called is left unread, with one warning that names the lines."""
    lines = "BEST_KNOWN : 34\nAUTHOR: me\noptimal_tour_length : 14\nURL : https://x.org/a:b\n"
    with pytest.warns(NcogymWarning) as told:
        problem = read_tsplib(written(tmp_path, euc().replace(where, lines + where, 1)))
    assert problem.dists.tolist() == read_tsplib(written(tmp_path, euc())).dists.tolist()
    [text] = [str(each.message) for each in told]
    first = euc()[: euc().index(where)].count("\n") + 1
    assert f"passed over: 'BEST_KNOWN : 34' (line {first}), 'AUTHOR: me' (line {first + 1})" in text
    assert text.endswith(" and 1 more")


@pytest.mark.parametrize(
    "text",
    [
        "TYPE: TSP\nEDGE_WEIGHT_TYPE: EUC_2D\nNODE_COORD_SECTION\n1 0 0\n2 3 4\n3 0 8\nDIMENSION: 3\nNAME: x\nEOF\n",
        "NODE_COORD_SECTION\n1 0 0\n2 3 4\n3 0 8\nTYPE: TSP\nEDGE_WEIGHT_TYPE: EUC_2D\nDIMENSION: 3\nNAME: x",
        "TYPE: TSP\rNODE_COORD_SECTION\r1 0 0\r2 3 4\r3 0 8\rDIMENSION: 3\rNAME: x\rEDGE_WEIGHT_TYPE: EUC_2D\r",
        "EDGE_WEIGHT_SECTION\n0 5 8 5 0 5 8 5 0\nTYPE: TSP\nNAME: x\nDIMENSION: 3\nEDGE_WEIGHT_TYPE: EXPLICIT\n"
        "EDGE_WEIGHT_FORMAT: FULL_MATRIX\n",
    ],
)
def test_headers_may_stand_below_their_section(tmp_path, text):
    """A section whose length is told further down is read as one whose length is told above."""
    problem = read_tsplib(written(tmp_path, text))
    assert problem.dists.tolist() == [[0, 5, 8], [5, 0, 5], [8, 5, 0]]
    assert (problem.name, problem.type) == ("x", "TSP")


@pytest.mark.parametrize(("content", "words"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_instances_are_refused(tmp_path, content, words):
    """A malformed instance is refused in one line with the file, the place, the value and what is allowed."""
    text = refusal(read_tsplib, written(tmp_path, content))
    assert text.startswith(str(tmp_path / "x.tsp"))
    for word in words:
        assert word in text


def tour(nodes: str, head: str = "DIMENSION : 3\n") -> str:
    """Return the text of a tour file."""
    return f"NAME : x\nTYPE : TOUR\n{head}TOUR_SECTION\n{nodes}\n"


@pytest.mark.parametrize(
    "content",
    [
        tour("1 3\n2\n-1\nEOF"),
        tour("1\n3\n2"),
        tour("1 3 2 -1 -1", ""),
        "TOUR_SECTION 1 3 2",
        "Tour_Section:\r1\r3\r2\reof\rx",
        tour("1, 3,2"),
        tour("1\t3\t2\t-1"),
        tour("1 3 2 1 -1"),
        tour("1 3 2", "TOUR_LENGTH: 14\nLENGTH = 14\nOPTIMAL TOUR OF x\n"),
        tour("1 3 2").replace("TYPE : TOUR", "type: opt_tour (LKH)"),
        tour("1 3 2").lower(),
    ],
)
def test_tours_in_any_form(tmp_path, content):
    """A tour may be wrapped in any way and begin and end at one node, DIMENSION, TYPE, -1 and EOF may be missing.

    Nodes may be parted by commas, capitals do not matter, and headers that are not TSPLIB's are in use.
    """
    assert read_tour(written(tmp_path, content)).tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "TOUR_SECTION is missing"),
        (tour("1 2 3 -1").partition("TOUR_SECTION")[0], "TOUR_SECTION is missing"),
        (euc(), "TYPE 'TSP' is not supported, allowed is TOUR"),
        (tour("-1"), "TOUR_SECTION has 0 nodes, DIMENSION says 3"),
        (tour("", head=""), "the number of nodes must be from 3 to 20000, got 0"),
        (tour("1 2 -1"), "TOUR_SECTION has 2 nodes, DIMENSION says 3"),
        (tour("1 2 3 4 -1"), "TOUR_SECTION has 4 nodes, DIMENSION says 3"),
        (tour("1 2 3 1 2 3 1 2 3"), "TOUR_SECTION has 9 nodes, DIMENSION says 3"),
        (tour("1 2 3 " * 7000), "TOUR_SECTION has more than 20000 nodes"),
        (tour("1 2 2 -1"), "node 2 is visited 2 times"),
        (tour("0 1 2 -1"), "node 0 of the tour is not one of 1..3"),
        (tour("1 2 4 -1"), "node 4 of the tour is not one of 1..3"),
        (tour("1 2 2.5 -1"), "node 2.5 of the tour"),
        (tour("1 2 1e999 -1"), "node inf of the tour"),
        (tour("1 2 x -1"), "'x' in TOUR_SECTION is not a finite number"),
        (tour("1 2 3 -1 1 2 3 -1", "").replace(" -1 1", "\n-1\n1"), "more than one tour"),
        (tour("1 2 3 -1", "DIMENSION : many\n"), "DIMENSION must be a whole number"),
    ],
)
def test_malformed_tours_are_refused(tmp_path, content, words):
    """A malformed tour is refused in one line that says which node or line is wrong."""
    assert words in refusal(read_tour, written(tmp_path, content))


@pytest.mark.parametrize("read", [read_tsplib, read_tour])
def test_paths_that_are_no_files(tmp_path, read):
    """A missing file and a directory are refused by name, and a name that cannot be printed is escaped."""
    assert refusal(read, tmp_path / "gone.tsp").endswith("gone.tsp: no such file or directory")
    assert refusal(read, str(tmp_path)).endswith(": is a directory")
    assert r"a\nb\udcff': no such file" in refusal(read, tmp_path / "a\nb\udcff")


NOISE = np.random.default_rng(0).integers(0, 256, 10**7, dtype=np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(NOISE, id="bytes"),
        pytest.param(NOISE % 94 + 33, id="one line of characters"),
        pytest.param(NOISE % 10 + 48, id="one number"),
        pytest.param(NOISE % 2 * 16 + 32, id="noughts and blanks"),
    ],
)
@pytest.mark.parametrize(
    ("read", "head"),
    [
        (read_tsplib, b""),
        (read_tsplib, euc("1 0 0").removesuffix("EOF\n").encode()),
        (read_tour, b""),
        (read_tour, b"TOUR_SECTION\n"),
    ],
    ids=["bare", "after a good head", "bare tour", "tour after a good head"],
)
def test_noise_is_refused_at_once(tmp_path, read, head, content):
    """Ten megabytes of noise, alone or after a good beginning, are refused within a second of computing."""
    path = written(tmp_path, head + content.astype(np.uint8).tobytes())
    start = time.process_time()
    refusal(read, path)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "content", [euc(n=20000), explicit(FULL, n=20000), explicit(FULL, n=20000, layout="LOWER_DIAG_ROW")]
)
def test_a_lie_in_the_header_costs_no_memory(tmp_path, content):
    """A header that announces a matrix of 3 GB which the file does not hold is refused without taking it."""
    path = written(tmp_path, content)
    tracemalloc.start()
    refusal(read_tsplib, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6


def test_a_long_line_costs_no_more_than_its_bytes(tmp_path):
    """A line of a million numbers where nine are due is refused without splitting it into a million texts."""
    path = written(tmp_path, explicit("12 " * 10**6))
    tracemalloc.start()
    assert "more than the 9 numbers" in refusal(read_tsplib, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 10**6


def outcome(content: bytes, folder: Path) -> None:
    """Read bytes as an instance and as a tour: it works, or is refused properly, and warns of nothing but in words."""
    path = written(folder, content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", NcogymWarning)
        for read in (read_tsplib, read_tour):
            try:
                read(path)
            except InstanceError as error:
                refused = str(error)
            else:
                continue
            assert refused.isprintable()
            assert len(refused) < 500


SEEDS = [
    euc(),
    euc("1 16.47 96.10", "2 16.47 -94.44", "3 -20.09 92.54", kind="GEO"),
    explicit(FULL),
    explicit("1 2 3", layout="UPPER_ROW").replace("EOF", "DISPLAY_DATA_SECTION\n1 0 0\n2 3 4\n3 0 8\nEOF"),
    explicit("0 1 2\n3 0 4\n5 6 0", kind="ATSP"),
    tour("1 3 2\n-1\nEOF"),
]
TOKENS = [b"nan", b"1e999", b"-1", b"EOF\n", b"\nDIMENSION : 20000\n", b"\0", b"\r", b" ", b":", b"\xff", b"9" * 5000]
TOKENS += [
    b"\xef\xbb\xbf",
    b"\n4 1 1\n",
    b"\nEDGE_WEIGHT_SECTION\n",
    b"\nTOUR_SECTION 1 2 3 -1",
    b"\x85",
    b"-",
    b"1e15",
]


@quick
@given(st.binary(max_size=300))
def test_random_bytes_never_leak_another_error(tmp_path_factory, content):
    """Arbitrary bytes raise InstanceError and nothing else."""
    outcome(content, tmp_path_factory.mktemp("fuzz"))


@settings(deadline=None, max_examples=250)
@given(
    st.sampled_from(SEEDS),
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 12), st.one_of(st.sampled_from(TOKENS), st.binary(max_size=6))),
        min_size=1,
        max_size=3,
    ),
)
def test_mutations_never_leak_another_error(tmp_path_factory, seed, edits):
    """A valid file with bytes cut out and put in reads or raises InstanceError, and warns of nothing but in words."""
    content = seed.encode()
    for at, cut, token in edits:
        assume(at <= len(content))
        content = content[:at] + token + content[at + cut :]
    outcome(content, tmp_path_factory.mktemp("fuzz"))


# ---------------------------------------------------------------------------------------------------------- capitals


def test_capitals_are_where_their_names_are():
    """The map that the package carries agrees with its table of names, in minutes, order and great-circle distances."""
    problem = read_tsplib(PACKAGE_DATA / "capitals.tsp")
    with open(PACKAGE_DATA / "capitals.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == problem.node_ids == list(range(1, problem.dimension + 1))
    decimal = np.array([[float(row["latitude"]), float(row["longitude"])] for row in rows])
    whole = np.trunc(problem.coords)
    np.testing.assert_allclose(whole + (problem.coords - whole) / 0.6, decimal, atol=1e-4)
    index = {row["name"]: k for k, row in enumerate(rows)}
    for start, end, kilometres in [("Paris", "London", 344), ("Madrid", "Lisbon", 503), ("Moscow", "Kyiv", 756)]:
        assert problem.dists[index[start], index[end]] == pytest.approx(kilometres, abs=5)
