"""Pictures: solutions, anytime curves, histograms of gaps.

matplotlib is imported inside the functions, so that importing this module costs nothing, and only through its object
interface: no global state, no window, no backend to choose. The path's suffix chooses the picture's format.

Solutions are drawn from a `ncogym.sketch.Sketch`, whatever the problem.
"""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ncogym._files import named
from ncogym.errors import ArgumentError
from ncogym.sketch import Line, Sketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, ACCENT = "#1f2933", "#7b8794", "#d1495b"
COLOURS = ("#2f6690", "#d1495b", "#3a9d7c", "#e29030", "#7b5ea7", "#52b2cf", "#8c6d46", "#5f6b76")  # apart in grey, too
LINES = ("-", "--", ":", "-.")

Axis = Literal["seconds", "rollouts"]  # what anytime curves move with


def plain(text: str) -> str:
    """Return a text so that matplotlib shows it letter by letter, whatever stands in the name of a file or a solver.

    Dollar signs begin no formula, and what no font or file can hold (control characters, bytes of a file name that are
    not UTF-8) is written as an escape. Whatever is drawn here goes through it.
    """
    shown = re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", lambda sign: ascii(sign[0])[1:-1], text)
    return shown.replace("$", r"\$")


# ---------------------------------------------------------------------- pictures of solutions


def draw(sketch: Sketch, path: str | Path, title: str = "") -> None:
    """Draw a solution.

    Args:
        sketch: the solution.
        path: where the picture goes; the suffix is the format, such as ``.png``, ``.svg`` or ``.pdf``.
        title: one line above the picture.

    Raises:
        ArgumentError: the suffix or the folder is unknown.
    """
    figure = _figure(path, (9.0, min(1.8 + 0.34 * sketch.height, 12.0)) if sketch.rows else (6.4, 6.4))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    # ink per point shrinks with their number, so that 20 look neither lost nor 2,000 clotted
    count = max(len(sketch.points), 1)
    width, area = np.clip(14 / math.sqrt(count), 0.35, 2.0), np.clip(2400 / count, 1.0, 48.0)
    places = np.array(sketch.points, dtype=float).reshape(-1, 2)
    _draw_bars(axes, sketch)
    for number, line in enumerate(sketch.lines):
        _draw_line(axes, places[line.points], line, float(width), f"line-{number}")
    shown: dict[str, Any] = {"edgecolors": "white", "linewidths": width / 3}
    x, y = places.T
    axes.scatter(x, y, s=area, color=INK if sketch.lines else MUTED, zorder=3, gid="points", **shown)
    for number, mark in enumerate(sketch.marks):
        is_square = mark.style == "square"
        size, colour = max(2.2 * area, 30) if is_square else 1.6 * area, _colour(mark.colour)
        marker = "s" if is_square else "o"
        x, y = places[mark.points].T
        axes.scatter(x, y, s=size, color=colour, marker=marker, zorder=4, gid=f"mark-{number}", **shown)
    if sketch.proportional:
        axes.set_aspect("equal")
        axes.margins(0.03)
    else:
        margin = 0.0 if sketch.rows else 0.03
        axes.set_xlim(-margin * sketch.width, (1 + margin) * sketch.width or 1.0)
        axes.set_ylim(-margin * sketch.height, (1 + margin) * sketch.height or 1.0)
    if sketch.across or sketch.upwards:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=MUTED, which="both")
        steps = 1 + len(sketch.rows) // 30
        axes.set_yticks([row + 0.5 for row in range(len(sketch.rows))][::-steps], sketch.rows[::-steps])
        if not sketch.rows:  # units of the sketch mean nothing
            axes.set_xticks([])
    else:
        axes.set_axis_off()
    axes.set_xlabel("\n".join(filter(None, [sketch.across, plain(sketch.note)])), color=INK)
    axes.set_ylabel(sketch.upwards, color=INK)
    if title:
        figure.suptitle(plain(title), fontsize=12, color=INK)
    _save(figure, path)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _draw_line(axes: Axes, points: np.ndarray, line: Line, width: float, gid: str) -> None:
    """Draw a line through points; a dashed one is pale."""
    look: dict[str, Any] = {"color": _colour(line.colour), "linewidth": width, "gid": gid}
    if line.style == "dashed":
        axes.plot(*points.T, linestyle=(0, (4, 3)), alpha=0.45, zorder=1, **look)
        return
    axes.plot(*points.T, solid_joinstyle="round", zorder=2, **look)
    if line.style == "arrows":  # their heads stand near the middle of the legs, where no point hides them
        legs = 0.55 * np.diff(points, axis=0)
        exact: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1.0, "minlength": 0.0}
        x, y = points[:-1].T
        axes.quiver(x, y, *legs.T, color=look["color"], width=0.0023 * width, headwidth=5, gid=f"{gid}-arrows", **exact)


def _draw_bars(axes: Axes, sketch: Sketch) -> None:
    """Draw the bars, each with its label where that fits; those that share a tone differ in lightness."""
    from matplotlib.patches import Rectangle

    for bar in sketch.bars:
        alpha = 1.0 - 0.22 * (bar.colour // len(COLOURS) % 4)
        look: dict[str, Any] = {"facecolor": _colour(bar.colour), "edgecolor": "white", "linewidth": 0.5}
        height = (0.82 if sketch.rows else 1.0) * bar.height  # rows stand apart
        low = bar.y + (bar.height - height) / 2
        axes.add_patch(Rectangle((bar.x, low), bar.width, height, gid=f"bar-{bar.colour}", alpha=alpha, **look))
        if bar.width > 0.011 * sketch.width * len(bar.label) and sketch.height <= (30 if sketch.rows else math.inf):
            middle = bar.x + bar.width / 2, bar.y + bar.height / 2
            axes.text(*middle, bar.label, ha="center", va="center", fontsize=7, color="white", clip_on=True)


# ---------------------------------------------------------------------- pictures of evaluations


class Histogram(NamedTuple):
    """How the gaps of several solvers are distributed, over bins that they share.

    Attributes:
        edges: percent, above 0 and ascending; the first bin takes all that is above 0 and below ``edges[1]``.
        ticks: of the edges, the numbers of those that bear a label.
        counts: by solver, the gaps below 0, those of 0, and those in each bin.
    """

    edges: list[float]
    ticks: list[int]
    counts: dict[str, list[int]]


def gap_histogram(gaps: Mapping[str, Sequence[float]], zero: float) -> Histogram:
    """Count gaps in bins that are equally wide on a logarithmic axis: ten a factor of ten, or five where that is many.

    Args:
        gaps: percent, by solver.
        zero: a gap that is not larger, in absolute value, counts as 0.
    """
    positive = np.array([gap for each in gaps.values() for gap in each if gap > zero])
    powers = np.arange(0)
    if positive.size:  # the smallest few share the first bin, lest one of them makes all others narrow
        low = math.floor(10 * math.log10(max(np.quantile(positive, 0.02), 1e-4)))
        high = max(math.ceil(10 * math.log10(positive.max())), low + 1)
        step = 1 if high - low <= 30 else 2
        powers = np.arange(low - low % step, high + step, step)
    edges = 10.0 ** (powers / 10)
    near = len(powers) and powers[-1] - powers[0] <= 15  # so that 2 and 5 bear labels, too
    ticks = [number for number, power in enumerate(powers) if power % 10 == 0 or (near and power % 10 in (3, 7))]
    counts = {}
    for name, each in gaps.items():
        values = np.array(each, dtype=float)
        above = values[values > zero]
        places = np.searchsorted(edges[1:-1], above, side="right")
        inside = np.bincount(places, minlength=max(len(edges) - 1, 0))
        counts[name] = [int((values < -zero).sum()), int((abs(values) <= zero).sum()), *inside.tolist()]
    return Histogram(edges.tolist(), ticks, counts)


def draw_histogram(histogram: Histogram, path: str | Path, title: str = "") -> None:
    """Draw the distribution of gaps, a row a solver over one axis; gaps of 0 and below stand apart on the left.

    Those on the left bear their share of the solver's instances; the others have a scale of their own, the same in
    every row, lest they vanish beside a solver that leaves no gap.

    Args:
        histogram: see `gap_histogram`.
        path: where the picture goes; the suffix is the format.
        title: one line above the picture.

    Raises:
        ArgumentError: the suffix or the folder is unknown, or there is no gap to draw.
    """
    shown = {name: np.array(counts) / sum(counts) for name, counts in histogram.counts.items() if any(counts)}
    if not shown:
        raise ArgumentError("histogram: no gap is there; at least one solver must have one")
    below = any(shares[0] for shares in shown.values())
    # bars stand side by side; those of 0 and below are wider, with some room on their right
    lefts = np.concatenate([[-6.5, -3.5], np.arange(max(len(histogram.edges) - 1, 0))])
    widths = np.where(lefts < 0, 2.5, 1.0)
    colours = [COLOURS[2], COLOURS[2], *[COLOURS[0]] * (len(lefts) - 2)]
    tallest = max([shares[2:].max() for shares in shown.values() if shares[2:].any()], default=1.0)
    figure = _figure(path, (7.0, 1.0 + 0.5 * len(shown)))
    figure.set_layout_engine("constrained")
    every = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    for axes, (name, shares) in zip(every, shown.items(), strict=True):
        heights = np.append(shares[:2], shares[2:] / tallest)
        axes.bar(lefts, heights, widths, align="edge", color=colours, edgecolor="white", linewidth=0.5, gid="gaps")
        for left, width, share in zip(lefts[:2], widths, shares, strict=False):
            if share:
                axes.text(left + width / 2, share, f"{share:.0%}", ha="center", va="bottom", fontsize=7, color=INK)
        axes.set_ylim(0, 1.35)
        axes.set_yticks([])
        axes.set_ylabel(plain(name), rotation=0, ha="right", va="bottom", y=0.0, fontsize=9, color=INK)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(MUTED)
        axes.tick_params(colors=MUTED, bottom=axes is every[-1])
    last = every[-1]
    last.set_xlim(-6.8 if below else -3.8, max(len(histogram.edges) - 1, 1) + 0.2)
    labels = {-2.25: "0", **({-5.25: "better"} if below else {})}
    labels |= {float(tick): f"{float(f'{histogram.edges[tick]:.1g}'):g}" for tick in histogram.ticks}
    last.set_xticks(list(labels), list(labels.values()))
    last.set_xlabel("gap (%), logarithmic", color=INK)
    every[0].set_title(plain(title), loc="left", fontsize=12, color=INK)
    _save(figure, path)


def linear_below(values: Sequence[float], largest: float = 0.0) -> float | None:
    """Return where an axis on which these can be told apart turns from linear to logarithmic; 0 has no logarithm.

    Args:
        values: those to tell apart.
        largest: what else the axis has to hold.

    Returns:
        A power of ten from 0.001 to 1; None where a linear axis shows all, or where a value is far below 0.
    """
    positive = [value for value in values if value > 1e-4]  # less is rounding, or as good as nothing
    if not positive:
        return None
    threshold = 10.0 ** min(max(math.floor(math.log10(min(positive))), -3), 0)
    return threshold if max(*positive, largest) > 30 * threshold and min(values) > -threshold else None


def draw_anytime(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    ylabel: str,
    title: str = "",
    threshold: float | None = None,
    by: Axis = "seconds",
) -> None:
    """Draw how the best value falls (or rises) with time, or with rollouts: one step curve a solver.

    The time axis is logarithmic where the times span more than a factor of thirty. A curve begins at its first value;
    nothing is drawn before, for there was no solution yet.

    Args:
        curves: by solver, ``(seconds, value)`` in order of time; a single pair is drawn as a dot.
        path: where the picture goes; the suffix is the format.
        ylabel: what the values are, with their unit.
        title: one line above the picture.
        threshold: the values' axis is logarithmic above it; see `linear_below`. None makes all of it linear.
        by: what the times are, in the name of their axis.

    Raises:
        ArgumentError: the suffix or the folder is unknown, or there is no point to draw.
    """
    times = [seconds for curve in curves.values() for seconds, _ in curve]
    if not times:
        raise ArgumentError("curves: no point is there; at least one solver must have one")
    many = len(curves) > 5  # their names stand beside the picture, not in it
    figure = _figure(path, (9.0 if many else 7.0, 4.4))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    for number, (name, curve) in enumerate(curves.items()):
        if curve:
            colour, line = COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]
            seconds, values = zip(*curve, strict=True)
            (drawn,) = axes.step(seconds, values, line, where="post", color=colour, linewidth=1.8, label=plain(name))
            drawn.set(marker="o", markersize=4.5, markevery=[len(curve) - 1])
    if 0 < 30 * min(times) < max(times):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    if threshold is not None:
        highest = max(value for curve in curves.values() for _, value in curve)
        axes.set_yscale("symlog", linthresh=threshold)
        axes.set_ylim(-0.1 * threshold, 1.3 * highest)
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"{by} per instance", color=INK)
    axes.set_ylabel(plain(ylabel), color=INK)
    axes.set_title(plain(title), loc="left", fontsize=12, color=INK)
    axes.grid(color=MUTED, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MUTED, which="both")
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if many else {}
    axes.legend(frameon=False, labelcolor=INK, **place)
    _save(figure, path)


def draw_population(metrics: str | Path, path: str | Path, ylabel: str, title: str = "") -> None:
    """Draw what the log of a population's training says: the best and the mean member above, and who wins below.

    Args:
        metrics: ``metrics.csv`` of a run folder.
        path: where the picture goes; the suffix is the format.
        ylabel: what the objective is, with its unit.
        title: one line above the picture.

    Raises:
        ArgumentError: the suffix or the folder is unknown, or the log has no members.
    """
    with Path(metrics).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("best_of_members")]  # validations have rows of their own
    if not rows:
        raise ArgumentError(f"metrics: {metrics} is not allowed; it must have a column best_of_members")
    figure = _figure(path, (7.0, 5.4))
    figure.set_layout_engine("constrained")
    both = figure.subplots(2, sharex=True, height_ratios=[3, 2])
    shown = (("best_of_members", "mean_member"), ("share_won_most", "share_won_least", "unique_winners"))
    for axes, names, label in zip(both, shown, (ylabel, "share of starts"), strict=True):
        for name, colour in zip(names, COLOURS, strict=False):
            values = [float(row[name]) for row in rows]
            axes.plot([int(row["step"]) for row in rows], values, color=colour, label=name.replace("_", " "), gid=name)
        axes.set_ylabel(plain(label), color=INK)
        axes.grid(color=MUTED, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=MUTED, which="both")
        axes.legend(frameon=False, labelcolor=INK)
    both[1].set_ylim(0, 1)
    both[1].set_xlabel("steps", color=INK)
    both[0].set_title(plain(title), loc="left", fontsize=12, color=INK)
    _save(figure, path)


def _figure(path: str | Path, inches: tuple[float, float]) -> Figure:
    """Return an empty figure, once its path is known to be one that it can be saved to."""
    from matplotlib.figure import Figure

    figure, path = Figure(figsize=inches, facecolor="white"), Path(path)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in known:
        allowed = " ".join(f".{suffix}" for suffix in sorted(known))
        raise ArgumentError(f"path: suffix {path.suffix!r} of {path.name} is not allowed; it must be one of {allowed}")
    if not path.parent.is_dir():
        raise ArgumentError(f"path: {path} is not allowed; its folder does not exist")
    return figure


def _save(figure: Figure, path: str | Path) -> None:
    with named(path), warnings.catch_warnings():
        # a box stands for a sign that the font lacks, which the picture itself shows
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(path, dpi=150)
