from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from ncogym.errors import ArgumentError
from ncogym.plotting import (
    COLOURS,
    Histogram,
    draw,
    draw_anytime,
    draw_histogram,
    draw_population,
    gap_histogram,
    linear_below,
    plain,
)
from ncogym.sketch import Bar, Line, Mark, Sketch, sketch_places

CURVES = {"slow": [(1.0, 9.0), (2.0, 4.0), (50.0, 3.0)], "quick": [(0.1, 7.0)], "never": []}
SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def circle(nodes: int) -> np.ndarray:
    """Return points on a circle, so that the best tour is their order."""
    angle = np.arange(nodes) * 2 * np.pi / nodes
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def group(svg: Path, gid: str) -> str:
    """Return what the group ``gid`` of a picture holds, up to the next named group."""
    return svg.read_text().split(f'<g id="{gid}"')[1].split('<g id="')[0]


def ink(png: Path, colour: str) -> np.ndarray:
    """Return the pixels of a picture that have the given colour, as rows and columns."""
    wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return np.argwhere(np.abs(imread(png)[..., :3] - wanted).max(-1) < 0.02)


def tour(locs: np.ndarray, nodes: list[int], style: str = "solid") -> Sketch:
    """Return a sketch of a tour, its start marked."""
    line = Line(nodes + nodes[:1], 0, style)
    return sketch_places(locs)._replace(lines=[line], marks=[Mark(nodes[:1], 1, "square")])


@pytest.mark.parametrize("nodes", [4, 20, 150])
def test_every_point_is_drawn(nodes: int, tmp_path: Path) -> None:
    """A picture shows every node once, and one start."""
    draw(tour(circle(nodes), list(range(nodes))), tmp_path / "tour.svg")
    assert group(tmp_path / "tour.svg", "points").count("<use") == nodes
    assert group(tmp_path / "tour.svg", "mark-0").count("<use") == 1


def test_a_line_goes_through_its_points(tmp_path: Path) -> None:
    """In the order of their visit, and home."""
    draw(tour(SQUARE, [2, 0, 1, 3]), tmp_path / "tour.svg")
    drawn = re.findall(r"[ML] ([\d.]+) ([\d.]+)", group(tmp_path / "tour.svg", "line-0"))
    points = np.array(drawn, dtype=float)
    assert len(points) == 5
    assert (points[0] == points[-1]).all()
    left, right, bottom, top = points[:, 0].min(), points[:, 0].max(), points[:, 1].max(), points[:, 1].min()
    assert points[:4].tolist() == [[right, top], [left, bottom], [right, bottom], [left, top]]


def test_proportions_are_kept(tmp_path: Path) -> None:
    """A field ten times as wide as high is drawn so, not stretched."""
    draw(tour(SQUARE * [10, 1], [0, 1, 2, 3]), tmp_path / "tour.png")
    rows, columns = np.ptp(ink(tmp_path / "tour.png", COLOURS[0]), axis=0)
    assert columns / rows == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("nodes", [20, 150, 3000])
def test_a_picture_is_neither_blank_nor_clotted(nodes: int, tmp_path: Path) -> None:
    """A PNG is large enough to look at, and its ink covers a part of it that lets one see the tour."""
    locs = np.random.RandomState(0).uniform(size=(nodes, 2))
    order = np.lexsort([locs[:, 1], (locs[:, 0] * 10).astype(int)]).tolist()
    draw(tour(locs, order), tmp_path / "tour.png", "a tour")
    pixels = imread(tmp_path / "tour.png")[..., :3]
    assert pixels.shape[:2] == (960, 960)
    assert 0.004 < (pixels.min(-1) < 0.9).mean() < 0.35
    assert len(ink(tmp_path / "tour.png", COLOURS[0])) > 500


def test_arrows_show_the_way(tmp_path: Path) -> None:
    """A line of arrows has a head a leg."""
    draw(tour(SQUARE, [0, 1, 2, 3], "arrows"), tmp_path / "tour.svg")
    assert group(tmp_path / "tour.svg", "line-0-arrows").count("<path") == 4


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_suffix_chooses_the_format(suffix: str, tmp_path: Path) -> None:
    """A file begins as its suffix promises."""
    draw(tour(SQUARE, [0, 1, 2, 3]), tmp_path / f"tour{suffix}")
    start = (tmp_path / f"tour{suffix}").read_bytes()[:8]
    assert start.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])


@pytest.mark.parametrize("name", ["tour.txt", "tour", "tour.png.gz"])
def test_unknown_suffix_is_refused(name: str, tmp_path: Path) -> None:
    """A suffix that stands for no picture is refused in one line that lists those that do, and nothing is written."""
    with pytest.raises(ArgumentError, match=r"^path: suffix .* is not allowed; .*\.pdf.*\.png.*\.svg") as refusal:
        draw(tour(SQUARE, [0, 1, 2, 3]), tmp_path / name)
    with pytest.raises(ArgumentError, match=r"^path: suffix"):
        draw_anytime(CURVES, tmp_path / name, "gap (%)", "")
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """A folder that does not exist is named."""
    with pytest.raises(ArgumentError, match=r"none/tour.png is not allowed; its folder does not exist"):
        draw(tour(SQUARE, [0, 1, 2, 3]), tmp_path / "none" / "tour.png")


def test_a_tour_that_has_not_begun_is_points_alone(tmp_path: Path) -> None:
    """Before the first step there are nodes, and no start."""
    draw(tour(SQUARE, []), tmp_path / "none.svg")
    draw(tour(SQUARE, [0, 1, 2, 3]), tmp_path / "tour.svg")
    none, whole = ((tmp_path / name).read_text().count("<use") for name in ("none.svg", "tour.svg"))
    assert none == whole - 1


def test_lines_have_a_colour_each_and_dashes_where_they_are_dashed(tmp_path: Path) -> None:
    """Each route is a line of its own colour through its customers; its way from the depot and back is dashed."""
    routes = [[1, 2, 3, 4], [5], list(range(6, 13))]
    ways = [Line(route, number, "solid") for number, route in enumerate(routes)]
    legs = [Line([route[0], 0, route[-1]], number, "dashed") for number, route in enumerate(routes)]
    places = sketch_places(np.concatenate([[[0.0, 0.0]], circle(12)]))
    draw(places._replace(lines=[*ways, *legs]), tmp_path / "routes.svg", "three routes")
    for number, line in enumerate([*ways, *legs]):
        drawn = group(tmp_path / "routes.svg", f"line-{number}")
        assert COLOURS[line.colour] in drawn
        assert len(re.findall(r"[ML] [\d.]+ [\d.]+", drawn)) == len(line.points)
        assert ("stroke-dasharray" in drawn) == (line.style == "dashed")


def test_anytime_shows_every_solver_that_found_something(tmp_path: Path) -> None:
    """Each curve has its own colour in the picture; a solver without a solution has none."""
    draw_anytime(CURVES, tmp_path / "any.png", "gap (%)", "three solvers")
    assert len(ink(tmp_path / "any.png", COLOURS[0])) > 500
    assert 50 < len(ink(tmp_path / "any.png", COLOURS[1])) < 1500
    assert not len(ink(tmp_path / "any.png", COLOURS[2]))


def test_anytime_steps_and_does_not_slope(tmp_path: Path) -> None:
    """Between two improvements the best stays what it was: every piece of a curve is level or upright."""
    draw_anytime({"slow": CURVES["slow"]}, tmp_path / "any.svg", "gap (%)", "")
    paths = re.findall(r'<path d="([^"]*)" clip-path[^>]*stroke: ' + COLOURS[0], (tmp_path / "any.svg").read_text())
    points = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", paths[0]), dtype=float)
    assert len(points) == 5
    assert all((before == after).any() for before, after in pairwise(points))


@pytest.mark.parametrize(("longest", "logarithmic"), [(29.0, False), (31.0, True)])
def test_time_is_logarithmic_where_it_spans_much(longest: float, logarithmic: bool, tmp_path: Path) -> None:
    """Half of the time is drawn in the middle on a linear axis, and far to the right on a logarithmic one."""
    draw_anytime({"a": [(1.0, 3.0), (longest / 2, 2.0), (longest, 1.0)]}, tmp_path / "any.svg", "gap (%)")
    paths = re.findall(r'<path d="([^"]*)" clip-path[^>]*stroke: ' + COLOURS[0], (tmp_path / "any.svg").read_text())
    across = [float(x) for x in re.findall(r"[ML] ([\d.]+)", paths[0])]
    half = (across[1] - across[0]) / (across[-1] - across[0])
    assert (half > 0.7) is logarithmic


def test_anytime_names_its_axis(tmp_path: Path) -> None:
    """The picture says whether a curve moves with seconds or with rollouts."""
    for by in ("seconds", "rollouts"):
        draw_anytime(CURVES, tmp_path / "any.svg", "gap (%)", by=by)
        assert f"<!-- {by} per instance -->" in (tmp_path / "any.svg").read_text()


def test_anytime_without_a_point_is_refused(tmp_path: Path) -> None:
    """There is nothing to draw where no solver found anything."""
    with pytest.raises(ArgumentError, match=r"^curves: no point"):
        draw_anytime({"never": []}, tmp_path / "any.png", "gap (%)", "")


@pytest.mark.parametrize(
    ("values", "largest", "threshold"),
    [
        ([5.0, 2.0, 0.0], 9.0, None),  # a linear axis shows them all
        ([5.0, 0.03, 0.0], 9.0, 0.01),
        ([0.03], 0.0, None),
        ([0.03], 9.0, 0.01),
        ([3.0, 80.0], 0.0, 1.0),
        ([0.0005, 3.0], 0.0, 0.001),
        ([1e-12, 3.0], 90.0, 1.0),  # rounding is not to be seen
        ([0.0], 9.0, None),
        ([], 0.0, None),
        ([-5.0, 0.03, 9.0], 0.0, None),  # no logarithm can show what is far below 0
    ],
)
def test_axis_turns_logarithmic_where_values_are_far_apart(
    values: list[float], largest: float, threshold: float | None
) -> None:
    """The turn is a power of ten below the smallest value to tell apart, if the largest is far above it."""
    assert linear_below(values, largest) == (None if threshold is None else pytest.approx(threshold))


@pytest.mark.parametrize(("threshold", "logarithmic"), [(None, False), (0.1, True)])
def test_gaps_are_logarithmic_above_the_threshold(threshold: float | None, logarithmic: bool, tmp_path: Path) -> None:
    """From 10 to 1 is one tenth less than the way to 0 on a linear axis, and half of it on the other; 0 is there."""
    draw_anytime({"a": [(1.0, 10.0), (2.0, 1.0), (3.0, 0.0)]}, tmp_path / "any.svg", "gap (%)", "", threshold)
    paths = re.findall(r'<path d="([^"]*)" clip-path[^>]*stroke: ' + COLOURS[0], (tmp_path / "any.svg").read_text())
    height = sorted({float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", paths[0])})
    assert len(height) == 3
    assert ((height[1] - height[0]) / (height[2] - height[0]) < 0.6) is logarithmic


def test_many_solvers_have_their_names_beside_the_picture(tmp_path: Path) -> None:
    """With ten curves the picture is wider, each has its name, and no two the same colour and line."""
    curves = {f"solver {number}": [(1.0, 1.0 + number), (2.0, 1.0)] for number in range(10)}
    draw_anytime(curves, tmp_path / "any.svg", "gap (%)")
    drawn = (tmp_path / "any.svg").read_text()
    assert all(f"<!-- {name} -->" in drawn for name in curves)
    looks = re.findall(r'clip-path="[^"]*" style="fill: none; (stroke[^"]*)"', drawn)
    assert len({look for look in looks if any(colour in look for colour in COLOURS)}) >= 10


# ---------------------------------------------------------------------- histograms


def test_gaps_are_counted_in_shared_bins() -> None:
    """What is below 0, at 0 and in each bin adds up to all, and each gap is in the bin that holds it."""
    gaps = {"a": [-1.0, 0.0, 1e-9, 0.15, 1.0, 3.0, 20.0], "b": [0.15, 100.0], "c": []}
    found = gap_histogram(gaps, 1e-6)
    assert found.counts["a"][:2] == [1, 2]
    assert found.counts["b"][:2] == [0, 0]
    assert [sum(each) for each in found.counts.values()] == [7, 2, 0]
    assert {len(each) for each in found.counts.values()} == {len(found.edges) + 1}
    assert found.edges == sorted(found.edges)
    for gap in (0.15, 1.0, 3.0, 20.0):
        (inside,) = [place for place, pair in enumerate(pairwise(found.edges)) if pair[0] <= gap < pair[1]]
        assert found.counts["a"][inside + 2] == 1
    assert found.counts["b"][-1] == 1
    assert found.edges[-1] == pytest.approx(100.0)


def test_bins_are_few_and_bear_round_labels() -> None:
    """Bins are equally wide on a logarithmic axis; the smallest few gaps do not make them many."""
    values = np.random.RandomState(0).lognormal(1.0, 1.0, 2000).tolist()
    found = gap_histogram({"a": [*values, 1e-5]}, 1e-6)
    assert 10 < len(found.edges) <= 31
    assert np.ptp(np.diff(np.log(found.edges))) < 1e-9
    assert found.counts["a"][2] >= 20  # all that is below the first edge
    assert all(
        f"{found.edges[tick]:.1g}" in ("0.1", "0.2", "0.5", "1", "2", "5", "1e+01", "1e+02") for tick in found.ticks
    )
    assert found.ticks


@pytest.mark.parametrize("gaps", [[10.0], [7.0, 7.0], [0.0], [-3.0]])
def test_a_histogram_of_one_value_can_be_drawn(gaps: list[float], tmp_path: Path) -> None:
    """A single value, also where it is an edge, 0 or below, is counted once and drawn."""
    found = gap_histogram({"a": gaps}, 1e-6)
    assert sum(found.counts["a"]) == len(gaps)
    assert max(found.counts["a"]) == len(gaps)
    draw_histogram(found, tmp_path / "gaps.svg")
    assert (tmp_path / "gaps.svg").read_text().count('<g id="gaps"') == len(found.counts["a"])


def test_histogram_shows_the_share_at_zero(tmp_path: Path) -> None:
    """The bars of 0 and below bear their share; who has no gap has no row; a share is high by its own scale."""
    counts = {"best": [1, 3, 0, 0], "worse": [0, 0, 2, 2], "other": [0, 0, 0, 0]}
    draw_histogram(Histogram([1.0, 1.25, 1.6], [0], counts), tmp_path / "gaps.svg", "4 instances")
    drawn = (tmp_path / "gaps.svg").read_text()
    words = re.findall(r"<!-- (.*?) -->", drawn)
    assert {"75%", "25%", "better", "0", "1", "best", "worse", "4 instances"} <= set(words)
    assert "other" not in words
    bars = [
        np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", each), float)
        for each in re.findall(r'<g id="gaps">\s*<path d="([^"]*)"', drawn)
    ]
    heights = [np.ptp(bar[:, 1]) for bar in bars]
    assert heights[0] / heights[1] == pytest.approx(1 / 3, rel=0.01)
    assert heights[6] == heights[7] > heights[1]
    assert np.ptp(bars[6][:, 0]) == pytest.approx(np.ptp(bars[1][:, 0]) / 2.5, rel=0.01)


def test_histogram_of_nothing_is_refused(tmp_path: Path) -> None:
    """There is nothing to draw where nobody has a gap."""
    with pytest.raises(ArgumentError, match=r"^histogram: no gap"):
        draw_histogram(Histogram([], [], {"a": [0, 0]}), tmp_path / "gaps.png")


# ---------------------------------------------------------------------- sketches


def test_places_of_a_sketch_keep_their_proportions() -> None:
    """The longer side is 1000 long, whatever the unit, and the box begins at 0."""
    found = sketch_places(np.array([[-2.0, 5.0], [8.0, 5.0], [3.0, 7.5]]))
    assert found.points == [[0, 0], [1000, 0], [500, 250]]
    assert (found.width, found.height, found.proportional) == (1000, 250, True)
    assert (found.lines, found.marks, found.bars) == ([], [], [])


def test_places_of_a_sketch_may_coincide() -> None:
    """Nodes in one place have no extent, which is no error."""
    assert sketch_places(np.ones((3, 2))).points == [[0, 0]] * 3


# ---------------------------------------------------------------------- schedules, packings


def test_bars_stand_in_their_rows(tmp_path: Path) -> None:
    """Bars are as wide as they last, in the rows that they name, and the axes say what is what."""
    bars = [Bar(0, 1, 3, 1, 0, "0"), Bar(3, 0, 2, 1, 0, "0"), Bar(4, 1, 4, 1, 1, "1")]
    chart = Sketch(8, 2, False, [], [], [], bars, "time", "machine", ["1", "0"])
    draw(chart, tmp_path / "chart.svg", "two jobs")
    text = (tmp_path / "chart.svg").read_text()
    drawn = re.findall(r'<g id="bar-(\d)">\s*<path d="([^"]*)"', text)
    assert [job for job, _ in drawn] == ["0", "0", "1"]
    corners = [np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), dtype=float) for _, path in drawn]
    widths = np.array([np.ptp(points[:, 0]) for points in corners])
    assert widths / widths[0] == pytest.approx([1, 2 / 3, 4 / 3], rel=1e-3)
    tops = [points[:, 1].min() for points in corners]
    assert tops[0] == tops[2] < tops[1]
    assert corners[1][:, 0].min() == pytest.approx(corners[0][:, 0].max(), abs=0.01)
    assert {"<!-- time -->", "<!-- machine -->", "<!-- two jobs -->"} <= set(re.findall("<!-- .* -->", text))


@pytest.mark.parametrize("items", [5, 2000])
def test_marks_and_a_note(items: int, tmp_path: Path) -> None:
    """Points that stand out are marked, one marker each, and a line below says the numbers."""
    points = [[place, place] for place in range(items)]
    packing = Sketch(
        items, items, False, points, [], [Mark([3, 0], 0, "disc")], [], "weight", "value", [], "load 5 of 10"
    )
    draw(packing, tmp_path / "packing.svg")
    assert group(tmp_path / "packing.svg", "mark-0").count("<use") == 2
    assert group(tmp_path / "packing.svg", "points").count("<use") == items
    assert "load 5 of 10" in (tmp_path / "packing.svg").read_text()


def test_nothing_can_be_drawn(tmp_path: Path) -> None:
    """An empty sketch is a picture, too."""
    draw(Sketch(0, 0, False, [], [], [], []), tmp_path / "nothing.png")
    assert imread(tmp_path / "nothing.png").ndim == 3


def test_population_shows_members_and_winners(tmp_path: Path) -> None:
    """Each measure of the log is a line with a point a row, without the rows of validations."""
    names = ("best_of_members", "mean_member", "share_won_most", "share_won_least", "unique_winners")
    rows = [f"step,gap,{','.join(names)}", "9,,7.0,8.0,0.5,0.2,0.6", "9,1.5,,,,,", "19,,6.0,7.5,0.4,0.3,0.7"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    draw_population(tmp_path / "metrics.csv", tmp_path / "population.svg", "tour length")
    drawn = tmp_path / "population.svg"
    for name in names:
        assert len(re.findall(r"[ML] [\d.]+ [\d.]+", group(drawn, name))) == 2
        assert f"<!-- {name.replace('_', ' ')} -->" in drawn.read_text()


def test_population_without_members_is_refused(tmp_path: Path) -> None:
    """The log of one policy has none to draw."""
    (tmp_path / "metrics.csv").write_text("step,loss\n9,1.0\n")
    with pytest.raises(ArgumentError, match=r"^metrics: .* best_of_members"):
        draw_population(tmp_path / "metrics.csv", tmp_path / "population.svg", "tour length")


# ---------------------------------------------------------------------- names that are no formulas

HOSTILE = ["$\\frac{$", "$a$ $b", r"\$1$", "caf\udce9", "a\x01\tb", "$\\unknown$", "一\n二"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_can_be_drawn(name: str, suffix: str, tmp_path: Path) -> None:
    """A title, a solver or a reference may be called what a file may be called."""
    paths = [tmp_path / f"{number}{suffix}" for number in range(5)]
    log = tmp_path / "metrics.csv"
    columns = ["step", "best_of_members", "mean_member", "share_won_most", "share_won_least", "unique_winners"]
    log.write_text(f"{','.join(columns)}\n{','.join(['1'] * 6)}\n")
    draw(tour(SQUARE, [0, 1, 2, 3]), paths[0], name)
    draw(Sketch(1, 1, False, [], [], [], [Bar(0, 0, 1, 1, 0, "0")], "time", "machine", ["0"], name), paths[1], name)
    draw_histogram(gap_histogram({name: [1.0, 0.0]}, 1e-6), paths[2], name)
    draw_anytime({name: [(1.0, 2.0)]}, paths[3], f"gap to {name}", name)
    draw_population(log, paths[4], f"mean {name}", name)
    for path in paths:
        if suffix == ".svg":
            ET.parse(path)
        else:
            assert imread(path).ndim == 3


def test_dollars_are_shown_as_they_are() -> None:
    """Matplotlib takes a name for what it is, not for a formula, and shows every sign of it."""
    for name in ("$\\frac{$", "$a$ $b", r"\$1$", "100 $"):
        said, is_formula = Text(0, 0, plain(name))._preprocess_math(plain(name))
        assert (said, is_formula) == (name, False)
    assert plain("caf\udce9\x01") == r"caf\udce9\x01"
