"""Records -> tables, CSV and JSON files, an anytime plot.

A dash stands for what is not known: a gap without a reference, an interval of one instance, all of a solver that cannot
take the problem.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ncogym.evaluation import Evaluation, Record, Summary
from ncogym.plotting import draw_anytime
from ncogym.solver import gap_percent

COLUMNS = ("solver", "mean objective", "gap %", "95 % interval", "feasible", "seconds each", "in all")


def rich_table(evaluation: Evaluation) -> Table:
    """Return the table for a terminal, one row a solver, its notes as the caption."""
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.caption, table.caption_justify = "\n".join(notes(evaluation)), "left"
    table.add_column(COLUMNS[0], overflow="fold")  # on a narrow terminal a name is broken before a number is
    for column in COLUMNS[1:]:
        header = "\n".join(column.rsplit(" ", 1)) if len(column) > 8 else column
        table.add_column(header, justify="right", no_wrap=True)
    for summary in evaluation.summaries():
        table.add_row(*_cells(summary))
    return table


def markdown_table(evaluation: Evaluation) -> str:
    """Return the table in Markdown, one row a solver, its notes as a list below."""
    rows = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *map(_cells, evaluation.summaries())]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(evaluation))]) + "\n"


def notes(evaluation: Evaluation) -> list[str]:
    """Return what a reader of the table must know beside its numbers, a sentence each."""
    said = [f"{evaluation.env}, seed {evaluation.seed}, instances' SHA-256 {evaluation.instances_sha256[:16]}"]
    if evaluation.reference is not None:
        said.append(f"gap to {evaluation.reference}, 0 is as good and negative is better; 95 % bootstrap interval")
    if evaluation.warm_up_seconds:
        warm_up = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in evaluation.warm_up_seconds.items())
        said.append(f"first call, not counted: {warm_up}")
    unable = {record.solver: record.violation for record in evaluation.records if record.feasible is None}
    said += [f"–: {reason}" for reason in unable.values()]
    if any(record.feasible is False for record in evaluation.records):
        said.append("the means leave out instances without a feasible solution")
    if evaluation.interrupted:
        said.append("interrupted: only what was done before is counted")
    return said


def anytime_curves(evaluation: Evaluation) -> dict[str, list[tuple[float, float]]]:
    """Return for each solver how the mean of the best so far moves with time.

    The mean is over the solver's feasible records, of gaps if there is a reference and of objectives if there is none.
    A curve begins when the last of them has its first solution, and ends with the longest of them.

    Returns:
        By solver, ``(seconds, mean)`` in order of time; an empty list where there is no solution.
    """
    curves, has_gaps = {}, _has_gaps(evaluation)
    for name in evaluation.solvers:
        records = [record for record in evaluation.records if record.solver == name and record.feasible]
        if has_gaps:
            traces = [_gaps(record, evaluation.sense) for record in records]
        else:
            traces = [[(point.seconds, point.objective) for point in record.trace] for record in records]
        curves[name] = _mean_curve([trace for trace in traces if trace])
        if curves[name]:
            end = max(record.seconds or 0.0 for record in records)
            if end > curves[name][-1][0]:
                curves[name].append((end, curves[name][-1][1]))
    return curves


def write_report(evaluation: Evaluation, folder: str | Path) -> Path:
    """Write the whole report; files of these names are replaced.

    ``records.csv`` has a row per solver and instance; ``records.json`` the same with the traces, each point
    ``[seconds, rollouts, objective]``; ``summary.json`` the objects of ``ncogym evaluate --format json`` under
    ``solvers``, beside ``warm_up_seconds`` and ``interrupted``; ``table.md`` the table; ``anytime.png`` the curves of
    `anytime_curves`, if anything was solved.

    Args:
        evaluation: what to report.
        folder: made if need be.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    columns = [field.name for field in fields(Record) if field.name != "trace"]
    with (folder / "records.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(map(vars, evaluation.records))
    lines = [json.dumps(vars(record), allow_nan=False) for record in evaluation.records]
    _write(folder / "records.json", "[\n" + ",\n".join(lines) + "\n]\n")
    whole: dict[str, Any] = {
        "solvers": [asdict(summary) for summary in evaluation.summaries()],
        "warm_up_seconds": evaluation.warm_up_seconds,
        "interrupted": evaluation.interrupted,
    }
    _write(folder / "summary.json", json.dumps(whole, indent=2, allow_nan=False) + "\n")
    _write(folder / "table.md", markdown_table(evaluation))
    curves, picture = anytime_curves(evaluation), folder / "anytime.png"
    if any(curves.values()):
        ylabel = f"mean gap to {evaluation.reference} (%)" if _has_gaps(evaluation) else "mean objective"
        draw_anytime(curves, picture, ylabel, f"{evaluation.env}: best so far")
    else:
        picture.unlink(missing_ok=True)
    return folder


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _cells(summary: Summary) -> tuple[str, ...]:
    low_high, share = summary.ci95_gap_percent, summary.feasible
    return (
        summary.solver,
        _number(summary.mean_objective, 4),
        _number(summary.mean_gap_percent, 3),
        "–" if low_high is None else f"{low_high[0]:.3f} … {low_high[1]:.3f}",
        "–" if share is None else f"{round(share * summary.instances)}/{summary.instances}",
        _number(summary.seconds_per_instance, 4),
        _number(summary.seconds_total, 1),
    )


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"


def _has_gaps(evaluation: Evaluation) -> bool:
    return any(record.gap_percent is not None for record in evaluation.records)


def _gaps(record: Record, sense: str) -> list[tuple[float, float]]:
    """Return a record's trace as seconds and gaps; empty if its reference is unknown."""
    if record.reference is None:
        return []
    gaps = [(point.seconds, gap_percent(point.objective, record.reference, sense)) for point in record.trace]
    return [(seconds, gap) for seconds, gap in gaps if gap is not None]


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
