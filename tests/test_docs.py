"""Tables of measurements in the documentation name the weights and the commit that they were made with."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ncogym.pretrained import available, load_policy
from ncogym.study import weights_sha256

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
COMMIT = re.compile(r"\b(?:commit|at|of|became) `?[0-9a-f]{7,40}\b")
WEIGHTS = re.compile(r"(of older )?weights: ((?:[\w./-]+ [0-9a-f]{16}(?:, )?)+|none that ship)")
NONE = "none that ship"


class Part(NamedTuple):
    """A part of a page: a block that a script writes, or what stands under a heading beside such blocks."""

    title: str
    text: str

    @property
    def measures(self) -> bool:
        """Whether it has a table with decimals, which are measured."""
        return any(re.search(r"\d\.\d", line) for line in self.text.splitlines() if line.startswith("|"))


def parts(page: str) -> Iterator[Part]:
    """Yield the parts of a page; headings within a block are of one run."""
    block = re.compile(r"<!-- results: ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)
    for found in block.finditer(page):
        yield Part(found[1], found[2])
    for text in re.split(r"^(?=#{2,3} )", block.sub("", page), flags=re.MULTILINE):
        yield Part(text.partition("\n")[0].strip("# "), text)


def faults(part: Part, shipped: dict[str, str]) -> list[str]:
    """Return what a part with measurements leaves out, or says that is no longer so.

    Args:
        part: of a page.
        shipped: the fingerprints of the weights that ship, by name.
    """
    found = [] if COMMIT.search(part.text) else [f"{part.title}: no commit is named"]
    said = WEIGHTS.findall(part.text)
    if not said:
        return [*found, f"{part.title}: no weights are named; say `weights: NAME FINGERPRINT`, or `weights: {NONE}`"]
    for older, names in said:
        for name, sha256 in (each.split() for each in names.split(", ") if names != NONE):
            own = shipped.get(name)
            if "/" in name:  # the folder of a run, whose weights were made for this table
                continue
            if older and own == sha256:
                found.append(f"{part.title}: {name} {sha256} is what ships, not older weights")
            elif not older and own is None:
                found.append(f"{part.title}: {name} does not ship")
            elif not older and own != sha256:
                found.append(
                    f"{part.title}: made with {name} {sha256}, but {own} ships; make it again (`make results`), or say "
                    f"`of older weights: {name} {sha256}` until then"
                )
    return found


@functools.cache
def shipped() -> dict[str, str]:
    """Return the fingerprints of the weights that ship."""
    return {name: weights_sha256(load_policy(name).policy) for name in available()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_measurements_are_of_the_weights_that_ship(page: Path) -> None:
    """A page with a table of other weights is wrong, unless it says so."""
    measured = [part for part in parts(page.read_text(encoding="utf-8")) if part.measures]
    assert [fault for part in measured for fault in faults(part, shipped())] == []


def test_the_pages_have_measurements() -> None:
    """The check above has something to check: every block that scripts write, and tables by hand."""
    page = (REPOSITORY / "docs/results.md").read_text(encoding="utf-8")
    found = {part.title for part in parts(page) if part.measures}
    assert {"tsp", "jssp", "searches-cvrp", "populations", "Job shops", "Beside the papers"} <= found


SHA = "0123456789abcdef"
TABLE = "| a | 1.5 |\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"commit abcdef1\nweights: net {SHA}", None),
        ("commit abcdef1\nweights: none that ship", None),
        (f"commit abcdef1\nof older weights: net {SHA[::-1]}", None),
        (f"weights: net {SHA}", "no commit"),
        ("commit abcdef1", "no weights"),
        (f"commit abcdef1\nweights: net {SHA[::-1]}", "make it again"),
        (f"commit abcdef1\nweights: other {SHA}", "does not ship"),
        (f"commit abcdef1\nof older weights: net {SHA}", "is what ships"),
        (f"commit abcdef1\nweights: net {SHA}, net {SHA[::-1]}", "make it again"),
    ],
)
def test_what_a_table_must_say(text: str, fault: str | None) -> None:
    """A replaced weight turns the page red, and so does a table that hides what it was made with."""
    (part,) = (part for part in parts(f"## one\n{TABLE}{text}\n") if part.measures)
    found = faults(part, {"net": SHA})
    assert (len(found) == 1 and fault in found[0]) if fault else found == []


def test_a_block_is_judged_by_itself() -> None:
    """What stands beside a block says nothing of it, and the other way round."""
    page = f"## one\ncommit abcdef1 weights: none that ship\n<!-- results: two -->\n## b\n{TABLE}<!-- end -->\n"
    (part,) = (part for part in parts(page) if part.measures)
    assert (part.title, len(faults(part, {}))) == ("two", 2)
