"""What the parts of the command line share: exit codes, types of arguments, seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from jsonargparse.typing import PositiveInt, restricted_number_type

from ncogym.errors import ArgumentError

if TYPE_CHECKING:
    Count = int
    Threads = int
    Seed = int
else:
    Count = PositiveInt
    Threads = restricted_number_type("Threads", int, [(">=", 1), ("<=", 1024)])  # as in training/limits.py
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])

DONE, BAD, UNSOLVED, INTERRUPTED = 0, 2, 3, 130

NAMED = 60  # entries of a section whose names `ncogym list` shows

Format = Literal["table", "json"]

EVALUATED_SEED = 1234  # of test instances: Kool's sets among them

LABELLED_SEED = 2718  # of instances to learn from: of no published set (1234, 1235, 200), nor of validation (4321)


def listed(value: Any) -> list[Any]:
    """Return the parts of an option of several values: a list in a config, text with commas on the command line."""
    if isinstance(value, list):
        return value
    return value.split(",") if isinstance(value, str) else [value]


def numbers(name: str, value: Any, kind: type) -> list[Any]:
    """Return the numbers of an option of several, none where it is not given."""
    try:
        return [] if value is None else [kind(part) for part in listed(value)]
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise ArgumentError(f"{name}: {value} is not allowed; it must be one or more {what}, with commas") from error
