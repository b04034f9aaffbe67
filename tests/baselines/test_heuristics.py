from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict

from ncogym.baselines import heuristics
from ncogym.baselines.heuristics import FarthestInsertion, NearestNeighbour, RandomInsertion, TwoOpt, local_search
from ncogym.books import Progress
from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.envs.routing import geometry
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import ArgumentError, UnsupportedProblem
from ncogym.search import Compose
from ncogym.solution import TracePoint
from ncogym.task import Task

ALL = {
    "nearest-neighbour": NearestNeighbour,
    "farthest-insertion": FarthestInsertion,
    "random-insertion": RandomInsertion,
    "two-opt": TwoOpt,
}


def cities(batch: int, num_nodes: int, distribution: str = "uniform") -> tuple[TSP, TensorDict]:
    """An environment and some of its instances."""
    env = Task.of(TSP, num_nodes, distribution)
    return env, env.generate(batch, torch.Generator().manual_seed(7))


def length(dists: list[list[float]], tour: list[int]) -> float:
    """The length of a closed tour."""
    return sum(dists[a][b] for a, b in zip(tour, tour[1:] + tour[:1], strict=True))


def shortest(dists: list[list[float]]) -> float:
    """The shortest closed tour by trying all."""
    return min(length(dists, [0, *rest]) for rest in itertools.permutations(range(1, len(dists))))


def plain_insertion(dists: list[list[float]], order: list[int]) -> list[int]:
    """Insertion as a textbook writes it."""
    tour = order[:1]
    for node in order[1:]:
        costs = [
            dists[a][node] + dists[node][b] - (dists[a][b] if a != b else 0.0)
            for a, b in zip(tour, tour[1:] + tour[:1], strict=True)
        ]
        tour.insert(costs.index(min(costs)) + 1, node)
    return tour


def canonical(tour: list[int]) -> list[int]:
    """The tour from node 0 on, in its direction."""
    at = tour.index(0)
    return tour[at:] + tour[:at]


class Fixed:
    """A solver that returns given tours and remembers its budget."""

    name = "fixed"

    def __init__(self, tours: list[list[int]], rollouts: int = 5) -> None:
        self.tours, self.rollouts, self.budget = torch.tensor(tours), rollouts, Budget(rollouts=999)

    def __call__(self, env, instances, budget, rng):
        self.budget = budget
        progress = Progress(env, instances, None)
        progress.offer(self.tours[:, None].flip(-1).roll(1, -1))
        progress.offer(self.tours[:, None], rollouts=self.rollouts - 1)
        return progress.solutions(self.name)


# ---------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("num_nodes", [3, 4, 5, 17])
def test_tours_are_feasible_and_scored_by_the_environment(name, num_nodes, rng):
    """Every tour visits all nodes once, and its objective is the environment's."""
    env, instances = cities(4, num_nodes)
    solutions = ALL[name]()(env, instances, None, rng)
    actions = torch.stack([solution.actions for solution in solutions])
    assert not env.violations(instances, actions[:, None])
    expected = env.objective(instances, actions[:, None])[:, 0]
    assert [solution.objective for solution in solutions] == expected.tolist()
    assert {solution.solver for solution in solutions} == {name}


@pytest.mark.parametrize("name", ["nearest-neighbour", "farthest-insertion", "two-opt"])
def test_a_row_of_a_batch_equals_that_row_alone(name, rng):
    """What an instance gets does not depend on its neighbours in the batch."""
    env, instances = cities(5, 40, "mixed")
    together = ALL[name]()(env, instances, None, rng)
    alone = [ALL[name]()(env, instances[row : row + 1], None, rng)[0] for row in range(5)]
    assert [s.actions.tolist() for s in together] == [s.actions.tolist() for s in alone]


# ---------------------------------------------------------------------- constructions


def test_nearest_neighbour_by_hand(rng):
    """On a line, from 0: to 1, on to 3 (2 away, against 2.5 back), then back to -1.5."""
    locs = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [-1.5, 0.0], [3.0, 0.0]]])
    (solution,) = NearestNeighbour()(Task.of(TSP, 4), TensorDict({"locs": locs}, batch_size=[1]), None, rng)
    assert solution.actions.tolist() == [0, 1, 3, 2]
    assert solution.objective == 9.0


def test_nearest_neighbour_from_all_starts_keeps_the_best(rng):
    """The best over all starts is what a plain loop over them finds."""
    env, instances = cities(3, 12)
    solutions = NearestNeighbour(starts="all")(env, instances, None, rng)
    for dists, solution in zip(geometry.distances(instances).tolist(), solutions, strict=True):
        lengths = []
        for start in range(12):
            tour = [start]
            while len(tour) < 12:
                tour.append(min((n for n in range(12) if n not in tour), key=dists[tour[-1]].__getitem__))
            lengths.append(length(dists, tour))
        assert solution.objective == pytest.approx(min(lengths))
        assert solution.rollouts == 12


def test_nearest_neighbour_starts_within_the_budget(rng):
    """Under a budget of rollouts no more starts are tried; without need for more, no more are."""
    env, instances = cities(2, 12)
    assert NearestNeighbour(starts="all")(env, instances, MaxRollouts(5), rng)[0].rollouts == 5
    assert NearestNeighbour(starts="all")(env, instances, MaxRollouts(50), rng)[0].rollouts == 12
    assert NearestNeighbour()(env, instances, MaxRollouts(50), rng)[0].rollouts == 1


def test_unknown_starts_are_refused():
    """Starts are first or all."""
    with pytest.raises(ArgumentError, match="starts: 'some' is not allowed"):
        NearestNeighbour(starts="some")


def test_farthest_insertion_is_that_of_a_plain_loop(rng):
    """Order and places are those of the textbook's loops."""
    env, instances = cities(4, 15)
    solutions = FarthestInsertion()(env, instances, None, rng)
    for dists, solution in zip(geometry.distances(instances).tolist(), solutions, strict=True):
        order = [max(range(15), key=lambda node: max(dists[node]))]
        while len(order) < 15:
            rest = (node for node in range(15) if node not in order)
            order.append(max(rest, key=lambda node: min(dists[other][node] for other in order)))
        assert canonical(solution.actions.tolist()) == canonical(plain_insertion(dists, order))


def test_insertion_minds_the_direction(rng):
    """On asymmetric distances a node is inserted by the way there and the way on."""
    dists = torch.rand(6, 9, 9, generator=rng, dtype=torch.float64)
    instances = TensorDict({"dists": dists}, batch_size=[6])
    order = torch.rand(6, 1, 9, generator=torch.Generator().manual_seed(3)).argsort(-1)[:, 0].tolist()
    solutions = RandomInsertion()(Task.of(TSP, 9), instances, None, torch.Generator().manual_seed(3))
    for matrix, nodes, solution in zip(dists.tolist(), order, solutions, strict=True):
        assert canonical(solution.actions.tolist()) == canonical(plain_insertion(matrix, nodes))


def test_random_insertion_follows_its_generator():
    """The same seed gives the same tours, another seed others, and the global generator is left alone."""
    env, instances = cities(3, 30)
    before = torch.get_rng_state()
    runs = [
        [s.actions.tolist() for s in RandomInsertion()(env, instances, None, torch.Generator().manual_seed(seed))]
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(before, torch.get_rng_state())


def test_random_insertion_spends_a_budget_of_rollouts(rng):
    """Without a budget it builds one tour, with one as many as that allows, and the best is kept."""
    env, instances = cities(3, 30)
    once = RandomInsertion()(env, instances, None, torch.Generator().manual_seed(1))
    often = RandomInsertion()(env, instances, MaxRollouts(40), torch.Generator().manual_seed(1))
    assert (once[0].rollouts, often[0].rollouts) == (1, 40)
    assert sum(s.objective for s in often) < sum(s.objective for s in once)


def test_random_insertion_stops_when_cancelled(rng):
    """A budget that is cancelled beforehand still gets one round, and no more."""
    env, instances = cities(1, 10)
    budget = MaxSeconds(600)
    budget.cancel.set()
    assert RandomInsertion()(env, instances, budget, rng)[0].rollouts == 1


# ---------------------------------------------------------------------- local search


def test_two_opt_uncrosses_a_square(rng):
    """The two diagonals of a square are exchanged for sides."""
    locs = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    instance = TensorDict({"locs": locs}, batch_size=[1])
    (solution,) = Compose(Fixed([[0, 2, 1, 3]]), TwoOpt())(Task.of(TSP, 4), instance, None, rng)
    assert solution.objective == 4.0


@pytest.mark.parametrize("distribution", ["uniform", "clustered"])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("neighbours", [1, 10])
def test_no_two_opt_move_is_left(distribution, whole, neighbours, monkeypatch, rng):
    """From random tours, no exchange of two edges is left that shortens one, however few neighbours are tried first."""
    monkeypatch.setattr(heuristics, "NEIGHBOURS", neighbours)
    rows = [*range(38), 394, 503]  # in the last two, clustered, a move is left that only the mirror image shows
    env, instances = cities(2000, 30, distribution)
    instances = instances[rows]
    if whole:  # and so many distances are equal
        instances["dists"] = (geometry.distances(instances) * 20).round()
    start = Fixed([random.Random(row).sample(range(30), 30) for row in rows])
    solutions = Compose(start, TwoOpt())(env, instances, None, rng)
    for dists, solution in zip(geometry.distances(instances).tolist(), solutions, strict=True):
        tour = solution.actions.tolist()
        for i, j in itertools.combinations(range(30), 2):
            a, b, c, d = tour[i], tour[i + 1], tour[j], tour[(j + 1) % 30]
            assert dists[a][c] + dists[b][d] >= dists[a][b] + dists[c][d] - 1e-9


def test_two_opt_sees_beyond_dense_clusters(rng):
    """Clusters of more nodes than neighbours are tried at first, visited crosswise, are uncrossed all the same."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]).repeat_interleave(15, 0)
    locs = corners + 1e-3 * torch.rand(60, 2, generator=rng)
    (solution,) = Compose(Fixed([list(range(60))]), TwoOpt())(
        Task.of(TSP, 60), TensorDict({"locs": locs[None]}, [1]), None, rng
    )
    assert 4.0 < solution.objective < 4.1


def test_no_or_opt_move_is_left_where_all_nodes_are_near(rng):
    """With few nodes, no segment of up to three can be moved anywhere, either way round, to shorten a tour."""
    env, instances = cities(200, 9)
    start = Fixed([random.Random(row).sample(range(9), 9) for row in range(200)])
    for dists, solution in zip(
        geometry.distances(instances).tolist(), Compose(start, TwoOpt())(env, instances, None, rng), strict=True
    ):
        tour = solution.actions.tolist()
        for begin, size in itertools.product(range(9), (1, 2, 3)):
            turned = tour[begin:] + tour[:begin]
            segment, rest = turned[:size], turned[size:]
            for place, way in itertools.product(range(len(rest)), (1, -1)):
                other = rest[:place] + segment[::way] + rest[place:]
                assert length(dists, other) >= solution.objective - 1e-9


@pytest.mark.parametrize("num_nodes", [3, 4, 5, 6, 7])
def test_local_search_is_sane_on_tiny_instances(num_nodes):
    """Every tour that it returns is a tour, none is shorter than the shortest, and most are the shortest."""
    _, instances = cities(20, num_nodes)
    tours = torch.stack([torch.randperm(num_nodes, generator=torch.Generator().manual_seed(row)) for row in range(20)])
    dists = geometry.distances(instances)
    found = local_search(dists, tours)
    assert torch.equal(found.sort(-1).values, torch.arange(num_nodes).expand(20, -1))
    gaps = [length(d, t) / shortest(d) - 1 for d, t in zip(dists.tolist(), found.tolist(), strict=True)]
    assert min(gaps) > -1e-9
    assert sum(gap < 1e-9 for gap in gaps) >= 17


def test_local_search_stops_when_told():
    """Stopped after any number of moves it returns tours, and never a longer one than after fewer."""
    env, instances = cities(3, 25)
    dists = geometry.distances(instances)
    tours = torch.stack([torch.randperm(25, generator=torch.Generator().manual_seed(row)) for row in range(3)])
    lengths = []
    for moves in range(12):
        answers = iter([False] * (moves + 1))
        found = local_search(dists, tours, lambda answers=answers: next(answers, True))
        assert torch.equal(found.sort(-1).values, torch.arange(25).expand(3, -1))
        lengths.append(env.objective(instances, found[:, None]).squeeze(1))
    assert torch.equal(lengths[0], env.objective(instances, tours[:, None]).squeeze(1))
    assert all((after <= before).all() for before, after in itertools.pairwise(lengths))
    assert lengths[-1].sum() < lengths[1].sum() < lengths[0].sum()


def test_parts_of_the_distances_are_as_good_as_all(monkeypatch, rng):
    """However few are copied at a time, moves and insertions are the same, and diagonals do not count."""
    env, instances = cities(2, 40)
    dists = geometry.distances(instances)
    dists.diagonal(dim1=1, dim2=2).fill_(9.0)
    instances = TensorDict({"dists": dists}, batch_size=[2])
    solvers = TwoOpt(), FarthestInsertion()
    whole = [solver(env, instances, None, rng) for solver in solvers]
    monkeypatch.setattr(heuristics, "BLOCK", 200)
    for solver, expected in zip(solvers, whole, strict=True):
        found = solver(env, instances, None, rng)
        assert [s.actions.tolist() for s in found] == [s.actions.tolist() for s in expected]


def test_two_opt_is_never_worse_than_its_start(rng):
    """A start that cannot be improved comes back as it was."""
    env, instances = cities(3, 30)
    once = TwoOpt()(env, instances, None, rng)
    again = Compose(Fixed([s.actions.tolist() for s in once]), TwoOpt())(env, instances, None, rng)
    assert [s.objective for s in again] == pytest.approx([s.objective for s in once], rel=1e-12)


def test_the_start_gets_its_share_of_the_budget(rng):
    """The start gets nine tenths of the seconds, all rollouts, and the same wish to cancel; or no limit for none."""
    env, instances = cities(1, 5)
    budget = MaxSeconds(100) | MaxRollouts(7)
    start = Fixed([[0, 1, 2, 3, 4]])
    Compose(start, TwoOpt())(env, instances, budget, rng)
    assert start.budget.seconds == pytest.approx(90, abs=1)
    assert (start.budget.rollouts, start.budget.patience) == (7, math.inf)
    assert start.budget.cancel is budget.cancel
    Compose(start, TwoOpt())(env, instances, None, rng)
    assert not start.budget.finite


def test_no_move_is_made_once_cancelled(rng):
    """A cancelled budget returns the start's solution."""
    env, instances = cities(2, 20)
    tours = [random.Random(row).sample(range(20), 20) for row in range(2)]
    budget = Budget()
    budget.cancel.set()
    solutions = Compose(Fixed(tours), TwoOpt())(env, instances, budget, rng)
    assert [length(d, t) for d, t in zip(geometry.distances(instances).tolist(), tours, strict=True)] == pytest.approx(
        [s.objective for s in solutions]
    )


def test_the_curve_goes_on_from_the_start(rng):
    """The result keeps the start's curve and rollouts, adds its own improvement, and bears both names."""
    env, instances = cities(1, 20)

    class Late(Fixed):
        def __call__(self, *arguments):
            (solution,) = super().__call__(*arguments)
            trace = (TracePoint(40.0, 2, 99.0), TracePoint(50.0, 5, solution.objective))
            return [replace(solution, seconds=60.0, trace=trace)]

    (solution,) = Compose(Late([list(range(20))]), TwoOpt())(env, instances, None, rng)
    assert solution.solver == "fixed+two-opt"
    assert solution.rollouts == 5
    assert [(p.seconds, p.rollouts) for p in solution.trace[:2]] == [(40.0, 2), (50.0, 5)]
    last = solution.trace[2]
    assert (last.rollouts, last.objective) == (5, solution.objective)
    assert 60.0 < last.seconds <= solution.seconds < 70.0
    assert len(solution.trace) == 3


def test_two_opt_asks_its_start_too(rng):
    """What the start cannot take, two-opt from it cannot take, nor what two-opt cannot; then nothing is begun."""

    class Picky(Fixed):
        def check(self, env, instances):
            raise UnsupportedProblem("picky cannot take tsp")

    env, instances = cities(1, 5)
    start = Picky([[0]])
    with pytest.raises(UnsupportedProblem, match="picky cannot take tsp"):
        Compose(start, TwoOpt())(env, instances, None, rng)
    with pytest.raises(UnsupportedProblem, match="two-opt cannot take cvrp"):
        Compose(Fixed([[0]]), TwoOpt())(Task.of(CVRP, 5), Task.of(CVRP, 5).generate(1, rng), None, rng)
    assert start.budget.rollouts == 999
