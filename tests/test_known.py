from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from ncogym.errors import InstanceError, NcogymWarning
from ncogym.sets import open_set
from ncogym.solving import solve

TOUR = "TYPE: {kind}\nDIMENSION: 3\nEDGE_WEIGHT_TYPE: EUC_2D\nNODE_COORD_SECTION\n1 0 0\n2 3 4\n3 6 8\n"
ROUTES = (
    TOUR + "CAPACITY: 1\nDEMAND_SECTION\n1 0\n2 1\n3 1\nDEPOT_SECTION\n1\n-1\nEOF\n"
)  # the tour is 20, the routes 30
CONTENTS = {".tsp": TOUR.format(kind="TSP"), ".vrp": ROUTES.format(kind="CVRP"), ".kp": "2 5\n10 3\n4 2\n"}
CONTENTS[".txt"] = "2 5\n10 3\n4 3\n"  # a knapsack, of optimum 10; the .kp's is 14


def folder(home: Path, *files: str, index: str | bytes | None = None, above: str | None = None) -> Path:
    """Make the folder ``home``/set with instance files, and an index there or above."""
    for name in files:
        path = home / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CONTENTS[path.suffix])
    for where, text in ((home / "set", index), (home, above)):
        if text is not None:
            (where / "index.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return home / "set"


def known(path: Path, problem: str | None = None) -> dict[str, float | None]:
    """Return the best known values of a set by file name without suffix, None where there is none."""
    found = open_set(str(path), problem)
    values = [None if math.isnan(value) else value for value in found.best_known.tolist()]
    return dict(zip(found.names, values, strict=True))


# ---------------------------------------------------------------------- index.csv

HEAD = "name,best_known,proven_optimal\n"
READ = {  # an index of x.tsp and y.tsp: the values that are right
    "by name": (HEAD + "x,20,true\ny,30,false\n", 20, 30),
    "by file": ("file,best_known\ny.tsp,30\nx.tsp,20\n", 20, 30),
    "by both, where the name is another's": ("name,file,best_known\ny,x.tsp,20\nx,y.tsp,30\n", 20, 30),
    "names with suffix": (HEAD + "x.tsp,20,true\ny,30,\n", 20, 30),
    "semicolons": ("name;best_known\nx;20\ny;30\n", 20, 30),
    "tabs": ("name\tbest_known\nx\t20\ny\t30\n", 20, 30),
    "blanks": ("name , best_known , proven_optimal\n x , 20 , true\ny,  30 ,\n", 20, 30),
    "capitals": ("Name,Best_Known,PROVEN_OPTIMAL\nx,20,TRUE\ny,30,No\n", 20, 30),
    "words": ("name,best known,proven-optimal\nx,20,yes (literature)\ny,30,no\n", 20, 30),
    "quotes": ('"name","best_known"\n"x","20"\n"y", "30"\n', 20, 30),
    "a byte order mark, CRLF, blank lines": ("\ufeffname,best_known\r\n\r\nx,20\r\n\r\ny,30\r\n", 20, 30),
    "a row twice": (HEAD + "x,20,true\nx,20.0,\ny,30,\n", 20, 30),
    "a short row": (HEAD + "x,20\ny\n", 20, None),
    "no value": (HEAD + "x,,\ny,-,\n", None, None),
    "unknown": (HEAD + "x,?,\ny,N/A,\n", None, None),
    "by problem": ("problem,name,best_known\nCVRP,x,5\nTSP,x,20\nKP,y,30\n", 20, 30),
    "a file that was moved": ("name,file,best_known\na,tsp/x.tsp,20\nb,tsp\\y.tsp,30\n", 20, 30),
    "another file of the name": ("name,file,best_known\nx,index.csv,20\ny,y.tsp,30\n", None, 30),
}


@pytest.mark.parametrize(("text", "x", "y"), READ.values(), ids=READ.keys())
def test_an_index_in_any_form(tmp_path: Path, text: str, x: float | None, y: float | None) -> None:
    """Every value goes to the file that it is of, and to no other, without a word on stderr where all are used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if "CVRP,x" in text or "index.csv" in text else "error")
        assert known(folder(tmp_path, "x.tsp", "y.tsp", index=text)) == {"x": x, "y": y}


SAID = {  # an index of x.tsp and y.tsp, what x is then, and what is said
    "a row of no file": (HEAD + "x,20,\nX,21,\nz,22,\n", 20, "2 of its 3 values are of no instance file there: X, z"),
    "many rows of no file": (HEAD + "a,1,\nb,2,\nc,3,\nd,4,\n", None, "4 of its 4 .* there: a, b, c, \\.\\.\\.$"),
    "of another problem": ("problem,name,best_known\nCVRP,x,5\n", None, "1 of its 1 values .*: x"),
    "a file that is gone": ("name,file,best_known\nx,gone.tsp,20\n", None, "there: gone.tsp"),
    "a name that is too long": (f"name,file,best_known\nx,{'a' * 300},20\n", None, "1 of its 1 values"),
    "no header": ("x,20,true\ny,30,false\n", None, r"no columns 'best_known' and 'name' or 'file' \(x, 20, true\)"),
    "other columns": ("name,optimum\nx,20\n", None, r"no columns .* \(name, optimum\), so nothing is known"),
    "no names": ("best_known\n20\n", None, "no columns"),
}


@pytest.mark.parametrize(("text", "x", "words"), SAID.values(), ids=SAID.keys())
def test_what_an_index_is_of_nothing_is_said(tmp_path: Path, text: str, x: float | None, words: str) -> None:
    """Values that no file gets, and a table of which nothing is understood, are told in one line."""
    made = folder(tmp_path, "x.tsp", "y.tsp", index=text)
    with pytest.warns(NcogymWarning, match=rf"index\.csv: .*{words}") as said:
        assert known(made)["x"] == x
    assert len(said) == 1


REFUSED = {  # files, index: words
    "one stem": ("a.kp a.txt", "name,best_known\na,14\n", r"row 2: 'a' may be a\.kp and a\.txt; a column 'file'"),
    "two rows of one name": ("x.tsp", HEAD + "x,20,true\nx,30,true\n", "rows 2 and 3: .* 20 and 30 are of x.tsp"),
    "by name and by file": ("x.tsp", "name,file,best_known\nx,,20\na,x.tsp,21\n", "rows 2 and 3: .* 20 and 21"),
    "two problems": ("x.tsp x.vrp", HEAD + "x,20,true\nx,30,true\n", "row 2: 'x' may be x.tsp and x.vrp"),
    "a comma in a number": ("x.tsp", "name,best_known\nx,1,234\n", "row 2: 3 cells, but the first row has 2"),
    "a decimal comma": ("x.tsp", "name;best_known\nx;20,5\n", "row 2: best_known '20,5' .* not a number"),
    "a column twice": ("x.tsp", "name,best_known,Best Known\nx,20,21\n", "column best_known is there twice"),
    "binary": ("x.tsp", "name,best_known\nx,2\0\n", "not a table"),
}


@pytest.mark.parametrize(("files", "text", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_an_index_that_does_not_tell_is_refused(tmp_path: Path, files: str, text: str, words: str) -> None:
    """A row that may be of two files, rows that contradict each other and cells that can be misread are named."""
    made = folder(tmp_path, *files.split(), index=text)
    with pytest.raises(InstanceError, match=rf"index\.csv.*{words}"):
        known(made / files.split()[0])


def test_the_problem_parts_two_files_of_one_name(tmp_path: Path) -> None:
    """Where rows say their problem, each of two files gets its own value; so it does by file and by suffix."""
    for head, tour, routes in (
        ("problem,name", "TSP,x", "cvrp,x"),
        ("file", "x.tsp", "x.vrp"),
        ("name", "x.tsp", "x.vrp"),
    ):
        text = f"{head},best_known\n{routes},30\n{tour},20\n"
        made = folder(tmp_path, "x.tsp", "x.vrp", index=text)
        assert [known(made, "tsp"), known(made, "cvrp")] == [{"x": 20}, {"x": 30}]


def test_an_index_above_tells_folders_apart(tmp_path: Path) -> None:
    """A parent's row is of the file that it names; a name alone is refused where two of its folders have it."""
    rows = "name,file,best_known\nx,set/x.tsp,20\nx,other/x.tsp,40\ny,,30\n"
    made = folder(tmp_path, "x.tsp", "y.tsp", above=rows)
    shutil.copytree(made, tmp_path / "other")
    with pytest.raises(InstanceError, match=r"row 4: 'y' may be other/y\.tsp and set/y\.tsp"):
        known(made)
    (tmp_path / "other" / "y.tsp").unlink()
    assert (known(made), known(tmp_path / "other")) == ({"x": 20, "y": 30}, {"x": 40})


def test_a_linked_file_is_one_file(tmp_path: Path) -> None:
    """Two names of one file are no contradiction."""
    made = folder(tmp_path, "x.tsp", index="file,best_known\nx.tsp,20\n")
    os.symlink(made / "x.tsp", made / "link.tsp")
    assert known(made) == {"link": 20, "x": 20}


CELLS = [
    "name",
    "file",
    "best_known",
    "proven_optimal",
    "problem",
    "x",
    "x.tsp",
    "set/x.tsp",
    "../y.tsp",
    "20",
    "1e999",
]
CELLS += ["-1", "nan", "true", "maybe", "TSP", "CVRP", '"', "\0", "\x85", "é", "", " ", "\ud800", "a" * 300, "/", "."]


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(
    table=st.lists(st.lists(st.sampled_from(CELLS), max_size=5), max_size=5),
    good=st.booleans(),
    mark=st.sampled_from(",;\t"),
)
def test_any_index_is_read_or_refused(table: list[list[str]], good: bool, mark: str) -> None:
    """Whatever cells an index has, it is understood, warned of, or refused in one line."""
    rows = [["name", "file", "best_known", "proven_optimal"]] * good + table
    text = "\n".join(mark.join(row) for row in rows).encode(errors="surrogatepass")
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore", NcogymWarning)
        with contextlib.suppress(InstanceError):
            known(folder(Path(home), "x.tsp", "y.tsp", index=text))


# ---------------------------------------------------------------------- solutions beside files


@pytest.mark.parametrize(
    "text",
    [
        "Cost 30\n",
        "Route #1: 1 99999999999999999999999999\n",
        "Route #1: 1 2\nCost 20\n",
        "Route #1: one two\n",
        "Route #1: 1 7\n",
        "\0",
    ],
)
def test_an_odd_solution_is_left_out(tmp_path: Path, text: str) -> None:
    """A solution file that cannot be read or that the referee refuses is one warning, and the others are known."""
    made = folder(tmp_path, "x.vrp", "y.vrp")
    (made / "x.sol").write_text(text)
    (made / "y.sol").write_text("route #1:\t1\nROUTE #2:\t2\nCost\t30\n")
    with pytest.warns(NcogymWarning, match=r"x\.vrp: the solution beside it is left out, and no gap .*x\.sol") as said:
        assert known(made) == {"x": None, "y": 30}
    assert len(said) == 1
    with pytest.warns(NcogymWarning, match=r"x\.sol"):
        record = solve(made / "x.vrp", solver="savings").record()
    assert (record["objective"], record["best_known"], record["gap_percent"]) == (30, None, None)


def test_a_solution_that_two_files_could_have_is_of_neither(tmp_path: Path) -> None:
    """A tour beside a symmetric and an asymmetric instance of one name is left out of both, with a warning."""
    made = folder(tmp_path, "x.tsp")
    (made / "x.atsp").write_text(CONTENTS[".tsp"].replace("TSP", "ATSP"))
    (made / "x.opt.tour").write_text("TOUR_SECTION\n1\n2\n3\n-1\n")
    for name, rival in (("x.tsp", "x.atsp"), ("x.atsp", "x.tsp")):
        with pytest.warns(NcogymWarning, match=rf"it could be that of {rival}, too"):
            record = solve(made / name, solver="nearest-neighbour").record()
        assert (record["best_known"], record["gap_percent"]) == (None, None)


def test_an_odd_solution_leaves_the_index(tmp_path: Path) -> None:
    """What the index says of an instance holds without the solution."""
    made = folder(tmp_path, "x.tsp", index=HEAD + "x,20,true\n")
    (made / "x.opt.tour").write_text("TOUR_SECTION\n1\n1\n2\n")
    with pytest.warns(NcogymWarning, match=r"x\.opt\.tour"):
        found = open_set(str(made))
    assert (found.best_known.tolist(), found.proven, found.actions) == ([20], (True,), (None,))


def test_a_name_too_long_for_a_solution_has_none(tmp_path: Path) -> None:
    """An instance whose solution's name no file could have is solved all the same."""
    path = folder(tmp_path, "x.tsp") / "x.tsp"
    long = path.rename(path.with_name("x" * 250 + ".tsp"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NcogymWarning)
        assert solve(long, solver="two-opt").record()["objective"] == 20


def test_the_own_solution_is_not_the_best_known(tmp_path: Path) -> None:
    """What `solve` wrote beside an instance is no published solution, whatever its name, until somebody changes it."""
    made = folder(tmp_path, "x.vrp")
    solve(made / "x.vrp", solver="savings").write(made)
    assert (made / "x.sol").exists()
    assert solve(made / "x.vrp", solver="savings").best_known is None
    assert known(made) == {"x": None}
    (made / "x.sol").write_text("Route #1: 2\nRoute #2: 1\nCost 30\n")
    assert known(made) == {"x": 30}
    (made / "x.tsp").write_text(CONTENTS[".tsp"])
    solve(made / "x.tsp", solver="two-opt").write(tmp_path)
    shutil.copy(tmp_path / "x.tour", made / "x.opt.tour")
    assert known(made, "tsp") == {"x": 20}  # without its record nobody can tell
    said = json.loads((tmp_path / "x.json").read_text())
    (made / "x.json").write_text(json.dumps(said))
    assert known(made, "tsp") == {"x": None}
    assert re.fullmatch(r"[0-9a-f]{64}", said["sha256"]["x.tour"])
