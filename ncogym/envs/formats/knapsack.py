"""Knapsack instances: the three layouts of the public files, read and written exactly.

- ``items capacity``, then ``value weight`` for each item (Unicauca's and Jooken's sets); a solution of one 0 or 1 for
  each item may follow, and is not used;
- ``items`` and ``capacity`` on lines of their own, then ``value weight`` for each item (kplib);
- ``items``, then lines ``number value weight``, numbered from 0 or from 1, then ``capacity`` (Pisinger's and Jooken's
  generators).

Numbers may have decimals and be wrapped over lines in any way; lines with ``#`` and empty lines are comments. Lines
tell a layout apart where they are exactly its own. Where they are not and the numbers make sense in two ways, with a
solution or with running numbers (before the capacity or behind it), the file is refused: allowed is either layout,
line by line. What cannot be honoured is an `InstanceError` of one line.
"""

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ncogym.envs.formats.text import read_text
from ncogym.errors import InstanceError

MAX_ITEMS = 10**6
MAX_SUM = 2**53  # up to here float64 adds whole numbers exactly

Numbers = NDArray[np.float64]
Instance = tuple[Numbers, Numbers, float]  # weights, values, capacity

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def read_knapsack(path: str | os.PathLike[str]) -> Instance:
    """Read a knapsack instance.

    Returns:
        Weights ``[items]``, values ``[items]`` and the capacity.

    Raises:
        InstanceError: the file is missing, malformed or can be read in two ways; the text is one line.
    """
    try:
        weights, values, capacity = _parsed(read_text(path))
        if fault := numbers_fault(weights, values, capacity):
            raise InstanceError(fault)
    except InstanceError as error:
        shown = os.fspath(path)
        raise InstanceError(f"{shown if shown.isprintable() else ascii(shown)}: {error}") from error
    return weights, values, capacity


def write_knapsack(path: str | os.PathLike[str], weights: Numbers, values: Numbers, capacity: float) -> None:
    """Write ``items capacity``, then ``value weight`` a line, with all digits that float64 has.

    Raises:
        InstanceError: `read_knapsack` would refuse the file; nothing is written.
        OSError: the file cannot be written.
    """
    if fault := numbers_fault(weights, values, capacity):
        raise InstanceError(f"{os.fspath(path)}: {fault}")
    pairs = zip(values.tolist(), weights.tolist(), strict=True)
    lines = [f"{len(weights)} {_plain(capacity)}", *(f"{_plain(value)} {_plain(weight)}" for value, weight in pairs)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="ascii")


def _parsed(text: str) -> Instance:
    """Read the file's text; errors do not name the file yet."""
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, tokens) for number, tokens in lines if tokens and not tokens[0].startswith("#")]
    for number, tokens in lines:
        if bad := next((token for token in tokens if not _NUMBER.fullmatch(token)), None):
            raise InstanceError(f"line {number}: {_shown(bad)} is not a finite number")
    rows = [np.array(tokens, dtype=np.float64) for _, tokens in lines]
    if not rows:
        raise InstanceError("the file is empty; 'items capacity' must come first")
    count = float(rows[0][0])
    if not (1 <= count <= MAX_ITEMS and count.is_integer()):
        raise InstanceError(f"{_plain(count)} items are not allowed; it must be a whole number from 1 to {MAX_ITEMS}")
    items, lengths, numbers = int(count), [len(row) for row in rows], np.concatenate(rows)[1:]
    if not len(numbers):
        raise InstanceError(f"nothing follows the number of items, {items}")
    heads = 1 if lengths[0] == 2 else 2
    if lengths[heads : heads + items] == [2] * items:
        return _pairs(numbers, items)
    if lengths == [1, *[3] * items, 1]:
        return _numbered(numbers[:-1], float(numbers[-1]), items)
    readings: dict[tuple[bytes, bytes, float], Instance] = {}
    for read in (
        lambda: _pairs(numbers, items),
        lambda: _numbered(numbers[:-1], float(numbers[-1]), items),
        lambda: _numbered(numbers[1:], float(numbers[0]), items),
    ):
        try:
            reading = read()
        except InstanceError:
            continue
        if not numbers_fault(*reading):
            readings[(reading[0].tobytes(), reading[1].tobytes(), reading[2])] = reading  # two may mean the same
    if len(readings) > 1:
        ways = "pairs 'value weight' with a solution behind them, and as items with running numbers"
        advice = "'items capacity' and a pair a line, or 'items', 'number value weight' a line and 'capacity'"
        raise InstanceError(f"the numbers can be read in two ways, as {ways}; allowed is, line by line, {advice}")
    if readings:
        return next(iter(readings.values()))
    return _numbered(numbers[:-1], float(numbers[-1]), items) if lengths[:2] == [1, 3] else _pairs(numbers, items)


def _pairs(numbers: Numbers, items: int) -> Instance:
    """Read the capacity, a pair for each item, and perhaps a solution."""
    if len(numbers) not in (1 + 2 * items, 1 + 3 * items):
        needed = f"{items} items need {2 * items}, a value and a weight each"
        raise InstanceError(f"{len(numbers) - 1} numbers follow 'items capacity'; {needed}")
    values, weights = numbers[1 : 1 + 2 * items].reshape(-1, 2).T
    if not np.isin(numbers[1 + 2 * items :], (0, 1)).all():
        raise InstanceError(f"after {items} items there are numbers that are no solution of one 0 or 1 each")
    return weights.copy(), values.copy(), float(numbers[0])


def _numbered(numbers: Numbers, capacity: float, items: int) -> Instance:
    """Read a running number, a value and a weight for each item."""
    if len(numbers) != 3 * items:
        raise InstanceError(
            f"{len(numbers) + 1} numbers follow the number of items; {items} lines 'number value weight' and the "
            f"capacity need {3 * items + 1}"
        )
    order, values, weights = numbers.reshape(-1, 3).T
    if order[0] not in (0, 1) or not np.array_equal(order, order[0] + np.arange(items)):
        raise InstanceError("items are not numbered one after the other from 0 or 1")
    return weights.copy(), values.copy(), capacity


def numbers_fault(weights: Numbers, values: Numbers, capacity: float) -> str | None:
    """Say what is wrong with the numbers, if anything."""
    if not 0 < capacity <= MAX_SUM:
        return f"capacity {_plain(capacity)} is not allowed; it must be above 0 and at most 2**53"
    for what, numbers in (
        ("weight", weights),
        ("value", values),
    ):
        wrong = ~(numbers >= 0)
        if wrong.any():
            item = int(wrong.argmax())
            return f"{what} {_plain(float(numbers[item]))} of item {item} is not allowed; it must be at least 0"
        if not numbers.sum() <= MAX_SUM:
            return f"{what}s sum to {_plain(float(numbers.sum()))}; at most 2**53 is allowed, for exact sums"
    return None


def _plain(number: float) -> str:
    """Return a number without a needless decimal point."""
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def _shown(word: str) -> str:
    """Return a word of a file as an error may quote it: short and on one line."""
    return repr(word if len(word) <= 30 else word[:30] + "...")
