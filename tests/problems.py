"""Problems that look like those of the library and ask for more, so that no classical solver may take them."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym.distribution import Distribution
from ncogym.envs.routing import geometry
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.instances import TSPDistribution
from ncogym.envs.routing.moves import routes_of
from ncogym.envs.routing.tsp import TSP
from ncogym.features import FeatureDims, NodeFeatures, StepFeatures
from ncogym.problem import Problem, Violation
from ncogym.task import Task


class OrienteeringState(NamedTuple):
    """State of each rollout of `Orienteering`."""

    instance: TensorDict
    current: Tensor
    length: Tensor
    action_mask: Tensor
    done: Tensor


class Nodes(Distribution):
    """What the distributions of this file share: ``num_nodes``, the first key's length."""

    def __init__(self, num_nodes=6):
        self.num_nodes = num_nodes

    def arguments(self):
        return {"num_nodes": self.num_nodes}

    @property
    def size(self):
        return self.num_nodes

    def of_size(self, size):
        return type(self)(size)

    def like(self, instance):
        return type(self)(next(iter(instance.values())).shape[1])


class Walks(Nodes):
    """Places, prizes, and a limit in which not all can be reached."""

    def draw(self, count, rng):
        locs = torch.rand(count, self.num_nodes, 2, generator=rng)
        prize = torch.rand(count, self.num_nodes, generator=rng).index_fill(1, torch.tensor([0]), 0.0)
        limit = 1.2 * geometry.distances(TensorDict({"locs": locs}))[:, 0].amax(1).float() * 2
        return TensorDict({"locs": locs, "prize": prize, "limit": limit.clamp(max=1.6)}, batch_size=[count])


class Orienteering(Problem):
    """From node 0 and back within ``limit``, past the nodes of the largest sum of prizes; action 0 ends the walk.

    It shows distances, and whoever visits all nodes walks too far.
    """

    name, sense = "orienteering", "max"
    state_type, instance_keys = OrienteeringState, ("locs", "prize", "limit")
    distribution_type = Walks

    def read(self, path):
        raise NotImplementedError

    def _mask(self, instance, current, length, closed):
        dists = geometry.distances(instance)
        there = dists.gather(1, current.unsqueeze(-1).expand(-1, -1, dists.shape[-1]))
        fits = length.unsqueeze(-1) + there + dists[:, :1] <= instance["limit"][:, None, None].double()
        return (fits & ~closed).index_fill(-1, torch.tensor([0], device=current.device), True)

    def start(self, instance, rollouts=1):
        shape = (instance["locs"].shape[0], rollouts)
        current = torch.zeros(shape, dtype=torch.int64, device=instance["locs"].device)
        length, done = current.double(), current.bool()
        closed = done.unsqueeze(-1).expand(*shape, instance["locs"].shape[1])
        return OrienteeringState(instance, current, length, self._mask(instance, current, length, closed), done)

    def advance(self, state, action):
        instance, done = state.instance, state.done | (action == 0)
        length = state.length + geometry.lengths(instance, state.current, action)
        closed = (~state.action_mask).scatter(-1, action.unsqueeze(-1), True) | done.unsqueeze(-1)
        return OrienteeringState(instance, action, length, self._mask(instance, action, length, closed), done)

    def reward(self, state, action, successor):
        return state.instance["prize"].gather(1, action)

    def horizon(self, instance):
        return instance["locs"].shape[1]

    def objective(self, instance, actions):
        prizes = instance["prize"].double().gather(1, actions.flatten(1))
        return prizes.view(actions.shape).sum(-1)

    def violations(self, instance, actions):
        found = []
        for row, rollout in itertools.product(*map(range, actions.shape[:2])):
            nodes = actions[row, rollout]
            visited = [node for node in nodes.tolist() if node]
            way = torch.tensor([0, *visited, 0])
            dists = geometry.distances(instance[row : row + 1])[0]
            if not all(0 <= node < len(dists) for node in visited):
                found.append(Violation(row, rollout, "a node does not exist"))
            elif len(set(visited)) < len(visited):
                found.append(Violation(row, rollout, "a node is visited twice"))
            elif float(dists[way[:-1], way[1:]].sum()) > float(instance["limit"][row]) + 1e-6:
                found.append(Violation(row, rollout, "the walk is longer than its limit"))
        return found

    def broken_solutions(self, instance, actions):
        return {"first step left out": None}

    @property
    def feature_dims(self):
        return FeatureDims(node=3, roles=1, scalars=1)

    def instance_features(self, instance):
        return (NodeFeatures(torch.cat([instance["locs"], instance["prize"].unsqueeze(-1)], dim=-1)),)

    def step_features(self, state):
        return StepFeatures(state.current.unsqueeze(-1), state.action_mask, scalars=state.length.unsqueeze(-1).float())

    def first_actions(self, instance, rng=None):
        return torch.zeros(instance.batch_size[0], 1, dtype=torch.int64)

    def symmetries(self, instance, count=8, rng=None):
        return [instance]

    def instance_size(self, instance):
        return instance["locs"].shape[1]


class Due(TSPDistribution):
    """Places, and the times of a random tour and a little for each."""

    def draw(self, count, rng):
        drawn = super().draw(count, rng)
        order = 1 + torch.rand(count, self.num_nodes - 1, generator=rng).argsort(-1)
        order = torch.cat([torch.zeros_like(order[:, :1]), order], dim=1)
        steps = geometry.lengths(drawn, order[:, :-1], order[:, 1:]).cumsum(1)
        due = torch.zeros(count, self.num_nodes, dtype=torch.float64).scatter(1, order[:, 1:], steps)
        return drawn.update({"due": due * 1.01})


class Deadlines(TSP):
    """A tour from node 0 that must have come to each node by its ``due``: the times of one tour, and a little."""

    name, distribution_type = "deadlines", Due

    def violations(self, instance, actions):
        found = super().violations(instance, actions)
        for row, rollout in itertools.product(*map(range, actions.shape[:2])):
            tour = actions[row, rollout].tolist()
            tour = torch.tensor(tour[tour.index(0) :] + tour[: tour.index(0)] if 0 in tour else tour)
            steps = geometry.lengths(instance[row : row + 1], tour[None, :-1], tour[None, 1:])[0].cumsum(0)
            if (steps > instance["due"][row, tour[1:]]).any():
                found.append(Violation(row, rollout, "a node is reached too late"))
        return found


class ShortRoutes(CVRP):
    """Capacitated routes of which none may be longer than is needed to reach the farthest customer and come back."""

    name = "short routes"

    def violations(self, instance, actions):
        found = super().violations(instance, actions)
        dists = geometry.distances(instance)
        for row, rollout in itertools.product(*map(range, actions.shape[:2])):
            for route in routes_of(actions[row, rollout].tolist()):
                way = torch.tensor([0, *route, 0])
                if float(dists[row, way[:-1], way[1:]].sum()) > 2 * float(dists[row, 0].max()) + 1e-6:
                    found.append(Violation(row, rollout, "a route is too long"))
        return found


class Bottleneck(TSP):
    """A tour whose longest leg is to be as short as can be: every tour is one, but the shortest need not be best."""

    name = "bottleneck"

    def objective(self, instance, actions):
        return geometry.lengths(instance, actions, actions.roll(-1, dims=-1)).amax(-1)


STAND_INS = tuple(Task.of(kind, 6) for kind in (Orienteering, Deadlines, ShortRoutes, Bottleneck))
