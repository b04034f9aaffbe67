"""One HTML page of a whole evaluation, which needs nothing but itself: no server, no network, no other file.

The template ``data/page.html`` holds style and script; what they show is one JSON element, made here. It has no records
but those of the instances that are drawn: summaries, thinned curves, counts of the histograms, and sketches
(``env.sketch``), so that its size hardly depends on how many instances were solved.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict

from ncogym.errors import ArgumentError
from ncogym.evaluation import Evaluation, Record, Summary
from ncogym.plotting import Histogram, linear_below
from ncogym.sets import InstanceSet
from ncogym.sketch import Sketch
from ncogym.solution import gap_percent

TEMPLATE = Path(__file__).parent / "data" / "page.html"

LISTED = 6  # worst instances of each solver
DRAWN = 12  # instances of an evaluation, at most
DRAWING_CHARACTERS = 3_000_000  # of all sketches of a page; what comes after is listed and not drawn

NOT_KNOWN = "–"


# ---------------------------------------------------------------------- what is shown


class Column(NamedTuple):
    """A column of the main table, a cell a solver.

    Attributes:
        title: with the unit.
        texts: of the cells.
        values: what to sort by, a number or a word; None comes last.
        intervals: ``[low, mean, high]`` of each cell, or None; empty where the column has none.
        best: numbers of the cells that hold the best value.
    """

    title: str
    texts: list[str]
    values: Sequence[float | str | None]
    intervals: Sequence[list[float] | None] = ()
    best: Sequence[int] = ()


class Grid(NamedTuple):
    """A table in words.

    Attributes:
        title: what it shows.
        header: a title a column.
        rows: of as many cells, the first of them a name.
        best: ``(row, column)`` of the cells that hold the best value.
        note: a sentence below it, or "".
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    best: set[tuple[int, int]]
    note: str = ""


class Chapter(NamedTuple):
    """What a report shows of one evaluation, computed once for all its forms.

    Attributes:
        evaluation: what it is of.
        summaries: a solver each.
        budget: in words.
        columns: of the main table.
        sizes: a table of results by size, or None.
        curves: ``(seconds, value)`` of each solver, few enough to draw; see `ncogym.report.anytime_curves`.
        values: what the curves show, with its unit.
        threshold: see `ncogym.plotting.linear_below`.
        histogram: of the gaps, or None.
        notes: sentences.
    """

    evaluation: Evaluation
    summaries: list[Summary]
    budget: str
    columns: list[Column]
    sizes: Grid | None
    curves: dict[str, list[tuple[float, float]]]
    values: str
    threshold: float | None
    histogram: Histogram | None
    notes: list[str]


# ---------------------------------------------------------------------- the page


def html_page(chapters: Sequence[Chapter], matrices: Sequence[Grid] = ()) -> str:
    """Return the page.

    Args:
        chapters: an evaluation each, at least one; each gets a tab.
        matrices: tables over several of them.
    """
    first = chapters[0].evaluation
    problems = ", ".join(dict.fromkeys(chapter.evaluation.env for chapter in chapters))
    title = f"Evaluation of {problems}"
    content = {
        "title": title,
        "provenance": [_origin(session) for session in first.sessions[:1]],
        "matrices": [{**grid._asdict(), "best": sorted(grid.best)} for grid in matrices],
        "chapters": [_chapter(chapter, DRAWING_CHARACTERS // len(chapters)) for chapter in chapters],
    }
    text = TEMPLATE.read_text(encoding="utf-8").replace("__TITLE__", html.escape(title))
    return text.replace("__DATA__", _json(content).replace("<", "\\u003c"))  # no name may end the script element


def instance_of(instances: InstanceSet, row: int) -> TensorDict:
    """Return one instance of a set, in memory of the CPU; batch size ``[1]``.

    Args:
        instances: the set.
        row: its index in the set.
    """
    begin = 0
    for block in instances.blocks:
        if begin <= row < begin + len(block):
            return block[row - begin : row - begin + 1].cpu()
        begin += len(block)
    raise ArgumentError(f"row: {row} is not allowed; it must be from 0 to {begin - 1}")


def number(value: float | None, decimals: int) -> str:
    """Return a number with thousands apart, or a dash for None."""
    return NOT_KNOWN if value is None else f"{value:z,.{decimals}f}"


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def _origin(session: dict[str, Any]) -> str:
    """Say in a line where numbers come from."""
    said = (session.get("started"), session.get("machine"), session.get("device"), f"commit {session.get('commit')}")
    return " · ".join(str(each) for each in said if each and each != "commit None")


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _chapter(chapter: Chapter, room: int) -> dict[str, Any]:
    evaluation, histogram = chapter.evaluation, chapter.histogram
    worst, drawn = _worst(evaluation)
    listed = {row: _results(evaluation, row) for row in sorted({row for rows in worst.values() for row in rows})}
    for row in drawn:
        sketches = _sketches(evaluation, row)
        room -= len(_json(sketches))
        if room < 0:
            break
        listed[row] |= sketches
    return {
        "set": evaluation.instances.name,
        "budget": chapter.budget,
        "count": evaluation.instances.count,
        "solvers": evaluation.solvers,
        "reference": evaluation.reference,
        "columns": [
            {
                "title": column.title,
                "texts": column.texts,
                "values": column.values,
                "intervals": [each and [_short(end) for end in each] for each in column.intervals],
                "threshold": linear_below([each[1] for each in column.intervals if each]),
                "best": list(column.best),
            }
            for column in chapter.columns
        ],
        "sizes": chapter.sizes and {**chapter.sizes._asdict(), "best": sorted(chapter.sizes.best)},
        "curves": [[[_short(x) for x in point] for point in curve] for curve in chapter.curves.values()],
        "values": chapter.values,
        "threshold": chapter.threshold,
        "histogram": histogram
        and {
            "edges": [_short(edge) for edge in histogram.edges],
            "ticks": histogram.ticks,
            "counts": [histogram.counts[name] for name in evaluation.solvers],
        },
        "worst": [worst[name] for name in evaluation.solvers],
        "instances": listed,
        "notes": chapter.notes,
    }


# ---------------------------------------------------------------------- the worst instances


def _worst(evaluation: Evaluation) -> tuple[dict[str, list[int]], list[int]]:
    """Return the worst instances of each solver, the worst first, and those of them to draw, by their rank.

    Without a solution an instance is worst of all. Where no reference is known, the best of the run stands for it.
    """
    best: dict[int, float] = {}
    for record in evaluation.records:
        if record.feasible and record.objective is not None:
            so_far = best.get(record.instance, record.objective)
            best[record.instance] = (min if evaluation.sense == "min" else max)(so_far, record.objective)

    def badness(record: Record) -> float:
        if not record.feasible or record.objective is None:
            return math.inf
        if record.gap_percent is not None:
            return record.gap_percent
        return gap_percent(record.objective, best[record.instance], evaluation.sense) or 0.0

    worst = {}
    for name, records in evaluation.by_solver.items():
        tried = [record for record in records.values() if record.feasible is not None]
        worst[name] = [record.instance for record in sorted(tried, key=badness, reverse=True)[:LISTED]]
    ranks = [rows[rank] for rank in range(LISTED) for rows in worst.values() if rank < len(rows)]
    return worst, list(dict.fromkeys(ranks))[:DRAWN]


def _results(evaluation: Evaluation, row: int) -> dict[str, Any]:
    """Return what is said of an instance: its name and size, the reference, and objective, gap and fault by solver."""
    instances, references = evaluation.instances, evaluation.references
    known = None if references is None or references.objective[row].isnan() else float(references.objective[row])
    results: list[list[str | None] | None] = []
    for name in evaluation.solvers:
        record = evaluation.by_solver[name].get(row)
        if record is None or record.feasible is None:
            results.append(None)
        else:
            gap = None if record.gap_percent is None else f"{record.gap_percent:+z,.3f} %"
            results.append([_objective(record.objective), gap, None if record.feasible else record.violation])
    return {
        "name": instances.names[row],
        "size": instances.sizes[row],
        "known": None if known is None else _objective(known),
        "proven": references is not None and references.proven[row],
        "results": results,
    }


def _sketches(evaluation: Evaluation, row: int) -> dict[str, Any]:
    """Return the solutions of an instance as sketches, the reference's first; points that all share are there once."""
    instances, references = evaluation.instances, evaluation.references
    data = instance_of(instances, row)
    solutions = [None if references is None else references.actions[row]]
    for name in evaluation.solvers:
        record = evaluation.by_solver[name].get(row)
        found = None if record is None or record.actions is None else torch.tensor(record.actions, dtype=torch.int64)
        solutions.append(found)
    drawn: list[Sketch | None] = [
        None if actions is None else instances.env.sketch(data, actions.cpu()) for actions in solutions
    ]
    points = next((sketch.points for sketch in drawn if sketch is not None), [])
    shared = [sketch and sketch._replace(points=[] if sketch.points == points else sketch.points) for sketch in drawn]
    return {"points": points, "sketches": shared}


def _objective(value: float | None) -> str:
    return NOT_KNOWN if value is None else f"{value:,.4f}".rstrip("0").rstrip(".")
