"""Pictures: a tour, routes, a Gantt chart, a packing, anytime curves.

matplotlib is imported inside the functions, so that importing this module costs nothing, and only through its object
interface: no global state, no window, no backend to choose. The path's suffix chooses the picture's format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ncogym.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, ACCENT = "#1f2933", "#7b8794", "#d1495b"
COLOURS = ("#2f6690", "#d1495b", "#3a9d7c", "#e29030", "#7b5ea7", "#52b2cf", "#8c6d46", "#5f6b76")  # apart in grey, too
LINES = ("-", "--", ":", "-.")


def draw_tour(locs: np.ndarray, tour: np.ndarray, path: str | Path, title: str = "", arrows: bool = False) -> None:
    """Draw a closed tour through points of the plane, its start marked.

    Args:
        locs: ``[nodes, 2]``, coordinates in any unit.
        tour: int ``[steps]``, the nodes in the order of their visit; the way home is drawn too.
        path: where the picture goes; the suffix is the format, such as ``.png``, ``.svg`` or ``.pdf``.
        title: one line above the picture.
        arrows: show the direction of each leg.

    Raises:
        ArgumentError: the suffix or the folder is unknown, or the shapes or nodes do not fit.
    """
    locs, tour = np.asarray(locs), np.asarray(tour)
    if locs.ndim != 2 or locs.shape[1] != 2:
        raise ArgumentError(f"locs: shape {list(locs.shape)} is not allowed; it must be [nodes, 2]")
    if tour.ndim != 1 or not tour.size or tour.min() < 0 or tour.max() >= len(locs):
        raise ArgumentError(f"tour: {tour.tolist()} is not allowed; it must name nodes from 0 to {len(locs) - 1}")
    figure = _figure(path, (6.0, 6.0))
    axes = figure.add_axes((0.03, 0.03, 0.94, 0.94 if not title else 0.89))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.margins(0.03)
    # ink per node shrinks with their number, so that 20 nodes look neither lost nor 2,000 clotted
    width, area = np.clip(14 / math.sqrt(len(locs)), 0.35, 2.0), np.clip(2400 / len(locs), 1.0, 48.0)
    axes.plot(*locs[np.append(tour, tour[0])].T, color=COLOURS[0], linewidth=width, solid_joinstyle="round", gid="tour")
    if arrows:  # their heads stand near the middle of the legs, where no node hides them
        legs = 0.55 * (np.roll(locs[tour], -1, axis=0) - locs[tour])
        exact: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1.0, "minlength": 0.0}
        axes.quiver(*locs[tour].T, *legs.T, color=COLOURS[0], width=0.0023 * width, headwidth=5, gid="arrows", **exact)
    x, y = locs.T
    axes.scatter(x, y, s=area, color=INK, edgecolors="white", linewidths=width / 3, zorder=2, gid="nodes")
    x, y = locs[tour[0]]
    axes.scatter(x, y, s=max(2.2 * area, 24), marker="s", color=ACCENT, edgecolors="white", zorder=3, gid="start")
    if title:
        figure.suptitle(title, y=0.97, fontsize=12, color=INK)
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
    axes.set_title(title, loc="left", fontsize=12, color=INK)
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
        figure.suptitle(title, y=0.97, fontsize=12, color=INK)
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
    order = chosen[np.argsort(-value[chosen] / weight[chosen], kind="stable")]
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
        figure.suptitle(title, fontsize=12, color=INK)
    _save(figure, path)


def draw_anytime(
    curves: Mapping[str, Sequence[tuple[float, float]]], path: str | Path, ylabel: str, title: str = ""
) -> None:
    """Draw how the best value falls (or rises) with time: one step curve a solver.

    The time axis is logarithmic where the times span more than a factor of thirty. A curve begins at its first value;
    nothing is drawn before, for there was no solution yet.

    Args:
        curves: by solver, ``(seconds, value)`` in order of time; a single pair is drawn as a dot.
        path: where the picture goes; the suffix is the format.
        ylabel: what the values are, with their unit.
        title: one line above the picture.

    Raises:
        ArgumentError: the suffix or the folder is unknown, or there is no point to draw.
    """
    times = [seconds for curve in curves.values() for seconds, _ in curve]
    if not times:
        raise ArgumentError("curves: no point is there; at least one solver must have one")
    figure = _figure(path, (7.0, 4.4))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    for number, (name, curve) in enumerate(curves.items()):
        if curve:
            colour, line = COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]
            seconds, values = zip(*curve, strict=True)
            (drawn,) = axes.step(seconds, values, line, where="post", color=colour, linewidth=1.8, label=name)
            drawn.set(marker="o", markersize=4.5, markevery=[len(curve) - 1])
    if 0 < 30 * min(times) < max(times):
        axes.set_xscale("log")
    axes.set_xlabel("seconds per instance", color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.grid(color=MUTED, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MUTED, which="both")
    axes.legend(frameon=False, labelcolor=INK)
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
    figure.savefig(path, dpi=150)
