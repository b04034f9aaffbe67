"""Pictures: a tour, routes, a Gantt chart, a packing, anytime curves, histograms of gaps.

matplotlib is imported inside the functions, so that importing this module costs nothing, and only through its object
interface: no global state, no window, no backend to choose. The path's suffix chooses the picture's format.

A `Sketch` is a solution in plain numbers and lists, for those who draw without knowing the problem.
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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, ACCENT = "#1f2933", "#7b8794", "#d1495b"
COLOURS = ("#2f6690", "#d1495b", "#3a9d7c", "#e29030", "#7b5ea7", "#52b2cf", "#8c6d46", "#5f6b76")  # apart in grey, too
LINES = ("-", "--", ":", "-.")

SIDE = 1000  # of a sketch of places

Axis = Literal["seconds", "rollouts"]  # what anytime curves move with


# ---------------------------------------------------------------------- sketches


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
    """

    width: float
    height: float
    proportional: bool
    points: list[list[float]]
    lines: list[Line]
    marks: list[Mark]
    bars: list[Bar]


def sketch_places(locs: np.ndarray) -> Sketch:
    """Return a sketch of places alone, in whole thousandths of the longer side of their bounding box.

    Args:
        locs: ``[nodes, 2]``, coordinates in any unit.
    """
    low, high = locs.min(0), locs.max(0)
    scale = SIDE / max(float((high - low).max()), 1e-30)
    width, height = np.rint((high - low) * scale).astype(int).tolist()
    return Sketch(width, height, True, np.rint((locs - low) * scale).astype(int).tolist(), [], [], [])


def plain(text: str) -> str:
    """Return a text so that matplotlib shows it letter by letter, whatever stands in the name of a file or a solver.

    Dollar signs begin no formula, and what no font or file can hold (control characters, bytes of a file name that are
    not UTF-8) is written as an escape. Whatever is drawn here goes through it.
    """
    shown = re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", lambda sign: ascii(sign[0])[1:-1], text)
    return shown.replace("$", r"\$")


# ---------------------------------------------------------------------- pictures of solutions


def draw_tour(locs: np.ndarray, tour: np.ndarray, path: str | Path, title: str = "", arrows: bool = False) -> None:
    """Draw a closed tour through points of the plane, its start marked.

    Args:
        locs: ``[nodes, 2]``, coordinates in any unit.
        tour: int ``[steps]``, the nodes in the order of their visit, or none; the way home is drawn too.
        path: where the picture goes; the suffix is the format, such as ``.png``, ``.svg`` or ``.pdf``.
        title: one line above the picture.
        arrows: show the direction of each leg.

    Raises:
        ArgumentError: the suffix or the folder is unknown, or the shapes or nodes do not fit.
    """
    locs, tour = np.asarray(locs), np.asarray(tour)
    if locs.ndim != 2 or locs.shape[1] != 2:
        raise ArgumentError(f"locs: shape {list(locs.shape)} is not allowed; it must be [nodes, 2]")
    if tour.ndim != 1 or ((tour < 0) | (tour >= len(locs))).any():
        raise ArgumentError(f"tour: {tour.tolist()} is not allowed; it must name nodes from 0 to {len(locs) - 1}")
    figure = _figure(path, (6.0, 6.0))
    axes = figure.add_axes((0.03, 0.03, 0.94, 0.94 if not title else 0.89))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.margins(0.03)
    # ink per node shrinks with their number, so that 20 nodes look neither lost nor 2,000 clotted
    width, area = np.clip(14 / math.sqrt(len(locs)), 0.35, 2.0), np.clip(2400 / len(locs), 1.0, 48.0)
    axes.plot(
        *locs[np.append(tour, tour[:1])].T, color=COLOURS[0], linewidth=width, solid_joinstyle="round", gid="tour"
    )
    if arrows:  # their heads stand near the middle of the legs, where no node hides them
        legs = 0.55 * (np.roll(locs[tour], -1, axis=0) - locs[tour])
        exact: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1.0, "minlength": 0.0}
        axes.quiver(*locs[tour].T, *legs.T, color=COLOURS[0], width=0.0023 * width, headwidth=5, gid="arrows", **exact)
    x, y = locs.T
    axes.scatter(x, y, s=area, color=INK, edgecolors="white", linewidths=width / 3, zorder=2, gid="nodes")
    x, y = locs[tour[:1]].T
    axes.scatter(x, y, s=max(2.2 * area, 24), marker="s", color=ACCENT, edgecolors="white", zorder=3, gid="start")
    if title:
        figure.suptitle(plain(title), y=0.97, fontsize=12, color=INK)
    _save(figure, path)


def draw_gantt(start: np.ndarray, duration: np.ndarray, machine: np.ndarray, path: str | Path, title: str = "") -> None:
    """Draw a schedule of jobs on machines: a row a machine, a bar an operation, a colour a job.

    A bar bears the number of its job where that fits.

    Args:
        start: int ``[jobs, machines]``, when each operation begins, in processing order.
        duration: int ``[jobs, machines]``.
        machine: int ``[jobs, machines]``, the machine of each; below 0 is no operation.
        path: where the picture goes; the suffix is the format.
        title: one line above the picture.

    Raises:
        ArgumentError: the suffix or the folder is unknown, or the shapes do not fit or hold no operation.
    """
    start, duration, machine = np.asarray(start), np.asarray(duration), np.asarray(machine)
    if start.ndim != 2 or not start.shape == duration.shape == machine.shape:
        shapes = f"{list(start.shape)}, {list(duration.shape)}, {list(machine.shape)}"
        raise ArgumentError(f"start, duration, machine: shapes {shapes} are not allowed; all must be [jobs, machines]")
    jobs, places = np.nonzero(machine >= 0)
    if not len(jobs):
        raise ArgumentError("machine: no operation is there; at least one must be")
    rows, begins, lengths = (values[jobs, places] for values in (machine, start, duration))
    makespan, num_rows = max(int((begins + lengths).max()), 1), int(rows.max()) + 1
    figure = _figure(path, (9.0, min(1.4 + 0.34 * num_rows, 12.0)))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    # neighbouring jobs lie far apart on the colour circle; those that share a tone differ in lightness
    shades = [COLOURS[job % len(COLOURS)] for job in jobs]
    fade = [1.0 - 0.22 * (job // len(COLOURS) % 4) for job in jobs]
    bars = axes.barh(rows, lengths, left=begins, height=0.82, color=shades, edgecolor="white", linewidth=0.5)
    for bar, alpha, job, length in zip(bars, fade, jobs, lengths, strict=True):
        bar.set(alpha=alpha, gid=f"job{job}")
        if length > 0.011 * makespan * len(str(job)) and num_rows <= 30:
            x, y = bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height() / 2
            axes.text(x, y, str(job), ha="center", va="center", fontsize=7, color="white", clip_on=True)
    axes.set_xlim(0, makespan)
    axes.set_ylim(num_rows - 0.5, -0.5)
    axes.set_yticks(range(0, num_rows, 1 + num_rows // 30))
    axes.set_xlabel("time", color=INK)
    axes.set_ylabel("machine", color=INK)
    axes.set_title(plain(title), loc="left", fontsize=12, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MUTED, which="both")
    _save(figure, path)


def draw_routes(locs: np.ndarray, routes: Sequence[Sequence[int]], path: str | Path, title: str = "") -> None:
    """Draw routes from a depot and back, a colour each; the legs to and from the depot are dashed and pale.

    Args:
        locs: ``[nodes, 2]``, coordinates in any unit; node 0 is the depot.
        routes: the customers of each route in the order of their visit, counted from 1.
        path: where the picture goes; the suffix is the format.
        title: one line above the picture.

    Raises:
        ArgumentError: the suffix or the folder is unknown, or the shapes or customers do not fit.
    """
    locs = np.asarray(locs)
    if locs.ndim != 2 or locs.shape[1] != 2:
        raise ArgumentError(f"locs: shape {list(locs.shape)} is not allowed; it must be [nodes, 2]")
    for number, route in enumerate(routes, 1):
        if not len(route) or min(route) < 1 or max(route) >= len(locs):
            allowed = f"it must name customers from 1 to {len(locs) - 1}"
            raise ArgumentError(f"routes: {list(route)} of route {number} is not allowed; {allowed}")
    figure = _figure(path, (6.0, 6.0))
    axes = figure.add_axes((0.03, 0.03, 0.94, 0.94 if not title else 0.89))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.margins(0.03)
    width, area = np.clip(14 / math.sqrt(len(locs)), 0.35, 2.0), np.clip(2400 / len(locs), 1.0, 48.0)
    for number, route in enumerate(routes):
        look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linewidth": width}
        x, y = locs[list(route)].T
        axes.plot(x, y, solid_joinstyle="round", gid=f"route-{number + 1}", **look)
        legs = locs[[route[0], 0, route[-1]]].T
        axes.plot(*legs, linestyle=(0, (4, 3)), alpha=0.45, zorder=1, gid=f"legs-{number + 1}", **look)
        axes.scatter(x, y, s=area, color=look["color"], edgecolors="white", linewidths=width / 3, zorder=2)
    x, y = locs[:1].T
    axes.scatter(x, y, s=max(2.2 * area, 60), marker="s", color=INK, edgecolors="white", zorder=3, gid="depot")
    if title:
        figure.suptitle(plain(title), y=0.97, fontsize=12, color=INK)
    _save(figure, path)


def draw_packing(
    weight: np.ndarray, value: np.ndarray, chosen: np.ndarray, capacity: float, path: str | Path, title: str = ""
) -> None:
    """Draw items by weight and value, those packed filled, over a bar of how full the knapsack is.

    In the bar every packed item is a segment as long as its weight, by value per weight, the best first. A line through
    the origin has the items of one ratio: what is packed lies mostly above what is left out.

    Args:
        weight: ``[items]``, in any unit.
        value: ``[items]``, in any unit.
        chosen: int ``[packed]``, items from 0.
        capacity: in the unit of the weights.
        path: where the picture goes; the suffix is the format.
        title: one line above the picture.

    Raises:
        ArgumentError: the suffix or the folder is unknown, or the shapes or items do not fit.
    """
    weight, value, chosen = np.asarray(weight), np.asarray(value), np.asarray(chosen, dtype=np.int64)
    if weight.ndim != 1 or not weight.size or weight.shape != value.shape:
        shapes = f"{list(weight.shape)}, {list(value.shape)}"
        raise ArgumentError(f"weight, value: shapes {shapes} are not allowed; both must be [items]")
    if chosen.ndim != 1 or (chosen.size and not 0 <= chosen.min() <= chosen.max() < len(weight)):
        raise ArgumentError(f"chosen: {chosen.tolist()} is not allowed; it must name items from 0 to {len(weight) - 1}")
    figure = _figure(path, (6.4, 6.4))
    figure.set_layout_engine("constrained")
    axes, bar = figure.subplots(2, height_ratios=[14, 1])
    packed = np.isin(np.arange(len(weight)), chosen)
    # ink per item shrinks with their number, so that 20 items look neither lost nor 2,000 clotted
    area, line = np.clip(3600 / len(weight), 5.0, 60.0), np.clip(14 / math.sqrt(len(weight)), 0.5, 1.2)
    for part, face, gid, label in ((~packed, "none", "left-out", "left out"), (packed, COLOURS[0], "packed", "packed")):
        edge = MUTED if face == "none" else "white"
        name = f"{label}: {part.sum()}"
        axes.scatter(
            weight[part], value[part], s=area, color=face, edgecolors=edge, linewidths=line, label=name, gid=gid
        )
    axes.set_xlabel("weight", color=INK)
    axes.set_ylabel("value", color=INK)
    axes.set_xlim(left=0 if 2 * weight.min() < weight.max() else None)
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, labelcolor=INK, borderpad=0)
    ratio = np.divide(value, weight, out=np.full(len(weight), np.inf), where=weight > 0)
    order = chosen[np.argsort(-ratio[chosen], kind="stable")]
    ends = weight[order].cumsum()
    edges = {"color": COLOURS[0], "edgecolor": "white", "linewidth": line if len(order) <= 200 else 0}
    bar.barh(np.zeros(len(order)), weight[order], left=ends - weight[order], height=1, **edges, gid="load")
    bar.axvline(capacity, color=ACCENT, linewidth=2, gid="capacity")
    load = float(weight[chosen].sum())
    bar.set_xlim(0, 1.02 * max(capacity, load))
    bar.set_yticks([])
    bar.set_xlabel(f"load {load:.6g} of {capacity:.6g}, value {value[chosen].sum():.6g}", color=INK)
    for each in (axes, bar):
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(colors=MUTED)
    if title:
        figure.suptitle(plain(title), fontsize=12, color=INK)
    _save(figure, path)


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
