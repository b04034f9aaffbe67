"""Records -> tables, CSV and JSON files, plots, and one HTML page.

A report is of one evaluation or of several, a set under a budget each. A dash stands for what is not known: a gap
without a reference, an interval of one instance, all of a solver that cannot take the problem.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from ncogym._files import staged
from ncogym.errors import ArgumentError
from ncogym.evaluation import SOLVED_PERCENT, Evaluation, Record, Summary
from ncogym.page import NOT_KNOWN, Chapter, Column, Grid, html_page, number
from ncogym.plotting import Axis, Histogram, draw_anytime, draw_histogram, gap_histogram, linear_below
from ncogym.solution import gap_percent

POINTS = 200  # of a curve that is drawn
# of a report of one evaluation; where there are several, names of pictures begin with the set
FILES = (
    *("records.csv", "records.json", "summary.json", "table.md", "table.tex", "report.html"),
    *("anytime.png", "anytime.svg", "histogram.png", "histogram.svg"),
)

# columns that a terminal shows if it has room, in this order; it always shows the others
MORE = ("worst gap %", "solved", "primal integral %", "proven", "rollouts")
LESS = ("mean objective", "in all")  # come first of these where solvers are compared with one of them

INTERVAL = "95 % interval of the mean (Student's t, widened for skewness)"
FEW = 32  # instances, below which an interval covers visibly less than it says
COVERAGE = "docs/decisions/intervals.md"  # which has the measurements

FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # what a spreadsheet may read as the beginning of one

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "–": r"\textendash{}",
    "…": r"\ldots{}",
    "·": r"$\cdot$",
    "×": r"$\times$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


# ---------------------------------------------------------------------- tables


def rich_table(evaluation: Evaluation, width: int = 80) -> Table:
    """Return the table for a terminal, one row a solver, its notes as the caption.

    Args:
        evaluation: what to show.
        width: columns of the terminal; more is shown where more fits.
    """
    columns = {column.title: column for column in _columns(evaluation, evaluation.summaries())}
    optional = (*(LESS if evaluation.versus else ()), *MORE)
    wanted = [title for title in columns if title not in optional]
    for title in optional:
        if title in columns and sum(_width(columns[each]) + 2 for each in (*wanted, title)) <= width:
            wanted.append(title)
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.caption, table.caption_justify = Text("\n".join(notes(evaluation, origin=False))), "left"
    shown = [column for column in columns.values() if column.title in wanted]
    for at, column in enumerate(shown):
        if at:
            table.add_column(_broken(column.title), justify="right", no_wrap=True)
        else:
            table.add_column(column.title, overflow="fold")  # on a narrow terminal a name is broken before a number is
    for row in zip(*(column.texts for column in shown), strict=True):
        table.add_row(*map(Text, row))  # as it is, without markup
    return table


def markdown_table(evaluations: Sequence[Evaluation]) -> str:
    """Return the tables in Markdown, each with its notes as a list below; the best mean is bold.

    Args:
        evaluations: a set under a budget each.
    """
    return _markdown(_chapters(evaluations))


def latex_table(evaluations: Sequence[Evaluation]) -> str:
    r"""Return the tables in LaTeX, to be ``\input`` where the package booktabs is loaded; the best mean is bold.

    Args:
        evaluations: a set under a budget each.
    """
    return _latex(_chapters(evaluations))


def notes(evaluation: Evaluation, origin: bool = True) -> list[str]:
    """Return what a reader of the table must know beside its numbers, a sentence each.

    Args:
        evaluation: what the table is of.
        origin: whether to tell of the sessions, which those who see the table grow know.
    """
    instances, references = evaluation.instances, evaluation.references
    kind = "" if instances.distribution is None else f", {instances.distribution}"
    said = [
        f"{evaluation.env}: {instances.name}, {instances.count} of size {_span(instances.sizes)}{kind}, "
        f"seed {evaluation.seed}, SHA-256 {instances.sha256[:16]}"
    ]
    said.append(f"budget: {_budget(evaluation.budget)}")
    if references is not None:
        known = int((~references.objective.isnan()).sum())
        told = f"known for {known} of {instances.count}, " if known < instances.count else ""
        proven = sum(references.proven)
        said.append(
            f"gap to {references.name} ({told}{proven} proven optimal), 0 is as good and negative is better; {INTERVAL}"
        )
    if evaluation.versus is not None:
        said.append(
            f"against {evaluation.versus}: mean gap to its solution of the same instance, 95 % interval likewise"
        )
    if 1 < instances.count < FEW and (references is not None or evaluation.versus is not None):
        said.append(
            f"{instances.count} instances are few: where gaps are skewed, as they mostly are, their intervals hold the "
            f"true mean less often than 95 times in 100 ({COVERAGE})"
        )
    once = [name for name in evaluation.solvers if name in evaluation.reported_once]
    if references is not None and once and len(once) < len(evaluation.solvers):
        said.append(f"primal integral {NOT_KNOWN}: told one solution an instance, when it ended: {', '.join(once)}")
    able = {record.solver for record in evaluation.records if record.feasible is not None}
    called = [f"{name} {seconds:.3g} s" for name, seconds in evaluation.warm_up_seconds.items() if name in able]
    if called:
        said.append(f"first call, not counted: {', '.join(called)}")
    said += _made_with(evaluation.sessions)
    said += [_session(session) for session in evaluation.sessions if session and origin]
    unable = {record.solver: record.violation for record in evaluation.records if record.feasible is None}
    said += [f"{NOT_KNOWN}: {reason}" for reason in unable.values()]
    if any(record.feasible is False for record in evaluation.records):
        said.append("the means leave out instances without a feasible solution")
    return said + _beaten(evaluation) + (["interrupted: only what was done is counted"] * evaluation.interrupted)


def _beaten(evaluation: Evaluation) -> list[str]:
    """Say which references were beaten, and loudly so where they or the solvers must be wrong about an optimum."""
    compared = [record for record in evaluation.records if record.gap_percent is not None]
    better = [r for r in compared if r.gap_percent is not None and r.gap_percent < -SOLVED_PERCENT]
    counts = [(name, sum(record.solver == name for record in better)) for name in evaluation.solvers]
    said = ["better than their reference: " + ", ".join(f"{count} of {name}" for name, count in counts if count)]
    proven = evaluation.references.proven if evaluation.references is not None else ()
    wrong = [record for record in better if proven[record.instance]]
    worse = [r for r in compared if r.proven and r.gap_percent is not None and r.gap_percent > SOLVED_PERCENT]
    doubt = "one of the two is wrong, or of another problem"
    if wrong:
        first = wrong[0]
        said.append(
            f"WRONG: {len(wrong)} are better than a reference that {evaluation.reference} has as proven optimal, such "
            f"as {first.objective:.10g} by {first.solver} on instance {first.instance} "
            f"({evaluation.instances.names[first.instance]}), where {first.reference:.10g} is said to be optimal; "
            f"{doubt}"
        )
    if worse:
        first = worse[0]
        said.append(
            f"WRONG: {len(worse)} are proven optimal by their solver and worse than the reference, such as "
            f"{first.objective:.10g} by {first.solver} on instance {first.instance} "
            f"({evaluation.instances.names[first.instance]}), where {evaluation.reference} has {first.reference:.10g}; "
            f"{doubt}"
        )
    return said if better else said[1:]


def _made_with(sessions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the weights that were used, with their fingerprints, and what other solvers were told."""
    policies = {name: policy for session in sessions for name, policy in _policies(session).items()}
    settings = {name: told for session in sessions for name, told in (session.get("settings") or {}).items()}
    weights = dict.fromkeys(f"{p['name']} {p['sha256']}" for p in policies.values() if "sha256" in p)
    return [
        *([f"weights: {', '.join(weights)}"] if weights else []),
        *([f"settings: {'; '.join(f'{name}: {told}' for name, told in settings.items())}"] if settings else []),
    ]


def _session(session: Mapping[str, Any]) -> str:
    """Tell where, when and with what numbers were made."""
    threads = session.get("threads")
    versions = " ".join(f"{name} {version}" for name, version in (session.get("versions") or {}).items())
    parts = (
        f"run of {session['started']}" if session.get("started") else "run",
        f"on {session['machine']}" if session.get("machine") else None,
        f"device {session['device']}" if session.get("device") else None,
        f"{threads} thread{'s' * (threads != 1)}" if threads else None,
        f"commit {session['commit']}" if session.get("commit") else None,
        versions or None,
    )
    command = f": {session['command']}" if session.get("command") else ""
    return ", ".join(part for part in parts if part) + command


def _columns(evaluation: Evaluation, summaries: Sequence[Summary]) -> list[Column]:
    """Return the main table; columns that would tell nothing are left out."""
    by_gap = any(summary.mean_gap_percent is not None for summary in summaries)
    columns = [Column("solver", [s.solver for s in summaries], [s.solver for s in summaries])]

    def add(title: str, values: Sequence[float | None], text: Callable[[Any], str], **more: Any) -> None:
        texts = [NOT_KNOWN if value is None else text(value) for value in values]
        columns.append(Column(title, texts, values, **more))

    def add_mean(title: str, values: Sequence[float | None], bounds: Sequence[list[float] | None], best: Any) -> None:
        add(title, values, lambda value: number(value, 3), best=best)
        texts = [NOT_KNOWN if each is None else f"[{each[0]:z,.3f}, {each[1]:z,.3f}]" for each in bounds]
        whiskers = [
            None if each is None or value is None else [each[0], value, each[1]]
            for each, value in zip(bounds, values, strict=True)
        ]
        lows = [None if each is None else each[0] for each in bounds]
        columns.append(Column("95 % interval", texts, lows, whiskers))

    objectives, gaps = [s.mean_objective for s in summaries], [s.mean_gap_percent for s in summaries]
    best = _best(summaries, gaps if by_gap else objectives, "min" if by_gap else evaluation.sense)
    add("mean objective", objectives, lambda value: number(value, 4), best=() if by_gap else best)
    if by_gap or evaluation.reference is not None:
        add_mean("gap %", gaps, [s.ci95_gap_percent for s in summaries], best if by_gap else ())
    if evaluation.versus is not None:
        differences = [s.mean_difference_percent for s in summaries]
        add_mean(f"against {evaluation.versus} %", differences, [s.ci95_difference_percent for s in summaries], ())
        columns[-1] = columns[-1]._replace(title="its 95 % interval")
    if by_gap:
        add("worst gap %", [s.worst_gap_percent for s in summaries], lambda value: number(value, 3))
        add("solved", [s.solved for s in summaries], "{:.1%}".format)
    if any(s.proven for s in summaries):
        add("proven", [s.proven for s in summaries], "{:.1%}".format)
    columns.append(Column("feasible", list(map(_share, summaries)), [s.feasible for s in summaries]))
    if any(s.primal_integral_percent is not None for s in summaries):
        add("primal integral %", [s.primal_integral_percent for s in summaries], lambda value: number(value, 3))
    add("rollouts", [s.rollouts_per_instance for s in summaries], lambda value: number(value, 0 if value >= 100 else 1))
    add("seconds each", [s.seconds_per_instance for s in summaries], lambda value: number(value, 4))
    add("in all", [s.seconds_total for s in summaries], lambda value: number(value, 1))
    return columns


def _best(summaries: Sequence[Summary], values: Sequence[float | None], sense: str) -> list[int]:
    """Return the numbers of the best values, to what is shown of them, among those who solved the most instances."""
    most = max((summary.feasible or 0.0 for summary in summaries), default=0.0)
    known = {
        at: value
        for at, (summary, value) in enumerate(zip(summaries, values, strict=True))
        if value is not None and summary.feasible == most
    }
    top = (min if sense == "min" else max)(known.values(), default=None)
    return [at for at, value in known.items() if number(value, 3) == number(top, 3)]


def _share(summary: Summary) -> str:
    if summary.feasible is None:
        return NOT_KNOWN
    return f"{round(summary.feasible * summary.instances)}/{summary.instances}"


def _means(title: str, parts: Mapping[str, tuple[Evaluation, Sequence[Summary]]], solvers: Sequence[str]) -> Grid:
    """Return a table of mean gaps, or of mean objectives where no gap is known: a row a solver, a column a part."""
    every = [summary for _, summaries in parts.values() for summary in summaries]
    field = "mean_gap_percent" if any(s.mean_gap_percent is not None for s in every) else "mean_objective"
    rows, best = [[name] for name in solvers], set()
    for column, (evaluation, summaries) in enumerate(parts.values(), 1):
        values = [getattr(summary, field) for summary in summaries]
        at = {summary.solver: solvers.index(summary.solver) for summary in summaries}
        sense = "min" if field == "mean_gap_percent" else evaluation.sense
        best |= {(at[summaries[row].solver], column) for row in _best(summaries, values, sense)}
        for row in rows:
            row.append(NOT_KNOWN)
        for summary, value in zip(summaries, values, strict=True):
            rows[at[summary.solver]][column] = number(value, 3)
    what = "mean gap %" if field == "mean_gap_percent" else "mean objective"
    return Grid(f"{title}: {what}", ["solver", *parts], rows, best)


def _matrices(chapters: Sequence[Chapter]) -> list[Grid]:
    """Return for each budget that several sets were solved under a table of solvers by sets."""
    grids = []
    for budget in dict.fromkeys(chapter.budget for chapter in chapters):
        under = [chapter for chapter in chapters if chapter.budget == budget]
        evaluations = [chapter.evaluation for chapter in under]
        if len({evaluation.instances.name for evaluation in evaluations}) > 1:
            solvers = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.solvers))
            parts = {_set(chapter.evaluation): (chapter.evaluation, chapter.summaries) for chapter in under}
            grid = _means(f"All sets, {budget}", parts, solvers)
            grids.append(_trained(grid, [evaluation for evaluation, _ in parts.values()]))
    return grids


def _set(evaluation: Evaluation) -> str:
    instances = evaluation.instances
    words = (_span(instances.sizes), instances.distribution)
    return f"{instances.name} ({', '.join(word for word in words if word is not None)})"


def _trained(grid: Grid, evaluations: Sequence[Evaluation]) -> Grid:
    """Add what the solvers' policies were trained on, and mark sets that were not like it."""
    policies = [{n: p for session in each.sessions for n, p in _policies(session).items()} for each in evaluations]
    if not any(policies):
        return grid
    header, rows = [grid.header[0], "trained on", *grid.header[1:]], []
    for name, *cells in grid.rows:
        own = [each.get(name) for each in policies]
        words = dict.fromkeys(_trained_on(policy) for policy in own if policy is not None)
        cells = [
            cell + "*" * (cell != NOT_KNOWN and policy is not None and _is_foreign(policy, evaluation))
            for cell, policy, evaluation in zip(cells, own, evaluations, strict=True)
        ]
        rows.append([name, "; ".join(words) or NOT_KNOWN, *cells])
    best = {(row, column + 1) for row, column in grid.best}
    note = "* the policy was trained on other sizes or another distribution"
    return Grid(grid.title, header, rows, best, note if any("*" in cell for row in rows for cell in row[2:]) else "")


def _trained_on(policy: Mapping[str, Any]) -> str:
    """Return the sizes and the distribution that a policy was trained on, in words."""
    kind = policy["env"].get("distribution")
    return ", ".join([_span(policy["sizes"]), *([] if kind is None else [kind])])


def _policies(session: Mapping[str, Any]) -> Mapping[str, Any]:
    return session.get("policies") or {}


def _is_foreign(policy: Mapping[str, Any], evaluation: Evaluation) -> bool:
    """Return whether a set has sizes or a distribution that a policy was not trained on."""
    instances, (low, high), kind = evaluation.instances, policy["sizes"], policy["env"].get("distribution")
    if min(instances.sizes) < low or max(instances.sizes) > high:
        return True
    known = kind is not None and instances.distribution is not None
    return known and kind != instances.distribution and not kind.startswith("mixed")


# ---------------------------------------------------------------------- forms of tables


def _grids(chapter: Chapter) -> list[Grid]:
    """Return the main table of a chapter and what belongs to it."""
    columns = chapter.columns
    rows = [list(row) for row in zip(*(column.texts for column in columns), strict=True)]
    best = {(row, at) for at, column in enumerate(columns) for row in column.best}
    title = f"{chapter.evaluation.instances.name}, {chapter.budget}"
    main = Grid(title, [column.title for column in columns], rows, best)
    return [main] if chapter.sizes is None else [main, chapter.sizes]


def _markdown(chapters: Sequence[Chapter]) -> str:
    lines: list[str] = []

    def add(grid: Grid) -> None:
        cells = [[re.sub(r"([\\|*<`])", r"\\\1", cell) for cell in row] for row in grid.rows]
        cells = [
            [f"**{cell}**" if (at, column) in grid.best else cell for column, cell in enumerate(row)]
            for at, row in enumerate(cells)
        ]
        header = [title.replace("|", "\\|") for title in grid.header]
        table = [header, ["---", *["---:"] * (len(header) - 1)], *cells]
        lines.extend([f"### {grid.title}", "", *(f"| {' | '.join(row)} |" for row in table), ""])
        lines.extend([grid.note.replace("*", "\\*"), ""] * bool(grid.note))

    of_all = [note for note in chapters[0].notes if all(note in chapter.notes for chapter in chapters)]
    apart = of_all if len(chapters) > 1 else []
    for chapter in chapters:
        for grid in _grids(chapter):
            add(grid)
        lines.extend([*(f"- {note}" for note in chapter.notes if note not in apart), ""])
    for grid in _matrices(chapters):
        add(grid)
    if apart:
        lines.extend(["All of these tables:", "", *(f"- {note}" for note in apart), ""])
    return "\n".join(lines)


def _latex(chapters: Sequence[Chapter]) -> str:
    lines = [r"% \usepackage{booktabs}; each table is a float of its own"]

    def add(grid: Grid, told: Sequence[str]) -> None:
        words = sum(title in ("solver", "trained on") for title in grid.header)
        header = [_escaped(_broken(title)).replace("\n", r"\\") for title in grid.header]
        heads = [rf"\shortstack[r]{{{title}}}" if r"\\" in title else title for title in header]
        lines.extend([r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}"])
        lines.append(rf"\caption{{{_escaped(grid.title)}}}")
        lines.append(rf"\begin{{tabular}}{{{'l' * words}{'r' * (len(header) - words)}}}")
        lines.extend([r"\toprule", " & ".join(heads) + r" \\", r"\midrule"])
        for at, row in enumerate(grid.rows):
            cells = [
                rf"\textbf{{{_escaped(cell)}}}" if (at, column) in grid.best else _escaped(cell)
                for column, cell in enumerate(row)
            ]
            # a star or a bracket at the start of a line would be read as an option of the line break before
            lines.append(("{}" if cells[0].startswith(("*", "[")) else "") + " & ".join(cells) + r" \\")
        lines.extend([r"\bottomrule", r"\end{tabular}"])
        if told:
            lines.append(r"\par\smallskip\begin{minipage}{\linewidth}\raggedright\scriptsize")
            lines.extend([rf"{_escaped(note)}.\par" for note in told])
            lines.append(r"\end{minipage}")
        lines.extend([r"\end{table}", ""])

    for chapter in chapters:
        main, *others = _grids(chapter)
        add(main, chapter.notes)
        for grid in others:
            add(grid, ())
    for grid in _matrices(chapters):
        add(grid, [grid.note] if grid.note else [])
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Return a text as LaTeX shows it; signs that its standard fonts lack become question marks."""
    known = "".join(LATEX.get(sign, sign if ord(sign) < 0x180 else "?") for sign in text)
    minus = re.sub(r"(?<!\S)(\[?)-(?=\d)", r"\1$-$", known)
    return re.sub(r"-(?=-)", "-{}", minus)  # two hyphens, and no dash


def _broken(title: str) -> str:
    """Return a long title on two lines."""
    return re.sub(r" (\(.*\)|\w\S*(?: %)?)$", r"\n\1", title) if len(title) > 8 else title


def _width(column: Column) -> int:
    return max(cell_len(line) for text in (_broken(column.title), *column.texts) for line in text.split("\n"))


def _span(sizes: Iterable[int]) -> str:
    low, high = min(sizes := list(sizes)), max(sizes)
    return f"{low}" if low == high else f"{low} to {high}"


def _budget(budget: Mapping[str, float]) -> str:
    """Say what each instance may cost."""
    units = {"seconds": "{:g} s", "rollouts": "{:,.0f} rollouts", "patience": "{:,.0f} rollouts without improvement"}
    limits = [unit.format(budget[name]) for name, unit in units.items() if name in budget]
    return f"{' or '.join(limits)} each" if limits else "no limit"


# ---------------------------------------------------------------------- curves and histograms


def anytime_curves(evaluation: Evaluation, by: Axis = "seconds") -> dict[str, list[tuple[float, float]]]:
    """Return for each solver how the mean of the best so far moves with time, or with rollouts.

    The mean is over the solver's feasible records, of gaps if there is a reference and of objectives if there is none.
    A curve begins when the last of them has its first solution, and ends with the longest of them.

    Args:
        evaluation: a set under a budget.
        by: what it moves with.

    Returns:
        By solver, ``(seconds, mean)`` or ``(rollouts, mean)`` in their order; an empty list where there is no solution.
    """
    curves, has_gaps = {}, _has_gaps(evaluation)
    for name in evaluation.solvers:
        records = [record for record in evaluation.by_solver[name].values() if record.feasible]
        if has_gaps:
            traces = [_gaps(record, evaluation.sense, by) for record in records]
        else:
            traces = [[(getattr(point, by), point.objective) for point in record.trace] for record in records]
        curves[name] = _mean_curve([trace for trace in traces if trace])
        if curves[name]:
            end = max(getattr(record, by) or 0.0 for record in records)
            if end > curves[name][-1][0]:
                curves[name].append((end, curves[name][-1][1]))
    return curves


def _has_gaps(evaluation: Evaluation) -> bool:
    return any(record.gap_percent is not None for record in evaluation.records)


def _gaps(record: Record, sense: str, by: Axis) -> list[tuple[float, float]]:
    """Return a record's trace as seconds (rollouts) and gaps; empty if its reference is unknown."""
    if record.reference is None:
        return []
    gaps = [(getattr(point, by), gap_percent(point.objective, record.reference, sense)) for point in record.trace]
    return [(at, gap) for at, gap in gaps if gap is not None]


def _mean_curve(traces: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the mean of step functions, from where all of them have begun."""
    if not traces:
        return []
    begun = max(trace[0][0] for trace in traces)
    moves = [trace[0] for trace in traces]
    for trace in traces:
        moves += [(after[0], after[1] - before[1]) for before, after in pairwise(trace)]
    total, points = 0.0, {}
    for seconds, move in sorted(moves):
        total += move
        if seconds >= begun:
            points[seconds] = total / len(traces)
    return list(points.items())


def _thinned(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most `POINTS` points of a curve, evenly spread over the logarithm of time, with the first and last."""
    if len(curve) <= POINTS:
        return curve
    logs = [math.log(max(seconds, 1e-9)) for seconds, _ in curve]
    width = (logs[-1] - logs[0]) / (POINTS - 2)
    last_of = {int((log - logs[0]) / width): point for log, point in zip(logs[1:-1], curve[1:-1], strict=True)}
    return [curve[0], *list(last_of.values())[: POINTS - 2], curve[-1]]


def _histogram(evaluation: Evaluation) -> Histogram | None:
    if not _has_gaps(evaluation):
        return None
    gaps = {
        name: [record.gap_percent for record in records.values() if record.gap_percent is not None]
        for name, records in evaluation.by_solver.items()
    }
    return gap_histogram(gaps, SOLVED_PERCENT)


# ---------------------------------------------------------------------- the report


def check_folder(folder: str | Path) -> None:
    """Refuse a folder where a report would replace files that are of no report.

    Raises:
        ArgumentError: such a file lies there, and no ``summary.json`` that `write_report` wrote.
    """
    held = [path for name in FILES if (path := Path(folder, name)).exists()]
    try:
        said = json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        said = None
    if held and not (isinstance(said, dict) and said.keys() >= {"solvers", "evaluations"}):
        raise ArgumentError(f"output: {held[0]} is of no report, and would be replaced; name another folder")


def write_report(evaluations: Sequence[Evaluation], folder: str | Path) -> Path:
    """Write the whole report; files of these names are replaced, each at once.

    ``records.csv`` has a row per set, budget, solver and instance; ``records.json`` the same with the solutions and the
    traces, each point ``[seconds, rollouts, objective]``; ``summary.json`` the objects of ``ncogym evaluate --format
    json`` under ``solvers``, and under ``evaluations`` what they have in common; ``table.md`` and ``table.tex`` the
    tables; ``report.html`` a page with all of it. ``anytime`` (`anytime_curves`) and ``histogram`` (of the gaps), as
    ``.png`` and ``.svg``, are there where there is something to draw, with the set and the budget in their names where
    there are several.

    Args:
        evaluations: a set under a budget each.
        folder: made if need be.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    chapters = _chapters(evaluations)
    with staged(folder) as made:
        _write_records(evaluations, made)
        _write(made / "summary.json", json.dumps(_summary(chapters), indent=2, allow_nan=False) + "\n")
        _write(made / "table.md", _markdown(chapters))
        _write(made / "table.tex", _latex(chapters))
        _write(made / "report.html", html_page(chapters, _matrices(chapters)))
        for chapter, slug in zip(chapters, _slugs(chapters), strict=True):
            for suffix in (".png", ".svg"):
                _draw(chapter, made / f"{slug}anytime{suffix}", made / f"{slug}histogram{suffix}")
                for picture in (f"{slug}anytime{suffix}", f"{slug}histogram{suffix}"):
                    if not (made / picture).exists():
                        (folder / picture).unlink(missing_ok=True)  # that of another evaluation would mislead
    return folder


def _chapters(evaluations: Sequence[Evaluation]) -> list[Chapter]:
    return [_chapter(evaluation) for evaluation in evaluations]


def _chapter(evaluation: Evaluation) -> Chapter:
    summaries, groups = evaluation.summaries(), evaluation.groups()
    curves = {name: _thinned(curve) for name, curve in anytime_curves(evaluation).items()}
    parts = {f"{name} ({len(rows)})": (evaluation, evaluation.summaries(rows)) for name, rows in groups.items()}
    has_gaps = _has_gaps(evaluation)
    ends = [curve[-1][1] for curve in curves.values() if curve]
    highest = max((value for curve in curves.values() for _, value in curve), default=0.0)
    title = f"{evaluation.instances.name}, {_budget(evaluation.budget)}, by size (instances)"
    return Chapter(
        evaluation=evaluation,
        summaries=summaries,
        budget=_budget(evaluation.budget),
        columns=_columns(evaluation, summaries),
        sizes=_means(title, parts, evaluation.solvers) if parts else None,
        curves=curves,
        values=f"mean gap to {evaluation.reference} (%)" if has_gaps else "mean objective",
        threshold=linear_below(ends, highest) if has_gaps else None,
        histogram=_histogram(evaluation),
        notes=notes(evaluation),
    )


def _write(path: Path, text: str) -> None:
    """Write a text; bytes of a file name that are no UTF-8 become escapes."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _write_records(evaluations: Sequence[Evaluation], folder: Path) -> None:
    own = [field.name for field in fields(Record)]
    head = ["set", "budget_seconds", "budget_rollouts", "solver", "instance", "name"]
    columns = [*head, *(name for name in own if name not in (*head, "trace", "actions"))]
    rows = [
        {
            "set": evaluation.instances.name,
            "budget_seconds": evaluation.budget.get("seconds"),
            "budget_rollouts": evaluation.budget.get("rollouts"),
            "name": evaluation.instances.names[record.instance],
            **vars(record),
        }
        for evaluation in evaluations
        for record in evaluation.records
    ]
    with (folder / "records.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({name: _no_formula(value) for name, value in row.items()} for row in rows)
    lines = [json.dumps({name: row[name] for name in (*columns, "trace", "actions")}, allow_nan=False) for row in rows]
    _write(folder / "records.json", "[\n" + ",\n".join(lines) + "\n]\n")


def _no_formula(value: Any) -> Any:
    """Return a cell that no spreadsheet computes: an apostrophe before text that begins like a formula.

    References:
        OWASP, CSV Injection: fields that begin with ``=``, ``+``, ``-``, ``@``, a tab, a carriage return or a newline.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _summary(chapters: Sequence[Chapter]) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "solvers": [asdict(summary) for chapter in chapters for summary in chapter.summaries],
        "evaluations": [_common(chapter.evaluation) for chapter in chapters],
    }
    if len(chapters) == 1:
        whole |= {key: whole["evaluations"][0][key] for key in ("warm_up_seconds", "interrupted")}
    return whole


def _common(evaluation: Evaluation) -> dict[str, Any]:
    """Return what the solvers of an evaluation have in common."""
    instances, references = evaluation.instances, evaluation.references
    return {
        "set": instances.name,
        "env": evaluation.env,
        "instances": instances.count,
        "instances_sha256": instances.sha256,
        "distribution": instances.distribution,
        "sizes": [min(instances.sizes), max(instances.sizes)],
        "budget": evaluation.budget,
        "seed": evaluation.seed,
        "reference": evaluation.reference,
        "references_known": 0 if references is None else int((~references.objective.isnan()).sum()),
        "references_proven": 0 if references is None else sum(references.proven),
        "versus": evaluation.versus,
        "warm_up_seconds": evaluation.warm_up_seconds,
        "sessions": list(evaluation.sessions),
        "interrupted": evaluation.interrupted,
    }


def _slugs(chapters: Sequence[Chapter]) -> list[str]:
    """Return what the names of each chapter's pictures begin with, nothing where there is one chapter."""
    if len(chapters) == 1:
        return [""]
    words = [f"{chapter.evaluation.instances.name} {chapter.budget.removesuffix(' each')}" for chapter in chapters]
    slugs = [re.sub(r"[^a-z0-9.]+", "-", each.lower()).strip("-.") for each in words]
    again = [slugs[:at].count(slug) for at, slug in enumerate(slugs)]
    return [f"{slug}-{times + 1}-" if times else f"{slug}-" for slug, times in zip(slugs, again, strict=True)]


def _draw(chapter: Chapter, anytime: Path, histogram: Path) -> None:
    """Draw what there is to draw."""
    evaluation = chapter.evaluation
    count = evaluation.instances.count
    title = f"{evaluation.instances.name}, {chapter.budget}: {count} instance{'s' * (count != 1)}"
    solved = {s.solver: round((s.feasible or 0) * s.instances) for s in chapter.summaries}
    names = {name: name if of in (0, count) else f"{name} ({of} of {count})" for name, of in solved.items()}
    if any(chapter.curves.values()):
        curves = {names[name]: curve for name, curve in chapter.curves.items()}
        draw_anytime(curves, anytime, chapter.values, title, chapter.threshold)
    if chapter.histogram is not None:
        counts = {names[name]: counts for name, counts in chapter.histogram.counts.items()}
        draw_histogram(chapter.histogram._replace(counts=counts), histogram, title)
