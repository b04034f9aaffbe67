from __future__ import annotations

import functools
import itertools

import pytest
import torch

from ncogym.budget import Budget, MaxRollouts, MaxSeconds
from ncogym.composing import make_solver
from ncogym.envs import make
from ncogym.errors import ArgumentError
from ncogym.policies import AttentionPolicy, GraphPolicy, PolyNet, Population
from ncogym.policies.decoding import Sample
from ncogym.search import MultiStart, PopulationSearch, population

TINY = {"dim": 16, "num_layers": 1, "num_heads": 2, "feedforward": 16}


def drawn(kind, env, base=AttentionPolicy, **arguments):
    """Return a policy of random weights, so that its members differ."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.random.manual_seed(0)
        policy = kind(env.feature_dims, base=functools.partial(base, **TINY), **arguments).eval()
        for parameter in policy.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return policy


@pytest.fixture(scope="session")
def members(env) -> Population:
    """Three members that differ."""
    return drawn(Population, env, members=3)


@pytest.fixture
def watched(monkeypatch):
    """The calls of ``act`` in the search: whether they sample, under which conditions, from which starts."""
    calls = []
    act = population.act

    def told(env, policy, encoded, instances, decoding, rng, *, rollouts, first_actions, condition, clock):
        each = rollouts // condition.shape[1]
        who = condition.expand(len(instances), -1).repeat_interleave(each, dim=1)
        built = act(
            env,
            policy,
            encoded,
            instances,
            decoding,
            rng,
            rollouts=rollouts,
            first_actions=first_actions,
            condition=condition,
            clock=clock,
        )
        calls.append((decoding.stochastic, who, first_actions, built))
        return built

    monkeypatch.setattr(population, "act", told)
    return calls


def test_best_of_all_members_from_all_starts(env, members, instances, rng) -> None:
    """Without a budget each member is greedy from each start, once, and the best counts; nothing is drawn."""
    alone = [MultiStart(members.member(number))(env, instances, None, rng) for number in range(3)]
    before = rng.get_state()
    found = PopulationSearch(members)(env, instances, None, rng)
    assert torch.equal(rng.get_state(), before)
    best = [min(each.objective for each in own) for own in zip(*alone, strict=True)]
    assert [s.objective for s in found] == pytest.approx(best, rel=1e-12)
    assert any(s.objective < own.objective for s, own in zip(found, alone[0], strict=True))
    assert all(s.feasible and s.rollouts == 21 and s.solver == "poppy" for s in found)


@pytest.mark.parametrize(("kind", "arguments"), [(Population, {"members": 3}), (PolyNet, {"vectors": 3, "hidden": 4})])
def test_it_solves_every_problem(tiny, kind, arguments, rng) -> None:
    """Whatever policy the problem has, its members solve it, within the greedy pass and beyond it."""
    env, plain = tiny
    policy, instances = drawn(kind, env, type(plain), **arguments), env.generate(2, rng)
    for rollouts in (2, 40):
        found = PopulationSearch(policy)(env, instances, MaxRollouts(rollouts), rng)
        assert all(s.feasible and s.rollouts == rollouts for s in found)


@pytest.mark.parametrize("memory", [1, 2, 5, 8])
def test_what_fits_into_memory_changes_no_greedy_answer(
    env, members, instances, rng, memory: int, monkeypatch, watched
) -> None:
    """Every pair is tried once, however few rollouts fit at a time, and never more."""
    whole = PopulationSearch(members)(env, instances, None, rng)
    watched.clear()
    monkeypatch.setattr(population, "rollouts_in_memory", lambda *_: memory)
    found = PopulationSearch(members)(env, instances, None, rng)
    assert [s.objective for s in found] == [s.objective for s in whole]
    assert max(who.shape[1] for _, who, _, _ in watched) <= memory
    pairs = [(who[0].tolist(), first[0].tolist()) for _, who, first, _ in watched]
    tried = [pair for who, first in pairs for pair in zip(who, first, strict=True)]
    assert sorted(tried) == list(itertools.product(range(3), range(7)))


@pytest.mark.parametrize("rollouts", [1, 2, 3, 7, 20, 21, 22, 23, 100, 1000])
def test_rollouts_are_those_of_the_budget(env, members, instances, rng, rollouts: int) -> None:
    """Exactly as many rollouts are built as the budget allows, before the pairs are through and after."""
    found = PopulationSearch(members)(env, instances, MaxRollouts(rollouts), rng)
    assert all(s.feasible and s.rollouts == rollouts for s in found)


@pytest.mark.parametrize(
    ("nodes", "count", "memory"), [(7, 3, 4), (7, 3, 1000), (6, 4, 1000), (4, 6, 5), (5, 5, 1000), (5, 1, 1000)]
)
def test_a_small_budget_is_spread_over_members_and_starts(
    nodes: int, count: int, memory: int, rng, monkeypatch, watched
) -> None:
    """Whatever part of the pairs is paid for, each member and each start is in about equally many of it."""
    env = make("tsp", num_nodes=nodes)
    policy, instances = drawn(Population, env, members=count), env.generate(2, rng)
    monkeypatch.setattr(population, "rollouts_in_memory", lambda *_: memory)
    for rollouts in range(1, nodes * count + 1):
        watched.clear()
        PopulationSearch(policy)(env, instances, MaxRollouts(rollouts), rng)
        assert not any(sampled for sampled, *_ in watched)
        who = torch.cat([each for _, each, _, _ in watched], dim=1)[0]
        first = torch.cat([each for _, _, each, _ in watched], dim=1)[0]
        for values, kinds in ((who, count), (first, nodes)):
            often = torch.bincount(values, minlength=kinds)
            assert often.max() - often.min() <= 1
        assert len(set(zip(who.tolist(), first.tolist(), strict=True))) == rollouts


def test_what_is_left_goes_to_the_best_pairs(env, members, instances, rng, watched) -> None:
    """After the greedy pass the three best pairs of each instance are sampled, equally often to within one."""
    PopulationSearch(members)(env, instances, MaxRollouts(21 + 3 * 40 + 2), rng)
    passed = [(who, first, built) for sampled, who, first, built in watched if not sampled]
    who, first = (torch.cat([each[place] for each in passed], dim=1) for place in (0, 1))
    tours = torch.cat([built.actions for *_, built in passed], dim=1)
    value = env.objective(instances, tours)
    for row in range(3):
        reached = {(int(m), int(f)): float(v) for m, f, v in zip(who[row], first[row], value[row], strict=True)}
        sampled = [
            pair
            for stochastic, members_, starts, _ in watched
            if stochastic
            for pair in zip(members_[row].tolist(), starts[row].tolist(), strict=True)
        ]
        # two starts may lead to one tour, so that it is by their objectives that they are the best
        assert sorted(reached[pair] for pair in set(sampled)) == sorted(reached.values())[:3]
        assert sorted(sampled.count(pair) for pair in set(sampled)) == [40, 41, 41]


def test_a_large_budget_improves_on_the_greedy_pass(env, members, rng) -> None:
    """Samples of the best pairs are never worse than these, and better on some instances."""
    instances = env.generate(20, rng)
    few, many = (
        PopulationSearch(members)(env, instances, budget, torch.Generator().manual_seed(1))
        for budget in (None, MaxRollouts(500))
    )
    assert all(m.objective <= f.objective for m, f in zip(many, few, strict=True))
    assert any(m.objective < f.objective for m, f in zip(many, few, strict=True))


@pytest.mark.parametrize(
    ("problem", "base"),
    [({"name": "knapsack", "num_items": 6}, AttentionPolicy), ({"name": "jssp", "num_jobs": 3}, GraphPolicy)],
)
@pytest.mark.parametrize(("budget", "rollouts"), [(None, 3 + 10), (MaxRollouts(2), 2), (MaxRollouts(30), 30)])
def test_samples_where_starts_do_not_pay(problem, base, budget, rollouts: int, rng, watched) -> None:
    """Each member is greedy once; then all are sampled, equally often to within one."""
    arguments = {"num_machines": 2} if problem["name"] == "jssp" else {}
    env = make(**problem, **arguments)
    instances = env.generate(2, rng)
    found = PopulationSearch(drawn(Population, env, base, members=3), samples=10)(env, instances, budget, rng)
    assert all(s.feasible and s.rollouts == rollouts for s in found)
    assert all(first is None for _, _, first, _ in watched)
    greedy = [who[0].tolist() for sampled, who, _, _ in watched if not sampled]
    assert greedy == [list(range(min(3, rollouts)))]
    often = torch.bincount(torch.cat([who[0] for sampled, who, _, _ in watched if sampled] or [torch.tensor([0])]))
    assert often.max() - often.min() <= 1


@pytest.mark.parametrize(("budget", "rollouts"), [(None, 128), (MaxRollouts(3), 3), (MaxRollouts(70), 70)])
def test_vectors_are_sampled_without_starts(env, instances, rng, budget, rollouts: int, watched) -> None:
    """A PolyNet's vectors are sampled in turn, and again while the budget lasts; no first action is forced."""
    found = PopulationSearch(drawn(PolyNet, env, vectors=8, hidden=8))(env, instances, budget, rng)
    assert all(s.feasible and s.rollouts == rollouts for s in found)
    assert all(sampled and first is None for sampled, _, first, _ in watched)
    often = torch.bincount(torch.cat([who[0] for _, who, _, _ in watched]), minlength=8)
    assert often.max() - often.min() <= 1


def test_trace_only_improves(env, members, instances, rng, ticking) -> None:
    """Along the anytime curve rollouts grow, the objective falls, and the last point is the answer."""
    for solution in PopulationSearch(members)(env, instances, MaxSeconds(0.5), rng):
        _, rollouts, objectives = zip(*solution.trace, strict=True)
        assert list(rollouts) == sorted(rollouts)
        assert list(objectives) == sorted(set(objectives), reverse=True)
        assert objectives[-1] == solution.objective


def test_seconds_end_the_search(env, members, instances, rng, ticking) -> None:
    """A budget in seconds is kept, and goes beyond the greedy pass."""
    (*_, solution) = PopulationSearch(members)(env, instances, MaxSeconds(1), rng)
    assert solution.rollouts > 21
    assert 0.3 < solution.seconds < 1.05


def test_cancelled_search_returns_what_it_has(env, members, instances, rng) -> None:
    """A cancel event that is set before the search leaves one round."""
    budget = Budget(seconds=60)
    budget.cancel.set()
    assert all(s.feasible and s.rollouts <= 21 for s in PopulationSearch(members)(env, instances, budget, rng))


def test_same_seed_same_answer(env, members, instances) -> None:
    """The generator's seed decides the starts and the samples, and another seed draws otherwise."""
    hot = Sample(temperature=50.0)  # else the greedy pass may hold the answer
    tours = [
        [
            s.trace
            for s in PopulationSearch(members, decoding=hot)(
                env, instances, MaxRollouts(30), torch.Generator().manual_seed(seed)
            )
        ]
        for seed in (1, 1, 2)
    ]
    values = [[[(p.rollouts, p.objective) for p in trace] for trace in each] for each in tours]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("name", ["poppy+symmetry", "poppy+two-opt", "poppy+symmetry+two-opt"])
@pytest.mark.parametrize("budget", [None, MaxRollouts(50)])
def test_it_composes(env, members, instances, rng, name: str, budget) -> None:
    """Images and a local search go with a population."""
    found = make_solver(name, members)(env, instances, budget, rng)
    assert all(s.feasible and s.solver == name for s in found)
    assert found[0].rollouts == (50 if budget else 21 * (8 if "symmetry" in name else 1))


def test_no_samples_are_refused(members) -> None:
    """A search that would build nothing is refused, with the value."""
    with pytest.raises(ArgumentError, match=r"samples: 0 is not allowed; it must be at least 1"):
        PopulationSearch(members, samples=0)
