"""CVRPLIB: layouts, round trips, and every refusal in words."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ncogym.envs.formats.cvrplib import read_cvrplib, read_routes, write_cvrplib, write_routes
from ncogym.envs.formats.tsplib import distances
from ncogym.errors import InstanceError, NcogymWarning

quick = settings(deadline=None, max_examples=60)

GOOD = """NAME : four
TYPE : CVRP
DIMENSION : 4
EDGE_WEIGHT_TYPE : EUC_2D
CAPACITY : 10
NODE_COORD_SECTION
1 0 0
2 3 4
3 0 8
4 -3 4
DEMAND_SECTION
1 0
2 6
3 4
4 5
DEPOT_SECTION
1
-1
EOF
"""
FULL = "0 5 8 5\n5 0 5 6\n8 5 0 5\n5 6 5 0"
DISTS = [[0, 5, 8, 5], [5, 0, 5, 6], [8, 5, 0, 5], [5, 6, 5, 0]]
MATRIX = GOOD.replace("EUC_2D", "EXPLICIT\nEDGE_WEIGHT_FORMAT : FULL_MATRIX")
MATRIX = MATRIX.replace("NODE_COORD_SECTION\n1 0 0\n2 3 4\n3 0 8\n4 -3 4", f"EDGE_WEIGHT_SECTION\n{FULL}")


def refusal(call, *arguments) -> str:
    """Return the text with which ``call`` refuses, having checked that it is one short printable line."""
    with pytest.raises(InstanceError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 500
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file to write."""
    return tmp_path / "it.vrp"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace(" : ", ":\t").lower(),
        GOOD.replace("EOF\n", ""),
        GOOD.replace("-1\nEOF\n", ""),
        GOOD.replace("1\n-1\n", "1 -1\n"),
        GOOD.replace("2 6\n3 4\n4 5", "3 4\n2 6.0\n4 5"),
        GOOD.replace("CAPACITY : 10\n", "").replace("NODE_COORD", "CAPACITY : 1e1\nNODE_COORD"),
        GOOD.replace("2 3 4\n3 0 8\n", "3 0 8\n2 3 4\n"),
        MATRIX,
        MATRIX.replace("FULL_MATRIX", "LOWER_ROW").replace(FULL, "5 8 5\n5 6 5"),
        MATRIX.replace("FULL_MATRIX", "UPPER_ROW").replace(FULL, "5 8 5 5 6 5"),
    ],
)
def test_forms_of_the_same_file(text: str, path: Path) -> None:
    """Line ends, case, blanks, the order of rows, a missing end and the layout of a matrix make no difference."""
    path.write_text(text, newline="")
    problem = read_cvrplib(path)
    assert (problem.name, problem.capacity, problem.demand.tolist()) == ("four", 10, [0, 6, 4, 5])
    assert problem.dists.tolist() == DISTS
    if problem.edge_weight_type == "EXPLICIT":
        assert problem.coords is None
    else:
        assert problem.coords.tolist() == [[0, 0], [3, 4], [0, 8], [-3, 4]]


@pytest.mark.parametrize("text", [GOOD, MATRIX])
@pytest.mark.parametrize("depot", [2, 3, 4])
def test_the_depot_comes_first(text: str, depot: int, path: Path) -> None:
    """Wherever the depot is, it becomes node 0, and the customers keep the order of their ids."""
    others = [node for node in (1, 2, 3, 4) if node != depot]
    demands = "".join(f"{node} {node}\n" for node in others)
    path.write_text(f"{text[: text.index('DEMAND')]}DEMAND_SECTION\n{demands}{depot} 0\nDEPOT_SECTION\n{depot}\n-1\n")
    problem = read_cvrplib(path)
    assert problem.demand.tolist() == [0, *others]
    order = [depot - 1, *(node - 1 for node in others)]
    assert problem.dists.tolist() == np.array(DISTS)[order][:, order].tolist()


@pytest.mark.parametrize("kind", ["CEIL_2D", "EXACT_2D", "GEO", "GEOM", "ATT", "MAN_2D"])
def test_every_distance_of_the_format_is_known(kind: str, path: Path) -> None:
    """Distances are those that TSPLIB95 and LKH have for the same coordinates."""
    path.write_text(GOOD.replace("EUC_2D", kind))
    problem = read_cvrplib(path)
    assert np.array_equal(problem.dists, distances(problem.coords, kind))


def test_rounding_that_swallows_an_instance_is_told(path: Path) -> None:
    """Customers within a degree are all at distance 0 in EUC_2D, which is warned of; EXACT_2D keeps them apart."""
    near = GOOD.replace("2 3 4\n3 0 8\n4 -3 4", "2 .03 .04\n3 0 .08\n4 -.03 .04")
    path.write_text(near)
    with pytest.warns(NcogymWarning, match=r"it\.vrp: EUC_2D rounds 100 % of the distances between different places"):
        assert not read_cvrplib(path).dists.any()
    path.write_text(near.replace("EUC_2D", "EXACT_2D"))
    assert np.allclose(read_cvrplib(path).dists, np.array(DISTS) / 100, rtol=1e-12)


@pytest.mark.parametrize(
    "lines",
    [
        "DISTANCE : 99999999",
        "DISTANCE : 28",  # the longest ways out of all nodes: 8 + 6 + 8 + 6
        "DISTANCE : 58\nSERVICE_TIME : 10",
        "SERVICE_TIME : 0",
        "VEHICLES : 3",
        "DISTANCE : 1e9\nSERVICE_TIME : 0\nVEHICLES : 25",
    ],
)
def test_limits_that_bind_nothing_are_read(lines: str, path: Path) -> None:
    """A limit that no solution can break changes nothing; a vehicle for each customer is one."""
    path.write_text(GOOD.replace("CAPACITY", f"{lines}\nCAPACITY"))
    problem = read_cvrplib(path)
    assert (problem.dists.tolist(), problem.capacity) == (DISTS, 10)


def test_a_keyword_that_informs_is_passed_over(path: Path) -> None:
    """It is told in a warning, and the instance is what it is without it."""
    path.write_text(GOOD.replace("CAPACITY", "BEST_KNOWN: 34\nCAPACITY"))
    with pytest.warns(
        NcogymWarning, match=r"it\.vrp: no keywords of a CVRP file, passed over: 'BEST_KNOWN: 34' \(line 5\)$"
    ):
        problem = read_cvrplib(path)
    assert (problem.dists.tolist(), problem.demand.tolist()) == (DISTS, [0, 6, 4, 5])


def test_headers_may_stand_below_their_section(path: Path) -> None:
    """Demands and coordinates whose number is told further down are read."""
    head = "NAME : four\nTYPE : CVRP\nDIMENSION : 4\nEDGE_WEIGHT_TYPE : EUC_2D\nCAPACITY : 10\n"
    rows, demands = GOOD.removeprefix(head).removesuffix("EOF\n").split("DEMAND_SECTION")
    for text in (rows + head + "DEMAND_SECTION" + demands, f"DEMAND_SECTION{demands}{rows}{head}EOF\n"):
        path.write_text(text)
        problem = read_cvrplib(path)
        assert (problem.dists.tolist(), problem.demand.tolist(), problem.capacity) == (DISTS, [0, 6, 4, 5], 10)


BAD = [
    (GOOD.replace("3 4\n4 5", "3 11\n4 5"), "node 3 has the demand 11, allowed are 0 to the CAPACITY 10"),
    (GOOD.replace("2 6", "2 -6"), "node 2 has the demand -6, allowed are 0 to the CAPACITY 10"),
    (GOOD.replace("CAPACITY : 10", "CAPACITY : 0"), "CAPACITY is 0, it must be above 0"),
    (GOOD.replace("CAPACITY : 10", "CAPACITY : -3"), "CAPACITY is -3, it must be above 0"),
    (GOOD.replace("CAPACITY : 10", "CAPACITY : ten"), "'ten' in CAPACITY is not a finite number"),
    (GOOD.replace("CAPACITY : 10", "CAPACITY : nan"), "'nan' in CAPACITY is not a finite number"),
    (GOOD.replace("CAPACITY : 10", "CAPACITY : 1e999"), "CAPACITY is inf, it must be above 0 and at most 2**53"),
    (GOOD.replace("CAPACITY : 10", "CAPACITY : 1e308"), "CAPACITY is 1e+308, it must be above 0 and at most 2**53"),
    (GOOD.replace("CAPACITY : 10", "CAPACITY : 9e15").replace("2 6\n3 4\n", "2 6e15\n3 4e15\n"), "demands sum to 1"),
    (GOOD.replace("CAPACITY : 10", "CAPACITY :"), "CAPACITY has 0 numbers and must have 1 number"),
    (GOOD.replace("CAPACITY : 10", "CAPACITY : 10 12"), "CAPACITY has more than the 1 number"),
    (GOOD.replace("CAPACITY : 10", "CAPACITY : 10\nCAPACITY : 12"), "CAPACITY is given twice"),
    (GOOD.replace("CAPACITY : 10\n", ""), "CAPACITY is missing"),
    (GOOD.replace("DIMENSION : 4\n", ""), "DIMENSION is missing before NODE_COORD_SECTION"),
    (GOOD.replace("EDGE_WEIGHT_TYPE : EUC_2D\n", ""), "EDGE_WEIGHT_TYPE is missing in the header"),
    (GOOD.replace("TYPE : CVRP\n", "", 1), "TYPE is missing in the header, allowed are CVRP"),
    (GOOD.replace("TYPE : CVRP", "TYPE : TSP"), "TYPE 'TSP' is not supported, allowed are CVRP"),
    (GOOD.replace("TYPE : CVRP", "TYPE : CVRPTW"), "TYPE 'CVRPTW' is not supported, allowed are CVRP"),
    (GOOD.replace("EUC_2D", "FLOOR_2D"), "EDGE_WEIGHT_TYPE 'FLOOR_2D' is not supported"),
    (GOOD[: GOOD.index("NODE")] + GOOD[GOOD.index("DEMAND") :], "NODE_COORD_SECTION is missing"),
    (GOOD[: GOOD.index("DEMAND")] + GOOD[GOOD.index("DEPOT") :], "DEMAND_SECTION is missing"),
    (GOOD[: GOOD.index("DEPOT")], "DEPOT_SECTION is missing"),
    (MATRIX.replace(f"EDGE_WEIGHT_SECTION\n{FULL}\n", ""), "EDGE_WEIGHT_SECTION is missing"),
    (GOOD.replace("1 0\n2 6", "1 2\n2 6"), "the depot, node 1, has the demand 2, it must be 0"),
    (GOOD.replace("1\n-1", "1\n2\n-1"), "DEPOT_SECTION names 2 depots, one is allowed"),
    (GOOD.replace("\n1\n-1", "\n-1"), "DEPOT_SECTION names 0 depots, one is allowed"),
    (GOOD.replace("\n1\n-1", "\n5\n-1"), "depot 5 is not one of 1..4"),
    (GOOD.replace("\n1\n-1", "\n1.5\n-1"), "depot 1.5 is not one of 1..4"),
    (GOOD.replace("\n1\n-1", "\n1 2 3 4 1 1\n-1"), "DEPOT_SECTION has more than the 5 numbers"),
    (GOOD.replace("3 4\n4 5", "3 4\n5 5"), "node id 5 in DEMAND_SECTION is not one of 1..4"),
    (GOOD.replace("3 4\n4 5", "3 4\n3 5"), "node id 3 is given twice in DEMAND_SECTION"),
    (GOOD.replace("3 4\n4 5", "4 5"), "DEMAND_SECTION has 6 numbers and must have 8 numbers for DIMENSION 4"),
    (GOOD.replace("3 4\n4 5", "3 4\n4 5\n4 5"), "DEMAND_SECTION has more than the 8 numbers"),
    (GOOD.replace("3 4\n4 5", "3 four\n4 5"), "'four' in DEMAND_SECTION is not a finite number"),
    (GOOD.replace("3 0 8\n", ""), "NODE_COORD_SECTION has 3 rows and must have 4 rows for DIMENSION 4"),
    (GOOD.replace("3 0 8", "3 0 inf"), "'inf' in NODE_COORD_SECTION is not a finite number"),
    (GOOD.replace("DIMENSION : 4", "DIMENSION : 1"), "DIMENSION must be from 2 to 20000, got 1"),
    (MATRIX.replace("0 5 8 5\n", "0 7 8 5\n"), "the weight from node 1 to 2 is 7 but 5 back, a CVRP must be symmetric"),
    (MATRIX.replace("0 5 8 5\n5 0", "0 -5 8 5\n-5 0"), "the weight from node 1 to 2 is -5, allowed are 0 to 1e+15"),
    (
        GOOD.replace("CAPACITY", "DISTANCE : 27\nCAPACITY"),
        "DISTANCE 27 is not supported; this problem has no routes of limited length, allowed is what limits nothing "
        "here, at least 28",
    ),
    (GOOD.replace("CAPACITY", "DISTANCE : 57\nSERVICE_TIME : 10\nCAPACITY"), "limits nothing here, at least 58"),
    (GOOD.replace("CAPACITY", "DISTANCE : 99\nSERVICE_TIME : -1\nCAPACITY"), "SERVICE_TIME -1 is not supported"),
    (
        GOOD.replace("CAPACITY", "SERVICE_TIME : 9\nCAPACITY"),
        "SERVICE_TIME 9 is not supported; this problem has no service",
    ),
    (
        GOOD.replace("CAPACITY", "VEHICLES : 2\nCAPACITY"),
        "VEHICLES 2 is not supported; this problem has no limited fleet",
    ),
    (GOOD.replace("CAPACITY", "VEHICLES : two\nCAPACITY"), "'two' in VEHICLES is not a finite number"),
    (GOOD.replace("CAPACITY", "VEHICLES : 1e999\nDISTANCE : 9\nCAPACITY"), "DISTANCE 9 is not supported"),
    (
        GOOD.replace("CAPACITY", "MAX_VEHICLES : 9\nCAPACITY"),
        "line 5: 'MAX_VEHICLES : 9' is not a keyword of a CVRP file",
    ),
    (GOOD.replace("DEPOT", "TIME_WINDOW_SECTION\n1 0 9\nDEPOT"), "TIME_WINDOW_SECTION is not supported"),
    (GOOD.replace("CAPACITY", "COLOUR red\nCAPACITY"), "'COLOUR red' is not a keyword of a CVRP file"),
    ("", "the file is empty"),
    ("\x00\x01\x02", "binary data"),
    ("a word\n", "is not a keyword of a CVRP file"),
]


def test_one_customer_is_enough(path: Path) -> None:
    """A depot and a customer are an instance, read and written."""
    write_cvrplib(path, np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([0.0, 6.0]), 10.0)
    assert read_cvrplib(path).dists.tolist() == [[0, 5], [5, 0]]


@pytest.mark.parametrize(("text", "words"), BAD, ids=range(len(BAD)))
def test_bad_files_are_refused_in_words(text: str, words: str, path: Path) -> None:
    """What is wrong, where, and what is allowed, in one line that names the file."""
    path.write_text(text)
    found = refusal(read_cvrplib, path)
    assert words in found
    assert "it.vrp" in found


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A path where no file is, or a folder, is told in words."""
    assert "no such file" in refusal(read_cvrplib, tmp_path / "none.vrp")
    assert "no such file" in refusal(read_routes, tmp_path / "none.sol")
    assert "is a directory" in refusal(read_routes, tmp_path)


@quick
@given(lines=st.lists(st.sampled_from([*GOOD.splitlines(), *MATRIX.splitlines(), "", "1 2 3 4 5"]), max_size=24))
def test_shuffled_lines_are_read_or_refused(lines, tmp_path_factory) -> None:
    """Whatever the lines of a file are, it is read or refused in words; nothing else is raised."""
    path = tmp_path_factory.mktemp("shuffled") / "it.vrp"
    path.write_text("\n".join(lines))
    try:
        read_cvrplib(path)
    except InstanceError as error:
        text = str(error)
    else:
        text = "read"
    assert text.isprintable()


# ---------------------------------------------------------------------- writing


@pytest.mark.filterwarnings("ignore::ncogym.errors.NcogymWarning")  # of coordinates that rounding swallows
@quick
@given(data=st.data(), n=st.integers(3, 9), kind=st.sampled_from(["EUC_2D", "EXACT_2D", "EXPLICIT"]))
def test_written_instances_read_back_exactly(data, n: int, kind: str, tmp_path_factory) -> None:
    """Coordinates or distances, demands and capacity come back to the last bit, whole or not."""
    capacity = float(data.draw(st.floats(1e-3, 1e9) | st.integers(1, 1000)))
    demand = data.draw(hnp.arrays(np.float64, n, elements=st.floats(0, 1))) * capacity
    demand[0] = 0
    coords = data.draw(hnp.arrays(np.float64, (n, 2), elements=st.floats(-1e6, 1e6, allow_subnormal=False)))
    values = distances(coords, "EUC_2D") / 7 if kind == "EXPLICIT" else coords
    path = tmp_path_factory.mktemp("written") / "it.vrp"
    write_cvrplib(path, values, demand, capacity, kind, "a comment")
    problem = read_cvrplib(path)
    assert np.array_equal(problem.dists if kind == "EXPLICIT" else problem.coords, values)
    assert np.array_equal(problem.demand, demand)
    assert (problem.capacity, problem.name) == (capacity, "it")


@pytest.mark.parametrize(
    ("values", "demand", "capacity", "words"),
    [
        (np.eye(3, 2), [0, 1, 9], 5.0, "node 3 has the demand 9, allowed are 0 to the CAPACITY 5"),
        (np.eye(3, 2), [1, 1, 1], 5.0, "the depot, node 1, has the demand 1, it must be 0"),
        (np.eye(3, 2), [0, 1, 1], 0.0, "CAPACITY is 0, it must be above 0"),
        (np.eye(3, 2), [0, 1, 1], np.nan, "CAPACITY is nan, it must be above 0"),
        (np.eye(3, 2), [0, 1, np.nan], 5.0, "node 3 has the demand nan"),
        (np.eye(3, 2), [0, 1], 5.0, "demands must have the shape [3]"),
        (np.eye(1, 2), [0], 5.0, "the number of nodes must be from 2 to 20000, got 1"),
        (np.full((3, 2), np.inf), [0, 1, 1], 5.0, "a coordinate is inf"),
    ],
)
def test_what_cannot_be_read_is_not_written(values, demand, capacity, words: str, path: Path) -> None:
    """An instance that the reader would refuse leaves no file."""
    assert words in refusal(write_cvrplib, path, values, np.array(demand, dtype=float), capacity)
    assert not path.exists()


def test_thousands_of_nodes_are_read_in_seconds(path: Path) -> None:
    """A file of 3,000 nodes takes a second or two, whatever the machine does beside."""
    coords = np.random.RandomState(0).uniform(size=(3000, 2)) * 1000
    write_cvrplib(path, coords, np.append(0.0, np.full(2999, 3.0)), 100.0)
    begin = time.process_time()
    assert read_cvrplib(path).dists.shape == (3000, 3000)
    assert time.process_time() - begin < 4


# ---------------------------------------------------------------------- solutions


@quick
@given(routes=st.lists(st.lists(st.integers(1, 99), min_size=1), min_size=1), cost=st.floats(0, 1e9))
def test_written_routes_read_back(routes, cost: float, tmp_path_factory) -> None:
    """Routes come back as they were written."""
    path = tmp_path_factory.mktemp("routes") / "it.sol"
    write_routes(path, routes, cost)
    assert read_routes(path) == routes


@pytest.mark.parametrize(
    "text",
    [
        "Route #1: 1 2\nRoute #2: 3 4\nCost 90\n",
        "Route #1:\t1\t2\nRoute #2:\t3\t4\nCost\t90\n",
        "ROUTE #1: 1 2\r\nroute # 2 : 3 4\r\nCOST: 90",
        "Route 1: 1, 2\nRoute 2: 3, 4\nCost = 90,5",
        "Route: 1;2\nRoute #2 3;4\n",
        "Route #1 : 0 1 2 0\nRoute #2 : 0 -> 3 -> 4 -> 0\nTotal cost: 90\n",
        "\ufeffcost 90\nRoutes: 2\nroute 1 = 1 2\n\n  Route #2: 3 4\nRoute #3:\nRoute #4: 0 0\n# found by hand\n",
    ],
)
def test_routes_in_any_form(text: str, tmp_path: Path) -> None:
    """Numbers are parted by what is in use, the depot may stand at both ends, and empty routes are none."""
    (tmp_path / "it.sol").write_bytes(text.encode())
    assert read_routes(tmp_path / "it.sol") == [[1, 2], [3, 4]]


PIECES = ["Route", "route", "#", "1", "99", "0", ":", "=", "->", ",", "Cost", "x", "\n", " "]


@quick
@given(words=st.lists(st.sampled_from(PIECES)))
def test_any_solution_is_read_or_refused(words: list[str], tmp_path_factory) -> None:
    """Whatever a solution file holds, it gives routes of customers, or is refused in one line."""
    path = tmp_path_factory.mktemp("any") / "it.sol"
    path.write_text("".join(words))
    try:
        routes, refused = read_routes(path), ""
    except InstanceError as error:
        routes, refused = [], str(error)
    assert bool(routes) != bool(refused)
    assert refused.isprintable()
    assert all(route and route[0] and route[-1] for route in routes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no line 'Route #1: ...' is there"),
        ("Cost 784\n", "no line 'Route #1: ...' is there"),
        ("Cost 3\nRoute #1: 5 x 3\n", "it.sol, line 2: 'x' is no customer of a route"),
        ("Route #1: 5 3.5\n", "line 1: '3.5' is no customer of a route"),
        ("Route #1: 5 -3\n", "'-3' is no customer of a route"),
        ("Route #1: 1 99999999999999999999999999\n", "'99999999999999999999999999' is no customer of a route"),
        ("Route #1: 1 \xb2\n", "is no customer of a route"),
        ("Route #1 (load 9): 5 3\n", "is no customer of a route"),
        ("Route 5 3\n", "'Route 5 3' is no customer of a route"),
        ("\xff\xfe\x00", "it.sol"),
    ],
)
def test_bad_solutions_are_refused(text: str, words: str, tmp_path: Path) -> None:
    """A file that holds no routes of numbers is refused in one line."""
    (tmp_path / "it.sol").write_bytes(text.encode("latin-1"))
    assert words in refusal(read_routes, tmp_path / "it.sol")
