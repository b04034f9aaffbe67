from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ncogym.errors import ArgumentError
from ncogym.records import check_free, record_beside, write_record, wrote


def writing(**contents: str) -> Callable[[Path], None]:
    """Return what writes files a.SUFFIX to a folder."""

    def write(made: Path) -> None:
        for suffix, content in contents.items():
            (made / f"a.{suffix}").write_text(content)

    return write


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A record with a solution and a picture beside it."""
    write_record(tmp_path / "a.json", {"objective": 1.5, "places": []}, writing(sol="one", png="two"))
    return tmp_path / "a.json"


def test_a_record_knows_what_was_written_with_it(record: Path) -> None:
    """It says what it was given, and the digests of all files, its own included; none of them is another's."""
    said = json.loads(record.read_text())
    assert said["objective"] == 1.5
    assert sorted(said["sha256"]) == ["a.json", "a.png", "a.sol"]
    files = [record.with_name(name) for name in said["sha256"]]
    assert [wrote(path, record) for path in files] == [True] * 3
    (record.parent / "b.sol").write_text("one")
    assert wrote(record.parent / "b.sol", record)  # renamed
    for path in files:
        path.write_text(path.read_text() + " ")
    record.write_text(record.read_text().replace("1.5", "1.6"))
    assert [wrote(path, record) for path in files] == [False] * 3


@pytest.mark.parametrize("text", ["", "[", "[1]", "{}", '{"sha256": 1, "replaced_sha256": []}', "[" * 100_000, "\0"])
def test_what_is_no_record_knows_nothing(tmp_path: Path, text: str) -> None:
    """Neither a file that is no record nor one beside it was written by `solve`."""
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "a.sol").write_text("one")
    assert not wrote(tmp_path / "a.json", tmp_path / "a.json")
    assert not wrote(tmp_path / "a.sol", tmp_path / "a.json")


def test_the_own_files_are_replaced(record: Path) -> None:
    """Those of the record before give way; what has no successor is gone, and what others put there is not."""
    (record.parent / "a.txt").write_text("mine")
    write_record(record, {"objective": 2, "places": []}, writing(sol="new"))
    assert sorted(os.listdir(record.parent)) == ["a.json", "a.sol", "a.txt"]
    assert (record.parent / "a.sol").read_text() == "new"
    assert wrote(record.parent / "a.sol", record)


def test_a_kill_between_two_files_leaves_both_known(record: Path) -> None:
    """The new record still knows the solution before, which a kill may have left beside it."""
    write_record(record, {"places": []}, writing(sol="new"))
    (record.parent / "a.sol").write_text("one")
    check_free([record, record.with_suffix(".sol")], record, [])


@pytest.mark.parametrize("name", ["a.json", "a.sol", "a.png"])
def test_a_file_of_others_is_never_replaced(tmp_path: Path, name: str) -> None:
    """A file that was not written with the record, whichever, is named, and nothing is written."""
    record = tmp_path / "a.json"
    (tmp_path / name).write_text("mine")
    with pytest.raises(ArgumentError, match=rf"output: .*{name} was not written by `ncogym solve`, or was changed"):
        write_record(record, {"places": []}, writing(sol="one", png="two"))
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_link_to_nowhere_is_of_others(tmp_path: Path) -> None:
    """Even a link without a file behind it is not replaced."""
    os.symlink("gone", tmp_path / "a.sol")
    with pytest.raises(ArgumentError, match=r"a\.sol was not written"):
        check_free([tmp_path / "a.sol"], tmp_path / "a.json", [])


def test_a_record_of_paths_touches_nothing_elsewhere(tmp_path: Path) -> None:
    """A record that names a file elsewhere, with its right digest, has nothing removed there."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "b.sol").write_text("one")
    write_record(home / "a.json", {"places": []}, writing(sol="one"))
    said = json.loads((home / "a.json").read_text())
    del said["sha256"]["a.json"]
    said["sha256"]["../b.sol"] = said["sha256"]["a.sol"]
    said["sha256"]["a.json"] = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    (home / "a.json").write_text(json.dumps(said))
    write_record(home / "a.json", {"places": []}, writing())
    assert os.listdir(home) == ["a.json"]
    assert (tmp_path / "b.sol").exists()


def test_the_answer_for_another_instance_is_kept(record: Path) -> None:
    """One record is of one instance file, wherever it and the folder were moved together."""
    write_record(record, {"places": ["../x/a.kp", "/x/a.kp"]}, writing(sol="one"))
    check_free([record], record, ["../x/a.kp", "/moved/x/a.kp"])
    with pytest.raises(ArgumentError, match=r"output: .*a\.json is of another instance file, /x/a\.kp; name another"):
        check_free([record], record, ["../x/a.txt", "/x/a.txt"])


def test_the_record_lies_beside_its_instance() -> None:
    """Its name is the instance file's without the last suffix."""
    assert record_beside(Path("d/a.v2.tsp")) == Path("d/a.v2.json")
