from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncogym.envs.formats.jobshop import TAILLARD_SEEDS, matrices_fault, read_jobshop, taillard_matrices, write_jobshop
from ncogym.errors import InstanceError

DURATION = [[3, 2, 2], [2, 1, 4], [4, 3, 1]]
MACHINE = [[0, 1, 2], [0, 2, 1], [1, 2, 0]]


def read(tmp_path, text):
    """Read a file of this text."""
    path = tmp_path / "shop.jsp"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_jobshop(path)


@st.composite
def instances(draw, ragged=False):
    """Durations and machines of a few jobs; ``ragged``: the first visits all machines, others may leave some out."""
    jobs, machines = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    duration, machine = np.zeros((jobs, machines), dtype=np.int64), np.full((jobs, machines), -1)
    for job in range(jobs):
        length = draw(st.integers(1, machines)) if ragged and job else machines
        machine[job, :length] = draw(st.permutations(range(machines)))[:length]
        duration[job, :length] = draw(st.lists(st.integers(0, 10**9), min_size=length, max_size=length))
    return duration, machine


# ---------------------------------------------------------------------- the two layouts


@pytest.mark.parametrize("name", ["three_jobs", "three_jobs_taillard"])
def test_both_layouts_of_one_instance_read_alike(name, data):
    """The same three jobs in the standard format and as Taillard's own file give the same matrices."""
    duration, machine = read_jobshop(data / f"{name}.jsp")
    assert (duration.tolist(), machine.tolist()) == (DURATION, MACHINE)
    assert duration.dtype == machine.dtype == np.int64


STANDARD = "2 2\n0 3 1 2\n1 2 0 4\n"
TOLERATED = {
    "comments": "# two jobs\n+++++\n" + STANDARD + "+++\n# end\n",
    "OR-Library": " instance two\n \n ++++++\n Two jobs (Table 1, instance 5)\n" + STANDARD + " ++++++\n",
    "CRLF, BOM": b"\xef\xbb\xbf" + STANDARD.replace("\n", "\r\n").encode(),
    "a name": "x01\n" + STANDARD,
    "a name of several words": "two jobs, 2024\n" + STANDARD,
    "a makespan below": STANDARD + "7\n",
    "a solution below": STANDARD + "9\n0 3\n1 2\n",
    "another solution below": "x01\n" + STANDARD + "\n9\n3 0\n2 1\n",
    "wrapped": "2 2 0 3 1 2 1 2 0 4".replace("2 2 ", "2 2\n", 1).replace(" 1 2 1", "\n1\n2 1"),
    "blank lines, tabs, no end of line": "\n\n2\t2\n\n0 3\t1 2\n\n1 2 0 4",
    "Taillard": "2 2\nTimes\n3 2\n2 4\nMachines\n1 2\n2 1\n",
    "Taillard, colons, wrapped": "2 2\nTIMES:\n3 2 2\n4\nMACHINES:\n1 2 2 1\n",
    "Taillard without words": "2 2\n3 2\n2 4\n1 2\n2 1\n",
    "Taillard's header alone": "2 2 17271 718939 9 8\n3 2\n2 4\n1 2\n2 1\n",
}


@pytest.mark.parametrize("form", TOLERATED)
def test_forms_of_public_files_are_tolerated(form, tmp_path):
    """Comments, names, wrapping, line ends and both layouts, with and without words, give the same two jobs."""
    duration, machine = read(tmp_path, TOLERATED[form])
    assert (duration.tolist(), machine.tolist()) == ([[3, 2], [2, 4]], [[0, 1], [1, 0]])


@pytest.mark.parametrize("solution", ["", "7\n", "8\n1 2\n0 3\n4\n"])
def test_jobs_may_leave_machines_out(solution, tmp_path):
    """Jobs of different length, a job a line, are padded; a solution may follow."""
    duration, machine = read(tmp_path, f"ragged\n3 3\n1 3 0 2\n0 4\n1 1 2 6\n{solution}")
    assert duration.tolist() == [[3, 2, 0], [4, 0, 0], [1, 6, 0]]
    assert machine.tolist() == [[1, 0, -1], [0, -1, -1], [1, 2, -1]]


def test_pairs_of_another_kind_are_no_jobs(tmp_path):
    """Lines of one pair each are the items of a knapsack or the edges of a graph, not jobs that leave machines out."""
    with pytest.raises(InstanceError, match="6 numbers follow the line 'jobs machines'"):
        read(tmp_path, "3 10\n6 5\n5 4\n4 3\n")


def test_what_could_be_either_layout_is_refused(tmp_path):
    """Numbers that are sound pairs and sound matrices are refused unless the lines or words say which they are."""
    with pytest.raises(InstanceError, match="can be read in two ways, as pairs"):
        read(tmp_path, "1 2\n0 1\n1 2\n")
    pairs = read(tmp_path, "1 2\n0 1 1 2\n")
    assert (pairs[0].tolist(), pairs[1].tolist()) == ([[1, 2]], [[0, 1]])
    matrices = read(tmp_path, "1 2\nTimes\n0 1\nMachines\n1 2\n")
    assert (matrices[0].tolist(), matrices[1].tolist()) == ([[0, 1]], [[0, 1]])


def test_pairs_that_count_machines_from_one_are_not_taken_for_matrices(tmp_path):
    """A line of pairs a job is read as pairs, even where only the other layout would make sense of the numbers."""
    with pytest.raises(InstanceError, match="job 0 has the machine 1; machines are 0 to 0"):
        read(tmp_path, "1 1\n1 1\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("instance one\n", "the line 'jobs machines' is missing"),
        ("2 x\n2 2\n", "line 1: '2 x' is not 'jobs machines', two whole numbers"),
        ("hello\n", "the line 'jobs machines' is missing"),
        ("hello\nworld\n2 2\n", "line 2: 'world' is not 'jobs machines', two whole numbers"),
        ("2\n0 1\n", "line 1: 'jobs machines' must be two numbers, got 1"),
        ("2 2 2\n", "line 1: 'jobs machines' must be two numbers, got 3"),
        ("2.5 2\n", "line 1: '2.5' is not a whole number of at most 18 digits"),
        ("0 2\n", "0 jobs on 2 machines are not allowed; from 1 of each to 1000000 operations are"),
        ("99999 99999\n0 1\n", "99999 jobs on 99999 machines are not allowed"),
        ("2 2\n0 3 1 2\n1 2 0\n", "7 numbers follow the line 'jobs machines'; 2 jobs on 2 machines need 8"),
        ("2 2\n0 3 1 2\n1 2 0 4 1\n", "9 numbers follow"),
        ("2 2\n0 3 1 2\n1 2 0 4.5\n", "line 3: '4.5' is not a whole number"),
        ("2 2\n0 3 1 2\n1 2 0 x\n", "line 3: 'x' is not a whole number"),
        ("2 2\n0 3 1 2\n1 2 0 1e3\n", "line 3: '1e3' is not a whole number"),
        ("2 2\n0 3 1 2\n1 2 0 \u0664\n", "is not a whole number"),
        ("2 2\n0 3 1 2\n1 2 0 -4\n", "job 1 has a duration of -4; allowed are 0 to 1000000000"),
        ("2 2\n0 3 1 2\n1 2 0 1000000001\n", "job 1 has a duration of 1000000001"),
        ("2 2\n0 3 1 2\n1 2 2 4\n", "job 1 has the machine 2; machines are 0 to 1"),
        ("2 2\n0 3 0 2\n1 2 0 4\n", "job 0 has the machine 0 twice; it must visit each machine once"),
        ("2 2\nTimes\n3 2\n2 4\nMachines\n0 1\n1 0\n", "job 0 has the machine 0; machines are 1 to 2"),
        ("2 2\n3 2\n2 4\n1 2\n2 2\n", "job 1 has the machine 2 twice"),
        ("2 2\nMachines\n1 2\n2 1\nTimes\n3 2\n2 4\n", "'Times' must stand over the durations"),
        ("2 2\nTimes\n3 2\n2 4\n1 2\n2 1\n", "'Times' must stand over the durations"),
        (
            STANDARD + "5\n",
            "what stands below the jobs is no solution; allowed is a makespan of at least 7, and below it a line",
        ),
        (STANDARD + "7\n0 3\n1 1\n", "what stands below the jobs is no solution"),
        (STANDARD + "7\n0 3\n", "what stands below the jobs is no solution"),
        (STANDARD + "7 0 3 1 2\n", "what stands below the jobs is no solution"),
        ("2 3\n0 3 1 2\n1 2 0\n", "7 numbers follow the line 'jobs machines'; 2 jobs on 3 machines need 12"),
        ("2 3\n0 3 1 2\n1 2 3 4\n", "job 1 has the machine 3; machines are 0 to 2"),
        ("2 3\n0 3 0 2\n1 2\n", "job 0 has the machine 0 twice"),
        ("2 3\n0 3 1 2\n-1 0\n", "job 1 has the machine -1; machines are 0 to 2"),
        ("2 3\n0 3\n1 2\n", "4 numbers follow the line 'jobs machines'"),
        ("2 3\n0 3 1 2 2 1 0 4\n1 2\n", "10 numbers follow the line 'jobs machines'"),
        (f"instance a\n{STANDARD}instance b\n{STANDARD}", "the file holds several instances; it must hold one"),
        ("2 2\n\0", "binary data or over 64 MB, a text file is needed"),
    ],
)
def test_malformed_files_are_refused_in_one_line(text, words, tmp_path):
    """The line says what is wrong, in which line or job, and what is allowed, after the file's name."""
    with pytest.raises(InstanceError) as refusal:
        read(tmp_path, text)
    assert words in str(refusal.value)
    assert str(refusal.value).startswith(str(tmp_path / "shop.jsp"))
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path):
    """A path without a file is an error of the instance, too."""
    with pytest.raises(InstanceError, match=r"none\.jsp: no such file"):
        read_jobshop(tmp_path / "none.jsp")


@given(junk=st.one_of(st.binary(max_size=60), st.text("0123 \n-.Timesachn", max_size=40).map(str.encode)))
@settings(max_examples=150, deadline=None)
def test_junk_is_read_or_refused(junk, tmp_path_factory):
    """Whatever a file holds, it is a sound instance or an `InstanceError`."""
    try:
        duration, machine = read(tmp_path_factory.getbasetemp(), junk)
    except InstanceError:
        return
    assert matrices_fault(duration, machine) is None


# ---------------------------------------------------------------------- writing


@given(data=st.data(), layout=st.sampled_from(["standard", "ragged", "taillard"]))
@settings(max_examples=90, deadline=None)
def test_what_is_written_is_read_back(data, layout, tmp_path_factory):
    """Any instance, written by us or in Taillard's layout, comes back to the last digit."""
    matrices = data.draw(instances(layout == "ragged"))
    path = tmp_path_factory.getbasetemp() / "round.jsp"
    if layout != "taillard":
        write_jobshop(path, *matrices)
    else:
        texts = ["\n".join(" ".join(map(str, row)) for row in values) for values in (matrices[0], matrices[1] + 1)]
        shape = " ".join(map(str, matrices[0].shape))
        path.write_text(f"{shape}\nTimes\n{texts[0]}\nMachines\n{texts[1]}\n", encoding="ascii")
    again = read_jobshop(path)
    assert all((mine == theirs).all() for mine, theirs in zip(again, matrices, strict=True))


@pytest.mark.parametrize(
    ("duration", "machine", "words"),
    [
        ([[1, 2], [3, 0]], [[0, 1], [0, 2]], "job 1 has the machine 2"),
        (
            [[1, 2], [3, 3]],
            [[0, 1], [1, -1]],
            "job 1 has the machine -1, no operation, with a duration or before another",
        ),
        (
            [[1, 2], [0, 3]],
            [[0, 1], [-1, 1]],
            "job 1 has the machine -1, no operation, with a duration or before another",
        ),
        ([[1, 2], [0, 0]], [[0, 1], [-1, -1]], "job 1 has no operation, which the format has no line for"),
        ([[0, 0], [0, 0]], [[-1, -1], [-1, -1]], "there is no operation; at least one is needed"),
        ([[1, 0], [2, 0]], [[0, -1], [1, -1]], "every job has one operation, which the format cannot tell"),
    ],
)
def test_what_could_not_be_read_is_not_written(duration, machine, words, tmp_path):
    """The reason is told, and nothing is left behind."""
    with pytest.raises(InstanceError, match=words):
        write_jobshop(tmp_path / "a.jsp", np.array(duration), np.array(machine))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- published instances, Taillard's generator


def test_published_files_are_read(shared_instances):
    """All of them have the published size, and no bound below the trivial one."""
    with (shared_instances / "index.csv").open(encoding="utf-8") as table:
        rows = [row for row in csv.DictReader(table) if row["file"].startswith("jssp/")]
    assert len(rows) >= 50
    for row in rows:
        duration, machine = read_jobshop(shared_instances / row["file"])
        assert "x".join(map(str, duration.shape)) == row["size"]
        load = np.zeros(duration.shape[1], dtype=int)
        np.add.at(load, machine, duration)
        assert int(row["best_known"]) >= max(load.max(), duration.sum(1).max())


def test_taillards_generator_gives_his_files(shared_instances):
    """The seeds of ta01 to ta10 and ta21 to ta30 give the published files."""
    checked = 0
    for name, seeds in TAILLARD_SEEDS.items():
        path = shared_instances / "jssp" / f"{name}.txt"
        if path.is_file():
            pairs = zip(taillard_matrices(*seeds), read_jobshop(path), strict=True)
            assert all((mine == theirs).all() for mine, theirs in pairs), name
            checked += 1
    assert checked == 20


def test_taillards_first_instance():
    """The first job of ta01 is the published one, and so is the last operation."""
    duration, machine = taillard_matrices(*TAILLARD_SEEDS["ta01"])
    assert duration[0].tolist() == [94, 66, 10, 53, 26, 15, 65, 82, 10, 27, 93, 92, 96, 70, 83]
    assert (machine[0] + 1).tolist() == [7, 13, 5, 8, 4, 3, 11, 12, 9, 15, 10, 14, 6, 1, 2]
    assert (duration[-1, -1], machine[-1, -1] + 1) == (97, 6)


def test_large_instances_have_their_published_optima_as_busiest_machine():
    """Of ta51 to ta80, the optima that equal a machine's load are found again from the seeds (Taillard 1993)."""
    known = {51: 2760, 55: 2679, 60: 2723, 61: 2868, 65: 2725, 70: 2995, 71: 5464, 75: 5392, 80: 5183, 31: 1764}
    for number, optimum in known.items():
        duration, machine = taillard_matrices(*TAILLARD_SEEDS[f"ta{number}"])
        assert np.bincount(machine.ravel(), duration.ravel()).max() == optimum


def test_all_of_taillards_instances_are_sound():
    """Eighty instances have his sizes, durations from 1 to 99 and every machine once a job, and all differ."""
    assert list(TAILLARD_SEEDS) == [f"ta{number:02}" for number in range(1, 81)]
    assert len(set(TAILLARD_SEEDS.values())) == 80
    for jobs, machines, *seeds in list(TAILLARD_SEEDS.values())[::10]:
        duration, machine = taillard_matrices(jobs, machines, *seeds)
        assert duration.shape == (jobs, machines)
        assert 1 <= duration.min() <= 4 < 96 <= duration.max() <= 99
        assert (np.sort(machine) == np.arange(machines)).all()
