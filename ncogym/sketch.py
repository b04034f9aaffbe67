"""What a person sees of a solution: points, lines and bars, for those who draw without knowing the problem.

matplotlib (`ncogym.plotting.draw`) and the page of an evaluation draw the same sketch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SIDE = 1000  # of a sketch of places


class Line(NamedTuple):
    """A line through points of a sketch.

    Attributes:
        points: their indices, in order; the line home of a tour ends where it began.
        colour: lines of one number are of one colour.
        style: "solid", "dashed", or "arrows" for a line that shows its direction.
    """

    points: list[int]
    colour: int
    style: str


class Mark(NamedTuple):
    """Points of a sketch that stand out.

    Attributes:
        points: their indices.
        colour: marks of one number are of one colour.
        style: "disc" or "square".
    """

    points: list[int]
    colour: int
    style: str


class Bar(NamedTuple):
    """A rectangle of a sketch, from its lower left corner.

    Attributes:
        colour: bars of one number are of one colour.
        label: a short word inside of it, where there is room.
    """

    x: float
    y: float
    width: float
    height: float
    colour: int
    label: str


class Sketch(NamedTuple):
    """A solution as points, lines and bars in the box from (0, 0) to (width, height), y upwards.

    Attributes:
        width: of the box; of two solutions of an instance, the smaller box is drawn smaller.
        height: of the box.
        proportional: whether x and y are of one unit, so that the box may not be stretched.
        points: ``[x, y]`` each; all are drawn as small dots, whether or not anything goes through them.
        lines: drawn below the points.
        marks: drawn above the points.
        bars: drawn below all else.
        across: what x is, in a word, where the box has axes; "" where it has none.
        upwards: what y is.
        rows: names of the rows of bars, from the lowest; empty where y is no row.
        note: a line below, in numbers of the instance's own units.
    """

    width: float
    height: float
    proportional: bool
    points: list[list[float]]
    lines: list[Line]
    marks: list[Mark]
    bars: list[Bar]
    across: str = ""
    upwards: str = ""
    rows: list[str] = []  # noqa: RUF012 - a NamedTuple's default, which nobody writes to
    note: str = ""


def sketch_places(locs: np.ndarray) -> Sketch:
    """Return a sketch of places alone, in whole thousandths of the longer side of their bounding box.

    Args:
        locs: ``[nodes, 2]``, coordinates in any unit.
    """
    low, high = locs.min(0), locs.max(0)
    scale = SIDE / max(float((high - low).max()), 1e-30)
    width, height = np.rint((high - low) * scale).astype(int).tolist()
    return Sketch(width, height, True, np.rint((locs - low) * scale).astype(int).tolist(), [], [], [])
