"""Knapsack files: the three layouts, exact round trips, every public file, and every refusal in words."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncogym.envs.formats.knapsack import read_knapsack, write_knapsack
from ncogym.errors import InstanceError

PUBLIC = Path(__file__).resolve().parents[4] / "shared" / "instances"  # beside the repository, not part of it
PAIRS = "3 10\n12 6\n9 5\n8.5 4\n"


def written(tmp_path, content):
    """Write a file byte for byte and return its path."""
    path = tmp_path / "x.kp"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "text",
    [
        PAIRS,
        PAIRS + "0 1 1\n",
        PAIRS + "0\n1\n1\n",
        "3\n10\n\n12 6\n9 5\n8.5 4\n",
        "3\n0 12 6\n1 9 5\n2 8.5 4\n10\n",
        "3\n1 12 6\n2 9 5\n3 8.5 4\n10\n",
        "\ufeff# a comment\r\n3 1e1\r\n 12 6\r\n+9 5.0 8.5\r\n4",
    ],
)
def test_layouts_mean_the_same(tmp_path, text):
    """Each layout of the public files gives the same numbers, with a solution behind them or without."""
    weights, values, capacity = read_knapsack(written(tmp_path, text))
    assert (weights.tolist(), values.tolist(), capacity) == ([6, 5, 4], [12, 9, 8.5], 10)
    assert weights.dtype == values.dtype == np.float64


def readings(items, numbers):
    """Return what the numbers behind ``items`` can mean, from the definitions: (weights, values, capacity) each."""
    found = set()
    if len(numbers) in (1 + 2 * items, 1 + 3 * items) and set(numbers[1 + 2 * items :]) <= {0, 1}:
        found.add((tuple(numbers[2 : 1 + 2 * items : 2]), tuple(numbers[1 : 1 + 2 * items : 2]), numbers[0]))
    if len(numbers) == 1 + 3 * items:
        for capacity, rows in ((numbers[-1], numbers[:-1]), (numbers[0], numbers[1:])):
            if list(rows[::3]) in ([*range(items)], [*range(1, items + 1)]):
                found.add((tuple(rows[2::3]), tuple(rows[1::3]), capacity))
    return {reading for reading in found if reading[2] > 0}


@pytest.mark.parametrize("items", [1, 2])
def test_what_can_be_read_in_two_ways_is_refused(tmp_path, items):
    """Of small files on two lines, each is read in its one way, or is refused where it has several or none."""
    counts = {"none": 0, "one": 0, "several": 0}
    for length in (1 + 2 * items, 1 + 3 * items):
        for numbers in itertools.islice(itertools.product(range(3), repeat=length), 0, None, 5 if items > 1 else 1):
            ways = readings(items, numbers)
            counts["several" if len(ways) > 1 else "one" if ways else "none"] += 1
            path = written(tmp_path, f"{items}\n{' '.join(map(str, numbers))}\n")
            if len(ways) == 1:
                weights, values, capacity = read_knapsack(path)
                assert {(tuple(weights), tuple(values), capacity)} == ways
            else:
                with pytest.raises(InstanceError, match="can be read in two ways" if ways else "x.kp: "):
                    read_knapsack(path)
    assert min(counts.values()) > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2\n1 3 1\n2 1 1\n1\n", ([1, 1], [3, 1], 1)),
        ("2 1\n3 1\n2 1\n1 1\n", ([1, 1], [3, 2], 1)),
        ("2\n1\n3 1\n2 1\n1\n1\n", ([1, 1], [3, 2], 1)),
        ("2 1\n1 3 1\n2 1 1\n", None),
        ("2\n1 3 1 2 1 1 1\n", None),
        ("2 1 3 1 2 1 1 1\n", None),
    ],
)
def test_lines_tell_layouts_apart(tmp_path, text, expected):
    """Two items with running numbers, or with a solution: the lines say what the same numbers mean, or nothing does."""
    if expected is None:
        with pytest.raises(InstanceError, match="can be read in two ways, as pairs 'value weight' with a solution"):
            read_knapsack(written(tmp_path, text))
    else:
        weights, values, capacity = read_knapsack(written(tmp_path, text))
        assert (weights.tolist(), values.tolist(), capacity) == expected


def test_items_may_weigh_nothing(tmp_path):
    """A weight of 0 is read and written."""
    weights, values, capacity = read_knapsack(written(tmp_path, "2 5\n10 0\n3 2\n"))
    assert (weights.tolist(), values.tolist(), capacity) == ([0, 2], [10, 3], 5)
    write_knapsack(tmp_path / "y.kp", weights, values, capacity)
    assert (tmp_path / "y.kp").read_text() == "2 5\n10 0\n3 2\n"


positive = st.one_of(
    st.integers(1, 2**40).map(float), st.floats(1e-12, 1e12), st.floats(0.125, 1024, width=32), st.just(0.1)
)
natural = st.one_of(st.just(0.0), positive)


@settings(deadline=None, max_examples=60)
@given(items=st.lists(st.tuples(natural, natural), min_size=1, max_size=8), capacity=positive)
def test_round_trip(tmp_path_factory, items, capacity):
    """What is written is read again to the last bit."""
    path = tmp_path_factory.mktemp("kp") / "x.kp"
    weights, values = (np.array(numbers) for numbers in zip(*items, strict=True))
    write_knapsack(path, weights, values, capacity)
    again = read_knapsack(path)
    assert [numbers.tobytes() for numbers in again[:2]] == [weights.tobytes(), values.tobytes()]
    assert again[2] == capacity


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("0 10\n", "0 items are not allowed"),
        ("2.5 10\n1 1\n1 1\n", "2.5 items are not allowed; it must be a whole number from 1"),
        ("-3 10\n", "-3 items are not allowed"),
        ("1e99 10\n", "items are not allowed"),
        ("1000001 10\n", "1000001 items are not allowed; it must be a whole number from 1 to 1000000"),
        ("3\n", "nothing follows the number of items, 3"),
        ("3 10\n1 1\n1 1\n", "4 numbers follow 'items capacity'; 3 items need 6, a value and a weight each"),
        (PAIRS + "1 1\n", "8 numbers follow"),
        (PAIRS + "0 2 1\n", "after 3 items there are numbers that are no solution"),
        ("3 10\n1 1\n1 x\n1 1\n", "line 3: 'x' is not a finite number"),
        ("3 10\n1 1\n1 nan\n1 1\n", "line 3: 'nan' is not a finite number"),
        ("3 inf\n1 1\n1 1\n1 1\n", "line 1: 'inf' is not a finite number"),
        ("1 10\n1 1e999\n", "weights sum to inf"),
        ("1 0\n1 1\n", "capacity 0 is not allowed; it must be above 0"),
        ("1 -5\n1 1\n", "capacity -5 is not allowed"),
        ("1 1e999\n1 1\n", "capacity inf is not allowed"),
        ("2 10\n1 1\n1 -2.5\n", "weight -2.5 of item 1 is not allowed; it must be at least 0"),
        ("2 10\n-1 1\n1 1\n", "value -1 of item 0 is not allowed; it must be at least 0"),
        ("2 10\n1 9e15\n1 9e15\n", "weights sum to 18000000000000000; at most 2**53"),
        ("2\n0 1 1\n1 1 1\n", "6 numbers follow the number of items"),
        ("2\n1 1 1\n3 1 1\n10\n", "items are not numbered"),
        ("2\n1e999 1 1\n3 1 1\n10\n", "items are not numbered"),
        (b"2 10\n1 \0\n", "binary data"),
        ("2 10\n1 " + "y" * 500, "'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy...' is not a finite number"),
    ],
)
def test_refusals(tmp_path, text, words):
    """What cannot be honoured is refused in one printable line that names the file and what is wrong."""
    with pytest.raises(InstanceError) as refused:
        read_knapsack(written(tmp_path, text))
    line = str(refused.value)
    assert words in line
    assert line.startswith(str(tmp_path / "x.kp"))
    assert line.isprintable()
    assert len(line) < 400


def test_a_missing_file_is_named(tmp_path):
    """A path that leads nowhere is refused in the same manner."""
    with pytest.raises(InstanceError, match=r"none\.kp: no such file"):
        read_knapsack(tmp_path / "none.kp")


@pytest.mark.parametrize(("weight", "value", "capacity"), [(-1.0, 1.0, 5.0), (1.0, np.nan, 5.0), (1.0, 1.0, np.inf)])
def test_nothing_bad_is_written(tmp_path, weight, value, capacity):
    """What the reader would refuse is not written."""
    with pytest.raises(InstanceError, match="is not allowed"):
        write_knapsack(tmp_path / "x.kp", np.array([weight]), np.array([value]), capacity)
    assert not (tmp_path / "x.kp").exists()


@pytest.mark.skipif(not (PUBLIC / "index.csv").exists(), reason=f"no public instances at {PUBLIC}")
def test_public_files():
    """Every public file is read; the number of items is the index's."""
    with open(PUBLIC / "index.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("knapsack/")]
    assert rows
    for row in rows:
        weights, values, capacity = read_knapsack(PUBLIC / row["file"])
        assert len(weights) == len(values) == int(row["size"])
        assert capacity < weights.sum()
