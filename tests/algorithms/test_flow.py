"""Detailed balance: its loss by hand, the law that it learns on a graph of five nodes, and what it refuses."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from ncogym.algorithms.flow import FlowBalance
from ncogym.envs import build_task
from ncogym.envs.graph import graphs
from ncogym.envs.graph.independent_set import MIS
from ncogym.errors import ArgumentError, UnsupportedFeatures, UnsupportedProblem
from ncogym.policies import GraphPolicy, Policy
from ncogym.rollout import Work, parents_seen
from ncogym.task import Task

NODES, BETA = 5, 1.5
EDGES = [(0, 1), (0, 2), (0, 3), (3, 4)]


class Nothing(NamedTuple):
    """The encoding of a policy that knows the graph by heart."""

    rows: Tensor


class Table(Policy):
    """A number for each state and action: a state is which nodes are open, and how many are taken."""

    width = 2**NODES * (NODES + 1)

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(self.width, NODES + 1))

    def arguments(self):
        return {}

    def encode(self, features):
        return Nothing(features[0].values[..., 0])

    def state(self, step):
        """Return the number of the state."""
        code = (step.action_mask[..., :-1].long() * 2 ** torch.arange(NODES)).sum(-1)
        return code * (NODES + 1) + (step.scalars[..., 1] * NODES).round().long()

    def logits(self, encoded, step):
        return self.table[self.state(step)].masked_fill(~step.action_mask, -torch.inf)

    def summary(self, encoded):
        return encoded.rows.new_zeros(len(encoded.rows), self.width)

    def reading(self, encoded, step):
        return nn.functional.one_hot(self.state(step), self.width).float()


def graph(batch: int) -> TensorDict:
    """Return the same graph of five nodes, so many times."""
    return torch.cat([graphs.graph(NODES, np.array(EDGES))] * batch)


def maximal_sets() -> list[frozenset[int]]:
    """Return the independent sets that no node can be added to, from the definition."""
    beside = {frozenset(edge) for edge in EDGES}

    def independent(nodes):
        return not any(frozenset(pair) in beside for pair in itertools.combinations(nodes, 2))

    sets = [set(nodes) for size in range(1, NODES + 1) for nodes in itertools.combinations(range(NODES), size)]
    sets = [nodes for nodes in sets if independent(nodes)]
    return [frozenset(nodes) for nodes in sets if not any(nodes < other for other in sets)]


def sampled_law(env: MIS, policy: Policy) -> dict[frozenset[int], float]:
    """Return the probability of each finished set, by going through all that the policy may do."""
    instance, law = graph(1), dict.fromkeys(maximal_sets(), 0.0)
    encoded = policy.encode(env.instance_features(instance))

    def go(state, probability, taken):
        if bool(state.done):
            law[taken] += probability
            return
        shares = policy.logits(encoded, env.step_features(state))[0, 0].softmax(-1).tolist()
        for action, share in enumerate(shares):
            if share:
                go(env.advance(state, torch.tensor([[action]])), probability * share, taken | {action})

    with torch.no_grad():
        go(env.start(instance), 1.0, frozenset())
    return law


def test_the_law_is_that_of_the_rewards() -> None:
    """On a graph of five nodes a set is sampled in proportion to exp(beta size), however many orders lead to it."""
    torch.manual_seed(0)
    env, policy, flow, rng = MIS(), Table(), FlowBalance(16, BETA), torch.Generator().manual_seed(0)
    flow.attach(policy)
    adam = torch.optim.Adam([*policy.parameters(), *flow.parameters()], lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 600)
    for _ in range(600):
        loss = flow.step(Work.alone(policy, env, graph(4), rng)).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    weights = {nodes: math.exp(BETA * len(nodes)) for nodes in maximal_sets()}
    assert sorted(len(nodes) for nodes in weights) == [2, 3, 3]  # of 2 and 6 orders
    law = sampled_law(env, policy)
    for nodes, weight in weights.items():
        assert law[nodes] == pytest.approx(weight / sum(weights.values()), abs=5e-3)
    assert loss.item() < 1e-3


def test_parents_are_counted(rng: torch.Generator) -> None:
    """A set of n nodes has n parents, each of which the dynamics reach; a problem that does not say is refused."""
    env = Task.of(MIS, 6, "er:0.4", 0.0)
    instances = env.generate(4, rng)
    work = Work.alone(SimpleNamespace(encode=lambda features: None), env, instances, rng)
    state, sequence = env.start(instances), []
    for _ in range(6):
        sequence.append(state.action_mask.long().argmax(-1))
        state = env.advance(state, sequence[-1])
    found = work.replay(torch.stack(sequence, dim=-1))
    taken = [[set(row[: step + 1]) - {6} for step in range(6)] for row in found.actions[:, 0].tolist()]
    sizes = [[len(nodes) for nodes in row] for row in taken]
    torch.testing.assert_close(parents_seen(env, found)[:, 0].exp(), torch.tensor(sizes, dtype=torch.float32))
    tsp = build_task("tsp", num_nodes=5)
    with pytest.raises(UnsupportedProblem, match="tsp does not say how many parents its states have"):
        tsp.log_parents(tsp.start(tsp.generate(2, rng), 3))


def test_loss_by_hand() -> None:
    """Flows of 0 leave the forward and the backward policy and the reward, and padding counts nothing."""
    env, policy, flow, rng = MIS(), Table(), FlowBalance(1, BETA), torch.Generator().manual_seed(0)
    flow.attach(policy)
    for parameter in flow.parameters():
        nn.init.zeros_(parameter)
    work = Work.alone(policy, env, graph(1), rng)
    loss = flow.step(work).loss
    state, errors = env.start(graph(1)), []
    for action in work.rollouts.actions[0, 0].tolist():
        if not bool(state.done):
            allowed = int(state.action_mask.sum())
            errors.append((-math.log(allowed) + math.log(int(state.num_taken) + 1) - BETA) ** 2)
        state = env.advance(state, torch.tensor([[action]]))
    assert loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_it_trains_a_network(rng: torch.Generator) -> None:
    """On graphs of different sizes, a graph policy takes larger sets after some steps."""
    torch.manual_seed(0)
    env, flow = Task.of(MIS, 12, "ba:2"), FlowBalance(8, beta=4.0)
    policy = GraphPolicy(env.feature_dims, dim=16, num_layers=2, num_heads=2, feedforward=32)
    flow.attach(policy)
    adam, means = torch.optim.Adam([*policy.parameters(), *flow.parameters()], lr=3e-3), []
    for _ in range(80):
        work = Work.alone(policy, env, env.generate(16, rng), rng)
        loss = flow.step(work).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
        means.append(work.rollouts.reward.mean().item())
    assert sum(means[-20:]) > 1.03 * sum(means[:20])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"samples": 0}, "samples: 0"), ({"beta": -1.0}, "beta: -1.0"), ({"hidden": 0}, "hidden: 0")],
)
def test_refusals(arguments: dict, word: str) -> None:
    """Each bad argument is named with its value, and so is a policy that offers nothing to read."""
    with pytest.raises(ArgumentError, match=word):
        FlowBalance(**arguments)
    with pytest.raises(UnsupportedFeatures, match="SimpleNamespace offers a head of flows nothing to read"):
        FlowBalance().attach(SimpleNamespace(width=0))


def test_a_step_before_a_policy_was_met_is_refused(rng: torch.Generator) -> None:
    """Without its head it says so, and takes nothing else for flows."""
    with pytest.raises(RuntimeError, match="FlowBalance takes steps once it has met a policy"):
        FlowBalance().step(Work.alone(Table(), MIS(), graph(1), rng))
