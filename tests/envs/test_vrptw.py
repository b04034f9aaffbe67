from __future__ import annotations

import itertools
import math

import pytest
import torch

from ncogym.baselines import SOLVERS
from ncogym.baselines.pyvrp import to_times
from ncogym.budget import MaxRollouts
from ncogym.envs.routing import geometry
from ncogym.envs.routing.vrptw import VRPTW
from ncogym.errors import InstanceError
from ncogym.laws import check_env
from ncogym.models import Routes
from ncogym.policies import AttentionPolicy
from ncogym.search import Reconstruct
from ncogym.task import Task


def shortest(instance):
    """Try every order of the customers with every way to cut it into routes, from the definition."""
    windows, service = instance["windows"][0].double().tolist(), instance["service"][0].double().tolist()
    demand, capacity = instance["demand"][0].tolist(), float(instance["capacity"][0])
    places = instance["locs"][0].double().tolist()
    best, customers = math.inf, len(places) - 1

    def cost(route):
        time, length = windows[0][0], 0.0
        for a, b in itertools.pairwise([0, *route, 0]):
            way = math.dist(places[a], places[b])
            time, length = time + way, length + way
            if time > windows[b][1] + 1e-9:
                return math.inf
            time = max(time, windows[b][0]) + service[b]
        return length if sum(demand[node] for node in route) <= capacity else math.inf

    for order in itertools.permutations(range(1, customers + 1)):
        for cuts in itertools.product((False, True), repeat=customers - 1):
            routes = [[order[0]]]
            for node, cut in zip(order[1:], cuts, strict=True):
                routes.append([node]) if cut else routes[-1].append(node)
            best = min(best, sum(map(cost, routes)))
    return best


@pytest.fixture
def square(data):
    """A depot and three customers on a 3 by 4 rectangle."""
    return VRPTW().read(data / "square4.solomon.txt")


def test_the_laws_hold():
    """Every law holds, and the best of all action sequences is what trying all routes finds."""
    env, tiny = Task.of(VRPTW, 8), Task.of(VRPTW, 4)
    solvers = [solver() for solver in SOLVERS.values()]
    checked = check_env(env, seed=3, tiny=tiny, brute_force=shortest, solvers=solvers)
    assert {"enumeration finds the optimum", "solvers solve what they take"} <= {*checked}


def test_only_who_knows_windows_takes_it(rng):
    """PyVRP alone takes it; savings and HGS say what they do not know."""
    env = Task.of(VRPTW, 5)
    instances = env.generate(2, rng)
    assert env.model(instances).needs == {"windows", "service"}
    assert [name for name, make in SOLVERS.items() if make().supports(env, instances)] == ["pyvrp"]
    for name in ("savings", "hgs", "ortools"):
        assert "have service, windows, which it does not know" in SOLVERS[name]().refuses(env.model(instances))


def test_time_goes_by_by_hand(square):
    """1 opens at 9, is reached at 3, left at 11; 2 closes at 6; what cannot be reached in time is shut."""
    env = VRPTW()
    state = env.start(square)
    assert state.action_mask[0, 0].tolist() == [False, True, True, True]
    waited = env.advance(state, torch.tensor([[1]]))
    assert waited.time.item() == 11  # 3 on the way, 6 of waiting, 2 of service
    assert waited.action_mask[0, 0].tolist() == [True, False, False, True]
    home = env.advance(waited, torch.tensor([[0]]))
    assert (home.time.item(), home.load_left.item()) == (0, 3)
    served = env.advance(home, torch.tensor([[2]]))
    assert served.time.item() == 6
    assert env.advance(served, torch.tensor([[3]])).done.item()


@pytest.mark.parametrize(
    ("routes", "words"),
    [
        ([2, 3, 0, 1], []),
        ([1, 2, 0, 3], ["route 1: customer 2 is reached at 15, after 6"]),
        ([2, 0, 1], ["customer 3 is never visited"]),
        ([2, 1, 0, 3], []),
    ],
)
def test_the_referee_times_every_route(square, routes, words):
    """Late customers are named with the moment."""
    actions = torch.tensor([[routes + [0] * (6 - len(routes))]])
    assert [violation.reason for violation in VRPTW().violations(square, actions)] == words


def test_a_depot_that_closes_is_named(square):
    """A route that comes back after the depot has closed is none."""
    early = square.clone()
    early["windows"][0, 0, 1] = 20
    actions = torch.tensor([[[2, 3, 0, 1, 0, 0]]])
    (violation,) = VRPTW().violations(early, actions)
    assert violation.reason == "route 1: it is back at 24, after 20"


def test_an_instance_is_read(square):
    """Distances are cut off after a decimal; the answer is routes of the file's nodes."""
    env = VRPTW()
    assert square["dists"][0, 0].tolist() == [0, 3, 5, 4]
    assert (square["capacity"].item(), square["service"][0].tolist()) == (3, [0, 2, 1, 0])
    assert env.answer(square, torch.tensor([2, 3, 0, 1])) == [
        {"depot": 0, "visits": [2, 3]},
        {"depot": 0, "visits": [1]},
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("VEHICLE", "TRUCKS", "it has no sections VEHICLE, with number and capacity, and CUSTOMER"),
        ("    3      4 ", "    4      4 ", "node 3 has 7 numbers"),
        ("  4         3", "  4         x", "'x' is not allowed; it must be a number"),
        ("  4         3", "  4         1", "demand 2"),
        ("0          6  ", "0          4  ", "customer 2 cannot be reached and left within the windows"),
        ("9         10", "9          8", "node 1: its window ends before it begins"),
        ("0         60 ", "0         12 ", "customer 1 cannot be reached and left"),
    ],
)
def test_what_is_malformed_is_refused(data, tmp_path, old, new, words):
    """In one line that names the file."""
    text = (data / "square4.solomon.txt").read_text()
    assert old in text
    (tmp_path / "a.txt").write_text(text.replace(old, new))
    with pytest.raises(InstanceError, match=words) as caught:
        VRPTW().read(tmp_path / "a.txt")
    assert "a.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pyvrp_keeps_the_windows(rng, square):
    """Its routes are in time, on instances of decimals as on whole ones, and those of the rectangle the shortest."""
    env = Task.of(VRPTW, 20)
    solutions = SOLVERS["pyvrp"]()(env, env.generate(4, rng), MaxRollouts(200), rng)
    assert all(solution.feasible for solution in solutions)
    (solution,) = SOLVERS["pyvrp"]()(VRPTW(), square, MaxRollouts(50), rng)
    assert (solution.objective, solution.feasible) == (shortest(square), True)


def test_times_are_whole_numbers_to_the_safe_side():
    """Decimals stay exact in units of the last; others are rounded up on the way and down where it closes."""
    dists = torch.tensor([[0.0, 1.5], [1.5, 0.0]]).double().numpy()
    windows = torch.tensor([[0.0, 9.0], [1.0, 2.5]]).double().numpy()
    service = torch.tensor([0.0, 0.25]).double().numpy()
    ways, opens, closes, takes = to_times(dists, windows, service)
    assert (ways.tolist(), opens, closes, takes) == ([[0, 150], [150, 0]], [0, 100], [900, 250], [0, 25])
    ways, opens, closes, takes = to_times(dists / 3, windows / 7, service / 7)
    unit = 100_000 / (1.5 / 3)
    assert ways[0][1] == 100_000
    assert opens[1] - 1 < 1 / 7 * unit <= opens[1]
    assert closes[1] <= 2.5 / 7 * unit < closes[1] + 1
    assert takes[1] - 1 < 0.25 / 7 * unit <= takes[1]


def test_policies_and_searches_work(rng):
    """The attention model reads windows, and parts of routes are rebuilt in time."""
    env = Task.of(VRPTW, 10)
    instances = env.generate(3, rng)
    policy = AttentionPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16)
    found = Reconstruct(policy, rounds=4)(env, instances, MaxRollouts(200), rng)
    assert all(solution.feasible for solution in found)
    assert type(env.model(instances)) is Routes
    assert env.walk(instances) is None


def test_windows_can_be_met(rng):
    """Of generated instances every customer can be served alone, even at the last moment."""
    drawn = Task.of(VRPTW, 50).generate(20, rng)
    away = geometry.distances(drawn)[:, 0]
    opens, closes = drawn["windows"].double().unbind(-1)
    assert (away[:, 1:] <= opens[:, 1:] + 1e-6).all()
    assert ((closes + drawn["service"] + away)[:, 1:] <= 4.6 + 1e-5).all()
    assert (drawn["service"][:, 0] == 0).all()
    assert drawn["windows"][:, 0].tolist() == [[0.0, pytest.approx(4.6)]] * 20
