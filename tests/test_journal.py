from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from ncogym.errors import ArgumentError
from ncogym.journal import Journal, append_line, mend, read_lines


def lines(path: Path) -> list[dict[str, object]]:
    """Return the contents of a file's lines."""
    return [said for _, said in read_lines(path)]


def test_lines_come_back(tmp_path: Path) -> None:
    """What is appended is read again, number by number; a missing file has none, and folders are made."""
    path = tmp_path / "new" / "a.jsonl"
    assert lines(path) == []
    append_line(path, {"x": 0.1})
    append_line(path, {"y": [None, True]})
    assert list(read_lines(path)) == [(1, {"x": 0.1}), (2, {"y": [None, True]})]


@pytest.mark.parametrize("torn", ['{"x": 2', '{"x": 2}', '{"x": 2}\n{"y"', "\x00\x00"])
def test_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    """What a kill left after the last newline counts for nothing, and the file goes on after it is mended."""
    path = tmp_path / "a.jsonl"
    append_line(path, {"x": 1})
    with path.open("a") as file:
        file.write(torn)
    kept = [1, 2][: 1 + torn.count("\n")]
    assert [said["x"] for said in lines(path)] == kept
    mend(path)
    append_line(path, {"x": 3})
    assert [said["x"] for said in lines(path)] == [*kept, 3]


@pytest.mark.parametrize("broken", ["{x: 1}", "[1]", "5", "\x00", "[" * 100_000])
def test_broken_line_is_refused_in_words(tmp_path: Path, broken: str) -> None:
    """A line in the middle that is no object is named with its number."""
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"x": 1}}\n{broken}\n{{"x": 2}}\n')
    with pytest.raises(ArgumentError, match=r"a\.jsonl: line 2 is broken .* delete the file"):
        lines(path)


def test_numbers_that_json_has_not_are_refused(tmp_path: Path) -> None:
    """NaN would be read by nobody else; nothing is written then."""
    path = tmp_path / "a.jsonl"
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_line(path, {"x": float("nan")})
    assert lines(path) == []


def _append_many(path: Path, number: int) -> None:
    for count in range(50):
        append_line(path, {"process": number, "count": count, "long": "x" * 5000})


def test_processes_may_append_at_once(tmp_path: Path) -> None:
    """Two processes that write to one file lose no line and mix none."""
    path = tmp_path / "a.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(path, number)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = lines(path)
    assert [[said["count"] for said in found if said["process"] == n] for n in range(2)] == [list(range(50))] * 2


def test_journal_knows_its_work(tmp_path: Path) -> None:
    """The same work finds its entries; other work is refused, saying what differs."""
    path = tmp_path / "00.jsonl"
    Journal(path, {"seed": 1, "set": "a"}).append({"done": 5})
    assert Journal(path, {"seed": 1, "set": "a"}).entries == [{"done": 5}]
    words = r"00\.jsonl is of other, unfinished work \(seed 1, here 2\); name another folder"
    with pytest.raises(ArgumentError, match=words):
        Journal(path, {"seed": 2, "set": "a"})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"about": {"seed": 1, "set": "a"}},
        {"done": 5},
    ]


def test_processes_read_one_anothers_journals(tmp_path: Path) -> None:
    """Each writes a file of its own, and whoever comes later, of whatever rank, finds the entries of all."""
    path = tmp_path / "00.jsonl"
    for rank in range(3):
        Journal(path, {"seed": 1}, rank).append({"rank": rank})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["00.1.jsonl", "00.2.jsonl", "00.jsonl"]
    assert sorted(entry["rank"] for entry in Journal(path, {"seed": 1}).entries) == [0, 1, 2]


def test_journal_that_was_cut_off_at_its_first_line_begins_anew(tmp_path: Path) -> None:
    """A kill before the first line was whole leaves a journal of nothing, which anybody may begin."""
    path = tmp_path / "00.jsonl"
    path.write_text('{"about": {"see')
    journal = Journal(path, {"seed": 7})
    journal.append({"done": 1})
    assert Journal(path, {"seed": 7}).entries == [{"done": 1}]
