"""Cliques, covers, dominating sets and cuts: laws, referees by hand, parents by enumeration, solvers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ncogym.baselines import SOLVERS
from ncogym.budget import MaxRollouts
from ncogym.envs import PROBLEMS, build_task
from ncogym.envs.graph import graphs
from ncogym.laws import check_env
from ncogym.policies import GraphPolicy
from ncogym.search import Reconstruct, Sampling

NAMES = ("clique", "mvc", "mds", "maxcut")
HOUSE = np.array([[0, 1], [1, 2], [2, 3], [0, 3], [2, 4], [3, 4]])  # a square with a roof, 4 on top
BEST = {"clique": 3, "mvc": 3, "mds": 2, "maxcut": 5}


def best(name):
    """Return a brute force over all sets of nodes, from the definition."""

    def value(instance):
        nodes = int(graphs.is_node(instance).sum())
        edges, of_edges = (each.tolist() for each in graphs.edges_of(instance))
        weight, found = instance["weight"][0].tolist(), []
        for taken in itertools.product((False, True), repeat=nodes):
            inside = {node for node in range(nodes) if taken[node]}
            total = sum(weight[node] for node in inside)
            if name == "clique" and all([a, b] in edges for a, b in itertools.combinations(sorted(inside), 2)):
                found.append(total)
            if name == "mvc" and all(inside & {a, b} for a, b in edges):
                found.append(total)
            if name == "mds" and all(
                n in inside or any({n, o} in map(set, edges) for o in inside) for n in range(nodes)
            ):
                found.append(total)
            if name == "maxcut":
                pairs = zip(edges, of_edges, strict=True)
                found.append(sum(w for (a, b), w in pairs if (a in inside) != (b in inside)))
        return (max if name in ("clique", "maxcut") else min)(found)

    return value


@pytest.fixture
def house():
    """Five nodes: a square with a roof."""
    return graphs.graph(5, HOUSE)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("model", ["rb", "er:0.4", "ba:2"])
@pytest.mark.parametrize("name", NAMES)
def test_the_laws_hold(name, model, weighted):
    """Every law holds in batches of different sizes, and enumeration finds what trying every set finds."""
    env, tiny = (build_task(name, num_nodes=n, distribution=model, weighted=weighted) for n in (12, 5))
    solvers = [solver() for solver in SOLVERS.values()]
    checked = check_env(env, seed=1, batch_size=3, tiny=tiny, brute_force=best(name), solvers=solvers)
    assert {"enumeration finds the optimum", "solvers solve what they take"} <= {*checked}


@pytest.mark.parametrize("name", NAMES)
def test_solvers_find_the_best_of_a_house(name, house, rng):
    """Greedy is right on so small a graph, and CP-SAT proves it; a cut of the house has five edges."""
    env = PROBLEMS[name]()
    assert best(name)(house) == BEST[name]
    for solver in ("random-degree-greedy", "cp-sat"):
        (solution,) = SOLVERS[solver]()(env, house, None, rng)
        assert (solution.objective, solution.feasible) == (BEST[name], True)
        assert solution.proven == (solver == "cp-sat")
    answer = env.answer(house, solution.actions)
    assert answer == sorted(set(answer))
    assert name == "maxcut" or len(answer) == BEST[name]


def test_tabu_search_beats_greedy_cuts(house, rng):
    """It finds the cut of the house, keeps its budget, and on larger graphs is ahead of as many greedy runs."""
    (solution,) = SOLVERS["tabu-cut"]()(PROBLEMS["maxcut"](), house, None, rng)
    assert (solution.objective, solution.feasible, solution.rollouts) == (BEST["maxcut"], True, 1)
    env = build_task("maxcut", num_nodes=60, distribution="ba:3", weighted=True)
    instances = env.generate(3, rng)
    tabu, greedy = (
        SOLVERS[name]()(env, instances, MaxRollouts(4), rng) for name in ("tabu-cut", "random-degree-greedy")
    )
    assert {found.rollouts for found in tabu} == {4}
    assert sum(found.objective for found in tabu) > sum(found.objective for found in greedy)


@pytest.mark.parametrize(
    ("name", "actions", "objective", "words"),
    [
        ("clique", [2, 3, 4], 3, None),
        ("clique", [2], 1, None),
        ("clique", [0, 2], 2, "nodes 0 and 2 are both in the clique, and no edge joins them"),
        ("mvc", [0, 1, 2, 3], 4, None),
        ("mvc", [0, 2], 2, "the edge of nodes 3 and 4 is not covered"),
        ("mds", [1, 3, 4], 2, None),
        ("mds", [], 5, None),
        ("mds", [0, 1, 3], 2, "node 0 is not in the set, and no neighbour of it is"),
        ("maxcut", [1, 3], 5, None),
        ("maxcut", [], 0, None),
        ("maxcut", [1, 1], 2, "node 1 is taken at step 0 and again at step 1"),
    ],
)
def test_the_referee_judges_any_set(name, actions, objective, words, house):
    """Solutions need not be what the process can build; what is wrong with one is told in words."""
    env, given = PROBLEMS[name](), torch.tensor([[actions + [5] * (5 - len(actions))]])
    assert env.objective(house, given).item() == objective
    assert [violation.reason for violation in env.violations(house, given)] == ([words] if words else [])


@pytest.mark.parametrize("name", ["mis", *NAMES])
def test_parents_are_those_of_the_process(name, rng):
    """On every reachable state of small graphs, as many states lead to it as `log_parents` says."""
    env = build_task(name, num_nodes=6, distribution="er:0.5", spread=0.0)
    for row in range(6):
        instance = env.generate(1, rng)
        start = env.start(instance)
        seen, parents, stack = {frozenset(): start}, {}, [frozenset()]
        while stack:
            taken = stack.pop()
            state = seen[taken]
            for node in state.action_mask[0, 0, :-1].nonzero()[:, 0].tolist():
                after = taken | {node}
                parents.setdefault(after, set()).add(taken)
                if after not in seen:
                    seen[after] = env.advance(state, torch.tensor([[node]]))
                    stack.append(after)
        for taken, before in parents.items():
            assert env.log_parents(seen[taken]).exp().round().item() == len(before), (row, taken)


def test_what_is_forced_is_so_from_the_start():
    """A node without neighbours stays in a dominating set, and is paid for; of a graph of such nodes nobody leaves."""
    env, lonely = PROBLEMS["mds"](), graphs.graph(3, np.array([[0, 1]]))
    state = env.start(lonely)
    assert state.action_mask[0, 0].tolist() == [True, True, False, False]
    after = env.advance(state, torch.tensor([[0]]))
    assert (after.done.item(), env.reward(state, torch.tensor([[0]]), after).item()) == (True, -2)
    state = env.start(graphs.graph(3, np.empty((0, 2))))
    assert (state.action_mask[0, 0].tolist(), state.done.item()) == ([False] * 3 + [True], False)
    after = env.advance(state, torch.tensor([[3]]))
    assert (after.done.item(), env.reward(state, torch.tensor([[3]]), after).item()) == (True, -3)


def test_negative_edges_let_a_cut_end_at_any_time():
    """Who would lose now may gain later, so nobody is decided unasked, and parents are not a number."""
    env, signed = PROBLEMS["maxcut"](), graphs.graph(3, np.array([[0, 1], [1, 2]]), None, np.array([-1.0, 2.0]))
    state = env.start(signed)
    assert state.action_mask[0, 0].tolist() == [True] * 4
    moved = env.advance(state, torch.tensor([[0]]))
    assert (env.reward(state, torch.tensor([[0]]), moved).item(), moved.done.item()) == (-1, False)
    assert env.log_parents(moved).isnan().item()
    assert env.advance(moved, torch.tensor([[3]])).done.item()


@pytest.mark.parametrize("name", NAMES)
def test_policies_and_searches_work(name, rng):
    """A graph policy samples and rebuilds checked solutions on graphs of different sizes."""
    env = build_task(name, num_nodes=18, distribution="ba:2")
    instances = env.generate(3, rng)
    policy = GraphPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2, feedforward=16).eval()
    for search in (Sampling(policy, samples=8), Reconstruct(policy, rounds=3)):
        assert all(solution.feasible for solution in search(env, instances, MaxRollouts(100), rng))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read(name, tmp_path, rng):
    """Files come back as they were, weights of what counts included."""
    env = build_task(name, num_nodes=8, distribution="er:0.5", weighted=True)
    drawn = env.generate(1, rng)
    there = drawn["neighbours"].ge(0).to(drawn["arc_weight"])
    counts = {"weight": torch.ones_like(drawn["weight"])} if name == "maxcut" else {"arc_weight": there}
    plain = drawn.replace(**counts)
    path = tmp_path / f"a{'.txt' if name == 'maxcut' else '.clq'}"
    env.write(plain, path)
    again = env.read(path)
    assert all(torch.equal(again[key].double(), plain[key].double()) for key in graphs.KEYS)
