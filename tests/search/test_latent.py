from __future__ import annotations

import functools
import math
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from tensordict import TensorDict

from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.composing import make_solver
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.policies import AttentionPolicy, GraphPolicy, Latent, Policy
from ncogym.policies.decoding import Greedy as GreedyDecoding
from ncogym.rollout import act, encode
from ncogym.search import SEARCHES, LatentSearch, MultiStart, latent

TINY = {"dim": 16, "num_layers": 1, "num_heads": 2, "feedforward": 16}


def drawn(env, base=AttentionPolicy, scale: float = 3.0) -> Latent:
    """Return a policy of random weights, which latents steer."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.random.manual_seed(0)
        policy = Latent(env.feature_dims, latent_dim=4, scale=scale, base=functools.partial(base, **TINY)).eval()
        for parameter in policy.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return policy


@pytest.fixture(scope="session")
def steered(env) -> Latent:
    """A policy that latents steer."""
    return drawn(env)


class Ranks(NamedTuple):
    """How much each node is liked, ``[rows, nodes]``."""

    liked: torch.Tensor


class Aimed(Policy):
    """Visits nodes in their order under the latents near a target; elsewhere a latent ranks them otherwise."""

    latent_dim = 16

    def __init__(self, dims, nodes: int, seed: int) -> None:
        super().__init__()
        self.dims = dims
        rng = torch.Generator().manual_seed(seed)
        self.target = 1.6 * torch.rand(16, generator=rng) - 0.8
        self.moved = torch.randn(16, nodes, generator=rng)

    def encode(self, features):
        return Ranks(-torch.arange(features[0].values.shape[1]).float().expand(features[0].values.shape[0], -1))

    def under(self, encoded, condition):
        return Ranks((encoded.liked.unsqueeze(1) + 2 * (condition - self.target) @ self.moved).flatten(0, 1))

    def logits(self, encoded, step):
        liked = encoded.liked.unsqueeze(1).expand(step.action_mask.shape)
        return liked.masked_fill(~step.action_mask, -math.inf)

    def draw(self, count: int, rng: torch.Generator) -> torch.Tensor:
        return 2 * torch.rand(1, count, 16, generator=rng) - 1

    def arguments(self):
        return {}


@pytest.fixture
def polygons() -> TensorDict:
    """Three regular polygons of twelve corners; the best tour goes round."""
    angle = torch.arange(12, dtype=torch.float64) * (2 * math.pi / 12)
    corners = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return TensorDict({"locs": 0.5 + torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).view(3, 1, 1) * corners}, [3])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_adapted_latents_beat_random_ones(polygons, seed: int) -> None:
    """Where a region of the latents holds the optimum, CMA-ES gets near it, and as many random draws do not."""
    env = make("tsp", num_nodes=12)
    policy, budget = Aimed(env.feature_dims, 12, seed), MaxRollouts(12 * 800)
    adapted, random = (
        SEARCHES[name](policy)(env, polygons, budget, torch.Generator().manual_seed(seed))
        for name in ("compass", "compass-random")
    )
    best = env.objective(polygons, torch.arange(12).expand(3, 1, -1))[:, 0].tolist()
    assert [s.rollouts for s in (*adapted, *random)] == [9600] * 6
    found, control = ([s.objective / least for s, least in zip(each, best, strict=True)] for each in (adapted, random))
    assert max(found) <= min(control) + 1e-6
    assert sum(found) < 0.9 * sum(control)
    assert {s.solver for s in adapted} | {s.solver for s in random} == {"compass", "compass-random"}


@pytest.mark.parametrize("name", ["compass", "compass-random"])
@pytest.mark.parametrize("rollouts", [1, 7, 20, 16 * 7, 16 * 7 + 10, 1000])
def test_rollouts_are_those_of_the_budget(env, steered, instances, rng, name: str, rollouts: int) -> None:
    """Exactly as many rollouts are built as the budget allows, whole generations or a part of one."""
    found = SEARCHES[name](steered)(env, instances, MaxRollouts(rollouts), rng)
    assert all(s.feasible and s.rollouts == rollouts and s.solver == name for s in found)


@pytest.mark.parametrize("name", ["compass", "compass-random"])
def test_attempts_end_it_where_nothing_limits(env, steered, instances, rng, name: str) -> None:
    """Without a budget there are 160 attempts, each a rollout from every start; their number may be another."""
    search = functools.partial(SEARCHES[name], steered)
    assert [s.rollouts for s in search()(env, instances, None, rng)] == [160 * 7] * 3
    assert [s.rollouts for s in search(attempts=20)(env, instances, Budget(), rng)] == [20 * 7] * 3


@pytest.mark.parametrize(
    ("problem", "base"),
    [
        ({"name": "knapsack", "num_items": 6}, AttentionPolicy),
        ({"name": "jssp", "num_jobs": 3, "num_machines": 2}, GraphPolicy),
    ],
)
@pytest.mark.parametrize(("budget", "rollouts"), [(None, 160), (MaxRollouts(5), 5), (MaxRollouts(50), 50)])
def test_an_attempt_is_a_sample_where_starts_do_not_pay(problem, base, budget, rollouts: int, rng, monkeypatch) -> None:
    """A latent costs one rollout, and twelve elites make the next generation."""
    elites, made = [], latent.CMAES
    monkeypatch.setattr(latent, "CMAES", lambda *a, **k: (elites.append(k["elites"]), made(*a, **k))[1])
    env = make(**problem)
    found = LatentSearch(drawn(env, base))(env, env.generate(2, rng), budget, rng)
    assert all(s.feasible and s.rollouts == rollouts for s in found)
    assert elites == [12]


@pytest.mark.parametrize("memory", [1, 5, 7, 30, 10_000])
def test_fitness_is_the_best_over_the_starts(env, steered, instances, rng, memory: int, monkeypatch) -> None:
    """However few rollouts fit at a time, CMA-ES is told each latent's best, the least first whatever the sense."""
    told, asked = [], []
    tell, ask = latent.CMAES.tell, latent.CMAES.ask

    def asking(self, count, rng):
        asked.append(ask(self, count, rng))
        return asked[-1]

    def telling(self, fitness):
        told.append(fitness)
        return tell(self, fitness)

    monkeypatch.setattr(latent.CMAES, "ask", asking)
    monkeypatch.setattr(latent.CMAES, "tell", telling)
    monkeypatch.setattr(latent, "rollouts_in_memory", lambda *_: memory)
    LatentSearch(steered, attempts=32)(env, instances, None, rng)
    assert len(told) == 2
    encoded, starts = encode(env, steered, instances), torch.arange(7).expand(3, -1)
    for points, fitness in zip(asked, told, strict=True):
        for number in range(0, 16, 5):
            z = points[:, number : number + 1].float()
            built = act(env, steered, encoded, instances, GreedyDecoding(), rng, first_actions=starts, condition=z)
            assert fitness[:, number].tolist() == env.objective(instances, built.actions).amin(1).tolist()


def test_it_solves_every_problem(tiny, rng) -> None:
    """Whatever policy the problem has, latents steer it, and a part of a generation is enough for an answer."""
    env, plain = tiny
    policy, instances = drawn(env, type(plain)), env.generate(2, rng)
    for rollouts in (3, 100):
        found = LatentSearch(policy)(env, instances, MaxRollouts(rollouts), rng)
        assert all(s.feasible and s.rollouts == rollouts for s in found)


def test_more_is_better_where_the_problem_says_so(rng, monkeypatch) -> None:
    """The fitness of a problem that is maximised is negated: what is told least is the best answer."""
    told = []
    tell = latent.CMAES.tell
    monkeypatch.setattr(latent.CMAES, "tell", lambda self, fitness: (told.append(fitness), tell(self, fitness))[1])
    env = make("knapsack", num_items=8)
    found = LatentSearch(drawn(env), attempts=16)(env, env.generate(3, rng), None, rng)
    assert (-told[0].amin(1)).tolist() == [s.objective for s in found]


def test_no_steering_is_the_base(env, policy, instances, rng) -> None:
    """Where latents do nothing, an attempt is the base policy from every start."""
    plain = drawn(env, scale=1e-9)
    plain.base.load_state_dict(policy.state_dict())
    found = LatentSearch(plain, attempts=1)(env, instances, None, rng)
    base = MultiStart(policy)(env, instances, None, rng)
    assert [s.objective for s in found] == [s.objective for s in base]


def test_random_latents_are_those_of_the_prior(env, steered, instances, rng, monkeypatch) -> None:
    """The control draws from the box, for each instance its own."""
    seen = []
    built = latent.act
    monkeypatch.setattr(latent, "act", lambda *a, **k: (seen.append(k["condition"]), built(*a, **k))[1])
    LatentSearch(steered, adapted=False, attempts=320)(env, instances, None, rng)
    z = torch.cat(seen, dim=1)
    assert z.shape == (3, 320, 4)
    assert z.abs().max() <= 1
    assert (z[0] - z[1]).abs().min() > 0
    assert z.mean().abs() < 0.05
    assert z.std() == pytest.approx(3**-0.5, rel=0.05)


def test_the_best_so_far_is_monotone(env, steered, instances, rng) -> None:
    """Along the anytime curve rollouts grow, the objective falls, and the last point is the answer."""
    for solution in LatentSearch(steered)(env, instances, MaxRollouts(1500), rng):
        for before, after in pairwise(solution.trace):
            assert before.rollouts < after.rollouts <= 1500
            assert before.seconds <= after.seconds
            assert before.objective > after.objective
        assert solution.trace[-1].objective == solution.objective


def test_seconds_end_the_search(env, steered, instances, rng, ticking) -> None:
    """A budget in seconds is kept, with more than one generation in it."""
    found = LatentSearch(steered)(env, instances, MaxSeconds(1), rng)
    assert found[0].rollouts > 16 * 7
    assert 0.3 < found[0].seconds < 1.05


@pytest.mark.parametrize("name", ["compass", "compass-random"])
def test_cancelled_search_returns_what_it_has(env, steered, instances, rng, name: str) -> None:
    """A cancel event that is set before the search leaves one round."""
    budget = Budget(seconds=60)
    budget.cancel.set()
    found = SEARCHES[name](steered)(env, instances, budget, rng)
    assert all(s.feasible and s.rollouts <= 16 * 7 for s in found)


def test_cancelled_meanwhile_ends_soon(env, steered, instances, rng, monkeypatch) -> None:
    """An interrupt in the middle of a generation ends the search with the best so far."""
    budget, built = Budget(rollouts=10**6), latent.act

    def interrupted(*given, **more):
        if budget.cancel.is_set():
            raise AssertionError("a round after the interrupt")
        budget.cancel.set()
        return built(*given, **more)

    monkeypatch.setattr(latent, "act", interrupted)
    assert all(s.feasible for s in LatentSearch(steered)(env, instances, budget, rng))


def test_same_seed_same_answer(env, steered, instances) -> None:
    """The generator's seed decides every draw, and another seed draws otherwise."""
    curves = [
        [
            [(p.rollouts, p.objective) for p in s.trace]
            for s in LatentSearch(steered)(env, instances, MaxRollouts(300), torch.Generator().manual_seed(seed))
        ]
        for seed in (1, 1, 2)
    ]
    assert curves[0] == curves[1] != curves[2]


@pytest.mark.parametrize("name", ["compass+symmetry", "compass+two-opt", "compass-random+symmetry+two-opt"])
@pytest.mark.parametrize("budget", [None, MaxRollouts(100)])
def test_it_composes(env, steered, instances, rng, name: str, budget) -> None:
    """Images and a local search go with the search in the latent space."""
    found = make_solver(name, steered)(env, instances, budget, rng)
    assert all(s.feasible and s.solver == name for s in found)
    assert found[0].rollouts == (100 if budget else 160 * 7 * (8 if "symmetry" in name else 1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attempts": 0}, "attempts: 0 is not allowed; it must be at least 1"),
        ({"generation": 0}, "generation: 0 is not allowed; it must be at least 1"),
        ({"components": 0}, "components: 0 is not allowed; it must be at least 1"),
        ({"elites": 17}, "elites: 17 is not allowed; it must be from 1 to 16, the generation"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(steered, arguments, words: str) -> None:
    """A search that would build or learn nothing is refused, with the value."""
    with pytest.raises(ArgumentError, match=words):
        LatentSearch(steered, **arguments)
