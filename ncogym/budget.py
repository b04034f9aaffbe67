"""How much the solution of an instance may cost: seconds, rollouts, or patience."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field

from ncogym.errors import ArgumentError

OVERRUN = 1.05  # of a budget's seconds, within which the first solution must be there


@dataclass(frozen=True)
class Budget:
    """How much one instance may cost; whichever limit is met first ends the search.

    Build one with `MaxSeconds`, `MaxRollouts` or `NoImprovement`, and join two with ``|``.

    Example:
        >>> from ncogym.budget import MaxRollouts, MaxSeconds
        >>> both = MaxSeconds(2) | MaxRollouts(100)
        >>> both.seconds, both.rollouts
        (2, 100)

    Attributes:
        seconds: wall-clock seconds per instance; a batch of n instances has n times as much.
        rollouts: complete solutions per instance.
        patience: rollouts in a row without an improvement of any instance of the batch.
        cancel: when set from outside (an interrupt), the search ends and returns the best so far.
        strict: whether a first solution that comes too late counts as none: where solvers are compared under one
            budget. Otherwise it is returned all the same, and its seconds tell.
        first: wall-clock seconds per instance after which a search that has found nothing ends with nothing: in a part
            of a budget whose owner holds solutions already (`ncogym.books.Progress.left`).
    """

    seconds: float = math.inf
    rollouts: float = math.inf
    patience: float = math.inf
    cancel: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)
    strict: bool = field(default=False, compare=False, repr=False)
    first: float = field(default=math.inf, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("seconds", "rollouts", "patience"):
            value = getattr(self, name)
            if not value > 0:
                raise ArgumentError(f"budget {name}: {value} is not allowed; it must be above 0")

    def __or__(self, other: Budget) -> Budget:
        """Join two budgets: whichever limit is met first; cancelled through the left one."""
        return Budget(
            min(self.seconds, other.seconds),
            min(self.rollouts, other.rollouts),
            min(self.patience, other.patience),
            self.cancel,
            self.strict or other.strict,
            min(self.first, other.first),
        )

    @property
    def finite(self) -> bool:
        """Whether any limit is set."""
        return min(self.seconds, self.rollouts, self.patience) < math.inf


def MaxSeconds(seconds: float) -> Budget:  # noqa: N802 - read as a constructor
    """Return a budget of wall-clock seconds per instance."""
    return Budget(seconds=seconds)


def MaxRollouts(rollouts: int) -> Budget:  # noqa: N802
    """Return a budget of complete solutions per instance."""
    return Budget(rollouts=rollouts)


def NoImprovement(rollouts: int) -> Budget:  # noqa: N802
    """Return a budget that ends after so many rollouts per instance without an improvement."""
    return Budget(patience=rollouts)
