"""Intervals of means, and the integral of a gap over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from ncogym.solution import TracePoint


def mean_ci95(values: Float64[Tensor, " values"]) -> list[float] | None:
    """Return the 95 % interval of a mean: by Student's t and by Hall's t for skewed values, at each end the wider one.

    Gaps are skewed (many zeros and a long tail), so that the mean of few is mostly too small, and the more so the
    smaller their spread; Hall's transformation takes this out of the t statistic. How often the interval holds the true
    mean in fact, of gaps and of their differences, is in docs/decisions/intervals.md: of 5 or 10 instances it can be
    less often than it says.

    Args:
        values: whose mean is meant.

    Returns:
        ``[low, high]``, around the mean but not symmetric; None for fewer than two values, which tell nothing of their
        spread. Values that are all equal have an interval of no width.

    References:
        Hall (1992), On the Removal of Skewness by Transformation, Journal of the Royal Statistical Society B 54.
    """
    count = len(values)
    if count < 2:
        return None
    mean, spread = values.mean(), values.std()
    if float(spread) <= 1e-12 * float(values.abs().max()):  # nothing but rounding
        return [float(mean), float(mean)]
    skewness = float(((values - mean) / spread).pow(3).mean())
    reach = student_quantile(count - 1) / math.sqrt(count)

    def untransformed(value: float) -> float:
        """Return the t statistic, over the root of the count, that Hall's transformation takes to ``value``."""
        if abs(skewness) < 1e-6:  # where the root below would be all rounding
            return value
        return 3 / skewness * (math.cbrt(1 + skewness * (value - skewness / (6 * count))) - 1)

    low = float(mean - spread * max(reach, untransformed(reach)))
    return [low, float(mean + spread * max(reach, -untransformed(-reach)))]


def seeds_ci95(values: Float64[Tensor, "seeds instances"]) -> list[float] | None:
    """Return the 95 % interval of a mean over training seeds and instances, both of which might have been others.

    Each seed's policy solves the same instances, so that seeds and instances are crossed, and the variance of the mean
    is that of a two-way layout of random effects. With few seeds that differ, it is mostly theirs, of few degrees of
    freedom (Satterthwaite's), and the interval is wide. It is never narrower than `mean_ci95` of the instances' means.

    Args:
        values: of each seed and instance, gaps or paired differences.

    Returns:
        ``[low, high]``; None for fewer than two seeds or instances, which tell nothing of their spread.

    References:
        Satterthwaite (1946), An Approximate Distribution of Estimates of Variance Components, Biometrics Bulletin 2.
    """
    seeds, count = values.shape
    if seeds < 2 or count < 2:
        return None
    mean, by_seed, by_instance = values.mean(), values.mean(1), values.mean(0)
    rest = values - by_seed[:, None] - by_instance + mean
    free = (seeds - 1, count - 1, (seeds - 1) * (count - 1))
    squares = (count * by_seed.var(), seeds * by_instance.var(), rest.square().sum() / free[2])
    of_seeds, of_instances, of_rest = map(float, squares)
    low, high = mean_ci95(by_instance) or [float(mean)] * 2
    total = max(of_seeds + of_instances - of_rest, of_seeds, of_instances)  # no component is negative
    if total > 0:
        spread = sum(square**2 / each for square, each in zip((of_seeds, of_instances, of_rest), free, strict=True))
        half = student_quantile(max(total**2 / spread, 1.0)) * math.sqrt(total / (seeds * count))
        low, high = min(low, float(mean) - half), max(high, float(mean) + half)
    return [low, high]


@lru_cache(maxsize=4096)
def student_quantile(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t, which bounds a two-sided 95 % interval.

    Args:
        freedom: degrees of freedom, at least 1; they need not be whole.
    """
    # t is sqrt(freedom) times the tangent of an angle whose density is a power of its cosine
    angles = torch.linspace(0, math.pi / 2, 100_001, dtype=torch.float64)
    mass = torch.cumulative_trapezoid(angles.cos().pow(freedom - 1), angles)
    place = int(torch.searchsorted(mass, 0.95 * mass[-1]))
    below, above = float(mass[place - 1]), float(mass[place])
    share = (0.95 * float(mass[-1]) - below) / (above - below)
    return math.sqrt(freedom) * math.tan(float(angles[place]) + share * float(angles[1]))


def primal_integral(trace: Sequence[TracePoint], reference: float, sense: str, horizon: float) -> float:
    """Return the mean over ``[0, horizon]`` of the primal gap of the best solution so far, in percent.

    The primal gap is ``(objective - reference) / max(|objective|, |reference|)``, or its mirror where more is better; 1
    before the first solution; negative where the reference is beaten. It rewards both good solutions and early ones.

    Args:
        trace: improvements in the order of time.
        reference: best objective known.
        sense: "min" or "max".
        horizon: seconds, above 0.

    References:
        Berthold (2013), Measuring the impact of primal heuristics, Operations Research Letters 41.
    """
    area, gap, since = 0.0, 1.0, 0.0
    for point in trace:
        now = min(point.seconds, horizon)
        area += gap * (now - since)
        scale = max(abs(point.objective), abs(reference))
        worse = point.objective - reference if sense == "min" else reference - point.objective
        gap, since = (min(worse / scale, 1.0) if scale else 0.0), now
    return 100 * (area + gap * (horizon - since)) / horizon


def known_values(values: Any) -> list[float]:
    """Return the values that are known."""
    return [float(value) for value in values if value is not None]


def sum_of(values: Any) -> float | None:
    """Return the sum, or None where nothing is known."""
    known = known_values(values)
    return math.fsum(known) if known else None


def mean_of(values: Any) -> float | None:
    """Return the mean, or None where nothing is known."""
    known = known_values(values)
    return math.fsum(known) / len(known) if known else None
