"""Which numbers a setting may be, said in one line where it may not."""

from __future__ import annotations

import math

from ncogym.errors import ArgumentError

COUNT = 2**31 - 1  # more instances, steps or nodes than any run has, and what every library below can count
SEED = 2**32 - 1
SECONDS = 1e9  # thirty years, which Lightning's clock holds
THREADS = 1024  # more are refused or thrash


def check(
    name: str,
    value: float | None,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Refuse a number that is out of its range, or none; None is no setting, and passes.

    Raises:
        ArgumentError: with the name, the value and the range.

    Example:
        >>> check("seed", 7, least=0, most=10)
        >>> check("seed", -1, least=0, most=10)
        Traceback (most recent call last):
        ncogym.errors.ArgumentError: seed: -1 is not allowed; it must be at least 0 and at most 10
    """
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    if number and least <= value <= most and above < value < below:
        return
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    told = " and ".join(f"{words} {bound:.15g}" for words, bound in bounds.items() if math.isfinite(bound))
    raise ArgumentError(f"{name}: {value} is not allowed; it must be {told or 'a finite number'}")
