from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from matplotlib.image import imread
from rich.console import Console

from ncogym.evaluation import Evaluation, Record
from ncogym.plotting import COLOURS
from ncogym.report import anytime_curves, markdown_table, notes, rich_table, write_report
from ncogym.solver import TracePoint


def record(solver: str, instance: int, *trace: tuple[float, float], seconds: float = 1.0) -> Record:
    """Return a feasible record whose reference is 10, from ``(seconds, objective)`` of its trace."""
    objective = trace[-1][1]
    return Record(
        solver=solver,
        instance=instance,
        objective=objective,
        reference=10.0,
        gap_percent=10 * (objective - 10),
        feasible=True,
        seconds=seconds,
        rollouts=8,
        trace=tuple(TracePoint(at, 8, value) for at, value in trace),
    )


@pytest.fixture
def mixed() -> Evaluation:
    """One solver that solves both instances, one that fails one of them, and one that cannot take the problem."""
    records = (
        record("good", 0, (0.25, 12.0), (0.75, 10.1)),
        record("good", 1, (0.5, 11.0), seconds=2.0),
        record("weak", 0, (0.125, 1 / 3)),
        Record(
            "weak", 1, -3.0, 10.0, None, False, 'node 3, "a", is visited\ttwice', 0.5, 1, (TracePoint(0.25, 1, -3.0),)
        ),
        Record("other", 0, reference=10.0, violation="other cannot take tsp"),
        Record("other", 1, reference=10.0, violation="other cannot take tsp"),
    )
    names, warm_up = ("good", "weak", "other"), {"good": 0.5, "weak": 0.25, "other": 0.0}
    return Evaluation("tsp", "min", names, records, "lkh", 7, "ab12" * 16, warm_up)


def test_markdown_has_a_row_per_solver(mixed: Evaluation) -> None:
    """The table has the numbers of the summaries, worked out by hand, and dashes for what is not known."""
    header, rule, *rows = [line for line in markdown_table(mixed).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert header.count("|") == rule.count("|") == 8
    assert cells[0] == ["good", "10.5500", "5.500", "1.000 … 10.000", "2/2", "1.5000", "3.0"]
    assert cells[1] == ["weak", "0.3333", "-96.667", "–", "1/2", "0.7500", "1.5"]
    assert cells[2] == ["other", "–", "–", "–", "–", "–", "–"]


def test_terminal_table_has_the_same_cells(mixed: Evaluation) -> None:
    """What a terminal shows is what Markdown says."""
    console = Console(width=200, file=io.StringIO())
    console.print(rich_table(mixed))
    shown = console.file.getvalue()
    for row in markdown_table(mixed).splitlines()[2:5]:
        assert " ".join(cell.strip() for cell in row.strip("|").split("|")) in " ".join(shown.split())


def test_narrow_terminal_breaks_names_and_no_number(mixed: Evaluation) -> None:
    """On 72 columns a long name goes over two lines, and every number is still whole."""
    name = "multistart+symmetry+two-opt+sampling"
    records = tuple(replace(each, solver=name) for each in mixed.records[:2])
    console = Console(width=72, file=io.StringIO())
    console.print(rich_table(replace(mixed, solvers=(name,), records=records)))
    shown = console.file.getvalue()
    for whole in ("10.5500", "5.500", "1.000 … 10.000", "2/2", "1.5000", "3.0"):
        assert f" {whole} " in shown
    assert name not in shown
    assert "sampling" in shown


def test_notes_say_what_the_numbers_do_not(mixed: Evaluation) -> None:
    """The set, the reference, the uncounted first calls, the reason of a dash and what the means leave out are told."""
    said = "\n".join(notes(mixed))
    for words in ("seed 7", "ab12ab12", "gap to lkh", "good 0.5 s", "other cannot take tsp", "leave out"):
        assert words in said
    assert "interrupted" not in said
    assert "interrupted" in "\n".join(notes(replace(mixed, interrupted=True)))


def test_notes_of_a_clean_run_are_short(mixed: Evaluation) -> None:
    """Nothing is said of failures where there are none, nor of a reference."""
    clean = replace(mixed, solvers=("good",), records=mixed.records[:2], reference=None, warm_up_seconds={})
    assert len(notes(clean)) == 1


def test_csv_holds_every_number_exactly(mixed: Evaluation, tmp_path: Path) -> None:
    """Reading the CSV back gives the records but for their traces: floats to the last bit, words with their quotes."""
    write_report(mixed, tmp_path)
    with (tmp_path / "records.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    reads = {"solver": str, "violation": str, "instance": int, "rollouts": int, "feasible": "True".__eq__}
    read = [Record(**{k: None if text == "" else reads.get(k, float)(text) for k, text in row.items()}) for row in rows]
    assert read == [replace(each, trace=()) for each in mixed.records]


def test_json_holds_the_traces(mixed: Evaluation, tmp_path: Path) -> None:
    """Reading the JSON back gives the records with their traces."""
    write_report(mixed, tmp_path)
    rows = json.loads((tmp_path / "records.json").read_text())
    read = [Record(**{**row, "trace": tuple(TracePoint(*point) for point in row["trace"])}) for row in rows]
    assert tuple(read) == mixed.records


def test_summary_file_holds_the_command_lines_objects(mixed: Evaluation, tmp_path: Path) -> None:
    """The summary file has each solver's object, the first calls, and whether the run was interrupted."""
    assert write_report(mixed, tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    said = json.loads((tmp_path / "new" / "folder" / "summary.json").read_text())
    assert said["solvers"] == [asdict(summary) for summary in mixed.summaries()]
    assert said["warm_up_seconds"] == mixed.warm_up_seconds
    assert said["interrupted"] is False


def test_report_has_all_its_files(mixed: Evaluation, tmp_path: Path) -> None:
    """The folder has what the docstring promises and nothing else; the table in it is the Markdown one."""
    write_report(mixed, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"records.csv", "records.json", "summary.json", "table.md", "anytime.png"}
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == markdown_table(mixed)


def test_anytime_picture_shows_the_solvers_that_solved(mixed: Evaluation, tmp_path: Path) -> None:
    """The picture is no blank sheet: it has the colours of the two solvers that found something, not of the third."""
    write_report(mixed, tmp_path)
    pixels = imread(tmp_path / "anytime.png")[..., :3]
    found = []
    for colour in COLOURS[:3]:
        wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        found.append(int((abs(pixels - wanted).max(-1) < 0.02).sum()) > 50)
    assert found == [True, True, False]


def test_report_without_a_solution_leaves_no_old_picture(mixed: Evaluation, tmp_path: Path) -> None:
    """Where nothing was solved there is no picture, and none of an earlier report stays to mislead."""
    write_report(mixed, tmp_path)
    write_report(replace(mixed, records=mixed.records[4:]), tmp_path)
    assert not (tmp_path / "anytime.png").exists()


def test_anytime_curve_is_the_mean_of_the_best_so_far(mixed: Evaluation) -> None:
    """Gaps fall from 20 to 1 % at 0.75 s and stay at 10 %; their mean begins when both have begun and ends at 2 s."""
    (good, weak, other) = (anytime_curves(mixed)[name] for name in mixed.solvers)
    assert [at for at, _ in good] == [0.5, 0.75, 2.0]
    assert [value for _, value in good] == pytest.approx([15.0, 5.5, 5.5])
    assert weak == [(0.125, pytest.approx(-290 / 3)), (1.0, pytest.approx(-290 / 3))]
    assert other == []


def test_anytime_curve_without_a_reference_is_of_objectives(mixed: Evaluation) -> None:
    """Without gaps the objectives are averaged."""
    bare = [replace(each, reference=None, gap_percent=None) for each in mixed.records]
    curve = anytime_curves(replace(mixed, records=tuple(bare), reference=None))["good"]
    assert [value for _, value in curve] == pytest.approx([11.5, 10.55, 10.55])


def test_anytime_curve_ends_at_the_mean_gap(mixed: Evaluation) -> None:
    """The last value of a curve is the number in the table."""
    summaries = mixed.summaries()[:2]
    curves = anytime_curves(mixed)
    assert [curves[s.solver][-1][1] for s in summaries] == pytest.approx([s.mean_gap_percent for s in summaries])


def test_curves_of_a_batch_share_their_times() -> None:
    """Improvements of several instances at one time are one step of the curve."""
    records = tuple(record("a", row, (0.5, 12.0), (1.0, 11.0)) for row in range(3))
    found = Evaluation("tsp", "min", ("a",), records, "lkh", 0, "0" * 64, {})
    assert anytime_curves(found) == {"a": [(0.5, pytest.approx(20.0)), (1.0, pytest.approx(10.0))]}
