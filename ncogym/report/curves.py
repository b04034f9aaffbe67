"""Curves of gaps over time, and histograms."""

from __future__ import annotations

import math
from itertools import pairwise

from ncogym.evaluation import SOLVED_PERCENT, Evaluation, Record
from ncogym.plotting import Axis, Histogram, gap_histogram
from ncogym.solution import gap_percent

POINTS = 200  # of a curve that is drawn


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
    curves, known = {}, knows_gaps(evaluation)
    for name in evaluation.solvers:
        records = [record for record in evaluation.by_solver[name].values() if record.feasible]
        if known:
            traces = [_gaps(record, evaluation.sense, by) for record in records]
        else:
            traces = [[(getattr(point, by), point.objective) for point in record.trace] for record in records]
        curves[name] = _mean_curve([trace for trace in traces if trace])
        if curves[name]:
            end = max(getattr(record, by) or 0.0 for record in records)
            if end > curves[name][-1][0]:
                curves[name].append((end, curves[name][-1][1]))
    return curves


def knows_gaps(evaluation: Evaluation) -> bool:
    """Return whether any gap is known."""
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


def thinned(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most `POINTS` points of a curve, evenly spread over the logarithm of time, with the first and last."""
    if len(curve) <= POINTS:
        return curve
    logs = [math.log(max(seconds, 1e-9)) for seconds, _ in curve]
    width = (logs[-1] - logs[0]) / (POINTS - 2)
    last_of = {int((log - logs[0]) / width): point for log, point in zip(logs[1:-1], curve[1:-1], strict=True)}
    return [curve[0], *list(last_of.values())[: POINTS - 2], curve[-1]]


def histogram_of(evaluation: Evaluation) -> Histogram | None:
    """Return the gaps of each solver by size, or None where none is known."""
    if not knows_gaps(evaluation):
        return None
    gaps = {
        name: [record.gap_percent for record in records.values() if record.gap_percent is not None]
        for name, records in evaluation.by_solver.items()
    }
    return gap_histogram(gaps, SOLVED_PERCENT)
