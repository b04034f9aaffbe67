from __future__ import annotations

import itertools

import pytest
import torch

from ncogym.baselines import SOLVERS
from ncogym.budget import MaxRollouts, MaxSeconds
from ncogym.envs import PROBLEMS
from ncogym.envs.graph import graphs
from ncogym.envs.graph.independent_set import MIS
from ncogym.laws import check_env
from ncogym.models import IndependentSet
from ncogym.policies import GraphPolicy
from ncogym.search import Reconstruct, Sampling
from ncogym.task import Task


def heaviest(instance):
    """Try every set of nodes, from the definition."""
    nodes, (edges, _) = int(graphs.is_node(instance).sum()), graphs.edges_of(instance)
    weight = instance["weight"][0].tolist()
    sets = ([node for node in range(nodes) if taken[node]] for taken in itertools.product((False, True), repeat=nodes))
    free = (chosen for chosen in sets if not any(a in chosen and b in chosen for a, b in edges.tolist()))
    return max(sum(weight[node] for node in chosen) for chosen in free)


@pytest.fixture
def path(data):
    """A path of five nodes."""
    return MIS().read(data / "path5.mis")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("model", ["rb", "er:0.3", "ba:2"])
def test_the_laws_hold(model, weighted):
    """Every law holds in batches of different sizes, and enumeration finds what trying every set finds."""
    env, tiny = (Task.of(MIS, nodes, model, weighted=weighted) for nodes in (14, 6))
    solvers = [solver() for solver in SOLVERS.values()]
    checked = check_env(env, seed=1, batch_size=4, tiny=tiny, brute_force=heaviest, solvers=solvers)
    assert {"enumeration finds the optimum", "solvers solve what they take"} <= {*checked}


def test_a_path_by_hand(path):
    """Taking node 0 closes node 1; 0, 2 and 4 are the best; then nothing is left but to take none."""
    env = MIS()
    state = env.start(path)
    assert (state.action_mask[0, 0].tolist(), state.done.item()) == ([True] * 5 + [False], False)
    state = env.advance(state, torch.tensor([[0]]))
    assert state.action_mask[0, 0].tolist() == [False, False, True, True, True, False]
    state = env.advance(env.advance(state, torch.tensor([[2]])), torch.tensor([[4]]))
    assert (state.action_mask[0, 0].tolist(), state.done.item()) == ([False] * 5 + [True], True)
    assert state.num_taken.item() == 3
    assert env.log_parents(state).exp().item() == pytest.approx(3)
    assert env.advance(state, torch.tensor([[5]])).num_taken.item() == 3


@pytest.mark.parametrize(
    ("actions", "objective", "words"),
    [
        ([0, 2, 4, 5, 5], 3, None),
        ([4, 5, 5, 5, 5], 1, None),
        ([5, 5, 5, 5, 5], 0, None),
        ([0, 1, 5, 5, 5], 2, "nodes 0 and 1 are both in the set, and an edge joins them"),
        ([3, 0, 3, 5, 5], 2, "node 3 is taken at step 0 and again at step 2"),
        ([0, 5, 2, 5, 5], 2, "step 2 takes node 2 after step 1 took none"),
        ([7, 5, 5, 5, 5], 0, "step 0 takes node 7; nodes are 0 to 4, and 5 takes none"),
    ],
)
def test_the_referee_judges_any_set(path, actions, objective, words):
    """A set need not be maximal; what is wrong with one is told in words."""
    env, actions = MIS(), torch.tensor([[actions]])
    assert env.objective(path, actions).item() == objective
    assert [violation.reason for violation in env.violations(path, actions)] == ([words] if words else [])


def test_solvers_find_the_best(path, rng):
    """Greedy, its randomised best and CP-SAT find the three of a path; CP-SAT proves it and its answer is the nodes."""
    env = MIS()
    for name in ("degree-greedy", "random-degree-greedy", "cp-sat"):
        (solution,) = SOLVERS[name]()(env, path, None, rng)
        assert (solution.objective, solution.feasible) == (3, True)
        assert env.answer(path, solution.actions) == [0, 2, 4]
        assert solution.proven == (name == "cp-sat")


def test_randomised_greedy_is_no_worse(rng):
    """Its first run is one of many, and more runs find more; it keeps its budget."""
    env = Task.of(MIS, 60, "er:0.15")
    instances = env.generate(6, rng)
    few, many = (SOLVERS["random-degree-greedy"]()(env, instances, MaxRollouts(n), rng) for n in (1, 40))
    assert sum(found.objective for found in many) > sum(found.objective for found in few)
    assert {found.rollouts for found in many} == {40}
    (alone, *_) = SOLVERS["degree-greedy"]()(env, instances, MaxSeconds(60), rng)
    assert alone.rollouts == 1


def test_what_is_read_is_written(path, tmp_path, rng):
    """A file of its own comes back, weights of nodes included; the model says how many nodes there are."""
    env = Task.of(MIS, 9, "er:0.4", weighted=True)
    drawn = env.generate(1, rng)
    plain = drawn.replace(arc_weight=drawn["neighbours"].ge(0).to(drawn["arc_weight"]))
    env.write(plain, tmp_path / "a.mis")
    again = env.read(tmp_path / "a.mis")
    assert all(torch.equal(again[key].double(), plain[key].double()) for key in graphs.KEYS)
    model = env.model(path)
    assert type(model) is IndependentSet
    assert (model.nodes.tolist(), model.edges[0].tolist()) == ([5], [[0, 1], [1, 2], [2, 3], [3, 4]])
    assert (model.needs, env.model(plain).needs) == (frozenset(), {"weights"})


def test_policies_and_searches_work(rng):
    """A graph policy reads sparse edges, rows of a batch as alone; sampling and re-construction give checked sets."""
    env = Task.of(MIS, 20, "ba:2", 0.4)
    instances = env.generate(4, rng)
    policy = GraphPolicy(env.feature_dims, dim=16, num_layers=2, num_heads=2, feedforward=16).eval()
    state = env.start(instances)
    together = policy.logits(policy.encode(env.instance_features(instances)), env.step_features(state))
    for row in range(4):
        one = instances[row : row + 1]
        alone = policy.logits(policy.encode(env.instance_features(one)), env.step_features(env.start(one)))
        torch.testing.assert_close(alone[0], together[row])
    start = Sampling(policy, samples=8)(env, instances, MaxRollouts(8), rng)
    improved = Reconstruct(policy, rounds=4)(env, instances, MaxRollouts(200), rng)
    assert all(solution.feasible for solution in (*start, *improved))
    assert env.name in PROBLEMS


def test_names_of_nodes_do_not_matter(rng):
    """Nodes in another order have the logits in that order."""
    env = Task.of(MIS, 12, "er:0.3", 0.0)
    one = env.generate(1, rng)
    order = torch.randperm(12, generator=rng)
    edges, _ = graphs.edges_of(one)
    renamed = graphs.graph(12, order.argsort().numpy()[edges])
    policy = GraphPolicy(env.feature_dims, dim=16, num_layers=2, num_heads=2, feedforward=16).eval()
    shown = [
        policy.logits(policy.encode(env.instance_features(each)), env.step_features(env.start(each)))[0, 0, :-1]
        for each in (one, renamed)
    ]
    torch.testing.assert_close(shown[1], shown[0][order])
