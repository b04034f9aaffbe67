"""What a report says of each evaluation, ready to be written in any form."""

from __future__ import annotations

from collections.abc import Sequence

from ncogym.evaluation import Evaluation
from ncogym.page import Chapter
from ncogym.plotting import linear_below
from ncogym.report.curves import anytime_curves, histogram_of, knows_gaps, thinned
from ncogym.report.tables import budget_words, columns_of, means_of, notes


def chapters_of(evaluations: Sequence[Evaluation]) -> list[Chapter]:
    """Return what a report says of each evaluation."""
    return [_chapter(evaluation) for evaluation in evaluations]


def _chapter(evaluation: Evaluation) -> Chapter:
    summaries, groups = evaluation.summaries(), evaluation.groups()
    curves = {name: thinned(curve) for name, curve in anytime_curves(evaluation).items()}
    parts = {f"{name} ({len(rows)})": (evaluation, evaluation.summaries(rows)) for name, rows in groups.items()}
    has_gaps = knows_gaps(evaluation)
    ends = [curve[-1][1] for curve in curves.values() if curve]
    highest = max((value for curve in curves.values() for _, value in curve), default=0.0)
    title = f"{evaluation.instances.name}, {budget_words(evaluation.budget)}, by size (instances)"
    return Chapter(
        evaluation=evaluation,
        summaries=summaries,
        budget=budget_words(evaluation.budget),
        columns=columns_of(evaluation, summaries),
        sizes=means_of(title, parts, evaluation.solvers) if parts else None,
        curves=curves,
        values=f"mean gap to {evaluation.reference} (%)" if has_gaps else "mean objective",
        threshold=linear_below(ends, highest) if has_gaps else None,
        histogram=histogram_of(evaluation),
        notes=notes(evaluation),
    )
