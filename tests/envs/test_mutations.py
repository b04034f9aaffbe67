from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ncogym.envs import PROBLEMS, make
from ncogym.envs.routing import geometry, mutations
from ncogym.envs.routing.mutations import EXACT, MUTATIONS, checked, mutated
from ncogym.errors import ArgumentError
from ncogym.laws import check_env
from ncogym.sets import open_set

SIZES = {"tsp": "num_nodes", "cvrp": "num_customers"}
EVERYWHERE = ("cluster", "rotation", "linear-projection", "axis-projection")  # the others move the nodes of a region
TENTH = 1 - math.exp(-1)  # the share of the exponential distribution of rate 10 that is below 0.1


@pytest.fixture
def places(rng) -> Tensor:
    """Uniform places of 200 instances."""
    return torch.rand(200, 50, 2, generator=rng)


@pytest.fixture
def told(monkeypatch):
    """Return a function that moves given places by a mutation whose draws are told one by one.

    Uniform draws are told as shares of their range, normal ones as they are; each is stretched to the shape asked for.
    """

    def move(name: str, locs: list, draws: list, normal: object = 0.0, kept: tuple[int, ...] = ()) -> Tensor:
        queue = iter(draws)

        def uniform(low, high, shape, rng):
            return low + (high - low) * torch.tensor(next(queue)).float().expand(*shape)

        monkeypatch.setattr(mutations, "_uniform", uniform)
        monkeypatch.setattr(mutations, "_normal", lambda like, rng: torch.tensor(normal).float().expand(like.shape))
        chosen = torch.ones(1, len(locs), dtype=torch.bool)
        chosen[:, list(kept)] = False
        moved = MUTATIONS[name](torch.tensor([locs]), chosen, torch.Generator())[0]
        assert next(queue, None) is None, "a draw is left"
        return moved

    return move


def close(found: Tensor, expected: list) -> None:
    """Check places."""
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


def drawn(name: str, locs: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Move whom a mutation can move; return the places and who moved."""
    everyone = torch.ones(locs.shape[:2], dtype=torch.bool)
    moved = MUTATIONS[name](locs, everyone, torch.Generator().manual_seed(seed))
    return moved, (moved != locs).any(-1)


# ---------------------------------------------------------------------- the definitions, by hand


def test_explosion(told):
    """Round (0.5, 0.5) with eps 0.2 and a throw of 0.1, nodes within eps land at 0.3 in their own direction."""
    locs = [[0.5, 0.6], [0.35, 0.5], [0.53, 0.54], [0.75, 0.5], [0.6, 0.5]]
    found = told("explosion", locs, [[0.5, 0.5], 1 / 3, TENTH], kept=(4,))
    close(found, [[0.5, 0.8], [0.2, 0.5], [0.68, 0.74], [0.75, 0.5], [0.6, 0.5]])


def test_implosion(told):
    """Within eps 0.2 of (0.5, 0.5), nodes keep |N| of their offset, and at most eps of it."""
    locs = [[0.5, 0.6], [0.35, 0.5], [0.75, 0.5], [0.6, 0.5]]
    found = told("implosion", locs, [[0.5, 0.5], 0.5], [[[-0.1], [3.0], [0.1], [0.1]]], kept=(3,))
    close(found, [[0.5, 0.51], [0.47, 0.5], [0.75, 0.5], [0.6, 0.5]])


def test_cluster(told):
    """Chosen nodes are drawn anew round (0.9, 0.5) with a deviation of 0.3, and none beyond the square."""
    locs = [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]
    found = told("cluster", locs, [[0.9, 0.5], 1.0], [[[-1.0, 0.5], [1.0, -2.0], [0.0, 0.0]]], kept=(2,))
    close(found, [[0.6, 0.65], [1.0, 0.0], [0.3, 0.3]])


def test_rotation(told):
    """A quarter turn round the origin, then a shift by (0.5, 0.25)."""
    found = told("rotation", [[1.0, 0.0], [0.2, 0.6], [0.3, 0.3]], [0.25, [0.5, 0.25]], kept=(2,))
    close(found, [[0.5, 1.25], [-0.1, 0.45], [0.3, 0.3]])


@pytest.mark.parametrize(("axis", "expected"), [(0.2, [[0.3, 0.9], [0.3, 0.4]]), (0.7, [[0.1, 0.3], [0.8, 0.3]])])
def test_axis_projection(told, axis, expected):
    """One coordinate, the first or the second, is 0.3 for all."""
    found = told("axis-projection", [[0.1, 0.9], [0.8, 0.4], [0.5, 0.5]], [axis, 0.3], kept=(2,))
    close(found, [*expected, [0.5, 0.5]])


@pytest.mark.parametrize(("intercept", "slope"), [(0.25, 1.5), (0.5, -1.5), (0.75, -1.5)])
def test_linear_projection(told, intercept, slope):
    """The second coordinate is that of the line, which rises from the lower half and falls from the upper."""
    found = told("linear-projection", [[0.1, 0.9], [0.8, 0.4], [0.5, 0.5]], [intercept, 0.5], kept=(2,))
    close(found, [[0.1, intercept + 0.1 * slope], [0.8, intercept + 0.8 * slope], [0.5, 0.5]])


def test_expansion(told):
    """From the line at 0.5 with eps 0.2 and a throw of 0.1, nodes within eps land at 0.3 above or below it."""
    locs = [[0.3, 0.6], [0.9, 0.45], [0.3, 0.75], [0.3, 0.6]]
    close(told("expansion", locs, [0.5, 0.0, 0.5, TENTH], kept=(3,)), [[0.3, 0.8], [0.9, 0.2], [0.3, 0.75], [0.3, 0.6]])


def test_expansion_is_square_to_a_steep_line(told):
    """From the line through (0, 0) and (1, 1.5), a node on the left goes further to the left."""
    normal = torch.tensor([1.5, -1.0]) / math.sqrt(3.25)
    near, far = (torch.tensor([0.4, 0.6]) - away * normal for away in (0.05, 0.3))
    close(told("expansion", [near.tolist()], [0.0, 0.5, 0.5, TENTH])[0], far.tolist())


def test_compression(told):
    """Towards the line at 0.5, nodes within 0.2 keep |N| of their distance, and never more than all of it."""
    locs = [[0.3, 0.6], [0.9, 0.45], [0.3, 0.75], [0.3, 0.6]]
    found = told("compression", locs, [0.5, 0.0, 0.5], [[-0.5, 2.0, 0.5, 0.5]], kept=(3,))
    close(found, [[0.3, 0.55], [0.9, 0.45], [0.3, 0.75], [0.3, 0.6]])


def test_grid(told):
    """Five nodes in the box from 0.4 to 0.6: the four that come first in the draw are a grid, all others stay."""
    inside = [[0.41, 0.45], [0.5, 0.5], [0.58, 0.42], [0.55, 0.59], [0.45, 0.57]]
    locs = [*inside, [0.1, 0.5], [0.5, 0.65], [0.5, 0.45]]
    found = told("grid", locs, [0.5, 0.5, [[0.3, 0.9, 0.2, 0.1, 0.4, 0.0, 0.0, 0.0]]], kept=(7,))
    grid = {0: [0.45, 0.55], 2: [0.55, 0.45], 3: [0.45, 0.45], 4: [0.55, 0.55]}
    close(found, [grid.get(node, place) for node, place in enumerate(locs)])


@pytest.mark.parametrize("count", [0, 1, 3, 4, 8, 9])
def test_a_grid_has_as_many_rows_as_nodes_allow(told, count):
    """Of k nodes in the box, the largest square number of them is laid out."""
    locs = [[0.41 + 0.01 * node, 0.42] for node in range(count)] + [[0.1, 0.1]]
    found = told("grid", locs, [0.5, 0.5, [[node / 20 for node in range(count + 1)]]])
    rows = math.isqrt(count)
    middles = [0.4 + 0.2 * (row + 0.5) / max(rows, 1) for row in range(rows)]
    close(found, [[x, y] for y in middles for x in middles] + locs[rows**2 :])


# ---------------------------------------------------------------------- many draws


def test_explosions_leave_a_hole(places):
    """Nodes fly straight away from one centre of their instance, and none is left within 0.1 of it."""
    moved, is_moved = drawn("explosion", places)
    centre = torch.rand(200, 1, 2, generator=torch.Generator().manual_seed(1))
    assert (torch.cdist(moved, centre) >= 0.1 - 1e-6).all()
    before, after = (places - centre)[is_moved], (moved - centre)[is_moved]
    torch.testing.assert_close(torch.cosine_similarity(before, after), torch.ones(len(before)))
    assert (after.norm(dim=-1) > before.norm(dim=-1)).all()


def test_rotations_keep_distances(places):
    """Turned as a whole, an instance keeps its distances."""
    moved, is_moved = drawn("rotation", places)
    dists, turned = torch.cdist(places, places), torch.cdist(moved, moved)
    assert is_moved.all()
    torch.testing.assert_close(turned, dists, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_instance_has_a_mutation_of_its_own(name):
    """The same places in all rows are moved to other ones in each."""
    locs = torch.rand(1, 100, 2, generator=torch.Generator().manual_seed(3)).expand(30, -1, -1)
    moved, is_moved = drawn(name, locs)
    assert is_moved.any(-1).sum() > 25  # a circle in a corner or a small box may have no node in it
    assert len({row.numpy().tobytes() for row in moved}) > 25


@pytest.mark.parametrize("name", EVERYWHERE)
def test_the_power_is_the_share_of_nodes(name, places):
    """A power of 1 moves every node, one of 0.3 three in ten, each for itself."""
    _, is_moved = drawn(name, places)
    assert is_moved.all()
    chosen = torch.rand(200, 50, generator=torch.Generator().manual_seed(1)) < 0.3
    moved = MUTATIONS[name](places, chosen, torch.Generator().manual_seed(2))
    assert torch.equal((moved != places).any(-1), chosen)


@pytest.mark.parametrize("name", [name for name in MUTATIONS if name not in EVERYWHERE])
def test_the_power_is_the_share_of_a_region(name, places):
    """A power of 1 moves the nodes of a region alone, and a lower one fewer of them."""
    everyone, some = torch.ones(200, 50), torch.rand(200, 50, generator=torch.Generator().manual_seed(1))
    share = []
    for chosen in (everyone > 0, some < 0.5):
        moved = MUTATIONS[name](places, chosen, torch.Generator().manual_seed(2))
        is_moved = (moved != places).any(-1)
        assert (is_moved <= chosen).all()
        share.append(is_moved.float().mean().item())
    assert 0 < share[1] < share[0] < 0.6
    if name != "grid":
        assert share[1] == pytest.approx(share[0] / 2, rel=0.1)


@pytest.mark.parametrize("name", MUTATIONS)
@pytest.mark.parametrize("problem", SIZES)
def test_no_power_is_the_uniform_instance(problem, name):
    """With power 0 an instance is the uniform one of the same generator, to the bit; demands are so with any power."""
    size = {SIZES[problem]: 20}
    uniform, still, moved = (
        make(problem, **size, distribution=each).generate(8, torch.Generator().manual_seed(4))
        for each in ("uniform", f"{name}:0", f"{name}:1")
    )
    assert all(torch.equal(uniform[key], still[key]) for key in uniform.keys())
    assert all(torch.equal(uniform[key], moved[key]) for key in uniform.keys() if key != "locs")
    assert not torch.equal(uniform["locs"], moved["locs"])


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_places_lie_in_the_unit_square(name, places):
    """Instances that leave it are scaled back with both axes alike, the others are left as they are."""
    everyone, twin = torch.ones(200, 50, dtype=torch.bool), torch.Generator().manual_seed(1)
    torch.rand(200, 50, generator=twin)  # who is chosen is drawn first
    moved = MUTATIONS[name](places, everyone, twin)
    found = mutated(places, f"{name}:1", torch.Generator().manual_seed(1))
    leaves = ((moved < 0) | (moved > 1)).flatten(1).any(-1)
    assert leaves.any() == (name not in ("implosion", "cluster", "axis-projection", "grid"))
    assert torch.equal(found[~leaves], moved[~leaves])
    assert torch.equal(found[leaves], geometry.to_unit_box(moved[leaves]))
    assert ((found >= 0) & (found <= 1)).all()
    assert found.dtype == torch.float32


# ---------------------------------------------------------------------- as distributions of problems


@pytest.mark.parametrize(("name", "problem"), list(zip(MUTATIONS, itertools.cycle(SIZES), strict=False)))
def test_the_laws_hold(name, problem):
    """An environment of mutated instances keeps every law."""
    check_env(make(problem, **{SIZES[problem]: 8}, distribution=f"{name}:0.6"), seed=3)


@pytest.mark.parametrize("problem", SIZES)
def test_a_distribution_has_one_spelling(problem):
    """However the power is written, cards and records have the shortest form, and another size keeps it."""
    for text, name in (
        ("grid:0.70", "grid:0.7"),
        ("grid:1.0", "grid:1"),
        ("grid:-0", "grid:0"),
        ("grid:.25", "grid:0.25"),
    ):
        env = make(problem, **{SIZES[problem]: 8}, distribution=text)
        assert env.arguments()["distribution"] == env.resized(5).arguments()["distribution"] == name


@pytest.mark.parametrize("problem", SIZES)
@pytest.mark.parametrize(
    ("distribution", "words"),
    [
        ("implosion", "'implosion' is not allowed; it must be one of uniform, .*, or NAME:POWER with explosion, impl"),
        ("implosions:0.5", "'implosions:0.5' is not allowed; it must be one of"),
        ("uniform:0.5", "'uniform:0.5' is not allowed; it must be one of"),
        ("implosion:1.1", "'implosion:1.1' is not allowed; its power must be from 0 to 1"),
        ("implosion:-0.1", "its power must be from 0 to 1"),
        ("implosion:nan", "its power must be from 0 to 1"),
        ("implosion:half", "its power must be from 0 to 1"),
        ("implosion:", "its power must be from 0 to 1"),
        ("implosion:0.1:0.2", "its power must be from 0 to 1"),
        ("", "'' is not allowed"),
    ],
)
def test_what_is_no_distribution_is_refused(problem, distribution, words):
    """A name without its power, with another's or with one that is no share is refused in one line."""
    with pytest.raises(ArgumentError, match=f"distribution: .*{words}"):
        make(problem, distribution=distribution)
    assert checked("uniform", ("uniform",)) == "uniform"


@pytest.mark.parametrize("problem", SIZES)
def test_seeds_name_instances(problem):
    """The first instances of a seed are the same however many are asked for, and other seeds have others."""
    env = make(problem, **{SIZES[problem]: 6}, distribution="rotation:0.5")
    assert torch.equal(env.seeded(2, 7)["locs"], env.seeded(120, 7)["locs"][:2])
    assert not torch.equal(env.seeded(2, 7)["locs"], env.seeded(2, 8)["locs"])


@pytest.mark.parametrize("problem", SIZES)
def test_named_sets(problem):
    """Each mutation has two powers at two sizes; a range over all mutations of one size and power is one set."""
    names = [
        name
        for name, entry in PROBLEMS[problem].distribution_type.reference_sets.items()
        if "under the mutation" in entry.source
    ]
    assert len(names) == 4 * len(MUTATIONS)
    one = open_set(f"ncogym-{problem}-grid-0.7-20:3")
    assert (one.count, one.distribution, one.env.size) == (3, "grid:0.7", 20)
    assert one.env.arguments()[SIZES[problem]] == 20
    first, last = (f"ncogym-{problem}-{name}-0.3-50" for name in (next(iter(MUTATIONS)), [*MUTATIONS][-1]))
    assert names.index(last) - names.index(first) == len(MUTATIONS) - 1
    whole = open_set(f"{first}..{last}")
    assert (whole.count, whole.distribution, set(whole.sizes)) == (9_000, None, {50})


def test_exact_mutations_need_no_functions_that_processors_round_otherwise():
    """They are mutations, and their sets say nothing of processors."""
    sets = PROBLEMS["tsp"].distribution_type.reference_sets
    for name in MUTATIONS:
        assert ("AVX2" in sets[f"ncogym-tsp-{name}-0.3-20"].source) == (name not in EXACT)
