"""A report in a folder: records, tables, pictures and one page that holds all of it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ncogym._files import staged
from ncogym.errors import ArgumentError
from ncogym.evaluation import Evaluation, Record
from ncogym.page import Chapter, html_page
from ncogym.plotting import draw_anytime, draw_histogram
from ncogym.report.chapters import chapters_of
from ncogym.report.forms import latex_of, markdown_of
from ncogym.report.tables import matrices_of

# of a report of one evaluation; where there are several, names of pictures begin with the set
FILES = (
    *("records.csv", "records.json", "summary.json", "table.md", "table.tex", "report.html"),
    *("anytime.png", "anytime.svg", "histogram.png", "histogram.svg"),
)

FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # what a spreadsheet may read as the beginning of one


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
    chapters = chapters_of(evaluations)
    with staged(folder) as made:
        _write_records(evaluations, made)
        _write(made / "summary.json", json.dumps(_summary(chapters), indent=2, allow_nan=False) + "\n")
        _write(made / "table.md", markdown_of(chapters))
        _write(made / "table.tex", latex_of(chapters))
        _write(made / "report.html", html_page(chapters, matrices_of(chapters)))
        for chapter, slug in zip(chapters, _slugs(chapters), strict=True):
            for suffix in (".png", ".svg"):
                _draw(chapter, made / f"{slug}anytime{suffix}", made / f"{slug}histogram{suffix}")
                for picture in (f"{slug}anytime{suffix}", f"{slug}histogram{suffix}"):
                    if not (made / picture).exists():
                        (folder / picture).unlink(missing_ok=True)  # that of another evaluation would mislead
    return folder


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
