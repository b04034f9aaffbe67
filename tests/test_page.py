from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluations import mixed, of, record, tours
from tensordict import TensorDict

from ncogym import page
from ncogym.envs.scheduling.jssp import JSSP
from ncogym.errors import ArgumentError
from ncogym.evaluation import Evaluation, Record
from ncogym.page import html_page, instance_of
from ncogym.references import References
from ncogym.report.chapters import chapters_of
from ncogym.report.tables import matrices_of
from ncogym.sets import InstanceSet
from ncogym.task import Task

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SVG = "http://www.w3.org/2000/svg"


def written(*evaluations: Evaluation) -> str:
    """Return the page of some evaluations."""
    chapters = chapters_of(evaluations)
    return html_page(chapters, matrices_of(chapters))


def content(text: str) -> Any:
    """Return what the page was given to show."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def ranked(solver: str, gaps: Sequence[float]) -> list[Record]:
    """Return records of a solver with the given gaps."""
    return [record(solver, row, (0.5, 10 + gap / 10)) for row, gap in enumerate(gaps)]


def shops() -> Evaluation:
    """Return a job shop of two jobs that has a reference of which no more than the value is known."""
    instance = TensorDict(
        {"duration": torch.tensor([[[3, 2], [2, 4]]]), "machine": torch.tensor([[[0, 1], [1, 0]]])}, batch_size=[1]
    )
    nothing: Any = torch.full((1,), torch.nan, dtype=torch.float64)
    given = InstanceSet("shops", Task.of(JSSP, 2, 2), (instance,), ("crossing",), nothing, (False,), (None,), None)
    references = References("a book", torch.tensor([7.0], dtype=torch.float64), (False,), (None,))
    made = {"reference": 7.0, "actions": (0, 1, 1, 0), "gap_percent": 0.0}
    return of(given, [record("rule", 0, (0.1, 7.0), **made)], references=references)


# ---------------------------------------------------------------------- what is in the page


def test_page_asks_for_nothing_from_outside() -> None:
    """No address is in the page but the name of SVG's namespace, and its policy forbids every request."""
    text = written(mixed())
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) == {SVG}
    assert not re.search(r"\bsrc\s*=|@import|url\(|\bfetch\(|XMLHttpRequest|import\(|<iframe", text)
    assert set(re.findall(r'<link[^>]*href="([^"]*)"', text)) == {"data:,"}
    assert "default-src 'none'" in text


def test_no_name_ends_the_data() -> None:
    """Whatever names hold, the element's text is JSON that says the same, and no markup."""
    name = '</script><script>alert("x")</script><!--\u2028 & ü'
    text = written(of(tours([4], name), [record(name, 0, (0.5, 11.0))]))
    said = content(text)
    assert said["chapters"][0]["solvers"] == [name]
    assert said["chapters"][0]["set"] == name
    assert text.count("<script") == text.count("</script>") == 3


def test_page_says_what_the_tables_say() -> None:
    """Cells, notes and sizes are those of the other forms, with numbers to sort by and intervals to draw."""
    chapters = chapters_of([mixed()])
    said = content(html_page(chapters))["chapters"][0]
    assert [column["texts"] for column in said["columns"]] == [column.texts for column in chapters[0].columns]
    assert said["notes"] == chapters[0].notes
    interval = next(column for column in said["columns"] if column["title"] == "95 % interval")
    assert interval["intervals"] == [[-51.68, 5.5, 62.68], None, None]
    assert said["curves"][0] == [[0.5, 15.0], [0.75, 5.5], [2.0, 5.5]]
    assert [sum(counts) for counts in said["histogram"]["counts"]] == [2, 1, 0]


def test_worst_instances_are_those_of_the_largest_gaps() -> None:
    """Each solver's six worst are listed, without a solution first of all; what it cannot take is no instance of it."""
    gaps = [3.0, 9.0, 1.0, 8.0, 7.0, 2.0, 6.0, 5.0]
    records = [*ranked("a", gaps), *(replace(each, feasible=None) for each in ranked("b", gaps))]
    records[2] = replace(records[2], feasible=False, gap_percent=None, violation="too long")
    said = content(written(of(tours([4] * 8), records)))["chapters"][0]
    assert said["worst"] == [[2, 1, 3, 4, 6, 7], []]
    listed = said["instances"]["2"]
    assert listed["results"] == [["10.1", None, "too long"], None]
    assert (listed["name"], listed["size"], listed["known"], listed["proven"]) == ("i2", 4, "10", False)


def test_without_a_reference_the_best_of_the_run_stands_for_it() -> None:
    """Worst is then who is farthest from what another solver found."""
    pairs = [*ranked("a", [1.0, 50.0, 2.0]), *ranked("b", [1.0, 49.0, 40.0])]
    bare = [replace(each, reference=None, gap_percent=None) for each in pairs]
    said = content(written(of(tours([4] * 3), bare, references=None)))["chapters"][0]
    assert [rows[0] for rows in said["worst"]] == [1, 2]
    assert said["instances"]["1"]["known"] is None
    assert said["histogram"] is None


def test_the_worst_of_each_solver_are_drawn_first() -> None:
    """Of many solvers the worst instance of each is drawn before the second worst of any, twelve in all."""
    records = []
    for number in range(10):
        gaps = torch.roll(torch.arange(20.0).flip(0), 2 * number).tolist()  # worst is 2 * number, then the next one
        records += ranked(f"s{number}", gaps)
    said = content(written(of(tours([4] * 20), records)))["chapters"][0]
    drawn = {int(row) for row, instance in said["instances"].items() if "sketches" in instance}
    assert len(drawn) == 12
    assert set(range(0, 20, 2)) <= drawn
    assert {row for rows in said["worst"] for row in rows} <= {int(row) for row in said["instances"]}


def test_sketches_stop_where_a_page_would_become_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no room is listed without a drawing."""
    evaluation = of(tours([4] * 6), ranked("a", [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]))
    monkeypatch.setattr(page, "DRAWING_CHARACTERS", 500)
    said = content(written(evaluation))["chapters"][0]
    drawn = [row for row, instance in said["instances"].items() if "sketches" in instance]
    assert 0 < len(drawn) < 6
    assert drawn == [str(row) for row in range(len(drawn))]


def test_points_that_solutions_share_are_there_once() -> None:
    """The reference comes first; each solution has its own lines over the same points."""
    (instance, *_) = content(written(mixed()))["chapters"][0]["instances"].values()
    reference, good, weak, other = instance["sketches"]
    assert other is None
    assert len(instance["points"]) == 4
    assert reference[3] == good[3] == weak[3] == []
    assert reference[4][0][0] == [0, 1, 2, 3, 0]
    assert good[4][0][0] == [2, 0, 1, 3, 2]


def test_instances_are_found_in_their_blocks() -> None:
    """A row of the set is a row of one of its blocks; one that is not there is refused."""
    instances = tours([4, 6, 6])
    assert [instance_of(instances, row)["locs"].shape[1] for row in range(3)] == [4, 6, 6]
    assert torch.equal(instance_of(instances, 2)["locs"], instances.blocks[2]["locs"])
    same = tours([4, 4, 4])
    assert torch.equal(instance_of(same, 1)["locs"][0], same.blocks[0]["locs"][1])
    with pytest.raises(ArgumentError, match="row: 3 is not allowed; it must be from 0 to 2"):
        instance_of(instances, 3)


def many(count: int) -> Evaluation:
    """Return what ten solvers do on instances of 100 nodes, with 300 improvements each."""
    tour = torch.arange(100)
    gaps = torch.rand(10, count, generator=torch.Generator().manual_seed(0)).tolist()
    template = record(
        "", 0, *((0.01 * 1.01**step, 20.0 - step / 100) for step in range(300)), actions=tuple(range(100))
    )
    records = [
        replace(template, solver=f"solver {number}", instance=row, objective=10 + gap, gap_percent=10 * gap)
        for number, of_solver in enumerate(gaps)
        for row, gap in enumerate(of_solver)
    ]
    known = References("lkh", torch.full((count,), 10.0).double(), (True,) * count, (tour,) * count)
    return of(tours([100] * count), records, references=known)


def test_page_of_many_records_is_small() -> None:
    """Eight evaluations by ten solvers make less than 5 MB, with all drawings, however many instances there are."""
    less, more = (html_page(chapters_of([many(count)]) * 8) for count in (20, 60))
    assert len(more) < 5_000_000
    assert len(more) / len(less) < 1.2  # some more are listed
    assert sum("sketches" in each for each in content(more)["chapters"][7]["instances"].values()) == 12


# ---------------------------------------------------------------------- the page in a browser

PROBE = """<script>
const seen = {};
const all = query => [...document.querySelectorAll(query)];
const texts = query => all(query).map(each => each.textContent);
const press = (query, number = 0) => document.querySelectorAll(query)[number].click();
seen.title = texts("h1");
seen.rows = all("#summary tbody tr").map(row => [...row.cells].map(cell => cell.textContent));
seen.best = texts("#summary td.best");
seen.whiskers = document.querySelectorAll("#summary td svg").length;
seen.curves = all(".chart g[data-solver] path").length;
seen.bars = document.querySelectorAll("#histogram rect").length;
seen.headings = texts("h2");
seen.figures = texts(".worst figcaption");
seen.drawn = all(".worst figure svg").map(each => each.querySelectorAll("path").length);
seen.loud = texts(".notes .loud").length;
const column = texts("#summary thead th").findIndex(text => text.startsWith("gap"));
const sorted = () => texts("#summary tbody tr td:first-child");
const aria = () => document.querySelectorAll("#summary thead th")[column].getAttribute("aria-sort");
seen.orders = [];
for (let turn = 0; turn < 2; turn++) {
  press("#summary thead button", column);
  seen.orders.push([aria(), ...sorted()]);
}
const picture = document.querySelector(".chart svg"), box = picture.getBoundingClientRect();
const path = document.querySelector(".chart g[data-solver=good] path").getBoundingClientRect();
picture.dispatchEvent(new MouseEvent("mousemove", { clientX: path.right - 4, clientY: path.bottom, bubbles: true }));
seen.tip = texts(".tip")[0];
picture.dispatchEvent(new MouseEvent("mouseleave"));
seen.tipGone = document.querySelector(".tip").hidden;
press(".legend button");
seen.hidden = [document.querySelector(".legend button").getAttribute("aria-pressed"),
  document.querySelectorAll(".chart g[data-solver] path").length];
press(".legend button");
seen.hidden.push(all(".chart g[data-solver] path").length);
const select = document.getElementById("focus");
seen.focus = [select.selectedOptions[0].textContent, ...texts(".worst h3")];
select.value = "1";
select.dispatchEvent(new Event("change"));
seen.refocus = [select.selectedOptions[0].textContent, ...texts(".worst h3")];
seen.tabs = all("[role=tab]").map(tab => [tab.textContent, tab.getAttribute("aria-selected"), tab.tabIndex]);
document.querySelector("[role=tab]").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }));
seen.next = all("[role=tab]").map(tab => tab.getAttribute("aria-selected"));
seen.shop = [texts(".worst figcaption"), document.querySelectorAll(".worst svg rect").length];
seen.requests = performance.getEntriesByType("resource").map(entry => entry.name);
seen.wide = document.documentElement.scrollWidth <= window.innerWidth;
const out = document.createElement("pre");
out.id = "probe";
out.textContent = JSON.stringify(seen);
document.body.append(out);
</script>
</body>"""


@pytest.mark.browser
def test_page_lives_in_a_browser(tmp_path: Path) -> None:
    """A real browser draws tables, curves, histograms and the worst instances, without an error and a request.

    Sorting, hovering, hiding, choosing another solver and moving between tabs by the keyboard do what they say.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium or Chrome is installed")
    hostile = replace(mixed(), instances=tours([4, 4], "</script><b>bold"), sessions=({"machine": "mine"},))
    text = written(hostile, shops())
    (tmp_path / "page.html").write_text(text.replace("</body>", PROBE), encoding="utf-8")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1300,2000", "--virtual-time-budget=2000")
    more = ("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom")
    address = (tmp_path / "page.html").as_uri()
    run = subprocess.run([browser, *flags, *more, address], capture_output=True, text=True, timeout=600)
    root = re.search(r"<html[^>]*>", run.stdout)
    assert root is not None
    assert "data-error" not in root[0], root[0]
    assert 'data-ready="true"' in root[0]
    found = re.search(r'<pre id="probe">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found is not None, "the probe did not come to its end"
    seen = json.loads(html.unescape(found[1]))

    columns = chapters_of([hostile])[0].columns
    assert seen["rows"] == [[column.texts[row] for column in columns] for row in range(3)]
    assert seen["best"] == ["5.500"]
    assert seen["whiskers"] == 1
    assert seen["curves"] == 2
    assert seen["bars"] == 3  # two gaps in two bins, and one below 0
    assert seen["title"] == ["Evaluation of tsp, jssp"]
    titles = ("All sets, 2 s each: mean gap %", "Summary", "Best so far", "Distribution of the gaps", "Worst instances")
    assert seen["headings"] == [*titles, "Notes"]
    assert seen["figures"][:3] == [
        "reference: lkh10only its value is known",
        "good11 · +10.000 %",
        'weak-3not feasible: node 3, "a", is visited\ttwice',
    ]
    assert seen["figures"][3:] == ["reference: lkh10, proven optimal", "good10.1 · +1.000 %", "weak0.3333 · -96.667 %"]
    assert seen["drawn"] == [1, 1, 1, 1, 1]  # of the first reference only the value is known
    assert seen["loud"] == 1
    assert seen["orders"] == [["ascending", "weak", "good", "other"], ["descending", "good", "weak", "other"]]
    assert seen["tip"] == "good: 5.5 at 0.75 s"
    assert seen["tipGone"] is True
    assert seen["hidden"] == ["false", 1, 2]
    assert seen["focus"] == ["good", "i1 (instance 1), size 4", "i0 (instance 0), size 4"]
    assert seen["refocus"] == ["weak", *seen["focus"][1:]]
    assert seen["tabs"] == [["</script><b>bold, 2 s each", "true", 0], ["shops, 2 s each", "false", -1]]
    assert seen["next"] == ["false", "true"]
    assert seen["shop"] == [["reference: a book7only its value is known", "rule7 · +0.000 %"], 4]
    assert seen["requests"] == []
    assert seen["wide"] is True
