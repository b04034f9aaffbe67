"""Pictures: a tour, anytime curves.

matplotlib is imported inside the functions, so that importing this module costs nothing, and only through its object
interface: no global state, no window, no backend to choose. The path's suffix chooses the picture's format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ncogym.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, ACCENT = "#1f2933", "#7b8794", "#d1495b"
COLOURS = ("#2f6690", "#d1495b", "#3a9d7c", "#e29030", "#7b5ea7", "#52b2cf", "#8c6d46", "#5f6b76")  # apart in grey, too
LINES = ("-", "--", ":", "-.")


def draw_tour(locs: np.ndarray, tour: np.ndarray, path: str | Path, title: str = "") -> None:
    """Draw a closed tour through points of the plane, its start marked.

    Args:
        locs: ``[nodes, 2]``, coordinates in any unit.
        tour: int ``[steps]``, the nodes in the order of their visit; the way home is drawn too.
        path: where the picture goes; the suffix is the format, such as ``.png``, ``.svg`` or ``.pdf``.
        title: one line above the picture.

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
    x, y = locs.T
    axes.scatter(x, y, s=area, color=INK, edgecolors="white", linewidths=width / 3, zorder=2, gid="nodes")
    x, y = locs[tour[0]]
    axes.scatter(x, y, s=max(2.2 * area, 24), marker="s", color=ACCENT, edgecolors="white", zorder=3, gid="start")
    if title:
        figure.suptitle(title, y=0.97, fontsize=12, color=INK)
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
