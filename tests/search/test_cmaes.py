from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cmaes import CMA
from torch import Tensor

from ncogym.errors import ArgumentError
from ncogym.search.cmaes import CMAES, centroids


def sphere(x: Tensor) -> Tensor:
    """Return the squared distance from a point beside the origin."""
    return (x - 0.3).square().sum(-1)


def rosenbrock(x: Tensor) -> Tensor:
    """Return Rosenbrock's function, a bent valley with its lowest point at 1."""
    return (100 * (x[..., 1:] - x[..., :-1].square()).square() + (1 - x[..., :-1]).square()).sum(-1)


class Oracle:
    """The package ``cmaes`` on one instance, without the negative weights of its worse half.

    Its exponent of ``1 - c_sigma`` in the test for h_sigma is one update ahead of the tutorial's; its counter begins
    one update earlier here to make up for that.
    """

    def __init__(self, mean: Tensor, sigma: float, elites: int, seed: int = 0) -> None:
        self.search = CMA(mean.double().numpy().copy(), sigma, population_size=2 * elites, seed=seed)
        self.search._weights[elites:] = 0
        self.search._g = -1
        self.elites = elites

    def tell(self, points: Tensor, fitness: Tensor) -> None:
        """Tell all points ``[count, dim]``; those behind the elites have no weight, so that their number is free."""
        order = fitness.argsort(stable=True)[: self.elites].tolist()
        rest = [(self.search.mean.copy(), np.inf)] * self.elites
        self.search._eigen_decomposition()
        self.search.tell([(points[i].numpy(), fitness[i].item()) for i in order] + rest)

    def agrees(self, ours: CMAES, row: int, component: int = 0) -> None:
        """Check mean, step size and covariance."""
        found = (ours.means, ours.sigmas, ours.covariances)
        expected = (self.search._mean, self.search._sigma, self.search._C)
        for ours_now, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours_now[row, component], torch.as_tensor(theirs), rtol=1e-8, atol=1e-10)


# ---------------------------------------------------------------------- against the package


@pytest.mark.parametrize(("count", "elites"), [(16, 8), (16, 12), (16, 3), (9, 4), (6, 6)])
@pytest.mark.parametrize("dim", [2, 5, 16])
def test_it_is_the_packages_recursion(dim, count, elites, rng):
    """Told the same points and values, every row has the mean, step size and covariance of a search by itself."""
    means, functions = torch.rand(1, dim), (sphere, rosenbrock, lambda x: x.sum(-1).sin())
    ours = CMAES(means, 3, elites=elites, sigma=0.7)
    oracles = [Oracle(means[0], 0.7, elites) for _ in range(3)]
    for _ in range(25):
        points = ours.ask(count, rng)
        fitness = torch.stack([function(x) for function, x in zip(functions, points, strict=True)])
        ours.tell(fitness)
        for row, oracle in enumerate(oracles):
            oracle.tell(points[row], fitness[row])
            oracle.agrees(ours, row)


def test_a_long_path_stalls_the_rank_one_update(rng):
    """At the first update h_sigma is 0 where a step is longer than 1.4 + 2 / (n + 1) times its mean by chance."""
    n, elites = 4, 4
    ours = CMAES(torch.zeros(1, n), 2, elites=elites, sigma=1.0)
    raw = [math.log(elites + 0.5) - math.log(place) for place in range(1, elites + 1)]
    by_chance = 1.88 * math.sqrt(sum(weight**2 for weight in raw)) / sum(raw)  # E|N(0, I)| is 1.88 in four dimensions
    length = by_chance * (1.4 + 2 / (n + 1)) * torch.tensor([[0.98], [1.02]], dtype=torch.float64)
    points = ours.ask(8, rng)
    points[:] = ours._steps[:] = ours._white[:] = (length / math.sqrt(n)).unsqueeze(-1)  # all eight at one place
    ours.tell(sphere(points))
    assert (ours._path[0] != 0).all()
    assert (ours._path[1] == 0).all()
    for row in range(2):
        oracle = Oracle(torch.zeros(n), 1.0, elites)
        oracle.tell(points[row], sphere(points[row]))
        oracle.agrees(ours, row)


def test_no_value_is_read(rng):
    """A generation runs on the meta device, whose tensors have no values: the host waits for none."""
    ours = CMAES(torch.zeros(2, 4, device="meta"), 3, elites=4, sigma=1.0)
    for _ in range(2):
        points = ours.ask(8, rng)
        ours.tell(sphere(points))
    assert points.shape == (3, 8, 4)


def generations(function: Callable[[Tensor], Tensor], dim: int, seed: int, goal: float) -> float:
    """Return how many generations of 16 the package needs."""
    oracle = Oracle(torch.zeros(dim), 0.5, 8, seed)
    for generation in range(1, 5_000):
        points = torch.from_numpy(np.stack([oracle.search.ask() for _ in range(16)]))
        fitness = function(points)
        if fitness.min() < goal:
            return generation
        oracle.tell(points, fitness)
    raise AssertionError("the package did not converge")


@pytest.mark.parametrize(("function", "dim"), [(sphere, 4), (sphere, 16), (rosenbrock, 4), (rosenbrock, 8)])
def test_it_converges_like_the_package(function, dim, rng):
    """On a sphere and in Rosenbrock's valley the median number of generations is the package's, to within a fifth."""
    goal, rows = 1e-8, 24
    ours, needed = CMAES(torch.zeros(1, dim), rows, elites=8, sigma=0.5), torch.zeros(rows)
    for generation in range(1, 5_000):
        fitness = function(ours.ask(16, rng))
        needed[(needed == 0) & (fitness.amin(-1) < goal)] = generation
        if (needed > 0).sum() > 0.7 * rows:  # a few rows may stay in the valley's other minimum
            break
        ours.tell(fitness)
    needed[needed == 0] = torch.inf
    theirs = statistics.median(generations(function, dim, seed, goal) for seed in range(5))
    assert needed.median().item() == pytest.approx(theirs, rel=0.2)


# ---------------------------------------------------------------------- instances and components


def test_instances_are_apart(rng):
    """Other values of one instance change nothing of the others, to the bit."""
    runs = []
    for sign in (1, -1):
        ours, draw = CMAES(torch.zeros(2, 3), 3, elites=4, sigma=1.0), torch.Generator().manual_seed(5)
        for _ in range(8):
            points = ours.ask(8, draw)
            ours.tell(rosenbrock(points) * torch.tensor([[1], [sign], [1]]))
        runs.append(ours)
    for name in ("means", "sigmas", "covariances"):
        one, other = (getattr(run, name) for run in runs)
        assert torch.equal(one[[0, 2]], other[[0, 2]]), name
        assert not torch.equal(one[1], other[1]), name


def test_components_take_turns(rng):
    """Each component is drawn from and updated every third generation, and is a search by itself meanwhile."""
    means = torch.tensor([[-1.0, 0, 0], [0, 1, 0], [0, 0, 5]])
    ours, oracles = CMAES(means, 2, elites=5, sigma=0.1), [Oracle(mean, 0.1, 5) for mean in means]
    for generation in range(9):
        turn, before = generation % 3, ours.means.clone()
        assert ours.turn == turn
        points = ours.ask(10, rng)
        fitness = sphere(points)
        ours.tell(fitness)
        oracles[turn].tell(points[1], fitness[1])
        changed = (ours.means != before).any(-1)
        assert changed.tolist() == [[component == turn for component in range(3)]] * 2
    for component, oracle in enumerate(oracles):
        oracle.agrees(ours, 1, component)
    assert ours.updates == [3, 3, 3]


def test_the_first_generation_is_drawn_round_the_means(rng):
    """Its mean and spread are those given, it is float64, and a seed decides it."""
    ours = CMAES(torch.tensor([[2.0, -1.0]]), 50, elites=8, sigma=0.25)
    points = ours.ask(400, rng)
    assert points.dtype == torch.float64
    torch.testing.assert_close(points.mean((0, 1)), torch.tensor([2.0, -1.0], dtype=torch.float64), atol=0.01, rtol=0)
    torch.testing.assert_close(points.std((0, 1)), torch.full((2,), 0.25, dtype=torch.float64), atol=0.01, rtol=0)
    again = CMAES(torch.tensor([[2.0, -1.0]]), 50, elites=8, sigma=0.25).ask(400, torch.Generator().manual_seed(0))
    assert torch.equal(points, again)
    assert not torch.equal(ours.ask(400, rng), points)  # not told yet: drawn anew


def test_of_equal_values_the_earlier_goes_first(rng):
    """On a plateau the first points of a generation are its elites."""
    ours = CMAES(torch.zeros(1, 3), 2, elites=2, sigma=1.0)
    points = ours.ask(6, rng)
    ours.tell(torch.zeros(2, 6))
    weights = torch.tensor([2.5, 2.5 / 2], dtype=torch.float64).log()
    expected = (points[:, :2] * (weights / weights.sum()).unsqueeze(-1)).sum(1)
    torch.testing.assert_close(ours.means[:, 0], expected)


def test_it_goes_on_where_nothing_is_left_to_find(rng):
    """Hundreds of generations after a sphere is solved to the last bit, all numbers are finite."""
    ours = CMAES(torch.zeros(1, 2), 2, elites=4, sigma=1.0)
    for _ in range(1_000):
        ours.tell(sphere(ours.ask(8, rng)))
    for value in (ours.means, ours.sigmas, ours.covariances):
        assert value.isfinite().all()
    torch.testing.assert_close(ours.means, torch.full_like(ours.means, 0.3))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"instances": 0}, "instances: 0 is not allowed; it must be at least 1"),
        ({"elites": 0}, "elites: 0 is not allowed; it must be at least 1"),
        ({"sigma": 0.0}, "sigma: 0.0 is not allowed; it must be above 0 and finite"),
        ({"sigma": float("inf")}, "sigma: inf is not allowed"),
        ({"sigma": float("nan")}, "sigma: nan is not allowed"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    """A value outside of what is allowed is refused in one line that names it."""
    with pytest.raises(ArgumentError, match=words):
        CMAES(torch.zeros(1, 2), **{"instances": 1, "elites": 4, "sigma": 1.0, **arguments})


def test_values_of_other_points_are_refused(rng):
    """Untold points, another number of points, and fewer than the elites are refused; the state stays as it was."""
    ours = CMAES(torch.zeros(1, 2), 3, elites=4, sigma=1.0)
    with pytest.raises(
        ArgumentError, match=r"fitness: shape \(3, 8\) is not allowed; it must be .* asked for, \(3, 0\)"
    ):
        ours.tell(torch.zeros(3, 8))
    ours.ask(8, rng)
    with pytest.raises(ArgumentError, match=r"fitness: shape \(3, 7\)"):
        ours.tell(torch.zeros(3, 7))
    ours.ask(3, rng)
    with pytest.raises(ArgumentError, match="with at least 4 an instance"):
        ours.tell(torch.zeros(3, 3))
    assert (ours.means == 0).all()
    assert (ours.turn, ours.updates) == (0, [0])


# ---------------------------------------------------------------------- where components begin


def test_centroids_are_the_middles_of_their_cells(rng):
    """In one dimension they halve the box; in the plane each is the mean of the points that are nearest to it."""
    torch.testing.assert_close(
        centroids(2, 1, rng).sort(0)[0], torch.tensor([[-0.5], [0.5]]).double(), atol=0.03, rtol=0
    )
    found = centroids(4, 2, rng)
    places = 2 * torch.rand(40_000, 2, generator=rng).double() - 1
    nearest = torch.cdist(places, found).argmin(-1)
    for cell, centre in enumerate(found):
        assert (nearest == cell).sum() > 5_000
        torch.testing.assert_close(places[nearest == cell].mean(0), centre, atol=0.05, rtol=0)


def test_centroids_follow_from_the_seed():
    """Those of 16 dimensions lie in the box, apart from each other, and a seed gives them again."""
    one, again, other = (centroids(3, 16, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert (one.abs() < 1).all()
    assert torch.nn.functional.pdist(one).min() > 0.3
