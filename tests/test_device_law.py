"""The law for devices that are not here: all problems, policies and algorithms keep it, and what breaks it is found."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from ncogym.algorithms import BOPO, PO, POMO, PPO, Compass, FlowBalance, Imitation, Poppy, Reinforce, SelfLabelling
from ncogym.algorithms.base import Algorithm
from ncogym.device_law import EXCEPTIONS, check_training_step
from ncogym.envs import PROBLEMS, build_task
from ncogym.envs.routing.tsp import TSP
from ncogym.laws import LawBroken
from ncogym.policies import AttentionPolicy, GraphPolicy, Latent, Policy, PolyNet, Population
from ncogym.task import Task

GRAPHS = ("mis", "mvc", "clique", "mds", "maxcut")
SIZES = {
    "cvrp": {"num_customers": 5},
    "vrptw": {"num_customers": 5},
    "knapsack": {"num_items": 5},
    "jssp": {"num_jobs": 3, "num_machines": 2},
}
SMALL = partial(AttentionPolicy, dim=16, num_layers=1, num_heads=2, feedforward=16)
ALGORITHMS = {
    "pomo": POMO,
    "pomo, drawn": lambda: POMO(starts=2, leader_alpha=2.0, normalise=True),
    "reinforce": lambda: Reinforce("exponential", rollouts=2, entropy=0.1),
    "leave one out": lambda: Reinforce("leave-one-out", rollouts=2),
    "critic": lambda: Reinforce("critic", rollouts=2),
    "imitation": lambda: Imitation(2),
    "self-labelling": lambda: SelfLabelling(2),
    "po": lambda: PO(samples=2, per_step=True),
    "bopo": lambda: BOPO(4, 2),
    "ppo": lambda: PPO(2, entropy=0.1),
}


def problem(name: str):
    """Return a problem in a small size."""
    return build_task(name, **SIZES.get(name, {"num_nodes": 5}))


def stepped(env, policy: Policy, algorithm: Algorithm) -> str | None:
    """Check a step of an algorithm that has met its policy, with labels where it wants some."""
    algorithm.attach(policy)
    labels = None
    if algorithm.imitates:
        whole = env.generate(2, torch.Generator().manual_seed(0))
        state, taken = env.start(whole), []
        for _ in range(env.horizon(whole)):
            taken.append(state.action_mask.long().argmax(-1))
            state = env.advance(state, taken[-1])
        labels = torch.stack(taken, dim=-1)
    return check_training_step(env, policy, algorithm, labels=labels)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", [name for name in PROBLEMS if name not in ("jssp", *GRAPHS)])
def test_steps_keep_to_their_device(name: str, algorithm: str) -> None:
    """A step of the attention policy, whatever the problem and the algorithm, needs no number of the host's."""
    env = problem(name)
    assert stepped(env, SMALL(env.feature_dims), ALGORITHMS[algorithm]()) is None


@pytest.mark.parametrize(
    ("policy", "algorithm"),
    [(partial(Population, members=2), Poppy), (partial(PolyNet, vectors=4), Poppy), (Latent, partial(Compass, 2))],
    ids=["population", "polynet", "latent"],
)
def test_steps_under_conditions_keep_to_their_device(policy, algorithm) -> None:
    """So do members and latents."""
    env = problem("tsp")
    assert stepped(env, policy(env.feature_dims, base=SMALL), algorithm()) is None


def test_flows_keep_to_their_device() -> None:
    """So do the flows of a graph's states."""
    env = problem("mis")
    assert stepped(env, GraphPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2), FlowBalance(2)) is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", GRAPHS)
def test_sparse_edges_keep_to_their_device(name: str, algorithm: str) -> None:
    """Edges that an environment shows need no count on the host."""
    env = problem(name)
    policy = GraphPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2)
    assert stepped(env, policy, ALGORITHMS[algorithm]()) is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", [name for name in PROBLEMS if name not in ("knapsack", *GRAPHS)])
def test_the_exceptions_are_named(name: str, algorithm: str) -> None:
    """The graph policy's encoder counts edges on the host, which the law names; all behind it keeps the law."""
    env = problem(name)
    policy = GraphPolicy(env.feature_dims, dim=16, num_layers=1, num_heads=2)
    assert stepped(env, policy, ALGORITHMS[algorithm]()) == EXCEPTIONS["torch.nonzero()"]


class Counts(TSP):
    """Its dynamics look at a number."""

    def advance(self, state, action):
        if action.max().item() < 0:
            raise ValueError
        return super().advance(state, action)


class Lists(TSP):
    """Its dynamics wait for a number of nodes, as an encoder may and they may not."""

    def advance(self, state, action):
        assert len((action >= 0).nonzero())
        return super().advance(state, action)


class Elsewhere(TSP):
    """Its features are made on another device."""

    def step_features(self, state):
        shown = super().step_features(state)
        return shown._replace(nodes=shown.nodes + torch.zeros(shown.nodes.shape, dtype=torch.int64, device="cpu"))


class Branches(AttentionPolicy):
    """It lets a tensor decide."""

    def logits(self, encoded, step):
        found = super().logits(encoded, step)
        return found * 2 if found.sum() > 0 else found


@pytest.mark.parametrize(
    ("env", "policy", "algorithm"),
    [
        (Task.of(Counts, 5), SMALL, POMO),
        (Task.of(Lists, 5), SMALL, POMO),
        (Task.of(Elsewhere, 5), SMALL, POMO),
        (Task.of(TSP, 5), partial(Branches, **SMALL.keywords), POMO),
    ],
    ids=["counts", "lists", "elsewhere", "branches"],
)
def test_what_would_break_on_a_gpu_is_found(env, policy, algorithm) -> None:
    """A look at a number, a tensor of another device and a branch break the law, in a line that says who."""
    with pytest.raises(LawBroken, match=rf"^tsp with {policy(env.feature_dims).__class__.__name__} and POMO breaks"):
        stepped(env, policy(env.feature_dims), algorithm())
