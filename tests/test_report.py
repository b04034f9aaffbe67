from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import evaluations
import pytest
import torch
from evaluations import mixed, of, record, tours
from matplotlib.image import imread
from rich.console import Console

from ncogym.errors import ArgumentError
from ncogym.evaluation import Evaluation, Record
from ncogym.plotting import COLOURS
from ncogym.references import References
from ncogym.report import (
    anytime_curves,
    chapters,
    check_folder,
    folder,
    latex_table,
    markdown_table,
    notes,
    rich_table,
    write_report,
)
from ncogym.solution import TracePoint, gap_percent

SESSION = {
    "commit": "abc123",
    "versions": {"python": "3.11"},
    "machine": "a machine, 2 cores",
    "device": "cpu",
    "threads": 2,
    "command": "ncogym evaluate --set x_y",
    "started": "2026-11-26 12:00",
}


def cells(table: str, number: int = 0) -> list[list[str]]:
    """Return the cells of a table of a Markdown text, the header first and without the rule."""
    blocks = re.findall(r"(?:^\|.*\n)+", table, re.MULTILINE)
    lines = blocks[number].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in (lines[0], *lines[2:])]


def told(evaluation: Evaluation) -> str:
    """Return the notes as one text."""
    return "\n".join(notes(evaluation))


def single(**more: Any) -> Evaluation:
    """Return an evaluation of one solver on one instance."""
    return of(tours([4]), [record("good", 0, (0.5, 11.0))], **more)


# ---------------------------------------------------------------------- tables


def test_markdown_has_a_row_per_solver() -> None:
    """The table has the numbers of the summaries, worked out by hand, and dashes for what is not known."""
    header, *rows = cells(markdown_table([mixed()]))
    known = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["solver"] for row in known] == ["good", "weak", "other"]
    assert known[0] == {
        "solver": "good",
        "mean objective": "10.5500",
        "gap %": "**5.500**",
        "95 % interval": "[-51.678, 62.678]",  # 5.5 ± 12.706 * 4.5
        "worst gap %": "10.000",
        "solved": "0.0%",
        "feasible": "2/2",
        "primal integral %": known[0]["primal integral %"],
        "rollouts": "8.0",
        "seconds each": "1.5000",
        "in all": "3.0",
    }
    assert [known[1][title] for title in ("mean objective", "gap %", "95 % interval", "feasible", "solved")] == [
        *("0.3333", "-96.667", "–", "1/2", "100.0%")
    ]
    assert set(list(known[2].values())[1:]) == {"–"}


def test_best_is_bold_among_those_who_solved_the_most() -> None:
    """A better mean over fewer instances does not win; equal means win both; without gaps the objective decides."""
    assert "| **5.500** |" in markdown_table([mixed()])
    assert "**-96.667**" not in markdown_table([mixed()])
    rows = [record("a", 0, (1.0, 11.0)), record("b", 0, (1.0, 11.0)), record("c", 0, (1.0, 12.0))]
    assert markdown_table([of(tours([4]), rows)]).count("**10.000**") == 2
    bare = [replace(each, reference=None, gap_percent=None) for each in rows]
    table = markdown_table([of(tours([4]), bare, references=None)])
    assert table.count("**11.0000**") == 2
    assert "gap" not in table


def test_no_zero_is_negative() -> None:
    """Rounding of sums shows as 0, without a sign."""
    rows = [record("a", row, (1.0, 10.0 - 1e-9)) for row in range(2)]
    assert "-0.0" not in markdown_table([of(tours([4, 4]), rows)])


def test_differences_and_proofs_have_columns_where_there_are_any() -> None:
    """The paired difference carries the name of the other solver; proofs are a share."""
    rows = [record("a", 0, (1.0, 11.0), proven=True), record("b", 0, (1.0, 12.0))]
    header, *found = cells(markdown_table([of(tours([4]), rows, versus="a")]))
    known = [dict(zip(header, row, strict=True)) for row in found]
    assert [row["against a %"] for row in known] == ["0.000", "9.091"]
    assert [row["proven"] for row in known] == ["100.0%", "0.0%"]
    assert {"proven", "its 95 % interval"}.isdisjoint(cells(markdown_table([mixed()]))[0])


def test_a_reference_that_knows_nothing_leaves_dashes() -> None:
    """Without a single gap the table says so in dashes and in its notes, and does not fail."""
    bare = [replace(each, reference=None, gap_percent=None) for each in mixed().records]
    nothing = References("lkh", torch.full((2,), torch.nan, dtype=torch.float64), (False, False), (None, None))
    found = of(tours([4, 4]), bare, references=nothing)
    header, row, *_ = cells(markdown_table([found]))
    assert row[header.index("gap %")] == "–"
    assert "known for 0 of 2" in told(found)


def test_sizes_have_a_table_where_there_are_several() -> None:
    """A column a size, with the number of its instances, and the mean gap of each solver."""
    rows = [record("a", row, (1.0, value)) for row, value in enumerate((11.0, 12.0, 14.0))]
    found = of(tours([4, 4, 6]), [*rows, record("b", 0, (1.0, 10.0))])
    assert cells(markdown_table([found]), 1) == [
        ["solver", "4 (2)", "6 (1)"],
        ["a", "15.000", "**40.000**"],
        ["b", "**0.000**", "–"],
    ]
    assert len(re.findall("^###", markdown_table([mixed()]), re.MULTILINE)) == 1


def test_several_sets_make_a_matrix_for_each_budget() -> None:
    """Sets are columns with their size and distribution; who did not take part in one has a dash there."""
    a = of(tours([4], "one"), [record("x", 0, (1.0, 11.0)), record("y", 0, (1.0, 12.0))])
    b = of(tours([6], "two", "clustered"), [record("y", 0, (1.0, 13.0)), record("z", 0, (1.0, 15.0))])
    later = replace(a, budget={"seconds": 5.0})
    table = markdown_table([a, b, later])
    assert re.findall("^### (.*)", table, re.MULTILINE) == [
        *("one, 2 s each", "two, 2 s each", "one, 5 s each", "All sets, 2 s each: mean gap %")
    ]
    assert cells(table, 3) == [
        ["solver", "one (4, uniform)", "two (6, clustered)"],
        ["x", "**10.000**", "–"],
        ["y", "20.000", "**30.000**"],
        ["z", "–", "50.000"],
    ]


@pytest.mark.parametrize(
    ("sizes", "trained", "marks"),
    [
        ([4, 4], "uniform", ["", "*"]),  # the second set is clustered
        ([4, 6], "mixed", ["", ""]),
        ([4, 6], "mixed-clustered", ["", ""]),
        ([5, 6], "clustered", ["*", ""]),
        ([4, 5], None, ["", "*"]),
    ],
)
def test_matrix_marks_what_a_policy_was_not_trained_on(sizes: list[int], trained: str | None, marks: list[str]) -> None:
    """Other sizes and another distribution are marked, with a note; solvers without a policy have no mark."""
    env = {"num_nodes": 5, **({} if trained is None else {"distribution": trained})}
    sessions = ({"policies": {"net": {"name": "shipped", "env": env, "sizes": sizes}}},)
    rows = [record("net", 0, (1.0, 11.0)), record("plain", 0, (1.0, 12.0))]
    pair = [
        of(tours([4], "one"), rows, sessions=sessions),
        of(tours([6], "two", "clustered"), rows, sessions=sessions),
    ]
    table = markdown_table(pair)
    words = [f"{sizes[0]}" if sizes[0] == sizes[1] else f"{sizes[0]} to {sizes[1]}", *([trained] if trained else [])]
    assert cells(table, 2) == [
        ["solver", "trained on", "one (4, uniform)", "two (6, clustered)"],
        ["net", ", ".join(words), *(f"**10.000{mark and chr(92)}{mark}**" for mark in marks)],
        ["plain", "–", "20.000", "20.000"],
    ]
    assert ("trained on other sizes" in table) is any(marks)


def test_each_cell_has_the_policy_that_was_used_there() -> None:
    """Where a solver used another policy on each set, both are told, and each set is held against its own."""
    pair = []
    for name, size in (("one", 4), ("two", 6)):
        policy = {"name": name, "env": {"distribution": "uniform"}, "sizes": [size, size], "sha256": f"{size}f"}
        session = {"policies": {"net": policy}, "settings": {"rival": "first solution SAVINGS"}}
        rows = [record("net", 0, (1.0, 11.0)), record("rival", 0, (1.0, 12.0))]
        pair.append(of(tours([size], name), rows, sessions=(session,)))
    table = markdown_table(pair)
    assert cells(table, 2)[1] == ["net", "4, uniform; 6, uniform", "**10.000**", "**10.000**"]
    assert "weights: one 4f" in told(pair[0])
    assert "weights: two 6f" in told(pair[1])
    assert "settings: rival: first solution SAVINGS" in told(pair[0])


def test_a_solver_that_cannot_take_one_of_the_sets_has_dashes_there(tmp_path: Path) -> None:
    """Everything is written; the other cells, differences and means are those of a run without it."""
    unable = [Record("other", row, reference=10.0, violation="other cannot take this") for row in range(2)]
    able = [record("other", row, (1.0, 12.0)) for row in range(2)]
    good = [record("good", row, (0.5, 11.0), (1.0, 10.5)) for row in range(2)]
    pair = [
        of(tours([4, 4], name), [*good, *more], versus="other", budget={"rollouts": 8})
        for name, more in (("one", unable), ("two", able))
    ]
    text = markdown_table(pair)
    header, *rows = cells(text)
    assert set(rows[1][1:]) == {"–"}
    assert rows[0][header.index("against other %")] == "–"
    assert rows[0][header.index("gap %")] == "**5.000**"
    assert cells(text, 2)[1:] == [["good", "**5.000**", "**5.000**"], ["other", "–", "20.000"]]
    assert "–: other cannot take this" in text
    write_report(pair, tmp_path)
    (first, *_) = [s for s in json.loads((tmp_path / "summary.json").read_text())["solvers"] if s["solver"] == "other"]
    assert [first[key] for key in ("mean_objective", "mean_gap_percent", "feasible", "seconds_total")] == [None] * 4
    assert r"other & \textendash{} & 20.000" in (tmp_path / "table.tex").read_text()


@pytest.mark.parametrize(("count", "few"), [(1, False), (5, True), (31, True), (32, False)])
def test_few_instances_are_called_few(count: int, few: bool) -> None:
    """Below 32 the notes say that the interval holds the truth less often than its name says."""
    rows = [record("a", row, (1.0, 11.0 + row)) for row in range(count)]
    assert (f"{count} instances are few" in told(of(tours([4] * count), rows))) is few


def test_markdown_escapes_what_has_a_meaning() -> None:
    """A bar in a name does not end its cell."""
    table = markdown_table([of(tours([4]), [record("a|b*<c>", 0, (1.0, 11.0))])])
    assert cells(table)[1][0] == r"a\|b\*\<c>"


# ---------------------------------------------------------------------- LaTeX


def test_latex_has_the_same_cells() -> None:
    """Row by row LaTeX says what Markdown says."""
    header, *rows = cells(markdown_table([mixed()]))
    found = re.search(r"\\midrule\n(.*)\\bottomrule", latex_table([mixed()]), re.DOTALL)
    assert found is not None
    plain = re.sub(r"\\textbf\{([^}]*)\}", r"**\1**", found[1]).replace("$-$", "-").replace(r"\textendash{}", "–")
    lines = [line.removesuffix(r" \\").replace(r"\%", "%").split(" & ") for line in plain.splitlines()]
    assert lines == rows
    assert rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}" in latex_table([mixed()])


def test_latex_escapes_what_has_a_meaning() -> None:
    """No sign of a name is a command, a dash or a ligature."""
    name = "_a&b%c$d#e{f}~g^h\\i<j>|`--k±∀"
    table = latex_table([of(tours([4], name), [record(name, 0, (1.0, 11.0))])])
    escaped = (
        r"\_a\&b\%c\$d\#e\{f\}\textasciitilde{}g\textasciicircum{}h\textbackslash{}i\textless{}j\textgreater{}"
        r"\textbar{}\textasciigrave{}-{}-k±?"
    )
    assert rf"\caption{{{escaped}, 2 s each}}" in table
    assert f"\n{escaped} & " in table


def test_latex_compiles(tmp_path: Path) -> None:
    """A document that inputs the tables compiles without an error, whatever the names."""
    latex = shutil.which("pdflatex")
    if latex is None:
        pytest.skip("no pdflatex is installed")
    pair = [mixed(versus="good", sessions=(SESSION,)), of(tours([4, 6], "_&%$#{}~^\\"), [record("[*", 0, (1.0, 9.0))])]
    (tmp_path / "table.tex").write_text(latex_table(pair), encoding="utf-8")
    lines = (r"\documentclass{article}\usepackage{booktabs}", r"\begin{document}\input{table}\end{document}")
    (tmp_path / "paper.tex").write_text("\n".join(lines))
    run = subprocess.run([latex, "-halt-on-error", "paper"], cwd=tmp_path, capture_output=True, text=True)
    if "booktabs.sty' not found" in run.stdout:
        pytest.skip("no booktabs is installed")
    assert run.returncode == 0, run.stdout[-2000:]


# ---------------------------------------------------------------------- the terminal


def shown(evaluation: Evaluation, width: int) -> str:
    """Return what a terminal of that width shows."""
    console = Console(width=width, file=io.StringIO())
    console.print(rich_table(evaluation, width))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_terminal_table_has_the_same_cells() -> None:
    """What a wide terminal shows is what Markdown says, brackets in words included."""
    text = shown(mixed(), 200)
    for row in cells(markdown_table([mixed()]))[1:]:
        assert " ".join(row).replace("*", "") in " ".join(text.split())
    assert "other cannot take [a-z]sp" in text


def test_more_columns_come_with_more_room() -> None:
    """On 80 columns there are the usual columns, and each further one only where it fits."""
    before: set[str] = set()
    for width in (80, 100, 120):
        text = shown(mixed(), width)
        assert max(map(len, text.splitlines())) <= width
        words = ("objective", "interval", "feasible", "solved", "integral", "rollouts")
        found = {word for word in words if word in text}
        assert before <= found
        before = found
    assert before == {"objective", "interval", "feasible", "solved", "integral", "rollouts"}
    assert "integral" not in shown(mixed(), 80).partition("tsp: hand-made")[0]


def test_comparison_is_shown_however_narrow() -> None:
    """Who asked for differences sees them, and does without the objective on a narrow terminal."""
    text = shown(mixed(versus="good"), 80)
    assert "against" in text
    assert "objective" not in text
    assert "objective" in shown(mixed(versus="good"), 120)


def test_narrow_terminal_breaks_names_and_no_number() -> None:
    """On 72 columns a long name goes over two lines, and every number is still whole."""
    name = "multistart+symmetry+two-opt+sampling"
    text = shown(of(tours([4, 4]), [replace(each, solver=name) for each in mixed().records[:2]]), 72)
    for whole in ("10.5500", "5.500", "[-51.678, 62.678]", "2/2", "1.5000", "3.0"):
        assert f" {whole} " in text
    assert name not in text
    assert name in "".join(line.split(" ")[1] for line in text.splitlines() if line.startswith(" "))


# ---------------------------------------------------------------------- notes


def test_notes_say_what_the_numbers_do_not() -> None:
    """The set, the reference, the uncounted first calls, the reason of a dash and what the means leave out are told."""
    evaluation = mixed()
    words = ("hand-made, 2 of size 4, uniform, seed 7", evaluation.instances.sha256[:16], "budget: 2 s each")
    more = ("gap to lkh (1 proven optimal)", "good 0.5 s", "–: other cannot take [a-z]sp", "leave out")
    for each in (*words, *more):
        assert each in told(evaluation)
    assert "interrupted" not in told(evaluation)
    assert "interrupted" in told(mixed(interrupted=True))


def test_notes_of_a_clean_run_are_short() -> None:
    """Nothing is said of failures where there are none, nor of a reference."""
    clean = of(tours([4, 4]), mixed().records[:2], references=None, budget={})
    assert len(notes(clean)) == 2
    assert "budget: no limit" in told(clean)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"seconds": 0.5}, "0.5 s each"),
        ({"rollouts": 1000}, "1,000 rollouts each"),
        ({"seconds": 60.0, "rollouts": 8}, "60 s or 8 rollouts each"),
        ({"patience": 50}, "50 rollouts without improvement each"),
    ],
)
def test_budget_is_said_in_words(budget: dict[str, float], words: str) -> None:
    """Each limit is named with its unit."""
    assert f"budget: {words}" in told(mixed(budget=budget))


def test_each_session_is_told() -> None:
    """Where, when and with what numbers were made is there for every session, but not on the terminal."""
    both = mixed(sessions=(SESSION, {**SESSION, "commit": "def456", "threads": 1}))
    line = "run of 2026-11-26 12:00, on a machine, 2 cores, device cpu, 2 threads, commit abc123, python 3.11: ncogym "
    assert line in told(both)
    assert "1 thread, commit def456" in told(both)
    assert "commit" not in shown(both, 200)


def test_beaten_references_are_counted_and_wrong_ones_loud() -> None:
    """A better solution than the reference is news; than a proven optimum, an alarm that names the instance."""
    assert "better than their reference: 1 of weak" in told(mixed())
    assert "WRONG: 1 are better than a reference that lkh has as proven optimal, such as 0.3333333333 by weak" in told(
        mixed()
    )
    beaten = of(tours([4, 4]), [record("a", 1, (1.0, 9.0))])
    assert "better than their reference: 1 of a" in told(beaten)
    assert "WRONG" not in told(beaten)
    proven = of(tours([4, 4]), [record("a", 0, (1.0, 10.0), proven=True), record("b", 1, (1.0, 11.0), proven=True)])
    words = (
        "WRONG: 1 are proven optimal by their solver and worse than the reference, such as 11 by b on instance 1 (i1)"
    )
    assert f"{words}, where lkh has 10" in told(proven)
    assert "better than" not in told(proven)
    assert "WRONG" not in told(of(tours([4]), [record("a", 0, (1.0, 10 + 1e-9), proven=True)]))
    assert "better than" not in told(of(tours([4]), [record("a", 0, (1.0, 10 - 1e-9))]))


# ---------------------------------------------------------------------- files


def test_csv_holds_every_number_exactly(tmp_path: Path) -> None:
    """Reading the CSV back gives the records but for traces and actions: floats to the last bit, words with quotes."""
    write_report([mixed()], tmp_path)
    with (tmp_path / "records.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    yes = "True".__eq__
    reads = {"solver": str, "violation": str, "instance": int, "rollouts": int, "feasible": yes, "proven": yes}
    head = [[row.pop(key) for key in ("set", "budget_seconds", "budget_rollouts", "name")] for row in rows]
    assert head == [["hand-made", "2.0", "", name] for name in ("i0", "i1") * 3]
    read = [Record(**{k: None if text == "" else reads.get(k, float)(text) for k, text in row.items()}) for row in rows]
    assert read == [replace(each, trace=(), actions=None) for each in mixed().records]


def test_json_holds_traces_and_solutions(tmp_path: Path) -> None:
    """Reading the JSON back gives the records, whole."""
    write_report([mixed(), mixed(budget={"rollouts": 9})], tmp_path)
    rows = json.loads((tmp_path / "records.json").read_text())
    keys = [tuple(row.pop(key) for key in ("set", "budget_seconds", "budget_rollouts", "name")) for row in rows]
    assert keys[0] == ("hand-made", 2.0, None, "i0")
    assert keys[-1] == ("hand-made", None, 9, "i1")

    def again(row: dict[str, Any]) -> Record:
        actions = None if row["actions"] is None else tuple(row["actions"])
        return Record(**{**row, "trace": tuple(TracePoint(*point) for point in row["trace"]), "actions": actions})

    assert tuple(map(again, rows)) == mixed().records * 2


def test_summary_file_holds_the_command_lines_objects(tmp_path: Path) -> None:
    """The summary file has each solver's object, and what the solvers of an evaluation have in common."""
    evaluation = mixed(sessions=(SESSION,))
    assert write_report([evaluation], tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    said = json.loads((tmp_path / "new" / "folder" / "summary.json").read_text())
    assert said["solvers"] == [asdict(summary) for summary in evaluation.summaries()]
    assert said["warm_up_seconds"] == evaluation.warm_up_seconds
    assert said["interrupted"] is False
    (common,) = said["evaluations"]
    assert common["instances_sha256"] == evaluation.instances.sha256
    assert common["sessions"] == [SESSION]
    assert (common["set"], common["reference"], common["references_known"], common["references_proven"]) == (
        *("hand-made", "lkh", 2, 1),
    )
    write_report([evaluation, mixed(budget={})], tmp_path)
    several = json.loads((tmp_path / "summary.json").read_text())
    assert [common["budget"] for common in several["evaluations"]] == [{"seconds": 2.0}, {}]
    assert "interrupted" not in several
    assert len(several["solvers"]) == 6


FILES = {"records.csv", "records.json", "summary.json", "table.md", "table.tex", "report.html"}
PICTURES = ("anytime.png", "anytime.svg", "histogram.png", "histogram.svg")


def test_report_has_all_its_files(tmp_path: Path) -> None:
    """The folder has what the docstring promises and nothing else; the tables in it are those of the functions."""
    write_report([mixed()], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES | set(PICTURES)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == markdown_table([mixed()])
    assert (tmp_path / "table.tex").read_text(encoding="utf-8") == latex_table([mixed()])
    assert (tmp_path / "anytime.svg").read_text().startswith("<?xml")


def test_pictures_of_several_evaluations_bear_their_names(tmp_path: Path) -> None:
    """Set and budget are in the names of the pictures, made of harmless signs, and no name comes twice."""
    several = [replace(mixed(), instances=tours([4, 4], name)) for name in ("Köln/α:2", "koln..")]
    write_report([*several, replace(several[1], budget={"seconds": 2.0, "rollouts": 5}), several[1]], tmp_path)
    slugs = ("k-ln-2-2-s-", "koln..-2-s-", "koln..-2-s-or-5-rollouts-", "koln..-2-s-2-")
    assert {path.name for path in tmp_path.iterdir()} == FILES | {slug + name for slug in slugs for name in PICTURES}


@pytest.mark.parametrize("name", folder.FILES)
def test_files_of_no_report_are_not_replaced(name: str, tmp_path: Path) -> None:
    """A file of the user's own that has such a name is named; a folder with a report, or without any, is free."""
    check_folder(tmp_path)
    (tmp_path / name).write_text("[1]")
    with pytest.raises(ArgumentError, match=rf"^output: .*{name} is of no report, and would be replaced; name another"):
        check_folder(tmp_path)
    write_report([mixed()], tmp_path)
    check_folder(tmp_path)


def test_an_error_leaves_the_old_report_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are replaced once all are there, so that an error in the last loses none; no scrap stays."""
    write_report([mixed()], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(folder, "draw_histogram", fail)
    with pytest.raises(OSError, match="full"):
        write_report([single()], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_report_without_a_solution_leaves_no_old_picture(tmp_path: Path) -> None:
    """Where nothing was solved there is no picture, and none of an earlier report stays to mislead."""
    write_report([mixed()], tmp_path)
    write_report([of(tours([4, 4]), mixed().records[4:])], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES


@pytest.mark.parametrize(
    "evaluation",
    [
        single(),
        single(references=None, versus="good"),
        of(tours([4]), [], solvers=("good", "weak"), interrupted=True),
        of(tours([4, 4]), mixed().records[:1], solvers=("good", "weak"), interrupted=True, versus="weak"),
        of(tours([4]), [record("good", 0, (0.0, 0.0), reference=0.0, gap_percent=0.0)]),
    ],
    ids=["one instance", "no reference", "nothing done", "cut off", "zero"],
)
def test_odd_evaluations_have_a_report(evaluation: Evaluation, tmp_path: Path) -> None:
    """One instance, no reference, an interrupt before or amid the first records, and zeros: each has all its files."""
    write_report([evaluation], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= FILES


def test_anytime_picture_shows_the_solvers_that_solved(tmp_path: Path) -> None:
    """The picture is no blank sheet: it has the colours of the two solvers that found something, not of the third."""
    write_report([mixed()], tmp_path)
    pixels = imread(tmp_path / "anytime.png")[..., :3]
    found = []
    for colour in COLOURS[:3]:
        wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        found.append(int((abs(pixels - wanted).max(-1) < 0.02).sum()) > 50)
    assert found == [True, True, False]


# ---------------------------------------------------------------------- curves


def test_anytime_curve_is_the_mean_of_the_best_so_far() -> None:
    """Gaps fall from 20 to 1 % at 0.75 s and stay at 10 %; their mean begins when both have begun and ends at 2 s."""
    (good, weak, other) = (anytime_curves(mixed())[name] for name in mixed().solvers)
    assert [at for at, _ in good] == [0.5, 0.75, 2.0]
    assert [value for _, value in good] == pytest.approx([15.0, 5.5, 5.5])
    assert weak == [(0.125, pytest.approx(-290 / 3)), (1.0, pytest.approx(-290 / 3))]
    assert other == []


def test_anytime_curve_without_a_reference_is_of_objectives() -> None:
    """Without gaps the objectives are averaged."""
    bare = [replace(each, reference=None, gap_percent=None) for each in mixed().records]
    curve = anytime_curves(of(tours([4, 4]), bare, references=None))["good"]
    assert [value for _, value in curve] == pytest.approx([11.5, 10.55, 10.55])


def test_anytime_curve_ends_at_the_mean_gap() -> None:
    """The last value of a curve is the number in the table."""
    summaries = mixed().summaries()[:2]
    curves = anytime_curves(mixed())
    assert [curves[s.solver][-1][1] for s in summaries] == pytest.approx([s.mean_gap_percent for s in summaries])


def test_anytime_curve_may_move_with_rollouts() -> None:
    """By rollouts a curve has the same values as by time, at the rollouts of the traces, and ends with the last."""
    records = list(mixed().by_solver["good"].values())
    curve = anytime_curves(mixed(), by="rollouts")["good"]
    assert {at for at, _ in curve} <= {p.rollouts for r in records for p in r.trace} | {r.rollouts for r in records}
    assert curve[-1][0] == max(record.rollouts or 0 for record in records)
    assert curve[-1][1] == pytest.approx(anytime_curves(mixed())["good"][-1][1])


def test_curves_of_a_batch_share_their_times() -> None:
    """Improvements of several instances at one time are one step of the curve."""
    records = [record("a", row, (0.5, 12.0), (1.0, 11.0)) for row in range(3)]
    curves = anytime_curves(of(tours([4, 4, 4]), records))
    assert curves == {"a": [(0.5, pytest.approx(20.0)), (1.0, pytest.approx(10.0))]}


def test_long_curves_are_thinned_evenly_over_their_logarithm() -> None:
    """Of thousands of steps 200 stay, the first and the last among them, early ones as dense as late ones."""
    trace = [(0.001 * 1.002**step, 20.0 - step / 1000) for step in range(5000)]
    evaluation = of(tours([4]), [record("a", 0, *trace, seconds=trace[-1][0])])
    (chapter,) = chapters.chapters_of([evaluation])
    curve, whole = chapter.curves["a"], anytime_curves(evaluation)["a"]
    assert len(whole) == 5000
    assert 150 < len(curve) <= 200
    assert (curve[0], curve[-1]) == (whole[0], whole[-1])
    assert set(curve) <= set(whole)
    assert curve == sorted(curve)
    early = sum(seconds < (trace[0][0] * trace[-1][0]) ** 0.5 for seconds, _ in curve)
    assert early / len(curve) == pytest.approx(0.5, abs=0.05)


def test_hand_made_evaluations_are_what_they_say() -> None:
    """The gaps of the records above are those of the library."""
    for each in evaluations.mixed().records:
        if each.gap_percent is not None and each.objective is not None:
            assert each.gap_percent == pytest.approx(gap_percent(each.objective, 10.0, "min"))


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_no_text_is_a_formula_and_numbers_stay(begin: str, tmp_path: Path) -> None:
    """An apostrophe stands before text that a spreadsheet would compute; a number below 0 is a number."""
    name = f"{begin}1+1"
    rows = [record(name, 0, (1.0, -9.0), violation=f"{begin}x", feasible=False), record("a-b", 0, (1.0, 9.0))]
    instances = replace(tours([4], name=name), names=(name,))
    write_report([of(instances, rows)], tmp_path)
    with (tmp_path / "records.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert [first[key] for key in ("set", "name", "solver", "violation")] == [*[f"'{name}"] * 3, f"'{begin}x"]
    assert (second["solver"], second["objective"]) == ("a-b", "9.0")
    assert float(first["objective"]) == -9.0
    said = json.loads((tmp_path / "records.json").read_text())
    assert (said[0]["name"], said[0]["solver"]) == (name, name)
